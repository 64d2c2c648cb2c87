"""The classifier two-sample test on sets that are equal, far apart, and of equal mean."""

import pytest
import torch
from toys import randn

from pushforward.errors import DataError
from pushforward.metrics import classifier_two_sample


def test_equal_sets_score_one_half_within_the_interval():
    # Whatever the classifier, its answers are right with probability 1/2 on a new record of either set; seeds 0-4 all miss with 5e-7.
    found = [classifier_two_sample(randn(200, 3, seed=2 * s), randn(150, 3, seed=2 * s + 1), seed=s) for s in range(5)]
    assert sum(f.low <= 0.5 <= f.high for f in found) >= 3  # P(Bin(5, .95) <= 2) = 1e-3
    assert all(f.n == 150 for f in found)  # 75 of each set are tested, so the standard error is 1/sqrt(4 * 150)
    assert found[0].stderr == pytest.approx(0.0408, abs=0.002)


def test_a_shift_and_a_change_of_scale_are_both_found():
    # N(0, 1) and N(6, 1): the best rule errs with probability P(z > 3) = 0.13 %; 200 answers
    assert classifier_two_sample(randn(200, 1), randn(200, 1, seed=1) + 6).value > 0.97
    # Radii of 2-dimensional normals of sd 1 and 4: the best rule is right with 1/2 + max_r (F_1 - F_4)/2 = 0.86 (r^2 = 2 ln 16 * 16/15);
    # a straight line can do no better than 1/2. A standard error is 2.5 %, learning costs some more.
    assert classifier_two_sample(randn(200, 2), 4 * randn(200, 2, seed=1)).value > 0.75


def test_same_seed_same_split_and_too_few_records():
    x, y = randn(60, 2), randn(60, 2, seed=1)
    state = torch.random.get_rng_state()
    assert classifier_two_sample(x, y, seed=1) == classifier_two_sample(x, y, seed=1)
    assert torch.equal(torch.random.get_rng_state(), state)
    with pytest.raises(DataError, match="at least 12 records in each set, got 11 and 60"):
        classifier_two_sample(x[:11], y)
