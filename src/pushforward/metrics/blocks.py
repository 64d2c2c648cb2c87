"""Distances between all pairs of two sets, a block of rows at a time."""

import itertools
import math
from collections.abc import Iterator

import torch
from torch import Tensor

BLOCK = 1 << 22
"""Entries of the distance matrix held at a time, so that memory stays bounded whatever n is."""


def blocks(x: Tensor, n: int) -> list[Tensor]:
    return list(torch.arange(len(x)).split(max(1, BLOCK // max(n, 1))))


def squared_distances(x: Tensor, y: Tensor, y_squares: Tensor) -> Tensor:
    """|x_i - y_j|^2 by one matrix product, (len(x), len(y))."""
    return torch.addmm(y_squares[None], x, y.T, alpha=-2.0).add_(x.square().sum(1, keepdim=True))


def tiles(n: int) -> Iterator[tuple[slice, slice]]:
    """Tiles of an n x n matrix on and above its diagonal: all that a symmetric one needs."""
    side = max(1, math.isqrt(BLOCK))
    parts = [slice(i, min(i + side, n)) for i in range(0, n, side)]
    return itertools.combinations_with_replacement(parts, 2)
