"""Intervals: what a figure may be, given the records it was had from."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from .blocks import BLOCK


def bootstrap_interval(
    values: Float[Tensor, "n"],
    statistic: Callable[[Tensor], Tensor] = lambda v: v.mean(-1),
    *,
    level: float = 0.95,
    repeats: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """The percentile bootstrap interval of `statistic`, which maps (..., n) to (...) (Efron 1979)."""
    generator = torch.Generator().manual_seed(seed)
    n, rows = len(values), max(1, BLOCK // max(len(values), 1))
    drawn = [statistic(values[torch.randint(n, (min(rows, repeats - start), n), generator=generator)]) for start in range(0, repeats, rows)]
    tail = (1.0 - level) / 2.0
    low, high = torch.cat(drawn).double().quantile(torch.tensor([tail, 1.0 - tail], dtype=torch.float64))
    return float(low), float(high)
