"""The parts that a GAN is put together from: penalties by weight, clipping, spectral norms, packs, conditions, unrolled critics."""

import copy
import math

import pytest
import torch
from torch import nn

from pushforward.data import load_data
from pushforward.data.spec import DataSpec, levels
from pushforward.errors import ConfigError, DataError
from pushforward.models.adversarial.critic import Critic
from pushforward.models.adversarial.gan import GAN
from pushforward.rng import Rng
from pushforward.train import Batch

POINTS = DataSpec("points", (2,))
W = torch.tensor([2.0, -3.0], dtype=torch.float64)
LIKE = torch.zeros((), dtype=torch.float64)


def batch_of(n: int = 8, condition_dim: int = 0, progress: float = 0.0) -> Batch:
    rng = Rng.seeded(0, LIKE)
    c = torch.eye(condition_dim, dtype=torch.float64)[rng.randint(condition_dim, n)] if condition_dim else None
    return Batch(rng.randn(n, 2), c, torch.arange(n), Rng.seeded(1, LIKE), progress=progress)


def build(spec: DataSpec = POINTS, **hyper) -> GAN:
    plain = {"relativistic": False, "r1": 0.0, "r2": 0.0, "hidden": (16, 16), "critic_hidden": (16, 16), "fourier": 0}
    return GAN(**{**plain, **hyper}).build(spec).double()


def linear(**hyper) -> GAN:
    """A GAN whose critic is T(x) = W.x."""
    model = build(critic_hidden=(), **hyper)
    with torch.no_grad():
        for p in model.critic_net.parameters():
            p.copy_(W[None] if p.ndim == 2 else p * 0)
    return model


def test_weights_of_penalties_on_a_linear_critic():
    # |g| = sqrt 13 everywhere, and with interpolation or noise as well. The root is of |g|^2 + 1e-12: relative error 1e-13.
    over = (math.sqrt(13) - 1) ** 2
    for hyper, known in (
        ({"gradient_penalty": 4.0}, 4 * over),
        ({"gradient_penalty": 4.0, "one_sided": True}, 4 * over),
        ({"dragan": 10.0}, 10 * over),
        ({"r1": 0.4}, 0.2 * 13),
        ({"r2": 0.6}, 0.3 * 13),
    ):
        model = linear(**hyper)
        bare, with_penalty = linear()._critic_loss(batch_of()), model._critic_loss(batch_of())
        added = with_penalty.per_record - bare.per_record
        torch.testing.assert_close(added, torch.full_like(added, known), rtol=1e-11, atol=1e-11)
    small = linear(gradient_penalty=4.0, one_sided=True)
    with torch.no_grad():
        for p in small.critic_net.parameters():
            p.mul_(0.2)  # |g| = 0.72 < 1
    assert float(small._critic_loss(batch_of()).terms["gradient penalty"].abs().max()) == 0


class Bowl(nn.Module):
    """T(y) = |y|^2 / 2, whose slope at y is y."""

    def forward(self, y: torch.Tensor) -> torch.Tensor:
        return y.square().sum(1, keepdim=True) / 2


def test_each_penalty_on_its_side():
    model, batch = build(critic=Bowl(), r1=0.4, r2=0.6), batch_of()
    y = model._fake(batch_of()).detach()
    terms = model._critic_loss(batch).terms
    torch.testing.assert_close(terms["r1"], 0.2 * batch.x.square().sum(1))
    torch.testing.assert_close(terms["r2"], 0.3 * y.square().sum(1))


def test_roths_weight_and_annealing():
    model, batch = linear(roth=0.8, anneal=0.01, annealing="geometric"), batch_of(progress=0.4)
    x, y = batch.x, model._fake(batch_of(progress=0.4)).detach()
    D, D_fake = (x @ W).sigmoid(), (y @ W).sigmoid()
    # Half of the 0.8 that falls to a hundredth by four fifths of the budget: at two fifths a tenth is left.
    known = 0.5 * 0.08 * 13 * ((1 - D).square() + D_fake.square())
    torch.testing.assert_close(model._critic_loss(batch).terms["roth"], known, rtol=1e-12, atol=1e-14)
    for wrong in ({"relativistic": True}, {"loss": "hinge"}):
        with pytest.raises(ConfigError, match="roth needs a T that is the logit of D"):
            build(roth=0.1, **wrong)


