"""Hierarchical VAE: exact answers on a linear ladder, the residual KL, warm-up and balancing, every record, and what it refuses."""

import math

import pytest
import torch
from torch.distributions import Normal, kl_divergence
from toys import MIXED

from pushforward.data.spec import BINARY, DataSpec, levels
from pushforward.errors import ConfigError, DataError, Unsupported
from pushforward.models.latent.hierarchical_vae import HierarchicalVAE, known_answers, linear_ladder
from pushforward.nn.ladder import scales_of
from pushforward.objective import Batch
from pushforward.rng import Rng

POINTS = DataSpec("points", (3,))
DIGITS = DataSpec("image", (1, 20, 18), (BINARY,))
SPECS = {
    "points": POINTS,
    "mixed": MIXED,
    "small": DataSpec("image", (1, 5, 4), (BINARY,)),
    "levels": DataSpec("image", (2, 16, 18), (levels(5),)),
    "binary": DIGITS,
    "conditional": DIGITS.with_condition(3),
    "conditional points": POINTS.with_condition(2),
}


def records(spec: DataSpec, n: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor | None]:
    rng = Rng.seeded(seed, torch.zeros((), dtype=torch.float64))
    columns = [rng.randint(s.size, n).double() if s.size else rng.rand(n) if s.name == "unit" else rng.randn(n) for s in spec.columns]
    c = torch.eye(spec.condition_dim, dtype=torch.float64)[rng.randint(spec.condition_dim, n)] if spec.condition_dim else None
    return torch.stack(columns, 1).reshape(n, *spec.shape), c


def batch(spec: DataSpec, n: int = 8, seed: int = 0, progress: float = 1.0) -> Batch:
    x, c = records(spec, n, seed)
    return Batch(x, c, torch.arange(n), Rng.seeded(seed + 1, x), 0, progress)


def build(spec: DataSpec = DIGITS, *, moved: bool = True, **hyper) -> HierarchicalVAE:
    """A small ladder whose posteriors and priors differ, as a fresh one's do not."""
    model = HierarchicalVAE(**{"groups": (1, 2), "latent_dim": 3, "latent_channels": 2, "hidden": 12, "channels": 8, **hyper})
    model.build(spec).double()
    if moved:
        generator = torch.Generator().manual_seed(5)
        with torch.no_grad():
            for p in model.parameters():
                p.add_(0.1 * torch.randn(p.shape, generator=generator, dtype=p.dtype))
    return model


def test_known_answers():
    for answer in known_answers():
        assert answer.holds, answer


def test_the_residual_kl_is_that_of_the_two_normals():
    """Against torch.distributions on z itself, with the prior's and the posterior's own means and scales, group by group."""
    model, b = build(), batch(DIGITS)
    with torch.no_grad():
        maps = model._maps(b.x, None)
        terms = model._loss(Batch(b.x, None, b.index, Rng.seeded(3, b.x))).terms
        h, rng, total = model.ladder.begin(8, None), Rng.seeded(3, b.x), torch.zeros(8, dtype=torch.float64)
        for i in range(3):
            h = model.ladder.enter(i, h)
            prior = model.ladder.prior(i, h)
            shift, log_ratio = model.ladder.residual(i, h, maps)
            mu, sigma = (torch.zeros_like(shift), torch.ones_like(shift)) if prior is None else (prior[0], prior[1].exp())
            p, q = Normal(mu, sigma), Normal(mu + shift, sigma * log_ratio.exp())
            z = q.loc + q.scale * rng.randn(*mu.shape)
            h = model.ladder.absorb(i, h, z)
            kl = kl_divergence(q, p).flatten(1).sum(1)
            assert kl.min() > 0.01  # the two do differ
            # The same sum in another order: a few hundred additions at 1e-16, on numbers of order 10.
            assert torch.allclose(terms[f"kl/{i + 1}"], kl, rtol=1e-10)
            total = total + kl
        assert torch.allclose(terms["kl"], total, rtol=1e-10)
    assert terms["active groups"] == 3


def test_a_fresh_ladder_has_its_posterior_on_its_prior():
    terms = build(moved=False)._loss(batch(DIGITS)).terms
    assert terms["kl"].abs().max() == 0.0
    assert terms["active groups"] == 0


def test_the_bound_rises_with_k_and_the_weights_average_to_the_bound():
    model, (x, _) = build(), records(DIGITS, 1)
    x = x.expand(300, -1, -1, -1)
    with torch.no_grad():
        bounds = [model._log_prob(x, None, Rng.seeded(k, x), samples=k) for k in (1, 4, 16)]
        elbo = -model._loss(Batch(x, None, torch.arange(300), Rng.seeded(9, x))).per_record
    means, errors = [float(b.mean()) for b in bounds], [float(b.std()) / math.sqrt(300) for b in bounds]
    for i in (0, 1):  # E L_K rises with K (Burda et al. 2016, theorem 1)
        assert means[i + 1] - means[i] > 4 * math.hypot(errors[i], errors[i + 1])
    # E log w of one draw is the ELBO; its KL in closed form, where the weight has it by Monte Carlo.
    assert abs(float(elbo.mean()) - means[0]) < 4 * math.hypot(errors[0], float(elbo.std()) / math.sqrt(300))


