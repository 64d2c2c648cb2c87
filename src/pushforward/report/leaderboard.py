"""The leaderboard: one entry for each model, averaged over its seeds, with the kind of every likelihood beside it."""

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..figures import Evaluation
from ..metrics import Estimate
from ..metrics.intervals import mean_estimate
from .words import half_width

if TYPE_CHECKING:
    from ..compare import Comparison, Row

KEYS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
SHARES = ("coverage", "precision", "recall", "mode_share", "duplicates", "copies", "c2st")
"""Figures that lie between 0 and 1: so do the ends of their intervals."""
POSITIVE = ("density", "samples_per_second", "training_seconds")


@dataclass(frozen=True)
class Entry:
    """The runs of one model, in the leaderboard's order."""

    key: str
    """A letter that stands for the model in pictures."""
    label: str
    rows: "list[Row]"

    @property
    def done(self) -> list[Evaluation]:
        """The evaluations of the seeds that succeeded."""
        return [r.evaluation for r in self.rows if r.evaluation is not None]

    @property
    def kind(self) -> str:
        """The kind of the likelihoods; the weakest where seeds differ."""
        kinds = {e.kind for e in self.done}
        return next((k for k in ("none", "estimate", "bound", "exact") if k in kinds), "none")

    @property
    def error(self) -> str | None:
        """Why there is nothing to show; None when at least one seed succeeded."""
        return None if self.done else self.rows[0].error

    @property
    def seeds(self) -> int:
        return len(self.done)

    @property
    def alarms(self) -> int:
        """Warnings that stood at the end of training, over all seeds."""
        return sum(len(e.alarms) for e in self.done)

    def runs(self, name: str, space: str | None = None) -> list[Estimate]:
        """A figure's estimate in each seed that has it, in the headline space or the named one."""
        found = [(e.figures if space is None else e.spaces.get(space, {})).get(name) for e in self.done]
        return [f for f in found if f is not None and math.isfinite(f.value)]

    def over_seeds(self, name: str, space: str | None = None) -> Estimate | None:
        """The mean over seeds with Student's 95 % interval; None for fewer than two."""
        values = [f.value for f in self.runs(name, space)]
        if len(values) < 2:
            return None
        import torch

        # Rates differ by factors, as the machine's load does: theirs is the geometric mean.
        rates = name == "samples_per_second" and min(values) > 0
        found = mean_estimate(torch.tensor(values, dtype=torch.float64).log() if rates else torch.tensor(values, dtype=torch.float64))
        if rates:
            low, value, high = (math.exp(v) for v in (found.low, found.value, found.high))
            found = replace(found, value=value, low=low, high=high, stderr=value * found.stderr)
        return _inside(name, replace(found, method=f"Student t over {len(values)} seeds"))

    def over_records(self, name: str, space: str | None = None) -> Estimate | None:
        """The mean with the interval of a single run, over its records: the mean half-widths of the seeds' own intervals."""
        found = self.runs(name, space)
        if not found:
            return None
        mean = sum(f.value for f in found) / len(found)
        if not all(f.known for f in found):
            return Estimate(mean, n=len(found))
        low, high = (sum(getattr(f, end) - f.value for f in found) / len(found) for end in ("low", "high"))
        error = math.sqrt(sum(standard_error(f) ** 2 for f in found) / len(found))
        return _inside(name, Estimate(mean, mean + low, mean + high, error, min(f.n for f in found), f"{found[0].method} over records"))

    def figure(self, name: str, space: str | None = None) -> Estimate | None:
        """The mean of a figure over seeds, None where it does not apply, with the wider of two 95 % intervals.

        The interval over seeds holds the luck of training; that of a run over its records holds the luck of which records were held out
        and drawn. Neither holds all of the other, so the wider is shown.
        """
        seeds, records = self.over_seeds(name, space), self.over_records(name, space)
        if seeds is not None and name == "samples_per_second":  # each run's is a median of repeats already
            return seeds
        if seeds is None or (records is not None and (half_width(records) or 0.0) > (half_width(seeds) or 0.0)):
            return records
        return seeds

    def both(self, name: str) -> tuple[float, float] | None:
        """The half-widths (over seeds, over records) where one is more than twice the other."""
        seeds, records = half_width(self.over_seeds(name)), half_width(self.over_records(name))
        if seeds is None or records is None or 0.5 <= (seeds + 1e-300) / (records + 1e-300) <= 2.0:
            return None
        return seeds, records


def standard_error(figure: Estimate) -> float:
    """A figure's standard error, from its interval where it has no other; NaN where neither is known."""
    return figure.stderr if math.isfinite(figure.stderr) else (figure.high - figure.low) / (2 * 1.959964)


def _inside(name: str, figure: Estimate) -> Estimate:
    """The interval within what the figure can be."""
    if name in SHARES:
        return replace(figure, low=max(0.0, figure.low), high=min(1.0, figure.high))
    return replace(figure, low=max(0.0, figure.low)) if name in POSITIVE else figure


def entries(comparison: "Comparison") -> list[Entry]:
    """The leaderboard's entries, best first; see `compare.rank` for the order."""
    return [Entry(KEYS[i % 26], group[0].label, group) for i, group in enumerate(comparison.groups())]


def real(comparison: "Comparison") -> dict[str, Estimate]:
    """What real records score against the held-out ones: the yardstick."""
    return next((r.evaluation.real for r in comparison.rows if r.evaluation is not None and r.evaluation.real), {})


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
    if len({e.base_measure for e in done if e.kind != "none" and e.base_measure}) > 1:
        said.append("Probabilities and densities stand in one column but not in one unit: they are not compared with each other.")
    if done:
        if len(comparison.seeds) > 1:
            said.append(
                f"± is half a 95 % interval: Student's over {len(comparison.seeds)} seeds, or that of a single run over its records where "
                "that is wider. Both are shown where one is more than twice the other. Speeds are geometric means."
            )
        else:
            said.append("± is half a 95 % interval over records. One seed says nothing about the luck of training: give --seeds 3 or more.")
        first = next((e for e in done if e.features), None)
        if first is not None:
            what = f" “Real records” is what {first.yardstick} score at this size." if first.yardstick else ""
            said.append(
                f"Quality (density), coverage and Fréchet distance compare {first.samples:,} samples with {first.held_out:,} held-out "
                f"records in {first.features}: no FID.{what}"
            )
    return said
