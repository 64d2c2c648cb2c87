"""Distances between two samples that are averages of a kernel over pairs of records.

With k(x, y) a kernel, D = E k(x, x') + E k(y, y') - 2 E k(x, y) is the squared distance of the two mean embeddings (Gretton et al. 2012,
lemma 6), and minus the Euclidean distance is a kernel for this purpose too (Sejdinovic et al. 2013): D is then the energy distance.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import ConfigError, DataError
from .blocks import blocks, squared_distances
from .estimate import Estimate
from .intervals import distance_estimate

Kernel = Callable[[Tensor, Tensor], Tensor]
"""Maps (a, d) and (b, d) to (a, b)."""


def kernel_distance(
    x: Float[Tensor, "n d"],
    y: Float[Tensor, "m d"],
    *,
    kernel: str = "polynomial",
    bandwidth: float | int | None = None,
) -> Estimate:
    """The squared maximum mean discrepancy by the unbiased U-statistic (Gretton et al. 2012, eq. 3), so it may fall below 0.

    `polynomial`: k(x, y) = (x.y / d + 1)^3, the "kernel inception distance" of Binkowski et al. (2018) where the features are
    Inception's. `gaussian`: k(x, y) = exp(-|x - y|^2 / 2 h^2).

    The interval has the whole variance of the U-statistic, its second-order term included (Sutherland et al. 2017, eq. 5), so that it
    holds where the two distributions are equal as well.

    Parameters
    ----------
    x, y
        The reference's features and the sample's. Distances take O((n + m)^2 d) time and bounded memory.
    kernel
        "polynomial" or "gaussian".
    bandwidth
        h of the Gaussian kernel. None for the median distance between records of `x` (at most 1,000 of them): of the reference alone, so
        that all models are measured by one kernel. The interval is that of the distance at this h, which `method` names.

    Raises
    ------
    ConfigError
        An unknown kernel.
    DataError
        Fewer than 2 records in a set (without 4, there is no interval), or a reference without two different records.
    """
    x, y = x.double(), y.double()
    if kernel == "polynomial":
        return _estimate(x, y, _cubic, "U-statistic")
    if kernel != "gaussian":
        raise ConfigError(f"kernel={kernel!r} is not known. Choose 'polynomial' or 'gaussian'.")
    if bandwidth is None:
        some = x[:1000]
        bandwidth = float(torch.pdist(some).median()) if len(some) > 1 else 0.0
        if bandwidth == 0.0:
            raise DataError("The median distance between reference records is 0, so it gives no bandwidth. Pass bandwidth=.")
    scale = -0.5 / bandwidth**2
    gaussian = lambda a, b: squared_distances(a, b, b.square().sum(1)).clamp_min_(0.0).mul_(scale).exp_()
    return _estimate(x, y, gaussian, f"U-statistic, bandwidth {bandwidth:.4g}")


def _cubic(a: Tensor, b: Tensor) -> Tensor:
    t = (a @ b.T).div_(a.shape[1]).add_(1.0)
    return t.square().mul_(t)  # several times faster than a power


def energy_distance(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"]) -> Estimate:
    """2 E|x - y| - E|x - x'| - E|y - y'| (Székely & Rizzo 2013, eq. 5): 0 only for equal distributions.

    Unbiased, so it may fall below 0; the interval is that of `kernel_distance`. Raises `DataError` for fewer than 2 records in a set.
    """
    return _estimate(x.double(), y.double(), lambda a, b: torch.cdist(a, b).neg_(), "U-statistic")


def _estimate(x: Tensor, y: Tensor, k: Kernel, method: str) -> Estimate:
    """The U-statistic and its interval, in one pass over blocks of rows.

    Var D = Var_1 + Var_2 (Hoeffding), Var_1 = 4 Var a(x) / n + 4 Var b(y) / m with a(x) = E k(x, x') - E k(x, y), and
    Var_2 = 2 s_xx / n(n-1) + 2 s_yy / m(m-1) + 4 s_xy / nm, where s is the variance of the kernel less its projections. The variance of
    the empirical a_i overestimates Var a by the noise of its means, and 4 S_a^2 / n + 4 S_b^2 / m expects Var_1 + 2 Var_2.
    """
    n, m = len(x), len(y)
    if min(n, m) < 2:
        raise DataError(f"A distance between two samples needs at least 2 records in each set, got {n} and {m}.")
    rx, cx, qx = _sums(x, None, k)
    ry, cy, qy = _sums(y, None, k)
    rows, columns, q, _ = _cross(x, y, k)
    value = float(rx.sum() / (n * (n - 1)) + ry.sum() / (m * (m - 1)) - 2 * rows.sum() / (n * m))
    if min(n, m) < 4:
        return Estimate(value, n=min(n, m), method=f"{method}, too few records for an interval")
    a, b = rx / (n - 1) - rows / m, ry / (m - 1) - columns / n
    null = 2 * _within(rx, qx) / (n * (n - 1)) + 2 * _within(ry, qy) / (m * (m - 1)) + 4 * _between(rows, columns, q) / (n * m)
    bias = (cx / n - float(rx.mean()) / (n - 1)) / n + (cy / m - float(ry.mean()) / (m - 1)) / m
    spread = 4 * float(a.var()) / n + 4 * float(b.var()) / m
    return distance_estimate(value, bias=bias, spread=spread, null=null, n=min(n, m), freedom=min(n, m) - 1, method=method)


def _sums(x: Tensor, _: None, k: Kernel) -> tuple[Tensor, float, float]:
    """Row sums of k(x_i, x_j) over j != i, the sum of k(x_i, x_i), and the sum of squares off the diagonal."""
    rows, diagonal, squares = [], 0.0, 0.0
    for at in blocks(x, len(x)):
        values = k(x[at], x)
        own = values[torch.arange(len(at)), at].clone()
        values[torch.arange(len(at)), at] = 0.0
        rows.append(values.sum(1))
        diagonal += float(own.sum())
        squares += float(values.square_().sum())
    return torch.cat(rows), diagonal, squares


def _cross(x: Tensor, y: Tensor, k: Kernel) -> tuple[Tensor, Tensor, float, None]:
    """Row sums, column sums and the sum of squares of k(x_i, y_j)."""
    rows, columns, squares = [], torch.zeros(len(y), dtype=x.dtype, device=x.device), 0.0
    for at in blocks(x, len(y)):
        values = k(x[at], y)
        rows.append(values.sum(1))
        columns += values.sum(0)
        squares += float(values.square_().sum())
    return torch.cat(rows), columns, squares, None


def _within(rows: Tensor, squares: float) -> float:
    """Unbiased Var of k(x, x') less its projections: E k12^2 - 2 E k12 k13 + E k12 k34."""
    n, s, r2 = len(rows), float(rows.sum()), float(rows.square().sum())
    pairs, triples = n * (n - 1), n * (n - 1) * (n - 2)
    return squares / pairs - 2 * (r2 - squares) / triples + (s * s - 4 * r2 + 2 * squares) / (triples * (n - 3))


def _between(rows: Tensor, columns: Tensor, squares: float) -> float:
    """The same of k(x, y): E k11^2 - E k11 k12 - E k11 k21 + E k11 k22."""
    n, m, s = len(rows), len(columns), float(rows.sum())
    r2, c2 = float(rows.square().sum()), float(columns.square().sum())
    pairs = n * m
    return (
        squares / pairs
        - (r2 - squares) / (pairs * (m - 1))
        - (c2 - squares) / (pairs * (n - 1))
        + (s * s - r2 - c2 + squares) / (pairs * (n - 1) * (m - 1))
    )
