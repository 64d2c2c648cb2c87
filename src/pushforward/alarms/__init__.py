"""Alarms: an observer that watches training and says in plain words what is wrong and what to try.

====================== ======================================================================================= ==========
kind                   what is seen                                                                             from
====================== ======================================================================================= ==========
mode collapse          samples miss regions that hold a large share of the records                              samples
duplicates             samples lie on each other where records do not                                           samples
saturated critic       D(real) near 1 and D(fake) near 0: the generator learns nothing; or W1 beyond its bound   history
posterior collapse     KL(q(z|x) || p(z)) near zero: the code says nothing about the record                     history
dead codebook          the term `codebook usage` says that most entries are never chosen                        history
exploding likelihood   the loss leaps when records move by less than the precision they are recorded with        losses
overfitting            the validation loss rises while the training loss goes on falling                        history
non-finite             the first parameter, term and records that were not finite                               the error
====================== ======================================================================================= ==========

History is looked at as it is written, samples and losses at a few moments that together take about 1 % of the time. Training goes on as
without it: noise comes from a generator of the alarms' own, and no random state, weight or order of the data changes.

An objective with a codebook of K entries reports the term `codebook usage`: exp(H) / K, in (0, 1], where H is the entropy in nats of how
often each entry is chosen, at best averaged over the last few hundred batches.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..objective import Observer
from ..store import Run, rank_zero, say
from .history import History
from .looks import Looks
from .words import Finding, origin

if TYPE_CHECKING:
    from ..train import Loop

__all__ = ["Alarm", "Alarms", "alarms_of", "origin"]

WARM_UP = 0.2
"""Share of the budget before which only non-finite numbers are spoken of: early on every model is poor in every way."""


@dataclass(frozen=True)
class Alarm:
    """Something that went wrong in training."""

    kind: str
    """`mode collapse`, `duplicates`, `saturated critic`, `posterior collapse`, `dead codebook`, `exploding likelihood`, `overfitting`
    or `non-finite`."""
    step: int
    """The round at which it was said."""
    says: str
    """What is seen, with its figures."""
    remedy: str
    """What to try, in the names of the settings and hyperparameters."""

    def __str__(self) -> str:
        return f"{self.kind}: {self.says} Try: {self.remedy}"


def alarms_of(run: Run) -> list[Alarm]:
    """The alarms that still stand at the end of a run's history, and of the runs of its stages in their own folders."""
    found = list(_standing(run.history()).values())
    for below in sorted(run.path.glob("*/config.json")):
        found += alarms_of(Run.open(below.parent))
    return found


def _standing(rows: list[dict[str, Any]]) -> dict[str, Alarm]:
    standing: dict[str, Alarm] = {}
    for row in rows:
        if "alarm" in row and row.get("cleared"):
            standing.pop(row["alarm"], None)
        elif "alarm" in row:
            standing[row["alarm"]] = Alarm(row["alarm"], row.get("step", 0), row.get("says", ""), row.get("try", ""))
    return standing


class Alarms(Observer):
    """Raises each alarm once, again when it is twice as bad, and says when it is over. See the module's table.

    `standing` holds the alarms that are not over; after training they are the model's `alarms`.
    """

    def __init__(self) -> None:
        self.standing: dict[str, Alarm] = {}
        self._severity: dict[str, float] = {}
        self._streak: dict[str, int] = {}
        self._rows = History()
        self._looks: Looks | None = None

    def on_start(self, loop: "Loop") -> None:
        self._looks = Looks(loop)
        if loop.step and loop.run is not None:
            rows = loop.run.history()
            for row in rows:
                if "alarm" not in row:
                    self._rows.take(row)
            self.standing = _standing(rows)
            self._severity = dict.fromkeys(self.standing, math.inf)

    def on_log(self, loop: "Loop", row: Mapping[str, float]) -> None:
        self._rows.take(row)
        if loop.progress < WARM_UP:
            return
        for kind, finding in self._rows.judge(loop).items():
            self._settle(loop, kind, finding)
        if self._looks is not None and self._looks.due(loop):
            for kind, finding in self._looks.look(loop).items():
                self._settle(loop, kind, finding)

    def on_end(self, loop: "Loop") -> None:
        whole = loop.progress >= 1 or (loop.training.patience is not None and loop.bad >= loop.training.patience)
        if whole and "non-finite" not in self.standing and not loop.interrupted:
            found = self._rows.judge(loop)
            if self._looks is not None and self._looks.affordable(loop, last=True):
                found |= self._looks.look(loop, last=True)
            for kind, finding in found.items():
                self._settle(loop, kind, finding, last=True)
        loop.model.alarms = tuple(self.standing.values())  # pyright: ignore[reportArgumentType]

    def on_diverged(self, loop: "Loop", where: str, remedy: str) -> None:
        self._settle(loop, "non-finite", Finding(1.0, where, remedy), last=True)

    def _settle(self, loop: "Loop", kind: str, finding: Finding | None, last: bool = False) -> None:
        """Two findings in a row raise an alarm and two without one end it; at the end of training one is enough."""
        streak = self._streak.get(kind, 0)
        self._streak[kind] = streak = max(streak, 0) + 1 if finding else min(streak, 0) - 1
        if abs(streak) < 2 and not last:
            return
        if finding is None:
            if self.standing.pop(kind, None):
                self._tell(loop, {"alarm": kind, "cleared": True, "says": f"The {kind} is over."})
            return
        worse = kind not in self.standing or finding.severity >= 2 * self._severity[kind]
        if worse or last:  # at the end its figures take the place of those seen first, without another word at the terminal
            self.standing[kind] = Alarm(kind, loop.step, finding.says, finding.remedy)
            self._severity[kind] = finding.severity
            self._tell(loop, {"alarm": kind, "says": finding.says, "try": finding.remedy}, aloud=worse)

    def _tell(self, loop: "Loop", row: dict[str, Any], aloud: bool = True) -> None:
        head = {"step": loop.step, "seconds": round(loop.seconds, 3), "epoch": round(loop.step / loop.epoch_steps, 3)}
        if loop.run is not None and rank_zero():
            loop.run.log([head | row])
        if aloud and loop.training.progress:
            name, end = type(loop.model).__name__, f" Try: {row['try']}" if "try" in row else ""
            say(f"Alarm ({name}, step {loop.step}): {row['alarm']}. {row['says']}{end}")
