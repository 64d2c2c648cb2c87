"""Data sets by name: the digits that scikit-learn carries, two-dimensional densities, and the MNIST family.

The MNIST files are looked for in the folder that the environment variable `PUSHFORWARD_DATA` names, then in the cache
(`$XDG_CACHE_HOME/pushforward`, by default `~/.cache/pushforward`), and downloaded into the cache when they are in neither.
"""

import gzip
import hashlib
import os
import tempfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError
from .densities import DRAWN, KNOWN

_MNIST = {
    "train-images-idx3-ubyte.gz": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    "train-labels-idx1-ubyte.gz": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    "t10k-images-idx3-ubyte.gz": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    "t10k-labels-idx1-ubyte.gz": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
}
_FASHION = {
    "train-images-idx3-ubyte.gz": "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
    "train-labels-idx1-ubyte.gz": "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
    "t10k-images-idx3-ubyte.gz": "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
    "t10k-labels-idx1-ubyte.gz": "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
}
SUMS: dict[str, dict[str, str]] = {"mnist": _MNIST, "fashion-mnist": _FASHION}
"""sha256 of the published files."""
HOMES: dict[str, tuple[str, ...]] = {
    "mnist": ("https://ossci-datasets.s3.amazonaws.com/mnist/", "https://storage.googleapis.com/cvdf-datasets/mnist/"),
    "fashion-mnist": ("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",),
    "binarized-mnist": ("https://www.cs.toronto.edu/~larocheh/public/datasets/binarized_mnist/",),
}
"""Where the published files can be had, tried in order."""
PACKED = "binarized_mnist_packed.npz"
PARTS = {"train": 50_000, "valid": 10_000, "test": 10_000}
PIXEL_MEAN = 0.13056
"""Share of ones in the training part of the published binarised MNIST, to five digits; its home states no checksum."""

IMAGES = ("mnist", "fashion-mnist", "binarized-mnist")
NAMES = ("digits", *KNOWN, *DRAWN, *IMAGES)


def digits() -> tuple[np.ndarray, np.ndarray]:
    """1,797 handwritten digits, (n, 8, 8) uint8 of 0 to 16, with labels 0 to 9 (UCI, Alpaydin and Kaynak 1998)."""
    from sklearn.datasets import load_digits

    bunch: Any = load_digits()
    return bunch.images.astype(np.uint8), bunch.target


def mnist(name: str) -> tuple[np.ndarray, np.ndarray | None]:
    """70,000 images (n, 28, 28) uint8 and their labels: the official 60,000 training records, then the 10,000 test records."""
    if name == "binarized-mnist":
        return _binarized_mnist(), None
    images, labels = np.empty((70_000, 28, 28), dtype=np.uint8), np.empty(70_000, dtype=np.uint8)
    start = 0
    for part, count in (("train", 60_000), ("t10k", 10_000)):
        _idx(_file(name, f"{part}-images-idx3-ubyte.gz"), images[start : start + count])
        _idx(_file(name, f"{part}-labels-idx1-ubyte.gz"), labels[start : start + count])
        start += count
    return images, labels


