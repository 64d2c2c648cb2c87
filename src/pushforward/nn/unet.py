"""A small U-Net for noisy images of any size, after Ho et al. 2020 (appendix B), without attention unless asked for."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import interpolate, scaled_dot_product_attention, silu

from .denoiser import ConditionedTime

__all__ = ["UNet"]

HEAD_DIM = 32
"""Smallest width of an attention head: fused kernels on a CPU are several times slower on narrow ones."""


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(next(g for g in (8, 4, 2, 1) if channels % g == 0), channels)


def _zero(layer: nn.Conv2d) -> nn.Conv2d:
    """A layer that starts silent, so that each residual block starts as the identity."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


class _Residual(nn.Module):
    """Two 3x3 convolutions; the embedding scales and shifts between them (Nichol & Dhariwal 2021, section 3.2 of the appendix)."""

    def __init__(self, inputs: int, outputs: int, time_dim: int):
        super().__init__()
        self.norm1, self.conv1 = _norm(inputs), nn.Conv2d(inputs, outputs, 3, padding=1)
        self.modulation = nn.Linear(time_dim, 2 * outputs)
        self.norm2, self.conv2 = _norm(outputs), _zero(nn.Conv2d(outputs, outputs, 3, padding=1))
        self.skip = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, h: Tensor, e: Tensor) -> Tensor:
        scale, shift = self.modulation(e)[:, :, None, None].chunk(2, 1)
        r = self.conv1(silu(self.norm1(h)))
        return self.skip(h) + self.conv2(silu(self.norm2(r) * (1 + scale) + shift))


class _Attention(nn.Module):
    """Self-attention over the pixels of the coarsest level."""

    def __init__(self, channels: int):
        super().__init__()
        self.heads = next(h for h in range(max(1, channels // HEAD_DIM), 0, -1) if channels % h == 0)
        self.norm = _norm(channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.out = _zero(nn.Conv2d(channels, channels, 1))

    def forward(self, h: Tensor) -> Tensor:
        B, C, H, W = h.shape
        q, k, v = self.qkv(self.norm(h)).reshape(B, 3, self.heads, C // self.heads, H * W).transpose(-1, -2).unbind(1)
        return h + self.out(scaled_dot_product_attention(q, k, v).transpose(-1, -2).reshape(B, C, H, W))


class UNet(nn.Module):
    """(B, C, H, W) -> (B, C, H, W) for any H and W: coarse levels round up, and the way back up takes each size from its skip.

    Its output starts at zero.

    Parameters
    ----------
    shape
        (C, H, W) of one image. The size decides how many levels there are: each halves the sides, while the shorter is at least 8.
    channels
        Channels at the finest level.
    multipliers
        Channels of each level in units of `channels`; levels the image is too small for are left out.
    blocks
        Residual blocks for each level, each way.
    attention
        Self-attention at the coarsest level, with heads of at least 32 dimensions.
    condition_dim
        Width of the condition, 0 for none.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        channels: int = 32,
        multipliers: tuple[int, ...] = (1, 2, 2),
        blocks: int = 1,
        attention: bool = False,
        condition_dim: int = 0,
    ):
        super().__init__()
        C, H, W = shape
        fitting = 1
        while min(H, W) >> (fitting - 1) >= 8:
            fitting += 1
        widths = [channels * m for m in multipliers[:fitting]]
        time_dim = 4 * channels
        self.embedding = ConditionedTime(time_dim, condition_dim)
        self.first = nn.Conv2d(C, channels, 3, padding=1)

        self.down, self.shrink = nn.ModuleList(), nn.ModuleList()
        skips, h = [channels], channels
        for level, width in enumerate(widths):
            self.shrink.append(nn.Conv2d(h, h, 3, stride=2, padding=1) if level else nn.Identity())
            if level:
                skips.append(h)
            row = nn.ModuleList()
            for _ in range(blocks):
                row.append(_Residual(h, width, time_dim))
                h = width
                skips.append(h)
            self.down.append(row)

        self.middle = _Residual(h, h, time_dim)
        self.attention = _Attention(h) if attention else None

        self.up, self.grow = nn.ModuleList(), nn.ModuleList()
        for level, width in reversed(list(enumerate(widths))):
            row = nn.ModuleList()
            for _ in range(blocks + 1):
                row.append(_Residual(h + skips.pop(), width, time_dim))
                h = width
            self.up.append(row)
            self.grow.append(nn.Conv2d(h, h, 3, padding=1) if level else nn.Identity())

        self.norm, self.last = _norm(h), _zero(nn.Conv2d(h, C, 3, padding=1))

    def forward(
        self, z: Float[Tensor, "B C H W"], t: Float[Tensor, "B"], c: Float[Tensor, "B K"] | None = None
    ) -> Float[Tensor, "B C H W"]:
        """z: (B, C, H, W), t: (B,) in (0, 1], c: (B, condition_dim) or None -> (B, C, H, W)."""
        e = silu(self.embedding(t, c))
        h = self.first(z)
        skips = [h]
        for level, (shrink, row) in enumerate(zip(self.shrink, self.down, strict=True)):
            if level:
                h = shrink(h)
                skips.append(h)
            for block in row:  # pyright: ignore[reportGeneralTypeIssues]
                h = block(h, e)
                skips.append(h)
        h = self.middle(h, e)
        if self.attention is not None:
            h = self.attention(h)
        for grow, row in zip(self.grow, self.up, strict=True):
            for block in row:  # pyright: ignore[reportGeneralTypeIssues]
                h = block(torch.cat([h, skips.pop()], 1), e)
            if skips:
                h = grow(interpolate(h, size=skips[-1].shape[-2:], mode="nearest"))
        return self.last(silu(self.norm(h)))