def test_penalties_that_the_kind_of_records_decides():
    # 1 -> 0.1 for points, half of it left at half the budget, and 3 -> 0.03 for others over four fifths, a tenth left at two; what is
    # given is taken.
    images = DataSpec("image", (1, 8, 8), (levels(17),))
    for spec, first, at, then, last in ((POINTS, 1.0, 0.5, 0.5, 0.1), (images, 3.0, 0.4, 0.3, 0.03)):
        model = GAN().build(spec)
        assert model._weights(0.0) == (0, first, first, 0)
        assert model._weights(at)[1:3] == pytest.approx((then, then), rel=1e-12)
        assert model._weights(0.9)[1:3] == pytest.approx((last, last), rel=1e-12)
        assert GAN(r1=2.0, r2=0.0, anneal=1.0).build(spec)._weights(0.9) == (0, 2, 0, 0)


def test_wasserstein_takes_one_way_of_being_lipschitz():
    assert build(loss="wasserstein")._weights(0.0)[0] == 10
    assert build(loss="wasserstein", clip_weights=0.01)._weights(0.0)[0] == 0
    assert build(loss="wasserstein", spectral=True)._weights(0.0)[0] == 0
    with pytest.raises(ConfigError, match="Take one of the two"):
        build(clip_weights=0.1, spectral=True)


def test_clipped_weights_stay_in_their_box():
    model = GAN(loss="wasserstein", clip_weights=0.01, hidden=(8,), critic_hidden=(8,))
    model.fit(torch.randn(200, 2, generator=torch.Generator().manual_seed(0)), steps=5, batch_size=32, progress=False, alarms=False)
    assert max(float(p.detach().abs().max()) for p in model.critic_net.parameters()) <= 0.01
    assert max(float(p.detach().abs().max()) for p in model.generator_net.parameters()) > 0.01


def test_spectral_norms():
    model = GAN(spectral=True, r1=0.0, r2=0.0, hidden=(8,), critic_hidden=(32, 32))
    x = torch.randn(200, 2, generator=torch.Generator().manual_seed(0))
    model.fit(x, steps=200, batch_size=32, ema=None, progress=False, alarms=False)
    found = [float(torch.linalg.matrix_norm(m.weight.detach(), 2)) for m in model.critic_net.modules() if isinstance(m, nn.Linear)]
    # Power iteration of one step a pass follows the weights closely but not exactly; the layers themselves have grown away from 1.
    assert found == pytest.approx([1.0] * len(found), abs=0.05)


def test_packs():
    model = build(pack=2, critic_hidden=())
    weight = next(p for p in model.critic_net.parameters() if p.ndim == 2)
    assert weight.shape == (1, 4)
    with torch.no_grad():
        for p in model.critic_net.parameters():
            p.copy_(torch.tensor([[1.0, 2.0, 3.0, 4.0]]) if p.ndim == 2 else p * 0)
    y = torch.tensor([[1.0, 1.0], [10.0, 10.0], [100.0, 100.0], [0.0, 1.0], [5.0, 5.0]], dtype=torch.float64)
    # (1, 1, 10, 10) and (100, 100, 0, 1); the fifth record fills no pack.
    assert model.critic_net(model.critic_net.packed(y)).tolist() == [73.0, 304.0]
    loss = model._critic_loss(batch_of(9))
    assert loss.per_record.shape == (4,)
    assert model._generator_loss(batch_of(9)).per_record.shape == (4,)
    # A penalty is on the slope of a pack: |(1, 2, 3, 4)|^2 = 30.
    r1 = build(pack=2, critic_hidden=(), r1=2.0)
    r1.critic_net.load_state_dict(model.critic_net.state_dict())
    torch.testing.assert_close(r1._critic_loss(batch_of(8)).terms["r1"], torch.full((4,), 30.0, dtype=torch.float64))
    with pytest.raises(DataError, match="A batch of 1 records fills no pack of 2"):
        model._critic_loss(batch_of(1))


def test_packed_images_are_joined_as_channels():
    spec = DataSpec("image", (1, 16, 16), (levels(9),))
    model = GAN(pack=3, channels=4).build(spec)
    y = torch.arange(6.0)[:, None, None, None].expand(6, 1, 16, 16)
    packed = model.critic_net.packed(y)
    assert packed.shape == (2, 3, 16, 16)
    assert packed[1, :, 0, 0].tolist() == [3.0, 4.0, 5.0]
    assert model.critic_net(packed).shape == (2,)


