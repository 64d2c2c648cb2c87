"""Records as real features, for networks: the map that neither loses nor adds information.

real and unit-free values pass as they are; `unit`, `binary` and `levels(k)` are scaled to [-1, 1]; `categories(k)` become
one-hot vectors with entries -1 and 1. Images keep their (C, H, W) shape; everything else is a flat vector.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import DataError
from .spec import DataSpec, Support


class Features:
    """The features of a `DataSpec`, both ways.

    `shape` is that of the features of one record; `blocks` lists (column, support, slice of the flat features).
    """

    def __init__(self, spec: DataSpec):
        self.spec = spec
        if spec.kind == "sequence":
            raise DataError("Sequences have no features of a fixed length. Use a model of sequences: recurrent or transformer.")
        self.blocks: list[tuple[int, Support, slice]] = []
        start = 0
        for column, support in enumerate(spec.columns):
            width = support.size if support.name == "categories" and support.size else 1
            self.blocks.append((column, support, slice(start, start + width)))
            start += width
        self.dim = start
        if spec.kind == "image" and start != spec.dim:
            raise DataError("Images with categorical pixels have no features; give them as levels or as a table.")
        self.shape: tuple[int, ...] = spec.shape if spec.kind == "image" else (start,)
        self.as_they_are = spec.support is not None and spec.support.name in ("binary", "real")
        """Whether a network is shown the records themselves; see `see`."""

    def of_columns(self) -> list["Features"]:
        """The features of each column alone, a record of one entry (B, 1): `see` shows of it what it shows within a whole record."""
        one = {s: Features(DataSpec("points", (1,), (s,))) for s in self.spec.supports}
        for features in one.values():
            features.as_they_are = self.as_they_are
        return [one[s] for s in self.spec.columns]

    def encode(self, x: Float[Tensor, "B *shape"]) -> Float[Tensor, "B *features"]:
        """Features of records: (B, *spec.shape) -> (B, *self.shape)."""
        shared = self.spec.support
        if shared is not None and shared.name != "categories":
            return _scale(x, shared)
        flat = x.flatten(1)
        return torch.cat([_one(flat[:, c], s) for c, s, _ in self.blocks], 1)

    def see(self, x: Float[Tensor, "B *shape"]) -> Float[Tensor, "B *features"]:
        """What a network that reads records is shown: `encode(x)`, or x where all entries are binary or real.

        Dense and convolutional layers absorb the map {0, 1} -> {-1, 1}, so binary records go in as they are: what is 0 moves no weight.
        """
        return x if self.as_they_are else self.encode(x)

    def squash(self, y: Float[Tensor, "B *features"]) -> Float[Tensor, "B *features"]:
        """A network's output in the range of the features of records: reals as they are, categories by softmax, all else by tanh."""
        shared = self.spec.support
        if shared is not None and shared.name != "categories":
            return y if shared.name == "real" else y.tanh()
        parts = {"real": lambda t: t, "categories": lambda t: 2 * t.softmax(1) - 1}
        return torch.cat([parts.get(s.name, torch.tanh)(y[:, at]) for _, s, at in self.blocks], 1)

    def rounded(self, y: Float[Tensor, "B *features"]) -> Float[Tensor, "B *features"]:
        """The features of the records nearest to y, with the gradient of y itself (straight through; Bengio et al. 2013)."""
        # y + (hard - y) detached: the forward value is the nearest record's features.
        return y if self.spec.continuous else y + (self.encode(self.decode(y.detach())) - y.detach())

    def decode(self, features: Float[Tensor, "B *features"]) -> Float[Tensor, "B *shape"]:
        """The record nearest to each feature vector: levels are rounded, categories take the largest entry."""
        shared = self.spec.support
        if shared is not None and shared.name != "categories":
            return _unscale(features, shared).reshape(-1, *self.spec.shape)
        columns = [
            features[:, at].argmax(1).to(features.dtype) if s.name == "categories" else _unscale(features[:, at.start], s)
            for _, s, at in self.blocks
        ]
        return torch.stack(columns, 1).reshape(-1, *self.spec.shape)


def categorical_pixels(family: str, spec: DataSpec) -> str | None:
    """Why a family that needs features cannot model images of categories or sequences, for its `accepts`; None for all other records."""
    if spec.kind == "sequence":
        return no_sequences(family)
    if spec.kind == "image" and any(s.name == "categories" for s in spec.supports):
        return f"{family} needs numbers for pixels; these images have categories. Give them as levels, or as a table with one column each."
    return None


def no_sequences(family: str) -> str:
    """Why a family of records of fixed entries refuses sequences."""
    return f"{family} models records whose entries have fixed places, and these are sequences. Use recurrent or transformer."


def _scale(x: Tensor, support: Support) -> Tensor:
    if support.name == "real":
        return x
    return x * (2.0 / ((support.size or 2) - 1)) - 1.0


def _unscale(f: Tensor, support: Support) -> Tensor:
    if support.name == "real":
        return f
    top = (support.size or 2) - 1
    x = ((f + 1.0) * (top / 2.0)).clamp(0, top)
    return x.round() if support.discrete else x


def _one(column: Tensor, support: Support) -> Tensor:
    if support.name != "categories":
        return _scale(column, support)[:, None]
    assert support.size
    return torch.nn.functional.one_hot(column.long(), support.size).to(column.dtype) * 2.0 - 1.0
