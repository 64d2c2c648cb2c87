"""`evidence`: what it says of models whose log p(x) is known, and of those it cannot score; the observation model; Parzen windows."""

import math
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import pushforward as pf
from pushforward.data.spec import BINARY, REAL, UNIT, DataSpec, categories, levels
from pushforward.errors import ConfigError, DataError, NotFitted, Unsupported
from pushforward.evidence import evidence
from pushforward.metrics.parzen import parzen_log_prob, parzen_sigma
from pushforward.models.latent.linear import linear_gaussian
from pushforward.observation import GaussianObservation
from pushforward.rng import Rng
from pushforward.spaces import pick

QUICK: dict[str, Any] = {"temperatures": 60, "chains": 2, "steps": 1, "n": 6, "simulated": 4, "progress": False}
FIT: dict[str, Any] = {"steps": 30, "batch_size": 32, "progress": False}


def records(n: int = 200, dim: int = 5, seed: int = 0) -> np.ndarray:
    return 3 + 2 * np.random.default_rng(seed).normal(size=(n, dim))


def linear(data: pf.Data) -> tuple[pf.Model, Any]:
    """A linear-Gaussian VAE that takes itself to be fitted to `data`, and its exact log p of the user's records."""
    model, exact = linear_gaussian(5, 2)
    model.schema = data.schema

    def log_prob(x: Tensor) -> Tensor:
        return exact(x)[0] + data.schema.log_det

    return model, log_prob


# -- the whole -----------------------------------------------------------------------------------------------------------


def test_evidence_equals_a_known_log_likelihood_in_the_users_units() -> None:
    """Mean over 20 records against the closed form, with the scaling's log-determinant: within 5 standard errors of the chains.

    The spread of one log w at 500 temperatures is below 0.35 (see test_ais for twice as many), so that of a mean over 20 x 8 chains is
    below 0.03, and the bias below 0.35^2 / 16.
    """
    data = pf.load_data(records())
    model, log_prob = linear(data)
    found = evidence(model, data, n=20, temperatures=500, chains=8, steps=1, simulated=10, progress=False)
    test = data.test.tensor(torch.float64)
    assert found.held_out == len(data.test) == 20
    truth = log_prob(test)
    assert data.schema.log_det < -3  # the units matter
    assert abs(found.log_prob.value - float(truth.mean())) < 0.1
    assert (found.values - truth).abs().max() < 0.5
    # The interval is over records: Student's, of values whose spread is the truth's up to the chains' noise.
    assert found.log_prob.stderr == pytest.approx(float(truth.std()) / math.sqrt(20), rel=0.1)
    assert found.gap is not None
    assert found.lower is not None
    assert found.upper is not None
    assert abs(found.gap.value) < 0.25
    assert found.gap.value == pytest.approx(found.upper.value - found.lower.value)
    # simulated records have the model's own mean log-likelihood, minus its entropy: chi^2_5 / 2 has sd 1.6, over 10 records 0.5
    entropy = 0.5 * torch.logdet(2 * math.pi * math.e * covariance(model)) - data.schema.log_det
    assert abs(found.lower.value + float(entropy)) < 4 * 0.5
    assert (found.kind, found.base_measure, found.bits_per_dim, found.noise) == ("bound", "density", None, None)
    assert "8 chains, 500 temperatures (sigmoid)" in found.estimator
    assert "probability e^-b" in found.estimator
    assert 6.5 < found.ess <= 8


def covariance(model: Any) -> Tensor:
    z = torch.eye(2, dtype=torch.float64)
    mean = model._likelihood(torch.cat([z, 0 * z]), None).mean
    W = mean[:2] - mean[2:]
    noise = model._likelihood(z[:1], None).family.parts(model.p_x(z[:1]))[1].exp()
    return W.T @ W + torch.diag(noise[0].expand(5) ** 2)


