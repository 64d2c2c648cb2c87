"""Quality and coverage from nearest neighbours.

X = {x_i} are the real records, Y = {y_j} the generated ones, and r_k(x) is the distance from x to its k-th
nearest neighbour in its own set.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import DataError
from .blocks import blocks, squared_distances


@dataclass(frozen=True)
class Manifold:
    """Precision and recall (Kynkäänniemi et al. 2019, eq. 1-2), density and coverage (Naeem et al. 2020, eq. 6-7)."""

    precision: float
    """Share of generated points inside some ball B(x_i, r_k(x_i)) of a real one."""
    recall: float
    """Share of real points inside some ball B(y_j, r_k(y_j)) of a generated one."""
    density: float
    """Mean number of real balls that hold a generated point, over k: 1 when Y is distributed as X; may exceed 1."""
    coverage: float
    """Share of real balls that hold at least one generated point."""


def _radii(x: Tensor, k: int) -> Tensor:
    """r_k^2 of every point; the point itself, at distance 0, takes the first place of k + 1."""
    squares = x.square().sum(1)
    return torch.cat([squared_distances(x[at], x, squares).topk(k + 1, largest=False).values[:, k] for at in blocks(x, len(x))])


def precision_recall_density_coverage(real: Float[Tensor, "n d"], fake: Float[Tensor, "m d"], *, k: int = 5) -> Manifold:
    """Precision, recall, density and coverage from k-nearest-neighbour balls, in O(nmd) time and bounded memory.

    Balls are closed, as in Kynkäänniemi's eq. 1, so that records which repeat (categories, binary pixels) lie in their own ball of
    radius 0. For Y distributed as X, E[density] = 1 and E[coverage] is `expected_coverage`, in any dimension.

    Raises `DataError` when a set has no more than k points.
    """
    for what, x in (("real", real), ("generated", fake)):
        if len(x) <= k:
            raise DataError(f"Precision, recall, density and coverage with k={k} need more than {k} {what} records, got {len(x)}.")
    centre = real.mean(0)  # distances do not change, and their rounding error is least, about the centre
    real, fake = real - centre, fake - centre
    squares = real.square().sum(1)
    # Distances come from differences of squares: two equal records are this far apart at most. Closed balls must not lose their rim to it.
    slack = 8.0 * torch.finfo(real.dtype).eps * float(max(squares.max(), fake.square().sum(1).max()))
    real_radii, fake_radii = _radii(real, k) + slack, _radii(fake, k) + slack
    inside_any = inside_all = 0
    recalled = torch.zeros(len(real), dtype=torch.bool, device=real.device)
    covered = torch.zeros_like(recalled)
    for at in blocks(fake, len(real)):
        distance = squared_distances(fake[at], real, squares)
        inside = distance <= real_radii
        inside_any += int(inside.any(1).sum())
        inside_all += int(inside.sum())
        covered |= inside.any(0)
        recalled |= (distance <= fake_radii[at, None]).any(0)
    m = len(fake)
    return Manifold(inside_any / m, float(recalled.double().mean()), inside_all / (k * m), float(covered.double().mean()))


def expected_coverage(n: int, m: int, k: int = 5) -> float:
    """E[coverage] of m generated among n real points of one and the same distribution (Naeem et al. 2020, eq. 9).

    The ball of x_i is empty when its k nearest among the other n - 1 + m points are all real: 1 - prod_{i<k} (n - 1 - i)/(n + m - 1 - i).
    """
    return 1.0 - math.prod((n - 1 - i) / (n + m - 1 - i) for i in range(k))
