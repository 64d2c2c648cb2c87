"""The gated PixelCNN of images on a finite set: `pixels.PixelModel` with the network of `nn.pixelcnn`."""

from collections.abc import Iterator

from ...data.spec import BINARY, DataSpec, categories, levels
from ...known import Known
from ...nn.pixelcnn import GatedPixelCNN
from ...train import Training
from .pixels import PixelModel
from .sequential import ROUNDING, enumerated, roughened

__all__ = ["PixelCNN"]


class PixelCNN(PixelModel):
    r"""A gated PixelCNN: log p(x | c) = sum over pixels (i, j) and channels g of log p(x_{gij} | all before, c), exactly.

    "Before" is raster order, the channels of a pixel in their own order. Binary pixels have a Bernoulli, levels(k) a softmax over the k
    values, k <= 256; categories(k), such as a grid of codes, have a softmax too, and enter by a learned vector each. The weights are shared
    over the positions, so the network is small and images of one size are its records. Sampling
    keeps all activations (`nn.pixelcnn`): 64 images of 28x28 take less than 1/300 of the time of a full pass per pixel.

    Reference: van den Oord, Kalchbrenner, Vinyals, Espeholt, Graves, Kavukcuoglu 2016, Conditional Image Generation with PixelCNN
    Decoders, equation 2 (gate), equation 4 (class bias) and figure 2 (the two stacks).

    Parameters
    ----------
    layers
        Gated layers, the first 7x7 and the others 3x3. Default: 7 (which see 9 pixels left and up) for images of at least 16x16, else 4.
    channels
        Features of each stack, rounded up to a multiple of the image's channels. Default: 64 for images of at least 16x16, else 32: on 8x8
        digits 4 x 32 reaches 78.7 nats in a minute of one core, where 7 x 64 takes too few steps. (The paper's networks are for GPUs and
        days.)
    places
        Whether the first layer's features get a learned vector at every place, so that the network knows where it is. On by default.
    """

    name = "pixelcnn"
    # Without the decay gates saturate in long runs: on binarised MNIST, at 4e-3 and batches of 16, the loss rose again after 4,000 steps.
    training = Training(lr=3e-3, batch_size=64, ema=0.995, schedule="cosine", clip=1.0, optimizer="adamw", weight_decay=0.05)

    def __init__(self, *, layers: int | None = None, channels: int | None = None, places: bool = True):
        super().__init__()
        self.layers, self.channels, self.places = layers, channels, places

    def _network(self, spec: DataSpec, params: int, embedded: int | None) -> GatedPixelCNN:
        layers, channels = (7, 64) if min(spec.shape[1:]) >= 16 else (4, 32)
        layers, channels = self.layers or layers, self.channels or channels
        features = min(embedded, channels) if embedded else 1
        size = (spec.shape[1], spec.shape[2]) if self.places else None
        return GatedPixelCNN(spec.shape[0], params, layers, channels, spec.condition_dim, features, size)


def known_answers() -> Iterator[Known]:
    """Probabilities that sum to 1."""
    pixels, colours = DataSpec("image", (1, 3, 4), (BINARY,)), DataSpec("image", (3, 2, 2), (BINARY,))
    small: list[tuple[str, PixelCNN, DataSpec]] = [
        ("PixelCNN, 2^12 binary 3x4 images", PixelCNN(layers=3, channels=16), pixels),
        ("PixelCNN given c, 2^12 binary 3x4 images", PixelCNN(layers=3, channels=16), pixels.with_condition(2)),
        ("PixelCNN, 3^6 images of levels(3)", PixelCNN(layers=3, channels=16), DataSpec("image", (1, 2, 3), (levels(3),))),
        ("PixelCNN, 2^12 colour 2x2 images", PixelCNN(layers=3, channels=12), colours),
        ("PixelCNN, 3^6 grids of categories(3)", PixelCNN(layers=3, channels=16), DataSpec("image", (1, 2, 3), (categories(3),))),
        (
            "PixelCNN, 3^8 two-channel grids of categories(3)",
            PixelCNN(layers=3, channels=16),
            DataSpec("image", (2, 2, 2), (categories(3),)),
        ),
    ]
    for what, model, spec in small:
        total = float(enumerated(roughened(model, spec))[1].exp().sum())
        yield Known(f"{what}: probabilities sum to 1", 1.0, total, 1e-11, ROUNDING)
