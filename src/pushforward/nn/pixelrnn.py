r"""The networks of PixelRNN (van den Oord, Kalchbrenner & Kavukcuoglu 2016): LSTMs that run over an image, behind masked convolutions.

A 7x7 convolution of the image (mask A), then layers v_{l+1} = v_l + U_l h_l of 2 h features, then two 1x1 convolutions after ReLUs. In a
layer every pixel has an LSTM's gates

    (o, f, i, g) = W_is * v + W_ss s + V c,     cell = sigmoid(f) cell' + sigmoid(i) tanh(g),     h = sigmoid(o) tanh(cell)

whose input part W_is (masked, mask B) is made for the whole image at once. What differs is the state s, h' and cell' that they take:

    row        s = the three states above, cell' above: rows one after the other. Sees a triangle that widens by 1 pixel a row.
    diagonal   s = the states to the left and above, cell' to the left: diagonals one after the other; and a second LSTM in the mirror
               image, right and above, whose output is moved one row down so that no pixel sees a later one.

Colour as in `nn.pixelcnn`: features in C groups, group g seeing of its own pixel only channels < g; states come from earlier pixels only,
and are not masked.
"""

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from .moving import Moved, move
from .pixelcnn import GroupedConv

__all__ = ["PixelRNNNetwork"]


class FirstConv(nn.Conv2d):
    """The 7x7 convolution of mask A: the three rows above, the three pixels to the left, and of its own pixel the channels before."""

    mask: Tensor

    def __init__(self, cin: int, cout: int, groups_in: Tensor, groups_out: Tensor):
        super().__init__(cin, cout, (4, 7))
        mask = torch.ones(cout, cin, 4, 7, dtype=torch.bool)
        mask[:, :, 3, 3] = groups_out[:, None] > groups_in
        mask[:, :, 3, 4:] = False
        self.register_buffer("mask", mask, persistent=False)

    def masked(self) -> Tensor:
        return self.weight * self.mask

    def forward(self, input: Tensor) -> Tensor:
        return F.conv2d(F.pad(input, (3, 3, 3, 0)), self.masked(), self.bias)


def lstm(gates: Tensor, cell: Tensor | None, axis: int) -> tuple[Tensor, Tensor]:
    """(h, cell) from the four gates along an axis; no cell before the first."""
    o, f, i, g = gates.chunk(4, axis)
    new = i.sigmoid() * g.tanh()
    new = new if cell is None else new + f.sigmoid() * cell
    return o.sigmoid() * new.tanh(), new


class RecurrentLayer(nn.Module):
    """One layer: `inputs` makes W_is * v + V c, `states` runs the LSTMs over it, `up` returns to 2 h features."""

    def __init__(self, kind: str, hidden: int, groups: Tensor, condition_dim: int):
        super().__init__()
        self.kind, self.hidden = kind, hidden
        self.directions = 1 if kind == "row" else 2
        twice = groups.repeat_interleave(2)
        self.inputs = GroupedConv(2 * hidden, 4 * hidden * self.directions, self.reach, twice, groups.repeat(4 * self.directions))
        self.up = GroupedConv(hidden, 2 * hidden, 1, groups, twice)
        self.condition = nn.Linear(condition_dim, 4 * hidden * self.directions, bias=False) if condition_dim else None
        # Row: a kernel over the three states above. Diagonal: for each direction, the states to the left and above, side by side.
        shape = (4 * hidden, hidden, 3) if kind == "row" else (2, 2 * hidden, 4 * hidden)
        self.state = nn.Parameter(torch.empty(shape).uniform_(-1, 1) / (hidden * (3 if kind == "row" else 2)) ** 0.5)
        with torch.no_grad():
            # A forget gate that starts near 0.73 keeps the cells' past (Jozefowicz et al. 2015).
            assert self.inputs.bias is not None
            self.inputs.bias.view(self.directions, 4, hidden)[:, 1] += 1.0

    @property
    def reach(self) -> int:
        """Pixels of its own row that the input part sees."""
        return 2 if self.kind == "row" else 1

    def forward(self, v: Tensor, c: Tensor | None) -> Tensor:
        gates = self.inputs(F.pad(v, (self.reach - 1, 0)))
        if self.condition is not None and c is not None:
            gates = gates + self.condition(c)[:, :, None, None]
        return v + self.up(self._rows(gates) if self.kind == "row" else self._diagonals(gates))

    def _rows(self, gates: Tensor) -> Tensor:
        h = cell = None
        out = []
        for row in gates.unbind(2):  # (B, 4 h, W)
            h, cell = lstm(row if h is None else row + F.conv1d(h, self.state, padding=1), cell, 1)
            out.append(h)
        return torch.stack(out, 2)

    def _diagonals(self, gates: Tensor) -> Tensor:
        B, _, H, W = gates.shape
        left, right = gates.permute(0, 2, 3, 1).chunk(2, -1)
        both = torch.stack([left, right.flip(2)])  # (2, B, H, W, 4 h)
        h = both.new_zeros(2, B, 1, self.hidden)
        cell, low, out = h, 0, []
        for t, gate in enumerate(skew(both).unbind(3)):
            # Diagonal t crosses the rows from `first` to `last`; the one before it began at row `low`.
            first, last = max(0, t - W + 1), min(H - 1, t)
            # States of the diagonal before, with a row of zeros beyond each end: at row `low` - 1 + k stands entry k.
            h, cell, at = F.pad(h, (0, 0, 1, 1)), F.pad(cell, (0, 0, 1, 1)), first - low + 1
            rows = last - first + 1
            beside, above = h[:, :, at : at + rows], h[:, :, at - 1 : at - 1 + rows]
            s = torch.cat([beside, above], -1).flatten(1, 2) @ self.state
            h, cell = lstm(gate[:, :, first : last + 1] + s.view(2, B, rows, -1), cell[:, :, at : at + rows], -1)
            out.append(F.pad(h, (0, 0, first, H - 1 - last)))
            low = first
        left, right = unskew(torch.stack(out, 3), W)
        right = F.pad(right.flip(2), (0, 0, 0, 0, 1, 0))[:, :-1]  # one row down
        return (left + right).permute(0, 3, 1, 2)


