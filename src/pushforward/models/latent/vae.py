r"""The variational autoencoder (Kingma & Welling 2014; Rezende et al. 2014).

A code z is drawn from the prior p(z) and a record from the likelihood p(x | z), whose parameters a decoder network computes; an
encoder network gives q(z | x) = N(mu(x), diag sigma(x)^2), an approximation to p(z | x). Training raises the evidence lower bound

    log p(x) >= ELBO(x) = E_q[log p(x | z)] - KL(q(z | x) || p(z)),

estimated with one reparametrised draw z = mu + sigma * eps, eps ~ N(0, I). The bound falls short of log p(x) by KL(q(z | x) || p(z | x)).
With K draws the importance-weighted bound (Burda et al. 2016, equation 8) is tighter, rises with K and tends to log p(x):

    L_K(x) = E[log (1/K) sum_k w_k],    w_k = p(x | z_k) p(z_k) / q(z_k | x).
"""

import math
from collections.abc import Callable, Iterator
from typing import Any, Literal, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

from ...ais import Joint
from ...data.features import Features
from ...data.spec import REAL, DataSpec
from ...decoders import Decoder
from ...errors import ConfigError
from ...known import Known
from ...likelihoods import HALF_LOG_2PI, Gaussian
from ...model import Batch, GradientModel, Model, Objective
from ...nn import encoder_for
from ...rng import Rng
from ...train import Loss, Training

__all__ = ["VAE"]

MEMORY = 2**21
"""Raw decoder outputs, or values of the widest dense layer, held at a time while the importance-weighted bound is computed: 8 MiB in
float32, about a core's cache."""