def test_the_bound_reaches_the_importance_weighted_one_on_a_trained_vae() -> None:
    """L_5000 is a lower bound too, with an encoder's help: with 600 temperatures the annealed one is not below it by more than 4 errors."""
    images = (np.random.default_rng(0).random((400, 4, 4)) < np.linspace(0.05, 0.95, 16).reshape(4, 4)).astype(np.uint8)
    images[:200] = 1 - images[:200]
    data = pf.load_data(images, support="binary")
    model = pf.VAE(latent_dim=3, hidden=(32,)).fit(data, steps=300, batch_size=64, progress=False)
    found = evidence(model, data, n=20, temperatures=600, chains=8, steps=2, simulated=10, progress=False)

    bound = model.log_prob(pick(data.test, 20, 0), samples=5000, seed=0).double()
    difference = found.values - bound
    assert float(difference.mean()) > -4 * float(difference.std()) / math.sqrt(20) - 1e-3
    assert float(difference.mean()) < 0.2  # a model this small: both are nearly tight
    assert found.base_measure == "mass"
    assert found.bits_per_dim is not None
    assert found.bits_per_dim.value == pytest.approx(-found.log_prob.value / 16 / math.log(2))


def test_conditional_models_are_given_their_own_conditions() -> None:
    """Class 1 lies 6 away from class 0: with the wrong condition log p(x | c) falls by tens of nats."""
    label = np.random.default_rng(1).integers(0, 2, 300)
    x = np.random.default_rng(2).normal(size=(300, 2)) + 6 * label[:, None]
    data = pf.load_data(x, label=label)
    model = pf.VAE(latent_dim=2, hidden=(16,), likelihood="gaussian-unit").fit(data, condition=True, steps=300, progress=False)
    right = evidence(model, data, **QUICK)
    flipped = pf.Data(data.schema, data.train, data.validation, data.test.subset(slice(None)))
    flipped.test.condition = 1 - flipped.test.condition  # type: ignore[operator]
    wrong = evidence(model, flipped, **QUICK)
    assert right.conditional
    assert right.log_prob.value > wrong.log_prob.value + 1
    assert right.simulated == 4


@pytest.mark.parametrize("prior", ["latent_prior", "flow"])
def test_other_priors(prior: str) -> None:
    """A mixture over codes, and a flow trained with the networks: within 0.3 nats of their importance-weighted bounds with K = 2,000."""
    data = pf.load_data(records(300, 3))
    net = {"latent_dim": 2, "hidden": (8,), "likelihood": "gaussian-unit"}
    if prior == "flow":
        model: pf.Model = pf.VAE(**net, prior=pf.RealNVP(layers=2, hidden=(8,)))
    else:
        model = pf.LatentPrior(autoencoder=pf.VAE(**net), prior=pf.GaussianMixture(components=2))
    model.fit(data, **FIT)
    found = evidence(model, data.test[:10], **{**QUICK, "n": 10, "temperatures": 200, "chains": 8})
    bound = model.log_prob(data.test[:10], samples=2000, seed=0).double()
    assert abs(found.log_prob.value - float(bound.mean())) < 0.3
    assert found.gap is not None
    assert abs(found.gap.value) < 1


def test_gan_with_a_linear_generator_has_a_known_likelihood() -> None:
    """G(z) = A z + b seen through noise s is N(b, A A^T + s^2 I) in features: unit values are f = (x + 1) / 2, so add D log 2.

    The spread of one log w is below 0.3, so the mean over 12 records and 16 chains is within 0.1 of the truth.
    """
    for support, slope in (("real", 1.0), ("unit", 2.0)):
        x = np.random.default_rng(3).random((120, 3))
        data = pf.load_data(x, support=support)
        model = pf.GAN(noise_dim=2, hidden=(), critic_hidden=(8,), fourier=0).fit(data, **FIT)
        if support == "unit":
            model._squash = lambda y: y  # type: ignore[method-assign]  # tanh would bend it
        model.double()
        found = evidence(model, data, noise=0.5, n=12, temperatures=500, chains=16, steps=1, simulated=0, progress=False)
        b = model.generate(torch.zeros(1, 2, dtype=torch.float64), None)[0]
        A = model.generate(torch.eye(2, dtype=torch.float64), None) - b
        features = slope * data.test.tensor(torch.float64) - (slope - 1)
        exact = torch.distributions.MultivariateNormal(b, A.T @ A + 0.25 * torch.eye(3, dtype=torch.float64)).log_prob(features)
        truth = exact + 3 * math.log(slope) + data.schema.log_det
        assert abs(found.log_prob.value - float(truth.detach().mean())) < 0.1
        assert found.noise == 0.5
        assert found.gap is None
        assert "sd 0.5 in feature units" in found.estimator


