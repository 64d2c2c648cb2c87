"""Monotone rational-quadratic splines of single entries."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from .base import Bijection

__all__ = ["MIN_BIN", "MIN_SLOPE", "RationalQuadratic", "bounded", "spline"]

MIN_BIN = 1e-4
"""Least share of the box that a bin takes in either direction (Durkan et al. take 1e-3, too wide for modes 1/100 as wide as the data)."""
MIN_SLOPE = 1e-3
"""Least derivative at a knot, as Durkan et al."""
UNIT_SLOPE = math.log(math.expm1(1.0 - MIN_SLOPE))
"""softplus(UNIT_SLOPE) + MIN_SLOPE = 1: raw slopes of zero mean the identity, and the outermost knots join the tails smoothly."""


class RationalQuadratic(Bijection):
    """y_i = spline_i(x_i): one monotone rational-quadratic spline for each entry, whatever the others and the condition.

    As a flow's first layer it takes up the marginals (the steps of dequantised levels, clusters, skewed columns), before anything is mixed.
    """

    def __init__(self, dim: int, bins: int = 8, bound: float = 5.0):
        super().__init__()
        self.bound = bound
        self.params = nn.Parameter(torch.zeros(dim, 3 * bins - 1))

    def forward(self, x: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        y, change = spline(x, self.params[None], self.bound)
        return y, change.sum(1)

    def inverse(self, y: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        x, change = spline(y, self.params[None], self.bound, inverse=True)
        return x, change.sum(1)


MOST_RAW = 4.0
"""Bound of raw parameters that a network gives: bins then differ by at most a factor of e^8, about 3000, in width and in height."""


def bounded(params: Tensor) -> Tensor:
    """r / (1 + |r| / 4): raw parameters that stay within +-4 however far from its data a network is asked.

    Left alone, inputs of 50 standard deviations make bins so flat that no digit of float32 survives the inverse.
    """
    return params / (1 + params.abs() / MOST_RAW)


def spline(
    x: Float[Tensor, "B D"], params: Float[Tensor, "#B D P"], bound: float, *, inverse: bool = False
) -> tuple[Float[Tensor, "B D"], Float[Tensor, "B D"]]:
    r"""Monotone rational-quadratic spline on [-bound, bound] with K bins and the identity outside, elementwise:
    (y, log dy/dx).

    `params` holds K raw widths, K raw heights and K - 1 raw slopes (P = 3K - 1); zeros give the identity. In a bin from (x_0, y_0)
    of width w, height h, mean slope s = h / w and slopes d_0, d_1 at its ends, with t = (x - x_0) / w,

        y  = y_0 + h (s t^2 + d_0 t (1 - t)) / q,                                  q = s (t^2 + (1 - t)^2) + (d_0 + d_1) t (1 - t),
        y' = s^2 (d_1 t^2 + 2 s t (1 - t) + d_0 (1 - t)^2) / q^2

    (Durkan et al. 2019, equations 4 and 5, with q rewritten so that each term is positive). The inverse solves a quadratic equation. With
    v = (y - y_0) / h and p = (1 - v) d_0 - v d_1 its discriminant is r^2 = p^2 + 4 v (1 - v) s^2, a sum of squares, and

        t : (1 - t) = 2 s v : (p + r)  where p >= 0,        t : (1 - t) = (r - p) : 2 s (1 - v)  where p < 0,

    so nothing cancels, no root of a negative number can arise, and t stays in [0, 1] in any precision.
    """
    n, K = len(x), (params.shape[-1] + 1) // 3
    share = params[..., : 2 * K].unflatten(-1, (2, K)).softmax(-1)
    share = MIN_BIN + (1 - MIN_BIN * K) * share  # (B, D, 2, K): widths and heights as shares of the box
    ends = share.cumsum(-1)  # right and upper ends of the bins
    inside = x.clamp(-bound, bound)
    u = (inside + bound) / (2 * bound)  # position in the box, 0 to 1
    with torch.no_grad():
        k = (u.unsqueeze(-1) >= ends[..., 1 if inverse else 0, :-1]).sum(-1, keepdim=True)
    at = k.unsqueeze(-2).expand(-1, -1, 2, -1)
    (w, h), (x1, y1) = (t.expand(n, -1, -1, -1).gather(-1, at).squeeze(-1).unbind(-1) for t in (share, ends))
    slopes = F.pad(params[..., 2 * K :], (1, 1)).expand(n, -1, -1).gather(-1, torch.cat([k, k + 1], -1))
    d0, d1 = (F.softplus(slopes + UNIT_SLOPE) + MIN_SLOPE).unbind(-1)
    s = h / w
    if inverse:
        v = ((u - y1 + h) / h).clamp(0, 1)
        p = (1 - v) * d0 - v * d1
        r = (p * p + 4 * v * (1 - v) * s * s).sqrt()
        up, down = torch.where(p >= 0, 2 * s * v, r - p), torch.where(p >= 0, p + r, 2 * s * (1 - v))
        t = up / (up + down)
    else:
        t = ((u - x1 + w) / w).clamp(0, 1)
    t_ = 1 - t
    tt = t * t_
    q = s * (t * t + t_ * t_) + (d0 + d1) * tt
    log_slope = (d1 * t * t + 2 * s * tt + d0 * t_ * t_).log() + 2 * (s / q).log()
    # A point outside sits at the end of the first or last bin, where y is the end of the box and y' = 1: the tail only adds the rest.
    tail = x - inside
    if inverse:
        return (x1 - w * t_) * (2 * bound) - bound + tail, -log_slope
    return (y1 - h + h * (s * t * t + d0 * tt) / q) * (2 * bound) - bound + tail, log_slope
