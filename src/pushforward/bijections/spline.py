"""Monotone rational-quadratic splines of single entries."""

import math
from typing import Any

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


MOST_RAW = 8.0
"""Bound of raw parameters that a network gives, at once low enough for inverses and high enough for narrow modes.

25 Gaussians of 1/50 of the data's width, 10,000 steps: KL .016 with 4, .009 with 8, .007 with 16, where inverses in float32 at 50 sd are
off by more than 1e-4.
"""


def bounded(params: Tensor) -> Tensor:
    """r / (1 + |r| / 8): raw parameters that stay within +-8 however far from its data a network is asked.

    Left alone, inputs of 50 standard deviations make bins so flat that no digit of float32 survives the inverse.
    """
    return params / (1 + params.abs() / MOST_RAW)


def spline(
    x: Float[Tensor, "B D"], params: Float[Tensor, "#B D P"], bound: float, *, inverse: bool = False, raw: bool = False
) -> tuple[Float[Tensor, "B D"], Float[Tensor, "B D"]]:
    r"""Monotone rational-quadratic spline on [-bound, bound] with K bins and the identity outside, elementwise:
    (y, log dy/dx).

    `params` holds K raw widths, K raw heights and K - 1 raw slopes (P = 3K - 1); zeros give the identity. `raw` passes them through
    `bounded` first. In a bin from (x_0, y_0) of width w, height h, mean slope s = h / w and slopes d_0, d_1 at its ends, with
    t = (x - x_0) / w,

        y  = y_0 + h (s t^2 + d_0 t (1 - t)) / q,                                  q = s (t^2 + (1 - t)^2) + (d_0 + d_1) t (1 - t),
        y' = s^2 (d_1 t^2 + 2 s t (1 - t) + d_0 (1 - t)^2) / q^2

    (Durkan et al. 2019, equations 4 and 5, with q rewritten so that each term is positive). The inverse solves a quadratic equation. With
    v = (y - y_0) / h and p = (1 - v) d_0 - v d_1 its discriminant is r^2 = p^2 + 4 v (1 - v) s^2, a sum of squares, and

        t : (1 - t) = 2 s v : (p + r)  where p >= 0,        t : (1 - t) = (r - p) : 2 s (1 - v)  where p < 0,

    so nothing cancels, no root of a negative number can arise, and t stays in [0, 1] in any precision.
    """
    inside = x.clamp(-bound, bound)
    u = (inside + bound) / (2 * bound)  # position in the box, 0 to 1
    if len(params) == 1 and len(x) > 1:  # one spline for all records: its knots are found once
        w, h, x1, y1, d0, d1 = (v.t() for v in knots(params[0], u.t(), inverse, raw))
    elif torch.compiler.is_compiling():
        w, h, x1, y1, d0, d1 = (v.squeeze(-1) for v in knots(params.expand(len(x), -1, -1), u.unsqueeze(-1), inverse, raw))
    else:
        w, h, x1, y1, d0, d1 = Knots.apply(params, u, inverse, raw)
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


def knots(params: Float[Tensor, "*any P"], u: Float[Tensor, "*any n"], inverse: bool, raw: bool) -> tuple[Tensor, ...]:
    """The bin that holds u: width and height as shares of the box, right and upper end, slopes at its left and right end; each (*any, n).

    Bins are sought by their right ends, in the inverse by their upper ones.
    """
    K = (params.shape[-1] + 1) // 3
    params = bounded(params) if raw else params
    share = params[..., : 2 * K].unflatten(-1, (2, K)).softmax(-1)
    share = MIN_BIN + (1 - MIN_BIN * K) * share  # (*any, 2, K)
    ends = share.cumsum(-1)
    with torch.no_grad():
        k = (u.unsqueeze(-1) >= ends[..., 1 if inverse else 0, :-1].unsqueeze(-2)).sum(-1)
    at = k.unsqueeze(-2).expand(*k.shape[:-1], 2, -1)
    (w, h), (x1, y1) = (t.gather(-1, at).unbind(-2) for t in (share, ends))
    slopes = F.pad(params[..., 2 * K :], (1, 1))
    d0, d1 = (F.softplus(slopes.gather(-1, at) + UNIT_SLOPE) + MIN_SLOPE for at in (k, k + 1))
    return w, h, x1, y1, d0, d1


