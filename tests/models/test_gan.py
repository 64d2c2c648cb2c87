"""GAN: the game's known values, penalties against their definitions, mixed records, conditions, and the verbs it refuses."""

import copy
import math

import pytest
import torch
from torch.nn.functional import softplus

from pushforward.data.features import Features
from pushforward.data.spec import BINARY, REAL, UNIT, DataSpec, categories, levels
from pushforward.errors import Unsupported
from pushforward.games import LOSSES
from pushforward.models.adversarial.gan import GAN, known_answers
from pushforward.nn import MLP
from pushforward.rng import Rng
from pushforward.train import Batch

POINTS = DataSpec("points", (2,))
MIXED = DataSpec("table", (5,), (REAL, categories(3), BINARY, levels(4), UNIT))
GAMES = [(loss, pairing) for loss in LOSSES for pairing in (False, True)]


def batch_of(spec: DataSpec, n: int, seed: int = 0, progress: float = 0.0) -> Batch:
    """Records of every value that the spec allows."""
    like = torch.zeros((), dtype=torch.float64)
    rng = Rng.seeded(seed, like)
    columns = [rng.randint(s.size, n).double() if s.size else rng.rand(n) if s.name == "unit" else rng.randn(n) for s in spec.columns]
    c = rng.randn(n, spec.condition_dim) if spec.condition_dim else None
    return Batch(torch.stack(columns, 1).reshape(n, *spec.shape), c, torch.arange(n), Rng.seeded(seed + 1, like), progress=progress)


def build(spec: DataSpec = POINTS, **hyper) -> GAN:
    return GAN(**{"hidden": (16, 16), "critic_hidden": (16, 16), "fourier": 6, **hyper}).build(spec).double()


def play(model: GAN, x: torch.Tensor, c: torch.Tensor | None, rounds: int, batch: int, lr: float = 2e-3) -> GAN:
    """A bare two-player loop, with gradients asked only of the player whose turn it is."""
    rng = Rng.seeded(0, x)
    players = [(o, [p for m in o.modules for p in m.parameters()]) for o in model._objectives()]
    optimizers = [torch.optim.Adam(p, lr, betas=GAN.training.betas) for _, p in players]
    for step in range(rounds):
        for (objective, ours), optimizer in zip(players, optimizers):
            for p in model.parameters():
                p.requires_grad_(any(p is q for q in ours))
            for _ in range(objective.steps):
                i = rng.randint(len(x), batch)
                loss = objective.loss(Batch(x[i], None if c is None else c[i], i, rng, step, step / rounds)).per_record.mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    return model


@pytest.mark.parametrize("known", list(known_answers()), ids=lambda k: k.name)
def test_known_answers(known):
    assert known.holds, known


def _linear(model: GAN, w: torch.Tensor) -> GAN:
    with torch.no_grad():
        for p in model.critic_net.parameters():
            p.copy_(w[None] if p.ndim == 2 else p * 0)
    return model


def test_penalties_of_a_linear_critic():
    # T(x) = w.x has gradient w everywhere: |w|^2 = 13, so the penalties are 10 (sqrt 13 - 1)^2, r1/2 13 and r2/2 13, whatever the records.
    w = torch.tensor([2.0, -3.0], dtype=torch.float64)
    hyper = {"critic_hidden": (), "fourier": 0, "anneal": 1.0}
    wasserstein = _linear(build(loss="wasserstein", **hyper), w)._critic_loss(batch_of(POINTS, 8)).terms["gradient penalty"]
    # The root is taken of |w|^2 + 1e-12: relative error 1e-13, well within 1e-10.
    assert torch.allclose(wasserstein, torch.full((8,), 10 * (math.sqrt(13) - 1) ** 2, dtype=torch.float64), rtol=1e-10)
    terms = _linear(build(r1=0.4, r2=0.2, **hyper), w)._critic_loss(batch_of(POINTS, 8)).terms
    assert torch.allclose(terms["r1"], torch.full((8,), 2.6, dtype=torch.float64))
    assert torch.allclose(terms["r2"], torch.full((8,), 1.3, dtype=torch.float64))


