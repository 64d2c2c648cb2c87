r"""Divergences of two densities that are given by their logarithms on a `Grid`.

An f-divergence is D_f(p, q) = E_q f(p/q), f convex with f(1) = 0. By convex duality, with f*(t) = sup_u (t u - f(u)),

    D_f(p, q) >= E_p T - E_q f*(T)     for every T, with equality at T = f'(p/q)          (Nguyen et al. 2010; Nowozin et al. 2016, eq. 4)

==================  =============================================  =====================  ==========================  =================
name                D_f                                            f'(u)                  f*(t)                       of equal weight
==================  =============================================  =====================  ==========================  =================
kl                  E_p log(p/q)                                   1 + log u              exp(t - 1)                  covers all of p
reverse-kl          E_q log(q/p)                                   -1/u                   -1 - log(-t)                seeks a mode
jensen-shannon      (KL(p, m) + KL(q, m)) / 2,  m = (p + q) / 2    log(2u / (1 + u)) / 2  -log(2 - exp(2t)) / 2       at most log 2
total-variation     1/2 int abs(p - q)                             sign(u - 1) / 2        t                           at most 1
hellinger           1/2 int (sqrt p - sqrt q)^2                    (1 - 1/sqrt u) / 2     t / (1 - 2t)                at most 1
pearson             int (p - q)^2 / q                              2 (u - 1)              t + t^2 / 4                 unbounded
==================  =============================================  =====================  ==========================  =================

A density may be 0 (log -inf): 0 log 0 = 0, and a divergence is infinite where its definition says so.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import ConfigError, nearest
from .grid import Grid

__all__ = ["F_DIVERGENCES", "FDivergence", "f_bound", "jensen_shannon", "kl", "mmd2", "total_variation", "wasserstein1"]

LogDensity = Float[Tensor, " n"]


@dataclass(frozen=True)
class FDivergence:
    """One row of the table."""

    integrand: Callable[[LogDensity, LogDensity], Tensor]
    """(log p, log q) -> q f(p/q), (n,)."""
    witness: Callable[[Tensor], Tensor]
    """log u -> f'(u): the T at which the bound is tight."""
    conjugate: Callable[[Tensor], Tensor]
    """f*."""

    def __call__(self, log_p: LogDensity, log_q: LogDensity, grid: Grid) -> Float[Tensor, ""]:
        """D_f(p, q) in nats, on `grid`; differentiable."""
        return grid.integrate(self.integrand(log_p, log_q))


def _kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    p = log_p.exp()
    there = p > 0
    # Both arms of `where` have gradients: what is not there must not even be computed from infinities.
    difference = torch.where(there, log_p, 0.0) - torch.where(there, log_q, 0.0)
    return torch.where(there, p * difference, 0.0)


def _js(log_p: Tensor, log_q: Tensor) -> Tensor:
    log_m = torch.logaddexp(log_p, log_q) - math.log(2)
    return (_kl(log_p, log_m) + _kl(log_q, log_m)) / 2


def _pearson(log_p: Tensor, log_q: Tensor) -> Tensor:
    p, q = log_p.exp(), log_q.exp()
    return torch.where(q > 0, (p - q).square() / q, torch.where(p > 0, torch.inf, 0.0))


F_DIVERGENCES: dict[str, FDivergence] = {
    "kl": FDivergence(_kl, lambda lu: 1 + lu, lambda t: (t - 1).exp()),
    "reverse-kl": FDivergence(lambda lp, lq: _kl(lq, lp), lambda lu: -(-lu).exp(), lambda t: -1 - (-t).log()),
    "jensen-shannon": FDivergence(
        _js, lambda lu: (math.log(2) + torch.nn.functional.logsigmoid(lu)) / 2, lambda t: -(2 - (2 * t).exp()).log() / 2
    ),
    "total-variation": FDivergence(lambda lp, lq: (lp.exp() - lq.exp()).abs() / 2, lambda lu: lu.sign() / 2, lambda t: t),
    "hellinger": FDivergence(
        lambda lp, lq: ((lp / 2).exp() - (lq / 2).exp()).square() / 2,
        lambda lu: (1 - (-lu / 2).exp()) / 2,
        lambda t: t / (1 - 2 * t),
    ),
    "pearson": FDivergence(_pearson, lambda lu: 2 * lu.expm1(), lambda t: t + t.square() / 4),
}
"""Every f-divergence by name."""


