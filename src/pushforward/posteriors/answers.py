"""Known answers of the posteriors."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.distributions import Independent, MultivariateNormal, Normal, kl_divergence

from ..known import Known
from ..rng import Rng
from .flows import InverseAutoregressive, Planar
from .gaussian import Diagonal, FullCovariance, Mixture


def known_answers() -> Iterator[Known]:
    """Closed-form KLs against torch's, densities against quadrature, flows against their inverses."""
    rng = Rng.seeded(0, torch.zeros((), dtype=torch.float64))
    unit = Independent(Normal(torch.zeros(3).double(), 1.0), 1)
    params = rng.randn(6, Diagonal(3).n_params)
    ours, known = Diagonal(3).kl(params).sum(1), kl_divergence(Diagonal(3).distribution(params), unit)
    yield _same("KL(diagonal || N(0, I)) is torch's", known, ours)
    full = FullCovariance(3).double()
    params = rng.randn(6, full.n_params)
    standard = MultivariateNormal(torch.zeros(3).double(), torch.eye(3).double())
    yield _same("KL(full || N(0, I)) is torch's", kl_divergence(full.distribution(params), standard), full.kl(params).sum(1))
    mixture = Mixture(3, 4).double()
    params = rng.randn(6, mixture.n_params)
    drawn = mixture.draw(params, 5, rng)
    yield _same("mixture: log q is torch's", mixture.distribution(params).log_prob(drawn.z.transpose(0, 1)).T, drawn.log_q)
    for flow in (Planar(3, 4).double(), InverseAutoregressive(3, 3).double()):
        params = rng.randn(6, flow.n_params)
        drawn = flow.draw(params, 5, rng)
        # Each layer of the inverse multiplies rounding by its slope, at most some tens here.
        yield _same(f"{flow.name}: log q by inversion", drawn.log_q.detach(), flow.log_prob(params, drawn.z), 1e-8)


def _same(name: str, known: Tensor, ours: Tensor, tolerance: float = 1e-10) -> Known:
    gap = float((ours - known).abs().max())
    return Known(name, 0.0, gap, tolerance, "rounding of 1e-16 over some hundred operations on numbers of order 10")
