"""A linear-Gaussian VAE, all of whose answers are known, and the known answers of `VAE` from it."""

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ...data.spec import DataSpec
from ...known import Known
from ...likelihoods import Gaussian
from ...objective import Batch
from ...rng import Rng

if TYPE_CHECKING:
    from .vae import VAE

__all__ = ["Nodes", "cubature", "linear_gaussian", "set_encoder"]


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


def linear_gaussian(dim: int, latent: int, seed: int = 0) -> "tuple[VAE, Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]]":
    """A VAE with linear networks in double precision, and x -> (log p(x), posterior means, posterior covariance), all exact.

    The columns of W are orthogonal, so that the posterior's covariance is diagonal and q can equal it.
    """
    from .vae import VAE

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


def set_encoder(model: "VAE", mean: Tensor, covariance: Tensor) -> None:
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
