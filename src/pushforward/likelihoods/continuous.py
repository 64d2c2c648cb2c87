"""Families of real entries: densities."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ..rng import Rng
from .base import HALF_LOG_2PI, Continuous, log_scale, soft_floor


@dataclass(frozen=True)
class Gaussian(Continuous):
    r"""N(x; mu, sigma^2), with parameters (mu, log sigma) or, for a fixed `scale`, mu alone.

    A learned sigma has a smooth floor, log sigma = log f + softplus(raw - log f) with f = 0.01: real entries are standardised by the
    data layer, so f is a hundredth of a column's spread. Without it the density of a column with repeated values (or a constant pixel)
    grows without bound as sigma shrinks onto them, and training diverges; the floor caps it at -log f - log(2 pi)/2 = 3.7 nats per entry.
    One scale *shared* by all records is this family too: give the same learned number as the log sigma of every record.

    Parameters
    ----------
    scale
        `"learned"` (a parameter of each entry), `"unit"` (sigma = 1) or a number.
    floor
        f, the smallest learned sigma.
    """

    scale: Literal["learned", "unit"] | float = "learned"
    floor: float = 0.01
    name = "gaussian"
    supports = ("real",)

    @property
    def n_params(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return 2 if self.scale == "learned" else 1

    def parts(self, params: Tensor) -> tuple[Tensor, Tensor]:
        """(mu, log sigma) of each entry."""
        return params[..., 0], log_scale(params, self.scale, self.floor)

    def log_prob(self, params: Tensor, x: Tensor) -> Tensor:
        mu, log_sigma = self.parts(params)
        return -0.5 * ((x - mu) * torch.exp(-log_sigma)).square() - log_sigma - HALF_LOG_2PI

    def sample(self, params: Tensor, rng: Rng) -> Tensor:
        mu, log_sigma = self.parts(params)
        return mu + log_sigma.exp() * rng.randn(*mu.shape)

    def mean(self, params: Tensor) -> Tensor:
        return params[..., 0]

    def mode(self, params: Tensor) -> Tensor:
        return params[..., 0]


@dataclass(frozen=True)
class TruncatedGaussian(Continuous):
    r"""N(x; mu, sigma^2) restricted to [0, 1] and divided by its mass there: a proper density that is finite at both ends.

    mu = sigmoid(raw) lies in (0, 1), which keeps the mass Phi((1-mu)/sigma) - Phi(-mu/sigma) away from underflow. Chosen before the
    logit-normal, whose density is zero at 0 and 1 where grey images put most of their values, and before the continuous Bernoulli, whose
    single parameter cannot be sharp in the interior. `scale` and `floor` as in `Gaussian` (`"unit"` means sigma = 1).
    """

    scale: Literal["learned", "unit"] | float = "learned"
    floor: float = 0.01
    name = "truncated gaussian"
    supports = ("unit",)

    @property
    def n_params(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return 2 if self.scale == "learned" else 1

    def _values(self) -> str:
        return "numbers in [0, 1]"

    def _valid(self, x: Tensor) -> Tensor:
        return (x >= 0) & (x <= 1)

    def parts(self, params: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(mu, log sigma, Phi at the lower end, mass on [0, 1]) of each entry."""
        mu = params[..., 0].sigmoid()
        # Beyond sigma = 20 the density is flat to 1e-3; a ceiling keeps the mass above 0.01, clear of cancellation.
        log_sigma = log_scale(params, self.scale, self.floor)
        if self.scale == "learned":
            log_sigma = 3.0 - F.softplus(3.0 - log_sigma)
        low = torch.special.ndtr(-mu * torch.exp(-log_sigma))
        return mu, log_sigma, low, torch.special.ndtr((1 - mu) * torch.exp(-log_sigma)) - low

    def log_prob(self, params: Tensor, x: Tensor) -> Tensor:
        mu, log_sigma, _, mass = self.parts(params)
        return -0.5 * ((x - mu) * torch.exp(-log_sigma)).square() - log_sigma - HALF_LOG_2PI - mass.log()

    def sample(self, params: Tensor, rng: Rng) -> Tensor:
        mu, log_sigma, low, mass = self.parts(params)
        p = low + mass * rng.rand(*mu.shape)
        return (mu + log_sigma.exp() * torch.special.ndtri(p)).clamp(0, 1)

    def mean(self, params: Tensor) -> Tensor:
        mu, log_sigma, _, mass = self.parts(params)
        sigma = log_sigma.exp()
        density = [torch.exp(-0.5 * ((end - mu) / sigma).square() - HALF_LOG_2PI) for end in (0.0, 1.0)]
        return mu + sigma * (density[0] - density[1]) / mass

    def mode(self, params: Tensor) -> Tensor:
        return params[..., 0].sigmoid()