def kl(log_p: LogDensity, log_q: LogDensity, grid: Grid) -> Float[Tensor, ""]:
    """KL(p, q) = E_p log(p/q) in nats; swap the arguments for the reverse."""
    return F_DIVERGENCES["kl"](log_p, log_q, grid)


def jensen_shannon(log_p: LogDensity, log_q: LogDensity, grid: Grid) -> Float[Tensor, ""]:
    """JSD(p, q) = (KL(p, m) + KL(q, m)) / 2 in nats, m = (p + q) / 2: symmetric, log 2 where the supports are disjoint (Lin 1991)."""
    return F_DIVERGENCES["jensen-shannon"](log_p, log_q, grid)


def total_variation(log_p: LogDensity, log_q: LogDensity, grid: Grid) -> Float[Tensor, ""]:
    """TV(p, q) = 1/2 int abs(p - q), the largest difference in the probability of an event."""
    return F_DIVERGENCES["total-variation"](log_p, log_q, grid)


def f_bound(name: str, T: Float[Tensor, " n"], log_p: LogDensity, log_q: LogDensity, grid: Grid) -> Float[Tensor, ""]:
    """E_p T - E_q f*(T), at most D_f(p, q). Raises `ConfigError` for an unknown f-divergence."""
    if name not in F_DIVERGENCES:
        raise ConfigError(f"There is no f-divergence {name!r}.{nearest(name, F_DIVERGENCES)}")
    p, q = log_p.exp(), log_q.exp()
    on_p, on_q = torch.where(p > 0, p * T, 0.0), torch.where(q > 0, q * F_DIVERGENCES[name].conjugate(T), 0.0)
    return grid.integrate(on_p) - grid.integrate(on_q)


def mmd2(log_p: LogDensity, log_q: LogDensity, grid: Grid, bandwidth: float) -> Float[Tensor, ""]:
    """The squared maximum mean discrepancy int int (p - q)(x) k(x, y) (p - q)(y), k(x, y) = exp(-|x - y|^2 / 2 h^2), h the `bandwidth`.

    Gretton et al. 2012, lemma 6; of samples it is `metrics.kernel_distance`. The kernel is a product over dimensions, so a box of
    n points a side takes O(n^{d+1}) time.
    """
    if not bandwidth > 0:
        raise ConfigError(f"bandwidth must be above 0, got {bandwidth}.")
    d = grid.weights * (log_p.exp() - log_q.exp())
    axes = grid.axes or (grid.points,)
    smooth = d.reshape([len(a) for a in axes])
    for dim, a in enumerate(axes):
        a = a.reshape(len(a), -1)
        k = (-(a[:, None] - a).square().sum(-1) / (2 * bandwidth**2)).exp()
        smooth = (k @ smooth.movedim(dim, 0).reshape(len(a), -1)).reshape(smooth.movedim(dim, 0).shape).movedim(0, dim)
    return (d * smooth.flatten()).sum()


def wasserstein1(log_p: LogDensity, log_q: LogDensity, grid: Grid) -> Float[Tensor, ""]:
    """W1(p, q) = int |F(x) - G(x)| dx with the distribution functions F, G, in one dimension (Vallender 1974), in the units of x.

    Of samples it is `scipy.stats.wasserstein_distance`. Raises `ConfigError` unless `grid` is a line.
    """
    if len(grid.axes) != 1:
        raise ConfigError("W1 by distribution functions exists in one dimension only. Use Grid.line, or sliced_wasserstein for samples.")
    (x,) = grid.axes
    gap = torch.cumulative_trapezoid(log_p.exp() - log_q.exp(), x).abs()
    return torch.trapezoid(torch.cat([gap.new_zeros(1), gap]), x)
