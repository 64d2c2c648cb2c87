"""Records without a label: how they are read, what batches and labels say of them, and who may be fitted to them."""

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch

from pushforward.data import load_data
from pushforward.errors import DataError
from pushforward.models import create
from pushforward.models.latent.labels import Labelled, labelled_rows
from pushforward.rng import Rng

X = np.random.default_rng(0).normal(size=(60, 2)).astype(np.float32)
NAMES = np.array(["ant", "bee", "cow"], dtype=object)
CODES = np.random.default_rng(1).integers(0, 3, 60)
HIDDEN = np.arange(60) % 4 != 0


def _names() -> np.ndarray:
    label = NAMES[CODES]
    label[HIDDEN] = None
    return label


FORMS = {
    "objects": _names(),
    "list": _names().tolist(),
    "nan among numbers": np.where(HIDDEN, np.nan, CODES + 4.0),
    "pandas NA": pd.array(np.where(HIDDEN, None, CODES + 4), dtype="Int64"),
    "pandas text": pd.Series(_names()),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_missing_label(form):
    data = load_data(X, label=FORMS[form], missing="unlabelled")
    assert data.schema.condition is not None
    assert data.schema.condition.classes == ((4, 5, 6) if form in ("nan among numbers", "pandas NA") else ("ant", "bee", "cow"))
    stored = torch.cat([data.train.condition, data.validation.condition, data.test.condition])
    assert stored.tolist() == np.where(HIDDEN, -1, CODES)[data.order.numpy()].tolist()
    assert data.notes == ("45 of 60 records have no label",)
    assert data.train.unlabelled + data.validation.unlabelled + data.test.unlabelled == 45


@pytest.mark.parametrize("library", [pd, pl])
@pytest.mark.parametrize("numbers", [False, True])
def test_a_label_column_of_a_table(library, numbers):
    label = np.where(HIDDEN, np.nan, CODES + 4.0) if numbers else _names()
    frame = library.DataFrame({"a": X[:, 0], "b": X[:, 1], "y": label.tolist()})
    data = load_data(frame, label="y", missing="unlabelled")
    assert data.schema.condition is not None
    assert data.schema.condition.classes == ((4, 5, 6) if numbers else ("ant", "bee", "cow"))
    assert len(data) == 60
    stored = torch.cat([data.train.condition, data.validation.condition, data.test.condition])
    assert stored.tolist() == np.where(HIDDEN, -1, CODES)[data.order.numpy()].tolist()
    holes = pd.DataFrame({"a": np.where(np.arange(60) == 3, np.nan, X[:, 0]), "b": X[:, 1], "y": label})
    with pytest.raises(DataError, match="Missing values in 'a': 1"):  # in other columns they stay an error
        load_data(holes, label="y", missing="unlabelled")


def test_batches_vectors_and_labels():
    data = load_data(X, label=_names(), missing="unlabelled").train
    _, c = data.batch(torch.arange(len(data)), Rng.seeded(0))
    vectors = data.vectors()
    assert torch.equal(c, vectors)
    for code, vector, label in zip(data.condition.tolist(), vectors, data.labels()):
        assert torch.equal(vector, torch.zeros(3) if code < 0 else torch.eye(3)[code])
        assert label is None if code < 0 else label == NAMES[code]


def test_nothing_missing_changes_nothing():
    label = NAMES[CODES]
    a, b = load_data(X, label=label), load_data(X, label=label, missing="unlabelled")
    assert a.fingerprint() == b.fingerprint()
    assert a.schema == b.schema
    assert b.notes == ()
    assert a.train.labels().tolist() == b.train.labels().tolist()


def test_refuses():
    with pytest.raises(DataError, match="Labels 'label' are missing in 45 rows"):
        load_data(X, label=_names())
    with pytest.raises(DataError, match="Every label 'label' is missing"):
        load_data(X, label=[None] * 60, missing="unlabelled")
    with pytest.raises(DataError, match="missing='unlabelled' is for classes; labels 'label' are numbers"):
        load_data(X, label=np.where(HIDDEN, np.nan, CODES + 0.5), missing="unlabelled")
    data = load_data(X, label=_names(), missing="unlabelled")
    with pytest.raises(DataError, match=r"training records have no label, and VAE needs one for each.*missing='drop'.*m2 or ssaae"):
        create("vae").fit(data, condition=True, steps=1)
    create("vae", latent_dim=2, hidden=(4,)).fit(
        data, steps=1, batch_size=16, progress=False
    )  # without a condition labels are not asked for


@pytest.mark.parametrize("family", ["m2", "ssaae", "aae"])
def test_missing_labels_are_hidden_ones(family):
    # Taking away the labels that a model does not see leaves the same weights, bit for bit.
    label = NAMES[CODES]
    whole = load_data(X, label=label)
    small = {"latent_dim": 2, "hidden": (8,)}
    settings = {"steps": 6, "batch_size": 16, "progress": False}
    a = create(family, **small, labelled=12).fit(whole, **settings)
    rows = labelled_rows(whole.train.condition, 12, 0)
    kept = np.full(60, None, dtype=object)
    at = whole.order[rows].numpy()
    kept[at] = label[at]
    few = load_data(X, label=kept, missing="unlabelled")
    seen = Labelled.of(few, None, 0)
    assert seen is not None
    assert len(seen.records) == 12
    b = create(family, **small, labelled=None).fit(few, **settings)
    assert all(torch.equal(p, q) for p, q in zip(a.state_dict().values(), b.state_dict().values()))


@pytest.mark.parametrize("family", ["m2", "ssaae"])
def test_a_condition_of_which_some_are_missing(family):
    data = load_data(X, label=_names(), missing="unlabelled")
    model = create(family, latent_dim=2, hidden=(8,)).fit(data, condition=True, steps=4, batch_size=16, progress=False)
    assert model.sample(3, condition="bee", seed=0).shape == (3, 2)
    assert set(model.predict(data.test)) <= set(NAMES)
