"""MADE and PixelCNN: exact by enumeration, and samples that follow log_prob."""

import math

import pytest
import torch
from torch import Tensor

from pushforward.data.spec import BINARY, REAL, UNIT, DataSpec, categories, levels
from pushforward.errors import Unsupported
from pushforward.likelihoods import Gaussian, Mixture, MixtureOfGaussians
from pushforward.models.exact import made, pixelcnn
from pushforward.models.exact.autoregressive import MADE, PixelCNN, enumerated
from pushforward.rng import Rng
from pushforward.train import Batch

MIXED = DataSpec("table", (4,), (REAL, categories(3), BINARY, UNIT), 2)


def image(*shape: int, support=BINARY, condition: int = 0) -> DataSpec:
    return DataSpec("image", shape, (support,), condition)


def rough(model, spec: DataSpec):
    """Random weights in float64, far from uniform predictions."""
    model.build(spec, seed=3).double()
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(2.0)
    return model


def condition(spec: DataSpec, n: int) -> Tensor | None:
    return torch.eye(spec.condition_dim, dtype=torch.float64)[torch.arange(n) % spec.condition_dim] if spec.condition_dim else None


def test_known_answers() -> None:
    answers = [*made.known_answers(), *pixelcnn.known_answers()]
    assert [f"{k.name}: {k.ours}, not {k.known}" for k in answers if not k.holds] == []
    (entropy,) = [k for k in answers if "entropy" in k.name]
    assert entropy.difference < 1e-12  # Gibbs' inequality, up to the rounding of a sum of 32 terms


CASES = [
    (MADE(hidden=(16, 16)), DataSpec("points", (6,), (REAL,))),
    (MADE(hidden=(16,), order="random", order_seed=4, direct=True), DataSpec("points", (6,), (levels(5),), 3)),
    (MADE(hidden=(16, 8), components=3), MIXED),
    (MADE(hidden=(16,), components=3), image(1, 3, 2, support=levels(256))),
    (PixelCNN(layers=3, channels=8), image(1, 7, 5)),
    (PixelCNN(layers=3, channels=8), image(1, 5, 6, support=levels(7), condition=3)),
    (PixelCNN(layers=2, channels=8), image(3, 4, 3, support=levels(4), condition=2)),
]


@pytest.mark.parametrize(("model", "spec"), CASES)
def test_full_and_incremental_sampling_give_the_same_records(model, spec) -> None:
    rough(model, spec)
    c = condition(spec, 9)
    with torch.no_grad():
        a = model._sample(9, c, Rng.seeded(5, next(model.parameters())))
        b = model._sample(9, c, Rng.seeded(5, next(model.parameters())), incremental=False)
    assert a.shape == (9, *spec.shape)
    # Both consume the same draws; parameters differ by 1e-14, so a discrete choice differs with probability below 1e-12.
    torch.testing.assert_close(a, b, rtol=0, atol=1e-9)
    assert torch.isfinite(model._log_prob(a, c, Rng.seeded(0))).all()


DISCRETE = [
    (MADE(hidden=(16,)), DataSpec("table", (3,), (BINARY, categories(3), levels(4)), 2)),
    (MADE(hidden=(16,), order="random", components=2), DataSpec("points", (2,), (levels(65),))),
    (PixelCNN(layers=2, channels=8), image(1, 2, 3)),
    (PixelCNN(layers=2, channels=9), image(3, 1, 2, condition=2)),
    (PixelCNN(layers=2, channels=8), image(1, 2, 2, support=levels(3))),
]


@pytest.mark.parametrize(("model", "spec"), DISCRETE)
def test_samples_follow_log_prob(model, spec) -> None:
    """The mean log-probability of n samples is the model's own minus entropy, by enumeration."""
    rough(model, spec)
    x, log_p = enumerated(model)
    n, c = 4000, None
    if spec.condition_dim:
        c = torch.eye(spec.condition_dim, dtype=torch.float64)[:1].expand(n, -1)
    with torch.no_grad():
        s = model._sample(n, c, Rng.seeded(1, x))
    # Every frequency within 5 standard errors (sd of a proportion; + 1/n for the rarest): false alarm below 1e-4 over a hundred cells.
    cells = (s.flatten(1)[:, None] == x.flatten(1)).all(2).double().mean(0)
    assert math.isclose(float(cells.sum()), 1.0, abs_tol=1e-9)  # all samples lie in the support
    p = log_p.exp()
    assert torch.all((cells - p).abs() <= 5 * (p * (1 - p) / n).sqrt() + 2 / n)


@pytest.mark.parametrize(("model", "spec"), CASES)
def test_the_condition_changes_the_probabilities(model, spec) -> None:
    if spec.condition_dim == 0:
        pytest.skip("unconditional")
    rough(model, spec)
    x = model._sample(2, condition(spec, 2), Rng.seeded(1, next(model.parameters())))[:1].expand(2, *spec.shape)
    a, b = model._log_prob(x, condition(spec, 2), Rng.seeded(0)).tolist()
    assert a != b


@pytest.mark.parametrize(("model", "spec"), CASES)
def test_objective_is_the_negative_log_prob_and_reaches_every_weight(model, spec) -> None:
    rough(model, spec)
    model.train()
    c = condition(spec, 64)
    x = model._sample(64, c, Rng.seeded(1, next(model.parameters())))
    (objective,) = model._objectives()
    loss = objective.loss(Batch(x, c, torch.arange(64), Rng.seeded(0))).per_record
    torch.testing.assert_close(-loss, model._log_prob(x, c, Rng.seeded(0)))
    loss.mean().backward()
    for name, p in model.named_parameters():
        assert p.grad is not None, name
        assert p.grad.abs().sum() > 0, name


