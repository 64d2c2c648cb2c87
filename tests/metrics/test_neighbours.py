"""Balls of nearest neighbours against their definition and exact expectations; every tolerance is derived beside its use."""

import math
import sys

import pytest
import torch
from toys import randn

from pushforward.errors import DataError
from pushforward.metrics import Manifold, expected_coverage, neighbourhoods, precision_recall_density_coverage


def by_definition(real: torch.Tensor, fake: torch.Tensor, k: int) -> tuple[torch.Tensor, ...]:
    """Whether precise, recalled, how many balls, whether covered: from the whole distance matrices, as the papers write them."""
    rr, ff = (torch.cdist(x, x).sort(1).values[:, k] for x in (real, fake))
    inside = (d := torch.cdist(real, fake)) <= rr[:, None]
    return inside.any(0), (d <= ff[None]).any(1), inside.sum(0), inside.any(1)


def as_tuple(m: Manifold) -> tuple[float, float, float, float]:
    return m.precision, m.recall, m.density, m.coverage


@pytest.mark.parametrize("block", [1 << 22, 64, 1])
def test_every_record_is_counted_as_defined_in_blocks_of_any_size(monkeypatch, block):
    monkeypatch.setattr(sys.modules["pushforward.metrics.blocks"], "BLOCK", block)
    real, fake = randn(83, 4), 0.8 * randn(61, 4, seed=1) + 0.4
    got, (precise, recalled, balls, covered) = neighbourhoods(real, fake, k=3), by_definition(real, fake, 3)
    assert torch.equal(got.precise, precise)
    assert torch.equal(got.recalled, recalled)
    assert torch.equal(got.balls, balls)
    assert torch.equal(got.covered, covered)
    # every figure is a ratio of counts of the same comparisons, so equality is to rounding of the division
    shares = [float(x.double().mean()) for x in (precise, recalled, balls.double() / 3, covered)]
    assert as_tuple(precision_recall_density_coverage(real, fake, k=3)) == pytest.approx(shares, abs=1e-12)
    assert 0 < min(shares) < max(shares[0], shares[1], shares[3]) < 1  # the comparison means something


def test_equal_distributions_score_their_exact_expectations():
    # By exchangeability a generated point is among the k nearest of the n others of x_i with probability k/n: E[density] = 1 exactly, and
    # E[coverage] is Naeem's eq. 9, in any dimension. Averages of 40 repeats; five of their own standard errors.
    n, k = 200, 5
    got = torch.tensor(
        [as_tuple(precision_recall_density_coverage(randn(n, 3, seed=2 * s), randn(n, 3, seed=2 * s + 1), k=k)) for s in range(40)]
    )
    mean, error = got.mean(0), got.std(0) / math.sqrt(40)
    assert abs(mean[2] - 1.0) < 5 * error[2]
    assert abs(mean[3] - expected_coverage(n, n, k)) < 5 * error[3]
    assert abs(mean[0] - mean[1]) < 5 * (error[0] ** 2 + error[1] ** 2).sqrt()  # the roles of the sets may be exchanged
    assert error[2] < 0.02  # the comparison means something
    assert error[3] < 0.01


def test_expected_coverage_tends_to_one_minus_two_to_the_minus_k():
    assert expected_coverage(10**9, 10**9, 5) == pytest.approx(1 - 2**-5, abs=1e-8)
    # n = m = 2, k = 1: the other real point is nearer than both generated ones with probability 1/3
    assert expected_coverage(2, 2, 1) == pytest.approx(2 / 3, abs=1e-15)


def test_published_case_in_1000_dimensions_at_smaller_n():
    # clovaai/prdc, two N(0, I) sets in 1,000 dimensions, n = 10,000, k = 5: precision .4772, recall .4705, density 1.0555, coverage .9735.
    # At n = 500 E[density] = 1 and E[coverage] = 1 - prod (n-1-i)/(2n-1-i); in this many dimensions a few hubs carry the balls, so the
    # indicators are far from independent: the standard errors come from 12 independent repeats, and five of them are allowed.
    n = 500
    got = torch.tensor(
        [
            as_tuple(precision_recall_density_coverage(randn(n, 1000, seed=2 * s).float(), randn(n, 1000, seed=2 * s + 1).float()))
            for s in range(12)
        ]
    )
    mean, error = got.mean(0), got.std(0) / math.sqrt(12)
    assert abs(mean[2] - 1.0) < 5 * error[2]
    assert abs(mean[3] - expected_coverage(n, n)) < 5 * error[3]


def test_a_dropped_mode_loses_coverage_and_recall_only():
    real = torch.cat([randn(150, 2) - 50, randn(150, 2, seed=1) + 50])
    half = randn(300, 2, seed=2) + 50
    m = precision_recall_density_coverage(real, half)
    assert m.precision > 0.9
    assert max(m.coverage, m.recall) <= 0.5


def test_records_that_repeat_lie_in_their_own_ball():
    # Eight different records, eight copies of each: every ball has radius 0, and in float32 a distance of 0 comes out as rounding noise.
    x = (100 * randn(8, 50)).float().repeat(8, 1)
    m = precision_recall_density_coverage(x, x.flip(0))
    assert (m.precision, m.recall, m.coverage) == (1.0, 1.0, 1.0)


@pytest.mark.parametrize("block", [1 << 22, 64, 1])
def test_the_rim_of_a_ball_of_radius_0_survives_rounding(monkeypatch, block):
    # In float64, and in tiles of any shape, |x|^2 + |x|^2 - 2 x.x of equal records is rounding noise of either sign.
    monkeypatch.setattr(sys.modules["pushforward.metrics.blocks"], "BLOCK", block)
    x = (100 * randn(8, 50)).repeat(8, 1)
    got = neighbourhoods(x, x.flip(0))
    assert got.balls.tolist() == [8] * 64  # its own eight copies, no other
    assert got.recalled.all()
    assert got.covered.all()


def test_float32_clusters_smaller_than_its_rounding_are_told_apart():
    # Two clusters of sd 0.01, 1,000 apart: squares of 2.5e5 are rounded to 0.03 in float32, squared radii are 1e-4.
    where = torch.tensor([[-500.0, 0.0], [500.0, 0.0]]).double()[torch.arange(200) % 2]
    real, fake = ((where + 0.01 * randn(200, 2, seed=s)).float() for s in (0, 1))
    got, expected = neighbourhoods(real, fake), by_definition(real.double(), fake.double(), 5)
    # float32 records about 500 lie on a lattice of 3e-5, so that a pair may lie on a rim, where float64 differences of squares decide
    assert abs(int(got.balls.sum()) - int(expected[2].sum())) <= 2
    assert got.manifold.density < 1.5  # every pair of one cluster would be 20


def test_too_few_records_for_k_neighbours():
    with pytest.raises(DataError, match="k=5 need more than 5 generated records, got 5"):
        precision_recall_density_coverage(randn(20, 2), randn(5, 2))
