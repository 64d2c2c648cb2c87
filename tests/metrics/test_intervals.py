"""Intervals against textbook values and algebra; every tolerance is derived beside its use."""

import math
from collections.abc import Callable

import pytest
import torch
from scipy import stats
from toys import randn

from pushforward import metrics
from pushforward.errors import ConfigError, DataError
from pushforward.metrics import Estimate
from pushforward.metrics.intervals import distance_estimate, group_labels, jackknife_distance, root_estimate

# -- means and shares -----------------------------------------------------------------------------------------------


def test_mean_of_four_values():
    # 0, 2, 4, 6: mean 3, variance 20/3, and t_3 at 0.975 is 3.182446
    found = metrics.mean_estimate(torch.tensor([0.0, 2.0, 4.0, 6.0]))
    error = math.sqrt(20 / 3) / 2
    assert (found.value, found.stderr) == pytest.approx((3.0, error), rel=1e-12)
    assert (found.low, found.high) == pytest.approx((3 - 3.182446 * error, 3 + 3.182446 * error), rel=1e-6)
    assert (found.n, found.method) == (4, "Student t")
    assert not metrics.mean_estimate(torch.tensor([1.0])).known
    with pytest.raises(DataError, match="at least one value"):
        metrics.mean_estimate(torch.zeros(0))


def test_share_has_wilsons_interval():
    # 8 of 10: 0.4902 to 0.9433 (Newcombe 1998 gives the formula); 0 of 10: up to z^2 / (n + z^2) = 0.2775
    found = metrics.share_estimate(8, 10)
    assert (found.low, found.high) == pytest.approx((0.4902, 0.9433), abs=5e-5)
    none = metrics.share_estimate(0, 10)
    assert (none.low, none.high) == pytest.approx((0.0, 3.841459 / 13.841459), abs=1e-6)
    with pytest.raises(DataError, match="0 <= hits <= n"):
        metrics.share_estimate(11, 10)


def test_differences_are_those_of_welch_and_student():
    a, b = randn(30), 2 * randn(20, seed=1)
    found, wanted = metrics.difference_estimate(a, b), stats.ttest_ind(a.numpy(), b.numpy(), equal_var=False).confidence_interval()
    assert (found.low, found.high) == pytest.approx(wanted, rel=1e-9)
    found, wanted = metrics.difference_estimate(a[:20], b, paired=True), stats.ttest_rel(a[:20].numpy(), b.numpy()).confidence_interval()
    assert (found.low, found.high) == pytest.approx(wanted, rel=1e-9)
    assert metrics.difference_estimate(torch.ones(3), torch.zeros(3)).high == 1.0
    with pytest.raises(DataError, match="equal numbers, got 30 and 20"):
        metrics.difference_estimate(a, b, paired=True)


# -- squared distances ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [-0.05, 0.0, 0.01, 0.3, 20.0])
def test_ends_are_where_the_score_test_turns(value: float):
    bias, spread, null = 0.1, 0.04, 0.004
    found = distance_estimate(value, bias=bias, spread=spread, null=null, n=10)
    rho = spread / 4 / (value + bias)
    if value > 3 * math.sqrt(null):
        rho = max(rho, (spread - 2 * null) / 4 / value)
    for end in (found.low, found.high):
        assert abs(value - end) / math.sqrt(null + 4 * rho * max(0.0, end)) == pytest.approx(1.959964, rel=1e-6)
    assert found.low < value < found.high


def test_a_shift_along_the_larger_variances_has_their_error():
    # mu = (1, 0, 0, 0), C = diag(4, 1, 1, 1) / 100: Var_1 = 4 mu C mu = 0.16, Var_2 = 2 tr C^2 = 0.0038, and the variance along mu is 0.04
    found = distance_estimate(1.0, bias=0.07, spread=0.16 + 2 * 0.0038, null=0.0038, n=10)
    for end in (found.low, found.high):
        assert abs(1.0 - end) / math.sqrt(0.0038 + 4 * 0.04 * end) == pytest.approx(1.959964, rel=1e-6)


