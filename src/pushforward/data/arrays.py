"""Arrays and tensors as records: vectors (n, D), grey images (n, H, W), images with channels first or last.

=====================  ===========================================================================================
values                 support
=====================  ===========================================================================================
bool                   binary
integers 0 and 1       binary (also 0 and 255 in uint8: black and white)
uint8                  levels(256)
other integers         levels(max - min + 1) when that is at most 256, else real, rounded on the way out
floats                 real: standardised per column for vectors, by one shift and scale for images
=====================  ===========================================================================================

`support=` overrides the choice. `binarize=` makes grey records binary: x ~ Bernoulli(grey / white), or grey / white >= 1/2.
"""

from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
import torch
from torch import Tensor

from ..errors import ConfigError, DataError
from .records import Data, Records, Split, binarized
from .schema import MAX_LEVELS, Condition, Schema, named, parse_support, scale_log_det
from .spec import BINARY, REAL, DataSpec, Support, levels

Layout = Literal["vector", "grey", "last", "first"]
Binarize = Literal["dynamic", "threshold"]
BLOCK = 4096


@dataclass(frozen=True)
class ArraySchema(Schema):
    """Vectors or images of one dtype. `shift` and `scale` have one entry for all values, or one per column of a vector."""

    spec: DataSpec
    dtype: str
    layout: Layout
    library: Literal["numpy", "torch"] = "numpy"
    shift: tuple[float, ...] = (0.0,)
    scale: tuple[float, ...] = (1.0,)
    binarize: Binarize | None = None
    condition: Condition | None = None

    @property
    def log_det(self) -> float:
        if self.spec.discrete:
            return 0.0
        return scale_log_det(self.scale, self.spec.supports * len(self.scale), self.spec.dim // len(self.scale))

    @property
    def user_shape(self) -> tuple[int, ...]:
        """The shape of one record as the user gives it."""
        if self.layout in ("vector", "first"):
            return self.spec.shape
        channels, height, width = self.spec.shape
        return (height, width) if self.layout == "grey" else (height, width, channels)

    def encode(self, records: Any, dtype: torch.dtype | None = None) -> Tensor:
        dtype = dtype or torch.get_default_dtype()
        u, _ = as_array(records, "records")
        shape = self.user_shape
        if tuple(u.shape[1:]) != shape:
            got = f"({', '.join(map(str, u.shape))})"
            hint = " Add the axis of records: x[None]." if tuple(u.shape) == shape else ""
            raise DataError(f"Records have shape {got}; this model takes (n, {', '.join(map(str, shape))}).{hint}")
        if self.spec.kind == "points" and self.spec.shape[0] == 1 and u.ndim == 1:
            raise DataError("Records of one number each need shape (n, 1): x.reshape(-1, 1).")
        check_finite(u, "array")
        x = (images_first(u, self.layout).double() - self._per_entry(self.shift)) / self._per_entry(self.scale)
        support = self.spec.support
        assert support is not None
        if self.binarize is not None:
            self._check_range(u, x, 0.0, 1.0, whole=False)
            return (x >= 0.5 if self.binarize == "threshold" else binarized(x, 1.0, seed=0)).to(dtype)
        if support.discrete:
            self._check_range(u, x, 0.0, (support.size or 2) - 1.0, whole=True)
        elif support.name == "unit":
            self._check_range(u, x, 0.0, 1.0, whole=False)
        return x.to(dtype)

    def decode(self, x: Tensor) -> Any:
        x = x.detach().cpu()
        if self.spec.discrete:
            u = x.double() * self.scale[0] + self.shift[0] if self.scale != (1.0,) or self.shift != (0.0,) else x
        else:
            u = x.double() * self._per_entry(self.scale) + self._per_entry(self.shift)
        u = (u.squeeze(1) if self.layout == "grey" else u.movedim(1, -1) if self.layout == "last" else u).contiguous()
        array = u.numpy()
        target = np.dtype(self.dtype)
        if target.kind in "iu":
            info = np.iinfo(target)
            array = np.rint(array).clip(float(info.min), float(info.max))
            # The largest int64 is no float: the cast of its float would wrap round.
            array = np.where(array >= float(info.max), info.max, array.astype(target, copy=False)) if target.itemsize == 8 else array
        elif target.kind == "b":
            array = array > 0.5
        array = array.astype(target)
        return torch.from_numpy(array) if self.library == "torch" else array

    def _per_entry(self, values: tuple[float, ...]) -> Tensor:
        return torch.tensor(values, dtype=torch.float64)

    def _check_range(self, u: Tensor, x: Tensor, low: float, high: float, *, whole: bool) -> None:
        bad = (x < low - 1e-9) | (x > high + 1e-9)
        if whole:
            bad |= (x - x.round()).abs() > 1e-9
        if not bad.any():
            return
        at = [int(i) for i in bad.nonzero()[0]]
        value = float(x[tuple(at)]) * self.scale[0] + self.shift[0]
        bounds = f"{low * self.scale[0] + self.shift[0]:g} to {high * self.scale[0] + self.shift[0]:g}"
        where = f"row {at[0]}, column {at[1]}" if self.layout == "vector" else f"row {at[0]}, pixel {tuple(at[2:])}"
        step = f" in steps of {self.scale[0]:g}" if self.scale[0] != 1.0 else ""
        kind = f"whole numbers {bounds}{step} ({self.spec.support})" if whole else f"numbers {bounds}"
        hint = "Scale or clip the records to that range"
        if whole:
            hint += ", or load the training data with support='real' (or 'levels(k)' for a larger k) and fit again"
        raise DataError(f"Value {value:g} at {where} is outside the support: {kind}. {hint}.")

    def table(self) -> list[str]:
        """Lines on the user's form, for a summary."""
        shape = ", ".join(map(str, self.user_shape))
        lines = [f"form        {self.library} {self.dtype} (n, {shape})"]
        if not self.spec.discrete:
            shown = [f"{m:.4g} +- {s:.4g}" for m, s in zip(self.shift[:8], self.scale[:8], strict=True)]
            lines.append(f"mean +- sd  {', '.join(shown)}{' ...' if len(self.scale) > 8 else ''}")
        return lines

    def to_json(self) -> dict[str, Any]:
        return {
            "form": "array",
            "spec": self.spec.to_json(),
            "dtype": self.dtype,
            "layout": self.layout,
            "library": self.library,
            "shift": list(self.shift),
            "scale": list(self.scale),
            "binarize": self.binarize,
            "condition": None if self.condition is None else self.condition.to_json(),
        }

    @classmethod
    def parse(cls, state: dict[str, Any]) -> Self:
        return cls(
            DataSpec.from_json(state["spec"]),
            state["dtype"],
            state["layout"],
            state["library"],
            tuple(state["shift"]),
            tuple(state["scale"]),
            state["binarize"],
            Condition.from_json(state["condition"]),
        )


def array_data(
    array: Any,
    *,
    label: Any = None,
    support: str | Support | None = None,
    binarize: Binarize | None = None,
    missing: str = "error",
    channels: Literal["first", "last"] | None = None,
    validation: float = 0.1,
    test: float = 0.1,
    seed: int = 0,
    split: Split | None = None,
    source: str = "array",
) -> Data:
    """`Data` from an array or tensor of records. `split` gives an official split instead of a seeded one."""
    u, library = as_array(array, source)
    notes: tuple[str, ...] = ()
    if label is not None and len(label) != len(u):
        raise DataError(f"{len(label)} labels for {len(u)} records. Give one label per record.")
    layout = layout_of(u, channels, source)
    if u.numel() == 0:
        raise DataError(f"The {source} of shape {tuple(u.shape)} is empty. Give at least 10 records.")
    if missing == "drop" and u.is_floating_point():
        keep = ~u.isnan().flatten(1).any(1)
        if not keep.all():
            dropped = int((~keep).sum())
            notes = (f"{dropped} of {len(u)} records dropped: they held NaN",)
            label = None if label is None else np.asarray(label)[keep.numpy()]
            u = u[keep]
    check_finite(u, source)
    split = split or Split.make(len(u), validation, test, seed)
    raw = images_first(u, layout)
    dtype = "bool" if u.dtype == torch.bool else str(u.dtype).removeprefix("torch.")
    the_support, shift, scale = _support(raw, dtype, layout, support, split, source)
    top = None
    if binarize is not None:
        if binarize not in ("dynamic", "threshold"):
            raise ConfigError(
                f"binarize={binarize!r} is not known. Give 'dynamic' (drawn anew each batch) or 'threshold' (at half of white)."
            )
        shift, scale, top = _grey(raw, the_support, shift, scale)
    kind = "points" if layout == "vector" else "image"
    spec = DataSpec(kind, tuple(raw.shape[1:]), (the_support,))
    stored_schema = ArraySchema(spec, dtype, layout, library, shift, scale)
    x = _store(raw, stored_schema, split)
    schema = stored_schema
    if binarize is not None and top is not None:
        schema = ArraySchema(DataSpec(kind, spec.shape, (BINARY,)), dtype, layout, library, shift, (scale[0] * top,), binarize)
        x = _binarize(x, binarize, top, split)
    condition = stored = None
    if label is not None:
        condition = Condition.of(label)
        stored = condition.store(label)
        stored = stored if split.order is None else stored[split.order]
        schema = schema.with_condition(condition)
    a, b, c = split.slices
    dynamic = top if binarize == "dynamic" else None
    parts = [Records(schema, x[at], None if stored is None else stored[at], dynamic if at is a else None) for at in (a, b, c)]
    return Data(schema, *parts, order=split.order, notes=notes)


def as_array(records: Any, what: str) -> tuple[Tensor, Literal["numpy", "torch"]]:
    """A CPU tensor sharing memory with the records where it can, and the library they came from."""
    if isinstance(records, Tensor):
        u: Tensor = records.detach().cpu()
        library: Literal["numpy", "torch"] = "torch"
    else:
        if hasattr(records, "columns"):
            raise DataError(f"The {what} is a table ({type(records).__name__}); this model takes arrays. Give frame.to_numpy().")
        array = np.asarray(records)
        if array.dtype.kind not in "biuf":
            raise DataError(f"The {what} has dtype {array.dtype}; give numbers or booleans (a DataFrame for text and mixed columns).")
        array = array.astype(array.dtype.newbyteorder("="), copy=False)
        if array.dtype.kind == "u" and array.dtype.itemsize > 1:
            array = array.astype(np.int64)
        if array.dtype == np.longdouble and array.dtype.itemsize > 8:
            array = array.astype(np.float64)
        if not array.flags.writeable or any(s < 0 for s in array.strides):
            array = array.copy()
        u, library = torch.from_numpy(array), "numpy"
    if u.is_complex() or u.is_quantized or u.is_sparse:
        raise DataError(f"The {what} has dtype {u.dtype} and layout {u.layout}; give dense real numbers.")
    if u.dtype in (torch.bfloat16,):
        u = u.float()
    return u, library


def layout_of(u: Tensor, channels: str | None, source: str) -> Layout:
    """Which axes hold what. Raises `DataError` when the channels could be first or last."""
    shape = tuple(u.shape)
    if u.ndim == 2:
        return "vector"
    if u.ndim == 3:
        return "grey"
    if u.ndim != 4:
        remedy = (
            "Reshape it: (n, D) for vectors"
            + (", such as x.reshape(-1, 1)" if u.ndim == 1 else "")
            + ", (n, H, W) or (n, H, W, C) for images."
        )
        raise DataError(f"The {source} has shape {shape}, of {u.ndim} axes; records need 2, 3 or 4. {remedy}")
    if channels is not None:
        if channels not in ("first", "last"):
            raise ConfigError(f"channels={channels!r} is not known. Give 'first' for (n, C, H, W) or 'last' for (n, H, W, C).")
        return channels
    first, last = shape[1] in (1, 3, 4), shape[3] in (1, 3, 4)
    if first == last:
        why = "both axis 1 and axis 3 could be" if first else "neither axis 1 nor axis 3 looks like"
        raise DataError(
            f"The {source} has shape {shape}: {why} the channels. Say channels='first' for (n, C, H, W) or 'last' for (n, H, W, C)."
        )
    return "first" if first else "last"


def images_first(u: Tensor, layout: Layout) -> Tensor:
    """The user's axes -> (n, C, H, W) or (n, D), as a view."""
    return u.unsqueeze(1) if layout == "grey" else u.movedim(-1, 1) if layout == "last" else u


def check_finite(u: Tensor, source: str) -> None:
    """Raises `DataError` naming how many values are NaN or infinite, and the first row and column."""
    if not u.is_floating_point():
        return
    for start in range(0, len(u), BLOCK):
        bad = ~u[start : start + BLOCK].isfinite()
        if bad.any():
            at = [int(i) for i in bad.nonzero()[0]]
            value = float(u[start : start + BLOCK][tuple(at)])
            where = f"row {at[0] + start}, column {at[1]}" if u.ndim == 2 else f"row {at[0] + start}, at {tuple(at[1:])}"
            rows = sum(int((~u[i : i + BLOCK].isfinite()).flatten(1).any(1).sum()) for i in range(0, len(u), BLOCK))
            remedy = "Drop those rows with missing='drop', or fill them." if value != value else "Clip or remove them."
            raise DataError(f"The {source} holds {value:g} in {rows} of {len(u)} rows, first at {where}. {remedy}")


def _support(
    raw: Tensor, dtype: str, layout: Layout, wish: str | Support | None, split: Split, source: str
) -> tuple[Support, tuple[float, ...], tuple[float, ...]]:
    """The support, and the shift and scale of u = shift + scale x."""
    low, high = float(raw.min()), float(raw.max())
    if low == high:
        raise DataError(f"Every value of the {source} is {low:g}: there is nothing to model. Check how it was read.")
    chosen = None if wish is None else parse_support(wish)
    if chosen is None:
        chosen = _natural(raw, dtype, low, high)
    if chosen.name == "real":
        return (REAL, *_standard(raw, layout, split, source))
    if chosen.name == "unit":
        white = 255.0 if dtype == "uint8" and high > 1 else 1.0
        if low < 0 or high > white:
            raise DataError(
                f"support='unit' needs numbers from 0 to {white:g}; the {source} spans {low:g} to {high:g}. Rescale it, or use 'real'."
            )
        return chosen, (0.0,), (white,)
    if raw.is_floating_point() and not bool((raw == raw.round()).all()):
        raise DataError(f"support={str(wish)!r} needs whole numbers; the {source} holds others. Round it, or use support='real'.")
    if chosen.name == "binary":
        if not bool(((raw == low) | (raw == high)).all()):
            raise DataError(
                f"support='binary' needs two values; the {source} holds more ({low:g} to {high:g}). Use binarize='threshold' or 'levels'."
            )
        return chosen, (low,), (high - low,)
    shift = 0.0 if (dtype == "uint8" or chosen.size) and low >= 0 else low
    size = chosen.size or (256 if dtype == "uint8" else int(high - shift) + 1)
    if high - shift >= size:
        raise DataError(
            f"support={str(wish)!r} holds values 0 to {size - 1}; the {source} spans {low:g} to {high:g}. Use 'levels({int(high - shift) + 1})'."
        )
    return Support(chosen.name, size), (shift,), (1.0,)


def _natural(raw: Tensor, dtype: str, low: float, high: float) -> Support:
    if raw.is_floating_point():
        return REAL
    if (
        dtype == "bool"
        or (low, high) == (0, 1)
        or (dtype == "uint8" and (low, high) == (0, 255) and bool(((raw == 0) | (raw == 255)).all()))
    ):
        return BINARY
    if dtype == "uint8":
        return levels(256)
    return levels(int(high - low) + 1) if high - low < MAX_LEVELS else REAL


def _standard(raw: Tensor, layout: Layout, split: Split, source: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and sd of the training records: per column of vectors, one of each for images. Two passes in float64."""
    per_column = layout == "vector"
    count = split.train * (1 if per_column else raw[0].numel())

    def total(f: Any) -> Tensor:
        parts = (f(b.double()).sum(0) if per_column else f(b.double()).sum().reshape(1) for b in _blocks(raw, split, split.train))
        return torch.stack(list(parts)).sum(0)

    mean = total(lambda b: b) / count
    sd = (total(lambda b: (b - mean) ** 2) / count).sqrt()
    # A constant column keeps a rounding-sized spread about its computed mean.
    constant = (sd <= 1e-12 * mean.abs()).nonzero().flatten().tolist()
    if constant:
        raise DataError(
            f"Column(s) {named(constant)} of the {source} hold one value only in the training records and carry no density. "
            f"Leave them out: x = np.delete(x, {constant[:5]}, axis=1)" + (" (and the others)." if len(constant) > 5 else ".")
        )
    return tuple(mean.tolist()), tuple(sd.tolist())


def _blocks(raw: Tensor, split: Split, n: int) -> Any:
    for at in range(0, n, BLOCK):
        end = min(at + BLOCK, n)
        yield raw[at:end] if split.order is None else raw[split.order[at:end]]


def _store(raw: Tensor, schema: ArraySchema, split: Split) -> Tensor:
    """The one copy that is kept, in the split's order: filled block by block, so that nothing else of its size is made."""
    dtype = schema.storage_dtype
    shift, scale = (torch.tensor(v, dtype=torch.float64) for v in (schema.shift, schema.scale))
    plain = schema.shift == (0.0,) and schema.scale == (1.0,)
    if plain and split.order is None and raw.dtype == dtype:
        return raw
    x = torch.empty(raw.shape, dtype=dtype)
    at = 0
    for block in _blocks(raw, split, len(raw)):
        if not plain:
            block = (block.double() - shift) / scale
            block = block.round() if schema.spec.discrete else block
        x[at : at + len(block)] = block
        at += len(block)
    return x


def _grey(
    raw: Tensor, support: Support, shift: tuple[float, ...], scale: tuple[float, ...]
) -> tuple[tuple[float, ...], tuple[float, ...], float]:
    """Shift, scale and the white value of records that are to be binarised."""
    if support.discrete:
        return shift, scale, float((support.size or 2) - 1)
    if support.name == "unit":
        return shift, scale, 1.0
    raise DataError("binarize= needs grey values: integers such as uint8, or floats from 0 to 1 with support='unit'.")


def _binarize(x: Tensor, binarize: Binarize, top: float, split: Split) -> Tensor:
    if binarize == "threshold":
        return (x >= top / 2).to(torch.uint8)
    # Training records keep their grey values and are drawn anew each batch; held-out ones are drawn here, once.
    for number, at in enumerate(split.slices[1:]):
        x[at] = binarized(x[at], top, seed=1 + number).to(x.dtype)
    return x
