r"""What a family that is too small settles on: its argmin under each divergence (Theis et al. 2016, section 2 and figure 1).

The family is a mixture of K isotropic Gaussians, q(x) = sum_k w_k N(x; m_k, s_k^2 I). Divergences are integrals over a grid, their
gradients exact, and the minimiser deterministic (L-BFGS): the same start gives the same fit.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Self

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import ConfigError
from ..rng import Rng
from .grid import Grid

__all__ = ["Fit", "Isotropic", "fit", "starts"]


@dataclass(frozen=True)
class Isotropic:
    """A mixture of K isotropic Gaussians in d dimensions; tensors in float64.

    >>> round(float(Isotropic.of([1.0], [[0.0]], [1.0]).log_prob(torch.zeros(1, 1)).exp()), 6)
    0.398942
    """

    weights: Float[Tensor, " K"]
    means: Float[Tensor, "K d"]
    sds: Float[Tensor, " K"]

    @classmethod
    def of(cls, weights: list[float], means: list[list[float]], sds: list[float]) -> Self:
        """From plain numbers; the weights are divided by their sum."""
        w, m, s = (torch.tensor(v, dtype=torch.float64) for v in (weights, means, sds))
        if not (len(w) == len(m) == len(s)) or not bool((w > 0).all() and (s > 0).all()):
            raise ConfigError("A mixture needs a weight and a standard deviation above 0, and a mean, for each component.")
        return cls(w / w.sum(), m, s)

    def log_prob(self, x: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """log q(x) in nats."""
        squared = (x[:, None] - self.means).square().sum(-1)
        d = self.means.shape[1]
        each = -squared / (2 * self.sds.square()) - d * (self.sds * (2 * torch.pi) ** 0.5).log()
        return (each + self.weights.log()).logsumexp(1)

    def sample(self, n: int, rng: Rng) -> Float[Tensor, "n d"]:
        """`n` records."""
        k = rng.categorical(self.weights.log().expand(n, -1))
        return self.means[k] + self.sds[k, None] * rng.randn(n, self.means.shape[1])

    def moments(self) -> tuple[Float[Tensor, " d"], Float[Tensor, ""]]:
        """The mean, and the variance per dimension (averaged over dimensions): the fit of one Gaussian by KL(p, q)."""
        mean = self.weights @ self.means
        return mean, (self.weights * (self.sds.square() + (self.means - mean).square().mean(1))).sum()

    def mmd2(self, other: "Isotropic", bandwidth: float) -> Float[Tensor, ""]:
        """The squared MMD under the kernel exp(-|x - y|^2 / 2 h^2), in closed form.

        E k(x, y) = (h^2 / v)^{d/2} exp(-|a - b|^2 / 2 v), v = h^2 + s^2 + t^2, for x ~ N(a, s^2 I) and y ~ N(b, t^2 I).
        """
        means, variances = torch.cat([self.means, other.means]), torch.cat([self.sds, other.sds]).square()
        signed = torch.cat([self.weights, -other.weights])
        v = bandwidth**2 + variances[:, None] + variances
        k = (bandwidth**2 / v) ** (means.shape[1] / 2) * (-(means[:, None] - means).square().sum(-1) / (2 * v)).exp()
        return signed @ k @ signed


@dataclass(frozen=True)
class Fit:
    """A minimiser and what it leaves."""

    mixture: Isotropic
    loss: float
    """The divergence at the minimum."""


def starts(p: Isotropic, K: int, n: int, seed: int = 0) -> list[Isotropic]:
    """`n` places to begin from: K means drawn from p, standard deviations between p's smallest and its own (log-uniform)."""
    rng = Rng.seeded(seed, p.means)
    low, high = p.sds.min().log(), p.moments()[1].sqrt().log()
    sds = lambda: (low + (high - low) * rng.rand(K)).exp()
    return [Isotropic(torch.full((K,), 1 / K, dtype=torch.float64), p.sample(K, rng), sds()) for _ in range(n)]


def fit(divergence: Callable[[Tensor], Tensor], grid: Grid, begin: Iterable[Isotropic], iterations: int = 1000) -> Fit:
    """The mixture that minimises `divergence`, the best of those found from each of `begin`.

    Parameters
    ----------
    divergence
        log q on the grid's points (n,) -> the divergence, differentiable: `lambda log_q: kl(log_p, log_q, grid)`.
    grid
        A line or a box that holds both densities. Means stay inside it and standard deviations above twice its spacing, where the
        trapezoid rule still integrates them to rounding.
    begin
        Mixtures of as many components as the fit shall have; see `starts`.
    iterations
        The most that L-BFGS takes from each start.

    Raises
    ------
    ConfigError
        No start.
    """
    import numpy as np
    from scipy.optimize import minimize

    if not grid.axes:
        raise ConfigError("A fit needs densities, so a grid made by Grid.line or Grid.box.")
    low, high = (torch.stack([a[i] for a in grid.axes]) for i in (0, -1))
    spacing = max(float(a[1] - a[0]) for a in grid.axes)
    best: Fit | None = None
    for start in begin:
        K, d = start.means.shape

        def read(v: Tensor, K: int = K, d: int = d) -> Isotropic:
            return Isotropic(v[:K].softmax(0), v[K : K + K * d].reshape(K, d), v[K + K * d :].exp())

        def loss(v: np.ndarray, read: Callable[[Tensor], Isotropic] = read) -> tuple[float, np.ndarray]:
            t = torch.from_numpy(v).requires_grad_()
            at = divergence(read(t).log_prob(grid.points))
            (slope,) = torch.autograd.grad(at, t)
            return float(at.detach()), slope.numpy()

        v = torch.cat([start.weights.log(), start.means.flatten(), start.sds.log()]).numpy()
        smallest, largest = float(np.log(2 * spacing)), float((high - low).max().log())
        options = {"maxiter": iterations, "ftol": 0.0, "gtol": 1e-9}  # down to rounding
        bounds = [(-30.0, 0.0)] * K + list(zip(low.tolist(), high.tolist())) * K + [(smallest, largest)] * K
        found = minimize(loss, v, jac=True, method="L-BFGS-B", bounds=bounds, options=options)
        if best is None or found.fun < best.loss:
            best = Fit(read(torch.from_numpy(found.x)), float(found.fun))
    if best is None:
        raise ConfigError("A fit needs a mixture to begin from; see starts().")
    return best
