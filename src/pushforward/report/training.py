"""What training left to see: curves of the losses, and alarms."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from .. import store
from ..errors import RunError
from .leaderboard import Entry
from .svg import Chart
from .words import number


def alarms(done: Sequence[Entry]) -> list[tuple[Entry, str, str, str, str]]:
    """(entry, seeds, kind, what is seen, what to try); the same warning of several seeds stands once, in the words of the first."""
    out = []
    for e in done:
        kinds: dict[str, list[tuple[int, dict[str, Any]]]] = {}
        for row in e.rows:
            for alarm in row.evaluation.alarms if row.evaluation is not None else ():
                kinds.setdefault(str(alarm.get("kind")), []).append((row.seed, alarm))
        for kind, found in kinds.items():
            seeds, first = [s for s, _ in found], found[0][1]
            where = f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"
            step = f", from step {first['step']:,}" if isinstance(first.get("step"), int) else ""
            out.append((e, where + step, kind, str(first.get("says", "")), str(first.get("remedy", ""))))
    return out


def _history(row) -> list[dict[str, Any]]:
    try:
        return store.Run.open(row.run).history()
    except RunError:
        return []


def curves(found: Sequence[Entry]) -> list[tuple[Entry, Any, list[tuple[str, str]], str]]:
    """(entry, chart, legend, note) of each model's losses over its training time."""
    out = []
    for e in found:
        rows = _history(e.rows[0])
        losses = sorted({k for row in rows for k in row if (k == "loss" or k.endswith("/loss")) and isinstance(row[k], (int, float))})
        if not losses:
            out.append(
                (
                    e,
                    None,
                    [],
                    "Fitted in closed form or by EM: no loss curve." if e.error is None else "No training history: the job failed.",
                )
            )
            continue
        chart = Chart("", "seconds of training", "loss", width=340, height=230)
        legend, values = [], []
        for k in sorted(losses, key=lambda k: k.startswith("validation")):
            points = [(row["seconds"], row[k]) for row in rows if isinstance(row.get(k), (int, float)) and "seconds" in row]
            css = "held" if k.startswith("validation") else f"t{sum(1 for _, c in legend if c.startswith('t')) % 3}"
            name = {"loss": "training", "validation/loss": "validation"}.get(k, k.removesuffix("/loss"))
            chart.line([p[0] for p in points], [p[1] for p in points], css, name)
            legend.append((name, css))
            values.extend(v for _, v in points)
        ends = "; ".join(
            f"{name} ends at {number(next(r[k] for r in reversed(rows) if k in r))}"
            for k, (name, _) in zip(sorted(losses, key=lambda k: k.startswith("validation")), legend)
        )
        chart.describe = f"Losses of {e.label} over training time: {ends}."
        chart.y_range = _body(values)
        out.append((e, None if chart.empty else chart.render(), legend, ends))
    return out


def _body(values: Sequence[float]) -> tuple[float, float] | None:
    """The range of a loss curve without its first plunge: the 0 to 97 % quantiles with a little room."""
    finite = np.array([v for v in values if math.isfinite(v)])
    if len(finite) < 8:
        return None
    low, high = float(finite.min()), float(np.quantile(finite, 0.97))
    room = 0.08 * (high - low)
    return (low - room, high + room) if high > low else None
