"""Directions in code space that stand for an attribute, and records edited along them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ..errors import ConfigError, DataError
from .lens import Lens, Shown

__all__ = ["Attribute", "Edit", "attributes_of", "direction", "edit"]


@dataclass(frozen=True)
class Attribute:
    """What having an attribute does to codes."""

    name: str
    count: int
    """Records that have it, of `total`."""
    total: int
    difference: Tensor
    """mean code with it - mean code without it, (d,) (Larsen et al. 2016)."""
    normal: Tensor
    """The normal of a logistic regression's boundary, as long as the two means are apart along it, (d,)."""
    accuracy: float | None = None
    """Balanced accuracy of that regression on held-out codes: 0.5 when the codes do not tell."""

    def along(self, by: Literal["difference", "normal"]) -> Tensor:
        if by not in ("difference", "normal"):
            raise ConfigError(f"by={by!r} is neither 'difference' nor 'normal'.")
        return self.difference if by == "difference" else self.normal


def direction(z: Tensor, has: Any, name: str = "attribute", *, held: tuple[Tensor, Any] | None = None) -> Attribute:
    """The attribute's direction from codes z (n, d) and booleans `has` (n,).

    The difference of means also moves whatever goes with the attribute in these records; the normal of a logistic regression (on
    standardised codes, C = 1) moves only what tells it, given all other dimensions. `held` are codes and booleans to judge it by.

    Raises `DataError` when fewer than 2 records have it, or lack it.
    """
    has = np.asarray(has).astype(bool)
    z = z.double()
    if has.shape != (len(z),):
        raise DataError(f"{name!r} has shape {has.shape}; give one boolean for each of the {len(z)} records.")
    if min(has.sum(), (~has).sum()) < 2:
        raise DataError(f"{int(has.sum())} of {len(has)} records have {name!r}: a direction needs at least 2 with it and 2 without.")
    from sklearn.linear_model import LogisticRegression

    mask = torch.from_numpy(has)
    difference = z[mask].mean(0) - z[~mask].mean(0)
    centre, sd = z.mean(0), z.std(0).clamp_min(1e-12)
    fitted = LogisticRegression(max_iter=1000, class_weight="balanced").fit(((z - centre) / sd).numpy(), has)
    w = torch.from_numpy(fitted.coef_[0]) / sd
    unit = w / w.norm().clamp_min(1e-300)
    accuracy = None
    if held is not None:
        truth = np.asarray(held[1]).astype(bool)
        if truth.any() and not truth.all():
            said = fitted.predict(((held[0].double() - centre) / sd).numpy())
            accuracy = float((said[truth].mean() + (~said[~truth]).mean()) / 2)
    return Attribute(name, int(has.sum()), len(has), difference, unit * (difference @ unit), accuracy)


def attributes_of(lens: Lens, given: Mapping[str, Any] | None = None, most: int = 4) -> list[Attribute]:
    """Attributes that the data name: those `given`, else each class of the labels (or the second of two) and each column of yes and no.

    `given` maps a name to booleans, one for each record of the data in the order of the source.
    """
    z, z_held = lens.z, lens.z_held
    flags: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    if given is not None:
        flags |= {name: _split(lens, name, values) for name, values in given.items()}
    else:
        if lens.classes:
            a, b = lens.labels(lens.train), lens.labels(lens.held)
            shown = range(1, 2) if len(lens.classes) == 2 else range(len(lens.classes))
            label: Any = lens.data.schema.condition
            flags |= {f"{label.name} is {lens.classes[k]}": (a == k, b == k) for k in shown}
        flags |= _columns(lens)
    if not flags:
        raise DataError("No attribute: the records have no classes and no column of yes and no. Give attributes={name: booleans}.")
    found = []
    for name, (a, b) in flags.items():
        if len(found) < most and min(a.sum(), (~a).sum()) >= 2:
            found.append(direction(z, a, name, held=(z_held, b)))
    if not found:
        raise DataError("No attribute is had by 2 records and lacked by 2.")
    return found


def _columns(lens: Lens) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The columns of a table with two values, as whether a record has the second."""
    data = lens.data
    two = [i for i, s in enumerate(data.spec.columns) if s.size == 2]
    if data.spec.kind != "table" or not two:
        return {}
    frame: Any = data.schema.decode(lens.held.tensor())
    a, b = lens.train.tensor(), lens.held.tensor()
    names = [str(n) for n in frame.columns]
    if len(names) != data.spec.dim:
        return {}
    out = {}
    for i in two:
        values = frame[frame.columns[i]][(b[:, i] == 1).numpy()]
        value = f" is {values.iloc[0]}" if len(values) else ""
        out[f"{names[i]}{value}"] = ((a[:, i] == 1).numpy(), (b[:, i] == 1).numpy())
    return out


def _split(lens: Lens, name: str, values: Any) -> tuple[np.ndarray, np.ndarray]:
    """Booleans in the order of the source, as those of the encoded training and held-out records."""
    data = lens.data.with_label(np.asarray(values).astype(bool).astype(int))
    again = Lens(lens.model, data, n=lens.n, seed=lens.seed)
    if len(again.classes) < 2:
        raise DataError(f"The attribute {name!r} is the same for all records.")
    return again.labels(again.train).astype(bool), again.labels(again.held).astype(bool)


@dataclass(frozen=True)
class Edit:
    """Records with an attribute added or removed by degrees."""

    attribute: Attribute
    by: Literal["difference", "normal"]
    rows: tuple[int, ...]
    strengths: tuple[float, ...]
    codes: Tensor
    """(rows, strengths, d)."""
    decoded: Shown


def edit(
    lens: Lens,
    attribute: Attribute,
    rows: Sequence[int],
    *,
    strengths: Sequence[float] = (-1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5),
    by: Literal["difference", "normal"] = "difference",
) -> Edit:
    """Decode z + s v for the held-out records `rows` and strengths s: 1 adds the attribute as the mean record has it, -1 removes it."""
    v = attribute.along(by)
    z = lens.z_held.double()[list(rows)]
    s = torch.tensor(list(strengths), dtype=torch.float64)
    codes = z[:, None] + s[None, :, None] * v
    condition = lens.conditions(i for i in rows for _ in strengths)
    return Edit(attribute, by, tuple(rows), tuple(strengths), codes, lens.decode(codes.flatten(0, 1), condition))