def test_gan_noise_is_chosen_on_validation_records() -> None:
    """Of a generator that hits the data up to N(0, 0.4^2) noise, the grid's 0.4 is the best."""
    source = np.random.default_rng(4)
    data = pf.load_data(source.normal(size=(600, 2)))
    model = pf.GAN(noise_dim=2, hidden=(), critic_hidden=(8,), fourier=0, noise="uniform").fit(data, **FIT)
    with torch.no_grad():
        for p in model.generator_net.parameters():
            p.copy_(0.9 * torch.eye(2) if p.ndim == 2 else torch.zeros(2))
    # Uniform codes on [-1, 1] have variance 1/3: 0.81/3 + s^2 = 1 has s = 0.85
    found = evidence(model, data, **{**QUICK, "n": 20})
    assert found.noise == 0.8
    assert "the best of 0.1, 0.2, 0.4, 0.8, 1.6 on 20 validation records" in found.estimator.replace("0.05, ", "")


def test_same_seed_same_bits() -> None:
    data = pf.load_data(records())
    model, _ = linear(data)
    state = torch.get_rng_state()
    a, b = evidence(model, data, **QUICK), evidence(model, data, **QUICK)
    assert torch.equal(a.values, b.values)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(a.values, evidence(model, data, **QUICK, seed=1).values)


def test_memory_bounds_the_records_that_run_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two records at a time give the same bound as all at once, up to the chains' noise, and the widest call has 2 x C rows."""
    data = pf.load_data(records())
    model, _ = linear(data)
    widest, decode = 0, model.p_x.forward

    def params(z: Tensor, c: Tensor | None) -> Tensor:
        nonlocal widest
        widest = max(widest, len(z))
        return decode(z, c)

    monkeypatch.setattr(model.p_x, "forward", params)
    whole = evidence(model, data, **QUICK)
    assert widest == 12
    widest = 0
    monkeypatch.setattr(sys.modules["pushforward.evidence"], "MEMORY", 2 * 2 * 5)  # pf.evidence is the function
    parts = evidence(model, data, **QUICK)
    assert widest == 4
    assert (whole.values - parts.values).abs().max() < 3


def test_double_precision_leaves_the_model_as_it_was() -> None:
    data = pf.load_data(records())
    model = pf.VAE(latent_dim=2, hidden=(8,)).fit(data, **FIT)
    single, double = (evidence(model, data, **QUICK, precision=p) for p in ("32", "64"))  # type: ignore[arg-type]
    assert model.dtype == torch.float32
    assert abs(single.log_prob.value - double.log_prob.value) < 3


def test_to_json_is_plain() -> None:
    import json

    data = pf.load_data(records())
    model, _ = linear(data)
    found = evidence(model, data, **QUICK)
    state = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert state["log_prob"]["value"] == found.log_prob.value
    assert len(state["values"]) == 6
    assert json.loads(json.dumps(replace(found, ess=math.nan).to_json(), allow_nan=False))["ess"] is None


