"""Gaussian mixtures: scikit-learn's numbers, mass one over reals and over all small images, budgets, labels, refusals."""

import itertools
import math
import time

import numpy as np
import pytest
import torch

from pushforward.data import load_data
from pushforward.data.spec import BINARY, REAL, UNIT, DataSpec, categories, levels
from pushforward.errors import ConfigError, DataError, Diverged, Unsupported
from pushforward.models.classical.mixture import GaussianMixture, known_answers
from pushforward.objective import Training
from pushforward.rng import Rng

KINDS = ("full", "tied", "diag", "spherical")


@pytest.fixture(scope="module")
def points():
    random = np.random.default_rng(0)
    label = random.integers(0, 2, 300)
    x = random.normal(size=(300, 2)) @ np.array([[1.0, 0.5], [0.0, 0.7]]) + 4 * label[:, None]
    return load_data(x.astype(np.float32), label=label)


def random_mixture(spec: DataSpec, covariance: str = "full", components: int = 3) -> GaussianMixture:
    model = GaussianMixture(components=components, covariance=covariance).build(spec).double()
    rng = Rng.seeded(1, model.means)
    model.means.copy_(0.5 * rng.randn(*model.means.shape))
    model.log_weights.copy_(rng.randn(*model.log_weights.shape).log_softmax(-1))
    P = model.precision_factors
    P.copy_(P + rng.rand(*P.shape) * P + (rng.randn(*P.shape).triu(1) if P.ndim == 4 else 0.0))
    return model


def test_known_answers():
    for answer in known_answers():
        assert answer.holds, answer


@pytest.mark.parametrize("covariance", KINDS)
def test_samples_have_the_moments_of_the_mixture(covariance):
    model = random_mixture(DataSpec("points", (2,)), covariance)
    n = 20_000
    y = model._sample(n, None, Rng.seeded(2, model.means))
    w, mu, P = model.log_weights[0].exp(), model.means[0], model.precision_factors[0]
    P = P.expand(3, *P.shape[1:])
    sigma = torch.linalg.inv(P @ P.mT) if P.ndim == 3 else torch.diag_embed(P.expand_as(mu) ** -2)
    mean = w @ mu
    cov = (w[:, None, None] * (sigma + (mu - mean)[:, :, None] * (mu - mean)[:, None, :])).sum(0)
    # Five standard errors of a mean, and of a covariance (sqrt((1 + kurtosis) / n), at most 3 for these mixtures).
    assert ((y.mean(0) - mean).abs() < 5 * (cov.diagonal() / n).sqrt()).all()
    assert (y.T.cov() - cov).abs().max() < 5 * 3 * cov.abs().max() / math.sqrt(n)
    # Cross-entropy of its own samples: E[-log p] is the entropy, and the mean log-density of draws from a grid integrates to the same.
    side = torch.linspace(-9, 9, 721, dtype=torch.float64)
    grid = torch.cartesian_prod(side, side)
    log_p = model._log_prob(grid, None, Rng.seeded(0, grid))
    cell = (18 / 720) ** 2
    assert float(log_p.exp().sum() * cell) == pytest.approx(1.0, abs=1e-6)
    entropy = -float((log_p.exp() * log_p).sum() * cell)
    log_q = model._log_prob(y, None, Rng.seeded(0, y))
    assert float(-log_q.mean()) == pytest.approx(entropy, abs=5 * float(log_q.std()) / math.sqrt(n))


