"""Gaussian posteriors: diagonal, with full covariance, and mixtures."""

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Categorical, Distribution, Independent, MixtureSameFamily, MultivariateNormal, Normal

from ..likelihoods import HALF_LOG_2PI
from ..rng import Rng
from .base import Draws, Posterior, normal_log_prob

__all__ = ["Diagonal", "FullCovariance", "Mixture", "diagonal_pairwise"]


class Diagonal(Posterior):
    """N(mu, diag sigma^2): parameters mu and log sigma^2 (Kingma & Welling 2014)."""

    name = "diagonal"

    def __init__(self, dim: int):
        super().__init__(dim)
        self.n_params = 2 * dim

    def draw(self, params: Tensor, samples: int, rng: Rng, *, strata: bool = False) -> Draws:
        mu, log_var = params.chunk(2, 1)
        eps = rng.randn(len(mu), samples, self.dim)
        z = mu[:, None] + torch.exp(0.5 * log_var)[:, None] * eps
        log_q = (-0.5 * eps.square()).sum(2) - (0.5 * log_var.sum(1) + self.dim * HALF_LOG_2PI)[:, None]
        return Draws(z, log_q)

    def log_prob(self, params: Tensor, z: Tensor) -> Tensor:
        mu, log_var = params[:, None].chunk(2, 2)
        return normal_log_prob(z, mu, log_var)

    def centre(self, params: Tensor) -> Tensor:
        return params[:, : self.dim]

    def kl(self, params: Tensor) -> Tensor:
        """(mu^2 + sigma^2 - log sigma^2 - 1) / 2 for each dimension, (B, d)."""
        mu, log_var = params.chunk(2, 1)
        return 0.5 * (mu.square() + log_var.exp() - log_var - 1.0)

    def distribution(self, params: Tensor) -> Distribution:
        mu, log_var = params.chunk(2, 1)
        return Independent(Normal(mu, torch.exp(0.5 * log_var)), 1)

    def pairwise(self, params: Tensor, z: Tensor) -> Tensor:
        mu, log_var = params.chunk(2, 1)
        return diagonal_pairwise(mu, log_var, z)


class FullCovariance(Posterior):
    """N(mu, L L^T), L lower triangular: parameters mu, the log of L's squared diagonal, and what is below it, row by row.

    Reaches any Gaussian posterior; d (d + 3) / 2 numbers for each record.
    """

    name = "full"
    at: Tensor

    def __init__(self, dim: int):
        super().__init__(dim)
        self.n_params = 2 * dim + dim * (dim - 1) // 2
        rows, columns = torch.tril_indices(dim, dim, -1)
        self.register_buffer("at", rows * dim + columns, persistent=False)

    def parts(self, params: Float[Tensor, "B P"]) -> tuple[Tensor, Tensor, Tensor]:
        """(mu, L (B, d, d), log of L's diagonal)."""
        mu, log_var, below = params.split([self.dim, self.dim, len(self.at)], 1)
        flat = params.new_zeros(len(params), self.dim**2).index_copy(1, self.at, below)
        return mu, flat.view(-1, self.dim, self.dim) + torch.diag_embed(torch.exp(0.5 * log_var)), 0.5 * log_var

    def draw(self, params: Tensor, samples: int, rng: Rng, *, strata: bool = False) -> Draws:
        mu, L, log_diagonal = self.parts(params)
        eps = rng.randn(len(mu), samples, self.dim)
        log_q = (-0.5 * eps.square()).sum(2) - (log_diagonal.sum(1) + self.dim * HALF_LOG_2PI)[:, None]
        return Draws(mu[:, None] + eps @ L.mT, log_q)

    def log_prob(self, params: Tensor, z: Tensor) -> Tensor:
        mu, L, log_diagonal = self.parts(params)
        eps = torch.linalg.solve_triangular(L, (z - mu[:, None]).mT, upper=False)
        return -0.5 * eps.square().sum(1) - (log_diagonal.sum(1) + self.dim * HALF_LOG_2PI)[:, None]

    def centre(self, params: Tensor) -> Tensor:
        return params[:, : self.dim]

    def kl(self, params: Tensor) -> Tensor:
        """(|mu|^2 + |L|^2 - d) / 2 - sum log L_ii, (B, 1): correlated dimensions do not add up."""
        mu, L, log_diagonal = self.parts(params)
        total = 0.5 * (mu.square().sum(1) + L.square().sum((1, 2)) - self.dim) - log_diagonal.sum(1)
        return total[:, None]

    def distribution(self, params: Tensor) -> Distribution:
        mu, L, _ = self.parts(params)
        return MultivariateNormal(mu, scale_tril=L, validate_args=False)


