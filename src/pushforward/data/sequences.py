r"""The form of sequences: texts as symbols, music as frames of 88 keys.

A text of at most T symbols is x (T,) of categories: symbol t of the vocabulary has number x_t. A piece of at most T steps is x (T, K) of
bits, one for each key of a piano. When records differ in length (`spec.ends`) the end belongs to the record: texts get one more category,
frames one more bit, that says "the record has ended before this step", and it holds from there on. So lengths have a probability
like everything else, every record has T steps, and the probabilities of all records sum to 1. A record of T symbols that is cut from a
longer one has no end.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
import torch
from torch import Tensor

from ..errors import DataError
from .schema import Condition, Schema
from .spec import DataSpec

__all__ = ["KEYS", "LOWEST", "UNKNOWN", "SequenceSchema", "split_text", "windows"]

KEYS, LOWEST = 88, 21
"""A piano's keys: MIDI notes 21 (A0) to 108 (C8)."""
UNKNOWN = "<unk>"
"""The symbol of every word that is not in the vocabulary, as the Penn Treebank's files write it."""

Tokens = Literal["characters", "words", "keys"]
Piece = Sequence[Sequence[int]]
"""Time steps, each the MIDI notes that sound: [[60, 64], [60], []]."""


@dataclass(frozen=True)
class SequenceSchema(Schema):
    """Texts (str) or pieces (lists of steps, each a list of MIDI notes). `symbols` is the vocabulary in the order of its numbers."""

    spec: DataSpec
    tokens: Tokens
    symbols: tuple[str, ...] = ()
    condition: Condition | None = None

    @property
    def log_det(self) -> float:
        return 0.0

    @property
    def steps(self) -> int:
        """T, the most symbols or frames of a record."""
        return self.spec.shape[0]

    def encode(self, records: Any, dtype: torch.dtype | None = None) -> Tensor:
        """A list of texts or pieces -> x (n, T) or (n, T, K). One long text is cut into windows of T symbols."""
        dtype = dtype or torch.get_default_dtype()
        music, shape = self.tokens == "keys", getattr(records, "shape", None)
        if isinstance(records, str) and not music:
            return self._stack(windows(self.ids(records, "the text"), self.steps, self.spec.ends, "the text")).to(dtype)
        if shape is not None or isinstance(records, str) or not isinstance(records, Sequence):
            got = f"shape {tuple(shape)}" if shape is not None else f"type {type(records).__name__} and no shape"
            what = "pieces, each a list of steps, each a list of MIDI notes" if music else "texts"
            raise DataError(f"Records of {got} are no sequences of this kind. Give a list of {what}.")
        if not music and any(not isinstance(r, str) for r in records):
            row = next(i for i, r in enumerate(records) if not isinstance(r, str))
            raise DataError(f"Record {row} is of type {type(records[row]).__name__}; this model takes texts. Give a list of str.")
        read = frames if music else self.ids
        found = [read(r, f"record {i}") for i, r in enumerate(records)]
        for i, r in enumerate(found):
            self._check_length(len(r), f"Record {i}")
        return self._stack(found).to(dtype)

    def _check_length(self, n: int, what: str) -> None:
        unit = "steps" if self.tokens == "keys" else "symbols"
        if n > self.steps:
            raise DataError(f"{what} has {n} {unit}; this model takes at most {self.steps}. Cut it, or fit with load_data(length={n}).")
        if n < self.steps and not self.spec.ends:
            raise DataError(f"{what} has {n} {unit}; every record of this model has {self.steps}. Give whole windows, or one long text.")

    def ids(self, text: str, what: str = "the text") -> Tensor:
        """The numbers of the symbols of a text, (length,) int64. Raises `DataError` for a character that was never seen."""
        lookup = self.__dict__.get("_lookup")
        if lookup is None:
            lookup = {s: i for i, s in enumerate(self.symbols)}
            object.__setattr__(self, "_lookup", lookup)
        other = lookup.get(UNKNOWN, -1) if self.tokens == "words" else -1
        found = [lookup.get(s, other) for s in split_text(text, self.tokens)]
        if -1 in found:
            at = found.index(-1)
            raise DataError(
                f"{what} holds {split_text(text, self.tokens)[at]!r} (symbol {at}), which the training text does not. Leave it out, or fit "
                "to a text that has it (words become unknown ones where the training text has some: load_data(tokens='words'))."
            )
        return torch.tensor(found, dtype=torch.int64)

    def begun(self, prompt: Any) -> Tensor:
        """The beginning of a record of any length, in the user's form -> its steps (k,) or (k, K), without an end."""
        if self.tokens != "keys":
            if not isinstance(prompt, str):
                raise DataError(f"The prompt is of type {type(prompt).__name__}; this model continues texts. Give a str.")
            return self.ids(prompt, "The prompt")
        found = frames(prompt, "the prompt")
        return torch.cat([found, found.new_zeros(len(found), 1)], 1) if self.spec.ends else found

    def prefix(self, prompt: Any) -> Tensor:
        """As `begun`, of at most T steps."""
        found = self.begun(prompt)
        if len(found) > self.steps:
            raise DataError(f"The prompt has {len(found)} steps; records of this model have {self.steps}. Shorten it, or use extend().")
        return found

    def _stack(self, found: Sequence[Tensor]) -> Tensor:
        """Records of different lengths -> (n, T, ...), the end filling what is left."""
        x = torch.zeros(len(found), *self.spec.shape, dtype=self.storage_dtype)
        if self.tokens != "keys":
            x.fill_(len(self.symbols))
        for row, r in zip(x, found, strict=True):
            if self.tokens != "keys":
                row[: len(r)] = r.to(x.dtype)
                continue
            row[: len(r), :KEYS] = r.to(x.dtype)
            row[len(r) :, KEYS:] = 1
        return x

    def decode(self, x: Tensor) -> list[Any]:
        """x (n, T, ...) -> texts or pieces, each up to its end."""
        return [self.plain(row) for row in x.detach().cpu()]

    def plain(self, x: Tensor) -> Any:
        """Some steps (k,) or (k, K) -> a text or a piece, up to the first end."""
        if self.tokens != "keys":
            return self.text(x.long().tolist())
        ended = x[:, KEYS:].any(1)  # no such column where records have no end
        return [(step.nonzero()[0] + LOWEST).tolist() for step in x[: int((ended.cumsum(0) == 0).sum()), :KEYS].numpy()]

    def text(self, ids: Sequence[int]) -> str:
        """The text of these numbers, up to the first end."""
        parts = []
        for i in ids:
            if i == len(self.symbols):
                break
            parts.append(self.symbols[i])
        return "".join(parts) if self.tokens == "characters" else " ".join(parts).replace(" \n", "\n").replace("\n ", "\n")

    def table(self) -> list[str]:
        """Lines on the user's form, for a summary."""
        most = "at most " if self.spec.ends else ""
        if self.tokens == "keys":
            return [f"form        pieces of {most}{self.steps} steps, MIDI notes {LOWEST} to {LOWEST + KEYS - 1}"]
        shown = " ".join(repr(s) for s in self.symbols[:40])
        many = f" ... ({len(self.symbols)})" if len(self.symbols) > 40 else ""
        return [f"form        texts of {most}{self.steps} {self.tokens}", f"vocabulary  {shown}{many}"]

    def to_json(self) -> dict[str, Any]:
        return {
            "form": "sequence",
            "spec": self.spec.to_json(),
            "tokens": self.tokens,
            "symbols": list(self.symbols),
            "condition": None if self.condition is None else self.condition.to_json(),
        }

    @classmethod
    def parse(cls, state: dict[str, Any]) -> Self:
        return cls(DataSpec.from_json(state["spec"]), state["tokens"], tuple(state["symbols"]), Condition.from_json(state["condition"]))


