"""Variational dequantisation of flows of vectors: a bound of probabilities known by enumeration, above the uniform one once trained."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from pushforward.data.spec import BINARY, REAL, DataSpec, categories, levels
from pushforward.errors import ConfigError
from pushforward.models.exact.dense import scrambled
from pushforward.models.exact.flow import RealNVP, SplineFlow
from pushforward.models.exact.maf import MAF, AutoregressiveSplineFlow
from pushforward.rng import Rng
from pushforward.testing import CHECKS
from pushforward.train import Batch

FLOWS: dict[str, Any] = {
    "realnvp": lambda **kw: RealNVP(layers=2, hidden=(16,), **kw),
    "spline": lambda **kw: SplineFlow(layers=2, bins=5, hidden=(16,), **kw),
    "maf": lambda **kw: MAF(layers=2, hidden=(16,), **kw),
    "maf_spline": lambda **kw: AutoregressiveSplineFlow(layers=2, bins=5, hidden=(16,), **kw),
}
MIXED = DataSpec("table", (4,), (REAL, categories(3), BINARY, levels(4)), condition_dim=2)
PAIRS = DataSpec("table", (2,), (levels(3), levels(2)))
TRUTH = torch.tensor([[0.4, 0.02], [0.03, 0.3], [0.2, 0.05]], dtype=torch.float64)
"""P of all six records of `PAIRS`."""


def every() -> Tensor:
    return torch.cartesian_prod(torch.arange(3.0), torch.arange(2.0)).double()


@pytest.mark.parametrize("name", FLOWS)
def test_log_q_is_autograds_and_only_of_discrete_entries(name: str):
    """u is a function of e ~ N(0, I) of the three discrete entries: log q(u | x) = log phi(e) - log|det du/de|."""
    model = scrambled(FLOWS[name](dequantisation="variational"), MIXED, 1, 0.05)
    x = torch.tensor([[0.3, 2.0, 1.0, 3.0]], dtype=torch.float64)
    c = torch.tensor([[0.5, -1.0]], dtype=torch.float64)
    e = Rng.seeded(5, x).randn(1, 3)
    u, log_q = model._draw_noise(model.noise, x, c, Rng.seeded(5, x))
    context = model._context(x, c)
    jacobian: Any = torch.autograd.functional.jacobian(lambda e: model.noise(e[None], context)[0][0], e[0])
    known = -0.5 * float(e.square().sum()) - 1.5 * math.log(2 * math.pi) - float(torch.linalg.slogdet(jacobian)[1])
    assert float(log_q.detach()) == pytest.approx(known, abs=1e-9), "float64 rounding of a 3 x 3 matrix"
    assert torch.allclose(u[:, 1:], model.noise(e, context)[0])
    assert float(u[0, 0].detach()) == 0.0, "a continuous entry has no noise"
    # one-hot category (3), the levels scaled to [-1, 1], the real entry and the condition
    assert torch.allclose(context, torch.tensor([[0.0, 0.0, 1.0, 0.3, 1.0, 1.0, 0.5, -1.0]], dtype=torch.float64))


class Given(Rng):
    """Noise that is no noise: the e of a quadrature."""

    def __init__(self, e: Tensor):
        super().__init__(torch.Generator(), dtype=e.dtype)
        self.e = e

    def randn(self, *shape: int) -> Tensor:
        assert shape == self.e.shape
        return self.e


@pytest.mark.parametrize("name", FLOWS)
def test_importance_weights_give_probabilities_that_sum_to_one(name: str):
    """Without a squeeze the cells fill the space: sum_x E_q[p(x + u) / q(u | x)] = 1, whatever the noise.

    By the midpoint rule over e ~ N(0, I) in [-16, 16]^2 (draws of the weights have no variance: q's tails may be the lighter ones). 120
    cells a side in place of 240, and an end at 12 in place of 16, changed no family's sum by more than 4e-4.
    """
    model = scrambled(FLOWS[name](dequantisation="variational", alpha=0.0), PAIRS, 2, 0.03)
    h = 32 / 240
    axis = -16 + h * (torch.arange(240, dtype=torch.float64) + 0.5)
    e = torch.cartesian_prod(axis, axis)
    weight = (-0.5 * e.square().sum(1)).exp() / (2 * math.pi) * h**2
    with torch.no_grad():
        p = [float((weight * model._log_prob(x.expand(len(e), 2), None, Given(e)).exp()).sum()) for x in every()]
    assert sum(p) == pytest.approx(1, abs=1e-3)
    assert min(p) > 0.01


def test_more_draws_are_averaged_inside_the_logarithm():
    model, x, rng = scrambled(FLOWS["realnvp"](dequantisation="variational"), PAIRS, 2, 0.05), every(), Rng.seeded(0, every())
    with torch.no_grad():
        three = torch.stack([model._log_prob(x, None, rng) for _ in range(3)])
        assert torch.allclose(model._log_prob(x, None, Rng.seeded(0, x), samples=3), three.exp().mean(0).log())


def fitted(dequantisation: str) -> RealNVP:
    """Fitted to `TRUTH` by all six records at once, weighted by their probability: no sampling of records."""
    model = RealNVP(layers=3, hidden=(24,), dequantisation=dequantisation)  # type: ignore[arg-type]
    model.build(PAIRS, seed=0)
    optimizer, steps, rng = torch.optim.Adam(model.parameters(), 1e-2), 250, Rng.seeded(1)
    x, weight = every().float().repeat(16, 1), TRUTH.flatten().float().repeat(16) / 16
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 1e-2 * (1 - step / steps)
        loss = (model._loss(Batch(x, None, torch.arange(len(x)), rng)).per_record * weight).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model


def test_fitted_noise_is_nearer_to_the_truth_than_uniform_noise_and_neither_exceeds_it():
    """E[bound] against sum P log P, over all six records, by 4000 draws of the noise each; and P(x) of the model by importance weights."""
    entropy = float((TRUTH * TRUTH.log()).sum())
    found = {}
    for dequantisation in ("uniform", "variational"):
        model = fitted(dequantisation).double()
        with torch.no_grad():
            records = every().repeat(4000, 1)
            draws = model._log_prob(records, None, Rng.seeded(2, records)).view(4000, 6)
        weight = TRUTH.flatten()
        bound, error = float(draws.mean(0) @ weight), float((draws.var(0) / 4000) @ weight.square()) ** 0.5
        own = draws.logsumexp(0) - math.log(4000)  # log P(x) of the model itself, with a bias of the relative variance of the mean
        assert (draws.mean(0) <= own).all(), "Jensen's inequality, which holds in every sample"
        assert bound <= entropy + 4 * error, "Gibbs' inequality: no model's bound exceeds minus the entropy"
        assert float(own.exp().sum()) < 1 + 0.05, "the six cells are part of the space"
        found[dequantisation] = bound, error
    (uniform, a), (variational, b) = found["uniform"], found["variational"]
    assert variational - uniform > 4 * math.hypot(a, b), f"{variational} against {uniform}"
    assert entropy - variational < 0.1, "and it is tight on six records"


@pytest.mark.parametrize("check", ["gradients", "save_load"])
def test_the_contract_holds_with_fitted_noise(check: str):
    CHECKS[check](lambda: RealNVP(layers=2, hidden=(8,), dequantisation="variational"))


def test_what_it_says_and_refuses():
    model = RealNVP(layers=1, dequantisation="variational").build(PAIRS)
    assert (model.density, model.estimator) == ("bound", "variational dequantisation, one draw")
    assert RealNVP(layers=1, dequantisation="variational").build(DataSpec("points", (2,))).noise is None, "nothing to dequantise"
    with pytest.raises(ConfigError, match="dequantisation must be one of uniform, variational, got 'gaussian'"):
        MAF(layers=1, dequantisation="gaussian").build(PAIRS)  # type: ignore[arg-type]
