"""Invertible maps with their log-determinants: the shared mathematics of flows.

A bijection takes x to y = f(x; c) and says how volume changes:

    forward(x, c) -> (y, log|det dy/dx|),    inverse(y, c) -> (x, log|det dx/dy|),

with x, y of shape (B, D), the condition c (B, C) or None, and log-determinants (B,) in nats. If y has density p_Y then x has

    log p_X(x) = log p_Y(f(x)) + log|det df/dx|.

Every class here is final; `Bijection` is the abstract noun.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from .data.spec import Support
from .nn import MLP

__all__ = [
    "AffineCoupling",
    "Bijection",
    "Compose",
    "Dequantise",
    "Linear",
    "Permutation",
    "RationalQuadratic",
    "RationalQuadraticCoupling",
    "spline",
]


class Bijection(nn.Module, ABC):
    """An invertible map of vectors. `forward` and `inverse` return the image and its log-determinant, (B, D) and (B,)."""

    @abstractmethod
    def forward(self, x: Float[Tensor, "B D"], c: Float[Tensor, "B C"] | None = None) -> tuple[Tensor, Tensor]: ...

    @abstractmethod
    def inverse(self, y: Float[Tensor, "B D"], c: Float[Tensor, "B C"] | None = None) -> tuple[Tensor, Tensor]: ...


class Compose(Bijection):
    """y = f_L(... f_2(f_1(x))): log-determinants add."""

    def __init__(self, layers: Sequence[Bijection]):
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        log_det = x.new_zeros(len(x))
        for f in self.layers:
            x, change = f(x, c)
            log_det = log_det + change
        return x, log_det

    def inverse(self, y: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        log_det = y.new_zeros(len(y))
        for f in reversed(self.layers):
            y, change = f.inverse(y, c)  # pyright: ignore[reportCallIssue]
            log_det = log_det + change
        return y, log_det


class Permutation(Bijection):
    """y_i = x_{order_i}; the log-determinant is 0. `order` defaults to the reverse."""

    order: Tensor
    back: Tensor

    def __init__(self, dim: int, order: Tensor | None = None):
        super().__init__()
        order = torch.arange(dim - 1, -1, -1) if order is None else order.clone()
        self.register_buffer("order", order)
        self.register_buffer("back", order.argsort())

    def forward(self, x: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return x.index_select(1, self.order), x.new_zeros(len(x))

    def inverse(self, y: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return y.index_select(1, self.back), y.new_zeros(len(y))


class Linear(Bijection):
    """y = L U P x + b, with P a fixed permutation, L unit lower triangular, U upper triangular with diagonal exp(s): log|det| = sum s.

    L and U live in one (D, D) matrix whose diagonal is s; it starts at zero, so the map starts as the permutation. Inverses solve
    triangular systems: no matrix is ever inverted.

    Source: Kingma and Dhariwal, Glow (2018), section 3.2; Oliva et al., TAN (2018).
    """

    def __init__(self, dim: int, order: Tensor | None = None):
        super().__init__()
        self.permutation = Permutation(dim, order)
        self.lu = nn.Parameter(torch.zeros(dim, dim))
        self.bias = nn.Parameter(torch.zeros(dim))

    def _factors(self) -> tuple[Tensor, Tensor, Tensor]:
        s = self.lu.diagonal()
        lower = self.lu.tril(-1) + torch.eye(len(s), dtype=s.dtype, device=s.device)
        return lower, self.lu.triu(1) + s.exp().diag(), s.sum()

    def forward(self, x: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        lower, upper, log_det = self._factors()
        x, _ = self.permutation(x)
        return torch.addmm(self.bias, x, (lower @ upper).t()), log_det.expand(len(x))

    def inverse(self, y: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        lower, upper, log_det = self._factors()
        x = torch.linalg.solve_triangular(lower, (y - self.bias).t(), upper=False, unitriangular=True)
        x = torch.linalg.solve_triangular(upper, x, upper=True).t()
        return self.permutation.inverse(x)[0], -log_det.expand(len(y))


class _Conditioner(nn.Module):
    """The parameters of the entries that a coupling moves, (B, entries, P), from the entries that stay and the condition.

    Where there is neither (a record of one entry, no condition) they are plain parameters.
    """

    def __init__(self, inputs: int, entries: int, params: int, condition_dim: int, hidden: Sequence[int]):
        super().__init__()
        self.shape = (entries, params)
        if inputs + condition_dim == 0:
            self.constant = nn.Parameter(torch.zeros(entries, params))
            return
        self.net = MLP(inputs, entries * params, hidden=hidden, condition_dim=condition_dim, out_shape=self.shape)
        dense = [m for m in self.net.modules() if isinstance(m, nn.Linear)]
        with torch.no_grad():
            for layer in dense[:-1]:
                # Spread the kinks over the data: with one or two inputs, zero biases would put all of them at the origin.
                layer.bias.uniform_(-1, 1).div_(math.sqrt(layer.in_features))
            dense[-1].weight.mul_(0.1)  # near the identity at first, yet gradients reach every layer

    def forward(self, a: Tensor, c: Tensor | None) -> Tensor:
        return self.net(a, c) if hasattr(self, "net") else self.constant.expand(len(a), *self.shape)


class AffineCoupling(Bijection):
    r"""y_1 = x_1, y_2 = x_2 exp(s(x_1)) + t(x_1), for the first a = floor(D / 2) entries x_1 and the others x_2.

    log|det| = sum s. The log-scale is bounded smoothly, s = m tanh(r / m), so that neither direction can overflow.

    Source: Dinh, Sohl-Dickstein and Bengio, RealNVP (2017), equations 7 and 8.

    Parameters
    ----------
    dim, condition_dim
        D and C.
    hidden
        Widths of the conditioner's hidden layers.
    max_log_scale
        The bound m on \|s\|, in nats.
    """

    def __init__(self, dim: int, condition_dim: int = 0, hidden: Sequence[int] = (128, 128), max_log_scale: float = 3.0):
        super().__init__()
        self.a = dim // 2
        self.max_log_scale = max_log_scale
        self.net = _Conditioner(self.a, dim - self.a, 2, condition_dim, hidden)

    def _params(self, x1: Tensor, c: Tensor | None) -> tuple[Tensor, Tensor]:
        s, t = self.net(x1, c).unbind(-1)
        return self.max_log_scale * torch.tanh(s / self.max_log_scale), t

    def forward(self, x: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        x1, x2 = x[:, : self.a], x[:, self.a :]
        s, t = self._params(x1, c)
        return torch.cat([x1, torch.addcmul(t, x2, s.exp())], 1), s.sum(1)

    def inverse(self, y: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        y1, y2 = y[:, : self.a], y[:, self.a :]
        s, t = self._params(y1, c)
        return torch.cat([y1, (y2 - t) * (-s).exp()], 1), -s.sum(1)


class RationalQuadraticCoupling(Bijection):
    """y_1 = x_1, y_2 = spline(x_2; theta(x_1)): a monotone rational-quadratic spline for each entry, the identity outside [-bound, bound].

    Source: Durkan, Bekasov, Murray and Papamakarios, Neural Spline Flows (2019), section 3.

    Parameters
    ----------
    dim, condition_dim
        D and C.
    bins
        Number of bins K of each spline.
    bound
        Half the width of the box.
    hidden
        Widths of the conditioner's hidden layers.
    """

    def __init__(self, dim: int, condition_dim: int = 0, bins: int = 8, bound: float = 5.0, hidden: Sequence[int] = (128, 128)):
        super().__init__()
        self.a, self.bins, self.bound = dim // 2, bins, bound
        self.net = _Conditioner(self.a, dim - self.a, 3 * bins - 1, condition_dim, hidden)

    def forward(self, x: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        x1, x2 = x[:, : self.a], x[:, self.a :]
        y2, change = spline(x2, self.net(x1, c), self.bound)
        return torch.cat([x1, y2], 1), change.sum(1)

    def inverse(self, y: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        y1, y2 = y[:, : self.a], y[:, self.a :]
        x2, change = spline(y2, self.net(y1, c), self.bound, inverse=True)
        return torch.cat([y1, x2], 1), change.sum(1)


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


MIN_BIN = 1e-4
"""Least share of the box that a bin takes in either direction (Durkan et al. take 1e-3, too wide for modes 1/100 as wide as the data)."""
MIN_SLOPE = 1e-3
"""Least derivative at a knot, as Durkan et al."""
_UNIT_SLOPE = math.log(math.expm1(1.0 - MIN_SLOPE))
"""softplus(_UNIT_SLOPE) + MIN_SLOPE = 1: raw slopes of zero mean the identity, and the outermost knots join the tails smoothly."""


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
    d0, d1 = (F.softplus(slopes + _UNIT_SLOPE) + MIN_SLOPE).unbind(-1)
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
