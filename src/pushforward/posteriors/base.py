"""What a family of approximate posteriors is."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution

from ..likelihoods import HALF_LOG_2PI
from ..rng import Rng

__all__ = ["Draws", "Posterior", "normal_log_prob"]


@dataclass(frozen=True)
class Draws:
    """S codes for each of B records, with what an estimate needs to know of them."""

    z: Float[Tensor, "B S d"]
    """The codes, reparametrised: differentiable functions of q's parameters."""
    log_q: Float[Tensor, "B S"]
    """log q(z | x)."""
    log_share: Float[Tensor, "B S"] | None = None
    """The log of each draw's weight in a mean over q, where they differ (strata); None when each has 1/S."""


class Posterior(nn.Module, ABC):
    """q(z | x) over codes z in R^d, given P numbers for each record: an encoder's output, or free parameters.

    Parameters
    ----------
    dim
        d, dimensions of a code.
    """

    name: ClassVar[str]
    n_params: int
    """P, the numbers that each record's q takes."""
    evaluates: ClassVar[bool] = True
    """Whether `log_prob` is a formula, differentiable in both arguments (flows have to be inverted)."""

    def __init__(self, dim: int):
        super().__init__()
        self.dim = dim

    @abstractmethod
    def draw(self, params: Float[Tensor, "B P"], samples: int, rng: Rng, *, strata: bool = False) -> Draws:
        """`samples` codes for each record; with `strata`, that many from each component of a mixture, weighted by its probability."""

    @abstractmethod
    def log_prob(self, params: Float[Tensor, "B P"], z: Float[Tensor, "B S d"]) -> Float[Tensor, "B S"]:
        """log q(z | x) of any codes."""

    @abstractmethod
    def centre(self, params: Float[Tensor, "B P"]) -> Float[Tensor, "B d"]:
        """The code that stands for a record: E_q[z]; for flows, the image of their base's mean."""

    def kl(self, params: Float[Tensor, "B P"]) -> Float[Tensor, "B G"] | None:
        """KL(q(z | x) || N(0, I)) in closed form, in parts that add up (one for each dimension where they are independent), or None."""
        del params

    @abstractmethod
    def distribution(self, params: Float[Tensor, "B P"]) -> Distribution:
        """q(z | x) as a `torch.distributions.Distribution` of batch shape (B,) and event shape (d,)."""

    def initial(self, n: int) -> Float[Tensor, "n P"]:
        """Parameters to start from where no encoder gives them: q near N(0, I)."""
        return torch.zeros(n, self.n_params)

    def pairwise(self, params: Float[Tensor, "K P"], z: Float[Tensor, "B d"]) -> Float[Tensor, "B K"]:
        """log q_k(z_b) of every code under every q."""
        return self.log_prob(params, z.expand(len(params), *z.shape)).T

    def extra_repr(self) -> str:
        return f"{self.dim}"


def normal_log_prob(z: Tensor, mu: Tensor, log_var: Tensor) -> Tensor:
    """log N(z; mu, diag e^log_var), summed over the last axis."""
    return (-0.5 * (z - mu).square() * torch.exp(-log_var) - 0.5 * log_var - HALF_LOG_2PI).sum(-1)
