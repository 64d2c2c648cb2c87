"""Posteriors: densities that integrate to one, draws that have them, inverses, and closed forms."""

import math

import pytest
import torch

from pushforward.errors import ConfigError
from pushforward.posteriors import InverseAutoregressive, Planar, Posterior, known_answers, posterior_for
from pushforward.rng import Rng

NAMES = ("diagonal", "full", "mixture", "planar", "iaf")


def family(name: str, dim: int = 2) -> Posterior:
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        made = posterior_for(name, dim, components=3, layers=3).double()
        for net in getattr(made, "nets", ()):  # as trained: far from the identity that it starts near
            for p in net.out.parameters():
                p.mul_(4.0)
    return made


def params_of(q: Posterior, n: int, spread: float = 0.8) -> torch.Tensor:
    return spread * Rng.seeded(7, torch.zeros((), dtype=torch.float64)).randn(n, q.n_params)


def test_known_answers():
    for answer in known_answers():
        assert answer.holds, answer


@pytest.mark.parametrize("name", NAMES)
def test_the_density_integrates_to_one_and_is_that_of_the_draws(name):
    q = family(name)
    params = params_of(q, 1)
    axis = torch.linspace(-10, 10, 251, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    density = q.log_prob(params, grid[None])[0].exp()
    # The rule on a smooth function that vanishes at the ends; planar flows bend it over 1 / |w|, some steps of 0.08.
    assert float(density.sum()) * 0.08**2 == pytest.approx(1, abs=1e-3)
    # Draws: their own log q agrees with the density of the point, and their moments with the grid's.
    n = 20_000
    drawn = q.draw(params.expand(n, -1), 1, Rng.seeded(0, params))
    assert torch.allclose(drawn.log_q[:50], q.log_prob(params.expand(50, -1), drawn.z[:50]), atol=1e-8)
    z = drawn.z[:, 0].detach()
    mean = (density[:, None] * grid).sum(0) * 0.08**2
    # Two means, each within 5 standard errors but for one time in 2e6, beside the grid's 1e-3.
    assert ((z.mean(0) - mean).abs() < 5 * z.std(0) / math.sqrt(n) + 2e-3).all()
    if name in ("diagonal", "full", "mixture"):
        assert torch.allclose(q.centre(params)[0], mean, atol=2e-3)


@pytest.mark.parametrize("name", NAMES)
def test_the_distribution_is_the_posterior(name):
    q = family(name, 3)
    params = params_of(q, 4)
    d = q.distribution(params)
    assert (d.batch_shape, d.event_shape) == ((4,), (3,))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        z = d.sample((5,))
    assert z.shape == (5, 4, 3)
    assert torch.allclose(d.log_prob(z), q.log_prob(params, z.transpose(0, 1)).T, atol=1e-9)
    assert d.log_prob(z[0]).shape == (4,)


@pytest.mark.parametrize("name", NAMES)
def test_draws_are_reparametrised(name):
    """d E[z] / d params by autograd is that of finite differences, with the same noise."""
    q = family(name)
    params = params_of(q, 1).requires_grad_()

    def mean(p: torch.Tensor) -> torch.Tensor:
        drawn = q.draw(p, 40, Rng.seeded(3, p), strata=True)
        share = torch.full_like(drawn.log_q, 1 / 40) if drawn.log_share is None else drawn.log_share.exp()
        return (share[..., None] * drawn.z).sum() + (share * drawn.log_q).sum()

    (slope,) = torch.autograd.grad(mean(params), params)
    step = 1e-7  # the central difference errs by rounding of 1e-15 / step, and rarely steps over a kink of a ReLU
    for i in range(0, q.n_params, 3):
        e = step * torch.eye(q.n_params, dtype=torch.float64)[i]
        with torch.no_grad():
            difference = float(mean(params + e) - mean(params - e)) / (2 * step)
        assert float(slope[0, i]) == pytest.approx(difference, abs=1e-6, rel=1e-6)


def test_strata_are_an_exact_mean_over_components():
    q = family("mixture")
    params = params_of(q, 6)
    drawn = q.draw(params, 4, Rng.seeded(0, params), strata=True)
    assert drawn.z.shape == (6, 12, 2)
    assert drawn.log_share is not None
    assert torch.allclose(drawn.log_share.exp().sum(1), torch.ones(6, dtype=torch.float64))
    # The same mean as of plain draws, whose component is drawn too: 40,000 of each, within 5 standard errors of the plainer.
    one = params[:1].expand(40_000, -1)
    plain = q.draw(one, 1, Rng.seeded(1, params)).z[:, 0]
    layered = q.draw(one, 1, Rng.seeded(2, params), strata=True)
    assert layered.log_share is not None
    exact = (layered.log_share.exp()[..., None] * layered.z).sum(1).mean(0)
    assert ((plain.mean(0) - exact).abs() < 5 * math.sqrt(2) * plain.std(0) / 200).all()


def test_planar_flows_are_invertible_whatever_the_encoder_says():
    q = Planar(2, 6).double()
    params = params_of(q, 50, spread=20.0)
    for u, w, _, inner in q.parts(params):
        assert (inner > -1 - 1e-9).all()
        assert torch.allclose(inner, (u * w).sum(1))
    still = torch.zeros(1, q.n_params, dtype=torch.float64, requires_grad=True)
    drawn = q.draw(still, 3, Rng.seeded(0, still))
    (slope,) = torch.autograd.grad(drawn.log_q.sum() + drawn.z.sum(), still)
    # Smooth: 3 draws, each moved once by an entry and by 6 layers of slopes below 1; m(0) != 0 would divide by |w|^2 = 1e-12.
    assert slope.abs().max() < 100
    assert not torch.equal(q.initial(2)[:, 4:], torch.zeros(2, q.n_params - 4))


def test_iaf_is_the_inverse_of_an_autoregressive_map():
    """Its Jacobian, by autograd, is triangular in each layer; log |det| of the whole is what was subtracted from log q."""
    q = InverseAutoregressive(3, 2).double()
    params = params_of(q, 1)
    start = Rng.seeded(1, params).randn(1, 1, 3)
    jacobian = torch.autograd.functional.jacobian(lambda z: q.push(params, z[None, None])[0][0, 0], start[0, 0])
    assert float(torch.linalg.slogdet(jacobian)[1]) == pytest.approx(float(q.push(params, start)[1].detach()), abs=1e-10)


@pytest.mark.parametrize("name", ["planar", "iaf"])
def test_the_centre_of_a_flow_is_where_its_draws_go_as_the_spread_of_its_base_vanishes(name):
    q = family(name)
    params = params_of(q, 4)
    params[:, 2:4] = -70.0  # sigma = e^-35, below rounding
    assert torch.allclose(q.centre(params)[:, None].expand(-1, 3, -1), q.draw(params, 3, Rng.seeded(0, params)).z, atol=1e-12)


def test_iaf_begins_near_the_identity():
    # raw s - 2 is a tenth of a fresh layer's output, of order 1 and below 10: log s lies between those of 1 and 3.
    q = InverseAutoregressive(3, 1).double()
    log_det = q.push(torch.zeros(1, q.n_params, dtype=torch.float64), Rng.seeded(0, torch.zeros((), dtype=torch.float64)).randn(1, 9, 3))[1]
    low, high = (3 * float(torch.nn.functional.logsigmoid(torch.tensor(v))) for v in (1.0, 3.0))
    assert ((log_det > low) & (log_det < high)).all()


@pytest.mark.parametrize("name", ["diagonal", "full", "mixture"])
def test_pairwise_is_every_pair(name):
    q = family(name)
    params, z = params_of(q, 3), Rng.seeded(2, torch.zeros((), dtype=torch.float64)).randn(5, 2)
    each = torch.stack([q.log_prob(params[k : k + 1], z[None])[0] for k in range(3)], 1)
    assert torch.allclose(q.pairwise(params, z), each, atol=1e-10)


def test_impossible_ones_are_named():
    with pytest.raises(ConfigError, match="no posterior 'planer'.*Did you mean 'planar'"):
        posterior_for("planer", 2)
    with pytest.raises(ConfigError, match="flow_layers must be at least 1, got 0"):
        posterior_for("iaf", 2, layers=0)
