"""Distances between two samples through their one-dimensional projections."""

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import DataError
from .estimate import Estimate
from .intervals import group_labels, jackknife_distance, root_estimate

GROUPS = 16
"""Groups of records that the jackknife leaves out: 137 evaluations, and t with 15 degrees of freedom."""


def sliced_wasserstein(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"], *, projections: int = 128, seed: int = 0) -> Estimate:
    """sqrt mean_u W_2^2(u.x, u.y) over unit vectors u, in feature units (Bonneel et al. 2015, eq. 7).

    The directions are uniform and come as orthogonal bases (Rowland et al. 2019), whole ones, at least `projections` directions, as long
    as one basis has no more than that: over a basis a shift's squares add up to its length exactly. They are fixed by the seed and part
    of the figure: value and interval are those of the two distributions along *these* directions.

    W_2^2 of two samples exceeds that of their distributions, by O(1/n) even where those are equal. So the value is a cross product: with
    Q_X, Q_X' the quantiles of two halves of X and Q_Y, Q_Y' those of Y, mean <Q_X - Q_Y, Q_X' - Q_Y'> has no such excess, because the
    halves are independent. It is averaged over 15 halvings of 16 groups of records, the rows of a Hadamard matrix, which use every
    pair of groups equally often. The interval comes from leaving out groups (`jackknife_distance`). A value of 0 means that nothing
    is left after the correction.

    With fewer than 16 records in a set (groups of none) the value is the plug-in, without an interval. Raises `DataError` for no record.
    """
    n, m, d = len(x), len(y), x.shape[1]
    if min(n, m) == 0:
        raise DataError(f"The sliced Wasserstein distance needs records in each set, got {n} and {m}.")
    generator = torch.Generator().manual_seed(seed)
    bases = [torch.linalg.qr(torch.randn(d, d, generator=generator, dtype=torch.float64)).Q for _ in range(-(-projections // d))]
    u = torch.cat(bases, 1).to(x.device)
    u = u[:, :projections] if d > projections else u
    (a, a_group), (b, b_group) = (_sorted(s.double() @ u) for s in (x, y))

    def difference(keep: Tensor) -> Tensor:
        """Q_X - Q_Y (P, count) of the groups that are kept."""
        kept = [s[keep[g]].view(len(s), -1) for s, g in ((a, a_group), (b, b_group))]
        count = min(n, m) * int(keep.sum()) // GROUPS
        return _quantiles(kept[0], count) - _quantiles(kept[1], count)

    if min(n, m) < GROUPS:
        value = float(difference(torch.ones(GROUPS, dtype=torch.bool)).square().mean().sqrt())
        return Estimate(value, n=min(n, m), method="plug-in, biased upwards: too few records")
    halves = [_parity(row) for row in range(1, GROUPS)]
    square = sum(float((difference(half) * difference(~half)).mean()) for half in halves) / len(halves)
    plug_in = lambda masks: torch.stack([difference(keep).square().mean() for keep in masks])
    return root_estimate(jackknife_distance(plug_in, GROUPS, n=min(n, m), value=square))


def _parity(row: int) -> Tensor:
    """Where a row of the Hadamard matrix is positive: an even number of bits in common with the column's number."""
    return torch.tensor([(row & column).bit_count() % 2 == 0 for column in range(GROUPS)])


def _sorted(projected: Tensor) -> tuple[Tensor, Tensor]:
    """Projections (P, n) in ascending order, and the group of the record at each place."""
    values, order = projected.T.contiguous().sort(1)
    return values, group_labels(values.shape[1], GROUPS).to(order.device)[order]


def _quantiles(values: Tensor, count: int) -> Tensor:
    """As many order statistics: those at the midpoints of equal shares."""
    if values.shape[1] == count:
        return values
    q = (torch.arange(count, dtype=torch.float64, device=values.device) + 0.5) / count
    return values[:, (q * values.shape[1]).long()]
