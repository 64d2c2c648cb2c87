"""MAF, IAF, the autoregressive spline flow, NICE, planar and radial flows: known answers, fits, conditions, both directions of sampling."""

import pytest
import torch
from toys import gap_to_gaussian

from pushforward.data.spec import BINARY, REAL, UNIT, DataSpec, categories, levels
from pushforward.errors import ConfigError, Unsupported
from pushforward.models.exact import maf, nice, planar
from pushforward.models.exact.maf import IAF, MAF, AutoregressiveSplineFlow
from pushforward.models.exact.nice import NICE
from pushforward.models.exact.planar import PlanarFlow, RadialFlow
from pushforward.rng import Rng

FLOWS = {
    "maf": lambda: MAF(layers=2, hidden=(16,)),
    "iaf": lambda: IAF(layers=2, hidden=(16,)),
    "maf_spline": lambda: AutoregressiveSplineFlow(layers=2, bins=5, hidden=(16,)),
    "nice": lambda: NICE(layers=4, hidden=(16,)),
    "planar": lambda: PlanarFlow(layers=4),
    "radial": lambda: RadialFlow(layers=4),
}
TABLE = DataSpec("table", (5,), (REAL, categories(3), BINARY, levels(4), UNIT), condition_dim=2)


def draw(spec, n, seed=0):
    rng = Rng.seeded(seed)
    columns = [rng.randint(s.size, n).float() if s.size else rng.rand(n) if s.name == "unit" else rng.randn(n) for s in spec.columns]
    x = torch.stack(columns, 1).reshape(n, *spec.shape)
    return x, rng.randn(n, spec.condition_dim) if spec.condition_dim else None


@pytest.mark.parametrize("known", [*maf.known_answers(), *nice.known_answers(), *planar.known_answers()], ids=lambda k: k.name)
def test_known_answers(known):
    assert known.holds, known


@pytest.mark.parametrize("name", FLOWS)
def test_mixed_columns_given_a_condition(name):
    model = FLOWS[name]().build(TABLE)
    x, c = draw(TABLE, 6)
    assert model.density == "bound"
    assert model.log_prob(x, condition=c).isfinite().all()
    # float32: codes of a few units, slopes near one at the start.
    torch.testing.assert_close(model.decode(model.encode(x, condition=c), condition=c), x, atol=1e-4, rtol=0)
    y = model.sample(5, condition=c[:5], seed=1)
    assert torch.equal(y, model.sample(5, condition=c[:5], seed=1))
    assert not torch.equal(model.log_prob(x, condition=c), model.log_prob(x, condition=c + 1))


@pytest.mark.parametrize("name", FLOWS)
def test_fitted_gaussian_reaches_its_entropy(name):
    """On a correlated Gaussian, E[log p] of the fit comes within 0.05 nats of -entropy on fresh records, and never above it."""
    gap = gap_to_gaussian(FLOWS[name]().build(DataSpec("points", (2,))), 200, 2e-2, mean=(0.5, -1.0))
    # KL >= 0, seen through 4000 records; 200 steps of stochastic gradients leave some hundredths of a nat.
    assert gap.mean() > -4 * gap.std() / 4000**0.5
    assert gap.mean() < 0.05


def test_iaf_trains_by_the_gradient_of_its_exact_likelihood():
    """Gradients through the sequential inverse equal those of D full passes, which autograd can follow."""
    model = IAF(layers=1, hidden=(16,)).build(DataSpec("points", (4,))).double()
    step = model.flow.layers[1].f
    with torch.no_grad():
        for p in step.parameters():
            p.add_(0.2 * torch.randn_like(p))
    x = torch.randn(8, 4, dtype=torch.float64)
    z = torch.zeros_like(x)
    for _ in range(4):  # after k rounds the first k entries are right
        s, t = step.net(z).unflatten(1, (4, 2)).unbind(-1)
        z = (x - t) * (-3 * torch.tanh(s / 3)).exp()
    s = 3 * torch.tanh(step.net(z).unflatten(1, (4, 2))[..., 0] / 3)
    slow = (0.5 * z.square() + s).sum()
    fast = -(sum(model._parts(x, None, Rng.seeded(0)))).sum()
    want, got = (torch.autograd.grad(v, list(step.parameters())) for v in (slow, fast))
    for a, b in zip(want, got, strict=True):
        torch.testing.assert_close(a, b, atol=1e-10, rtol=1e-10)  # float64 rounding of sums of 8 records


def test_evaluations_that_a_sample_needs():
    spec = DataSpec("points", (4,))
    assert (MAF(layers=3).build(spec).nfe, IAF(layers=3).build(spec).nfe) == (12, 3)


def test_actnorms_start_from_the_training_records():
    from pushforward import load_data

    data = load_data((torch.randn(400, 3) * torch.tensor([1.0, 20.0, 0.1]) + 5).numpy())
    model = MAF(layers=2, hidden=(8,)).fit(data, steps=1, lr=1e-9, weight_decay=0.0, progress=False)
    # Training split of 320 records or so, all below START: every actnorm leaves mean 0 and variance 1.
    y = data.train.tensor(torch.float32)
    with torch.no_grad():
        for f in model.flow.layers:
            y = f(y)[0]
            if type(f).__name__ == "ActNorm":
                torch.testing.assert_close(y.mean(0), torch.zeros(3), atol=1e-4, rtol=0)
                torch.testing.assert_close(y.std(0, correction=0), torch.ones(3), atol=1e-4, rtol=0)


def test_what_they_refuse():
    with pytest.raises(ConfigError, match="layers must be at least 1, got 0"):
        MAF(layers=0).build(TABLE)
    with pytest.raises(ConfigError, match=r"alpha must lie in \[0, 0.5\), got 0.5"):
        NICE(alpha=0.5).build(TABLE)
    with pytest.raises(Unsupported, match="single point. Use encode"):
        FLOWS["planar"]().build(DataSpec("points", (2,))).posterior(torch.zeros(1, 2))
