"""Networks that turn records into features: none at all, a random one, and one to be trained. No normalisation, no dropout."""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, avg_pool2d, pad, relu

from .conv import ConvEncoder, stages

__all__ = ["Flat", "FeatureEncoder", "RandomConv", "shrunk"]


def shrunk(shape: Sequence[int], most: int) -> tuple[int, int, int]:
    """(C, H, W) after averaging over squares of f x f pixels, f the smallest that leaves neither side longer than `most`."""
    depth, height, width = shape
    f = math.ceil(max(height, width) / most)
    return depth, math.ceil(height / f), math.ceil(width / f)


class Flat(nn.Module):
    """Records as flat vectors, (B, *shape) -> (B, d); images with a side longer than `most` are averaged down to it first."""

    def __init__(self, most: int | None = None):
        super().__init__()
        self.most = most

    def forward(self, x: Float[Tensor, "B *shape"]) -> Float[Tensor, "B d"]:
        return _shrink(x, self.most).flatten(1)


class RandomConv(nn.Module):
    """Fixed random filters at several scales, (B, C, H, W) -> (B, d) for any C, H and W.

    At each scale of a pyramid (halved until a side is under 4): 3 x 3 convolution, ReLU, then the mean of each channel in each quarter of
    the image. Filters are orthogonal to one another where there is room (Saxe et al. 2011 found random convolutions with pooling to be
    selective; Naeem et al. 2020 recommend random features where ImageNet's do not fit). They come in pairs of opposite sign, so that ReLU
    loses nothing, and sum to zero beyond the first scale, where all inputs are positive: otherwise half of them would always be silent.
    """

    def __init__(self, shape: Sequence[int], channels: int = 32, generator: torch.Generator | None = None):
        super().__init__()
        depth, height, width = shape
        self.scales = len(stages(height, width))
        kernels = []
        for scale in range(self.scales):
            fan = 9 * depth
            rows = torch.randn(channels // 2, fan, generator=generator)
            rows = rows - rows.mean(1, keepdim=True) if scale else rows
            if channels // 2 <= fan:
                rows = torch.linalg.qr(rows.T).Q.T * math.sqrt(2.0)
            else:
                rows = rows * math.sqrt(2.0 / fan)
            kernels.append(nn.Parameter(torch.cat([rows, -rows]).reshape(channels, depth, 3, 3), requires_grad=False))
            depth = channels
        self.kernels = nn.ParameterList(kernels)
        self.grid = (min(2, height), min(2, width))

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B d"]:
        found = []
        for i, kernel in enumerate(self.kernels):
            # Edges are repeated: zeros would add an edge that no record has.
            x = relu(nn.functional.conv2d(pad(x, (1, 1, 1, 1), mode="replicate"), kernel))
            found.append(adaptive_avg_pool2d(x, self.grid).flatten(1))
            if i + 1 < len(self.kernels):
                x = avg_pool2d(x, 2)
        return torch.cat(found, 1)


class FeatureEncoder(nn.Module):
    """A small convolutional network whose last hidden layer is the feature vector.

    `features`: (B, C, H, W) -> (B, width). Two heads are trained on it: `head`, (B, width) -> (B, outputs), logits of classes or (for
    contrast) a projection; and `damage`, (B, width) -> (B, damages), logits of what was done to a record. With the `mlp` head, for
    contrast, features have the length width^(1/2): what is learnt there is a direction.
    """

    def __init__(
        self,
        shape: Sequence[int],
        outputs: int,
        damages: int,
        width: int = 64,
        channels: int = 16,
        head: Literal["linear", "mlp"] = "linear",
        most: int = 64,
    ):
        super().__init__()
        self.most, self.unit = most, head == "mlp"
        self.trunk = ConvEncoder(shrunk(shape, most), width, channels)
        deep = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, outputs))
        self.head = nn.Linear(width, outputs) if head == "linear" else deep
        self.damage = nn.Linear(width, damages)

    def features(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B width"]:
        f = relu(self.trunk(_shrink(x, self.most)))
        return nn.functional.normalize(f, dim=1) * math.sqrt(f.shape[1]) if self.unit else f

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B outputs"]:
        return self.head(self.features(x))


def _shrink(x: Tensor, most: int | None) -> Tensor:
    if most is None or x.ndim != 4 or max(x.shape[2:]) <= most:
        return x
    return avg_pool2d(x, math.ceil(max(x.shape[2:]) / most), ceil_mode=True)
