"""One column of a table, from pandas or polars, in a form that does not depend on either."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ..errors import DataError
from .schema import named

Kind = Literal["real", "integer", "boolean", "text"]
Library = Literal["pandas", "polars"]


@dataclass
class Raw:
    """The values of one column: numbers, booleans or anything that names a category."""

    name: Any
    kind: Kind
    values: np.ndarray
    """float64, int64 or bool, (n,); for text, objects. Entries that are missing hold anything."""
    missing: np.ndarray
    """bool (n,)."""
    dtype: str
    """The library's own name of the dtype."""
    declared: tuple[Any, ...] | None = None
    """The categories that a categorical dtype declares, in its order."""
    ordered: bool = False

    def rows(self, keep: np.ndarray) -> "Raw":
        """Those rows alone."""
        return Raw(self.name, self.kind, self.values[keep], self.missing[keep], self.dtype, self.declared, self.ordered)


def library_of(frame: Any) -> Library | None:
    """Which library a DataFrame comes from; None when it is no DataFrame."""
    for base in type(frame).__mro__:
        root = base.__module__.partition(".")[0]
        if base.__name__ == "DataFrame" and root in ("pandas", "polars"):
            return "pandas" if root == "pandas" else "polars"
    return None


def names_of(frame: Any) -> list[Any]:
    """The column names. Raises `DataError` for names that repeat, levels of names, or names that are neither text nor integers."""
    names = list(frame.columns)
    if any(not isinstance(n, (str, int, np.integer)) for n in names):
        bad = next(n for n in names if not isinstance(n, (str, int, np.integer)))
        raise DataError(f"Column name {bad!r} is neither text nor an integer. Rename the columns: df.columns = [...].")
    repeated = sorted({str(n) for n in names if names.count(n) > 1})
    if repeated:
        raise DataError(f"Column name(s) {named(repeated)} appear more than once. Give every column its own name.")
    return [int(n) if isinstance(n, np.integer) else n for n in names]


def raw_column(frame: Any, name: Any) -> Raw:
    """The column `name` of a pandas or polars frame."""
    return _pandas(frame[name], name) if library_of(frame) == "pandas" else _polars(frame[name], name)


def replaced(frame: Any, name: Any, values: np.ndarray) -> Any:
    """The frame with other values in a column of numbers, which keeps its dtype."""
    if library_of(frame) == "pandas":
        frame = frame.copy()
        frame[name] = values.astype(frame[name].dtype)
        return frame
    import polars as pl

    return frame.with_columns(pl.Series(name, values).cast(frame[name].dtype))


def _pandas(s: Any, name: Any) -> Raw:
    import pandas as pd
    from pandas.api import types as t

    dtype, missing = s.dtype, s.isna().to_numpy(dtype=bool)
    if isinstance(dtype, pd.CategoricalDtype):
        declared = tuple(_plain(v, name) for v in dtype.categories)
        values = np.array([*declared, None], dtype=object)[s.cat.codes.to_numpy()]
        return Raw(name, "text", values, missing, "category", declared, bool(dtype.ordered))
    if t.is_bool_dtype(dtype):
        return Raw(name, "boolean", s.to_numpy(dtype=bool, na_value=False), missing, str(dtype))
    if t.is_integer_dtype(dtype):
        return _integers(name, s.to_numpy(dtype="uint64" if "u" in str(dtype)[:1].lower() else "int64", na_value=0), missing, str(dtype))
    if t.is_float_dtype(dtype):
        return Raw(name, "real", s.to_numpy(dtype=np.float64, na_value=np.nan), missing, str(dtype))
    if t.is_string_dtype(dtype) or t.is_object_dtype(dtype):
        return _objects(name, s.to_numpy(dtype=object, na_value=None), missing, str(dtype))
    raise DataError(_refused(name, dtype))


def _polars(s: Any, name: Any) -> Raw:
    import polars as pl

    dtype, missing = s.dtype, s.is_null().to_numpy()
    text = str(dtype.base_type())
    if dtype == pl.Boolean:
        return Raw(name, "boolean", s.fill_null(False).to_numpy(), missing, text)
    if dtype.is_integer():
        return _integers(name, s.fill_null(0).to_numpy(), missing, text)
    if dtype.is_float():
        missing = missing | s.is_nan().fill_null(False).to_numpy()
        return Raw(name, "real", s.cast(pl.Float64).fill_null(float("nan")).to_numpy(), missing, text)
    if dtype == pl.String or isinstance(dtype, pl.Categorical):
        return Raw(name, "text", np.array([*s.cast(pl.String).to_list(), None], dtype=object)[:-1], missing, text)
    if isinstance(dtype, pl.Enum):
        values = np.array([*s.cast(pl.String).to_list(), None], dtype=object)[:-1]
        return Raw(name, "text", values, missing, text, tuple(dtype.categories.to_list()))
    if dtype == pl.Null:
        return Raw(name, "text", np.full(len(s), None, dtype=object), missing, text)
    if dtype == pl.Object:
        return _objects(name, np.array([*s.to_list(), None], dtype=object)[:-1], missing, text)
    raise DataError(_refused(name, dtype))


