"""Texts and music as records.

====================================  ====================================================================================
source                                records
====================================  ====================================================================================
one long text                         windows of `length` symbols; held-out text is the end of it, so that no window leaks, or files
                                      of its own
lines of a text, a list of texts      each a record, with its end; split at random
pieces in a JSON or MIDI collection   each a record, with its end; the file's own split where it has one
====================================  ====================================================================================

Records longer than `length` are cut into several, after the split. Characters have the alphabet of the whole text, held-out files among
it; words have the vocabulary of the training records, in the order of their counts there, and every other word is the unknown one.
"""

import gzip
import json
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import ConfigError, DataError
from .records import Data, Records, Split, without_label
from .schema import conditioned
from .sequences import KEYS, UNKNOWN, SequenceSchema, frames, split_text
from .spec import BINARY, DataSpec, categories

LENGTH = 128
"""Symbols of a window of a long text, unless told otherwise."""
OVERLAP = 8
"""Training windows of a long text begin every length / 8 symbols, so that each symbol is predicted from short and long contexts."""
PARTS = (("train", "training"), ("valid", "validation", "val"), ("test",))
PARTS_HELD = ("validation", "test")

Pieces = Sequence[Any] | Mapping[str, Sequence[Any]]


def read_text(path: Path) -> str:
    """A file of UTF-8 text, perhaps gzipped."""
    try:
        raw = path.read_bytes()
        raw = gzip.decompress(raw) if path.name.lower().endswith(".gz") else raw
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} is damaged or no gzip file ({error}). Fetch it again.") from None
    try:
        return raw.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}, line {line}, is no UTF-8 text ({error.reason}). Save it again as UTF-8.") from None


def read_pieces(path: Path) -> Pieces:
    """A JSON file of pieces: a list of them, or an object with the lists train, valid and test."""
    text = read_text(path)
    try:
        found = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{path}, line {error.lineno}, is no JSON: {error.msg}. Write it again with json.dump.") from None
    if isinstance(found, list):
        return found
    known = [name for part in PARTS for name in part]
    if not isinstance(found, dict) or not any(name in found for name in PARTS[0]) or any(name not in known for name in found):
        got = f"an object with {', '.join(map(repr, list(found)[:5]))}" if isinstance(found, dict) else f"a {type(found).__name__}"
        raise DataError(f"{path} holds {got}. Give a list of pieces, or an object with the lists train, valid and test.")
    bad = next((k for k, v in found.items() if not isinstance(v, list)), None)
    if bad is not None:
        raise DataError(f"{path}: {bad!r} is a {type(found[bad]).__name__}, not a list of pieces.")
    return found


def text_data(
    text: str | Sequence[str],
    *,
    tokens: str = "characters",
    length: int | None = None,
    vocabulary: int | None = None,
    label: Any = None,
    missing: str = "error",
    validation: float = 0.1,
    test: float = 0.1,
    seed: int = 0,
    held: Mapping[str, str | Sequence[str]] | None = None,
    source: str = "text",
) -> Data:
    """`Data` from one long text (str) or from texts that are records of their own.

    `held` gives the validation or the test part (its key) in the form of `text`, instead of a share of it.
    """
    if tokens not in ("characters", "words"):
        raise ConfigError(f"tokens={tokens!r} is not known. Give 'characters' or 'words'.")
    _check_count("length", length, 2)
    _check_count("vocabulary", vocabulary, 2)
    if vocabulary is not None and tokens == "characters":
        raise ConfigError("vocabulary= counts words: give tokens='words' with it. All characters are kept.")
    held = held or {}
    validation, test = (0 if name in held else share for name, share in zip(PARTS_HELD, (validation, test), strict=True))
    if isinstance(text, str):
        if label is not None:
            raise ConfigError("One long text has no labels. Give lines=True and one label per line, or a list of texts.")
        own = {name: split_text(t, tokens) for name, t in held.items() if isinstance(t, str)}
        return _long(split_text(text, tokens), tokens, length or LENGTH, vocabulary, validation, test, source, own)
    pieces = [split_text(t, tokens) for t in _all_text(text, source)]
    split, order = _split(pieces, None, validation, test, seed, source)
    for number, name in enumerate(PARTS_HELD, 1):
        if name in held:
            parts = [order[at] for at in split.slices]
            parts[number] = list(range(len(pieces), len(pieces) + len(held[name])))
            pieces += [split_text(t, tokens) for t in _all_text(held[name], f"{name}=")]
            order = [i for part in parts for i in part]
            split = Split(torch.tensor(order), len(parts[0]), len(parts[1]), len(parts[2]))
    train = [s for i in order[: split.train] for s in pieces[i]]
    symbols = _symbols(train if tokens == "words" else [s for p in pieces for s in p], tokens, vocabulary, source)
    schema = SequenceSchema(DataSpec("sequence", (1,), (categories(len(symbols)),)), tokens, symbols)
    number = {s: i for i, s in enumerate(symbols)}
    ids = [torch.tensor([number.get(s, 0) for s in p], dtype=torch.int64) for p in pieces]
    return _collection(ids, schema, split, order, length, label, missing)


