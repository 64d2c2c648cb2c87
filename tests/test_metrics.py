"""Metrics against answers known in closed form; every tolerance is derived beside its use."""

import math

import pytest
import torch
from toys import randn

from pushforward import metrics
from pushforward.errors import DataError

# -- likelihood -----------------------------------------------------------------------------------------------------


def test_uniform_records_of_256_levels_cost_8_bits_per_dim():
    log_prob = torch.full((3,), -12 * math.log(256.0), dtype=torch.float64)
    assert metrics.bits_per_dim(log_prob, 12).tolist() == pytest.approx([8.0] * 3, abs=1e-12)


def test_standard_error_of_four_values():
    # values 0, 2, 4, 6: variance 20/3, so s / sqrt(4) = sqrt(20/3) / 2
    assert metrics.standard_error(torch.tensor([0.0, 2.0, 4.0, 6.0])) == pytest.approx(math.sqrt(20 / 3) / 2, rel=1e-12)
    assert math.isnan(metrics.standard_error(torch.tensor([1.0])))


# -- distances between samples --------------------------------------------------------------------------------------


def test_energy_distance_of_two_pairs_on_the_line():
    # 2 * mean(2, 4, 1, 3) - 1 - 2 = 2
    x, y = torch.tensor([[0.0], [1.0]]), torch.tensor([[2.0], [4.0]])
    assert metrics.energy_distance(x, y).value == pytest.approx(2.0, abs=1e-12)
    with pytest.raises(DataError, match="at least 2 records"):
        metrics.energy_distance(x[:1], y)


# -- known mixtures -------------------------------------------------------------------------------------------------

RING = torch.stack([torch.cos(torch.arange(8) * math.pi / 4), torch.sin(torch.arange(8) * math.pi / 4)], 1).double()


def ring(n: int, sd: float, modes: int = 8, seed: int = 0) -> torch.Tensor:
    which = torch.randint(modes, (n,), generator=torch.Generator().manual_seed(seed))
    return RING[which] + sd * randn(n, 2, seed=seed + 1)


def test_mode_statistics_of_the_truth():
    n = 20_000
    s = metrics.mode_statistics(ring(n, 0.02), RING, 0.02)
    assert s.captured == s.modes == 8
    # P(r < 3 sd) = 1 - e^-4.5 in the plane; binomial error sqrt(.989 * .0111 / n) = 7.4e-4, five of them
    assert s.share_of_truth == pytest.approx(1 - math.exp(-4.5), abs=1e-12)
    assert s.share.value == pytest.approx(s.share_of_truth, abs=3.7e-3)
    # 2 n KL^ + 7 is chi^2 with 7 degrees of freedom: above 40 with probability 1e-6
    assert -7 / (2 * n) <= s.reverse_kl.value < 33 / (2 * n)
    # 2n coordinates: relative error of a standard deviation 1/sqrt(4n) = 0.35 % (less when truncated); five of them
    assert s.spread.value == pytest.approx(1.0, abs=0.018)


def test_mode_statistics_show_dropped_modes_and_a_shrunken_fit():
    n = 20_000
    s = metrics.mode_statistics(ring(n, 0.008, modes=4), RING, 0.02)
    assert (s.captured, s.share.value) == (4, 1.0)
    # KL(uniform on 4 || uniform on 8) = ln 2, plus at most the sampling term of the test above
    assert s.reverse_kl.value == pytest.approx(math.log(2), abs=40 / (2 * n))
    # All samples are within 3 sd, so the truncation 1 - 4.5 e^-4.5/(1 - e^-4.5) divides a spread of 0.4
    kept = 1 - 4.5 * math.exp(-4.5) / (1 - math.exp(-4.5))
    assert s.spread.value == pytest.approx(0.4 / math.sqrt(kept), rel=0.018)
    assert math.isnan(metrics.mode_statistics(RING + 9, RING, 0.02).spread.value)
