r"""The variational autoencoder (Kingma & Welling 2014; Rezende et al. 2014).

A code z is drawn from the prior p(z) and a record from the likelihood p(x | z), whose parameters a decoder network computes; an
encoder network gives q(z | x) = N(mu(x), diag sigma(x)^2), an approximation to p(z | x). Training raises the evidence lower bound

    log p(x) >= ELBO(x) = E_q[log p(x | z)] - KL(q(z | x) || p(z)),

estimated with one reparametrised draw z = mu + sigma * eps, eps ~ N(0, I). The bound falls short of log p(x) by KL(q(z | x) || p(z | x)).
With K draws the importance-weighted bound (Burda et al. 2016, equation 8) is tighter, rises with K and tends to log p(x):

    L_K(x) = E[log (1/K) sum_k w_k],    w_k = p(x | z_k) p(z_k) / q(z_k | x).

Prior (`priors.py`), posterior (`posteriors`), likelihood (`decoders.py`) and bound (`bounds.py`) are parts: this is where they meet.
"""

import math
from collections.abc import Iterator
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution

from ...ais import Joint
from ...data import Data
from ...data.features import Features
from ...data.spec import REAL, DataSpec
from ...decoders import Decoder
from ...errors import ConfigError
from ...known import Known
from ...metrics.codes import active_units
from ...model import Batch, GradientModel, Model, Objective
from ...nn import encoder_for
from ...posteriors import posterior_for
from ...priors import MixturePrior, Prior, StandardNormal, VampPrior
from ...rng import Rng
from ...train import Loss, Training
from .bounds import dreg, free_bits, log_mean_weight, score_surrogate
from .vae_parts import LogPrior, ModelPrior, check_hyperparameters, fitted_params

__all__ = ["VAE"]

