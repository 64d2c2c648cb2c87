"""The board of a comparison: figures over seeds, how they are written, which differences are more than luck, and who leads."""

import math

import pytest
import torch
from report_parts import entry, estimate, figures

from pushforward.metrics import Estimate, mean_estimate
from pushforward.report import differences, leaderboard, trilemma, words


def test_several_seeds_give_their_mean_and_interval():
    e = entry("A", *(figures(log_prob=v) for v in (1.0, 2.0, 6.0)))
    # mean 3, variance (4 + 1 + 9) / 2 = 7, and t of 2 degrees of freedom at 97.5 % is 4.302653
    found = e.figure("log_prob")
    assert found.value == 3.0
    assert found.high - 3.0 == pytest.approx(4.302653 * math.sqrt(7 / 3), rel=1e-6)
    assert e.figure("kl") is None
    assert entry("A", figures("exact"), figures("bound")).kind == "bound"


def test_the_wider_interval_is_shown_and_both_where_they_differ_much():
    alike = entry("A", *(figures(coverage=estimate(v, 0.2)) for v in (0.5, 0.5, 0.5001)))
    assert leaderboard.half_width(alike.figure("coverage")) == pytest.approx(0.2)
    seeds, records = alike.both("coverage")
    assert seeds < 0.001
    assert records == pytest.approx(0.2)
    # s = 0.1 over 3 seeds: half-width 4.302653 * 0.1 / sqrt(3) = 0.248
    near = entry("A", *(figures(coverage=estimate(v, 0.2)) for v in (0.4, 0.5, 0.6)))
    assert leaderboard.half_width(near.figure("coverage")) == pytest.approx(0.2484, abs=1e-4)
    assert near.both("coverage") is None


def test_intervals_stay_within_what_a_figure_can_be_and_speeds_are_geometric():
    e = entry("A", figures(coverage=0.9, samples_per_second=10.0), figures(coverage=1.0, samples_per_second=1000.0))
    assert e.figure("coverage").high == 1.0
    assert e.figure("samples_per_second").value == pytest.approx(100.0)
    assert e.figure("samples_per_second").low > 0


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (math.nan, "–"), (0.0, "0.000"), (-1.23456, "−1.23"), (1234.5, "1,234"), (1234567.0, "1.23e6"), (0.00012, "1.20e−4")],
)
def test_numbers(value, text):
    assert words.number(value) == text


@pytest.mark.parametrize(
    ("value", "spread", "text"),
    [
        (-102.7412, 0.7613, "−102.74 ± 0.76"),
        (2.5, 0.03, "2.500 ± 0.030"),
        (1234.56, 78.9, "1,235 ± 79"),
        (3.14159, None, "3.14"),
        (2.15, 1e-9, "2.1500 ± 0.0000"),
        (0.0, 2.4e-5, "0 ± 2.4e−5"),
    ],
)
def test_values_have_the_decimals_that_their_spread_allows(value, spread, text):
    assert words.with_spread(estimate(value, math.nan if spread is None else spread)) == text


def test_a_share_and_its_interval_stay_within_what_a_share_can_be():
    assert words.plainly("copied_share", Estimate(-0.012, -0.27, 0.207)) == ("0.0%", "0.0 to 20.7%")
    assert words.plainly("copied_share", Estimate(0.241, -1.03, 1.2)) == ("24.1%", "0.0 to 100.0%")
    assert words.plainly("copies", Estimate(0.0)) == ("0.0%", "")


@pytest.mark.parametrize(("value", "text"), [(1.5e6, "1.5 M"), (34_000, "34 k"), (8967.9, "8,968"), (0.123, "0.12"), (None, "–")])
def test_counts(value, text):
    assert words.counted(value) == text


# -- differences ----------------------------------------------------------------------------------------------------


