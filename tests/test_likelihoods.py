"""Likelihoods: each sums or integrates to one, agrees with torch.distributions, draws what it says, and names the one that fits."""

import math

import pytest
import torch
from torch.distributions import Normal

from pushforward.data.spec import BINARY, REAL, UNIT, categories, levels
from pushforward.errors import DataError
from pushforward.likelihoods import (
    Bernoulli,
    Categorical,
    ColumnLikelihood,
    ContinuousBernoulli,
    DiscretisedLogistic,
    Gaussian,
    Likelihood,
    LikelihoodDistribution,
    Mixture,
    MixtureOfGaussians,
    TruncatedGaussian,
    for_support,
)
from pushforward.rng import Rng

DISCRETE = [Bernoulli(), Categorical(2), Categorical(5), DiscretisedLogistic(2), DiscretisedLogistic(17), DiscretisedLogistic(256)]
LINE = [Gaussian(), Gaussian("unit"), Gaussian(0.3), MixtureOfGaussians(1), MixtureOfGaussians(4)]
INTERVAL = [TruncatedGaussian(), TruncatedGaussian("unit"), TruncatedGaussian(0.1), ContinuousBernoulli()]
EVERY = [*DISCRETE, *LINE, *INTERVAL]


def like(seed: int = 0) -> Rng:
    return Rng.seeded(seed, torch.zeros((), dtype=torch.float64))


def raw(family: Likelihood, n: int, spread: float = 2.0) -> torch.Tensor:
    return spread * like(7).randn(n, family.n_params)


def ids(families: list) -> list[str]:
    return [repr(f) for f in families]


@pytest.mark.parametrize("family", DISCRETE, ids=ids(DISCRETE))
def test_probabilities_sum_to_one(family):
    params = raw(family, 20, spread=4.0)
    values = torch.arange(family.k, dtype=torch.float64)
    p = family.log_prob(params[:, None].expand(-1, family.k, -1), values.expand(20, -1)).exp()
    # k terms, each rounded to 1e-16 of at most 1.
    assert (p.sum(1) - 1).abs().max() < family.k * 2e-15
    assert torch.equal(family.mode(params), p.argmax(1).double())
    # k products of order k.
    assert (family.mean(params) - (p * values).sum(1)).abs().max() < family.k**2 * 1e-15
    family.check(family.mode(params))


def test_discretised_logistic_is_finite_far_in_the_tails():
    family = DiscretisedLogistic(256)
    params = torch.tensor([[-40.0, -30.0], [40.0, -30.0], [0.0, -30.0], [0.0, 60.0]], requires_grad=True)
    for value in (0.0, 1.0, 128.0, 254.0, 255.0):
        log_prob = family.log_prob(params, torch.full((4,), value))
        assert torch.isfinite(log_prob).all()
        (gradient,) = torch.autograd.grad(log_prob.sum(), params)
        assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("family", LINE, ids=ids(LINE))
def test_densities_integrate_to_one_on_the_line(family):
    params = raw(family, 4, spread=0.7)
    grid = torch.linspace(-100, 100, 80_001, dtype=torch.float64)
    mass = torch.stack([torch.trapezoid(family.log_prob(p.expand(len(grid), -1), grid).exp(), grid) for p in params])
    # Exact to rounding for Gaussians: the step, 0.0025, is below half of the smallest sigma, 0.01, and the ends are over 10 sigma away.
    assert (mass - 1).abs().max() < 1e-9


@pytest.mark.parametrize("family", INTERVAL, ids=ids(INTERVAL))
def test_densities_integrate_to_one_on_the_interval(family):
    params = raw(family, 10)
    grid = torch.linspace(0, 1, 100_001, dtype=torch.float64)
    mass = torch.stack([torch.trapezoid(family.log_prob(p.expand(len(grid), -1), grid).exp(), grid) for p in params])
    # The rule's error is h^2 / 12 |p'(1) - p'(0)| <= 1e-11 * (1 / 0.01)^2 * 0.5 at the smallest sigma.
    assert (mass - 1).abs().max() < 1e-6


@pytest.mark.parametrize("family", EVERY, ids=ids(EVERY))
def test_samples_match_the_moments_and_stay_in_the_support(family):
    params = raw(family, 6, spread=1.5)
    n = 10_000
    x = family.sample(params[None].expand(n, -1, -1), like(3))
    assert x.shape == (n, 6)
    family.check(x)
    error = x.std(0) / math.sqrt(n)
    # 6 means, each within 5 standard errors but for one time in 3e5.
    assert ((x.mean(0) - family.mean(params)).abs() < 5 * error + 1e-9).all()
    # A Gibbs inequality: the mean log-probability of its own draws is the negative entropy, above that of a wrong parameter's.
    own, wrong = (family.log_prob(p.expand(n, -1, -1), x).mean() for p in (params, params.flip(0) + 0.3))
    assert own > wrong


