"""What a record looks like to its owner, and the map between that form and tensors.

A `Schema` keeps everything needed to take new records in and to give samples back as they came: shapes, dtypes, category names,
offsets and scaling. It is JSON both ways, so a run folder can hold it.

With x the tensor a model sees and u the value the user knows, every number obeys ``u = shift + scale * x``. On real entries the model's
density is of x; the user's is of u, so ``log p(u) = log p(x) + log_det`` with ``log_det = -sum log scale`` over the real entries.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Self

import numpy as np
import torch
from torch import Tensor

from ..errors import ConfigError, DataError, nearest
from .spec import BINARY, REAL, UNIT, DataSpec, Support, categories, levels

MAX_LEVELS = 256
"""Integers that span at most this many values are `levels`; wider ones are treated as real and rounded on the way out."""
MAX_CLASSES = 1000
"""More distinct labels than this are taken for a number or an identifier, not for classes."""


class Schema(ABC):
    """The user's form of a record. Concrete: `ArraySchema` (points, images), `TableSchema` (columns), `SequenceSchema` (texts, music)."""

    spec: DataSpec
    condition: "Condition | None"

    @property
    @abstractmethod
    def log_det(self) -> float:
        """-sum log scale over the real entries: ADD it to the log-density of x to get that of the user's values (nats)."""

    @abstractmethod
    def encode(self, records: Any, dtype: torch.dtype | None = None) -> Tensor:
        """Records in the user's form -> x (n, *spec.shape), in `dtype` (the default floating type when None).

        Raises `DataError` for a wrong shape or column, NaN or infinite values, unknown categories and values outside the support.
        """

    @abstractmethod
    def decode(self, x: Tensor) -> Any:
        """x (n, *spec.shape) -> records in the user's own form: library, column order, dtypes, names, image layout."""

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """The schema as plain JSON values."""

    def with_condition(self, condition: "Condition | None") -> Self:
        """The same schema with another condition (or none)."""
        return replace(self, condition=condition)  # type: ignore[type-var]

    @property
    def storage_dtype(self) -> torch.dtype:
        """The dtype in which records are kept: one byte for up to 256 discrete values, else four (or the default float)."""
        if not self.spec.discrete:
            return torch.get_default_dtype()
        return torch.uint8 if all((s.size or 0) <= 256 for s in self.spec.supports) else torch.int32

    @staticmethod
    def from_json(state: dict[str, Any]) -> "Schema":
        """The schema that `to_json` wrote. Raises `DataError` when the form is not one that this version knows."""
        from .arrays import ArraySchema
        from .sequences import SequenceSchema
        from .tables import TableSchema

        forms: dict[str, Any] = {"array": ArraySchema, "table": TableSchema, "sequence": SequenceSchema}
        if state.get("form") not in forms:
            raise DataError(f"The schema has form {state.get('form')!r}.{nearest(str(state.get('form')), forms)}")
        return forms[state["form"]].parse(state)


