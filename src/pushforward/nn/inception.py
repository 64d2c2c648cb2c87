"""Inception v3 as the Fréchet Inception Distance knows it, for weights that the user supplies. No weights are downloaded.

The network is that of Szegedy et al. (2016) as the 2015 graph of TensorFlow computes it, which is what every published FID was measured
with (Heusel et al. 2017); it differs from the later, better known one in three places: average pooling does not count its padding, the last
block pools by the maximum, and images are resized with corners that do not match (pixel i of n looks at i * old / n). Modules are named
like those of the published conversion `pt_inception-2015-12-05-6726825d.pth`, so that its tensors fit by name.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, max_pool2d, relu

__all__ = ["InceptionV3", "resize_like_tensorflow"]

SIDE = 299
WIDTH = 2048


def resize_like_tensorflow(x: Float[Tensor, "B C H W"], side: int = SIDE) -> Float[Tensor, "B C side side"]:
    """Bilinear resize to side x side, where output i reads position i * old / side: TensorFlow 1's `resize_bilinear`."""
    for axis in (3, 2):  # along rows first, as there, for the same rounding
        old = x.shape[axis]
        at = torch.arange(side, device=x.device, dtype=torch.float32) * (old / side)
        low = at.floor()
        share = (at - low).to(x.dtype).reshape((side, 1) if axis == 2 else (side,))
        first = low.long()
        a, b = x.index_select(axis, first), x.index_select(axis, (first + 1).clamp_max(old - 1))
        x = a + (b - a) * share
    return x


class _Conv(nn.Module):
    """Convolution without bias, batch normalisation with stored statistics, ReLU."""

    def __init__(self, fan_in: int, fan_out: int, kernel: int | tuple[int, int], stride: int = 1, padding: int | tuple[int, int] = 0):
        super().__init__()
        self.conv = nn.Conv2d(fan_in, fan_out, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(fan_out, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        return relu(self.bn(self.conv(x)))


def _around(x: Tensor) -> Tensor:
    """The mean of the 3 x 3 neighbourhood, over those pixels of it that exist."""
    return avg_pool2d(x, 3, 1, 1, count_include_pad=False)


class _A(nn.Module):
    """35 x 35: 1x1, 5x5, two 3x3, pooled; 64 + 64 + 96 + `pooled` channels."""

    def __init__(self, fan_in: int, pooled: int):
        super().__init__()
        self.branch1x1 = _Conv(fan_in, 64, 1)
        self.branch5x5_1, self.branch5x5_2 = _Conv(fan_in, 48, 1), _Conv(48, 64, 5, padding=2)
        self.branch3x3dbl_1, self.branch3x3dbl_2 = _Conv(fan_in, 64, 1), _Conv(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = _Conv(96, 96, 3, padding=1)
        self.branch_pool = _Conv(fan_in, pooled, 1)

    def forward(self, x: Tensor) -> Tensor:
        twice = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch1x1(x), self.branch5x5_2(self.branch5x5_1(x)), twice, self.branch_pool(_around(x))], 1)


class _B(nn.Module):
    """35 x 35 -> 17 x 17: 384 + 96 + 288 channels."""

    def __init__(self, fan_in: int):
        super().__init__()
        self.branch3x3 = _Conv(fan_in, 384, 3, 2)
        self.branch3x3dbl_1, self.branch3x3dbl_2 = _Conv(fan_in, 64, 1), _Conv(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = _Conv(96, 96, 3, 2)

    def forward(self, x: Tensor) -> Tensor:
        twice = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch3x3(x), twice, max_pool2d(x, 3, 2)], 1)


