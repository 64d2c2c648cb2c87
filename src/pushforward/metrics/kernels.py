"""Distances between two samples that are averages over pairs of records."""

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import DataError
from .blocks import blocks


def energy_distance(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"]) -> float:
    """2 E|x - y| - E|x - x'| - E|y - y'| (Székely & Rizzo 2013, eq. 5): 0 only for equal distributions.

    Unbiased, so it may fall below 0.
    """
    x, y = x.double(), y.double()

    def total(a: Tensor, b: Tensor) -> float:
        return sum(float(torch.cdist(a[at], b).sum()) for at in blocks(a, len(b)))

    n, m = len(x), len(y)
    if min(n, m) < 2:
        raise DataError(f"The energy distance needs at least 2 records in each set, got {n} and {m}.")
    return 2 * total(x, y) / (n * m) - total(x, x) / (n * (n - 1)) - total(y, y) / (m * (m - 1))
