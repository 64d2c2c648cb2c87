"""Coupling flows: known answers, every kind of record, the bound of dequantisation, conditions, and refusals."""

import math

import pytest
import torch
from toys import gap_to_gaussian

from pushforward.data.spec import BINARY, REAL, UNIT, DataSpec, categories, levels
from pushforward.errors import ConfigError, Unsupported
from pushforward.models.exact.flow import RealNVP, SplineFlow, known_answers
from pushforward.rng import Rng
from pushforward.train import Batch

SPECS = {
    "one": DataSpec("points", (1,)),
    "one given c": DataSpec("points", (1,), condition_dim=3),
    "points": DataSpec("points", (2,)),
    "table": DataSpec("table", (5,), (REAL, categories(3), BINARY, levels(4), UNIT), condition_dim=2),
    "unit": DataSpec("table", (3,), (UNIT,)),
    "digits": DataSpec("image", (1, 8, 8), (levels(17),), condition_dim=10),
    "colour": DataSpec("image", (3, 8, 7), (levels(256),)),
}
FLOWS = [RealNVP, SplineFlow]


def small(make, spec, **kw):
    return make(**{"layers": 2, "hidden": (16,), **kw}).build(spec)


def draw(spec, n, seed=0):
    rng = Rng.seeded(seed)
    columns = [rng.randint(s.size, n).float() if s.size else rng.rand(n) if s.name == "unit" else rng.randn(n) for s in spec.columns]
    x = torch.stack(columns, 1).reshape(n, *spec.shape)
    return x, rng.randn(n, spec.condition_dim) if spec.condition_dim else None


@pytest.mark.parametrize("known", list(known_answers()), ids=lambda k: k.name)
def test_known_answers(known):
    assert known.holds, known


@pytest.mark.parametrize("make", FLOWS)
@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_records_of_every_kind(make, spec):
    model = small(make, spec)
    x, c = draw(spec, 6)
    assert model.density == ("exact" if spec.continuous else "bound")
    log_prob = model.log_prob(x, condition=c)
    assert log_prob.shape == (6,)
    assert log_prob.isfinite().all()
    z = model.encode(x, condition=c)
    assert z.shape == (6, spec.dim)
    # float32: codes of a few units, slopes near one at the start, two layers of rounding 1e-7 each.
    torch.testing.assert_close(model.decode(z, condition=c), x, atol=1e-4, rtol=0)
    samples = model.sample(5, condition=None if c is None else c[:5], seed=1)
    again = model.sample(5, condition=None if c is None else c[:5], seed=1)
    assert samples.shape == (5, *spec.shape)
    assert torch.equal(samples, again)
    for column, support in zip(samples.flatten(1).t(), spec.columns):
        if support.size:
            assert torch.equal(column, column.round())
            assert ((column >= 0) & (column < support.size)).all()
        if support.name == "unit":
            assert ((column >= 0) & (column <= 1)).all()


@pytest.mark.parametrize("make", FLOWS)
@pytest.mark.parametrize("name", ["one", "one given c", "table", "digits"])
def test_every_parameter_gets_gradient(make, name):
    model = small(make, SPECS[name])
    x, c = draw(SPECS[name], 16)
    (objective,) = model._objectives()
    loss = objective.loss(Batch(x, c, torch.arange(16), Rng.seeded(0)))
    assert set(loss.terms) == {"log_base", "log_det"}
    loss.per_record.mean().backward()
    for key, p in model.named_parameters():
        assert p.grad is not None, key
        assert p.grad.abs().max() > 0, key


@pytest.mark.parametrize("make", FLOWS)
def test_two_processes_see_one_loss(make):
    spec = SPECS["table"]
    model = small(make, spec)
    x, c = draw(spec, 8)
    whole = model._loss(Batch(x, c, torch.arange(8), Rng.seeded(3))).per_record
    for rows in (slice(0, 4), slice(4, 8)):
        rng = Rng(torch.Generator().manual_seed(3), rows=rows, total=8)
        ours = model._loss(Batch(x[rows], c[rows], torch.arange(8)[rows], rng)).per_record
        torch.testing.assert_close(ours, whole[rows], atol=1e-5, rtol=0)  # other batch shapes, other order of sums


