r"""Priors p(z) of codes: what a decoder's input is drawn from.

==========  ====================================================  ================================
name        p(z)                                                  source
==========  ====================================================  ================================
None        N(0, I)                                               Kingma & Welling 2014
`mixture`   sum_k pi_k N(m_k, diag s_k^2), all learned            Dilokthanakul et al. 2016
`vamp`      (1/K) sum_k q(z | u_k), pseudo-inputs u_k learned     Tomczak & Welling 2018
==========  ====================================================  ================================

A model of points with an exact density is a prior too: it has the same two functions under its own names.
"""

import math
from collections.abc import Callable, Iterator
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .errors import ConfigError
from .known import Known
from .likelihoods import HALF_LOG_2PI
from .posteriors import Diagonal, Posterior, diagonal_pairwise
from .rng import Rng

__all__ = ["Aggregate", "MixturePrior", "Prior", "StandardNormal", "VampPrior"]


class Prior(Protocol):
    """What is asked of a prior."""

    def log_prob(self, z: Float[Tensor, "B d"]) -> Float[Tensor, " B"]:
        """log p(z), in nats."""
        ...

    def sample(self, n: int, rng: Rng) -> Float[Tensor, "n d"]:
        """n codes."""
        ...


class StandardNormal:
    """N(0, I) over `dim` dimensions."""

    def __init__(self, dim: int):
        self.dim = dim

    def log_prob(self, z: Tensor) -> Tensor:
        return -0.5 * z.square().sum(1) - self.dim * HALF_LOG_2PI

    def sample(self, n: int, rng: Rng) -> Tensor:
        return rng.randn(n, self.dim)


class MixturePrior(nn.Module):
    """sum_k pi_k N(m_k, diag s_k^2) over `dim` dimensions: begins with means drawn from N(0, I) and unit scales, and learns all three."""

    def __init__(self, dim: int, components: int):
        super().__init__()
        _check(components)
        self.logits = nn.Parameter(torch.zeros(components))
        self.mean = nn.Parameter(torch.randn(components, dim))
        self.log_var = nn.Parameter(torch.zeros(components, dim))

    def log_prob(self, z: Tensor) -> Tensor:
        each = diagonal_pairwise(self.mean.to(z.dtype), self.log_var.to(z.dtype), z)
        return torch.logsumexp(self.logits.log_softmax(0) + each, 1)

    def sample(self, n: int, rng: Rng) -> Tensor:
        k = rng.categorical(self.logits.expand(n, -1))
        return self.mean[k] + torch.exp(0.5 * self.log_var[k]) * rng.randn(n, self.mean.shape[1])


class Aggregate:
    """(1/K) sum_k q_k(z), the mean of K posteriors of given parameters (K, P)."""

    def __init__(self, posterior: Posterior, params: Float[Tensor, "K P"]):
        self.posterior, self.params = posterior, params

    def log_prob(self, z: Tensor) -> Tensor:
        return torch.logsumexp(self.posterior.pairwise(self.params, z), 1) - math.log(len(self.params))

    def sample(self, n: int, rng: Rng) -> Tensor:
        k = rng.randint(len(self.params), n).to(self.params.device)
        return self.posterior.draw(self.params[k], 1, rng).z[:, 0]


class VampPrior(nn.Module):
    """The variational mixture of posteriors (Tomczak & Welling 2018, equation 9): the encoder's own q at K learned pseudo-inputs.

    Pseudo-inputs live where the encoder's input lives. Bounded entries are a sigmoid of what is learned, so that they stay in the
    range of the data; they are real numbers in it even where the data are discrete.

    Parameters
    ----------
    components
        K. Tomczak & Welling take 500 for MNIST.
    bounded
        Which entries of the encoder's input are bounded, of the input's shape.
    low
        The lower end of their range, 0 or -1; the upper is 1.
    condition_dim
        Width of the condition that each pseudo-input carries (that of the record it began as); 0 for none.
    """

    bounded: Tensor
    conditions: Tensor

    def __init__(self, components: int, bounded: Tensor, low: float, condition_dim: int = 0):
        super().__init__()
        _check(components)
        self.low = low
        self.raw = nn.Parameter(0.1 * torch.randn(components, *bounded.shape))
        self.register_buffer("bounded", bounded, persistent=False)
        self.register_buffer("conditions", torch.zeros(components, condition_dim))

    def inputs(self) -> tuple[Tensor, Tensor | None]:
        """(u (K, *shape), c (K, C) or None)."""
        squashed = self.low + (1.0 - self.low) * torch.sigmoid(self.raw)
        u = torch.where(self.bounded, squashed, self.raw)
        return u, self.conditions if self.conditions.shape[1] else None

    @torch.no_grad()
    def start_at(self, features: Float[Tensor, "K *shape"], c: Float[Tensor, "K C"] | None) -> None:
        """Begin at these records; bounded entries a fiftieth inside their range, where the sigmoid still has a slope."""
        features = features.to(self.raw)
        share = ((features - self.low) / (1.0 - self.low)).clamp(0.02, 0.98)
        self.raw.copy_(torch.where(self.bounded, torch.logit(share), features))
        if c is not None and self.conditions.shape[1]:
            self.conditions.copy_(c)

    def at(self, encode: Callable[[Tensor, Tensor | None], Tensor], posterior: Posterior) -> Aggregate:
        """p(z) under the encoder as it is now: one pass over the K pseudo-inputs."""
        return Aggregate(posterior, encode(*self.inputs()))


def _check(components: int) -> None:
    if components < 1:
        raise ConfigError(f"prior_components must be at least 1, got {components}.")


def known_answers() -> Iterator[Known]:
    """The mixtures against torch's, at random parameters."""
    rng = Rng.seeded(0, torch.zeros((), dtype=torch.float64))
    q, params, z = Diagonal(3), rng.randn(7, 6), rng.randn(11, 3)
    each = torch.stack([q.distribution(params[k : k + 1]).log_prob(z) for k in range(7)], 1)
    gap = float((Aggregate(q, params).log_prob(z) - (torch.logsumexp(each, 1) - math.log(7))).abs().max())
    yield Known("VampPrior: log p(z) is the log of the mean of q(z | u_k)", 0.0, gap, 1e-10, "rounding, numbers of order 10")
