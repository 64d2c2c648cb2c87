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
from .estimate import Estimate
from .intervals import LEVEL, t_quantile, wilson

__all__ = ["Manifold", "Neighbourhoods", "expected_coverage", "manifold", "neighbourhoods", "precision_recall_density_coverage"]


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


# -- intervals ------------------------------------------------------------------------------------------------------

SPLITS = 24
"""Random halvings of both sets, from which the variance comes."""
CAPPED = 1000
"""Records of each set that take part in them at most."""
SEEN = 128
"""Nearest neighbours among which the k-th one of a quarter is sought."""


def manifold(real: Float[Tensor, "n d"], fake: Float[Tensor, "m d"], *, k: int = 5, seed: int = 0) -> dict[str, Estimate]:
    """`precision`, `recall`, `density` and `coverage` with intervals, which are those of their *expected values at these n and m*.

    All four depend on n and m (a larger set has smaller balls), so there is no other true value; compare figures of equal n and m only.

    Both sets are random, and a ball depends on k + 1 records, so that the bootstrap (which repeats records) fails and the jackknife
    overestimates: it counts an r-th order interaction r times. Disjoint parts overlap in nothing, so their differences are
    free of that. Given the real records, generated ones are independent, and

        Var precision = E p(X)(1 - p(X)) / m + Var p(X),

    where the first term is binomial. Var p(X) is half of what it is for half of X, and that is had from random halves of X: half the
    squared difference of their p on the same Y, less what Y adds to it. Recall and density likewise. Coverage is no mean over
    independent records: its variance comes from halves of both sets and from quarters, V = 2 V_2 - V_4 with V_g the variance of the
    mean of g disjoint parts' figures, which extrapolates the drift of g V_g with the size of a part. The interval of a share
    is Wilson's at the number N of records that has this variance, p(1 - p) / V, with the correction 1/2N for continuity: misses come in
    clumps, and a share moves in steps of 1/N rather than 1/m.

    Raises `DataError` when a set has no more than k points; with no more than 4 (k + 1) there is no interval.
    """
    found = neighbourhoods(real, fake, k=k)
    values, n, m = vars(found.manifold), len(real), len(fake)
    if min(n, m) <= 4 * (k + 1):
        return {name: Estimate(v, n=min(n, m), method="too few records for an interval") for name, v in values.items()}
    own = {
        "precision": found.precise.double(),
        "recall": found.recalled.double(),
        "density": found.balls.double() / k,
        "coverage": found.covered.double(),
    }
    between = _between_halves(real.double(), fake.double(), k, torch.Generator().manual_seed(seed))
    t = t_quantile(0.5 + LEVEL / 2, SPLITS)
    estimates = {}
    for name, value in values.items():
        size = len(own[name])
        binomial = float(own[name].var()) / size
        variance = max(between[name], binomial / 2) if name == "coverage" else binomial + max(0.0, between[name])
        half = t * math.sqrt(variance)
        low, high = max(0.0, value - half), value + half
        if name != "density":
            near = (value * size + 1) / (size + 2)  # a share of 0 or 1 says nothing of its variance: Laplace's estimate does
            alone = near * (1 - near) / max(variance, near * (1 - near) / size)
            low = wilson(max(0.0, value - 0.5 / alone), alone, SPLITS)[0]
            high = wilson(min(1.0, value + 0.5 / alone), alone, SPLITS)[1]
        estimates[name] = Estimate(value, low, high, math.sqrt(variance), min(n, m), "disjoint halves")
    return estimates


