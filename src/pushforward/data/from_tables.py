"""Tables of named columns as records: pandas, polars, CSV and Parquet.

===========================================  ============================================================================
column                                       support
===========================================  ============================================================================
floats                                       real, standardised by the training records
integers 0 and 1, booleans                   binary
integers that span at most 256 values        levels(max - min + 1), with an offset
wider integers                               real, rounded on the way out
text, categorical                            categories(k), in alphabetical order or the order that the dtype declares
===========================================  ============================================================================

`support={"column": "real" | "levels" | "categories" | "unit" | "binary"}` overrides the choice for a column.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np
import torch

from ..errors import ConfigError, DataError, nearest
from .columns import Raw, library_of, names_of, raw_column
from .records import Data, Records, Split, without_label
from .schema import MAX_LEVELS, conditioned, named, parse_support
from .spec import BINARY, REAL, Support, categories, levels
from .tables import Column, TableSchema

Missing = Literal["error", "drop", "category", "unlabelled"]


def table_data(
    frame: Any,
    *,
    label: Any = None,
    support: str | Mapping[str, str] | None = None,
    missing: Missing = "error",
    columns: Sequence[str] | None = None,
    drop: Sequence[str] | None = None,
    validation: float = 0.1,
    test: float = 0.1,
    seed: int = 0,
) -> Data:
    """`Data` from a pandas or polars DataFrame; `label` is a column's name or an array of labels."""
    if missing not in get_args(Missing):
        raise ConfigError(f"missing={missing!r} is not known.{nearest(str(missing), get_args(Missing))}")
    library = library_of(frame)
    assert library is not None
    names = names_of(frame)
    chosen, label_name = _choose(names, columns, drop, label)
    wish = _wishes(support, chosen)
    raws = [raw_column(frame, n) for n in chosen]
    label_raw = None if label_name is None else raw_column(frame, label_name)
    if label is not None and label_raw is None and len(label) != len(frame):
        raise DataError(f"{len(label)} labels for {len(frame)} rows. Give one label per row, or the name of a column.")
    empty = [r.name for r in raws if r.missing.all()]
    if len(frame) and empty:
        raise DataError(f"Column(s) {named(empty)} are empty. Leave them out: drop={empty[:5]!r}.")
    raws, label_raw, keep, notes = _without_missing(raws, label_raw, missing)
    for r in raws:
        if r.kind == "real" and np.isinf(r.values[~r.missing]).any():
            row = int(np.isinf(np.where(r.missing, 0, r.values)).argmax())
            raise DataError(f"Column {r.name!r}, row {row} is infinite ({r.values[row]:g}). Clip it or drop the row.")
    n = len(raws[0].values)
    split = Split.make(n, validation, test, seed)
    assert split.order is not None
    order = split.order.numpy()
    _refuse_constant(raws)
    made = tuple(_column(r, wish.get(r.name), order[: split.train]) for r in raws)
    condition = stored = None
    if label is not None:
        values = np.asarray(label)[keep] if label_raw is None else _label_values(label_raw)
        condition, stored = conditioned(values, "label" if label_name is None else str(label_name), unlabelled=missing == "unlabelled")
        notes += without_label(stored)
        stored = stored[split.order]
    schema = TableSchema(made, library, condition)
    x = torch.empty((n, len(made)), dtype=schema.storage_dtype)
    for j, (column, r) in enumerate(zip(made, raws, strict=True)):
        x[:, j] = torch.from_numpy(column.encode(r)[order])
    parts = [Records(schema, x[at], None if stored is None else stored[at]) for at in split.slices]
    return Data(schema, parts[0], parts[1], parts[2], order=split.order, notes=notes)


def _choose(names: list[Any], columns: Sequence[str] | None, drop: Sequence[str] | None, label: Any) -> tuple[list[Any], Any]:
    """The columns to model, and the one that holds the label (or None)."""
    label_name = label if isinstance(label, (str, int)) else None
    columns, drop = ((v,) if isinstance(v, str) else v for v in (columns, drop))
    for option, wanted in (("label", () if label_name is None else (label_name,)), ("columns", columns or ()), ("drop", drop or ())):
        for n in wanted:
            if n not in names:
                raise DataError(f"{option}={n!r}: the table has no such column.{nearest(str(n), map(str, names))}")
    chosen = [n for n in (names if columns is None else columns) if n not in (drop or ()) and n != label_name]
    if not chosen:
        raise DataError("No column is left to model. Give columns=[...] or a smaller drop=.")
    return chosen, label_name


def _wishes(support: str | Mapping[str, str] | None, names: list[Any]) -> dict[Any, Support]:
    """`{"age": "real"}` or the text `age=real,children=levels`."""
    if isinstance(support, str):
        pieces = [p.partition("=") for p in support.split(",")]
        if not all(equals for _, equals, _ in pieces):
            raise ConfigError(f"support={support!r} is for arrays. For a table say which column: support={{{names[0]!r}: {support!r}}}.")
        support = {n.strip(): s.strip() for n, _, s in pieces}
    for n in support or {}:
        if n not in names:
            raise DataError(f"support= names the column {n!r}, which is not among those modelled.{nearest(str(n), map(str, names))}")
    return {n: parse_support(s) for n, s in (support or {}).items()}


