"""Walks through code space: between records, along dimensions, over the square of quantiles, and sums of codes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from ..errors import ConfigError, DataError
from .lens import Lens, Shown

__all__ = [
    "Arithmetic",
    "Grid",
    "Interpolation",
    "Traversal",
    "arithmetic",
    "grid",
    "interpolate",
    "lerp",
    "quantiles",
    "slerp",
    "traverse",
]


def lerp(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    """(1 - t) a + t b for codes a, b (d,) and the steps t (T,): (T, d)."""
    t = t.to(a)[:, None]
    return (1 - t) * a + t * b


def slerp(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    """sin((1 - t) w) / sin(w) a + sin(t w) / sin(w) b, with w the angle between a and b: (T, d). (White 2016; Shoemake 1985.)

    Draws from N(0, I_d) lie near a sphere of radius sqrt(d), which the straight line leaves; the arc between codes of one norm stays on
    it. Where a and b are parallel or opposed (or one is 0) there is no single arc, and the line is taken.
    """
    scale = a.norm() * b.norm()
    if float(scale) == 0:
        return lerp(a, b, t)
    # The angle from both sine and cosine: acos alone loses half the digits near 0 and pi.
    u, v = a / a.norm(), b / b.norm()
    w = 2 * torch.atan2((u - v).norm(), (u + v).norm())
    if float(torch.sin(w)) < 1e3 * torch.finfo(a.dtype).eps:
        return lerp(a, b, t)
    t = t.to(a)[:, None]
    return (torch.sin((1 - t) * w) * a + torch.sin(t * w) * b) / torch.sin(w)


def quantiles(side: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Phi^-1((i + 1/2) / side), i = 0 .. side - 1: equally probable steps of a standard normal code. (Kingma & Welling 2014, fig. 4.)"""
    if side < 2:
        raise ConfigError(f"side must be at least 2, got {side}.")
    return torch.special.ndtri((torch.arange(side, dtype=dtype) + 0.5) / side)


# -- between records ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Interpolation:
    """Walks between pairs of held-out records."""

    method: Literal["linear", "spherical"]
    rows: tuple[tuple[int, int], ...]
    """The positions of each pair among `Lens.held`."""
    codes: Tensor
    """(pairs, steps, d)."""
    decoded: Shown
    """The records at these codes, pair after pair."""
    ends: Shown
    """The records themselves: both of the first pair, both of the second ..."""

    @property
    def steps(self) -> int:
        return self.codes.shape[1]


def interpolate(
    lens: Lens, pairs: Sequence[tuple[int, int]], *, method: Literal["linear", "spherical"] = "linear", steps: int = 9
) -> Interpolation:
    """Decode `steps` codes from each record of a pair to the other, ends included, which are then the reconstructions.

    A conditional model keeps the condition of the first record all the way: only the code moves.
    """
    if steps < 2:
        raise ConfigError(f"steps must be at least 2, got {steps}.")
    if method not in ("linear", "spherical"):
        raise ConfigError(f"method={method!r} is neither 'linear' nor 'spherical'.")
    t, z = torch.linspace(0, 1, steps, dtype=torch.float64), lens.z_held
    way = lerp if method == "linear" else slerp
    codes = torch.stack([way(z[i].double(), z[j].double(), t) for i, j in pairs])
    condition = lens.conditions(i for i, _ in pairs for _ in range(steps))
    at = torch.tensor(list(pairs)).flatten()
    ends = lens.held.subset(at)
    return Interpolation(
        method, tuple((i, j) for i, j in pairs), codes, lens.decode(codes.flatten(0, 1), condition), Shown(ends.records(), ends.tensor())
    )


@dataclass(frozen=True)
class Arithmetic:
    """a - b + c, for triples of held-out records."""

    rows: tuple[tuple[int, int, int], ...]
    codes: Tensor
    """(triples, d)."""
    decoded: Shown
    terms: Shown
    """The records a, b, c of the first triple, those of the second ..."""


def arithmetic(lens: Lens, triples: Sequence[tuple[int, int, int]]) -> Arithmetic:
    """Decode z_a - z_b + z_c: c changed by what tells a from b (Radford et al. 2016; White 2016). Conditional models keep c's condition."""
    at = torch.tensor(list(triples))
    z = lens.z_held.double()[at]
    codes = z[:, 0] - z[:, 1] + z[:, 2]
    terms = lens.held.subset(at.flatten())
    decoded = lens.decode(codes, lens.conditions(at[:, 2].tolist()))
    return Arithmetic(tuple((i, j, k) for i, j, k in triples), codes, decoded, Shown(terms.records(), terms.tensor()))


