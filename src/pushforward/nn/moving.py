"""Rows of records that go on in place of others while a network passes through them, as those of a particle filter do."""

from collections.abc import Callable

from torch import Tensor

__all__ = ["Moved", "move"]

Moved = Callable[[], Tensor | None]
"""Asked after each choice: the rows (n,) that all n rows came from, or None where they stayed."""


def move(index: Tensor, dim: int, *kept: Tensor) -> None:
    """Let row r of each tensor, along `dim`, be what row `index[r]` was, in place."""
    for t in kept:
        t.copy_(t.index_select(dim, index))
