"""The leaderboard: one entry for each model, averaged over its seeds, with the kind of every likelihood beside it."""

import io
import math
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..compare import Comparison, Row

MARK = {"exact": "", "bound": "≥ ", "estimate": "≈ ", "none": ""}
KIND = {"exact": "exact", "bound": "lower bound", "estimate": "estimate", "none": "none"}
KEYS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True)
class Figure:
    """A mean with its uncertainty: over seeds when there are several, else over held-out records where that is known."""

    value: float
    spread: float | None = None


@dataclass(frozen=True)
class Entry:
    """The runs of one model, in the leaderboard's order."""

    key: str
    """A letter that stands for the model in pictures."""
    label: str
    rows: "list[Row]"

    @property
    def kind(self) -> str:
        """The kind of the likelihoods; the weakest where seeds differ."""
        kinds = {r.evaluation.kind for r in self.rows if r.evaluation is not None}
        return next((k for k in ("none", "estimate", "bound", "exact") if k in kinds), "none")

    @property
    def error(self) -> str | None:
        """Why there is nothing to show; None when at least one seed succeeded."""
        return None if any(r.evaluation is not None for r in self.rows) else self.rows[0].error

    @property
    def seeds(self) -> int:
        return sum(r.evaluation is not None for r in self.rows)

    def figure(self, name: str) -> Figure | None:
        """The mean of a figure over seeds, None where it does not apply."""
        done = [r.evaluation for r in self.rows if r.evaluation is not None]
        values = [v for v in (e.value(name) for e in done) if v is not None]
        if not values:
            return None
        mean = sum(values) / len(values)
        if len(values) > 1:
            return Figure(mean, math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1)))
        error = done[0].figures[name].stderr
        return Figure(mean, error if math.isfinite(error) else None)


def entries(comparison: "Comparison") -> list[Entry]:
    """The leaderboard's entries, best first; see `compare.rank` for the order."""
    return [Entry(KEYS[i % 26], group[0].label, group) for i, group in enumerate(comparison.groups())]


def real(comparison: "Comparison") -> dict[str, float]:
    """What real training records score against the held-out ones: the yardstick."""
    found = next((r.evaluation.real for r in comparison.rows if r.evaluation is not None and r.evaluation.real), {})
    return {name: estimate.value for name, estimate in found.items()}


# -- numbers --------------------------------------------------------------------------------------------------------


def number(value: float | None, digits: int = 3) -> str:
    """A number to `digits` significant digits with a true minus sign, `–` for None."""
    if value is None or not math.isfinite(value):
        return "–"
    if value != 0 and (abs(value) >= 10 ** max(digits, 5) or abs(value) < 1e-3):
        return f"{value:.{digits - 1}e}".replace("-", "−").replace("e+0", "e").replace("e−0", "e−")
    decimals = digits if value == 0 else max(0, digits - 1 - math.floor(math.log10(abs(value))))
    return f"{value:,.{decimals}f}".replace("-", "−")


def parts(figure: Figure | None, digits: int = 3) -> tuple[str, str]:
    """(`1.234`, `± 0.012`): as many decimals as the spread's two digits need, five digits at most; to `digits` where no spread is known."""
    if figure is None:
        return "–", ""
    if figure.spread is None or not math.isfinite(figure.spread) or figure.spread == 0 or abs(figure.value) >= 1e6:
        return number(figure.value, digits), ""
    whole = math.floor(math.log10(max(abs(figure.value), figure.spread)))
    decimals = max(0, min(1 - math.floor(math.log10(figure.spread)), 4 - whole))
    return f"{figure.value:,.{decimals}f}".replace("-", "−"), f"± {figure.spread:.{decimals}f}"


def with_spread(figure: Figure | None, digits: int = 3) -> str:
    """`1.234 ± 0.012` on one line."""
    return " ".join(parts(figure, digits)).strip()


def counted(value: float | None) -> str:
    """A large count in short: `1.2 M`, `34 k`, `512`."""
    if value is None:
        return "–"
    for size, unit in ((1e9, " G"), (1e6, " M"), (1e4, " k")):
        if value >= size:
            return f"{value / (1e3 if unit == ' k' else size):.3g}{unit}"
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def duration(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.1f} min"


# -- the terminal ---------------------------------------------------------------------------------------------------


