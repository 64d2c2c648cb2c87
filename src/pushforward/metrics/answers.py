"""Known answers of the figures of merit: cases small enough to work out by hand, or with a closed form."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from ..known import Known
from .frechet import frechet_between, frechet_distance
from .kernels import energy_distance, kernel_distance
from .moments import Moments
from .neighbours import expected_coverage, neighbourhoods
from .ranking import auroc
from .slices import sliced_wasserstein

__all__ = ["known_answers"]

EPS = torch.finfo(torch.float64).eps


def _randn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def known_answers() -> Iterator[Known]:
    """Distances between Gaussians with a known optimal map, and figures of a few points on a line."""
    yield from _frechet()
    yield from _points()
    yield from _expectations()


def _frechet() -> Iterator[Known]:
    d = 64
    zero = torch.zeros(d, dtype=torch.float64)
    for name, rank in (("", 2 * d), (", singular covariances", d // 2)):
        root, other = (_randn(d, r, seed=s) / r**0.5 for s, r in enumerate((rank, 2 * d)))
        S, T = root @ root.T, other @ other.T
        off = torch.eye(d, dtype=torch.float64) - T
        # A symmetric T >= 0 is the optimal map from N(0, S) to N(0, T S T), at cost E|x - Tx|^2 (Brenier)
        exact = float((off @ S @ off).trace())
        ours = frechet_distance(zero, S, zero, T @ S @ T)
        null = d - min(rank, d)
        scale = float(torch.linalg.matrix_norm(T @ S, 2))
        tolerance = 100 * d * EPS * scale + 2 * null * math.sqrt(EPS) * scale
        because = "rounding of d eigenvalues" + (f", and the root of it in {null} null directions" if null else "")
        yield Known(f"Fréchet distance of Gaussians joined by a known map{name}", exact, ours, tolerance, because)
    x, y = _randn(2, d, seed=3), _randn(2, d, seed=4)
    u, w = x[0] - x[1], y[0] - y[1]
    exact = float((x.mean(0) - y.mean(0)).square().sum() + u.square().sum() / 2 + w.square().sum() / 2 - (u @ w).abs())
    tolerance = 2 * math.sqrt(EPS) * float(u.norm() * w.norm())
    yield Known("Fréchet distance of two records each", exact, frechet_between(x, y), tolerance, "root of rounding in one null direction")
    x = torch.arange(1000, dtype=torch.float64)[:, None]
    seen = Moments()
    for part in x.split(7):
        seen.merge(Moments().update(part))
    # 0 ... n - 1 has the unbiased variance n (n + 1)/12
    yield Known("variance of 0 ... 999, merged from 143 shards", 1000 * 1001 / 12, float(seen.covariance), 1e-7, "143 sums of 1e5, rounded")


def _points() -> Iterator[Known]:
    real = torch.tensor([[0.0], [1.0], [2.0], [4.0]], dtype=torch.float64)
    fake = torch.tensor([[0.25], [1.25], [5.5], [8.5]], dtype=torch.float64)
    # k = 1. Real radii 1, 1, 1, 2: 0.25 and 1.25 lie in two balls each, 5.5 in that of 4, 8.5 in none; every ball holds one of them.
    # Radii of the generated 1, 1, 3, 3: [-0.75, 1.25], [0.25, 2.25], [2.5, 8.5], [5.5, 11.5] hold all four real ones.
    got = neighbourhoods(real, fake, k=1).manifold
    because = "ratios of counts"
    yield Known("precision of four points on a line, k = 1", 3 / 4, got.precision, EPS, because)
    yield Known("recall", 1.0, got.recall, EPS, because)
    yield Known("density", 5 / 4, got.density, EPS, because)
    yield Known("coverage", 1.0, got.coverage, EPS, because)
    x, y = torch.tensor([[0.0], [1.0]], dtype=torch.float64), torch.tensor([[2.0], [4.0]], dtype=torch.float64)
    yield Known("energy distance of {0, 1} and {2, 4}", 2.0, energy_distance(x, y).value, 1e-14, "2 mean(2, 4, 1, 3) - 1 - 2, rounded")
    # (xy + 1)^3: 1 within x, 9^3 within y; across 1, 1, 3^3, 5^3
    exact = 1 + 9**3 - 2 * (1 + 1 + 27 + 125) / 4
    yield Known("kernel distance of the same", exact, kernel_distance(x, y).value, 1e-10, "sums of cubes below 1e3, rounded")
    # of 3 x 2 pairs, 1 > 0, 4 > 0, 4 > 1 and 4 > 2 hold, 1 = 1 counts half
    known, novel = torch.tensor([0.0, 1.0, 2.0]), torch.tensor([1.0, 4.0])
    yield Known("AUROC of {1, 4} against {0, 1, 2}", 4.5 / 6, auroc(known, novel).value, 1e-14, because)
    x = _randn(64, 1, seed=5)
    yield Known("sliced Wasserstein distance of a shift by 3", 3.0, sliced_wasserstein(x, x + 3.0).value, 1e-12, "64 differences, rounded")


def _expectations() -> Iterator[Known]:
    yield Known(
        "expected coverage of 2 among 2, k = 1",
        2 / 3,
        expected_coverage(2, 2, 1),
        EPS,
        "the other real point is nearer in a third of cases",
    )
    n, repeats = 100, 40
    pairs = [(_randn(n, 3, seed=100 + 2 * s), _randn(n, 3, seed=101 + 2 * s)) for s in range(repeats)]
    found = [neighbourhoods(x, y).manifold for x, y in pairs]
    for name, exact in (("density", 1.0), ("coverage", expected_coverage(n, n))):
        values = torch.tensor([getattr(m, name) for m in found], dtype=torch.float64)
        error = float(values.std()) / math.sqrt(repeats)
        yield Known(
            f"expected {name} of equal distributions", exact, float(values.mean()), 5 * error, f"5 standard errors of {repeats} sets"
        )
