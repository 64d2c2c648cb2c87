"""The Fréchet distance between the Gaussians that fit two sets of features.

Nothing here is a FID: that name belongs to the features of one particular network.

    F = |m1 - m2|^2 + tr S1 + tr S2 - 2 tr (S1 S2)^(1/2)        (Dowson & Landau 1982, eq. 4)

With any factor S1 = R R^T the last trace is the sum of the square roots of the eigenvalues of R^T S2 R, which is symmetric: no complex
square root, no imaginary residue, and singular covariances are welcome.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import DataError
from .estimate import Estimate
from .intervals import group_labels, jackknife_distance
from .moments import COLUMNS, check_table, feature_mean, moments, same_width

__all__ = ["frechet", "frechet_between", "frechet_distance"]

EPS = torch.finfo(torch.float64).eps


def frechet_distance(mean1: Float[Tensor, "d"], cov1: Float[Tensor, "d d"], mean2: Float[Tensor, "d"], cov2: Float[Tensor, "d d"]) -> float:
    """The squared 2-Wasserstein distance between two Gaussians, in squared feature units, computed in float64.

    R is the Cholesky factor of whichever covariance has one, and a pivoted one's columns up to the rank where both are singular.
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


ENOUGH = 1.5
"""Records per feature below which no interval is given: seen at 64 features, where 100 records have one and 70 are off by a deviation."""


def frechet(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"]) -> Estimate:
    """The squared Fréchet distance of the two *distributions'* Gaussians, in squared feature units, with its interval.

    The plug-in (`frechet_between`) exceeds it by about (d + (d^2 + d) / 4)(1/n + 1/m) variances, so that figures of unequal n cannot be
    compared (Chong & Forsyth 2020). A jackknife over 16 groups of records (8 above 128 features) takes the excess away and gives the
    interval (`jackknife_distance`). The value may fall below 0 by chance where the distributions are equal.

    With fewer than 16 records in a set, or than 1.5 per feature, the excess cannot be told from the distance: the value is then the
    plug-in, without an interval, and `method` says so. Raises `DataError` for fewer than 2 records, or features that are not finite.
    """
    check_table(x)
    check_table(y)
    same_width(x.shape[1], y.shape[1])
    n, d = min(len(x), len(y)), x.shape[1]
    if n < max(16, ENOUGH * d):
        return Estimate(frechet_between(x, y), n=n, method=f"plug-in, biased upwards: too few records for {d} features")
    groups = 16 if d <= 128 else 8
    sides = [_grouped(s, groups) for s in (x, y)]

    def plug_in(masks: Tensor) -> Tensor:
        return torch.cat([_distances(*(kept(part) for kept in sides)) for part in masks.split(max(1, BATCH // d**2))])

    return jackknife_distance(plug_in, groups, n=n)


BATCH = 1 << 22
"""Entries of the covariances that are held at a time."""


def _grouped(x: Tensor, groups: int) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """A function from masks (B, K) to the means (B, d) and covariances (B, d, d) of the groups that are kept."""
    x = x.double()
    centre = feature_mean(x)  # the sums of squares are about it, so little cancels
    labels = group_labels(len(x), groups).to(x.device)
    parts = [x[labels == k] - centre for k in range(groups)]
    sizes = torch.tensor([float(len(p)) for p in parts], dtype=x.dtype, device=x.device)
    sums = torch.stack([p.sum(0) for p in parts])
    squares = torch.stack([p.T @ p for p in parts])

    def kept(masks: Tensor) -> tuple[Tensor, Tensor]:
        weights = masks.to(x.device, x.dtype)
        n = (weights @ sizes)[:, None]
        mean = weights @ sums / n
        scatter = (weights @ squares.flatten(1)).view(-1, *squares.shape[1:])
        return mean + centre, (scatter - n[..., None] * mean[:, :, None] * mean[:, None]) / (n[..., None] - 1)

    return kept


def _distances(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> Tensor:
    """`frechet_distance` of many pairs at once, not clipped at 0."""
    (mean1, cov1), (mean2, cov2) = a, b
    root, info = torch.linalg.cholesky_ex(cov1)
    pivots = root.diagonal(dim1=-2, dim2=-1).square()
    if bool(info.any()) or bool((pivots.amin(-1) <= cov1.shape[-1] * EPS * pivots.amax(-1)).any()):
        values, vectors = torch.linalg.eigh(cov1)
        values = torch.where(values > values.shape[-1] * EPS * values[..., -1:], values, 0.0)
        root = vectors * values.sqrt()[..., None, :]
    cross = torch.linalg.eigvalsh(root.mT @ cov2 @ root).clamp_min(0).sqrt().sum(-1)
    trace = (cov1 + cov2).diagonal(dim1=-2, dim2=-1).sum(-1)
    return (mean1 - mean2).square().sum(-1) + trace - 2.0 * cross


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
    root = _factor(cov1)
    return root.T @ cov2 @ root


def _factor(cov: Tensor) -> Tensor:
    """R (d, r) with S = R R^T and r the rank of a singular S, without what is rounding: its square roots would add up.

    A Cholesky factorisation that pivots and stops at the rank (LAPACK's pstrf) takes a sixth of the time of the eigenvectors, which are the
    way of other devices.
    """
    if cov.device.type == "cpu":
        from scipy.linalg import get_lapack_funcs

        (pstrf,) = get_lapack_funcs(("pstrf",), (cov.numpy(),))
        lower, pivots, rank, _ = pstrf(cov.numpy(), lower=1)
        root = torch.zeros(len(cov), rank, dtype=torch.float64)
        root[torch.from_numpy(pivots).long() - 1] = torch.from_numpy(lower).tril()[:, :rank]
        return root
    values, vectors = torch.linalg.eigh(cov)
    kept = values > len(values) * EPS * values.max()
    return vectors[:, kept] * values[kept].sqrt()


def _root_trace(inner: Tensor) -> Tensor:
    """The sum of the square roots of the eigenvalues of a symmetric matrix, from its lower triangle."""
    return torch.linalg.eigvalsh(inner, UPLO="L").clamp_min(0).sqrt().sum()