@pytest.mark.parametrize("make", FLOWS)
def test_bound_rises_to_probabilities_that_sum_to_less_than_one(make):
    """Over all 2 x 3 records: sum P <= 1, because the squeeze leaves some mass outside the cells; E[bound_1] <= E[bound_K] <= log P."""
    model = small(make, DataSpec("table", (2,), (BINARY, categories(3)))).double()
    x = torch.cartesian_prod(torch.arange(2.0), torch.arange(3.0)).double()
    one = torch.stack([model.log_prob(x, seed=s) for s in range(200)])
    many = torch.stack([model.log_prob(x, seed=s, samples=10) for s in range(20)])
    n_one, n_many = len(one) ** 0.5, len(many) ** 0.5
    assert (one.mean(0) <= many.mean(0) + 4 * (one.std(0) / n_one + many.std(0) / n_many)).all()
    assert (one.mean(0) < many.mean(0)).float().mean() > 0.5
    total, error = one.exp().mean(0).sum(), (one.exp().std(0) / n_one).sum()
    # Averaging inside the logarithm leaves the mean probability where it was.
    assert abs(many.exp().mean(0).sum() - total) < 4 * (error + (many.exp().std(0) / n_many).sum())
    # The identity at the start: v = sigmoid(N(0, 1)) leaves [0.05, 0.95] with probability 2 Phi(-2.94) = 0.0033 in each entry;
    # small initial weights move that by some tenths of the codes' width.
    assert 0.95 - 4 * error < total < 1 + 4 * error


def test_condition_changes_the_density():
    spec = DataSpec("points", (2,), condition_dim=1)
    for make in FLOWS:
        model = small(make, spec)
        x, c = draw(spec, 4)
        assert (model.log_prob(x, condition=c) - model.log_prob(x, condition=c + 1)).abs().min() > 1e-6


@pytest.mark.parametrize("make", FLOWS)
def test_fitted_gaussian_reaches_its_entropy(make):
    """On a correlated Gaussian, E[log p] of the fit comes within 0.03 nats of -entropy on fresh records and never above it."""
    gap = gap_to_gaussian(small(make, DataSpec("points", (2,))), 300, 1e-2)
    # KL >= 0, seen through 4000 records. Estimation adds about (number of useful directions) / 2n, well below 0.01; 300 steps do the rest.
    assert gap.mean() > -4 * gap.std() / 4000**0.5
    assert gap.mean() < 0.03


def test_what_it_refuses():
    model = small(SplineFlow, SPECS["points"])
    with pytest.raises(Unsupported, match="p\\(z \\| x\\) is a single point. Use encode"):
        model.posterior(torch.zeros(1, 2))
    with pytest.raises(Unsupported, match="p\\(x \\| z\\) is a single point. Use decode"):
        model.likelihood(torch.zeros(1, 2))
    with pytest.raises(ConfigError, match="samples of at least 1, got 0"):
        model.log_prob(torch.zeros(1, 2), samples=0)
    with pytest.raises(ConfigError, match="layers must be at least 1, got 0"):
        RealNVP(layers=0).build(SPECS["points"])
    with pytest.raises(ConfigError, match=r"alpha must lie in \[0, 0.5\), got 0.5"):
        RealNVP(alpha=0.5).build(SPECS["points"])


def test_permutations_serve_wide_records():
    wide = small(RealNVP, DataSpec("image", (1, 16, 16), (levels(256),)))
    assert sum(p.numel() for p in wide.parameters()) < 30_000  # two 256 x 256 matrices alone would be 131,072
    assert math.isfinite(float(wide.log_prob(draw(wide.spec, 1)[0])[0]))