def roll_data(
    pieces: Pieces,
    *,
    length: int | None = None,
    label: Any = None,
    missing: str = "error",
    validation: float = 0.1,
    test: float = 0.1,
    seed: int = 0,
    given: bool = False,
    source: str = "collection",
) -> Data:
    """`Data` from pieces of music. A mapping with train, valid and test keeps that split unless shares were `given`."""
    _check_count("length", length, 2)
    counts = None
    if isinstance(pieces, Mapping):
        named = [next(((k, pieces[k]) for k in names if k in pieces), ("", [])) for names in PARTS]
        counts = None if given else [len(part) for _, part in named]
        found = [frames(p, f"{source}: {k}, piece {i}") for k, part in named for i, p in enumerate(part)]
    else:
        found = [frames(p, f"{source}: piece {i}") for i, p in enumerate(pieces)]
    empty = [i for i, p in enumerate(found) if not len(p)]
    if empty:
        raise DataError(f"{source}: piece {empty[0]} has no step ({len(empty)} such of {len(found)}). Leave it out.")
    split, order = _split(found, counts, validation, test, seed, source)
    return _collection(found, SequenceSchema(DataSpec("sequence", (1, KEYS), (BINARY,)), "keys"), split, order, length, label, missing)


def _all_text(texts: Sequence[Any], source: str) -> Sequence[str]:
    for i, t in enumerate(texts):
        if not isinstance(t, str) or not t:
            what = "is empty" if t == "" else f"is of type {type(t).__name__}"
            raise DataError(f"{source}: text {i} {what}. Give texts of at least one symbol.")
    return texts


def _split(
    pieces: Sequence[Any], counts: Sequence[int] | None, validation: float, test: float, seed: int, source: str
) -> tuple[Split, list[int]]:
    if not len(pieces):
        raise DataError(f"{source} holds no piece. Give at least 10.")
    split = Split.make(len(pieces), validation, test, seed) if counts is None else Split(None, counts[0], counts[1], counts[2])
    return split, list(range(len(pieces))) if split.order is None else split.order.tolist()


