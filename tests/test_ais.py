"""Annealed importance sampling against a linear-Gaussian model, whose evidence and posterior are known in closed form.

x = W z + b + s e has p(x) = N(b, W W^T + s^2 I) and p(z | x) = N(m(x), S). Most tests run many independent chains of few temperatures:
unbiasedness holds at any number of them, and shows there.
"""

import math

import pytest
import torch
from torch import Tensor

from pushforward import ais
from pushforward.ais import Annealing, Point
from pushforward.errors import ConfigError
from pushforward.models.latent.linear import linear_gaussian
from pushforward.rng import Rng

DIM, LATENT = 5, 2


@pytest.fixture(scope="module")
def known() -> tuple[ais.Joint, Tensor, Tensor, Tensor, Tensor]:
    """(joint, x, log p(x), posterior means, posterior covariance) for 4 records."""
    model, exact = linear_gaussian(DIM, LATENT)
    x = 2 * torch.randn(4, DIM, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return model._joint(), x, *exact(x)


def gaussian(covariance: Tensor) -> ais.LogDensity:
    """The log-density of N(0, covariance)."""
    return torch.distributions.MultivariateNormal(torch.zeros(len(covariance), dtype=covariance.dtype), covariance).log_prob


def flat(z: Tensor) -> Tensor:
    """A prior that says nothing, so that the likelihood alone is the target."""
    return 0.0 * z.sum(1)


def rng(seed: int = 0) -> Rng:
    return Rng.seeded(seed, torch.zeros((), dtype=torch.float64))


COVARIANCE = torch.tensor([[1.0, 0.8], [0.8, 2.0]], dtype=torch.float64)


# -- Hamiltonian Monte Carlo ---------------------------------------------------------------------------------------------


def test_leapfrog_is_reversible() -> None:
    """With its momentum negated, a trajectory returns to its start: up to rounding, 20 steps of operations of size 1."""
    target, source = gaussian(COVARIANCE), rng()
    z, p = source.randn(50, 2), source.randn(50, 2)
    size = torch.full((50, 1), 0.4, dtype=torch.float64)
    at, q = ais.leapfrog(flat, target, Point.at(z, flat, target), p, 1.0, size, 20)
    assert (at.z - z).abs().mean() > 0.1  # it went somewhere
    back, q = ais.leapfrog(flat, target, at, -q, 1.0, size, 20)
    torch.testing.assert_close(back.z, z, atol=1e-12, rtol=0)
    torch.testing.assert_close(-q, p, atol=1e-12, rtol=0)


def test_leapfrog_preserves_volume() -> None:
    """|det d(z', p') / d(z, p)| = 1, by central differences of step 1e-5, whose error is of order 1e-9."""

    def quartic(z: Tensor) -> Tensor:
        return -(z**4).sum(1) - z[:, 0] * z[:, 1]

    start, h = torch.tensor([0.3, -0.5, 0.8, 0.2], dtype=torch.float64), 1e-5
    ends = []
    for shift in torch.cat([h * torch.eye(4, dtype=torch.float64), -h * torch.eye(4, dtype=torch.float64)]):
        z, p = (start + shift)[None, :2], (start + shift)[None, 2:]
        at, p = ais.leapfrog(flat, quartic, Point.at(z, flat, quartic), p, 1.0, torch.full((1, 1), 0.1, dtype=torch.float64), 7)
        ends.append(torch.cat([at.z, p], 1)[0])
    jacobian = (torch.stack(ends[:4]) - torch.stack(ends[4:])) / (2 * h)
    assert abs(float(torch.linalg.det(jacobian)) - 1) < 1e-7


def test_leapfrog_error_is_of_second_order() -> None:
    """Half the step, a quarter of the energy error (Neal 2011, section 2.3): within a tenth of 4 at steps as small as these."""
    target, source = gaussian(COVARIANCE), rng()
    z, p = source.randn(200, 2), source.randn(200, 2)
    errors = []
    for steps in (20, 40):
        size = torch.full((200, 1), 2.0 / steps, dtype=torch.float64)
        start = Point.at(z, flat, target)
        at, q = ais.leapfrog(flat, target, start, p, 1.0, size, steps)
        errors.append(float((at.log_density(1.0) - start.log_density(1.0) - 0.5 * (q**2 - p**2).sum(1)).abs().mean()))
    assert 3.6 < errors[0] / errors[1] < 4.4


@pytest.mark.parametrize(("size", "steps", "lowest", "highest"), [(0.9, 3, 0.5, 0.95), (0.3, 3, 0.95, 1.0)])
def test_hmc_leaves_its_target_invariant(size: float, steps: int, lowest: float, highest: float) -> None:
    """20,000 exact draws of N(0, S) keep its second moments through 10 steps, also where a third of the proposals is refused.

    A second moment's standard error is sqrt(2) S_ii / sqrt(n), at most 0.02; five of them are allowed. The temperature is 1/2 and the
    untempered covariance S/2, so that a wrong use of b shows.
    """
    n, target, source = 20_000, gaussian(COVARIANCE / 2), rng()
    z = source.randn(n, 2) @ torch.linalg.cholesky(COVARIANCE).T
    at, rates = Point.at(z, flat, target), []
    for _ in range(10):
        at, rate = ais.hmc(flat, target, at, 0.5, torch.full((n, 1), size, dtype=torch.float64), steps, source)
        rates.append(float(rate.mean()))
    assert lowest < sum(rates) / 10 < highest
    assert (at.z - z).abs().mean() > 0.5
    moments = at.z.T @ at.z / n
    assert (moments - COVARIANCE).abs().max() < 5 * math.sqrt(2 / n) * 2
    # what is carried along belongs to the state
    torch.testing.assert_close(at.log_likelihood, target(at.z))


def test_hmc_reaches_its_target() -> None:
    """From a wrong start the moments become right: 20,000 chains, errors as above."""
    n, target, source = 20_000, gaussian(COVARIANCE), rng()
    at = Point.at(torch.full((n, 2), 3.0, dtype=torch.float64), flat, target)
    for _ in range(25):
        at, _ = ais.hmc(flat, target, at, 1.0, 0.5 + 0.3 * source.rand(n, 1), 3, source)
    assert at.z.mean(0).abs().max() < 5 * math.sqrt(2 / n)
    assert (at.z.T @ at.z / n - COVARIANCE).abs().max() < 5 * math.sqrt(2 / n) * 2


def test_hmc_refuses_where_the_density_is_nan() -> None:
    """NaN counts as density 0: no chain enters, and none is lost."""

    def half(z: Tensor) -> Tensor:
        return -0.5 * (z**2).sum(1) + 0.0 * z[:, 0].sqrt()  # NaN below 0

    source = rng()
    at = Point.at(source.randn(1000, 2).abs(), flat, half)
    for _ in range(5):
        at, probability = ais.hmc(flat, half, at, 1.0, torch.full((1000, 1), 0.8, dtype=torch.float64), 2, source)
    assert (at.z[:, 0] >= 0).all()
    assert at.z.isfinite().all()
    assert 0.1 < float(probability.mean()) < 0.95


# -- annealing -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", ["sigmoid", "linear"])
def test_temperatures_rise_from_0_to_1(schedule: str) -> None:
    b = ais.temperatures(100, schedule)  # type: ignore[arg-type]
    assert (b[0], b[-1], len(b)) == (0, 1, 101)
    assert (b.diff() > 0).all()
    torch.testing.assert_close(b, 1 - b.flip(0))  # both are symmetric


@pytest.mark.parametrize("schedule", ["sigmoid", "linear"])
@pytest.mark.parametrize("reverse", [False, True])
def test_weights_are_unbiased(reverse: bool, schedule: str) -> None:
    """E[w] = p(x) of forward chains and E[1/w] = 1/p(x) of reverse ones, over 40,000 chains of three temperatures.

    z ~ N(0, I), x ~ N(z, 4 I) has p(x) = N(0, 5 I) and p(z | x) = N(x / 5, 4/5 I), and 1/w has a finite variance even at one temperature (a
    sharper likelihood's has not). Steps are long, so that a move at a wrong temperature shows. Tolerance: 4.5 standard
    errors, with which any of the four tests fails by chance once in 70,000.
    """
    C, source, how = 40_000, rng(3), Annealing(temperatures=3, chains=40_000, steps=2, schedule=schedule)  # type: ignore[arg-type]
    x = torch.tensor([2.0, -6.0], dtype=torch.float64)
    log_p = float(-0.1 * (x**2).sum() - math.log(2 * math.pi * 5))
    z = source.randn(1, C, 2)
    start = x / 5 + math.sqrt(0.8) * z if reverse else z
    sizes = torch.full((3, 1), 0.8, dtype=torch.float64)
    found = ais.anneal(
        ais.standard_normal,
        lambda z: -0.125 * ((x - z) ** 2).sum(1) - math.log(2 * math.pi * 4),
        start,
        sizes,
        how,
        source,
        reverse=reverse,
    )
    ratio = torch.exp((found.log_weights[0] - log_p) * (-1 if reverse else 1))
    error = float(ratio.std()) / math.sqrt(C)
    assert 0.001 < error < 0.03  # a test of something
    assert abs(float(ratio.mean()) - 1) < 4.5 * error
    # and E log w lies below log p(x), the reverse one's above, by far more than its error
    short = (log_p - found.log_weights[0]) * (-1 if reverse else 1)
    assert float(short.mean()) > 10 * float(short.std()) / math.sqrt(C)


def test_one_temperature_is_importance_sampling_from_the_prior(known) -> None:
    """T = 1 moves nowhere: log w = log p(x | z), z from the prior."""
    joint, x, *_ = known
    how, sizes = Annealing(temperatures=1, chains=3), torch.ones(1, 4, dtype=torch.float64)
    prior, likelihood, draw = ais._rows(joint, x, None, 3, rng(1))
    z = draw()
    found = ais.anneal(prior, likelihood, z, sizes, how, rng(2))
    torch.testing.assert_close(found.log_weights, joint.log_likelihood(x.repeat_interleave(3, 0), z.flatten(0, 1), None).view(4, 3))


def test_evidence_of_a_linear_gaussian_model(known) -> None:
    """The bound meets log p(x): mean over 4 records and 64 chains within 0.01 nats, a step size adapted to its target, chains that agree.

    The spread of log w is about 0.1 here (ESS of C / (1 + 0.01)), so the mean over 256 chains has a standard error of 0.007 at most.
    """
    joint, x, log_p, *_ = known
    found = ais.annealed_importance_sampling(joint, x, None, Annealing(temperatures=1000, chains=64, steps=1), rng(1))
    spread = float((found.log_weights - log_p[:, None]).std())
    assert spread < 0.25
    assert abs(float((found.bound - log_p).mean())) < min(0.01 + spread**2 / 2 / 64, 4 * spread / 16)
    assert ((found.acceptance - 0.65).abs() < 0.06).all()
    assert (found.ess > 0.9 * 64).all()
    assert (found.ess <= 64 + 1e-9).all()


def test_bounds_close_from_both_sides() -> None:
    """On simulated records lower and upper bounds enclose the mean of log p(x), and more temperatures bring them together.

    With few temperatures the gap is of nats; with many, the mean gap lies within 4 of its standard errors of 0, and those are small.
    """
    model, exact = linear_gaussian(20, 10)
    joint, gaps = model._joint(), []
    for T in (20, 1000):
        how = Annealing(temperatures=T, chains=4, steps=1)
        records = []

        def keep(z: Tensor, c: Tensor | None, source: Rng, records: list[Tensor] = records) -> Tensor:
            records.append(joint.simulate(z, c, source))
            return records[-1]

        watched = ais.Joint(joint.sample_prior, joint.log_prior, keep, joint.log_likelihood)
        lower, upper = ais.bidirectional(watched, 20, None, how, rng(5))
        truth = exact(records[0])[0]
        assert upper.reverse
        for side, found in ((1, lower), (-1, upper)):
            short = side * (truth - found.bound)
            assert float(short.mean()) > -4 * float(short.std()) / math.sqrt(20)
        gaps.append(upper.bound - lower.bound)
    assert float(gaps[0].mean()) > 2
    assert abs(float(gaps[1].mean())) < max(0.3, 4 * float(gaps[1].std()) / math.sqrt(20))
    assert float(gaps[1].mean()) < 0.2 * float(gaps[0].mean())


def test_bound_and_ess_by_their_definitions() -> None:
    log_w = torch.tensor([[0.0, 1.0, -1.0], [5.0, 5.0, 5.0]], dtype=torch.float64)
    w = log_w.exp()
    forward, back = ais.Chains(log_w, torch.ones(2)), ais.Chains(log_w, torch.ones(2), reverse=True)
    torch.testing.assert_close(forward.bound, w.mean(1).log())
    torch.testing.assert_close(back.bound, -(1 / w).mean(1).log())
    torch.testing.assert_close(forward.ess, w.sum(1) ** 2 / (w**2).sum(1))
    assert float(forward.ess[1]) == pytest.approx(3)


def test_same_seed_same_bits_and_no_global_randomness(known) -> None:
    joint, x, *_ = known
    state, how = torch.get_rng_state(), Annealing(temperatures=20, chains=2, steps=1)
    runs = [ais.annealed_importance_sampling(joint, x, None, how, rng(s)).log_weights for s in (1, 1, 2)]
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])
    assert torch.equal(state, torch.get_rng_state())


def test_known_answers() -> None:
    answers = list(ais.known_answers())
    assert len(answers) == 3
    for answer in answers:
        assert answer.holds, answer
        assert answer.tolerance < 0.2


def test_a_density_without_slopes_is_refused() -> None:
    with pytest.raises(ConfigError, match="needs slopes"):
        Point.at(torch.zeros(3, 2), flat, lambda z: z.detach().sum(1))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"temperatures": 0}, "temperatures must be at least 1, got 0"),
        ({"chains": 0}, "chains must be at least 1"),
        ({"steps": -1}, "steps must be at least 1, got -1"),
        ({"schedule": "cosine"}, "sigmoid or linear, got 'cosine'"),
        ({"acceptance": 1.0}, "between 0 and 1"),
    ],
)
def test_settings_out_of_range(setting, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Annealing(**setting)