def test_holm_corrects_step_by_step():
    # sorted: 0.01 x 4, 0.02 x 3, 0.03 x 2, 0.5 x 1, each at least the one before (Holm 1979)
    assert differences.holm([0.03, 0.5, 0.01, 0.02]) == pytest.approx([0.06, 0.5, 0.04, 0.06])
    # 0.011 x 2 would fall below 0.01 x 3: no p-value may be smaller than that of a clearer difference
    assert differences.holm([0.011, 0.01, 0.9]) == pytest.approx([0.03, 0.03, 0.9])
    assert differences.holm([]) == []


def test_a_difference_is_welchs_where_seeds_are_all_there_is():
    from scipy import stats

    a, b = (0.50, 0.52, 0.57), (0.61, 0.60, 0.66)
    one, other = (entry(k, *(figures(coverage=v) for v in values)) for k, values in (("A", a), ("B", b)))
    found = differences.verdicts([one, other], "coverage")["A", "B"]
    assert found.p == pytest.approx(stats.ttest_ind(a, b, equal_var=False).pvalue)
    assert found.state == "worse"
    assert found.difference == pytest.approx(-0.09333, abs=1e-5)


def test_held_out_records_widen_what_seeds_alone_would_tell_apart():
    a, b = (0.50, 0.51, 0.52), (0.60, 0.61, 0.62)
    for half, state in ((0.001, "worse"), (0.3, "open")):
        one, other = (entry(k, *(figures(coverage=estimate(v, half)) for v in values)) for k, values in (("A", a), ("B", b)))
        found = differences.verdicts([one, other], "coverage")
        assert found["A", "B"].state == state
        assert found["B", "A"] == found["A", "B"].turned()
    assert "A cannot be told apart from B in coverage" in found["A", "B"].text()


def test_tests_are_calibrated_and_err_towards_not_telling_apart():
    # Under equality at most 5 % of comparisons of three seeds find a difference: 12 of 400 have a chance of 0.3 % under 1.5 % ... and
    # Welch with two or three degrees of freedom stays below its level. 400 draws of rate 0.05 exceed 34 with a chance of 0.1 %.
    generator = torch.Generator().manual_seed(0)
    hits = 0
    for _ in range(400):
        values = (0.5 + 0.02 * torch.randn(2, 3, generator=generator, dtype=torch.float64)).tolist()
        one, other = (entry(k, *(figures(coverage=v) for v in found)) for k, found in zip("AB", values))
        hits += differences.verdicts([one, other], "coverage")["A", "B"].state != "open"
    assert hits <= 34


def test_bounds_are_held_only_to_what_they_guarantee():
    exact = entry("A", *(figures("exact", half=0.1, log_prob=v) for v in (-10.0, -10.1)))
    low = entry("B", *(figures("bound", half=0.1, log_prob=v) for v in (-20.0, -20.1)))
    high = entry("C", *(figures("bound", half=0.1, log_prob=v) for v in (-5.0, -5.1)))
    none = entry("D", figures("none"))
    found = differences.verdicts([exact, low, high, none], "log_prob")
    assert found["C", "A"].state == "better"  # its log p is at least this
    assert found["A", "B"].state == "open"  # the bound may lie far below
    assert "a lower bound may lie below an exact value" in found["A", "B"].text()
    assert found["B", "C"].state == "apart"
    assert "both are lower bounds, whose gaps are unknown" in found["B", "C"].text()
    assert not [pair for pair in found if "D" in pair]
    assert differences.best([exact, low, high], "log_prob") == []
    assert (
        differences.indistinct([exact, low, high], "log_prob")
        == "Log-likelihood: model C beats model A. No other difference may be claimed."
    )


