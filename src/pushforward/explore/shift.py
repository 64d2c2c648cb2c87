"""The one-pixel shift: what a squared error makes of a change that nobody sees, and what better measures do."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import DataError
from ..spaces import spaces
from .lens import Lens

__all__ = ["Closeness", "PixelShift", "pixel_shift", "shifted", "ssim"]

WINDOW, SIGMA, K1, K2 = 11, 1.5, 0.01, 0.03
"""Those of Wang et al. (2004), sec. III-C."""


def ssim(a: Tensor, b: Tensor, *, peak: float = 1.0, window: int | None = None) -> Tensor:
    """The mean structural similarity (n,) of images a and b (n, C, H, W) with values from 0 to `peak`: 1 for equal images.

    In every window, weighted by a Gaussian of 1.5 pixels with weights that add to 1,

        SSIM = (2 mu_a mu_b + C1)(2 cov_ab + C2) / ((mu_a^2 + mu_b^2 + C1)(var_a + var_b + C2)),

    C1 = (0.01 peak)^2, C2 = (0.03 peak)^2, and its mean over all windows inside the image and over channels (Wang et al. 2004, eq. 13 to
    17). The window has 11 pixels a side, or as many (an odd number) as fit a smaller image.

    Raises `DataError` for images of different shapes.
    """
    if a.shape != b.shape or a.ndim != 4:
        raise DataError(f"SSIM compares images (n, C, H, W) of one shape, got {tuple(a.shape)} and {tuple(b.shape)}.")
    least = min(a.shape[2:])
    side = window or min(WINDOW, least if least % 2 else least - 1)
    if not 1 <= side <= least:
        raise DataError(f"A window of {side} pixels does not fit images of {tuple(a.shape[2:])}.")
    g = torch.exp(-0.5 * ((torch.arange(side, dtype=torch.float64) - (side - 1) / 2) / SIGMA) ** 2)
    kernel = torch.outer(g, g)[None, None] / g.sum() ** 2
    n, channels = a.shape[:2]
    a, b = (t.double().reshape(n * channels, 1, *a.shape[2:]) for t in (a, b))

    def mean(t: Tensor) -> Tensor:
        return torch.nn.functional.conv2d(t, kernel.to(t.device))

    mu_a, mu_b = mean(a), mean(b)
    var_a, var_b, cov = mean(a * a) - mu_a**2, mean(b * b) - mu_b**2, mean(a * b) - mu_a * mu_b
    c1, c2 = (K1 * peak) ** 2, (K2 * peak) ** 2
    found = (2 * mu_a * mu_b + c1) * (2 * cov + c2) / ((mu_a**2 + mu_b**2 + c1) * (var_a + var_b + c2))
    return found.flatten(1).mean(1).view(n, channels).mean(1)


def shifted(x: Tensor, pixels: int = 1) -> Tensor:
    """Images (n, C, H, W) moved left by some pixels; the last column is repeated on the right."""
    return torch.cat([x[..., pixels:], x[..., -1:].expand(*x.shape[:-1], pixels)], -1)


@dataclass(frozen=True)
class Closeness:
    """Mean distances of changed images from the originals, pixels from 0 to 1."""

    mse: float
    ssim: float
    features: float
    """Mean squared distance in a feature space."""


@dataclass(frozen=True)
class PixelShift:
    """Held-out images against themselves moved by a pixel, against their reconstructions, and against other images."""

    n: int
    space: str
    """The feature space's name."""
    shift: Closeness
    other: Closeness
    reconstruction: Closeness | None
    x: Tensor
    """Some images."""
    moved: Tensor
    """The same, one pixel to the left."""
    again: Tensor | None
    """Their reconstructions."""

    def share(self, name: str) -> float:
        """How far the shifted image counts as another image, by `mse`, `ssim` or `features`: 0 for the same, 1 for any other one."""
        a, b = getattr(self.shift, name), getattr(self.other, name)
        return (1 - a) / (1 - b) if name == "ssim" else a / b


def pixel_shift(lens: Lens, *, n: int = 500) -> PixelShift:
    """Every held-out image, one pixel to the left: by mean squared error, by SSIM, and in a network's features.

    Raises `DataError` for records that are no images, or fewer than 2.
    """
    spec = lens.data.spec
    if spec.kind != "image" or spec.shape[2] < 2:
        raise DataError(f"Only images have pixels to shift; these records are {spec.kind}.")
    x = lens.held.tensor()[:n]
    if len(x) < 2:
        raise DataError("The shift is compared with other images, and there is only one held-out image.")
    space = spaces(lens.data, which="random-conv")["random-conv"]
    support = spec.support
    if support is not None and support.name != "real":
        low, top = 0.0, float((support.size or 2) - 1)
    else:
        low, top = float(x.min()), float(x.max() - x.min())

    def unit(t: Tensor) -> Tensor:
        return ((t - low) / max(top, 1e-300)).clamp(0, 1)

    features = space.raw(x).double()  # unstandardised: filters that these records leave silent count for little, as they should here

    def close(y: Tensor) -> Closeness:
        a, b = unit(x.double()), unit(y.double())
        return Closeness(
            float((a - b).square().mean()), float(ssim(a, b).mean()), float((features - space.raw(y).double()).square().sum(1).mean())
        )

    again = None
    if all(type(lens.model).supports(v) for v in ("encode", "decode")):
        again = lens.decode(lens.z_held[:n], lens.conditions(range(len(x)))).x
    moved = shifted(x)
    return PixelShift(
        len(x),
        space.name,
        close(moved),
        close(x.roll(1, 0)),  # each against the one before it: records are in a seeded order
        None if again is None else close(again),
        x[:8],
        moved[:8],
        None if again is None else again[:8],
    )
