"""Metrics against answers known in closed form; every tolerance is derived beside its use."""

import math

import pytest
import torch

from pushforward import metrics
from pushforward.errors import DataError


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# -- likelihood -----------------------------------------------------------------------------------------------------


def test_uniform_records_of_256_levels_cost_8_bits_per_dim():
    log_prob = torch.full((3,), -12 * math.log(256.0), dtype=torch.float64)
    assert metrics.bits_per_dim(log_prob, 12).tolist() == pytest.approx([8.0] * 3, abs=1e-12)


def test_standard_error_of_four_values():
    # values 0, 2, 4, 6: variance 20/3, so s / sqrt(4) = sqrt(20/3) / 2
    assert metrics.standard_error(torch.tensor([0.0, 2.0, 4.0, 6.0])) == pytest.approx(math.sqrt(20 / 3) / 2, rel=1e-12)
    assert math.isnan(metrics.standard_error(torch.tensor([1.0])))


def test_bootstrap_interval_has_the_width_of_the_normal_one():
    values = randn(400)
    low, high = metrics.bootstrap_interval(values, repeats=4000)
    # A bootstrap quantile at p = 0.025 has standard error sqrt(p(1-p)/R)/phi(1.96) = 0.0423 sd for R = 4000; two ends: 0.06 of
    # a width of 3.92 sd.
    # Five of those are 7.7 % of the width; skewness of the mean of 400 normals is nought.
    assert (high - low) / (2 * 1.96 * metrics.standard_error(values)) == pytest.approx(1.0, abs=0.08)
    assert low < float(values.mean()) < high
    assert metrics.bootstrap_interval(values, repeats=4000) == (low, high)


# -- Fréchet distance -----------------------------------------------------------------------------------------------


def test_frechet_distance_of_commuting_covariances():
    # Diagonal: |m1 - m2|^2 + sum (sqrt a - sqrt b)^2 = 25 + 1 + 4 + 9; singular in one direction each. Rotation changes nothing.
    a, b = torch.tensor([4.0, 9.0, 0.0]).double(), torch.tensor([1.0, 1.0, 9.0]).double()
    Q = torch.linalg.qr(randn(3, 3)).Q
    shift = Q @ torch.tensor([3.0, 4.0, 0.0]).double()
    got = metrics.frechet_distance(torch.zeros(3), Q @ a.diag() @ Q.T, shift, Q @ b.diag() @ Q.T)
    # A zero eigenvalue is known to eps * |S|: its root to sqrt(2.2e-16 * 9 * 9) = 1.3e-7, twice.
    assert got == pytest.approx(39.0, abs=5e-7)


def test_frechet_distance_of_covariances_that_do_not_commute():
    S1, S2 = torch.tensor([[2.0, 1.0], [1.0, 1.0]]).double(), torch.tensor([[1.0, -0.5], [-0.5, 3.0]]).double()
    # 2 x 2: tr sqrt(A) = sqrt(tr A + 2 sqrt(det A)) for A = S1 S2 with positive eigenvalues
    A = S1 @ S2
    expected = S1.trace() + S2.trace() - 2 * (A.trace() + 2 * torch.linalg.det(A).sqrt()).sqrt()
    zero = torch.zeros(2)
    assert metrics.frechet_distance(zero, S1, zero, S2) == pytest.approx(float(expected), abs=1e-12)
    assert metrics.frechet_distance(zero, S2, zero, S1) == pytest.approx(float(expected), abs=1e-12)


def test_frechet_distance_from_itself_is_zero_even_with_fewer_records_than_dimensions():
    mean, cov = metrics.moments(randn(10, 30))
    # 21 null directions, each up to sqrt(eps) * |S| (about 1.5e-8 * 10): below 1e-5, and never negative or complex
    assert 0.0 <= metrics.frechet_distance(mean, cov, mean, cov) < 1e-5


def test_moments_are_unbiased():
    mean, cov = metrics.moments(torch.tensor([[0.0, 0.0], [2.0, 4.0]]))
    assert mean.tolist() == [1.0, 2.0]
    assert cov.tolist() == [[2.0, 4.0], [4.0, 8.0]]
    with pytest.raises(DataError, match="at least 2 records, got 1"):
        metrics.moments(torch.zeros(1, 3))


# -- quality and coverage -------------------------------------------------------------------------------------------


def by_definition(real: torch.Tensor, fake: torch.Tensor, k: int) -> tuple[float, float, float, float]:
    """The four figures from the whole distance matrices, as the papers write them."""
    rr, ff = (torch.cdist(x, x).sort(1).values[:, k] for x in (real, fake))
    d = torch.cdist(real, fake)
    return (
        float((d <= rr[:, None]).any(0).double().mean()),
        float((d <= ff[None]).any(1).double().mean()),
        float((d <= rr[:, None]).double().sum() / (k * len(fake))),
        float((d <= rr[:, None]).any(1).double().mean()),
    )


def as_tuple(m: metrics.Manifold) -> tuple[float, float, float, float]:
    return m.precision, m.recall, m.density, m.coverage


