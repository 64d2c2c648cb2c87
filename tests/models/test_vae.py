"""VAE: exact answers on a linear-Gaussian model, every likelihood and record, composition, and what it refuses."""

import math

import pytest
import torch
from toys import MIXED

from pushforward.data.spec import BINARY, REAL, UNIT, DataSpec, categories, levels
from pushforward.errors import ConfigError, DataError
from pushforward.likelihoods import HALF_LOG_2PI, Gaussian
from pushforward.model import GradientModel
from pushforward.models.classical.mixture import GaussianMixture
from pushforward.models.latent.linear import Nodes, cubature, linear_gaussian
from pushforward.models.latent.vae import VAE, known_answers
from pushforward.objective import Batch, Loss, Objective
from pushforward.rng import Rng

POINTS = DataSpec("points", (3,))
IMAGE = DataSpec("image", (1, 5, 4), (BINARY,))
SPECS = {
    "points": POINTS,
    "mixed": MIXED,
    "unit": DataSpec("points", (3,), (UNIT,)),
    "categories": DataSpec("table", (4,), (categories(3),)),
    "binary": IMAGE,
    "levels": DataSpec("image", (2, 5, 4), (levels(7),)),
    "convolutional": DataSpec("image", (1, 16, 18), (levels(5),)),
    "conditional": IMAGE.with_condition(3),
}


def records(spec: DataSpec, n: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor | None]:
    rng = Rng.seeded(seed, torch.zeros((), dtype=torch.float64))
    columns = [rng.randint(s.size, n).double() if s.size else rng.rand(n) if s.name == "unit" else rng.randn(n) for s in spec.columns]
    c = torch.eye(spec.condition_dim, dtype=torch.float64)[rng.randint(spec.condition_dim, n)] if spec.condition_dim else None
    return torch.stack(columns, 1).reshape(n, *spec.shape), c


def batch(spec: DataSpec, n: int = 8, seed: int = 0) -> Batch:
    x, c = records(spec, n, seed)
    return Batch(x, c, torch.arange(n), Rng.seeded(seed + 1, x))


def build(spec: DataSpec = POINTS, **hyper) -> VAE:
    return VAE(**{"hidden": (12,), "latent_dim": 3, **hyper}).build(spec).double()


def test_known_answers():
    for answer in known_answers():
        assert answer.holds, answer


def test_maximum_likelihood_of_a_linear_vae_is_probabilistic_pca():
    """Tipping & Bishop (1999); Lucas et al. (2019): at its optimum the ELBO of a linear VAE is the evidence of PPCA."""
    generator = torch.Generator().manual_seed(3)
    D, d, n = 4, 2, 200
    x = torch.randn(n, d, generator=generator, dtype=torch.float64) @ torch.randn(d, D, generator=generator, dtype=torch.float64)
    x = x + 0.5 * torch.randn(n, D, generator=generator, dtype=torch.float64) + 1.0
    model, _ = linear_gaussian(D, d)
    model.requires_grad_(True)
    nodes = cubature(d)

    def loss() -> torch.Tensor:  # the ELBO itself: the nodes integrate the quadratic log-weights exactly
        return torch.stack([model._elbo_loss(Batch(x, None, torch.arange(n), Nodes(e))).per_record.mean() for e in nodes]).mean()

    optimizer = torch.optim.LBFGS(
        model.parameters(), max_iter=200, tolerance_grad=1e-10, tolerance_change=1e-14, line_search_fn="strong_wolfe"
    )

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        value = loss()
        value.backward()
        return value

    optimizer.step(closure)
    lam = torch.linalg.eigvalsh((x - x.mean(0)).T @ (x - x.mean(0)) / n).flip(0)
    s2 = lam[d:].mean()
    evidence = -0.5 * (D * math.log(2 * math.pi) + lam[:d].log().sum() + (D - d) * s2.log() + D)
    # L-BFGS stops when the objective moves by less than 1e-14; near a quadratic optimum gradients of 1e-5 leave under 1e-8.
    assert float(-loss().detach()) == pytest.approx(float(evidence), abs=1e-6)
    assert model.p_x.log_scale is not None
    sigma = Gaussian().parts(torch.stack([model.p_x.log_scale.detach()] * 2))[1].exp()
    assert float(sigma) == pytest.approx(float(s2.sqrt()), abs=1e-3)
    # Its decoder spans the principal subspace: what it maps to is within it.
    top = torch.linalg.eigh((x - x.mean(0)).T @ (x - x.mean(0)))[1][:, -d:]
    W = model.p_x.net.layers[0].weight.detach()
    assert (W - top @ top.T @ W).norm() < 1e-3 * W.norm()