def test_root_of_an_estimate_that_reaches_below_0():
    found = root_estimate(Estimate(-1.0, -2.0, 4.0, 1.0, 5))
    assert (found.value, found.low, found.high, found.n) == (0.0, 0.0, 2.0, 5)
    assert math.isnan(found.stderr)
    assert root_estimate(Estimate(9.0, 4.0, 16.0, 3.0)).stderr == 0.5


def test_jackknife_of_a_quadratic_form_is_its_u_statistic():
    # theta = |mean of K vectors|^2 has the U-statistic sum_{k != l} v_k.v_l / K(K-1), exactly. For v_k ~ N(0, I) in 400 dimensions
    # Var_2 = 2 tr C^2 with C = I / K: 800 / K^2. Its estimate from K(K-3)/2 = 104 squares has a relative error of
    # sqrt(2/104) = 14 %, the root of it 7 %; five of those.
    K, d = 16, 400
    v = randn(K, d)
    plug_in = lambda masks: ((masks.double() @ v) / masks.double().sum(1, keepdim=True)).square().sum(1)
    found = jackknife_distance(plug_in, K, n=K)
    assert found.value == pytest.approx(float(v.sum(0).square().sum() - v.square().sum()) / (K * (K - 1)), rel=1e-9)
    half = found.value - found.low
    assert half / stats.t.ppf(0.975, K - 1) == pytest.approx(math.sqrt(800) / K, rel=0.35)
    with pytest.raises(ConfigError, match="at least 4 groups"):
        jackknife_distance(plug_in, 3, n=3)


def test_groups_differ_by_one_record_at_most():
    assert torch.bincount(group_labels(35, 16)).tolist() == [3, 3, 3] + [2] * 13


# -- calibration ----------------------------------------------------------------------------------------------------
#
# results/intervals.json has 400 repetitions of every figure. Here a few with 100: an interval that holds the truth in 92 % of cases
# does so fewer than 82 times with probability P(Bin(100, .92) <= 81) = 4e-4. A normal interval from the first-order variance
# alone (null = 0) holds 0 between equal distributions in about two thirds of cases.


def held(draw: Callable[[torch.Generator], tuple[Estimate, float]]) -> int:
    pairs = [draw(torch.Generator().manual_seed(seed)) for seed in range(100)]
    return sum(found.low <= truth <= found.high for found, truth in pairs)


def gaussians(g: torch.Generator, d: int, shift: float = 0.0, sd: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    x, y = torch.randn(2, 100, d, generator=g, dtype=torch.float64)
    return x, shift + sd * y


@pytest.mark.parametrize("d", [2, 8])
@pytest.mark.parametrize(("shift", "sd"), [(0.0, 1.0), (0.3, 1.2)])
def test_frechet_intervals_hold_the_distance_of_the_distributions(d: int, shift: float, sd: float):
    assert held(lambda g: (metrics.frechet(*gaussians(g, d, shift, sd)), d * (shift**2 + (1 - sd) ** 2))) >= 82


@pytest.mark.parametrize("figure", [metrics.kernel_distance, metrics.energy_distance])
def test_kernel_intervals_hold_0_between_equal_distributions(figure: Callable[..., Estimate]):
    assert held(lambda g: (figure(*gaussians(g, 8)), 0.0)) >= 82


def test_sliced_intervals_hold_the_shift():
    assert held(lambda g: (metrics.sliced_wasserstein(*gaussians(g, 2, 0.5), projections=16), 0.5)) >= 82


def test_frechet_plug_in_of_all_groups_is_the_distance_of_the_moments():
    from pushforward.metrics.frechet import _distances, _grouped

    g = torch.Generator().manual_seed(0)
    x, y = gaussians(g, 5, 0.3, 1.2)
    y[:, 4] = 2.0  # a feature that never moves: no Cholesky factor
    masks = torch.ones(1, 16, dtype=torch.bool)
    for a, b in ((x, y), (y, x), (x, x + 1)):
        # Square roots of eigenvalues that should be 0 and are 1e-16: 1e-8
        assert float(_distances(_grouped(a, 16)(masks), _grouped(b, 16)(masks))) == pytest.approx(metrics.frechet_between(a, b), abs=1e-7)
    few = metrics.frechet(x[:15], y)
    assert few.value == metrics.frechet_between(x[:15], y)
    assert not few.known
    assert "too few records for 5 features" in few.method
