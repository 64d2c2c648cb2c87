"""PixelRNN of images on a finite set: `pixels.PixelModel` with the networks of `nn.pixelrnn`."""

from collections.abc import Iterator
from typing import Literal

from ...data.spec import BINARY, DataSpec, levels
from ...known import Known
from ...nn.pixelrnn import PixelRNNNetwork
from ...train import Training
from .pixels import PixelModel
from .sequential import ROUNDING, enumerated, roughened

__all__ = ["PixelRNN"]


class PixelRNN(PixelModel):
    r"""A recurrent network over the pixels: log p(x | c) = sum over pixels and channels of log p(x_{gij} | all before, c), exactly.

    LSTMs carry what they have seen across the image, so that the `diagonal` kind sees every earlier pixel in its first layer, where a
    PixelCNN sees as far as its layers reach. (Every one but one: the last pixel of the row above, where it is over three columns away.
    The mirrored LSTM begins a row with what that pixel sees, not with the pixel.) Density and training take H (row) or H + W - 1
    (diagonal) steps one after the other. Pixels are binary, levels(k) with k <= 256, or categories, as in `PixelCNN`.

    Reference: van den Oord, Kalchbrenner, Kavukcuoglu 2016, Pixel Recurrent Neural Networks, section 3, equation 3, and table 1; 79.20
    nats on binarised MNIST with diagonals.

    Parameters
    ----------
    kind
        `row` (Row LSTM: a triangle above, faster) or `diagonal` (Diagonal BiLSTM: all before, better). Default: diagonal.
    layers
        LSTM layers. Default 3: the paper's 7 take over twice as long.
    hidden
        h, the states of each layer, rounded up to a multiple of the image's channels; features are twice as many. Default 16, the paper's.
    """

    name = "pixelrnn"
    training = Training(lr=3e-3, batch_size=64, ema=0.995, schedule="cosine", clip=1.0)

    def __init__(self, *, kind: Literal["row", "diagonal"] = "diagonal", layers: int = 3, hidden: int = 16):
        super().__init__()
        self.kind: Literal["row", "diagonal"] = kind
        self.layers, self.hidden = layers, hidden

    def _network(self, spec: DataSpec, params: int, embedded: int | None) -> PixelRNNNetwork:
        features = min(embedded, 2 * self.hidden) if embedded else 1
        return PixelRNNNetwork(spec.shape[0], params, self.kind, self.layers, self.hidden, spec.condition_dim, features)


def known_answers() -> Iterator[Known]:
    """Probabilities that sum to 1."""
    pixels = DataSpec("image", (1, 3, 4), (BINARY,))
    small: list[tuple[str, PixelRNN, DataSpec]] = [
        ("PixelRNN, rows, 2^12 binary 3x4 images", PixelRNN(kind="row", layers=2, hidden=6), pixels),
        ("PixelRNN, diagonals, 2^12 binary 3x4 images given c", PixelRNN(layers=2, hidden=6), pixels.with_condition(2)),
        ("PixelRNN, diagonals, 3^6 images of levels(3)", PixelRNN(layers=2, hidden=6), DataSpec("image", (1, 2, 3), (levels(3),))),
        ("PixelRNN, diagonals, 2^12 colour 2x2 images", PixelRNN(layers=2, hidden=6), DataSpec("image", (3, 2, 2), (BINARY,))),
    ]
    for what, model, spec in small:
        total = float(enumerated(roughened(model, spec))[1].exp().sum())
        yield Known(f"{what}: probabilities sum to 1", 1.0, total, 1e-11, ROUNDING)
