"""Records: stored once, split by a seed, batched by index, binarised as told."""

import tracemalloc

import numpy as np
import pytest
import torch

from pushforward.data import Records, load_data, reload
from pushforward.errors import DataError
from pushforward.rng import Rng

RANDOM = np.random.default_rng(0)


def test_splits_are_slices_of_one_copy():
    images = RANDOM.integers(0, 256, (500, 8, 8), dtype=np.uint8)
    data = load_data(images)
    assert data.train.x.dtype == torch.uint8
    assert data.counts() == {"train": 400, "validation": 50, "test": 50}
    base = data.train.x.untyped_storage().data_ptr()
    assert data.validation.x.untyped_storage().data_ptr() == base
    assert data.test.x.untyped_storage().data_ptr() == base
    assert data.train.x.untyped_storage().nbytes() == images.nbytes
    assert sorted(data.order.tolist()) == list(range(500))


def test_loading_adds_one_copy_and_no_more():
    wide = RANDOM.normal(size=(40_000, 50))
    wide.flags.writeable = False
    tracemalloc.start()
    data = load_data(wide)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # NumPy's memory is traced, torch's is not: what is traced must stay far below the 16 MB of the array. The copy is half of it: float32.
    assert peak < 2e6
    assert data.train.x.untyped_storage().nbytes() == wide.nbytes // 2


def test_float64_is_kept_when_it_is_the_default():
    torch.set_default_dtype(torch.float64)
    try:
        data = load_data(RANDOM.normal(size=(20, 2)))
        assert data.train.x.dtype == torch.float64
        assert data.schema.encode(np.zeros((1, 2))).dtype == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


def test_same_seed_same_split():
    u = RANDOM.normal(size=(50, 2))
    a, b, c = load_data(u, seed=1), load_data(u, seed=1), load_data(u, seed=2)
    assert torch.equal(a.train.x, b.train.x)
    assert not torch.equal(a.order, c.order)
    assert load_data(u, validation=0, test=7).counts() == {"train": 43, "validation": 0, "test": 7}
    assert load_data(u[:3], validation=0, test=0).counts() == {"train": 3, "validation": 0, "test": 0}


def test_batch_is_the_rows_asked_for():
    u = RANDOM.normal(size=(50, 2))
    data = load_data(u, label=np.arange(50) % 3)
    index = torch.tensor([4, 0, 4])
    x, c = data.train.batch(index, Rng.seeded(0))
    assert torch.equal(x, data.train.x[index])
    assert torch.equal(c, data.train.vectors()[index])
    x, c = data.train.batch(index, Rng.seeded(0, torch.zeros((), dtype=torch.float64)))
    assert x.dtype == c.dtype == torch.float64
    vectors = load_data(u, label=u).train.batch(index, Rng.seeded(0))[1]
    assert vectors.shape == (3, 2)
    assert vectors.dtype == torch.float32


def test_subset_is_a_view_for_slices():
    data = load_data(RANDOM.normal(size=(50, 2)), label=np.arange(50) % 3)
    head = data.train[:5]
    assert isinstance(head, Records)
    assert head.x.data_ptr() == data.train.x.data_ptr()
    assert len(data.train.subset(torch.tensor([1, 3]))) == 2
    assert head.records().shape == (5, 2)
    assert head.to("cpu") is head


@pytest.fixture
def grey() -> np.ndarray:
    images = RANDOM.integers(0, 256, (200, 6, 6), dtype=np.uint8)
    images[:, 0, 0], images[:, 0, 1] = 0, 255
    return images


