"""Small sets of sequences, whole: every record that there can be, and what a model says of each."""

import itertools
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from ...data.spec import BINARY, DataSpec, categories
from ...rng import Rng
from .sequences import SequenceModel

__all__ = ["enumerated", "small_specs", "valid_records"]


def valid_records(spec: DataSpec) -> Iterator[Tensor]:
    """Every record of a small spec, (T, ...), each once: ended ones stay ended."""
    T, music = spec.shape[0], len(spec.shape) == 2
    steps = [torch.tensor(bits) for bits in itertools.product((0.0, 1.0), repeat=spec.shape[1] - spec.ends)] if music else []
    steps = steps or [torch.tensor(float(k)) for k in range((spec.supports[0].size or 2) - spec.ends)]
    if music and spec.ends:
        steps = [F.pad(s, (0, 1)) for s in steps]
    end = F.pad(torch.zeros(spec.shape[1] - 1), (0, 1), value=1.0) if music else torch.tensor(float(len(steps)))
    for n in range(0 if spec.ends else T, T + 1):
        for chosen in itertools.product(steps, repeat=n):
            yield torch.stack([*chosen, *[end] * (T - n)])


def enumerated(model: SequenceModel) -> tuple[Tensor, Tensor]:
    """All records of a small spec, (N, T, ...), and their log-probabilities, (N,)."""
    spec = model._spec
    x = torch.stack(list(valid_records(spec))).to(model.dtype)
    c = None if spec.condition_dim == 0 else torch.eye(spec.condition_dim, dtype=model.dtype)[:1].expand(len(x), -1)
    with torch.no_grad():
        return x, model._log_prob(x, c, Rng.seeded(0))


def small_specs() -> dict[str, DataSpec]:
    """Specs whose records can be counted, for `known_answers`."""
    return {
        "3^6 texts of 6 symbols": DataSpec("sequence", (6,), (categories(3),)),
        "texts of at most 5 of 3 symbols": DataSpec("sequence", (5,), (categories(4),), ends=True),
        "2^12 pieces of 3 frames": DataSpec("sequence", (3, 4), (BINARY,)),
        "pieces of at most 3 frames, given c": DataSpec("sequence", (3, 4), (BINARY,), 2, ends=True),
    }