def test_closed_form_kl_is_that_of_torch():
    model, b = build(), batch(POINTS)
    q = model._posterior(b.x, None)
    p = torch.distributions.Independent(torch.distributions.Normal(torch.zeros(8, 3).double(), 1.0), 1)
    terms = model._elbo_loss(b).terms
    assert torch.allclose(terms["kl"], torch.distributions.kl_divergence(q, p), rtol=1e-10)


def test_terms_add_up_and_beta_weighs_the_kl():
    for beta in (1.0, 0.25):
        model = build(beta=beta)
        loss = model._objectives()[0].loss(batch(POINTS))
        assert torch.allclose(loss.per_record, loss.terms["reconstruction"] + beta * loss.terms["kl"], rtol=1e-12)
    # The reported bound is the true one, whatever beta was trained with.
    x, _ = records(POINTS, 8)
    a, b = (build(beta=beta)._log_prob(x, None, Rng.seeded(0, x), samples=4) for beta in (1.0, 0.25))
    assert torch.equal(a, b)


def test_the_importance_objective_is_the_bound():
    model, b = build(samples=7), batch(POINTS)
    bound = model._log_prob(b.x, None, Rng.seeded(1, b.x), samples=7)
    assert torch.allclose(model._objectives()[0].loss(b).per_record, -bound, rtol=1e-10)


def test_the_bound_does_not_depend_on_the_steps_it_is_computed_in(monkeypatch):
    x, _ = records(POINTS, 2)
    model = build()

    class Rows(Rng):  # the same numbers in steps of 16 (torch draws normal numbers 16 at a time)
        def randn(self, *shape):
            return super().randn(shape[1], shape[0], shape[2]).transpose(0, 1)

    def bound():
        return model._log_prob(x, None, Rows(torch.Generator().manual_seed(0), dtype=x.dtype), samples=64)

    whole = bound()
    monkeypatch.setattr("pushforward.models.latent.vae.MEMORY", 16 * len(x) * max(model.hidden))
    assert torch.allclose(bound(), whole, rtol=1e-12)


@pytest.mark.parametrize("name", SPECS)
def test_every_kind_of_record(name):
    spec = SPECS[name]
    model, b = build(spec), batch(spec)
    loss = model._objectives()[0].loss(b)
    loss.per_record.mean().backward()
    assert loss.per_record.shape == (8,)
    assert all(p.grad is not None for p in model.parameters())
    rng = Rng.seeded(0, b.x)
    with torch.no_grad():
        x = model._sample(8, b.c, rng)
        assert x.shape == b.x.shape
        model._likelihood(torch.zeros(8, 3).double(), b.c).family.check(x.flatten(1) if name == "mixed" else x)
        back = model._decode(model._encode(b.x, b.c), b.c)
        model._likelihood(torch.zeros(8, 3).double(), b.c).family.check(back.flatten(1) if name == "mixed" else back)
        log_prob = model._log_prob(b.x, b.c, rng, samples=5)
        assert torch.isfinite(log_prob).all()
        if spec.discrete:
            assert (log_prob < 0).all()
        assert torch.equal(model._sample(8, b.c, Rng.seeded(4, b.x), mode=True), model._sample(8, b.c, Rng.seeded(4, b.x), mode=True))


def test_the_condition_reaches_both_networks():
    spec = SPECS["conditional"]
    model, (x, _) = build(spec), records(spec, 4)
    a, b = (torch.eye(3, dtype=torch.float64)[[k] * 4] for k in (0, 1))
    assert not torch.allclose(model._encode(x, a), model._encode(x, b))
    z = torch.zeros(4, 3, dtype=torch.float64)
    assert not torch.allclose(model._likelihood(z, a).mean, model._likelihood(z, b).mean)


