"""Samplers on Gaussian data, whose optimal denoiser is known: moments follow an exact recursion, and errors fall as they must."""

import math
from itertools import pairwise

import pytest
import torch

from pushforward.errors import ConfigError
from pushforward.noise import Schedule, cosine, linear
from pushforward.rng import Rng
from pushforward.samplers import ancestral, ddim, ddim_inverse, posterior, time_grid

M, S = 0.5, 0.7


def gain(noise: Schedule, t: int) -> tuple[float, float]:
    """(g, h) with E[x | z_t] = g z_t + h for N(M, S^2) data."""
    alpha, sigma = noise.level(t)
    g = alpha * S**2 / (alpha**2 * S**2 + sigma**2)
    return g, M * (1 - g * alpha)


def denoiser(noise: Schedule):
    return lambda z, t: gain(noise, t)[0] * z + gain(noise, t)[1]


def ddim_moments(noise: Schedule, steps: int) -> tuple[float, float]:
    """Mean and sd of deterministic DDIM's samples: the affine map of the noise shows itself at 0 and 1."""
    z = torch.tensor([0.0, 1.0], dtype=torch.float64)
    a, b = ddim(denoiser(noise), z, noise, time_grid(noise.T, steps)).tolist()
    return a, b - a


@pytest.mark.parametrize(("s", "t"), [(0, 1), (0, 30), (4, 5), (10, 40)])
def test_posterior_is_bayes_rule(s: int, t: int) -> None:
    noise, x, z = linear(50), 0.3, -0.8
    a, b, v = posterior(noise, s, t)
    (alpha_s, sigma_s), (alpha_t, sigma_t) = noise.level(s), noise.level(t)
    if s == 0:
        assert (a, b, v) == (0.0, pytest.approx(1.0), 0.0)
        return
    # Prior N(alpha_s x, sigma_s^2) times likelihood N(z; r z_s, 1 - r^2): precisions add.
    r = alpha_t / alpha_s
    precision = 1 / sigma_s**2 + r**2 / (1 - r**2)
    assert v == pytest.approx(1 / precision, rel=1e-10)
    assert a * z + b * x == pytest.approx((alpha_s * x / sigma_s**2 + r * z / (1 - r**2)) / precision, rel=1e-10)
    assert math.sqrt(a**2 * sigma_t**2 + v) == pytest.approx(sigma_s, rel=1e-10)  # z_s keeps its own marginal


def test_time_grid() -> None:
    assert time_grid(10, 10) == list(range(10, -1, -1))
    assert time_grid(1000, 4) == [1000, 750, 500, 250, 0]
    assert time_grid(7, 1) == [7, 0]
    assert len(set(time_grid(1000, 999))) == 1000
    for steps in (0, 11):
        with pytest.raises(ConfigError, match=f"between 1 and the 10 timesteps of training, got {steps}"):
            time_grid(10, steps)


@pytest.mark.parametrize("make", [linear, cosine])
@pytest.mark.parametrize("nu", [0.0, 1.0])
@pytest.mark.parametrize("steps", [7, 100])
def test_ancestral_moments_follow_the_recursion(make, nu: float, steps: int) -> None:
    noise, n = make(100), 40_000
    times, mean, variance = time_grid(100, steps), 0.0, 1.0
    for t, s in pairwise(times):
        a, b, v = posterior(noise, s, t)
        g, h = gain(noise, t)
        added = 0.0 if s == 0 else noise.between(s, t) if nu else v
        mean, variance = (a + b * g) * mean + b * h, (a + b * g) ** 2 * variance + added
    rng = Rng.seeded(0, torch.zeros((), dtype=torch.float64))
    x = ancestral(denoiser(noise), rng.randn(n), noise, times, rng, nu)
    # 5 standard errors of a Gaussian's mean and variance
    assert float(x.mean()) == pytest.approx(mean, abs=5 * math.sqrt(variance / n))
    assert float(x.var()) == pytest.approx(variance, rel=5 * math.sqrt(2 / n))


