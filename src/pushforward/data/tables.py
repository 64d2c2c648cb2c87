"""The form of tables: named columns, each with its own support and scaling."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from ..errors import DataError, nearest
from .columns import Library, Raw, build_frame, library_of, names_of, raw_column
from .schema import Condition, Schema, named, scale_log_det
from .spec import DataSpec, Support


@dataclass(frozen=True)
class Column:
    """One column: what the user calls it and what the model sees. Numbers obey u = shift + scale x; categories are u = values[x]."""

    name: Any
    dtype: str
    support: Support
    shift: float = 0.0
    scale: float = 1.0
    values: tuple[Any, ...] = ()
    """The category of each code; None stands for a missing value."""
    whole: bool = False
    """Whether the user's numbers are integers."""
    declared: tuple[Any, ...] | None = None
    ordered: bool = False

    def encode(self, raw: Raw) -> np.ndarray:
        """x (n,) float64 from a column in the user's values. Raises `DataError` naming the row of a value that does not fit."""
        absent = None in self.values
        if raw.missing.any() and not absent:
            rows = np.flatnonzero(raw.missing)
            raise DataError(
                f"Column {self.name!r} misses {len(rows)} value(s), first in rows {rows[:5].tolist()}. Fill or drop those rows."
            )
        if self.values:
            return self._codes(raw)
        if raw.kind == "text":
            row = int(np.argmin(raw.missing))
            raise DataError(f"Column {self.name!r} needs numbers; row {row} holds {raw.values[row]!r}. Convert the column.")
        u = raw.values.astype(np.float64)
        self._refuse(~np.isfinite(u), u, "is not finite. Clip or drop that row")
        x = (u - self.shift) / self.scale
        if self.support.name == "real":
            return x
        top = (self.support.size or 2) - 1.0
        bounds = f"{self.shift:g} to {self.shift + self.scale * top:g}"
        self._refuse(
            (x < -1e-9) | (x > top + 1e-9), u, f"is outside {bounds}, the range seen in training. Clip or drop that row, {self._remedy()}"
        )
        if self.support.discrete:
            self._refuse(
                np.abs(x - np.rint(x)) > 1e-9, u, f"is no whole number, and the column is {self.support}. Round it, {self._remedy()}"
            )
            return np.rint(x)
        return x

    def _remedy(self) -> str:
        return f"or load the training data with support={{{self.name!r}: 'real'}} and fit again"

    def _refuse(self, bad: np.ndarray, u: np.ndarray, what: str) -> None:
        if bad.any():
            row = int(bad.argmax())
            more = f" (with {int(bad.sum()) - 1} more rows)" if bad.sum() > 1 else ""
            raise DataError(f"Column {self.name!r}, row {row}: {u[row]:g}{more} {what}.")

    def _codes(self, raw: Raw) -> np.ndarray:
        import pandas as pd

        lookup = {v: i for i, v in enumerate(self.values)}
        values = raw.values.astype(object)
        values[raw.missing] = None
        at, found = pd.factorize(values)
        if raw.kind != "text":
            # A category written as text ("3") may come back from a file as a number.
            lookup = {str(v): i for v, i in lookup.items() if v is not None} | lookup
        codes = np.array([*(lookup.get(v, lookup.get(str(v), -1) if raw.kind != "text" else -1) for v in found), lookup.get(None, -1)])[at]
        if (codes < 0).any():
            row = int((codes < 0).argmax())
            value = raw.values[row].item() if isinstance(raw.values[row], np.generic) else raw.values[row]
            hint = nearest(str(value), (str(v) for v in self.values if v is not None))
            raise DataError(f"Column {self.name!r}, row {row}: category {value!r} was not in the training data.{hint}")
        return codes.astype(np.float64)

    def decode(self, x: np.ndarray) -> np.ndarray:
        """The user's values from x (n,) float64."""
        if self.values:
            code = np.rint(x).clip(0, len(self.values) - 1).astype(np.int64)
            return np.array([*self.values, None], dtype=object)[code]
        if self.support.discrete:
            x = np.rint(x).clip(0, (self.support.size or 2) - 1)
        u = self.shift + self.scale * x
        if self.dtype.lower().startswith("bool"):
            return u > 0.5
        if not self.whole:
            return u
        kind = self.dtype.lower().partition("[")[0]
        info = np.iinfo(kind) if kind.lstrip("u").startswith("int") else np.iinfo(np.int64)
        # Floats cannot hold the largest 64-bit integers; stay inside.
        low, high = float(info.min), float(info.max) if info.bits < 64 else float(info.max) * (1 - 2**-52)
        return np.rint(u).clip(low, high).astype(np.uint64 if info.min == 0 else np.int64)

    def __str__(self) -> str:
        if self.values:
            shown = ", ".join("missing" if v is None else str(v) for v in self.values[:6])
            return shown + (f" ... ({len(self.values)})" if len(self.values) > 6 else "")
        if self.support.name == "real":
            return f"{self.shift:.4g} +- {self.scale:.4g}"
        return f"{self.shift:g} to {self.shift + self.scale * ((self.support.size or 2) - 1):g}"

    def to_json(self) -> dict[str, Any]:
        state: dict[str, Any] = {"name": self.name, "dtype": self.dtype, "support": [self.support.name, self.support.size]}
        state |= {"shift": self.shift, "scale": self.scale, "values": list(self.values), "whole": self.whole}
        return state | {"declared": None if self.declared is None else list(self.declared), "ordered": self.ordered}

    @classmethod
    def from_json(cls, state: dict[str, Any]) -> Self:
        values, declared = tuple(state["values"]), state["declared"]
        declared = None if declared is None else tuple(declared)
        numbers = state["shift"], state["scale"], values, state["whole"], declared, state["ordered"]
        return cls(state["name"], state["dtype"], Support(*state["support"]), *numbers)


