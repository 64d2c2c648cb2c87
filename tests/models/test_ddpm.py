"""DDPM: the bound in the Gaussian case, decoders that are probabilities, lattices by Bayes' rule, training that finds the score."""

import itertools
import math

import pytest
import torch
from torch import nn

from pushforward.data.features import Features
from pushforward.data.spec import BINARY, REAL, UNIT, DataSpec, categories, levels
from pushforward.errors import ConfigError, Unsupported
from pushforward.models.diffusion.ddpm import DDPM, _gaussian_bound, _GaussianDenoiser, known_answers
from pushforward.models.diffusion.entries import Entries
from pushforward.nn.denoiser import MLPDenoiser
from pushforward.nn.unet import UNet
from pushforward.noise import Schedule, cosine, linear
from pushforward.objective import Batch
from pushforward.rng import Rng

F64 = torch.zeros((), dtype=torch.float64)
POINT = DataSpec("points", (1,), (REAL,))
MIXED = DataSpec("table", (5,), (REAL, categories(3), BINARY, levels(4), UNIT))
M, S = 0.5, 0.7


def gaussian(T: int = 20, schedule: str = "linear", parametrisation: str = "v", **hyper) -> DDPM:
    """A model whose network is the optimal denoiser of N(M, S^2)."""
    noise = {"linear": linear, "cosine": cosine}[schedule](T)
    network = _GaussianDenoiser(M, S, noise, parametrisation)
    hyper = {"timesteps": T, "schedule": schedule, "parametrisation": parametrisation, "sampling_steps": T, "network": network} | hyper
    return DDPM(**hyper).build(POINT).double()


def records(spec: DataSpec, n: int, seed: int = 0) -> torch.Tensor:
    rng = Rng.seeded(seed, F64)
    columns = [rng.randint(s.size, n).double() if s.size else rng.rand(n) if s.name == "unit" else rng.randn(n) for s in spec.columns]
    return torch.stack(columns, 1).reshape(n, *spec.shape)


def awake(model: DDPM) -> DDPM:
    for p in model.parameters():
        if not p.any():
            nn.init.normal_(p, std=0.3)
    return model


def test_known_answers() -> None:
    for answer in known_answers():
        assert answer.holds, answer


@pytest.mark.parametrize("parametrisation", ["epsilon", "x0", "v"])
@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize("variance", ["posterior", "beta"])
def test_bound_equals_closed_form(parametrisation: str, schedule: str, variance: str) -> None:
    model = gaussian(20, schedule, parametrisation, variance=variance)
    x = torch.tensor([-1.0, 0.4, 2.0], dtype=torch.float64)
    exact = _gaussian_bound(x, M, S, model.noise, variance)
    for samples in (None, 1, 8):
        ours = model._log_prob(x.repeat_interleave(2000)[:, None], None, Rng.seeded(1, x), samples=samples).reshape(3, 2000)
        error = ours.std(1) / math.sqrt(2000)
        assert ((ours.mean(1) - exact).abs() < 5 * error).all(), (samples, ours.mean(1), exact, error)


def test_bound_never_exceeds_minus_the_entropy() -> None:
    # The bound is quadratic in x: its mean under N(M, S^2) is the mean over M - S and M + S.
    ends, entropy = torch.tensor([M - S, M + S], dtype=torch.float64), math.log(S * math.sqrt(2 * math.pi * math.e))
    for make, variance, T in itertools.product((linear, cosine), ("posterior", "beta"), (50, 1000)):
        assert float(_gaussian_bound(ends, M, S, make(T), variance).mean()) < -entropy


class Zero(nn.Module):
    """Predicts 0."""

    def forward(self, z, t, c=None):
        return torch.zeros_like(z)


def test_prior_term_is_the_kl() -> None:
    model, x = gaussian(100), torch.tensor([[0.5], [-3.0]], dtype=torch.float64)
    model.noise = Schedule(model.noise.log_alpha2[:31])  # broken off while there is signal left
    alpha, sigma = model.noise.level(30)
    kl = torch.distributions.kl_divergence(torch.distributions.Normal(alpha * x, sigma), torch.distributions.Normal(0.0, 1.0))
    assert torch.allclose(model._L_T(x), kl[:, 0], rtol=1e-12)


