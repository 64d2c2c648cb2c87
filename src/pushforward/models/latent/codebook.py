r"""A codebook: K vectors, each code the nearest one, learned as an online k-means (van den Oord, Vinyals & Kavukcuoglu 2017).

With n_k vectors z of a batch of N nearest to entry e_k, shares u_k of the use and a decay g (appendix A.1, in shares):

    u_k <- g u_k + (1 - g) n_k / N,        u_k e_k <- g u_k e_k + (1 - g) sum_{z -> k} z / N.

An entry that is hardly used any more is dead: nothing draws it to the data. It is moved onto a vector of the batch.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from ...errors import DataError
from ...rng import Rng

__all__ = ["Codebook", "indices"]

ROUNDS = 10
"""Of k-means at the start: the encoder moves on at once."""


class Codebook(nn.Module):
    """K entries of `dim` numbers, as buffers: they follow averages and not gradients.

    Parameters
    ----------
    size, dim
        K, and the width of an entry.
    decay
        g, the memory of the averages: about 1 / (1 - g) batches.
    revive
        An entry used less than this share of 1 / K is moved onto a vector of the batch, drawn at random; 0 leaves it.
    """

    entries: Tensor
    usage: Tensor

    def __init__(self, size: int, dim: int, decay: float, revive: float):
        super().__init__()
        self.size, self.dim, self.decay, self.revive = size, dim, decay, revive
        self.register_buffer("entries", torch.randn(size, dim))
        self.register_buffer("usage", torch.full((size,), 1.0 / size))

    def nearest(self, z: Float[Tensor, "N d"]) -> Int[Tensor, " N"]:
        """The entry nearest to each vector, the first of equals: the least |e|^2 - 2 z.e."""
        return torch.addmm(self.entries.square().sum(1), z.to(self.entries.dtype), self.entries.T, alpha=-2).argmin(1)

    def perplexity(self) -> Float[Tensor, ""]:
        """exp(H) of the averaged shares of use, 1 to K."""
        return torch.special.entr(self.usage / self.usage.sum()).sum().exp()

    @torch.no_grad()
    def start(self, z: Float[Tensor, "N d"], generator: torch.Generator) -> None:
        """Entries and shares from k-means of some vectors, begun at some of them; with fewer than K vectors several entries coincide."""
        at = torch.randperm(len(z), generator=generator)
        entries = z[at.repeat(math.ceil(self.size / len(z)))[: self.size]].clone()
        self.entries.copy_(entries)
        counts = torch.zeros_like(self.usage)
        for _ in range(ROUNDS):
            index = self.nearest(z)
            counts = torch.bincount(index, minlength=self.size).to(self.usage)
            sums = _sums(z.to(self.entries), index, self.size)
            self.entries.copy_(torch.where(counts[:, None] > 0, sums / counts.clamp(min=1)[:, None], self.entries))
        self.usage.copy_(counts / counts.sum())

    @torch.no_grad()
    def update(self, z: Float[Tensor, "N d"], index: Int[Tensor, " N"], rng: Rng) -> None:
        """One step of the averages on the vectors of a batch and their nearest entries; of all processes' parts of it together."""
        z = z.to(self.entries.dtype)
        both = _over_processes(_sums(torch.cat([z, torch.ones_like(z[:, :1])], 1), index, self.size), rng)
        total = both[:, -1].sum()
        sums, share = both[:, :-1] / total, both[:, -1] / total
        moved = self.usage * self.decay + (1 - self.decay) * share
        # u e <- g u e + (1 - g) s, divided by the new u: a step of the entry towards the mean of its vectors, and none without any.
        step = (1 - self.decay) * (sums - share[:, None] * self.entries) / moved.clamp(min=1e-30)[:, None]
        self.entries.add_(step)
        self.usage.copy_(moved)
        dead = (moved < self.revive / self.size).nonzero()[:, 0]
        if len(dead):
            self._move(dead, z, rng)

    def _move(self, dead: Tensor, z: Tensor, rng: Rng) -> None:
        """Put the entries `dead` onto vectors of the whole batch, drawn at random, with the share of an average entry."""
        # Drawn for the batch of all processes by each of them alike, as their generators are; each gives the vectors that it has.
        processes = rank = 0
        if rng.rows is not None and rng.total is not None:
            own = rng.rows.stop - rng.rows.start
            processes, rank = rng.total // own, rng.rows.start // own
        at = torch.randint(len(z) * max(1, processes), (len(dead),), generator=rng.generator).to(z.device) - rank * len(z)
        mine = (at >= 0) & (at < len(z))
        onto = torch.where(mine[:, None], z[at.clamp(0, len(z) - 1)], 0.0)
        self.entries[dead] = _over_processes(onto, rng)
        self.usage[dead] = 1.0 / self.size


def indices(z: Float[Tensor, "B M"], width: int, size: int) -> Int[Tensor, "B M"]:
    """Codes as indices. Raises `DataError` for another width and for values that are none."""
    if z.ndim != 2 or z.shape[1] != width:
        raise DataError(f"Codes have shape {tuple(z.shape)}; this model's are (n, {width}).")
    bad = (z != z.round()) | (z < 0) | (z >= size)
    if bool(bad.any()):
        row, column = (int(i) for i in bad.nonzero()[0])
        raise DataError(
            f"Code {float(z[row, column]):g} at row {row}, column {column} is no index: codes are whole numbers 0 to {size - 1}. Those "
            "between two records' have no meaning here; for interpolation fit a vae."
        )
    return z.long()


def _sums(z: Float[Tensor, "N d"], index: Int[Tensor, " N"], size: int) -> Float[Tensor, "K d"]:
    """Sum of the vectors of each entry."""
    if z.device.type == "cpu":
        return z.new_zeros(size, z.shape[1]).index_add_(0, index, z)
    # A GPU adds in no fixed order there, and one seed must give the same bits.
    return F.one_hot(index, size).to(z).T @ z


def _over_processes(t: Tensor, rng: Rng) -> Tensor:
    """The sum over the processes that share a batch."""
    if rng.rows is not None and torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(t)
    return t
