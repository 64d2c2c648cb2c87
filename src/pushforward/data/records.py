"""Records in memory, once: a storage tensor, split into training, validation and test records.

Discrete records of up to 256 values are stored as bytes, others as standardised floats. `load_data` copies the source once, in the order of
a seeded permutation; the three splits are slices of that copy, and a batch is gathered from it by index. Nothing else holds the data.
"""

import hashlib
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..errors import DataError
from ..rng import Rng
from .schema import Condition, Schema, one_hot_rows
from .spec import DataSpec


class Records:
    """Some records of a data set, with their labels if there are any.

    Parameters
    ----------
    schema
        What the records look like to their owner.
    x
        Storage, (n, *spec.shape): bytes for small discrete supports, floats otherwise.
    condition
        int64 codes (n,) of classes, -1 where the label is missing; floats (n, C); or None.
    dynamic
        None, or the storage value that means probability 1: then x / dynamic are the probabilities from which
        each `batch` draws binary records anew.
    """

    def __init__(self, schema: Schema, x: Tensor, condition: Tensor | None = None, dynamic: float | None = None):
        self.schema, self.x, self.condition, self.dynamic = schema, x, condition, dynamic
        self._eye: Tensor | None = None

    def __len__(self) -> int:
        return len(self.x)

    @property
    def unlabelled(self) -> int:
        """Records whose label is missing; 0 when there are no labels at all."""
        classes = self.condition is not None and not self.condition.is_floating_point()
        return int((self.condition < 0).sum()) if classes and self.condition is not None else 0

    def __getitem__(self, index: slice | Tensor) -> "Records":
        return self.subset(index)

    def subset(self, index: slice | Tensor) -> "Records":
        """Those records alone: a view for a slice, a copy for a tensor of positions."""
        if not isinstance(index, slice):
            index = torch.as_tensor(index)
        return Records(self.schema, self.x[index], None if self.condition is None else self.condition[index], self.dynamic)

    def to(self, device: torch.device | str) -> "Records":
        """The same records with their storage on another device; itself when already there."""
        if self.x.device == torch.device(device):
            return self
        return Records(self.schema, self.x.to(device), None if self.condition is None else self.condition.to(device), self.dynamic)

    def batch(self, index: Tensor, rng: Rng) -> tuple[Tensor, Tensor | None]:
        """x (B, *shape) and c (B, condition dim) or None for the rows `index` (B,), in the dtype and on the device of `rng`.

        With dynamic binarisation x ~ Bernoulli(storage / dynamic), drawn from `rng` (Burda et al., ICLR 2016, sec. 5).
        """
        x = self.x.index_select(0, index.to(self.x.device))  # whole rows at once: a quarter of the time of x[index]
        if x.dtype != rng.dtype or x.device != rng.device:
            x = x.to(rng.device, rng.dtype)
        if self.dynamic is not None:
            x = (rng.rand(*x.shape) * self.dynamic < x).to(rng.dtype)
        if self.condition is None:
            return x, None
        c = self.condition[index]
        if c.is_floating_point():
            return x, c.to(rng.device, rng.dtype)
        if self._eye is None or self._eye.dtype != rng.dtype or self._eye.device != rng.device:
            assert self.schema.condition is not None
            self._eye = one_hot_rows(self.schema.condition.dim, rng.dtype, rng.device)
        return x, self._eye[c.to(rng.device)]

    def tensor(self, dtype: torch.dtype | None = None) -> Tensor:
        """All records as floats (n, *shape), in the default floating type unless told otherwise.

        Records under dynamic binarisation are drawn once, from a fixed seed.
        """
        dtype = dtype or torch.get_default_dtype()
        x = self.x.to(dtype)
        return x if self.dynamic is None else binarized(x, self.dynamic, seed=0).to(dtype)

    def vectors(self, dtype: torch.dtype | None = None) -> Tensor | None:
        """The condition of every record as the vectors (n, condition dim) that models see, or None."""
        if self.condition is None or self.schema.condition is None:
            return None
        return self.schema.condition.vectors(self.condition, dtype)

    def records(self) -> Any:
        """The records in the user's own form."""
        return self.schema.decode(self.tensor())

    def labels(self) -> Any:
        """The labels in the user's own values (NumPy), or None."""
        if self.condition is None or self.schema.condition is None:
            return None
        return self.schema.condition.labels(self.condition)

    def __repr__(self) -> str:
        return f"Records({len(self)} of {self.schema.spec})"