def test_times_of_the_bound_are_stratified() -> None:
    # x_hat = 0 leaves an integrand w_t f^2 without noise: what scatters is the choice of times alone.
    model, f = gaussian(200, "cosine", "x0", network=Zero()), torch.ones(500, 1, dtype=torch.float64)
    one, many = (model._L_between(f, None, Rng.seeded(0, f), k) for k in (1, 64))
    exact = model._L_between(f[:1], None, Rng.seeded(0, f), None)
    for figures in (one, many):
        assert float(figures.mean()) == pytest.approx(float(exact), abs=5 * float(figures.std()) / math.sqrt(500))
    # Independent times would scatter by 1/64 of the variance; strata remove what is smooth in t, most of it.
    assert float(many.var()) < float(one.var()) / 64 / 4


@pytest.mark.parametrize("parametrisation", ["epsilon", "x0", "v"])
def test_loss_of_the_optimal_denoiser(parametrisation: str) -> None:
    model, n = gaussian(50, "linear", parametrisation), 20_000
    x = M + S * Rng.seeded(0, F64).randn(n, 1)
    (objective,) = model._objectives()
    loss = objective.loss(Batch(x, None, torch.arange(n), Rng.seeded(1, F64))).per_record
    alpha, sigma2 = model.noise.alpha[1:], model.noise.sigma[1:].square()
    mmse = S**2 * sigma2 / (alpha.square() * S**2 + sigma2)  # Var[x | z_t]
    scale = {"epsilon": alpha.square() / sigma2, "x0": 1.0, "v": 1 / sigma2}[parametrisation]
    assert float(loss.mean()) == pytest.approx(float((scale * mmse).mean()), abs=5 * float(loss.std()) / math.sqrt(n))


def test_times_are_even_over_the_global_batch() -> None:
    model, B = DDPM(timesteps=10, sampling_steps=10).build(POINT), 30
    whole = model._low_discrepancy_times(Batch(torch.zeros(B, 1), None, torch.arange(B), Rng.seeded(3)))
    assert torch.bincount(whole, minlength=11).tolist() == [0] + [3] * 10
    for rows in (slice(0, 15), slice(15, 30)):
        rng = Rng(torch.Generator().manual_seed(3), rows=rows, total=B)
        part = model._low_discrepancy_times(Batch(torch.zeros(15, 1), None, torch.arange(15), rng))
        assert torch.equal(part, whole[rows])


@pytest.mark.parametrize("spec", [DataSpec("table", (2,), (levels(5), categories(3))), DataSpec("image", (1, 1, 2), (levels(17),))])
def test_decoder_is_a_probability(spec: DataSpec) -> None:
    entries = Entries(Features(spec)).double()
    x = torch.tensor(list(itertools.product(*(range(s.size or 0) for s in spec.columns))), dtype=torch.float64).reshape(-1, *spec.shape)
    mean = torch.randn(1, *entries.features.shape, dtype=torch.float64)
    for sd in (0.01, 0.3):
        p = entries.log_prob(x, mean.expand(len(x), *mean.shape[1:]), sd).exp()
        assert float(p.sum()) == pytest.approx(1.0, abs=1e-12)
        f = entries.features.encode(x)
        direct = (-(f - mean).square().flatten(1).sum(1) / (2 * sd**2)).softmax(0)
        assert torch.allclose(p, direct, atol=1e-12)


def test_decoder_of_unit_and_real_entries_integrates_to_one() -> None:
    for support, a, b in ((UNIT, 0.0, 1.0), (REAL, -6.0, 6.0)):
        entries = Entries(Features(DataSpec("points", (1,), (support,)))).double()
        x = torch.linspace(a, b, 20_001, dtype=torch.float64)[:, None]
        for mean in (-1.0, 0.2, 0.95):
            p = entries.log_prob(x, torch.full_like(x, mean), 0.1).exp()
            # Trapezoids of width h: h^2 f'' / 12 over the range; f'' up to 4 / sd^3.
            assert float(torch.trapezoid(p, x[:, 0])) == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("k", [2, 3, 17])
