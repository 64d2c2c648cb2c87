"""Categorical VAE: enumeration, bounds that rise to the evidence, the four gradients, codes, and what it refuses."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from pushforward.data import load_data
from pushforward.data.spec import DataSpec, categories
from pushforward.errors import ConfigError, DataError
from pushforward.models.latent.categorical_vae import CategoricalVAE, known_answers, relaxed
from pushforward.objective import Batch
from pushforward.rng import Rng

SMALL: dict[str, Any] = {"variables": 2, "values": 3, "hidden": (6,)}


def build(scale: float = 2.0, **hyper: Any) -> tuple[CategoricalVAE, torch.Tensor]:
    model = CategoricalVAE(**(SMALL | hyper)).build(DataSpec("points", (3,)), seed=1).double()
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(scale)  # 2: away from the uniform posterior
    return model, torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def gradient(model: CategoricalVAE, x: torch.Tensor, seed: int, n: int = 1, progress: float = 0.0) -> torch.Tensor:
    """Of the mean loss over n draws for each record, by the encoder's last layer."""
    x = x.repeat_interleave(n, 0)
    loss = model._loss(Batch(x, None, torch.arange(len(x)), Rng.seeded(seed, x), 0, progress)).per_record.mean()
    return torch.autograd.grad(loss, list(model.encoder_net.parameters())[-2])[0]


def test_known_answers():
    for answer in known_answers():
        assert answer.holds, answer


def test_the_importance_weighted_bound_rises_to_the_evidence():
    model, x = build()
    evidence = model._log_prob(x, None, Rng.seeded(0, x))
    uniform = -2 * math.log(3)
    many = x.repeat_interleave(500, 0)
    means, errors = [], []
    for K in (1, 5, 50):
        bound = model.importance_bound(many, None, Rng.seeded(K, x), K, lambda z, _: z.new_full((len(z),), uniform)).view(5, 500)
        means.append(bound.mean(1))
        errors.append(bound.std(1) / math.sqrt(500))
    # Jensen: E L_K <= log p(x), rising in K; each mean within four of its standard errors.
    for low, high, e in zip(means, [*means[1:], evidence], errors, strict=True):
        assert (low <= high + 4 * e + 1e-12).all()
    assert means[0].mean() < means[1].mean() < means[2].mean() < evidence.mean() + 4 * errors[2].mean()
    assert (evidence - means[2]).mean() < 0.2 * (evidence - means[0]).mean()


class Fixed:
    """A source of chosen codes."""

    def __init__(self, z: torch.Tensor):
        self.z = z

    def categorical(self, logits: torch.Tensor) -> torch.Tensor:
        return self.z


def test_weights_are_each_draws_own_under_any_prior_and_condition():
    model = CategoricalVAE(**SMALL).build(DataSpec("points", (3,), condition_dim=2), seed=1).double().requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    x, c = torch.randn(4, 3, generator=generator, dtype=torch.float64), torch.eye(2, dtype=torch.float64)[[0, 1, 1, 0]]
    z = torch.randint(3, (4, 5, 2), generator=generator)
    log_prior = lambda k, c: -k[:, 0] + 0.3 * k[:, 1] * c[:, 1]
    rng: Any = Fixed(z)
    found = model.importance_bound(x, c, rng, 5, log_prior)
    for b in range(4):
        x_b, c_b, log_w = x[b : b + 1], c[b : b + 1], []
        for k in z[b][:, None].double():
            log_q = model._posterior(x_b, c_b).log_prob(k)
            log_w.append(model._likelihood(k, c_b).log_prob(x_b) + log_prior(k, c_b) - log_q)
        assert float(found[b]) == pytest.approx(float(torch.cat(log_w).logsumexp(0) - math.log(5)), abs=1e-12)  # rounding


@pytest.mark.parametrize("kind", ["gumbel", "straight-through", "score", "exact"])
def test_beta_weighs_the_kl_in_training_alone(kind):
    model, x = build(gradient=kind, beta=0.3)
    batch = lambda: Batch(x, None, torch.arange(5), Rng.seeded(1, x))
    loss = model._loss(batch())
    assert torch.allclose(loss.per_record, loss.terms["reconstruction"] + 0.3 * loss.terms["kl"], atol=1e-12)
    with torch.no_grad():
        judged = model._loss(batch())
    assert torch.allclose(judged.per_record, judged.terms["reconstruction"] + judged.terms["kl"], atol=1e-12)
    q = model._posterior(x, None).base_dist.probs
    assert torch.allclose(judged.terms["kl"], (q * (3 * q).log()).sum((1, 2)), atol=1e-12)  # KL to the uniform, by its definition


