"""VQ-VAE: the straight-through gradient by hand, the codebook's averages, dead entries, codes and their range, bounds."""

import math

import numpy as np
import pytest
import torch

from pushforward.data import load_data
from pushforward.data.spec import BINARY, DataSpec, categories, levels
from pushforward.errors import ConfigError, DataError, Unsupported
from pushforward.models.latent.codebook import Codebook
from pushforward.models.latent.vqvae import VQVAE, known_answers
from pushforward.objective import Batch, Observer
from pushforward.rng import Rng

SETTINGS = {"batch_size": 32, "progress": False}
SMALL = {"codebook_size": 8, "code_dim": 3, "codes": 2, "hidden": (16,)}
CONV = {"codebook_size": 8, "code_dim": 3, "channels": 8, "blocks": 1, "network": "conv"}


def gaussians(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_known_answers():
    for answer in known_answers():
        assert answer.holds, answer


def test_the_gradient_passes_straight_through():
    """d loss / d z = d(-log p(x | e)) / d e + 2 beta (z - e): the reconstruction's slope taken at the entry, not at z."""
    model = VQVAE(**SMALL, beta=0.7).build(DataSpec("points", (4,))).double()
    x, seen = gaussians(6, 4), {}
    vectors = model.vectors

    def watched(x, c):
        seen["z"] = vectors(x, c)
        seen["z"].retain_grad()
        return seen["z"]

    model.vectors = watched
    model._loss(Batch(x, None, torch.arange(6), Rng.seeded(0, x))).per_record.sum().backward()
    z = seen["z"]
    e = model.codebook.entries[model._indices(z)].clone().requires_grad_()
    (slope,) = torch.autograd.grad(-model.p_x.log_prob(model._params(e, None), x).sum(), e)
    assert torch.allclose(z.grad, slope + 2 * 0.7 * (z - e).detach(), atol=1e-12)  # rounding


def test_nearest_is_nearest():
    book = Codebook(20, 3, 0.9, 0.0).double()
    z = gaussians(50, 3, seed=1)
    assert torch.equal(book.nearest(z), torch.cdist(z, book.entries, compute_mode="donot_use_mm_for_euclid_dist").argmin(1))


def test_dead_entries_move_onto_the_batch():
    book = Codebook(4, 2, 0.5, 0.1).double()
    book.entries.copy_(torch.tensor([[0.0, 0.0], [1.0, 1.0], [50.0, 50.0], [-50.0, 50.0]]))
    z = gaussians(40, 2, seed=2)
    for step in range(4):  # usage of an idle entry halves: 1/4, ..., 1/64 < 0.1 / 4 at the fourth
        was = book.entries.clone()
        book.update(z, book.nearest(z), Rng.seeded(step, z))
        assert torch.equal(book.entries[2:], was[2:]) == (step < 3)
    for entry in book.entries[2:]:
        assert (z == entry).all(1).any()
    assert (book.usage[2:] == 0.25).all()


def test_two_halves_of_a_batch_move_entries_to_where_the_whole_does():
    """Each process gives the vectors that it has; their sum is what one process with the whole batch takes."""
    z, dead = gaussians(20, 3, seed=4), torch.tensor([0, 2, 3])
    found = []
    for rows in (None, slice(0, 5), slice(5, 10)):  # ten records of two vectors each
        book = Codebook(4, 3, 0.9, 0.1).double()
        own = z if rows is None else z[2 * rows.start : 2 * rows.stop]
        book._move(dead, own, Rng(torch.Generator().manual_seed(7), dtype=z.dtype, rows=rows, total=None if rows is None else 10))
        found.append(book.entries[dead])
    assert torch.equal(found[0], found[1] + found[2])
    assert not (found[1] == 0).all()
    assert not (found[2] == 0).all()


def test_dead_entries_stay_when_told_to():
    book = Codebook(3, 2, 0.5, 0.0).double()
    book.entries.copy_(torch.tensor([[0.0, 0.0], [1.0, 1.0], [50.0, 50.0]]))
    z = gaussians(40, 2, seed=2)
    for _ in range(30):
        book.update(z, book.nearest(z), Rng.seeded(0, z))
    assert torch.equal(book.entries[2], torch.tensor([50.0, 50.0], dtype=torch.float64))


def test_perplexity_counts_the_entries_in_use():
    book = Codebook(8, 2, 0.9, 0.0)
    assert float(book.perplexity()) == pytest.approx(8.0, rel=1e-6)
    book.usage.copy_(torch.tensor([0.5, 0.5, 0, 0, 0, 0, 0, 0]))
    assert float(book.perplexity()) == pytest.approx(2.0, rel=1e-6)


def test_shares_of_use_start_as_k_means_counts_them():
    book = Codebook(2, 1, 0.9, 0.0).double()
    z = torch.tensor([0.0] * 30 + [1.0] * 10, dtype=torch.float64)[:, None]
    starts = []
    for seed in range(8):  # from two records of one place both entries stand there
        book.start(z, torch.Generator().manual_seed(seed))
        starts.append(sorted(book.usage.tolist()))
    assert [0.25, 0.75] in starts


def test_only_training_moves_the_codebook():
    model = VQVAE(**SMALL).build(DataSpec("points", (4,)))
    batch = Batch(gaussians(16, 4).float(), None, torch.arange(16), Rng.seeded(0))
    for training, grad in ((True, False), (False, True), (False, False), (True, True)):
        was = model.codebook.entries.clone()
        model.train(training)
        with torch.set_grad_enabled(grad):
            model._loss(batch)
        assert torch.equal(model.codebook.entries, was) == (not (training and grad))


def test_the_bound_takes_each_records_own_codes_and_condition_to_the_prior():
    model = VQVAE(**SMALL).build(DataSpec("points", (4,), condition_dim=2)).double().requires_grad_(False)
    x, c = gaussians(70, 4), torch.eye(2, dtype=torch.float64)[torch.arange(70) % 2]  # more than one chunk
    log_prior = lambda k, c: -k[:, 0] + 0.3 * k[:, 1] * c[:, 1]
    found = model.importance_bound(x, c, Rng.seeded(0, x), 1, log_prior)
    for b in (0, 1, 63, 64, 69):
        x_b, c_b = x[b : b + 1], c[b : b + 1]
        k = model._encode(x_b, c_b)
        expected = model._likelihood(k, c_b).log_prob(x_b) + log_prior(k, c_b)
        assert float(found[b]) == pytest.approx(float(expected), abs=1e-10)


def test_it_starts_at_the_records():
    """Four tight clusters and four entries: k-means finds all of them from any start that has one record of each."""
    book = Codebook(4, 2, 0.9, 0.0).double()
    centres = 10 * torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]], dtype=torch.float64)
    z = centres.repeat(25, 1) + 0.01 * gaussians(100, 2)
    missed = []
    for seed in range(10):
        book.start(z, torch.Generator().manual_seed(seed))
        missed.append(float(torch.cdist(centres, book.entries).min(1).values.max()))
    assert min(missed) < 0.02
    assert book.usage.sum() == pytest.approx(1.0)


