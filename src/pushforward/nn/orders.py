"""One masked network read in many orders: the weights of a `MaskedMLP` under other masks (Germain et al. 2015, section 4.2).

An `Ordering` is an order of the variables and, for each hidden layer, which unit has which degree. The degrees of a layer are always the
same numbers (`MaskedMLP.degrees`), dealt to other units. Every ordering gives a density of its own with shared weights.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .masked import MaskedMLP, masks_of, ranks, sequence_of

__all__ = ["Ordering", "reordered", "under"]


class Ordering(NamedTuple):
    """An order of the variables, and the units of each hidden layer from the lowest degree to the highest."""

    sequence: list[int]
    units: list[Tensor]

    @classmethod
    def own(cls, net: MaskedMLP) -> "Ordering":
        """The one that the network was made with."""
        return cls(net.sequence, [torch.arange(len(m)) for m in net.degrees])

    @classmethod
    def drawn(cls, net: MaskedMLP, seed: int, sequence: Sequence[int] | str) -> "Ordering":
        """Units dealt at random; a `sequence` of its own, or `natural`, or `random`."""
        g = torch.Generator().manual_seed(seed)
        units = [torch.randperm(len(m), generator=g) for m in net.degrees]
        return cls(sequence_of(len(net.in_widths), sequence, seed) if isinstance(sequence, str) else list(sequence), units)


def under(net: MaskedMLP, ordering: Ordering, x: Tensor, c: Tensor | None, drop: Callable[[Tensor], Tensor] | None = None) -> Tensor:
    """The network's outputs under the masks of another ordering, (B, out); gradients reach its weights. `drop` as in `forward`."""
    rank = ranks(ordering.sequence)
    r_in, r_out = (rank.repeat_interleave(torch.tensor(w)) for w in (net.in_widths, net.out_widths))
    degrees = [m[units.argsort()] for m, units in zip(net.degrees, ordering.units, strict=True)]
    hidden, out, direct = masks_of(r_in, r_out, degrees)
    masks = {f"hidden.{i}.mask": m for i, m in enumerate(hidden)} | {"out.mask": out}
    if net.direct is not None:
        masks["direct.mask"] = direct
    return torch.func.functional_call(net, {name: m.to(x.device) for name, m in masks.items()}, (x, c, drop))


@torch.no_grad()
def reordered(net: MaskedMLP, ordering: Ordering) -> MaskedMLP:
    """A copy of the network, as it is now, whose own order is this one: units stand by degree, so that it samples incrementally."""
    widths = [len(m) for m in net.degrees]
    with torch.random.fork_rng(devices=[]):
        new = MaskedMLP(net.in_widths, net.out_widths, widths, net.condition_dim, ordering.sequence, direct=net.direct is not None)
    new.to(net.out.weight.device, net.out.weight.dtype)
    # Rows are the units of a layer, columns those of the layer before.
    rows = [*ordering.units, torch.arange(sum(net.out_widths))]
    columns = [torch.arange(sum(net.in_widths)), *ordering.units]
    old, state = net.state_dict(), {}
    for name, r, k in zip([*(f"hidden.{i}" for i in range(len(widths))), "out"], rows, columns, strict=True):
        state[f"{name}.weight"], state[f"{name}.bias"] = old[f"{name}.weight"][r][:, k], old[f"{name}.bias"][r]
    state |= {f"condition.{i}.weight": old[f"condition.{i}.weight"][rows[i]] for i in range(len(net.condition))}
    new.load_state_dict({**old, **state})
    return new
