"""Generative adversarial networks: a generator that pushes noise forward, and a critic that tells its records from yours.

With noise z ~ p(z), a generator G and a critic T, the players of the original game are, D = sigmoid(T),

    critic      max_T  V(T, G) = E_x log D(x) + E_z log(1 - D(G(z)))          (Goodfellow et al. 2014, eq. 1)
    generator   min_G  V, or a loss with the same fixed point and a better slope

For a fixed G the best critic is T* = log p(x) - log p_G(x), and V(T*, G) = -log 4 + 2 JSD(p, p_G). The losses are parts (`games`), and so
are the penalties on the critic's slope that make the game converge (`penalties`):

    gradient_penalty * (|g(u)| - 1)^2,  u between x and G(z)                  (Gulrajani et al. 2017; one-sided: Petzka et al. 2018)
    r1/2 * |g(x)|^2  and  r2/2 * |g(G(z))|^2                                  (Mescheder et al. 2018)
    roth/2 * ((1 - D(x))^2 |g(x)|^2 + D(G(z))^2 |g(G(z))|^2)                  (Roth et al. 2017)
    dragan * (|g(x + delta)| - 1)^2                                           (Kodali et al. 2017)

with g = dT/dx. Weights can be clipped (Arjovsky et al. 2017) or normalised by their spectral norms (Miyato et al. 2018) instead.
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
from ...nn import MLP, ConvDecoder, ResidualDecoder, network_for
from ...observation import GaussianObservation
from ...rng import Rng
from ...train import Batch, Loss, Objective, Training
from .critic import Annealing, Critic, cross_entropy, judged, remaining, reset_biases, weights
from .unrolled import unrolled

__all__ = ["GAN"]


class GAN(GradientModel):
    """A generative adversarial network with the usual losses and penalties.

    It samples in one pass and defines no density. Records of any kind are seen by both players as real features (see `Features`):
    numbers as they are, levels and bits in [-1, 1], categories one-hot. The generator's outputs are rounded to the nearest record
    on their way to the critic, with the gradient passed straight through, so that the critic judges what `sample` would return.

    Parameters
    ----------
    loss
        The game; see `pushforward.games`, which also says how to add one.
    relativistic
        Whether the critic judges the difference of a record and a sample (Jolicoeur-Martineau 2018; Huang et al. 2024).
    critic_steps
        Steps of the critic for each of the generator (Goodfellow et al. 2014 use 1, Gulrajani et al. 2017 use 5).
    reuse
        Whether the generator is trained on the samples that the critic has just judged, beside the records that it judged them with, as
        loops by hand are, or on fresh ones. It saves one pass of the generator a round.
    noise_dim
        Dimensions of z; None takes 2 for points and 64 otherwise.
    noise
        Distribution of each entry of z: standard normal, or uniform on [-1, 1].
    network
        `mlp`, `conv` (DCGAN: Radford et al. 2016), `residual` (Gulrajani et al. 2017), or `auto`: convolutional for images of 16 pixels
        and more on each side.
    hidden
        Widths of the generator's hidden layers (MLP); None takes five of 128 for points and three otherwise. What a generator leaves
        between separate clusters is where it is not steep enough: 24,000 rounds on eight of them leave 5.8 % beyond 3 sd with three layers
        and 3.7 % with five.
    critic_hidden
        Widths of the critic's hidden layers (MLP).
    channels
        Channels at full size of the convolutional networks; they double at each halving (Radford et al. 2016).
    norm
        Batch normalisation in the `generator`, in `both` players (as DCGAN has it), or `none`.
    spectral
        Whether the critic's layers are divided by their spectral norms (Miyato et al. 2018).
    fourier
        Random Fourier features that an MLP critic sees beside x; None takes 256 for points and 0 otherwise. Without them a critic
        learns the fine structure of points last (Tancik et al. 2020); on 8x8 digits they spoil the samples (density 0.63 against 0.89).
    conditioning
        How a condition reaches the critic: as an `input`, by a `projection` (Miyato & Koyama 2018), or by an `auxiliary` classifier that
        both players serve (Odena et al. 2017; for classes). The generator has it as an input beside z.
    pack
        Records that the critic judges together (PacGAN, Lin et al. 2018, who use 2 to 4).
    unroll
        Gradient steps of the critic that the generator looks ahead and differentiates through (Metz et al. 2017 use 5 to 10).
    unroll_lr
        Length of those steps.
    gradient_penalty
        Weight of the Wasserstein gradient penalty; None takes 10 for that loss, unless it is clipped or spectrally normalised, and 0
        for the others (Gulrajani et al. 2017).
    one_sided
        Whether that penalty lets slopes below 1 be (Petzka et al. 2018).
    r1, r2
        Weights at the start of the zero-centred penalties on real and on generated records; None takes 3, for points 1, and 0 for the
        Wasserstein loss.
    roth
        Weight at the start of Roth's regulariser, for the losses whose T is a logit; they use 0.1 to 2.
    dragan
        Weight of DRAGAN's penalty; Kodali et al. use 10.
    anneal
        The factor by which `r1`, `r2` and `roth` fall; 1 keeps them. None takes 0.01, and 0.1 for points: there strong penalties at first
        lay the modes out badly, and weak ones at last draw each together (8x8 digits are covered best with 3 -> 0.03, .84 against .76).
    annealing
        How they fall: `geometric`, over the first four fifths of training, or `cosine`, half of one, as the learning rate does; None takes
        that for points and `geometric` otherwise.
    clip_weights
        The box [-c, c] that the critic's weights are held in (Arjovsky et al. 2017 use 0.01); None for none.
    critic_lr, critic_optimizer
        The critic's own learning rate (Heusel et al. 2017) and optimiser; None takes the training's.
    rounding
        `straight-through` shows the critic rounded records; `soft` shows it the generator's raw features.
    generator
        A network of your own, z (B, noise_dim) -> features (B, *shape) before they are squashed into the range of their support; called
        with the condition as second argument when there is one.
    critic
        A network of your own, features (B, *shape) -> (B, 1) (of `pack` records joined as channels; (B, 1 + classes) when `auxiliary`).

    Notes
    -----
    Terms reported: `critic` and `generator`, their losses; `D(real)` and `D(fake)`, the probabilities that the critic gives to records
    and to samples of being records, or `W1` for the Wasserstein loss; and each penalty with its weight.

    With several processes batch normalisation and unrolling see the records of their own process only; all else is as with one.

    Raises `ConfigError` for parts that do not go together, and `DataError` when a batch fills no pack.

    References
    ----------
    Goodfellow et al. 2014, "Generative Adversarial Nets"; Arjovsky, Chintala & Bottou 2017, "Wasserstein GAN"; Gulrajani et al. 2017,
    "Improved Training of Wasserstein GANs"; Mescheder, Geiger & Nowozin 2018, "Which Training Methods for GANs do actually Converge?";
    Jolicoeur-Martineau 2018, "The relativistic discriminator"; Huang et al. 2024, "The GAN is dead; long live the GAN!".
    """

    name = "gan"
    density = "none"
    training = Training(lr=2e-3, betas=(0.0, 0.99), batch_size=256, ema=0.999, schedule="cosine")
    unsupported = {
        "log_prob": "a GAN defines no density. Compare samples with evaluate(), score it under an observation noise with evidence(), "
        "or fit a vae or a realnvp.",
        "encode": "a GAN learns no map from records to codes. Search for them with pushforward.invert(gan, records), train an encoder "
        "with InvertedGAN(gan=gan).fit(data), or fit a bigan, or fit a vae or a realnvp.",
        "posterior": "a GAN learns no posterior over codes. Fit a vae.",
        "likelihood": "its generator is deterministic, so p(x | z) is a point mass. Use decode(z), or fit a vae.",
    }

    def __init__(
        self,
        *,
        loss: LossName | str = "non-saturating",
        relativistic: bool = True,
        critic_steps: int = 1,
        reuse: bool = False,
        noise_dim: int | None = None,
        noise: Literal["normal", "uniform"] = "normal",
        network: Literal["auto", "mlp", "conv", "residual"] = "auto",
        hidden: tuple[int, ...] | None = None,
        critic_hidden: tuple[int, ...] = (128, 128),
        channels: int = 32,
        norm: Literal["none", "generator", "both"] = "none",
        spectral: bool = False,
        fourier: int | None = None,
        conditioning: Literal["input", "projection", "auxiliary"] = "input",
        pack: int = 1,
        unroll: int = 0,
        unroll_lr: float = 0.1,
        gradient_penalty: float | None = None,
        one_sided: bool = False,
        r1: float | None = None,
        r2: float | None = None,
        roth: float = 0.0,
        dragan: float = 0.0,
        anneal: float | None = None,
        annealing: Annealing | None = None,
        clip_weights: float | None = None,
        critic_lr: float | None = None,
        critic_optimizer: Literal["adam", "adamw", "sgd", "rmsprop"] | None = None,
        rounding: Literal["straight-through", "soft"] = "straight-through",
        generator: nn.Module | None = None,
        critic: nn.Module | None = None,
    ):
        super().__init__()
        self.loss, self.relativistic = loss, relativistic
        self.critic_steps, self.reuse = critic_steps, reuse
        self.noise_dim, self.noise = noise_dim, noise
        self.network, self.hidden, self.critic_hidden, self.channels, self.fourier = network, hidden, critic_hidden, channels, fourier
        self.norm, self.spectral, self.conditioning, self.pack = norm, spectral, conditioning, pack
        self.unroll, self.unroll_lr = unroll, unroll_lr
        self.gradient_penalty, self.one_sided, self.r1, self.r2 = gradient_penalty, one_sided, r1, r2
        self.anneal = anneal
        self.annealing: Annealing | None = annealing
        self.roth, self.dragan, self.clip_weights = roth, dragan, clip_weights
        self.critic_lr, self.critic_optimizer = critic_lr, critic_optimizer
        self.rounding = rounding
        self.generator, self.critic = generator, critic

    @classmethod
    def accepts(cls, spec: DataSpec) -> str | None:
        return categorical_pixels(cls.__name__, spec)

    @classmethod
    def training_for(cls, spec: DataSpec) -> Training:
        # Five minutes on 25 Gaussians put .94 of the samples within 3 sd of one at 1e-3, .80 at 2e-3; on 8x8 digits, 4,000 rounds have a
        # density of .84 at 1e-3 and .99 at 2e-3.
        return cls.training.override(lr=1e-3) if spec.kind == "points" else cls.training

    def _build(self, spec: DataSpec) -> None:
        condition = None if self.schema is None else self.schema.condition
        if self.conditioning == "auxiliary" and condition is not None and condition.kind != "classes":
            raise ConfigError(f"conditioning='auxiliary' tells classes, and {condition.name!r} is a number. Take 'input' or 'projection'.")
        self._made: Tensor | None = None
        self.game = Game(self.loss, self.relativistic)
        self._check()
        self._features = Features(spec)
        self._z = self.noise_dim or (2 if spec.kind == "points" else 64)
        shape, c, act = self._features.shape, spec.condition_dim, "leaky_relu"
        network = "residual" if self.network == "residual" and len(shape) == 3 else network_for(shape, self.network)
        norm = "none" if self.norm == "none" else "batch"
        if self.generator is not None:
            self.generator_net = self.generator
        elif network == "mlp":
            hidden = (128,) * (5 if spec.kind == "points" else 3) if self.hidden is None else self.hidden
            self.generator_net = MLP(self._z, self._features.dim, hidden, c, act, norm=norm)
            reset_biases(self.generator_net)
        else:
            kind = ResidualDecoder if network == "residual" else ConvDecoder
            self.generator_net = kind(self._z, shape, self.channels, c, act, norm=norm)
        waves = (256 if spec.kind == "points" else 0) if self.fourier is None else self.fourier
        self.critic_net = Critic(
            shape,
            network=network,
            hidden=self.critic_hidden,
            channels=self.channels,
            fourier=waves,
            condition_dim=c,
            conditioning=self.conditioning,
            pack=self.pack,
            norm=norm if self.norm == "both" else "none",
            spectral=self.spectral,
            own=self.critic,
        )
        self._clip()

    def _check(self) -> None:
        """Raises `ConfigError` for parts that do not go together."""
        if self.roth and (self.relativistic or self.game.rule.probability is not torch.sigmoid):
            raise ConfigError(
                f"roth needs a T that is the logit of D; with loss={self.loss!r} and relativistic={self.relativistic} T is none. "
                "Take loss='non-saturating' with relativistic=False, or r1 and r2."
            )
        if self.clip_weights is not None and not self.clip_weights > 0:
            raise ConfigError(f"clip_weights must be above 0, got {self.clip_weights}.")
        if self.clip_weights is not None and self.spectral:
            raise ConfigError("spectral=True divides weights by their norm, so that clip_weights would not hold them. Take one of the two.")
        if self.norm not in ("none", "generator", "both"):
            raise ConfigError(f"norm={self.norm!r} is not known. Choose 'none', 'generator' or 'both'.")

    # -- the two maps -------------------------------------------------------------------------------------------------

    def noise_like(self, n: int, rng: Rng) -> Float[Tensor, "n d"]:
        """z ~ p(z)."""
        return rng.randn(n, self._z) if self.noise == "normal" else 2 * rng.rand(n, self._z) - 1

    def generate(self, z: Float[Tensor, "B d"], c: Float[Tensor, "B C"] | None) -> Float[Tensor, "B *features"]:
        """G(z | c): features inside the range of their support."""
        y = self.generator_net(z) if c is None else self.generator_net(z, c)
        return self._features.squash(y.reshape(len(z), *self._features.shape))

    def _fake(self, batch: Batch) -> Tensor:
        y = self.generate(self.noise_like(len(batch), batch.rng), batch.c)
        return y if self.rounding == "soft" else self._features.rounded(y)

    # -- the two objectives -------------------------------------------------------------------------------------------

    def _objectives(self) -> tuple[Objective, ...]:
        own: dict[str, Any] = {"lr": self.critic_lr, "optimizer": self.critic_optimizer}
        own = {k: v for k, v in own.items() if v is not None}
        after = None if self.clip_weights is None else self._clip
        return (
            Objective("critic", (self.critic_net,), self._critic_loss, steps=self.critic_steps, validate=False, settings=own, after=after),
            Objective("generator", (self.generator_net,), self._generator_loss, validate=False, fresh=not self.reuse),
        )

    @torch.no_grad()
    def _clip(self) -> None:
        if self.clip_weights is not None:
            for p in self.critic_net.parameters():
                p.clamp_(-self.clip_weights, self.clip_weights)

    def _weights(self, progress: float) -> tuple[float, float, float, float]:
        """(gradient_penalty, r1, r2, roth) at this share of the budget."""
        given = self.gradient_penalty, self.r1, self.r2
        bounded = self.clip_weights is not None or self.spectral
        points = self._features.spec.kind == "points"
        anneal = (0.1 if points else 0.01) if self.anneal is None else self.anneal
        usual: Annealing = "cosine" if points else "geometric"
        remains = remaining(self.annealing or usual, anneal, progress)
        return *weights(self.loss, given, remains, bounded=bounded, usual=1.0 if points else 3.0), self.roth * remains

    def _critic_loss(self, batch: Batch) -> Loss:
        if self.reuse:  # they keep the generator's graph, although its parameters are not trained while the critic's are
            self.generator_net.requires_grad_(True)
            y = self._made = self._fake(batch)
            self.generator_net.requires_grad_(False)
        else:
            with torch.no_grad():
                y = self._fake(batch)
        return self._judged(self.critic_net, batch, y.detach())

    def _judged(self, critic: nn.Module, batch: Batch, y: Tensor) -> Loss:
        """What `critic` (the network, or itself some steps from now) minimises where the samples are y."""
        packed = self.critic_net.packed
        x, y, c = packed(self._features.encode(batch.x)), packed(y), None if batch.c is None else packed(batch.c)
        gp, r1, r2, noise = self._weights(batch.progress)
        parts: dict[str, Any] = {"gradient_penalty": gp, "one_sided": self.one_sided, "r1": r1, "r2": r2}
        named = self.conditioning == "auxiliary" and c is not None
        apart = self.norm == "both" or self.critic is not None
        return judged(self.game, critic, x, y, c, batch.rng, **parts, noise=noise, shaken=self.dragan, classes=named, apart=apart)

    def _scores(self, critic: nn.Module, y: Tensor, c: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """T of packed records, and the logits of their classes where there is an auxiliary classifier."""
        return critic(y, c, True) if self.conditioning == "auxiliary" and c is not None else (critic(y, c), None)

    def _generator_loss(self, batch: Batch) -> Loss:
        packed = self.critic_net.packed
        y, c = self._fake(batch) if self._made is None else self._made, None if batch.c is None else packed(batch.c)
        self._made = None
        critic: nn.Module = self.critic_net
        if self.unroll:
            critic = unrolled(critic, lambda net: self._judged(net, batch, y).per_record.mean(), self.unroll, self.unroll_lr)
        fake, named = self._scores(critic, packed(y), c)
        real = fake.detach()
        if self.relativistic:
            real = self._scores(critic, packed(self._features.encode(batch.x)), c)[0]
        loss = self.game.generator(fake, real)
        terms = {"generator": loss.detach()}
        if named is not None:
            assert c is not None
            terms["class"] = cross_entropy(named, c)
            loss = loss + terms["class"]
        return Loss(loss, {k: v.detach() for k, v in terms.items()})

    # -- the verbs ----------------------------------------------------------------------------------------------------

    def _sample(self, n: int, c: Tensor | None, rng: Rng, *, truncation: float | None = None) -> Tensor:
        """G(z | c); with `truncation` every normal entry of z is drawn within so many deviations of 0 (Brock et al. 2019)."""
        z = self.noise_like(n, rng)
        if truncation is not None:
            if self.noise != "normal" or not truncation > 0:
                raise ConfigError(f"truncation={truncation} needs noise='normal' and a bound above 0.")
            # The uniform number that z is the normal quantile of, moved into the interval's share of the probability.
            share = torch.special.ndtr(z.new_tensor(truncation))
            z = torch.special.ndtri(1 - share + (2 * share - 1) * torch.special.ndtr(z))
        return self._decode(z, c)

    def _decode(self, z: Tensor, c: Tensor | None) -> Tensor:
        return self._features.decode(self.generate(z, c))

    def _joint(self, *, noise: float) -> Joint:
        """G(z) seen through Gaussian noise (see `observation`); uniform codes are 2 Phi(u) - 1 of u ~ N(0, I), on which slopes exist."""
        seen = GaussianObservation(self._features.spec, noise)

        def mean(u: Tensor, c: Tensor | None) -> Tensor:
            return self.generate(u if self.noise == "normal" else 2 * torch.special.ndtr(u) - 1, c)

        return Joint(
            sample_prior=lambda n, c, rng: rng.randn(n, self._z),
            log_prior=standard_normal,
            simulate=lambda u, c, rng: seen.sample(mean(u, c), rng),
            log_likelihood=lambda x, u, c: seen.log_prob(x, mean(u, c)),
        )


def known_answers() -> Iterator[Known]:
    """The game's value at the best critic, the critic that training finds, W1 of a shift, penalties, slopes and unrolled steps."""
    from .answers import answers

    yield from answers()
