"""Files, folders and names: read whole, or refused with the file and the remedy in the message."""

import gzip
import hashlib
import os
import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pushforward.data import BINARY, builtin, levels, load_data, read_records, reload
from pushforward.errors import ConfigError, DataError

RANDOM = np.random.default_rng(0)
N = 40


@pytest.fixture
def frame() -> pd.DataFrame:
    return pd.DataFrame({"x": RANDOM.normal(size=N), "k": RANDOM.integers(0, 4, N), "t": RANDOM.choice(["a", "b"], N)})


# -- tables ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["csv", "csv.gz", "tsv", "parquet"])
def test_table_files(tmp_path, frame, ending):
    path = tmp_path / f"table.{ending}"
    if ending == "parquet":
        frame.to_parquet(path)
    else:
        frame.to_csv(path, index=False, sep="\t" if ending == "tsv" else ",")
    data = load_data(str(path), label="t", seed=1)
    assert [c.name for c in data.schema.columns] == ["x", "k"]
    assert data.describe()["source"] == {"source": str(path), "options": {"label": "t", "seed": 1}}
    assert reload(data.describe()).fingerprint() == data.fingerprint()
    assert len(load_data(path)) == N
    records, labels = read_records(path, label="t")
    assert data.schema.encode(records).shape == (N, 2)
    assert list(labels) == frame["t"].tolist()


def test_semicolons_and_row_numbers(tmp_path, frame):
    frame.to_csv(tmp_path / "a.csv", sep=";")
    data = load_data(tmp_path / "a.csv")
    assert [c.name for c in data.schema.columns] == ["x", "k", "t"]
    assert "unnamed row number" in data.summary()


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "a.csv cannot be read as CSV: .* Save it again as UTF-8 text with one header line"),
        (b"x,y\n", "a.csv holds a header and no rows"),
        (b"x,y\n1,2\n1,2,3,4\n", "a.csv cannot be read as CSV: .*line 3"),
        (b"x,y\n1,\xff\xfe\n", "a.csv cannot be read as CSV: .*utf-8"),
        (b"1.5,2.5\n" * 20, "a.csv has no header: its first line is '1.5', '2.5"),
    ],
)
def test_bad_csv(tmp_path, content, text):
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(DataError, match=text):
        load_data(tmp_path / "a.csv")


