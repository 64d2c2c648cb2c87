"""Known answers: every figure that our code must reproduce, collected from the modules that state them.

A module states its own with ``known_answers() -> Iterator[Known]``; nothing is listed here.
"""

import pkgutil
from collections.abc import Iterator, Sequence
from importlib import import_module

from . import models as _models
from .errors import ConfigError, nearest
from .known import Known

__all__ = ["sources", "verify"]


def sources() -> list[str]:
    """The modules that state known answers: those of the mathematics, then those of each family, and of models added by entry points."""
    root = __name__.rpartition(".")[0]
    package = import_module(root)
    above = {f"{root}.{name}" for name in ("cli", "verify", "testing", "compare", "report", "studio")}
    found = [m.name for m in pkgutil.iter_modules(package.__path__, root + ".") if m.name not in above]
    families = pkgutil.walk_packages(_models.__path__, _models.__name__ + ".")
    found = [*(m for m in found if m != _models.__name__), *(m.name for m in families)]
    found += sorted({model.__module__ for model in _models.catalog().values()} - set(found))
    return [name for name in found if hasattr(import_module(name), "known_answers")]


def verify(only: Sequence[str] = ()) -> Iterator[tuple[str, Known]]:
    """Each known answer with the name of the module that states it, as it is computed.

    Parameters
    ----------
    only
        Names of modules (`vae`, `flow`, `metrics` ...) to verify; none means all.

    Raises
    ------
    ConfigError
        No module of that name states known answers.

    >>> name, answer = next(verify(["noise"]))  # doctest: +SKIP
    >>> answer.holds  # doctest: +SKIP
    True
    """
    found = {module.rpartition(".")[2]: module for module in sources()}
    for name in only:
        if name not in found:
            raise ConfigError(f"No known answers are stated by {name!r}.{nearest(name, found)}")
    for name, module in found.items():
        if not only or name in only:
            for answer in import_module(module).known_answers():
                yield name, answer
