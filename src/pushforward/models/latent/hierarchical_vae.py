r"""The hierarchical VAE: groups of latents at several resolutions, with residual normal posteriors (NVAE, Vahdat & Kautz 2020).

The code is z = (z_1, ..., z_L), coarsest first, with p(z) = prod_l p(z_l | z_<l) and q(z | x) = prod_l q(z_l | z_<l, x), each a diagonal
normal whose parameters a network computes. The posterior is given relative to the prior (section 3.2):

    p(z_l | z_<l) = N(mu_l, sigma_l^2),    q(z_l | z_<l, x) = N(mu_l + d mu_l, (sigma_l d sigma_l)^2),

so that it moves when the prior moves, and (equation 2, for each entry)

    KL(q || p) = (d mu^2 / sigma^2 + d sigma^2 - log d sigma^2 - 1) / 2.

In the coordinates u_l = (z_l - mu_l) / sigma_l the prior is N(0, I) in all groups together, whatever the networks, and the posterior of a
group N(d mu_l / sigma_l, d sigma_l^2). These whitened latents are this model's code: sampling is decoding u ~ N(0, I), and they make log
weights of the importance-weighted bound sums of differences of standard normals.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution

from ...ais import Joint, standard_normal
from ...data.features import Features
from ...data.spec import DataSpec
from ...decoders import Decoder, likelihood_for
from ...errors import ConfigError
from ...known import Known
from ...likelihoods import Gaussian
from ...model import Batch, GradientModel, Objective
from ...nn import network_for
from ...nn.ladder import Ladder, Scale, scales_of
from ...nn.spectral import SpectralNorms
from ...rng import Rng
from ...train import Loss, Training
from .linear_ladder import LinearLadder

__all__ = ["HierarchicalVAE"]

MEMORY = 2**21
"""Values of the widest feature maps held at a time while the importance-weighted bound is computed: 8 MiB in float32."""
ACTIVE = 0.01
"""Nats of KL(q || p), on average over records, above which a group of latents is active."""


class HierarchicalVAE(GradientModel):
    """Hierarchical variational autoencoder in NVAE's line; `log_prob` is the K-sample importance-weighted lower bound.

    Parameters
    ----------
    groups
        Groups of latents at each scale, coarsest first: a dense scale, then for images maps from the smallest size (4 to 7 a side) up to
        half the image's. Scales that are not named hold none. Without maps every group is dense, sum(groups) in all.
    latent_dim
        Latents of a dense group.
    latent_channels
        Latents at each position of a group of maps. NVAE takes 20.
    hidden
        Units of the dense scale.
    channels
        Channels at the coarsest maps; each finer scale has half as many.
    cells
        Residual cells of each group in the decoder, and of each scale in the encoder.
    cell
        Of the maps: `plain`, two 3x3 convolutions, or `separable`, NVAE's depthwise one, which has fewer weights and on a CPU takes
        about twice as long.
    network
        `auto` takes maps for images of at least 16 x 16 and dense scales otherwise.
    activation
        Before each layer. NVAE's is silu (Swish).
    likelihood
        p(x | z); `auto` follows the data. See `VAE`.
    anneal
        Share of the budget over which the weight of the KL rises from 0 to 1. NVAE takes 0.3 of its epochs.
    balance
        Weigh the groups' KL terms while their weight rises, by gamma_l proportional to E[KL_l] per latent, the mean of all 1: it makes
        groups that say much dear and groups that say little cheap, so that none stays empty (Vahdat et al. 2018, appendix H; NVAE,
        appendix A).
    spectral
        Weight of the sum of all layers' largest singular values (NVAE, section 3.2, for networks much deeper than the default); 0 for none.

    Notes
    -----
    Terms reported in training, in nats per record: `reconstruction` = -E_q[log p(x | z)], `kl` = sum of the groups' KL terms, `kl/1` (top)
    to `kl/L`, and `active groups`, those with a mean KL above 0.01 nats. The loss on validation records is the negative ELBO, weights 1.

    `encode` gives the whitened posterior means u of all groups, top first, each with the groups above at their means; `decode` takes
    the same. Their prior is N(0, I), so `decode` of standard normal codes is `sample(mode=True)`.

    Raises `DataError` when the likelihood does not fit the data, `ConfigError` when a size is impossible.
    """

    name = "hvae"
    density = "bound"
    estimator = "the importance-weighted bound, K = 100"
    training = Training(lr=1e-3, schedule="cosine", clip=100.0)
    unsupported = {
        "posterior": "the groups of q(z | x) depend on one another, so it has no closed form; encode gives the code, log_prob the bound."
    }

    def __init__(
        self,
        *,
        groups: tuple[int, ...] = (1, 2, 1),
        latent_dim: int = 16,
        latent_channels: int = 4,
        hidden: int = 256,
        channels: int = 64,
        cells: int = 1,
        cell: Literal["plain", "separable"] = "plain",
        network: Literal["auto", "mlp", "conv"] = "auto",
        activation: Literal["relu", "leaky_relu", "elu", "silu", "gelu", "tanh", "softplus"] = "silu",
        likelihood: Literal["auto", "bernoulli", "gaussian", "gaussian-unit", "gaussian-shared", "discretised", "categorical"] = "auto",
        anneal: float = 0.2,
        balance: bool = True,
        spectral: float = 0.0,
    ):
        super().__init__()
        self.groups = groups
        self.latent_dim = latent_dim
        self.latent_channels = latent_channels
        self.hidden = hidden
        self.channels = channels
        self.cells = cells
        self.cell = cell
        self.network = network
        self.activation = activation
        self.likelihood_ = likelihood
        self.anneal = anneal
        self.balance = balance
        self.spectral = spectral

    def _build(self, spec: DataSpec) -> None:
        self._check_hyperparameters()
        self._features = features = Features(spec)
        family, columns = likelihood_for(self.likelihood_, spec)
        shared = self.likelihood_ == "gaussian-shared"
        scales = self._scales(features.shape)
        if columns is not None:
            out = columns.total
        else:
            assert family is not None
            params = family.n_params - shared
            out = params if scales[-1].size is not None else params * spec.dim
        self.ladder: Any = Ladder(
            features.shape,
            scales,
            out,
            condition_dim=spec.condition_dim,
            cells=self.cells,
            cell=self.cell,
            activation=self.activation,
        )
        self.p_x = Decoder(spec, scales[-1].width, likelihood=self.likelihood_, own=self.ladder.head)
        self.norms = SpectralNorms(self.ladder) if self.spectral else None

    def _check_hyperparameters(self) -> None:
        for name in ("latent_dim", "latent_channels", "hidden", "channels", "cells"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if len(self.groups) == 0 or self.groups[0] < 1 or min(self.groups) < 0:
            raise ConfigError(f"groups counts the groups at each scale, coarsest first, and the first needs one; got {self.groups}.")
        for name in ("anneal", "spectral"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} must not be negative, got {getattr(self, name)}.")

    def _scales(self, shape: Sequence[int]) -> list[Scale]:
        if network_for(shape, self.network) == "mlp":
            return [Scale(None, self.hidden, sum(self.groups), self.latent_dim)]
        found = scales_of(shape, self.hidden, self.channels)
        if len(self.groups) > len(found):
            sizes = ["dense", *(f"{size[0]} x {size[1]}" for size, _ in found if size is not None)]
            raise ConfigError(
                f"groups={self.groups} names {len(self.groups)} scales; images of {shape[1]} x {shape[2]} have {len(found)}: "
                f"{', '.join(sizes)}."
            )
        counts = [*self.groups, *(0 for _ in found)]
        return [Scale(s, w, n, self.latent_dim if s is None else self.latent_channels) for (s, w), n in zip(found, counts)]

    # -- the two paths ------------------------------------------------------------------------------------------------

    def _maps(self, x: Tensor, c: Tensor | None) -> list[Tensor]:
        return self.ladder.bottom_up(self._features.see(x), c)

    def _infer(self, maps: list[Tensor], c: Tensor | None, rng: Rng | None) -> tuple[Tensor, list[tuple[Tensor, Tensor, Tensor]]]:
        """Down the ladder with draws from q (means when `rng` is None): the last state, and (u, m, log s) of q(u_l) = N(m, s^2) a group."""
        h, found = self.ladder.begin(len(maps[0]), c), []
        for l in range(len(self.ladder.shapes)):
            h = self.ladder.enter(l, h)
            shift, log_s = self.ladder.residual(l, h, maps)
            prior = self.ladder.prior(l, h)
            m = shift if prior is None else shift * torch.exp(-prior[1])
            u = m if rng is None else torch.addcmul(m, torch.exp(log_s), rng.randn(*m.shape))
            h = self.ladder.absorb(l, h, u if prior is None else torch.addcmul(prior[0], torch.exp(prior[1]), u))
            found.append((u, m, log_s))
        return self.ladder.finish(h), found

    def _generate(self, u: Tensor, c: Tensor | None) -> Tensor:
        """The raw parameters of p(x | z) at whitened latents u, (B, d)."""
        h, sizes = self.ladder.begin(len(u), c), [math.prod(s) for s in self.ladder.shapes]
        for l, (shape, part) in enumerate(zip(self.ladder.shapes, u.split(sizes, 1))):
            h = self.ladder.enter(l, h)
            prior, part = self.ladder.prior(l, h), part.unflatten(1, shape)
            h = self.ladder.absorb(l, h, part if prior is None else torch.addcmul(prior[0], torch.exp(prior[1]), part))
        return self.p_x(self.ladder.finish(h))

    @property
    def code_dim(self) -> int:
        """Dimensions of a code: the latents of all groups."""
        return sum(math.prod(s) for s in self.ladder.shapes)

    # -- training -----------------------------------------------------------------------------------------------------

    def _objectives(self) -> tuple[Objective, ...]:
        return (Objective("hvae", (self,), self._loss),)

    def _loss(self, batch: Batch) -> Loss:
        h, groups = self._infer(self._maps(batch.x, batch.c), batch.c, batch.rng)
        reconstruction = -self.p_x.log_prob(self.p_x(h), batch.x)
        terms = torch.stack([_kl(m, log_s) for _, m, log_s in groups], 1)
        kl = terms.sum(1)
        mean = terms.detach().mean(0)
        loss = reconstruction + self._weigh(terms, mean, batch.progress)
        if self.norms is not None and self.training:
            loss = loss + self.spectral * self.norms()
        named = {f"kl/{i + 1}": terms[:, i].detach() for i in range(len(mean))}
        return Loss(loss, {"reconstruction": reconstruction, "kl": kl, **named, "active groups": (mean > ACTIVE).sum().to(kl.dtype)})

    def _weigh(self, terms: Tensor, mean: Tensor, progress: float) -> Tensor:
        """The groups' KL terms (B, L), weighted for this stage of training and summed, (B,)."""
        if not self.training or progress >= self.anneal:
            return terms.sum(1)
        beta = progress / self.anneal
        return beta * (terms @ self._gammas(mean) if self.balance else terms.sum(1))

    def _gammas(self, mean: Tensor) -> Tensor:
        """gamma_l proportional to E[KL_l] / (latents of group l), with mean 1."""
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            mean = mean.clone()
            torch.distributed.all_reduce(mean)  # the global batch's, up to a factor that the normalisation takes out
        rate = mean / mean.new_tensor([math.prod(s) for s in self.ladder.shapes]) + 1e-8  # at first q = p: then all alike
        return rate * (len(rate) / rate.sum())

    # -- verbs --------------------------------------------------------------------------------------------------------

    def _log_prob(self, x: Tensor, c: Tensor | None, rng: Rng, *, samples: int = 100) -> Float[Tensor, " B"]:
        """The importance-weighted bound L_K with K = `samples`, in steps over K so that memory does not grow with it."""
        if samples < 1:
            raise ConfigError(f"samples must be at least 1, got {samples}.")
        rows = max(1, MEMORY // max(self.p_x.outputs, self.ladder.widest))
        if len(x) > rows:
            parts = zip(x.split(rows), [None] * len(x) if c is None else c.split(rows))
            return torch.cat([self._log_prob(a, b, rng, samples=samples) for a, b in parts])
        maps, step = self._maps(x, c), max(1, rows // max(1, len(x)))
        total = x.new_full((len(x),), -math.inf)
        for start in range(0, samples, step):
            total = torch.logaddexp(total, self._log_weights(x, maps, c, rng, min(step, samples - start)).logsumexp(1))
        return total - math.log(samples)

    def _log_weights(self, x: Tensor, maps: list[Tensor], c: Tensor | None, rng: Rng, samples: int) -> Tensor:
        """log p(x | z_k) + sum_l log p(z_kl | z_k<l) - log q(z_kl | z_k<l, x) for K draws from q, (B, K)."""
        if samples > 1:
            x, maps = x.repeat_interleave(samples, 0), [m.repeat_interleave(samples, 0) for m in maps]
            c = None if c is None else c.repeat_interleave(samples, 0)
        h, groups = self._infer(maps, c, rng)
        log_w = self.p_x.log_prob(self.p_x(h), x)
        for u, m, log_s in groups:  # log N(u; 0, 1) - log N(u; m, s^2)
            eps = (u - m) * torch.exp(-log_s)
            log_w = log_w + (0.5 * (eps.square() - u.square()) + log_s).flatten(1).sum(1)
        return log_w.view(-1, samples)

    def group_kl(self, records: Any, *, condition: Any = None, seed: int = 0) -> Float[Tensor, "n L"]:
        """KL(q(z_l | z_<l, x) || p(z_l | z_<l)) of each group, in nats, at one draw of the groups above; they sum to the `kl` term."""
        self._ready("group_kl")
        rng, parts = self._rng(None, seed), []
        with torch.no_grad():
            for x, c in self._chunks(records, condition):
                _, groups = self._infer(self._maps(x, c), c, rng)
                parts.append(torch.stack([_kl(m, log_s) for _, m, log_s in groups], 1).cpu())
        return torch.cat(parts)

    def _sample(self, n: int, c: Tensor | None, rng: Rng, *, temperature: float = 1.0, mode: bool = False) -> Tensor:
        """Records from p(x | z), z from the prior with every sigma times `temperature`; with `mode` the most probable record at each z."""
        if temperature < 0:
            raise ConfigError(f"temperature must not be negative, got {temperature}.")
        u = temperature * rng.randn(n, self.code_dim)
        return self.p_x.emit(self._generate(u, c), None if mode else rng)

    def _encode(self, x: Tensor, c: Tensor | None) -> Tensor:
        return torch.cat([m.flatten(1) for _, m, _ in self._infer(self._maps(x, c), c, None)[1]], 1)

    def _decode(self, z: Tensor, c: Tensor | None) -> Tensor:
        if z.shape[1] != self.code_dim:
            raise ConfigError(f"This model's codes have {self.code_dim} dimensions, the latents of all groups; got {z.shape[1]}.")
        return self.p_x.emit(self._generate(z, c), None)

    def _likelihood(self, z: Tensor, c: Tensor | None) -> Distribution:
        return self.p_x.distribution(self._generate(z, c))

    def _joint(self) -> Joint:
        return Joint(
            lambda n, c, rng: rng.randn(n, self.code_dim),
            standard_normal,
            lambda u, c, rng: self.p_x.emit(self._generate(u, c), rng),
            lambda x, u, c: self.p_x.log_prob(self._generate(u, c), x),
        )


def _kl(m: Tensor, log_s: Tensor) -> Tensor:
    """KL(N(m, s^2) || N(0, 1)) summed over a group's latents, (B,): equation 2 of NVAE, with m = d mu / sigma and s = d sigma."""
    return 0.5 * (m.square() + torch.exp(2.0 * log_s) - 2.0 * log_s - 1.0).flatten(1).sum(1)


def linear_ladder(dim: int = 4) -> tuple[HierarchicalVAE, LinearLadder]:
    """A hierarchical VAE of two groups whose evidence and posterior are known, in double precision."""
    spec = DataSpec("points", (dim,))
    model = HierarchicalVAE(groups=(2,), latent_dim=1, hidden=4, likelihood="gaussian-shared").build(spec).double()
    model.ladder = LinearLadder(dim)
    model.p_x = Decoder(spec, 2, likelihood="gaussian-shared", own=model.ladder.head).double()
    assert model.p_x.log_scale is not None
    model.ladder.s = float(Gaussian().parts(torch.stack([model.p_x.log_scale, model.p_x.log_scale]))[1].detach().exp())
    return model.requires_grad_(False), model.ladder


def known_answers() -> Iterator[Known]:
    """A two-level linear-Gaussian ladder, whose evidence is Gaussian and whose posterior factorises down the ladder."""
    generator = torch.Generator().manual_seed(0)
    model, ladder = linear_ladder()
    x = 2 * torch.randn(6, 4, generator=generator, dtype=torch.float64)
    evidence = ladder.evidence(x)
    rounding = "rounding of 1e-16 over some hundred operations on numbers of order 10"

    # With q = p(z | x), group by group, every weight p(x | z) p(z) / q(z | x) is p(x), whatever z was drawn.
    ours = model._log_prob(x, None, Rng.seeded(0, x), samples=1)
    yield Known("linear ladder: the weights equal p(x) when q is the posterior", 0.0, float((ours - evidence).abs().max()), 1e-10, rounding)

    # With q = p(z | x) one draw of the ELBO differs from log p(x) by noise alone: reconstruction and the groups' KL terms average to it.
    repeats = x[:1].expand(4000, -1)
    loss = model._loss(Batch(repeats, None, torch.arange(4000), Rng.seeded(1, x))).per_record
    error = 4 * float(loss.std()) / math.sqrt(4000)
    yield Known("linear ladder: ELBO(x) at the exact posterior", float(evidence[0]), -float(loss.mean()), error, "4 standard errors")

    # With another q the bound is loose, and rises with K towards log p(x).
    ladder.shift, ladder.stretch = 0.5, 1.4
    bounds = {k: model._log_prob(x[:1].expand(400, -1), None, Rng.seeded(2, x), samples=k) for k in (1, 10, 1000)}
    means = [float(b.mean()) for b in bounds.values()]
    rises = means[0] < means[1] < means[2]
    yield Known("linear ladder: L_1 < L_10 < L_1000", 1.0, float(rises), 0.0, "400 repeats: the steps are over 10 standard errors")
    log_w = model._log_weights(repeats[:400], [repeats[:400]], None, Rng.seeded(3, x), 1000)
    short = float(torch.exp(2 * (log_w - evidence[0])).mean() - 1) / 2000
    yield Known(
        "linear ladder: log p(x) - L_1000",
        0.0,
        float(evidence[0]) - means[2],
        2 * short + 4 * float(bounds[1000].std()) / 20,
        "twice Var(w / p(x)) / 2K, estimated, and 4 standard errors",
    )
