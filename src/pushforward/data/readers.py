"""`load_data`: one door for every source."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import Tensor

from ..errors import ConfigError, DataError, nearest
from .builtin import IMAGES, NAMES, digits, mnist
from .columns import library_of
from .densities import DRAWN, KNOWN
from .files import csv, npz, parquet
from .from_arrays import array_data
from .from_sequences import read_pieces, read_text, roll_data, text_data
from .from_tables import table_data
from .images import read_folder
from .join import joined
from .midi import read_midi
from .records import Data, Split

_SPLITTING = ("validation", "test", "seed", "data_b")
_OPTIONS = {
    "array": ("label", "support", "binarize", "missing", "channels"),
    ".npy or .npz file": ("label", "support", "binarize", "missing", "channels", "key"),
    "table": ("label", "support", "missing", "columns", "drop"),
    "folder of images": ("label", "support", "binarize", "size", "skip_bad"),
    "built-in density": ("label", "support", "n"),
    "built-in set of images": ("label", "support", "binarize", "missing"),
    "text": ("label", "missing", "tokens", "length", "lines", "vocabulary"),
    "collection of pieces": ("label", "missing", "length", "per_beat"),
}
_PLAIN = (str, int, float, bool, type(None))
_DEFAULTS: dict[str, Any] = {
    "label": None, "support": None, "binarize": None, "missing": "error", "channels": None, "columns": None, "drop": None,
    "key": None, "size": None, "skip_bad": False, "n": None, "data_b": None, "validation": 0.1, "test": 0.1, "seed": 0,
    "tokens": "characters", "length": None, "lines": False, "vocabulary": None, "per_beat": 4,
}  # fmt: skip
_ARRAY, _TABLE = (".npy", ".npz"), (".csv", ".tsv", ".csv.gz", ".tsv.gz", ".parquet", ".pq")
_TEXT, _JSON, _MIDI = (".txt", ".txt.gz"), (".json", ".json.gz"), (".mid", ".midi")


@dataclass
class Source:
    """What was read, still in the user's form."""

    kind: str
    """One of the keys of `_OPTIONS`."""
    records: Any
    label: Any = None
    """Labels that came with the records (sub-folders, an npz file's `y`, a built-in set's), or None."""
    name: str = "array"
    """How messages call it."""
    reread: str | None = None
    """The path or name by which it can be read again."""
    notes: tuple[str, ...] = ()
    truth: Any = None