def test_cut_files(tmp_path, frame):
    frame.to_parquet(tmp_path / "a.parquet")
    frame.to_csv(tmp_path / "a.csv.gz", index=False)
    for name, text in (("a.parquet", "cannot be read as Parquet"), ("a.csv.gz", "cannot be read as CSV")):
        whole = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(whole[: len(whole) // 2])
        with pytest.raises(DataError, match=f"{name} {text}"):
            load_data(tmp_path / name)


# -- arrays ------------------------------------------------------------------------------------------------------------


def test_npy_and_npz(tmp_path):
    x, y = RANDOM.normal(size=(N, 3)), RANDOM.integers(0, 3, N)
    np.save(tmp_path / "x.npy", x)
    np.savez(tmp_path / "one.npz", whatever=x)
    np.savez(tmp_path / "two.npz", x=x, y=y, other=np.zeros(3))
    np.savez(tmp_path / "many.npz", first=x, second=x + 1, third=y)
    plain = load_data(x)
    for source in ("x.npy", "one.npz", "two.npz", "many.npz:first"):
        data = load_data(str(tmp_path / source))
        assert data.schema.shift == plain.schema.shift
        assert reload(data.describe()).fingerprint() == data.fingerprint()
    assert load_data(tmp_path / "two.npz").schema.condition.classes == (0, 1, 2)
    assert load_data(tmp_path / "many.npz", key="second", label="third").schema.condition.dim == 3
    (tmp_path / "misnamed.npz").write_bytes((tmp_path / "x.npy").read_bytes())
    assert load_data(tmp_path / "misnamed.npz").schema.shift == plain.schema.shift
    assert load_data(tmp_path / "x.npy", label=y).describe()["source"] is None
    with pytest.raises(
        DataError, match="many.npz holds 3 arrays: 'first', 'second', 'third'. Say which with key=..., or as many.npz:first"
    ):
        load_data(tmp_path / "many.npz")
    with pytest.raises(DataError, match="key='secund': .* Did you mean 'second'"):
        load_data(tmp_path / "many.npz", key="secund")
    with pytest.raises(DataError, match="label='thrid': .* Did you mean 'third'"):
        load_data(tmp_path / "many.npz", key="first", label="thrid")
    with pytest.raises(ConfigError, match="key='x' is for .npz files"):
        load_data(tmp_path / "x.npy", key="x")
    np.savez(tmp_path / "short.npz", x=x, y=y[:5])
    with pytest.raises(DataError, match="'y' holds 5 labels for the 40 records of 'x'"):
        load_data(tmp_path / "short.npz")


class Trap:
    def __reduce__(self):
        return (os.mkdir, (os.environ["TRAP"],))


def test_pickles_are_never_executed(tmp_path, monkeypatch):
    monkeypatch.setenv("TRAP", str(tmp_path / "sprung"))
    np.save(tmp_path / "x.npy", np.array([Trap(), Trap()], dtype=object), allow_pickle=True)
    (tmp_path / "raw.npy").write_bytes(pickle.dumps(Trap()))
    np.savez(tmp_path / "x.npz", x=np.array([Trap(), Trap()], dtype=object))
    for name in ("x.npy", "raw.npy", "x.npz"):
        with pytest.raises(DataError, match="holds Python objects .a pickle., which are never executed"):
            load_data(tmp_path / name)
    assert not (tmp_path / "sprung").exists()


def test_cut_arrays(tmp_path):
    for name in ("x.npy", "x.npz"):
        (np.save if name.endswith("y") else np.savez)(tmp_path / name, RANDOM.normal(size=(N, 3)))
        whole = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(whole[: len(whole) // 2])
        with pytest.raises(DataError, match=f"{name} is damaged or no NumPy file"):
            load_data(tmp_path / name)


# -- folders of images ---------------------------------------------------------------------------------------------------


def images(folder: Path, shape: tuple[int, ...], n: int = 12, ending: str = "png") -> np.ndarray:
    folder.mkdir(parents=True, exist_ok=True)
    pixels = RANDOM.integers(0, 256, (n, *shape), dtype=np.uint8)
    for i, image in enumerate(pixels):
        Image.fromarray(image).save(folder / f"{i:03d}.{ending}")
    return pixels


@pytest.mark.parametrize("ending", ["png", "bmp", "tiff"])
@pytest.mark.parametrize("shape", [(28, 20), (7, 9, 3)])
def test_folder(tmp_path, shape, ending):
    pixels = images(tmp_path / "f", shape, ending=ending)
    (tmp_path / "f" / ".hidden").write_text("ignored")
    data = load_data(tmp_path / "f")
    assert data.spec.shape == ((1, *shape) if len(shape) == 2 else (3, 7, 9))
    assert data.spec.supports == (levels(256),)
    np.testing.assert_array_equal(data.train.records(), pixels[data.order[: len(data.train)]])
    assert reload(data.describe()).fingerprint() == data.fingerprint()


@pytest.mark.parametrize("ending", ["jpg", "gif", "webp"])
def test_other_formats(tmp_path, ending):
    images(tmp_path / "f", (28, 20), ending=ending)
    shape = load_data(tmp_path / "f").spec.shape
    # WebP has no grey mode.
    assert shape == ((3, 28, 20) if ending == "webp" else (1, 28, 20))


def test_sub_folders_are_classes(tmp_path):
    for name in ("cat", "dog"):
        images(tmp_path / name, (6, 5))
    data = load_data(tmp_path)
    assert data.schema.condition.classes == ("cat", "dog")
    assert (
        sorted(data.train.labels().tolist() + data.validation.labels().tolist() + data.test.labels().tolist())
        == ["cat"] * 12 + ["dog"] * 12
    )
    images(tmp_path, (6, 5), 1)
    with pytest.raises(DataError, match=r"holds files both beside sub-folders \(000.png\) and in them \(cat/000.png\)"):
        load_data(tmp_path)


def test_colour_wins_and_modes_are_read(tmp_path):
    images(tmp_path, (6, 5))
    Image.fromarray(RANDOM.integers(0, 256, (6, 5, 4), dtype=np.uint8)).save(tmp_path / "alpha.png")
    sixteen = np.arange(30, dtype=np.uint16).reshape(6, 5) * 257
    Image.fromarray(sixteen).save(tmp_path / "sixteen.png")
    records, labels = read_records(tmp_path)
    assert records.shape == (14, 6, 5, 3)
    assert labels is None
    np.testing.assert_array_equal(records[-1][..., 0], np.arange(30).reshape(6, 5))
    bits = tmp_path / "bits"
    bits.mkdir()
    for i in range(12):
        Image.fromarray(RANDOM.random((6, 5)) > 0.5).save(bits / f"{i}.png")
    assert load_data(bits).spec.supports == (BINARY,)


def test_rotation_of_the_camera_is_applied(tmp_path):
    pixels = np.zeros((6, 4), dtype=np.uint8)
    pixels[0, 0] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    assert read_records(tmp_path)[0].shape == (1, 4, 6)


def test_sizes_must_agree_or_be_given(tmp_path):
    images(tmp_path, (6, 5))
    Image.fromarray(np.zeros((8, 5), dtype=np.uint8)).save(tmp_path / "tall.png")
    with pytest.raises(DataError, match=r"000.png is 6 x 5 and .*tall.png is 8 x 5 .* size=\(6, 5\)"):
        load_data(tmp_path)
    assert load_data(tmp_path, size=(4, 3)).spec.shape == (1, 4, 3)
    with pytest.raises(DataError, match="is not .height, width."):
        load_data(tmp_path, size=(4,))


def test_bad_files_are_named_and_can_be_skipped(tmp_path):
    images(tmp_path, (40, 30))
    for name, text in (
        ("note.txt", "note.txt is not an image"),
        ("cut.png", "cut.png is damaged or cut short"),
        ("cut.jpg", "cut.jpg is damaged"),
    ):
        if name == "note.txt":
            (tmp_path / name).write_text("hello")
        else:
            Image.fromarray(RANDOM.integers(0, 256, (40, 30), dtype=np.uint8)).save(tmp_path / name)
            whole = (tmp_path / name).read_bytes()
            (tmp_path / name).write_bytes(whole[: len(whole) // 2])
        with pytest.raises(DataError, match=f"{text}.* skip_bad=True"):
            load_data(tmp_path)
        data = load_data(tmp_path, skip_bad=True)
        assert len(data) == 12
        assert f"1 files skipped: {name}" in data.notes[0]
        (tmp_path / name).unlink()


def test_empty_folders(tmp_path):
    with pytest.raises(DataError, match="holds no files"):
        load_data(tmp_path)
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(DataError, match="No image could be read"):
        load_data(tmp_path, skip_bad=True)


# -- names and paths ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "options", "text"),
    [
        ("dgits", {}, "No data set is called 'dgits', and no file or folder has that name. Did you mean 'digits'"),
        ("qqqq", {}, "Known: binarized-mnist, checkerboard, digits"),
        ("nowhere/a.csv", {}, "There is no file or folder nowhere/a.csv. The folder nowhere does not exist"),
        ("digits", {"n": 5}, "n= does not apply to a built-in set of images"),
        ("ring", {"size": (2, 2)}, "size= does not apply to a built-in density, which takes label, support, n"),
        ("ring", {"n": 5}, "5 records are too few"),
    ],
)
def test_unknown_names_and_options(source, options, text):
    with pytest.raises((DataError, ConfigError), match=text):
        load_data(source, **options)


def test_paths_that_cannot_be_read(tmp_path):
    (tmp_path / "table.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match="There is no file or folder .*tabel.csv. Did you mean 'table.csv'"):
        load_data(tmp_path / "tabel.csv")
    (tmp_path / "model.pkl").write_bytes(pickle.dumps([1]))
    with pytest.raises(DataError, match="model.pkl is of a kind that cannot be read. Give a file of .csv"):
        load_data(tmp_path / "model.pkl")


def test_digits():
    data = load_data("digits")
    assert (data.spec.shape, data.spec.supports) == ((1, 8, 8), (levels(17),))
    assert data.schema.condition.classes == tuple(range(10))
    assert reload(data.describe()).fingerprint() == data.fingerprint()


# -- the MNIST family, from files that a test makes ------------------------------------------------------------------------


def idx(array: np.ndarray) -> bytes:
    sizes = b"".join(int(n).to_bytes(4, "big") for n in array.shape)
    return gzip.compress(bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes(), 1)


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A public home with small files, an empty cache, and no PUSHFORWARD_DATA."""
    parts = {"train": 60_000, "t10k": 10_000}
    folder, sums = tmp_path / "home", {}
    folder.mkdir()
    for part, n in parts.items():
        pixels = np.zeros((n, 28, 28), dtype=np.uint8)
        pixels[:, 3, 4] = np.arange(n) % 256
        for kind, array in (("images-idx3", pixels), ("labels-idx1", (np.arange(n) % 10).astype(np.uint8))):
            name = f"{part}-{kind}-ubyte.gz"
            (folder / name).write_bytes(idx(array))
            sums[name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    monkeypatch.setitem(builtin.SUMS, "mnist", sums)
    monkeypatch.setitem(builtin.HOMES, "mnist", (f"{(tmp_path / 'gone').as_uri()}/", f"{folder.as_uri()}/"))
    monkeypatch.delenv("PUSHFORWARD_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return folder


def test_mnist_is_downloaded_checked_and_kept(home, tmp_path, monkeypatch):
    data = load_data("mnist")
    assert data.counts() == {"train": 50_000, "validation": 10_000, "test": 10_000}
    # The official order: the last 10,000 training records validate.
    assert data.validation.records()[0, 3, 4] == 50_000 % 256
    assert data.test.records()[7, 3, 4] == 7
    assert data.test.labels()[7] == 7
    cached = tmp_path / "cache" / "pushforward" / "mnist"
    assert sorted(p.name for p in cached.iterdir()) == sorted(builtin.SUMS["mnist"])
    monkeypatch.setitem(builtin.HOMES, "mnist", ())
    assert load_data("mnist", validation=0, test=0.5).counts() == {"train": 35_000, "validation": 0, "test": 35_000}
    damaged = cached / "t10k-labels-idx1-ubyte.gz"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    with pytest.raises(DataError, match="t10k-labels-idx1-ubyte.gz is damaged: its sha256 .* Delete it, and it is downloaded again"):
        load_data("mnist")


def test_a_download_that_fails_leaves_nothing(home, tmp_path):
    (home / "train-images-idx3-ubyte.gz").write_bytes(b"an error page")
    with pytest.raises(DataError, match="mnist could not be downloaded .*gone.*its sha256 is not that .* PUSHFORWARD_DATA"):
        load_data("mnist")
    assert list((tmp_path / "cache").rglob("*.gz*")) == []


def test_binarized_mnist_from_text(tmp_path, monkeypatch):
    bits = {part: RANDOM.integers(0, 2, (n, 784)) for part, n in (("train", 6), ("valid", 4), ("test", 3))}
    for part, b in bits.items():
        (tmp_path / f"binarized_mnist_{part}.amat").write_text("\n".join(" ".join(map(str, row)) for row in b) + "\n")
    monkeypatch.setitem(builtin.HOMES, "binarized-mnist", (f"{tmp_path.as_uri()}/",))
    counts = {part: len(b) for part, b in bits.items()}
    target = tmp_path / "cache" / builtin.PACKED
    builtin.pack_amat(target, counts, None)
    with np.load(target) as packed:
        for part, b in bits.items():
            np.testing.assert_array_equal(np.unpackbits(packed[part], axis=1), b)
    assert [p.name for p in target.parent.iterdir()] == [builtin.PACKED]
    with pytest.raises(DataError, match=r"pixel mean of 0\.\d+, not 0.13056: it is not the published set"):
        builtin.pack_amat(target, counts)
    (tmp_path / "binarized_mnist_train.amat").write_text("0 1 2")
    with pytest.raises(DataError, match="binarized_mnist_train.amat is not 6 lines of 784 zeros and ones"):
        builtin.pack_amat(tmp_path / "again" / builtin.PACKED, counts)


@pytest.mark.skipif("PUSHFORWARD_DATA" not in os.environ, reason="needs the published files")
@pytest.mark.parametrize(("name", "mean"), [("mnist", 0.13066), ("fashion-mnist", 0.2860), ("binarized-mnist", builtin.PIXEL_MEAN)])
def test_published_files(name, mean):
    data = load_data(name)
    assert data.counts() == {"train": 50_000, "validation": 10_000, "test": 10_000}
    white = 1 if name == "binarized-mnist" else 255
    first = data.train.x if white == 1 else np.concatenate([data.train.x, data.validation.x])
    # The published means, to the digits given.
    assert float(np.asarray(first).mean(dtype=np.float64)) / white == pytest.approx(mean, abs=6e-5)
