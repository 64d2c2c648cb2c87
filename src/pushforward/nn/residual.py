"""Residual encoders and decoders for images: blocks of two 3x3 convolutions beside a shortcut, as in the GANs of Gulrajani et al. (2017).

Blocks come before activation (He et al. 2016), halve by averaging and double by repeating pixels. The last convolution of a block begins at
zero, so that the network begins as its shortcuts (Zhang et al. 2019, as R3GAN has it): no normalisation is needed to train it.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from .conv import doubling, stages
from .layout import laid_out
from .mlp import activation_layer, initialise, norm_layers

__all__ = ["ResidualConv", "ResidualDecoder", "ResidualEncoder"]


class Block(nn.Module):
    """h + conv(act(conv(act(h)))), (B, a, H, W) -> (B, b, *size): resampled to `size` when that is given."""

    def __init__(self, a: int, b: int, activation: str, norm: str, size: tuple[int, int] | None = None, first: bool = False):
        super().__init__()
        self.first = nn.Sequential(*([] if first else [*norm_layers(norm, a, 2), activation_layer(activation)]))
        self.one, self.two = nn.Conv2d(a, b, 3, 1, 1), nn.Conv2d(b, b, 3, 1, 1)
        self.between = nn.Sequential(*norm_layers(norm, b, 2), activation_layer(activation))
        self.shortcut = nn.Conv2d(a, b, 1, bias=False) if a != b else nn.Identity()
        self.size = size
        initialise([self.one, self.two], activation)
        if isinstance(self.shortcut, nn.Conv2d):
            initialise([self.shortcut], activation)
        nn.init.zeros_(self.two.weight)

    def _resize(self, h: Tensor) -> Tensor:
        if self.size is None or tuple(h.shape[2:]) == self.size:
            return h
        if self.size[0] > h.shape[2] or self.size[1] > h.shape[3]:
            return F.interpolate(h, size=self.size, mode="nearest-exact")
        return F.adaptive_avg_pool2d(h, self.size)

    def forward(self, h: Tensor) -> Tensor:
        up = self.size is not None and self.size[0] > h.shape[2]
        inner = self._resize(self.first(h)) if up else self.first(h)
        inner = self.two(self.between(self.one(inner)))
        # A shortcut of one pixel commutes with resampling: it goes where there are fewer pixels.
        return self._resize(self.shortcut(h)) + inner if up else self.shortcut(self._resize(h)) + self._resize(inner)


class ResidualEncoder(nn.Module):
    """Images (C, H, W) -> vectors: a block for each halving, one more at the end, then one dense layer of the mean over pixels.

    Widths and the condition are as in `ConvEncoder`. `forward(x, c=None)`: (B, C, H, W) -> (B, out_dim).
    """

    def __init__(
        self,
        shape: Sequence[int],
        out_dim: int,
        channels: int = 32,
        condition_dim: int = 0,
        activation: str = "relu",
        norm: str = "none",
    ):
        super().__init__()
        sizes = stages(*shape[1:])
        widths = [shape[0], *doubling(max(1, len(sizes) - 1), channels)]
        steps = list(zip(pairwise(widths), [*sizes[1:], sizes[-1]]))
        self.blocks = nn.ModuleList(Block(a, b, activation, norm, size, first=i == 0) for i, ((a, b), size) in enumerate(steps))
        self.blocks.append(Block(widths[-1], widths[-1], activation, norm))
        self.condition = nn.Linear(condition_dim, widths[1], bias=False) if condition_dim else None
        self.end, self.head = activation_layer(activation), nn.Linear(widths[-1], out_dim)
        initialise([self.head], activation)

    def forward(self, x: Float[Tensor, "B C H W"], c: Float[Tensor, "B D"] | None = None) -> Float[Tensor, "B out"]:
        h = self.blocks[0](x)
        if self.condition is not None and c is not None:
            h = h + self.condition(c)[:, :, None, None]
        for block in self.blocks[1:]:
            h = block(h)
        return self.head(laid_out(self.end(h)).mean((2, 3)))


class ResidualDecoder(nn.Module):
    """Vectors -> images (C, H, W), the mirror of `ResidualEncoder`. `forward(z, c=None)`: (B, in_dim) -> (B, C, H, W)."""

    def __init__(
        self,
        in_dim: int,
        shape: Sequence[int],
        channels: int = 32,
        condition_dim: int = 0,
        activation: str = "relu",
        norm: str = "none",
    ):
        super().__init__()
        sizes = stages(*shape[1:])[::-1]
        widths = doubling(max(1, len(sizes) - 1), channels)[::-1]
        self.start = (widths[0], *sizes[0])
        self.dense = nn.Linear(in_dim + condition_dim, widths[0] * sizes[0][0] * sizes[0][1])
        self.blocks = nn.Sequential(
            Block(widths[0], widths[0], activation, norm, first=True),
            *(Block(a, b, activation, norm, size) for (a, b), size in zip(pairwise([widths[0], *widths]), sizes[1:])),
        )
        self.end = nn.Sequential(*norm_layers(norm, widths[-1], 2), activation_layer(activation))
        self.head = nn.Conv2d(widths[-1], shape[0], 3, 1, 1)
        initialise([self.dense, self.head], activation)

    def forward(self, z: Float[Tensor, "B d"], c: Float[Tensor, "B D"] | None = None) -> Float[Tensor, "B C H W"]:
        h = self.dense(z if c is None else torch.cat([z, c], 1)).unflatten(1, self.start)
        return self.head(self.end(self.blocks(h))).contiguous()


class ResidualConv(nn.Module):
    """Images (A, H, W) -> images (B, H, W): a 3x3 convolution, `blocks` residual blocks, an activation and a last 3x3 convolution.

    The condition, a vector (B, C) or planes of the images' size (B, C, H, W), is added linearly after the first convolution. With `size` =
    (H, W) each position has learned numbers of its own there: where things stand matters, as in centred digits. The last layer begins
    at a tenth of the usual weights, so that a flow built on it begins near the identity while gradients reach every layer.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        channels: int = 32,
        blocks: int = 1,
        condition_dim: int = 0,
        size: tuple[int, int] | None = None,
        activation: str = "relu",
    ):
        super().__init__()
        self.first = nn.Conv2d(in_channels, channels, 3, 1, 1)
        self.condition = nn.Conv2d(condition_dim, channels, 1, bias=False) if condition_dim else None
        self.positions = nn.Parameter(torch.zeros(channels, *size)) if size else None
        self.blocks = nn.Sequential(*(Block(channels, channels, activation, "none") for _ in range(blocks)))
        self.end, self.head = activation_layer(activation), nn.Conv2d(channels, out_channels, 3, 1, 1)
        initialise([self.first, *([self.condition] if self.condition else []), self.head], activation)
        with torch.no_grad():
            self.head.weight.mul_(0.1)

    def forward(self, x: Float[Tensor, "B A H W"], c: Tensor | None = None) -> Float[Tensor, "B out H W"]:
        h = self.first(x)
        if self.positions is not None:
            h = h + self.positions
        if self.condition is not None and c is not None:
            h = h + self.condition(c[:, :, None, None] if c.ndim == 2 else c)
        return self.head(self.end(self.blocks(h)))
