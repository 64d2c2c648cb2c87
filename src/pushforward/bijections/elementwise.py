"""Maps of single entries between the values of records and the real line."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ..data.spec import Support
from .base import Bijection

__all__ = ["Dequantise", "Logit", "Standardise"]


class Standardise(Bijection):
    """y = (x - mean) / sd with fixed numbers for each entry: log|det| = -sum log sd. `start` takes them from records.

    `sd` of a constant entry counts as 1. Unlike `ActNorm` nothing is learned.
    """

    mean: Tensor
    sd: Tensor

    def __init__(self, dim: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("sd", torch.ones(dim))

    @torch.no_grad()
    def start(self, x: Tensor) -> None:
        self.mean.copy_(x.mean(0))
        sd = x.std(0, correction=0)
        self.sd.copy_(torch.where(sd > 0, sd, 1.0))

    def forward(self, x: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return (x - self.mean) / self.sd, -self.sd.log().sum().expand(len(x))

    def inverse(self, y: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return torch.addcmul(self.mean, y, self.sd), self.sd.log().sum().expand(len(y))


class Logit(Bijection):
    r"""y = logit(v), v = alpha + (1 - 2 alpha) (x - low) / (high - low): entries of an interval on the real line.

    log|det| = sum log((1 - 2 alpha) / (high - low)) - log v - log(1 - v). The squeeze alpha keeps the ends finite (Dinh et al. 2017,
    section 4.1). x beyond the ends by more than its room, and y where sigmoid(y) rounds to 1 (37 in float64, 16 in float32), stop at the
    last number that has an inverse.
    """

    def __init__(self, low: float = 0.0, high: float = 1.0, alpha: float = 0.0):
        super().__init__()
        self.low, self.width, self.alpha = low, high - low, alpha
        self.log_slope = math.log((1 - 2 * alpha) / (high - low))

    def forward(self, x: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        v = self.alpha + (1 - 2 * self.alpha) * ((x - self.low) / self.width)
        v = v.clamp(torch.finfo(x.dtype).tiny, 1 - torch.finfo(x.dtype).eps)
        a, b = v.log(), torch.log1p(-v)
        return a - b, (self.log_slope - a - b).sum(1)

    def inverse(self, y: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        x = (y.sigmoid() - self.alpha) / (1 - 2 * self.alpha) * self.width + self.low
        # log v and log(1 - v) from y itself: sigmoid(y) rounds to 1
        return x, (F.logsigmoid(y) + F.logsigmoid(-y) - self.log_slope).sum(1)


class Dequantise(nn.Module):
    r"""Records with discrete or bounded entries as real vectors, and back.

    =======================  ====================================================================================
    support                  y
    =======================  ====================================================================================
    real                     x
    unit                     logit(alpha + (1 - 2 alpha) x)
    binary, levels(k), ...   logit(alpha + (1 - 2 alpha) (x + u) / k),  u in [0, 1): uniform dequantisation
    =======================  ====================================================================================

    With u uniform, log P(x) >= E_u[log p_Y(y(x, u)) + log|det dy/du|]: the log-determinant returned turns a density of y into
    that bound (or, without discrete entries, into the exact density). Categories are taken as codes 0 .. k-1.
    The inverse takes the cell's floor and clips to the support: the squeeze alpha leaves a little room outside of it.

    Source: Theis, van den Oord and Bethge (2016), section 3.1; Dinh et al., RealNVP (2017), section 4.1 (alpha = 0.05).
    """

    size: Tensor
    noise: Tensor
    bounded: Tensor

    def __init__(self, supports: Sequence[Support], alpha: float = 0.05):
        super().__init__()
        self.alpha = alpha
        self.any_bounded = any(s.name != "real" for s in supports)
        self.discrete = any(s.discrete for s in supports)
        self.register_buffer("size", torch.tensor([float(s.size or 1) for s in supports]), persistent=False)
        self.register_buffer("noise", torch.tensor([float(s.discrete) for s in supports]), persistent=False)
        self.register_buffer("bounded", torch.tensor([s.name != "real" for s in supports]), persistent=False)
        # log|det| of the linear part, x -> (x + u) / k -> squeeze
        self.constant = sum(math.log((1 - 2 * alpha) / (s.size or 1)) for s in supports if s.name != "real")

    def forward(self, x: Float[Tensor, "B D"], u: Float[Tensor, "B D"] | float = 0.5) -> tuple[Tensor, Tensor]:
        """(y, log|det|) of records x; `u` is the noise within the cells (ignored by continuous entries), the middle unless given."""
        if not self.any_bounded:
            return x, x.new_zeros(len(x))
        v = self.alpha + (1 - 2 * self.alpha) * ((x + u * self.noise) / self.size)
        v = torch.where(self.bounded, v, 0.5)
        if not self.alpha:  # as in `Logit`: the ends of the interval, which the sum of level and noise may round to
            v = v.clamp(torch.finfo(v.dtype).tiny, 1 - torch.finfo(v.dtype).eps)
        a, b = v.log(), torch.log1p(-v)
        # log|d logit(v)/dv| = -log v - log(1 - v)
        log_det = -torch.where(self.bounded, a + b, 0.0).sum(1) + self.constant
        return torch.where(self.bounded, a - b, x), log_det

    def inverse(self, y: Float[Tensor, "B D"]) -> Float[Tensor, "B D"]:
        """The record whose cell holds y."""
        if not self.any_bounded:
            return y
        x = (y.sigmoid() - self.alpha) / (1 - 2 * self.alpha) * self.size
        top = torch.where(self.noise > 0, self.size - 1, self.size)
        x = torch.minimum(torch.where(self.noise > 0, x.floor(), x).clamp(min=0), top)
        return torch.where(self.bounded, x, y)
