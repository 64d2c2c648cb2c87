"""The tables of the page: the leaderboard, and one for each further group of figures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..figures import FIGURES
from ..metrics import Estimate
from .differences import best
from .leaderboard import Entry
from .words import KIND, MARK, MEASURE, explained, number, parts, plainly

COLUMNS = ("log_prob", "bits_per_dim", "density", "coverage", "frechet", "samples_per_second", "training_seconds")
BESIDE = {
    "density": ("precision",),
    "coverage": ("recall",),
    "samples_per_second": ("nfe",),
    "training_seconds": ("peak_memory", "parameters"),
}
"""What stands beneath a figure."""
HEADINGS = {"density": "quality"}
GROUPS = {
    "distance": "Distances from held-out records",
    "mixture": "Against the known mixture",
    "table": "Fidelity of columns",
    "copying": "Copying and duplicates",
}
"""Groups of figures that have a table of their own."""


@dataclass(frozen=True)
class Cell:
    """One figure in a table: its text, smaller lines beneath, and its place."""

    name: str
    text: str
    below: tuple[str, ...] = ()
    place: str = ""
    """`best` for the leader of the column, `tied` for those that cannot be told apart from it."""


@dataclass(frozen=True)
class Board:
    """A table: models down, figures across, and what real records score."""

    title: str
    headings: list[str]
    rows: list[tuple[Entry, list[Cell]]]
    yardstick: list[Cell]
    meanings: list[tuple[str, str]]


def heading(name: str) -> str:
    return HEADINGS.get(name, FIGURES[name].label)


def leaderboard(done: Sequence[Entry], real: Mapping[str, Estimate]) -> Board:
    """The first table."""
    names = [n for n in COLUMNS if any(e.runs(n) for e in done)]
    leaders = {n: [e.key for e in best(done, n)] for n in names if FIGURES[n].group != "cost"}
    rows = [(e, [_cell(e, n, leaders.get(n, [])) for n in names]) for e in done]
    meanings = [(heading(n), _meaning(n)) for n in names]
    return Board("", [heading(n) for n in names], rows, _real(names, real), meanings)


def _meaning(name: str) -> str:
    further = {
        "log_prob": " ≥ marks a lower bound, ≈ an estimate.",
        "bits_per_dim": " From a bound on log p(x) it is an upper bound, marked ≤.",
    }
    beneath = "".join(f" Beneath: {FIGURES[n].label}. {explained(n)}" for n in BESIDE.get(name, ()))
    return explained(name) + further.get(name, "") + beneath


def _cell(e: Entry, name: str, leaders: Sequence[str]) -> Cell:
    figure = e.figure(name)
    if figure is None:
        return Cell(heading(name), "–", ("no likelihood",) if name == "log_prob" and e.kind == "none" else ())
    value, spread = parts(figure, 5) if name in ("log_prob", "bits_per_dim") else plainly(name, figure)
    both = e.both(name) if FIGURES[name].group not in ("cost", "speed") else None
    below = [spread] if both is None else [f"seeds ± {number(both[0], 2)}", f"records ± {number(both[1], 2)}"]
    if name == "log_prob":
        value = MARK[e.kind] + value
        measure = next((v.base_measure for v in e.done if v.base_measure), "")
        below += [KIND[e.kind], MEASURE.get(measure, measure)]
    if name == "bits_per_dim":
        value = ("≤ " if e.kind == "bound" else MARK[e.kind]) + value
    below += [_beneath(n, other) for n in BESIDE.get(name, ()) if (other := e.figure(n)) is not None]
    place = "" if e.key not in leaders else "best" if e.key == leaders[0] else "tied"
    return Cell(heading(name), value, tuple(filter(None, below)), place)


def _beneath(name: str, figure: Estimate) -> str:
    if name in ("nfe", "parameters"):
        return f"{FIGURES[name].label} {plainly(name, figure)[0]}"
    return plainly(name, figure)[0] if name == "peak_memory" else f"{FIGURES[name].label} {number(figure.value, 2)}"


def _real(names: Sequence[str], real: Mapping[str, Estimate]) -> list[Cell]:
    def cell(name: str) -> Cell:
        if name not in real:
            return Cell(heading(name), "")
        value, spread = plainly(name, real[name])
        below = [spread, *(_beneath(n, real[n]) for n in BESIDE.get(name, ()) if n in real)]
        return Cell(heading(name), value, tuple(filter(None, below)))

    return [cell(n) for n in names] if any(n in real for n in names) else []


def further(done: Sequence[Entry], real: Mapping[str, Estimate]) -> list[Board]:
    """A table for each group of figures that the leaderboard leaves out, where any model has one."""
    out = []
    for group, title in GROUPS.items():
        names = [
            n for n, about in FIGURES.items() if (about.group == group or (group == "distance" and n in ("classes_captured", "class_kl")))
        ]
        names = [n for n in names if n not in COLUMNS and any(e.runs(n) for e in done)]
        if names:
            out.append(_table(title, names, done, real, None))
    return out


def spaces(done: Sequence[Entry]) -> list[Board]:
    """The samples' figures in every other feature space."""
    keys = list(dict.fromkeys(key for e in done for v in e.done for key in v.spaces))
    out = []
    for key in keys:
        names = [n for n in FIGURES if any(e.runs(n, key) for e in done)]
        out.append(_table(key, names, done, {}, key))
    return out


def _table(title: str, names: Sequence[str], done: Sequence[Entry], real: Mapping[str, Estimate], space: str | None) -> Board:
    def cell(e: Entry, name: str) -> Cell:
        figure = e.figure(name, space)
        if figure is None:
            return Cell(heading(name), "–")
        modes = next((v.modes for v in e.done if v.modes), None)
        value, spread = plainly(name, figure)
        if name in ("modes_captured", "classes_captured"):
            value = f"{figure.value:.3g}" + (f" of {modes}" if modes else "")
        if name == "kl":
            value = {"bound": "≤ ", "estimate": "≈ "}.get(e.kind, "") + value
        return Cell(heading(name), value, tuple(filter(None, [spread])))

    meanings = [(heading(n), explained(n)) for n in names]
    return Board(title, [heading(n) for n in names], [(e, [cell(e, n) for n in names]) for e in done], _real(names, real), meanings)
