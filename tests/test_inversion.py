"""Search for codes: linear and curved generators whose nearest points are known, every kind of model, and what it refuses."""

import pytest
import torch

import pushforward as pf
from pushforward.data.spec import REAL, UNIT, DataSpec, categories
from pushforward.errors import ConfigError, DataError, Unsupported
from pushforward.inversion import known_answers, search
from pushforward.models.adversarial.gan import GAN
from pushforward.models.classical.kde import KernelDensity
from pushforward.models.latent.autoencoder import Autoencoder
from pushforward.models.latent.latent_prior import _noise
from pushforward.models.latent.linear import linear_gaussian
from pushforward.models.latent.vae import VAE
from pushforward.rng import Rng

LIKE = torch.zeros((), dtype=torch.float64)


@pytest.mark.parametrize("known", list(known_answers()), ids=lambda k: k.name)
def test_known_answers(known):
    assert known.holds, known


def linear_gan(features: int = 5, d: int = 2, **hyper) -> GAN:
    return GAN(noise_dim=d, hidden=(), critic_hidden=(), fourier=0, **hyper).build(DataSpec("points", (features,))).double()


def parts(gan: GAN) -> tuple[torch.Tensor, torch.Tensor]:
    weight, bias = (p.detach() for p in gan.generator_net.parameters())
    return weight, bias


@pytest.mark.parametrize(("method", "steps", "close"), [("damped", 20, 1e-6), ("adam", 400, 1e-2)])
def test_a_linear_gan_is_least_squares(method, steps, close):
    # Damped: L of order 10 is flat to rounding within 1e-7 / the least stretch of A, here above 0.1. Adam's step falls to 0 and stays below
    # 1e-3 over the last 25 of 400 steps; 1e-2 is ten of those.
    gan = linear_gan()
    A, b = parts(gan)
    assert torch.linalg.svdvals(A)[-1] > 0.1
    x = 2 * Rng.seeded(3, LIKE).randn(6, 5)
    found = pf.invert(gan, x, method=method, steps=steps, restarts=2)
    known = (x - b) @ torch.linalg.pinv(A).T
    assert torch.allclose(found.z, known, atol=close, rtol=0)
    off = (x - gan._decode(known, None)).square().sum(1).detach()
    assert torch.allclose(found.error, off, atol=close**2 * 10, rtol=1e-12)
    assert found.errors.shape == (6, 2)
    inside = gan.decode(known)
    again = pf.invert(gan, inside, method=method, steps=steps, restarts=1)
    assert torch.allclose(again.z, known, atol=close, rtol=0)
    assert again.error.max() < close**2 * 10


def test_the_mean_of_a_vae_gives_the_most_probable_code():
    # x = W z + b + s e: argmin |Wz + b - x|^2 + s^2 |z|^2 is the mean of the Gaussian posterior, which is its mode.
    vae, posterior = linear_gaussian(5, 2)
    vae.requires_grad_(False)
    x = 2 * Rng.seeded(0, LIKE).randn(4, 5)
    _, mean, _ = posterior(x)
    s = _noise(vae)
    found = pf.invert(vae, x, prior=s**2, restarts=1)
    assert torch.allclose(found.z, mean, atol=1e-6, rtol=0)  # flat to rounding, as above


def test_restarts_keep_the_best():
    # G(z) = (2 sin 3z, z / 4) winds: from most starts the search ends in another valley than the one that the record came from.
    winding = lambda z, c: torch.cat([2 * (3 * z).sin(), z / 4], 1)
    rng = Rng.seeded(0, LIKE)
    z = rng.randn(40, 1)
    found, error, value = search(winding, winding(z, None), None, rng.randn(40, 12, 1), steps=40)
    assert torch.equal(error, value)  # no prior
    solved = error < 1e-12
    assert 0.05 < solved.double().mean() < 0.9
    assert solved.any(1).double().mean() > 0.9
    best = found.gather(1, error.argmin(1)[:, None, None])[:, 0]
    assert ((best - z).abs()[:, 0] < 1e-6)[solved.any(1)].all()
    # A search never ends higher than it began, whatever the damping makes of it.
    starts = rng.randn(40, 12, 1)
    for method, steps in (("damped", 1), ("adam", 1)):
        _, after, _ = search(winding, winding(z, None), None, starts, steps=steps, method=method)
        before = (winding(starts.flatten(0, 1), None) - winding(z, None).repeat_interleave(12, 0)).square().sum(1).view(40, 12)
        assert (after <= before + 1e-15).all()


