r"""The value of the original game, for any discriminator and for the best one.

    V(G, D) = E_p log D(x) + E_q log(1 - D(x)),     q the density of G(z)                    (Goodfellow et al. 2014, eq. 1)

For fixed G it is largest at D* = p / (p + q) (proposition 1), the sigmoid of the critic T* = log p - log q, and there

    V(G, D*) = E_p log p/(p + q) + E_q log q/(p + q) = -log 4 + 2 JSD(p, q)                  (theorem 1)

so that min_G max_D V = -log 4 = -1.3863, at q = p. Any other D falls short by the divergence of two coins at every place:
V(D*) - V(D) = int (p + q) KL(D*, D) >= 2 int (p + q) (D* - D)^2 (Pinsker). That bounds how far a trained D can be off.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from .grid import Grid
from .measures import LogDensity

__all__ = ["best_critic", "largest_error", "optimal_discriminator", "value"]


def value(T: Float[Tensor, " n"], log_p: LogDensity, log_q: LogDensity, grid: Grid) -> Float[Tensor, ""]:
    """V of the discriminator D = sigmoid(T), in nats; at most 0. Infinite T is allowed where the other density is 0."""
    p, q = log_p.exp(), log_q.exp()
    on_p = torch.where(p > 0, p * logsigmoid(T), 0.0)
    on_q = torch.where(q > 0, q * logsigmoid(-T), 0.0)
    return grid.integrate(on_p + on_q)


def best_critic(log_p: LogDensity, log_q: LogDensity) -> Float[Tensor, " n"]:
    """T* = log p - log q; 0 where neither has density."""
    return torch.where(log_p == log_q, 0.0, log_p - log_q)


def optimal_discriminator(log_p: LogDensity, log_q: LogDensity) -> Float[Tensor, " n"]:
    """D* = p / (p + q)."""
    return best_critic(log_p, log_q).sigmoid()


def largest_error(gap: float, steepest: float, least: float) -> float:
    """The most that |D - D*| can be at a place whose value falls short by `gap` = V(D*) - V(D).

    Where e = |D - D*| is attained, |D - D*| is at least e - L |t| at distance t, L (`steepest`) the largest slope of D - D* nearby. With
    p + q at least r (`least`) nearby, gap >= 2 r int (e - L |t|)^2 dt = 4 r e^3 / (3 L), hence e <= (3 L gap / 4 r)^(1/3). At the
    edge of the places looked at only one side counts, so they must reach e / L further than the errors that are bounded.
    """
    return (3 * steepest * gap / (4 * least)) ** (1 / 3)
