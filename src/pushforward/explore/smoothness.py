"""Where codes leave gaps, what is decoded from there, and how steep the decoder is."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import DataError, Unsupported
from ..metrics.copying import nearest
from .lens import Lens, Shown

__all__ = ["Gaps", "Lipschitz", "gaps", "lipschitz", "singular_values"]


@dataclass(frozen=True)
class Gaps:
    """Records decoded half-way between clusters of codes, where no code lies."""

    between: tuple[tuple[str, str], ...]
    """The clusters on either side: classes, or k-means clusters of the codes."""
    codes: Tensor
    """The midpoints, (g, d), the emptiest first."""
    emptiness: Tensor
    """Distance from each to its nearest code, over the median of a held-out code's: above 1 where there are fewer codes than elsewhere."""
    decoded: Shown
    nearest: Shown
    """The training record nearest to each decoded one."""
    distance: Tensor
    """Distance from each decoded record to the nearest training record, over the median of a held-out record's: 1 is as near as these."""
    at_codes: float
    """The same, at the median, for reconstructions of held-out records: what the decoder costs where there are codes."""

    @property
    def ratio(self) -> float:
        """The median of `distance`."""
        return float(self.distance.median())


def gaps(lens: Lens, *, most: int = 9, clusters: int = 10) -> Gaps:
    """Midpoints between the means of classes (of k-means clusters where there are none) that are farthest from any code, decoded.

    A decoder that was never asked about a gap may answer with no record at all. Smooth averages of records are near to many, so a
    distance below 1 says blurred, not real: look at the pictures.
    """
    z, held = lens.z.double(), lens.z_held.double()
    if lens.classes:
        labels, names = lens.labels(lens.train), [str(c) for c in lens.classes]
    else:
        from sklearn.cluster import KMeans

        k = min(clusters, max(2, len(z) // 10))
        labels, names = KMeans(k, random_state=lens.seed).fit_predict(z.numpy()), [f"cluster {i + 1}" for i in range(k)]
    present = [k for k in range(len(names)) if (labels == k).sum()]
    if len(present) < 2:
        raise DataError("There is one cluster of codes, so there is no gap between two.")
    means = torch.stack([z[torch.from_numpy(labels == k)].mean(0) for k in present])
    i, j = torch.triu_indices(len(present), len(present), 1)
    middle = (means[i] + means[j]) / 2
    empty = nearest(middle, z)[0][:, 0] / max(float(nearest(held, z)[0][:, 0].median()), 1e-300)
    order = empty.argsort(descending=True, stable=True)[:most]
    # A conditional decoder is asked for the first record's condition.
    decoded = lens.decode(middle[order], lens.conditions([0] * len(order)))
    if not lens.typical > 0:
        raise DataError("Most held-out records repeat a training record, so that distances between records have no scale.")
    distance, near = lens.nearest(decoded.x)
    again = lens.decode(held, lens.conditions(range(len(held))))
    between = tuple((names[present[int(i[o])]], names[present[int(j[o])]]) for o in order)
    records = near if lens.model.schema is None else lens.data.schema.decode(near)
    return Gaps(
        between,
        middle[order],
        empty[order],
        decoded,
        Shown(records, near),
        distance / lens.typical,
        float(lens.nearest(again.x)[0].median()) / lens.typical,
    )


# -- slopes ---------------------------------------------------------------------------------------------------------------


def singular_values(f: Callable[[Tensor], Tensor], z: Tensor, *, iterations: int = 50, seed: int = 0) -> Tensor:
    """The largest singular value (n,) of the Jacobian of f: (n, d) -> (n, D) at each code z, row by row.

    Power iteration on J^T J, with J v by forward differentiation and J^T u by backward: no Jacobian is formed. f must treat rows alone
    (no batch statistics). The estimate rises towards the value, with an error of about (s2 / s1)^(4k) after k steps where s2 is the
    second one, and stops when a step changes none by more than 16 rounding errors.

    Raises `Unsupported` when f has no slopes: it rounds, or draws.
    """
    z = z.detach()
    v = torch.randn(z.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(z)
    v = v / v.norm(dim=1, keepdim=True)
    try:
        with torch.enable_grad():
            found: Any = torch.func.vjp(f, z)
            out, pull = found
            if not bool(torch.isfinite(out).all()):
                raise Unsupported("The decoder gives numbers that are not finite at these codes.")
            value = z.new_zeros(len(z))
            for _ in range(iterations):
                u: Any = torch.func.jvp(f, (z,), (v,))[1]
                w = pull(u)[0]
                size = w.norm(dim=1, keepdim=True)
                new = u.norm(dim=1)  # |J v|, with |v| = 1
                v = torch.where(size > 0, w / size.clamp_min(1e-300), v).detach()
                done = bool(((new - value).abs() <= 16 * torch.finfo(z.dtype).eps * new).all())
                value = torch.maximum(value, new.detach())
                if done:
                    break
    except (RuntimeError, NotImplementedError) as error:
        raise Unsupported(f"The decoder cannot be differentiated at its codes: {str(error).splitlines()[0]}") from error
    if not bool((value > 0).any()):
        raise Unsupported("The decoder has no slope at any code: it rounds to levels, and gives no likelihood whose mean has slopes.")
    return value


@dataclass(frozen=True)
class Lipschitz:
    """How far a record moves, at most, for a small step of its code."""

    values: Tensor
    """The largest singular value of the decoder's Jacobian at each code, (n,), in the model's own values of records."""
    relative: float
    """The median, once codes and records are scaled to a spread (root of the total variance) of 1.

    Many times 1: small steps of the code change the record altogether.
    """

    @property
    def median(self) -> float:
        return float(self.values.double().median())

    @property
    def high(self) -> float:
        """The 95th percentile."""
        return float(torch.quantile(self.values.double(), 0.95))


def lipschitz(lens: Lens, *, most: int = 200, iterations: int = 50) -> Lipschitz:
    """The local Lipschitz constants of the decoder at codes of held-out records (or of draws from the prior)."""
    z = lens.places[: max(8, most // max(1, lens.model.nfe))].to(lens.model.device, lens.model.dtype)
    c = lens._vectors(lens.conditions(range(len(z))))
    with _still(lens.model):
        values = singular_values(lambda t: lens.mean(t, c), z, iterations=iterations, seed=lens.seed).cpu().double()
        with torch.no_grad():
            x = lens.mean(z, c).double()
    spread = [math.sqrt(float(t.double().var(0).sum())) for t in (z, x)]
    relative = float(values.median()) * spread[0] / spread[1] if spread[1] > 0 else math.nan
    return Lipschitz(values, relative)


class _still:
    """The model's weights without gradients, as long as it lasts."""

    def __init__(self, model: Any):
        self.states = [(p, p.requires_grad) for p in model.parameters()]

    def __enter__(self) -> None:
        for p, _ in self.states:
            p.requires_grad_(False)

    def __exit__(self, *_: object) -> None:
        for p, was in self.states:
            p.requires_grad_(was)


def finite(value: float | None) -> float | None:
    """A number that JSON can hold, else None."""
    return None if value is None or not np.isfinite(value) else float(value)
