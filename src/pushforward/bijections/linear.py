"""Linear maps: scales and shifts, permutations, and invertible matrices by their LU factors."""

from typing import Any

import torch
from torch import Tensor, nn

from .base import Bijection

__all__ = ["ActNorm", "Linear", "Permutation"]


class ActNorm(Bijection):
    """y = x exp(s) + b, one s and b for each entry: log|det| = sum s. The identity until `start` has seen records.

    Source: Kingma and Dhariwal, Glow (2018), section 3.1.
    """

    def __init__(self, dim: int):
        super().__init__()
        self.log_scale = nn.Parameter(torch.zeros(dim))
        self.bias = nn.Parameter(torch.zeros(dim))

    @torch.no_grad()
    def start(self, x: Tensor) -> None:
        """Set s and b so that each entry of this batch leaves with mean 0 and variance 1 (a constant one with mean 0)."""
        mean, sd = x.mean(0), x.std(0, correction=0)
        self.log_scale.copy_(-torch.where(sd > 1e-3, sd, 1.0).log())
        self.bias.copy_(-mean * self.log_scale.exp())

    def forward(self, x: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return torch.addcmul(self.bias, x, self.log_scale.exp()), self.log_scale.sum().expand(len(x))

    def inverse(self, y: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return (y - self.bias) * (-self.log_scale).exp(), -self.log_scale.sum().expand(len(y))


class Permutation(Bijection):
    """y_i = x_{order_i}; the log-determinant is 0. `order` defaults to the reverse."""

    keeps_volume = True
    order: Tensor
    back: Tensor

    def __init__(self, dim: int, order: Tensor | None = None):
        super().__init__()
        order = torch.arange(dim - 1, -1, -1) if order is None else order.clone()
        self.register_buffer("order", order)
        self.register_buffer("back", order.argsort())

    def forward(self, x: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self._moved(x, self.order, self.back), x.new_zeros(()).expand(len(x))

    def inverse(self, y: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self._moved(y, self.back, self.order), y.new_zeros(()).expand(len(y))

    def _moved(self, x: Tensor, order: Tensor, back: Tensor) -> Tensor:
        if torch.is_grad_enabled() and x.requires_grad and not torch.compiler.is_compiling():
            return _Reorder.apply(x, order, back)
        return x.index_select(1, order)


class _Reorder(torch.autograd.Function):
    """Columns in another order; gradients come back by choosing columns too, where autograd would add them up one by one."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, order: Tensor, back: Tensor) -> Tensor:
        ctx.save_for_backward(order, back)
        return x.index_select(1, order)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        order, back = ctx.saved_tensors
        return (_Reorder.apply(grad, back, order) if torch.is_grad_enabled() else grad.index_select(1, back)), None, None


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
