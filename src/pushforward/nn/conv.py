"""Convolutional encoders and decoders for images of any size: each stage halves (doubles) height and width."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .layout import flat
from .mlp import activation_layer, initialise, norm_layers

__all__ = ["ConvDecoder", "ConvEncoder", "stages"]


def stages(height: int, width: int, smallest: int = 4) -> list[tuple[int, int]]:
    """The sizes that a pyramid passes through, largest first: halved while both sides stay at least `smallest`.

    28 x 20 gives [(28, 20), (14, 10), (7, 5)]; 8 x 8 gives [(8, 8), (4, 4)]; at least one halving unless a side is 1.
    """
    sizes = [(height, width)]
    while min(sizes[-1]) // 2 >= smallest or (len(sizes) == 1 and min(sizes[-1]) >= 2):
        sizes.append((sizes[-1][0] // 2, sizes[-1][1] // 2))
    return sizes


def doubling(n: int, channels: int) -> list[int]:
    """Channels of n stages, the first at full size: they double up to 8 times."""
    return [channels * 2 ** min(i, 3) for i in range(n)]


class ConvEncoder(nn.Module):
    """Images (C, H, W) -> vectors: 4x4 convolutions of stride 2, then one dense layer. No normalisation.

    Channels double at each halving, up to 8 times `channels`. The condition is added to the first layer's
    channels, which equals appending it to the image as constant planes. `forward(x, c=None)`: (B, C, H, W) -> (B, out_dim).

    The kernel's size is a multiple of its stride, so that every pixel is seen equally often. `norm` (see `norm_layers`) follows every
    convolution but the first, as in DCGAN's critic.
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
        depth, height, width = shape
        sizes = stages(height, width)
        widths = [depth, *doubling(len(sizes) - 1, channels)]
        self.convs = nn.ModuleList(nn.Conv2d(a, b, 4, 2, 1) for a, b in pairwise(widths))
        self.head = nn.Linear(widths[-1] * sizes[-1][0] * sizes[-1][1], out_dim)
        self.condition = nn.Linear(condition_dim, widths[1] if len(widths) > 1 else depth, bias=False) if condition_dim else None
        self.norms = nn.ModuleList(nn.Sequential(*norm_layers(norm if i else "none", w, 2)) for i, w in enumerate(widths[1:]))
        self.activation = activation_layer(activation, inplace=True)
        initialise([*self.convs, self.head], activation)

    def forward(self, x: Float[Tensor, "B C H W"], c: Float[Tensor, "B D"] | None = None) -> Float[Tensor, "B out"]:
        h = x
        shift = None if self.condition is None or c is None else self.condition(c)[:, :, None, None]
        if len(self.convs) == 0 and shift is not None:
            h = h + shift
        for i, conv in enumerate(self.convs):
            h = conv(h)
            if i == 0 and shift is not None:
                h = h + shift
            h = self.activation(self.norms[i](h))
        return flat(self.head, h)


class ConvDecoder(nn.Module):
    """Vectors -> images (C, H, W), the mirror of `ConvEncoder`: one dense layer, then transposed 4x4 convolutions of stride 2.

    `forward(z, c=None)`: (B, in_dim) -> (B, C, H, W), or (B, C, H, W, params) when `params` numbers are wanted for each entry.
    `norm` (see `norm_layers`) precedes every activation.
    """

    def __init__(
        self,
        in_dim: int,
        shape: Sequence[int],
        channels: int = 32,
        condition_dim: int = 0,
        activation: str = "relu",
        params: int | None = None,
        norm: str = "none",
    ):
        super().__init__()
        depth, height, width = shape
        sizes = stages(height, width)
        self.depth, self.params = depth, params
        out = depth * (params or 1)
        widths = [out, *doubling(len(sizes) - 1, channels)][::-1]
        self.start = (widths[0], *sizes[-1])
        self.dense = nn.Linear(in_dim + condition_dim, widths[0] * sizes[-1][0] * sizes[-1][1])
        # A halving drops an odd row or column; output_padding gives it back.
        odd = [(h % 2, w % 2) for h, w in sizes[:-1]][::-1]
        self.convs = nn.ModuleList(nn.ConvTranspose2d(a, b, 4, 2, 1, output_padding=pad) for a, b, pad in zip(widths, widths[1:], odd))
        self.norms = nn.ModuleList(nn.Sequential(*norm_layers(norm, w, 2)) for w in widths[:-1])
        self.activation = activation_layer(activation, inplace=True)
        initialise([self.dense, *self.convs], activation)

    def forward(self, z: Float[Tensor, "B d"], c: Float[Tensor, "B D"] | None = None) -> Float[Tensor, "B C H W *P"]:
        h = self.dense(z if c is None else torch.cat([z, c], 1)).unflatten(1, self.start)
        # Transposed convolutions are quicker with channels last (0.92 to 0.98 of the time, 32 and 64 channels, one CPU core); the encoder's
        # convolutions gain only when their weights have that layout too: `net.to(memory_format=torch.channels_last)` if you want it.
        h = h.contiguous(memory_format=torch.channels_last)
        for conv, norm in zip(self.convs, self.norms):
            h = conv(self.activation(norm(h)))
        if self.params is None:
            return h.contiguous()
        # (B, C P, H, W) -> (B, C, H, W, P)
        return h.unflatten(1, (self.depth, self.params)).movedim(2, -1)
