"""Glow: known answers, images of any size, both dequantisations, conditions, temperature, and refusals."""

import math

import pytest
import torch

from pushforward.data.spec import BINARY, REAL, UNIT, DataSpec, categories, levels
from pushforward.errors import ConfigError, Unsupported
from pushforward.models.exact.glow import Glow, known_answers
from pushforward.rng import Rng
from pushforward.train import Batch

SPECS = {
    "digits": DataSpec("image", (1, 8, 8), (levels(17),), condition_dim=10),
    "colour": DataSpec("image", (3, 8, 6), (levels(256),)),
    "odd": DataSpec("image", (1, 5, 7), (BINARY,)),
    "half odd": DataSpec("image", (1, 6, 5), (levels(4),), condition_dim=2),
    "kinds": DataSpec("image", (1, 2, 2), (categories(3),)),
    "unit": DataSpec("image", (1, 4, 4), (UNIT,)),
    "real": DataSpec("image", (2, 1, 1), (REAL,)),
}
WAYS = [("glow", "uniform"), ("glow", "variational"), ("realnvp", "uniform")]


def small(spec, **kw):
    return Glow(**{"steps": 2, "channels": 8, **kw}).build(spec)


def draw(spec, n, seed=0):
    rng, (s,) = Rng.seeded(seed), spec.supports
    x = (
        rng.randint(s.size, n, *spec.shape).float()
        if s.size
        else rng.rand(n, *spec.shape)
        if s.name == "unit"
        else rng.randn(n, *spec.shape)
    )
    return x, rng.randn(n, spec.condition_dim) if spec.condition_dim else None


@pytest.mark.parametrize("known", list(known_answers()), ids=lambda k: k.name)
def test_known_answers(known):
    assert known.holds, known


@pytest.mark.parametrize(("style", "dequantisation"), WAYS, ids="-".join)
@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_images_of_every_kind(spec, style, dequantisation):
    model = small(spec, style=style, dequantisation=dequantisation)
    x, c = draw(spec, 6)
    assert model.density == ("exact" if spec.continuous else "bound")
    assert model.estimator == ("" if spec.continuous else f"{dequantisation} dequantisation, one draw")
    log_prob = model.log_prob(x, condition=c)
    assert log_prob.shape == (6,)
    assert log_prob.isfinite().all()
    z = model.encode(x, condition=c)
    assert z.shape == (6, spec.dim)
    # float32: codes of a few units, slopes near one at the start, a few roundings of 1e-7 each; levels come back exactly.
    torch.testing.assert_close(model.decode(z, condition=c), x, atol=1e-4 if spec.continuous else 0, rtol=0)
    given = {} if c is None else {"condition": c[:5]}
    samples = model.sample(5, seed=1, **given)
    assert torch.equal(samples, model.sample(5, seed=1, **given))
    if spec.supports[0].size:
        assert torch.equal(samples, samples.round())
        assert ((samples >= 0) & (samples < spec.supports[0].size)).all()


@pytest.mark.parametrize(("style", "dequantisation"), WAYS, ids="-".join)
def test_every_parameter_gets_gradient(style, dequantisation):
    spec = SPECS["digits"]
    model = small(spec, style=style, dequantisation=dequantisation)
    x, c = draw(spec, 16)
    with torch.no_grad():  # off their start at zero, behind which other weights have no gradient yet
        for p in model.parameters():
            p.add_(0.02 * torch.randn(p.shape, generator=torch.Generator().manual_seed(0)))
    (objective,) = model._objectives()
    loss = objective.loss(Batch(x, c, torch.arange(16), Rng.seeded(0)))
    assert set(loss.terms) == {"log_base", "log_det"} | ({"minus_log_q"} if dequantisation == "variational" else set())
    torch.testing.assert_close(-sum(loss.terms.values()), loss.per_record)
    loss.per_record.mean().backward()
    for key, p in model.named_parameters():
        assert p.grad is not None, key
        assert p.grad.abs().max() > 0, key


@pytest.mark.parametrize("dequantisation", ["uniform", "variational"])
def test_two_processes_see_one_loss(dequantisation):
    spec = SPECS["half odd"]
    model = small(spec, dequantisation=dequantisation)
    x, c = draw(spec, 8)
    whole = model._loss(Batch(x, c, torch.arange(8), Rng.seeded(3))).per_record
    for rows in (slice(0, 4), slice(4, 8)):
        rng = Rng(torch.Generator().manual_seed(3), rows=rows, total=8)
        ours = model._loss(Batch(x[rows], c[rows], torch.arange(8)[rows], rng)).per_record
        torch.testing.assert_close(ours, whole[rows], atol=1e-4, rtol=0)  # other batch shapes, other order of sums over some 60 nats


