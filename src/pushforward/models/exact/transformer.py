"""Transformers over texts, music and images: each step attends to all before."""

from collections.abc import Iterator
from typing import Literal

import torch
from torch import nn

from ...errors import ConfigError
from ...known import Known
from ...nn.sequence import CausalTransformer
from ...train import Training
from .sequence_answers import enumerated, small_specs
from .sequences import Head, SequenceModel

__all__ = ["Transformer"]


class Transformer(SequenceModel):
    r"""A causal transformer over texts, music or images: log p(x | c) = sum_t log p(x_t | x_{<t}, c), exactly, all steps in one pass.

    Pre-norm blocks of attention and a network of four times the width, without biases; the symbols of texts leave by the weights they enter
    by. Pixels are symbols too, in raster order, each with its row and column told besides its step. Frames of a pianoroll have NADE over
    the keys, from low to high, or independent keys. Sampling keeps the keys and values of all the steps before.

    References: Vaswani et al. 2017, Attention Is All You Need; Radford et al. 2019, Language Models are Unsupervised Multitask Learners
    (GPT-2, whose layout and initial weights these are); Su et al. 2021, RoFormer; Chen et al. 2020, Generative Pretraining from Pixels.

    Parameters
    ----------
    width
        Features of a step. Default 128, as nanoGPT's recipe for a laptop.
    layers
        Blocks. Default 4, as that recipe.
    heads
        Attention heads, which divide the width. Default 4, as that recipe.
    positions
        `rotary` (relative, no weights) or `learned` (a vector for each step, as GPT-2).
    dropout
        Share of activations set to zero in each block while training. Off by default.
    head
        How the keys of a frame depend on each other: `nade` or `independent`.
    nade_hidden
        Hidden units of NADE. Default 150, as in RNN-NADE's code.
    transpose
        Semitones by which training pieces are moved up or down at random, 0 for none: figures had with it must say so.
    """

    name = "transformer"
    training = Training(
        lr=1e-3, batch_size=12, clip=1.0, schedule="cosine", warmup=100, optimizer="adamw", betas=(0.9, 0.99), weight_decay=0.1
    )

    def __init__(
        self,
        *,
        width: int = 128,
        layers: int = 4,
        heads: int = 4,
        positions: Literal["rotary", "learned"] = "rotary",
        dropout: float = 0.0,
        head: Head = "nade",
        nade_hidden: int = 150,
        transpose: int = 0,
    ):
        super().__init__()
        self.positions: Literal["rotary", "learned"] = positions
        self.head: Head = head
        self.width, self.layers, self.heads, self.dropout = width, layers, heads, dropout
        self.nade_hidden, self.transpose = nade_hidden, transpose

    @property
    def _tied(self) -> bool:
        return True

    @property
    def _symbol_sd(self) -> float:
        return 0.02

    def _network(self, length: int) -> tuple[nn.Module, int]:
        if self.positions not in ("rotary", "learned"):
            raise ConfigError(f"positions={self.positions!r} is not known. Choose 'rotary' or 'learned'.")
        if self.heads < 1 or self.width % self.heads or (self.positions == "rotary" and self.width // self.heads % 2):
            even = " into even shares, for rotary positions" if self.positions == "rotary" else ""
            raise ConfigError(f"heads={self.heads} does not divide width={self.width}{even}. Give width=128, heads=4.")
        return CausalTransformer(self.width, self.layers, self.heads, length, self.positions), self.width


def known_answers() -> Iterator[Known]:
    """Probabilities of all records sum to 1."""
    because = (
        "Each probability is exp of a sum of at most 12 logs in float64: relative error below 100 x 12 x 2.2e-16, and so that of the sum."
    )
    for what, spec in small_specs().items():
        for positions in ("rotary", "learned"):
            model = Transformer(width=8, layers=2, heads=2, nade_hidden=6, positions=positions).build(spec, seed=1).double()
            with torch.no_grad():
                for p in model.parameters():
                    p.copy_(p * 20 if p.ndim > 1 else p + 0.3)  # conditionals far from uniform
            total = float(enumerated(model)[1].exp().sum())
            yield Known(f"transformer, {what}, {positions}: probabilities sum to 1", 1.0, total, 1e-11, because)