def load_data(
    source: Any,
    *,
    label: Any = None,
    support: str | Mapping[str, str] | None = None,
    binarize: Literal["dynamic", "threshold"] | None = None,
    missing: Literal["error", "drop", "category", "unlabelled"] = "error",
    skip_bad: bool = False,
    size: tuple[int, int] | None = None,
    channels: Literal["first", "last"] | None = None,
    columns: Sequence[str] | None = None,
    drop: Sequence[str] | None = None,
    key: str | None = None,
    n: int | None = None,
    tokens: Literal["characters", "words"] = "characters",
    length: int | None = None,
    lines: bool = False,
    vocabulary: int | None = None,
    per_beat: int = 4,
    data_b: Any = None,
    validation: float | str | Path = 0.1,
    test: float | str | Path = 0.1,
    seed: int = 0,
) -> Data:
    """Records from any source, split into training, validation and test records.

    Parameters
    ----------
    source
        A NumPy array or tensor, a pandas or polars DataFrame; a CSV, Parquet, .npy or .npz file (`file.npz:key` for one of several
        arrays); a folder of images (sub-folders are classes); a text (.txt, .txt.gz) or a list of texts; pieces of music: a list or a JSON
        file of pieces, each a list of steps, each a list of MIDI notes, or a MIDI file or a folder of them; or a name: digits, mnist,
        fashion-mnist, binarized-mnist, ring, grid, moons, swiss-roll, checkerboard, pinwheel.
    label
        What records may be conditioned on: a column's name (tables), a key (.npz), or one label or vector per record.
    support
        The set of values: real, unit, binary, levels(k) or categories; for tables per column: age=real,children=levels.
    binarize
        Make grey images binary: dynamic draws each training batch anew with the grey value as probability, threshold cuts at half of white.
    missing
        What to do with missing values: error names them, drop leaves their rows out, category makes a category of them in text columns,
        unlabelled keeps records whose label (alone) is missing, for models that learn from a few labels.
    skip_bad
        Leave out files of an image folder that are damaged or no images, instead of stopping.
    size
        Height and width to which the images of a folder are resized.
    channels
        Where the channels of images in an array are; needed only when the shape does not tell.
    columns
        The columns of a table to model, in this order; all by default.
    drop
        Columns of a table to leave out.
    key
        The array of an .npz file to read.
    n
        How many records to draw from a built-in density (20,000 by default).
    tokens
        The symbols of a text: characters, or words with an unknown one for those that occur once in the training text.
    length
        The most symbols or steps of a record: one long text is cut into windows of it (128 by default), of which held-out ones are the end
        of the text; longer lines and pieces are cut.
    lines
        Whether each line of a text file is a record of its own.
    vocabulary
        The most words that are kept; the rarer ones become unknown.
    per_beat
        Steps of a quarter note into which MIDI files are divided.
    data_b
        A second collection of the same form, such as another folder: its records get the label b, those of the source the label a.
    validation
        Share (or number) of records held out to watch training; for a text file also a file of its own. A share is always of the source.
    test
        Share (or number) of records held out to judge models; for a text file also a file of its own. MNIST and its kin, and collections
        with lists train, valid and test, keep their own splits unless one of the two is given.
    seed
        Of the split, and of the draw from a built-in density.

    Raises
    ------
    DataError
        Records that cannot be read or modelled: the message names the file, row, column or shape, and the remedy.
    ConfigError
        An option that does not apply to this kind of source.

    Examples
    --------
    >>> load_data("digits")
    Data(image 1x8x8, levels(17); 1437 train, 180 validation, 180 test)
    """
    given = {k: v for k, v in locals().items() if k in _DEFAULTS and (not isinstance(v, _PLAIN) or v != _DEFAULTS[k])}
    read = _read(source, given)
    if data_b is not None:
        read = _with_second(read, data_b, given)
    for option in given:
        if option not in (*_OPTIONS[read.kind], *_SPLITTING):
            takes = ", ".join(o for o in _OPTIONS[read.kind])
            raise ConfigError(f"{option}= does not apply to a {read.kind}, which takes {takes}, {', '.join(_SPLITTING)}.")
    held = {name: _held(name, given, read) for name in ("validation", "test") if isinstance(given.get(name), (str, os.PathLike))}
    splitting: dict[str, Any] = {"validation": validation, "test": test, "seed": seed, **dict.fromkeys(held, 0)}
    if read.kind == "table":
        data = table_data(
            read.records,
            label=read.label if label is None else label,
            support=support,
            missing=missing,
            columns=columns,
            drop=drop,
            **splitting,
        )
    elif read.kind in ("text", "collection of pieces"):
        data = _sequences(read, given, label, missing, splitting, held)
    else:
        if isinstance(support, Mapping):
            raise ConfigError(f"support= by column is for tables; a {read.kind} takes one: support='real'.")
        if read.kind == ".npy or .npz file" and isinstance(label, str) and read.label is not None:
            label = None
        if isinstance(label, str):
            raise ConfigError(
                f"label={label!r} names a column of a table or a key of an .npz file; a {read.kind} takes one label per record."
            )
        if read.reread == "digits" and support is None and data_b is None:
            support = "levels(17)"
        split = None
        if read.reread in IMAGES and data_b is None and not {"validation", "test"} & set(given):
            split = Split(None, 50_000, 10_000, 10_000)
        data = array_data(
            read.records, label=read.label if label is None else label, support=support, binarize=binarize, missing=missing,
            channels="last" if read.kind == "folder of images" and read.records.ndim == 4 else channels,
            split=split, source=read.name, **splitting,
        )  # fmt: skip
    data.notes = (*read.notes, *data.notes)
    data.truth = read.truth
    data.source = _described(read.reread, given)
    return data


def _held(name: str, given: dict[str, Any], read: Source) -> Any:
    """The text of the held-out part that has a file of its own; `given` gets the path by which it can be read again."""
    if read.kind != "text" or read.reread is None:
        raise ConfigError(
            f"{name}={str(given[name])!r} is a file, which a text file may have beside it; {read.name} is a {read.kind}"
            f"{'' if read.reread else ' in memory'}. Give a share (0 to 1) or a number of records."
        )
    other = _read(given[name], given)
    if other.kind != "text" or other.reread is None:
        raise ConfigError(f"{name}={other.name} is a {other.kind}. Give a text file (.txt, .txt.gz), as the source is.")
    given[name] = other.reread
    return other.records


