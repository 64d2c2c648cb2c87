"""Shares of classes and modes: their divergence without its excess, and its interval."""

import math

import pytest
import torch

from pushforward import metrics
from pushforward.errors import DataError

RING = torch.stack([torch.cos(torch.arange(8) * math.pi / 4), torch.sin(torch.arange(8) * math.pi / 4)], 1).double()


def labels(weights: torch.Tensor, n: int, seed: int) -> torch.Tensor:
    return torch.multinomial(weights, n, replacement=True, generator=torch.Generator().manual_seed(seed))


def test_class_divergence_has_no_excess_between_equal_sets():
    # 200 pairs of 100 labels each: KL^ has sd sqrt((K - 1)/2) * 2/n = 0.042 at equality, its mean 0.003; five of them. The plug-in's mean
    # would be (K - 1)/n = 0.09.
    p = torch.ones(10)
    found = [metrics.class_statistics(labels(p, 100, 2 * s), labels(p, 100, 2 * s + 1), 10).kl for s in range(200)]
    assert sum(f.value for f in found) / 200 == pytest.approx(0.0, abs=0.015)
    # P(Bin(200, .92) <= 170) = 6e-4
    assert sum(f.low <= 0 <= f.high for f in found) > 170


def test_missing_classes_are_counted_and_cost_their_share():
    # q is uniform on 8 of 10 equal classes: KL = log(10/8), sd of the estimate from p: sqrt(Var_p(q/p) / m) = sqrt(0.25 / 20000) = 0.0035
    found = metrics.class_statistics(labels(torch.ones(10), 20_000, 0), labels(torch.ones(8), 20_000, 1), 10)
    assert (found.classes, found.captured) == (10, 8)
    assert found.kl.value == pytest.approx(math.log(10 / 8), abs=5 * 0.0035)
    assert found.kl.stderr == pytest.approx(0.0035, rel=0.2)
    assert found.to_json()["kl"]["n"] == 20_000


def test_a_class_that_no_real_record_has_is_dear_and_finite():
    found = metrics.class_statistics(torch.zeros(100, dtype=torch.long), torch.ones(100, dtype=torch.long), 2)
    assert found.kl.value == pytest.approx(math.log(100.5 / 0.5), rel=1e-12)


def test_labels_out_of_range():
    with pytest.raises(DataError, match=r"must lie in 0 \.\.\. 1, got 0 \.\.\. 2"):
        metrics.class_statistics(torch.tensor([0, 1]), torch.tensor([2]), 2)
    with pytest.raises(DataError, match="at least one label"):
        metrics.class_statistics(torch.tensor([0, 1]), torch.zeros(0, dtype=torch.long), 2)


def test_mode_intervals_are_those_of_their_counts():
    g = torch.Generator().manual_seed(0)
    x = RING[labels(torch.ones(8), 500, 0)] + 0.04 * torch.randn(500, 2, generator=g, dtype=torch.float64)
    found = metrics.mode_statistics(x, RING, 0.02)
    hits = round(500 * found.share.value)
    assert found.share == metrics.share_estimate(hits, 500)
    # P(r < 1.5 sd) = 1 - exp(-1.125) = 0.675, binomial error 0.021; five of them
    assert found.share.value == pytest.approx(1 - math.exp(-1.125), abs=0.105)
    assert found.reverse_kl.low < found.reverse_kl.value < found.reverse_kl.high
    assert found.spread.low < found.spread.value < found.spread.high
    assert found.to_json()["share"]["method"] == "Wilson"
