r"""Bidirectional GANs: a generator and an encoder that a critic of pairs cannot tell apart.

A generator G: z -> x with z ~ p(z) and an encoder E: x -> z make pairs of a record and a code, in two ways, and a critic T(x, z) judges
which way a pair was made (Donahue et al. 2017, eq. 3; Dumoulin et al. 2017, eq. 2), D = sigmoid(T):

    critic                  max_T     V(T, E, G) = E_x log D(x, E(x)) + E_z log(1 - D(G(z), z))
    encoder and generator   min_E,G   V, or a loss with the same fixed point and a better slope

With p_E the law of (x, E(x)) and p_G that of (G(z), z) the best critic is T* = log p_E - log p_G, where

    V(T*, E, G) = -log 4 + 2 JSD(p_E, p_G)                                                     (Donahue et al. 2017, theorem 1).

It is least where the two laws are one. Then G(z) follows the data, E(x) the prior, and for deterministic maps E = G^{-1} almost everywhere
(theorem 2): the encoder inverts the generator though nothing asked for a reconstruction. Where E does not, pairs of real numbers lie on two
different surfaces, JSD = log 2, and only the critic's limits leave the game a slope.

The losses and penalties are `games`' and `penalties`', of pairs taken as one vector; the encoder and the generator minimise the critic's
own loss with the labels swapped, which Donahue et al. call the inverse objective (section 3.4), or in a zero-sum game its negative.
"""

from collections.abc import Iterator
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ...ais import Joint, standard_normal
from ...data.features import Features, categorical_pixels
from ...data.spec import DataSpec
from ...errors import ConfigError
from ...games import Game, LossName
from ...known import Known
from ...model import GradientModel
from ...nn import MLP, activation_layer, decoder_for, encoder_for, network_for
from ...observation import GaussianObservation
from ...rng import Rng
from ...train import Batch, Loss, Objective, Training
from .critic import Critic, judged, remaining, weights

__all__ = ["BiGAN"]

JUDGED = 256
"""Numbers that a convolutional critic sums up a record in before it sees the code."""


