"""Quality and coverage from nearest neighbours.

X = {x_i} are the real records, Y = {y_j} the generated ones, and r_k(x) is the distance from x to its k-th
nearest neighbour in its own set.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..errors import DataError
from .blocks import blocks, squared_distances, tiles

__all__ = ["Manifold", "Neighbourhoods", "expected_coverage", "neighbourhoods", "precision_recall_density_coverage"]


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


@dataclass(frozen=True)
class Neighbourhoods:
    """Which record lies in which ball, counted per record: the four figures are means of these, so intervals and pictures start here."""

    k: int
    balls: Int[Tensor, "m"]
    """For each generated record, how many real balls B(x_i, r_k(x_i)) hold it."""
    recalled: Bool[Tensor, "n"]
    """For each real record, whether some generated ball holds it."""
    covered: Bool[Tensor, "n"]
    """For each real record, whether its ball holds a generated one."""

    @property
    def precise(self) -> Bool[Tensor, "m"]:
        """For each generated record, whether some real ball holds it."""
        return self.balls > 0

    @property
    def manifold(self) -> Manifold:
        """The four figures."""
        shares = [float(x.double().mean()) for x in (self.precise, self.recalled, self.balls, self.covered)]
        return Manifold(shares[0], shares[1], shares[2] / self.k, shares[3])


def _radii(x: Tensor, k: int) -> Tensor:
    """r_k^2 of every point; the point itself, at distance 0, takes the first place of k + 1. Each pair is computed once."""
    squares = x.square().sum(1)
    nearest = x.new_full((len(x), k + 1), math.inf)

    def keep(at: slice, distances: Tensor) -> None:
        """Let columns of `distances` compete for the k + 1 smallest of the rows `at`."""
        best = distances.topk(min(k + 1, distances.shape[1]), largest=False, sorted=False).values
        nearest[at] = torch.cat([nearest[at], best], 1).topk(k + 1, largest=False).values

    for rows, columns in tiles(len(x)):
        distances = squared_distances(x[rows], x[columns], squares[columns])
        keep(rows, distances)
        if rows != columns:
            keep(columns, distances.T.contiguous())
    return nearest[:, k]


def neighbourhoods(real: Float[Tensor, "n d"], fake: Float[Tensor, "m d"], *, k: int = 5) -> Neighbourhoods:
    """Which records lie in which k-nearest-neighbour balls, in O((n + m)^2 d) time and bounded memory.

    Balls are closed, as in Kynkäänniemi's eq. 1, so that records which repeat (categories, binary pixels) lie in their own ball of
    radius 0. Products are in the dtype of the features; float32 gives way to float64 where the balls are too small for it.

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
    real_radii, fake_radii = _radii(real, k), _radii(fake, k)
    if real.dtype == torch.float32 and float(torch.cat([real_radii, fake_radii]).lt(SMALL * slack).double().mean()) > RARE:
        return neighbourhoods(real.double(), fake.double(), k=k)
    real_radii, fake_radii = real_radii + slack, fake_radii + slack
    balls = torch.empty(len(fake), dtype=torch.long, device=real.device)
    recalled = torch.zeros(len(real), dtype=torch.bool, device=real.device)
    covered = torch.zeros_like(recalled)
    for at in blocks(fake, len(real)):
        distance = squared_distances(fake[at], real, squares)
        inside = (distance <= real_radii).view(torch.uint8)  # counted and joined several times faster than as booleans
        balls[at] = inside.sum(1, dtype=torch.int32).long()
        covered |= inside.amax(0).bool()
        recalled |= (distance <= fake_radii[at, None]).view(torch.uint8).amax(0).bool()
    return Neighbourhoods(k, balls, recalled, covered)


SMALL, RARE = 100.0, 1e-3
"""Squared radii below SMALL times the slack have an error of 1 % or more; float32 is left when more than RARE of them do."""


def precision_recall_density_coverage(real: Float[Tensor, "n d"], fake: Float[Tensor, "m d"], *, k: int = 5) -> Manifold:
    """Precision, recall, density and coverage from k-nearest-neighbour balls (see `neighbourhoods`).

    For Y distributed as X, E[density] = 1 and E[coverage] is `expected_coverage`, in any dimension.

    Raises `DataError` when a set has no more than k points.
    """
    return neighbourhoods(real, fake, k=k).manifold


def expected_coverage(n: int, m: int, k: int = 5) -> float:
    """E[coverage] of m generated among n real points of one and the same distribution (Naeem et al. 2020, eq. 9).

    The ball of x_i is empty when its k nearest among the other n - 1 + m points are all real: 1 - prod_{i<k} (n - 1 - i)/(n + m - 1 - i).
    """
    return 1.0 - math.prod((n - 1 - i) / (n + m - 1 - i) for i in range(k))