class VAE(GradientModel):
    """Variational autoencoder; `log_prob` is the K-sample importance-weighted lower bound.

    Parameters
    ----------
    latent_dim
        Dimensions of the code z. 20 is the size of the reference implementations on MNIST; 2 can be plotted.
    hidden
        Widths of the dense layers of the encoder, and in reverse order of the decoder. (400,) is Kingma & Welling's scale on MNIST; Burda
        et al. (2016) use (200, 200).
    network
        `auto` takes convolutions for images of at least 16 x 16 and dense layers otherwise.
    activation
        Between layers. ReLU trains fastest; Burda et al. use tanh.
    likelihood
        p(x | z). `auto` follows the data: Bernoulli for binary entries, discretised logistic for levels, categorical for
        categories, Gaussian with a learned scale per entry for reals (truncated to [0, 1] for `unit` data). `gaussian-unit` fixes the scale
        at 1 (of the standardised data), `gaussian-shared` learns one for all records (one per column in a table). In a mixed table the
        choice applies to the columns that it fits.
    beta
        Weight of the KL term in training (Higgins et al. 2017). 1 is the ELBO; the bound that `log_prob` reports is always the true one.
    samples
        K, draws of z per record in training; above 1 the objective is the importance-weighted bound (Burda et al. 2016).
    prior
        p(z): None for N(0, I), or a model of points with an exact density, trained together with the networks: `VAE(prior=RealNVP())`.
    encoder
        A network of your own, features (B, *shape) -> (B, 2 latent_dim), the mean and log-variance of q; called with the condition as
        second argument when there is one. None builds one from the data.
    decoder
        A network of your own, (B, latent_dim) -> the raw parameters of p(x | z), (B, D * P) in any shape; see `pushforward.likelihoods`.

    Notes
    -----
    Terms reported in training, in nats per record: `reconstruction` = -E_q[log p(x | z)] and `kl` = KL(q || p(z)), in closed form for the
    standard prior and by the same draw of z otherwise.

    `decode` gives the most probable record at z, always a valid one; `likelihood(z).mean` gives its mean.

    Raises `DataError` when the likelihood does not fit the data, naming the one that does.
    """

    name = "vae"
    density = "bound"
    estimator = "the importance-weighted bound, K = 100"
    training = Training(lr=1e-3, schedule="cosine")

    def __init__(
        self,
        *,
        latent_dim: int = 20,
        hidden: tuple[int, ...] = (400,),
        network: Literal["auto", "mlp", "conv"] = "auto",
        activation: Literal["relu", "leaky_relu", "elu", "silu", "gelu", "tanh", "softplus"] = "relu",
        likelihood: Literal["auto", "bernoulli", "gaussian", "gaussian-unit", "gaussian-shared", "discretised", "categorical"] = "auto",
        beta: float = 1.0,
        samples: int = 1,
        prior: Model | None = None,
        encoder: nn.Module | None = None,
        decoder: nn.Module | None = None,
    ):
        super().__init__()
        self.latent_dim = latent_dim
        self.hidden = hidden
        self.network = network
        self.activation = activation
        self.likelihood_ = likelihood
        self.beta = beta
        self.samples = samples
        self.prior = prior
        self.encoder = encoder
        self.decoder = decoder

    def _build(self, spec: DataSpec) -> None:
        self._check_hyperparameters()
        features = Features(spec)
        # Dense and convolutional layers absorb the map {0, 1} -> {-1, 1}, so binary records go in as they are.
        self._features = None if spec.support is not None and spec.support.name in ("binary", "real") else features
        net: dict[str, Any] = {"network": self.network, "activation": self.activation}
        self.networks = nn.ModuleDict()
        if self.encoder is None:
            sizes = {"hidden": self.hidden, "condition_dim": spec.condition_dim}
            self.networks["encoder"] = encoder_for(features.shape, 2 * self.latent_dim, **sizes, **net)
        self.p_x = Decoder(spec, self.latent_dim, likelihood=self.likelihood_, hidden=self.hidden[::-1], own=self.decoder, **net)
        if self.prior is not None:
            self.prior.build(DataSpec("points", (self.latent_dim,), (REAL,)))
            if self.prior.density != "exact" or not isinstance(self.prior, GradientModel):
                raise ConfigError(
                    f"prior={self.prior.name} cannot be trained together with a VAE: that needs an exact density with gradients, such as "
                    f"RealNVP(). Fit it afterwards instead: LatentPrior(VAE(), {type(self.prior).__name__}())."
                )

    def _check_hyperparameters(self) -> None:
        for name in ("latent_dim", "samples"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if self.beta < 0:
            raise ConfigError(f"beta must not be negative, got {self.beta}.")

    # -- the two networks -------------------------------------------------------------------------------------------------

    def _gaussian(self, x: Tensor, c: Tensor | None) -> tuple[Tensor, Tensor]:
        """(mu, log sigma^2) of q(z | x), each (B, d)."""
        f = x if self._features is None else self._features.encode(x)
        net = self.encoder if self.encoder is not None else self.networks["encoder"]
        h = net(f) if c is None else net(f, c)
        mu, log_var = h.to(x.dtype).chunk(2, 1)
        return mu, log_var

    # -- training ---------------------------------------------------------------------------------------------------------

    def _objectives(self) -> tuple[Objective, ...]:
        loss = self._importance_loss if self.samples > 1 or self.prior is not None else self._elbo_loss
        return (Objective("vae", (self,), loss),)

    def _elbo_loss(self, batch: Batch) -> Loss:
        """-ELBO with one draw of z and the closed form KL = sum (mu^2 + sigma^2 - log sigma^2 - 1) / 2."""
        x = batch.x
        mu, log_var = self._gaussian(x, batch.c)
        sigma = torch.exp(0.5 * log_var)
        z = torch.addcmul(mu, sigma, batch.rng.randn(*mu.shape))
        reconstruction = -self.p_x.log_prob(self.p_x(z, batch.c), x)
        kl = 0.5 * (mu.square() + sigma.square() - log_var - 1.0).sum(1)
        loss = reconstruction + kl if self.beta == 1.0 else reconstruction + self.beta * kl
        return Loss(loss, {"reconstruction": reconstruction, "kl": kl})

    def _importance_loss(self, batch: Batch) -> Loss:
        """-L_K: minus the log of the mean of K importance weights; with K = 1, the ELBO with its KL by Monte Carlo."""
        log_w, log_x, log_ratio = self._log_weights(batch.x, batch.c, batch.rng, self.samples, self._log_prior(batch.rng), self.beta)
        terms = {"reconstruction": -log_x.mean(1), "kl": -log_ratio.mean(1)}
        return Loss(math.log(self.samples) - log_w.logsumexp(1), terms)

    def _log_weights(
        self,
        x: Tensor,
        c: Tensor | None,
        rng: Rng,
        samples: int,
        log_prior: Callable[[Tensor, Tensor | None], Tensor],
        beta: float = 1.0,
        q: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """K draws from q: log w = log p(x|z) + beta (log p(z) - log q(z|x)), and its two parts, each (B, K)."""
        mu, log_var = self._gaussian(x, c) if q is None else q
        B, d = mu.shape
        eps = rng.randn(B, samples, d)
        z = (mu[:, None] + torch.exp(0.5 * log_var)[:, None] * eps).reshape(B * samples, d)
        log_q = (-0.5 * eps.square()).sum(2) - (0.5 * log_var.sum(1) + d * HALF_LOG_2PI)[:, None]
        x_k = x if samples == 1 else x.repeat_interleave(samples, 0)
        c_k = c if c is None or samples == 1 else c.repeat_interleave(samples, 0)
        log_x = self.p_x.log_prob(self.p_x(z, c_k), x_k).view(B, samples)
        log_ratio = log_prior(z, c_k).view(B, samples) - log_q
        return log_x + beta * log_ratio, log_x, log_ratio

    def _log_prior(self, rng: Rng) -> Callable[[Tensor, Tensor | None], Tensor]:
        """Log p(z): (B, d) -> (B,)."""
        if self.prior is None:
            return lambda z, c: -0.5 * z.square().sum(1) - z.shape[1] * HALF_LOG_2PI
        prior: Any = self.prior
        return lambda z, c: prior._log_prob(z, None, rng)

    # -- verbs ------------------------------------------------------------------------------------------------------------

    def _log_prob(self, x: Tensor, c: Tensor | None, rng: Rng, *, samples: int = 100) -> Float[Tensor, " B"]:
        """The importance-weighted bound L_K with K = `samples`, in steps over K so that memory does not grow with it."""
        if samples < 1:
            raise ConfigError(f"samples must be at least 1, got {samples}.")
        return self.importance_bound(x, c, rng, samples, self._log_prior(rng))

    def importance_bound(
        self,
        x: Float[Tensor, "B *shape"],
        c: Float[Tensor, "B C"] | None,
        rng: Rng,
        samples: int,
        log_prior: Callable[[Tensor, Tensor | None], Tensor],
    ) -> Float[Tensor, " B"]:
        """log (1/K) sum_k p(x | z_k) p(z_k) / q(z_k | x) with any log p(z) (or log p(z | c)), on values that a hook takes."""
        rows = max(1, MEMORY // max(self.p_x.outputs, self.latent_dim, *self.hidden))
        if len(x) > rows:
            parts = zip(x.split(rows), [None] * len(x) if c is None else c.split(rows))
            return torch.cat([self.importance_bound(a, b, rng, samples, log_prior) for a, b in parts])
        q, step = self._gaussian(x, c), max(1, rows // max(1, len(x)))
        total = x.new_full((len(x),), -math.inf)
        for start in range(0, samples, step):
            log_w, _, _ = self._log_weights(x, c, rng, min(step, samples - start), log_prior, q=q)
            total = torch.logaddexp(total, log_w.logsumexp(1))
        return total - math.log(samples)

    def _sample(self, n: int, c: Tensor | None, rng: Rng, *, mode: bool = False) -> Tensor:
        """Records drawn from p(x | z), z from the prior; with `mode` the most probable record at each z."""
        prior: Any = self.prior
        z = rng.randn(n, self.latent_dim) if prior is None else prior._sample(n, None, rng)
        return self.emit(z, c, None if mode else rng)

    def emit(self, z: Float[Tensor, "B d"], c: Float[Tensor, "B C"] | None, rng: Rng | None) -> Float[Tensor, "B *shape"]:
        """A record for each code: a draw from p(x | z), or its mode when `rng` is None."""
        return self.p_x.emit(self.p_x(z, c), rng)

    def _encode(self, x: Tensor, c: Tensor | None) -> Tensor:
        return self._gaussian(x, c)[0]

    def _decode(self, z: Tensor, c: Tensor | None) -> Tensor:
        return self.emit(z, c, None)

    def _posterior(self, x: Tensor, c: Tensor | None) -> Distribution:
        mu, log_var = self._gaussian(x, c)
        return Independent(Normal(mu, torch.exp(0.5 * log_var)), 1)

    def _joint(self) -> Joint:
        def draw(n: int, c: Tensor | None, rng: Rng) -> Tensor:
            return rng.randn(n, self.latent_dim) if self.prior is None else cast(Any, self.prior)._sample(n, None, rng)

        exact = Rng.seeded(0, next(self.parameters()))  # exact densities draw nothing
        return Joint(draw, self._log_prior(exact), self.emit, lambda x, z, c: self.p_x.log_prob(self.p_x(z, c), x))

    def _likelihood(self, z: Tensor, c: Tensor | None) -> Distribution:
        return self.p_x.distribution(self.p_x(z, c))


def known_answers() -> Iterator[Known]:
    """A linear-Gaussian VAE, x = W z + b + s e, whose evidence N(b, W W^T + s^2 I) and posterior are known in closed form."""
    generator = torch.Generator().manual_seed(0)
    model, posterior = linear_gaussian(5, 2)
    x = 2 * torch.randn(4, 5, generator=generator, dtype=torch.float64)
    evidence, mean, covariance = posterior(x)
    rounding = "rounding of 1e-16 over some hundred operations on numbers of order 10"

    # With q = p(z | x) every weight p(x | z) p(z) / q(z | x) is p(x), whatever z was drawn.
    set_encoder(model, mean, covariance)
    ours = model._log_prob(x, None, Rng.seeded(0, x), samples=1)
    yield Known("linear VAE: the weights equal p(x) when q is the posterior", 0.0, float((ours - evidence).abs().max()), 1e-10, rounding)

    # With another q, E_q over the quadratic log-weights is exact over the nodes +-sqrt(d) e_i, and the gap is KL(q || p(z | x)).
    set_encoder(model, 0.5 * mean + 0.3, torch.diag(torch.tensor([0.7, 2.0], dtype=torch.float64)))
    q, p = model._posterior(x, None), torch.distributions.MultivariateNormal(mean, covariance)
    gap = torch.distributions.kl_divergence(torch.distributions.MultivariateNormal(q.mean, torch.diag_embed(q.variance)), p)
    losses = [model._elbo_loss(Batch(x, None, torch.arange(4), Nodes(e))).per_record for e in cubature(2)]
    elbo = -torch.stack(losses).mean(0)
    yield Known("linear VAE: log p(x) - ELBO(x) - KL(q || p(z | x))", 0.0, float((evidence - elbo - gap).abs().max()), 1e-10, rounding)

    # E[log mean_K w] falls short of log p(x) by about Var(w / p(x)) / (2 K).
    repeats = x[:1].expand(400, -1)
    rng = Rng.seeded(1, x)
    bounds = {k: model._log_prob(repeats, None, rng, samples=k) for k in (1, 10, 1000)}
    means, errors = [float(b.mean()) for b in bounds.values()], [float(b.std()) / 20 for b in bounds.values()]
    rises = means[0] < means[1] < means[2]
    yield Known("linear VAE: L_1 < L_10 < L_1000", 1.0, float(rises), 0.0, "400 repeats: the steps are over 10 standard errors")
    log_w, _, _ = model._log_weights(repeats, None, rng, 1000, model._log_prior(rng))
    short = float(torch.exp(2 * (log_w - evidence[0])).mean() - 1) / 2000
    yield Known(
        "linear VAE: log p(x) - L_1000",
        0.0,
        float(evidence[0]) - means[2],
        2 * short + 4 * errors[2],
        "twice Var(w / p(x)) / 2K, estimated, and 4 standard errors",
    )


def linear_gaussian(dim: int, latent: int, seed: int = 0) -> tuple[VAE, Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]]:
    """A VAE with linear networks in double precision, and x -> (log p(x), posterior means, posterior covariance), all exact.

    The columns of W are orthogonal, so that the posterior's covariance is diagonal and q can equal it.
    """
    model = VAE(latent_dim=latent, hidden=(), likelihood="gaussian-shared").build(DataSpec("points", (dim,))).double().requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    W = torch.linalg.qr(torch.randn(dim, latent, generator=generator, dtype=torch.float64)).Q * torch.arange(1, latent + 1)
    b = torch.randn(dim, generator=generator, dtype=torch.float64)
    layer: Any = model.p_x.net
    with torch.no_grad():
        layer.layers[0].weight.copy_(W)
        layer.layers[0].bias.copy_(b)
    assert model.p_x.log_scale is not None
    s = Gaussian().parts(torch.stack([model.p_x.log_scale, model.p_x.log_scale]))[1].exp().detach()

    def exact(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        eye = torch.eye(dim, dtype=x.dtype)
        evidence = torch.distributions.MultivariateNormal(b, W @ W.T + s**2 * eye).log_prob(x)
        covariance = torch.linalg.inv(torch.eye(latent, dtype=x.dtype) + W.T @ W / s**2)
        return evidence, (x - b) @ W @ covariance / s**2, covariance

    return model, exact


def set_encoder(model: VAE, mean: Tensor, covariance: Tensor) -> None:
    """Make q(z | x_i) = N(mean_i, diag covariance) for the records at hand, in their order."""
    log_var = covariance.diagonal().log()

    class Fixed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([mean[: len(x)] if len(x) <= len(mean) else mean[:1].expand(len(x), -1), log_var.expand(len(x), -1)], 1)

    model.encoder = Fixed()


def cubature(d: int) -> Tensor:
    """2d nodes +-sqrt(d) e_i: their mean integrates polynomials up to degree 3 exactly against N(0, I)."""
    return math.sqrt(d) * torch.cat([torch.eye(d, dtype=torch.float64), -torch.eye(d, dtype=torch.float64)])


class Nodes(Rng):
    """A source of `noise` that returns one given node."""

    def __init__(self, node: Tensor):
        super().__init__(torch.Generator(), node.device, node.dtype)
        self.node = node

    def randn(self, *shape: int) -> Tensor:
        return self.node.expand(shape)
