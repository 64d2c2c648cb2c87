"""What is known of a game between pairs in closed form; `bigan.known_answers` yields it."""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ...data.spec import BINARY, DataSpec
from ...known import Known
from ...rng import Rng
from ...train import Batch
from .answers import critic_errors, log_normal, train_critic
from .bigan import BiGAN

__all__ = ["answers", "set_linear"]


def answers() -> Iterator[Known]:
    """The game's value at the best critic of pairs, a trained critic, and the game where the encoder inverts the generator."""
    yield from _value()
    yield from _critic()
    yield from _inverse()


def set_linear(net: nn.Module, weight: Any, bias: Any) -> None:
    """Make an MLP of no hidden layer compute `weight` z + `bias`."""
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.as_tensor(weight if p.ndim == 2 else bias, dtype=p.dtype).expand_as(p))


def _plain(spec: DataSpec, **hyper: Any) -> BiGAN:
    """A linear encoder and generator in the original game, without penalties."""
    chosen = {"loss": "minimax", "relativistic": False, "hidden": (), "critic_hidden": (), "fourier": 0, "r1": 0.0, "r2": 0.0, **hyper}
    return BiGAN(**chosen).build(spec).double()


def _value() -> Iterator[Known]:
    """Bits: x = 1 with probability 0.3, G(z) = 1 where z > 0, q(z | x) = N(2x - 1, 0.5^2). Both laws of (x, z) have densities."""
    model, share, sd = _plain(DataSpec("points", (1,), (BINARY,)), latent_dim=1, posterior="gaussian"), 0.3, 0.5
    set_linear(model.generator_net, 100.0, 0.0)
    # f(x) = 2x - 1 is the mean itself; the variance does not depend on it.
    set_linear(model.encoder, [[1.0], [0.0]], [0.0, 2 * math.log(sd)])

    def log_laws(x: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        coded = torch.where(x > 0, math.log(share), math.log1p(-share)) + log_normal(z - x, 0.0, sd)
        made = torch.where((z > 0) == (x > 0), log_normal(z, 0.0, 1.0), -torch.inf)
        return coded, made

    t = torch.linspace(-9, 9, 36_001, dtype=torch.float64) + 1e-6  # the jump of G at 0 lies between two nodes
    jsd = 0.0
    for x in (-1.0, 1.0):
        p, q = (log.exp() for log in log_laws(torch.full_like(t, x), t))
        m = (p + q) / 2
        jsd += float((torch.xlogy(p, p / m) + torch.xlogy(q, (q / m).nan_to_num())).sum() * (t[1] - t[0])) / 2

    class Best(nn.Module):
        def forward(self, u: Tensor, c: Tensor | None = None) -> Tensor:
            p, q = log_laws(u[:, 0], u[:, 1])
            return (p - q).clamp(-60, 60)

    model.critic_net = Best()  # pyright: ignore[reportAttributeAccessIssue]
    n = 100_000
    rng = Rng.seeded(0, t)
    x = (rng.rand(n, 1) < share).double()
    v = -model._critic_loss(Batch(x, None, torch.arange(n), rng)).per_record
    because = "five standard errors of 100,000 pairs; the quadrature's own error is below 1e-4"
    tolerance = 5 * float(v.std()) / math.sqrt(n) + 1e-4
    yield Known("V(T*, E, G) = -log 4 + 2 JSD of pairs", -math.log(4) + 2 * jsd, float(v.mean()), tolerance, because)


def _critic() -> Iterator[Known]:
    """x ~ N(-1, 1), E(x) = x - 1, G(z) = z + 1: pairs of both kinds lie on one line, and there log p_E / p_G = -2x exactly."""
    model, n = _plain(DataSpec("points", (1,)), latent_dim=1), 20_000
    set_linear(model.generator_net, 1.0, 1.0)
    set_linear(model.encoder, 1.0, -1.0)
    set_linear(model.critic_net, 0.0, 0.0)
    x = Rng.seeded(1, torch.zeros((), dtype=torch.float64)).randn(n, 1) - 1
    train_critic(model, x)
    # Along the line this is the logistic regression of `answers`.
    intercept, slope = critic_errors(n)
    with torch.no_grad():
        at = model.critic_net(x.new_tensor([[0.0, -1.0], [1.0, 0.0]]))
    because = "four standard errors of the maximum-likelihood critic, by its Fisher information"
    yield Known("trained T(0, -1) against log p_E / p_G of the pair", 0.0, float(at[0]), intercept, because)
    yield Known("slope of the trained critic along the line of pairs", -2.0, float(at[1] - at[0]), slope, because)


def _inverse() -> Iterator[Known]:
    """x ~ N(b, A A^T), G(z) = A z + b and E its inverse: the two laws of pairs are one, and no critic tells them apart."""
    model, n = _plain(DataSpec("points", (2,)), critic_hidden=(16,)), 50_000
    rng = Rng.seeded(0, torch.zeros((), dtype=torch.float64))
    A, b = torch.tensor([[2.0, 1.0], [-0.5, 1.0]], dtype=torch.float64), torch.tensor([1.0, -3.0], dtype=torch.float64)
    inverse = torch.linalg.inv(A)
    set_linear(model.generator_net, A, b)
    set_linear(model.encoder, inverse, -inverse @ b)
    x = rng.randn(n, 2) @ A.T + b
    with torch.no_grad():
        coded, made = model._pairs(Batch(x, None, torch.arange(n), rng))
        told = model.critic_net(coded) - model.critic_net(made)
        again = model._decode(model._encode(x, None), None)
    because = "five standard errors of the difference of two means of 50,000 pairs"
    yield Known("E T(x, E(x)) - E T(G(z), z) where E inverts G", 0.0, float(told.mean()), 5 * float(told.std()) / math.sqrt(n), because)
    yield Known("G(E(x)) - x there", 0.0, float((again - x).abs().max()), 1e-12, "rounding")