@pytest.mark.parametrize("support", [BINARY, levels(3), categories(3)], ids=str)
def test_discrete_records_have_total_probability_one_at_most(support):
    """The cells tile a box, and log P(cell) = log of the mean density over it: over all records the mass of the box is left."""
    spec = DataSpec("table", (2,), (support,))
    model = random_mixture(spec)
    assert model.density == "bound"
    every = torch.tensor(list(itertools.product(range(support.size or 0), repeat=2)), dtype=torch.float64)
    many = model._log_prob(every, None, Rng.seeded(0, every), samples=2000).exp()
    side = torch.linspace(-1, 1, 1001, dtype=torch.float64)
    box = GaussianMixture(components=3).build(DataSpec("points", (2,))).double()
    box.load_state_dict(model.state_dict())
    inside = box._log_prob(torch.cartesian_prod(side, side), None, Rng.seeded(0, side)).exp().reshape(1001, 1001)
    mass = torch.trapezoid(torch.trapezoid(inside, side), side)
    # Monte Carlo over the cells: 2000 draws each, a relative error of about 1 / sqrt(2000) a cell, 5 of them, and fewer as cells average.
    assert float(many.sum()) == pytest.approx(float(mass), rel=5 / math.sqrt(2000))
    # In expectation fewer draws give a lower bound (Jensen).
    few = torch.stack([model._log_prob(every, None, Rng.seeded(s, every), samples=1) for s in range(100)]).mean(0)
    assert (few < many.log() + 0.02).all()


def test_mixed_records_come_back_in_their_support():
    spec = DataSpec("table", (5,), (REAL, BINARY, levels(7), UNIT, categories(3)))
    x = random_mixture(spec)._sample(500, None, Rng.seeded(0, torch.zeros((), dtype=torch.float64)))
    for column, s in zip(x.T, spec.columns):
        if s.size:
            assert set(column.tolist()) <= set(range(s.size))
        elif s.name == "unit":
            assert ((column >= 0) & (column <= 1)).all()
    # A record and its cell's middle are inverse to each other.
    model = random_mixture(spec)
    assert torch.allclose(model._decode_cells(model._encode_cells(x, None)), x, atol=1e-12)


def test_chunks_of_em_are_one_em(points):
    """Warm starts go on exactly where the last iteration stopped."""
    from sklearn.mixture import GaussianMixture as Peer

    model = GaussianMixture(components=3, tol=1e-9).fit(points, steps=40).double()
    y = points.train.tensor(torch.float64)
    with pytest.warns(match="did not converge"):
        peer = Peer(3, tol=1e-9, max_iter=40, random_state=0).fit(y.numpy())
    ours = model._log_prob(y, None, Rng.seeded(0, y))
    # The model keeps its parameters in single precision: 1e-7 of numbers of order 10.
    assert np.abs(ours.numpy() - peer.score_samples(y.numpy())).max() < 1e-4


def test_minutes_are_honoured(points):
    start = time.perf_counter()
    GaussianMixture(components=20, tol=0.0).fit(points, minutes=0.005)
    assert time.perf_counter() - start < 20  # 0.3 seconds were asked for; EM with tol=0 alone would not end


def test_ctrl_c_keeps_what_was_done(points, monkeypatch, capsys):
    from sklearn.mixture import GaussianMixture as Peer

    fit, calls = Peer.fit, []

    def interrupted(self, y):
        calls.append(1)
        if len(calls) > 2:
            raise KeyboardInterrupt
        return fit(self, y)

    monkeypatch.setattr(Peer, "fit", interrupted)
    model = GaussianMixture(components=3, tol=0.0)
    with pytest.raises(KeyboardInterrupt):
        model.fit(points)
    assert (model.means != 0).all()
    assert "Interrupted after" in capsys.readouterr().err


def test_labels_give_one_mixture_each(points):
    model = GaussianMixture(components=4).fit(points, condition=True)
    assert model.means.shape == (2, 2, 2)
    mine = points.train.records()[:50]
    own = points.train.labels()[:50]
    right, wrong = model.log_prob(mine, condition=own), model.log_prob(mine, condition=1 - own)
    assert (right > wrong).float().mean() > 0.9
    means = [model.sample(400, condition=k, seed=0).mean() for k in (0, 1)]
    assert means[1] - means[0] > 3
    # Each class's own density: the rows of a mixed batch are those of the batches of one class.
    x, c = model._inputs(mine, own)
    assert c is not None
    alone = torch.cat([model._joint(x[i : i + 1], c[i : i + 1]) for i in range(50)])
    assert torch.allclose(model._joint(x, c), alone, rtol=1e-5)