def test_lattice_is_bayes_rule(k: int) -> None:
    entries, noise = Entries(Features(DataSpec("points", (4,), (levels(k),)))).double(), cosine(100)
    values = torch.linspace(-1, 1, k, dtype=torch.float64)
    output, x = torch.randn(50, 4, dtype=torch.float64), values[torch.randint(k, (50, 4))]
    for t in (1, 30, 70):
        alpha, sigma = noise.level(t)
        z = alpha * x + sigma * torch.randn(50, 4, dtype=torch.float64)
        prior = (1 + alpha / sigma) * output[..., None] * values
        log_p = prior + torch.distributions.Normal(alpha * values, sigma).log_prob(z[..., None])
        direct = (log_p.softmax(-1) * values).sum(-1)
        ours = entries.expected(output, z, torch.tensor(alpha), torch.tensor(sigma))
        assert torch.allclose(ours, direct, atol=1e-10)


def test_mixed_lattices_agree_with_each_column_alone() -> None:
    spec = DataSpec("table", (4,), (levels(3), BINARY, levels(65), REAL))
    entries, z, output = Entries(Features(spec)).double(), *torch.randn(2, 6, 4, dtype=torch.float64)
    alpha, sigma = torch.tensor(0.6), torch.tensor(0.8)
    assert entries.on_lattice.tolist() == [True, True, False, False]
    ours = entries.expected(output, z, alpha, sigma)
    for i, support in enumerate((levels(3), BINARY)):
        alone = Entries(Features(DataSpec("points", (1,), (support,)))).double()
        assert torch.allclose(ours[:, i], alone.expected(output[:, i : i + 1], z[:, i : i + 1], alpha, sigma)[:, 0])


def test_bound_of_a_binary_record_is_below_its_log_probability() -> None:
    """An untrained network: with tilt 0 the model of a fair coin is exact, so the bound is near log(1/2), and below."""
    model = DDPM(width=8, blocks=1).build(DataSpec("points", (1,), (BINARY,))).double()
    x = (torch.arange(4000) % 2).double()[:, None]
    with torch.no_grad():
        bound = model._log_prob(x, None, Rng.seeded(0, x))
    error = float(bound.std()) / math.sqrt(len(x))
    # The discretisation of T = 1000 costs O(1/T); 0.02 nats is measured with room to spare at T = 100 (0.05).
    assert math.log(0.5) - 0.02 < float(bound.mean()) < math.log(0.5) + 5 * error


@pytest.mark.parametrize("parametrisation", ["epsilon", "x0", "v"])
def test_training_finds_the_score(parametrisation: str) -> None:
    """A short 1-D training on a two-point mixture N(+-1, 0.3^2), against E[x | z] in closed form."""
    model = DDPM(parametrisation=parametrisation, width=48, blocks=1, timesteps=100, schedule="linear").build(POINT)
    (objective,), rng = model._objectives(), Rng.seeded(0)
    optimizer = torch.optim.Adam(objective.parameters(), 3e-3)
    for step in range(600):
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * (1 - step / 600)
        x = 2.0 * rng.randint(2, 256, 1) - 1 + 0.3 * rng.randn(256, 1)
        loss = objective.loss(Batch(x, None, torch.arange(256), rng)).per_record.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    x = 2.0 * rng.randint(2, 4000, 1) - 1 + 0.3 * rng.randn(4000, 1)
    for t in (10, 40, 80):
        alpha, sigma = model.noise.level(t)
        z = alpha * x + sigma * rng.randn(4000, 1)
        total = alpha**2 * 0.09 + sigma**2
        mean = torch.tanh(alpha * z / total)  # E[which | z]
        exact = mean + alpha * 0.09 / total * (z - alpha * mean)
        with torch.no_grad():
            ours = model._expected(z, torch.full((4000,), t), None)
        # In the unit of what is predicted, as the loss is. Least squares with P parameters on N draws errs by P / N of the variance of
        # the target (at most 1): 12,000 / (600 x 256) = 0.08, were all of use to a curve of one variable. A quarter of that is asked.
        scale = {"epsilon": alpha / sigma, "x0": 1.0, "v": 1 / sigma}[parametrisation]
        assert float(((ours - exact) * scale).square().mean()) < 0.02


