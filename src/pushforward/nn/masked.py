"""Masked networks: D outputs, of which the d-th sees only the inputs that precede it in an order.

Give variable d the rank r(d) in 1..D (its place in the order) and each hidden unit a degree m in 0..D-1: the largest rank it may see. A
weight is kept when it cannot leak:

    input -> hidden    m(unit) >= r(input)
    hidden -> hidden   m(unit) >= m(previous unit)
    hidden -> output   r(output) > m(unit)
    input -> output    r(output) > r(input)         (direct connections)

so that output d is a function of {x_e : r(e) < r(d)} alone (Germain et al. 2015, MADE, section 4).

Hidden units are stored in the order of their degrees. Once the variables of rank <= r are known, so is every unit of degree r, for good:
drawing the variables one by one therefore computes each unit once (`MaskedMLP.incremental`), at the cost of about one forward pass
instead of D.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from .moving import Moved, move

__all__ = ["MaskedLinear", "MaskedMLP"]


class MaskedLinear(nn.Linear):
    """y = (M * W) x + b with a fixed mask M of zeros and ones, (out, in)."""

    mask: Tensor

    def __init__(self, mask: Bool[Tensor, "out in"], bias: bool = True):
        super().__init__(mask.shape[1], mask.shape[0], bias)
        # As numbers: products of weights and bits take three times as long.
        self.register_buffer("mask", mask.to(self.weight.dtype), persistent=False)

    def masked(self) -> Tensor:
        """M * W, (out, in)."""
        mask = self.mask  # another ordering hands its masks in as bits
        return self.weight * (mask if mask.dtype == self.weight.dtype else mask.to(self.weight.dtype))

    def forward(self, input: Tensor) -> Tensor:
        return F.linear(input, self.masked(), self.bias)


def sequence_of(D: int, order: str, seed: int) -> list[int]:
    """The variables 0 .. D-1 in their natural order, or in a random one fixed by its own seed.

    A saved model finds the same masks again without storing them.
    """
    return list(range(D)) if order == "natural" else torch.randperm(D, generator=torch.Generator().manual_seed(seed)).tolist()


def ranks(sequence: Sequence[int]) -> Tensor:
    """r(d) in 1..D of each variable d, (D,)."""
    rank = torch.empty(len(sequence), dtype=torch.long)
    rank[torch.tensor(sequence)] = torch.arange(1, len(sequence) + 1)
    return rank


def masks_of(r_in: Tensor, r_out: Tensor, degrees: Sequence[Tensor]) -> tuple[list[Tensor], Tensor, Tensor]:
    """The masks of the hidden layers, of the output and of direct connections, from the ranks of features and the degrees of units."""
    seen = [r_in, *degrees]
    return [m[:, None] >= before for before, m in itertools.pairwise(seen)], r_out[:, None] > seen[-1], r_out[:, None] > r_in


class MaskedMLP(nn.Module):
    """The network of MADE over D variables, the d-th of which enters as in_widths[d] features and leaves as out_widths[d] parameters.

    A condition c reaches every hidden unit and every output unmasked. Then (and for D = 1) degree 0 is given to some units too: they see
    c alone, and make the first variable's parameters a nonlinear function of it.

    Parameters
    ----------
    in_widths, out_widths
        Features and output parameters of each variable, D of each.
    hidden
        Units of each hidden layer.
    condition_dim
        Width of c, 0 for none.
    order
        `natural` (1, 2, ... D), `random`, a permutation fixed by `order_seed`, or the variables 0 .. D-1 in their order.
    direct
        Whether inputs also reach the outputs directly.
    """

    def __init__(
        self,
        in_widths: Sequence[int],
        out_widths: Sequence[int],
        hidden: Sequence[int] = (512, 512),
        condition_dim: int = 0,
        order: Literal["natural", "random"] | Sequence[int] = "natural",
        order_seed: int = 0,
        direct: bool = True,
    ):
        super().__init__()
        D = len(in_widths)
        self.condition_dim = condition_dim
        self.in_widths, self.out_widths = list(in_widths), list(out_widths)
        self.sequence = sequence_of(D, order, order_seed) if isinstance(order, str) else list(order)
        rank = ranks(self.sequence)
        r_in = rank.repeat_interleave(torch.tensor(self.in_widths))
        r_out = rank.repeat_interleave(torch.tensor(self.out_widths))
        lowest = 0 if condition_dim or D == 1 else 1
        # Sorted, spread evenly over lowest .. D-1.
        self.degrees: list[Tensor] = [lowest + torch.arange(width) * (D - lowest) // width for width in hidden]
        masks, out, straight = masks_of(r_in, r_out, self.degrees)
        self.hidden = nn.ModuleList([MaskedLinear(mask) for mask in masks])
        self.out = MaskedLinear(out)
        self.direct = MaskedLinear(straight, bias=False) if direct else None
        widths = (*hidden, sum(self.out_widths)) if condition_dim else ()
        self.condition = nn.ModuleList([nn.Linear(condition_dim, w, bias=False) for w in widths])

    def forward(
        self, x: Float[Tensor, "B in"], c: Float[Tensor, "B cond"] | None = None, drop: Callable[[Tensor], Tensor] | None = None
    ) -> Float[Tensor, "B out"]:
        """Parameters of all variables, those of d given the features of the variables before it; `drop` thins out hidden units."""
        h = x
        for i, layer in enumerate(self.hidden):
            h = F.relu_(layer(h) if c is None else layer(h) + self.condition[i](c))
            h = h if drop is None else drop(h)
        y = self.out(h)
        if self.direct is not None:
            y = y + self.direct(x)
        return y if c is None else y + self.condition[-1](c)

    @torch.no_grad()
    def incremental(
        self, n: int, c: Float[Tensor, "n cond"] | None, choose: Callable[[int, Tensor], Tensor], moved: Moved | None = None
    ) -> None:
        """Visit the variables in order: `choose(d, parameters (out_widths[d], n))` returns the features (in_widths[d], n) of the values
        it chose. `moved` says which rows go on in place of others (see `moving`).

        The parameters equal those of `forward` on the chosen features, up to rounding. Each hidden unit is computed once: records are
        columns, and step r appends the rows of degree r to each layer's activations, (units, n).
        """
        D = len(self.sequence)
        starts_in = [0, *torch.tensor(self.in_widths).cumsum(0).tolist()]
        # Features in the order of their variables' ranks, so that the known ones are the first rows.
        by_rank = [i for d in self.sequence for i in range(starts_in[d], starts_in[d + 1])]
        layers = [layer for layer in self.hidden if isinstance(layer, MaskedLinear)]
        weights = [layer.masked() for layer in layers]
        bases = [self._base(layer, i, n, c) for i, layer in enumerate(layers)]
        last, last_base = self.out.masked(), self._base(self.out, -1, n, c)
        direct = None if self.direct is None else self.direct.masked()[:, by_rank]
        if weights:
            weights[0] = weights[0][:, by_rank]
        else:
            last = last[:, by_rank]
        features = last.new_zeros(len(by_rank), n)
        units = [b.new_empty(len(b), n) for b in bases]
        # ends[l][r]: units of layer l with a degree below r. Each step's rows are split off here: a slice costs as much as a small product.
        ends = [torch.searchsorted(m, torch.arange(D + 1)).tolist() for m in self.degrees]
        counts = [[b - a for a, b in itertools.pairwise(end)] for end in ends]
        steps = [
            (h, list(zip(end[1:], count, base.split(count), weight.split(count), h.split(count), strict=True)))
            for end, count, base, weight, h in zip(ends, counts, bases, weights, units, strict=True)
        ]
        outs = list(zip(last_base.split(self.out_widths), last.split(self.out_widths), strict=True))
        straight = None if direct is None else direct.split(self.out_widths)
        places = features.split([self.in_widths[d] for d in self.sequence])

        known = 0
        for r, d in enumerate(self.sequence):
            below, width = features.narrow(0, 0, known), known
            seen = below
            for h, step in steps:
                end, count, base, weight, new = step[r]
                if count:
                    torch.clamp_min(torch.addmm(base, weight.narrow(1, 0, width), below), 0, out=new)
                below, width = h.narrow(0, 0, end), end
            base, weight = outs[d]
            y = torch.addmm(base, weight.narrow(1, 0, width), below)
            if straight is not None:
                y = torch.addmm(y, straight[d].narrow(1, 0, known), seen)
            value, index = choose(d, y), None if moved is None else moved()
            if index is not None:
                move(index, 1, features, *units)
            places[r].copy_(value)
            known += self.in_widths[d]

    def _base(self, layer: MaskedLinear, i: int, n: int, c: Tensor | None) -> Tensor:
        """What a layer adds to its weighted inputs: b + V c, (units, n)."""
        b = layer.bias[:, None].expand(-1, n)
        return b if c is None else b + self.condition[i](c).T
