"""BiGAN and InvertedGAN: known answers of games between pairs and of turned generators, players, records of every kind, refusals."""

import pytest
import torch
from torch.nn.functional import softplus

import pushforward as pf
from pushforward.data.spec import BINARY, REAL, UNIT, DataSpec, categories, levels
from pushforward.errors import ConfigError, DataError, Unsupported
from pushforward.games import LOSSES
from pushforward.models.adversarial import bigan, inverted_gan
from pushforward.models.adversarial.bigan import BiGAN
from pushforward.models.adversarial.gan import GAN
from pushforward.models.adversarial.inverted_gan import InvertedGAN
from pushforward.models.latent.vae import VAE
from pushforward.rng import Rng
from pushforward.train import Batch

POINTS = DataSpec("points", (2,))
MIXED = DataSpec("table", (5,), (REAL, categories(3), BINARY, levels(4), UNIT))
LIKE = torch.zeros((), dtype=torch.float64)
SMALL = {"hidden": (16,), "critic_hidden": (16,), "fourier": 6}
QUIET = {"progress": False, "alarms": False}


@pytest.mark.parametrize("known", [*bigan.known_answers(), *inverted_gan.known_answers()], ids=lambda k: k.name)
def test_known_answers(known):
    assert known.holds, known


def batch_of(spec: DataSpec, n: int, seed: int = 0) -> Batch:
    rng = Rng.seeded(seed, LIKE)
    columns = [rng.randint(s.size, n).double() if s.size else rng.rand(n) if s.name == "unit" else rng.randn(n) for s in spec.columns]
    c = rng.randn(n, spec.condition_dim) if spec.condition_dim else None
    return Batch(torch.stack(columns, 1).reshape(n, *spec.shape), c, torch.arange(n), Rng.seeded(seed + 1, LIKE))


def build(spec: DataSpec = POINTS, **hyper) -> BiGAN:
    return BiGAN(**{**SMALL, **hyper}).build(spec).double()


@pytest.mark.parametrize("relativistic", [False, True])
@pytest.mark.parametrize("loss", LOSSES)
def test_each_player_moves_only_itself(loss, relativistic):
    model = build(loss=loss, relativistic=relativistic)
    for objective in model._objectives():
        ours = {id(p) for p in objective.parameters()}
        for p in model.parameters():
            p.requires_grad_(id(p) in ours)
            p.grad = None
        out = objective.loss(batch_of(POINTS, 8))
        assert out.per_record.shape == (8,)
        out.per_record.mean().backward()
        assert all((p.grad is not None) == (id(p) in ours) for p in model.parameters())
        assert all(not v.requires_grad for v in out.terms.values())


def test_both_kinds_of_pair_move():
    model = build(relativistic=False, r1=0.0, r2=0.0)
    x, y = model._pairs(batch_of(POINTS, 8))
    real, fake = model.critic_net(x), model.critic_net(y)
    ours = model._generator_loss(batch_of(POINTS, 8)).per_record
    assert torch.allclose(ours, softplus(-fake) + softplus(real))  # labels swapped
    minimax = build(loss="minimax", relativistic=False, r1=0.0, r2=0.0)
    theirs = minimax._critic_loss(batch_of(POINTS, 8)).per_record
    assert torch.allclose(minimax._generator_loss(batch_of(POINTS, 8)).per_record, -theirs)  # zero-sum
    # The record's code is its own, and the sample's is the one it was made from.
    f, e = x.split([2, 2], 1)
    assert torch.equal(e, model.code(f, None, None))
    assert torch.equal(y[:, :2], model.generate(y[:, 2:], None))
    assert torch.equal(f, batch_of(POINTS, 8).x)


def test_penalties_are_of_the_pair():
    # T(x, z) = w.(x, z) has the slope w everywhere: 3 / 2 |w|^2 for either kind at the start.
    model = build(critic_hidden=(), fourier=0)
    w = torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.float64)
    with torch.no_grad():
        for p in model.critic_net.parameters():
            p.copy_(w[None] if p.ndim == 2 else p * 0)
    terms = model._critic_loss(batch_of(POINTS, 4)).terms
    for name in ("r1", "r2"):
        assert torch.allclose(terms[name], torch.full((4,), 1.5 * 14.25, dtype=torch.float64))
    wasserstein = build(loss="wasserstein", critic_hidden=(), fourier=0)
    wasserstein.critic_net.load_state_dict(model.critic_net.state_dict())
    gp = wasserstein._critic_loss(batch_of(POINTS, 4)).terms["gradient penalty"]
    assert torch.allclose(gp, torch.full((4,), 10 * (14.25**0.5 - 1) ** 2, dtype=torch.float64))