@dataclass(frozen=True)
class MixtureOfGaussians(Continuous):
    """sum_j pi_j N(x; mu_j, sigma_j^2): parameters are K logits, K means, K log sigmas (floored as in `Gaussian`).

    `mode` is the component mean of highest density: exact for one component or well-separated ones.
    """

    K: int
    floor: float = 0.01
    name = "mixture of gaussians"
    supports = ("real",)

    @property
    def n_params(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return 3 * self.K

    def parts(self, params: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(log pi, mu, log sigma), each (..., K)."""
        logits, mu, raw = params.split(self.K, -1)
        return logits.log_softmax(-1), mu, soft_floor(raw, math.log(self.floor))

    def log_prob(self, params: Tensor, x: Tensor) -> Tensor:
        log_pi, mu, log_sigma = self.parts(params)
        each = -0.5 * ((x.unsqueeze(-1) - mu) * torch.exp(-log_sigma)).square() - log_sigma - HALF_LOG_2PI
        return torch.logsumexp(log_pi + each, -1)

    def sample(self, params: Tensor, rng: Rng) -> Tensor:
        log_pi, mu, log_sigma = self.parts(params)
        j = rng.categorical(log_pi).unsqueeze(-1)
        mu, sigma = mu.gather(-1, j).squeeze(-1), log_sigma.gather(-1, j).squeeze(-1).exp()
        return mu + sigma * rng.randn(*mu.shape)

    def mean(self, params: Tensor) -> Tensor:
        log_pi, mu, _ = self.parts(params)
        return (log_pi.exp() * mu).sum(-1)

    def mode(self, params: Tensor) -> Tensor:
        _, mu, _ = self.parts(params)
        density = self.log_prob(params.unsqueeze(-2), mu)
        return mu.gather(-1, density.argmax(-1, keepdim=True)).squeeze(-1)


@dataclass(frozen=True)
class ContinuousBernoulli(Continuous):
    r"""p(x) = C(l) e^{l x} on [0, 1], with the logit l (Loaiza-Ganem & Cunningham 2019, equation 3): the Bernoulli as a density.

    The normaliser, int_0^1 e^{l x} dx = e^{l/2} sinh(l/2) / (l/2), is what VAEs of grey images leave out when they use a Bernoulli on them.
    Written in l rather than in lambda = sigmoid(l) it has no pole at lambda = 1/2: only log(sinh(a)/a) needs its series near 0.
    """

    name = "continuous bernoulli"
    supports = ("unit",)
    n_params = 1

    def _values(self) -> str:
        return "numbers in [0, 1]"

    def _valid(self, x: Tensor) -> Tensor:
        return (x >= 0) & (x <= 1)

    def log_prob(self, params: Tensor, x: Tensor) -> Tensor:
        half = 0.5 * params[..., 0]
        return 2 * half * (x - 0.5) - _log_sinhc(half)

    def sample(self, params: Tensor, rng: Rng) -> Tensor:
        # The inverse of F(x) = (e^{lx} - 1) / (e^l - 1), for -|l| (which cannot overflow); then mirrored for l > 0.
        size = params[..., 0].abs()
        u = rng.rand(*size.shape)
        safe = size.clamp_min(1e-3)
        x = torch.where(size < 1e-3, u - 0.5 * size * u * (1 - u), -torch.log1p(u * torch.expm1(-safe)) / safe)
        return torch.where(params[..., 0] > 0, 1 - x, x).clamp(0, 1)

    def mean(self, params: Tensor) -> Tensor:
        # 1/2 + (coth a - 1/a) / 2 at a = l/2; the difference is a/3 - a^3/45 + ... near 0.
        half = 0.5 * params[..., 0]
        small = half.abs() < 0.05
        a = torch.where(small, torch.ones_like(half), half)
        series = half / 3 - half**3 / 45 + 2 * half**5 / 945
        return 0.5 + 0.5 * torch.where(small, series, 1 / torch.tanh(a) - 1 / a)

    def mode(self, params: Tensor) -> Tensor:
        return (params[..., 0] > 0).to(params.dtype)


def _log_sinhc(a: Tensor) -> Tensor:
    """log(sinh(a) / a): its series below 0.1 (next term a^8 / 37800, under 1e-12), else |a| + log(1 - e^{-2|a|}) - log(2|a|)."""
    square = a.square()
    series = square / 6 - square**2 / 180 + square**3 / 2835
    size = torch.where(square < 0.01, torch.ones_like(a), a.abs())  # so that the branch not taken has a finite gradient
    far = size + torch.log(-torch.expm1(-2 * size)) - torch.log(2 * size)
    return torch.where(square < 0.01, series, far)
