r"""The adversarial autoencoder (Makhzani et al. 2015): an autoencoder whose codes a critic holds to a prior.

An encoder q(z | x) and a decoder p(x | z) reconstruct; a critic T, whose output is a logit, tells draws of the prior p(z) from codes, and
the encoder learns to pass its codes off as draws. In each round, on one batch,

    reconstruction   min over encoder, decoder   -log p(x | z),  z ~ q(z | x)
    critic           min over critic             softplus(-T(z')) + softplus(T(z)),  z' ~ p(z),  z ~ q(z | x)
    encoder          min over encoder            softplus(-T(z))

The best critic is T*(z) = log p(z) - log q(z) with q(z) = E_x q(z | x), the codes' own distribution, where its loss is
log 4 - 2 JSD(p, q): log 4 if and only if the codes follow the prior. No density of z is asked for but a way to draw from it. It is
the non-saturating game of `games` with codes for samples. The critic is shown the codes that the reconstruction was made from, so that
the encoder runs twice a round, not three times.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.distributions import Distribution
from torch.nn.functional import pad

from ...ais import Joint, standard_normal
from ...data import Data
from ...data.features import Features, categorical_pixels
from ...data.spec import DataSpec
from ...decoders import Decoder
from ...errors import ConfigError
from ...games import Game
from ...known import Known
from ...model import Batch, GradientModel, Objective
from ...nn import MLP, encoder_for
from ...rng import Rng
from ...train import Loss, Training
from .labels import Labelled, count_classes

__all__ = ["GAME", "AdversarialAutoencoder", "LastCodes", "RadialMixture"]

GAME = Game("non-saturating")
"""The game of codes against draws of the prior."""


class RadialMixture:
    """K Gaussians in a plane, arranged as petals (Makhzani et al. 2015, figure 2), with standard normal entries beyond the second.

    Petal k has its mean at `radius` in the direction 2 pi k / K, standard deviation `along` in that direction and `across` at a right
    angle to it. The whole has mean 0 and, for K > 2, covariance (radius^2 + along^2 + across^2) / 2 I in the plane: 1.11 I as given.

    Parameters
    ----------
    components
        K.
    dim
        Entries of z, at least 2. Raises `ConfigError` below.
    """

    def __init__(self, components: int, dim: int = 2, *, radius: float = 1.4, along: float = 0.5, across: float = 0.1):
        if dim < 2 or components < 1:
            raise ConfigError(f"prior='mixture' needs latent_dim of at least 2 and a component, got {dim} and {components}.")
        self.components, self.dim, self.radius, self.along, self.across = components, dim, radius, along, across

    def _turn(self, k: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        angle = k.to(like.dtype) * (2 * math.pi / self.components)
        return angle.cos(), angle.sin()

    def sample(self, n: int, rng: Rng, component: Int[Tensor, " n"] | None = None) -> Float[Tensor, "n d"]:
        """Draws from the mixture, or from the given component of each."""
        k = rng.randint(self.components, n) if component is None else component
        eps = rng.randn(n, self.dim)
        cos, sin = self._turn(k, eps)
        u, v = self.radius + self.along * eps[:, 0], self.across * eps[:, 1]
        return torch.cat([torch.stack([u * cos - v * sin, u * sin + v * cos], 1), eps[:, 2:]], 1)

    def log_components(self, z: Float[Tensor, "n d"]) -> Float[Tensor, "n K"]:
        """log p(z | k) of every component."""
        cos, sin = self._turn(torch.arange(self.components, device=z.device), z)
        u = (z[:, :1] * cos + z[:, 1:2] * sin - self.radius) / self.along
        v = (z[:, 1:2] * cos - z[:, :1] * sin) / self.across
        plane = -0.5 * (u.square() + v.square()) - math.log(2 * math.pi * self.along * self.across)
        return plane + standard_normal(z[:, 2:])[:, None]

    def log_prob(self, z: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """log p(z), all components alike."""
        return self.log_components(z).logsumexp(1) - math.log(self.components)


class LastCodes:
    """The codes that one objective leaves to the next that looks at the same batch, cut from the encoder's gradient.

    Batches are told apart by the tensor of their positions: no batch, and no generator, is held on to.
    """

    def __init__(self) -> None:
        self._index: Tensor | None = None
        self._codes: tuple[Tensor, ...] = ()

    def leave(self, batch: Batch, *codes: Tensor) -> None:
        """Keep the codes of the batch in place of those of the one before."""
        self._index, self._codes = batch.index, tuple(z.detach() for z in codes)

    def take(self, batch: Batch, compute: Callable[[], tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
        """Those left for this batch, else what `compute` gives without gradient."""
        if self._index is batch.index:
            return self._codes
        with torch.no_grad():
            return compute()


class AdversarialAutoencoder(GradientModel):
    """An autoencoder whose codes follow a prior of your choice, held there by a critic.

    `sample` decodes draws of the prior. It gives no density of its own: `evidence` measures p(x) = E_p(z) p(x | z).

    Parameters
    ----------
    latent_dim
        Dimensions of the code z; Makhzani et al. use 8 for likelihoods and 2 for figures.
    prior
        p(z): standard normal, or Gaussians arranged as petals in the plane of the first two entries (`RadialMixture`).
    components
        Petals of the mixture; None takes the number of classes where labels are used, and 10 otherwise.
    posterior
        q(z | x): a function of x, or a Gaussian with a learned diagonal covariance.
    labelled
        How many training records show their label to the critic, drawn evenly from the classes by the seed: 0 none, None all there are.
        It sees (z, label), the label of a draw being its petal, so that each class is led to a petal of its own; records without label
        bear one of an extra class, which goes with draws from the whole mixture. With the normal prior codes are made independent of the
        label instead.
    adversarial_weight
        Weight of the critic's verdict on the codes in one step with their reconstruction, whose pass it shares (Tolstikhin et al. 2018,
        algorithm 1): two steps a round. None takes turns, a step for each, as Makhzani et al. do: three.
    hidden
        Widths of the dense layers of the encoder, in reverse order of the decoder; Makhzani et al. use (1000, 1000).
    critic_hidden
        Widths of the critic's layers; (1000, 1000) there.
    network, activation, likelihood
        As for `VAE`.

    Notes
    -----
    `fit(condition=True)` gives the label to the decoder (their section 4): the code then carries what the label does not say.

    Terms reported: `reconstruction` = -log p(x | z) in nats per record; `critic`, its loss, log 4 = 1.386 where it tells nothing apart;
    `D(real)` and `D(fake)`, the probabilities of "a draw of the prior" that it gives draws and codes.

    Raises `DataError` when `labelled` asks for labels that the data have not, and `ConfigError` for components other than classes.

    References
    ----------
    Makhzani, Shlens, Jaitly, Goodfellow & Frey 2015, "Adversarial Autoencoders"; Tolstikhin, Bousquet, Gelly & Schölkopf 2018,
    "Wasserstein Auto-Encoders".
    """

    name = "aae"
    density = "none"
    training = Training(lr=5e-4, betas=(0.5, 0.999), schedule="cosine", ema=0.999)
    unsupported = {
        "log_prob": "an adversarial autoencoder matches its codes to the prior without a bound on log p(x). Estimate it with evidence(), "
        "fit a density of the codes with LatentPrior, or fit a vae.",
        "posterior": "its q(z | x) matches the prior in the mean over all records, and approximates no p(z | x). Use encode(), or fit "
        "a vae.",
    }

    def __init__(
        self,
        *,
        latent_dim: int = 8,
        prior: Literal["normal", "mixture"] = "normal",
        components: int | None = None,
        posterior: Literal["deterministic", "gaussian"] = "deterministic",
        labelled: int | None = 0,
        adversarial_weight: float | None = None,
        hidden: tuple[int, ...] = (400, 400),
        critic_hidden: tuple[int, ...] = (400, 400),
        network: Literal["auto", "mlp", "conv"] = "auto",
        activation: Literal["relu", "leaky_relu", "elu", "silu", "gelu", "tanh", "softplus"] = "relu",
        likelihood: Literal["auto", "bernoulli", "gaussian", "gaussian-unit", "gaussian-shared", "discretised", "categorical"] = "auto",
    ):
        super().__init__()
        self.latent_dim, self.prior, self.components, self.posterior_, self.labelled = latent_dim, prior, components, posterior, labelled
        self.hidden, self.critic_hidden, self.network, self.activation = hidden, critic_hidden, network, activation
        self.adversarial_weight, self.likelihood_ = adversarial_weight, likelihood
        self._seen: Labelled | None = None
        self._last = LastCodes()

    @classmethod
    def accepts(cls, spec: DataSpec) -> str | None:
        return categorical_pixels(cls.__name__, spec)

    def _build(self, spec: DataSpec) -> None:
        d = self.latent_dim
        if d < 1:
            raise ConfigError(f"latent_dim must be at least 1, got {d}.")
        if self.adversarial_weight is not None and not self.adversarial_weight > 0:
            raise ConfigError(f"adversarial_weight must be above 0, got {self.adversarial_weight}. Leave it out for turns.")
        for name, value, known in (
            ("prior", self.prior, ("normal", "mixture")),
            ("posterior", self.posterior_, ("deterministic", "gaussian")),
        ):
            if value not in known:
                raise ConfigError(f"{name}={value!r} is not known. Choose {known[0]!r} or {known[1]!r}.")
        self._C = 0 if self.labelled == 0 else count_classes(self, spec, None)
        self._mixture = None
        if self.prior == "mixture":
            self._mixture = RadialMixture(self.components or self._C or 10, d)
            if self._C and self._mixture.components != self._C:
                raise ConfigError(
                    f"components={self.components}, and each of the {self._C} classes needs a petal of its own. Leave components out."
                )
        self._features = features = Features(spec)
        net: dict[str, Any] = {"network": self.network, "activation": self.activation}
        self.encoder = encoder_for(features.shape, d * (1 + (self.posterior_ == "gaussian")), hidden=self.hidden, **net)
        self.p_x = Decoder(spec, d, likelihood=self.likelihood_, hidden=self.hidden[::-1], **net)
        self.critic_net = MLP(d, 1, self.critic_hidden, self._C + 1 if self._C else 0, "leaky_relu")

    def _prepare(self, data: Data, seed: int) -> None:
        self._seen = Labelled.of(data, self.labelled, seed)

    # -- the three maps ---------------------------------------------------------------------------------------------------

    def _code(self, x: Tensor, rng: Rng | None) -> Float[Tensor, "B d"]:
        """z ~ q(z | x), or its mean without `rng`."""
        h = self.encoder(self._features.see(x)).to(x.dtype)
        if self.posterior_ == "deterministic":
            return h
        mu, log_var = h.chunk(2, 1)
        return mu if rng is None else mu + torch.exp(0.5 * log_var) * rng.randn(*mu.shape)

    def critic(self, z: Float[Tensor, "B d"], y: Float[Tensor, "B C"] | None = None) -> Float[Tensor, " B"]:
        """T(z, y): the logit of "a draw of the prior"; y is a one-hot label, None where it is not known."""
        c = None
        if self._C:
            c = pad(z.new_zeros(len(z), self._C), (0, 1), value=1.0) if y is None else pad(y, (0, 1))
        return self.critic_net(z, c).squeeze(1)

    def draw(self, n: int, rng: Rng, y: Float[Tensor, "n C"] | None = None) -> Float[Tensor, "n d"]:
        """z ~ p(z), or for one-hot labels y from the petal of each."""
        if self._mixture is None:
            return rng.randn(n, self.latent_dim)
        return self._mixture.sample(n, rng, None if y is None else y.argmax(1))

    # -- the three objectives ---------------------------------------------------------------------------------------------

    def _objectives(self) -> tuple[Objective, ...]:
        if self.adversarial_weight is not None:
            return (
                Objective("autoencoder", (self.encoder, self.p_x), self._joint_loss, validate=False),
                Objective("critic", (self.critic_net,), self._critic_loss, validate=False, fresh=False),
            )
        return (
            Objective("reconstruction", (self.encoder, self.p_x), self._reconstruction_loss, validate=False),
            Objective("critic", (self.critic_net,), self._critic_loss, validate=False, fresh=False),
            Objective("encoder", (self.encoder,), self._encoder_loss, validate=False, fresh=False),
        )

    def _reconstruction_loss(self, batch: Batch) -> Loss:
        z = self._code(batch.x, batch.rng)
        self._last.leave(batch, z)
        loss = -self.p_x.log_prob(self.p_x(z, batch.c), batch.x)
        return Loss(loss, {"reconstruction": loss.detach()})

    def _joint_loss(self, batch: Batch) -> Loss:
        """-log p(x | z) and the weighted verdict on the same codes, and on those of labelled records where there are any."""
        z = self._code(batch.x, batch.rng)
        self._last.leave(batch, z)
        reconstruction = -self.p_x.log_prob(self.p_x(z, batch.c), batch.x)
        views = [(z if x is batch.x else self._code(x, batch.rng), y) for x, y in self._views(batch)]
        verdict = _mean([GAME.rule.generator(self.critic(codes, y)) for codes, y in views])
        assert self.adversarial_weight is not None
        terms = {"reconstruction": reconstruction.detach(), "encoder": verdict.detach()}
        return Loss(reconstruction + self.adversarial_weight * verdict, terms)

    def _views(self, batch: Batch) -> list[tuple[Tensor, Tensor | None]]:
        """(x, y) as the critic sees them: the batch without labels and as many labelled records, or the one kind that there is."""
        seen = self._seen if self.training else None
        views: list[tuple[Tensor, Tensor | None]] = []
        if seen is None or seen.share < 1:
            views.append((batch.x, None))
        if seen is not None:
            views.append(seen.draw(batch))
        return views

    def _critic_loss(self, batch: Batch) -> Loss:
        losses, real, fake = [], [], []
        for x, y in self._views(batch):
            if x is batch.x:
                (z,) = self._last.take(batch, lambda: (self._code(batch.x, batch.rng),))
            else:
                with torch.no_grad():
                    z = self._code(x, batch.rng)
            real.append(self.critic(self.draw(len(x), batch.rng, y), y))
            fake.append(self.critic(z, y))
            losses.append(GAME.critic(real[-1], fake[-1]))
        loss = _mean(losses)
        told = {k: _joined(v).detach().sigmoid() for k, v in (("D(real)", real), ("D(fake)", fake))}
        return Loss(loss, {"critic": loss.detach(), **told})

    def _encoder_loss(self, batch: Batch) -> Loss:
        loss = _mean([GAME.rule.generator(self.critic(self._code(x, batch.rng), y)) for x, y in self._views(batch)])
        return Loss(loss, {"encoder": loss.detach()})

    # -- the verbs --------------------------------------------------------------------------------------------------------

    def _sample(self, n: int, c: Tensor | None, rng: Rng, *, mode: bool = False) -> Tensor:
        """Records drawn from p(x | z), z from the prior; with `mode` the most probable record at each z."""
        return self.emit(self.draw(n, rng), c, None if mode else rng)

    def emit(self, z: Float[Tensor, "B d"], c: Float[Tensor, "B C"] | None, rng: Rng | None) -> Float[Tensor, "B *shape"]:
        """A record for each code: a draw from p(x | z), or its mode when `rng` is None."""
        return self.p_x.emit(self.p_x(z, c), rng)

    def _encode(self, x: Tensor, c: Tensor | None) -> Tensor:
        return self._code(x, None)

    def _decode(self, z: Tensor, c: Tensor | None) -> Tensor:
        return self.emit(z, c, None)

    def _likelihood(self, z: Tensor, c: Tensor | None) -> Distribution:
        return self.p_x.distribution(self.p_x(z, c))

    def _joint(self) -> Joint:
        log_prior = standard_normal if self._mixture is None else (lambda z, c: self._mixture.log_prob(z))  # pyright: ignore[reportOptionalMemberAccess]
        likelihood = lambda x, z, c: self.p_x.log_prob(self.p_x(z, c), x)
        return Joint(lambda n, c, rng: self.draw(n, rng), log_prior, self.emit, likelihood)


def _mean(each: list[Tensor]) -> Tensor:
    return each[0] if len(each) == 1 else torch.stack(each).mean(0)


def _joined(each: list[Tensor]) -> Tensor:
    return each[0] if len(each) == 1 else torch.cat(each)


def known_answers() -> Iterator[Known]:
    """The game's value at the best critic, its stationary point, and the mixture's density and moments."""
    # p = N(0, 1), q = N(1, 0.5^2): the loss at T* = log p - log q is log 4 - 2 JSD, JSD = H(m) - (H(p) + H(q)) / 2, m = (p + q) / 2.
    t = torch.linspace(-12, 12, 4801, dtype=torch.float64)
    log_p, log_q = (torch.distributions.Normal(m, s).log_prob(t) for m, s in ((0.0, 1.0), (1.0, 0.5)))
    p, q, step = log_p.exp(), log_q.exp(), float(t[1] - t[0])
    best, sure = log_p - log_q, t.new_tensor(torch.inf)  # at +-infinity one player's term is 0: each expectation is its own integral
    value = float((p * GAME.critic(best, -sure) + q * GAME.critic(sure, best)).sum() * step)
    m = (p + q) / 2
    jsd = -float((m * m.log()).sum() * step) - sum(math.log(s * math.sqrt(2 * math.pi * math.e)) for s in (1.0, 0.5)) / 2
    because = "the trapezoid rule on a smooth density that has vanished at both ends converges to rounding"
    yield Known("critic's loss at T* = log 4 - 2 JSD", math.log(4) - 2 * jsd, value, 1e-9, because)

    yield from _known_mixture()


def _known_mixture() -> Iterator[Known]:
    petals = RadialMixture(10)
    t = torch.linspace(-6, 6, 601, dtype=torch.float64)
    z = torch.cartesian_prod(t, t)
    weight = petals.log_prob(z).exp() * float(t[1] - t[0]) ** 2
    # Spacing 0.02 is a fifth of the narrowest deviation: the trapezoid rule errs by exp(-2 pi^2 25), and 6 lies 9 deviations out.
    because = "the trapezoid rule on a Gaussian of 5 steps a deviation converges to rounding"
    yield Known("petals: density integrates to 1", 1.0, float(weight.sum()), 1e-10, because)
    second = (1.4**2 + 0.5**2 + 0.1**2) / 2
    moments = torch.einsum("n,ni,nj->ij", weight, z, z)
    yield Known("petals: E z_1^2 = (radius^2 + along^2 + across^2) / 2", second, float(moments[0, 0]), 1e-9, because)
    yield Known("petals: E z_1 z_2 = 0", 0.0, float(moments[0, 1]), 1e-9, because)
    n = 40_000
    drawn = petals.sample(n, Rng.seeded(0, z))
    square = drawn.square().sum(1)
    yield Known(
        "petals: E |z|^2 of draws", 2 * second, float(square.mean()), 5 * float(square.std()) / math.sqrt(n), "five standard errors"
    )
    entropy = -float((weight * petals.log_prob(z)).sum())
    log_p = petals.log_prob(drawn)
    because = "five standard errors"
    yield Known("petals: E -log p of draws is the entropy", entropy, -float(log_p.mean()), 5 * float(log_p.std()) / math.sqrt(n), because)
