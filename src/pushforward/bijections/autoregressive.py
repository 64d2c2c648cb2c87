r"""Autoregressive maps: y_d = g(x_d; theta_d(x_1 .. x_{d-1}, c)) with g increasing, so that the Jacobian is triangular.

One masked network (`nn.masked`) gives all theta in a single pass, and log|det dy/dx| = sum_d log g'(x_d). The inverse visits the entries
in order, x_d = g^{-1}(y_d; theta_d), and computes each hidden unit once: about one pass of arithmetic instead of D. Its gradients come from
the implicit function theorem, dx = J^{-1} (dy - df), rather than through the D steps.
"""

from abc import abstractmethod
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from ..nn.masked import MaskedMLP
from .base import Bijection, near, within
from .spline import spline

__all__ = ["AffineAutoregressive", "RationalQuadraticAutoregressive"]


class _Autoregressive(Bijection):
    """What the maps share; they differ in g."""

    def __init__(self, dim: int, params: int, condition_dim: int, hidden: Sequence[int], order: Sequence[int] | None):
        super().__init__()
        self.net = MaskedMLP([1] * dim, [params] * dim, hidden, condition_dim, order or "natural", direct=False)
        with torch.no_grad():  # near the identity at first, yet gradients reach every layer
            for p in (*self.net.out.parameters(), *(self.net.condition[-1:].parameters())):
                p.mul_(0.1)

    @abstractmethod
    def _move(self, x: Tensor, params: Tensor, *, inverse: bool = False) -> tuple[Tensor, Tensor]:
        """g (or its inverse) of some entries (B, n) with parameters (P, B, n), and its log-slopes, (B, n)."""

    def _params(self, x: Tensor, c: Tensor | None) -> Float[Tensor, "P B D"]:
        """The parameters of all entries."""
        return self.net(near(x), c).unflatten(1, (x.shape[1], -1)).movedim(-1, 0)

    def forward(self, x: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        y, log_slopes = self._move(x, self._params(x, c))
        return y, log_slopes.sum(1)

    def inverse(self, y: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        x, log_det = self._visit(y, c)
        if not torch.is_grad_enabled():
            return x, log_det
        x = self._attach(x, y, c)
        return x, -self.forward(x, c)[1]

    @torch.no_grad()
    def _visit(self, y: Tensor, c: Tensor | None) -> tuple[Tensor, Tensor]:
        """The inverse, entry by entry; an entry of all records is a row here, so that each step works on memory in one piece."""
        rows = y.t().contiguous().split(1)
        x, log_slopes = list(rows), []

        def choose(d: int, params: Tensor) -> Tensor:
            x[d], log_slope = self._move(rows[d], params.unsqueeze(1), inverse=True)
            log_slopes.append(log_slope)
            return near(x[d])

        self.net.incremental(len(y), c, choose)
        return torch.cat(x).t().contiguous(), torch.cat(log_slopes).sum(0)

    def _attach(self, x: Tensor, y: Tensor, c: Tensor | None) -> Tensor:
        """x, the known solution of f(x; theta, c) = y, with its gradients: dx = J^{-1} (dy - df at fixed x).

        A gradient v on x becomes J^{-T} v on y - f(x). With J = S + N (S the slopes, N strictly triangular) the iteration
        v <- v + S^{-1} (g - J^T v) is exact after D rounds, as S^{-1} N^T is nilpotent; it mostly needs far fewer.
        """
        with torch.enable_grad():
            at = x.detach().requires_grad_()
            image, log_slopes = self._move(at, self._params(at, c))
            rest = y - image
        slopes, small = log_slopes.detach().exp(), torch.finfo(x.dtype).eps

        def solve(g: Tensor) -> Tensor:
            v = g / slopes
            for _ in range(x.shape[1]):
                step = (g - torch.autograd.grad(image, at, v, retain_graph=True)[0]) / slopes
                v = v + step
                if step.abs().max() <= small * v.abs().max():
                    break
            return v

        rest.register_hook(solve)
        return x.detach() + (rest - rest.detach())


class AffineAutoregressive(_Autoregressive):
    r"""y_d = x_d exp(s_d) + t_d, with s and t functions of the entries before d: log|det| = sum s, \|s\| <= m.

    Source: Papamakarios, Pavlakou and Murray, Masked Autoregressive Flow (2017), equations 3 to 6 (their alpha is -s).

    Parameters
    ----------
    dim, condition_dim
        D and C.
    hidden
        Widths of the masked network's hidden layers.
    max_log_scale
        The bound m, in nats.
    order
        The entries 0 .. D-1 in their order, that of their numbers by default.
    """

    def __init__(
        self,
        dim: int,
        condition_dim: int = 0,
        hidden: Sequence[int] = (128, 128),
        max_log_scale: float = 3.0,
        order: Sequence[int] | None = None,
    ):
        super().__init__(dim, 2, condition_dim, hidden, order)
        self.max_log_scale = max_log_scale

    def _move(self, x: Tensor, params: Tensor, *, inverse: bool = False) -> tuple[Tensor, Tensor]:
        s, t = params.unbind()
        s = within(s, self.max_log_scale)
        if inverse:
            s = -s
            return (x - t) * s.exp(), s
        return torch.addcmul(t, x, s.exp()), s


class RationalQuadraticAutoregressive(_Autoregressive):
    """y_d = spline(x_d; theta_d(x_{<d})): a monotone rational-quadratic spline of each entry, the identity outside [-bound, bound].

    Source: Durkan, Bekasov, Murray and Papamakarios, Neural Spline Flows (2019), section 3, RQ-NSF (AR).

    Parameters
    ----------
    dim, condition_dim
        D and C.
    bins
        Number of bins K of each spline.
    bound
        Half the width of the box.
    hidden
        Widths of the masked network's hidden layers.
    order
        The entries 0 .. D-1 in their order, that of their numbers by default.
    """

    def __init__(
        self,
        dim: int,
        condition_dim: int = 0,
        bins: int = 8,
        bound: float = 5.0,
        hidden: Sequence[int] = (128, 128),
        order: Sequence[int] | None = None,
    ):
        super().__init__(dim, 3 * bins - 1, condition_dim, hidden, order)
        self.bound = bound

    def _move(self, x: Tensor, params: Tensor, *, inverse: bool = False) -> tuple[Tensor, Tensor]:
        return spline(x, params.movedim(0, -1), self.bound, inverse=inverse, raw=True)