def test_mixture_of_gaussians_agrees_with_the_shared_family() -> None:
    mix, known = Mixture(Gaussian(), 3), MixtureOfGaussians(3)
    logits, mu, raw = torch.randn(3, 5, 3, dtype=torch.float64)
    x = torch.randn(5, dtype=torch.float64)
    ours = torch.cat([logits, torch.stack([mu, raw], -1).flatten(1)], 1)
    theirs = torch.cat([logits, mu, raw], 1)
    torch.testing.assert_close(mix.log_prob(ours, x), known.log_prob(theirs, x), rtol=0, atol=1e-12)
    torch.testing.assert_close(mix.mean(ours), known.mean(theirs), rtol=0, atol=1e-12)
    torch.testing.assert_close(mix.mode(ours), known.mode(theirs), rtol=0, atol=1e-12)


def test_mixture_samples_have_the_mixtures_mean_and_variance() -> None:
    mix = Mixture(Gaussian(), 2)
    params = torch.tensor([[0.0, math.log(3.0), -2.0, 0.0, 2.0, 0.0]], dtype=torch.float64).expand(20_000, -1)
    x = mix.sample(params, Rng.seeded(2, params))
    s = math.exp(mix.family.parts(params[0, 2:4])[1].item())  # the floored scale, near 1
    mean, var = 0.25 * -2 + 0.75 * 2, s**2 + 4 - 1.0
    # 5 standard errors; the fourth central moment of this mixture is below 60.
    assert abs(float(x.mean()) - mean) < 5 * math.sqrt(var / 20_000)
    assert abs(float(x.var()) - var) < 5 * math.sqrt(60 / 20_000)


def test_many_levels_get_few_parameters() -> None:
    model = MADE(hidden=(8,), components=10).build(image(1, 4, 4, support=levels(256)))
    assert model.columns.total == 16 * 30
    model = MADE(hidden=(8,)).build(image(1, 4, 4, support=levels(64)))
    assert model.columns.total == 16 * 64


def test_a_correlated_gaussian_is_fitted_to_its_entropy() -> None:
    """A linear MADE with one component is the set of all Gaussians, by the chain rule, when its scales do not depend on x.

    The largest mean log-likelihood of a Gaussian on its training set is -(1/2) log det(2 pi e S), S the sample covariance: L-BFGS reaches
    it to the square of its gradient, and nothing can pass it. The floor of the scale (0.01) does not bind.
    """
    g = torch.Generator().manual_seed(0)
    mix = torch.tensor([[1.0, 0.8, 0.0], [0.0, 0.6, 0.5], [0.0, 0.0, 0.7]], dtype=torch.float64)
    x = torch.randn(500, 3, generator=g, dtype=torch.float64) @ mix
    model = MADE(hidden=(), components=1, direct=True).build(DataSpec("points", (3,), (REAL,))).double()
    assert model.net.direct is not None
    # Without hidden layers both `out` and `direct` map the inputs; rows 1, 3, 5 are the log scales.
    model.net.out.mask[1::2] = model.net.direct.mask[1::2] = False
    optimiser = torch.optim.LBFGS(model.parameters(), max_iter=500, tolerance_change=1e-15, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = -model._log_prob(x, None, Rng.seeded(0)).mean()
        loss.backward()
        return loss

    optimiser.step(closure)
    best = -0.5 * torch.logdet(2 * math.pi * math.e * torch.cov(x.T, correction=0)).item()
    assert abs(model._log_prob(x, None, Rng.seeded(0)).mean().item() - best) < 1e-6


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (DataSpec("table", (3,), (BINARY,)), ["images", "table", "made"]),
        (image(1, 4, 4, support=UNIT), ["at most 256 levels", "unit", "made"]),
        (image(1, 4, 4, support=levels(1000)), ["at most 256 levels", "levels(1000)", "made"]),
    ],
)
def test_pixelcnn_refuses_what_it_cannot_model_and_names_made(spec, words) -> None:
    with pytest.raises(Unsupported) as error:
        PixelCNN().build(spec)
    assert all(w in str(error.value) for w in words)


@pytest.mark.parametrize("verb", ["encode", "decode", "posterior", "likelihood"])
def test_there_is_no_latent_code(verb) -> None:
    model = MADE(hidden=(4,)).build(DataSpec("points", (2,), (REAL,)))
    with pytest.raises(Unsupported, match="no latent code; use vae .* or realnvp"):
        getattr(model, verb)(torch.zeros(1, 2))


def test_the_same_seed_gives_the_same_images() -> None:
    model = PixelCNN(layers=2, channels=8).build(image(1, 6, 6))
    a, b, more = model.sample(4, seed=7), model.sample(4, seed=7), model.sample(8, seed=8)
    assert torch.equal(a, b)
    assert not torch.equal(a, more[:4])


def test_a_saved_random_order_is_found_again() -> None:
    spec = DataSpec("points", (9,), (BINARY,))
    a = MADE(hidden=(16,), order="random", order_seed=3).build(spec, seed=0)
    b = MADE(hidden=(16,), order="random", order_seed=3).build(spec, seed=99)
    b.load_state_dict(a.state_dict())
    x = torch.randint(0, 2, (5, 9)).float()
    assert torch.equal(a.log_prob(x), b.log_prob(x))
    assert a.net.sequence != list(range(9))
