"""The continuous flow: known answers, a fit that reaches a Gaussian's entropy and never exceeds it, estimates that say so, its errors."""

import builtins
from typing import Any

import pytest
import torch
from test_dense_flows import TABLE, draw
from toys import gap_to_gaussian

from pushforward.data.spec import DataSpec, levels
from pushforward.errors import ConfigError, Diverged
from pushforward.models.exact import continuous
from pushforward.models.exact.continuous import ContinuousFlow
from pushforward.models.exact.dense import scrambled
from pushforward.rng import Rng


@pytest.mark.parametrize("known", [*continuous.known_answers()], ids=lambda k: k.name)
def test_known_answers(known):
    assert known.holds, known


def test_mixed_columns_given_a_condition():
    model = ContinuousFlow(hidden=(16,)).build(TABLE)
    x, c = draw(TABLE, 6)
    assert model.density == "bound"
    assert model.estimator == "uniform dequantisation, one draw, its differential equation solved to 1e-06"
    assert model.log_prob(x, condition=c).isfinite().all()
    # float32: solved to 1e-6, codes of a few units
    torch.testing.assert_close(model.decode(model.encode(x, condition=c), condition=c), x, atol=1e-4, rtol=0)
    y = model.sample(5, condition=c[:5], seed=1)
    assert torch.equal(y, model.sample(5, condition=c[:5], seed=1))
    assert not torch.equal(model.log_prob(x, condition=c), model.log_prob(x, condition=c + 1))


def test_fitted_gaussian_reaches_its_entropy():
    """On a correlated Gaussian, E[log p] of the fit comes within 0.05 nats of -entropy on fresh records, and never above it."""
    gap = gap_to_gaussian(ContinuousFlow(hidden=(16,), tolerance=1e-3).build(DataSpec("points", (2,))), 120, 3e-2, mean=(0.5, -1.0))
    # KL >= 0, seen through 4000 records; 120 steps of stochastic gradients leave some hundredths of a nat.
    assert gap.mean() > -4 * gap.std() / 4000**0.5
    assert gap.mean() < 0.05


def test_gradients_are_those_of_the_exact_likelihood_on_average_over_probes():
    """Hutchinson's estimate trains by an unbiased gradient: its mean over 2000 draws of e is the exact trace's, in 5 standard errors."""
    model = scrambled(ContinuousFlow(hidden=(6,), trace="hutchinson", tolerance=1e-8), DataSpec("points", (3,)), 1)
    x = torch.randn(1, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    weight = continuous._continuous(model).field.linear
    many, rng = x.expand(2000, 3), Rng.seeded(2, x)
    drawn = model._transport(many, None, rng)[1]
    # gradients of single draws, through one scalar for each of 40 groups of 50
    groups = torch.stack([torch.autograd.grad(part.mean(), weight, retain_graph=True)[0] for part in drawn.split(50)])
    model.trace = "exact"
    exact = torch.autograd.grad(model._transport(x, None, rng)[1].sum(), weight)[0]
    error = groups.std(0) / len(groups) ** 0.5
    assert ((groups.mean(0) - exact).abs() <= 5 * error + 1e-7).all()


def test_an_estimate_says_that_it_is_one():
    model = ContinuousFlow(hidden=(8,), trace="hutchinson").build(DataSpec("points", (2,)))
    assert model.density == "estimate"
    assert "Hutchinson's estimate of the trace, 8 draws" in model.estimator
    assert ContinuousFlow(hidden=(8,)).build(DataSpec("points", (64,))).density == "exact"
    wide = ContinuousFlow(hidden=(8,)).build(DataSpec("image", (1, 9, 9), (levels(4),)))
    assert wide.density == "estimate"
    x = torch.randint(0, 4, (3, 1, 9, 9), generator=torch.Generator().manual_seed(0)).float()
    assert torch.equal(wide.log_prob(x, seed=1), wide.log_prob(x, seed=1))
    assert not torch.equal(wide.log_prob(x, seed=1), wide.log_prob(x, seed=2))
    assert ContinuousFlow(hidden=(8,), trace="exact").build(DataSpec("image", (1, 9, 9), (levels(4),))).density == "bound"


def test_evaluations_that_a_sample_needs_are_counted():
    model = ContinuousFlow(layers=2, hidden=(8,)).build(DataSpec("points", (3,)))
    # two fields, and for each at least the first step's six stages, its slope and one to choose the step's length by
    assert model.nfe >= 2 * 8
    assert model.nfe == model.nfe
    assert ContinuousFlow().nfe == 1, "nothing is known before it is built"


def test_what_it_refuses(monkeypatch: pytest.MonkeyPatch):
    points = DataSpec("points", (2,))
    with pytest.raises(ConfigError, match="trace must be one of auto, exact, hutchinson, got 'none'"):
        ContinuousFlow(trace="none").build(points)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="tolerance must be above 0, got 0"):
        ContinuousFlow(tolerance=0.0).build(points)
    model = ContinuousFlow(hidden=(8,)).build(points)
    with torch.no_grad():
        continuous._continuous(model).field.linear.fill_(float("nan"))
    with pytest.raises(Diverged, match=r"no solution in 1000 steps .*Give a lower lr"):
        model.log_prob(torch.zeros(1, 2))
    true = builtins.__import__

    def without(name: str, *args: Any, **kw: Any) -> Any:
        if name == "torchdiffeq":
            raise ImportError(name)
        return true(name, *args, **kw)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigError, match=r'needs torchdiffeq: pip install "pushforward\[ode\]"'):
        ContinuousFlow().build(points)
