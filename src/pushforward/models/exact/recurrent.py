"""Recurrent models of texts, music and images: each step given all before, by an LSTM or GRU."""

from collections.abc import Iterator
from typing import Literal

import torch
from torch import nn

from ...known import Known
from ...nn.sequence import RecurrentNet
from ...train import Training
from .sequence_answers import enumerated, small_specs
from .sequences import Head, SequenceModel

__all__ = ["Recurrent"]


class Recurrent(SequenceModel):
    r"""A recurrent network over texts, music or images: log p(x | c) = sum_t log p(x_t | h_t), h_t = f(h_{t-1}, x_{t-1}, c), exactly.

    Symbols of a text have a softmax, and so have pixels, which come in raster order, each with its row and column told. Frames of a
    pianoroll have NADE over the keys, from low to high, given h_t: the RNN-NADE of Boulanger-Lewandowski et al. (2012) with an LSTM in
    place of its tanh units; or independent keys. Sampling carries h_t along.

    References: Hochreiter & Schmidhuber 1997, Long Short-Term Memory; Boulanger-Lewandowski, Bengio, Vincent 2012, Modeling Temporal
    Dependencies in High-Dimensional Sequences, section 5.

    Parameters
    ----------
    cell
        `lstm` or `gru`. Default: LSTM, as Karpathy's char-rnn.
    hidden
        Units of each layer. Default 256.
    layers
        Layers. Default 2, as char-rnn.
    dropout
        Share of activations set to zero before, between and after the layers while training, the same for all steps of a record (Gal &
        Ghahramani 2016). Off by default.
    tied
        Whether symbols enter by the weights that they leave by: fewer weights, and less overfitting where the vocabulary is large (Press &
        Wolf 2017; Inan et al. 2017). Off by default. Music has no such weights.
    head
        How the keys of a frame depend on each other: `nade`, or `independent` as in most published baselines.
    nade_hidden
        Hidden units of NADE. Default 150, as in RNN-NADE's code.
    transpose
        Semitones by which training pieces are moved up or down at random, 0 for none: figures had with it must say so.
    """

    name = "recurrent"
    training = Training(lr=2e-3, batch_size=32, clip=1.0, schedule="cosine")
    per_record_dropout = True

    def __init__(
        self,
        *,
        cell: Literal["lstm", "gru"] = "lstm",
        hidden: int = 256,
        layers: int = 2,
        dropout: float = 0.0,
        tied: bool = False,
        head: Head = "nade",
        nade_hidden: int = 150,
        transpose: int = 0,
    ):
        super().__init__()
        self.cell: Literal["lstm", "gru"] = cell
        self.head: Head = head
        self.hidden, self.layers, self.dropout, self.nade_hidden, self.transpose = hidden, layers, dropout, nade_hidden, transpose
        self.tied = tied

    @property
    def _tied(self) -> bool:
        return self.tied

    @property
    def _symbol_sd(self) -> float:
        # As the uniform weights of sd 0.1 / 3^(1/2) of Merity et al. 2018, AWD-LSTM: large as inputs go, and not yet sure as outputs.
        return 0.058 if self.tied else 1.0

    def _network(self, length: int) -> tuple[nn.Module, int]:
        return RecurrentNet(self.hidden, self.layers, self.cell), self.hidden


def known_answers() -> Iterator[Known]:
    """Probabilities of all records sum to 1."""
    because = (
        "Each probability is exp of a sum of at most 12 logs in float64: relative error below 100 x 12 x 2.2e-16, and so that of the sum."
    )
    for what, spec in small_specs().items():
        for head in ("nade", "independent") if len(spec.shape) == 2 else ("nade",):
            model = (
                Recurrent(hidden=8, layers=2, nade_hidden=6, head=head, cell="gru" if spec.ends else "lstm").build(spec, seed=1).double()
            )
            with torch.no_grad():
                for p in model.parameters():
                    p.mul_(3.0)  # conditionals far from uniform
            total = float(enumerated(model)[1].exp().sum())
            yield Known(f"recurrent, {what}, {head}: probabilities sum to 1", 1.0, total, 1e-11, because)
