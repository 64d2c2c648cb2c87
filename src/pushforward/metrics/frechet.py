"""The Fréchet distance between the Gaussians that fit two sets of features.

Nothing here is a FID: that name belongs to the features of one particular network.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import DataError


def moments(x: Float[Tensor, "n d"]) -> tuple[Float[Tensor, "d"], Float[Tensor, "d d"]]:
    """The mean and the unbiased covariance, in float64."""
    if len(x) < 2:
        raise DataError(f"A covariance needs at least 2 records, got {len(x)}.")
    x = x.double()
    mean = x.mean(0)
    x = x - mean
    return mean, x.T @ x / (len(x) - 1)


def frechet_distance(mean1: Float[Tensor, "d"], cov1: Float[Tensor, "d d"], mean2: Float[Tensor, "d"], cov2: Float[Tensor, "d d"]) -> float:
    """The squared 2-Wasserstein distance between two Gaussians (Dowson & Landau 1982, eq. 4).

    |m1 - m2|^2 + tr(S1) + tr(S2) - 2 tr (S1^(1/2) S2 S1^(1/2))^(1/2), in squared feature units. With S1 = R R^T, the last trace is
    the sum of the square roots of the eigenvalues of R^T S2 R. That is symmetric: no complex square root, no imaginary residue, and
    singular covariances are welcome.
    """
    values, vectors = torch.linalg.eigh(cov1.double())
    root = vectors * values.clamp_min(0).sqrt()
    cross = torch.linalg.eigvalsh(root.T @ cov2.double() @ root).clamp_min(0).sqrt().sum()
    shift = (mean1.double() - mean2.double()).square().sum()
    return max(0.0, float(shift + cov1.trace() + cov2.trace() - 2.0 * cross))
