"""Bijections of images (B, C, H, W); `multiscale` makes a flow of them.

They keep to `Bijection`: `forward(x, c)` returns (y, log|det dy/dx|) and `inverse(y, c)` (x, log|det dx/dy|), with log-determinants (B,) in
nats. The condition is a vector (B, K), or planes (B, K, H, W) where a flow of noise sees the image that the noise belongs to.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..nn import ResidualConv
from .base import Bijection, within

__all__ = ["ImageActNorm", "ImageCoupling", "InvertibleConv", "Squeeze"]


class Squeeze(Bijection):
    """Blocks of a x b pixels become channels: (B, C, H, W) -> (B, C a b, H / a, W / b). The log-determinant is 0.

    Source: Dinh, Sohl-Dickstein and Bengio, RealNVP (2017), section 3.6, with a = b = 2.
    """

    def __init__(self, factors: tuple[int, int] = (2, 2)):
        super().__init__()
        self.factors = factors

    def forward(self, x: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        (n, C, H, W), (a, b) = x.shape, self.factors
        y = x.reshape(n, C, H // a, a, W // b, b).permute(0, 1, 3, 5, 2, 4)
        return y.reshape(n, C * a * b, H // a, W // b), x.new_zeros(n)

    def inverse(self, y: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        (n, C, H, W), (a, b) = y.shape, self.factors
        x = y.reshape(n, C // (a * b), a, b, H, W).permute(0, 1, 4, 2, 5, 3)
        return x.reshape(n, C // (a * b), H * a, W * b), y.new_zeros(n)


class ImageActNorm(Bijection):
    """y = x exp(s) + b with one s and b for each channel: log|det| = H W sum s. The identity until `start` has seen records.

    Source: Kingma and Dhariwal, Glow (2018), section 3.1.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.log_scale = nn.Parameter(torch.zeros(channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(channels, 1, 1))

    @torch.no_grad()
    def start(self, x: Tensor) -> None:
        """Set s and b so that each channel of this batch leaves with mean 0 and variance 1 (a constant one with mean 0)."""
        mean, sd = x.mean((0, 2, 3)), x.std((0, 2, 3), correction=0)
        self.log_scale.copy_(-torch.where(sd > 1e-3, sd, 1.0).log()[:, None, None])
        self.bias.copy_(-mean[:, None, None] * self.log_scale.exp())

    def forward(self, x: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return torch.addcmul(self.bias, x, self.log_scale.exp()), self._log_det(x)

    def inverse(self, y: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return (y - self.bias) * (-self.log_scale).exp(), -self._log_det(y)

    def _log_det(self, x: Tensor) -> Tensor:
        return (self.log_scale.sum() * (x.shape[2] * x.shape[3])).expand(len(x))


class InvertibleConv(Bijection):
    """The same invertible matrix at every pixel, y = P L (U + diag(r exp s)) x: log|det| = H W sum s.

    P is a fixed permutation, r fixed signs, L unit lower and U strictly upper triangular; L, U and s are learned, live in one (C, C) matrix
    and begin as the factors of a random rotation. Inverses solve triangular systems.

    Source: Kingma and Dhariwal, Glow (2018), section 3.2, equations 9 to 11.
    """

    order: Tensor
    sign: Tensor

    def __init__(self, channels: int):
        super().__init__()
        rotation = torch.linalg.qr(torch.randn(channels, channels))[0]
        permutation, lower, upper = torch.linalg.lu(rotation)
        self.register_buffer("order", permutation.argmax(1))  # (P v)_i = v_{order_i}
        self.register_buffer("sign", upper.diagonal().sign())
        self.lu = nn.Parameter(lower.tril(-1) + upper.triu(1) + upper.diagonal().abs().log().diag())

    def _factors(self) -> tuple[Tensor, Tensor, Tensor]:
        s = self.lu.diagonal()
        lower = self.lu.tril(-1) + torch.eye(len(s), dtype=s.dtype, device=s.device)
        return lower, self.lu.triu(1) + (self.sign * s.exp()).diag(), s.sum()

    def forward(self, x: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        lower, upper, log_det = self._factors()
        weight = (lower @ upper).index_select(0, self.order)
        return F.conv2d(x, weight[:, :, None, None]), (log_det * (x.shape[2] * x.shape[3])).expand(len(x))

    def inverse(self, y: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        lower, upper, log_det = self._factors()
        rows = y.index_select(1, self.order.argsort()).movedim(1, 0).flatten(1)  # (C, B H W)
        rows = torch.linalg.solve_triangular(lower, rows, upper=False, unitriangular=True)
        rows = torch.linalg.solve_triangular(upper, rows, upper=True)
        x = rows.reshape(y.shape[1], len(y), *y.shape[2:]).movedim(0, 1)
        return x, -(log_det * (y.shape[2] * y.shape[3])).expand(len(y))


WIDEST = 2.0
"""Root mean square beyond which a half is scaled down before a net sees it. Actnorm passes on 1; single records of data stay below."""


def shrunk(x: Tensor) -> Tensor:
    """x scaled to a root mean square of at most `WIDEST`, record by record.

    A deep flow of rectifiers left alone multiplies rounding errors by the size of its input at each layer: 12 couplings of random weights
    returned records of 50 standard deviations with errors of 0.03 in float64.
    """
    return x / (x.square().mean((1, 2, 3), keepdim=True) / WIDEST**2).clamp(min=1.0).sqrt()


class ImageCoupling(Bijection):
    r"""y_1 = x_1, y_2 = x_2 exp(s(x_1; c)) + t(x_1; c), with s and t a small residual convolutional net of the half that stays.

    log|det| = sum s. The log-scale is bounded smoothly, s = m tanh(r / m), and the net sees x_1 scaled to a root mean square of at most 2:
    far from the data y_2 grows in proportion to x, so that neither direction overflows and rounding grows no faster than x.

    Source: Dinh, Sohl-Dickstein and Bengio, RealNVP (2017), section 3.4 and equations 7 to 9.

    Parameters
    ----------
    shape
        (C, H, W).
    condition_dim
        Width K of the condition, vector or planes.
    split
        `channels`: x_1 is the first floor(C / 2) channels; `checkerboard`: the pixels of even row plus column.
    flip
        The other half stays.
    channels, blocks, positions
        The net's width and residual blocks, and whether it knows where in the image it is; see `nn.ResidualConv`.
    max_log_scale
        The bound m on \|s\|, in nats.
    """

    stays: Tensor

    def __init__(
        self,
        shape: Sequence[int],
        condition_dim: int = 0,
        split: Literal["channels", "checkerboard"] = "channels",
        flip: bool = False,
        channels: int = 32,
        blocks: int = 1,
        positions: bool = True,
        max_log_scale: float = 2.0,
    ):
        super().__init__()
        C, H, W = shape
        self.split, self.max_log_scale = split, max_log_scale
        self.kept = slice(C // 2, C) if flip else slice(0, C // 2)  # of the channels
        board = ((torch.arange(H)[:, None] + torch.arange(W)) % 2 == int(flip)).float()
        self.register_buffer("stays", board if split == "checkerboard" else torch.ones(H, W), persistent=False)
        inputs = C if split == "checkerboard" else self.kept.stop - self.kept.start
        outputs = C if split == "checkerboard" else C - inputs
        self.net = ResidualConv(inputs, 2 * outputs, channels, blocks, condition_dim, (H, W) if positions else None)

    def _params(self, x: Tensor, c: Tensor | None) -> tuple[Tensor, Tensor]:
        """s and t, (B, C, H, W), zero where x stays."""
        if self.split == "checkerboard":
            out = self.net(shrunk(x * self.stays), c) * (1 - self.stays)
            s, t = out.chunk(2, 1)
        else:
            s, t = self.net(shrunk(x[:, self.kept]), c).chunk(2, 1)
            room = (0, 0, 0, 0, self.kept.stop, 0) if self.kept.start == 0 else (0, 0, 0, 0, 0, self.kept.stop - self.kept.start)
            s, t = F.pad(s, room), F.pad(t, room)
        return within(s, self.max_log_scale), t

    def forward(self, x: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        s, t = self._params(x, c)
        return torch.addcmul(t, x, s.exp()), s.sum((1, 2, 3))

    def inverse(self, y: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        s, t = self._params(y, c)
        return (y - t) * (-s).exp(), -s.sum((1, 2, 3))
