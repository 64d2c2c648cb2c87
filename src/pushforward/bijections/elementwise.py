"""Maps of single entries between the values of records and the real line."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..data.spec import Support

__all__ = ["Dequantise"]


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
