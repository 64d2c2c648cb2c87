"""Generative adversarial networks: a generator that pushes noise forward, and a critic that tells its records from yours.

With noise z ~ p(z), a generator G and a critic T whose output is a logit, D = sigmoid(T), the players are

    critic      max_T  V(T, G) = E_x log D(x) + E_z log(1 - D(G(z)))          (Goodfellow et al. 2014, eq. 1)
    generator   min_G  its own loss below

For a fixed G the best critic is T* = log p(x) - log p_G(x), and V(T*, G) = -log 4 + 2 JSD(p, p_G). With r = T(x) on real records,
f = T(G(z)) on generated ones and softplus(t) = log(1 + e^t), the losses per record are

================  ==================================  ====================  =========================================
loss              critic minimises                    generator minimises   source
================  ==================================  ====================  =========================================
minimax           softplus(-r) + softplus(f)          -softplus(f)          Goodfellow et al. 2014, eq. 1
non-saturating    softplus(-r) + softplus(f)          softplus(-f)          Goodfellow et al. 2014, section 3
wasserstein       f - r                               -f                    Arjovsky et al. 2017, eq. 2-3
relativistic      softplus(f - r)                     softplus(r - f)       Jolicoeur-Martineau 2018; Huang et al. 2024
================  ==================================  ====================  =========================================

and the critic adds any of three penalties on g(x) = dT/dx:

    gradient_penalty * (|g(u)| - 1)^2,  u = e x + (1 - e) G(z), e ~ U(0, 1)   (Gulrajani et al. 2017, eq. 3)
    r1/2 * |g(x)|^2                                                           (Mescheder et al. 2018, eq. 9)
    r2/2 * |g(G(z))|^2                                                        (Mescheder et al. 2018, eq. 10)
"""

import math
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from ...ais import Joint, standard_normal
from ...data.features import Features
from ...data.spec import DataSpec
from ...known import Known
from ...model import GradientModel
from ...nn import MLP, ConvDecoder, ConvEncoder, network_for
from ...observation import GaussianObservation
from ...rng import Rng
from ...train import Batch, Loss, Objective, Training

__all__ = ["GAN"]

LossName = Literal["minimax", "non-saturating", "wasserstein", "relativistic"]