def _sequences(read: Source, given: dict[str, Any], label: Any, missing: str, splitting: dict[str, Any], held: dict[str, Any]) -> Data:
    if isinstance(label, str):
        raise ConfigError(f"label={label!r} names a column of a table or a key of an .npz file; a {read.kind} takes one label per record.")
    own = {k: given[k] for k in ("tokens", "length", "vocabulary") if k in given}
    how = {"label": read.label if label is None else label, "missing": missing, "source": read.name, **own, **splitting}
    if read.kind == "text":
        return text_data(read.records, held=held, **how)
    return roll_data(read.records, given=bool({"validation", "test"} & set(given)), **how)


def read_records(
    source: Any,
    *,
    label: str | None = None,
    key: str | None = None,
    size: tuple[int, int] | None = None,
    skip_bad: bool = False,
    lines: bool = False,
) -> tuple[Any, Any]:
    """(records in the user's form, labels or None) of a source, with neither splits nor checks of what a fitted model would need.

    For records that a fitted model is to judge: `model.log_prob(read_records("new.csv")[0])`.
    """
    said = (("label", label), ("key", key), ("size", size), ("skip_bad", skip_bad or None), ("lines", lines or None))
    given = {k: v for k, v in said if v is not None}
    read = _read(source, given)
    if isinstance(read.records, Mapping):  # pieces with a split of their own
        return [piece for part in read.records.values() for piece in part], None
    if read.kind == "table" and label is not None:
        if label not in read.records.columns:
            raise DataError(f"label={label!r}: the table has no such column.{nearest(label, map(str, read.records.columns))}")
        return read.records, read.records[label].to_numpy()
    return read.records, read.label


def as_data(source: Any, label: Any = None) -> Data:
    """`source` as `Data`: itself when it is, else `load_data(source)`. `label` gives (other) labels, one per record of the source."""
    if isinstance(source, Data):
        return source if label is None else source.with_label(label)
    return load_data(source, label=label)


def reload(description: dict[str, Any], source: Any = None) -> Data:
    """The data set that `Data.describe` described, read again from its source (or, when it was in memory, from `source`).

    Raises `DataError` when it was given in memory and `source` is None, or when the training records are no longer the same.
    """
    known = description.get("source")
    if source is not None:
        data = as_data(source)
    elif known is None:
        raise DataError("The run was trained on records given in memory, which no path leads back to. Give the same data again.")
    else:
        options: dict[str, Any] = known["options"]
        data = load_data(known["source"], **options)
    if description.get("fingerprint") not in (None, data.fingerprint()):
        what = "given" if known is None else f"of {known['source']}"
        raise DataError(
            f"The records {what} are not those that the run was trained on (their sums differ). Bring those back, or start a new run."
        )
    return data


def _with_second(first: Source, data_b: Any, given: dict[str, Any]) -> Source:
    """Both collections as one source, labelled by which of the two a record is from; `given` gets the name to read the second again."""
    if "label" in given:
        raise ConfigError("data_b= makes the collection that a record is from its label. Leave label= out.")
    second = _read(data_b, given)
    for s in (first, second):
        if s.kind in ("text", "collection of pieces"):
            raise ConfigError(f"data_b= joins arrays, tables and images; {s.name} is a {s.kind}. Join them yourself and give label=.")
    given["data_b"] = second.reread if second.reread is not None else data_b
    names = tuple("the array" if s.name == "array" else s.name for s in (first, second))
    if names[0] == names[1]:
        names = (f"{names[0]} (first)", f"{names[1]} (second)")
    records, label = joined(first.records, second.records, (names[0], names[1]), given.get("channels"))
    notes = (*first.notes, *second.notes, f"{len(first.records)} records of a, {len(second.records)} of b")
    reread = first.reread if second.reread is not None else None
    return Source(first.kind, records, label, f"{names[0]} and {names[1]}", reread, notes)


def _described(reread: str | None, given: dict[str, Any]) -> dict[str, Any] | None:
    """Source and options as JSON; None when they cannot be written down (arrays)."""
    if reread is None:
        return None
    try:
        return {"source": reread, "options": json.loads(json.dumps(given))}
    except TypeError:
        return None


