"""Planar and radial maps: a record moves along one direction, or away from one point."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..nn import MLP
from .base import Bijection
from .bisection import bisect
from .spline import MIN_SLOPE, UNIT_SLOPE

__all__ = ["Planar", "Radial"]


class _Parameters(nn.Module):
    """A learned vector, plus a small network's function of the condition where there is one."""

    def __init__(self, start: Tensor, condition_dim: int, hidden: Sequence[int]):
        super().__init__()
        self.own = nn.Parameter(start)
        self.net = MLP(0, len(start), hidden=hidden, condition_dim=condition_dim) if condition_dim else None
        if self.net is not None:
            last = [m for m in self.net.modules() if isinstance(m, nn.Linear)][-1]
            with torch.no_grad():
                last.weight.mul_(0.1)

    def forward(self, n: int, c: Tensor | None) -> Tensor:
        own = self.own.expand(n, -1)
        return own if self.net is None else own + self.net(own[:, :0], c)


def _least(raw: Tensor) -> Tensor:
    """A number above 0, at least `MIN_SLOPE`, and 1 at raw = 0."""
    return F.softplus(raw + UNIT_SLOPE) + MIN_SLOPE


class Planar(Bijection):
    r"""y = x + u tanh(w.x + b), for w.u > -1.

    log|det| = log(1 + w.u sech^2(a)) = log(tanh^2(a) + (1 + w.u) sech^2(a)) with a = w.x + b, a sum of positive terms. A raw vector r
    becomes u = r + (g - w.r) w / |w|^2 with g = w.u = softplus(w.r + const) - 1 + 1e-3 > -1, which is 0 at w.r = 0.

    Along w the map is a + g tanh(a), increasing: bisection finds a from w.y + b, then x = y - u tanh(a).

    Source: Rezende and Mohamed, Variational Inference with Normalizing Flows (2015), equations 10 to 12 and appendix A.1.

    Parameters
    ----------
    dim, condition_dim
        D and C; with a condition u, w and b are functions of it.
    hidden
        Widths of that function's hidden layers.
    """

    def __init__(self, dim: int, condition_dim: int = 0, hidden: Sequence[int] = (32,)):
        super().__init__()
        self.dim = dim
        start = torch.cat([0.1 * torch.randn(dim), torch.randn(dim) / math.sqrt(dim), torch.empty(1).uniform_(-1, 1)])
        self.params = _Parameters(start, condition_dim, hidden)

    def _params(self, n: int, c: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """u and w, (B, D), b and 1 + w.u, (B, 1)."""
        raw, w, b = self.params(n, c).split([self.dim, self.dim, 1], 1)
        along = (w * raw).sum(1, keepdim=True)
        slope = _least(along)
        u = raw + (slope - 1 - along) * w / w.square().sum(1, keepdim=True).clamp(min=1e-12)
        return u, w, b, slope

    def forward(self, x: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        u, w, b, slope = self._params(len(x), c)
        h = torch.tanh((w * x).sum(1, keepdim=True) + b)
        return torch.addcmul(x, u, h), (h * h + slope * (1 - h * h)).log().squeeze(1)

    def inverse(self, y: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        u, w, b, slope = self._params(len(y), c)

        def along(a: Tensor) -> tuple[Tensor, Tensor]:
            h = torch.tanh(a)
            return torch.addcmul(a, slope - 1, h), h * h + slope * (1 - h * h)

        there = (w * y).sum(1, keepdim=True) + b
        room = (slope - 1).detach().abs()
        a = bisect(along, there, there.detach() - room, there.detach() + room)
        return torch.addcmul(y, u, torch.tanh(a), value=-1), -along(a)[1].log().squeeze(1)


class Radial(Bijection):
    r"""y = x + beta (x - x_0) / (alpha + r), with r = \|x - x_0\|, alpha > 0 and beta > -alpha.

    With s = alpha + beta > 0 the scale of x - x_0 is (r + s) / (r + alpha), and

        log|det| = (D - 1) log((r + s) / (r + alpha)) + log((r^2 + 2 alpha r + alpha s) / (r + alpha)^2),

    sums of positive terms. The new radius rho = r (r + s) / (r + alpha) is inverted in closed form: r is the positive root of
    r^2 + (s - rho) r - alpha rho = 0.

    Source: Rezende and Mohamed, Variational Inference with Normalizing Flows (2015), equation 14 and appendix A.2.

    Parameters
    ----------
    dim, condition_dim
        D and C; with a condition x_0, alpha and beta are functions of it.
    hidden
        Widths of that function's hidden layers.
    """

    def __init__(self, dim: int, condition_dim: int = 0, hidden: Sequence[int] = (32,)):
        super().__init__()
        self.dim = dim
        self.params = _Parameters(torch.cat([torch.randn(dim), torch.zeros(2)]), condition_dim, hidden)

    def _params(self, n: int, c: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """x_0 (B, D), alpha and s = alpha + beta, (B, 1)."""
        centre, alpha, ratio = self.params(n, c).split([self.dim, 1, 1], 1)
        alpha = _least(alpha)
        return centre, alpha, alpha * _least(ratio)

    def _log_det(self, r: Tensor, alpha: Tensor, s: Tensor) -> Tensor:
        near = r + alpha
        radial = (r * r + 2 * alpha * r + alpha * s) / near.square()
        return ((self.dim - 1) * ((r + s) / near).log() + radial.log()).squeeze(1)

    def forward(self, x: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        centre, alpha, s = self._params(len(x), c)
        away = x - centre
        r = torch.linalg.vector_norm(away, dim=1, keepdim=True)
        return torch.addcmul(centre, away, (r + s) / (r + alpha)), self._log_det(r, alpha, s)

    def inverse(self, y: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        centre, alpha, s = self._params(len(y), c)
        away = y - centre
        rho = torch.linalg.vector_norm(away, dim=1, keepdim=True)
        p = rho - s
        root = (p * p + 4 * alpha * rho).sqrt()
        # Whichever of the two forms adds numbers of one sign.
        r = torch.where(p >= 0, (root + p) / 2, 2 * alpha * rho / (root - p).clamp(min=torch.finfo(y.dtype).tiny))
        return torch.addcmul(centre, away, (r + alpha) / (r + s)), -self._log_det(r, alpha, s)