def skew(x: Tensor) -> Tensor:
    """(..., H, W, F) -> (..., H, H + W - 1, F): row i is moved i to the right, so that diagonals become columns."""
    H, W = x.shape[-3:-1]
    flat = F.pad(x, (0, 0, 0, H)).flatten(-3, -2)
    return flat[..., : H * (W + H - 1), :].unflatten(-2, (H, W + H - 1))


def unskew(x: Tensor, W: int) -> Tensor:
    """The inverse of `skew`: (..., H, H + W - 1, F) -> (..., H, W, F)."""
    H = x.shape[-3]
    return F.pad(x.flatten(-3, -2), (0, 0, 0, H)).unflatten(-2, (H, W + H))[..., :W, :]


class PixelRNNNetwork(nn.Module):
    """Parameters of each pixel and channel from the pixels before it, in raster order; called as `nn.pixelcnn.GatedPixelCNN` is.

    Parameters
    ----------
    image_channels
        C, the channels of the images.
    out
        P, the parameters per channel of a pixel.
    kind
        `row` or `diagonal`.
    layers, hidden
        LSTM layers, and the states h of each, rounded up to a multiple of C.
    condition_dim
        Width of c, 0 for none. It enters the gates.
    features
        E, input features for each channel of a pixel: x is (B, C E, H, W).
    """

    def __init__(
        self,
        image_channels: int,
        out: int,
        kind: Literal["row", "diagonal"],
        layers: int,
        hidden: int,
        condition_dim: int = 0,
        features: int = 1,
    ):
        super().__init__()
        C = self.image_channels = image_channels
        self.out, self.features, self.kind = out, features, kind
        h = self.hidden = -(-hidden // C) * C
        each = torch.arange(C)
        groups = each.repeat_interleave(h // C)
        twice = groups.repeat_interleave(2)
        self.first = FirstConv(C * features, 2 * h, each.repeat_interleave(features), twice)
        self.layers = nn.ModuleList([RecurrentLayer(kind, h, groups, condition_dim) for _ in range(layers)])
        self.head1 = GroupedConv(2 * h, 2 * h, 1, twice, twice)
        self.head2 = GroupedConv(2 * h, C * out, 1, twice, each.repeat_interleave(out))

    def forward(self, x: Float[Tensor, "B CE H W"], c: Float[Tensor, "B cond"] | None = None) -> Float[Tensor, "B C H W P"]:
        v = self.first(x)
        for layer in self.layers:
            v = layer(v, c)
        y = self.head2(F.relu(self.head1(F.relu(v))))
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

        The parameters equal those of `forward` on the chosen features, up to rounding. States are kept, so a pixel costs one step of each
        LSTM; with C channels its C steps are made anew for each, since a group's features depend on the channels before it.
        """
        H, W = size
        C, E = self.image_channels, self.features
        x = self.first.weight.new_zeros(n, C * E, H + 3, W + 6)
        kernel, bias = self.first.masked().flatten(1).T, self.first.bias
        assert bias is not None
        walks = [_Walk(layer, n, W, c) for layer in self.layers if isinstance(layer, RecurrentLayer)]
        (w1, b1), (w2, b2) = _dense(self.head1), _dense(self.head2)
        for i in range(H):
            for walk in walks:
                walk.next_row()
            for j in range(W):
                for g in range(C):
                    v = x[:, :, i : i + 4, j : j + 7].reshape(n, -1) @ kernel + bias
                    for walk in walks:
                        v = walk.step(j, v)
                    y = F.relu(F.relu(v) @ w1 + b1) @ w2 + b2
                    value = choose(g, i, j, y[:, g * self.out : (g + 1) * self.out].T).reshape(E, n)
                    index = None if moved is None else moved()
                    if index is not None:
                        move(index, 0, x)
                        for walk in walks:
                            move(index, 1, *walk.kept())
                    x[:, g * E : (g + 1) * E, i + 3, j + 3] = value.T


class _Walk:
    """One layer's states on its way over the pixels: those of the row above, and of this row up to the pixel at hand."""

    def __init__(self, layer: RecurrentLayer, n: int, W: int, c: Tensor | None):
        self.layer, self.W, self.row = layer, W, -1
        new = layer.state.new_zeros
        h = layer.hidden
        weight = layer.inputs.masked()[:, :, 0]  # (gates, 2 h, reach)
        self.weight = weight.transpose(1, 2).flatten(1).T
        base = layer.inputs.bias
        assert base is not None
        self.base = base if layer.condition is None or c is None else base + layer.condition(c)
        self.up = _dense(layer.up)
        self.inputs = new(W + layer.reach - 1, n, 2 * h)
        self.h, self.cell, self.above, self.cell_above, self.right = (new(W, n, h) for _ in range(5))
        self.states: Tensor | None = None

    def kept(self) -> list[Tensor]:
        """All that is kept of the records, (.., n, ..)."""
        return [t for t in (self.inputs, self.h, self.cell, self.above, self.cell_above, self.right, self.states) if t is not None]

    def next_row(self) -> None:
        """What a new row needs of the one just finished."""
        self.row += 1
        if self.row == 0:
            return
        layer, h = self.layer, self.layer.hidden
        self.above, self.cell_above = self.h.clone(), self.cell.clone()
        if layer.kind == "row":
            self.states = F.conv1d(self.above.permute(1, 2, 0), layer.state, padding=1).permute(2, 0, 1)
            return
        # The mirrored LSTM may run over the finished row now, from its right end.
        gates = self.inputs @ self.weight[:, 4 * h :] + self.base[..., 4 * h :]
        state = cell = torch.zeros_like(self.right[0])
        for j in reversed(range(self.W)):
            state, cell = lstm(gates[j] + torch.cat([state, self.right[j]], 1) @ layer.state[1], cell, 1)
            self.right[j] = state

    def step(self, j: int, v: Tensor) -> Tensor:
        """The layer's output at pixel j of this row from its input there, (n, 2 h) each."""
        layer, h = self.layer, self.layer.hidden
        self.inputs[j + layer.reach - 1] = v
        seen = v if layer.reach == 1 else self.inputs[j : j + 2].transpose(0, 1).flatten(1)
        gates = seen @ self.weight[:, : 4 * h] + self.base[..., : 4 * h]
        if layer.kind == "row":
            gates = gates if self.states is None else gates + self.states[j]
            self.h[j], self.cell[j] = lstm(gates, self.cell_above[j], 1)
            out = self.h[j]
        else:
            beside, cell = (self.h[j - 1], self.cell[j - 1]) if j else (torch.zeros_like(self.h[0]),) * 2
            self.h[j], self.cell[j] = lstm(gates + torch.cat([beside, self.above[j]], 1) @ layer.state[0], cell, 1)
            out = self.h[j] + self.right[j]
        weight, bias = self.up
        return v + out @ weight + bias


def _dense(conv: GroupedConv) -> tuple[Tensor, Tensor]:
    """A 1x1 convolution as (weight (in, out), bias)."""
    assert conv.bias is not None
    return conv.masked()[:, :, 0, 0].T, conv.bias