def _collection(
    pieces: Sequence[Tensor], schema: SequenceSchema, split: Split, order: Sequence[int], length: int | None, label: Any, missing: str
) -> Data:
    """Pieces as records: longer ones cut, the end belonging to those that are shorter than T."""
    longest = max(len(p) for p in pieces)
    T = min(length or longest, longest)
    cut = {i: p.split(T) for i, p in enumerate(pieces)}
    ends = any(len(w) < T for parts in cut.values() for w in parts)
    old = schema.spec
    k = (old.supports[0].size or 2) + 1
    if schema.tokens == "keys":
        spec = DataSpec("sequence", (T, KEYS + ends), old.supports, ends=ends)
    else:
        spec = DataSpec("sequence", (T,), (categories(k) if ends else old.supports[0],), ends=ends)
    schema = SequenceSchema(spec, schema.tokens, schema.symbols)
    condition = stored = None
    notes: tuple[str, ...] = ()
    if label is not None:
        if len(label) != len(pieces):
            raise DataError(f"{len(label)} labels for {len(pieces)} records. Give one label per record.")
        condition, stored = conditioned(label, unlabelled=missing == "unlabelled")
        notes += without_label(stored)
        schema = SequenceSchema(spec, schema.tokens, schema.symbols, condition)
    parts, whole = [], all(len(p) == 1 for p in cut.values())
    for at in split.slices:
        rows = [i for i in order[at] for _ in cut[i]]
        x = schema._stack([w for i in order[at] for w in cut[i]])
        parts.append(Records(schema, x, None if stored is None else stored[torch.tensor(rows, dtype=torch.long)]))
    if not whole:
        notes += (f"{sum(len(p) > 1 for p in cut.values())} of {len(pieces)} pieces are longer than {T} and were cut into several records",)
    return Data(schema, parts[0], parts[1], parts[2], order=torch.tensor(order) if whole else None, notes=notes)


def _long(
    tokens: list[str],
    kind: str,
    T: int,
    vocabulary: int | None,
    validation: float,
    test: float,
    source: str,
    held: Mapping[str, list[str]],
) -> Data:
    """One long text: its beginning to train on, then validation, then test, each cut into windows; `held` has texts for these two."""
    n = len(tokens)
    if n < 2 * T:
        raise DataError(f"{source} has {n} {kind}, too few for records of {T}. Give a longer text, a smaller length=, or lines=True.")
    split = Split.make(max(n, 10), validation, test, 0)  # checks the shares; its order is not used
    texts = [tokens[at] for at in split.slices]
    for number, name in enumerate(PARTS_HELD, 1):
        texts[number] = held.get(name, texts[number])
    symbols = _symbols(texts[0] if kind == "words" else [s for text in texts for s in text], kind, vocabulary, source)
    code = {s: i for i, s in enumerate(symbols)}
    schema = SequenceSchema(DataSpec("sequence", (T,), (categories(len(symbols)),)), kind, symbols)  # type: ignore[arg-type]
    stride, parts = max(1, T // OVERLAP), []
    for number, text in enumerate(texts):
        some = torch.tensor([code.get(s, 0) for s in text], dtype=torch.int64).to(schema.storage_dtype)
        if number and not text and PARTS_HELD[number - 1] not in held:
            parts.append(Records(schema, some.new_zeros(0, T)))
            continue
        if len(some) < T:
            raise DataError(f"{source}: a part of {len(some)} {kind} is shorter than a record of {T}. Change what is held out, or length=.")
        # A view: training windows overlap and share their symbols.
        parts.append(Records(schema, some[: len(some) // T * T].view(-1, T) if number else some.unfold(0, T, stride)))
    notes = (f"{sum(map(len, texts))} {kind}: training windows begin every {stride}, held-out ones share nothing",)
    if kind == "words":
        others = [code.get(s, 0) for text in texts[1:] for s in text]
        notes += (f"{others.count(0) / max(1, len(others)):.2%} of held-out words are unknown",)
    return Data(schema, parts[0], parts[1], parts[2], notes=notes)


def _symbols(tokens: Sequence[str], kind: str, most: int | None, source: str) -> tuple[str, ...]:
    """The vocabulary: all characters in their own order, or words by count, those that occur once being unknown."""
    if kind == "characters":
        symbols = tuple(sorted(set(tokens)))
    else:
        counts = Counter(tokens)
        own = UNKNOWN in counts  # a text that was prepared with unknown words keeps every other
        kept = [w for w, c in sorted(counts.items(), key=lambda item: (-item[1], item[0])) if w != UNKNOWN and (own or c > 1)]
        symbols = (UNKNOWN, *kept[: None if most is None else most - 1])
    if len(symbols) < 2:
        raise DataError(f"{source} holds {len(symbols)} different {kind}: there is nothing to model. Check how it was read.")
    return symbols


def _check_count(name: str, value: int | None, least: int) -> None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
        raise ConfigError(f"{name}={value!r} is no whole number of at least {least}.")