class _C(nn.Module):
    """17 x 17: convolutions of 7 in rows and columns, through `c` channels; 4 * 192 channels."""

    def __init__(self, c: int):
        super().__init__()
        row, column = ((1, 7), 1, (0, 3)), ((7, 1), 1, (3, 0))  # kernel, stride, padding
        self.branch1x1 = _Conv(768, 192, 1)
        self.branch7x7_1, self.branch7x7_2 = _Conv(768, c, 1), _Conv(c, c, *row)
        self.branch7x7_3 = _Conv(c, 192, *column)
        self.branch7x7dbl_1, self.branch7x7dbl_2 = _Conv(768, c, 1), _Conv(c, c, *column)
        self.branch7x7dbl_3, self.branch7x7dbl_4 = _Conv(c, c, *row), _Conv(c, c, *column)
        self.branch7x7dbl_5 = _Conv(c, 192, *row)
        self.branch_pool = _Conv(768, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        once = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        twice = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        twice = self.branch7x7dbl_5(self.branch7x7dbl_4(twice))
        return torch.cat([self.branch1x1(x), once, twice, self.branch_pool(_around(x))], 1)


class _D(nn.Module):
    """17 x 17 -> 8 x 8: 320 + 192 + 768 channels."""

    def __init__(self):
        super().__init__()
        self.branch3x3_1, self.branch3x3_2 = _Conv(768, 192, 1), _Conv(192, 320, 3, 2)
        self.branch7x7x3_1, self.branch7x7x3_2 = _Conv(768, 192, 1), _Conv(192, 192, (1, 7), padding=(0, 3))
        self.branch7x7x3_3, self.branch7x7x3_4 = _Conv(192, 192, (7, 1), padding=(3, 0)), _Conv(192, 192, 3, 2)

    def forward(self, x: Tensor) -> Tensor:
        seven = self.branch7x7x3_4(self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x))))
        return torch.cat([self.branch3x3_2(self.branch3x3_1(x)), seven, max_pool2d(x, 3, 2)], 1)


class _E(nn.Module):
    """8 x 8: 320 + 768 + 768 + 192 channels; the last block of the network pools by the maximum, the one before by the mean."""

    def __init__(self, fan_in: int, *, maximum: bool):
        super().__init__()
        self.maximum = maximum
        row, column = ((1, 3), 1, (0, 1)), ((3, 1), 1, (1, 0))  # kernel, stride, padding
        self.branch1x1 = _Conv(fan_in, 320, 1)
        self.branch3x3_1 = _Conv(fan_in, 384, 1)
        self.branch3x3_2a, self.branch3x3_2b = _Conv(384, 384, *row), _Conv(384, 384, *column)
        self.branch3x3dbl_1, self.branch3x3dbl_2 = _Conv(fan_in, 448, 1), _Conv(448, 384, 3, padding=1)
        self.branch3x3dbl_3a, self.branch3x3dbl_3b = _Conv(384, 384, *row), _Conv(384, 384, *column)
        self.branch_pool = _Conv(fan_in, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        once = self.branch3x3_1(x)
        twice = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        pooled = max_pool2d(x, 3, 1, 1) if self.maximum else _around(x)
        return torch.cat(
            [
                self.branch1x1(x),
                self.branch3x3_2a(once),
                self.branch3x3_2b(once),
                self.branch3x3dbl_3a(twice),
                self.branch3x3dbl_3b(twice),
                self.branch_pool(pooled),
            ],
            1,
        )


class InceptionV3(nn.Module):
    """RGB images with values 0 to 255, (B, 3, H, W) -> the 2,048 features of the last pooling layer, (B, 2048).

    Always in evaluation mode: batch normalisation uses the stored statistics.
    """

    def __init__(self):
        super().__init__()
        self.Conv2d_1a_3x3, self.Conv2d_2a_3x3 = _Conv(3, 32, 3, 2), _Conv(32, 32, 3)
        self.Conv2d_2b_3x3 = _Conv(32, 64, 3, padding=1)
        self.Conv2d_3b_1x1, self.Conv2d_4a_3x3 = _Conv(64, 80, 1), _Conv(80, 192, 3)
        self.Mixed_5b, self.Mixed_5c, self.Mixed_5d = _A(192, 32), _A(256, 64), _A(288, 64)
        self.Mixed_6a = _B(288)
        self.Mixed_6b, self.Mixed_6c, self.Mixed_6d, self.Mixed_6e = _C(128), _C(160), _C(160), _C(192)
        self.Mixed_7a = _D()
        self.Mixed_7b, self.Mixed_7c = _E(1280, maximum=False), _E(2048, maximum=True)
        self.eval()

    def forward(self, x: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 2048"]:
        x = (resize_like_tensorflow(x) - 128.0) / 128.0
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(max_pool2d(x, 3, 2)))
        x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(max_pool2d(x, 3, 2))))
        x = self.Mixed_6e(self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(x)))))
        x = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(x)))
        return x.mean((2, 3))
