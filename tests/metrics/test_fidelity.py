"""Fidelity of tables against scipy's statistics, closed forms and permutations; train-on-synthetic against known rules."""

import math

import numpy as np
import pytest
from scipy import stats

from pushforward import metrics
from pushforward.errors import ConfigError, DataError


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_numbers_score_one_minus_scipys_kolmogorov_distance_ties_or_not():
    for levels in (None, 4):
        a, b = rng(0).normal(size=150), rng(1).normal(0.4, 1.3, size=210)
        if levels:
            a, b = (a * levels).round(), (b * levels).round()
        score = metrics.column_fidelity({"a": a}, {"a": b}, set())["column a"]
        assert score.value == pytest.approx(1 - stats.ks_2samp(a, b).statistic, abs=1e-12)
        assert score.low <= score.value <= score.high


def test_categories_score_one_minus_total_variation_and_missing_values_are_one():
    real = {"c": np.array(["x"] * 5 + ["y"] * 3 + [None] * 2, dtype=object)}
    fake = {"c": np.array(["x"] * 2 + ["z"] * 4 + [float("nan")] * 4, dtype=object)}
    # shares .5 .3 0 .2 against .2 0 .4 .4: half of .3 + .3 + .4 + .2
    assert metrics.column_fidelity(real, fake, {"c"})["column c"].value == pytest.approx(1 - 0.6, abs=1e-12)


def test_the_standard_error_of_two_categories_and_of_a_step_is_that_of_a_difference_of_shares():
    # |p - q| with p = 30 of 100 and q = 80 of 200; the variance of a share from its records is p (1 - p) / (n - 1)
    p, q = np.repeat([1, 0], [30, 70]), np.repeat([1, 0], [80, 120])
    expected = math.sqrt(0.3 * 0.7 / 99 + 0.4 * 0.6 / 199)
    assert metrics.column_fidelity({"a": p}, {"a": q}, {"a"})["column a"].stderr == pytest.approx(expected, rel=1e-9)
    assert metrics.column_fidelity({"a": p}, {"a": q}, set())["column a"].stderr == pytest.approx(expected, rel=1e-9)


def test_a_missing_number_lies_below_all_others():
    real, fake = np.array([1.0, 2.0, 3.0, 4.0]), np.array([None, None, 1.0, 1.0], dtype=object)
    # at 1, F = 1/4 and G = 1
    assert metrics.column_fidelity({"a": real}, {"a": fake}, set())["column a"].value == pytest.approx(0.25, abs=1e-12)


def test_pairs_of_numbers_score_by_their_correlations_where_both_are_there():
    a, b = rng(0).normal(size=(2, 80)), rng(1).normal(size=(2, 90))
    b[1] += b[0]
    b[0, :30] = np.nan
    score = metrics.column_fidelity({"u": a[0], "v": a[1]}, {"u": b[0], "v": b[1]}, set())["pair u x v"]
    r, s = np.corrcoef(a)[0, 1], np.corrcoef(b[:, 30:])[0, 1]
    assert score.value == pytest.approx(1 - abs(r - s) / 2, abs=1e-12)
    # Fisher: sd(r) = (1 - r^2) / sqrt(n) for normal pairs; a variance of 90 fourth-order terms is known to about a third
    assert score.stderr == pytest.approx(math.hypot((1 - r * r) / 80**0.5, (1 - s * s) / 60**0.5) / 2, rel=0.3)


def test_other_pairs_score_by_their_contingency_tables_and_the_worst_is_named():
    c = np.repeat(["x", "y"], 100)
    d = np.tile(np.repeat(["p", "q"], 50), 2)
    number = np.arange(200.0)
    real = {"c": c, "d": d, "n": number}
    fake = {"c": c, "d": c, "n": number}  # d has its own shares, and depends on c wholly
    scores = metrics.column_fidelity(real, fake, {"c", "d"})
    assert scores["column d"].value == pytest.approx(0.0, abs=1e-12)  # it has other values altogether
    assert scores["pair c x d"].value == pytest.approx(0.0, abs=1e-12)
    fake["d"] = np.where(c == "x", "p", "q")
    scores = metrics.column_fidelity(real, fake, {"c", "d"})
    assert scores["column d"].value == pytest.approx(1.0, abs=1e-12)
    assert scores["pair c x d"].value == pytest.approx(0.5, abs=1e-12)  # four cells of 1/4 against two of 1/2
    # ten bins of 20 records; c is set by n in both, and d by n: halves of each quarter are in their place
    assert scores["pair c x n"].value == pytest.approx(1.0, abs=1e-12)
    assert scores["pair d x n"].value == pytest.approx(0.5, abs=1e-12)
    assert scores["pairs"].value == pytest.approx((0.5 + 1.0 + 0.5) / 3, abs=1e-12)
    assert scores["columns"].value == pytest.approx(1.0, abs=1e-12)
    assert metrics.worst_pair(scores) == ("c x d", scores["pair c x d"])
    assert metrics.worst_pair(metrics.column_fidelity({"n": number}, {"n": number}, set())) is None