class GAN(GradientModel):
    """A generative adversarial network with the usual losses and penalties.

    It samples in one pass and defines no density. Records of any kind are seen by both players as real features (see `Features`):
    numbers as they are, levels and bits in [-1, 1], categories one-hot. The generator's outputs are rounded to the nearest record
    on their way to the critic, with the gradient passed straight through, so that the critic judges what `sample` would return.

    Parameters
    ----------
    loss
        The game; see the table of this module.
    critic_steps
        Steps of the critic for each of the generator (Goodfellow et al. 2014 use 1, Gulrajani et al. 2017 use 5).
    noise_dim
        Dimensions of z; None takes 2 for points and 64 otherwise.
    noise
        Distribution of each entry of z: standard normal, or uniform on [-1, 1].
    network
        `mlp`, `conv`, or `auto`: convolutional for images of 16 pixels and more on each side.
    hidden
        Widths of the generator's hidden layers (MLP).
    critic_hidden
        Widths of the critic's hidden layers (MLP).
    channels
        Channels at full size of the convolutional networks; they double at each halving (Radford et al. 2016).
    fourier
        Random Fourier features that an MLP critic sees beside x; None takes 128 for points and 0 otherwise. Without them a critic
        learns the fine structure of points last (Tancik et al. 2020); on 8x8 digits they spoil the samples (density 0.63 against 0.89).
    gradient_penalty
        Weight of the Wasserstein gradient penalty; None takes 10 for that loss (Gulrajani et al. 2017) and 0 for the others.
    r1, r2
        Weights at the start of the zero-centred penalties on real and on generated records; None takes 3, and 0 for the
        Wasserstein loss.
    anneal
        The factor by which `r1` and `r2` fall geometrically over the first four fifths of training; 1 keeps them.
    rounding
        `straight-through` shows the critic rounded records; `soft` shows it the generator's raw features.

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
        "encode": "a GAN learns no map from records to codes. Fit a vae or a realnvp, or search for the code whose decode(z) is nearest.",
        "posterior": "a GAN learns no posterior over codes. Fit a vae.",
        "likelihood": "its generator is deterministic, so p(x | z) is a point mass. Use decode(z), or fit a vae.",
    }

    def __init__(
        self,
        *,
        loss: LossName = "relativistic",
        critic_steps: int = 1,
        noise_dim: int | None = None,
        noise: Literal["normal", "uniform"] = "normal",
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
        self.loss: LossName = loss
        self.critic_steps = critic_steps
        self.noise_dim, self.noise = noise_dim, noise
        self.network, self.hidden, self.critic_hidden, self.channels, self.fourier = network, hidden, critic_hidden, channels, fourier
        self.gradient_penalty, self.r1, self.r2, self.anneal = gradient_penalty, r1, r2, anneal
        self.rounding = rounding

    @classmethod
    def accepts(cls, spec: DataSpec) -> str | None:
        if spec.kind == "image" and any(s.name == "categories" for s in spec.supports):
            return "GAN needs numbers for pixels; these images have categories. Give them as levels, or as a table with one column each."
        return None

    def _build(self, spec: DataSpec) -> None:
        self._features = Features(spec)
        self._z = self.noise_dim or (2 if spec.kind == "points" else 64)
        shape, c, act = self._features.shape, spec.condition_dim, "leaky_relu"
        self._conv = network_for(shape, self.network) == "conv"
        if self._conv:
            self.generator_net = ConvDecoder(self._z, shape, self.channels, c, act)
            # Channels last throughout: 0.88 of a step's time on 64 colour images of 32x32, as quick on grey ones (one CPU core).
            self.critic_net = ConvEncoder(shape, 1, self.channels, c, act).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        else:
            points = 128 if spec.kind == "points" else 0
            self.waves = Waves(self._features.dim, points if self.fourier is None else self.fourier)
            self.generator_net = MLP(self._z, self._features.dim, self.hidden, c, act)
            self.critic_net = MLP(self.waves.dim, 1, self.critic_hidden, c, act)
            for layer in (*self.generator_net.modules(), *self.critic_net.modules()):
                if isinstance(layer, nn.Linear):
                    layer.reset_parameters()  # biases that spread the kinks over z and x: with zero ones all start at the origin

    # -- the two maps -------------------------------------------------------------------------------------------------

    def noise_like(self, n: int, rng: Rng) -> Tensor:
        """z ~ p(z), (n, noise_dim)."""
        return rng.randn(n, self._z) if self.noise == "normal" else 2 * rng.rand(n, self._z) - 1

    def generate(self, z: Tensor, c: Tensor | None) -> Tensor:
        """G(z | c): features (B, *features), inside the range of their support."""
        y = self.generator_net(z, c).reshape(len(z), *self._features.shape)
        return self._squash(y)

    def critic(self, y: Tensor, c: Tensor | None) -> Tensor:
        """T(y | c): the logit of "real", (B,)."""
        if self._conv:
            return self.critic_net(y.contiguous(memory_format=torch.channels_last), c).squeeze(1)
        return self.critic_net(self.waves(y.flatten(1)), c).squeeze(1)

    def _squash(self, y: Tensor) -> Tensor:
        shared = self._features.spec.support
        if shared is not None and shared.name != "categories":
            return y if shared.name == "real" else y.tanh()
        parts = {"real": lambda t: t, "categories": lambda t: 2 * t.softmax(1) - 1}
        return torch.cat([parts.get(s.name, torch.tanh)(y[:, at]) for _, s, at in self._features.blocks], 1)

    def _fake(self, batch: Batch) -> Tensor:
        y = self.generate(self.noise_like(len(batch), batch.rng), batch.c)
        if self.rounding == "soft" or self._features.spec.continuous:
            return y
        # y + (hard - y) detached: the forward value is the nearest record's features, the gradient that of y.
        return y + (self._features.encode(self._features.decode(y.detach())) - y.detach())

    # -- the two objectives -------------------------------------------------------------------------------------------

    def _objectives(self) -> tuple[Objective, ...]:
        return (
            Objective("critic", (self.critic_net,), self._critic_loss, steps=self.critic_steps, validate=False),
            Objective("generator", (self.generator_net,), self._generator_loss, validate=False),
        )

    def _weights(self, progress: float) -> tuple[float, float, float]:
        """(gradient_penalty, r1, r2) at this share of the budget."""
        wasserstein = self.loss == "wasserstein"
        fall = self.anneal ** min(1.0, progress / 0.8)
        zero_centred = 0.0 if wasserstein else 3.0
        r1 = zero_centred if self.r1 is None else self.r1
        r2 = zero_centred if self.r2 is None else self.r2
        gp = self.gradient_penalty if self.gradient_penalty is not None else (10.0 if wasserstein else 0.0)
        return gp, r1 * fall, r2 * fall

    def _critic_loss(self, batch: Batch) -> Loss:
        x = self._features.encode(batch.x)
        with torch.no_grad():
            y = self._fake(batch)
        gp, r1, r2 = self._weights(batch.progress)
        both = torch.cat([x, y]).requires_grad_(r1 > 0 or r2 > 0)
        c = None if batch.c is None else torch.cat([batch.c, batch.c])
        scores = self.critic(both, c)
        real, fake = scores.chunk(2)
        loss = critic_loss(self.loss, real, fake)
        terms = {"critic": loss, "D(real)": real.sigmoid(), "D(fake)": fake.sigmoid()}
        if self.loss == "wasserstein":
            terms = {"critic": loss, "W1": real - fake}
        if r1 > 0 or r2 > 0:
            on_real, on_fake = squared_gradient(scores, both).chunk(2)
            terms["r1"], terms["r2"] = r1 / 2 * on_real, r2 / 2 * on_fake
            loss = loss + terms["r1"] + terms["r2"]
        if gp > 0:
            e = batch.rng.rand(len(x), *[1] * (x.ndim - 1))
            u = (e * x + (1 - e) * y).requires_grad_()
            norm = (squared_gradient(self.critic(u, batch.c), u) + 1e-12).sqrt()  # the root's slope at 0 is infinite
            terms["gradient penalty"] = gp * (norm - 1).square()
            loss = loss + terms["gradient penalty"]
        return Loss(loss, {k: v.detach() for k, v in terms.items()})

    def _generator_loss(self, batch: Batch) -> Loss:
        fake = self.critic(self._fake(batch), batch.c)
        real = self.critic(self._features.encode(batch.x), batch.c) if self.loss == "relativistic" else fake.detach()
        loss = generator_loss(self.loss, real, fake)
        return Loss(loss, {"generator": loss.detach()})

    # -- the verbs ----------------------------------------------------------------------------------------------------

    def _sample(self, n: int, c: Tensor | None, rng: Rng) -> Tensor:
        return self._decode(self.noise_like(n, rng), c)

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


def critic_loss(loss: LossName, real: Tensor, fake: Tensor) -> Tensor:
    """What the critic minimises, from its logits on real and generated records, (B,)."""
    if loss == "wasserstein":
        return fake - real
    if loss == "relativistic":
        return softplus(fake - real)
    return softplus(-real) + softplus(fake)


def generator_loss(loss: LossName, real: Tensor, fake: Tensor) -> Tensor:
    """What the generator minimises, (B,); only the relativistic loss looks at `real`."""
    if loss == "wasserstein":
        return -fake
    if loss == "relativistic":
        return softplus(real - fake)
    return -softplus(fake) if loss == "minimax" else softplus(-fake)


def squared_gradient(scores: Tensor, x: Tensor) -> Tensor:
    """|d scores_i / d x_i|^2 per record, (B,), itself differentiable (double backward)."""
    (g,) = torch.autograd.grad(scores.sum(), x, create_graph=True)
    return g.flatten(1).square().sum(1)


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


def known_answers() -> Iterator[Known]:
    """The game's value at the best critic, the critic that training finds, W1 of a shift, penalties and slopes."""
    # p = N(0, 1), q = N(1.5, 0.7^2): V at T* = log p - log q is -log 4 + 2 JSD, JSD = H(m) - (H(p) + H(q)) / 2, m = (p + q) / 2.
    t = torch.linspace(-12, 12, 4801, dtype=torch.float64)
    log_p, log_q = _log_normal(t, 0.0, 1.0), _log_normal(t, 1.5, 0.7)
    p, q, step = log_p.exp(), log_q.exp(), float(t[1] - t[0])
    sure = t.new_tensor(torch.inf)  # a logit at which the other player's term is 0, so that each expectation is its own integral
    value = -float((p * critic_loss("minimax", log_p - log_q, -sure) + q * critic_loss("minimax", sure, log_p - log_q)).sum() * step)
    m = (p + q) / 2
    entropies = [math.log(s * math.sqrt(2 * math.pi * math.e)) for s in (1.0, 0.7)]
    jsd = -float((m * m.log()).sum() * step) - sum(entropies) / 2
    because = "the trapezoid rule on a smooth density that has vanished at both ends converges to rounding"
    yield Known("V(D*, G) = -log 4 + 2 JSD", -math.log(4) + 2 * jsd, value, 1e-9, because)

    yield from _known_critic()

    # The 1-Lipschitz critic of a pure shift s is T(x) = -u.x with u = s/|s|: its game's value is W1 = |s| whatever the records.
    rng = Rng.seeded(0, t)
    x, s = rng.randn(100, 3), t.new_tensor([3.0, -4.0, 12.0])
    u = s / s.norm()
    w1 = -float(critic_loss("wasserstein", -(x @ u), -((x + s) @ u)).mean())
    yield Known("W1 of a shift by (3, -4, 12)", 13.0, w1, 1e-12, "rounding")

    # |dT/dx|^2 of T(x) = w.x + a|x|^2/2 is |w + a x|^2, and its slope in a is 2 (w + a x).x.
    w, a = rng.randn(3), t.new_tensor(0.7).requires_grad_()
    x.requires_grad_()
    ours = squared_gradient(x @ w + a * x.square().sum(1) / 2, x).sum()
    (slope,) = torch.autograd.grad(ours, a)
    g = (w + 0.7 * x).detach()
    yield Known("|dT/dx|^2 of a quadratic critic", float(g.square().sum()), float(ours.detach()), 1e-9, "rounding of a sum of 300 terms")
    yield Known("its slope by double backward", float(2 * (g * x.detach()).sum()), float(slope), 1e-9, "rounding of a sum of 300 terms")

    # Where the critic is sure (logit -20): d/df of -softplus(f) is -sigmoid(f), and of softplus(-f) it is -sigmoid(-f).
    slopes: dict[LossName, float] = {"minimax": -1 / (1 + math.exp(20.0)), "non-saturating": -1 / (1 + math.exp(-20.0))}
    for loss, known in slopes.items():
        f = t.new_tensor(-20.0).requires_grad_()
        (slope,) = torch.autograd.grad(generator_loss(loss, f.detach(), f), f)
        yield Known(f"slope of the {loss} generator at D = 2e-9", known, float(slope), 1e-15, "rounding")


