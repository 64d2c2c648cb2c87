"""The Fréchet distance against answers known in closed form; every tolerance is derived beside its use."""

import math
import sys

import pytest
import torch
from toys import randn

from pushforward.errors import DataError
from pushforward.metrics import frechet_between, frechet_distance, moments

EPS = torch.finfo(torch.float64).eps


def positive(d: int, rank: int, seed: int = 0) -> torch.Tensor:
    root = randn(d, rank, seed=seed) / rank**0.5
    return root @ root.T


def test_commuting_covariances():
    # Diagonal: |m1 - m2|^2 + sum (sqrt a - sqrt b)^2 = 25 + 1 + 4 + 9; singular in one direction each. Rotation changes nothing.
    a, b = torch.tensor([4.0, 9.0, 0.0]).double(), torch.tensor([1.0, 1.0, 9.0]).double()
    Q = torch.linalg.qr(randn(3, 3)).Q
    shift = Q @ torch.tensor([3.0, 4.0, 0.0]).double()
    got = frechet_distance(torch.zeros(3), Q @ a.diag() @ Q.T, shift, Q @ b.diag() @ Q.T)
    # A zero eigenvalue is known to eps * |S|: its root to sqrt(2.2e-16 * 9 * 9) = 1.3e-7, twice.
    assert got == pytest.approx(39.0, abs=5e-7)


def test_two_by_two_covariances_that_do_not_commute():
    S1, S2 = torch.tensor([[2.0, 1.0], [1.0, 1.0]]).double(), torch.tensor([[1.0, -0.5], [-0.5, 3.0]]).double()
    # 2 x 2: tr sqrt(A) = sqrt(tr A + 2 sqrt(det A)) for A = S1 S2 with positive eigenvalues
    A = S1 @ S2
    expected = S1.trace() + S2.trace() - 2 * (A.trace() + 2 * torch.linalg.det(A).sqrt()).sqrt()
    zero = torch.zeros(2)
    assert frechet_distance(zero, S1, zero, S2) == pytest.approx(float(expected), abs=1e-12)
    assert frechet_distance(zero, S2, zero, S1) == pytest.approx(float(expected), abs=1e-12)


@pytest.mark.parametrize("columns", [7, 256])
@pytest.mark.parametrize(("d", "rank1", "rank_t"), [(40, 80, 80), (40, 25, 80), (40, 80, 25), (40, 25, 25)])
def test_a_known_map_between_gaussians(d, rank1, rank_t, columns, monkeypatch):
    # A symmetric T >= 0 is the gradient of a convex function, hence the optimal map from N(0, S) to N(0, T S T) (Brenier), at cost
    # E|x - Tx|^2 = tr (1 - T) S (1 - T). S and T do not commute; low ranks make one covariance or both singular.
    monkeypatch.setattr(sys.modules["pushforward.metrics.frechet"], "COLUMNS", columns)
    S, T = positive(d, rank1), positive(d, rank_t, seed=1)
    off = torch.eye(d, dtype=torch.float64) - T
    other = T @ S @ T
    expected = float((off @ S @ off).trace()) + 1.0
    # Each of d null directions may add sqrt(eps |S| |TST|) to the cross term, which counts twice.
    tolerance = 2 * d * math.sqrt(EPS) * math.sqrt(float(torch.linalg.matrix_norm(S, 2) * torch.linalg.matrix_norm(other, 2)))
    assert tolerance < 2e-4 * expected
    zero, unit = torch.zeros(d), torch.eye(d)[0]
    assert frechet_distance(zero, S, unit, other) == pytest.approx(expected, abs=tolerance)
    assert frechet_distance(unit, other, zero, S) == pytest.approx(expected, abs=tolerance)


def test_regular_covariances_keep_twelve_digits():
    S, T = positive(60, 600), positive(60, 600, seed=1)
    off = torch.eye(60, dtype=torch.float64) - T
    # Condition numbers below 10: eigenvalues to 60 eps relative, sums of 60 terms of order 1 below 100; 60 * 2.2e-16 * 100 = 1.3e-12
    expected = float((off @ S @ off).trace())
    assert frechet_distance(torch.zeros(60), S, torch.zeros(60), T @ S @ T) == pytest.approx(expected, abs=2e-12)


def test_two_records_each():
    # S = u u^T/2 with u the difference of the two: the cross term is |u.w|/2
    x, y = randn(2, 9), randn(2, 9, seed=1)
    u, w = x[0] - x[1], y[0] - y[1]
    expected = (x.mean(0) - y.mean(0)).square().sum() + u.square().sum() / 2 + w.square().sum() / 2 - (u @ w).abs()
    assert frechet_between(x, y) == pytest.approx(float(expected), abs=1e-7)  # one null direction: sqrt(eps) * 5 = 7e-8
    assert frechet_distance(*moments(x), *moments(y)) == pytest.approx(float(expected), abs=1e-7)


@pytest.mark.parametrize(("n", "m"), [(12, 20), (12, 200), (200, 12), (60, 12), (12, 12), (30, 31), (200, 150)])
def test_the_short_way_for_few_records_gives_the_same(n, m):
    x, y = randn(n, 30), 1.5 * randn(m, 30, seed=1) + 0.5
    # at most 30 null directions, each sqrt(eps) * |S|, with |S| below 10
    expected = frechet_distance(*moments(x), *moments(y))
    assert frechet_between(x, y) == pytest.approx(expected, abs=30 * math.sqrt(EPS) * 10)
    assert frechet_between(x.float(), y.float()) == pytest.approx(expected, rel=1e-5)  # the records themselves are rounded to 6e-8


@pytest.mark.parametrize("n", [10, 300])
def test_from_itself_it_is_zero_and_from_a_copy_moved_by_v_v_squared(n):
    x = randn(n, 30)
    mean, cov = moments(x)
    # 21 null directions, each up to sqrt(eps) * |S| (about 1.5e-8 * 10): below 1e-5, and never negative or complex
    assert 0.0 <= frechet_distance(mean, cov, mean, cov) < 1e-5
    assert 0.0 <= frechet_between(x, x) < 1e-5
    assert frechet_between(x, x + 2.0) == pytest.approx(4.0 * 30, abs=1e-5)


def test_constant_features_and_equal_records():
    x = randn(50, 6)
    x[:, 3] = 1.0
    y = torch.ones(50, 6, dtype=torch.float64)
    # A point mass: no cross term is left
    expected = float((moments(x)[0] - 1.0).square().sum() + moments(x)[1].trace())
    assert frechet_between(x, y) == pytest.approx(expected, abs=1e-12)
    assert frechet_between(y, x) == pytest.approx(expected, abs=1e-12)
    assert frechet_between(y, y[:3]) == 0.0


def test_errors_say_what_is_wrong():
    x = randn(5, 8)
    with pytest.raises(DataError, match="at least 2 records, got 1"):
        frechet_between(x, x[:1])
    with pytest.raises(DataError, match="8 and of 7 features cannot be compared"):
        frechet_between(x, x[:, :7])
    with pytest.raises(DataError, match=r"got shape \(5,\)"):
        frechet_between(x, x[:, 0])
    x[3, 2] = math.inf
    with pytest.raises(DataError, match="Features of record 3 are not finite"):
        frechet_between(x, randn(50, 8))
    with pytest.raises(DataError, match="Features of record 3 are not finite"):
        frechet_between(randn(50, 2), x[:, 1:3])
