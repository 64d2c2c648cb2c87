"""The two-dimensional densities: those that are known integrate to one and are what is drawn; all stay where they belong."""

import math

import pytest
import torch

from pushforward.data import Mixture2D, load_data
from pushforward.data.densities import DRAWN, KNOWN


@pytest.mark.parametrize("name", KNOWN)
def test_log_prob_integrates_to_one(name):
    d = KNOWN[name]()
    # A trapezium sum over a Gaussian with step h has relative error 2 exp(-2 pi^2 sd^2 / h^2); with h = sd that is 5e-9, and 8 sd
    # each way leave out 1e-15. One square about each mean; other components are at least 40 sd away.
    t = torch.arange(-8, 9, dtype=torch.float64) * d.sd
    square = torch.cartesian_prod(t, t)
    total = sum(float(d.log_prob(m + square).exp().sum()) * d.sd**2 for m in d.means)
    assert total == pytest.approx(1, abs=2e-8)


@pytest.mark.parametrize("name", KNOWN)
def test_samples_have_the_entropy_of_the_density(name):
    d = KNOWN[name]()
    n = 20_000
    lp = d.log_prob(d.sample(n, seed=1))
    # Components do not overlap: entropy = log K + log(2 pi e sd^2), and log p varies as half a chi-square of 2 degrees: variance 1.
    entropy = math.log(len(d.means)) + math.log(2 * math.pi * math.e * d.sd**2)
    assert float(-lp.mean()) == pytest.approx(entropy, abs=5 / math.sqrt(n))
    shares = torch.bincount(d.nearest(d.sample(n, seed=1)), minlength=len(d.means)) / n
    # Each share is binomial; 5 sd.
    k = 1 / len(d.means)
    assert (shares - k).abs().max() < 5 * math.sqrt(k * (1 - k) / n)


def test_ring_and_grid_are_the_published_ones():
    ring, grid = Mixture2D.ring(), Mixture2D.grid()
    assert ring.means.shape == (8, 2)
    torch.testing.assert_close(ring.means.norm(dim=1), torch.ones(8, dtype=torch.float64))
    assert sorted(set(grid.means.flatten().tolist())) == [-4, -2, 0, 2, 4]
    assert (ring.sd, grid.sd) == (0.01, 0.05)


@pytest.mark.parametrize("name", [*KNOWN, *DRAWN])
def test_named_densities_are_seeded_and_come_back(name):
    a, b, c = load_data(name, n=100), load_data(name, n=100), load_data(name, n=100, seed=1)
    assert a.fingerprint() == b.fingerprint() != c.fingerprint()
    assert a.spec.shape == (2,)
    assert (a.truth is not None) == (name in KNOWN)


def test_supports_of_the_drawn():
    board = DRAWN["checkerboard"](4000, 0)
    square = (board / 2).floor()
    assert board.abs().max() <= 4
    assert (square.sum(1) % 2 == 0).all()
    counts = torch.unique(square, dim=0, return_counts=True)[1]
    assert len(counts) == 8
    # Binomial(4000, 1/8): 5 sd is 105.
    assert (counts - 500).abs().max() < 105
    roll = DRAWN["swiss-roll"](1000, 0) * 5
    # Radius t in [1.5 pi, 4.5 pi], blurred by 0.2: 5 sd.
    assert 1.5 * math.pi - 1 < roll.norm(dim=1).min() < roll.norm(dim=1).max() < 4.5 * math.pi + 1
    moons = DRAWN["moons"](1000, 0)
    upper, lower = moons.norm(dim=1), (moons - torch.tensor([1.0, 0.5])).norm(dim=1)
    assert (torch.minimum((upper - 1).abs(), (lower - 1).abs()) < 0.5).all()
    wheel = DRAWN["pinwheel"](5000, 0)
    # Five arms turned by 72 degrees: their means cancel. Entries have sd about 1.5: 5 standard errors.
    assert wheel.mean(0).abs().max() < 5 * 1.5 / math.sqrt(5000)
