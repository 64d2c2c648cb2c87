"""Files of arrays and tables, read whole and safely: .npy, .npz, CSV, Parquet."""

import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ConfigError, DataError, nearest
from .schema import named

_MAIN = ("x", "images", "data", "train", "X")
_LABELS = ("y", "labels", "label", "targets", "target")


def npz(path: Path, key: str | None, label: Any, suffix: str) -> tuple[Any, Any, str, str]:
    """(records, labels or None, what to call them, where to read them again); `suffix` is `:key` when the key came with the path."""
    reread = f"{path.resolve()}{suffix}"
    try:
        # Copy-on-write maps the file instead of reading it: only the permuted copy is ever in memory.
        with path.open("rb") as file:
            zipped = file.read(2) == b"PK"
            if not zipped and key is not None:
                raise ConfigError(f"key={key!r} is for .npz files; {path.name} holds one array.")
            if not zipped:
                return np.load(path, mmap_mode="c", allow_pickle=False), None, str(path), reread
            file.seek(0)
            with np.load(file, allow_pickle=False) as opened:
                main, beside = _keys(path, opened.files, key, label)
                records, labels = opened[main], None if beside is None else opened[beside]
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        if isinstance(error, (DataError, ConfigError)):
            raise
        if "pickle" in str(error).lower() or "python object" in str(error).lower():
            remedy = "Save plain numbers instead: np.save(path, x.astype(float))."
            raise DataError(f"{path} holds Python objects (a pickle), which are never executed here. {remedy}") from None
        raise DataError(f"{path} is damaged or no NumPy file ({error}). Write it again with np.save or np.savez.") from None
    if labels is not None and len(labels) != len(records):
        raise DataError(
            f"{path}: {beside!r} holds {len(labels)} labels for the {len(records)} records of {main!r}. Name others with label=."
        )
    return records, labels, f"{path}:{main}", reread


def _keys(path: Path, keys: Sequence[str], key: str | None, label: Any) -> tuple[str, str | None]:
    """The keys of the records and of their labels (or None)."""
    for option, wanted in (("key", key), ("label", label if isinstance(label, str) else None)):
        if wanted is not None and wanted not in keys:
            raise DataError(f"{option}={wanted!r}: {path} has no such array.{nearest(wanted, keys)}")
    beside = label if isinstance(label, str) else next((k for k in _LABELS if k in keys), None)
    likely = [k for k in _MAIN if k in keys]
    if key is None and len(keys) == 1:
        return keys[0], None
    if key is None and len(likely) == 1:
        return likely[0], beside
    if key is not None:
        return key, beside if isinstance(label, str) or key in _MAIN else None
    if len(keys) == 2 and beside is not None:
        return next(k for k in keys if k != beside), beside
    raise DataError(
        f"{path} holds {len(keys)} arrays: {named(keys, 20)}. Say which with key=..., or as {path.name}:{keys[0] if keys else 'KEY'}."
    )


def csv(path: Path) -> tuple[Any, tuple[str, ...]]:
    """A CSV file (or .tsv, or compressed) as a pandas frame, and notes."""
    import pandas as pd

    tabs = ".tsv" in path.name.lower()
    try:
        frame = pd.read_csv(path, sep="\t" if tabs else ",", low_memory=False)
        if len(frame.columns) == 1 and (other := next((c for c in ";\t|" if c in str(frame.columns[0])), None)):
            frame = pd.read_csv(path, sep=other, low_memory=False)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError, EOFError, OSError, zlib.error, ValueError) as error:
        raise DataError(f"{path} cannot be read as CSV: {str(error).strip()}. Save it again as UTF-8 text with one header line.") from None
    if not len(frame):
        raise DataError(f"{path} holds a header and no rows. Give at least 10.")
    if all(_numeric(str(c)) for c in frame.columns):
        raise DataError(f"{path} has no header: its first line is {named(frame.columns)}. Add a line with the names of the columns.")
    first = frame.columns[0]
    if str(first) == "Unnamed: 0" and frame[first].tolist() == list(range(len(frame))):
        return frame.drop(columns=[first]), ("the first column, an unnamed row number, was left out",)
    return frame, ()


def _numeric(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def parquet(path: Path) -> tuple[Any, tuple[str, ...]]:
    import pandas as pd

    try:
        return pd.read_parquet(path), ()
    except ImportError:
        raise DataError(f"Reading {path} needs pyarrow: pip install pyarrow.") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as Parquet: {error}. Write it again, for example with df.to_parquet.") from None
