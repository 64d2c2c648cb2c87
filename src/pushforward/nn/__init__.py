"""Networks: no probability here. `encoder_for` and `decoder_for` are the only defaults.

Every network is called as `net(x, c)` with an optional condition c (B, condition_dim). None uses dropout, nor batch statistics unless
asked to: a record's output depends on that record alone, so that two processes compute what one does.
"""

import math
from collections.abc import Sequence
from typing import Literal

from torch import nn

from ..errors import ConfigError
from .conv import ConvDecoder, ConvEncoder
from .mlp import MLP, Activation, activation_layer, initialise, norm_layers
from .residual import ResidualConv, ResidualDecoder, ResidualEncoder

__all__ = [
    "MLP",
    "Activation",
    "ConvDecoder",
    "ConvEncoder",
    "Network",
    "ResidualConv",
    "ResidualDecoder",
    "ResidualEncoder",
    "activation_layer",
    "decoder_for",
    "encoder_for",
    "initialise",
    "network_for",
    "norm_layers",
]

Network = Literal["auto", "mlp", "conv"]


def network_for(shape: Sequence[int], network: str = "auto") -> Literal["mlp", "conv"]:
    """What `network` means for records of this shape: `auto` takes convolutions for images of at least 16 x 16, else an MLP.

    Raises `ConfigError` for convolutions over anything but images.
    """
    image = len(shape) == 3
    if network == "conv" and not image:
        raise ConfigError(f"network='conv' needs images (C, H, W); these records have shape {tuple(shape)}. Use network='mlp' or 'auto'.")
    if network not in ("auto", "mlp", "conv"):
        raise ConfigError(f"There is no network {network!r}. Known: auto, conv, mlp.")
    if network == "auto":
        return "conv" if image and min(shape[1:]) >= 16 else "mlp"
    return "conv" if network == "conv" else "mlp"


def encoder_for(
    shape: Sequence[int],
    out_dim: int,
    *,
    hidden: Sequence[int] = (256, 256),
    channels: int = 32,
    condition_dim: int = 0,
    activation: str = "relu",
    network: str = "auto",
) -> nn.Module:
    """A network (B, *shape) -> (B, out_dim): for encoders, critics and classifiers.

    `hidden` are an MLP's layers, `channels` the width of a convolutional net's first layer; the other is ignored.
    """
    if network_for(shape, network) == "conv":
        return ConvEncoder(shape, out_dim, channels, condition_dim, activation)
    return MLP(math.prod(shape), out_dim, hidden, condition_dim, activation)


def decoder_for(
    in_dim: int,
    shape: Sequence[int],
    *,
    params: int | None = None,
    hidden: Sequence[int] = (256, 256),
    channels: int = 32,
    condition_dim: int = 0,
    activation: str = "relu",
    network: str = "auto",
) -> nn.Module:
    """A network (B, in_dim) -> (B, *shape), or (B, *shape, params) with `params` numbers for each entry: for decoders and generators."""
    if network_for(shape, network) == "conv":
        return ConvDecoder(in_dim, shape, channels, condition_dim, activation, params)
    out_shape = tuple(shape) if params is None else (*shape, params)
    flat = len(out_shape) == 1
    return MLP(in_dim, math.prod(out_shape), hidden, condition_dim, activation, None if flat else out_shape)