def test_codes_are_responsibilities(points):
    model = GaussianMixture(components=3).fit(points)
    z, q = model.encode(points.test), model.posterior(points.test)
    assert z.shape == (len(points.test), 3)
    assert torch.allclose(z.sum(1), torch.ones(len(z)))
    assert torch.allclose(q.probs, z)
    assert model.decode(torch.eye(3)).shape == (3, 2)
    with pytest.raises(DataError, match=r"responsibilities \(n, 3\), one per component; got \(2, 5\)"):
        model.decode(torch.zeros(2, 5))


def test_the_default_regularisation_is_the_noise_of_a_cell():
    assert GaussianMixture().build(DataSpec("image", (1, 2, 2), (levels(17),)))._regularisation() == pytest.approx((2 / 17) ** 2 / 12)
    assert GaussianMixture().build(DataSpec("points", (2,)))._regularisation() == 1e-6
    assert GaussianMixture(reg_covar=0.5).build(DataSpec("points", (2,)))._regularisation() == 0.5


def test_refusals_name_the_remedy(points):
    vector = load_data(np.random.default_rng(0).normal(size=(60, 2)).astype(np.float32), label=np.linspace(0, 1, 60))
    with pytest.raises(Unsupported, match="conditional on labels only.*Use realnvp, made or vae"):
        GaussianMixture().fit(vector, condition=True)
    with pytest.raises(DataError, match=r"training records for 500 components. Give components=\d+ or less"):
        GaussianMixture(components=500).fit(points)
    with pytest.raises(DataError, match=r"of class 0 for 250 components"):
        GaussianMixture(components=500).fit(points, condition=True)
    with pytest.raises(ConfigError, match="components must be at least 1, got 0"):
        GaussianMixture(components=0).fit(points)
    model = GaussianMixture(components=2, reg_covar=0.0).build(DataSpec("points", (2,)))
    same = torch.ones(20, 2, dtype=torch.float64)
    with pytest.raises(Diverged, match=r"EM broke down .* raise reg_covar \(now 0\)"):
        model._fit_class(0, same, Training(steps=5), None)


def bound(model: GaussianMixture) -> GaussianMixture:
    """The mixture with entries that say much of each other."""
    P = model.precision_factors
    if P.ndim == 4:
        P += 3 * P.triu(1)
    return model


@pytest.mark.parametrize("covariance", KINDS)
def test_an_entry_is_completed_by_its_conditional(covariance):
    """y_1 given y_0 and y_2: the distribution function of 4,000 draws against quadrature of p(y) over y_1. Their largest difference
    exceeds 1.95 / sqrt(4000) = 0.031 once in a thousand (Kolmogorov)."""
    model = bound(random_mixture(DataSpec("points", (3,)), covariance))
    known, at = torch.tensor([True, False, True]), torch.tensor([0.7, math.nan, -0.4], dtype=torch.float64)
    draws = model._complete(at.expand(4000, 3).nan_to_num(), known, None, Rng.seeded(3, at))
    assert torch.equal(draws[:, known], at[known].expand(4000, 2))
    line = torch.linspace(-12, 12, 24_001, dtype=torch.float64)
    y = torch.stack([at[0].expand_as(line), line, at[2].expand_as(line)], 1)
    p = model._log_prob(y, None, Rng.seeded(0, y)).exp()
    function = p.cumsum(0) / p.sum()
    drawn = draws[:, 1].sort().values
    below = function[torch.searchsorted(line, drawn).clamp(max=len(line) - 1)]
    assert (below - torch.linspace(0, 1, 4000)).abs().max() < 0.031


