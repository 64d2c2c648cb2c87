r"""What a critic with a gradient penalty says of W1, in one dimension, where its best answer is known.

The critic maximises E_p T - E_q T - lambda E_u (|T'(u)| - 1)^2 (Gulrajani et al. 2017, eq. 3). With the distribution functions F of p and
G of q, E_p T - E_q T = int T' (G - F) dx, so that with r the density of u the best slope at each place is

    |T'| = 1 + |G - F| / (2 lambda r),      E_p T - E_q T = W1(p, q) + 1 / (2 lambda) int (G - F)^2 / r dx:

the penalty overstates W1, and the more so the smaller lambda is: by a twentieth of each unit of distance with lambda = 10. The best T has
slope of the sign of G - F wherever these differ. There the penalty, lambda E_u (|T'(u)| - 1)^2, is half of that excess:
E_p T - E_q T less twice the penalty is W1.

The penalty has a second optimum: where |G - F| < 2 lambda r a slope of the wrong sign, |T'| = 1 - |G - F| / (2 lambda r), is a maximum too,
so that gradient ascent may end there and find -W1 + 1 / (2 lambda) int (G - F)^2 / r. The one-sided penalty max(0, |T'| - 1)^2 (Petzka et
al. 2018) is concave in T' and has the first optimum only.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import ConfigError
from .fits import Isotropic
from .grid import Grid

__all__ = ["interpolates", "penalised_w1"]


def interpolates(p: Isotropic, q: Isotropic, x: Float[Tensor, " n"], nodes: int = 200) -> Float[Tensor, " n"]:
    """The density of u = e x + (1 - e) y, e ~ U(0, 1), x ~ p, y ~ q independent, in one dimension: an average over e of mixtures.

    By the midpoint rule in e; for each e a component of p and one of q make N(e a + (1 - e) b, e^2 s^2 + (1 - e)^2 t^2).
    """
    e = ((torch.arange(nodes, dtype=torch.float64) + 0.5) / nodes)[:, None, None]
    mean = e * p.means + (1 - e) * q.means.T
    sd = ((e * p.sds[:, None]).square() + ((1 - e) * q.sds).square()).sqrt()
    weight = (p.weights[:, None] * q.weights / nodes).expand_as(mean)
    parts = Isotropic(weight.flatten(), mean.reshape(-1, 1), sd.flatten())
    return parts.log_prob(x[:, None]).exp()


def penalised_w1(p: Isotropic, q: Isotropic, grid: Grid, weight: float) -> float:
    """E_p T - E_q T at the best critic under a two-sided gradient penalty of that `weight`, in one dimension.

    Raises `ConfigError` unless `grid` is a line and `weight` is above 0.
    """
    if len(grid.axes) != 1 or not weight > 0:
        raise ConfigError(f"The penalised critic is known on a line and for a weight above 0, got {len(grid.axes)} axes and {weight}.")
    (x,) = grid.axes
    gap = (_cdf(q, x) - _cdf(p, x)).abs()
    r = interpolates(p, q, x)
    # Far out both vanish, the distribution functions' difference by cancellation.
    extra = torch.where(r > 1e-200, gap.square() / r.clamp(min=1e-200), 0.0)
    extra = torch.where(gap > 1e-12, extra, 0.0)
    return float(grid.integrate(gap + extra / (2 * weight)))


def _cdf(p: Isotropic, x: Tensor) -> Tensor:
    z = (x[:, None] - p.means[:, 0]) / (p.sds * math.sqrt(2))
    return (torch.special.erfc(-z) / 2) @ p.weights
