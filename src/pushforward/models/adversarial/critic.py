"""The critic of a GAN: T(y | c), the value that is high on records and low on samples, for records of any kind."""

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from ...errors import ConfigError, DataError
from ...nn import MLP, ConvEncoder, ResidualEncoder, activation_layer

__all__ = ["Critic", "Waves"]

FEATURES = 128
"""Width of the last hidden layer of a projection critic."""


class Critic(nn.Module):
    """T(y | c), (b, *shape) -> (b,).

    The condition c (B, C) enters by one of three ways:

    - `input`: beside y, as an embedding (Mirza & Osindero 2014);
    - `projection`: T = w . h(y) + (V c) . h(y) (Miyato & Koyama 2018, equation 3), the form that log p(x | c) - log q(x | c) has where both
      classes are log-linear in h;
    - `auxiliary`: a second head says the class of y (Odena et al. 2017).

    With `pack` above 1 it judges so many records together, joined as channels or columns by `packed` (Lin et al. 2018): collapsed
    samples are easily told from records that way.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        *,
        network: str,
        hidden: tuple[int, ...],
        channels: int,
        fourier: int,
        condition_dim: int,
        conditioning: str,
        pack: int = 1,
        norm: str = "none",
        spectral: bool = False,
        own: nn.Module | None = None,
    ):
        super().__init__()
        if pack < 1:
            raise ConfigError(f"pack must be at least 1, got {pack}.")
        if pack > 1 and condition_dim and conditioning != "input":
            raise ConfigError(f"conditioning={conditioning!r} judges one record at a time. Take pack=1, or conditioning='input'.")
        self.pack, self.conditioning, self.condition_dim = pack, conditioning, condition_dim
        self.shape = (shape[0] * pack, *shape[1:])
        inside = condition_dim * pack if conditioning == "input" else 0
        out = {"projection": FEATURES if condition_dim else 1, "auxiliary": 1 + condition_dim}.get(conditioning, 1)
        act = "leaky_relu"
        self.waves: Waves | None = None
        self.conv = network != "mlp"
        if own is not None:
            self.net = own
        elif self.conv:
            kind = ResidualEncoder if network == "residual" else ConvEncoder
            # Channels last throughout: 0.88 of a step's time on 64 colour images of 32x32, as quick on grey ones (one CPU core).
            net = kind(self.shape, out, channels, inside, act, norm)
            self.net = net.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        else:
            self.waves = Waves(math.prod(self.shape), fourier)
            self.net = MLP(self.waves.dim, out, hidden, inside, act, norm=norm)
            reset_biases(self.net)
        if out == FEATURES:
            self.end, self.head = activation_layer(act), nn.Linear(FEATURES, 1)
            self.embed = nn.Linear(condition_dim, FEATURES, bias=False)
        if spectral:
            for layer in list(self.modules()):
                if isinstance(layer, (nn.Linear, nn.Conv2d)):
                    spectral_norm(layer)

    def forward(
        self, y: Float[Tensor, "b *packed"], c: Float[Tensor, "b C"] | None = None, named: bool = False
    ) -> Float[Tensor, " b"] | tuple[Float[Tensor, " b"], Float[Tensor, "b C"]]:
        """T of records that are packed already; with `named` also the logits of each class, of an auxiliary critic."""
        seen: Any = c if self.conditioning == "input" else None
        if self.waves is not None:
            out = self.net(self.waves(y.flatten(1)), seen)
        elif self.conv:
            out = self.net(y.contiguous(memory_format=torch.channels_last), seen)
        else:
            out = self.net(y) if seen is None else self.net(y, seen)
        if named:
            return out[:, 0], out[:, 1:]
        if c is None or self.conditioning != "projection":
            return out.reshape(len(out), -1)[:, 0]
        h = self.end(out)
        return self.head(h)[:, 0] + (self.embed(c) * h).sum(1)

    def packed(self, y: Tensor) -> Tensor:
        """(B, a, ...) -> (B / pack, pack a, ...); a rest that fills no pack is left out."""
        if self.pack == 1:
            return y
        n = len(y) // self.pack
        if not n:
            raise DataError(f"A batch of {len(y)} records fills no pack of {self.pack}. Give a larger batch_size.")
        return y[: n * self.pack].reshape(n, self.pack * y.shape[1], *y.shape[2:])


def reset_biases(net: nn.Module) -> None:
    """Biases that spread the kinks over the inputs: with zero ones all start at the origin."""
    for layer in net.modules():
        if isinstance(layer, nn.Linear):
            layer.reset_parameters()


class Waves(nn.Module):
    """x beside n/2 sines and cosines of random projections at frequencies 1, 4, 16 and 64, (B, D) -> (B, D + n).

    Frequencies are in radians per standard deviation of the records: the highest sees structure a hundredth of the data's own size.
    """

    frequencies: Tensor

    def __init__(self, dim: int, n: int):
        super().__init__()
        octave = 4.0 ** torch.arange(n // 2).remainder(4)
        self.register_buffer("frequencies", torch.randn(dim, n // 2) * octave * math.sqrt(2 / dim))
        self.dim = dim + n // 2 * 2

    def forward(self, x: Tensor) -> Tensor:
        phase = x @ self.frequencies
        return torch.cat([x, phase.sin(), phase.cos()], 1) if phase.shape[1] else x