class Mixture(Posterior):
    """sum_j pi_j N(mu_j, diag sigma_j^2): J logits, J means, J log-variances (Morningstar et al. 2021).

    A choice of component has no derivative, so in training the mean over components is taken exactly: J draws, one from each, weighted by
    pi_j. With one draw from each that is the ELBO, with more the stratified importance-weighted bound (their SIWAE, equation 8).

    Equal components would stay nearly equal; their means are counted from fixed points, drawn from N(0, 1/4), that set them apart.
    """

    name = "mixture"
    start: Tensor

    def __init__(self, dim: int, components: int):
        super().__init__(dim)
        self.components = components
        self.n_params = components * (1 + 2 * dim)
        start = 0.5 * torch.randn(components, dim, generator=torch.Generator().manual_seed(0))
        self.register_buffer("start", start, persistent=False)

    def parts(self, params: Float[Tensor, "B P"]) -> tuple[Tensor, Tensor, Tensor]:
        """(log pi (B, J), mu (B, J, d), log sigma^2 (B, J, d))."""
        J, d = self.components, self.dim
        logits, mu, log_var = params.split([J, J * d, J * d], 1)
        return logits.log_softmax(1), mu.view(-1, J, d) + self.start, log_var.reshape(-1, J, d)

    def draw(self, params: Tensor, samples: int, rng: Rng, *, strata: bool = False) -> Draws:
        log_pi, mu, log_var = self.parts(params)
        B, J, d = mu.shape
        if strata:
            eps = rng.randn(B, samples, J, d)
            z = (mu[:, None] + torch.exp(0.5 * log_var)[:, None] * eps).flatten(1, 2)
            share = (log_pi - math.log(samples))[:, None].expand(-1, samples, -1).flatten(1)
            return Draws(z, self.log_prob(params, z), share)
        j = rng.categorical(log_pi.detach()[:, None].expand(-1, samples, -1))[..., None].expand(-1, -1, d)
        z = mu.gather(1, j) + torch.exp(0.5 * log_var).gather(1, j) * rng.randn(B, samples, d)
        return Draws(z, self.log_prob(params, z))

    def log_prob(self, params: Tensor, z: Tensor) -> Tensor:
        log_pi, mu, log_var = self.parts(params)
        each = normal_log_prob(z[:, :, None], mu[:, None], log_var[:, None])
        return torch.logsumexp(log_pi[:, None] + each, 2)

    def centre(self, params: Tensor) -> Tensor:
        log_pi, mu, _ = self.parts(params)
        return (log_pi.exp()[:, :, None] * mu).sum(1)

    def distribution(self, params: Tensor) -> Distribution:
        log_pi, mu, log_var = self.parts(params)
        each = Independent(Normal(mu, torch.exp(0.5 * log_var)), 1)
        return MixtureSameFamily(Categorical(logits=log_pi), each, validate_args=False)

    def pairwise(self, params: Tensor, z: Tensor) -> Tensor:
        log_pi, mu, log_var = self.parts(params)
        each = diagonal_pairwise(mu.flatten(0, 1), log_var.flatten(0, 1), z)
        return torch.logsumexp(log_pi + each.view(len(z), *log_pi.shape), 2)


def diagonal_pairwise(mu: Float[Tensor, "K d"], log_var: Float[Tensor, "K d"], z: Float[Tensor, "B d"]) -> Float[Tensor, "B K"]:
    """log N(z_b; mu_k, diag sigma_k^2) as matrix products: z^2/s^2 - 2 z mu/s^2 + mu^2/s^2 needs no (B, K, d).

    The terms, of order (|z| / s)^2, cancel where z is near mu, so the sum is taken in double precision where the device has it.
    """
    wide = z.dtype if z.device.type == "mps" else torch.float64
    z_, mu_, log_var_ = z.to(wide), mu.to(wide), log_var.to(wide)
    inverse = torch.exp(-log_var_)
    constant = (mu_.square() * inverse + log_var_ + 2 * HALF_LOG_2PI).sum(1)
    return (-0.5 * (z_.square() @ inverse.T + constant) + z_ @ (mu_ * inverse).T).to(z.dtype)
