"""The form of arrays and tensors of records: vectors (n, D), grey images (n, H, W), images with channels first or last."""

import warnings
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
import torch
from torch import Tensor

from ..errors import ConfigError, DataError
from .records import binarized
from .schema import Condition, Schema, scale_log_det
from .spec import DataSpec

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
            # The largest 64-bit integers are no floats; the cast of the next float above them would wrap round.
            high = float(info.max) if info.bits < 64 else float(info.max) * (1 - 2**-53)
            array = np.rint(array).clip(float(info.min), high)
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
        if any(s < 0 for s in array.strides):
            array = array.copy()
        with warnings.catch_warnings():
            # Nothing here writes to the user's array, so one that is read-only is shared and not copied.
            warnings.filterwarnings("ignore", message=".*not writable.*")
            u, library = torch.from_numpy(array), "numpy"
    if u.is_complex() or u.is_quantized or u.is_sparse:
        raise DataError(f"The {what} has dtype {u.dtype} and layout {u.layout}; give dense real numbers.")
    if u.dtype is torch.bfloat16:
        u = u.float()
    elif u.dtype in (torch.uint16, torch.uint32, torch.uint64):
        u = u.long()
    return u, library


def dtype_name(records: Any) -> str:
    """The dtype in which records are given back: that of the user, by NumPy's name (bfloat16, which NumPy lacks, becomes float32)."""
    if not isinstance(records, Tensor):
        return np.asarray(records).dtype.newbyteorder("=").name
    return "float32" if records.dtype is torch.bfloat16 else str(records.dtype).removeprefix("torch.")


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