@pytest.mark.parametrize("unequal", [False, True])
def test_intervals_hold_the_true_scores(unequal: bool):
    # N(0, 1) against N(1, 1): sup |F - G| = 2 Phi(1/2) - 1 = 0.38292. Shares (.5, .3, .2) against (.3, .3, .4): 0.2.
    # 60 intervals of 95 %: 51 or fewer hold the truth once in 1,700.
    held = {"column a": 0, "column c": 0, "columns": 0}
    truth = {"column a": 1 - 0.3829249, "column c": 0.8, "columns": 1 - (0.3829249 + 0.2) / 2} if unequal else dict.fromkeys(held, 1.0)
    q = [0.3, 0.3, 0.4] if unequal else [0.5, 0.3, 0.2]
    for s in range(60):
        g = rng(s)
        real = {"a": g.normal(size=200), "c": g.choice(3, 200, p=[0.5, 0.3, 0.2])}
        fake = {"a": g.normal(float(unequal), 1, size=200), "c": g.choice(3, 200, p=q)}
        scores = metrics.column_fidelity(real, fake, {"c"}, seed=s)
        for k in held:
            held[k] += scores[k].low <= truth[k] <= scores[k].high
    assert min(held.values()) > 51, held


@pytest.mark.parametrize("categories", [{"a"}, set()])
def test_tables_far_apart_have_the_interval_of_a_signed_difference(categories: set[str]):
    # |p - q| = 0.4 is 11 deviations of the permuted difference, which is normal with the pooled variance: the 96 % quantile of the signed
    # error is 1.751 of them (that of |h|, which would ignore the sign, 2.054). The 16th largest of 400 has a deviation of 0.11.
    n, p, q = 400, 0.2, 0.6
    above = []
    for seed in range(12):
        a, b = (np.repeat([0, 1], [round(n * (1 - share)), round(n * share)]) for share in (p, q))
        score = metrics.column_fidelity({"a": a}, {"a": b}, categories, seed=seed)["column a"]
        above.append((score.high - score.value) / math.sqrt((p + q) / 2 * (1 - (p + q) / 2) * 2 / n))
    assert np.mean(above) == pytest.approx(1.751, abs=4 * 0.11 / math.sqrt(12))


def test_constant_columns_and_missing_ones_do_no_harm():
    real = {"a": np.zeros(50), "b": rng().normal(size=50), "m": np.full(50, np.nan)}
    scores = metrics.column_fidelity(real, real, set())
    assert all(e.value == 1.0 for e in scores.values())
    assert metrics.column_fidelity(real, real, set()) == scores


def test_tables_that_do_not_fit_are_refused():
    a = np.arange(4.0)
    for real, fake, categories, said in (
        ({"a": a}, {"b": a}, set(), "Column 'a' is missing from one of the tables"),
        ({"a": a}, {"a": a}, {"aa"}, "There is no column 'aa'. Did you mean 'a'"),
        ({"a": a, "b": a[:3]}, {"a": a, "b": a}, set(), "the same number of records, 2 or more; they have [3, 4]"),
        ({"a": a[:1]}, {"a": a}, set(), "2 or more; they have [1]"),
        ({"a": np.array(["x", "y"])}, {"a": a}, set(), "Column 'a' holds values that are no numbers. Name it among the categories"),
        ({}, {}, set(), "There is no column to compare"),
    ):
        with pytest.raises(DataError) as error:
            metrics.column_fidelity(real, fake, categories)
        assert said in str(error.value)


# -- train on synthetic ---------------------------------------------------------------------------------------------