@dataclass(frozen=True)
class TableSchema(Schema):
    """Named columns, in the user's order."""

    columns: tuple[Column, ...]
    library: Library = "pandas"
    condition: Condition | None = None

    @cached_property
    def spec(self) -> DataSpec:  # type: ignore[override]
        supports = tuple(c.support for c in self.columns)
        return DataSpec("table", (len(supports),), supports)

    @property
    def log_det(self) -> float:
        return scale_log_det([c.scale for c in self.columns], [c.support for c in self.columns])

    def encode(self, records: Any, dtype: torch.dtype | None = None) -> Tensor:
        if library_of(records) is None:
            names = named(c.name for c in self.columns)
            raise DataError(
                f"This model takes tables with columns {names}; got {type(records).__name__}. Give a pandas or polars DataFrame."
            )
        given, known = names_of(records), [c.name for c in self.columns]
        spare = {self.condition.name} if self.condition is not None else set()
        missing, extra = [n for n in known if n not in given], [n for n in given if n not in known and n not in spare]
        if missing:
            hints = "".join(nearest(str(n), map(str, extra)) for n in missing[:1]) if extra else ""
            raise DataError(f"Column(s) {named(missing)} are missing.{hints} The model was fitted to {named(known, 20)}.")
        if extra:
            raise DataError(f"Column(s) {named(extra)} were not in the training data. Leave them out: df.drop(columns={extra[:5]!r}).")
        out = torch.empty((len(records), len(known)), dtype=dtype or torch.get_default_dtype())
        for j, column in enumerate(self.columns):
            out[:, j] = torch.from_numpy(column.encode(raw_column(records, column.name)))
        return out

    def decode(self, x: Tensor) -> Any:
        flat = x.detach().cpu().double().numpy()
        return build_frame(
            self.library, ((c.name, c.dtype, c.declared, c.ordered, c.decode(flat[:, j])) for j, c in enumerate(self.columns))
        )

    def table(self) -> list[str]:
        """One line per column, for a summary."""
        rows = [("column", "dtype", "support", "values"), *((str(c.name), c.dtype, str(c.support), str(c)) for c in self.columns)]
        widths = [max(len(r[i]) for r in rows) for i in range(3)]
        return ["  ".join([*(r[i].ljust(w) for i, w in enumerate(widths)), r[3]]) for r in rows]

    def to_json(self) -> dict[str, Any]:
        condition = None if self.condition is None else self.condition.to_json()
        return {"form": "table", "columns": [c.to_json() for c in self.columns], "library": self.library, "condition": condition}

    @classmethod
    def parse(cls, state: dict[str, Any]) -> Self:
        columns = tuple(Column.from_json(c) for c in state["columns"])
        return cls(columns, state["library"], Condition.from_json(state["condition"]))
