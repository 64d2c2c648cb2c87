"""Networks from image to image, and critics of patches, as in CycleGAN (Zhu et al. 2017, appendix 7.2).

Instance normalisation takes each channel of each image by itself: an output depends on its own record alone.
"""

from collections.abc import Sequence
from itertools import pairwise

from jaxtyping import Float
from torch import Tensor, nn

from ..errors import ConfigError
from .mlp import initialise

__all__ = ["PatchCritic", "ResidualMLP", "Translator"]

SMALLEST = 8
"""Pixels of the shorter side, below which normalising over pixels has too few of them."""


def _norm(name: str, channels: int) -> nn.Module:
    if name not in ("instance", "none"):
        raise ConfigError(f"There is no normalisation {name!r} here. Known: instance, none.")
    return nn.InstanceNorm2d(channels) if name == "instance" else nn.Identity()


def _large_enough(shape: Sequence[int]) -> None:
    if min(shape[1:]) < SMALLEST:
        raise ConfigError(f"Convolutions need images of {SMALLEST} pixels and more a side; these have {shape[1]} x {shape[2]}. Use 'mlp'.")


class _Residual(nn.Module):
    """h + norm(conv(relu(norm(conv(h)))))."""

    def __init__(self, channels: int, norm: str):
        super().__init__()
        self.one, self.two = (nn.Conv2d(channels, channels, 3, padding=1, padding_mode="reflect") for _ in range(2))
        self.first, self.second = (_norm(norm, channels) for _ in range(2))
        initialise([self.one, self.two], "relu")

    def forward(self, h: Tensor) -> Tensor:
        return h + self.second(self.two(self.first(self.one(h)).relu()))


class Translator(nn.Module):
    """Images (C, H, W) -> images (C, H, W) of any size: c7s1-k, d2k, d4k, residual blocks, u2k, uk, c7s1-C in the paper's names.

    Each halving is a 3x3 convolution of stride 2, each doubling a transposed one; borders are reflected. The output has no activation.

    Parameters
    ----------
    shape
        (C, H, W) of one image. Raises `ConfigError` for sides under 8 pixels.
    channels
        k, the channels at full size; the paper uses 64.
    blocks
        Residual blocks at the coarsest size; the paper uses 6 for 128 x 128 images and 9 for 256 x 256.
    halvings
        Times that the size is halved, 2 in the paper; fewer where a side would fall under 4 pixels.
    norm
        `instance` or `none`.
    """

    def __init__(self, shape: Sequence[int], channels: int = 64, blocks: int = 6, halvings: int = 2, norm: str = "instance"):
        super().__init__()
        _large_enough(shape)
        depth, *size = shape
        self.sizes = [tuple(size)]
        while len(self.sizes) <= halvings and min(self.sizes[-1]) > 6:
            self.sizes.append(tuple((s + 1) // 2 for s in self.sizes[-1]))
        widths = [channels * 2**i for i in range(len(self.sizes))]
        self.first = nn.Conv2d(depth, channels, 7, padding=3, padding_mode="reflect")
        self.down = nn.ModuleList(nn.Conv2d(a, b, 3, 2, 1) for a, b in pairwise(widths))
        self.middle = nn.Sequential(*(_Residual(widths[-1], norm) for _ in range(blocks)))
        self.up = nn.ModuleList(nn.ConvTranspose2d(b, a, 3, 2, 1) for a, b in reversed(list(pairwise(widths))))
        self.last = nn.Conv2d(channels, depth, 7, padding=3, padding_mode="reflect")
        self.down_norms = nn.ModuleList(_norm(norm, w) for w in widths)
        self.up_norms = nn.ModuleList(_norm(norm, w) for w in widths[-2::-1])
        initialise([self.first, *self.down, *self.up, self.last], "relu")

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        h = self.down_norms[0](self.first(x)).relu()
        for conv, norm in zip(self.down, self.down_norms[1:], strict=True):
            h = norm(conv(h)).relu()
        h = self.middle(h)
        for conv, norm, size in zip(self.up, self.up_norms, self.sizes[-2::-1], strict=True):
            # A halving rounds up; the size says which of the two sizes that round to this one comes back.
            h = norm(conv(h, output_size=size)).relu()
        return self.last(h)


class PatchCritic(nn.Module):
    """Images (C, H, W) -> a map of scores, one for each overlapping patch (Isola et al. 2017): C64-C128-... in the paper's names.

    4x4 convolutions with leaky rectifiers: `layers` of stride 2, each after the first normalised, one of stride 1, and one to the scores.
    A score sees 16, 34 or 70 pixels with 1, 2 or 3 layers.

    Parameters
    ----------
    shape
        (C, H, W) of one image. Raises `ConfigError` for sides under 8 pixels.
    channels
        Of the first layer; they double with each layer, up to 8 times. The paper uses 64.
    layers
        None takes as many, from 1 to the paper's 3, as leave a patch within two thirds of the shorter side.
    norm
        `instance` or `none`.
    """

    def __init__(self, shape: Sequence[int], channels: int = 64, layers: int | None = None, norm: str = "instance"):
        super().__init__()
        _large_enough(shape)
        side = min(shape[1:])
        if layers is None:
            layers = next((n for n, patch in ((3, 70), (2, 34)) if patch <= 2 * side / 3), 1)
        if layers < 1 or side >> layers < 4:
            raise ConfigError(
                f"A critic of {layers} layers leaves too few of {shape[1]} x {shape[2]} pixels. Give critic_layers=1 or none."
            )
        widths = [shape[0], *(channels * min(2**i, 8) for i in range(layers + 1))]
        convs = [nn.Conv2d(a, b, 4, 2 if i < layers else 1, 1) for i, (a, b) in enumerate(pairwise(widths))]
        self.convs = nn.ModuleList(convs)
        self.norms = nn.ModuleList(_norm(norm if i else "none", w) for i, w in enumerate(widths[1:]))
        self.head = nn.Conv2d(widths[-1], 1, 4, 1, 1)
        initialise([*convs, self.head], "leaky_relu")

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B h w"]:
        h = x
        for conv, norm in zip(self.convs, self.norms, strict=True):
            h = nn.functional.leaky_relu(norm(conv(h)), 0.2)
        return self.head(h)[:, 0]


class ResidualMLP(nn.Module):
    """x + W(x) for a multilayer perceptron W whose last layer begins at zero, (B, *shape) -> (B, *shape): at first the identity."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net
        last = [m for m in net.modules() if isinstance(m, nn.Linear)][-1]
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def forward(self, x: Float[Tensor, "B *shape"]) -> Float[Tensor, "B *shape"]:
        return x + self.net(x.flatten(1)).reshape(x.shape)
