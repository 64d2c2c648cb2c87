"""Sliced Wasserstein against closed forms; every tolerance is derived beside its use."""

import math

import pytest
import torch
from toys import randn

from pushforward.errors import DataError
from pushforward.metrics import sliced_wasserstein
from pushforward.metrics.slices import GROUPS, _parity


def test_shift_of_one_set():
    # x and y = x + 3 are the same groups of records, so every half's quantiles differ by 3 exactly, and <3, 3> = 9.
    x = randn(64, 1)
    assert sliced_wasserstein(x, x + 3.0).value == pytest.approx(3.0, abs=1e-12)
    # In d dimensions the squares (u.v)^2 add up to |v|^2 over an orthogonal basis, so their mean is |v|^2 / d, whatever the bases.
    shift = torch.tensor([3.0, 4.0, 0.0])
    x = randn(64, 3)
    assert sliced_wasserstein(x, x + shift, projections=7).value == pytest.approx(5 / math.sqrt(3), abs=1e-12)


def test_repeated_records_have_the_same_quantiles():
    # y holds every record of x twice. Its groups are others than x's, so the halves differ, and the value is noise about 0.
    x = randn(320, 2)
    found = sliced_wasserstein(x, x.repeat_interleave(2, 0))
    assert found.low == 0.0
    # W_2 of two halves of 160 normal records is about sqrt(2 log log n / n) = 0.14; the cross product has mean 0 and less than that.
    assert found.value < 0.14


def test_equal_sets_have_no_distance_half_of_the_time():
    # The cross product of independent halves has mean 0 and is skewed upwards: it falls below 0, and the value is 0, in more than half
    # of all cases. P(Bin(40, 1/2) < 10) = 3e-4. The plug-in would never be 0.
    found = [sliced_wasserstein(randn(64, 2, seed=2 * s), randn(64, 2, seed=2 * s + 1), projections=8) for s in range(40)]
    assert sum(f.value == 0.0 for f in found) >= 10


def test_halvings_are_balanced_and_orthogonal():
    signs = torch.stack([_parity(row) for row in range(GROUPS)]).double() * 2 - 1
    assert torch.equal(signs @ signs.T, GROUPS * torch.eye(GROUPS, dtype=torch.float64))


def test_same_seed_same_bits_and_too_few_records():
    x, y = randn(40, 2), randn(50, 2, seed=1)
    assert sliced_wasserstein(x, y, seed=3) == sliced_wasserstein(x, y, seed=3)
    assert sliced_wasserstein(x, y, seed=3) != sliced_wasserstein(x, y, seed=4)
    few = sliced_wasserstein(x[:3, :1], x[:3, :1] - 2)
    assert few.value == pytest.approx(2.0, abs=1e-12)
    assert not few.known
    with pytest.raises(DataError, match="needs records in each set, got 0 and 50"):
        sliced_wasserstein(x[:0], y)
