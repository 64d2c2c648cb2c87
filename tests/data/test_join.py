"""Two collections as one data set."""

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from pushforward.data import load_data, reload
from pushforward.data.join import coloured, joined
from pushforward.errors import ConfigError, DataError

RANDOM = np.random.default_rng(0)
NAMES = ("A", "B")


def test_every_record_keeps_its_collection():
    a, b = np.arange(60.0).reshape(30, 2), 1000 + np.arange(100.0).reshape(50, 2)
    data = load_data(a, data_b=b)
    assert len(data) == 80
    assert data.schema.condition.classes == ("a", "b")
    for part in (data.train, data.validation, data.test):
        assert ((part.records()[:, 0] >= 1000) == (part.labels() == "b")).all()
    assert "30 records of a, 50 of b" in data.summary()
    assert load_data(torch.zeros(12, 1).uniform_(), data_b=torch.ones(15, 1)).schema.library == "torch"


def test_tables_by_name_of_column():
    a = pd.DataFrame({"size": RANDOM.normal(size=20), "kind": list("xy") * 10})
    b = pd.DataFrame({"kind": list("yz") * 10, "size": 5 + RANDOM.normal(size=20)})
    data = load_data(a, data_b=b)
    assert [c.name for c in data.schema.columns] == ["size", "kind"]
    assert data.schema.columns[1].values == ("x", "y", "z")
    of_b = data.train.records()[data.train.labels() == "b"]
    assert set(of_b["kind"]) == {"y", "z"}
    with pytest.raises(DataError, match=r"B has no column\(s\) 'kind', which A has"):
        joined(a, b.drop(columns="kind"), NAMES)
    with pytest.raises(DataError, match=r"A is of another form \(pandas\) than B \(array\)"):
        joined(a, np.zeros((3, 2)), NAMES)


def test_grey_beside_colour_becomes_colour():
    grey, colour = RANDOM.integers(0, 256, (12, 5, 6)), RANDOM.integers(0, 256, (14, 5, 6, 3))
    both, labels = joined(grey, colour, NAMES)
    assert both.shape == (26, 5, 6, 3)
    assert (both[:12] == grey[..., None]).all()
    assert list(labels) == ["a"] * 12 + ["b"] * 14
    first, _ = joined(colour.transpose(0, 3, 1, 2), grey, NAMES)
    assert first.shape == (26, 3, 5, 6)
    assert (first[14:] == grey[:, None]).all()
    data = load_data(grey.astype(np.uint8), data_b=colour.astype(np.uint8))
    assert (coloured(grey, data.schema) == grey[..., None]).all()
    assert coloured(colour, data.schema) is colour
    assert coloured(grey, load_data(grey.astype(np.uint8)).schema) is grey


def test_folders_are_read_again(tmp_path):
    for name, n in (("A", 12), ("B", 15)):
        (tmp_path / name).mkdir()
        for i in range(n):
            Image.fromarray(RANDOM.integers(0, 256, (6, 5), dtype=np.uint8)).save(tmp_path / name / f"{i:02d}.png")
    data = load_data(tmp_path / "A", data_b=tmp_path / "B")
    described = data.describe()
    assert described["source"]["options"] == {"data_b": str((tmp_path / "B").resolve())}
    assert reload(described).fingerprint() == data.fingerprint()
    (tmp_path / "B" / "00.png").unlink()
    with pytest.raises(DataError, match="not those that the run was trained on"):
        reload(described)
    # One that is in memory cannot be read again, whichever it is.
    assert load_data(tmp_path / "A", data_b=np.zeros((3, 6, 5), np.uint8)).source is None


def test_refusals():
    a = RANDOM.normal(size=(20, 2))
    with pytest.raises(ConfigError, match="Leave label= out"):
        load_data(a, data_b=a, label=np.zeros(20, int))
    with pytest.raises(DataError, match=r"Records of A have shape \(2,\), those of B \(3,\). Give both the same shape"):
        joined(a, np.zeros((4, 3)), NAMES)
    with pytest.raises(DataError, match=r"\(4, 4\), those of B \(5, 5\). Resize both with size="):
        joined(np.zeros((3, 4, 4)), np.zeros((3, 5, 5)), NAMES)
    with pytest.raises(DataError, match="A holds float64 and B int64. Give both as one kind of number"):
        joined(a, a.astype(np.int64), NAMES)
