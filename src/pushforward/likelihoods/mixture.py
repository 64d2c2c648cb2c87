"""Mixtures of any family of entries."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..rng import Rng
from .base import Likelihood


@dataclass(frozen=True)
class Mixture(Likelihood):
    """sum_j pi_j p(x; theta_j), K members of one family: parameters are K logits, then K blocks of the family's own.

    Members that start equal stay nearly equal. With `spread` their first parameters, the locations, are counted from the K quantiles of
    N(0, 1/4), which lie over [-1, 1], the range that levels are scaled to; without it, the network's first biases have to set them apart.
    """

    family: Likelihood
    K: int
    spread: bool = False
    name = "mixture"

    @property
    def n_params(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.K * (1 + self.family.n_params)

    @property
    def supports(self) -> tuple[str, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.family.supports

    def parts(self, params: Tensor) -> tuple[Tensor, Tensor]:
        """Log pi, (..., K), and theta, (..., K, P)."""
        theta = params[..., self.K :].unflatten(-1, (self.K, -1))
        if self.spread:
            at = torch.special.ndtri((torch.arange(self.K, dtype=params.dtype, device=params.device) + 0.5) / self.K) / 2
            theta = torch.cat([theta[..., :1] + at[:, None], theta[..., 1:]], -1)
        return params[..., : self.K].log_softmax(-1), theta

    def log_prob(self, params: Tensor, x: Tensor) -> Tensor:
        log_pi, theta = self.parts(params)
        return torch.logsumexp(log_pi + self.family.log_prob(theta, x.unsqueeze(-1)), -1)

    def sample(self, params: Tensor, rng: Rng) -> Tensor:
        log_pi, theta = self.parts(params)
        j = rng.categorical(log_pi)[..., None, None].expand(*log_pi.shape[:-1], 1, theta.shape[-1])
        return self.family.sample(theta.gather(-2, j).squeeze(-2), rng)

    def mean(self, params: Tensor) -> Tensor:
        log_pi, theta = self.parts(params)
        return (log_pi.exp() * self.family.mean(theta)).sum(-1)

    def mode(self, params: Tensor) -> Tensor:
        _, theta = self.parts(params)
        candidates = self.family.mode(theta)
        best = self.log_prob(params.unsqueeze(-2), candidates).argmax(-1, keepdim=True)
        return candidates.gather(-1, best).squeeze(-1)

    def _values(self) -> str:
        return self.family._values()

    def _valid(self, x: Tensor) -> Tensor:
        return self.family._valid(x)