def test_command(tmp_path: Any) -> None:
    """`pushforward evidence RUN` prints bound, interval, gap, base measure and estimator, and writes every record's bound."""
    import json

    from click.testing import CliRunner

    from pushforward.cli import app

    path = tmp_path / "x.npy"
    np.save(path, records())
    model = pf.VAE(latent_dim=2, hidden=(8,)).fit(pf.load_data(path), out=tmp_path / "run", **FIT)
    flags = ["--temperatures", "50", "--chains", "2", "--n", "6", "--simulated", "4", "--seed", "3", "--no-progress"]
    done = CliRunner().invoke(app, ["evidence", str(tmp_path / "run"), *flags, "--out", str(tmp_path / "found.json")])
    assert done.exit_code == 0, done.output
    shown = done.output
    assert "2 chains, 50 temperatures" in shown
    assert "Base measure: density" in shown
    assert "gap" in shown
    state = json.loads((tmp_path / "found.json").read_text())
    again = evidence(model, pf.load_data(path), temperatures=50, chains=2, n=6, simulated=4, seed=3, progress=False)
    assert state["values"] == again.values.tolist()
    value = again.log_prob
    assert f"{value.value:.4f}  [{value.low:.4f}, {value.high:.4f}] nats per record" in shown


def test_progress_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    data = pf.load_data(records())
    model, _ = linear(data)
    evidence(model, data, **{**QUICK, "progress": True})
    error = capsys.readouterr().err
    assert "evidence: 100%" in error
    assert "gap: 100%" in error


# -- the importance-weighted bound beside it -------------------------------------------------------------------------------


@pytest.mark.parametrize(("memory", "rows"), [(2**21, 4 * 100), (16 * 2 * 4 * 3, 4 * 3), (16 * 2 * 3, 3), (1, 1)])
def test_importance_bound_is_its_definition_in_bounded_memory(monkeypatch: pytest.MonkeyPatch, memory: int, rows: int) -> None:
    """log mean of K = 100 weights of each of 4 records, in however many steps and parts; never more than `rows` decoder rows at once.

    The weights are those that were drawn on the way, put together here; the sums differ by rounding alone.
    """
    data = pf.load_data(np.random.default_rng(0).integers(0, 5, (100, 4, 4)).astype(np.uint8), support="levels(5)")
    model = pf.VAE(latent_dim=2, hidden=(8,), network="mlp").fit(data, steps=20, batch_size=32, progress=False).double()
    x, seen, widest = data.test[:4].tensor(torch.float64), {}, 0
    weights = model._log_weights

    def spy(x: Tensor, c: Any, source: Rng, samples: int, *rest: Any, **more: Any) -> Any:
        nonlocal widest
        found = weights(x, c, source, samples, *rest, **more)
        widest = max(widest, len(x) * samples)
        for row, w in zip(x, found[0]):
            seen.setdefault(tuple(row.flatten().tolist()), []).append(w)
        return found

    monkeypatch.setattr(model, "_log_weights", spy)
    monkeypatch.setattr("pushforward.models.latent.vae.MEMORY", memory)
    bound = model._log_prob(x, None, Rng.seeded(0, x), samples=100)
    assert widest == rows
    for row, ours in zip(x, bound):
        w = torch.cat(seen[tuple(row.flatten().tolist())])
        assert len(w) == 100
        torch.testing.assert_close(ours, w.logsumexp(0) - math.log(100), atol=1e-11, rtol=0)


# -- what it refuses -----------------------------------------------------------------------------------------------------


def test_models_without_a_decoder_are_refused_with_what_they_have() -> None:
    data = pf.load_data(records())
    for model, instead in ((pf.RealNVP(layers=2), "its log_prob is exact"), (pf.DDPM(), "its log_prob is a bound")):
        model.fit(data, **FIT)
        with pytest.raises(Unsupported, match=f"no decoder.*{instead}"):
            evidence(model, data, **QUICK)
    with pytest.raises(Unsupported, match="no joint density here: gan has no exact density"):
        evidence(pf.LatentPrior(autoencoder=pf.VAE(latent_dim=2), prior=pf.GAN()).fit(data, **FIT), data, **QUICK)