# -- along dimensions ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Grid:
    """A square of codes, equally probable steps apart, and the records there."""

    dims: tuple[int, int]
    through: Literal["normal", "codes"]
    """Whose quantiles: those of N(0, 1), or those of the codes themselves where these are far from N(0, 1)."""
    across: Tensor
    """The values (side,) of the first dimension, from left to right."""
    up: Tensor
    """Those of the second, from below."""
    codes: Tensor
    """(side^2, d), row by row from above, as the picture shows them."""
    decoded: Shown

    @property
    def side(self) -> int:
        return len(self.across)


def variable(z: Tensor, n: int) -> list[int]:
    """The `n` dimensions in which codes z vary most, the first of them first."""
    return z.double().var(0).argsort(descending=True, stable=True)[:n].tolist()


def grid(lens: Lens, *, side: int = 20, dims: Sequence[int] | None = None, through: Literal["normal", "codes"] | None = None) -> Grid:
    """The square grid on the unit square, through an inverse distribution function, decoded (Kingma & Welling 2014, fig. 4).

    Of more than two dimensions, `dims` (the two most variable ones unless told) move and the others stay at the mean of the codes.
    `through` is N(0, 1) where that is the model's prior, else (for a plain autoencoder) the codes' own quantiles: the grid
    then shows what lies where codes are (Makhzani et al. 2016's percentile grid).
    """
    z = lens.places.double()
    if z.shape[1] < 2:
        raise DataError("A square of codes needs two dimensions, and these codes have one: its traversal shows the same.")
    a, b = variable(z, 2) if dims is None else dims
    if not all(0 <= k < z.shape[1] for k in (a, b)) or a == b:
        raise ConfigError(f"dims={a, b} must be two of the {z.shape[1]} dimensions of the codes, 0 to {z.shape[1] - 1}.")
    if through is None:
        through = "normal" if lens.normal else "codes"
    if through == "normal":
        across = up = quantiles(side)
    else:
        p = (torch.arange(side, dtype=torch.float64) + 0.5) / side
        across, up = torch.quantile(z[:, a], p), torch.quantile(z[:, b], p)
    codes = z.mean(0).expand(side * side, -1).clone()
    codes[:, a] = across.repeat(side)
    codes[:, b] = up.flip(0).repeat_interleave(side)
    condition = lens.conditions([0] * side**2)
    return Grid((a, b), through, across, up, codes, lens.decode(codes, condition))


@dataclass(frozen=True)
class Traversal:
    """One record, with one dimension of its code moved at a time."""

    row: int
    """The position of the record among `Lens.held`."""
    dims: tuple[int, ...]
    spread: Tensor
    """The standard deviation of the codes in every dimension, (d,)."""
    values: Tensor
    """Where each dimension was put, (dims, steps)."""
    decoded: Shown
    """dims x steps records."""
    active: int
    """Dimensions in which the variance of the codes is above 0.01 (Burda et al. 2016, sec. 5.2)."""


def active_units(z: Tensor, least: float = 0.01) -> int:
    """Dimensions with Var_x(E_q[z | x]) > 0.01, for codes z (n, d) that are means of q (Burda et al. 2016, sec. 5.2)."""
    return int((z.double().var(0) > least).sum())


def traverse(lens: Lens, row: int = 0, *, dims: Sequence[int] | None = None, steps: int = 9, most: int = 8) -> Traversal:
    """Move each of the most variable dimensions from its 1 % to its 99 % quantile over records, the others as the record has them."""
    z = lens.places.double()
    chosen = tuple(variable(z, most)) if dims is None else tuple(dims)
    if not all(0 <= k < z.shape[1] for k in chosen):
        raise ConfigError(f"dims={chosen} are not all among the {z.shape[1]} dimensions of the codes, 0 to {z.shape[1] - 1}.")
    ends = torch.quantile(z[:, list(chosen)], torch.tensor([0.01, 0.99], dtype=torch.float64), dim=0)
    values = torch.stack([torch.linspace(float(lo), float(hi), steps, dtype=torch.float64) for lo, hi in ends.T])
    codes = z[row].expand(len(chosen), steps, -1).clone()
    for i, k in enumerate(chosen):
        codes[i, :, k] = values[i]
    condition: Any = lens.conditions([row] * (len(chosen) * steps))
    encoded = type(lens.model).supports("encode")
    return Traversal(row, chosen, z.std(0), values, lens.decode(codes.flatten(0, 1), condition), active_units(lens.z if encoded else z))
