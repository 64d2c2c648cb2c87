"""A ladder of feature maps, up through the record and down through groups of latents: the networks of a hierarchical VAE.

The bottom-up path turns a record into one feature map a group. The top-down path starts from a learned vector and visits the groups from
the coarsest to the finest: each group reads a prior from the state h, a posterior from h and the group's feature map, and adds
its latents to h through a residual cell (Vahdat & Kautz 2020, figure 2b).

A scale is dense, (B, width), or spatial, (B, width, height, width'). Nothing normalises: residual branches start small instead (their
last layer divided by the square root of their number, as in Child 2021, section 3.2), so a record's output depends on it alone.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .conv import stages
from .mlp import activation_layer, initialise

__all__ = ["Ladder", "ResidualCell", "Scale", "scales_of"]


@dataclass(frozen=True)
class Scale:
    """One resolution of a ladder."""

    size: tuple[int, int] | None
    """Height and width of its maps; None for a dense scale."""
    width: int
    """Units of a dense scale, channels of a spatial one."""
    groups: int
    """Groups of latents at this scale."""
    latents: int
    """Latents of a group: in all for a dense scale, at each position of a spatial one."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one group's latents."""
        return (self.latents,) if self.size is None else (self.latents, *self.size)


def scales_of(shape: Sequence[int], hidden: int, channels: int) -> list[tuple[tuple[int, int] | None, int]]:
    """(size, width) of the scales for images, coarsest first: a dense one, then maps from the smallest to half the image's size.

    Channels halve at each finer scale, down to an eighth: 28 x 28 gives [(None, hidden), ((7, 7), channels), ((14, 14), channels / 2)].
    """
    sizes = stages(shape[1], shape[2])[1:][::-1]
    return [(None, hidden), *((size, max(8, channels // 2 ** min(i, 3))) for i, size in enumerate(sizes))]


def _affine(a: int, b: int, spatial: bool) -> nn.Module:
    layer = nn.Conv2d(a, b, 1) if spatial else nn.Linear(a, b)
    initialise([layer], "relu")
    return layer


class ResidualCell(nn.Module):
    """h + f(h), with f of two layers behind activations, and squeeze-and-excitation (Hu et al. 2018) on maps.

    `plain` has two 3x3 convolutions; `separable` widens by 1x1, filters each channel by 5x5, and narrows by 1x1 (NVAE, figure 3a). On a
    dense scale both are two linear layers. `shrink` multiplies the initial weights of f's last layer.
    """

    def __init__(self, width: int, spatial: bool, activation: str, cell: str = "plain", shrink: float = 1.0, expand: int = 3):
        super().__init__()
        if not spatial:
            self.layers = nn.ModuleList([nn.Linear(width, width), nn.Linear(width, width)])
        elif cell == "plain":
            self.layers = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(2))
        else:
            wide = expand * width
            middle = nn.Conv2d(wide, wide, 5, padding=2, groups=wide)
            self.layers = nn.ModuleList([nn.Conv2d(width, wide, 1), middle, nn.Conv2d(wide, width, 1)])
        self.squeeze = (
            nn.Sequential(nn.Linear(width, max(4, width // 8)), nn.ReLU(), nn.Linear(max(4, width // 8), width)) if spatial else None
        )
        self.activation = activation_layer(activation)
        for layer in self.layers:
            # A depthwise filter sees 25 inputs, not 25 a channel.
            fan = layer.weight[0].numel()  # type: ignore[union-attr]
            nn.init.normal_(layer.weight, std=math.sqrt(2.0 / fan))  # type: ignore[arg-type]
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        with torch.no_grad():
            self.layers[-1].weight.mul_(shrink)  # type: ignore[operator]

    def forward(self, h: Tensor) -> Tensor:
        f = h
        for layer in self.layers:
            f = layer(self.activation(f))
        if self.squeeze is not None:
            f = f * (2.0 * torch.sigmoid(self.squeeze(f.mean((2, 3)))))[:, :, None, None]
        return h + f


class _Move(nn.Module):
    """From one scale to the next coarser (`down`) or finer one."""

    def __init__(self, fine: tuple[tuple[int, int] | None, int], coarse: tuple[tuple[int, int] | None, int], down: bool, activation: str):
        super().__init__()
        (size, width), (small, narrow) = fine, coarse
        self.activation = activation_layer(activation)
        self.start: tuple[int, ...] | None = None
        self.flat = size is not None and small is None
        layer: Any
        if size is None:
            layer = nn.Linear(width, narrow) if down else nn.Linear(narrow, width)
        elif small is None:
            n = width * size[0] * size[1]
            layer = nn.Linear(n, narrow) if down else nn.Linear(narrow, n)
            self.start = None if down else (width, *size)
        elif down:
            layer = nn.Conv2d(width, narrow, 4, 2, 1)
        else:
            # A halving drops an odd row or column; output_padding gives it back.
            layer = nn.ConvTranspose2d(narrow, width, 4, 2, 1, output_padding=(size[0] % 2, size[1] % 2))
        self.layer = layer
        initialise([self.layer], activation)

    def forward(self, h: Tensor) -> Tensor:
        h = self.activation(h)
        if self.flat and self.start is None:
            h = h.flatten(1)
        h = self.layer(h)
        return h if self.start is None else h.unflatten(1, self.start).contiguous(memory_format=torch.channels_last)


class _Group(nn.Module):
    """The layers of one group of latents."""

    def __init__(self, scale: Scale, top: bool, cells: int, **net: Any):
        super().__init__()
        spatial = scale.size is not None
        self.top = top
        self.prior = None if top else _affine(scale.width, 2 * scale.latents, spatial)
        self.mix = _affine(scale.width, scale.width, spatial)
        self.look = ResidualCell(scale.width, spatial, **net)
        self.residual = _affine(scale.width, 2 * scale.latents, spatial)
        self.absorb = _affine(scale.latents, scale.width, spatial)
        self.cells = nn.Sequential(*(ResidualCell(scale.width, spatial, **net) for _ in range(cells)))
        self.activation = activation_layer(net["activation"])
        for layer in (self.prior, self.residual):  # q = p = N(0, I) at first
            if layer is not None:
                nn.init.zeros_(layer.weight)  # type: ignore[arg-type]


class Ladder(nn.Module):
    """The two paths over records with features of `shape`.

    Parameters
    ----------
    shape
        Of the features of a record: (C, H, W) for spatial scales, else (D,).
    scales
        Coarsest first; spatial ones as `scales_of` gives them.
    out
        Numbers of the output: (numbers at each pixel) for images with spatial scales, else in all.
    condition_dim
        Width of the condition, 0 for none; it is added to the first layer of both paths.
    cells
        Residual cells of a group in the top-down path, and of a scale in the bottom-up path.
    cell
        `plain` or `separable`; see `ResidualCell`.
    bound
        Means are free; a log sigma l becomes bound * tanh(l / bound), so that no sigma leaves exp(+-bound).
    """

    def __init__(
        self,
        shape: Sequence[int],
        scales: Sequence[Scale],
        out: int,
        *,
        condition_dim: int = 0,
        cells: int = 1,
        cell: str = "plain",
        activation: str = "silu",
        bound: float = 5.0,
    ):
        super().__init__()
        self.scales, self.bound = list(scales), bound
        spatial = scales[-1].size is not None
        total = sum(s.groups * cells for s in scales)
        net: dict[str, Any] = {"activation": activation, "cell": cell, "shrink": 1 / math.sqrt(max(1, total))}
        fine = scales[-1]
        # Bottom-up.
        self.stem: nn.Module = nn.Conv2d(shape[0], fine.width, 4, 2, 1) if spatial else nn.Linear(math.prod(shape), fine.width)
        initialise([self.stem], activation)
        self.see = nn.Linear(condition_dim, fine.width, bias=False) if condition_dim else None
        self.up = nn.ModuleList(nn.Sequential(*(ResidualCell(s.width, s.size is not None, **net) for _ in range(cells))) for s in scales)
        ends = [(s.size, s.width) for s in scales]
        self.coarser = nn.ModuleList(_Move(f, c, True, activation) for c, f in pairwise(ends))
        # Top-down.
        self.start = nn.Parameter(torch.zeros(scales[0].width))
        self.tell = nn.Linear(condition_dim, scales[0].width, bias=False) if condition_dim else None
        self.finer = nn.ModuleList(_Move(f, c, False, activation) for c, f in pairwise(ends))
        self.where = [i for i, s in enumerate(scales) for _ in range(s.groups)]
        self.groups = nn.ModuleList(_Group(scales[i], j == 0, cells, **net) for j, i in enumerate(self.where))
        self.head = _Head(shape, fine, out, activation)
        self.shapes = [self.scales[i].shape for i in self.where]
        """Of the latents of each group, top first."""
        self.widest = max([math.prod(shape), *(s.width * math.prod(s.size or ()) for s in scales)])
        """Values of the largest map of one record."""

    def bottom_up(self, x: Float[Tensor, "B *shape"], c: Float[Tensor, "B C"] | None) -> list[Tensor]:
        """The feature map of each scale, coarsest first."""
        spatial = self.scales[-1].size is not None
        h = self.stem(x.contiguous(memory_format=torch.channels_last) if spatial else x.flatten(1))
        if self.see is not None and c is not None:
            seen = self.see(c)
            h = h + (seen[:, :, None, None] if spatial else seen)
        maps: list[Tensor] = []
        for i in range(len(self.scales) - 1, -1, -1):
            h = self.up[i](h)
            maps.append(h)
            if i:
                h = self.coarser[i - 1](h)
        return maps[::-1]

    def begin(self, n: int, c: Float[Tensor, "B C"] | None) -> Tensor:
        """The state above the first group, (n, width)."""
        h = self.start.expand(n, -1)
        return h if self.tell is None or c is None else h + self.tell(c)

    def enter(self, l: int, h: Tensor) -> Tensor:
        """The state at the scale of group l, from that after group l - 1."""
        for i in range(0 if l == 0 else self.where[l - 1], self.where[l]):
            h = self.finer[i](h)
        return h

    def prior(self, l: int, h: Tensor) -> tuple[Tensor, Tensor] | None:
        """(mu, log sigma) of p(z_l | z_<l), or None for N(0, I), which is the first group's."""
        group: Any = self.groups[l]
        if group.prior is None:
            return None
        mu, raw = group.prior(group.activation(h)).to(self.start.dtype).chunk(2, 1)  # whatever autocast computes in
        return mu, self._bounded(raw)

    def residual(self, l: int, h: Tensor, maps: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """(d mu, log d sigma) of q(z_l | z_<l, x) relative to the prior."""
        group: Any = self.groups[l]
        both = group.look(maps[self.where[l]] + group.mix(h))
        mu, raw = group.residual(group.activation(both)).to(self.start.dtype).chunk(2, 1)
        return mu, self._bounded(raw)

    def absorb(self, l: int, h: Tensor, z: Tensor) -> Tensor:
        """The state after group l."""
        group: Any = self.groups[l]
        return group.cells(h + group.absorb(z))

    def finish(self, h: Tensor) -> Tensor:
        """The state at the finest scale."""
        for i in range(self.where[-1], len(self.scales) - 1):
            h = self.finer[i](h)
        return h

    def _bounded(self, raw: Tensor) -> Tensor:
        return self.bound * torch.tanh(raw / self.bound)


class _Head(nn.Module):
    """The finest state -> raw numbers, (B, C, H, W, out) for images, else (B, out)."""

    def __init__(self, shape: Sequence[int], fine: Scale, out: int, activation: str):
        super().__init__()
        self.activation = activation_layer(activation)
        self.depth = shape[0] if fine.size is not None else 0
        if fine.size is not None:
            odd = (shape[1] % 2, shape[2] % 2)
            self.layer: nn.Module = nn.ConvTranspose2d(fine.width, shape[0] * out, 4, 2, 1, output_padding=odd)
        else:
            self.layer = nn.Linear(fine.width, out)
        initialise([self.layer], activation)

    def forward(self, h: Tensor) -> Tensor:
        h = self.layer(self.activation(h))
        return h.unflatten(1, (self.depth, -1)).movedim(2, -1) if self.depth else h