def test_score_gradients_average_to_the_exact_one():
    # Codes of probability 1e-5 would decide the mean without being drawn: the posterior stays near the uniform one.
    exact_model, x = build(1.0, gradient="exact")
    exact = gradient(exact_model, x, 0)
    model, _ = build(1.0, gradient="score", draws=2)
    found = torch.stack([gradient(model, x, seed, n=20) for seed in range(40)])
    error = found.std(0) / math.sqrt(40)
    # 36 entries: Student's t with 39 degrees of freedom exceeds 5 with probability 1e-5.
    assert ((found.mean(0) - exact).abs() <= 5 * error + 1e-12).all()


def test_the_bias_of_gumbel_falls_with_its_temperature_and_its_variance_rises():
    exact_model, x = build(gradient="exact")
    exact = gradient(exact_model, x, 0)
    bias, variance = [], []
    for t in (5.0, 0.2):
        model, _ = build(gradient="gumbel", temperature=t, final_temperature=t)
        found = torch.stack([gradient(model, x, seed, n=50) for seed in range(40)])
        bias.append(float((found.mean(0) - exact).norm()))
        variance.append(float(found.var(0).sum()))
    assert bias[1] < 0.5 * bias[0]
    assert variance[1] > 2 * variance[0]


def test_the_straight_through_value_is_a_draw_and_its_derivative_the_relaxed_one():
    logits = torch.randn(7, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    w = torch.arange(4.0, dtype=torch.float64)
    soft, hard = (relaxed(logits, 0.7, Rng.seeded(3, logits), hard=h) for h in (False, True))
    assert torch.equal(hard.detach(), torch.nn.functional.one_hot(soft.argmax(1), 4).double())
    slopes = [torch.autograd.grad((y @ w).sum(), logits)[0] for y in (soft, hard)]
    assert torch.allclose(slopes[0], slopes[1], atol=1e-15)


def test_temperature_falls_geometrically():
    model = CategoricalVAE(temperature=2.0, final_temperature=0.5)
    assert [model.temperature_at(p) for p in (0.0, 0.5, 1.0)] == pytest.approx([2.0, 1.0, 0.5])


def test_every_code_is_there_once():
    model = CategoricalVAE(variables=3, values=4)
    z = model.every_code()
    assert len({tuple(row) for row in z.tolist()}) == 64
    assert z.max() == 3


def test_density_says_whether_codes_were_enumerated():
    spec = DataSpec("points", (3,))
    small = CategoricalVAE(**SMALL).build(spec)
    assert (small.density, small.estimator) == ("exact", "the sum over all 9 codes")
    large = CategoricalVAE(variables=20).build(spec)
    assert (large.density, large.estimator) == ("bound", "the importance-weighted bound, K = 100")
    assert large.code_spec == DataSpec("points", (20,), (categories(10),))


@pytest.mark.parametrize("kind", ["gumbel", "straight-through", "score", "exact"])
def test_every_gradient_learns(kind):
    """Two clusters of binary records and one variable of two values: the evidence nears that of the true mixture."""
    random = np.random.default_rng(0)
    which = random.integers(0, 2, 400)
    x = (random.random((400, 10)) < np.where(which[:, None], 0.95, 0.05)).astype(np.uint8)
    data = load_data(x, support="binary")
    model = CategoricalVAE(variables=1, values=2, hidden=(16,), gradient=kind)
    model.fit(data, steps=300, lr=1e-2, batch_size=64, progress=False, seed=2)
    x_ = data.test.tensor().double()
    p = torch.tensor([0.05, 0.95], dtype=torch.float64)
    of = x_.sum(1, keepdim=True)
    truth = (of * p.log() + (10 - of) * (1 - p).log()).logsumexp(1) - math.log(2)
    # About 21 parameters on 320 records cost 21 / (2 * 320) = 0.03 nats a record, in one of ten runs twice that; without the code
    # it would be 10 log 2 - 2.7 = 4.3 nats worse.
    assert float(truth.mean() - model.log_prob(data.test).double().mean()) < 0.3
    codes = model.encode(data.test)[:, 0].numpy()
    agree = np.mean(codes == (x_.mean(1).numpy() > 0.5))
    assert max(agree, 1 - agree) > 0.95


def test_what_it_refuses():
    spec = DataSpec("points", (3,))
    refused: tuple[tuple[dict[str, Any], str], ...] = (
        ({"values": 1}, "values must be at least 2"),
        ({"gradient": "score", "draws": 1}, "draws must be at least 2"),
        ({"temperature": 0.0}, "temperature must be above 0"),
        ({"gradient": "exact"}, r"sums over values\^variables = 10\^30 codes, and 1024 is the most"),
    )
    for bad, text in refused:
        with pytest.raises(ConfigError, match=text):
            CategoricalVAE(**bad).build(spec)
    model = CategoricalVAE(**SMALL).build(spec)
    with pytest.raises(DataError, match="Code 3 at row 0, column 1 is no index: codes are whole numbers 0 to 2"):
        model.decode([[0, 3]])
