"""`load_data`: one door for every source."""

from typing import Any

from ..errors import DataError, nearest
from .arrays import array_data
from .builtin import NAMES, named_data
from .records import Data


def load_data(source: Any, **options: Any) -> Data:
    """Records from any source (arrays and names so far)."""
    if isinstance(source, str):
        if source not in NAMES:
            raise DataError(f"No data set is called {source!r}.{nearest(source, NAMES)}")
        given = {k: v for k, v in options.items() if v is not None}
        data = named_data(source, **given)
        data.source = {"source": source, "options": given}
        return data
    return array_data(source, **options)


def as_data(source: Any, label: Any = None) -> Data:
    """`source` as `Data`: itself when it is, else `load_data(source)`. `label` gives (other) labels, one per record of the source."""
    if isinstance(source, Data):
        return source if label is None else source.with_label(label)
    return load_data(source, label=label)


def reload(description: dict[str, Any], source: Any = None) -> Data:
    """The data set that `Data.describe` described, read again from its source (or from `source`).

    Raises `DataError` when it was given in memory and `source` is None, or when the records are no longer the same.
    """
    known = description.get("source")
    if source is not None:
        data = as_data(source)
    elif known is None:
        raise DataError("The run was trained on records given in memory: give the same data again.")
    else:
        data = load_data(known["source"], **known["options"])
    if data.fingerprint() != description["fingerprint"]:
        raise DataError("The data have changed since the run began (their sums differ). Give the same data, or start a new run.")
    return data
