"""The gated PixelCNN network: every pixel's parameters from the pixels above it and to its left.

Two stacks of gated convolutions (van den Oord et al. 2016, Conditional Image Generation with PixelCNN Decoders, section 2 and figure 2),
without the blind spot of a single masked one:

    vertical    v_{l+1} = gate(W_v * v_l + V_v c)                                    row i sees rows <= i, every column within reach
    horizontal  h_{l+1} = h_l + U gate(W_h * h_l + P shift(W_v * v_l) + V_h c)       row i sees columns <= j of its own row, and rows < i
    gate(a, b)  = tanh(a) sigmoid(b)

where shift moves one row down, so that row i receives rows < i. In the first layer the horizontal kernel ends one column earlier (mask
A) and has no residual. Two 1x1 convolutions after ReLUs turn the last h into P parameters per channel.

**Places.** Convolutions know where they are only near an edge. For images of one size a learned vector is added to v_1 and h_1 at every
place. (The paper's equation 5 has a condition that depends on the location, inside the gates.)

**First weights.** a has sd 1 in every layer, and each layer adds h of sd 1/2, when all that enters is independent and the first inputs have
sd 1: the gate of two standard normals has sd GATED, and a stack of seven gates with torch's own first weights would leave a thousandth.

Colour: the C channels of a pixel are ordered too. The horizontal features are split into C groups; group g sees all channels of the earlier
pixels, and of its own pixel only channels < g of the image and groups <= g of the features. Its head gives the parameters of channel g.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from .gate import Frame, framed, gate, gated, residual
from .moving import Moved, move

__all__ = ["GatedPixelCNN"]

GATED = 0.34
"""The sd of tanh(a) sigmoid(b) for independent standard normals: (E tanh^2 E sigmoid^2)^(1/2) = (.394 x .293)^(1/2)."""
HALF = 0.5**0.5
"""The sd of each of the two that a horizontal gate adds."""
ADDED = 0.5
"""The sd of what a layer adds to h."""


class GroupedConv(nn.Conv2d):
    """A convolution whose last column sees only some channel groups: output group g sees input groups <= g, or < g when `strict`.

    With a single group nothing is masked.
    """

    mask: Tensor | None

    def __init__(self, cin: int, cout: int, width: int, groups_in: Tensor, groups_out: Tensor, strict: bool = False):
        super().__init__(cin, cout, (1, width))
        mask = None
        if int(groups_out.max()) > 0:
            mask = torch.ones(cout, cin, 1, width, dtype=torch.bool)
            seen = groups_out[:, None] > groups_in if strict else groups_out[:, None] >= groups_in
            mask[:, :, 0, -1] = seen
        self.register_buffer("mask", mask, persistent=False)

    def masked(self) -> Tensor:
        """The kernel that is applied, (cout, cin, 1, width)."""
        return self.weight if self.mask is None else self.weight * self.mask

    def forward(self, input: Tensor) -> Tensor:
        return F.conv2d(input, self.masked(), self.bias)


class GatedLayer(nn.Module):
    """One gated layer of both stacks; kernel k, radius r = k // 2. In the `last` layer the vertical stack needs no gate."""

    def __init__(self, cin: int, channels: int, k: int, image_channels: int, first: bool, last: bool, condition_dim: int):
        super().__init__()
        self.r, self.first, self.last = k // 2, first, last
        each = torch.arange(image_channels)
        groups = each.repeat_interleave(channels // image_channels)
        # With one channel, the first layer's own pixel would be masked entirely: the column is left out.
        self.reach = self.r + (0 if first and image_channels == 1 else 1)
        self.vertical = nn.Conv2d(cin, 2 * channels, (self.r + 1, k))
        self.horizontal = GroupedConv(
            cin,
            2 * channels,
            self.reach,
            each.repeat_interleave(cin // image_channels) if first else groups,
            groups.repeat(2),
            strict=first,
        )
        self.across = nn.Conv2d(2 * channels, 2 * channels, 1)
        self.mix = GroupedConv(channels, channels, 1, groups, groups)
        self.condition_v = nn.Linear(condition_dim, 2 * channels, bias=False) if condition_dim and not last else None
        self.condition_h = nn.Linear(condition_dim, 2 * channels, bias=False) if condition_dim else None

    def forward(self, v: Tensor, h: Tensor, c: Tensor | None, reach: int) -> tuple[Tensor, Tensor]:
        """v with `above` and h with `left` around them; the outputs likewise, as a next layer of radius `reach` wants them (0: bare)."""
        a = self.vertical(v)
        # One bias for both: zeros come from above the first row, so that shifting comes after the product.
        b = F.conv2d(h, self.horizontal.masked(), (_bias(self.horizontal) + _bias(self.across))[:, 0])
        above = F.conv2d(a, self.across.weight)
        if self.condition_v is not None and c is not None:
            a = a + self.condition_v(c)[:, :, None, None]
        if self.condition_h is not None and c is not None:
            b = b + self.condition_h(c)[:, :, None, None]
        o = self.mix(gated(b, above))
        h = framed(o, left(reach)) if self.first else residual(h, o, left(self.r), left(reach))
        return a if self.last else gated(a, frame=around(reach)), h


def around(r: int) -> Frame:
    """What the vertical stack sees beyond the image."""
    return Frame(r, r, r)


def left(r: int) -> Frame:
    """What the horizontal stack sees beyond the image."""
    return Frame(0, r, 0)


class GatedPixelCNN(nn.Module):
    """Parameters of each pixel and channel from the pixels before it, in raster order.

    Parameters
    ----------
    image_channels
        C, the channels of the images.
    out
        P, the parameters per channel of a pixel.
    layers, channels
        Gated layers (the first 7x7, the others 3x3) and features of each stack, rounded up to a multiple of C.
    condition_dim
        Width of c, 0 for none. It enters as a bias inside every gate.
    features
        E, input features for each channel of a pixel, those of a channel side by side: x is then (B, C E, H, W).
    size
        (H, W) of images that are all of one size, each place of which has a vector of its own; None for any size.
    """

    def __init__(
        self,
        image_channels: int,
        out: int,
        layers: int = 7,
        channels: int = 64,
        condition_dim: int = 0,
        features: int = 1,
        size: tuple[int, int] | None = None,
    ):
        super().__init__()
        C = self.image_channels = image_channels
        self.out, self.features = out, features
        c = self.channels = -(-channels // C) * C
        ends = [(i == 0, i == layers - 1) for i in range(layers)]
        self.layers = nn.ModuleList(
            [GatedLayer(C * features if first else c, c, 7 if first else 3, C, first, last, condition_dim) for first, last in ends]
        )
        groups = torch.arange(C).repeat_interleave(c // C)
        self.head1 = GroupedConv(c, c, 1, groups, groups)
        self.head2 = GroupedConv(c, C * out, 1, groups, torch.arange(C).repeat_interleave(out))
        self.place_v, self.place_h = (None if size is None else nn.Parameter(torch.zeros(*size, c)) for _ in range(2))
        self._start()

    @torch.no_grad()
    def _start(self) -> None:
        """First weights as in the module's text."""
        for i, f in enumerate(layer for layer in self.layers if isinstance(layer, GatedLayer)):
            h = ADDED * max(i, 1) ** 0.5  # of i layers
            for conv, sd, before in (
                (f.vertical, 1.0, GATED if i else 1.0),
                (f.horizontal, HALF, h if i else 1.0),
                (f.across, HALF, 1.0),
                (f.mix, ADDED, GATED),
            ):
                nn.init.normal_(conv.weight, std=sd / before / conv.weight[0].numel() ** 0.5)
                nn.init.zeros_(_bias(conv))

    def forward(self, x: Float[Tensor, "B CE H W"], c: Float[Tensor, "B cond"] | None = None) -> Float[Tensor, "B C H W P"]:
        # Channels last from here on, which convolutions keep: a step on a CPU takes 0.9 of the time. (With one channel both layouts are the
        # same memory, and only strides say which is meant.)
        x = torch.empty_like(x, memory_format=torch.channels_last).copy_(x)
        layers = [layer for layer in self.layers if isinstance(layer, GatedLayer)]
        first = layers[0]
        v, h = F.pad(x, (first.r, first.r, first.r, 0)), F.pad(x, (first.r, first.reach - 1 - first.r, 0, 0))
        for layer, reach in zip(layers, [*(f.r for f in layers[1:]), 0], strict=True):
            v, h = layer(v, h, c, reach)
            if layer is first and self.place_v is not None and self.place_h is not None:
                v = v if layer.last else v + framed(_image(self.place_v, v), around(reach))
                h = h + framed(_image(self.place_h, h), left(reach))
        y = self.head2(F.relu(self.head1(F.relu(h))))
        return y.unflatten(1, (self.image_channels, self.out)).movedim(2, -1)

    @torch.no_grad()
    def incremental(
        self,
        n: int,
        size: tuple[int, int],
        c: Float[Tensor, "n cond"] | None,
        choose: Callable[[int, int, int, Tensor], Tensor],
        moved: Moved | None = None,
    ) -> None:
        """Visit channel g of pixel (i, j) in raster order: `choose(g, i, j, parameters (P, n))` returns the features (E, n) of the
        values it chose, or (n,) when E is 1. `moved` says which rows go on in place of others (see `moving`).

        The parameters equal those of `forward` on the chosen features, up to rounding. Every activation is computed once: the vertical
        stack once per row, over the rows still within reach; the horizontal stack once per pixel and channel, one product per layer over
        stored columns.
        """
        H, W = size
        C, m, E = self.image_channels, self.channels // self.image_channels, self.features
        layers = [layer for layer in self.layers if isinstance(layer, GatedLayer)]
        columns = [_Column.of(layer, C, c) for layer in layers]
        head1, head2 = _by_group(self.head1, C), _by_group(self.head2, C)
        new = self.head2.weight.new_zeros
        # The vertical stack's inputs: the last r + 1 rows of each layer, padded by r on both sides.
        rows = [new(n, layer.vertical.in_channels, layer.r + 1, W + 2 * layer.r) for layer in layers]
        done = new(n, C * E, W)
        gated = [new(self.channels, n) for _ in layers]
        top, middle = new(self.channels, n), new(self.channels, n)

        for i in range(H):
            place = None if self.place_v is None or not i else self.place_v[i - 1].t()
            above = _rows_above(layers, columns, rows, done if i else None, c, place)
            # The horizontal stack's inputs: the columns of this row, padded by r on the left, (r + W, features, n).
            past = [new(layer.r + W, layer.vertical.in_channels, n) for layer in layers]
            for j in range(W):
                windows = [p[j : j + f.reach].view(-1, n) for p, f in zip(past, layers, strict=True)]
                here = [p[j + f.r] for p, f in zip(past, layers, strict=True)] + [top]
                for g in range(C):
                    own, upto = slice(g * m, (g + 1) * m), (g + 1) * m
                    for k, f in enumerate(columns):
                        t = torch.addmm(above[k][j, g], f.horizontal[g], windows[k]).tanh_()
                        # U gate(a, b) = (U / 2) (tanh(a) + tanh(a) tanh(b / 2)): a single tanh, for b and U arrive halved.
                        torch.addcmul(t[:m], t[:m], t[m:], out=gated[k][own])
                        o = torch.addmm(f.bias[g], f.mix[g], gated[k][:upto], out=here[k + 1][own])
                        if k:
                            o += here[k][own]
                        elif self.place_h is not None:
                            o += self.place_h[i, j, own, None]
                    (w1, b1), (w2, b2) = head1[g], head2[g]
                    torch.addmm(b1, w1, top[:upto].relu(), out=middle[own])
                    value = choose(g, i, j, torch.addmm(b2, w2, middle[:upto].relu())).reshape(E, n)
                    index = None if moved is None else moved()
                    if index is not None:
                        move(index, 0, done, *rows)
                        for t in (top, middle, *gated, *past, *above):
                            move(index, t.ndim - 1, t)
                    here[0][g * E : (g + 1) * E] = value
                    done[:, g * E : (g + 1) * E, j] = value.T


class _Column(NamedTuple):
    """A layer's weights for one column of records; rows of a and b regrouped as (C, 2 m, ...), b and U halved (see `incremental`)."""

    horizontal: Tensor
    """(C, 2 m, reach * cin)"""
    across: Tensor
    """(C * 2 m, 2 c), without its bias"""
    base: Tensor
    """b_horizontal + b_across + V_h c, (C * 2 m, 1) or (C * 2 m, n)"""
    mix: list[Tensor]
    """Per group g, (m, (g + 1) m)."""
    bias: list[Tensor]

    @classmethod
    def of(cls, f: GatedLayer, C: int, c: Tensor | None) -> "_Column":
        width = f.mix.in_channels
        rows = torch.arange(2 * width).view(2, C, -1).transpose(0, 1).flatten()
        scale = torch.cat([f.mix.weight.new_full((width,), s) for s in (1.0, 0.5)])[:, None]
        kernel = f.horizontal.masked()[:, :, 0].transpose(1, 2).flatten(1)
        base = _bias(f.horizontal) + _bias(f.across)
        if f.condition_h is not None and c is not None:
            base = base + f.condition_h(c).T
        mix = _by_group(f.mix, C)
        return cls(
            (kernel * scale)[rows].view(C, -1, kernel.shape[1]),
            (f.across.weight[:, :, 0, 0] * scale)[rows],
            (base * scale)[rows],
            [w / 2 for w, _ in mix],
            [b for _, b in mix],
        )


def _image(place: Float[Tensor, "H W c"], like: Tensor) -> Float[Tensor, "1 c H W"]:
    """Vectors of places as an image, in the precision of another."""
    return place.permute(2, 0, 1)[None].to(like.dtype)


def _bias(conv: nn.Conv2d) -> Tensor:
    assert conv.bias is not None
    return conv.bias[:, None]


def _by_group(conv: GroupedConv, C: int) -> list[tuple[Tensor, Tensor]]:
    """The 1x1 kernel's rows for each group, up to the columns that they see, and their biases, (rows, 1)."""
    w = conv.masked()[:, :, 0, 0]
    rows, columns = len(w) // C, w.shape[1] // C
    at = [slice(g * rows, (g + 1) * rows) for g in range(C)]
    return [(w[s, : (g + 1) * columns].contiguous(), _bias(conv)[s]) for g, s in enumerate(at)]


def _rows_above(
    layers: list[GatedLayer], columns: list[_Column], rows: list[Tensor], done: Tensor | None, c: Tensor | None, place: Tensor | None
) -> list[Tensor]:
    """Advance the vertical stack by the row `done` (n, C E, W), in place, and return what each horizontal layer adds: (W, C, 2 m, n). The
    first layer's output gets the row's `place` (c, W).

    Before the first row there is nothing above, and only biases and the condition remain.
    """
    out: list[Tensor] = []
    n, W = rows[0].shape[0], rows[0].shape[3] - 2 * layers[0].r
    v = done
    for f, column, x in zip(layers, columns, rows, strict=True):
        C = len(column.mix)
        add = column.base.expand(W, -1, n)
        if v is None:
            add = add.contiguous()
        else:
            x[:, :, :-1] = x[:, :, 1:].clone()
            x[:, :, -1, f.r : f.r + W] = v
            a = F.conv2d(x, f.vertical.weight, f.vertical.bias)[:, :, 0]
            add = torch.baddbmm(add, column.across.expand(W, -1, -1), a.permute(2, 1, 0))
            if f.condition_v is not None and c is not None:
                a = a + f.condition_v(c)[:, :, None]
            v = a if f.last else gate(a)
            if place is not None and f.first and not f.last:
                v = v + place
        out.append(add.view(W, C, -1, n))
    return out