@dataclass(frozen=True)
class Condition:
    """What records may be conditioned on: one of some classes (one-hot), or a vector of real numbers (standardised).

    >>> c = Condition.of(["cat", "dog", "cat"])
    >>> c.encode("dog", 2)
    tensor([[0., 1.],
            [0., 1.]])
    """

    kind: Literal["classes", "vector"]
    name: str = "label"
    classes: tuple[Any, ...] = ()
    """The label of each class, in the order of the one-hot entries."""
    shift: tuple[float, ...] = ()
    scale: tuple[float, ...] = ()

    @classmethod
    def of(cls, values: Any, name: str = "label") -> "Condition":
        """The condition that these labels, one per record, speak of: text, booleans and integers are classes, floats a vector."""
        array = _array(values)
        if array.ndim > 2 or array.ndim == 0:
            raise DataError(f"Labels {name!r} have shape {array.shape}; give one label (n,) or one vector (n, C) per record.")
        if array.dtype.kind == "f":
            array = array.reshape(len(array), -1).astype(np.float64)
            bad = ~np.isfinite(array)
            if bad.any():
                row = int(np.argwhere(bad)[0, 0])
                raise DataError(f"Labels {name!r} hold {int(bad.sum())} NaN or infinite values, the first in row {row}. Fill or drop them.")
            sd = array.std(0)
            return cls("vector", name, (), _floats(array.mean(0)), _floats(np.where(sd > 0, sd, 1.0)))
        if array.ndim == 2:
            raise DataError(f"Labels {name!r} have shape {array.shape} and dtype {array.dtype}; give vectors as floats, classes as (n,).")
        found = set(array.tolist())
        missing = [row for row, v in enumerate(array.tolist()) if v is None or v != v]
        if missing:
            raise DataError(f"Labels {name!r} are missing in {len(missing)} rows, first {missing[:5]}. Fill or drop those rows.")
        if len({type(v) for v in found}) > 1:
            kinds = ", ".join(sorted({type(v).__name__ for v in found}))
            raise DataError(f"Labels {name!r} mix types ({kinds}). Make them all text or all integers.")
        if len(found) > MAX_CLASSES:
            raise DataError(f"Labels {name!r} hold {len(found)} different values, too many for classes. Give numbers as floats instead.")
        return cls("classes", name, tuple(sorted(found)))

    @property
    def dim(self) -> int:
        """The width of the condition vector that models see."""
        return len(self.classes) if self.kind == "classes" else len(self.shift)

    def store(self, values: Any) -> Tensor:
        """Labels, one per record -> int64 codes (n,), or standardised floats (n, C)."""
        array = _array(values)
        if self.kind == "vector":
            return self._standard(array.reshape(len(array), -1)).to(torch.get_default_dtype())
        if array.dtype.kind in "iub":
            found, first, at = np.unique(array, return_index=True, return_inverse=True)
            codes = np.array([self._code(v, int(row)) for v, row in zip(found, first, strict=True)], dtype=np.int64)
            return torch.from_numpy(codes[at])
        return torch.tensor([self._code(v, row) for row, v in enumerate(array.tolist())], dtype=torch.int64)

    def vectors(self, stored: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """Stored codes (n,) or floats (n, C) -> the condition vectors (n, dim) that models see; all zeros where the label is missing."""
        dtype = dtype or torch.get_default_dtype()
        return one_hot_rows(self.dim, dtype, stored.device)[stored] if self.kind == "classes" else stored.to(dtype)

    def labels(self, stored: Tensor) -> np.ndarray:
        """Stored codes or floats -> the labels as the user knows them; None where one is missing."""
        if self.kind == "vector":
            return stored.double().cpu().numpy() * np.array(self.scale) + np.array(self.shift)
        if (stored < 0).any():
            return np.array([*self.classes, None], dtype=object)[stored.cpu().numpy()]
        return np.array(self.classes)[stored.cpu().numpy()]

    def encode(self, values: Any, n: int) -> Tensor:
        """One label (or vector) for all, or one for each of `n` records -> (n, dim) in the default floating type.

        Raises `DataError` for an unknown label (the nearest is suggested) or a wrong number of them.
        """
        array = _array(values)
        if self.kind == "vector":
            if array.ndim == 0 or (array.ndim == 1 and len(array) == self.dim and (self.dim > 1 or n != self.dim)):
                array = np.broadcast_to(array.reshape(1, -1), (n, array.size))
            if array.size != n * self.dim or array.ndim > 2:
                raise DataError(
                    f"condition {self.name!r} has shape {array.shape}; give ({self.dim},) for all or ({n}, {self.dim}) for each."
                )
            return self._standard(array.reshape(n, self.dim)).to(torch.get_default_dtype())
        if array.ndim == 0:
            array = np.broadcast_to(array, (n,))
        if array.shape != (n,):
            raise DataError(f"condition {self.name!r} has shape {array.shape}; give one label for all, or one for each of the {n} records.")
        if n and all(v == array[0] for v in array[1:2]) and (array == array[0]).all():
            return self.vectors(torch.full((n,), self._code(array[0], 0)))
        return self.vectors(self.store(array))

    def _standard(self, array: np.ndarray) -> Tensor:
        try:
            array = array.astype(np.float64)
        except (TypeError, ValueError):
            raise DataError(f"condition {self.name!r} is a vector of {self.dim} numbers; got values such as {array.flat[0]!r}.") from None
        if array.shape[1] != self.dim or not np.isfinite(array).all():
            raise DataError(f"condition {self.name!r} needs {self.dim} finite numbers per record; got shape {array.shape}.")
        return torch.from_numpy((array - np.array(self.shift)) / np.array(self.scale))

    def _code(self, value: Any, row: int) -> int:
        value = value.item() if isinstance(value, np.generic) else value
        lookup = self.__dict__.get("_lookup")
        if lookup is None:
            # Text is accepted for any class ("3" for 3), as a command line gives it; an equal class goes first.
            lookup = {str(c): i for i, c in enumerate(self.classes)} | {c: i for i, c in enumerate(self.classes)}
            object.__setattr__(self, "_lookup", lookup)
        try:
            return lookup[value]
        except (KeyError, TypeError):
            hint = nearest(str(value), map(str, self.classes))
            raise DataError(f"condition {self.name!r} has no class {value!r} (row {row}).{hint}") from None

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "name": self.name, "classes": list(self.classes), "shift": list(self.shift), "scale": list(self.scale)}

    @classmethod
    def from_json(cls, state: dict[str, Any] | None) -> "Condition | None":
        if state is None:
            return None
        return cls(state["kind"], state["name"], *(tuple(state[k]) for k in ("classes", "shift", "scale")))

    def __str__(self) -> str:
        if self.kind == "vector":
            return f"{self.name}: a vector of {self.dim} numbers"
        shown = [str(c) for c in self.classes[:20]]
        return f"{self.name}: {', '.join(shown)}{f' ... ({self.dim} classes)' if self.dim > 20 else ''}"