@pytest.mark.parametrize("hyper", [{"loss": "wasserstein"}, {"r1": 1.0, "r2": 0.5}])
def test_critic_gradient_equals_finite_differences(hyper):
    # Double backward through the penalty, against central differences in one weight. The error of the difference is h^2/6 times the third
    # derivative (order 1 to 100 here) plus rounding 1e-16/h: about 1e-8 at h = 1e-5.
    model = build(**hyper)
    model.critic_net.net = MLP(
        model.critic_net.waves.dim, 1, (16, 16), activation="tanh"
    ).double()  # with kinks the penalty itself would jump
    weight = next(iter(model.critic_net.parameters()))

    def value() -> torch.Tensor:
        return model._critic_loss(batch_of(POINTS, 32, progress=0.3)).per_record.mean()

    (g,) = torch.autograd.grad(value(), weight)
    with torch.no_grad():
        h, flat = 1e-5, weight.view(-1)
        for k in (0, 3, 7):
            flat[k] += h
            with torch.enable_grad():
                up = value().item()
            flat[k] -= 2 * h
            with torch.enable_grad():
                down = value().item()
            flat[k] += h
            assert abs((up - down) / (2 * h) - g.view(-1)[k].item()) < 1e-7


@pytest.mark.parametrize(("loss", "relativistic"), GAMES)
def test_each_player_moves_only_itself(loss, relativistic):
    model = build(loss=loss, relativistic=relativistic)
    for objective in model._objectives():
        ours = {id(p) for m in objective.modules for p in m.parameters()}
        for p in model.parameters():
            p.requires_grad_(id(p) in ours)
            p.grad = None
        out = objective.loss(batch_of(POINTS, 8))
        assert out.per_record.shape == (8,)
        out.per_record.mean().backward()
        # The last bias cancels in f - r, so it alone has no slope in the pairing and Wasserstein critics.
        assert all(p.grad is not None for p in model.parameters() if id(p) in ours)
        assert all(p.grad is None for p in model.parameters() if id(p) not in ours)
        assert all(not v.requires_grad for v in out.terms.values())


def test_zero_centred_penalties_anneal():
    # 0.01 of the weight remains from four fifths of the budget on; halfway there it is sqrt(0.01) = 0.1.
    model = build(r1=2.0, r2=1.0, anneal=0.01, annealing="geometric")
    assert model._weights(0.0) == (0.0, 2.0, 1.0, 0.0)
    assert model._weights(0.4)[1:3] == pytest.approx((0.2, 0.1))
    assert model._weights(0.9)[1:3] == pytest.approx((0.02, 0.01))
    # Half a cosine: (1 + cos(pi / 3)) / 2 = 3/4 after a third, 1/4 after two, and at the end what `anneal` says.
    model = build(r1=2.0, r2=1.0, anneal=0.01, annealing="cosine")
    for progress, remains in ((0.0, 1.0), (1 / 3, 0.75), (2 / 3, 0.25), (1.0, 0.01)):
        assert model._weights(progress)[1:3] == pytest.approx((2 * remains, remains), rel=1e-12)
    assert build(loss="wasserstein")._weights(0.0) == (10.0, 0.0, 0.0, 0.0)


def test_critic_steps():
    assert [(o.name, o.steps, o.validate) for o in GAN(critic_steps=5).build(POINTS)._objectives()] == [
        ("critic", 5, False),
        ("generator", 1, False),
    ]


def test_reused_samples_make_the_usual_loop():
    """Three rounds of gradient descent beside the loop by hand, of the same z: the same weights but for rounding."""
    hyper = {"relativistic": False, "r1": 0.0, "r2": 0.0}
    model, own = build(**hyper, reuse=True), build(**hyper)
    critic, generator = model._objectives()
    assert critic.fresh
    assert not generator.fresh
    for step in range(3):
        batch = batch_of(POINTS, 8, seed=step)
        for objective in (critic, generator):
            other = generator if objective is critic else critic
            other.modules[0].requires_grad_(False)
            objective.modules[0].requires_grad_(True)
            descend(objective.loss(batch).per_record.mean(), objective.modules[0])
        fake = own.generate(own.noise_like(8, batch_of(POINTS, 8, seed=step).rng), None)
        real, told = own.critic_net(batch.x, None), own.critic_net(fake.detach(), None)
        descend((softplus(-real) + softplus(told)).mean(), own.critic_net)
        descend(softplus(-own.critic_net(fake, None)).mean(), own.generator_net)
    for ours, theirs in zip(model.parameters(), own.parameters()):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    copy.deepcopy(model)  # no graph is held between rounds