@dataclass
class Data:
    """A data set: its schema and its fixed, seeded training, validation and test records.

    `truth` is the density that the records were drawn from, in the user's units, for the built-in sets where it is known.
    """

    schema: Schema
    train: Records
    validation: Records
    test: Records
    source: dict[str, Any] | None = None
    """`{"source": name or path, "options": {...}}` from which `reload` can read the data again, or None for data given in memory."""
    truth: Any = None
    order: Tensor | None = field(default=None, repr=False)
    """Position in the source of each stored record (train, then validation, then test)."""
    notes: tuple[str, ...] = ()
    """What was left out on the way in: dropped rows, skipped files."""

    @property
    def spec(self) -> DataSpec:
        return self.schema.spec

    def __len__(self) -> int:
        return len(self.train) + len(self.validation) + len(self.test)

    def with_label(self, label: Any) -> "Data":
        """The same records with other labels, one per record in the order of the source.

        Raises `DataError` when their number differs from that of the records.
        """
        condition = Condition.of(label)
        stored = condition.store(label)
        if len(stored) != len(self):
            raise DataError(f"{len(stored)} labels for {len(self)} records. Give one label per record, in the order of the source.")
        stored = stored if self.order is None else stored[self.order]
        schema, parts, start = self.schema.with_condition(condition), [], 0
        for part in (self.train, self.validation, self.test):
            parts.append(Records(schema, part.x, stored[start : start + len(part)], part.dynamic))
            start += len(part)
        return Data(schema, parts[0], parts[1], parts[2], None, self.truth, self.order, self.notes)

    def fingerprint(self) -> str:
        """sha256 of the training storage and labels: changes when any training record does."""
        digest = hashlib.sha256()
        for t in (self.train.x, self.train.condition):
            if t is not None:
                digest.update(str((t.dtype, tuple(t.shape))).encode())
                digest.update(t.contiguous().cpu().numpy().data.cast("B"))
        return digest.hexdigest()

    def counts(self) -> dict[str, int]:
        return {"train": len(self.train), "validation": len(self.validation), "test": len(self.test)}

    def describe(self) -> dict[str, Any]:
        """The data set as JSON for a run folder: schema, source (null for data in memory), fingerprint, counts."""
        return {"schema": self.schema.to_json(), "source": self.source, "fingerprint": self.fingerprint(), "counts": self.counts()}

    def summary(self) -> str:
        """The data set in words: kind, shape, support, columns, counts and classes."""
        spec, lines = self.spec, []
        lines.append(f"source      {self.source['source'] if self.source else 'in memory'}")
        lines.append(f"records     {len(self)} = " + " + ".join(f"{n} {k}" for k, n in self.counts().items()))
        lines.append(f"kind        {spec.kind}, shape {' x '.join(map(str, spec.shape))}, {spec.dim} entries")
        unit = "probabilities" if spec.discrete else "densities" if spec.continuous else "mixed"
        lines.append(f"support     {spec.support or 'one per column'} ({unit})")
        if self.train.dynamic is not None:
            lines.append("binarised   dynamically: each training batch is drawn anew; validation and test are drawn once")
        if self.schema.condition is not None:
            lines.append(f"condition   {self.schema.condition}")
        lines.extend(f"note        {note}" for note in self.notes)
        table = getattr(self.schema, "table", None)
        if table is not None:
            lines.extend(["", *table()])
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"Data({self.spec}; {', '.join(f'{n} {k}' for k, n in self.counts().items())})"


def without_label(stored: Tensor) -> tuple[str, ...]:
    """A note on how many records have none, if any."""
    missing = 0 if stored.is_floating_point() else int((stored < 0).sum())
    return (f"{missing} of {len(stored)} records have no label",) if missing else ()


@dataclass(frozen=True)
class Split:
    """Which record goes where: `order` lists the source's positions, training records first. None keeps the source's order."""

    order: Tensor | None
    train: int
    validation: int
    test: int

    @classmethod
    def make(cls, n: int, validation: float, test: float, seed: int) -> "Split":
        """Fractions (below 1) or numbers (integers) of records held out, drawn by a permutation seeded with `seed`."""
        if n < 10 and (validation or test):
            raise DataError(f"{n} records are too few to split into training, validation and test. Give at least 10.")
        held = [_count(n, share, name) for share, name in ((validation, "validation"), (test, "test"))]
        if n - sum(held) < max(1, n // 10):
            raise DataError(f"validation={validation} and test={test} leave {n - sum(held)} of {n} records for training. Hold out fewer.")
        order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
        return cls(order, n - sum(held), held[0], held[1])

    @property
    def slices(self) -> tuple[slice, slice, slice]:
        a, b = self.train, self.train + self.validation
        return slice(0, a), slice(a, b), slice(b, b + self.test)

    def __len__(self) -> int:
        return self.train + self.validation + self.test


def _count(n: int, share: float, name: str) -> int:
    if isinstance(share, bool) or not isinstance(share, (int, float)) or share < 0 or share >= n or (share > 1 and share != int(share)):
        raise DataError(f"{name}={share!r} is neither a share of the records (0 to 1) nor a number of them below {n}.")
    if share and share < 1:
        return max(1, round(n * share))
    return int(share)


def binarized(x: Tensor, top: float, seed: int) -> Tensor:
    """Binary draws (uint8) with probabilities x / top, from a fixed seed, a block of records at a time."""
    generator = torch.Generator().manual_seed(seed)
    out = torch.empty(x.shape, dtype=torch.uint8)
    for at in range(0, len(x), 4096):
        block = x[at : at + 4096].cpu()
        out[at : at + 4096] = torch.rand(block.shape, generator=generator) * top < block
    return out