def _between_halves(real: Tensor, fake: Tensor, k: int, generator: torch.Generator) -> dict[str, float]:
    """The variance of precision, recall and density that the balls bring, and the whole variance of coverage."""
    n, m = len(real), len(fake)
    real, fake = (x[torch.randperm(len(x), generator=generator)[:CAPPED]] for x in (real, fake))
    a, b = len(real), len(fake)
    centre = real.mean(0)
    real, fake = real - centre, fake - centre
    cross = squared_distances(fake, real, real.square().sum(1))
    slack = 8.0 * torch.finfo(torch.float64).eps * float(max(real.square().sum(1).max(), fake.square().sum(1).max()))
    near_real, near_fake = _neighbours(real), _neighbours(fake)
    sums = dict.fromkeys(("precision", "recall", "density", "halves", "quarters"), 0.0)
    for _ in range(SPLITS):
        part_a, part_b = (torch.randperm(size, generator=generator) % 4 for size in (a, b))  # quarters; two of them are a half
        half_a, half_b = part_a // 2, part_b // 2
        radius_a, radius_b = _part_radii(near_real, half_a, k) + slack, _part_radii(near_fake, half_b, k) + slack
        inside = (cross <= radius_a).float()
        counts = inside @ _indicator(half_a, 2)
        sums["precision"] += _excess(counts > 0)
        sums["density"] += _excess(counts / k)
        sums["recall"] += _excess((_indicator(half_b, 2).T @ (cross <= radius_b[:, None]).float() > 0).T)
        sums["halves"] += _part_variance(inside, half_a, half_b, 2)
        sums["quarters"] += _part_variance((cross <= _part_radii(near_real, part_a, k) + slack).float(), part_a, part_b, 4)
    means = {name: total / SPLITS for name, total in sums.items()}
    return {
        "precision": means["precision"] * a / n,
        "recall": means["recall"] * b / m,
        "density": means["density"] * a / n,
        "coverage": (2 * means["halves"] - means["quarters"]) * min(a, b) / min(n, m),
    }


def _excess(found: Tensor) -> float:
    """A quarter of the squared difference of two columns' means, less its expectation given that only their rows are random."""
    difference = found[:, 0].double() - found[:, 1].double()
    return (float(difference.mean()) ** 2 - float(difference.var()) / len(difference)) / 4


def _part_variance(inside: Tensor, part_a: Tensor, part_b: Tensor, parts: int) -> float:
    """Variance of the mean of the coverages of disjoint parts, each of its own generated records by its own real ones."""
    covered = ((inside.T @ _indicator(part_b, parts)).gather(1, part_a[:, None])[:, 0] > 0).double()
    own = _indicator(part_a, parts).double()
    return float((covered @ own / own.sum(0)).var()) / parts


def _indicator(part: Tensor, parts: int) -> Tensor:
    return (part[:, None] == torch.arange(parts)).float()


def _neighbours(x: Tensor) -> tuple[Tensor, Tensor]:
    """Squared distances and places of the nearest other records, nearest first."""
    squares = x.square().sum(1)
    found = []
    for at in blocks(x, len(x)):
        distances = squared_distances(x[at], x, squares)
        distances[torch.arange(len(at)), at] = math.inf
        found.append(distances.topk(min(SEEN, len(x) - 1), largest=False))
    return torch.cat([f.values for f in found]), torch.cat([f.indices for f in found])


def _part_radii(near: tuple[Tensor, Tensor], part: Tensor, k: int) -> Tensor:
    """r_k^2 of every record among those of its own part; the furthest that was looked at where k are not among them."""
    distances, places = near
    mates = (part[places] == part[:, None]).to(torch.int16).cumsum(1) >= k
    at = torch.where(mates.any(1), mates.to(torch.int8).argmax(1), distances.shape[1] - 1)
    return distances.gather(1, at[:, None])[:, 0]


def expected_coverage(n: int, m: int, k: int = 5) -> float:
    """E[coverage] of m generated among n real points of one and the same distribution (Naeem et al. 2020, eq. 9).

    The ball of x_i is empty when its k nearest among the other n - 1 + m points are all real: 1 - prod_{i<k} (n - 1 - i)/(n + m - 1 - i).
    """
    return 1.0 - math.prod((n - 1 - i) / (n + m - 1 - i) for i in range(k))