def test_two_entries_are_completed_together():
    """Mean and covariance of (y_0, y_1) given y_2, against quadrature in the plane; five standard errors of 20,000 draws, whose kurtosis
    a mixture of three keeps below nine."""
    model = bound(random_mixture(DataSpec("points", (3,))))
    known = torch.tensor([False, False, True])
    draws = model._complete(torch.full((20_000, 3), 0.3, dtype=torch.float64), known, None, Rng.seeded(4, model.means))[:, :2]
    side = torch.linspace(-7, 7, 281, dtype=torch.float64)
    plane = torch.cartesian_prod(side, side)
    p = model._log_prob(torch.cat([plane, torch.full((len(plane), 1), 0.3)], 1), None, Rng.seeded(0, plane)).exp()
    mean = (p[:, None] * plane).sum(0) / p.sum()
    cov = ((plane - mean).mT * (p / p.sum())) @ (plane - mean)
    assert ((draws.mean(0) - mean).abs() < 5 * (cov.diagonal() / 20_000).sqrt()).all()
    assert (draws.mT.cov() - cov).abs().max() < 5 * 3 * cov.max() / math.sqrt(20_000)


def test_a_known_cell_is_a_place_that_is_not_known():
    """P(x_0 | x_1, x_2) of four levels, given one of two values and a real: products of normal masses of cells, summed over components.
    The outer cells of what is drawn reach to infinity. 20,000 draws, five standard errors; 200 places bend it by less than 1 / 200."""
    spec = DataSpec("points", (3,), (levels(4), BINARY, REAL))
    model = random_mixture(spec, "diag")
    model.means[0, :, :2] = torch.tensor([[-0.6, 0.2], [0.1, 0.6], [0.7, -0.5]])
    model.precision_factors[0, :, 1] = torch.tensor([15.0, 3.0, 3.0])  # of two that share the cell one is narrow: places are not alike
    x = torch.tensor([0.0, 1.0, 0.2], dtype=torch.float64)
    known = torch.tensor([False, True, True])
    draws = model._complete(x.expand(20_000, 3), known, None, Rng.seeded(5, x), draws=200)
    assert torch.equal(draws[:, 1:], x[1:].expand(20_000, 2))

    mu, P = model.means[0], model.precision_factors[0]
    ends = torch.tensor([-math.inf, -0.5, 0.0, 0.5, math.inf], dtype=torch.float64)
    masses = torch.special.ndtr((ends - mu[:, :1]) * P[:, :1]).diff(dim=1)
    cell = torch.special.ndtr((torch.tensor([0.0, 1.0]) - mu[:, 1:2]) * P[:, 1:2]).diff(dim=1)
    rest = model.log_weights[0].exp() * cell[:, 0] * P[:, 2] * (-0.5 * ((0.2 - mu[:, 2]) * P[:, 2]) ** 2).exp()
    wanted = (rest[:, None] * masses).sum(0) / rest.sum()
    share = draws[:, 0].long().bincount(minlength=4) / 20_000
    assert ((share - wanted).abs() < 5 * (wanted * (1 - wanted) / 20_000).sqrt() + wanted / 200).all()


def test_a_label_completes_by_its_own_mixture(points):
    """E[x_1 | x_0 = 2] is 1 for label 0 and 4 + (2 - 4) / 2 = 3 for label 1. A line through 130 records with residuals of 0.7 is known to
    0.7 sqrt(5 / 130) = 0.14 two standard deviations out; two components to a label, and the mean of 400 draws, leave 0.5."""
    model = GaussianMixture(components=4).fit(points, condition=True)
    records = np.tile(np.array([2.0, np.nan], np.float32), (400, 1))
    for label, wanted in ((0, 1.0), (1, 3.0)):
        drawn = model.complete(records, condition=label, seed=0)
        assert np.array_equal(drawn[:, 0], records[:, 0])
        assert abs(drawn[:, 1].mean() - wanted) < 0.5
    with pytest.raises(ConfigError, match="draws must be at least 1"):
        model.complete(records, condition=0, draws=0)