def test_a_record_is_searched_for_alone():
    gan = GAN(noise_dim=3, hidden=(16,), critic_hidden=(8,)).build(DataSpec("points", (4,))).double()
    x, start = Rng.seeded(0, LIKE).randn(30, 4), Rng.seeded(1, LIKE).randn(30, 3)
    every = pf.invert(gan, x, start=start, restarts=1, steps=8)
    alone = pf.invert(gan, x[17:18], start=start[17:18], restarts=1, steps=8)
    # Sums of other sizes round otherwise: 1e-16, and eight steps of a search multiply that by its condition number.
    assert torch.allclose(every.z[17:18], alone.z, atol=1e-9)
    a, b = pf.invert(gan, x, seed=4, steps=3), pf.invert(gan, x, seed=4, steps=3)
    assert torch.equal(a.z, b.z)
    assert not torch.equal(a.z, pf.invert(gan, x, seed=5, steps=3).z)
    assert torch.equal(a.error, a.errors.min(1).values)
    assert torch.equal(a.error, a.errors.gather(1, a.start[:, None])[:, 0])
    decoded = torch.as_tensor(gan.decode(a.z))
    assert torch.allclose((decoded - x).square().sum(1), a.error)


def test_uniform_codes_stay_inside():
    gan = linear_gan(noise="uniform")
    z = 1.8 * Rng.seeded(0, LIKE).rand(9, 2) - 0.9
    found = pf.invert(gan, gan.decode(z), steps=40)
    assert torch.allclose(found.z, z, atol=1e-6)
    far = pf.invert(gan, 100 * torch.ones(3, 5, dtype=torch.float64), steps=40)
    assert far.z.abs().max() <= 1
    assert far.z.abs().max() > 0.9


def test_conditions_and_starts():
    spec = DataSpec("points", (3,), condition_dim=2)
    gan = GAN(noise_dim=2, hidden=(8,), critic_hidden=(8,)).build(spec).double()
    rng = Rng.seeded(0, LIKE)
    z, c = rng.randn(6, 2), rng.randn(6, 2)
    x = gan.decode(z, condition=c)
    found = pf.invert(gan, x, condition=c, start=z + 0.01, restarts=1)
    assert torch.allclose(found.z, z, atol=1e-6)
    other = pf.invert(gan, x, condition=-c, start=z, restarts=3)
    assert other.error.min() > 1e-6  # the range is another one
    with pytest.raises(DataError, match=r"need codes of shape \(6, d\)"):
        pf.invert(gan, x, condition=c, start=z[:3])
    with pytest.raises(ConfigError, match="Give codes"):
        pf.invert(gan, x, condition=c, start="encode")


def test_an_encoder_gives_the_first_start():
    vae = VAE(latent_dim=2, hidden=(8,)).build(DataSpec("points", (3,))).double()
    x = Rng.seeded(0, LIKE).randn(5, 3)
    first = pf.invert(vae, x, restarts=1, steps=1, method="adam", lr=1e-9)
    assert torch.allclose(first.z, vae.encode(x), atol=1e-8)
    drawn = pf.invert(vae, x, restarts=1, steps=1, method="adam", lr=1e-9, start="prior")
    assert not torch.allclose(drawn.z, vae.encode(x), atol=1e-2)
    autoencoder = Autoencoder(latent_dim=2, hidden=(8,)).build(DataSpec("points", (3,))).double()
    again = pf.invert(autoencoder, x, restarts=1)
    before = (torch.as_tensor(autoencoder.reconstruct(x)) - x).square().sum(1)
    assert (again.error <= before + 1e-12).all()
    with pytest.raises(ConfigError, match=r"no prior to draw 3 starts from\. Give restarts=1"):
        pf.invert(autoencoder, x)


def test_what_it_refuses():
    gan, x = linear_gan(), torch.zeros(2, 5)
    for wrong, words in (
        ({"restarts": 0}, "at least 1"),
        ({"method": "newton"}, "'damped' or 'adam'"),
        ({"lr": 0.0}, "lr must be above 0"),
        ({"prior": -1.0}, "prior is a variance"),
    ):
        with pytest.raises(ConfigError, match=words):
            pf.invert(gan, x, **wrong)
    with pytest.raises(Unsupported, match="KernelDensity has no map from codes to records"):
        pf.invert(KernelDensity().fit(torch.randn(50, 2)), x[:, :2])
    table = VAE(latent_dim=2, hidden=(8,)).build(DataSpec("table", (2,), (REAL, categories(3))))
    with pytest.raises(Unsupported, match="categories, of which no mean exists"):
        pf.invert(table, x[:, :2])
    # A GAN of categories has features, whose corners are searched for all the same.
    mixed = GAN(noise_dim=2, hidden=(8,), critic_hidden=(8,)).build(DataSpec("table", (3,), (REAL, categories(3), UNIT))).double()
    z = Rng.seeded(0, LIKE).randn(4, 2)
    found = pf.invert(mixed, mixed.decode(z), steps=5)
    assert found.error.isfinite().all()
