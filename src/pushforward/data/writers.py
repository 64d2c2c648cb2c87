"""Samples to files, in the form that the file's name asks for: whole or not at all."""

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ..errors import DataError, RunError
from .columns import library_of
from .midi import write_midi


def write_records(records: Any, path: str | Path, *, overwrite: bool = False) -> Path:
    """Write records in the user's form and return the path.

    DataFrames become `.csv`, `.csv.gz` or `.parquet`; arrays `.npy`, `.npz` (key `x`), or a `.csv` of columns x0, x1 ... for vectors;
    images also a folder of PNG files (a path without ending). Texts become `.txt` (an empty line between two) or `.json`, pieces of music
    `.json` or, with the extra `midi`, `.mid` (one piece) or a folder of MIDI files.

    Raises
    ------
    DataError
        The records do not fit the kind of file.
    RunError
        Something is there already (and `overwrite` is False), or the disk refuses. Nothing half-written is left and what was there stays.
    """
    path = Path(path).expanduser()
    ending = next(
        (e for e in (".csv.gz", ".json", ".txt", ".mid", ".csv", ".parquet", ".npy", ".npz") if path.name.lower().endswith(e)),
        path.suffix.lower(),
    )
    taken = any(path.iterdir()) if path.is_dir() else path.exists()
    if taken and not overwrite:
        raise RunError(f"{path} is there already. Give another name, or overwrite=True.")
    if path.is_dir() and ending:
        raise RunError(f"{path} is a folder. Give the name of a file in it.")
    if _are_sequences(records):
        _atomic(path, _sequences(records, ending, path))
        return path
    library = library_of(records)
    if library is None:
        records = records.detach().cpu().numpy() if isinstance(records, Tensor) else np.asarray(records)
    if ending in (".csv", ".csv.gz", ".parquet"):
        save = _table(records, ending, path)
    elif ending in (".npy", ".npz") and library is None:
        save = lambda draft: _numpy(records, draft, ending)
    elif not ending and library is None and records.ndim in (3, 4):
        save = lambda draft: _folder(records, draft)
    else:
        forms = (
            ".csv or .parquet" if library else ".npy, .npz" + (", .csv" if records.ndim == 2 else " or a folder (a name without ending)")
        )
        raise DataError(f"{path} cannot hold these records. Give a name that ends in {forms}.")
    _atomic(path, save)
    return path


def pictures(records: Any) -> np.ndarray:
    """Images in the user's form -> uint8 (n, H, W) or (n, H, W, 3), with the smallest value black and the largest white.

    uint8 images that use more than a quarter of the range are taken as they are. Channels may be first or last.
    """
    array = records.detach().cpu().numpy() if isinstance(records, Tensor) else np.asarray(records)
    if array.ndim not in (3, 4):
        raise DataError(f"Records of shape {array.shape} are no images; (n, H, W), (n, H, W, C) or (n, C, H, W) are needed.")
    if array.ndim == 4:
        array = np.moveaxis(array, 1, -1) if array.shape[1] in (1, 3, 4) and array.shape[3] not in (1, 3, 4) else array
        array = array[..., 0] if array.shape[3] in (1, 2) else array[..., :3]
    if array.dtype == np.uint8 and array.size and array.max() > 63:
        return np.ascontiguousarray(array)
    low, high = (float(array.min()), float(array.max())) if array.size else (0.0, 1.0)
    return np.rint((array.astype(np.float64) - low) * (255 / ((high - low) or 1.0))).astype(np.uint8)


def _are_sequences(records: Any) -> bool:
    """Whether these are texts or pieces of music."""
    return isinstance(records, list) and bool(records) and isinstance(records[0], (str, list))


def _sequences(records: list[Any], ending: str, path: Path) -> Callable[[Path], None]:
    text = isinstance(records[0], str)
    if ending == ".json":
        return lambda draft: _write(draft, json.dumps(records) + "\n")
    if text and ending == ".txt":
        return lambda draft: _write(draft, "\n\n".join(records) + "\n")
    if not text and ending == ".mid" and len(records) == 1:
        return lambda draft: write_midi(records[0], draft)
    if not text and not ending:
        return lambda draft: _midi_folder(records, draft)
    what = ".txt or .json" if text else ".json, .mid (one piece) or a folder of MIDI files (a name without ending)"
    raise DataError(f"{path} cannot hold these records. Give a name that ends in {what}.")


def _write(draft: Path, text: str) -> None:
    draft.write_text(text, encoding="utf-8")


def _midi_folder(records: list[Any], draft: Path) -> None:
    draft.unlink()
    draft.mkdir()
    for i, piece in enumerate(records):
        write_midi(piece, draft / f"{i:05d}.mid")


def _table(records: Any, ending: str, path: Path) -> Callable[[Path], None]:
    library = library_of(records)
    if library is None:
        if records.ndim != 2:
            raise DataError(f"{path} cannot hold records of shape {records.shape}. Give a name that ends in .npy or .npz.")
        import pandas as pd

        records, library = pd.DataFrame(records, columns=[f"x{j}" for j in range(records.shape[1])]), "pandas"
    if library == "polars":
        if ending == ".parquet":
            return records.write_parquet
        records = records.to_pandas() if ending == ".csv.gz" else records
        if ending == ".csv":
            return records.write_csv
    if ending == ".parquet":
        return lambda draft: records.to_parquet(draft, index=False)
    return lambda draft: records.to_csv(draft, index=False, compression="gzip" if ending == ".csv.gz" else None)


def _numpy(array: np.ndarray, draft: Path, ending: str) -> None:
    with draft.open("wb") as out:
        np.save(out, array) if ending == ".npy" else np.savez_compressed(out, x=array)


def _folder(array: np.ndarray, draft: Path) -> None:
    from PIL import Image

    draft.unlink()
    draft.mkdir()
    images = pictures(array)
    digits = max(5, len(str(len(images))))
    for i, image in enumerate(images):
        Image.fromarray(image).save(draft / f"{i:0{digits}d}.png")


def _atomic(path: Path, save: Callable[[Path], None]) -> None:
    """Write a draft beside `path` and move it there at the end."""
    draft: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
        os.close(handle)
        draft = Path(name)
        save(draft)
        if draft.is_dir() and path.is_dir():
            old = draft.with_name(draft.name + "-old")
            path.rename(old)
            draft.rename(path)
            shutil.rmtree(old)
        else:
            mask = os.umask(0)
            os.umask(mask)
            draft.chmod((0o777 if draft.is_dir() else 0o666) & ~mask)
            os.replace(draft, path)
    except OSError as error:
        raise RunError(f"{path} could not be written: {error.strerror or error}. Free some space or choose another place.") from error
    finally:
        if draft is not None and draft.is_dir():
            shutil.rmtree(draft)
        elif draft is not None:
            draft.unlink(missing_ok=True)
