r"""Conditionals of a Gaussian, N(mu, Sigma) with Sigma^-1 = P P^T, given some of its entries y_k:

    y_k ~ N(mu_k, Sigma_kk),        y_u | y_k ~ N(mu_u + Sigma_uk Sigma_kk^-1 (y_k - mu_k), Sigma_uu - Sigma_uk Sigma_kk^-1 Sigma_ku).

The second is drawn by Matheron's rule: for a draw y' of N(mu, Sigma), y'_u + Sigma_uk Sigma_kk^-1 (y_k - y'_k) has that distribution
(Journel & Huijbregts 1978, "Mining Geostatistics"; Doucet 2010, "A note on efficient conditional simulation of Gaussian distributions").
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ...likelihoods import HALF_LOG_2PI

__all__ = ["Given"]


class Given:
    """Of one covariance, given the entries `known` (D,). `factor` is P: (D, D), or (D,) or (1,) where P is diagonal."""

    def __init__(self, factor: Tensor, known: Bool[Tensor, " D"]):
        P = factor.double()
        P = P if P.ndim == 2 else P.expand(len(known)).diag()
        # Sigma = R R^T with R = P^-T.
        R = torch.linalg.solve_triangular(P.mT, torch.eye(len(known), dtype=P.dtype, device=P.device), upper=False)
        self.cross = R[~known] @ R[known].mT
        self.factor = torch.linalg.cholesky(R[known] @ R[known].mT)

    def log_prob(self, residual: Float[Tensor, "B k"]) -> Float[Tensor, " B"]:
        """log N(y_k; mu_k, Sigma_kk) at y_k - mu_k."""
        white = torch.linalg.solve_triangular(self.factor, residual.double().mT, upper=False)
        return -0.5 * white.square().sum(0) - self.factor.diagonal().log().sum() - len(white) * HALF_LOG_2PI

    def carried(self, residual: Float[Tensor, "B k"]) -> Float[Tensor, "B u"]:
        """Sigma_uk Sigma_kk^-1 (y_k - y'_k), by which y'_u is moved."""
        return (self.cross @ torch.cholesky_solve(residual.double().mT, self.factor)).mT