def _read(source: Any, given: dict[str, Any]) -> Source:
    if isinstance(source, Data):
        raise DataError("This is a Data set already; use it as it is.")
    if isinstance(source, (np.ndarray, Tensor)):
        return Source("array", source)
    if library_of(source) is not None:
        return Source("table", source, name="table")
    if isinstance(source, list) and source and (isinstance(source[0], str) or _piece(source[0])):
        kind = "text" if isinstance(source[0], str) else "collection of pieces"
        return Source(kind, source, name="the list")
    if not isinstance(source, (str, os.PathLike)):
        hints = {
            "Series": " Give it as a frame: s.to_frame().",
            "list": " Give np.asarray(...) of it.",
            "tuple": " Give load_data(x, label=y).",
        }
        hint = hints.get(type(source).__name__, "")
        raise DataError(f"load_data takes an array, a tensor, a DataFrame, a path or a name, not {type(source).__name__}.{hint}")
    text = os.fspath(source)
    if text in NAMES:
        return _builtin(text, given)
    path = Path(text).expanduser()
    if path.is_dir() and (found := sorted(p for p in path.rglob("*") if p.suffix.lower() in _MIDI)):
        return _midi(found, path, given)
    if path.is_dir():
        images, labels, notes = read_folder(path, given.get("size"), bool(given.get("skip_bad")))
        return Source("folder of images", images, labels, str(path), str(path.resolve()), notes)
    file, _, key = text.rpartition(":")
    inside = file.lower().endswith(".npz") and not path.exists()
    if inside:
        path = Path(file).expanduser()
    name = path.name.lower()
    if not path.is_file():
        raise DataError(_unknown(text, path))
    if name.endswith(_ARRAY):
        return Source(".npy or .npz file", *npz(path, key if inside else given.get("key"), given.get("label"), f":{key}" if inside else ""))
    if name.endswith(_TABLE):
        frame, notes = parquet(path) if name.endswith((".parquet", ".pq")) else csv(path)
        return Source("table", frame, name=str(path), reread=str(path.resolve()), notes=notes)
    if name.endswith(_TEXT):
        text = read_text(path)
        records = [line for line in text.split("\n") if line.strip()] if given.get("lines") else text
        return Source("text", records, name=str(path), reread=str(path.resolve()))
    if name.endswith(_JSON):
        return Source("collection of pieces", read_pieces(path), name=str(path), reread=str(path.resolve()))
    if name.endswith(_MIDI):
        return _midi([path], path, given)
    kinds = ", ".join((*_TABLE, *_ARRAY, *_TEXT, *_JSON, *_MIDI))
    raise DataError(f"{path} is of a kind that cannot be read. Give a file of {kinds}, or a folder of images.")


def _piece(value: Any) -> bool:
    """Whether this looks like a piece: a list of lists of notes."""
    return isinstance(value, list) and bool(value) and all(isinstance(step, list) for step in value)


def _midi(files: Sequence[Path], path: Path, given: dict[str, Any]) -> Source:
    per_beat = given.get("per_beat", _DEFAULTS["per_beat"])
    if isinstance(per_beat, bool) or not isinstance(per_beat, int) or per_beat < 1:
        raise ConfigError(f"per_beat={per_beat!r} is no whole number of at least 1.")
    return Source("collection of pieces", [read_midi(file, per_beat) for file in files], name=str(path), reread=str(path.resolve()))


def _unknown(text: str, path: Path) -> str:
    if path.exists():
        return f"{path} is neither a file nor a folder."
    if os.sep in text or path.suffix:
        near = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        return f"There is no file or folder {path}.{nearest(path.name, near) if near else f' The folder {path.parent} does not exist.'}"
    return f"No data set is called {text!r}, and no file or folder has that name.{nearest(text, NAMES)}"


def _builtin(name: str, given: dict[str, Any]) -> Source:
    if name in KNOWN or name in DRAWN:
        n, seed = given.get("n") or 20_000, given.get("seed", 0)
        truth = KNOWN[name]() if name in KNOWN else None
        x = truth.sample(n, seed) if truth is not None else DRAWN[name](n, seed)
        return Source("built-in density", x.numpy(), None, name, name, truth=truth)
    images, labels = digits() if name == "digits" else mnist(name)
    return Source("built-in set of images", images, labels, name, name)