@pytest.mark.parametrize("block", [1 << 22, 64])
def test_prdc_equals_its_definition_in_blocks_of_any_size(monkeypatch, block):
    monkeypatch.setattr(metrics.blocks, "BLOCK", block)
    real, fake = randn(83, 4), 0.8 * randn(61, 4, seed=1) + 0.4
    # every figure is a ratio of counts of the same comparisons, so equality is to rounding of the division
    assert as_tuple(metrics.precision_recall_density_coverage(real, fake, k=3)) == pytest.approx(by_definition(real, fake, 3), abs=1e-12)


def test_equal_distributions_score_their_exact_expectations():
    # By exchangeability a generated point is among the k nearest of the n others of x_i with probability k/n: E[density] = 1 exactly, and
    # E[coverage] is Naeem's eq. 9, in any dimension. Averages of 40 repeats; five of their own standard errors.
    n, k = 200, 5
    got = torch.tensor(
        [as_tuple(metrics.precision_recall_density_coverage(randn(n, 3, seed=2 * s), randn(n, 3, seed=2 * s + 1), k=k)) for s in range(40)]
    )
    mean, error = got.mean(0), got.std(0) / math.sqrt(40)
    assert abs(mean[2] - 1.0) < 5 * error[2]
    assert abs(mean[3] - metrics.expected_coverage(n, n, k)) < 5 * error[3]
    assert abs(mean[0] - mean[1]) < 5 * (error[0] ** 2 + error[1] ** 2).sqrt()  # the roles of the sets may be exchanged
    assert error[2] < 0.02  # the comparison means something
    assert error[3] < 0.01


def test_expected_coverage_tends_to_one_minus_two_to_the_minus_k():
    assert metrics.expected_coverage(10**9, 10**9, 5) == pytest.approx(1 - 2**-5, abs=1e-8)
    # n = m = 2, k = 1: the other real point is nearer than both generated ones with probability 1/3
    assert metrics.expected_coverage(2, 2, 1) == pytest.approx(2 / 3, abs=1e-15)


def test_published_case_in_1000_dimensions_at_smaller_n():
    # clovaai/prdc, two N(0, I) sets in 1,000 dimensions, n = 10,000, k = 5: precision .4772, recall .4705, density 1.0555, coverage .9735.
    # At n = 500 E[density] = 1 and E[coverage] = 1 - prod (n-1-i)/(2n-1-i); in this many dimensions a few hubs carry the balls, so the
    # indicators are far from independent: the standard errors come from 12 independent repeats, and five of them are allowed.
    n = 500
    got = torch.tensor(
        [
            as_tuple(metrics.precision_recall_density_coverage(randn(n, 1000, seed=2 * s).float(), randn(n, 1000, seed=2 * s + 1).float()))
            for s in range(12)
        ]
    )
    mean, error = got.mean(0), got.std(0) / math.sqrt(12)
    assert abs(mean[2] - 1.0) < 5 * error[2]
    assert abs(mean[3] - metrics.expected_coverage(n, n)) < 5 * error[3]


def test_a_dropped_mode_loses_coverage_and_recall_only():
    real = torch.cat([randn(150, 2) - 50, randn(150, 2, seed=1) + 50])
    half = randn(300, 2, seed=2) + 50
    m = metrics.precision_recall_density_coverage(real, half)
    assert m.precision > 0.9
    assert max(m.coverage, m.recall) <= 0.5


def test_records_that_repeat_lie_in_their_own_ball():
    # Eight different records, eight copies of each: every ball has radius 0, and in float32 a distance of 0 comes out as rounding noise.
    x = (100 * randn(8, 50)).float().repeat(8, 1)
    m = metrics.precision_recall_density_coverage(x, x.flip(0))
    assert (m.precision, m.recall, m.coverage) == (1.0, 1.0, 1.0)


def test_too_few_records_for_k_neighbours():
    with pytest.raises(DataError, match="k=5 need more than 5 generated records, got 5"):
        metrics.precision_recall_density_coverage(randn(20, 2), randn(5, 2))


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
    assert s.share == pytest.approx(s.share_of_truth, abs=3.7e-3)
    # 2 n KL is chi^2 with 7 degrees of freedom: above 40 with probability 1e-6
    assert 0 <= s.reverse_kl < 40 / (2 * n)
    # 2n coordinates: relative error of a standard deviation 1/sqrt(4n) = 0.35 % (less when truncated); five of them
    assert s.spread == pytest.approx(1.0, abs=0.018)


def test_mode_statistics_show_dropped_modes_and_a_shrunken_fit():
    n = 20_000
    s = metrics.mode_statistics(ring(n, 0.008, modes=4), RING, 0.02)
    assert (s.captured, s.share) == (4, 1.0)
    # KL(uniform on 4 || uniform on 8) = ln 2, plus at most the sampling term of the test above
    assert s.reverse_kl == pytest.approx(math.log(2), abs=40 / (2 * n))
    # All samples are within 3 sd, so the truncation 1 - 4.5 e^-4.5/(1 - e^-4.5) divides a spread of 0.4
    kept = 1 - 4.5 * math.exp(-4.5) / (1 - math.exp(-4.5))
    assert s.spread == pytest.approx(0.4 / math.sqrt(kept), rel=0.018)
    assert math.isnan(metrics.mode_statistics(RING + 9, RING, 0.02).spread)
