"""The families, found by discovery: `catalog()` walks this package and the entry points `pushforward.models`.

Adding a model is adding a file (or installing a package with an entry point); nothing here is edited.
"""

import functools
import importlib
import inspect
import pkgutil
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..data import Data, Schema, as_data, reload
from ..data.spec import DataSpec
from ..errors import ConfigError, RunError, nearest
from ..model import Model
from ..store import Run, say
from ..train import Training

__all__ = ["catalog", "create", "from_config", "load", "resume"]


@functools.cache
def catalog() -> Mapping[str, type[Model]]:
    """Every concrete model by name: this package's own, then those of installed packages.

    Raises `ConfigError` when two classes claim one name.
    """
    found: dict[str, type[Model]] = {}
    for info in pkgutil.walk_packages(__path__, f"{__name__}."):
        if not info.ispkg:
            module = importlib.import_module(info.name)
            for name in getattr(module, "__all__", ()):
                _add(found, getattr(module, name), module.__name__)
    for point in metadata.entry_points(group="pushforward.models"):
        _add(found, point.load(), None)
    return dict(sorted(found.items()))


def _add(found: dict[str, type[Model]], candidate: Any, module: str | None) -> None:
    if not (inspect.isclass(candidate) and issubclass(candidate, Model) and candidate.name and not inspect.isabstract(candidate)):
        return
    if module is not None and candidate.__module__ != module:
        return
    other = found.setdefault(candidate.name, candidate)
    if other is not candidate:
        raise ConfigError(f"Two models are called {candidate.name!r}: {other.__module__} and {candidate.__module__}. Rename one of them.")


def create(name: str, **config: Any) -> Model:
    """A new model from its catalog name and hyperparameters, the nearest names suggested for unknown ones."""
    models = catalog()
    if name not in models:
        raise ConfigError(f"There is no model {name!r}.{nearest(name, models)}")
    known = models[name].hyperparameters()
    for key in config:
        if key not in known:
            raise ConfigError(f"{name} has no hyperparameter {key!r}.{nearest(key, known)}")
    return models[name](**config)


def from_config(described: Mapping[str, Any], **networks: nn.Module) -> Model:
    """The model that `Model.describe` described: {"model": name, "config": {...}}, nested models included.

    A network that was passed in by hand cannot be rebuilt from JSON: give it again by its hyperparameter's name.
    """
    config = {}
    for key, value in described["config"].items():
        if isinstance(value, dict) and "model" in value:
            value = from_config(value)
        elif isinstance(value, dict) and "network" in value:
            if key not in networks:
                raise RunError(
                    f"{described['model']} was built with a network of your own ({value['network']}) as {key}. "
                    f"Give it again: load(path, {key}=...)."
                )
            value = networks[key]
        elif isinstance(value, list):
            value = tuple(value)
        config[key] = value
    return create(described["model"], **config)


def load(path: str | Path, *, device: torch.device | str = "cpu", **networks: nn.Module) -> Model:
    """The fitted model of a run folder, on `device`. Only JSON and safetensors are read; nothing in the folder is executed.

    Raises `RunError` when the folder is missing, damaged, unfinished or from a newer version.
    """
    run = Run.open(path)
    state = run.read_model(device)
    model = _rebuild(run, networks)
    first = next((t for t in state.values() if t.is_floating_point()), None)
    model.to(device, None if first is None else first.dtype)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise RunError(f"{run.path / 'model.safetensors'} does not fit the configuration beside it: {error}") from error
    return model.eval()


def _rebuild(run: Run, networks: Mapping[str, nn.Module]) -> Model:
    model = from_config(run.config, **networks)
    if "schema" in run.data:
        model.schema = Schema.from_json(run.data["schema"])
    if run.config.get("spec") is None:
        raise RunError(f"{run.path / 'config.json'} has no spec: the model was never built. Fit again.")
    return model.build(DataSpec.from_json(run.config["spec"]), seed=run.config["training"].get("seed", 0))


def resume(
    path: str | Path, data: Any = None, *, observers: Any = (), networks: Mapping[str, nn.Module] | None = None, **settings: Any
) -> Model:
    """Go on with an interrupted run, bit for bit as if it had not stopped.

    Parameters
    ----------
    path
        The run folder.
    data
        The records it was fitted to; needed only when they came from memory. Checked against the run's fingerprint.
    **settings
        Settings to change, such as a larger budget (`steps=2000` is the total, not an addition).

    Raises
    ------
    RunError
        The run has finished its budget, or its data are gone or have changed.
    """
    run = Run.open(path)
    training = Training.from_json(run.config["training"]).override(**settings)
    if run.finished and not settings:
        raise RunError(f"{run.path} has finished its budget. To train longer give a larger total, for example steps=... or minutes=... .")
    model = _rebuild(run, networks or {})
    data = reload(run.data) if data is None else as_data(data)
    _check_same(run, data)
    model.schema = data.schema
    if not (run.path / "checkpoint" / "last.safetensors").exists():
        say(f"{run.path} had not reached its first checkpoint: starting from the beginning.")
    return model.carry_on(data, training, run, observers)


def _check_same(run: Run, data: Data) -> None:
    was, now = run.data.get("fingerprint"), data.describe().get("fingerprint")
    if was != now:
        raise RunError(
            f"The data are not those that {run.path} was fitted to (fingerprint {str(now)[:12]}, was {str(was)[:12]}). "
            "Give the same records, or fit again."
        )