@pytest.mark.parametrize(
    "spec",
    [
        DataSpec("image", (1, 9, 7), (BINARY,)),
        DataSpec("image", (2, 8, 12), (levels(5),), condition_dim=3),
    ],
)
def test_grids(spec):
    model = VQVAE(**CONV).build(spec).double()
    x = torch.randint(0, 2, (5, *spec.shape), generator=torch.Generator().manual_seed(0)).double()
    c = torch.eye(3, dtype=x.dtype)[torch.tensor([0, 1, 2, 0, 1])] if spec.condition_dim else None
    h, w = spec.shape[1] // 4, spec.shape[2] // 4
    assert model.code_spec == DataSpec("image", (1, h, w), (categories(8),), spec.condition_dim)
    z = model._encode(x, c)
    assert z.shape == (5, h * w)
    assert model._decode(z, c).shape == x.shape
    loss = model._loss(Batch(x, c, torch.arange(5), Rng.seeded(0, x)))
    assert torch.isfinite(loss.per_record).all()
    # The code of a place stands at that place: the grid row by row.
    assert torch.equal(
        model.vectors(x, c)[:, 1 if w > 1 else 0],
        model.encoder_net(model._features.see(x), c).flatten(2)[:, :, 1 if w > 1 else 0],
    )


def test_what_it_refuses():
    data = load_data(gaussians(60, 3).numpy())
    model = VQVAE(**SMALL).fit(data, steps=3, **SETTINGS)
    with pytest.raises(Unsupported, match=r"VQVAE has no sample: .*LatentPrior\(autoencoder=VQVAE\(\), prior=PixelCNN\(\)\)"):
        model.sample(1)
    with pytest.raises(DataError, match=r"Code 8 at row 1, column 0 is no index: codes are whole numbers 0 to 7"):
        model.decode([[0, 1], [8, 0]])
    with pytest.raises(DataError, match=r"Code 0.5 at row 0, column 1"):
        model.decode([[0, 0.5]])
    with pytest.raises(DataError, match=r"Codes have shape \(1, 3\); this model's are \(n, 2\)"):
        model.decode([[0, 1, 2]])
    for bad, text in (
        ({"codebook_size": 1}, "codebook_size must be at least 2"),
        ({"decay": 1.0}, "decay must be"),
        ({"beta": -1.0}, "beta must not"),
    ):
        with pytest.raises(ConfigError, match=text):
            VQVAE(**bad).build(data.spec)
    with pytest.raises(ConfigError, match=r"downsamplings=4 does not fit images of 9 x 8: give 0 to 3"):
        VQVAE(downsamplings=4, network="conv").build(DataSpec("image", (1, 9, 8), (BINARY,)))