def test_likelihoods_are_compared_record_by_record():
    g = torch.Generator().manual_seed(0)
    common = 10 * torch.randn(3, 400, generator=g, dtype=torch.float64)  # some records are hard for every model

    def made(key: str, better: float) -> leaderboard.Entry:
        runs = []
        for seed in range(3):
            values = common[seed] + better + 0.1 * torch.randn(400, generator=g, dtype=torch.float64)
            e = figures(log_prob=mean_estimate(values))
            e.log_probs = values
            runs.append(e)
        return entry(key, *runs)

    one, other = made("A", 0.0), made("B", 0.1)
    found = differences.verdicts([one, other], "log_prob")["B", "A"]
    # the difference of 0.1 has a standard error of sqrt(2) 0.1 / sqrt(1200) = 0.004 by record, and of 0.5 as a difference of two means
    assert found.state == "better"
    assert found.difference == pytest.approx(0.1, abs=0.02)
    for e in other.done:
        e.log_probs = None
    assert differences.paired(one, other) == []
    assert differences.verdicts([one, other], "log_prob")["B", "A"].state == "open"


def test_likelihoods_of_different_measures_or_conditions_are_never_ranked():
    one = figures("exact", half=0.1, log_prob=-1.0)
    for change in ({"base_measure": "mass"}, {"conditional": True}, {"kind": "estimate"}):
        other = figures("exact", half=0.1, log_prob=-9.0)
        vars(other).update(change)
        found = differences.verdicts([entry("A", one), entry("B", other)], "log_prob")["A", "B"]
        assert found.state == "apart"
        assert found.reason
        assert differences.best([entry("A", one), entry("B", other)], "log_prob") == []
    vars(other).update({"base_measure": "mass", "kind": "bound"})
    assert differences.verdicts([entry("A", one), entry("B", other)], "log_prob")["A", "B"].state == "apart"


def test_density_is_judged_by_its_distance_from_one_and_speed_by_factors():
    def both(name: str, a: float, b: float, half: float) -> str:
        one, other = (entry(k, figures(**{name: estimate(v, half)})) for k, v in (("A", a), ("B", b)))
        return differences.verdicts([one, other], name)["A", "B"].state

    assert both("density", 1.4, 0.9, 0.05) == "worse"
    assert both("density", 1.2, 0.8, 0.05) == "open"  # equally far
    assert both("frechet", 1.0, 2.0, 0.1) == "better"
    seeds = [entry(k, *(figures(samples_per_second=v) for v in values)) for k, values in (("A", (10, 11, 9)), ("B", (100, 150, 80)))]
    assert differences.verdicts(seeds, "samples_per_second")["A", "B"].state == "worse"


def test_leaders_are_those_whom_nobody_beats():
    near = [entry(k, figures(coverage=estimate(v, 0.05))) for k, v in (("A", 0.90), ("B", 0.89), ("C", 0.5))]
    assert [e.key for e in differences.best(near, "coverage")] == ["A", "B"]
    assert differences.indistinct(near, "coverage") == "Coverage: model A leads, but cannot be told apart from model B."
    assert differences.indistinct(near[1:], "coverage") == "Coverage: model B is best, by more than luck explains."


def test_the_front_holds_whom_no_other_dominates():
    def model(key: str, density: float, coverage: float, speed: float) -> leaderboard.Entry:
        return entry(key, figures(density=density, coverage=coverage, samples_per_second=speed))

    good, fast, poor, crowded = (
        model("A", 0.9, 0.9, 1.0),
        model("B", 0.5, 0.5, 100.0),
        model("C", 0.8, 0.9, 1.0),
        model("D", 1.3, 0.6, 50.0),
    )
    assert trilemma.front([good, fast, poor, crowded]) == {"A", "B", "D"}  # a density of 1.3 is farther from 1 than A's, but D is faster
    assert trilemma.front([good, poor, model("E", 1.3, 0.6, 1.0)]) == {"A"}
    assert trilemma.front([good, model("E", 0.9, 0.9, 1.0)]) == {"A", "E"}
    assert "Every model" in trilemma.sentence([good, fast])
    assert trilemma.sentence([good, poor]).endswith("at least as good in all three: model A.")
