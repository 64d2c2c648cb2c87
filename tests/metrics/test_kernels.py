"""Kernel distances by enumeration and against closed forms; every tolerance is derived beside its use."""

import itertools
import math

import pytest
import torch
from toys import randn

from pushforward import metrics
from pushforward.errors import ConfigError, DataError
from pushforward.metrics import blocks
from pushforward.metrics.intervals import distance_estimate
from pushforward.metrics.kernels import _between, _within


def by_enumeration(x: torch.Tensor, y: torch.Tensor, k) -> float:
    mean = lambda values: sum(values) / len(values)
    within = [mean([k(a, b) for a, b in itertools.permutations(s, 2)]) for s in (x, y)]
    return sum(within) - 2 * mean([k(a, b) for a in x for b in y])


def test_polynomial_and_gaussian_kernels_by_enumeration():
    x, y = randn(7, 3), randn(5, 3, seed=1) + 1
    found = metrics.kernel_distance(x, y).value
    assert found == pytest.approx(by_enumeration(x, y, lambda a, b: float(a @ b / 3 + 1) ** 3), rel=1e-11)
    found = metrics.kernel_distance(x, y, kernel="gaussian", bandwidth=0.7).value
    assert found == pytest.approx(by_enumeration(x, y, lambda a, b: math.exp(-float((a - b).square().sum()) / 0.98)), rel=1e-11)
    found = metrics.energy_distance(x, y).value
    assert found == pytest.approx(by_enumeration(x, y, lambda a, b: -float((a - b).norm())), rel=1e-11)


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch):
    x, y = randn(50, 3), randn(40, 3, seed=1) + 1
    whole = metrics.kernel_distance(x, y)
    monkeypatch.setattr(blocks, "BLOCK", 200)
    parts = metrics.kernel_distance(x, y)
    for end in ("value", "low", "high", "stderr"):
        assert getattr(parts, end) == pytest.approx(getattr(whole, end), rel=1e-10)


def test_variances_less_projections_by_enumeration():
    # E k12^2 - 2 E k12 k13 + E k12 k34, each a mean over all choices of different records
    k = randn(6, 6)
    k = (k + k.T).fill_diagonal_(0.0)
    mean = lambda values: sum(float(v) for v in values) / len(values)
    wanted = (
        mean([k[a, b] ** 2 for a, b in itertools.permutations(range(6), 2)])
        - 2 * mean([k[a, b] * k[a, c] for a, b, c in itertools.permutations(range(6), 3)])
        + mean([k[a, b] * k[c, d] for a, b, c, d in itertools.permutations(range(6), 4)])
    )
    assert _within(k.sum(1), float(k.square().sum())) == pytest.approx(wanted, rel=1e-10)
    k = randn(4, 5, seed=1)
    rows, columns = list(itertools.permutations(range(4), 2)), list(itertools.permutations(range(5), 2))
    wanted = (
        float(k.square().mean())
        - mean([k[a, c] * k[a, d] for a in range(4) for c, d in columns])
        - mean([k[a, c] * k[b, c] for a, b in rows for c in range(5)])
        + mean([k[a, c] * k[b, d] for a, b in rows for c, d in columns])
    )
    assert _between(k.sum(1), k.sum(0), float(k.square().sum())) == pytest.approx(wanted, rel=1e-10)


def test_interval_is_made_of_the_terms_by_enumeration():
    x, y = randn(7, 3), randn(5, 3, seed=1) + 0.5
    kernel = lambda a, b: (a @ b.T / 3 + 1) ** 3
    xx, yy, xy = kernel(x, x), kernel(y, y), kernel(x, y)
    biased = xx.mean() + yy.mean() - 2 * xy.mean()  # |mu^|^2, the V-statistic
    own = lambda k: (k.sum(1) - k.diagonal()) / (len(k) - 1)
    a, b = own(xx) - xy.mean(1), own(yy) - xy.mean(0)
    off = lambda k: (k - torch.diag(k.diagonal())).sum(1)
    square = lambda k: float((k - torch.diag(k.diagonal())).square().sum())
    null = 2 * _within(off(xx), square(xx)) / 42 + 2 * _within(off(yy), square(yy)) / 20
    null += 4 * _between(xy.sum(1), xy.sum(0), float(xy.square().sum())) / 35
    found = metrics.kernel_distance(x, y)
    spread = 4 * float(a.var()) / 7 + 4 * float(b.var()) / 5
    wanted = distance_estimate(found.value, bias=float(biased) - found.value, spread=spread, null=null, n=5, freedom=4)
    assert (found.low, found.high, found.stderr) == pytest.approx((wanted.low, wanted.high, wanted.stderr), rel=1e-9)


def test_polynomial_distance_is_unbiased_over_splits_of_one_set():
    # 200 splits of 600 records into two halves: the mean lies within its interval of 0 (issue: "KID unbiased"). The splits share their
    # records, so the error of the mean is that of the halvings, s / sqrt(200); 3.3 of them leave one false alarm in a thousand.
    x = randn(600, 8)
    g = torch.Generator().manual_seed(0)
    values = []
    for _ in range(200):
        order = torch.randperm(600, generator=g)
        values.append(metrics.kernel_distance(x[order[:300]], x[order[300:]]).value)
    found = metrics.mean_estimate(torch.tensor(values))
    assert abs(found.value) < 3.3 * found.stderr


def test_interval_widths_are_the_sampling_errors():
    # Var of the U-statistic with a linear kernel between N(0, 1) and N(mu, 1) on the line, n each: D^ estimates mu^2, C = 2 / n, so
    # Var = 4 mu^2 C + 2 C^2. The polynomial kernel is not linear, so the energy and polynomial ones are left to results/intervals.json;
    # a Gaussian kernel so wide that exp(-r^2/2h^2) = 1 - r^2/2h^2 is linear: D^ h^2 -> mu^2 within r^2/4h^2 = 1e-5.
    n, mu, h = 400, 0.5, 300.0
    found = metrics.kernel_distance(randn(n, 1), randn(n, 1, seed=1) + mu, kernel="gaussian", bandwidth=h)
    c = 2 / n
    # The standard error moves with the estimated mean (sd sqrt(2/400) = 0.07 of 0.5: 14 %) and the two variances (5 %): 3 of 15 %.
    assert found.stderr * h * h == pytest.approx(math.sqrt(4 * mu**2 * c + 2 * c**2), rel=0.45)


def test_bandwidth_is_the_median_distance_of_the_reference():
    x = torch.tensor([[0.0], [1.0], [3.0]]).double()  # distances 1, 2, 3
    found = metrics.kernel_distance(x, x + 5, kernel="gaussian")
    assert "bandwidth 2" in found.method
    assert found.value == metrics.kernel_distance(x, x + 5, kernel="gaussian", bandwidth=2.0).value
    assert not found.known


def test_errors():
    x = randn(5, 2)
    with pytest.raises(DataError, match="at least 2 records in each set, got 1 and 5"):
        metrics.kernel_distance(x[:1], x)
    with pytest.raises(DataError, match="Pass bandwidth="):
        metrics.kernel_distance(torch.zeros(5, 2), x, kernel="gaussian")
    with pytest.raises(ConfigError, match="Choose 'polynomial' or 'gaussian'"):
        metrics.kernel_distance(x, x, kernel="laplace")
