r"""Penalties on a critic's slope, as parts: what keeps the game of `games` stable.

With g(x) = grad T(x), T the critic's value (its logit, D = sigmoid(T)), the penalties of a record x or a sample y are

====================  ================================================================  ====================================
function              penalty                                                           source
====================  ================================================================  ====================================
`squared_gradient`    |g(x)|^2 (R1), |g(y)|^2 (R2)                                      Mescheder et al. 2018, eq. 9 and 10
`interpolated`        (|g(u)| - 1)^2,  u = e x + (1 - e) y,  e ~ U(0, 1)                Gulrajani et al. 2017, eq. 3
  one-sided           (max(0, |g(u)| - 1))^2                                            Petzka et al. 2018, eq. 8
`dragan`              (|g(x + delta)| - 1)^2,  delta ~ N(0, s^2 I)                      Kodali et al. 2017, eq. 5
`roth`                (1 - D(x))^2 |g(x)|^2 + D(y)^2 |g(y)|^2                           Roth et al. 2017, eq. 24
====================  ================================================================  ====================================

Each is per record, (B,), and differentiable once more (double backward). The factor 1/2 of R1, R2 and Roth is in the weight.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import relu

from .rng import Rng

__all__ = ["Critic", "dragan", "interpolated", "roth", "slope", "squared_gradient"]

Critic = Callable[[Tensor], Tensor]
"""T: (B, *shape) -> (B,)."""


def squared_gradient(scores: Float[Tensor, " B"], x: Float[Tensor, "B *shape"]) -> Float[Tensor, " B"]:
    """|d scores_i / d x_i|^2 per record, itself differentiable (double backward)."""
    (g,) = torch.autograd.grad(scores.sum(), x, create_graph=True)
    return g.flatten(1).square().sum(1)


def slope(critic: Critic, u: Float[Tensor, "B *shape"]) -> Float[Tensor, " B"]:
    """|g(u)|, with its gradient by the critic and by what u is made of."""
    u = u if u.requires_grad else u.detach().requires_grad_()
    return (squared_gradient(critic(u), u) + 1e-12).sqrt()  # the root's slope at 0 is infinite


def interpolated(critic: Critic, real: Tensor, fake: Tensor, rng: Rng, *, one_sided: bool = False) -> Float[Tensor, " B"]:
    """The gradient penalty between records and samples: slope 1, or with `one_sided` at most 1."""
    e = rng.rand(len(real), *[1] * (real.ndim - 1))
    over = slope(critic, e * real + (1 - e) * fake) - 1
    return (relu(over) if one_sided else over).square()


def dragan(critic: Critic, real: Tensor, rng: Rng, *, noise: float = 0.5) -> Float[Tensor, " B"]:
    """Slope 1 around the records: s is `noise` times the standard deviation of the batch's entries, as in the authors' code."""
    s = noise * real.std()
    return (slope(critic, real + s * rng.randn(*real.shape)) - 1).square()


def roth(scores: Float[Tensor, "two_B"], both: Float[Tensor, "two_B *shape"]) -> Float[Tensor, " B"]:
    """What training with Gaussian noise of variance gamma adds, to first order in gamma/2; `both` are records, then as many samples."""
    wrong = scores.sigmoid()
    real, fake = wrong.chunk(2)
    on_real, on_fake = squared_gradient(scores, both).chunk(2)
    return (1 - real).square() * on_real + fake.square() * on_fake