def _integers(name: Any, values: np.ndarray, missing: np.ndarray, dtype: str) -> Raw:
    if values.dtype == np.uint64 and len(values) and values.max() > np.iinfo(np.int64).max:
        return Raw(name, "real", values.astype(np.float64), missing, dtype)
    return Raw(name, "integer", values.astype(np.int64), missing, dtype)


def _objects(name: Any, values: np.ndarray, missing: np.ndarray, dtype: str) -> Raw:
    """A column of Python objects: text, numbers or booleans, but not a mixture."""
    present = values[~missing]
    kinds: dict[str, int] = {}
    for v in present:
        kinds[_type(v)] = kinds.get(_type(v), 0) + 1
    if len(kinds) > 1 and not set(kinds) <= {"int", "float"}:
        rare = min(kinds, key=lambda k: kinds[k])
        row = int(next(i for i, v in enumerate(values) if not missing[i] and _type(v) == rare))
        mixture = ", ".join(f"{n} {k}" for k, n in sorted(kinds.items(), key=lambda kv: -kv[1]))
        raise DataError(f"Column {name!r} mixes types: {mixture}; row {row} holds {values[row]!r}. Make them all numbers or all text.")
    kind = next(iter(kinds), "text")
    if kind == "bool":
        return Raw(name, "boolean", np.where(missing, False, values).astype(bool), missing, dtype)
    if set(kinds) <= {"int", "float"} and kinds:
        filled = np.where(missing, 0, values)
        big = "int" in kinds and any(abs(v) >= 2**63 for v in filled)
        if set(kinds) == {"int"} and not big:
            return Raw(name, "integer", filled.astype(np.int64), missing, dtype)
        return Raw(name, "real", np.where(missing, np.nan, filled.astype(np.float64)), missing, dtype)
    if kind != "text":
        raise DataError(
            f"Column {name!r} holds {kind} objects, which no model can take. Turn them into numbers or text, or drop=[{name!r}]."
        )
    _refuse_stray_text(name, present, np.flatnonzero(~missing))
    return Raw(name, "text", values, missing, dtype)


def _refuse_stray_text(name: Any, present: np.ndarray, rows: np.ndarray) -> None:
    """A column of many different numbers with some text among them was meant to be numeric."""
    distinct = set(present)
    numeric = {v for v in distinct if _is_number(v)}
    if not numeric or len(numeric) == len(distinct) or len(numeric) <= max(0.5 * len(distinct), min(20, 0.5 * len(present))):
        return
    stray = [(int(r), v) for r, v in zip(rows, present, strict=True) if v not in numeric]
    shown = ", ".join(f"{v!r} in row {r}" for r, v in stray[:3])
    raise DataError(
        f"Column {name!r} mixes numbers and text: {len(present) - len(stray)} numbers and {len(stray)} texts, {shown}. "
        f"Correct or blank those cells, or drop=[{name!r}]."
    )


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _type(value: Any) -> str:
    if isinstance(value, (bool, np.bool_)):
        return "bool"
    if isinstance(value, (int, np.integer)):
        return "int"
    if isinstance(value, (float, np.floating)):
        return "float"
    return "text" if isinstance(value, str) else type(value).__name__


def _plain(value: Any, name: Any) -> Any:
    value = value.item() if isinstance(value, np.generic) else value
    if not isinstance(value, (str, int, float, bool)):
        raise DataError(f"Column {name!r} has categories of type {type(value).__name__}. Turn them into text: df[{name!r}].astype(str).")
    return value


def _refused(name: Any, dtype: Any) -> str:
    remedy = f"Turn it into a number (such as days since a date) or text, or drop=[{name!r}]."
    return f"Column {name!r} has dtype {dtype}, which no model can take. {remedy}"


def build_frame(library: Library, columns: Iterable[tuple[Any, str, tuple[Any, ...] | None, bool, np.ndarray]]) -> Any:
    """A DataFrame from (name, dtype, declared categories, ordered, values) with float64, int64, bool or object values."""
    if library == "polars":
        import polars as pl

        return pl.DataFrame([_polars_series(pl, *c) for c in columns])
    import pandas as pd

    made = {}
    for name, dtype, declared, ordered, values in columns:
        if dtype == "category":
            made[name] = pd.Categorical(list(values), categories=list(declared or ()), ordered=ordered)
        elif values.dtype == object and dtype in ("bool", "object"):
            made[name] = pd.Series(values, dtype=object)
        else:
            made[name] = pd.Series(values).astype(dtype)
    return pd.DataFrame(made)


def _polars_series(pl: Any, name: Any, dtype: str, declared: tuple[Any, ...] | None, ordered: bool, values: np.ndarray) -> Any:
    del ordered
    if dtype == "Enum":
        return pl.Series(name, values.tolist(), dtype=pl.Enum(list(declared or ())))
    if values.dtype == object:
        wanted = {"Categorical": pl.Categorical, "Boolean": pl.Boolean}.get(dtype, pl.String)
        return pl.Series(name, values.tolist(), dtype=wanted)
    return pl.Series(name, values).cast(getattr(pl, dtype))