@pytest.mark.parametrize("dequantisation", ["uniform", "variational"])
def test_more_draws_raise_the_bound(dequantisation):
    spec = DataSpec("image", (1, 2, 2), (BINARY,))
    model = small(spec, dequantisation=dequantisation).double()
    x = torch.cartesian_prod(*[torch.arange(2.0)] * 4).double().view(16, 1, 2, 2)
    one = torch.stack([model.log_prob(x, seed=s) for s in range(100)])
    many = torch.stack([model.log_prob(x, seed=s, samples=10) for s in range(20)])
    assert (one.mean(0) <= many.mean(0) + 4 * (one.std(0) / 10 + many.std(0) / 20**0.5)).all()
    assert one.mean() < many.mean()
    # Averaging inside the logarithm leaves the mean probability where it was.
    error = one.exp().std(0) / 10 + many.exp().std(0) / 20**0.5
    assert ((one.exp().mean(0) - many.exp().mean(0)).abs() < 4 * error).all()


def trained(spec, x, steps=120, batch=128, **kw):
    model, rng = small(spec, **kw), Rng.seeded(0)
    model.flow.start(model._continuous(x[:512], None, rng)[0].detach())
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 1e-2 * (1 - step / steps)
        i = rng.randint(len(x), batch)
        optimizer.zero_grad()
        model._loss(Batch(x[i], None, i, rng)).per_record.mean().backward()
        optimizer.step()
    return model


@pytest.mark.parametrize("style", ["glow", "realnvp"])
def test_fitted_gaussian_reaches_its_entropy(style):
    """On Gaussian images of four correlated pixels, E[log p] of the fit comes near -entropy on fresh records and never above it."""
    at = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    sigma = torch.exp(-torch.cdist(at, at))
    truth = torch.distributions.MultivariateNormal(torch.zeros(4), sigma)
    noise = Rng.seeded(0).randn(8000, 4) @ torch.linalg.cholesky(sigma).t()
    x, fresh = noise.view(2, 4000, 1, 2, 2)
    model = trained(DataSpec("image", (1, 2, 2)), x, style=style)
    gap = truth.log_prob(fresh.flatten(1)) - model.log_prob(fresh)
    # KL >= 0, seen through 4000 records. 120 steps and some 2,500 weights on 4000 records leave some hundredths.
    assert gap.mean() > -4 * gap.std() / 4000**0.5
    assert gap.mean() < 0.08


def test_bounds_on_a_known_distribution():
    """Independent pixels of three levels: both bounds stay below -entropy; fitted noise comes nearer to it than uniform noise does."""
    p = torch.tensor([0.6, 0.1, 0.3])
    entropy = -4 * float((p * p.log()).sum())
    rng = Rng.seeded(1)
    x, fresh = (rng.categorical(p.log().expand(2000, 1, 2, 2, 3)).float() for _ in range(2))
    found = {}
    for dequantisation in ("uniform", "variational"):
        model = trained(DataSpec("image", (1, 2, 2), (levels(3),)), x, steps=150, dequantisation=dequantisation, channels=12)
        log_prob = model.log_prob(fresh)
        truth = p.log()[fresh.long()].sum((1, 2, 3))
        gap = truth - log_prob
        assert gap.mean() > -4 * gap.std() / 2000**0.5  # KL >= 0 and Jensen, through 2000 records
        found[dequantisation] = float(gap.mean())
    assert entropy > 3.5
    assert found["variational"] < found["uniform"] < 1.0


def test_condition_and_temperature():
    spec = SPECS["half odd"]
    model = small(spec)
    x, c = draw(spec, 4)
    assert (model.log_prob(x, condition=c) - model.log_prob(x, condition=c + 1)).abs().min() > 1e-6
    cold = model.sample(4, condition=torch.zeros(2), temperature=0.0, seed=0)
    assert torch.equal(cold, model.decode(torch.zeros(4, spec.dim), condition=torch.zeros(2)))
    real = small(SPECS["real"])
    z, half = (real.encode(real.sample(50, seed=1, **kw)) for kw in ({}, {"temperature": 0.5}))
    torch.testing.assert_close(half, z / 2, atol=1e-5, rtol=0)


def test_what_it_refuses():
    model = small(SPECS["unit"])
    with pytest.raises(Unsupported, match="p\\(z \\| x\\) is a single point. Use encode"):
        model.posterior(torch.zeros(1, 1, 4, 4))
    with pytest.raises(Unsupported, match="Glow models images .* not points 2, real. Use realnvp or spline"):
        small(DataSpec("points", (2,)))
    with pytest.raises(Unsupported, match="of two entries or more, not image 1x1x1"):
        small(DataSpec("image", (1, 1, 1)))
    for kw, words in (
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"alpha": 0.5}, r"alpha must lie in \[0, 0.5\), got 0.5"),
        ({"scales": 3}, "scales=3 does not suit images of 4 x 4"),
        ({"style": "nice"}, "style must be one of glow, realnvp, got 'nice'"),
        ({"dequantisation": "none"}, "dequantisation must be one of uniform, variational"),
    ):
        with pytest.raises(ConfigError, match=words):
            small(SPECS["unit"], **kw)
    with pytest.raises(ConfigError, match="samples of at least 1, got 0"):
        model.log_prob(torch.zeros(1, 1, 4, 4), samples=0)
    with pytest.raises(ConfigError, match="temperature must be 0 or more, got -1"):
        model.sample(1, temperature=-1)
    assert math.isfinite(float(model.log_prob(torch.full((1, 1, 4, 4), 0.5))))
