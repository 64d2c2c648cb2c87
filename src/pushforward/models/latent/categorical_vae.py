r"""A variational autoencoder with categorical latents: z = (z_1, ..., z_N), each one of K values.

The prior is uniform, the posterior q(z | x) = prod_n softmax(l_n(x)), and the bound

    ELBO(x) = sum_z q(z | x) log p(x | z) - sum_n (log K - H(q_n)),

whose KL term is exact. A draw of z has no derivative, so that the first term's gradient by l is had in one of four ways:

`gumbel`            z is replaced by y = softmax((l + g) / t), g standard Gumbel: biased, of low variance (Jang, Gu & Poole 2017; Maddison,
                    Mnih & Teh 2017). As t falls to 0, y becomes a draw of z (the Gumbel-max trick), its gradient's variance grows and the
                    bias vanishes.
`straight-through`  the value of that draw, the derivative of y (Jang et al. 2017, section 2.2).
`score`             E[(log p(x | z) - b) d log q(z | x)], b the mean of the other draws: unbiased (Williams 1992; Kool, van Hoof & Welling
                    2019).
`exact`             the sum over all K^N codes.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.distributions import Categorical, Distribution, Independent

from ...data.features import Features
from ...data.spec import DataSpec, categories
from ...decoders import Decoder
from ...errors import ConfigError
from ...known import Known
from ...model import Batch, GradientModel, Objective
from ...nn import encoder_for
from ...rng import Rng
from ...train import Loss, Training
from .codebook import indices

__all__ = ["CategoricalVAE"]

MOST = 1024
"""Codes, K^N, up to which sums over all of them are taken."""
MEMORY = 2**21
"""Raw decoder outputs held at a time."""


class CategoricalVAE(GradientModel):
    """Variational autoencoder with categorical latents; `log_prob` is exact where all codes can be enumerated, else a lower bound.

    Parameters
    ----------
    variables
        N, categorical variables of a code. Jang et al. take 30 of 10 values for MNIST.
    values
        K, values of each.
    hidden
        Widths of the encoder's dense layers, and in reverse order of the decoder's.
    network
        `auto` takes convolutions for images of at least 16 x 16 and dense layers otherwise.
    activation
        Between layers.
    likelihood
        p(x | z); `auto` follows the data. See `VAE`.
    gradient
        Of the bound by the posterior: see above. `exact` is for K^N of at most 1024.
    temperature, final_temperature
        t of `gumbel` and `straight-through` at the start and the end of training, falling geometrically: from 1 to 0.5 as in Jang et al.
    draws
        Draws of z for each record and step with `score`, at least 2: each one's baseline is the mean of the others.
    beta
        Weight of the KL term in training. The bound that `log_prob` reports is always the true one.

    Notes
    -----
    Codes are whole numbers 0 .. K-1 in floating form, (n, N); `encode` gives the most probable ones, `posterior` all probabilities.
    `LatentPrior` takes them for a prior other than the uniform one.

    `log_prob` sums over all codes where K^N <= 1024, and `density` is then exact; otherwise it is the importance-weighted bound (Burda et
    al. 2016) with draws of z, not of y. So is the loss on validation records, with one draw.

    Terms reported in training, in nats per record: `reconstruction` = -E_q[log p(x | z)] as the estimator has it, and `kl`.

    Raises `ConfigError` when a size is impossible, `DataError` when the likelihood does not fit the data or a code is none.
    """

    name = "categorical_vae"
    density = "bound"
    estimator = "the importance-weighted bound, K = 100"
    training = Training(lr=1e-3, schedule="cosine")

    def __init__(
        self,
        *,
        variables: int = 30,
        values: int = 10,
        hidden: tuple[int, ...] = (400,),
        network: Literal["auto", "mlp", "conv"] = "auto",
        activation: Literal["relu", "leaky_relu", "elu", "silu", "gelu", "tanh", "softplus"] = "relu",
        likelihood: Literal["auto", "bernoulli", "gaussian", "gaussian-unit", "gaussian-shared", "discretised", "categorical"] = "auto",
        gradient: Literal["gumbel", "straight-through", "score", "exact"] = "gumbel",
        temperature: float = 1.0,
        final_temperature: float = 0.5,
        draws: int = 4,
        beta: float = 1.0,
    ):
        super().__init__()
        self.variables, self.values = variables, values
        self.hidden = hidden
        self.network = network
        self.activation = activation
        self.likelihood_ = likelihood
        self.gradient = gradient
        self.temperature, self.final_temperature = temperature, final_temperature
        self.draws = draws
        self.beta = beta

    def _build(self, spec: DataSpec) -> None:
        self._check_hyperparameters()
        self._features = features = Features(spec)
        width, net = self.variables * self.values, dict[str, Any](network=self.network, activation=self.activation)
        self.encoder_net = encoder_for(features.shape, width, hidden=self.hidden, condition_dim=spec.condition_dim, **net)
        self.p_x = Decoder(spec, width, likelihood=self.likelihood_, hidden=self.hidden[::-1], **net)
        self.enumerable = self.values**self.variables <= MOST
        if self.enumerable:
            self.density, self.estimator = "exact", f"the sum over all {self.values**self.variables} codes"

    def _check_hyperparameters(self) -> None:
        for name, least in {"variables": 1, "values": 2, "draws": 1 + (self.gradient == "score")}.items():
            if getattr(self, name) < least:
                raise ConfigError(f"{name} must be at least {least}, got {getattr(self, name)}.")
        for name in ("temperature", "final_temperature"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} must be above 0, got {getattr(self, name)}.")
        if self.beta < 0:
            raise ConfigError(f"beta must not be negative, got {self.beta}.")
        if self.gradient == "exact" and self.values**self.variables > MOST:
            raise ConfigError(
                f"gradient='exact' sums over values^variables = {self.values}^{self.variables} codes, and {MOST} is the most it does. Use "
                "gradient='gumbel' or 'score', or fewer variables."
            )

    @property
    def code_spec(self) -> DataSpec:
        """What the codes of a record are, for a prior: N numbers of categories 0 .. K-1."""
        assert self.spec is not None
        return DataSpec("points", (self.variables,), (categories(self.values),), self.spec.condition_dim)

    # -- the two networks -------------------------------------------------------------------------------------------------

    def _logits(self, x: Tensor, c: Tensor | None) -> Float[Tensor, "B N K"]:
        """log q(z_n = k | x)."""
        h = self.encoder_net(self._features.see(x), c).to(x.dtype)
        return h.unflatten(1, (self.variables, self.values)).log_softmax(-1)

    def _log_x(self, y: Float[Tensor, "B S N K"], x: Tensor, c: Tensor | None) -> Float[Tensor, "B S"]:
        """log p(x | y), y one-hot or on the simplex, S of them for each record."""
        B, S = y.shape[:2]
        if S > 1:
            x, c = x.repeat_interleave(S, 0), None if c is None else c.repeat_interleave(S, 0)
        return self.p_x.log_prob(self.p_x(y.reshape(B * S, -1), c), x).view(B, S)

    def _one_hot(self, z: Int[Tensor, "*B N"], like: Tensor) -> Float[Tensor, "*B N K"]:
        return F.one_hot(z, self.values).to(like.dtype)

    def every_code(self, device: torch.device | str = "cpu") -> Int[Tensor, "KN N"]:
        """All K^N codes, the last variable fastest."""
        at = torch.arange(self.values**self.variables, device=device)
        places = self.values ** torch.arange(self.variables - 1, -1, -1, device=device)
        return at[:, None] // places % self.values

    # -- training ---------------------------------------------------------------------------------------------------------

    def _objectives(self) -> tuple[Objective, ...]:
        return (Objective("categorical_vae", (self,), self._loss),)

    def _loss(self, batch: Batch) -> Loss:
        x, c, rng = batch.x, batch.c, batch.rng
        logits = self._logits(x, c)
        kl = math.log(self.values) * self.variables + (logits.exp() * logits).sum((1, 2))
        if not torch.is_grad_enabled():  # validation: the bound itself
            z = rng.categorical(logits)
            reconstruction = -self._log_x(self._one_hot(z, x)[:, None], x, c)[:, 0]
            return Loss(reconstruction + kl, {"reconstruction": reconstruction, "kl": kl})
        if self.gradient == "score":
            z = rng.categorical(logits[:, None].expand(-1, self.draws, -1, -1))
            reconstruction = self.score_loss(logits, z, x, c)
        elif self.gradient == "exact":
            z = self.every_code(x.device)
            log_q = self._log_q(logits, z.expand(len(x), -1, -1))
            log_x = self._log_x(self._one_hot(z, x).expand(len(x), -1, -1, -1), x, c)
            reconstruction = -(log_q.exp() * log_x).sum(1)
        else:
            y = relaxed(logits, self.temperature_at(batch.progress), rng, hard=self.gradient == "straight-through")
            reconstruction = -self._log_x(y[:, None], x, c)[:, 0]
        return Loss(reconstruction + self.beta * kl, {"reconstruction": reconstruction, "kl": kl})

    def temperature_at(self, progress: float) -> float:
        """t after this share of the budget."""
        return self.temperature * (self.final_temperature / self.temperature) ** progress

    def score_loss(self, logits: Float[Tensor, "B N K"], z: Int[Tensor, "B S N"], x: Tensor, c: Tensor | None) -> Float[Tensor, " B"]:
        """The mean of -log p(x | z) over the draws, with the score-function gradient by the logits: leave-one-out baselines."""
        log_x = self._log_x(self._one_hot(z, x), x, c)
        S = z.shape[1]
        others = (log_x.sum(1, keepdim=True) - log_x) / (S - 1)
        surrogate = ((log_x - others).detach() * self._log_q(logits, z)).mean(1)
        return -log_x.mean(1) - (surrogate - surrogate.detach())

    def _log_q(self, logits: Float[Tensor, "B N K"], z: Int[Tensor, "B S N"]) -> Float[Tensor, "B S"]:
        """log q(z | x) of S codes for each record."""
        return logits[:, None].expand(-1, z.shape[1], -1, -1).gather(3, z[..., None]).sum((2, 3))

    # -- verbs ------------------------------------------------------------------------------------------------------------

    def _log_prob(self, x: Tensor, c: Tensor | None, rng: Rng, *, samples: int = 100) -> Float[Tensor, " B"]:
        """log p(x) by enumeration where that is possible, else the importance-weighted bound with K = `samples`."""
        uniform = -self.variables * math.log(self.values)
        if not self.enumerable:
            return self.importance_bound(x, c, rng, samples, lambda z, _: z.new_full((len(z),), uniform))
        z = self._one_hot(self.every_code(x.device), x)
        total = x.new_full((len(x),), -math.inf)
        for some in z.split(max(1, MEMORY // (self.p_x.outputs * max(1, len(x))))):
            log_x = self._log_x(some.expand(len(x), -1, -1, -1), x, c)
            total = torch.logaddexp(total, log_x.logsumexp(1))
        return total + uniform

    def importance_bound(
        self,
        x: Float[Tensor, "B *shape"],
        c: Float[Tensor, "B C"] | None,
        rng: Rng,
        samples: int,
        log_prior: Callable[[Tensor, Tensor | None], Tensor],
    ) -> Float[Tensor, " B"]:
        """log (1/K) sum_k p(x | z_k) P(z_k) / q(z_k | x) with K = `samples` draws and any log P of codes (B, N)."""
        if samples < 1:
            raise ConfigError(f"samples must be at least 1, got {samples}.")
        logits = self._logits(x, c)
        total = x.new_full((len(x),), -math.inf)
        step = max(1, MEMORY // (self.p_x.outputs * max(1, len(x))))
        for start in range(0, samples, step):
            S = min(step, samples - start)
            z = rng.categorical(logits[:, None].expand(-1, S, -1, -1))
            c_s = None if c is None else c.repeat_interleave(S, 0)
            log_p = log_prior(z.flatten(0, 1).to(x.dtype), c_s).view(-1, S)
            log_w = self._log_x(self._one_hot(z, x), x, c) + log_p - self._log_q(logits, z)
            total = torch.logaddexp(total, log_w.logsumexp(1))
        return total - math.log(samples)

    def _sample(self, n: int, c: Tensor | None, rng: Rng, *, mode: bool = False) -> Tensor:
        """Records drawn from p(x | z), z uniform; with `mode` the most probable record at each z."""
        z = rng.randint(self.values, n, self.variables).to(self.dtype)
        return self.emit(z, c, None if mode else rng)

    def emit(self, z: Float[Tensor, "B N"], c: Float[Tensor, "B C"] | None, rng: Rng | None) -> Float[Tensor, "B *shape"]:
        """A record for each row of codes: a draw from p(x | z), or its mode when `rng` is None."""
        return self.p_x.emit(self._params(z, c), rng)

    def _params(self, z: Tensor, c: Tensor | None) -> Tensor:
        return self.p_x(self._one_hot(indices(z, self.variables, self.values), z).flatten(1), c)

    def _encode(self, x: Tensor, c: Tensor | None) -> Tensor:
        return self._logits(x, c).argmax(-1).to(x.dtype)

    def _decode(self, z: Tensor, c: Tensor | None) -> Tensor:
        return self.emit(z, c, None)

    def _posterior(self, x: Tensor, c: Tensor | None) -> Distribution:
        return Independent(Categorical(logits=self._logits(x, c)), 1)

    def _likelihood(self, z: Tensor, c: Tensor | None) -> Distribution:
        return self.p_x.distribution(self._params(z, c))


def relaxed(logits: Float[Tensor, "*B K"], temperature: float, rng: Rng, *, hard: bool = False) -> Float[Tensor, "*B K"]:
    """softmax((logits + g) / t), g standard Gumbel; when `hard` its largest entry, one-hot, with that derivative."""
    u = rng.rand(*logits.shape).to(logits.dtype)
    g = -torch.log(-torch.log(u.clamp_min(torch.finfo(u.dtype).tiny)))
    y = ((logits + g) / temperature).softmax(-1)
    if not hard:
        return y
    return F.one_hot(y.argmax(-1), y.shape[-1]).to(y) + (y - y.detach())


def known_answers() -> Iterator[Known]:
    """Evidence, gap and gradients by enumeration of all codes, and of all pairs of codes; the Gumbel-max trick."""
    model = CategoricalVAE(variables=2, values=3, hidden=(5,), gradient="exact").build(DataSpec("points", (3,)), seed=1).double()
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(2.0)  # away from the uniform posterior
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    z = model.every_code()
    with torch.no_grad():
        joint = torch.stack([model.p_x.log_prob(model._params(k.double().expand(4, 2), None), x) for k in z], 1) - 2 * math.log(3)
        evidence = joint.logsumexp(1)
        log_q = model._posterior(x, None).log_prob(z[:, None].expand(-1, 4, -1)).T
    rounding = "rounding of sums of nine terms of order 10"
    ours = model._log_prob(x, None, Rng.seeded(0, x)).detach()
    yield Known("categorical vae: log p(x), all codes enumerated", 0.0, float((ours - evidence).abs().max()), 1e-12, rounding)
    elbo = -model._loss(Batch(x, None, torch.arange(4), Rng.seeded(0, x))).per_record
    kl = (log_q.exp() * (log_q - joint + evidence[:, None])).sum(1)
    gap = float((evidence - elbo.detach() - kl).abs().max())
    yield Known("categorical vae: log p(x) - ELBO - KL(q || posterior)", 0.0, gap, 1e-10, rounding)
    (exact,) = torch.autograd.grad(elbo.sum(), model.encoder_net.layers[-1].weight)  # pyright: ignore

    # E of the score-function gradient over two draws is the sum over all 81 pairs, weighted by q(z) q(z').
    pairs = torch.cartesian_prod(torch.arange(9), torch.arange(9))
    many, chosen = x.repeat_interleave(81, 0), z[pairs].repeat(4, 1, 1)
    logits = model._logits(many, None)
    weight = model._log_q(logits, chosen).sum(1).exp().detach()
    kl_all = (logits.exp() * logits).sum((1, 2))
    score = (weight * (-model.score_loss(logits, chosen, many, None) - kl_all)).sum()
    (mean,) = torch.autograd.grad(score, model.encoder_net.layers[-1].weight)  # pyright: ignore
    off = float((mean - exact).abs().max())
    yield Known("categorical vae: mean score-function gradient, all pairs of draws", 0.0, off, 1e-11, "rounding of sums of 324 terms")

    logits = torch.tensor([0.5, -1.0, 2.0, 0.0], dtype=torch.float64)
    n = 20_000
    y = relaxed(logits.expand(n, -1), 0.3, Rng.seeded(0, logits))
    p = logits.softmax(0)
    seen = torch.bincount(y.argmax(1), minlength=4).double()
    chi2 = float(((seen - n * p).square() / (n * p)).sum())
    why = "chi-squared with 3 degrees of freedom: above 21.1 with probability 1e-4, and half of that on one seed"
    yield Known("argmax of a Gumbel-softmax draw against softmax: chi^2 of 20,000", 0.0, chi2, 21.1, why)
