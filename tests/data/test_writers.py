"""Samples on disk: what is written is read back, and nothing is lost or left half done."""

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from PIL import Image

from pushforward.data import load_data, pictures, read_records, write_records
from pushforward.errors import DataError, RunError

RANDOM = np.random.default_rng(0)


@pytest.fixture
def frame() -> pd.DataFrame:
    return pd.DataFrame({"x": RANDOM.normal(size=20), "k": RANDOM.integers(0, 4, 20), "t": RANDOM.choice(["a", "b"], 20)})


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz", "a.parquet"])
def test_tables(tmp_path, frame, name):
    for number, records in enumerate((frame, pl.from_pandas(frame))):
        path = write_records(records, tmp_path / str(number) / name)
        pd.testing.assert_frame_equal(read_records(path)[0], frame)


@pytest.mark.parametrize("name", ["a.npy", "a.npz", "a.csv"])
def test_arrays(tmp_path, name):
    x = RANDOM.normal(size=(20, 3))
    back, _ = read_records(write_records(torch.from_numpy(x), tmp_path / name))
    np.testing.assert_array_equal(back.to_numpy() if name == "a.csv" else back, x)


@pytest.mark.parametrize("shape", [(12, 28, 20), (12, 7, 9, 3)])
def test_images_as_a_folder(tmp_path, shape):
    images = RANDOM.integers(0, 256, shape, dtype=np.uint8)
    write_records(images, tmp_path / "out")
    np.testing.assert_array_equal(read_records(tmp_path / "out")[0], images)
    write_records(images[:3], tmp_path / "out", overwrite=True)
    assert len(list((tmp_path / "out").iterdir())) == 3
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_pictures_are_visible():
    digits = load_data("digits").test.records()
    assert pictures(digits).max() == 255
    assert pictures(np.array([[[False, True]]])).tolist() == [[[0, 255]]]
    assert pictures(torch.rand(2, 3, 4, 5)).shape == (2, 4, 5, 3)
    assert pictures(torch.rand(2, 1, 4, 5)).shape == (2, 4, 5)
    assert pictures(np.zeros((2, 4, 4))).max() == 0
    with pytest.raises(DataError, match="are no images"):
        pictures(np.zeros((2, 4)))


def test_what_is_there_stays(tmp_path, frame):
    path = write_records(frame, tmp_path / "a.csv")
    before = path.read_bytes()
    with pytest.raises(RunError, match="a.csv is there already. Give another name, or overwrite=True"):
        write_records(frame, path)
    write_records(frame.head(3), path, overwrite=True)
    assert path.read_bytes() != before
    folder = tmp_path / "full"
    folder.mkdir()
    (folder / "keep").write_text("x")
    with pytest.raises(RunError, match="full is there already"):
        write_records(np.zeros((2, 4, 4)), folder)


def test_a_full_disk_leaves_nothing(tmp_path, frame, monkeypatch):
    def full(self, file, *_, **__):
        file.write_text("half")
        raise OSError(28, "No space left on device")

    path = write_records(frame, tmp_path / "a.csv")
    before = path.read_bytes()
    monkeypatch.setattr(pd.DataFrame, "to_csv", full)
    with pytest.raises(RunError, match="a.csv could not be written: No space left on device. Free some space"):
        write_records(frame, path, overwrite=True)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.csv"]
    monkeypatch.setattr(Image.Image, "save", lambda *_, **__: full(None, tmp_path / "x"))
    with pytest.raises(RunError, match="could not be written"):
        write_records(np.zeros((2, 4, 4), dtype=np.uint8), tmp_path / "pictures")
    assert not (tmp_path / "pictures").exists()


@pytest.mark.parametrize(
    ("records", "name", "text"),
    [
        (np.zeros((2, 4)), "a.png", "cannot hold these records. Give a name that ends in .npy, .npz, .csv"),
        (np.zeros((2, 4)), "folder", "ends in .npy"),
        (np.zeros((2, 4, 4)), "a.csv", "cannot hold records of shape .2, 4, 4."),
        (pd.DataFrame({"a": [1]}), "a.npy", "ends in .csv or .parquet"),
    ],
)
def test_forms_that_do_not_fit(tmp_path, records, name, text):
    with pytest.raises(DataError, match=text):
        write_records(records, tmp_path / name)
    assert list(tmp_path.iterdir()) == []
