"""What the terminal shows of jobs at work."""

import sys
import time
from collections.abc import Sequence

from .. import store
from .plan import Job


def line(job: Job) -> str:
    """A job's state in one line."""
    seconds = f"{job.row.seconds or (time.monotonic() - job.started if job.started else 0):.0f} s"
    if job.row.error is not None:
        return f"{job.name}: failed after {seconds}: {job.row.error}"
    found = job.row.evaluation
    if found is not None and (log_prob := found.value("log_prob")) is not None:
        return f"{job.name}: done in {seconds}, {found.kind} log-likelihood {log_prob:.2f} nats"
    return f"{job.name}: {job.state}" + ("" if job.state == "waiting" else f", {seconds}")


class Progress:
    """One line per job: redrawn in place on a terminal, printed when a job's state changes elsewhere."""

    def __init__(self, jobs: Sequence[Job], *, enabled: bool):
        self.jobs, self.enabled, self.said, self.live = jobs, enabled, dict[str, str](), None

    def __enter__(self) -> "Progress":
        if self.enabled and sys.stderr.isatty():
            from rich.console import Console
            from rich.live import Live

            self.live = Live(console=Console(stderr=True), refresh_per_second=4)
            self.live.start()
        return self

    def update(self) -> None:
        if not self.enabled:
            return
        if self.live is not None:
            from rich.text import Text

            self.live.update(Text("\n".join(self._progress(job) for job in self.jobs)))
            return
        for job in self.jobs:
            if job.state != self.said.get(job.name):
                self.said[job.name] = job.state
                if job.state in ("training", "done", "failed"):
                    store.say(line(job))

    @staticmethod
    def _progress(job: Job) -> str:
        minutes = job.fit.get("minutes")
        if job.state != "training" or not minutes:
            return line(job)
        share = min(1.0, (time.monotonic() - job.started) / (60 * minutes))
        return f"{line(job)}  {'━' * round(24 * share)}{'·' * (24 - round(24 * share))} {share:.0%}"

    def __exit__(self, *_: object) -> None:
        if self.live is not None:
            self.update()
            self.live.stop()