class BiGAN(GradientModel):
    """A GAN with an encoder that is trained in the same game.

    It samples and encodes in one pass each and defines no density. Records are seen as real features (see `Features`), and generated ones
    are rounded on their way to the critic, as in `GAN`.

    Parameters
    ----------
    loss
        The game; see `pushforward.games`.
    relativistic
        Whether the critic judges the difference of a pair of either kind (Jolicoeur-Martineau 2018).
    critic_steps
        Steps of the critic for each of the encoder and generator.
    latent_dim
        Dimensions of z; None takes 2 for points and 50 otherwise (Donahue et al. 2017, section 4.1).
    posterior
        E is a function of x (`deterministic`), or a Gaussian with a diagonal covariance (`gaussian`, Dumoulin et al. 2017), of which
        `encode` gives the mean.
    reconstruction
        Weight of |f(x) - G(E(x))|^2 / D, f the D features of a record, in what the encoder and generator minimise; the game alone leaves
        reconstructions free where the critic is blind (Li et al. 2017, section 3.3).
    network
        `mlp`, `conv`, or `auto`: convolutional for images of 16 pixels and more on each side.
    hidden
        Widths of the hidden layers of the encoder and, in reverse, of the generator (MLP).
    critic_hidden
        Widths of the critic's hidden layers, of those after the convolutions where there are any.
    channels
        Channels at full size of the convolutional networks.
    fourier
        Random Fourier features that an MLP critic sees beside the pair; see `GAN`.
    gradient_penalty
        Weight of the Wasserstein gradient penalty; None takes 10 for that loss and 0 for the others.
    r1, r2
        Weights at the start of the zero-centred penalties on pairs of either kind; None takes 3, and 0 for the Wasserstein loss.
    anneal
        The factor by which `r1` and `r2` fall geometrically over the first four fifths of training.
    rounding
        `straight-through` shows the critic rounded records; `soft` shows it the generator's raw features.

    Notes
    -----
    Terms reported: `critic` and `generator` (of encoder and generator), their losses; `D(real)` and `D(fake)`, the probabilities that the
    critic gives to pairs of being a record with its code, or `W1` for the Wasserstein loss; `reconstruction` and each penalty with its
    weight.

    References
    ----------
    Donahue, Krähenbühl & Darrell 2017, "Adversarial Feature Learning"; Dumoulin et al. 2017, "Adversarially Learned Inference"; Li et al.
    2017, "ALICE: Towards Understanding Adversarial Learning for Joint Distribution Matching".
    """

    name = "bigan"
    density = "none"
    training = Training(lr=2e-3, betas=(0.0, 0.99), batch_size=256, ema=0.999, schedule="cosine")
    unsupported = {
        "log_prob": "a BiGAN defines no density. Compare samples with evaluate(), score it under an observation noise with evidence(), "
        "or fit a vae or a realnvp.",
        "posterior": "its encoder matches the pairs of a game, and bounds no p(z | x). Use encode(), or fit a vae.",
        "likelihood": "its generator is deterministic, so p(x | z) is a point mass. Use decode(z), or fit a vae.",
    }

    def __init__(
        self,
        *,
        loss: LossName | str = "non-saturating",
        relativistic: bool = True,
        critic_steps: int = 1,
        latent_dim: int | None = None,
        posterior: Literal["deterministic", "gaussian"] = "deterministic",
        reconstruction: float = 0.0,
        network: Literal["auto", "mlp", "conv"] = "auto",
        hidden: tuple[int, ...] = (128, 128, 128),
        critic_hidden: tuple[int, ...] = (128, 128),
        channels: int = 32,
        fourier: int | None = None,
        gradient_penalty: float | None = None,
        r1: float | None = None,
        r2: float | None = None,
        anneal: float = 0.01,
        rounding: Literal["straight-through", "soft"] = "straight-through",
    ):
        super().__init__()
        self.loss, self.relativistic, self.critic_steps = loss, relativistic, critic_steps
        self.latent_dim, self.posterior_, self.reconstruction = latent_dim, posterior, reconstruction
        self.network, self.hidden, self.critic_hidden, self.channels, self.fourier = network, hidden, critic_hidden, channels, fourier
        self.gradient_penalty, self.r1, self.r2, self.anneal, self.rounding = gradient_penalty, r1, r2, anneal, rounding

    @classmethod
    def accepts(cls, spec: DataSpec) -> str | None:
        return categorical_pixels(cls.__name__, spec)

    def _build(self, spec: DataSpec) -> None:
        if self.posterior_ not in ("deterministic", "gaussian"):
            raise ConfigError(f"posterior={self.posterior_!r} is not known. Choose 'deterministic' or 'gaussian'.")
        if self.latent_dim is not None and self.latent_dim < 1:
            raise ConfigError(f"latent_dim must be at least 1, got {self.latent_dim}.")
        if not self.reconstruction >= 0:
            raise ConfigError(f"reconstruction is a weight: it must be at least 0, got {self.reconstruction}.")
        self.game, self._features = Game(self.loss, self.relativistic), Features(spec)
        self._z = self.latent_dim or (2 if spec.kind == "points" else 50)
        shape, network = self._features.shape, network_for(self._features.shape, self.network)
        net: dict[str, Any] = {
            "channels": self.channels,
            "condition_dim": spec.condition_dim,
            "activation": "leaky_relu",
            "network": network,
        }
        self.generator_net = decoder_for(self._z, shape, hidden=self.hidden[::-1], **net)
        self.encoder = encoder_for(shape, self._z * (1 + (self.posterior_ == "gaussian")), hidden=self.hidden, **net)
        waves = (128 if spec.kind == "points" else 0) if self.fourier is None else self.fourier
        own = _ConvPairs(shape, self._z, self.critic_hidden, self.channels, spec.condition_dim) if network == "conv" else None
        self.critic_net = Critic(
            (self._features.dim + self._z,),
            network="mlp",
            hidden=self.critic_hidden,
            channels=self.channels,
            fourier=waves,
            condition_dim=spec.condition_dim,
            conditioning="input",
            own=own,
        )

    # -- the two maps -------------------------------------------------------------------------------------------------

    def noise_like(self, n: int, rng: Rng) -> Float[Tensor, "n d"]:
        """z ~ N(0, I)."""
        return rng.randn(n, self._z)

    def generate(self, z: Float[Tensor, "B d"], c: Float[Tensor, "B C"] | None) -> Float[Tensor, "B *features"]:
        """G(z | c): features inside the range of their support."""
        return self._features.squash(self.generator_net(z, c).reshape(len(z), *self._features.shape))

    def code(self, f: Float[Tensor, "B *features"], c: Float[Tensor, "B C"] | None, rng: Rng | None) -> Float[Tensor, "B d"]:
        """E(x | c) of the features of records: a draw of q(z | x), or its mean without `rng`."""
        h = self.encoder(f, c)
        if self.posterior_ == "deterministic":
            return h
        mu, log_var = h.chunk(2, 1)
        return mu if rng is None else mu + torch.exp(0.5 * log_var) * rng.randn(*mu.shape)

    def _pairs(self, batch: Batch) -> tuple[Float[Tensor, "B both"], Float[Tensor, "B both"]]:
        """(f(x), E(x)) and (G(z), z), each as one vector."""
        f = self._features.encode(batch.x)
        e, z = self.code(f, batch.c, batch.rng), self.noise_like(len(batch), batch.rng)
        y = self.generate(z, batch.c)
        y = y if self.rounding == "soft" else self._features.rounded(y)
        return torch.cat([f.flatten(1), e], 1), torch.cat([y.flatten(1), z], 1)

    # -- the two objectives -------------------------------------------------------------------------------------------

    def _objectives(self) -> tuple[Objective, ...]:
        return (
            Objective("critic", (self.critic_net,), self._critic_loss, steps=self.critic_steps, validate=False),
            Objective("encoder and generator", (self.encoder, self.generator_net), self._generator_loss, validate=False),
        )

    def _weights(self, progress: float) -> tuple[float, float, float]:
        """(gradient_penalty, r1, r2) at this share of the budget."""
        return weights(self.loss, (self.gradient_penalty, self.r1, self.r2), remaining("geometric", self.anneal, progress))

    def _critic_loss(self, batch: Batch) -> Loss:
        with torch.no_grad():
            x, y = self._pairs(batch)
        gp, r1, r2 = self._weights(batch.progress)
        return judged(self.game, self.critic_net, x, y, batch.c, batch.rng, gradient_penalty=gp, r1=r1, r2=r2)

    def _generator_loss(self, batch: Batch) -> Loss:
        x, y = self._pairs(batch)
        real, fake = self.critic_net(x, batch.c), self.critic_net(y, batch.c)
        # Both kinds of pair move: the encoder's in `real`, the generator's in `fake`.
        loss = -self.game.critic(real, fake) if self.game.rule.zero_sum else self.game.critic(fake, real)
        terms = {"generator": loss}
        if self.reconstruction:
            f, e = x[:, : self._features.dim], x[:, self._features.dim :]
            terms["reconstruction"] = self.reconstruction * (self.generate(e, batch.c).flatten(1) - f).square().mean(1)
            loss = loss + terms["reconstruction"]
        return Loss(loss, {k: v.detach() for k, v in terms.items()})

    # -- the verbs ----------------------------------------------------------------------------------------------------

    def _sample(self, n: int, c: Tensor | None, rng: Rng) -> Tensor:
        return self._decode(self.noise_like(n, rng), c)

    def _encode(self, x: Tensor, c: Tensor | None) -> Tensor:
        return self.code(self._features.encode(x), c, None)

    def _decode(self, z: Tensor, c: Tensor | None) -> Tensor:
        return self._features.decode(self.generate(z, c))

    def _joint(self, *, noise: float) -> Joint:
        """G(z) seen through Gaussian noise; see `observation`."""
        seen = GaussianObservation(self._features.spec, noise)
        return Joint(
            sample_prior=lambda n, c, rng: self.noise_like(n, rng),
            log_prior=standard_normal,
            simulate=lambda z, c, rng: seen.sample(self.generate(z, c), rng),
            log_likelihood=lambda x, z, c: seen.log_prob(x, self.generate(z, c)),
        )


class _ConvPairs(nn.Module):
    """T of an image and a code: convolutions over the image, then dense layers over what they found and the code."""

    def __init__(self, shape: tuple[int, ...], z: int, hidden: tuple[int, ...], channels: int, condition_dim: int):
        super().__init__()
        self.shape, self.at = shape, -z
        self.seen = encoder_for(shape, JUDGED, channels=channels, condition_dim=condition_dim, activation="leaky_relu", network="conv").to(
            memory_format=torch.channels_last
        )  # pyright: ignore[reportCallIssue]
        self.between, self.net = activation_layer("leaky_relu"), MLP(JUDGED + z, 1, hidden, condition_dim, "leaky_relu")

    def forward(self, u: Float[Tensor, "B both"], c: Float[Tensor, "B C"] | None = None) -> Float[Tensor, "B 1"]:
        image = u[:, : self.at].unflatten(1, self.shape).contiguous(memory_format=torch.channels_last)
        return self.net(torch.cat([self.between(self.seen(image, c)), u[:, self.at :]], 1), c)


def known_answers() -> Iterator[Known]:
    """The game's value on pairs at the best critic, the critic that training finds, and what an encoder that inverts leaves of the game."""
    from .bigan_answers import answers

    yield from answers()
