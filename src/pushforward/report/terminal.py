"""The leaderboard as text for the terminal, with its notes."""

import io
import sys
from typing import TYPE_CHECKING

from ..figures import FIGURES
from .differences import FIGURES_TESTED, indistinct
from .leaderboard import Entry, entries, failures, notes, real
from .words import KIND, MARK, number, plainly, with_spread

if TYPE_CHECKING:
    from ..compare import Comparison


def as_text(comparison: "Comparison") -> str:
    """The comparison as text."""
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
    names = ("density", "coverage", "frechet", "samples_per_second", "nfe", "parameters", "training_seconds", "peak_memory")
    names = [n for n in names if n != "peak_memory" or any(e.figure(n) for e in found)]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("model")
    for name in ("log p, nats", *(["bits/dim"] if discrete else []), *("quality" if n == "density" else FIGURES[n].label for n in names)):
        table.add_column(name, justify="right", no_wrap=name not in ("log p, nats", "bits/dim"))
    for e in found:
        if e.error is not None:
            continue
        mark, below = MARK[e.kind], {"bound": "≤ "}.get(e.kind, MARK[e.kind])
        likelihood, bits = e.figure("log_prob"), e.figure("bits_per_dim")
        table.add_row(
            escape(e.label) + (" [yellow](!)[/yellow]" if e.alarms else ""),
            f"{mark}{with_spread(likelihood, 5)} {KIND[e.kind]}" if likelihood else "none",
            *([f"{below}{with_spread(bits)}" if bits else "–"] if discrete else []),
            *(plainly(n, e.figure(n))[0] if n == "samples_per_second" else " ".join(plainly(n, e.figure(n))).strip() for n in names),
        )
    yardstick = real(comparison)
    if yardstick:
        cells = [number(yardstick[n].value) if n in yardstick else "" for n in names]
        table.add_row("[dim]real records[/dim]", "", *([""] if discrete else []), *cells)
    console.print(table)
    _print_modes(found, console)
    done = [e for e in found if e.error is None]
    for name in FIGURES_TESTED:
        if text := indistinct(done, name):
            console.print(escape(text), soft_wrap=True)
    for e in done:
        for row in e.rows:
            for alarm in row.evaluation.alarms if row.evaluation is not None else ():
                console.print(f"(!) {escape(e.label)}, seed {row.seed}: {escape(alarm['says'])} {escape(alarm['remedy'])}", soft_wrap=True)
    for label, seeds, error in failures(comparison):
        console.print(f"{escape(label)} ({seeds}) failed: {escape(error)}", soft_wrap=True)
    for note in notes(comparison):
        console.print(escape(note), style="dim", soft_wrap=True)
    console.print(f"\nReport: {comparison.path / 'report.html'}", soft_wrap=True)


def _print_modes(found: list[Entry], console) -> None:
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    known = [e for e in found if has_modes(e)]
    if not known:
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("model", "KL(p || model)", "modes", "within 3 sd", "reverse KL", "spread/true"):
        table.add_column(name, justify="left" if name == "model" else "right")
    for e in known:
        table.add_row(escape(e.label), *mode_cells(e))
    console.print(table)


def has_modes(e: Entry) -> bool:
    """Whether the density or mixture that the records came from is known."""
    return any(e.runs(name) for name in ("kl", "modes_captured"))


def mode_cells(e: Entry) -> list[str]:
    """KL from the known density, modes captured, share within 3 sd, reverse KL and spread, as text."""
    mark, kl = {"bound": "≤ ", "estimate": "≈ "}.get(e.kind, ""), e.figure("kl")
    captured, share = e.figure("modes_captured"), e.figure("mode_share")
    modes = next((v.modes for v in e.done if v.modes), None)
    return [
        f"{mark}{with_spread(kl)}" if kl else "–",
        f"{captured.value:.3g}" + (f" of {modes}" if modes else "") if captured else "–",
        f"{share.value:.1%}" if share else "–",
        with_spread(e.figure("mode_reverse_kl")),
        with_spread(e.figure("mode_spread")),
    ]
