"""Priors: densities that integrate to one, and draws that have them."""

import math

import pytest
import torch
from toys import LIKE

from pushforward.errors import ConfigError
from pushforward.posteriors import posterior_for
from pushforward.priors import Aggregate, MixturePrior, StandardNormal, VampPrior, known_answers
from pushforward.rng import Rng


def test_known_answers():
    for answer in known_answers():
        assert answer.holds, answer


def mixture() -> MixturePrior:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        prior = MixturePrior(1, 4).double().requires_grad_(False)
    prior.logits.copy_(torch.tensor([0.0, 1.0, -1.0, 0.5]))
    prior.log_var.copy_(torch.tensor([[-2.0], [0.0], [-1.0], [0.5]]))
    return prior


def aggregate() -> Aggregate:
    q = posterior_for("mixture", 1, components=2).double()
    return Aggregate(q, Rng.seeded(1, LIKE).randn(3, q.n_params))


@pytest.mark.parametrize("make", [lambda: StandardNormal(1), mixture, aggregate], ids=["normal", "mixture", "aggregate"])
def test_density_and_draws_agree(make):
    prior = make()
    z = torch.linspace(-15, 15, 30_001, dtype=torch.float64)[:, None]
    p = prior.log_prob(z).exp()
    assert float(torch.trapezoid(p, z[:, 0])) == pytest.approx(1, abs=1e-9)
    drawn = prior.sample(20_000, Rng.seeded(0, LIKE))[:, 0]
    for power in (1, 2):  # within 5 standard errors but for one time in 2e6
        known = float(torch.trapezoid(p * z[:, 0] ** power, z[:, 0]))
        assert abs(float((drawn**power).mean()) - known) < 5 * float((drawn**power).std()) / math.sqrt(20_000)


def test_pseudo_inputs_stay_in_the_support():
    bounded = torch.tensor([True, False])
    prior = VampPrior(3, bounded, -1.0)
    features = torch.tensor([[-1.0, 5.0], [1.0, -7.0], [0.3, 0.0]])
    prior.start_at(features, None)
    u, c = prior.inputs()
    assert c is None
    # Bounded entries start a fiftieth of the range inside its ends; the others where the records are.
    assert torch.allclose(u, torch.tensor([[-0.96, 5.0], [0.96, -7.0], [0.3, 0.0]]), atol=1e-5)
    with torch.no_grad():
        prior.raw.mul_(100.0)
    u, _ = prior.inputs()
    assert (u[:, 0].abs() <= 1).all()
    assert float(u[0, 1].detach()) == pytest.approx(500)
    with pytest.raises(ConfigError, match="prior_components must be at least 1, got 0"):
        VampPrior(0, bounded, 0.0)


def test_pseudo_inputs_carry_the_conditions_of_their_records():
    prior = VampPrior(2, torch.tensor([False]), 0.0, condition_dim=2)
    prior.start_at(torch.zeros(2, 1), torch.eye(2))
    c = prior.inputs()[1]
    assert c is not None
    assert torch.equal(c, torch.eye(2))