class Knots(torch.autograd.Function):
    """`knots` of a spline for each record and entry, u (B, D) and params (B, D, 3K - 1), with its gradient written out.

    On a processor a softmax over eight bins takes thirty times as long as exponentials and their running sums, and of these only the bin
    that holds u is wanted. With e_j = exp(r_j), S their sum, a = 1 - K MIN_BIN and u in bin k,

        w = MIN_BIN + a e_k / S,        x_1 = (k + 1) MIN_BIN + a (e_0 + .. + e_k) / S,
        dL/dr_j = (e_j / S) (a g_w [j = k] + a g_x [j <= k] - m),        m = g_w (w - MIN_BIN) + g_x (x_1 - (k + 1) MIN_BIN),

    for gradients g_w, g_x of w and x_1, and likewise for heights. Second derivatives go through `knots`.
    """

    @staticmethod
    def forward(ctx: Any, params: Tensor, u: Tensor, inverse: bool, raw: bool) -> tuple[Tensor, ...]:
        shape, P = u.shape, params.shape[-1]
        K, n = (P + 1) // 3, u.numel()
        a, searched = 1 - MIN_BIN * K, int(inverse)
        flat = params.expand(*shape, P).reshape(n, P).contiguous()
        bins, squeeze, slope_squeeze = flat[:, : 2 * K], None, None
        if raw:
            squeeze = bins.abs().add_(MOST_RAW)
            e = (bins / squeeze).mul_(MOST_RAW).exp_().view(n, 2, K)
        else:
            bins = bins.unflatten(1, (2, K))
            e = (bins - bins.amax(-1, keepdim=True)).exp_()
        sums = e.cumsum(-1)
        total = sums[..., -1]  # (n, 2)
        least = torch.arange(1, K, dtype=u.dtype, device=u.device) * MIN_BIN
        ends = torch.addcmul(least, sums[:, searched, :-1], a / total[:, searched, None])
        k = (u.reshape(n, 1) >= ends).sum(-1)
        row = torch.arange(n, device=u.device)
        at = row * (2 * K) + k
        places = torch.cat([at, at + K])  # of widths, then of heights
        scale = (a / total).t().reshape(-1)
        share = e.view(-1).index_select(0, places).mul_(scale)  # less MIN_BIN
        end = sums.view(-1).index_select(0, places).mul_(scale)  # less (k + 1) MIN_BIN
        w, h = share.add(MIN_BIN).view(2, *shape)
        x1, y1 = end.view(2, n).add(k + 1, alpha=MIN_BIN).view(2, *shape)
        # The slope on the left is the one before the k-th, that on the right the k-th; the ends of the box have none: zero, which is 1.
        first = row * P + (2 * K - 1) + k
        sides = torch.cat([first, first + 1]).clamp_(max=n * P - 1)
        within = torch.cat([k > 0, k < K - 1]).to(u.dtype)
        slope = flat.view(-1).index_select(0, sides)
        if raw:
            slope_squeeze = slope.abs().add_(MOST_RAW)
            slope = slope.div_(slope_squeeze).mul_(MOST_RAW)
        slope = slope.mul_(within).add_(UNIT_SLOPE)
        d0, d1 = F.softplus(slope).add_(MIN_SLOPE).view(2, *shape)
        ctx.save_for_backward(params, u, e, squeeze, k, places, scale, share, end, sides, within, slope, slope_squeeze)
        ctx.settings = (inverse, raw)
        return w, h, x1, y1, d0, d1

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        params, u, e, squeeze, k, places, scale, share, end, sides, within, slope, slope_squeeze = ctx.saved_tensors
        inverse, raw = ctx.settings
        if torch.is_grad_enabled():  # a second derivative is wanted
            wanted = params if params.requires_grad else params.detach().requires_grad_()
            found = knots(wanted.expand(*u.shape, -1), u.detach().unsqueeze(-1), inverse, raw)
            back = torch.autograd.grad([v.squeeze(-1) for v in found], wanted, grads, create_graph=True)[0]
            return back, None, None, None
        n, _, K = e.shape
        P = 3 * K - 1
        gw, gh, gx, gy, g0, g1 = (g.reshape(-1) for g in grads)
        of_share, of_end, of_slope = torch.cat([gw, gh]), torch.cat([gx, gy]), torch.cat([g0, g1])
        # scale is a / S: the sum m is taken off as m / a.
        m = torch.addcmul(of_share * share, of_end, end).mul_(scale).div_(-(1 - MIN_BIN * K))
        of_share, of_end = of_share * scale, of_end * scale
        if raw:  # d bounded(r) / dr = 64 / (8 + |r|)^2
            for g in (m, of_share, of_end):
                g.mul_(MOST_RAW**2)
        up_to = (torch.arange(K, device=k.device) <= k.unsqueeze(-1)).to(e.dtype)
        bins = torch.empty_like(e)
        torch.addcmul(m.view(2, n).t().unsqueeze(-1), up_to.unsqueeze(1), of_end.view(2, n).t().unsqueeze(-1), out=bins)
        bins.view(-1).index_add_(0, places, of_share)
        bins.mul_(e)
        grad = e.new_zeros(n, P)
        if raw:
            bins = bins.view(n, 2 * K).div_(squeeze)
            torch.div(bins, squeeze, out=grad[:, : 2 * K])
        else:
            grad[:, : 2 * K] = bins.view(n, 2 * K)
        of_slope = of_slope.mul_(slope.sigmoid()).mul_(within)
        if raw:
            of_slope.mul_(MOST_RAW**2).div_(slope_squeeze).div_(slope_squeeze)
        grad.view(-1).index_add_(0, sides, of_slope)
        grad = grad.view(*u.shape, P)
        return (grad if len(params) == len(u) else grad.sum(0, keepdim=True)), None, None, None
