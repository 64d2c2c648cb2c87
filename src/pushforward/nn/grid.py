"""Fully convolutional encoders and decoders: images to a grid of vectors and back, each vector from and for its own region."""

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ..errors import ConfigError
from .mlp import initialise

__all__ = ["GridDecoder", "GridEncoder", "grid_sizes"]


def grid_sizes(height: int, width: int, downsamplings: int) -> list[tuple[int, int]]:
    """The sizes after 0, 1, ... halvings: 28 x 28 with two gives [(28, 28), (14, 14), (7, 7)]; odd sides drop a row or column.

    Raises `ConfigError` when a side would vanish.
    """
    sizes = [(height >> i, width >> i) for i in range(downsamplings + 1)]
    if downsamplings < 0 or min(sizes[-1]) < 1:
        most = min(height, width).bit_length() - 1
        raise ConfigError(f"downsamplings={downsamplings} does not fit images of {height} x {width}: give 0 to {most}.")
    return sizes


class Residual(nn.Module):
    """h + conv1x1(relu(conv3x3(relu(h)))), as in van den Oord et al. (2017), section 4.1; the inner width is half."""

    def __init__(self, channels: int):
        super().__init__()
        inner = max(1, channels // 2)
        self.wide, self.mix = nn.Conv2d(channels, inner, 3, padding=1), nn.Conv2d(inner, channels, 1)
        initialise([self.wide, self.mix], "relu")

    def forward(self, h: Tensor) -> Tensor:
        return h + self.mix(F.relu(self.wide(F.relu(h))))


def _widths(n: int, channels: int) -> list[int]:
    """Channels after 1, ..., n halvings: `channels` at the grid, half as many one size up, and not fewer after that."""
    return [channels if i == n - 1 else max(8, channels // 2) for i in range(n)]


class GridEncoder(nn.Module):
    """Images (C, H, W) -> a grid (out, H / 2^n, W / 2^n): n 4x4 convolutions of stride 2, a 3x3 one, residual blocks and a 1x1 head.

    `forward(x, c=None)`; the condition is added to the channels at the grid.
    """

    def __init__(self, shape: Sequence[int], out: int, downsamplings: int = 2, channels: int = 64, blocks: int = 2, condition_dim: int = 0):
        super().__init__()
        widths = [shape[0], *_widths(downsamplings, channels)]
        self.halve = nn.ModuleList(nn.Conv2d(a, b, 4, 2, 1) for a, b in pairwise(widths))
        self.join = nn.Conv2d(widths[-1], channels, 3, padding=1)
        self.blocks = nn.ModuleList(Residual(channels) for _ in range(blocks))
        self.head = nn.Conv2d(channels, out, 1)
        self.condition = nn.Linear(condition_dim, channels, bias=False) if condition_dim else None
        initialise([*self.halve, self.join, self.head], "relu")

    def forward(self, x: Float[Tensor, "B C H W"], c: Float[Tensor, "B D"] | None = None) -> Float[Tensor, "B out h w"]:
        h = x
        for conv in self.halve:
            h = F.relu(conv(h))
        h = self.join(h)
        if self.condition is not None and c is not None:
            h = h + self.condition(c)[:, :, None, None]
        for block in self.blocks:
            h = block(h)
        return self.head(F.relu(h))


class GridDecoder(nn.Module):
    """A grid -> images, the mirror of `GridEncoder`: `forward(h, c=None)` takes the grid flat, (B, d h w), and gives (B, C, H, W, params).

    Flat, so that it can stand wherever a decoder of vectors does.
    """

    def __init__(
        self,
        in_dim: int,
        shape: Sequence[int],
        downsamplings: int = 2,
        channels: int = 64,
        blocks: int = 2,
        condition_dim: int = 0,
        params: int = 1,
    ):
        super().__init__()
        depth, height, width = shape
        sizes = grid_sizes(height, width, downsamplings)
        self.grid, self.depth, self.params = (in_dim, *sizes[-1]), depth, params
        self.join = nn.Conv2d(in_dim, channels, 3, padding=1)
        self.blocks = nn.ModuleList(Residual(channels) for _ in range(blocks))
        widths = _widths(downsamplings, channels)[::-1]
        # A halving drops an odd row or column; output_padding gives it back.
        odd = [(h % 2, w % 2) for h, w in sizes[:-1]][::-1]
        outs = [*widths, depth * params][1:]
        self.enlarge = nn.ModuleList(
            nn.ConvTranspose2d(a, b, 4, 2, 1, output_padding=pad) for a, b, pad in zip(widths, outs, odd, strict=True)
        )
        self.head = nn.Identity() if downsamplings else nn.Conv2d(channels, depth * params, 1)
        self.condition = nn.Linear(condition_dim, channels, bias=False) if condition_dim else None
        initialise([self.join, *self.enlarge, *([] if downsamplings else [self.head])], "relu")

    def forward(self, h: Float[Tensor, "B d"], c: Float[Tensor, "B D"] | None = None) -> Float[Tensor, "B C H W P"]:
        h = self.join(h.unflatten(1, self.grid).contiguous(memory_format=torch.channels_last))
        if self.condition is not None and c is not None:
            h = h + self.condition(c)[:, :, None, None]
        for block in self.blocks:
            h = block(h)
        h = F.relu(h)
        for i, conv in enumerate(self.enlarge):
            h = conv(F.relu(h) if i else h)
        return self.head(h).unflatten(1, (self.depth, self.params)).movedim(2, -1)
