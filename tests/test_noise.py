"""Noise schedules: the chain equals its closed form, and the three parametrisations say the same."""

import math

import pytest
import torch

from pushforward.errors import ConfigError
from pushforward.noise import BETA_MAX, Schedule, cosine, implied, linear, predicted_x, target

SCHEDULES = (linear, cosine)


@pytest.mark.parametrize("make", SCHEDULES)
@pytest.mark.parametrize("T", [10, 100, 1000])
def test_chain_has_the_marginals_of_the_closed_form(make, T: int) -> None:
    noise = make(T)
    mean, variance = 1.0, 0.0
    for t, beta in enumerate(noise.beta.tolist(), start=1):
        mean, variance = math.sqrt(1 - beta) * mean, (1 - beta) * variance + beta
        alpha, sigma = noise.level(t)
        # Rounding of T float64 products and of log/exp on the way: some ulps a step.
        assert mean == pytest.approx(alpha, rel=1e-12 * T)
        assert variance == pytest.approx(sigma**2, rel=1e-12 * T)


def test_linear_is_that_of_the_paper() -> None:
    noise = linear(1000)
    assert torch.allclose(noise.beta[[0, -1]], torch.tensor([1e-4, 0.02], dtype=torch.float64), rtol=1e-9)
    # Ho et al. 2020, section 4: L_T is about 1e-5 bits/dim for data in [-1, 1]; alpha_T^2 / 2 / ln 2 for |x| = 1 bounds it.
    assert float(noise.alpha[-1].square()) / 2 / math.log(2) == pytest.approx(2.9e-5, rel=0.02)


def test_cosine_is_that_of_the_paper() -> None:
    noise, s = cosine(1000), 0.008
    t = torch.arange(999, dtype=torch.float64)  # beta is cut at t = T alone, where the cosine reaches 0
    g = torch.cos((t / 1000 + s) / (1 + s) * math.pi / 2).square()
    assert torch.allclose(noise.alpha[:999].square(), g / g[0], rtol=1e-9)
    assert float(noise.beta[-1]) == pytest.approx(BETA_MAX)


@pytest.mark.parametrize("make", SCHEDULES)
def test_signal_falls_and_noise_grows(make) -> None:
    noise = make(50)
    assert noise.T == 50
    assert noise.level(0) == (1.0, 0.0)
    assert (noise.alpha.diff() < 0).all()
    assert (noise.sigma.diff() > 0).all()
    assert torch.allclose(noise.alpha.square() + noise.sigma.square(), torch.ones(51, dtype=torch.float64), atol=1e-15)
    assert torch.allclose(noise.snr[1:], (noise.alpha / noise.sigma)[1:].square())
    assert noise.between(0, 7) == pytest.approx(noise.level(7)[1] ** 2)
    assert noise.between(6, 7) == pytest.approx(float(noise.beta[6]))


def test_levels_broadcast_against_images() -> None:
    noise = linear(10)
    alpha, sigma = noise.at(torch.tensor([1, 10]), torch.zeros(2, 3, 4, 5))
    assert alpha.shape == sigma.shape == (2, 1, 1, 1)
    assert alpha.dtype == torch.float32
    assert float(alpha[1]) == pytest.approx(noise.level(10)[0])


@pytest.mark.parametrize("parametrisation", ["epsilon", "x0", "v"])
@pytest.mark.parametrize("make", SCHEDULES)
def test_parametrisations_convert_into_each_other(make, parametrisation) -> None:
    noise = make(100)
    x, eps = torch.randn(2, 99, 4, dtype=torch.float64)
    alpha, sigma = noise.at(torch.arange(1, 100), x)
    z = alpha * x + sigma * eps
    output = target(x, eps, alpha, sigma, parametrisation)
    # epsilon divides by alpha, at least 0.016 before T: 1e-16 / 0.016.
    assert torch.allclose(predicted_x(output, z, alpha, sigma, parametrisation), x, atol=1e-12)
    # and back, dividing by sigma, at least 0.01
    assert torch.allclose(implied(x, z, alpha, sigma, parametrisation), output, atol=1e-12)


def test_too_few_timesteps() -> None:
    for make in SCHEDULES:
        with pytest.raises(ConfigError, match="at least 2 timesteps, got 1. 1000 is usual"):
            make(1)


def test_schedule_from_its_definition() -> None:
    noise = Schedule(torch.tensor([0.0, -0.5, -3.0], dtype=torch.float64))
    assert noise.level(2)[0] == pytest.approx(math.exp(-1.5))
