"""Records of which only some entries are known: their values as a tensor, and a mask that says which.

A user says what is known by a mask in the form of a record, by the names of columns, or by leaving NaN (missing values in tables) where
nothing is. Sequences are known step by step: a mask says which steps, and a text shorter than a record is the beginning of one.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import DataError
from .arrays import ArraySchema, as_array, images_first
from .columns import library_of, names_of, raw_column, replaced
from .schema import Schema, named
from .sequences import SequenceSchema
from .spec import DataSpec
from .tables import TableSchema


def partial(records: Any, known: Any, schema: Schema | None, spec: DataSpec, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """(x, known), both (n, *spec.shape): the values, 0 where they are not known, and whether they are, bool.

    `known` is a mask in the user's own layout, for one record or one for each ((H, W) for all channels of a pixel); names of columns for a
    table; steps of a sequence; or None, where NaN, missing values or steps after the last are what is not known. Raises `DataError` when
    it is none of them, or when a column that is named as known has a missing value.
    """
    if isinstance(schema, SequenceSchema):
        return _sequence(records, known, schema, dtype)
    if isinstance(schema, TableSchema):
        return _table(records, known, schema, dtype)
    u, _ = as_array(records, "records")
    given = ~u.isnan() if known is None and u.is_floating_point() else torch.ones_like(u, dtype=torch.bool)
    if known is not None:
        given = _mask(known, u, schema)
    if not isinstance(schema, ArraySchema):
        if tuple(u.shape[1:]) != spec.shape:
            raise DataError(f"Records have shape {tuple(u.shape[1:])}; this model was fitted to {spec.shape}.")
        return torch.where(given, u, 0).to(dtype), given
    # A value of the support stands where nothing is known: the user's form of x = 0.
    blank, _ = as_array(schema.decode(torch.zeros(1, *spec.shape)), "records")
    if tuple(u.shape[1:]) != tuple(blank.shape[1:]):
        return schema.encode(records, dtype), given  # raises, naming the shapes
    x = schema.encode(torch.where(given, u, blank.to(u.dtype)), dtype)
    given = images_first(given, schema.layout)
    return torch.where(given, x, 0), given


def restored(filled: Any, records: Any, given: Tensor, schema: Schema) -> Any:
    """`filled` with the user's own numbers where they were known (`given`, of `partial`): scaling there and back rounds them.

    Entries on a finite set come back as they were, and records of other forms than tables and points are returned as they are.
    """
    if isinstance(schema, ArraySchema) and schema.spec.kind == "points" and not schema.spec.discrete:
        own, _ = as_array(records, "records")
        return np.where(given.numpy(), own.numpy(), filled).astype(filled.dtype)
    if not isinstance(schema, TableSchema):
        return filled
    for j, column in enumerate(schema.columns):
        rows = given[:, j].numpy()
        if not column.support.discrete and rows.any():
            own, drawn = raw_column(records, column.name).values, raw_column(filled, column.name).values
            filled = replaced(filled, column.name, np.where(rows, own, drawn))
    return filled


def _sequence(records: Any, known: Any, schema: SequenceSchema, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    if known is None:
        if isinstance(records, str) or not isinstance(records, Sequence):
            raise DataError(f"complete() takes a list of beginnings of records; got {type(records).__name__}. Give a list.")
        x = torch.zeros(len(records), *schema.spec.shape, dtype=dtype)
        given = torch.zeros(x.shape, dtype=torch.bool)
        for i, record in enumerate(records):
            begun = schema.prefix(record)
            x[i, : len(begun)], given[i, : len(begun)] = begun.to(dtype), True
        return x, given
    x = schema.encode(records, dtype)
    mask, _ = as_array(known, "mask of known steps")
    if mask.dtype is not torch.bool or tuple(mask.shape) not in ((x.shape[1],), tuple(x.shape[:2])):
        raise DataError(
            f"known= is a mask of known steps, booleans of shape ({x.shape[1]},) for all records or {tuple(x.shape[:2])} for each; got "
            f"{mask.dtype} of shape {tuple(mask.shape)}."
        )
    given = mask.expand(x.shape[:2]).view(*x.shape[:2], *[1] * (x.ndim - 2)).expand(x.shape)
    return torch.where(given, x, 0), given


def _mask(known: Any, u: Tensor, schema: Schema | None) -> Tensor:
    """The mask in the shape of the records `u`."""
    mask, _ = as_array(known, "mask of known entries")
    if mask.dtype is not torch.bool and not bool(((mask == 0) | (mask == 1)).all()):
        raise DataError("known= is a mask of what is known: give booleans, True for the entries to keep.")
    shape, layout = tuple(u.shape[1:]), getattr(schema, "layout", "first")
    if len(shape) == 3 and tuple(mask.shape) == (shape[1:] if layout == "first" else shape[:2]):
        mask = mask if layout == "first" else mask[..., None]
    elif tuple(mask.shape) not in (shape, tuple(u.shape)):
        raise DataError(
            f"known= has shape {tuple(mask.shape)}; give a mask of shape {shape} for all records, or {tuple(u.shape)} for each."
        )
    return mask.bool().expand(u.shape)


def _table(records: Any, known: Any, schema: TableSchema, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    if library_of(records) is None:
        raise DataError(f"This model takes tables; got {type(records).__name__}. Give a pandas or polars DataFrame.")
    columns = [c.name for c in schema.columns]
    if known is None:
        keep = [name for name in columns if name in names_of(records)]
    elif all(isinstance(k, str) for k in known):
        keep = list(known)
    else:
        raise DataError(f"known= names the columns of a table that are known. Give some of {named(columns, 20)}.")
    unknown = [k for k in keep if k not in columns or k not in names_of(records)]
    if unknown:
        raise DataError(f"known= names {named(unknown)}, which the table or the model lacks. The model was fitted to {named(columns, 20)}.")
    x = torch.zeros(len(records), len(columns), dtype=dtype)
    given = torch.zeros(len(records), len(columns), dtype=torch.bool)
    for j, column in enumerate(schema.columns):
        if column.name in keep:
            raw = raw_column(records, column.name)
            # A column in which missing values are a category has nothing that is not known.
            lacks = np.zeros_like(raw.missing) if None in column.values else raw.missing
            if known is not None and lacks.any():
                at, count = int(lacks.argmax()), int(lacks.sum())
                raise DataError(
                    f"Column {column.name!r} is named in known= and row {at} (from 0) has no value in it ({count} such). Fill them in or "
                    "leave those rows out; without known= what is missing is what is drawn."
                )
            there = ~lacks
            given[:, j] = torch.from_numpy(there)
            x[given[:, j], j] = torch.from_numpy(column.encode(raw.rows(there))).to(dtype)
    return x, given
