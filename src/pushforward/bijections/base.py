"""The abstract noun, and the composition of bijections."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["Bijection", "Compose", "Inverse", "near", "within"]

NEAR = 5.0
"""Where the inputs of networks begin to grow like a logarithm. Standardised data and codes lie inside but for heavy tails."""
FEW = 20_000
"""Of so few entries mostly none is far out (a normal's once in two million), and a look costs less than the formula."""


def near(x: Tensor) -> Tensor:
    """x within [-5, 5], and sign(x) (5 + log(1 + |x| - 5)) beyond: increasing, with one continuous derivative.

    Only networks see it, so every map stays exactly invertible. A network of rectifiers is linear far from its data: left alone, several
    in a row multiply an input of 50 standard deviations, and its rounding errors, at each layer.
    """
    if torch.compiler.is_compiling():
        return _near(x)
    if x.device.type == "cpu" and 0 < x.numel() <= FEW:
        low, high = torch.aminmax(x.detach())
        if low.item() >= -NEAR and high.item() <= NEAR:
            return x
    return _Near.apply(x) if torch.is_grad_enabled() and x.requires_grad else _near(x)


def _near(x: Tensor) -> Tensor:
    inside = x.clamp(-NEAR, NEAR)
    return inside + torch.copysign((x - inside).abs_().log1p_(), x)


class _Near(torch.autograd.Function):
    """Its slope is 1 / max(1 + |x| - 5, 1): three steps, where autograd would go back through six."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return _near(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        (x,) = ctx.saved_tensors
        return grad / (x.abs() + (1 - NEAR)).clamp(min=1)


def within(r: Tensor, m: float) -> Tensor:
    """m tanh(r / m): log-scales that stay within +-m.

    As m - 2 m sigmoid(-2 r / m): on a CPU torch's tanh takes six times as long as its sigmoid. Half precision needs tanh's digits near 0.
    """
    if r.dtype.itemsize < 4:
        return m * torch.tanh(r / m)
    return torch.rsub(torch.sigmoid(r * (-2 / m)), m, alpha=2 * m)


class Bijection(nn.Module, ABC):
    """An invertible map of vectors. `forward` and `inverse` return the image and its log-determinant, (B, D) and (B,)."""

    keeps_volume = False
    """Whether the log-determinant is always 0, so that there is nothing to add."""

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
        log_det = None
        for f in self.layers:
            x, change = f(x, c)
            if not f.keeps_volume:
                log_det = change if log_det is None else log_det + change
        return x, x.new_zeros(len(x)) if log_det is None else log_det

    def inverse(self, y: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        log_det = None
        for f in reversed(self.layers):
            y, change = f.inverse(y, c)  # pyright: ignore[reportCallIssue]
            if not f.keeps_volume:
                log_det = change if log_det is None else log_det + change
        return y, y.new_zeros(len(y)) if log_det is None else log_det


class Inverse(Bijection):
    """y = f^{-1}(x): the same map with its directions exchanged."""

    def __init__(self, f: Bijection):
        super().__init__()
        self.f = f

    def forward(self, x: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self.f.inverse(x, c)

    def inverse(self, y: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self.f(y, c)