def test_dynamic_binarisation_draws_anew_with_the_right_mean(grey):
    data = load_data(grey, binarize="dynamic")
    rng, index = Rng.seeded(0), torch.arange(160)
    assert str(data.spec.support) == "binary"
    draws = torch.stack([data.train.batch(index, rng)[0] for _ in range(400)])
    assert set(draws.unique().tolist()) == {0.0, 1.0}
    p = torch.from_numpy(grey)[data.order[:160]].double()[:, None] / 255
    # Each pixel's mean of 400 draws has variance p (1 - p) / 400; summed over all of them the statistic is chi-square with as many
    # degrees of freedom k as pixels with 0 < p < 1, of mean k and variance 2k (a little more for rare pixels): 6 sd.
    inside = (p > 0.02) & (p < 0.98)
    z2 = ((draws.double().mean(0) - p) ** 2 / (p * (1 - p) / 400))[inside]
    k = int(inside.sum())
    assert abs(float(z2.sum()) - k) < 6 * (2 * k) ** 0.5 * 1.1
    assert not torch.equal(draws[0], draws[1])
    assert (draws[:, :, 0, 0, 0] == 0).all()
    assert (draws[:, :, 0, 0, 1] == 1).all()
    again = data.train.batch(index, Rng.seeded(0))[0]
    assert torch.equal(again, draws[0])


def test_two_processes_draw_what_one_would(grey):
    data = load_data(grey, binarize="dynamic")
    index = torch.arange(8)
    whole = data.train.batch(index, Rng.seeded(5))[0]
    parts = []
    for rows in (slice(0, 4), slice(4, 8)):
        rng = Rng(torch.Generator().manual_seed(5), rows=rows, total=8)
        parts.append(data.train.batch(index[rows], rng)[0])
    assert torch.equal(torch.cat(parts), whole)


def test_held_out_records_are_binarised_once(grey):
    data, again = load_data(grey, binarize="dynamic"), load_data(grey, binarize="dynamic")
    assert torch.equal(data.test.x, again.test.x)
    index = torch.arange(20)
    assert torch.equal(data.test.batch(index, Rng.seeded(0))[0], data.test.batch(index, Rng.seeded(1))[0])
    assert torch.equal(data.test.tensor(), data.test.x.float())
    assert torch.equal(data.train.tensor(), data.train.tensor())
    records = data.test.records()
    assert records.dtype == np.uint8
    assert set(np.unique(records)) == {0, 255}
    assert torch.equal(data.schema.encode(records), data.test.tensor())
    assert data.train.x.untyped_storage().nbytes() == grey.nbytes


def test_threshold_cuts_at_half_of_white(grey):
    data = load_data(grey, binarize="threshold")
    expected = torch.from_numpy(grey >= 128)[data.order[:160]][:, None]
    assert torch.equal(data.train.x.bool(), expected)
    assert torch.equal(data.schema.encode(grey)[data.order[:160]], data.train.tensor())


def test_sixteen_levels_are_binarised_too():
    data = load_data("digits", binarize="dynamic")
    assert data.train.dynamic == 16
    assert data.test.records().max() == 16


def test_fingerprint_and_reload(tmp_path):
    u = RANDOM.normal(size=(50, 2))
    path = tmp_path / "u.npy"
    np.save(path, u)
    data = load_data(str(path), seed=4)
    description = data.describe()
    assert description["source"] == {"source": str(path), "options": {"seed": 4}}
    again = reload(description)
    assert torch.equal(again.train.x, data.train.x)
    assert reload(description, load_data(u, seed=4)).fingerprint() == data.fingerprint()
    u[data.order[0], 0] += 1
    np.save(path, u)
    with pytest.raises(DataError, match="u.npy are not those that the run was trained on"):
        reload(description)
    memory = load_data(u).describe()
    assert memory["source"] is None
    with pytest.raises(DataError, match="given in memory"):
        reload(memory)


def test_labels_count_in_the_fingerprint():
    u = RANDOM.normal(size=(50, 2))
    assert load_data(u, label=np.arange(50) % 2).fingerprint() != load_data(u, label=np.arange(50) % 3).fingerprint()


def test_summary_says_what_there_is():
    text = load_data("digits").summary()
    for part in ("1797 = 1437 train + 180 validation + 180 test", "image, shape 1 x 8 x 8", "levels(17)", "label: 0, 1, 2", "uint8"):
        assert part in text
