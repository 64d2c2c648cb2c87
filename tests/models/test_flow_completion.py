"""`complete` of flows: conditionals of a Gaussian in closed form, of cells by quadrature, and what weights and moves do by themselves."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

import pushforward as pf
from pushforward.bijections import Bijection
from pushforward.bijections.linear import Linear
from pushforward.data.spec import REAL, DataSpec, levels
from pushforward.errors import Unsupported
from pushforward.models.exact import completion
from pushforward.models.exact.dense import DenseFlow
from pushforward.rng import Rng

QUICK = {"steps": 4, "batch_size": 32, "progress": False, "alarms": False}


class Affine(DenseFlow):
    """z = A y + b: y is a Gaussian with precision A^T A and mean -A^-1 b."""

    def __init__(self, alpha: float = 0.0):
        super().__init__()
        self.layers, self.alpha, self.dequantisation = 1, alpha, "uniform"

    def _steps(self, spec: DataSpec) -> list[Bijection]:
        return [Linear(spec.dim)]

    def of(self, spec: DataSpec, scale: float = 0.6) -> "Affine":
        self.build(spec, seed=0).double()
        with torch.no_grad():
            for p in self.parameters():
                p.copy_(scale * torch.randn(p.shape, generator=torch.Generator().manual_seed(1), dtype=p.dtype))
        return self

    def tight(self, spec: DataSpec) -> "Affine":
        """Two entries, each of which says much of the other, with the known one spread over its cell."""
        self.of(spec)
        with torch.no_grad():
            self.flow.layers[0].lu.copy_(torch.tensor([[0.2, 0.9], [0.5, -0.3]]))  # pyright: ignore
        return self

    def gaussian(self) -> tuple[Tensor, Tensor]:
        """Mean and precision."""
        assert self.spec is not None
        with torch.no_grad():
            b = self.flow(torch.zeros(1, self.spec.dim, dtype=torch.float64))[0][0]
            a = (self.flow(torch.eye(self.spec.dim, dtype=torch.float64))[0] - b).t()
        return -torch.linalg.solve(a, b), a.t() @ a


def conditional(model: Affine, x: Tensor, known: Tensor) -> torch.distributions.MultivariateNormal:
    """p(y_u | y_k) = N(mu_u - L_uu^-1 L_uk (y_k - mu_k), L_uu^-1), with L the precision."""
    mean, precision = model.gaussian()
    u = ~known
    own = precision[u][:, u]
    shift = torch.linalg.solve(own, precision[u][:, known] @ (x[known] - mean[known]))
    return torch.distributions.MultivariateNormal(mean[u] - shift, precision_matrix=own)


def agrees(y: Tensor, truth: torch.distributions.MultivariateNormal, slack: float = 0.0) -> None:
    """Means and covariances of n draws within 4.5 standard errors: s / sqrt(n), and for the entries of a Gaussian's covariance
    sqrt((s_i^2 s_j^2 + s_ij^2) / n); `slack` is what a finite number of chains may leave."""
    n, s2, cov = len(y), truth.variance, truth.covariance_matrix
    assert ((y.mean(0) - truth.mean).abs() < 4.5 * (s2 / n).sqrt() + slack).all()
    error = ((s2[:, None] * s2 + cov.square()) / n).sqrt()
    assert ((y.t().cov() - cov).abs() < 4.5 * error + slack).all()


X = torch.tensor([0.4, -1.3, 0.9, 2.0], dtype=torch.float64)
KNOWN = torch.tensor([True, False, True, False])


def test_a_gaussian_has_the_conditionals_that_it_has():
    """Records of two patterns, run together."""
    model = Affine().of(DataSpec("points", (4,)))
    free, _ = model.gaussian()
    patterns = (KNOWN, torch.tensor([False, False, False, True]))
    y = model._complete(X.expand(500, -1), torch.cat([p.expand(250, -1) for p in patterns]), None, Rng.seeded(2, X))
    for drawn, known in zip(y.split(250), patterns):
        truth = conditional(model, X, known)
        # The known entries move the others, so that a method which forgot them would be seen.
        assert float((truth.mean - free[~known]).abs().max()) > 0.5
        assert torch.equal(drawn[:, known], X[known].expand(250, -1))
        agrees(drawn[:, ~known], truth)


def test_weights_alone_and_moves_alone(monkeypatch):
    """One temperature and no moves: draws from N(0, I), 100 a record, one taken by its weight: right up to a bias of the order of
    1 / chains. Without weights the moves alone must lead there from anywhere near."""
    model = Affine().of(DataSpec("points", (4,)), 0.3)
    truth = conditional(model, X, KNOWN)
    monkeypatch.setattr(completion, "MOVES", 0)
    y = model._complete(X.expand(200, -1), KNOWN, None, Rng.seeded(3, X), chains=100, temperatures=1)
    agrees(y[:, ~KNOWN], truth, slack=5 / 100)
    start = model._complete(X.expand(200, -1), KNOWN, None, Rng.seeded(3, X), chains=1, temperatures=1)[:, ~KNOWN]
    assert float((start.mean(0) - truth.mean).abs().max()) > 0.3  # one chain has no choice: still N(0, I)
    monkeypatch.setattr(completion, "MOVES", 40)
    agrees(model._complete(X.expand(200, -1), KNOWN, None, Rng.seeded(3, X), chains=1, temperatures=1)[:, ~KNOWN], truth)


def test_cells_have_their_probabilities():
    """Two entries of three levels: P(x_1, x_2) is the mass of a Gaussian over a cell of logits, by the midpoint rule on 100 x 100 points
    of (u_1, u_2); alpha = 0, so that the nine cells are all there is."""
    spec = DataSpec("points", (2,), (levels(3), levels(3)))
    model = Affine().tight(spec)
    mean, precision = model.gaussian()
    truth = torch.distributions.MultivariateNormal(mean, precision_matrix=precision)
    u = (torch.arange(300, dtype=torch.float64) + 0.5) / 300
    logit = u.logit()
    density = truth.log_prob(torch.cartesian_prod(logit, logit)).view(300, 300) - (u * (1 - u)).log()[:, None] - (u * (1 - u)).log()
    P = density.exp().view(3, 100, 3, 100).sum((1, 3)) / 300**2
    assert abs(float(P.sum()) - 1) < 1e-3
    n = 250
    for first in range(3):
        x = torch.tensor([first, 0.0], dtype=torch.float64)
        y = model._complete(x.expand(n, -1), torch.tensor([True, False]), None, Rng.seeded(first, x), temperatures=50)
        assert (y[:, 0] == first).all()
        p = P[first] / P[first].sum()
        share = torch.bincount(y[:, 1].long(), minlength=3) / n
        assert ((share - p).abs() < 4 * (p * (1 - p) / n).sqrt() + 1e-3).all(), (first, share, p)


def test_a_mixed_table_with_a_condition():
    """A real entry given the cell of a level: E[y_1 | x_2] is a ratio of two integrals over the cell."""
    spec = DataSpec("table", (2,), (REAL, levels(3)))
    model = Affine().tight(spec)
    mean, precision = model.gaussian()
    cov = torch.linalg.inv(precision)
    x = torch.tensor([0.0, 0.0], dtype=torch.float64)  # the outer cell, in which dy/du varies
    u = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000 / 3
    y2 = u.logit()
    w = torch.distributions.Normal(mean[1], cov[1, 1].sqrt()).log_prob(y2).exp() / (u * (1 - u))
    given = mean[0] + cov[0, 1] / cov[1, 1] * (y2 - mean[1])
    first = float((w * given).sum() / w.sum())
    second = float((w * (given.square() + cov[0, 0] - cov[0, 1] ** 2 / cov[1, 1])).sum() / w.sum())
    y = model._complete(x.expand(300, -1), torch.tensor([False, True]), None, Rng.seeded(5, x), temperatures=50)
    assert (y[:, 1] == 0).all()
    assert abs(float(y[:, 0].mean()) - first) < 4 * math.sqrt((second - first**2) / 300)
    assert abs(first - float(mean[0])) > 0.15  # four standard errors: it hangs on the cell


def test_all_and_nothing_are_known():
    model = Affine().of(DataSpec("points", (4,)))
    every, none = torch.ones(4).bool(), torch.zeros(4).bool()
    assert torch.equal(model._complete(X[None], every, None, Rng.seeded(0, X)), X[None])
    sampled = model._sample(3, None, Rng.seeded(4, X))
    assert torch.equal(model._complete(X.expand(3, -1), none, None, Rng.seeded(4, X)), sampled)


def test_a_table_is_filled_in_its_own_units():
    """y = 2 x + noise: what is missing in y lies about its line, at 100 times the scale of x."""
    import pandas as pd

    rng = np.random.default_rng(0)
    x = rng.normal(size=600)
    frame = pd.DataFrame({"x": x, "y": 100 * (2 * x + 0.1 * rng.normal(size=600))})
    model = pf.RealNVP(layers=4, hidden=(32,)).fit(pf.load_data(frame), steps=300, lr=5e-3, progress=False, alarms=False, seed=0)
    holes = frame.head(20).copy()
    holes.loc[::2, "y"] = np.nan
    filled = model.complete(holes, seed=1, temperatures=50)
    pd.testing.assert_frame_equal(filled.iloc[1::2], holes.iloc[1::2], rtol=1e-5)
    off = (filled["y"] - 200 * filled["x"]).to_numpy()[::2]
    assert np.abs(off).max() < 100  # sd of y itself: 200


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_what_is_known_comes_back_to_the_last_digit(library: str):
    frames = pytest.importorskip(library)
    rng = np.random.default_rng(0)
    columns = {"x": rng.normal(size=40).astype(np.float32), "y": 1e6 + rng.normal(size=40), "n": np.arange(40)}
    model = pf.RealNVP(layers=2, hidden=(8,)).fit(pf.load_data(frames.DataFrame(columns)), **QUICK)
    filled = model.complete(frames.DataFrame(columns), ["y", "n"], seed=0, temperatures=2, chains=1, steps=1)
    for name in ("y", "n"):
        assert np.array_equal(filled[name].to_numpy(), columns[name])
    assert filled["x"].to_numpy().dtype == np.float32
    assert not np.array_equal(filled["x"].to_numpy(), columns["x"])


def test_an_estimated_density_says_so():
    pytest.importorskip("torchdiffeq")
    model = pf.catalog()["continuous"](hidden=(8,), trace="hutchinson").build(DataSpec("points", (3,)))
    with pytest.raises(Unsupported, match="estimates it"):
        model.complete(np.full((2, 3), np.nan))