@pytest.mark.parametrize(
    ("likelihood", "spec"),
    [
        ("gaussian", POINTS),
        ("gaussian-unit", POINTS),
        ("gaussian-shared", POINTS),
        ("gaussian-shared", DataSpec("table", (3,))),
        ("gaussian-shared", MIXED),
        ("gaussian-shared", SPECS["unit"]),
        ("gaussian-unit", SPECS["unit"]),
        ("bernoulli", IMAGE),
        ("discretised", SPECS["levels"]),
        ("categorical", SPECS["levels"]),
        ("categorical", MIXED),
        ("continuous-bernoulli", SPECS["unit"]),
        ("logistic-mixture", SPECS["levels"]),
        ("gaussian-optimal", POINTS),
        ("gaussian-optimal", DataSpec("table", (3,))),
    ],
    ids=str,
)
def test_every_likelihood_that_fits(likelihood, spec):
    model, b = build(spec, likelihood=likelihood), batch(spec)
    model._objectives()[0].loss(b).per_record.mean().backward()
    assert all(p.grad is not None for p in model.parameters())
    assert (model.p_x.log_scale is not None) == (likelihood == "gaussian-shared")
    if model.p_x.log_scale is not None:
        assert model.p_x.log_scale.shape == {"points": (), "table": (3,)}[spec.kind]
        assert (model.p_x.log_scale.grad != 0).all()


@pytest.mark.parametrize(
    ("likelihood", "spec", "says"),
    [
        (
            "bernoulli",
            SPECS["levels"],
            r"bernoulli .* 0 and 1, not entries that are levels\(7\). Use likelihood='discretised', or .*'auto'",
        ),
        ("bernoulli", POINTS, "Use likelihood='gaussian', or"),
        ("gaussian", IMAGE, "not entries that are binary. Use likelihood='bernoulli'"),
        ("discretised", SPECS["categories"], "Use likelihood='categorical'"),
        ("categorical", SPECS["unit"], "Use likelihood='gaussian'"),
        ("discretised", DataSpec("table", (2,), (REAL, categories(3))), "not entries that are real"),
        ("gaussian-optimal", MIXED, "Use likelihood='gaussian-shared', which learns one for each real column"),
        ("gaussian-optimal", SPECS["unit"], "Use likelihood='gaussian' .truncated"),
        ("continuous-bernoulli", POINTS, "not entries that are real"),
    ],
    ids=str,
)
def test_a_likelihood_that_does_not_fit_is_refused_with_the_one_that_does(likelihood, spec, says):
    with pytest.raises(DataError, match=says):
        VAE(likelihood=likelihood).build(spec)


def test_the_optimal_variance_is_the_error_of_the_batch_and_is_kept():
    """Rybkin et al. (2021): at sigma^2 = MSE the negative log-likelihood is D (log(2 pi MSE) + 1) / 2 a record, its least over sigma."""
    model, b = build(likelihood="gaussian-optimal").train(), batch(POINTS, 64)
    z = torch.zeros(64, 3, dtype=torch.float64)
    params = model.p_x(z)
    error = float((b.x - params[..., 0]).square().mean().detach())
    known = -1.5 * (math.log(2 * math.pi * error) + 1)
    assert float(model.p_x.log_prob(params, b.x).mean().detach()) == pytest.approx(known, abs=1e-9)
    assert float(model.p_x.variance) == pytest.approx(1 + 0.01 * (error - 1))
    with torch.no_grad():  # outside training the kept one counts, and does not move
        model.p_x.variance.fill_(0.25)
        log_prob = model.p_x.log_prob(model.p_x(z), b.x)
    expected = torch.distributions.Normal(params[..., 0].detach(), 0.5).log_prob(b.x).sum(1)
    assert torch.allclose(log_prob, expected, atol=1e-9)
    assert float(model.p_x.variance) == 0.25


class Shifted(GradientModel):
    """N(m, I) as a prior, its mean learned: exact, small, and known."""

    name = ""
    density = "exact"

    def _build(self, spec):
        self.m = torch.nn.Parameter(torch.full(spec.shape, 0.5))

    def _objectives(self):
        return (Objective("m", (self,), lambda b: Loss(-self._log_prob(b.x, None, b.rng))),)

    def _sample(self, n, c, rng):
        return self.m + rng.randn(n, len(self.m))

    def _log_prob(self, x, c, rng):
        return -0.5 * (x - self.m).square().sum(1) - x.shape[1] * HALF_LOG_2PI