def test_ancestral_variance_by_feature() -> None:
    noise, rng = linear(50), Rng.seeded(0)
    nu = torch.tensor([0.0, 1.0])
    both = ancestral(denoiser(noise), torch.ones(3, 2), noise, time_grid(50, 10), rng, nu)
    for i in (0, 1):
        one = ancestral(denoiser(noise), torch.ones(3, 2), noise, time_grid(50, 10), Rng.seeded(0), float(nu[i]))
        assert torch.allclose(both[:, i], one[:, i])


def test_ddim_with_eta_1_is_ancestral() -> None:
    noise, z = cosine(100), torch.randn(8, 3, dtype=torch.float64)
    times = time_grid(100, 20)
    a = ancestral(denoiser(noise), z, noise, times, Rng.seeded(0, z))
    b = ddim(denoiser(noise), z, noise, times, Rng.seeded(0, z), eta=1.0)
    # equal but for rounding, which the steep last steps magnify by at most 1 / sigma_1 = 30 or so
    assert torch.allclose(a, b, atol=1e-11)


@pytest.mark.parametrize("make", [linear, cosine])
def test_ddim_converges_at_first_order(make) -> None:
    noise = make(8000)  # fine enough that the grid, not the schedule, limits the step
    (_, sd1), (m2, sd2), (m4, sd4) = (ddim_moments(noise, k) for k in (1000, 2000, 4000))
    # Error c / N + O(1 / N^2): the differences halve, and the error left is the last difference. Half as much again for higher orders.
    assert (sd1 - sd2) / (sd2 - sd4) == pytest.approx(2.0, abs=0.3)
    assert sd4 == pytest.approx(S, abs=1.5 * abs(sd2 - sd4))
    # alpha_T is not quite 0: starting from N(0, 1) instead of N(alpha_T M, .) shifts the mean by up to alpha_T M S.
    assert m4 == pytest.approx(M, abs=1.5 * abs(m2 - m4) + noise.level(8000)[0])


def test_inverse_reaches_the_probability_flow_and_returns() -> None:
    noise = cosine(1000)
    x = torch.linspace(-1.5, 2.5, 9, dtype=torch.float64)
    alpha, sigma = noise.level(1000)
    exact = alpha * M + math.sqrt(alpha**2 * S**2 + sigma**2) * (x - M) / S  # keeps its quantile
    errors = []
    for steps in (250, 500, 1000):
        z = ddim_inverse(denoiser(noise), x, noise, time_grid(1000, steps))
        errors.append(float((z - exact).abs().max()))
        back = ddim(denoiser(noise), z, noise, time_grid(1000, steps))
        assert float((back - x).abs().max()) < 3 * errors[-1]  # both ways err alike
    # First order: each doubling of the steps halves the error; 0.6 leaves room for second order.
    assert errors[1] < 0.6 * errors[0]
    assert errors[2] < 0.6 * errors[1]
    assert errors[2] < 0.02


def test_one_step_gives_the_mean() -> None:
    noise, z = linear(10), torch.randn(4, 2)
    for sample in (ancestral, ddim):
        assert torch.allclose(sample(denoiser(noise), z, noise, [10, 0], Rng.seeded(0)), denoiser(noise)(z, 10), atol=1e-6)


def test_inverse_starts_from_the_record_itself() -> None:
    noise, x = linear(10), torch.tensor([0.3, -2.0], dtype=torch.float64)
    # A denoiser that expects 0 everywhere: eps = x / sigma_1 at t = 1, and one step leads to alpha_T x + sigma_T eps.
    z = ddim_inverse(lambda z, t: torch.zeros_like(z), x, noise, [10, 0])
    (_, sigma_1), (alpha, sigma) = noise.level(1), noise.level(10)
    assert torch.allclose(z, alpha * x + sigma * x / sigma_1, rtol=1e-12)
    # and one that expects 5: the signal is still the record's own
    (alpha_1, _), z = noise.level(1), ddim_inverse(lambda z, t: torch.full_like(z, 5.0), x, noise, [10, 0])
    assert torch.allclose(z, alpha * x + sigma * (x - alpha_1 * 5) / sigma_1, rtol=1e-12)
