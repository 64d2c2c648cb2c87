"""Inverses of increasing functions that have none in closed form."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from .base import Bijection

__all__ = ["TanhSum", "bisect"]


def bisect(f: Callable[[Tensor], tuple[Tensor, Tensor]], y: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """x with f(x) = y for an increasing f, elementwise, given low <= x <= high; `f` returns (f(x), f'(x)).

    The interval is halved until only rounding is left: the number of halvings is that of the mantissa, plus what the widest interval
    asks for. A last Newton step brings x to the rounding of y, and carries the gradients: dx = (dy - df) / f'.
    """
    with torch.no_grad():
        widest = max(float((high - low).max()) if low.numel() else 0.0, 1.0)
        for _ in range(math.ceil(math.log2(widest / torch.finfo(y.dtype).eps))):
            middle = (low + high) / 2
            above = f(middle)[0] > y
            low, high = torch.where(above, low, middle), torch.where(above, middle, high)
        x = (low + high) / 2
    value, slope = f(x)
    return x - (value - y) / slope.detach()


class TanhSum(Bijection):
    """y_i = x_i exp(s_i) + b_i + sum_k a_ik tanh(w_ik x_i + b_ik) with a, w > 0: increasing in each entry, inverted by bisection.

    log|det| = sum_i log(exp(s_i) + sum_k a_ik w_ik sech^2(w_ik x_i + b_ik)): smooth steps, and straight lines far out.

    Source: the sigmoidal transformer of Huang, Krueger, Lacoste and Courville, Neural Autoregressive Flows (2018), equation 8, with a
    linear part in place of its logit.
    """

    def __init__(self, dim: int, terms: int = 8):
        super().__init__()
        self.log_scale, self.bias = nn.Parameter(torch.zeros(dim)), nn.Parameter(torch.zeros(dim))
        self.log_height = nn.Parameter(torch.full((dim, terms), -4.0))
        self.log_width = nn.Parameter(torch.zeros(dim, terms))
        self.shift = nn.Parameter(torch.linspace(-3, 3, terms).repeat(dim, 1))

    def _value(self, x: Tensor) -> tuple[Tensor, Tensor]:
        a, w = self.log_height.exp(), self.log_width.exp()
        h = torch.tanh(torch.addcmul(self.shift, x.unsqueeze(-1), w))
        e = self.log_scale.exp()
        return x * e + self.bias + (a * h).sum(-1), e + (a * w * (1 - h * h)).sum(-1)

    def forward(self, x: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        y, slope = self._value(x)
        return y, slope.log().sum(1)

    def inverse(self, y: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        with torch.no_grad():  # the sum of tanh lies within +- sum a
            middle, room, e = y - self.bias, self.log_height.exp().sum(-1), self.log_scale.exp()
        x = bisect(self._value, y, (middle - room) / e, (middle + room) / e)
        return x, -self._value(x)[1].log().sum(1)
