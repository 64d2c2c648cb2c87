"""Copying tests against exact permutation answers, scipy, and generators whose copying is known."""

import math

import pytest
import torch
from scipy import stats
from toys import randn

from pushforward import metrics
from pushforward.errors import DataError


def three(seed: int, n: int = 300, l: int = 600, d: int = 4) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Training, held-out and freshly drawn records of N(0, I)."""
    x = randn(l + 2 * n, d, seed=seed)
    return x[:l], x[l : l + n], x[l + n :]


# -- nearest --------------------------------------------------------------------------------------------------------


def test_nearest_finds_what_a_full_matrix_of_differences_finds(monkeypatch: pytest.MonkeyPatch):
    from pushforward.metrics import blocks

    monkeypatch.setattr(blocks, "BLOCK", 500)  # 50 columns: blocks of 10 rows
    x, y = randn(73, 3), randn(50, 3, seed=1)
    distance, index = metrics.nearest(x, y, k=4)
    expected = (x[:, None] - y[None]).norm(dim=2).sort(1)
    assert torch.equal(index, expected.indices[:, :4])
    # the very same differences and sums of three squares: a few units in the last place of values below 10
    assert torch.allclose(distance, expected.values[:, :4], rtol=0, atol=1e-14)


def test_an_equal_record_is_exactly_0_away_however_far_the_data_are_from_0():
    train = randn(100, 5) + 1e6
    distance, index = metrics.nearest(train[[7, 3]].clone(), train, k=1)
    assert distance.tolist() == [[0.0], [0.0]]
    assert index.tolist() == [[7], [3]]
    # and so is one whose last bits differ, as features do when records are batched otherwise
    assert metrics.nearest(train[[7]] * (1 + 2**-52), train)[0].item() == 0.0


def test_nearest_names_what_does_not_fit():
    with pytest.raises(DataError, match="The two sets have 3 and 2 features"):
        metrics.nearest(randn(4, 3), randn(4, 2))
    with pytest.raises(DataError, match="The 5 nearest of 4 records do not exist"):
        metrics.nearest(randn(4, 2), randn(4, 2), k=5)


# -- C_T ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("levels", [None, 3])
def test_z_is_that_of_scipy_with_and_without_ties(levels: int | None):
    a, b = randn(40), randn(31, seed=1) + 0.3
    if levels:
        a, b = (a * levels).round(), (b * levels).round()
    z = metrics.mann_whitney_z(a, b)
    for side, p in (("less", stats.norm.cdf(z)), ("greater", stats.norm.sf(z))):
        known = stats.mannwhitneyu(a.numpy(), b.numpy(), alternative=side, method="asymptotic", use_continuity=False).pvalue
        assert p == pytest.approx(known, rel=1e-9)


def test_z_of_separated_values_is_known():
    # all 4 * 6 pairs lie one way: U = 0, so z = -12 / sqrt(24 * 11 / 12)
    assert metrics.mann_whitney_z(torch.arange(4.0), torch.arange(10.0, 16.0)) == pytest.approx(-12 / math.sqrt(22), rel=1e-12)
    assert metrics.mann_whitney_z(torch.zeros(4), torch.zeros(6)) == 0.0


def test_c_t_is_the_weighted_mean_over_cells_that_hold_enough_samples():
    # Cells at 0, 100 and 200 that k-means cannot miss; held-out shares 1/2, 1/4, 1/4; the third cell has 5 samples and is left out.
    def around(centre: float, n: int, seed: int, spread: float = 1.0) -> torch.Tensor:
        return centre + spread * randn(n, 1, seed=seed)

    train = torch.cat([around(c, 50, int(c)) for c in (0, 100, 200)])
    test = torch.cat([around(0, 80, 1), around(100, 40, 2), around(200, 40, 3)])
    fake = torch.cat([around(0, 60, 4), around(100, 30, 5, spread=5.0), around(200, 5, 6)])
    found = metrics.data_copying(train, test, fake, cells=3)
    a, b = metrics.nearest(fake, train)[0][:, 0], metrics.nearest(test, train)[0][:, 0]
    z = [metrics.mann_whitney_z(a[:60], b[:80]), metrics.mann_whitney_z(a[60:90], b[80:120])]
    assert (found.cells, found.made, found.left_out) == (2, 3, 0.25)
    assert found.statistic == pytest.approx((0.5 * z[0] + 0.25 * z[1]) / 0.75, rel=1e-12)
    assert found.z == pytest.approx(found.statistic / math.sqrt((2 / 3) ** 2 + (1 / 3) ** 2), rel=1e-12)
    assert found.worst_z == min(z)
    assert found.global_z == metrics.mann_whitney_z(a, b)
    assert "25% of the held-out records lie where there are too few samples to say" in found.verdict


def test_z_of_fresh_samples_is_standard_normal():
    # 60 draws of N(0, 1): mean within 3.5 / sqrt(60) of 0; sum of squares chi^2_60, which lies in (28.5, 109) but for 4 in 10,000 draws.
    z = torch.tensor([metrics.data_copying(*three(s), cells=3).z for s in range(60)], dtype=torch.float64)
    assert abs(float(z.mean())) < 3.5 / math.sqrt(60)
    assert 28.5 < float(z.square().sum()) < 109


def test_a_resampler_of_the_training_records_is_caught_and_a_fresh_sampler_is_not():
    train, test, fresh = three(0)
    at = torch.randint(len(train), (300,), generator=torch.Generator().manual_seed(1))
    copied = metrics.data_copying(train, test, train[at], cells=3)
    # every distance is 0, less than all of 100 held-out ones in each of 3 cells: z_cell = -n m / 2 / sqrt(n m (n + m + 1) / 12) = -12.2
    assert copied.copies
    assert copied.statistic == pytest.approx(-12.2, abs=1.5)  # and up to 12 % less where the cells' sizes differ, or ties at 0 narrow U
    assert "Copying: samples lie nearer to training records" in copied.verdict
    honest = metrics.data_copying(train, test, fresh, cells=3)
    assert not honest.copies
    assert "No sign of copying" in honest.verdict
    far = metrics.data_copying(train, test, 2 * fresh, cells=3)
    assert "underfitting" in far.verdict
    assert metrics.data_copying(train, test, fresh, cells=3) == honest
    assert honest.to_json()["copies"] is False


def test_copying_of_one_region_alone_is_told():
    # Two far regions; in the first, samples are copies; in the second, they stray, and C_T as a whole is not negative.
    centre = torch.tensor([[0.0], [1000.0]], dtype=torch.float64)
    train, test = ((centre[:, None] + randn(2, n, 1, seed=s)).reshape(-1, 1) for n, s in ((200, 0), (200, 1)))
    fake = torch.cat([train[:200], test[200:] + 4.0])
    found = metrics.data_copying(train, test, fake, cells=2)
    assert not found.copies
    assert found.copies_somewhere
    assert "Copying in places" in found.verdict


def test_the_test_asks_for_enough_records():
    x, three = randn(50, 2), torch.tensor([[0.0], [100.0], [200.0]], dtype=torch.float64)
    with pytest.raises(DataError, match="at least 20 generated and held-out records, got 10 and 50"):
        metrics.data_copying(x, x, x[:10])
    with pytest.raises(DataError, match="1 distinct training records do not fill 2 cells"):
        metrics.data_copying(torch.zeros(15, 2).double(), x, x, cells=2)
    with pytest.raises(DataError, match="None of 3 cells holds 20 generated records"):
        metrics.data_copying(three.repeat(9, 1), x[:, :1], three.repeat(7, 1), cells=3)


# -- shares and ratios ----------------------------------------------------------------------------------------------


def test_the_ratio_of_distances_is_1_for_fresh_samples_and_0_for_copies():
    # 60 intervals of 95 %: as many or fewer than 51 hold 1 once in 1,700 (binomial)
    held = 0
    for s in range(60):
        found = metrics.distance_ratio(*three(s, n=100))
        held += found.low <= 1.0 <= found.high
    assert held > 51
    train, test, fresh = three(0)
    assert metrics.distance_ratio(train, test, train[:50]).value == 0.0
    # half of the samples are copies: half the mean distance
    half = metrics.distance_ratio(train, test, torch.cat([train[:300], fresh]))
    assert half.low < 0.5 < half.high
    with pytest.raises(DataError, match="Every held-out record is equal to a training record"):
        metrics.distance_ratio(train, train[:50], fresh)


@pytest.mark.parametrize("share", [0.0, 0.4])
def test_copied_share_is_unbiased_and_its_error_is_right(share: float):
    found = []
    for s in range(60):
        train, test, fake = three(s, n=200)
        taken = torch.rand(200, generator=torch.Generator().manual_seed(s)) < share
        found.append(metrics.copied_share(train, test, torch.where(taken[:, None], train[:200], fake)))
    values = torch.tensor([e.value for e in found], dtype=torch.float64)
    error = math.sqrt(sum(e.stderr**2 for e in found) / 60)
    assert abs(float(values.mean()) - share) < 3.5 * error / math.sqrt(60)
    # 60 values: their standard deviation is known to 1 / sqrt(2 * 59) = 9 %, so 32 % are 3.5 of its errors
    assert float(values.std()) == pytest.approx(error, rel=0.32)
    assert sum(e.low <= share <= e.high for e in found) > 51


def test_smooth_samples_fool_the_distances_and_not_the_copied_share():
    # Samples shrunk to the middle are near to everything: C_T takes them for copies, the copied share does not.
    train, test, fresh = three(0, d=20)
    assert metrics.data_copying(train, test, 0.5 * fresh, cells=1).copies
    found = metrics.copied_share(train, test, 0.5 * fresh)
    assert found.low < 0.0 < found.high


def test_a_record_in_both_sets_counts_for_neither():
    x = randn(40, 2)
    found = metrics.copied_share(x, x, x)
    assert found.value == pytest.approx(0.0, abs=1e-12)  # all ties: half of them held-out, and half of the records are


def test_repeats_are_counted():
    x = torch.tensor([[0.0], [0.0], [1.0], [2.0], [2.0], [2.0], [5.0], [9.0]])
    assert metrics.duplicate_share(x).value == 5 / 8
    assert metrics.duplicate_share(x[[0, 2, 3, 6]]).value == 0.0
    assert metrics.duplicate_share(torch.zeros(10, 2)).value == 1.0
    assert metrics.copy_share(x, torch.tensor([[2.0], [9.0]])).value == 4 / 8
    with pytest.raises(DataError, match="at least 4 records, got 3"):
        metrics.duplicate_share(x[:3])


def test_the_threshold_is_that_of_as_many_real_records():
    # Real records: 0, 1, ..., 999 and one pair 0.5 apart, so the 0.1 % quantile of 1,000 distances lies near 0.5 and below 1.
    real = torch.arange(1000.0, dtype=torch.float64)[:, None]
    real[1] = 0.5
    fake = torch.arange(1000.0, dtype=torch.float64)[:, None] * 10
    fake[1], fake[11] = 0.4, 100.7  # 0.4 from 0: a repeat of it; 0.7 from 100: none
    assert metrics.duplicate_share(fake, real).value == pytest.approx(2 / 1000)
    assert metrics.duplicate_share(real, real).value == pytest.approx(2 / 1000)
    # four times as many real records, four times as near: the threshold is still that of as many as there are samples
    many = torch.cat([real, torch.arange(3000.0, dtype=torch.float64)[:, None] / 1000 + 5000.0])
    assert metrics.duplicate_share(fake, many).value == pytest.approx(2 / 1000)


def test_the_interval_of_repeats_holds_the_probability_that_a_uniform_draw_repeats():
    # m draws of K values: a draw is alone with probability (1 - 1/K)^(m - 1). 100 intervals of 95 %: 86 or fewer hold it once in 2,700.
    for values, m in ((2000, 200), (100, 200)):
        truth, held = 1 - (1 - 1 / values) ** (m - 1), 0
        errors, shares = [], []
        for s in range(100):
            x = torch.randint(values, (m, 1), generator=torch.Generator().manual_seed(s)).double()
            found = metrics.duplicate_share(x)
            held += found.low <= truth <= found.high
            errors.append(found.stderr)
            shares.append(found.value)
        assert held > 86
        # 100 values tell their standard deviation to 7 %: 25 % is 3.5 of its errors; the cut series may add a quarter
        assert 0.75 < sum(errors) / 100 / float(torch.tensor(shares).std()) < 1.55
