"""Kernel densities: scikit-learn's numbers, the bandwidth, moments of samples, labels, loading, refusals."""

import math

import numpy as np
import pytest
import torch
from sklearn.neighbors import KernelDensity as Peer

import pushforward as pf
from pushforward.data.spec import DataSpec
from pushforward.errors import ConfigError, DataError, Unsupported
from pushforward.models.classical.kde import KernelDensity, best_bandwidth, known_answers, leave_one_out, scale_factor
from pushforward.rng import Rng


def correlated(n: int, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).normal(size=(n, 2)) @ np.array([[2.0, 1.0], [0.0, 0.5]]) + [3, -1]).astype(np.float64)


def test_known_answers():
    for answer in known_answers():
        assert answer.holds, answer


@pytest.mark.parametrize("covariance", ["full", "diag", "spherical"])
def test_fit_scores_as_scikit_learn_does_in_the_users_units(covariance):
    data = pf.load_data(correlated(200))
    model = KernelDensity(covariance=covariance).fit(data, progress=False).double()
    x = torch.from_numpy(data.train.records()).double()
    z = data.train.tensor(torch.float64)
    factor = torch.linalg.inv(scale_factor(z, covariance))
    test = data.test.tensor(torch.float64)
    peer = Peer(bandwidth=float(model.widths[0])).fit((z @ factor.T).numpy())
    jacobian = float(factor.diagonal().log().sum()) + data.schema.log_det
    scores = torch.from_numpy(peer.score_samples((test @ factor.T).numpy())) + jacobian
    # The fit is stored in single precision: 6e-8 relative on log-densities whose squares are of order 100.
    assert torch.allclose(model.log_prob(data.test), scores, atol=1e-4)
    assert len(x) == len(model.points)


def test_bandwidth_is_the_best_of_a_fine_grid():
    x = torch.from_numpy(correlated(150))
    white = torch.linalg.solve_triangular(scale_factor(x, "full"), x.T, upper=False).T
    square = torch.cdist(white, white).square().fill_diagonal_(math.inf)
    grid = [0.05 * 1.02**t for t in range(160)]
    figures = [leave_one_out(square, h, 2) for h in grid]
    best = grid[int(np.argmax(figures))]
    assert best_bandwidth(white) == pytest.approx(best, rel=0.02)  # the grid's own step
    # Silverman's rule is the asymptotic optimum for normal records: (4 / (D + 2))^(1/(D+4)) n^(-1/(D+4)) = 0.43.
    assert 0.5 * 0.43 < best_bandwidth(white) < 1.5 * 0.43


def test_repeated_records_do_not_drive_the_bandwidth_to_zero():
    x = torch.from_numpy(correlated(100))
    once, twice = best_bandwidth(x), best_bandwidth(torch.cat([x, x]))
    # Twice the records carry no news: the others' bumps are the same, so that L moves by a constant alone.
    assert twice == pytest.approx(once, rel=1e-2)


def test_samples_have_the_moments_of_the_density():
    data = pf.load_data(correlated(300))
    model = KernelDensity().fit(data, progress=False)
    h2 = float(model.widths[0]) ** 2
    z = data.train.tensor(torch.float64)
    n = 40_000
    y = model._sample(n, None, Rng.seeded(1, model.points)).double()
    # Mean of the records, and (1 + h^2) times their covariance; five standard errors.
    covariance = (1 + h2) * z.T.cov(correction=0)
    assert ((y.mean(0) - z.mean(0)).abs() < 5 * (covariance.diagonal() / n).sqrt()).all()
    assert ((y.T.cov() - covariance).abs() < 5 * math.sqrt(3 / n) * covariance.abs().max()).all()


def test_each_label_has_its_own_density(tmp_path):
    random = np.random.default_rng(0)
    label = random.integers(0, 2, 200)
    x = random.normal(size=(200, 2)) * np.where(label, 0.1, 1.0)[:, None] + 8 * label[:, None]
    data = pf.load_data(x, label=label)
    model = KernelDensity().fit(data, condition=True, progress=False)
    assert (np.abs(model.sample(50, condition=1, seed=0) - 8) < 1).all()
    right, wrong = (model.log_prob(data.test.records(), condition=c) for c in (data.test.labels(), 1 - data.test.labels()))
    assert (right > wrong).all()
    again = pf.load(model.save(tmp_path / "run"))
    assert torch.equal(again.log_prob(data.test), model.log_prob(data.test))
    assert again.points.shape == model.points.shape


def test_centres_bound_what_is_kept():
    model = KernelDensity(centres=40).fit(pf.load_data(correlated(200)), progress=False)
    assert len(model.points) == 40


def test_refusals():
    with pytest.raises(Unsupported, match=r"real numbers.*LatentPrior\(Autoencoder"):
        KernelDensity().build(DataSpec("image", (1, 2, 2), (pf.load_data("digits").schema.spec.supports[0],)))
    with pytest.raises(ConfigError, match="bandwidth must be a number above 0"):
        KernelDensity(bandwidth=-1.0).build(DataSpec("points", (2,)))
    with pytest.raises(ConfigError, match="centres must be at least 2"):
        KernelDensity(centres=1).build(DataSpec("points", (2,)))
    x = correlated(60)
    with pytest.raises(Unsupported, match="conditional on labels only"):
        KernelDensity().fit(pf.load_data(x), condition=x, progress=False)
    lonely = pf.load_data(x, label=np.r_[np.zeros(59, int), 1], test=0.0, validation=0.0)
    with pytest.raises(DataError, match="two different training records of class"):
        KernelDensity().fit(lonely, condition=True, progress=False)
