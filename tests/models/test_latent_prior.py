"""LatentPrior: the bound with another prior, both stages' budgets and folders, resuming, and what other autoencoders cannot say."""

import numpy as np
import pytest
import torch

from pushforward.data import load_data
from pushforward.data.spec import BINARY, DataSpec
from pushforward.errors import ConfigError, RunError, Unsupported
from pushforward.models import create, load, resume
from pushforward.models.classical.mixture import GaussianMixture
from pushforward.models.exact.autoregressive import MADE, PixelCNN
from pushforward.models.latent.categorical_vae import CategoricalVAE
from pushforward.models.latent.latent_prior import LatentPrior, known_answers
from pushforward.models.latent.linear import linear_gaussian
from pushforward.models.latent.vae import VAE
from pushforward.models.latent.vqvae import VQVAE
from pushforward.rng import Rng
from pushforward.store import Run

SETTINGS = {"batch_size": 32, "progress": False}


@pytest.fixture(scope="module")
def data():
    random = np.random.default_rng(0)
    label = random.integers(0, 2, 200)
    return load_data((random.integers(0, 3, (200, 4, 5)) + label[:, None, None]).astype(np.uint8), label=label, support="levels(4)")


def small(**kw) -> LatentPrior:
    return LatentPrior(autoencoder=VAE(latent_dim=2, hidden=(16,)), prior=GaussianMixture(components=2), **kw)


def test_known_answers():
    for answer in known_answers():
        assert answer.holds, answer


def test_the_prior_is_fitted_to_draws_of_the_aggregate_posterior(data):
    model = small().fit(data, steps=60, **SETTINGS)
    vae, prior = model.stages
    x = data.train.tensor()
    q = vae._posterior(x, None)
    # Law of total variance: Var z = E sigma^2 + Var mu; the codes were standardised to it (1400 draws: 5 sd of a variance are 0.19 of it).
    total = q.variance.mean(0) + q.mean.var(0, correction=0)
    assert torch.allclose(model.scale**2, total, rtol=0.19)
    u = prior._sample(4000, None, Rng.seeded(0))
    assert (u.mean(0).abs() < 0.2).all()
    assert ((u.std(0) - 1).abs() < 0.2).all()


def test_the_bound_uses_the_new_prior(data):
    model = small().fit(data, steps=150, **SETTINGS)
    vae = model.autoencoder
    x = data.train.tensor()
    new = model._log_prob(x, None, Rng.seeded(0), samples=50).mean()
    old = vae._log_prob(x, None, Rng.seeded(0), samples=50).mean()
    # The aggregate posterior is the best prior for the training ELBO; a mixture fitted to it is close to that.
    assert new > old - 0.02


def test_a_standard_normal_as_second_prior_changes_nothing(data):
    model = small().build(data.schema.spec)
    # A mixture that was never fitted is N(0, I), and the standardisation is the identity.
    x = data.test.tensor()
    a = model._log_prob(x, None, Rng.seeded(0), samples=5)
    assert torch.allclose(a, model.autoencoder._log_prob(x, None, Rng.seeded(0), samples=5), rtol=1e-5)


def test_labels_reach_both_stages(data):
    model = small().fit(data, condition=True, steps=200, lr=1e-2, **SETTINGS)
    assert model.prior.means.shape[0] == 2
    means = [np.mean(model.sample(300, condition=k, seed=0)) for k in (0, 1)]
    assert means[1] - means[0] > 0.3


def test_budgets_are_shared(data, monkeypatch):
    seen = {}
    monkeypatch.setattr(VAE, "carry_on", lambda self, data, training, run=None, observers=(): seen.update(vae=training) or self)
    monkeypatch.setattr(GaussianMixture, "carry_on", lambda self, data, training, run=None, observers=(): seen.update(gmm=training) or self)
    small().fit(data, minutes=10, lr=0.5, **SETTINGS)
    assert (seen["vae"].minutes, seen["gmm"].minutes) == (9.0, pytest.approx(1.0))
    assert (seen["vae"].lr, seen["vae"].schedule) == (0.5, VAE.training.schedule)
    small().fit(data, steps=10, **SETTINGS)
    assert (seen["vae"].steps, seen["gmm"].steps) == (10, 100)
    LatentPrior(autoencoder=VAE(hidden=(8,)), prior=VAE(latent_dim=2, hidden=(8,))).fit(data, epochs=3.0, **SETTINGS)
    assert seen["vae"].epochs == 1.5


def test_a_run_folder_holds_both_stages_and_resumes(data, tmp_path):
    whole = small().fit(data, steps=20, out=tmp_path / "whole", **SETTINGS)
    for name in ("autoencoder", "prior"):
        assert Run.open(tmp_path / "whole" / name).finished
    assert load(tmp_path / "whole" / "prior").means.shape == (1, 2, 2)
    again = load(tmp_path / "whole")
    assert torch.equal(again.log_prob(data.test), whole.log_prob(data.test))
    with pytest.raises(RunError, match="has finished its budget"):
        resume(tmp_path / "whole", data)
    # As if the machine had stopped between the stages, and then within the first.
    for lost in (
        ["model.safetensors", "prior/model.safetensors"],
        ["model.safetensors", "prior/model.safetensors", "autoencoder/model.safetensors"],
    ):
        for file in lost:
            (tmp_path / "whole" / file).unlink()
        back = resume(tmp_path / "whole", data)
        for (name, a), b in zip(whole.state_dict().items(), back.state_dict().values(), strict=True):
            assert torch.equal(a, b), name