def conditioned(values: Any, name: str = "label", *, unlabelled: bool = False) -> tuple[Condition, Tensor]:
    """(the condition that labels speak of, their codes (n,) or floats (n, C)).

    With `unlabelled`, labels may be missing (None, NaN, NA) and get code -1. Whole numbers among NaN, which tables and arrays turn
    into floats, are classes then. Raises `DataError` when every label is missing, or when those that are not are no classes.
    """
    if not unlabelled:
        condition = Condition.of(values, name)
        return condition, condition.store(values)
    import pandas as pd

    array = _array(values)
    unknown = np.asarray(pd.isna(array)).reshape(len(array), -1).any(1)
    if unknown.all():
        raise DataError(f"Every label {name!r} is missing. Give some, or leave label= out.")
    known = array[~unknown]
    if unknown.any() and known.ndim == 1 and all(isinstance(v, (float, np.floating)) and float(v).is_integer() for v in known.tolist()):
        known = known.astype(np.int64)
    condition = Condition.of(known.tolist() if known.dtype == object else known, name)
    if unknown.any() and condition.kind != "classes":
        raise DataError(f"missing='unlabelled' is for classes; labels {name!r} are numbers. Give text or whole numbers, or fill them.")
    stored = condition.store(known)
    if not unknown.any():
        return condition, stored
    codes = torch.full((len(array),), -1, dtype=torch.int64)
    codes[torch.from_numpy(~unknown)] = stored
    return condition, codes


def parse_support(text: "str | Support") -> Support:
    """`"real"`, `"unit"`, `"binary"`, `"levels"`, `"levels(256)"`, `"categories(5)"` -> the `Support` (size 0 where the data decide).

    >>> parse_support("levels(17)")
    Support(name='levels', size=17)
    """
    if isinstance(text, Support):
        return text
    name, _, rest = str(text).partition("(")
    plain = {"real": REAL, "unit": UNIT, "binary": BINARY}
    if name in plain and not rest:
        return plain[name]
    if name in ("levels", "categories") and (not rest or (rest[-1] == ")" and rest[:-1].isdigit() and int(rest[:-1]) > 1)):
        size = int(rest[:-1]) if rest else 0
        return levels(size) if name == "levels" else categories(size)
    raise ConfigError(
        f"support={text!r} is not known.{nearest(str(text), ['real', 'unit', 'binary', 'levels', 'levels(256)', 'categories'])}"
    )


def one_hot_rows(dim: int, dtype: torch.dtype, device: torch.device | str) -> Tensor:
    """The vector of each class, (dim + 1, dim): the last row, which code -1 takes, is of zeros."""
    return torch.eye(dim + 1, dim, dtype=dtype, device=device)


def scale_log_det(scale: Sequence[float], supports: Sequence[Support], repeat: int = 1) -> float:
    """-sum log scale over the entries that have a density."""
    return -repeat * math.fsum(math.log(s) for s, support in zip(scale, supports, strict=True) if not support.discrete)


def named(names: Iterable[Any], most: int = 5) -> str:
    """`'a', 'b', 'c' and 4 more`, for messages."""
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(repr(n) for n in names[:most]) + more


def _array(values: Any) -> np.ndarray:
    """Labels in any form as a NumPy array; text becomes objects, so that no value is cut or padded."""
    if isinstance(values, Tensor):
        values = values.detach().cpu().numpy()
    elif hasattr(values, "to_numpy"):
        values = values.to_numpy()
    if isinstance(values, (list, tuple)) and any(isinstance(v, str) for v in values):
        array = np.empty(len(values), dtype=object)
        array[:] = values
        return array
    array = np.asarray(values)
    return array.astype(object) if array.dtype.kind in "US" else array


def _floats(values: np.ndarray) -> tuple[float, ...]:
    return tuple(float(v) for v in values)
