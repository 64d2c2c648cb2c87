"""The Fréchet distance between the Gaussians that fit two sets of features.

Nothing here is a FID: that name belongs to the features of one particular network.

    F = |m1 - m2|^2 + tr S1 + tr S2 - 2 tr (S1 S2)^(1/2)        (Dowson & Landau 1982, eq. 4)

With any factor S1 = R R^T the last trace is the sum of the square roots of the eigenvalues of R^T S2 R, which is symmetric: no complex
square root, no imaginary residue, and singular covariances are welcome.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import DataError
from .moments import COLUMNS, check_table, feature_mean, moments, same_width

__all__ = ["frechet_between", "frechet_distance"]

EPS = torch.finfo(torch.float64).eps


def frechet_distance(mean1: Float[Tensor, "d"], cov1: Float[Tensor, "d d"], mean2: Float[Tensor, "d"], cov2: Float[Tensor, "d d"]) -> float:
    """The squared 2-Wasserstein distance between two Gaussians, in squared feature units, computed in float64.

    R is the Cholesky factor of whichever covariance has one; two singular ones cost an eigendecomposition.
    """
    shift = (mean1.double() - mean2.double()).square().sum()
    cov1, cov2 = cov1.double(), cov2.double()
    cross = _root_trace(_congruent(cov1, cov2))
    return max(0.0, float(shift + cov1.trace() + cov2.trace() - 2.0 * cross))


def frechet_between(x: Tensor, y: Tensor) -> float:
    """`frechet_distance` of the moments of (n, d) and (m, d) features, by the shorter way where a set has no more records than features.

    Then X, its centred records over (n - 1)^(1/2), is itself a factor, S1 = X^T X, and X S2 X^T is n x n instead of d x d.

    Raises `DataError` for fewer than 2 records, widths that differ, or features that are not finite.
    """
    check_table(x)
    check_table(y)
    same_width(x.shape[1], y.shape[1])
    if len(x) > len(y):
        x, y = y, x
    if len(x) > x.shape[1]:
        return frechet_distance(*moments(x), *moments(y))
    mean1, rows1 = _centred(x)
    if len(y) > y.shape[1]:
        mean2, cov2 = moments(y)
        trace2, inner = cov2.trace(), rows1 @ cov2 @ rows1.T
    else:
        mean2, rows2 = _centred(y)
        cross = rows1 @ rows2.T
        trace2, inner = rows2.square().sum(), cross @ cross.T
    return max(0.0, float((mean1 - mean2).square().sum() + rows1.square().sum() + trace2 - 2.0 * _root_trace(inner)))


def _centred(x: Tensor) -> tuple[Tensor, Tensor]:
    """The mean and X, float64, with X^T X the unbiased covariance."""
    mean = feature_mean(x)
    if len(x) < 2:
        raise DataError(f"A covariance needs at least 2 records, got {len(x)}.")
    return mean, (x.double() - mean) / (len(x) - 1) ** 0.5


def _congruent(cov1: Tensor, cov2: Tensor) -> Tensor:
    """R^T S2 R with S1 = R R^T, or the roles exchanged; its lower triangle counts."""
    for a, b in ((cov1, cov2), (cov2, cov1)):
        lower, info = torch.linalg.cholesky_ex(a)
        pivots = lower.diagonal().square()
        if not int(info) and bool(pivots.min() > len(a) * EPS * pivots.max()):
            inner = torch.zeros_like(b)
            for j in range(0, len(a), COLUMNS):  # R = L vanishes above its diagonal: a third of the two products is left
                inner[j:, j : j + COLUMNS] = lower[j:, j:].T @ (b[j:, j:] @ lower[j:, j : j + COLUMNS])
            return inner
    values, vectors = torch.linalg.eigh(cov1)
    kept = values > len(values) * EPS * values.max()  # below that, rounding: its square roots would add up
    root = vectors[:, kept] * values[kept].sqrt()
    return root.T @ cov2 @ root


def _root_trace(inner: Tensor) -> Tensor:
    """The sum of the square roots of the eigenvalues of a symmetric matrix, from its lower triangle."""
    return torch.linalg.eigvalsh(inner, UPLO="L").clamp_min(0).sqrt().sum()