def split_text(text: str, tokens: str) -> list[str]:
    r"""The symbols of a text: its characters, or its words, with the end of each line a word of its own.

    >>> split_text("to be,\nor not", "words")
    ['to', 'be,', '\n', 'or', 'not']
    """
    return list(text) if tokens == "characters" else [w for w in text.replace("\n", " \n ").split(" ") if w]


def windows(ids: Tensor, length: int, ends: bool, what: str) -> list[Tensor]:
    """Contiguous windows of `length` steps that share none. What is left over is one more where records end early, else left out."""
    parts = list(ids.split(length))
    if parts and len(parts[-1]) < length and not ends:
        parts.pop()
    if not parts:
        raise DataError(f"{what} has {len(ids)} symbols, fewer than a record of {length}. Give a longer one, or a smaller length=.")
    return parts


def frames(piece: Any, what: str) -> Tensor:
    """Steps of MIDI notes -> (steps, 88) uint8; -1 is silence. Raises `DataError` naming the step and the note."""
    if isinstance(piece, str) or not isinstance(piece, Sequence):
        raise DataError(f"{what} is no list of steps. Give [[60, 64, 67], [60, 65], ...]: a list of MIDI notes per step.")
    out = np.zeros((len(piece), KEYS), np.uint8)
    for t, step in enumerate(piece):
        if not isinstance(step, Sequence) or isinstance(step, str):
            raise DataError(f"{what}, step {t}, is {step!r}, not a list of MIDI notes. Give [] for silence and [60] for one note.")
        for note in step:
            if isinstance(note, bool) or not isinstance(note, (int, np.integer)) or not (note == -1 or LOWEST <= note < LOWEST + KEYS):
                raise DataError(
                    f"{what}, step {t}, holds {note!r}; a piano's MIDI notes are whole numbers {LOWEST} to {LOWEST + KEYS - 1} (-1 is "
                    "silence). Transpose or leave it out."
                )
            if note >= 0:
                out[t, note - LOWEST] = 1
    return torch.from_numpy(out)