def test_bad_settings_are_named() -> None:
    data = pf.load_data(records())
    model = pf.VAE(latent_dim=2, hidden=(8,))
    with pytest.raises(NotFitted, match="before fit"):
        evidence(model, data)
    model.fit(data, **FIT)
    with pytest.raises(ConfigError, match="likelihood p\\(x | z\\) of its own and takes no noise"):
        evidence(model, data, noise=0.1)
    for setting, message in (({"n": 0}, "n must be at least 1"), ({"simulated": -1}, "simulated must"), ({"chains": 0}, "chains must be")):
        with pytest.raises(ConfigError, match=message):
            evidence(model, data, **{**QUICK, **setting})
    gan = pf.GAN(noise_dim=2).fit(data, **FIT)
    with pytest.raises(ConfigError, match="Give noise=, such as noise=0.1"):
        evidence(gan, data.test, **QUICK)
    with pytest.raises(ConfigError, match="noise must be a number above 0.*got -1"):
        evidence(gan, data, noise=-1, **QUICK)
    with pytest.raises(DataError, match="no held-out record"):
        evidence(model, pf.load_data(records(), validation=0, test=0), **QUICK)


# -- the observation model -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sigma", [0.03, 0.3, 3.0])
def test_observed_levels_sum_to_one(sigma: float) -> None:
    """The bins cover the line: the probabilities of all levels sum to 1 at any output, also far outside [-1, 1]; rounding of 17 terms."""
    for k, support in ((17, levels(17)), (2, BINARY)):
        seen = GaussianObservation(DataSpec("points", (1,), (support,)), sigma)
        y = torch.tensor([-3.0, -1.0, -0.4, 0.0, 0.31, 1.0, 2.5], dtype=torch.float64)[:, None]
        p = torch.stack([seen.log_prob(torch.full_like(y, v), y) for v in range(k)]).exp().sum(0)
        torch.testing.assert_close(p, torch.ones(7, dtype=torch.float64), atol=1e-12, rtol=0)


def test_observed_levels_are_bins_of_a_gaussian() -> None:
    """Level v of 5 holds [v - 1/2, v + 1/2] in steps of 1/2 in features; scipy's distribution function gives its mass."""
    from scipy.stats import norm

    seen = GaussianObservation(DataSpec("points", (1,), (levels(5),)), 0.4)
    for v in range(5):
        low = -np.inf if v == 0 else (v - 0.5) / 2 - 1
        high = np.inf if v == 4 else (v + 0.5) / 2 - 1
        expected = norm.cdf(high, 0.3, 0.4) - norm.cdf(low, 0.3, 0.4)
        ours = seen.log_prob(torch.tensor([[float(v)]], dtype=torch.float64), torch.tensor([[0.3]], dtype=torch.float64))
        assert float(ours.exp()) == pytest.approx(expected, abs=1e-14)


def test_observed_levels_keep_their_precision_and_slopes_in_the_tails() -> None:
    """60 standard deviations away a bin's log mass is -1,800, where the difference of two distribution functions is 0 - 0.

    The mass of [a, b] far out is phi(a) / a up to 1/a^2 = 3e-4, when b - a is many times 1/a; the slope is then a / sigma.
    """
    seen = GaussianObservation(DataSpec("points", (1,), (levels(3),)), 1 / 60)
    y = torch.tensor([[1.5]], requires_grad=True)  # level 1 is [-0.5, 0.5]
    value = seen.log_prob(torch.ones(1, 1), y)
    a = 60.0
    assert float(value.detach()) == pytest.approx(-0.5 * a * a - math.log(a * math.sqrt(2 * math.pi)), rel=1e-5)
    value.sum().backward()
    assert y.grad is not None
    assert float(y.grad) == pytest.approx(-a * 60, rel=2e-3)


def test_observed_numbers_have_densities_in_their_own_units() -> None:
    """unit: 2 N(2 x - 1; y, s^2) integrates to 1 over the line; mixed tables add the logs of their columns."""
    spec = DataSpec("table", (3,), (REAL, UNIT, levels(4)))
    seen, y = GaussianObservation(spec, 0.2), torch.tensor([[0.3, -0.2, 0.6]], dtype=torch.float64)
    alone = [GaussianObservation(DataSpec("points", (1,), (s,)), 0.2) for s in spec.supports]
    t = torch.linspace(-3, 3, 6001, dtype=torch.float64)[:, None]
    for j in (0, 1):
        mass = alone[j].log_prob(t, y[:, j : j + 1].expand(6001, 1)).exp().sum() * 0.001
        assert float(mass) == pytest.approx(1, abs=1e-9)
    x = torch.tensor([[0.5, 0.7, 2.0]], dtype=torch.float64)
    parts = sum(one.log_prob(x[:, j : j + 1], y[:, j : j + 1]) for j, one in enumerate(alone))
    torch.testing.assert_close(seen.log_prob(x, y), torch.as_tensor(parts))


