"""AUROC and conformal p-values against counts by hand, other definitions, and their promises in repeated samples."""

import math

import pytest
import torch
from toys import randn

from pushforward import metrics
from pushforward.errors import DataError
from pushforward.metrics.ranking import auroc, conformal_p


def test_auroc_is_the_share_of_pairs_in_order_ties_counting_half():
    known, novel = torch.tensor([0.0, 1.0, 1.0, 2.0]), torch.tensor([1.0, 3.0, math.inf])
    # 1 beats 0, ties with two ones, loses to 2: 2 of 4; 3 and infinity beat all: 8
    assert auroc(known, novel).value == pytest.approx(10 / 12, abs=1e-12)
    assert auroc(novel, known).value == pytest.approx(2 / 12, abs=1e-12), "exchanged, it is the complement"
    assert auroc(known, known).value == pytest.approx(0.5, abs=1e-12)


def test_its_variance_is_delongs():
    x, y = randn(40), randn(30, seed=1) + 0.7
    wins = (y[None] > x[:, None]).double()
    variance = float(wins.mean(1).var() / 40 + wins.mean(0).var() / 30)
    found = auroc(x, y)
    assert found.value == pytest.approx(float(wins.mean()), abs=1e-12)
    assert found.stderr == pytest.approx(math.sqrt(variance), rel=1e-9)
    assert found.low < found.value < found.high
    assert metrics.auroc is auroc


@pytest.mark.parametrize("shift", [0.0, 1.0, 2.5])
def test_its_interval_holds_the_truth_in_95_percent_of_samples(shift: float):
    # N(shift, 1) against N(0, 1): P(Y > X) = Phi(shift / sqrt 2). 300 samples: 4 sd of a share of 95 % are 5 points.
    truth = float(torch.special.ndtr(torch.tensor(shift / math.sqrt(2), dtype=torch.float64)))
    x, y = randn(300, 60), randn(300, 40, seed=1) + shift
    found = [auroc(a, b) for a, b in zip(x, y)]
    share = sum(f.low <= truth <= f.high for f in found) / len(found)
    assert share >= 0.95 - 0.05
    assert sum(f.high - f.low for f in found) / len(found) < 0.26, "and it is no wider than it must be"


def test_perfect_separation_is_not_certainty():
    found = auroc(torch.arange(10.0), torch.arange(10.0) + 20)
    # Wilson's interval of 3 n m / (n + m + 1) = 14.29 successes of as many: 1 / (1 + 3.8415 / 14.29)
    assert (found.value, found.high) == (1.0, 1.0)
    assert found.low == pytest.approx(1 / (1 + 3.841459 * 21 / 300), abs=1e-6)


def test_scores_without_a_rank_are_refused():
    with pytest.raises(DataError, match=r"1 of 4 scores are no numbers.*Leave those records out"):
        auroc(torch.tensor([0.0, math.nan]), torch.ones(2))
    with pytest.raises(DataError, match="at least 2 scores of each, got 1 and 2"):
        auroc(torch.ones(1), torch.ones(2))


def test_conformal_p_counts_held_out_scores_at_least_as_high():
    p = conformal_p(torch.tensor([3.0, 1.0, 2.0, 2.0]), torch.tensor([0.0, 2.0, 2.5, 9.0, math.inf]))
    assert p.tolist() == pytest.approx([5 / 5, 4 / 5, 2 / 5, 1 / 5, 1 / 5])


def test_conformal_p_is_uniform_on_its_grid_for_records_like_the_held_out_ones():
    # 19 held-out scores and one more are exchangeable, so P(p <= k / 20) = k / 20 exactly; 4000 sets: 4 sd of a share are 3.2 points.
    scores = randn(4000, 20)
    p = torch.stack([conformal_p(s[:19], s[19:])[0] for s in scores])
    for k in (1, 2, 10):
        assert abs(float((p <= k / 20 + 1e-9).double().mean()) - k / 20) < 0.032
