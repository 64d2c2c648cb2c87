"""Multilayer perceptrons, and what all networks share: activations and initial weights."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..errors import ConfigError, nearest

__all__ = ["MLP", "Activation", "activation_layer", "initialise", "norm_layers"]

Activation = Literal["relu", "leaky_relu", "elu", "silu", "gelu", "tanh", "softplus", "sigmoid"]

_LAYERS = {
    "relu": lambda: nn.ReLU(),
    "leaky_relu": lambda: nn.LeakyReLU(0.2),
    "elu": lambda: nn.ELU(),
    "silu": lambda: nn.SiLU(),
    "gelu": lambda: nn.GELU(),
    "tanh": lambda: nn.Tanh(),
    "softplus": lambda: nn.Softplus(),
    "sigmoid": lambda: nn.Sigmoid(),
}


def activation_layer(name: str, inplace: bool = False) -> nn.Module:
    """A fresh layer by name; `inplace` may overwrite what it is given, where it can. Raises `ConfigError` for an unknown one.

    That is right after a dense layer, a convolution or a norm, whose gradients do not need their output, where nothing else sees it.
    """
    if name not in _LAYERS:
        raise ConfigError(f"There is no activation {name!r}.{nearest(name, _LAYERS)}")
    layer = _LAYERS[name]()
    if inplace and isinstance(layer, (nn.ReLU, nn.LeakyReLU)):
        layer.inplace = True
    return layer


def norm_layers(name: str, channels: int, dims: Literal[1, 2]) -> list[nn.Module]:
    """Batch normalisation of vectors (1) or images (2) of so many channels, as a list of one layer, or of none for `none`.

    With it an output depends on the other records of its batch, and with several processes on those of one's own process only.
    Raises `ConfigError` for an unknown name.
    """
    if name not in ("none", "batch"):
        raise ConfigError(f"There is no normalisation {name!r}. Known: none, batch.")
    return [] if name == "none" else [(nn.BatchNorm1d if dims == 1 else nn.BatchNorm2d)(channels)]


def initialise(layers: Sequence[nn.Module], activation: str) -> None:
    """Weights that keep the variance of signals from layer to layer, biases zero; the last layer is linear.

    Hidden layers before a rectifier-like activation: var = 2 / fan_in (He et al. 2015: half of the signal is cut off). Before tanh, and in
    the last layer: var = 2 / (fan_in + fan_out) (Glorot & Bengio 2010, as in Burda et al. 2016). A strided convolution shows an input to
    k^2 / stride^2 windows, and a transposed one forms an output from as many: those are its fans.
    """
    for i, layer in enumerate(layers):
        weight, bias = layer.weight, layer.bias
        assert isinstance(weight, Tensor)
        fan_out, fan_in = weight.shape[:2]
        if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
            window, stride = math.prod(layer.kernel_size), math.prod(layer.stride)
            fan_in, fan_out = layer.in_channels * window, layer.out_channels * window
            if isinstance(layer, nn.ConvTranspose2d):
                fan_in /= stride
            else:
                fan_out /= stride
        smooth = activation in ("tanh", "sigmoid") or i == len(layers) - 1
        bound = math.sqrt(6.0 / (fan_in + fan_out if smooth else fan_in))
        nn.init.uniform_(weight, -bound, bound)
        if isinstance(bias, Tensor):
            nn.init.zeros_(bias)


class MLP(nn.Module):
    """Dense layers with an activation between them: R^in x R^condition -> R^out.

    `forward(x, c=None)`: x (B, *any) is flattened to (B, in_dim) and the condition c (B, condition_dim) is appended to it;
    returns (B, out_dim), or (B, *out_shape) when that is given. `hidden=()` is one linear map. `norm` as in `norm_layers`.
    """

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        hidden: Sequence[int] = (256, 256),
        condition_dim: int = 0,
        activation: str = "relu",
        out_shape: Sequence[int] | None = None,
        norm: str = "none",
    ):
        super().__init__()
        sizes = [in_dim + condition_dim, *hidden, out_dim]
        dense = [nn.Linear(a, b) for a, b in pairwise(sizes)]
        initialise(dense, activation)
        layers: list[nn.Module] = []
        for one in dense[:-1]:
            layers += [one, *norm_layers(norm, one.out_features, 1), activation_layer(activation, inplace=True)]
        self.layers = nn.Sequential(*layers, dense[-1])
        self.out_shape = None if out_shape is None else tuple(out_shape)

    def forward(self, x: Float[Tensor, "B *shape"], c: Float[Tensor, "B C"] | None = None) -> Float[Tensor, "B *out"]:
        if x.ndim > 2:
            x = x.flatten(1)
        h = self.layers(x if c is None else torch.cat([x, c], 1))
        return h if self.out_shape is None else h.view(len(h), *self.out_shape)