def test_observed_samples_follow_their_log_prob() -> None:
    """The share of each level among 50,000 draws, within 5 standard errors of its probability; numbers have mean and sd of the noise."""
    spec, n = DataSpec("table", (3,), (levels(4), UNIT, REAL)), 50_000
    seen, y = GaussianObservation(spec, 0.5), torch.tensor([[0.2, 0.1, -0.7]]).expand(n, 3)
    x = seen.sample(y, Rng.seeded(0))
    one = GaussianObservation(DataSpec("points", (1,), (levels(4),)), 0.5)
    for v in range(4):
        p = float(one.log_prob(torch.full((1, 1), float(v)), y[:1, :1]).exp())
        assert abs(float((x[:, 0] == v).double().mean()) - p) < 5 * math.sqrt(p * (1 - p) / n)
    for j, mean, sd in ((1, 0.55, 0.25), (2, -0.7, 0.5)):
        assert abs(float(x[:, j].mean()) - mean) < 5 * sd / math.sqrt(n)
        assert abs(float(x[:, j].std()) - sd) < 5 * sd / math.sqrt(2 * n)


def test_categories_are_not_observed_through_gaussian_noise() -> None:
    with pytest.raises(Unsupported, match="categories.*vae, made, gmm"):
        GaussianObservation(DataSpec("table", (2,), (REAL, categories(3))), 0.1)


# -- Parzen windows ------------------------------------------------------------------------------------------------------


def test_parzen_by_its_definition_and_against_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal to sklearn's KernelDensity (a tree search, tolerance 1e-8) in blocks of any size, and to one Gaussian for one sample."""
    from sklearn.neighbors import KernelDensity

    source = np.random.default_rng(0)
    y, x = source.normal(size=(200, 3)) + 100, source.normal(size=(50, 3)) + 100
    expected = KernelDensity(bandwidth=0.4).fit(y).score_samples(x)
    ours = parzen_log_prob(torch.tensor(y), torch.tensor(x), 0.4)
    np.testing.assert_allclose(ours, expected, atol=1e-8)
    monkeypatch.setattr("pushforward.metrics.blocks.BLOCK", 1000)
    np.testing.assert_allclose(parzen_log_prob(torch.tensor(y), torch.tensor(x), 0.4), expected, atol=1e-8)
    one = parzen_log_prob(torch.tensor(y[:1]), torch.tensor(x), 2.0)
    normal = torch.distributions.Normal(torch.tensor(y[0]), 2.0).log_prob(torch.tensor(x)).sum(1)
    torch.testing.assert_close(one, normal)


def test_parzen_width_is_the_best_on_validation_records() -> None:
    """Of few samples of N(0, I) in one dimension the best width is neither the least nor the greatest, and no other does better."""
    source = torch.Generator().manual_seed(0)
    y, v = (torch.randn(100, 1, generator=source, dtype=torch.float64) for _ in range(2))
    sigma, grid = parzen_sigma(y, v), [0.05, 0.2, 0.4, 0.8, 3.0]
    assert 0.05 < sigma < 1.5
    best = float(parzen_log_prob(y, v, sigma).mean())
    assert all(best >= float(parzen_log_prob(y, v, s).mean()) - 0.02 for s in grid)
    assert parzen_sigma(y, v, grid) in (0.2, 0.4, 0.8)


def test_parzen_errors() -> None:
    x = torch.zeros(2, 2)
    with pytest.raises(ConfigError, match="above 0, got 0"):
        parzen_log_prob(x, x, 0)
    with pytest.raises(DataError, match="needs samples"):
        parzen_log_prob(x[:0], x, 1.0)
    with pytest.raises(DataError, match="there are none"):
        parzen_sigma(x, x[:0])