def test_codes_are_whole_and_uniform_bound():
    random = np.random.default_rng(0)
    data = load_data(random.integers(0, 3, (200, 4, 5)).astype(np.uint8), support="levels(3)")
    model = VQVAE(**SMALL).fit(data, steps=30, **SETTINGS)
    z = model.encode(data.test)
    assert ((z >= 0) & (z < 8) & (z == z.round())).all()
    x = data.test.tensor()
    with torch.no_grad():
        given = model.p_x.log_prob(model._at(z.long(), None), x)
    assert torch.allclose(model.log_prob(data.test), given - 2 * math.log(8), atol=1e-4)  # float32 of numbers near 20


class Usage(Observer):
    def __init__(self):
        self.rows = []

    def on_log(self, loop, row):
        self.rows.append(row)


def test_the_alarm_for_a_dead_codebook_rings():
    """Entries started far from the data and never revived stay dead, and the history says so."""
    data = load_data(gaussians(300, 2).numpy().astype(np.float32))

    class Far(VQVAE):
        name = ""

        def _prepare(self, data, seed):
            self.codebook.entries.add_(100.0)
            self.codebook.entries[0] = 0.0

    watch = Usage()
    model = Far(codebook_size=64, code_dim=2, codes=1, hidden=(8,), revive=0.0).fit(data, steps=600, observers=[watch], **SETTINGS)
    assert watch.rows[-1].get("codebook usage", 0) < 0.2 or any("codebook usage" in r for r in watch.rows)
    assert "dead codebook" in [a.kind for a in model.alarms]
    healthy = VQVAE(codebook_size=64, code_dim=2, codes=1, hidden=(8,)).fit(data, steps=600, **SETTINGS)
    assert "dead codebook" not in [a.kind for a in healthy.alarms]
    assert float(healthy.codebook.perplexity()) > 32