def descend(loss: torch.Tensor, net: torch.nn.Module) -> None:
    parameters = list(net.parameters())
    with torch.no_grad():
        for p, g in zip(parameters, torch.autograd.grad(loss, parameters)):
            p -= 0.5 * g


def test_records_of_a_mixed_table():
    model = build(MIXED)
    x = model._sample(200, None, Rng.seeded(0, torch.zeros((), dtype=torch.float64)))
    for column, support in enumerate(MIXED.columns):
        if support.size:
            assert set(x[:, column].tolist()) <= set(range(support.size))
    assert (x[:, 4] >= 0).all()
    assert (x[:, 4] <= 1).all()
    y = model._fake(batch_of(MIXED, 50))
    # What the critic sees is what would be sampled, and a gradient still reaches every output of the generator.
    features = Features(MIXED)
    assert torch.allclose(features.encode(features.decode(y.detach())), y.detach())
    weight = list(model.generator_net.parameters())[-1]
    (g,) = torch.autograd.grad(y.sin().sum(), weight)
    assert (g != 0).all()
    soft = build(MIXED, rounding="soft")._fake(batch_of(MIXED, 50)).detach()
    assert not torch.allclose(features.encode(features.decode(soft)), soft)
    assert torch.allclose(soft[:, 1:4].sum(1), torch.full((50,), -1.0, dtype=torch.float64))  # 2 p - 1 over three categories


@pytest.mark.parametrize("network", ["mlp", "conv"])
def test_images(network):
    spec = DataSpec("image", (1, 16, 20), (levels(17),), condition_dim=3)
    model = build(spec, network=network, noise_dim=8)
    batch = batch_of(spec, 4)
    for objective in model._objectives():
        objective.loss(batch).per_record.mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    x = model.sample(3, condition=batch.c[:3], seed=0)
    assert x.shape == (3, 1, 16, 20)
    assert torch.equal(x, x.round())
    assert 0 <= x.min() <= x.max() <= 16


def test_uniform_noise():
    z = build(noise="uniform", noise_dim=5).noise_like(4000, Rng.seeded(0, torch.zeros((), dtype=torch.float64)))
    assert z.shape == (4000, 5)
    assert z.abs().max() <= 1
    # Var = 1/3; the sample variance of 20,000 uniforms has sd sqrt((1/5 - 1/9) / 20000) = 0.0021: five of them.
    assert z.var().item() == pytest.approx(1 / 3, abs=0.0105)


def test_learns_a_shifted_gaussian_and_its_condition():
    # x = c + 0.5 eps with c in {-2, 2} as one condition; means of 2,000 samples. An unconditional generator would miss by 2.
    like = torch.zeros((), dtype=torch.float64)
    rng = Rng.seeded(0, like)
    c = 4.0 * rng.randint(2, 4000)[:, None].double() - 2
    x = c + 0.5 * rng.randn(4000, 1)
    model = play(build(DataSpec("points", (1,), condition_dim=1), hidden=(32,), critic_hidden=(32,)), x, c, 800, 64)
    for side in (-2.0, 2.0):
        y = model.sample(2000, condition=torch.tensor([side]), seed=0)
        assert y.mean().item() == pytest.approx(side, abs=0.25)  # half a standard deviation of the data
        assert 0.25 < y.std().item() < 1.0


def test_refuses_what_it_has_not():
    model = build()
    for verb, remedy in (("log_prob", "compare samples with evaluate()"), ("encode", "fit a vae"), ("posterior", "fit a vae")):
        with pytest.raises(Unsupported, match=f"(?i){remedy[:12]}") as error:
            getattr(model, verb)(torch.zeros(2, 2))
        assert f"GAN has no {verb}" in str(error.value)
        assert not GAN.supports(verb)
    with pytest.raises(Unsupported, match="fit a vae"):
        model.likelihood(torch.zeros(2, 2))
    with pytest.raises(Unsupported, match="as levels, or as a table"):
        GAN().build(DataSpec("image", (1, 8, 8), (categories(5),)))
    assert GAN.supports("sample")
    assert GAN.supports("decode")
    assert model.density == "none"


def test_same_seed_same_records():
    model = build()
    assert torch.equal(model.sample(700, seed=3), model.sample(700, seed=3))
    assert not torch.equal(model.sample(700, seed=3), model.sample(700, seed=4))
    z = torch.randn(5, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert torch.equal(model.decode(z), model.decode(z))
