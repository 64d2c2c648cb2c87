"""Multi-scale flows of images: flat images to codes, half of which leave at each scale.

Sides are halved where they are even and left alone where they are odd: no pixel is padded (a padded one would need a density of its own),
and an image of any size has a flow. A grey image with two odd sides has a single channel, whose couplings split it like a checkerboard.
"""

import math
from collections.abc import Sequence
from itertools import chain
from typing import Literal

import torch
from torch import Tensor, nn

from ..errors import ConfigError
from .base import Bijection, Compose, within
from .image import ImageActNorm, ImageCoupling, InvertibleConv, Squeeze, shrunk

__all__ = ["MultiScale", "Style", "most_scales"]

Style = Literal["glow", "realnvp"]


class _Half(nn.Module):
    """Means and log-sds of a half that leaves, (B, C, H, W) each: linear in the half that goes on and the condition, zero at first.

    Source: Kingma and Dhariwal, Glow (2018): the split priors and the learned top prior of their code. Each entry has numbers of its own.
    """

    def __init__(self, shape: Sequence[int], given: int, condition_dim: int, max_log_scale: float):
        super().__init__()
        out, self.max_log_scale = 2 * shape[0], max_log_scale
        self.own = nn.Parameter(torch.zeros(out, *shape[1:]))
        self.given = nn.Conv2d(given, out, 3, 1, 1, bias=False) if given else None
        self.condition = nn.Linear(condition_dim, out, bias=False) if condition_dim else None
        for layer in (self.given, self.condition):
            if layer is not None:
                nn.init.zeros_(layer.weight)

    def forward(self, h: Tensor, c: Tensor | None) -> tuple[Tensor, Tensor]:
        out = self.own.expand(len(h), *self.own.shape)
        if self.given is not None:
            out = out + self.given(shrunk(h))
        if self.condition is not None and c is not None:
            out = out + self.condition(c)[:, :, None, None]
        mean, s = out.chunk(2, 1)
        return mean, within(s, self.max_log_scale)


class MultiScale(Bijection):
    """Flat images (B, D) to codes (B, D): at each scale a squeeze and some steps, after which half of the channels leave as codes.

    ============  ===============================================================================================================
    `glow`        a step is actnorm, an invertible 1x1 convolution and a coupling of channels. The half h_2 that leaves becomes the code
                  (h_2 - m(h_1; c)) exp(-s(h_1; c)), given the half h_1 that goes on; the last scale's code uses c alone
    `realnvp`     actnorm and couplings by checkerboards, the squeeze, then by channels, and each by turns; h_2 is the code. Actnorm
                  stands for the paper's batch normalisation, whose output depends on the other records of a batch
    ============  ===============================================================================================================

    Codes leave in the order of the scales, the finest first.

    Source: Dinh, Sohl-Dickstein and Bengio, RealNVP (2017), section 3.6; Kingma and Dhariwal, Glow (2018), section 3 and figure 2.

    Parameters
    ----------
    shape
        (C, H, W).
    condition_dim
        Width of the condition.
    scales
        How many; None for as many as `most_scales` offers, at most 3. Raises `ConfigError` when the sides cannot be halved so often.
    steps
        Steps at each scale (for `realnvp`, of each kind of coupling).
    style, channels, blocks, positions, max_log_scale
        See above and `ImageCoupling`.
    """

    def __init__(
        self,
        shape: Sequence[int],
        condition_dim: int = 0,
        scales: int | None = None,
        steps: int = 4,
        style: Style = "glow",
        channels: int = 32,
        blocks: int = 1,
        positions: bool = True,
        max_log_scale: float = 2.0,
    ):
        super().__init__()
        self.shape = tuple(shape)
        most = most_scales(shape)
        scales = min(3, most) if scales is None else scales
        if not 1 <= scales <= most:
            raise ConfigError(
                f"scales={scales} does not suit images of {shape[1]} x {shape[2]}: each scale halves the sides, while one is even. "
                f"Give scales from 1 to {most}, or None."
            )

        def coupling(split: Literal["channels", "checkerboard"], i: int) -> Bijection:
            return ImageCoupling((C, H, W), condition_dim, split, i % 2 == 1, channels, blocks, positions, max_log_scale)

        C, H, W = shape
        self.stages, self.halves, self.leaving = nn.ModuleList(), nn.ModuleList(), []
        for scale in range(scales):
            layers: list[Bijection] = []
            if style == "realnvp":
                layers += chain.from_iterable((ImageActNorm(C), coupling("checkerboard", i)) for i in range(steps))
            a, b = 2 - H % 2, 2 - W % 2
            layers.append(Squeeze((a, b)))
            C, H, W = C * a * b, H // a, W // b
            for i in range(steps):
                mixing = [InvertibleConv(C)] if style == "glow" and C > 1 else []
                layers += [ImageActNorm(C), *mixing, coupling("channels" if C > 1 else "checkerboard", i)]
            last = scale == scales - 1
            out = C if last else C // 2
            self.stages.append(Compose(layers))
            self.leaving.append((out, H, W))
            C -= out
            if style == "glow":
                self.halves.append(_Half(self.leaving[-1], C, condition_dim, max_log_scale))
        self.size = [math.prod(s) for s in self.leaving]

    @torch.no_grad()
    def start(self, x: Tensor, c: Tensor | None = None) -> None:
        """Set every actnorm by this batch, so that each passes on variance 1."""
        h = x.unflatten(1, self.shape)
        for stage, (out, _, _) in zip(self.stages, self.leaving, strict=True):
            assert isinstance(stage, Compose)
            for layer in stage.layers:
                if isinstance(layer, ImageActNorm):
                    layer.start(h)
                h = layer(h, c)[0]
            h = h[:, : h.shape[1] - out]

    def forward(self, x: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        h, log_det, codes = x.unflatten(1, self.shape), x.new_zeros(len(x)), []
        for i, (stage, (out, _, _)) in enumerate(zip(self.stages, self.leaving, strict=True)):
            h, change = stage(h, c)
            log_det = log_det + change
            h, z = h[:, : h.shape[1] - out], h[:, h.shape[1] - out :]
            if len(self.halves):
                mean, s = self.halves[i](h, c)
                z, log_det = (z - mean) * (-s).exp(), log_det - s.sum((1, 2, 3))
            codes.append(z.flatten(1))
        return torch.cat(codes, 1), log_det

    def inverse(self, y: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        codes = [z.unflatten(1, shape) for z, shape in zip(y.split(self.size, 1), self.leaving, strict=True)]
        h, log_det = codes[-1][:, :0], y.new_zeros(len(y))
        for i in reversed(range(len(codes))):
            z = codes[i]
            if len(self.halves):
                mean, s = self.halves[i](h, c)
                z, log_det = torch.addcmul(mean, z, s.exp()), log_det + s.sum((1, 2, 3))
            stage = self.stages[i]
            assert isinstance(stage, Compose)
            h, change = stage.inverse(torch.cat([h, z], 1), c)
            log_det = log_det + change
        return h.flatten(1), log_det


def most_scales(shape: Sequence[int]) -> int:
    """How many scales images of this shape can have: one, and one more for each further halving that leaves both sides 2 pixels or more.

    28 x 28 can have 2 (14 and 7 pixels a side), 32 x 32 4.
    """
    n, (height, width) = 1, (side // (2 - side % 2) for side in shape[1:])
    while height % 2 == 0 and width % 2 == 0 and min(height, width) >= 4:
        n, height, width = n + 1, height // 2, width // 2
    return n
