"""Everything that applies to one model, in one go."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from .. import store
from ..data import as_data
from ..errors import ConfigError, DataError, RunError, Unsupported
from ..model import Model
from .attributes import Attribute, Edit, attributes_of, edit
from .lens import Lens, Shown
from .paths import Arithmetic, Grid, Interpolation, Traversal, arithmetic, grid, interpolate, traverse
from .shift import PixelShift, pixel_shift
from .smoothness import Gaps, Lipschitz, finite, gaps, lipschitz
from .spread import Probe, Scatter, linear_probe, scatter

__all__ = ["Exploration", "Neighbours", "explore", "neighbours"]

PARTS = {
    "interpolation": "Walks between records",
    "arithmetic": "Sums of codes",
    "grid": "The square of codes",
    "scatter": "Codes by class",
    "traversal": "One dimension at a time",
    "edits": "Attributes, added and removed",
    "probe": "What a linear reader finds",
    "gaps": "Between the clusters",
    "lipschitz": "How steep the decoder is",
    "neighbours": "Samples and their nearest training records",
    "shift": "One pixel to the left",
}
"""What an exploration holds, and its headings."""


@dataclass(frozen=True)
class Neighbours:
    """Samples, each with its nearest training record."""

    samples: Shown
    nearest: Shown
    distance: torch.Tensor
    """Over the median distance of a held-out record to its nearest training record: far below 1 for copies."""


def neighbours(lens: Lens, n: int = 10) -> Neighbours:
    """Draw n records and find the training records nearest to them, by pixels or standardised columns."""
    drawn = lens.model.sample(n, condition=lens.conditions([i % len(lens.held) for i in range(n)]), seed=lens.seed)
    x = drawn if lens.model.schema is None else lens.data.schema.encode(drawn)
    distance, near = lens.nearest(x)
    records = near if lens.model.schema is None else lens.data.schema.decode(near)
    return Neighbours(Shown(drawn, x), Shown(records, near), distance / lens.typical if lens.typical > 0 else distance)


@dataclass
class Exploration:
    """What was found inside a model. A part that does not apply is None, and `skipped` says why."""

    model: str
    lens: Lens = field(repr=False)
    seed: int = 0
    interpolation: tuple[Interpolation, ...] | None = None
    """Linear, then spherical."""
    arithmetic: Arithmetic | None = None
    grid: Grid | None = None
    scatter: Scatter | None = None
    traversal: Traversal | None = None
    edits: tuple[Edit, ...] | None = None
    probe: Probe | None = None
    gaps: Gaps | None = None
    lipschitz: Lipschitz | None = None
    neighbours: Neighbours | None = None
    shift: PixelShift | None = None
    skipped: dict[str, str] = field(default_factory=dict)
    """Part -> why it does not apply to this model or these records."""
    seconds: float = 0.0

    @property
    def means(self) -> bool:
        """Whether decoded images are shown as the mean of p(x | z), not as the most probable image."""
        return self.lens.means

    def to_json(self) -> dict[str, Any]:
        """The figures as plain values; pictures and codes are left out."""
        lens = self.lens
        out: dict[str, Any] = {
            "model": self.model,
            "config": lens.model.describe()["config"],
            "data": (lens.data.source or {}).get("source"),
            "records": {"training": len(lens.train), lens.held_name: len(lens.held)},
            "seed": self.seed,
            "versions": store.versions(),
            "skipped": dict(self.skipped),
        }
        if type(lens.model).supports("encode") and self.scatter is not None:
            s = self.scatter
            out["scatter"] = {"plane": s.how, "silhouette": s.silhouette, "knn_accuracy": None if s.accuracy is None else vars(s.accuracy)}
        if self.grid is not None:
            out["grid"] = {"dims": list(self.grid.dims), "through": self.grid.through, "side": self.grid.side}
        if self.traversal is not None:
            t = self.traversal
            out["traversal"] = {"active_units": t.active, "code_dim": len(t.spread), "dims": list(t.dims), "spread": t.spread.tolist()}
        if self.edits is not None:
            known: dict[str, Attribute] = {e.attribute.name: e.attribute for e in self.edits}
            out["attributes"] = {
                name: {
                    "with": a.count,
                    "of": a.total,
                    "balanced_accuracy": a.accuracy,
                    "difference": a.difference.tolist(),
                    "normal": a.normal.tolist(),
                }
                for name, a in known.items()
            }
        if self.probe is not None:
            out["probe"] = self.probe.to_json()
        if self.gaps is not None:
            g = self.gaps
            out["gaps"] = {
                "between": [list(pair) for pair in g.between],
                "emptiness": g.emptiness.tolist(),
                "distance": g.distance.tolist(),
                "median_distance": g.ratio,
                "at_codes": g.at_codes,
            }
        if self.lipschitz is not None:
            found = self.lipschitz
            out["lipschitz"] = {
                "median": found.median,
                "p95": found.high,
                "relative_median": finite(found.relative),
                "n": len(found.values),
            }
        if self.neighbours is not None:
            out["neighbours"] = {"distance": self.neighbours.distance.tolist()}
        if self.shift is not None:
            s = self.shift
            rows = {"shift": s.shift, "reconstruction": s.reconstruction, "other": s.other}
            out["pixel_shift"] = {
                "n": s.n,
                "space": s.space,
                **{k: None if v is None else vars(v) for k, v in rows.items()},
                "share_of_another_image": {k: finite(s.share(k)) for k in ("mse", "ssim", "features")},
            }
        return out

    def save(self, folder: str | Path) -> Path:
        """Write `explore.html`, one page that opens offline, and `explore.json` into a folder; gives the page's path.

        Raises `RunError` when they cannot be written.
        """
        from .page import render

        folder = Path(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"Could not make the folder {folder}: {error}. Give another one.") from error
        text = render(self)
        page = folder / "explore.html"
        store.atomic(page, lambda draft: draft.write_text(text, encoding="utf-8"))
        store.write_json(folder / "explore.json", self.to_json())
        return page


def explore(
    model: Model | str | Path,
    data: Any = None,
    *,
    n: int = 2000,
    steps: int = 9,
    side: int = 20,
    dims: tuple[int, ...] | None = None,
    records: tuple[int, ...] | None = None,
    attributes: Mapping[str, Any] | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Exploration:
    """Look inside a fitted model with every tool that applies to it.

    Parameters
    ----------
    model
        A fitted model, or a run folder.
    data
        A `Data`, or anything `load_data` takes; None reads a run's own data again.
    n
        Training records to encode at most; half as many held-out ones.
    steps
        Records on each walk and traversal.
    side
        The square of codes is this many records wide and high.
    dims
        The two dimensions of the code that the square shows; None for the two most variable ones.
    records
        Positions of held-out records to walk between, two for each walk; None lets the seed choose, of different classes.
    attributes
        Names and, for each, a boolean per record in the order of the source; None takes the classes and the columns of yes and no.
    seed
        Fixes the records and every draw.
    progress
        Say on stderr what is being done.

    Raises
    ------
    NotFitted
        The model was not fitted.
    DataError
        No data were given and the model is no run folder.
    ConfigError
        `dims`, `records` or a number is out of range.
    """
    if isinstance(model, (str, Path)):
        from ..data import reload
        from ..models import load

        run = store.Run.open(model)
        model, data = load(model), reload(run.data) if data is None else data
    if data is None:
        raise DataError("explore(model) needs data to encode: explore(model, data), or give a run folder, whose own data are read again.")
    started = time.perf_counter()
    lens = Lens(model, as_data(data), n=n, seed=seed)
    _check(lens, dims, records, steps, side)
    found = Exploration(lens.name, lens, seed)
    pairs = [(records[i], records[i + 1]) for i in range(0, len(records), 2)] if records else _pairs(lens, 4)
    row = records[0] if records else pairs[0][0]
    work: dict[str, tuple[tuple[str, ...], Callable[[], Any]]] = {
        "interpolation": (
            ("encode", "decode"),
            lambda: tuple(interpolate(lens, pairs, method=m, steps=steps) for m in ("linear", "spherical")),
        ),
        "arithmetic": (("encode", "decode"), lambda: arithmetic(lens, _triples(lens, 4))),
        "grid": (("decode",), lambda: grid(lens, side=side, dims=dims)),
        "scatter": (("encode",), lambda: scatter(lens)),
        "traversal": (("decode",), lambda: traverse(lens, row, steps=steps)),
        "edits": (("encode", "decode"), lambda: _edits(lens, attributes)),
        "probe": (("encode",), lambda: linear_probe({lens.name: lens.model}, lens.data, n=n, counts=(100, 1000), seed=seed)),
        "gaps": (("encode", "decode"), lambda: gaps(lens)),
        "lipschitz": (("decode",), lambda: lipschitz(lens)),
        "neighbours": (("sample",), lambda: neighbours(lens)),
        "shift": ((), lambda: pixel_shift(lens)),
    }
    for i, (name, (verbs, do)) in enumerate(work.items()):
        missing = next((v for v in verbs if not type(lens.model).supports(v)), None)
        if missing is not None:
            reason = lens.model.unsupported.get(missing, f"this family defines no {missing}.")
            found.skipped[name] = f"{lens.name} has no {missing}: {reason}"
            continue
        if progress:
            store.say(f"explore {i + 1:2d}/{len(work)}  {PARTS[name]}")
        try:
            setattr(found, name, do())
        except (DataError, Unsupported) as error:
            found.skipped[name] = str(error)
    found.seconds = time.perf_counter() - started
    return found


def _check(lens: Lens, dims: Sequence[int] | None, records: Sequence[int] | None, steps: int, side: int) -> None:
    """What the user asked for, before any work."""
    if dims is not None and (len(dims) != 2 or dims[0] == dims[1] or min(dims) < 0):
        raise ConfigError(f"dims={tuple(dims)} must be two different dimensions of the code, such as 0 1.")
    if records is not None and (len(records) < 2 or len(records) % 2):
        raise ConfigError(f"records={tuple(records)} must be positions of held-out records in pairs, two for each walk.")
    if records is not None and not all(0 <= i < len(lens.held) for i in records):
        raise ConfigError(f"records={tuple(records)} must be positions among the {len(lens.held)} {lens.held_name} records, from 0.")
    for name, value in (("steps", steps), ("side", side)):
        if value < 2:
            raise ConfigError(f"{name} must be at least 2, got {value}.")


def _edits(lens: Lens, given: Mapping[str, Any] | None) -> tuple[Edit, ...]:
    """For each attribute, two records that lack it, along the difference of means; and the first along the normal as well."""
    out = []
    for attribute in attributes_of(lens, given):
        rows = [k % len(lens.held) for k in (0, 1)]
        out += [edit(lens, attribute, rows), edit(lens, attribute, rows, by="normal")]
    return tuple(out)


def _pairs(lens: Lens, n: int) -> list[tuple[int, int]]:
    """Pairs of held-out records, of different classes where there are any, in their seeded order."""
    m = len(lens.held)
    if not lens.classes or lens.held.condition is None:
        return [((2 * i) % m, (2 * i + 1) % m) for i in range(min(n, max(1, m // 2)))]
    labels = lens.labels(lens.held)
    out, used = [], set()
    for i in range(m):
        j = next((j for j in range(i + 1, m) if j not in used and labels[j] != labels[i]), None)
        if i not in used and j is not None:
            out.append((i, j))
            used |= {i, j}
        if len(out) == n:
            break
    return out or [(0, m - 1)]


def _triples(lens: Lens, n: int) -> list[tuple[int, int, int]]:
    """a, b, c with a and b of one class and c of another, so that a - b is a matter of style."""
    m = len(lens.held)
    if lens.classes and lens.held.condition is not None:
        labels = lens.labels(lens.held)
        out = []
        for k in dict.fromkeys(labels.tolist()):
            mine, other = (labels == k).nonzero()[0].tolist(), (labels != k).nonzero()[0].tolist()
            if len(mine) > 1 and other:
                out.append((mine[0], mine[1], other[len(out) % len(other)]))
        if out:
            return out[:n]
    return [(i, i + 1, i + 2) for i in range(0, min(3 * n, m - 2), 3)] or [(0, 0, 0)]