def test_defaults_are_a_vae_and_a_mixture():
    model = LatentPrior().build(DataSpec("points", (3,)))
    assert [m.name for m in model.stages] == ["vae", "gmm"]
    assert model.config() == {"autoencoder": None, "prior": None}
    assert model.density == "bound"


def test_what_other_stages_cannot_say_is_refused(data):
    model = LatentPrior(autoencoder=GaussianMixture(components=3), prior=GaussianMixture(components=1)).fit(data, steps=5, **SETTINGS)
    assert model.density == "none"
    assert model.sample(2, seed=0).shape[0] == 2
    with pytest.raises(Unsupported, match=r"gmm defines no p\(x \| z\). Use LatentPrior\(VAE\(\)"):
        model.log_prob(data.test)
    with pytest.raises(Unsupported, match="no likelihood here: its autoencoder, gmm, has none"):
        model.likelihood(torch.zeros(1, 3))
    inexact = LatentPrior(autoencoder=VAE(hidden=(8,)), prior=VAE(hidden=(8,))).build(data.schema.spec)
    with pytest.raises(Unsupported, match="vae has no exact density of codes"):
        inexact.log_prob(data.test)


def test_an_autoencoder_must_encode():
    class Silent(VAE):
        unsupported = {"encode": "it keeps its codes to itself."}
        name = "silent"

    with pytest.raises(ConfigError, match="autoencoder=silent does not encode; LatentPrior needs codes"):
        LatentPrior(autoencoder=Silent()).build(DataSpec("points", (3,)))


def test_samples_come_from_the_second_prior():
    """Codes N(m, I) through x = W z + b: the samples' mean is W m + b."""
    vae, _ = linear_gaussian(4, 2)
    weights = {k: v.clone() for k, v in vae.state_dict().items()}
    model = LatentPrior(autoencoder=vae, prior=GaussianMixture(components=1)).build(DataSpec("points", (4,))).double()
    vae.load_state_dict(weights)
    m = torch.tensor([[20.0, -10.0]], dtype=torch.float64)
    model.shift.copy_(m[0])
    model.scale.copy_(torch.tensor([0.1, 0.1]))
    with torch.no_grad():
        x = model._sample(2000, None, Rng.seeded(0, m))
        # Entries have variance s^2 + 0.01 |w|^2, about 1.1: five standard errors of a mean are 0.12.
        assert torch.allclose(x.mean(0), vae._likelihood(m, None).mean[0], atol=0.12)


# -- discrete codes -------------------------------------------------------------------------------------------------------


def grid_model(**kw) -> LatentPrior:
    autoencoder = VQVAE(codebook_size=4, code_dim=2, channels=8, blocks=0, network="conv", downsamplings=1)
    return LatentPrior(autoencoder=autoencoder, prior=PixelCNN(layers=2, channels=8), **kw)


def test_a_pixelcnn_over_the_grid_of_a_vqvae_has_an_honest_bound(data):
    """All 4^4 grids enumerated: the prior sums to 1, and the bound is log p(x, k(x)), below log p(x)."""
    model = grid_model().fit(data, steps=120, **SETTINGS)
    vqvae, prior = model.stages
    assert (model.density, model.estimator) == ("bound", "log p(x | k) + log P(k) at the encoder's codes k, P the prior")
    every = torch.cartesian_prod(*[torch.arange(4.0)] * 4)
    x = data.test.tensor()
    with torch.no_grad():
        log_prior = prior._log_prob(every.view(-1, 1, 2, 2), None, Rng.seeded(0))
        assert float(log_prior.double().exp().sum()) == pytest.approx(1.0, abs=1e-5)  # float32: 256 terms of relative error 1e-6
        joint = torch.stack([vqvae.p_x.log_prob(vqvae._at(k.long().expand(len(x), 4), None), x) for k in every], 1) + log_prior
    bound, evidence = model.log_prob(data.test), joint.logsumexp(1)
    code = (model.encode(data.test) @ torch.tensor([64.0, 16.0, 4.0, 1.0])).long()
    assert torch.allclose(bound, joint.gather(1, code[:, None])[:, 0], rtol=1e-4)
    assert (bound <= evidence + 1e-4).all()
    # The learned prior is better than the uniform one of training.
    assert bound.mean() > vqvae.log_prob(data.test).mean()


