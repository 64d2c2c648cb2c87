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

from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ..errors import ConfigError, DataError
from .arrays import BLOCK, ArraySchema, Binarize, Layout, as_array, check_finite, dtype_name, images_first, layout_of
from .records import Data, Records, Split, binarized, without_label
from .schema import MAX_LEVELS, conditioned, named, parse_support
from .spec import BINARY, REAL, DataSpec, Support, levels


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
    dtype = dtype_name(array)
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
        condition, stored = conditioned(label, unlabelled=missing == "unlabelled")
        notes += without_label(stored)
        stored = stored if split.order is None else stored[split.order]
        schema = schema.with_condition(condition)
    a, b, c = split.slices
    dynamic = top if binarize == "dynamic" else None
    parts = [Records(schema, x[at], None if stored is None else stored[at], dynamic if at is a else None) for at in (a, b, c)]
    return Data(schema, parts[0], parts[1], parts[2], order=split.order, notes=notes)


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
    if raw.is_floating_point() and not all(bool((b == b.round()).all()) for b in raw.split(BLOCK)):
        raise DataError(f"support={str(wish)!r} needs whole numbers; the {source} holds others. Round it, or use support='real'.")
    if chosen.name == "binary":
        if not _only(raw, low, high):
            raise DataError(
                f"support='binary' needs two values; the {source} holds more ({low:g} to {high:g}). Use binarize='threshold' or 'levels'."
            )
        return chosen, (low,), (high - low,)
    # A number of levels that was asked for counts from 0 where it can; one that the data set counts from their smallest value.
    shift = 0.0 if (dtype == "uint8" or (wish is not None and chosen.size)) and low >= 0 else low
    size = chosen.size or (256 if dtype == "uint8" else int(high - shift) + 1)
    if high - shift >= size:
        raise DataError(
            f"support={str(wish)!r} holds values 0 to {size - 1}; the {source} spans {low:g} to {high:g}. "
            f"Use 'levels({int(high - shift) + 1})'."
        )
    return Support(chosen.name, size), (shift,), (1.0,)


def _natural(raw: Tensor, dtype: str, low: float, high: float) -> Support:
    if raw.is_floating_point():
        return REAL
    if dtype == "bool" or (low, high) == (0, 1) or (dtype == "uint8" and (low, high) == (0, 255) and _only(raw, 0, 255)):
        return BINARY
    if dtype == "uint8":
        return levels(256)
    return levels(int(high - low) + 1) if high - low < MAX_LEVELS else REAL


def _only(raw: Tensor, low: float, high: float) -> bool:
    """Whether every value is one of the two; a block at a time, so that the first block settles it for most data."""
    return all(bool(((b == low) | (b == high)).all()) for b in raw.split(BLOCK))


def _standard(raw: Tensor, layout: Layout, split: Split, source: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and sd of the training records: per column of vectors, one of each for images. Two passes in float64."""
    per_column = layout == "vector"
    count = split.train * (1 if per_column else raw[0].numel())

    def total(f: Any) -> Tensor:
        parts = (f(b.double()).sum(0) if per_column else f(b.double()).sum().reshape(1) for b in _blocks(raw, split, split.train))
        return torch.stack(list(parts)).sum(0)

    mean = total(lambda b: b) / count
    sd = (total(lambda b: (b - mean) ** 2) / count).sqrt()
    # Extremes, not sd: a constant column keeps a rounding-sized spread about its computed mean.
    low = torch.stack([b.flatten(1).amin(0) for b in _blocks(raw, split, split.train)]).amin(0)
    high = torch.stack([b.flatten(1).amax(0) for b in _blocks(raw, split, split.train)]).amax(0)
    constant = (low == high).nonzero().flatten().tolist() if per_column else []
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
        if schema.spec.support == BINARY:
            block = block != schema.shift[0]
        elif not plain:
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
