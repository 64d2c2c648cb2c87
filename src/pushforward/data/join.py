"""Two collections as one data set, whose label says which of the two a record is from."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import DataError
from .arrays import ArraySchema
from .columns import library_of, names_of
from .schema import Schema, named

__all__ = ["LABELS", "coloured", "joined"]

LABELS = ("a", "b")
"""The labels of the first and of the second collection."""


def joined(a: Any, b: Any, names: tuple[str, str], channels: str | None = None) -> tuple[Any, np.ndarray]:
    """(all records in one form, the label of each): those of `a`, then those of `b`, in the form of `a`.

    Grey images beside colour ones become colour. `names` are what messages call the two.

    Raises `DataError` when one is a table and the other is not, when columns, shapes or kinds of number differ.
    """
    labels = np.array([LABELS[0]] * len(a) + [LABELS[1]] * len(b), dtype=object)
    kinds = [library_of(v) for v in (a, b)]
    if kinds[0] != kinds[1]:
        shown = [kind or "array" for kind in kinds]
        raise DataError(f"{names[0]} is of another form ({shown[0]}) than {names[1]} ({shown[1]}). Give both in one form.")
    return (_tables(a, b, names) if kinds[0] else _arrays(a, b, names, channels)), labels


def _tables(a: Any, b: Any, names: tuple[str, str]) -> Any:
    columns = [names_of(v) for v in (a, b)]
    for i in range(2):
        lacking = [c for c in columns[1 - i] if c not in columns[i]]
        if lacking:
            raise DataError(f"{names[i]} has no column(s) {named(lacking)}, which {names[1 - i]} has. Give both the same columns.")
    if library_of(a) == "polars":
        import polars as pl

        return pl.concat([a, b.select(columns[0])], how="vertical_relaxed")
    import pandas as pd

    return pd.concat([a, b[columns[0]]], ignore_index=True)


def _arrays(a: Any, b: Any, names: tuple[str, str], channels: str | None) -> Any:
    torches = isinstance(a, Tensor)
    a, b = (v.detach().cpu().numpy() if isinstance(v, Tensor) else np.asarray(v) for v in (a, b))
    a, b = _colour_like(a, b.shape, channels), _colour_like(b, a.shape, channels)
    if a.shape[1:] != b.shape[1:]:
        remedy = "Resize both with size=(height, width)" if min(a.ndim, b.ndim) > 2 else "Give both the same shape"
        raise DataError(f"Records of {names[0]} have shape {a.shape[1:]}, those of {names[1]} {b.shape[1:]}. {remedy}.")
    kinds = [{"u": "i"}.get(v.dtype.kind, v.dtype.kind) for v in (a, b)]
    if kinds[0] != kinds[1]:
        raise DataError(f"{names[0]} holds {a.dtype} and {names[1]} {b.dtype}. Give both as one kind of number, on one scale.")
    both = np.concatenate([a, b])
    return torch.from_numpy(both) if torches else both


def _colour_like(grey: np.ndarray, shape: tuple[int, ...], channels: str | None) -> np.ndarray:
    """Grey images (n, H, W) with as many equal channels, and there, as images of `shape` have; others as they are."""
    if grey.ndim != 3 or len(shape) != 4:
        return grey
    last = channels == "last" or (channels is None and shape[3] in (1, 3, 4) and shape[1:3] == grey.shape[1:])
    return np.repeat(grey[..., None], shape[3], -1) if last else np.repeat(grey[:, None], shape[1], 1)


def coloured(records: Any, schema: Schema) -> Any:
    """Grey images (n, H, W) in the form of a schema of colour images; other records as they are."""
    if not isinstance(schema, ArraySchema) or schema.layout not in ("first", "last") or getattr(records, "ndim", 0) != 3:
        return records
    array = records.detach().cpu().numpy() if isinstance(records, Tensor) else np.asarray(records)
    return _colour_like(array, (len(array), *schema.user_shape), schema.layout)
