"""Penalties on a critic whose slope is known everywhere: T(x) = w.x + a |x|^2 / 2 has gradient w + a x."""

import math

import pytest
import torch

from pushforward.penalties import dragan, interpolated, roth, slope, squared_gradient
from pushforward.rng import Rng

LIKE = torch.zeros((), dtype=torch.float64)
W = torch.tensor([0.3, -0.2, 0.5], dtype=torch.float64)


def critic(x: torch.Tensor, a: torch.Tensor | float = 0.4) -> torch.Tensor:
    return x @ W + a * x.square().sum(1) / 2


def norm(x: torch.Tensor, a: float = 0.4) -> torch.Tensor:
    return (W + a * x).norm(dim=1)


def records() -> tuple[torch.Tensor, torch.Tensor]:
    rng = Rng.seeded(0, LIKE)
    return rng.randn(50, 3), 2 * rng.randn(50, 3) + 1


# The root is taken of |g|^2 + 1e-12, which moves |g| >= 0.05 (all here) by 1e-11 at most.
CLOSE = {"rtol": 0, "atol": 1e-10}


def test_slope():
    x, _ = records()
    torch.testing.assert_close(slope(critic, x), norm(x), **CLOSE)
    assert float(norm(x).min()) > 0.05


@pytest.mark.parametrize("one_sided", [False, True])
def test_interpolated(one_sided):
    x, y = records()
    e = Rng.seeded(3, LIKE).rand(50, 1)
    over = norm(e * x + (1 - e) * y) - 1
    assert (over < 0).any()
    assert (over > 0).any()
    known = (over.clamp(min=0) if one_sided else over).square()
    torch.testing.assert_close(interpolated(critic, x, y, Rng.seeded(3, LIKE), one_sided=one_sided), known, **CLOSE)


def test_interpolated_images_between_whole_records():
    # One e for each record: every pixel of u is the same share of the way. T = sum of squares / 2 has gradient u.
    x, y = torch.zeros(4, 1, 2, 3, dtype=torch.float64), torch.ones(4, 1, 2, 3, dtype=torch.float64)
    e = Rng.seeded(3, LIKE).rand(4, 1, 1, 1)
    found = interpolated(lambda u: u.square().flatten(1).sum(1) / 2, x, y, Rng.seeded(3, LIKE))
    torch.testing.assert_close(found, (math.sqrt(6) * (1 - e.flatten()) - 1).square(), **CLOSE)


def test_dragan():
    x, _ = records()
    delta = 0.5 * x.std() * Rng.seeded(4, LIKE).randn(50, 3)
    torch.testing.assert_close(dragan(critic, x, Rng.seeded(4, LIKE)), (norm(x + delta) - 1).square(), **CLOSE)


def test_roth():
    x, y = records()
    both = torch.cat([x, y]).requires_grad_()
    D, D_fake = critic(x).sigmoid(), critic(y).sigmoid()
    known = (1 - D).square() * norm(x).square() + D_fake.square() * norm(y).square()
    torch.testing.assert_close(roth(critic(both), both), known, rtol=1e-13, atol=0)


def test_roth_is_what_noise_adds():
    # Roth et al., section 3: the loss with noise of variance gamma on both sides, less that without, is gamma/2 times the penalty at a
    # critic at its best, where terms in the second derivative of T cancel between p and q (their equation 21). p = N(0, 1), q = N(1, 1)
    # have T = log p/q = 1/2 - x: linear, so that those terms vanish. E over p and q by the trapezoid rule, over the noise to second
    # order: an error of order gamma^2 = 1e-6 at gamma = 1e-3, where the penalty is of order 0.1 gamma.
    t = torch.linspace(-12, 13, 5001, dtype=torch.float64)
    p, q = (torch.distributions.Normal(m, 1.0).log_prob(t).exp() * float(t[1] - t[0]) for m in (0.0, 1.0))

    def loss(x: torch.Tensor) -> float:
        T = 0.5 - x
        return float((p * torch.nn.functional.softplus(-T)).sum() + (q * torch.nn.functional.softplus(T)).sum())

    gamma = 1e-3
    nodes = math.sqrt(3 * gamma)  # three-point Gauss-Hermite: exact for polynomials to degree 5 in the noise
    noisy = 2 / 3 * loss(t) + (loss(t + nodes) + loss(t - nodes)) / 6
    both = torch.cat([t, t])[:, None].requires_grad_()
    D = (0.5 - t).sigmoid()
    # With T'' = 0 the noise adds gamma/2 (p D (1 - D) + q D (1 - D)) T'^2, and p (1 - D) = q D at the best critic: the penalty's
    # p (1 - D)^2 + q D^2 has the same integral.
    each = roth((0.5 - both[:, 0]), both).detach()
    assert each.shape == t.shape
    penalty = float((p * (1 - D).square() + q * D.square()).sum())
    assert noisy - loss(t) == pytest.approx(gamma / 2 * penalty, abs=1e-6)
    torch.testing.assert_close(each, (1 - D).square() + D.square())


def test_double_backward():
    # d/da of the mean of |w + a x|^2 is 2 (w + a x).x.
    x, _ = records()
    a = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    x.requires_grad_()
    (found,) = torch.autograd.grad(squared_gradient(critic(x, a), x).sum(), a)
    known = 2 * ((W + 0.4 * x) * x).sum()
    assert float(found) == pytest.approx(float(known.detach()), rel=1e-12)
