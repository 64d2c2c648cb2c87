r"""From noise to data: the reverse of the noising process, step by step.

All samplers know the model only as a function `denoise(z, t)`: the expected features x given z_t = z, for an integer time t.
They walk down a grid T = t_K > ... > t_0 = 0 of times, whose noise levels a `Schedule` gives. With s < t neighbours of the grid,
Bayes' rule for the Gaussian chain says (Ho et al. 2020, equations 6-7, for any s < t)

    q(z_s | z_t, x) = N(mu, v I),   mu = (alpha_t/alpha_s) (sigma_s^2/sigma_t^2) z_t + alpha_s (sigma_{t|s}^2/sigma_t^2) x,
                                    v  = sigma_{t|s}^2 sigma_s^2 / sigma_t^2,         sigma_{t|s}^2 = 1 - (alpha_t/alpha_s)^2.
"""

import math
from collections.abc import Callable
from itertools import pairwise

from torch import Tensor

from .errors import ConfigError
from .noise import Schedule
from .rng import Rng

__all__ = ["Denoise", "ancestral", "ddim", "ddim_inverse", "posterior", "time_grid"]

Denoise = Callable[[Tensor, int], Tensor]


def time_grid(T: int, steps: int) -> list[int]:
    """`steps` + 1 evenly spaced times from T down to 0.

    Raises `ConfigError` unless 1 <= steps <= T.
    """
    if not 1 <= steps <= T:
        raise ConfigError(f"Sampling steps must lie between 1 and the {T} timesteps of training, got {steps}.")
    return [round(T * k / steps) for k in range(steps, -1, -1)]


def posterior(schedule: Schedule, s: int, t: int) -> tuple[float, float, float]:
    """(a, b, v) with q(z_s | z_t, x) = N(a z_t + b x, v I), for s < t."""
    (alpha_s, sigma_s), (alpha_t, sigma_t), sigma2_ts = schedule.level(s), schedule.level(t), schedule.between(s, t)
    return (
        alpha_t / alpha_s * sigma_s**2 / sigma_t**2,
        alpha_s * sigma2_ts / sigma_t**2,
        sigma2_ts * sigma_s**2 / sigma_t**2,
    )


def ancestral(denoise: Denoise, z: Tensor, schedule: Schedule, times: list[int], rng: Rng, nu: Tensor | float = 0.0) -> Tensor:
    """Ho et al. 2020, algorithm 2: z_s ~ N(mu(z_t, denoise(z_t)), variance), and the mean alone at s = 0.

    The variance is v^(1 - nu) (sigma_{t|s}^2)^nu (Nichol & Dhariwal 2021, equation 15): nu = 0 is exact when all records are the same,
    nu = 1 when they are N(0, I). `nu` may be a tensor, one for each feature.
    """
    for t, s in pairwise(times):
        x = denoise(z, t)
        a, b, v = posterior(schedule, s, t)
        z = a * z + b * x
        if s > 0:
            z = z + math.sqrt(v) * (schedule.between(s, t) / v) ** (nu / 2) * rng.randn(*z.shape)
    return z


def ddim(denoise: Denoise, z: Tensor, schedule: Schedule, times: list[int], rng: Rng | None = None, eta: float = 0.0) -> Tensor:
    """Song et al. 2021 (DDIM), equation 12: the same marginals with less fresh noise.

    z_s = alpha_s x + sqrt(sigma_s^2 - eta^2 v) eps + eta sqrt(v) noise, with eps = (z_t - alpha_t x) / sigma_t.
    eta = 0 is deterministic (and needs no `rng`); eta = 1 is the ancestral sampler.
    """
    for t, s in pairwise(times):
        x = denoise(z, t)
        (alpha_s, sigma_s), (alpha_t, sigma_t) = schedule.level(s), schedule.level(t)
        v = eta**2 * posterior(schedule, s, t)[2]
        eps = (z - alpha_t * x) / sigma_t
        z = alpha_s * x + math.sqrt(max(sigma_s**2 - v, 0.0)) * eps
        if v > 0:
            assert rng is not None
            z = z + math.sqrt(v) * rng.randn(*z.shape)
    return z


def ddim_inverse(denoise: Denoise, x: Tensor, schedule: Schedule, times: list[int]) -> Tensor:
    """From features to the noise from which `ddim` makes them: its deterministic step run upwards (exact as the steps get fine).

    At t = 0 there is no noise to predict from, so the clean record is shown to the network as the least noisy one, t = 1.
    """
    z = x
    for s, t in pairwise(reversed(times)):
        (alpha_s, sigma_s), (alpha_t, sigma_t) = schedule.level(max(s, 1)), schedule.level(t)
        x = denoise(z, max(s, 1))
        eps = (z - alpha_s * x) / sigma_s
        # At s = 0 the record itself is known; x is only the network's opinion of it.
        z = alpha_t * (z if s == 0 else x) + sigma_t * eps
    return z