def test_the_encoder_learns_to_invert():
    # x = A z: no term asks for a reconstruction, and yet the game teaches the encoder to invert the generator, long before the game is won.
    A = torch.tensor([[1.0, 0.6], [-0.4, 0.8]])
    x = torch.randn(4000, 2, generator=torch.Generator().manual_seed(0)) @ A.T
    model = BiGAN(hidden=(), critic_hidden=(32, 32), fourier=0).build(POINTS)
    z = torch.randn(1000, 2, generator=torch.Generator().manual_seed(1))

    def miss() -> float:
        return float((model.encode(model.decode(z)) - z).square().mean())

    # Codes have variance 1: an encoder that says nothing misses by 1.
    assert miss() > 0.3
    model.fit(x, steps=700, batch_size=128, **QUIET)
    assert miss() < 0.05


def test_gaussian_codes():
    model = build(posterior="gaussian", latent_dim=3)
    f = Rng.seeded(0, LIKE).randn(1, 2).expand(20_000, 2)
    drawn, (mu, log_var) = model.code(f, None, Rng.seeded(1, LIKE)), model.encoder(f[:1]).chunk(2, 1)
    sd = (0.5 * log_var).exp()
    # Five standard errors of a mean and of a variance of 20,000 normal numbers.
    assert ((drawn.mean(0) - mu).abs() < 5 * sd / 20_000**0.5).all()
    assert ((drawn.var(0) / sd.square() - 1).abs() < 5 * (2 / 20_000) ** 0.5).all()
    assert torch.equal(model.encode(f[:1]), mu.detach())


def test_records_of_a_mixed_table():
    model = build(MIXED, reconstruction=1.0)
    x, y = model._pairs(batch_of(MIXED, 50))
    features = model._features
    made = y[:, : features.dim].detach()
    assert torch.allclose(features.encode(features.decode(made)), made)  # what the critic sees is what would be sampled
    out = model._generator_loss(batch_of(MIXED, 50))
    again = model.generate(x[:, features.dim :], None)
    assert torch.allclose(out.terms["reconstruction"], (again - x[:, : features.dim]).square().mean(1))
    out.per_record.mean().backward()
    assert all(p.grad.abs().sum() > 0 for net in (model.encoder, model.generator_net) for p in net.parameters())


@pytest.mark.parametrize("network", ["mlp", "conv"])
def test_images(network):
    spec = DataSpec("image", (1, 16, 20), (levels(17),), condition_dim=3)
    model = build(spec, network=network, latent_dim=8, channels=8, fourier=0)
    batch = batch_of(spec, 4)
    for objective in model._objectives():
        objective.loss(batch).per_record.mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    z = model.encode(batch.x, condition=batch.c)
    assert z.shape == (4, 8)
    assert not torch.equal(z, model.encode(batch.x, condition=-batch.c))
    x = model.decode(z, condition=batch.c)
    assert torch.equal(x, x.round())
    # A critic of pairs hears of both halves.
    u = torch.cat([batch.x.flatten(1), z], 1).requires_grad_()
    (g,) = torch.autograd.grad(model.critic_net(u, batch.c).sum(), u)
    assert (g[:, : spec.dim].abs().sum(1) > 0).all()
    assert (g[:, spec.dim :].abs().sum(1) > 0).all()