def rule(n: int, seed: int, *, flip: float = 0.0) -> dict[str, np.ndarray]:
    """A label that is the sign of a number times a category, but for a share of flips."""
    g = rng(seed)
    x, c = g.normal(size=n), g.choice(["u", "v"], n)
    label = (x > 0) ^ (c == "u") ^ (g.random(n) < flip)
    return {"x": x, "c": c, "label": np.where(label, "yes", "no"), "number": 3 * x + (c == "u") + g.normal(0, 0.5, n)}


def test_a_table_that_keeps_the_rule_teaches_as_well_as_the_real_one_and_one_without_it_nothing():
    train, test = rule(600, 0, flip=0.1), rule(600, 1, flip=0.1)
    same = metrics.train_on_synthetic(train, test, rule(600, 2, flip=0.1), "label", categories={"c"})
    # Bayes' accuracy is 0.9; the test's standard error is sqrt(.09 / 600) = 0.012, and trees of 600 records lose a few points
    assert same.task == "classification"
    assert 0.8 < same.synthetic["accuracy"].value < 0.94
    assert 0.93 < same.ratio["accuracy"].value < 1.07
    assert same.ratio["accuracy"].low < same.ratio["accuracy"].value < same.ratio["accuracy"].high
    shuffled = dict(train, label=rng(3).permutation(train["label"]))
    lost = metrics.train_on_synthetic(train, test, shuffled, "label", categories={"c"})
    # a fair coin: 0.5 within 5 standard errors of a test of 600
    assert abs(lost.synthetic["balanced accuracy"].value - 0.5) < 0.1
    assert lost.ratio["accuracy"].high < 0.75


def test_regression_scores_by_r_squared():
    names = ("x", "c", "number")
    train, test, fake = ({k: v for k, v in rule(800, s).items() if k in names} for s in range(3))
    found = metrics.train_on_synthetic(train, test, fake, "number", categories={"c"})
    # var of 3x + [c = u] is 9.25, of the noise 0.25: R^2 = 1 - 0.25/9.5 = 0.974 at best
    assert found.task == "regression"
    assert 0.93 < found.synthetic["R2"].value < 0.98
    assert found.synthetic["R2"].low < 0.974
    assert found.ratio["R2"].value == pytest.approx(1.0, abs=0.03)


def test_the_interval_of_balanced_accuracy_and_of_the_ratio_are_those_of_their_definitions():
    from pushforward.metrics import utility

    hit = np.array([1, 1, 0, 1, 0, 1, 1, 1.0])
    truth = np.array(["a"] * 3 + ["b"] * 5, dtype=object)
    value, adds = utility.balanced(hit, truth)
    assert value == pytest.approx((2 / 3 + 4 / 5) / 2)
    # variance of a mean of two recalls: (r(1 - r) / n) of each, over 4
    assert float(np.var(adds)) / 8 == pytest.approx((2 / 9 / 3 + 4 / 25 / 5) / 4)


def test_a_synthetic_table_of_one_class_scores_as_the_majority_vote_and_says_so():
    train, test = rule(300, 0), rule(300, 1)
    fake = dict(rule(300, 2), label=np.full(300, "yes"))
    found = metrics.train_on_synthetic(train, test, fake, "label", categories={"c"})
    assert found.synthetic["accuracy"].value == np.mean(test["label"] == "yes")
    assert found.synthetic["balanced accuracy"].value == 0.5
    assert "The synthetic table holds one class alone, 'yes'" in found.note


def test_train_on_synthetic_names_what_is_wrong():
    train, test = rule(60, 0), rule(60, 1)
    with pytest.raises(DataError, match="There is no column 'lable'. Did you mean 'label'"):
        metrics.train_on_synthetic(train, test, train, "lable", categories={"c"})
    with pytest.raises(ConfigError, match="task='sorting' is neither"):
        metrics.train_on_synthetic(train, test, train, "label", "sorting", categories={"c", "label"})  # type: ignore[arg-type]
    with pytest.raises(DataError, match="The held-out records' 'number' is constant"):
        metrics.train_on_synthetic(train, dict(test, number=np.ones(60)), train, "number", categories={"c", "label"})
    empty = {k: v[:0] for k, v in train.items()}
    with pytest.raises(DataError, match="the same number of records, 2 or more"):
        metrics.train_on_synthetic(train, test, empty, "label", categories={"c"})