def test_projection():
    critic = build(DataSpec("points", (2,), condition_dim=3), conditioning="projection").critic_net
    y, c = Rng.seeded(0, LIKE).randn(6, 2), torch.eye(3, dtype=torch.float64).repeat(2, 1)
    h = critic.end(critic.net(y))
    known = h @ critic.head.weight[0] + critic.head.bias + torch.einsum("bk,bk->b", critic.embed.weight.T[[0, 1, 2, 0, 1, 2]], h)
    torch.testing.assert_close(critic(y, c), known, rtol=1e-12, atol=1e-14)


def test_auxiliary_classifier():
    model = build(DataSpec("points", (2,), condition_dim=3), conditioning="auxiliary")
    batch = batch_of(8, 3)
    y = model._fake(batch_of(8, 3)).detach()
    assert batch.c is not None
    label = batch.c.argmax(1)
    logits = [model.critic_net(part, batch.c, True)[1] for part in (batch.x, y)]
    known = sum(nn.functional.cross_entropy(each, label, reduction="none") for each in logits)
    assert isinstance(known, torch.Tensor)
    terms = model._critic_loss(batch).terms
    torch.testing.assert_close(terms["class"], known.detach(), rtol=1e-12, atol=1e-14)
    own = model._generator_loss(batch_of(8, 3))
    torch.testing.assert_close(
        own.terms["class"], nn.functional.cross_entropy(logits[1], label, reduction="none").detach(), rtol=1e-12, atol=1e-14
    )
    torch.testing.assert_close(own.per_record.detach(), own.terms["generator"] + own.terms["class"])
    with pytest.raises(ConfigError, match="judges one record at a time"):
        build(DataSpec("points", (2,), condition_dim=3), conditioning="auxiliary", pack=2)


@pytest.mark.parametrize("hyper", [{}, {"relativistic": True, "r1": 0.3, "r2": 0.2}, {"loss": "wasserstein", "gradient_penalty": 1.0}])
def test_unrolled_gradient_equals_finite_differences(hyper):
    # The generator's loss under a critic that torch's own SGD has moved k steps on the same batch, as a function of one weight of the
    # generator: central differences. Their error is h^2/6 times a third derivative (order 1 to 100) plus rounding 1e-16/h: 1e-8 at 1e-5.
    model = build(unroll=3, unroll_lr=0.2, **hyper)
    smooth = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 1)).double()
    model.critic_net = Critic(
        (2,), network="mlp", hidden=(), channels=0, fourier=0, condition_dim=0, conditioning="input", own=smooth
    ).double()
    model.generator_net = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 2)).double()

    def bare() -> float:
        """k steps of SGD on a copy of the critic, then the generator's loss: no derivative is taken of the steps."""
        other = copy.deepcopy(model)
        other.unroll = 0
        optimizer = torch.optim.SGD(other.critic_net.parameters(), lr=0.2)
        batch = batch_of(16, progress=0.1)
        y = other._fake(batch).detach()  # the batch's noise goes on: what is drawn next is the penalty's e
        for _ in range(3):
            optimizer.zero_grad()
            other._judged(other.critic_net, batch, y).per_record.mean().backward()
            optimizer.step()
        return float(other._generator_loss(batch_of(16, progress=0.1)).per_record.mean().detach())

    weight = model.generator_net[0].weight
    loss = model._generator_loss(batch_of(16, progress=0.1)).per_record.mean()
    assert float(loss.detach()) == pytest.approx(bare(), abs=1e-12)
    (g,) = torch.autograd.grad(loss, weight)
    plain = build(**hyper)
    plain.critic_net, plain.generator_net = model.critic_net, model.generator_net
    (g_plain,) = torch.autograd.grad(plain._generator_loss(batch_of(16, progress=0.1)).per_record.mean(), weight)
    assert float((g - g_plain).abs().max()) > 1e-3  # looking ahead changes the gradient
    before = [p.clone() for p in model.critic_net.parameters()]
    with torch.no_grad():
        h, flat = 1e-5, weight.view(-1)
        for k in (0, 5, 9):
            flat[k] += h
            with torch.enable_grad():
                up = bare()
            flat[k] -= 2 * h
            with torch.enable_grad():
                down = bare()
            flat[k] += h
            assert (up - down) / (2 * h) == pytest.approx(float(g.view(-1)[k]), abs=1e-7)
    assert all(torch.equal(a, b) for a, b in zip(before, model.critic_net.parameters()))