def test_the_bound_does_not_depend_on_the_steps_it_is_computed_in(monkeypatch):
    """Memory is bounded: in pieces, over records and over K, the bound is the same figure up to the draws."""
    model, ladder = linear_ladder()
    ladder.shift = 0.3
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    rows = []
    infer = model._infer
    monkeypatch.setattr(model, "_infer", lambda maps, c, rng: rows.append(len(maps[0])) or infer(maps, c, rng))
    whole = model._log_prob(x, None, Rng.seeded(0, x), samples=1000)
    assert rows == [5000]
    rows.clear()
    monkeypatch.setattr("pushforward.models.latent.hierarchical_vae.MEMORY", 8 * 12)  # 8 raw outputs a record: 12 at a time, 2 for each x
    pieces = model._log_prob(x, None, Rng.seeded(1, x), samples=1000)
    assert max(rows) == 10
    assert sum(rows) == 5000
    # The mean of K weights has the variance Var(w / p) / K, which we estimate; to first order that is the logarithm's.
    spread = (model._log_weights(x, [x], None, Rng.seeded(2, x), 1000) - ladder.evidence(x)[:, None]).exp().std(1) / math.sqrt(1000)
    assert ((whole - pieces).abs() < 4 * math.sqrt(2) * spread).all()
    assert ((pieces - ladder.evidence(x)).abs() < 5 * spread).all()


def test_whitened_codes_are_standard_normal_under_the_prior():
    """The joint that annealed importance sampling takes: p(u) = N(0, I), and its evidence is the ladder's."""
    model, ladder = linear_ladder()
    joint = model._joint()
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    u = joint.sample_prior(200_000, None, Rng.seeded(0, x))
    assert torch.allclose(joint.log_prior(u[:5], None), Normal(torch.zeros(2).double(), 1.0).log_prob(u[:5]).sum(1), rtol=1e-12)
    for one, known in zip(x, ladder.evidence(x)):
        weights = joint.log_likelihood(one.expand(len(u), -1), u, None)
        error = float((weights - known).exp().std()) / math.sqrt(len(u))
        # The prior's own draws estimate p(x) without bias: 4 standard errors of the mean weight, to first order in the logarithm.
        assert abs(float(weights.logsumexp(0)) - math.log(len(u)) - float(known)) < 4 * error


@pytest.mark.parametrize("name", SPECS)
def test_every_kind_of_record(name):
    spec = SPECS[name]
    model, b = build(spec), batch(spec)
    loss = model._objectives()[0].loss(b)
    loss.per_record.mean().backward()
    assert loss.per_record.shape == (8,)
    for path, p in model.named_parameters():
        assert p.grad is not None, path
        assert p.grad.abs().max() > 0, path
    with torch.no_grad():
        codes = model._encode(b.x, b.c)
        assert codes.shape == (8, model.code_dim)
        for x in (model._sample(8, b.c, Rng.seeded(0, b.x)), model._decode(codes, b.c)):
            assert x.shape == b.x.shape
            model.p_x.distribution(model._generate(codes, b.c)).family.check(x.flatten(1) if name == "mixed" else x)
        assert torch.isfinite(model._log_prob(b.x, b.c, Rng.seeded(0, b.x), samples=3)).all()


def test_the_code_is_the_mean_path_and_decodes_along_it():
    model, b = build(), batch(DIGITS)
    with torch.no_grad():
        h, found = model._infer(model._maps(b.x, None), None, None)
        codes = model._encode(b.x, None)
        assert torch.equal(codes, torch.cat([m.flatten(1) for _, m, _ in found], 1))
        assert torch.allclose(model._generate(codes, None), model.p_x(h), rtol=1e-10, atol=1e-12)


def test_temperature_scales_the_prior():
    model = build()
    rng = torch.zeros((), dtype=torch.float64)
    cold = model._sample(4, None, Rng.seeded(0, rng), temperature=0.0, mode=True)
    assert (cold == cold[:1]).all()
    assert torch.equal(cold, model._decode(torch.zeros(4, model.code_dim, dtype=torch.float64), None))
    hot, same = (
        model._sample(4, None, Rng.seeded(0, rng), mode=True),
        model._sample(4, None, Rng.seeded(0, rng), temperature=1.0, mode=True),
    )
    assert torch.equal(hot, same)
    assert not torch.equal(hot, cold)
    with pytest.raises(ConfigError, match="temperature must not be negative"):
        model.sample(2, temperature=-1.0)


