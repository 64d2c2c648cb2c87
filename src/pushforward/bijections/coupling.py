"""Couplings: some entries move, by a map whose parameters are a network's function of those that stay."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..nn import MLP
from .base import Bijection, near, within
from .spline import spline

__all__ = ["AdditiveCoupling", "AffineCoupling", "RationalQuadraticCoupling"]


class _Conditioner(nn.Module):
    """The parameters that move what a coupling moves, (B, entries, P) or (B, P, entries), from the entries that stay and the condition.

    Where there is neither (a record of one entry, no condition) they are plain parameters.
    """

    def __init__(self, inputs: int, shape: tuple[int, int], condition_dim: int, hidden: Sequence[int]):
        super().__init__()
        self.shape = shape
        if inputs + condition_dim == 0:
            self.constant = nn.Parameter(torch.zeros(shape))
            return
        self.net = MLP(inputs, math.prod(shape), hidden=hidden, condition_dim=condition_dim, out_shape=shape)
        dense = [m for m in self.net.modules() if isinstance(m, nn.Linear)]
        with torch.no_grad():
            for layer in dense[:-1]:
                # Spread the kinks over the data: with one or two inputs, zero biases would put all of them at the origin.
                layer.bias.uniform_(-1, 1).div_(math.sqrt(layer.in_features))
            dense[-1].weight.mul_(0.1)  # near the identity at first, yet gradients reach every layer

    def forward(self, a: Tensor, c: Tensor | None) -> Tensor:
        return self.net(near(a), c) if hasattr(self, "net") else self.constant.expand(len(a), *self.shape)


class _Coupling(Bijection):
    """What the couplings share; they differ in how x_2 moves."""

    def __init__(self, dim: int, shape: tuple[int, int], condition_dim: int, hidden: Sequence[int], last: bool):
        super().__init__()
        self.a, self.last = dim // 2, last
        self.net = _Conditioner(self.a, shape, condition_dim, hidden)

    def _split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x_1, which stays, and x_2."""
        if self.last:
            x2, x1 = x.split((x.shape[1] - self.a, self.a), 1)
        else:
            x1, x2 = x.split((self.a, x.shape[1] - self.a), 1)
        return x1, x2

    def _join(self, x1: Tensor, x2: Tensor) -> Tensor:
        return torch.cat([x2, x1] if self.last else [x1, x2], 1)


class AdditiveCoupling(_Coupling):
    """y_1 = x_1, y_2 = x_2 + t(x_1), for a = floor(D / 2) entries x_1 and the others x_2: the log-determinant is 0.

    Source: Dinh, Krueger and Bengio, NICE (2015), section 3.2.

    Parameters
    ----------
    dim, condition_dim
        D and C.
    hidden
        Widths of the conditioner's hidden layers.
    last
        Whether the last a entries stay; or the first.
    """

    def __init__(self, dim: int, condition_dim: int = 0, hidden: Sequence[int] = (128, 128), last: bool = False):
        super().__init__(dim, (dim - dim // 2, 1), condition_dim, hidden, last)

    def forward(self, x: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        x1, x2 = self._split(x)
        return self._join(x1, x2 + self.net(x1, c).squeeze(-1)), x.new_zeros(len(x))

    def inverse(self, y: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        y1, y2 = self._split(y)
        return self._join(y1, y2 - self.net(y1, c).squeeze(-1)), y.new_zeros(len(y))


class AffineCoupling(_Coupling):
    r"""y_1 = x_1, y_2 = x_2 exp(s(x_1)) + t(x_1), for a = floor(D / 2) entries x_1 and the others x_2.

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
    last
        Whether the last a entries stay; or the first.
    """

    def __init__(
        self,
        dim: int,
        condition_dim: int = 0,
        hidden: Sequence[int] = (128, 128),
        max_log_scale: float = 3.0,
        last: bool = False,
    ):
        super().__init__(dim, (2, dim - dim // 2), condition_dim, hidden, last)
        self.max_log_scale = max_log_scale

    def _params(self, x1: Tensor, c: Tensor | None) -> tuple[Tensor, Tensor]:
        s, t = self.net(x1, c).unbind(1)
        return within(s, self.max_log_scale), t

    def forward(self, x: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        x1, x2 = self._split(x)
        s, t = self._params(x1, c)
        return self._join(x1, torch.addcmul(t, x2, s.exp())), s.sum(1)

    def inverse(self, y: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        y1, y2 = self._split(y)
        s, t = self._params(y1, c)
        return self._join(y1, (y2 - t) * (-s).exp()), -s.sum(1)


class RationalQuadraticCoupling(_Coupling):
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
    last
        Whether the last a entries stay; or the first.
    """

    def __init__(
        self,
        dim: int,
        condition_dim: int = 0,
        bins: int = 8,
        bound: float = 5.0,
        hidden: Sequence[int] = (128, 128),
        last: bool = False,
    ):
        super().__init__(dim, (dim - dim // 2, 3 * bins - 1), condition_dim, hidden, last)
        self.bins, self.bound = bins, bound

    def forward(self, x: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        x1, x2 = self._split(x)
        y2, change = spline(x2, self.net(x1, c), self.bound, raw=True)
        return self._join(x1, y2), change.sum(1)

    def inverse(self, y: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        y1, y2 = self._split(y)
        x2, change = spline(y2, self.net(y1, c), self.bound, inverse=True, raw=True)
        return self._join(y1, x2), change.sum(1)
