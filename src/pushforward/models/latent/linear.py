"""A linear-Gaussian VAE, all of whose answers are known, and the known answers of `VAE` from it."""

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from ...data.spec import DataSpec
from ...known import Known
from ...likelihoods import Gaussian
from ...objective import Batch
from ...rng import Rng

if TYPE_CHECKING:
    from .vae import VAE

__all__ = ["Given", "Nodes", "cubature", "full_params", "linear_gaussian", "set_encoder"]


def answers() -> Iterator[Known]:
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
    yield from _correlated()
    yield from _mixture()


def _correlated() -> Iterator[Known]:
    """A posterior whose dimensions are correlated: within reach of a full covariance, not of a diagonal one."""
    x = 2 * torch.randn(4, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    model, posterior = linear_gaussian(5, 2, correlated=True, posterior="full")
    evidence, mean, covariance = posterior(x)
    model.encoder = Given(full_params(mean, covariance))
    gap = float((model._log_prob(x, None, Rng.seeded(0, x), samples=1) - evidence).abs().max())
    rounding = "rounding of 1e-16 over some hundred operations on numbers of order 10"
    yield Known("linear VAE: a full covariance reaches log p(x) where the posterior is correlated", 0.0, gap, 1e-10, rounding)
    # The best diagonal q has the precisions of the posterior's diagonal, and KL = (sum log precision_ii - log |precision|) / 2.
    precision = torch.linalg.inv(covariance)
    model, _ = linear_gaussian(5, 2, correlated=True)
    set_encoder(model, mean, torch.diag(1 / precision.diagonal()))
    losses = [model._elbo_loss(Batch(x, None, torch.arange(4), Nodes(e))).per_record for e in cubature(2)]
    known = 0.5 * (precision.diagonal().log().sum() - torch.logdet(precision))
    ours = (evidence + torch.stack(losses).mean(0)).mean()
    yield Known("linear VAE: what the best diagonal q falls short by, nats", float(known), float(ours), 1e-10, rounding)


def _mixture() -> Iterator[Known]:
    """A Gaussian mixture as a VAE: z from K Gaussians, x = w z + b + s e. Evidence and posterior are mixtures, in closed form."""
    K = 3
    model, _ = linear_gaussian(1, 1, prior="mixture", prior_components=K, posterior="mixture", components=K)
    rng = Rng.seeded(5, torch.zeros((), dtype=torch.float64))
    assert model.p_z is not None
    prior, q = cast(Any, model.p_z), cast(Any, model.q_z)
    prior.logits.copy_(rng.randn(K))
    prior.log_var.copy_(rng.randn(K, 1) - 2)
    prior.mean.copy_(2 * rng.randn(K, 1))
    at = model._likelihood(torch.tensor([[0.0], [1.0]], dtype=torch.float64), None).mean[:, 0]
    b, w = at[0], at[1] - at[0]
    assert model.p_x.log_scale is not None
    s2 = Gaussian().parts(torch.stack([model.p_x.log_scale, model.p_x.log_scale]))[1].exp() ** 2
    x = 3 * rng.randn(6, 1)
    m, v, log_pi = prior.mean[:, 0], prior.log_var[:, 0].exp(), prior.logits.log_softmax(0)
    each = log_pi + torch.distributions.Normal(w * m + b, (w**2 * v + s2).sqrt()).log_prob(x)
    evidence = each.logsumexp(1)
    variance = 1 / (1 / v + w**2 / s2)
    mean = variance * (m / v + w * (x - b) / s2)
    model.encoder = Given(torch.cat([each, mean - q.start[:, 0], variance.log().expand(6, -1)], 1))
    rounding = "rounding of 1e-16 over some hundred operations on numbers of order 10"
    ours = model._log_prob(x, None, Rng.seeded(0, x), samples=1)
    yield Known(
        "Gaussian mixture: the weights equal p(x) when q is the posterior", 0.0, float((ours - evidence).abs().max()), 1e-10, rounding
    )

    # Any other q: ELBO and KL(q || p(z | x)) by quadrature over z (the trapezoid rule on smooth, vanishing functions).
    z = torch.linspace(-30, 30, 60_001, dtype=torch.float64)
    other = torch.distributions.Normal(mean.mean(1, keepdim=True) + 0.3, 0.8).log_prob(z)
    posterior = torch.distributions.Normal(mean[..., None], variance.sqrt()[:, None]).log_prob(z) + (each - evidence[:, None])[..., None]
    gap = torch.trapezoid(other.exp() * (other - posterior.logsumexp(1)), z)
    log_x = model.p_x.log_prob(model.p_x(z[:, None].repeat(6, 1)), x.repeat_interleave(len(z), 0)).view(6, -1)
    elbo = torch.trapezoid(other.exp() * (log_x + prior.log_prob(z[:, None]) - other), z)
    worst = float((evidence - elbo - gap).abs().max())
    yield Known("Gaussian mixture: log p(x) - ELBO(x) - KL(q || p(z | x))", 0.0, worst, 1e-9, "a step of 0.001 against widths over 0.05")


def linear_gaussian(
    dim: int, latent: int, seed: int = 0, *, correlated: bool = False, **hyper: Any
) -> "tuple[VAE, Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]]":
    """A VAE with linear networks in double precision, and x -> (log p(x), posterior means, posterior covariance), all exact.

    The columns of W are orthogonal, so that the posterior's covariance is diagonal and q can equal it; `correlated` turns them.
    """
    from .vae import VAE

    parts: dict[str, Any] = {"latent_dim": latent, "hidden": (), "likelihood": "gaussian-shared", **hyper}
    model = VAE(**parts).build(DataSpec("points", (dim,))).double().requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    W = torch.linalg.qr(torch.randn(dim, latent, generator=generator, dtype=torch.float64)).Q * torch.arange(1, latent + 1)
    if correlated:
        W = W @ torch.linalg.qr(torch.randn(latent, latent, generator=generator, dtype=torch.float64)).Q
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


def set_encoder(model: "VAE", mean: Tensor, covariance: Tensor) -> None:
    """Make q(z | x_i) = N(mean_i, diag covariance) for the records at hand, in their order."""
    log_var = covariance.diagonal().log()

    class Fixed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([mean[: len(x)] if len(x) <= len(mean) else mean[:1].expand(len(x), -1), log_var.expand(len(x), -1)], 1)

    model.encoder = Fixed()


class Given(nn.Module):
    """An encoder that gives the i-th record the i-th row of parameters."""

    def __init__(self, params: Tensor):
        super().__init__()
        self.params = params

    def forward(self, x: Tensor) -> Tensor:
        return self.params[: len(x)]


def full_params(mean: Tensor, covariance: Tensor) -> Tensor:
    """The parameters (B, P) of a full-covariance posterior N(mean_i, covariance)."""
    L = torch.linalg.cholesky(covariance)
    rows, columns = torch.tril_indices(len(L), len(L), -1)
    shape = torch.cat([2 * L.diagonal().log(), L[rows, columns]])
    return torch.cat([mean, shape.expand(len(mean), -1)], 1)


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
