"""What is known of a GAN's game in closed form; `gan.known_answers` yields it."""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ...data.spec import DataSpec
from ...games import Game
from ...known import Known
from ...penalties import squared_gradient
from ...rng import Rng
from ...train import Batch

__all__ = ["answers", "critic_errors", "log_normal", "train_critic"]


def answers() -> Iterator[Known]:
    """The game's value at the best critic, the critic that training finds, W1 of a shift, penalties and slopes."""
    # p = N(0, 1), q = N(1.5, 0.7^2): V at T* = log p - log q is -log 4 + 2 JSD, JSD = H(m) - (H(p) + H(q)) / 2, m = (p + q) / 2.
    minimax, t = Game("minimax"), torch.linspace(-12, 12, 4801, dtype=torch.float64)
    log_p, log_q = log_normal(t, 0.0, 1.0), log_normal(t, 1.5, 0.7)
    p, q, step = log_p.exp(), log_q.exp(), float(t[1] - t[0])
    sure = t.new_tensor(torch.inf)  # a logit at which the other player's term is 0, so that each expectation is its own integral
    value = -float((p * minimax.critic(log_p - log_q, -sure) + q * minimax.critic(sure, log_p - log_q)).sum() * step)
    m = (p + q) / 2
    entropies = [math.log(s * math.sqrt(2 * math.pi * math.e)) for s in (1.0, 0.7)]
    jsd = -float((m * m.log()).sum() * step) - sum(entropies) / 2
    because = "the trapezoid rule on a smooth density that has vanished at both ends converges to rounding"
    yield Known("V(D*, G) = -log 4 + 2 JSD", -math.log(4) + 2 * jsd, value, 1e-9, because)

    yield from _known_critic()

    # The 1-Lipschitz critic of a pure shift s is T(x) = -u.x with u = s/|s|: its game's value is W1 = |s| whatever the records.
    rng = Rng.seeded(0, t)
    x, s = rng.randn(100, 3), t.new_tensor([3.0, -4.0, 12.0])
    u = s / s.norm()
    w1 = -float(Game("wasserstein").critic(-(x @ u), -((x + s) @ u)).mean())
    yield Known("W1 of a shift by (3, -4, 12)", 13.0, w1, 1e-12, "rounding")

    # |dT/dx|^2 of T(x) = w.x + a|x|^2/2 is |w + a x|^2, and its slope in a is 2 (w + a x).x.
    w, a = rng.randn(3), t.new_tensor(0.7).requires_grad_()
    x.requires_grad_()
    ours = squared_gradient(x @ w + a * x.square().sum(1) / 2, x).sum()
    (slope,) = torch.autograd.grad(ours, a)
    g = (w + 0.7 * x).detach()
    yield Known("|dT/dx|^2 of a quadratic critic", float(g.square().sum()), float(ours.detach()), 1e-9, "rounding of a sum of 300 terms")
    yield Known("its slope by double backward", float(2 * (g * x.detach()).sum()), float(slope), 1e-9, "rounding of a sum of 300 terms")

    # Where the critic is sure (logit -20): d/df of -softplus(f) is -sigmoid(f), and of softplus(-f) it is -sigmoid(-f).
    slopes = {"minimax": -1 / (1 + math.exp(20.0)), "non-saturating": -1 / (1 + math.exp(-20.0))}
    for loss, known in slopes.items():
        f = t.new_tensor(-20.0).requires_grad_()
        (slope,) = torch.autograd.grad(Game(loss).generator(f, f.detach()), f)
        yield Known(f"slope of the {loss} generator at D = 2e-9", known, float(slope), 1e-15, "rounding")


def _known_critic() -> Iterator[Known]:
    """Train a linear critic by its own objective on N(-1, 1) against G(z) = z + 1, where T* = log p - log q = -2x exactly."""
    n = 20_000
    from .gan import GAN

    model = (
        GAN(loss="minimax", relativistic=False, noise_dim=1, hidden=(), critic_hidden=(), fourier=0, r1=0.0, r2=0.0)
        .build(DataSpec("points", (1,)))
        .double()
    )
    with torch.no_grad():
        for net, (weight, bias) in ((model.generator_net, (1.0, 1.0)), (model.critic_net, (0.0, 0.0))):
            for p in net.parameters():
                p.fill_(weight if p.ndim == 2 else bias)
    x = Rng.seeded(1, torch.zeros((), dtype=torch.float64)).randn(n, 1) - 1
    train_critic(model, x)
    intercept, slope = critic_errors(n)
    with torch.no_grad():
        at = model.critic_net(x.new_tensor([[0.0], [1.0]]))
    # D(x) has slope D (1 - D) in the logit, at most 1/4 at 0, where only the intercept counts.
    because = "four standard errors of the maximum-likelihood critic, by its Fisher information"
    yield Known("trained D(0) against p/(p+q)", 0.5, float(at[0].sigmoid()), intercept / 4, because)
    yield Known("slope of the trained critic's logit against log p/q", -2.0, float(at[1] - at[0]), slope, because)


def train_critic(model: Any, x: Tensor) -> None:
    """Take a `GAN` or `BiGAN` to the critic that minimises its own objective on the records x (n, D) and as many fixed samples."""
    optimizer = torch.optim.LBFGS(model.critic_net.parameters(), max_iter=50, tolerance_grad=1e-12, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = model._critic_loss(Batch(x, None, torch.arange(len(x)), Rng.seeded(2, x))).per_record.mean()
        loss.backward()
        return loss

    optimizer.step(closure)


def critic_errors(n: int) -> tuple[float, float]:
    """Four standard errors of the intercept and slope of log p/q, p = N(-1, 1) and q = N(1, 1), told from n numbers of each.

    This is logistic regression: the estimate has variance 1 / (n I), I = E_{p+q}[D (1 - D) (1, x)(1, x)^T], diagonal by symmetry.
    """
    t = torch.linspace(-12, 12, 4801, dtype=torch.float64)
    p, q = log_normal(t, -1.0, 1.0).exp(), log_normal(t, 1.0, 1.0).exp()
    d = (-2 * t).sigmoid()
    curvature = (p + q) * d * (1 - d) * float(t[1] - t[0])
    return tuple(4 / math.sqrt(n * float((curvature * power).sum())) for power in (torch.ones_like(t), t.square()))  # pyright: ignore[reportReturnType]


def log_normal(t: Tensor, mean: float, sd: float) -> Tensor:
    return -0.5 * ((t - mean) / sd).square() - math.log(sd * math.sqrt(2 * math.pi))