def test_what_a_bigan_refuses():
    model = build()
    for verb, words in (("log_prob", "evidence()"), ("posterior", "Use encode()"), ("likelihood", "Use decode")):
        with pytest.raises(Unsupported, match=f"BiGAN has no {verb}") as error:
            getattr(model, verb)(torch.zeros(2, 2))
        assert words in str(error.value)
    for wrong, words in (({"posterior": "flow"}, "'gaussian'"), ({"latent_dim": -1}, "at least 1"), ({"reconstruction": -1.0}, "a weight")):
        with pytest.raises(ConfigError, match=words):
            build(**wrong)
    found = pf.evidence(model.float(), torch.randn(30, 2), noise=0.5, temperatures=10, chains=2, n=3, simulated=0, progress=False)
    assert found.noise == 0.5


# -- an encoder for a GAN -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def points() -> pf.Data:
    return pf.load_data(torch.randn(400, 2, generator=torch.Generator().manual_seed(0)) * torch.tensor([2.0, 0.5]))


@pytest.fixture(scope="module")
def fitted(points: pf.Data) -> GAN:
    return GAN(hidden=(16,), critic_hidden=(16,), fourier=128).fit(points, steps=30, batch_size=32, lr=2e-3, **QUIET)


def test_a_fitted_gan_keeps_its_weights(fitted, points, tmp_path):
    before = {k: v.clone() for k, v in fitted.state_dict().items()}
    model = InvertedGAN(gan=fitted, hidden=(32,)).fit(points, steps=150, batch_size=64, **QUIET)
    assert all(torch.equal(v, before[k]) for k, v in model.gan.state_dict().items())
    assert torch.equal(torch.as_tensor(model.sample(5, seed=0)), torch.as_tensor(fitted.sample(5, seed=0)))
    held = points.test.tensor()
    again = model.schema.encode(model.reconstruct(points.test))
    untrained = InvertedGAN(gan=fitted, hidden=(32,)).build(fitted.spec)
    blind = untrained._decode(untrained._encode(held, None), None).detach()
    assert (again - held).square().sum() < 0.5 * (blind - held).square().sum()
    # Two steps more for each record: never further away, and mostly nearer.
    model.refine = 2
    nearer = model.schema.encode(model.reconstruct(points.test))
    errors = [(r - held).square().sum(1) for r in (again, nearer)]
    assert (errors[1] <= errors[0] + 1e-5).all()  # single precision of numbers of order 10
    assert errors[1].mean() < errors[0].mean()
    loaded = pf.load(model.save(tmp_path / "run"))
    assert loaded.fitted is True
    model.refine = 0
    assert torch.equal(pf.load(tmp_path / "run", device="cpu").encode(points.test), loaded.encode(points.test))


def test_gan_and_encoder_together(points):
    model = InvertedGAN(gan=GAN(hidden=(16,), critic_hidden=(16,), noise="uniform"), hidden=(16,))
    assert [o.name for o in model.build(points.spec)._objectives()] == ["critic", "generator", "encoder"]
    model.fit(points, steps=5, batch_size=32, **QUIET)
    assert model.encode(points.test).abs().max() <= 1  # uniform noise
    found = pf.invert(model, points.test, restarts=2, steps=5)
    assert found.z.abs().max() <= 1
    assert set(model.double()._encoder_loss(batch_of(POINTS, 8)).terms) == {"code", "reconstruction"}


def test_what_an_inverted_gan_refuses(fitted, points):
    with pytest.raises(ConfigError, match="gan=vae is no GAN"):
        InvertedGAN(gan=VAE())
    with pytest.raises(ConfigError, match="not both 0"):
        InvertedGAN(code=0.0, reconstruction=0.0)
    with pytest.raises(ConfigError, match="needs a fitted GAN"):
        InvertedGAN(gan=GAN(hidden=(8,), critic_hidden=(8,)), fitted=True).fit(points, steps=2, **QUIET)
    with pytest.raises(DataError, match="another schema"):
        InvertedGAN(gan=fitted).fit(torch.randn(100, 2), steps=2, **QUIET)
    with pytest.raises(DataError, match="Give the data it was fitted to"):
        InvertedGAN(gan=fitted).fit(torch.randn(100, 3), steps=2, **QUIET)
    with pytest.raises(Unsupported, match=r"InvertedGAN\(gan=gan\)\.fit"):
        fitted.encode(points.test)
    with pytest.raises(Unsupported, match="InvertedGAN has no log_prob"):
        InvertedGAN(gan=fitted).build(fitted.spec).log_prob(points.test)
