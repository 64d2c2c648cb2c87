"""A pool of past samples, from which a critic is shown some (Shrivastava et al. 2017, section 2.3; Zhu et al. 2017, section 4)."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ...rng import Rng

__all__ = ["Pool"]


class Pool(nn.Module):
    """Up to `size` past samples, as buffers: checkpoints hold them, so that a resumed run shows its critic what it would have shown.

    While there is room, a sample is kept and shown. Then, with probability 1/2 each, it is shown, or it takes the place of a random one of
    the pool, which is shown instead. The samples of a batch come in one after the other, so that a critic sees none before its time.
    """

    kept: Tensor
    count: Tensor

    def __init__(self, size: int, shape: tuple[int, ...]):
        super().__init__()
        self.size = size
        self.register_buffer("kept", torch.zeros(size, *shape))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def exchange(self, fresh: Float[Tensor, "B *shape"], rng: Rng) -> Float[Tensor, "B *shape"]:
        """As many samples, fresh or past, (B, *shape). With several processes the pool is the same in each, and takes in all of theirs."""
        if not self.size:
            return fresh
        ours = slice(None)
        if rng.rows is not None:
            every = [torch.empty_like(fresh) for _ in range(torch.distributed.get_world_size())]
            torch.distributed.all_gather(every, fresh.contiguous())
            fresh, ours = torch.cat(every), rng.rows
        n = len(fresh)
        swaps = torch.rand(n, generator=rng.generator).lt(0.5).tolist()
        slots = torch.randint(self.size, (n,), generator=rng.generator).tolist()
        # Places in the pool and, from `size` on, in the batch: what each slot holds now, and what is shown.
        holds, shown, count = list(range(self.size)), list(range(self.size, self.size + n)), int(self.count)
        for i in range(n):
            if count < self.size:
                holds[count] = self.size + i
                count += 1
            elif swaps[i]:
                shown[i], holds[slots[i]] = holds[slots[i]], self.size + i
        both = torch.cat([self.kept, fresh.to(self.kept.dtype)])
        self.kept.copy_(both[torch.tensor(holds, device=both.device)])
        self.count.fill_(count)
        return both[torch.tensor(shown, device=both.device)][ours].to(fresh.dtype)