def test_log_prob_agrees_with_torch():
    params, x = raw(Gaussian(), 50), like(1).randn(50)
    log_sigma = -math.log(100) + torch.nn.functional.softplus(params[:, 1] + math.log(100))
    assert torch.allclose(Gaussian().log_prob(params, x), Normal(params[:, 0], log_sigma.exp()).log_prob(x), rtol=1e-12)
    assert torch.allclose(Gaussian("unit").log_prob(params[:, :1], x), Normal(params[:, 0], 1.0).log_prob(x), rtol=1e-12)
    bits = (x > 0).double()
    bernoulli = torch.distributions.Bernoulli(logits=params[:, 0])
    assert torch.allclose(Bernoulli().log_prob(params[:, :1], bits), bernoulli.log_prob(bits), rtol=1e-12)
    params = raw(Categorical(4), 50)
    codes = like(1).randint(4, 50).double()
    categorical = torch.distributions.Categorical(logits=params)
    assert torch.allclose(Categorical(4).log_prob(params, codes), categorical.log_prob(codes), rtol=1e-12)
    params = raw(MixtureOfGaussians(3), 50, 1.0)
    log_pi, mu, log_sigma = MixtureOfGaussians(3).parts(params)
    mixture = torch.distributions.MixtureSameFamily(torch.distributions.Categorical(logits=log_pi), Normal(mu, log_sigma.exp()))
    assert torch.allclose(MixtureOfGaussians(3).log_prob(params, x), mixture.log_prob(x), rtol=1e-10)


def test_the_scale_has_a_floor():
    params = torch.tensor([[0.0, -1000.0]], dtype=torch.float64)
    # -log 0.01 - log(2 pi) / 2, the cap that the docstring states.
    assert float(Gaussian().log_prob(params, torch.zeros(1, dtype=torch.float64))) == pytest.approx(4.605170 - 0.918939, abs=1e-5)
    assert float(MixtureOfGaussians(1).parts(params.new_tensor([0.0, 0.0, -1000.0]))[2].exp()) == pytest.approx(0.01)
    assert math.isfinite(float(TruncatedGaussian().log_prob(torch.tensor([[90.0, -1000.0]]), torch.zeros(1))))


MIXED = [REAL, categories(3), BINARY, REAL, levels(7), UNIT, categories(3)]


def test_columns_keep_their_order():
    columns = ColumnLikelihood.for_columns(MIXED)
    assert columns.total == 2 + 3 + 1 + 2 + 2 + 2 + 3
    params = like(2).randn(9, columns.total)
    x = columns.sample(params, like(3))
    columns.check(x)
    columns.check(columns.mode(params))
    log_prob = columns.log_prob(params, x)
    for d, (one, at) in enumerate(zip(columns.likelihoods, columns.slices)):
        assert torch.equal(log_prob[:, d], one.log_prob(params[:, at], x[:, d]))
        assert torch.equal(columns.mean(params)[:, d], one.mean(params[:, at]))
        assert torch.equal(columns.mode(params)[:, d], one.mode(params[:, at]))


def test_equal_columns_take_one_call(monkeypatch):
    calls = []
    monkeypatch.setattr(Bernoulli, "log_prob", lambda self, p, x: calls.append(p.shape) or x)
    columns = ColumnLikelihood.for_columns([BINARY] * 784)
    columns.log_prob(torch.zeros(2, 784), torch.zeros(2, 784))
    assert calls == [(2, 784, 1)]


def test_each_support_has_a_family_that_accepts_it():
    for support in (REAL, UNIT, BINARY, levels(17), categories(4)):
        for_support(support).check_support(support)
    assert for_support(levels(5), ordered=False) == Categorical(5)


@pytest.mark.parametrize(
    ("family", "values", "says"),
    [
        (Bernoulli(), [0.0, 0.3], r"bernoulli likelihood models 0 and 1; found 0.3. Use likelihood='gaussian' \(truncated to \[0, 1\]\)"),
        (Bernoulli(), [0.0, 7.0], "found 7. Use likelihood='discretised'"),
        (Bernoulli(), [0.0, -1.5], "found -1.5. Use likelihood='gaussian' for"),
        (DiscretisedLogistic(17), [16.0, 17.0], "integers 0 to 16; found 17"),
        (Categorical(3), [0.5, 1.0], "integers 0 to 2; found 0.5"),
        (TruncatedGaussian(), [0.2, 1.2], r"numbers in \[0, 1\]; found 1.2. Use likelihood='gaussian' for"),
        (Gaussian(), [0.0, float("nan")], "finite real numbers; found nan. .*clean the data"),
    ],
)
def test_values_outside_the_support_are_refused_with_the_one_that_fits(family, values, says):
    with pytest.raises(DataError, match=says):
        family.check(torch.tensor(values))