def _without_missing(raws: list[Raw], label: Raw | None, missing: Missing) -> tuple[list[Raw], Raw | None, np.ndarray, tuple[str, ...]]:
    """Apply `missing`: the columns, the label column, which rows were kept, and a note on them."""
    everything = [*raws, *([label] if label is not None and missing != "unlabelled" else [])]
    keep = np.ones(len(raws[0].missing), dtype=bool)
    lacking = [r for r in everything if r.missing.any()]
    if missing == "category":
        lacking = [r for r in lacking if r.kind in ("real", "integer") or r is label]
    if not lacking:
        return raws, label, keep, ()
    what = "; ".join(
        f"{r.name!r}: {int(r.missing.sum())} (rows {', '.join(map(str, np.flatnonzero(r.missing)[:3]))} ...)" for r in lacking[:5]
    )
    what += f"; and {len(lacking) - 5} more columns" if len(lacking) > 5 else ""
    if missing in ("error", "unlabelled"):
        remedies = "missing='drop' leaves those rows out, missing='category' makes a category of it in text columns; or fill them"
        raise DataError(f"Missing values in {what}. {remedies}.")
    if missing == "category":
        raise DataError(
            f"missing='category' is for text columns; numbers or labels are missing in {what}. Use missing='drop', or fill them."
        )
    for r in lacking:
        keep &= ~r.missing
    note = f"{int((~keep).sum())} of {len(keep)} rows dropped: they missed values in {named(r.name for r in lacking)}"
    if not keep.any():
        raise DataError(f"Every row misses a value: {what}. Leave those columns out with drop=, or fill them.")
    return [r.rows(keep) for r in raws], None if label is None else label.rows(keep), keep, (note,)


def _refuse_constant(raws: list[Raw]) -> None:
    import pandas as pd

    constant = [r.name for r in raws if not r.missing.any() and len(pd.unique(r.values)) < 2]
    if constant:
        raise DataError(f"Column(s) {named(constant)} hold one value only and carry no information. Leave them out: drop={constant[:5]!r}.")


def _column(raw: Raw, wish: Support | None, train: np.ndarray) -> Column:
    """The support and scaling of a column; `train` are the rows that the scaling is estimated from."""
    if raw.kind == "text" or raw.missing.any() or (wish is not None and wish.name == "categories"):
        return _categorical(raw, wish)
    u, whole = raw.values.astype(np.float64), raw.kind != "real"
    low, high = float(u.min()), float(u.max())
    name = wish.name if wish is not None else None
    if name is None:
        name = "real" if raw.kind == "real" or high - low >= MAX_LEVELS else "binary" if (low, high) == (0, 1) else "levels"
    if name in ("levels", "binary") and not np.array_equal(u, np.rint(u)):
        raise DataError(f"support={{{raw.name!r}: {name!r}}}: the column holds numbers that are not whole. Use 'real', or round it.")
    if name == "binary":
        if not ((u == low) | (u == high)).all():
            raise DataError(
                f"support={{{raw.name!r}: 'binary'}}: the column holds more than two values ({low:g} to {high:g}). Use 'levels'."
            )
        return Column(raw.name, raw.dtype, BINARY, low, high - low, (), whole)
    if name == "levels":
        size = int(high - low) + 1
        asked = wish.size if wish is not None and wish.size else size
        if size > asked:
            raise DataError(f"support={{{raw.name!r}: 'levels({asked})'}}: the column spans {size} values. Use 'levels({size})' or 'real'.")
        return Column(raw.name, raw.dtype, levels(asked), low, 1.0, (), whole)
    if name == "unit":
        if low < 0 or high > 1:
            raise DataError(f"support={{{raw.name!r}: 'unit'}}: the column spans {low:g} to {high:g}. Use 'real', or rescale it to 0 to 1.")
        return Column(raw.name, raw.dtype, Support("unit"), 0.0, 1.0, (), whole)
    mean, sd = float(u[train].mean()), float(u[train].std())
    if u[train].min() == u[train].max():
        raise DataError(f"Column(s) {raw.name!r} hold one value only in the training records. Leave them out: drop=[{raw.name!r}].")
    return Column(raw.name, raw.dtype, REAL, mean, sd, (), whole)


def _categorical(raw: Raw, wish: Support | None) -> Column:
    import pandas as pd

    if wish is not None and wish.name != "categories":
        raise DataError(
            f"support={{{raw.name!r}: {wish.name!r}}} needs numbers; the column holds {raw.kind}. Leave it out, or use 'categories'."
        )
    present = raw.values[~raw.missing]
    found = pd.unique(present).tolist()
    if (
        raw.kind == "text"
        and raw.declared is None
        and (len(found) == len(present) or len(found) > max(20, len(present) / 2) or len(found) > 1000)
    ):
        raise DataError(
            f"Column {raw.name!r} holds {len(found)} different texts in {len(present)} rows: it looks like an identifier, which no model "
            f"can learn. Leave it out with drop=[{raw.name!r}], or choose columns=[...]."
        )
    values = sorted(found) if raw.declared is None else [v for v in raw.declared if v in set(found)]
    if raw.missing.any():
        values.append(None)
    return Column(raw.name, raw.dtype, categories(len(values)), 0.0, 1.0, tuple(values), False, raw.declared, raw.ordered)


def _label_values(raw: Raw) -> np.ndarray:
    if not raw.missing.any():
        return raw.values
    values = raw.values.astype(object)
    values[raw.missing] = None
    return values
