"""Families of entries on a finite set: probabilities."""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ..rng import Rng
from .base import Discrete, soft_floor


@dataclass(frozen=True)
class Bernoulli(Discrete):
    """p(x = 1) = sigmoid(l), x in {0, 1}."""

    name = "bernoulli"
    supports = ("binary",)
    n_params = 1
    k = 2

    def log_prob(self, params: Tensor, x: Tensor) -> Tensor:
        return -F.binary_cross_entropy_with_logits(*torch.broadcast_tensors(params[..., 0], x), reduction="none")

    def sample(self, params: Tensor, rng: Rng) -> Tensor:
        p = params[..., 0].sigmoid()
        return (rng.rand(*p.shape) < p).to(p.dtype)

    def mean(self, params: Tensor) -> Tensor:
        return params[..., 0].sigmoid()

    def mode(self, params: Tensor) -> Tensor:
        return (params[..., 0] > 0).to(params.dtype)


@dataclass(frozen=True)
class Categorical(Discrete):
    """p(x = v) = softmax(l)_v over k values without order (or with one that the family ignores)."""

    k: int
    name = "categorical"
    supports = ("categories", "levels", "binary")

    @property
    def n_params(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.k

    def log_prob(self, params: Tensor, x: Tensor) -> Tensor:
        logp = params.log_softmax(-1)
        shape = torch.broadcast_shapes(logp.shape[:-1], x.shape)
        return logp.expand(*shape, self.k).gather(-1, x.long().expand(shape).unsqueeze(-1)).squeeze(-1)

    def sample(self, params: Tensor, rng: Rng) -> Tensor:
        return rng.categorical(params).to(params.dtype)

    def mean(self, params: Tensor) -> Tensor:
        return params.softmax(-1) @ torch.arange(self.k, dtype=params.dtype, device=params.device)

    def mode(self, params: Tensor) -> Tensor:
        return params.argmax(-1).to(params.dtype)


@dataclass(frozen=True)
class DiscretisedLogistic(Discrete):
    r"""A logistic distribution with every level's bin integrated, over k ordered levels (Kingma et al. 2016, IAF; PixelCNN++ eq. 2).

    With the level v at y = 2 v / (k-1) - 1, bins of half-width h = 1 / (k-1), location m and scale s,
    p(v) = sigmoid((y + h - m) / s) - sigmoid((y - h - m) / s); the lowest bin reaches to -inf and the highest to inf, so that the k
    probabilities sum to 1 exactly. log s has a smooth floor of -7 (that of PixelCNN++), about a ninth of a bin at k = 256.

    The difference is computed as sigmoid(a) sigmoid(-b) (1 - e^{b-a}), which never cancels: no special case in the tails.
    """

    k: int
    name = "discretised logistic"
    supports = ("levels", "binary")
    n_params = 2
    floor: ClassVar[float] = -7.0

    def _parts(self, params: Tensor) -> tuple[Tensor, Tensor]:
        return params[..., 0], soft_floor(params[..., 1], self.floor)

    def log_prob(self, params: Tensor, x: Tensor) -> Tensor:
        m, log_s = self._parts(params)
        h, inv = 1.0 / (self.k - 1), torch.exp(-log_s)
        centred = x * (2 * h) - 1.0 - m
        upper, lower = (centred + h) * inv, (centred - h) * inv
        logp = torch.where(x > self.k - 1.5, 0.0, F.logsigmoid(upper)) + torch.where(x < 0.5, 0.0, F.logsigmoid(-lower))
        interior = (x > 0.5) & (x < self.k - 1.5)
        return logp + torch.where(interior, torch.log(-torch.expm1(-2 * h * inv)), 0.0)

    def sample(self, params: Tensor, rng: Rng) -> Tensor:
        m, log_s = self._parts(params)
        u = rng.rand(*m.shape)
        return self._level(m + log_s.exp() * (torch.log(u) - torch.log1p(-u)))

    def mean(self, params: Tensor) -> Tensor:
        # E[v] = sum_{t=1}^{k-1} p(v >= t); a loop over levels keeps memory at one record's size.
        m, log_s = self._parts(params)
        h, inv, total = 1.0 / (self.k - 1), torch.exp(-log_s), torch.zeros_like(m)
        for t in range(1, self.k):
            total = total + torch.sigmoid((m - ((2 * t - 1) * h - 1.0)) * inv)
        return total

    def mode(self, params: Tensor) -> Tensor:
        # The interior falls away from the location, but an end bin holds a whole tail: compare the three candidates.
        near = self._level(params[..., 0])
        candidates = torch.stack([near, torch.zeros_like(near), torch.full_like(near, self.k - 1)])
        best = self.log_prob(params.unsqueeze(0), candidates).argmax(0, keepdim=True)
        return candidates.gather(0, best).squeeze(0)

    def _level(self, y: Tensor) -> Tensor:
        return ((y + 1.0) * ((self.k - 1) / 2)).round().clamp(0, self.k - 1) + 0.0  # -0.0 becomes 0.0