def cache_folder() -> Path:
    """Where downloads are kept: `$XDG_CACHE_HOME/pushforward`, or `~/.cache/pushforward`."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "pushforward"


def _found(name: str, file: str) -> Path | None:
    given = os.environ.get("PUSHFORWARD_DATA")
    for base in ([Path(given).expanduser()] if given else []) + [cache_folder()]:
        if (base / name / file).is_file():
            return base / name / file
    return None


def _file(name: str, file: str) -> Path:
    """The checked path of a published file, downloaded when it is not at hand."""
    wanted, path = SUMS[name][file], _found(name, file)
    if path is None:
        path = cache_folder() / name / file
        _download(name, file, path, wanted)
    elif _sum(path) != wanted:
        raise DataError(f"{path} is damaged: its sha256 is not that of the published {file}. Delete it, and it is downloaded again.")
    return path


def _sum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _download(name: str, file: str, target: Path, wanted: str | None) -> None:
    """Fetch into a temporary file beside `target` and move it there when whole and, where a sum is known, checked."""
    import urllib.error
    import urllib.request

    target.parent.mkdir(parents=True, exist_ok=True)
    failures = []
    for home in HOMES[name]:
        handle, draft = tempfile.mkstemp(dir=target.parent, prefix=f".{file}-")
        try:
            with os.fdopen(handle, "wb") as out, urllib.request.urlopen(home + file, timeout=60) as response:
                expected, got = response.headers.get("Content-Length"), 0
                while piece := response.read(1 << 20):
                    out.write(piece)
                    got += len(piece)
            if expected is not None and got != int(expected):
                failures.append(f"{home + file}: cut short at {got} of {expected} bytes")
            elif wanted is not None and _sum(Path(draft)) != wanted:
                failures.append(f"{home + file}: its sha256 is not that of the published file")
            else:
                os.replace(draft, target)
                return
        except (urllib.error.URLError, OSError, ValueError) as error:
            failures.append(f"{home + file}: {error}")
        finally:
            Path(draft).unlink(missing_ok=True)
    raise DataError(
        f"{name} could not be downloaded ({'; '.join(failures)}). Check the network, or put {file} into {target.parent} "
        f"or into {name}/ below the folder that PUSHFORWARD_DATA names."
    )


def _idx(path: Path, out: np.ndarray) -> None:
    """Decompress an idx file of bytes (LeCun's format: magic, sizes, values) into `out`."""
    with gzip.open(path) as file:
        rank = file.read(4)[3]
        sizes = tuple(int.from_bytes(file.read(4), "big") for _ in range(rank))
        if sizes != out.shape:
            raise DataError(f"{path} holds an array of shape {sizes}; {out.shape} was expected. Delete it, and it is downloaded again.")
        view, at = out.data.cast("B"), 0
        while at < len(view):
            piece = file.read(min(1 << 20, len(view) - at))
            if not piece:
                raise DataError(f"{path} is cut short. Delete it, and it is downloaded again.")
            view[at : at + len(piece)] = piece
            at += len(piece)


def _binarized_mnist() -> np.ndarray:
    """(70000, 28, 28) uint8 of 0 and 255: the fixed draw of Salakhutdinov and Murray (ICML 2008), train, validation, test."""
    path = _found("binarized-mnist", PACKED)
    if path is None:
        path = cache_folder() / "binarized-mnist" / PACKED
        pack_amat(path)
    try:
        with np.load(path, allow_pickle=False) as file:
            packed = np.concatenate([file[part] for part in PARTS])
    except (OSError, ValueError, KeyError, EOFError, zlib.error) as error:
        raise DataError(f"{path} is damaged ({error}). Delete it, and it is downloaded again.") from None
    if packed.shape != (70_000, 98):
        raise DataError(f"{path} holds {packed.shape} packed images; (70000, 98) was expected. Delete it, and it is downloaded again.")
    images = np.unpackbits(packed, axis=1).reshape(-1, 28, 28)
    np.multiply(images, 255, out=images)
    return images


def pack_amat(target: Path, parts: dict[str, int] = PARTS, pixel_mean: float | None = PIXEL_MEAN) -> None:
    """Download the three text files of the binarised MNIST and keep them as packed bits in one npz file."""
    target.parent.mkdir(parents=True, exist_ok=True)
    bits = {}
    for part, count in parts.items():
        text = target.parent / f"binarized_mnist_{part}.amat"
        if not text.exists():
            _download("binarized-mnist", text.name, text, None)
        bits[part] = np.packbits(_amat(text, count), axis=1)
    mean = float(np.unpackbits(bits["train"], axis=1).mean())
    if pixel_mean is not None and abs(mean - pixel_mean) > 1e-5:
        raise DataError(f"The downloaded binarised MNIST has a pixel mean of {mean:.5f}, not {pixel_mean}: it is not the published set.")
    handle, draft = tempfile.mkstemp(dir=target.parent, prefix=f".{PACKED}-")
    try:
        with os.fdopen(handle, "wb") as out:
            np.savez_compressed(out, **bits)
        os.replace(draft, target)
    finally:
        Path(draft).unlink(missing_ok=True)
    for part in parts:
        (target.parent / f"binarized_mnist_{part}.amat").unlink()


def _amat(path: Path, count: int) -> np.ndarray:
    """(count, 784) of 0 and 1 from a text file with one image a line."""
    # Every 0 and 1 is one character between blanks, so the digits are the bytes that are 48 or 49.
    raw = np.frombuffer(path.read_bytes(), dtype=np.uint8)
    bits = raw[raw > 32] - 48
    if bits.size != count * 784 or (bits > 1).any():
        path.unlink()
        raise DataError(f"{path.name} is not {count} lines of 784 zeros and ones; it was deleted. Try again, or set PUSHFORWARD_DATA.")
    return bits.reshape(count, 784)