QUICK = 20
"""Steps of Adam for a validation record's parameters, when q is not amortised."""
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
    posterior
        q(z | x): `diagonal` (Kingma & Welling 2014) or `full` covariance, a `mixture` of diagonal Gaussians (Morningstar et al. 2021), or a
        `planar` (Rezende & Mohamed 2015) or inverse autoregressive (`iaf`, Kingma et al. 2016) flow. See `pushforward.posteriors`.
    components
        Of a mixture posterior; each costs a draw in training.
    flow_layers
        Of a flow posterior. Kingma et al. use 2 to 8 for iaf, Rezende & Mohamed 10 and more for planar.
    amortised
        Whether an encoder gives q's parameters. False gives every training record free parameters of its own (stochastic variational
        inference, Hoffman et al. 2013); a new record's are then fitted by Adam whenever they are needed.
    inference_steps
        Steps of Adam for the parameters of new records when not amortised; validation in training takes 20 of them at most.
    prior
        p(z): None for N(0, I); `mixture` of learned diagonal Gaussians; `vamp`, the encoder's own q at learned pseudo-inputs (Tomczak &
        Welling 2018); or a model of points with an exact density, trained together with the networks: `VAE(prior=RealNVP())`.
    prior_components
        Of the mixture, or pseudo-inputs. Tomczak & Welling take 500 for MNIST.
    samples
        K, draws of z per record in training; above 1 the objective is the importance-weighted bound (Burda et al. 2016).
    beta
        Weight of the KL term in training (Higgins et al. 2017). 1 is the ELBO.
    anneal
        Share of the budget over which that weight rises from 0 (Sonderby et al. 2016); 0 for none.
    free_bits
        Nats that each dimension of the code may say at no cost (Kingma et al. 2016, equation 15): a remedy for posterior collapse. For a
        whole code of `latent_dim` times as many where the KL has no closed form. 0 for none.
    gradient
        Of the bound by q's parameters: `reparametrised`; `doubly` reparametrised, of lower variance (Tucker et al. 2019; for K = 1, Roeder
        et al. 2017); or `score`, the score function with a baseline, without derivatives of p(x | z) (Williams 1992; VIMCO for K > 1).
    encoder
        A network of your own, features (B, *shape) -> (B, P), the parameters of q: (B, 2 latent_dim), mean and log-variance, when it is
        diagonal; called with the condition as second argument when there is one. None builds one from the data.
    decoder
        A network of your own, (B, latent_dim) -> the raw parameters of p(x | z), (B, D * P) in any shape; see `pushforward.likelihoods`.

    Notes
    -----
    Terms reported in training, in nats per record: `reconstruction` = -E_q[log p(x | z)] and `kl` = KL(q || p(z)), in closed form where
    there is one and by the same draws of z otherwise; in validation also `active units`. The loss on held-out records, by which the best
    weights are kept, is the true bound: beta, annealing and free bits are left out of it, as they are of `log_prob`.

    `decode` gives the most probable record at z, always a valid one; `likelihood(z).mean` gives its mean. `encode` gives q's mean (a
    flow's image of its base's mean).

    Raises `DataError` when the likelihood does not fit the data, naming the one that does, and `ConfigError` for parts that do not go
    together.
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
        likelihood: Literal[
            "auto",
            "bernoulli",
            "continuous-bernoulli",
            "gaussian",
            "gaussian-unit",
            "gaussian-shared",
            "gaussian-optimal",
            "discretised",
            "logistic-mixture",
            "categorical",
        ] = "auto",
        posterior: Literal["diagonal", "full", "mixture", "planar", "iaf"] = "diagonal",
        components: int = 5,
        flow_layers: int = 4,
        amortised: bool = True,
        inference_steps: int = 100,
        prior: Model | Literal["mixture", "vamp"] | None = None,
        prior_components: int = 500,
        samples: int = 1,
        beta: float = 1.0,
        anneal: float = 0.0,
        free_bits: float = 0.0,
        gradient: Literal["reparametrised", "doubly", "score"] = "reparametrised",
        encoder: nn.Module | None = None,
        decoder: nn.Module | None = None,
    ):
        super().__init__()
        self.latent_dim, self.hidden, self.network, self.activation = latent_dim, hidden, network, activation
        self.likelihood_ = likelihood
        self.posterior_, self.components, self.flow_layers = posterior, components, flow_layers
        self.amortised, self.inference_steps = amortised, inference_steps
        self.prior, self.prior_components = prior, prior_components
        self.samples, self.beta, self.anneal, self.free_bits, self.gradient = samples, beta, anneal, free_bits, gradient
        self.encoder = encoder
        self.decoder = decoder

    def _build(self, spec: DataSpec) -> None:
        self.q_z = posterior_for(self.posterior_, self.latent_dim, components=self.components, layers=self.flow_layers)
        check_hyperparameters(self)
        self._features = features = Features(spec)
        net: dict[str, Any] = {"network": self.network, "activation": self.activation}
        self.networks = nn.ModuleDict()
        if self.encoder is None and self.amortised:
            sizes = {"hidden": self.hidden, "condition_dim": spec.condition_dim}
            self.networks["encoder"] = encoder_for(features.shape, self.q_z.n_params, **sizes, **net)
        if not self.amortised:
            self.phi = nn.Parameter(torch.empty(0, self.q_z.n_params))  # sized by `_prepare`, or by the weights that are loaded
        self.p_x = Decoder(spec, self.latent_dim, likelihood=self.likelihood_, hidden=self.hidden[::-1], own=self.decoder, **net)
        self.p_z = None
        if self.prior == "mixture":
            self.p_z = MixturePrior(self.latent_dim, self.prior_components)
        elif self.prior == "vamp":
            bounded = torch.zeros(features.dim, dtype=torch.bool)
            for _, support, at in features.blocks:
                bounded[at] = support.name != "real"
            low = 0.0 if features.as_they_are else -1.0
            self.p_z = VampPrior(self.prior_components, bounded.view(features.shape), low, spec.condition_dim)
        elif isinstance(self.prior, Model):
            self.prior.build(DataSpec("points", (self.latent_dim,), (REAL,)))
            if self.prior.density != "exact" or not isinstance(self.prior, GradientModel):
                raise ConfigError(
                    f"prior={self.prior.name} cannot be trained together with a VAE: that needs an exact density with gradients, such as "
                    f"RealNVP(). Fit it afterwards instead: LatentPrior(VAE(), {type(self.prior).__name__}())."
                )

    @torch.no_grad()
    def _prepare(self, data: Data, seed: int) -> None:
        """Free parameters for each training record; pseudo-inputs that begin as training records."""
        if not self.amortised:
            self.phi = nn.Parameter(self.q_z.initial(len(data.train)).to(self.device, self.dtype).clone())
        if isinstance(self.p_z, VampPrior):
            order = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(seed))
            index = order[torch.arange(self.prior_components) % len(order)]
            x, c = data.train.batch(index, Rng.seeded(seed, torch.zeros((), dtype=self.dtype)))
            self.p_z.start_at(self._features.see(x), c)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        phi = state_dict.get(f"{prefix}phi")
        if phi is not None and not self.amortised and phi.shape != self.phi.shape:
            self.phi = nn.Parameter(self.phi.new_empty(phi.shape))
        super()._load_from_state_dict(state_dict, prefix, *rest)

    @property
    def inference_parameters(self) -> int:
        """How many numbers inference has learned: an encoder's weights, or N P for N training records of their own."""
        own = [self.q_z, self.networks, *([self.encoder] if self.encoder is not None else [])]
        return sum(p.numel() for m in own for p in m.parameters()) + (0 if self.amortised else self.phi.numel())

    # -- q(z | x) ---------------------------------------------------------------------------------------------------------

    def _params(self, x: Tensor, c: Tensor | None, index: Tensor | None = None, *, quick: bool = False) -> Float[Tensor, "B P"]:
        """The parameters of q(z | x): the encoder's, a training record's own (`index`), or fitted ones."""
        if self.amortised:
            return self._encoder(self._features.see(x), c).to(x.dtype)
        if index is not None and torch.is_grad_enabled():
            return self.phi[index.to(self.phi.device)]
        return fitted_params(self, x, c, min(self.inference_steps, QUICK) if quick else self.inference_steps)

    def _encoder(self, features: Tensor, c: Tensor | None) -> Tensor:
        net = self.encoder if self.encoder is not None else self.networks["encoder"]
        return net(features) if c is None else net(features, c)

    def _gaussian(self, x: Tensor, c: Tensor | None) -> tuple[Tensor, Tensor]:
        """(mu, log sigma^2) of a diagonal q(z | x), each (B, d)."""
        mu, log_var = self._params(x, c).chunk(2, 1)
        return mu, log_var

    # -- training ---------------------------------------------------------------------------------------------------------

    def _objectives(self) -> tuple[Objective, ...]:
        loss = self._elbo_loss if self.samples == 1 and self.gradient == "reparametrised" else self._importance_loss
        return (Objective("vae", (self,), loss),)

    def _weight(self, batch: Batch) -> float:
        """Of the KL term: beta, annealed; 1 when a loss is only judged."""
        if not torch.is_grad_enabled():
            return 1.0
        return self.beta if not self.anneal else self.beta * min(1.0, batch.progress / self.anneal)

    def _elbo_loss(self, batch: Batch) -> Loss:
        """-ELBO with one draw of z (of each component of a mixture)."""
        judged = not torch.is_grad_enabled()
        params = self._params(batch.x, batch.c, batch.index, quick=judged)
        if self.prior is None and self.posterior_ == "diagonal":  # the common case, in as few operations as it takes
            mu, log_var = params.chunk(2, 1)
            sigma = torch.exp(0.5 * log_var)
            z = torch.addcmul(mu, sigma, batch.rng.randn(*mu.shape))
            reconstruction = -self.p_x.log_prob(self.p_x(z, batch.c), batch.x)
            parts = mu.square() + sigma.square() - log_var - 1.0
            kl = 0.5 * parts.sum(1)
            parts = 0.5 * parts if self.free_bits else parts
        else:
            reconstruction, parts = self._two_terms(batch.x, batch.c, params, batch.rng, self._log_prior(batch.rng))
            kl = parts.sum(1)
        beta, priced = self._weight(batch), kl
        if self.free_bits and not judged:
            priced = free_bits(parts, self.free_bits * self.latent_dim / parts.shape[1]).sum(1)
        terms = {"reconstruction": reconstruction, "kl": kl}
        if judged:
            terms["active units"] = (
                reconstruction.new_tensor(float(active_units(self.q_z.centre(params)))) if len(kl) > 1 else kl.new_zeros(())
            )
        return Loss(reconstruction + priced if beta == 1.0 else reconstruction + beta * priced, terms)

    def _two_terms(
        self, x: Tensor, c: Tensor | None, params: Tensor, rng: Rng, log_prior: LogPrior, samples: int = 1
    ) -> tuple[Tensor, Tensor]:
        """-E_q[log p(x | z)] (B,) and KL(q || p(z)) (B, G), in closed form where there is one, by draws (of each stratum) otherwise."""
        draws = self.q_z.draw(params, samples, rng, strata=True)
        log_x, log_p = self._two_densities(x, c, draws.z, log_prior)
        share = torch.full_like(log_x, 1 / samples) if draws.log_share is None else draws.log_share.exp()
        kl = self.q_z.kl(params) if self.prior is None else None
        return -(share * log_x).sum(1), (share * (draws.log_q - log_p)).sum(1, keepdim=True) if kl is None else kl

    def _two_densities(self, x: Tensor, c: Tensor | None, z: Tensor, log_prior: LogPrior) -> tuple[Tensor, Tensor]:
        """log p(x | z) and log p(z) of codes (B, S, d), each (B, S)."""
        B, S, d = z.shape
        flat = z.reshape(B * S, d)
        x_k = x if S == 1 else x.repeat_interleave(S, 0)
        c_k = c if c is None or S == 1 else c.repeat_interleave(S, 0)
        return self.p_x.log_prob(self.p_x(flat, c_k), x_k).view(B, S), log_prior(flat, c_k).view(B, S)

    def _importance_loss(self, batch: Batch) -> Loss:
        """-L_K: minus the log of the mean of K importance weights; with K = 1, the ELBO with its KL by Monte Carlo."""
        x, c, beta = batch.x, batch.c, self._weight(batch)
        judged = not torch.is_grad_enabled()
        params, log_prior = self._params(x, c, batch.index, quick=judged), self._log_prior(batch.rng)
        gradient = "reparametrised" if judged else self.gradient
        draws = self.q_z.draw(params, self.samples, batch.rng, strata=gradient != "score")
        seen: list[Tensor] = []

        def log_weights(z: Tensor, log_q: Tensor) -> Tensor:
            log_x, log_p = self._two_densities(x, c, z, log_prior)
            seen[:] = log_x, log_p - log_q
            return log_x + beta * seen[1]

        if gradient == "score":
            z = draws.z.detach()
            log_q = self.q_z.log_prob(params, z)
            bound = score_surrogate(log_weights(z, log_q), log_q)
        elif gradient == "doubly":
            log_w = dreg(draws.z, lambda z: log_weights(z, self.q_z.log_prob(params.detach(), z)), beta)
            bound = self._mean_weight(log_w, draws.log_share)
        else:
            bound = self._mean_weight(log_weights(draws.z, draws.log_q), draws.log_share)
        log_x, log_ratio = seen
        share = torch.full_like(log_x, 1 / log_x.shape[1]) if draws.log_share is None else draws.log_share.exp()
        return Loss(-bound, {"reconstruction": -(share * log_x).sum(1), "kl": -(share * log_ratio).sum(1)})

    def _mean_weight(self, log_w: Tensor, log_share: Tensor | None) -> Tensor:
        """L_K, or with one draw of each stratum the ELBO."""
        if log_share is not None and self.samples == 1:
            return (log_share.exp() * log_w).sum(1)
        return log_mean_weight(log_w, log_share)

    def _log_weights(
        self, x: Tensor, c: Tensor | None, rng: Rng, samples: int, log_prior: LogPrior, q: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """K draws from q: log w = log p(x|z) + log p(z) - log q(z|x), and its two parts, each (B, K)."""
        draws = self.q_z.draw(self._params(x, c) if q is None else q, samples, rng)
        log_x, log_p = self._two_densities(x, c, draws.z, log_prior)
        log_ratio = log_p - draws.log_q
        return log_x + log_ratio, log_x, log_ratio

    # -- p(z) -------------------------------------------------------------------------------------------------------------

    def _prior_now(self, rng: Rng) -> Prior:
        """p(z) as its parameters are now; `rng` for those whose density draws."""
        if isinstance(self.p_z, VampPrior):
            return self.p_z.at(self._encoder, self.q_z)
        if self.p_z is not None:
            return self.p_z
        return ModelPrior(self.prior, rng) if isinstance(self.prior, Model) else StandardNormal(self.latent_dim)

    def _log_prior(self, rng: Rng) -> LogPrior:
        """Log p(z): (B, d) -> (B,)."""
        prior = self._prior_now(rng)
        return lambda z, c: prior.log_prob(z)

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
        log_prior: LogPrior,
    ) -> Float[Tensor, " B"]:
        """log (1/K) sum_k p(x | z_k) p(z_k) / q(z_k | x) with any log p(z) (or log p(z | c)), on values that a hook takes."""
        width = max(self.p_x.outputs, self.latent_dim, *self.hidden, 0 if self.p_z is None else 2 * self.prior_components)
        rows = max(1, MEMORY // width)
        if len(x) > rows:
            parts = zip(x.split(rows), [None] * len(x) if c is None else c.split(rows))
            return torch.cat([self.importance_bound(a, b, rng, samples, log_prior) for a, b in parts])
        q, step = self._params(x, c), max(1, rows // max(1, len(x)))
        total = x.new_full((len(x),), -math.inf)
        for start in range(0, samples, step):
            log_w, _, _ = self._log_weights(x, c, rng, min(step, samples - start), log_prior, q=q)
            total = torch.logaddexp(total, log_w.logsumexp(1))
        return total - math.log(samples)

    def _sample(self, n: int, c: Tensor | None, rng: Rng, *, mode: bool = False) -> Tensor:
        """Records drawn from p(x | z), z from the prior; with `mode` the most probable record at each z."""
        return self.emit(self._prior_now(rng).sample(n, rng), c, None if mode else rng)

    def emit(self, z: Float[Tensor, "B d"], c: Float[Tensor, "B C"] | None, rng: Rng | None) -> Float[Tensor, "B *shape"]:
        """A record for each code: a draw from p(x | z), or its mode when `rng` is None."""
        return self.p_x.emit(self.p_x(z, c), rng)

    def _encode(self, x: Tensor, c: Tensor | None) -> Tensor:
        return self.q_z.centre(self._params(x, c))

    def _decode(self, z: Tensor, c: Tensor | None) -> Tensor:
        return self.emit(z, c, None)

    def _posterior(self, x: Tensor, c: Tensor | None) -> Distribution:
        return self.q_z.distribution(self._params(x, c))

    def active_units(self, records: Any, *, condition: Any = None) -> int:
        """Dimensions of the code whose posterior mean varies over these records (variance above 0.01; Burda et al. 2016)."""
        return active_units(self.encode(records, condition=condition))

    def _joint(self) -> Joint:
        def draw(n: int, c: Tensor | None, rng: Rng) -> Tensor:
            return self._prior_now(rng).sample(n, rng)

        exact = Rng.seeded(0, next(self.parameters()))  # exact densities draw nothing
        return Joint(draw, self._log_prior(exact), self.emit, lambda x, z, c: self.p_x.log_prob(self.p_x(z, c), x))

    def _likelihood(self, z: Tensor, c: Tensor | None) -> Distribution:
        return self.p_x.distribution(self.p_x(z, c))


def known_answers() -> Iterator[Known]:
    """Those of a linear-Gaussian VAE."""
    from .linear import answers

    yield from answers()
