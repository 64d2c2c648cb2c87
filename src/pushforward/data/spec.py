"""What a record is: its kind, its shape, and the support of its values.

The support fixes the unit of likelihood. Values on a finite set (`binary`, `levels`, `categories`) have
probabilities; `real` and `unit` values have densities with respect to Lebesgue measure in the user's own units.

Every model sees records as a floating tensor `x` of shape (B, *shape):

=============  ==========================================================
support        values of x
=============  ==========================================================
real           any finite number (standardised by the data layer)
unit           a number in [0, 1]
binary         0 or 1
levels(k)      an integer 0 .. k-1 whose order means something (grey level)
categories(k)  an integer 0 .. k-1 whose order means nothing (species)
=============  ==========================================================
"""

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

Kind = Literal["points", "table", "image", "sequence"]


@dataclass(frozen=True)
class Support:
    """The set of values that one entry of a record can take."""

    name: Literal["real", "unit", "binary", "levels", "categories"]
    size: int | None = None
    """How many values a discrete entry has; None for the continuous ones."""

    @property
    def discrete(self) -> bool:
        return self.size is not None

    def __str__(self) -> str:
        return f"{self.name}({self.size})" if self.name in ("levels", "categories") else self.name


REAL = Support("real")
UNIT = Support("unit")
BINARY = Support("binary", 2)


def levels(k: int) -> Support:
    """k ordered values 0 .. k-1, such as 256 grey levels."""
    return Support("levels", k)


def categories(k: int) -> Support:
    """k unordered values 0 .. k-1, such as species."""
    return Support("categories", k)


@dataclass(frozen=True)
class DataSpec:
    """The description of a record from which every model builds its networks.

    Parameters
    ----------
    kind
        `points` (a vector of numbers), `table` (a row of named columns), `image` (channels, height, width) or `sequence` (steps in time).
    shape
        The shape of one record: (D,), (C, H, W), or for sequences (T,) symbols or (T, K) frames of K bits.
    supports
        One `Support` for all entries, or (for tables) one for each of the D columns.
    condition_dim
        The width of the condition vector that the model is given, 0 for none. Labels arrive one-hot.
    ends
        Whether sequences may end before step T. The last category, or the last bit of a frame, then says that the record has ended, and
        holds from there to step T: the other entries of an ended frame are 0.
    """

    kind: Kind
    shape: tuple[int, ...]
    supports: tuple[Support, ...] = (REAL,)
    condition_dim: int = 0
    ends: bool = False

    @property
    def dim(self) -> int:
        """The number of entries of a record, D = prod(shape)."""
        return math.prod(self.shape)

    @property
    def support(self) -> Support | None:
        """The support that all entries share, or None for a mixed table."""
        return self.supports[0] if len(set(self.supports)) == 1 else None

    @property
    def columns(self) -> tuple[Support, ...]:
        """One support per entry of the flattened record, (D,)."""
        return self.supports if len(self.supports) == self.dim else self.supports * self.dim

    @property
    def discrete(self) -> bool:
        """True when every entry lives on a finite set, so that records have probabilities."""
        return all(s.discrete for s in self.supports)

    @property
    def continuous(self) -> bool:
        """True when no entry is discrete, so that records have a density."""
        return not any(s.discrete for s in self.supports)

    def with_condition(self, dim: int) -> "DataSpec":
        return replace(self, condition_dim=dim)

    def to_json(self) -> dict[str, Any]:
        state = {
            "kind": self.kind,
            "shape": list(self.shape),
            "supports": [[s.name, s.size] for s in self.supports],
            "condition_dim": self.condition_dim,
        }
        return {**state, "ends": True} if self.ends else state

    @classmethod
    def from_json(cls, state: dict[str, Any]) -> "DataSpec":
        return cls(
            state["kind"],
            tuple(state["shape"]),
            tuple(Support(name, size) for name, size in state["supports"]),
            state["condition_dim"],
            state.get("ends", False),
        )

    def __str__(self) -> str:
        support = str(self.support) if self.support else "mixed"
        return f"{self.kind} {'x'.join(map(str, self.shape))}, {support}"