def _known_critic() -> Iterator[Known]:
    """Train a linear critic by its own objective on N(-1, 1) against G(z) = z + 1, where T* = log p - log q = -2x exactly."""
    n = 20_000
    model = (
        GAN(loss="minimax", noise_dim=1, hidden=(), critic_hidden=(), fourier=0, r1=0.0, r2=0.0).build(DataSpec("points", (1,))).double()
    )
    with torch.no_grad():
        for net, (weight, bias) in ((model.generator_net, (1.0, 1.0)), (model.critic_net, (0.0, 0.0))):
            for p in net.parameters():
                p.fill_(weight if p.ndim == 2 else bias)
    x = Rng.seeded(1, torch.zeros((), dtype=torch.float64)).randn(n, 1) - 1
    optimizer = torch.optim.LBFGS(model.critic_net.parameters(), max_iter=50, tolerance_grad=1e-12, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = model._critic_loss(Batch(x, None, torch.arange(n), Rng.seeded(2, x))).per_record.mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    t = torch.linspace(-12, 12, 4801, dtype=torch.float64)
    p, q = _log_normal(t, -1.0, 1.0).exp(), _log_normal(t, 1.0, 1.0).exp()
    # This is logistic regression on 2n records: the estimate has variance 1 / (n I), I = E_{p+q}[D (1 - D) (1, x)(1, x)^T], and by symmetry
    # I is diagonal. D(x) has slope D (1 - D) in the logit, at most 1/4 at 0, where only the intercept counts.
    d = (-2 * t).sigmoid()
    curvature = (p + q) * d * (1 - d) * float(t[1] - t[0])
    intercept, slope = (4 / math.sqrt(n * float((curvature * power).sum())) for power in (torch.ones_like(t), t.square()))
    with torch.no_grad():
        at = model.critic(t.new_tensor([[0.0], [1.0]]), None)
    because = "four standard errors of the maximum-likelihood critic, by its Fisher information"
    yield Known("trained D(0) against p/(p+q)", 0.5, float(at[0].sigmoid()), intercept / 4, because)
    yield Known("slope of the trained critic's logit against log p/q", -2.0, float(at[1] - at[0]), slope, because)


def _log_normal(t: Tensor, mean: float, sd: float) -> Tensor:
    return -0.5 * ((t - mean) / sd).square() - math.log(sd * math.sqrt(2 * math.pi))
