"""The critic of a GAN: T(y | c), the value that is high on records and low on samples, and what it minimises in a game with penalties."""

import math
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from ...errors import ConfigError, DataError
from ...games import Game
from ...nn import MLP, ConvEncoder, ResidualEncoder, activation_layer
from ...nn.layout import laid_out
from ...penalties import dragan, interpolated, roth, squared_gradient
from ...rng import Rng
from ...train import Loss

__all__ = ["Annealing", "Critic", "Waves", "judged", "remaining", "weights"]

Annealing = Literal["geometric", "cosine"]

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
        if conditioning not in ("input", "projection", "auxiliary"):
            raise ConfigError(f"conditioning={conditioning!r} is not known. Choose 'input', 'projection' or 'auxiliary'.")
        if pack > 1 and condition_dim and conditioning != "input":
            raise ConfigError(f"conditioning={conditioning!r} judges one record at a time. Take pack=1, or conditioning='input'.")
        if own is not None and condition_dim and conditioning == "projection":
            raise ConfigError("conditioning='projection' needs the last hidden layer, which a critic of your own keeps. Take 'input'.")
        self.pack, self.conditioning = pack, conditioning
        self.shape = (shape[0] * pack, *shape[1:])
        inside = condition_dim * pack if conditioning == "input" else 0
        out = {"projection": FEATURES if condition_dim else 1, "auxiliary": 1 + condition_dim}.get(conditioning, 1)
        act = "leaky_relu"
        self.waves: Waves | None = None
        self.conv = own is None and network != "mlp"
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
            out = self.net(self.waves(y if y.ndim == 2 else y.flatten(1)), seen)
        elif self.conv:
            out = self.net(laid_out(y).contiguous(memory_format=torch.channels_last), seen)
        else:
            out = self.net(y) if seen is None else self.net(y, seen)
        if named:
            return out[:, 0], out[:, 1:]
        if c is None or self.conditioning != "projection":
            return out.flatten() if out.numel() == len(out) else out.reshape(len(out), -1)[:, 0]
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


def weights(
    loss: str,
    given: tuple[float | None, float | None, float | None],
    remains: float,
    *,
    bounded: bool = False,
    usual: float = 3.0,
) -> tuple[float, float, float]:
    """(gradient_penalty, r1, r2) where so much `remains` of the zero-centred two.

    None stands for what goes with the loss: 10, 0, 0 for the Wasserstein loss, whose penalty is 0 too where the critic's slope is `bounded`
    by other means, and 0 and twice the `usual` weight for all others.
    """
    defaults = (0.0 if bounded else 10.0, 0.0, 0.0) if loss == "wasserstein" else (0.0, usual, usual)
    gp, r1, r2 = (default if one is None else one for one, default in zip(given, defaults, strict=True))
    return gp, r1 * remains, r2 * remains


def remaining(annealing: Annealing, anneal: float, progress: float) -> float:
    """The share of a weight that is left at this share of the budget; `anneal` at the end.

    It falls geometrically over the first four fifths, or along half a cosine, as the learning rate does, until `anneal` is reached.
    """
    if annealing == "geometric":
        return anneal ** min(1.0, progress / 0.8)
    return max(anneal, 0.5 * (1 + math.cos(math.pi * progress)))


def judged(
    game: Game,
    critic: nn.Module,
    x: Float[Tensor, "B *features"],
    y: Float[Tensor, "B *features"],
    c: Float[Tensor, "B C"] | None,
    rng: Rng,
    *,
    gradient_penalty: float = 0.0,
    one_sided: bool = False,
    r1: float = 0.0,
    r2: float = 0.0,
    noise: float = 0.0,
    shaken: float = 0.0,
    classes: bool = False,
    apart: bool = False,
) -> Loss:
    """What a critic minimises where its records are x and its samples y: the game's loss and the penalties that have a weight.

    `noise` is the weight of Roth's regulariser, `shaken` that of DRAGAN; with `classes` the critic names the classes of both, too.
    `apart` shows it records and samples in a pass each: batch normalisation would else see a mixture that the generator's step never has.
    """
    both = torch.cat([x, y])
    if (r1 > 0 or r2 > 0 or noise > 0) and not both.requires_grad:
        both.requires_grad_()
    cc = None if c is None else torch.cat([c, c])

    def told(u: Tensor, c: Tensor | None) -> tuple[Tensor, Tensor | None]:
        return critic(u, c, True) if classes else (critic(u, c), None)

    if apart:
        (real, named_real), (fake, named_fake) = told(both[: len(x)], c), told(both[len(x) :], c)
        scores = torch.cat([real, fake])
        named = None if named_real is None or named_fake is None else torch.cat([named_real, named_fake])
    else:
        scores, named = told(both, cc)
    real, fake = scores.chunk(2)
    loss = game.critic(real, fake)
    p = game.probabilities(real.detach(), fake.detach())
    terms = {"critic": loss} | ({"W1": real - fake} if p is None else {"D(real)": p[0], "D(fake)": p[1]})
    penalties: dict[str, Tensor] = {}
    if r1 > 0 or r2 > 0:
        on_real, on_fake = squared_gradient(scores, both).chunk(2)
        penalties |= {"r1": r1 / 2 * on_real, "r2": r2 / 2 * on_fake}
    if noise > 0:
        penalties["roth"] = noise / 2 * roth(scores, both)
    if gradient_penalty > 0:
        penalties["gradient penalty"] = gradient_penalty * interpolated(lambda u: critic(u, c), x, y, rng, one_sided=one_sided)
    if shaken > 0:
        penalties["dragan"] = shaken * dragan(lambda u: critic(u, c), x, rng)
    if named is not None:
        assert cc is not None
        penalties["class"] = cross_entropy(named, cc).reshape(2, -1).sum(0)
    for penalty in penalties.values():
        loss = loss + penalty
    return Loss(loss, {k: v.detach() for k, v in (terms | penalties).items()})


def cross_entropy(logits: Float[Tensor, "B C"], c: Float[Tensor, "B C"]) -> Float[Tensor, " B"]:
    """-sum_k c_k log softmax(logits)_k."""
    return -(c * logits.log_softmax(1)).sum(1)


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
