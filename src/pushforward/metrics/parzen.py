r"""Parzen windows: the likelihood of a kernel density estimate on samples, kept as a demonstration of what goes wrong with it.

    log p(x) = log (1/m) sum_j N(x; y_j, sigma^2 I),    y_1 ... y_m drawn from a model.

In more than a few dimensions no affordable m brings this near the model's own log-likelihood, and it ranks models wrongly: it prefers
samples near the training records' mean or clusters to those of a better density (Theis, van den Oord & Bethge 2016, section 3.2; Wu et al.
2017, where it puts a variational autoencoder with 50 codes below one with 10). Nothing else in this package uses it: take
`pushforward.evidence` instead.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import ConfigError, DataError
from .blocks import blocks, squared_distances

__all__ = ["parzen_log_prob", "parzen_sigma"]


def parzen_log_prob(samples: Float[Tensor, "m d"], x: Float[Tensor, "n d"], sigma: float | int) -> Float[Tensor, "n"]:
    """log (1/m) sum_j N(x_i; y_j, sigma^2 I) in nats, with `samples` y (m, d) and records `x` (n, d) in the same units.

    Distances are computed in the samples' dtype, a block of rows at a time; the result is float64. Raises `ConfigError` unless
    sigma > 0, and `DataError` without samples. See the module's warning.
    """
    if not sigma > 0:
        raise ConfigError(f"The kernel's width must be above 0, got {sigma}.")
    if not len(samples):
        raise DataError("A Parzen window needs samples, got none.")
    m, d = samples.shape
    centre = samples.mean(0)  # distances do not change, and their rounding error is least, about the centre
    y, x = samples - centre, x - centre
    squares = y.square().sum(1)
    found = [torch.logsumexp(squared_distances(x[at], y, squares).double().clamp_min(0) / (-2 * sigma**2), 1) for at in blocks(x, m)]
    total = torch.cat(found) if found else x.new_empty(0, dtype=torch.float64)
    return total - math.log(m) - d * (math.log(sigma) + 0.5 * math.log(2 * math.pi))


def parzen_sigma(samples: Float[Tensor, "m d"], validation: Float[Tensor, "n d"], grid: Sequence[float] | None = None) -> float:
    """The width of the highest mean `parzen_log_prob` on validation records, among 16 from 0.01 to 10 times the samples' spread.

    The spread is the root mean variance of an entry; `grid` gives widths of one's own. Raises `DataError` without validation records.
    """
    if not len(validation):
        raise DataError("The kernel's width is chosen on validation records, and there are none.")
    if grid is None:
        grid = (float(samples.double().var(0).mean().sqrt()) * torch.logspace(-2, 1, 16, dtype=torch.float64)).tolist()
    return max(grid, key=lambda sigma: float(parzen_log_prob(samples, validation, sigma).mean()))