def test_samples_follow_the_prior_of_codes(data):
    model = grid_model().fit(data, steps=60, **SETTINGS)
    drawn = model._draw_prior(4000, None, Rng.seeded(0)).long()
    every = torch.cartesian_prod(*[torch.arange(4.0)] * 4)
    p = model.stages[1]._log_prob(every.view(-1, 1, 2, 2), None, Rng.seeded(0)).detach().exp()
    seen = torch.bincount((drawn @ torch.tensor([64, 16, 4, 1])), minlength=256) / 4000
    # Total variation of n draws is about sum sqrt(p / (2 pi n)) in the mean, at most sqrt(256 / (2 pi 4000)) = 0.1.
    assert 0.5 * float((seen - p).abs().sum()) < 0.13
    assert model.sample(3, seed=0).shape == (3, 4, 5)


def test_discrete_codes_reach_the_prior_as_they_are(data):
    model = grid_model().fit(data, steps=4, **SETTINGS)
    codes = model._codes(data, 0)
    assert (model.shift == 0).all()
    assert (model.scale == 1).all()
    assert len(codes.train) == len(data.train)  # a deterministic encoder is asked once
    assert torch.equal(codes.test.tensor().flatten(1), model.encode(data.test))


def test_defaults_follow_the_codes():
    image = DataSpec("image", (1, 16, 16), (BINARY,))
    assert LatentPrior(autoencoder=VQVAE(channels=8)).build(image).stages[1].name == "pixelcnn"
    assert LatentPrior(autoencoder=VQVAE(hidden=(8,))).build(DataSpec("points", (3,))).stages[1].name == "made"
    assert LatentPrior(autoencoder=CategoricalVAE(hidden=(8,))).build(DataSpec("points", (3,))).stages[1].name == "made"
    with pytest.raises(Unsupported, match="KernelDensity is for real numbers"):
        LatentPrior(autoencoder=VQVAE(hidden=(8,)), prior=create("kde")).build(DataSpec("points", (3,)))


def test_discrete_codes_with_labels_in_two_stages_resume(data, tmp_path):
    model = LatentPrior(autoencoder=VQVAE(codebook_size=4, code_dim=2, codes=2, hidden=(8,)), prior=MADE(hidden=(8,)))
    whole = model.fit(data, condition=True, steps=300, lr=1e-2, out=tmp_path / "run", **SETTINGS)
    drawn = [np.mean(whole.sample(300, condition=k, seed=0)) for k in (0, 1)]
    assert drawn[1] - drawn[0] > 0.3
    for lost in (["model.safetensors", "prior/model.safetensors"], ["model.safetensors", "autoencoder/model.safetensors"]):
        for file in lost:
            (tmp_path / "run" / file).unlink()
        back = resume(tmp_path / "run", data)
        for (name, a), b in zip(whole.state_dict().items(), back.state_dict().values(), strict=True):
            assert torch.equal(a, b), name


def test_a_prior_over_categorical_codes_beats_the_uniform_one(data):
    model = LatentPrior(autoencoder=CategoricalVAE(variables=3, values=3, hidden=(16,)), prior=MADE(hidden=(16,)))
    model.fit(data, steps=600, lr=3e-3, **SETTINGS)
    old = model.autoencoder.log_prob(data.train).mean()
    # Both decode alike; the aggregate posterior is the better prior of the bound, which here is near the evidence.
    assert model.log_prob(data.train, samples=200).mean() > old - 0.05
    with pytest.raises(Unsupported, match="chains of real codes cannot walk over those of categorical_vae"):
        model._joint()


def test_any_posterior_gives_its_draws_and_not_its_mean(data):
    model = LatentPrior(autoencoder=VAE(latent_dim=2, hidden=(16,), posterior="full"), prior=GaussianMixture(components=1)).build(data.spec)
    z = model._draw(data.train, 20, 0).view(20, -1, 2)
    q = model.stages[0]._posterior(data.train.tensor(), None)
    # 20 draws for each of 160 records: their covariance about the mean has a relative error of sqrt(2 / 3040), 0.026.
    seen = (z - q.mean).square().mean((0, 1))
    assert torch.allclose(seen, q.variance.mean(0), rtol=0.13)


def test_the_explorer_knows_symbols(data):
    from pushforward.explore.lens import Lens

    model = grid_model().fit(data, steps=4, **SETTINGS)
    assert model.code_spec is not None
    with pytest.raises(Unsupported, match="nothing between two symbols"):
        Lens(model, data, n=30).encode(data.test)


def test_the_command_line_takes_both_stages(tmp_path):
    from click.testing import CliRunner

    from pushforward.cli import app

    np.save(tmp_path / "x.npy", np.random.default_rng(0).integers(0, 2, (80, 8, 8)).astype(np.uint8))
    prior, autoencoder = "pixelcnn:layers=2:channels=8", "vqvae:codebook_size=4:channels=8:network=conv"
    arguments = ["fit", "latent_prior", "--data", str(tmp_path / "x.npy"), "--support", "binary", "--autoencoder", autoencoder]
    arguments += ["--prior", prior, "--steps", "4", "--batch-size", "16", "--out", str(tmp_path / "run")]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    model = load(tmp_path / "run")
    assert [m.name for m in model.stages] == ["vqvae", "pixelcnn"]
    assert model.sample(2, seed=0).shape == (2, 8, 8)