def test_wrong_supports_are_refused_with_the_one_that_fits():
    with pytest.raises(DataError, match=r"gaussian likelihood .* not entries that are levels\(17\). Use likelihood='discretised'"):
        Gaussian().check_support(levels(17))
    with pytest.raises(DataError, match="give it k=17"):
        DiscretisedLogistic(256).check_support(levels(17))


def test_a_record_distribution_sums_over_entries_and_samples_records():
    params = like(0).randn(3, 2, 4, 5, 1)
    distribution = LikelihoodDistribution(Bernoulli(), params, (2, 4, 5))
    x = distribution.sample((7,))
    assert x.shape == (7, 3, 2, 4, 5)
    peer = torch.distributions.Independent(torch.distributions.Bernoulli(logits=params[..., 0]), 3)
    assert torch.allclose(distribution.log_prob(x[0]), peer.log_prob(x[0]), rtol=1e-12)
    assert torch.equal(distribution.mode, (params[..., 0] > 0).double())
    table = ColumnLikelihood.for_columns(MIXED)
    rows = LikelihoodDistribution(table, like(1).randn(3, table.total), (len(MIXED),))
    assert rows.log_prob(rows.sample()).shape == (3,)
    assert rows.sample((2,)).shape == (2, 3, len(MIXED))


def test_continuous_bernoulli_is_torchs_and_smooth_through_one_half():
    """torch.distributions expands about lambda = 1/2 to second order on (0.499, 0.501): compared outside it; inside, by quadrature."""
    logits = torch.tensor([-30.0, -3.0, -0.3, 0.25, 2.0, 12.0], dtype=torch.float64)
    x = torch.linspace(0, 1, 11, dtype=torch.float64)[:, None]
    known = torch.distributions.ContinuousBernoulli(logits=logits)
    family = ContinuousBernoulli()
    # Its normaliser loses digits as atanh does near 1: e^30 * 1e-16 = 1e-3 relative at |l| = 30, less elsewhere.
    assert torch.allclose(family.log_prob(logits[:, None], x)[:, 1:5], known.log_prob(x)[:, 1:5], atol=1e-9)
    assert torch.allclose(family.mean(logits[:, None])[1:5], known.mean[1:5], atol=1e-9)
    # On either side of the series' edge |l| = 0.2 (means: 0.1), and at 0, the trapezoid rule on 10^5 steps has error l^2 / 12e10.
    grid = torch.linspace(0, 1, 100_001, dtype=torch.float64)
    for value in (0.0, 1e-6, 0.09, 0.11, 0.19, 0.21, -0.2):
        l = torch.tensor([value], dtype=torch.float64, requires_grad=True)
        p = family.log_prob(l.expand(len(grid), 1), grid).exp()
        assert float(torch.trapezoid(p, grid).detach()) == pytest.approx(1, abs=1e-11)
        assert float(torch.trapezoid(grid * p, grid).detach()) == pytest.approx(float(family.mean(l).detach()), abs=1e-10)
        # d/dl log p(x) = x - E[x]; the series' own derivative ends in 8 a^7 / 37800 < 1e-10.
        (slope,) = torch.autograd.grad(family.log_prob(l, l.new_tensor(0.7)), l)
        assert float(slope) == pytest.approx(0.7 - float(family.mean(l).detach()), abs=1e-9)
    for extreme in (-1e4, 1e4):  # density |l| e^{-|l| d} at distance d from its end
        l = torch.tensor([extreme], dtype=torch.float32)
        end = float(extreme > 0)
        assert float(family.log_prob(l, torch.tensor(end))) == pytest.approx(math.log(1e4), rel=1e-4)
        assert torch.isfinite(family.sample(l.expand(100, 1), Rng.seeded(0))).all()


@pytest.mark.parametrize("spread", [False, True])
def test_a_mixture_sums_to_one_and_spread_sets_its_members_apart(spread):
    family = Mixture(DiscretisedLogistic(17), 3, spread)
    params, values = raw(family, 20), torch.arange(17, dtype=torch.float64)
    p = family.log_prob(params[:, None].expand(-1, 17, -1), values.expand(20, -1)).exp()
    assert (p.sum(1) - 1).abs().max() < 17 * 2e-15
    assert (family.mean(params) - (p * values).sum(1)).abs().max() < 17**2 * 1e-15
    blank = torch.zeros(1, family.n_params, dtype=torch.float64)
    means = family.parts(blank)[1][0, :, 0]
    assert (means.diff() > 0.4).all() if spread else (means == 0).all()
