"""Autoencoders: PCA for the linear one, penalties beside autograd, the corruption's statistics, every record, priors of codes."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.linalg import subspace_angles
from sklearn.decomposition import PCA
from toys import MIXED

import pushforward as pf
from pushforward.data.spec import BINARY, UNIT, DataSpec, categories, levels
from pushforward.errors import ConfigError, Unsupported
from pushforward.models import create
from pushforward.models.latent.autoencoder import Autoencoder, exact_norm, known_answers
from pushforward.models.latent.latent_prior import LatentPrior
from pushforward.objective import Batch
from pushforward.rng import Rng

SPECS = {
    "points": DataSpec("points", (3,)),
    "mixed": MIXED,
    "unit": DataSpec("points", (3,), (UNIT,)),
    "categories": DataSpec("table", (4,), (categories(3),)),
    "binary": DataSpec("image", (1, 5, 4), (BINARY,)),
    "levels": DataSpec("image", (2, 5, 4), (levels(7),)),
    "convolutional": DataSpec("image", (1, 16, 18), (levels(5),)),
}


def records(spec: DataSpec, n: int = 8, seed: int = 0) -> torch.Tensor:
    rng = Rng.seeded(seed, torch.zeros((), dtype=torch.float64))
    columns = [rng.randint(s.size, n).double() if s.size else rng.rand(n) if s.name == "unit" else rng.randn(n) for s in spec.columns]
    return torch.stack(columns, 1).reshape(n, *spec.shape)


def batch(x: torch.Tensor, seed: int = 1) -> Batch:
    return Batch(x, None, torch.arange(len(x)), Rng.seeded(seed, x))


def build(spec: DataSpec, **hyper: Any) -> Autoencoder:
    return Autoencoder(**{"hidden": (12,), "latent_dim": 3, **hyper}).build(spec).double()


def test_known_answers():
    for answer in known_answers():
        assert answer.holds, answer


def test_a_fitted_linear_autoencoder_spans_the_principal_subspace():
    x = np.random.default_rng(0).normal(size=(128, 5)) @ np.diag([3.0, 2.0, 0.5, 0.4, 0.3]) @ np.linalg.qr(np.eye(5) + 0.3)[0]
    data = pf.load_data(x, test=0.0, validation=0.0)
    model = Autoencoder(latent_dim=2, hidden=()).fit(
        data, steps=1500, batch_size=128, lr=0.05, precision="64", progress=False, alarms=False
    )
    z = data.train.tensor(torch.float64).numpy()
    pca: Any = PCA(2).fit(z)
    weight: Any = model.decoder_net.layers[0].weight  # pyright: ignore
    assert subspace_angles(weight.detach().numpy(), pca.components_.T).max() < 1e-3
    error = np.square(pca.inverse_transform(pca.transform(z)) - z).sum(1).mean()
    # An angle of 1e-3 costs at most 1e-6 of the variance that it gives up, which is below 5 in standardised units.
    assert float(model.double().squared_error(data.train).mean()) == pytest.approx(error, abs=5e-6)


@pytest.mark.parametrize("kind", SPECS)
def test_errors_are_those_of_the_features_written_out(kind):
    spec = SPECS[kind]
    x = records(spec)
    model = build(spec, loss="squared", output="sigmoid")
    out = model.outputs(model._encode(x, None), None).flatten(1)
    expected, at = torch.zeros(len(x), dtype=x.dtype), 0
    for value, s in zip(x.flatten(1).T, spec.columns):
        if s.name == "categories":
            assert s.size
            truth = torch.nn.functional.one_hot(value.long(), s.size)
            assert torch.allclose(out[:, at : at + s.size].sum(1), torch.ones(len(x), dtype=x.dtype))
            expected += (out[:, at : at + s.size] - truth).square().sum(1)
            at += s.size
            continue
        unit = value / (s.size - 1) if s.size else value
        expected += (out[:, at] - unit).square()
        assert s.name == "real" or ((out[:, at] >= 0) & (out[:, at] <= 1)).all()
        at += 1
    loss = model._loss(batch(x))
    assert torch.allclose(loss.per_record, expected)
    assert torch.allclose(model.squared_error(x), expected)
    assert set(loss.terms) == {"squared error"}


@pytest.mark.parametrize("kind", SPECS)
def test_reconstructions_are_the_valid_records_nearest_to_the_outputs(kind):
    """Unit features of a record decode to itself, also when they are moved by less than half a step."""
    spec = SPECS[kind]
    x = records(spec, 30)
    model = build(spec)
    u = model.entries.encode(x)
    assert torch.allclose(model.entries.decode(u), x)
    if spec.discrete:
        step = min(1 / ((s.size or 2) - 1) if s.name != "categories" else 1.0 for s in spec.columns)
        moved = u + 0.49 * step * (2 * torch.rand(u.shape, generator=torch.Generator().manual_seed(0), dtype=u.dtype) - 1)
        assert torch.equal(model.entries.decode(moved), x)
    assert model._decode(model._encode(x, None), None).shape == x.shape
    wild = model.entries.decode(100 * (u - 0.4))
    for value, s in zip(wild.flatten(1).T, spec.columns):
        assert s.name == "real" or ((value >= 0) & (value <= ((s.size or 2) - 1))).all()


def test_cross_entropy_is_for_what_has_probabilities():
    x = records(MIXED)
    model = build(MIXED)
    terms = model._loss(batch(x)).terms
    raw = model._raw(model._encode(x, None), None)
    kind = torch.distributions.Categorical(logits=raw[:, 1:4]).log_prob(x[:, 1])
    bit = torch.distributions.Bernoulli(logits=raw[:, 4]).log_prob(x[:, 2])
    assert torch.allclose(terms["cross-entropy"], -(kind + bit))
    grey, unit = torch.sigmoid(raw[:, 5]) - x[:, 3] / 3, torch.sigmoid(raw[:, 6]) - x[:, 4]
    squares = (raw[:, 0] - x[:, 0]).square() + (raw[:, 7] - x[:, 5]).square() + grey.square() + unit.square()
    assert torch.allclose(terms["squared error"], squares)
    # Grey levels as probabilities of white: the least value is their entropy, reached at the level itself.
    spec = SPECS["levels"]
    grey_model = build(spec, loss="cross-entropy")
    u = grey_model.entries.encode(records(spec))
    least = grey_model.entries.losses(torch.logit(u.clamp(1e-12, 1 - 1e-12)), u)["cross-entropy"]
    assert torch.allclose(least, torch.distributions.Bernoulli(probs=u).entropy().flatten(1).sum(1))


def test_linear_output_is_for_the_linear_autoencoder_alone():
    spec = SPECS["levels"]
    assert build(spec, hidden=()).entries.linear
    assert not build(spec).entries.linear
    assert not build(SPECS["binary"], hidden=()).entries.linear  # logistic PCA


@pytest.mark.parametrize("kind", ["levels", "mixed"])
def test_corruption_has_the_stated_statistics(kind):
    spec = SPECS[kind]
    x = records(spec, 4000)
    n = x.numel()
    model = build(spec, noise=0.3)
    u = model.entries.encode(x)
    off = model._corrupt(u, Rng.seeded(5, x)) - u
    # Mean and variance of m normal numbers: five standard errors, sd / sqrt(m) and sd^2 sqrt(2 / m).
    m = off.numel()
    assert abs(float(off.mean())) < 5 * 0.3 / math.sqrt(m)
    assert abs(float(off.var()) - 0.09) < 5 * 0.09 * math.sqrt(2 / m)
    masked = build(spec, noise=0.3, corruption="mask")
    seen = masked._corrupt(u + 2.0, Rng.seeded(5, x)).flatten(1)  # + 2: no entry is 0 by itself
    gone = seen == 0
    assert torch.equal(seen[~gone], (u + 2.0).flatten(1)[~gone])
    if kind == "mixed":
        assert torch.equal(gone[:, 1], gone[:, 2])  # a category goes as a whole
        gone = gone[:, [0, 1, 4, 5, 6, 7]]
    assert abs(float(gone.double().mean()) - 0.3) < 5 * math.sqrt(0.21 / n)
    # The loss compares with the clean record: the corruption moves the codes, never the target.
    one = masked._loss(batch(x, 7)).per_record
    z = masked.codes(masked._corrupt(u, Rng.seeded(7, x)), None)
    terms = masked.entries.losses(masked._raw(z, None), u)
    assert torch.equal(one, torch.stack(list(terms.values())).sum(0))


@pytest.mark.parametrize("code", ["linear", "sigmoid", "tanh", "relu"])
def test_contractive_penalty_of_one_layer_is_the_jacobian(code):
    spec = SPECS["levels"]
    model = build(spec, hidden=(), network="mlp", code=code, contractive=0.7)
    x = records(spec)
    u = model.entries.encode(x)
    expected = exact_norm(lambda t: model.codes(t, None), u)
    assert torch.allclose(model._loss(batch(x)).terms["contractive"], 0.7 * expected)


def test_penalties_of_deep_networks_are_unbiased_and_reach_the_weights():
    spec = SPECS["unit"]
    model = build(spec, activation="tanh", contractive=0.5, gradient_penalty=2.0, code_penalty=0.1, decoder_decay=0.01)
    x = records(spec, 4)
    many = x.repeat(4000, 1)
    terms = model._loss(batch(many)).terms
    z = model._encode(x, None)
    for name, weight, exact in (
        ("contractive", 0.5, exact_norm(lambda t: model.codes(t, None), x)),
        ("gradient penalty", 2.0, exact_norm(lambda t: model.outputs(t, None), z)),
    ):
        draws = terms[name].detach().reshape(4000, 4)
        assert ((draws.mean(0) - weight * exact).abs() < 5 * draws.std(0) / math.sqrt(4000)).all(), name
    assert torch.allclose(terms["code penalty"][:4], 0.05 * z.square().sum(1))
    squares = sum(float(p.detach().square().sum()) for p in model.decoder_net.parameters())
    assert terms["decoder decay"].detach().mean().item() == pytest.approx(0.01 * squares)
    # The gradient of the sum of penalties beside finite differences along a random direction, with the same signs.

    def penalty() -> torch.Tensor:
        terms = model._loss(batch(x, 3)).terms
        return (terms["contractive"] + terms["gradient penalty"]).sum()

    parameters = list(model.parameters())
    slopes = torch.autograd.grad(penalty(), parameters, allow_unused=True)
    generator = torch.Generator().manual_seed(0)
    ways = [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in parameters]
    along = sum(float((g * w).sum()) for g, w in zip(slopes, ways) if g is not None)
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            for p, w in zip(parameters, ways):
                p.add_(w, alpha=sign * 1e-5)
        values.append(penalty().item())
        with torch.no_grad():
            for p, w in zip(parameters, ways):
                p.sub_(w, alpha=sign * 1e-5)
    # Central differences of step 1e-5: an error of order 1e-10 times third derivatives, and rounding of 1e-16 / 1e-5.
    assert (values[0] - values[1]) / 2e-5 == pytest.approx(along, rel=1e-6)


def test_validation_sees_the_penalties_without_a_graph():
    model = build(SPECS["levels"], contractive=0.1, gradient_penalty=0.1)
    with torch.no_grad():
        loss = model._loss(batch(records(SPECS["levels"])))
    assert {"contractive", "gradient penalty"} <= set(loss.terms)


@pytest.mark.parametrize("prior", [None, "kde", "realnvp", "spline"])
def test_a_density_of_the_codes_makes_it_a_generator(prior):
    x = np.random.default_rng(0).normal(size=(300, 2)) + 4 * np.random.default_rng(1).integers(0, 2, (300, 1))
    data = pf.load_data(np.c_[x, x[:, :1] * x[:, 1:]])
    model = LatentPrior(autoencoder=Autoencoder(latent_dim=2, hidden=(32,)), prior=None if prior is None else create(prior))
    model.fit(data, steps=400, batch_size=64, lr=3e-3, progress=False, alarms=False)
    sample = torch.as_tensor(np.asarray(model.sample(500, seed=0)))
    real = torch.as_tensor(data.train.records())
    # Standardised mean differences of 500 samples: a standard error is 0.06; a prior N(0, I) on these codes leaves differences of order 1.
    assert ((sample.mean(0) - real.mean(0)).abs() < 0.4 * real.std(0)).all()
    assert model.density == "none"
    with pytest.raises(Unsupported, match=r"autoencoder defines no p\(x \| z\)"):
        model.log_prob(data.test)


def test_labels_reach_both_networks():
    spec = SPECS["levels"].with_condition(2)
    model = build(spec)
    x = records(spec)
    a, b = (torch.eye(2, dtype=torch.float64)[torch.full((len(x),), i)] for i in (0, 1))
    assert not torch.equal(model._encode(x, a), model._encode(x, b))
    z = model._encode(x, a)
    assert not torch.equal(model.outputs(z, a), model.outputs(z, b))
    # One layer with a condition: its columns are no part of the Jacobian.
    one = build(spec, hidden=(), network="mlp", code="sigmoid", contractive=1.0)
    z = one.codes(one.entries.encode(x), a)
    whole = exact_norm(lambda t: one.codes(t, a[: len(t)]), one.entries.encode(x))
    assert torch.allclose(one._layer_norm(z), whole)


def test_reconstructions_come_in_the_users_form_and_a_run_folder_reloads(tmp_path):
    data = pf.load_data("digits")
    model = Autoencoder(latent_dim=8, hidden=(64,)).fit(data, steps=400, lr=3e-3, progress=False, out=tmp_path / "run")
    assert model.encode(data.test).shape == (len(data.test), 8)
    again = model.reconstruct(data.test)
    assert again.dtype == np.uint8
    assert again.shape == data.test.records().shape
    mean = data.train.tensor().mean(0) / 16
    error = model.squared_error(data.test)
    assert float(error.mean()) < 0.5 * float((data.test.tensor() / 16 - mean).square().flatten(1).sum(1).mean())
    assert torch.equal(pf.load(tmp_path / "run").encode(data.test), model.encode(data.test))


def test_refusals():
    spec = SPECS["levels"]
    for hyper, text in (
        ({"latent_dim": 0}, "latent_dim must be at least 1"),
        ({"contractive": -1.0}, "contractive must not be negative"),
        ({"noise": 1.5, "corruption": "mask"}, "share of entries that are masked"),
        ({"loss": "cross-entropy", "output": "linear"}, "Use output='sigmoid'"),
    ):
        with pytest.raises(ConfigError, match=text):
            build(spec, **hyper)
    model = build(spec)
    for verb in ("sample", "log_prob", "posterior"):
        with pytest.raises(Unsupported, match="LatentPrior|fit a vae"):
            getattr(model, verb)(*([] if verb == "sample" else [records(spec)]))
    with pytest.raises(Unsupported, match="images have categories"):
        build(DataSpec("image", (1, 2, 2), (categories(3),)))