def test_warm_up_and_balancing():
    model, b = build(anneal=0.5), batch(DIGITS, progress=0.25)
    model.eval()
    plain = model._loss(batch(DIGITS, progress=0.25))  # held-out records are judged by the bound itself
    assert torch.allclose(plain.per_record, plain.terms["reconstruction"] + plain.terms["kl"], rtol=1e-12)
    model.train()
    terms = torch.stack([plain.terms[f"kl/{i}"] for i in (1, 2, 3)], 1)
    # beta = 0.25 / 0.5; gamma_l proportional to the mean KL per latent: groups of 3, and of 2 channels at 5 x 4 positions.
    rate = terms.mean(0) / torch.tensor([3.0, 40.0, 40.0], dtype=torch.float64)
    gamma = 3 * rate / rate.sum()
    warm = model._loss(b)
    # The code adds 1e-8 to rates of order 0.1.
    assert torch.allclose(warm.per_record, plain.terms["reconstruction"] + 0.5 * (terms @ gamma).detach(), rtol=1e-6)
    after = model._loss(batch(DIGITS, progress=0.5))
    assert torch.allclose(after.per_record, plain.per_record, rtol=1e-12)
    model.balance = False
    even = model._loss(batch(DIGITS, progress=0.25))
    assert torch.allclose(even.per_record, plain.terms["reconstruction"] + 0.5 * plain.terms["kl"], rtol=1e-12)


def test_groups_alike_have_equal_weights():
    model = build(POINTS, groups=(4,))
    gamma = model._gammas(torch.full((4,), 0.7, dtype=torch.float64))
    assert torch.allclose(gamma, torch.ones_like(gamma), rtol=1e-12)
    gamma = model._gammas(torch.tensor([0.0, 0.0, 1.0, 3.0], dtype=torch.float64))
    assert float(gamma.mean()) == pytest.approx(1.0, rel=1e-12)
    assert gamma[0] < 1e-6 < gamma[2] < gamma[3]


def test_the_penalty_is_the_sum_of_largest_singular_values():
    model, b = build(POINTS, groups=(2,), spectral=0.5), batch(POINTS)
    model.train()
    assert model.norms is not None
    for _ in range(300):  # power iteration: one step a call
        model.norms()
    layers = [m.weight for m in model.ladder.modules() if hasattr(m, "weight")]
    exact = sum(float(torch.linalg.matrix_norm(w.detach().flatten(1), 2)) for w in layers)
    # A gap of a few per cent between the two largest values leaves (s_2 / s_1)^600 of the error.
    assert float(model.norms().detach()) == pytest.approx(exact, rel=1e-3)
    with_penalty = model._loss(b).per_record
    model.eval()
    without = model._loss(batch(POINTS)).per_record
    assert torch.allclose(with_penalty - without, torch.full_like(without, 0.5 * exact), rtol=1e-3)


def test_a_record_s_output_depends_on_it_alone():
    model, (x, _) = build(), records(DIGITS, 6)
    with torch.no_grad():
        assert torch.allclose(model._encode(x, None)[:2], model._encode(x[:2], None), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("hyper", [{"cell": "separable"}, {"groups": (1, 0, 1)}, {"groups": (2,)}, {"cells": 2}], ids=str)
def test_shapes_of_ladders(hyper):
    spec = DataSpec("image", (1, 22, 16), (BINARY,))
    model, b = build(spec, **hyper), batch(spec, 3)
    model._loss(b).per_record.mean().backward()
    assert all(p.grad is not None for p in model.parameters())
    assert model._encode(b.x, None).shape == (3, model.code_dim)


def test_scales_halve_down_from_half_the_image():
    assert scales_of((1, 28, 28), 256, 64) == [(None, 256), ((7, 7), 64), ((14, 14), 32)]
    assert scales_of((3, 64, 64), 256, 64) == [(None, 256), ((4, 4), 64), ((8, 8), 32), ((16, 16), 16), ((32, 32), 8)]


def test_group_kl_counts_active_groups():
    import numpy as np

    from pushforward.data import load_data

    data = load_data(np.random.default_rng(0).normal(size=(60, 3)).astype(np.float32))
    model = HierarchicalVAE(groups=(2,), latent_dim=2, hidden=8).fit(data, steps=3, batch_size=16, progress=False)
    kl = model.group_kl(data.train)
    assert kl.shape == (len(data.train), 2)
    assert (kl >= 0).all()
    with pytest.raises(ConfigError, match="codes have 4 dimensions"):
        model.decode(torch.zeros(2, 3))


@pytest.mark.parametrize(
    ("hyper", "says"),
    [
        ({"groups": ()}, "the first needs one"),
        ({"groups": (0, 2)}, "the first needs one"),
        ({"groups": (1, 1, 1, 1)}, r"images of 20 x 18 have 3: dense, 5 x 4, 10 x 9"),
        ({"hidden": 0}, "hidden must be at least 1"),
        ({"anneal": -0.1}, "anneal must not be negative"),
    ],
    ids=str,
)
def test_impossible_sizes_are_refused(hyper, says):
    with pytest.raises(ConfigError, match=says):
        HierarchicalVAE(**hyper).build(DIGITS)


def test_what_it_does_not_offer():
    with pytest.raises(Unsupported, match="no closed form; encode gives the code"):
        build().posterior(torch.zeros(1, 1, 20, 18))
    with pytest.raises(DataError, match="Use likelihood='bernoulli'"):
        HierarchicalVAE(likelihood="gaussian").build(DIGITS)