def as_text(comparison: "Comparison") -> str:
    """The leaderboard as text for the terminal, with its notes."""
    from rich.console import Console

    console = Console(file=io.StringIO(), force_terminal=sys.stdout.isatty(), width=_width(), highlight=False)
    _print(comparison, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().rstrip()


def _width() -> int:
    import shutil

    return shutil.get_terminal_size().columns if sys.stdout.isatty() else 160


def _print(comparison, console) -> None:
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    found = entries(comparison)
    discrete = any(e.figure("bits_per_dim") for e in found)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("model")
    for name in (
        "log p, nats",
        *(["bits/dim"] if discrete else []),
        "quality",
        "coverage",
        "Fréchet",
        "samples/s",
        "NFE",
        "params",
        "training",
    ):
        table.add_column(name, justify="right", no_wrap=name not in ("log p, nats", "bits/dim"))
    for e in found:
        if e.error is not None:
            continue
        mark, below = MARK[e.kind], {"bound": "≤ "}.get(e.kind, MARK[e.kind])
        likelihood, bits = e.figure("log_prob"), e.figure("bits_per_dim")
        nfe, size, speed, seconds = (e.figure(k) for k in ("nfe", "parameters", "samples_per_second", "training_seconds"))
        table.add_row(
            escape(e.label),
            f"{mark}{with_spread(likelihood, 5)} {KIND[e.kind]}" if likelihood else "none",
            *([f"{below}{with_spread(bits)}" if bits else "–"] if discrete else []),
            with_spread(e.figure("density")),
            with_spread(e.figure("coverage")),
            with_spread(e.figure("frechet")),
            counted(speed.value if speed else None),
            f"{nfe.value:.0f}" if nfe else "–",
            counted(size.value if size else None),
            duration(seconds.value if seconds else None),
        )
    yardstick = real(comparison)
    if yardstick:
        cells = [number(yardstick.get(k)) for k in ("density", "coverage", "frechet")]
        table.add_row("[dim]real records[/dim]", "", *([""] if discrete else []), *cells, "", "", "", "")
    console.print(table)
    _print_modes(found, console)
    for label, seeds, error in failures(comparison):
        console.print(f"{escape(label)} ({seeds}) failed: {escape(error)}", soft_wrap=True)
    for note in notes(comparison):
        console.print(escape(note), style="dim", soft_wrap=True)
    console.print(f"\nReport: {comparison.path / 'report.html'}", soft_wrap=True)


def _print_modes(found: list[Entry], console) -> None:
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    known = [e for e in found if any(r.evaluation and {"modes_captured", "kl"} & set(r.evaluation.figures) for r in e.rows)]
    if not known:
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("model", "KL(p || model)", "modes", "within 3 sd", "reverse KL", "spread/true"):
        table.add_column(name, justify="left" if name == "model" else "right")
    for e in known:
        table.add_row(escape(e.label), *mode_cells(e))
    console.print(table)


def mode_cells(e: Entry) -> list[str]:
    """KL from the known density, modes captured, share within 3 sd, reverse KL and spread, as text."""
    kl, mark = e.figure("kl"), {"bound": "≤ ", "estimate": "≈ "}.get(e.kind, "")
    first = f"{mark}{with_spread(kl)}" if kl else "–"
    captured = e.figure("modes_captured")
    if captured is None:
        return [first, "–", "–", "–", "–"]
    among = next(r.evaluation.modes for r in e.rows if r.evaluation is not None and r.evaluation.modes is not None)
    share = e.figure("mode_share")
    rest = [number(f.value if (f := e.figure(k)) else None) for k in ("mode_reverse_kl", "mode_spread")]
    return [first, f"{captured.value:.3g} of {among}", f"{share.value:.1%}" if share else "–", *rest]


def failures(comparison: "Comparison") -> list[tuple[str, str, str]]:
    """(label, seeds, error) of what did not finish; seeds that failed alike stand together."""
    found: dict[tuple[str, str], list[int]] = {}
    for row in comparison.rows:
        if row.error is not None:
            found.setdefault((row.label, row.error), []).append(row.seed)
    return [(label, f"seed{'s' if len(s) > 1 else ''} {', '.join(map(str, s))}", error) for (label, error), s in found.items()]


def notes(comparison: "Comparison") -> list[str]:
    """What a reader must know to read the table rightly."""
    found = [e for e in entries(comparison) if e.error is None]
    done = [r.evaluation for r in comparison.rows if r.evaluation is not None]
    said = []
    if any(e.kind == "bound" for e in found):
        said.append(
            "≥ marks a lower bound on log p (so ≤ on bits/dim): that model is at least this good and may deserve a higher place. "
            "Never read a bound as an exact value."
        )
    if any(e.kind == "estimate" for e in found):
        said.append("≈ marks a stochastic estimate of log p.")
    if any(e.kind == "none" for e in found):
        said.append(
            "Models without a likelihood stand below those with one, ordered by Fréchet distance; "
            "the two groups are not ranked against each other."
        )
    if done:
        over = (
            "the standard deviation over seeds"
            if len(comparison.seeds) > 1
            else "the standard error over held-out records; one seed says nothing about luck"
        )
        said.append(f"± is {over}.")
        first = next((e for e in done if e.features), None)
        if first is not None:
            said.append(
                f"Quality (density), coverage and Fréchet distance compare {first.samples} samples with {first.held_out} held-out records "
                f"in {first.features}: no FID. “Real records” is what training records score at this size."
            )
    return said