def test_a_model_as_prior_is_trained_with_the_rest():
    model, b = build(prior=Shifted()), batch(POINTS)
    loss = model._objectives()[0].loss(b)
    loss.per_record.mean().backward()
    assert (model.prior.m.grad != 0).all()
    # The same draw of z under N(0, I): log p(z) differs by z.m - m.m / 2.
    plain = build()
    plain.load_state_dict({k: v for k, v in model.state_dict().items() if not k.startswith("prior")})
    mu, log_var = plain._gaussian(b.x, None)
    z = mu + torch.exp(0.5 * log_var) * Rng.seeded(1, b.x).randn(8, 1, 3)[:, 0]
    log_q = torch.distributions.Normal(mu, torch.exp(0.5 * log_var)).log_prob(z).sum(1)
    log_p = torch.distributions.Normal(0.5, 1.0).log_prob(z).sum(1)
    assert torch.allclose(loss.terms["kl"], log_q - log_p, rtol=1e-8)
    with torch.no_grad():
        model.prior.m.fill_(100.0)
        assert not torch.allclose(model._sample(8, None, Rng.seeded(0, b.x)), plain._sample(8, None, Rng.seeded(0, b.x)))


def test_a_prior_without_gradients_is_refused_with_the_remedy():
    with pytest.raises(ConfigError, match=r"prior=gmm cannot be trained together .* LatentPrior\(VAE\(\), GaussianMixture\(\)\)"):
        VAE(prior=GaussianMixture()).build(POINTS)


def test_networks_of_ones_own():
    encoder = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(20, 6))
    decoder = torch.nn.Linear(3, 20)
    model = VAE(latent_dim=3, encoder=encoder, decoder=decoder).build(IMAGE).double()
    b = batch(IMAGE)
    model._objectives()[0].loss(b).per_record.mean().backward()
    assert decoder.weight.grad is not None
    assert encoder[1].weight.grad is not None
    assert model._sample(2, None, Rng.seeded(0, b.x)).shape == (2, 1, 5, 4)
    assert len(list(model.parameters())) == 4
    assert model.describe()["config"]["encoder"] == {"network": "Sequential"}


def test_impossible_hyperparameters_are_named():
    for hyper, says in (
        ({"latent_dim": 0}, "latent_dim must be at least 1, got 0"),
        ({"samples": 0}, "samples must"),
        ({"beta": -1.0}, "beta must"),
    ):
        with pytest.raises(ConfigError, match=says):
            VAE(**hyper).build(POINTS)
    with pytest.raises(ConfigError, match="no likelihood 'gausian'.*Did you mean 'gaussian'"):
        VAE(likelihood="gausian").build(POINTS)
    x, _ = records(POINTS, 2)
    with pytest.raises(ConfigError, match="samples must be at least 1, got 0"):
        build()._log_prob(x, None, Rng.seeded(0, x), samples=0)


def test_the_verb_and_the_hyperparameter_called_likelihood_live_together():
    model = VAE(likelihood="gaussian-unit")
    assert model.config()["likelihood"] == "gaussian-unit"
    model.build(POINTS)
    assert model.likelihood(torch.zeros(2, 20)).mean.shape == (2, 3)


def test_training_raises_the_bound():
    """Eight patterns of 20 bits: their entropy is log 8, and no code is long enough to be needed for more."""
    generator = torch.Generator().manual_seed(0)
    patterns = (torch.rand(8, 1, 5, 4, generator=generator) < 0.5).float()
    model = VAE(hidden=(64,), latent_dim=4).build(IMAGE).train()
    objective = model._objectives()[0]
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    rng = Rng.seeded(0)
    for _ in range(600):
        x = patterns[rng.randint(8, 64)]
        optimizer.zero_grad()
        objective.loss(Batch(x, None, torch.arange(64), rng)).per_record.mean().backward()
        optimizer.step()
    nats = -model._log_prob(patterns, None, rng, samples=200).mean()
    # At least the entropy, by Gibbs; 600 steps of seed 0 come to 1.07 above it; independent bits would cost 20 log 2 = 13.9.
    assert math.log(8) - 0.05 < float(nats.detach()) < math.log(8) + 1.5
