"""Figures of merit, as pure functions of tensors: no model, no data set, no download.

Sets of points are (n, d) float tensors of *features* (`evaluate.py` chooses which). Nothing here is a FID: that name
belongs to the Fréchet distance in the features of one particular network.

Throughout, X = {x_i} are the real records, Y = {y_j} the generated ones, and r_k(x) is the distance from x to its k-th nearest
neighbour in its own set.
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from .errors import DataError

BLOCK = 1 << 22
"""Entries of the distance matrix held at a time, so that memory stays bounded whatever n is."""


# -- likelihood -----------------------------------------------------------------------------------------------------


def bits_per_dim(log_prob: Float[Tensor, "n"], dim: int) -> Float[Tensor, "n"]:
    """-log2 p(x) / D: the code length of one entry of a discrete record, in bits."""
    return -log_prob / (dim * math.log(2.0))


def standard_error(values: Float[Tensor, "n"]) -> float:
    """s / sqrt(n) of the mean of independent values; NaN for fewer than two."""
    return float(values.double().std() / math.sqrt(len(values))) if len(values) > 1 else math.nan


def bootstrap_interval(
    values: Float[Tensor, "n"],
    statistic: Callable[[Tensor], Tensor] = lambda v: v.mean(-1),
    *,
    level: float = 0.95,
    repeats: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """The percentile bootstrap interval of `statistic`, which maps (..., n) to (...) (Efron 1979)."""
    generator = torch.Generator().manual_seed(seed)
    n, rows = len(values), max(1, BLOCK // max(len(values), 1))
    drawn = [statistic(values[torch.randint(n, (min(rows, repeats - start), n), generator=generator)]) for start in range(0, repeats, rows)]
    tail = (1.0 - level) / 2.0
    low, high = torch.cat(drawn).double().quantile(torch.tensor([tail, 1.0 - tail], dtype=torch.float64))
    return float(low), float(high)


# -- Fréchet distance -----------------------------------------------------------------------------------------------


def moments(x: Float[Tensor, "n d"]) -> tuple[Float[Tensor, "d"], Float[Tensor, "d d"]]:
    """The mean and the unbiased covariance, in float64."""
    if len(x) < 2:
        raise DataError(f"A covariance needs at least 2 records, got {len(x)}.")
    x = x.double()
    mean = x.mean(0)
    x = x - mean
    return mean, x.T @ x / (len(x) - 1)


def frechet_distance(mean1: Float[Tensor, "d"], cov1: Float[Tensor, "d d"], mean2: Float[Tensor, "d"], cov2: Float[Tensor, "d d"]) -> float:
    """The squared 2-Wasserstein distance between two Gaussians (Dowson & Landau 1982, eq. 4).

    |m1 - m2|^2 + tr(S1) + tr(S2) - 2 tr (S1^(1/2) S2 S1^(1/2))^(1/2), in squared feature units. With S1 = R R^T, the last trace is
    the sum of the square roots of the eigenvalues of R^T S2 R. That is symmetric: no complex square root, no imaginary residue, and
    singular covariances are welcome.
    """
    values, vectors = torch.linalg.eigh(cov1.double())
    root = vectors * values.clamp_min(0).sqrt()
    cross = torch.linalg.eigvalsh(root.T @ cov2.double() @ root).clamp_min(0).sqrt().sum()
    shift = (mean1.double() - mean2.double()).square().sum()
    return max(0.0, float(shift + cov1.trace() + cov2.trace() - 2.0 * cross))


# -- quality and coverage -------------------------------------------------------------------------------------------


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


def _blocks(x: Tensor, n: int) -> list[Tensor]:
    return list(torch.arange(len(x)).split(max(1, BLOCK // max(n, 1))))


def _squared(x: Tensor, y: Tensor, y_squares: Tensor) -> Tensor:
    """|x_i - y_j|^2 by one matrix product, (len(x), len(y))."""
    return torch.addmm(y_squares[None], x, y.T, alpha=-2.0).add_(x.square().sum(1, keepdim=True))


def _radii(x: Tensor, k: int) -> Tensor:
    """r_k^2 of every point; the point itself, at distance 0, takes the first place of k + 1."""
    squares = x.square().sum(1)
    return torch.cat([_squared(x[at], x, squares).topk(k + 1, largest=False).values[:, k] for at in _blocks(x, len(x))])


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
    for at in _blocks(fake, len(real)):
        distance = _squared(fake[at], real, squares)
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


# -- distances between samples --------------------------------------------------------------------------------------


def energy_distance(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"]) -> float:
    """2 E|x - y| - E|x - x'| - E|y - y'| (Székely & Rizzo 2013, eq. 5): 0 only for equal distributions.

    Unbiased, so it may fall below 0.
    """
    x, y = x.double(), y.double()

    def total(a: Tensor, b: Tensor) -> float:
        return sum(float(torch.cdist(a[at], b).sum()) for at in _blocks(a, len(b)))

    n, m = len(x), len(y)
    if min(n, m) < 2:
        raise DataError(f"The energy distance needs at least 2 records in each set, got {n} and {m}.")
    return 2 * total(x, y) / (n * m) - total(x, x) / (n * (n - 1)) - total(y, y) / (m * (m - 1))


def sliced_wasserstein(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"], *, projections: int = 128, seed: int = 0) -> float:
    """sqrt E_u[W_2^2(u.x, u.y)] over random unit vectors u, in feature units (Bonneel et al. 2015, eq. 7)."""
    u = torch.randn(projections, x.shape[1], generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(x.device)
    u = u / u.norm(dim=1, keepdim=True)
    a, b = (u @ x.double().T).sort(1).values, (u @ y.double().T).sort(1).values
    if a.shape != b.shape:  # equal numbers of quantiles, at the midpoints of equal shares
        q = (torch.arange(min(len(x), len(y)), dtype=torch.float64, device=x.device) + 0.5) / min(len(x), len(y))
        a, b = (s[:, (q * s.shape[1]).long()] for s in (a, b))
    return float((a - b).square().mean().sqrt())


# -- known mixtures -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ModeStatistics:
    """What a sample shows of a mixture of well-separated Gaussians that is known (Srivastava et al. 2017; Lin et al. 2018)."""

    modes: int
    """The number of components, K."""
    captured: int
    """Components with at least one sample within 3 standard deviations."""
    share: float
    """Share of samples within 3 standard deviations of their nearest centre; the truth has `share_of_truth`."""
    share_of_truth: float
    """P(chi^2_D < 9) of the mixture itself: 0.98889 in two dimensions."""
    reverse_kl: float
    """KL(q || w) in nats of the samples' shares q of the modes from the weights w; 0 when every mode has its share."""
    spread: float
    """Standard deviation inside the modes over the true one: 1 for the truth, less for a shrunken fit."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def mode_statistics(
    x: Float[Tensor, "n d"], centres: Float[Tensor, "K d"], sd: float | Float[Tensor, "K"], weights: Float[Tensor, "K"] | None = None
) -> ModeStatistics:
    """Modes captured, share within 3 sd, reverse KL over modes and spread inside modes, for isotropic components N(centre, sd^2 I).

    The spread counts samples within 3 sd, about their own mode's mean, and is divided by what that truncation leaves of a Gaussian:
    E[r^2 | r < 3 sd] = D sd^2 P(chi^2_{D+2} < 9) / P(chi^2_D < 9).
    """
    x, centres = x.double(), centres.double()
    K, D = centres.shape
    scale = torch.as_tensor(sd, dtype=torch.float64).expand(K)
    w = torch.full((K,), 1.0 / K, dtype=torch.float64) if weights is None else weights.double()
    distance, nearest = torch.cdist(x, centres).min(1)
    near = distance <= 3.0 * scale[nearest]
    q = torch.bincount(nearest, minlength=K).double() / len(x)
    counts = torch.bincount(nearest[near], minlength=K)
    means = torch.zeros_like(centres).index_add_(0, nearest[near], x[near]) / counts.clamp_min(1)[:, None]
    z = (x[near] - means[nearest[near]]) / scale[nearest[near], None]
    freedom = D * int((counts - 1).clamp_min(0).sum())  # one mean was estimated for each mode
    half = torch.tensor([D / 2.0, D / 2.0 + 1.0], dtype=torch.float64)
    share_of_truth, truncated = (float(p) for p in torch.special.gammainc(half, torch.full_like(half, 4.5)))
    spread = math.sqrt(float(z.square().sum()) / freedom / (truncated / share_of_truth)) if freedom else math.nan
    return ModeStatistics(
        modes=K,
        captured=int((counts > 0).sum()),
        share=float(near.double().mean()),
        share_of_truth=share_of_truth,
        reverse_kl=float(torch.special.xlogy(q, q / w).sum()),
        spread=spread,
    )