def test_truncated_noise():
    model = build(hidden=(), noise_dim=2)
    with torch.no_grad():
        model.generator_net.layers[0].weight.copy_(torch.eye(2))
        model.generator_net.layers[0].bias.zero_()
    z = model.sample(10_000, seed=0, truncation=0.7)
    assert float(z.abs().max()) <= 0.7
    # Var of N(0, 1) within (-t, t) is 1 - 2 t phi(t) / (2 Phi(t) - 1) = 0.1471 at t = 0.7; that of the sample variance of 20,000 numbers,
    # whose fourth moment is below t^4 = 0.24, is below 0.24 / 20000: its sd is below 0.0035, and five of them bound the gap.
    t = torch.tensor(0.7, dtype=torch.float64)
    phi, Phi = math.exp(-0.245) / math.sqrt(2 * math.pi), float(torch.special.ndtr(t))
    assert float(z.var()) == pytest.approx(1 - 1.4 * phi / (2 * Phi - 1), abs=0.0175)
    with pytest.raises(ConfigError, match="needs noise='normal'"):
        build(noise="uniform").sample(3, truncation=0.5)


def test_a_critics_own_optimiser():
    critic, generator = build(critic_lr=1e-4, critic_optimizer="sgd")._objectives()
    assert critic.settings == {"lr": 1e-4, "optimizer": "sgd"}
    assert generator.settings == {}
    assert build()._objectives()[0].settings == {}


@pytest.mark.parametrize("network", ["mlp", "conv", "residual"])
def test_normalisation_and_networks(network):
    spec = DataSpec("image", (1, 16, 20), (levels(17),), condition_dim=3)
    kinds = (nn.BatchNorm1d, nn.BatchNorm2d)

    def count(net: nn.Module) -> int:
        return sum(isinstance(m, kinds) for m in net.modules())

    for norm, generator, critic in (("none", False, False), ("generator", True, False), ("both", True, True)):
        model = GAN(network=network, norm=norm, noise_dim=8, channels=8, r1=0.0, r2=0.0).build(spec)
        assert (count(model.generator_net) > 0, count(model.critic_net) > 0) == (generator, critic)
        model.train()
        rng = Rng.seeded(0, torch.zeros(()))
        x, c = rng.randint(17, 4 * 320).view(4, 1, 16, 20).float(), torch.eye(3)[[0, 1, 2, 0]]
        for objective in model._objectives():
            objective.loss(Batch(x, c, torch.arange(4), rng)).per_record.mean().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
        assert model.eval().sample(3, condition=c[:3], seed=0).shape == (3, 1, 16, 20)


@pytest.mark.parametrize("conditioning", ["input", "auxiliary"])
def test_batch_normalisation_sees_records_and_samples_apart(conditioning):
    # D(real) must not depend on the samples: with both in one pass the statistics are of the mixture, and the generator's step, which
    # shows samples alone, would meet another critic than the one that was trained. Equal operations in another order: 1e-12 in float64.
    model = build(DataSpec("points", (2,), condition_dim=3), norm="both", conditioning=conditioning, r1=1.0, r2=1.0).train()
    batch = batch_of(condition_dim=3)
    near, far = (model._judged(model.critic_net, batch, y).terms["D(real)"] for y in (batch.x.flip(0) - 1, 100 + batch.x))
    torch.testing.assert_close(near, far, rtol=0, atol=1e-12)
    alone = model.critic_net(batch.x, batch.c, True)[0] if conditioning == "auxiliary" else model.critic_net(batch.x, batch.c)
    torch.testing.assert_close(near, alone.sigmoid(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("side", [8, 16])
def test_networks_of_ones_own(side: int):
    spec = DataSpec("image", (1, side, side), (levels(17),))
    generator, critic = nn.Linear(5, side**2), nn.Sequential(nn.Flatten(), nn.Linear(side**2, 1))
    model = GAN(generator=generator, critic=critic, noise_dim=5).build(spec)
    assert model.generator_net is generator
    assert model.sample(2, seed=0).shape == (2, 1, side, side)
    y = torch.randn(3, 1, side, side, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(model.critic_net(y), critic(y)[:, 0])


def test_critics_that_do_not_go_together_say_so():
    image = DataSpec("image", (1, 8, 8), (levels(17),), condition_dim=3)
    with pytest.raises(ConfigError, match="is not known. Choose 'input'"):
        GAN(conditioning="projections").build(image)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ConfigError, match="a critic of your own keeps"):
        GAN(conditioning="projection", critic=nn.Flatten()).build(image)
    x = torch.randn(64, 2, generator=torch.Generator().manual_seed(0)).numpy()
    with pytest.raises(ConfigError, match="tells classes, and 'label' is a number"):
        GAN(conditioning="auxiliary").fit(load_data(x, label=x), steps=1, batch_size=8)