@pytest.mark.parametrize("spec", [MIXED, DataSpec("image", (1, 8, 8), (levels(17),)), DataSpec("image", (3, 14, 9), (levels(256),))])
@pytest.mark.parametrize("condition_dim", [0, 2])
def test_verbs_on_every_kind(spec: DataSpec, condition_dim: int) -> None:
    network = "unet" if spec.shape == (3, 14, 9) else "auto"
    model = awake(
        DDPM(width=16, blocks=1, channels=8, sampling_steps=4, network=network).build(spec.with_condition(condition_dim))
    ).double()
    x, c = records(spec, 3), torch.eye(2)[[0, 1, 0]].double() if condition_dim else None
    for sampler in ("ancestral", "ddim"):
        sample = model._sample(3, c, Rng.seeded(0, F64), sampler=sampler, steps=3)
        assert sample.shape == x.shape
        for column, s in zip(sample.flatten(1).T, spec.columns):
            if s.size:
                assert torch.equal(column, column.round().clamp(0, s.size - 1))
        assert torch.equal(sample, model._sample(3, c, Rng.seeded(0, F64), sampler=sampler, steps=3))
    bound = model._log_prob(x, c, Rng.seeded(0, F64), samples=4)
    assert bound.shape == (3,)
    assert torch.isfinite(bound).all()
    z = model._encode(x, c)
    assert z.shape == (3, model.features.dim)
    assert model._decode(z, c).shape == x.shape
    if c is not None:
        other = 1 - c
        assert not torch.equal(model._log_prob(x, other, Rng.seeded(0, F64), samples=4), bound)


def test_codes_lead_back() -> None:
    model, x = gaussian(1000, "cosine", sampling_steps=500), torch.linspace(-1, 2, 7, dtype=torch.float64)[:, None]
    assert torch.allclose(model.decode(model.encode(x)), x, atol=0.02)  # 500 first-order steps; see test_samplers


def test_networks_and_evaluations() -> None:
    def kind(spec: DataSpec, **hyper):
        return type(DDPM(width=8, channels=8, **hyper).build(spec).denoiser)

    small, large = DataSpec("image", (1, 12, 12), (BINARY,)), DataSpec("image", (1, 12, 13), (BINARY,))
    assert [kind(POINT), kind(small), kind(large)] == [MLPDenoiser, MLPDenoiser, UNet]
    assert [kind(small, network="unet"), kind(large, network="mlp")] == [UNet, MLPDenoiser]
    assert DDPM(sampling_steps=17).nfe == 17
    mine = nn.Linear(1, 1)
    assert DDPM(network=mine).build(POINT)._objectives()[0].modules == (mine,)


def test_errors() -> None:
    with pytest.raises(ConfigError, match="network='unet' needs images .* Use network='mlp'"):
        DDPM(network="unet").build(POINT)
    with pytest.raises(ConfigError, match="between 1 and the 10 timesteps of training, got 100"):
        DDPM(timesteps=10)
    with pytest.raises(Unsupported, match="categorical pixels have no order: give the image as levels, or as a table"):
        DDPM().build(DataSpec("image", (1, 4, 4), (categories(3),)))
    model = DDPM(width=8, sampling_steps=2).build(POINT)
    with pytest.raises(ConfigError, match="sampler 'dim'. Did you mean 'ddim'"):
        model.sample(2, sampler="dim")
    with pytest.raises(ConfigError, match="no setting|between 1 and the 1000 timesteps"):
        model.sample(2, steps=0)
    with pytest.raises(ConfigError, match="samples must be at least 1, got 0; None evaluates all 1000"):
        model.log_prob(torch.zeros(2, 1), samples=0)


def test_without_gradients_a_cpu_sees_a_few_records_at_a_time(monkeypatch):
    model = DDPM(network="mlp", width=8, blocks=1).build(DataSpec("points", (3,))).double()
    seen: list[int] = []
    model.denoiser.register_forward_hook(lambda _, given, __: seen.append(len(given[0])))
    z, t = torch.randn(10, 3, dtype=torch.float64), torch.arange(1, 11)
    with torch.no_grad():
        whole = model._expected(z, t, None)
        monkeypatch.setattr("pushforward.models.diffusion.ddpm.CACHE", 3 * 4)
        assert torch.allclose(model._expected(z, t, None), whole, rtol=1e-12)  # the same sums, in another order at most
    model._expected(z, t, None)
    assert seen == [10, 4, 4, 2, 10]  # with gradients all at once, as training has it
