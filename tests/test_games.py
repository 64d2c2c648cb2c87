"""Losses of games against independent definitions, their best critics, and the register."""

import math

import pytest
import torch
import torch.nn.functional as F

from pushforward.errors import ConfigError
from pushforward.games import LOSSES, Game, Rule, register

R = torch.linspace(-4, 3, 29, dtype=torch.float64)
F_ = torch.linspace(2, -3, 29, dtype=torch.float64)
ONE, ZERO = torch.ones_like(R), torch.zeros_like(R)


def bce(t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return F.binary_cross_entropy_with_logits(t, y, reduction="none")


# (critic, generator) by torch's own losses: cross-entropy of the labels, squared error, margin.
KNOWN = {
    "minimax": (bce(R, ONE) + bce(F_, ZERO), -bce(F_, ZERO)),
    "non-saturating": (bce(R, ONE) + bce(F_, ZERO), bce(F_, ONE)),
    "least-squares": (
        (F.mse_loss(R, ONE, reduction="none") + F.mse_loss(F_, ZERO, reduction="none")) / 2,
        F.mse_loss(F_, ONE, reduction="none") / 2,
    ),
    "hinge": (
        F.margin_ranking_loss(R, ZERO, ONE, margin=1, reduction="none") + F.margin_ranking_loss(F_, ZERO, -ONE, margin=1, reduction="none"),
        -F_,
    ),
    "wasserstein": (F_ - R, -F_),
}
PAIRED = {
    "minimax": (bce(R - F_, ONE), -bce(R - F_, ONE)),
    "non-saturating": (bce(R - F_, ONE), bce(F_ - R, ONE)),
    "least-squares": ((R - F_ - 1).square() / 2, (F_ - R - 1).square() / 2),
    "hinge": ((1 - R + F_).clamp(min=0), (1 - F_ + R).clamp(min=0)),
    "wasserstein": (F_ - R, R - F_),
}


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(("known", "pairing"), [(KNOWN, False), (PAIRED, True)], ids=["plain", "relativistic"])
def test_losses_by_their_definitions(loss, known, pairing):
    game, (critic, generator) = Game(loss, pairing), known[loss]
    # Two ways of writing numbers below 10: rounding.
    torch.testing.assert_close(game.critic(R, F_), critic, rtol=0, atol=1e-14)
    torch.testing.assert_close(game.generator(F_, R), generator, rtol=0, atol=1e-14)


@pytest.mark.parametrize("loss", [name for name, rule in LOSSES.items() if rule.zero_sum])
def test_zero_sum(loss):
    # J_G = -J_D but for the part of records, which moves no generator: the slopes by f are opposite. With pairing the whole is.
    f = F_.clone().requires_grad_()
    (by_critic,) = torch.autograd.grad(Game(loss).critic(R, f).sum(), f)
    (by_generator,) = torch.autograd.grad(Game(loss).generator(f, R).sum(), f)
    torch.testing.assert_close(by_generator, -by_critic, rtol=0, atol=0)
    torch.testing.assert_close(Game(loss, True).generator(F_, R), -Game(loss, True).critic(R, F_), rtol=0, atol=0)


@pytest.mark.parametrize(("loss", "best"), [("minimax", math.log(3)), ("least-squares", 0.75), ("hinge", 1.0)])
def test_best_critic_at_a_point(loss, best):
    # Where p = 3/4 and q = 1/4 the critic minimises p A(t) + q B(t): at log p/q, at p / (p + q), and at sign(p - q). On a grid of spacing
    # 1e-3 the minimum is found to half of that (the hinge's minimum, at a kink of the grid, exactly).
    t = torch.linspace(-3, 3, 6001, dtype=torch.float64)
    risk = 0.75 * LOSSES[loss].real(t) + 0.25 * LOSSES[loss].fake(t)
    assert float(t[risk.argmin()]) == pytest.approx(best, abs=5.1e-4)
    told = Game(loss).probabilities(t[risk.argmin()], t[risk.argmin()])
    assert told is not None
    assert float(told[0]) == pytest.approx(1.0 if loss == "hinge" else 0.75, abs=5.1e-4)


def test_probabilities_of_pairs():
    told = Game("non-saturating", True).probabilities(R, F_)
    assert told is not None
    # Of a pair one is the record: the two probabilities sum to 1.
    torch.testing.assert_close(told[0], torch.sigmoid(R - F_))
    torch.testing.assert_close(told[0] + told[1], ONE)
    assert Game("wasserstein").probabilities(R, F_) is None


def test_slopes_where_the_critic_is_sure():
    # Goodfellow et al.: at D = sigmoid(-20) minimax has slope -sigmoid(-20), 2e-9, and non-saturating -sigmoid(20), nearly -1.
    for loss, known in (("minimax", -1 / (1 + math.exp(20))), ("non-saturating", -1 / (1 + math.exp(-20)))):
        f = torch.tensor([-20.0], dtype=torch.float64, requires_grad=True)
        (slope,) = torch.autograd.grad(Game(loss).generator(f, f.detach()), f)
        assert float(slope) == pytest.approx(known, rel=1e-12)


def test_a_loss_of_ones_own():
    register("exponential", Rule(lambda t: (-t).exp(), torch.exp, lambda t: (-t).exp(), probability=None))
    try:
        torch.testing.assert_close(Game("exponential").critic(R, F_), (-R).exp() + F_.exp())
        with pytest.raises(ConfigError, match="There is a loss 'exponential' already"):
            register("exponential", LOSSES["hinge"])
    finally:
        del LOSSES["exponential"]
    with pytest.raises(ConfigError, match=r"no loss 'hinges'.*hinge"):
        Game("hinges")
