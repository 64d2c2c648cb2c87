"""Fit every family of deep generative model to your own data through one contract, and compare them honestly.

>>> import pushforward as pf
>>> sorted(pf.__all__)[:3]
['ClosedFormModel', 'ConfigError', 'Data']

Names are imported when they are first used, so that `import pushforward` costs next to nothing.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

from ._version import __version__

if TYPE_CHECKING:
    from .compare import compare as compare
    from .data import Data as Data
    from .data import load_data as load_data
    from .data.perturb import perturbed as perturbed
    from .data.spec import DataSpec as DataSpec
    from .errors import ConfigError as ConfigError
    from .errors import DataError as DataError
    from .errors import Diverged as Diverged
    from .errors import NotFitted as NotFitted
    from .errors import PushforwardError as PushforwardError
    from .errors import RunError as RunError
    from .errors import Unsupported as Unsupported
    from .evaluate import evaluate as evaluate
    from .evidence import evidence as evidence
    from .explore import explore as explore
    from .incomplete import impute as impute
    from .inversion import invert as invert
    from .model import ClosedFormModel as ClosedFormModel
    from .model import GradientModel as GradientModel
    from .model import Model as Model
    from .models import catalog as catalog
    from .models import load as load
    from .models import resume as resume
    from .novelty import novelty as novelty
    from .objective import Loss as Loss
    from .objective import Objective as Objective
    from .objective import Observer as Observer
    from .objective import Training as Training
    from .verify import verify as verify

_HOME = {
    "compare": "compare",
    "Data": "data",
    "load_data": "data",
    "perturbed": "data.perturb",
    "DataSpec": "data.spec",
    "ConfigError": "errors",
    "DataError": "errors",
    "Diverged": "errors",
    "NotFitted": "errors",
    "PushforwardError": "errors",
    "RunError": "errors",
    "Unsupported": "errors",
    "evaluate": "evaluate",
    "evidence": "evidence",
    "explore": "explore",
    "impute": "incomplete",
    "invert": "inversion",
    "ClosedFormModel": "model",
    "GradientModel": "model",
    "Model": "model",
    "catalog": "models",
    "load": "models",
    "resume": "models",
    "novelty": "novelty",
    "Loss": "objective",
    "Objective": "objective",
    "Observer": "objective",
    "Training": "objective",
    "verify": "verify",
}
"""Public name -> the module that defines it. The models are not listed: the catalog discovers them."""

__all__ = ["__version__", *_HOME]  # pyright: ignore[reportUnsupportedDunderAll]


def _models() -> dict[str, Any]:
    """Class name -> class, of every model in the catalog."""
    return {model.__name__: model for model in import_module(f"{__name__}.models").catalog().values()}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    elif name.startswith("_") or not name[:1].isupper():
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    else:
        models = _models()
        if name not in models:
            from .errors import nearest

            raise AttributeError(f"pushforward has no {name!r}.{nearest(name, [*models, *_HOME])}")
        value = models[name]
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*__all__, *_models()})


class _Package(ModuleType):
    def __setattr__(self, name: str, value: Any) -> None:
        # Importing a submodule binds it to its package; where a function bears the same name (compare, evaluate) the function stays.
        if not (name in _HOME and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
