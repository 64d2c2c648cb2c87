"""Explicit randomness: same seed, same bits, on any device and any number of processes.

Noise is always drawn on the CPU generator and then moved, so that a seed means the same numbers
on every device. In data-parallel training each process draws the noise of the *global* batch and keeps its
own rows: two processes therefore compute exactly the losses that one would.
"""

import torch
from torch import Tensor


class Rng:
    """Random numbers for a batch of records; the first axis of every shape counts records.

    Parameters
    ----------
    generator
        A CPU `torch.Generator`; its state advances with each draw.
    device, dtype
        Where and in which floating type the numbers are wanted.
    rows, total
        With data parallelism, the rows of the global batch (of `total` records) that are ours.
    """

    def __init__(
        self,
        generator: torch.Generator,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        rows: slice | None = None,
        total: int | None = None,
    ):
        self.generator, self.device, self.dtype = generator, torch.device(device), dtype
        self.rows, self.total = rows, total

    @classmethod
    def seeded(cls, seed: int, like: Tensor | None = None) -> "Rng":
        """A fresh stream from an integer seed, on the device and in the dtype of `like`."""
        generator = torch.Generator().manual_seed(seed)
        return cls(generator) if like is None else cls(generator, like.device, like.dtype)

    def _draw(self, shape: tuple[int, ...], draw, **kw) -> Tensor:
        if self.rows is None or self.total is None:
            x = draw(shape, generator=self.generator, **kw)
        else:
            x = draw((self.total, *shape[1:]), generator=self.generator, **kw)[self.rows]
        return x if x.device == self.device else x.to(self.device)

    def randn(self, *shape: int) -> Tensor:
        """Standard normal numbers of the given shape."""
        return self._draw(shape, torch.randn, dtype=self.dtype)

    def rand(self, *shape: int) -> Tensor:
        """Uniform numbers on [0, 1)."""
        return self._draw(shape, torch.rand, dtype=self.dtype)

    def randint(self, high: int, *shape: int) -> Tensor:
        """Integers (int64) uniform on 0..high-1."""
        return self._draw(shape, lambda s, **kw: torch.randint(high, s, **kw))

    def categorical(self, logits: Tensor) -> Tensor:
        """One index (int64) per row of `logits` (B, ..., k), by inverting the cumulative probabilities."""
        cumulative = logits.softmax(-1).cumsum(-1)
        u = self.rand(*logits.shape[:-1]).to(logits.dtype).unsqueeze(-1)
        # Scaling by the last sum keeps u below it when rounding leaves the total a little under 1.
        return (u * cumulative[..., -1:] >= cumulative).sum(-1).clamp(max=logits.shape[-1] - 1)
