r"""Noise schedules: how the signal fades while the noise grows.

A record with features f is seen at time t = 0 .. T as

    z_t = alpha_t f + sigma_t eps,   eps ~ N(0, I),   alpha_t^2 + sigma_t^2 = 1   (variance preserving),

with (alpha_0, sigma_0) = (1, 0), data, and alpha_T close to 0, noise. The same process as a Markov chain is
q(z_t | z_{t-1}) = N(sqrt(1 - beta_t) z_{t-1}, beta_t I), whence alpha_t^2 = prod_{s<=t} (1 - beta_s).

A network that sees z_t may predict any of three quantities; each gives the others (Salimans & Ho 2022, appendix D):

    epsilon   the noise            f = (z_t - sigma_t eps) / alpha_t
    x0        the features f
    v         alpha_t eps - sigma_t f          f = alpha_t z_t - sigma_t v
"""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .errors import ConfigError

__all__ = ["Parametrisation", "Schedule", "cosine", "implied", "linear", "predicted_x", "target"]

Parametrisation = Literal["epsilon", "x0", "v"]

BETA_MAX = 0.999
"""No transition forgets everything: keeps alpha_T above zero (Nichol & Dhariwal 2021, section 3.2)."""


@dataclass(frozen=True)
class Schedule:
    """alpha_t and sigma_t for t = 0 .. T, in float64 because differences of neighbours matter.

    Parameters
    ----------
    log_alpha2
        log alpha_t^2, (T + 1,), starting from 0 and falling.
    """

    log_alpha2: Float[Tensor, "times"]

    @property
    def T(self) -> int:
        """The number of transitions."""
        return len(self.log_alpha2) - 1

    @cached_property
    def alpha(self) -> Tensor:
        """Signal levels, (T + 1,)."""
        return (self.log_alpha2 / 2).exp()

    @cached_property
    def sigma(self) -> Tensor:
        """Noise levels, (T + 1,)."""
        return (-self.log_alpha2.expm1()).sqrt()

    @cached_property
    def beta(self) -> Tensor:
        """Variances of the single transitions, (T,): beta[t - 1] belongs to t - 1 -> t."""
        return -self.log_alpha2.diff().expm1()

    @cached_property
    def snr(self) -> Tensor:
        """Signal-to-noise ratios alpha^2 / sigma^2, (T + 1,), infinite at t = 0."""
        return self.log_alpha2.exp() / -self.log_alpha2.expm1()

    def at(self, t: Int[Tensor, "B"], z: Float[Tensor, "B ..."]) -> tuple[Tensor, Tensor]:
        """(alpha_t, sigma_t) for integer times t (B,), in the dtype and on the device of `z` (B, ...) and broadcasting against it."""
        shape = (-1, *[1] * (z.ndim - 1))
        return self.alpha.to(z)[t].reshape(shape), self.sigma.to(z)[t].reshape(shape)

    def level(self, t: int) -> tuple[float, float]:
        """(alpha_t, sigma_t) as numbers."""
        log_alpha2 = float(self.log_alpha2[t])
        return math.exp(log_alpha2 / 2), math.sqrt(-math.expm1(log_alpha2))

    def between(self, s: int, t: int) -> float:
        """sigma_{t|s}^2 = 1 - (alpha_t / alpha_s)^2, the noise that z_t has beyond z_s for s < t; beta_t when s = t - 1."""
        return -math.expm1(float(self.log_alpha2[t] - self.log_alpha2[s]))


def linear(T: int) -> Schedule:
    """beta_t rises linearly from 1e-4 to 0.02 for T = 1000 (Ho et al. 2020, section 4); for other T both ends scale by 1000 / T.

    Raises `ConfigError` when T < 2.
    """
    _check(T)
    scale = 1000.0 / T
    return _from_beta(torch.linspace(1e-4 * scale, 0.02 * scale, T, dtype=torch.float64))


def cosine(T: int, s: float = 0.008) -> Schedule:
    """alpha_t^2 = g(t) / g(0), g(t) = cos^2((t / T + s) / (1 + s) pi / 2), with beta_t <= 0.999 (Nichol & Dhariwal 2021, equation 17).

    Raises `ConfigError` when T < 2.
    """
    _check(T)
    t = torch.arange(T + 1, dtype=torch.float64) / T
    g = torch.cos((t + s) / (1 + s) * (math.pi / 2)) ** 2
    return _from_beta(1 - g[1:] / g[:-1])


def _check(T: int) -> None:
    if T < 2:
        raise ConfigError(f"A noise schedule needs at least 2 timesteps, got {T}. 1000 is usual.")


def _from_beta(beta: Tensor) -> Schedule:
    return Schedule(torch.cat([beta.new_zeros(1), torch.log1p(-beta.clamp(max=BETA_MAX)).cumsum(0)]))


def target(
    x: Float[Tensor, "*b"], eps: Float[Tensor, "*b"], alpha: Tensor | float, sigma: Tensor | float, parametrisation: Parametrisation
) -> Float[Tensor, "*b"]:
    """What the network should say of z = alpha x + sigma eps."""
    if parametrisation == "epsilon":
        return eps
    if parametrisation == "x0":
        return x
    return alpha * eps - sigma * x


def predicted_x(
    output: Float[Tensor, "*b"], z: Float[Tensor, "*b"], alpha: Tensor | float, sigma: Tensor | float, parametrisation: Parametrisation
) -> Float[Tensor, "*b"]:
    """The features that the network's output at z implies."""
    if parametrisation == "epsilon":
        return (z - sigma * output) / alpha
    if parametrisation == "x0":
        return output
    return alpha * z - sigma * output


def implied(
    x: Float[Tensor, "*b"], z: Float[Tensor, "*b"], alpha: Tensor | float, sigma: Tensor | float, parametrisation: Parametrisation
) -> Float[Tensor, "*b"]:
    """What a network that expects the features x at z would say: the inverse of `predicted_x`."""
    return target(x, (z - alpha * x) / sigma, alpha, sigma, parametrisation)
