"""Observers of training: the progress bar, and loggers (TensorBoard, or any of Lightning Fabric's)."""

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .objective import Observer
from .store import say

if TYPE_CHECKING:
    from .train import Loop

__all__ = ["Logger", "Observer", "Progress", "TensorBoard"]


def _figures(loop: "Loop", most: int = 6) -> str:
    return "  ".join(f"{k} {v:.4g}" for k, v in list(loop.last.items())[:most])


class Progress(Observer):
    """A progress bar with the objective's named terms on a terminal; without one, a line each tenth of the budget."""

    def __init__(self, refresh: float = 0.25):
        self.refresh, self.shown, self.tenth = refresh, 0.0, 0
        self.bar: Any = None

    def on_start(self, loop: "Loop") -> None:
        say(f"{type(loop.model).__name__} on {loop.fabric.device}: {loop.estimate}")
        self.tenth = int(10 * loop.progress)
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            columns = [
                BarColumn(),
                TextColumn("{task.percentage:>3.0f}%"),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.description}"),
            ]
            # Refreshed by hand in on_step: a refreshing thread would compete with the arithmetic.
            self.bar = Bar(*columns, console=Console(stderr=True), auto_refresh=False)
            self.bar.start()
            self.task = self.bar.add_task("", total=1.0)

    def on_step(self, loop: "Loop") -> None:
        if self.bar is not None:
            now = time.monotonic()
            if now - self.shown > self.refresh:
                self.shown = now
                if not loop.last and loop.window:
                    loop.last.update(loop.means())
                self.bar.update(self.task, completed=loop.progress, description=f"step {loop.step}  {_figures(loop)}")
                self.bar.refresh()
        elif int(10 * loop.progress) > self.tenth:
            self.tenth = int(10 * loop.progress)
            say(f"{loop.progress:4.0%}  step {loop.step}  {loop.seconds:.0f} s  {_figures(loop)}")

    def on_end(self, loop: "Loop") -> None:
        if self.bar is not None:
            self.bar.update(self.task, completed=loop.progress, description=f"step {loop.step}  {_figures(loop)}")
            self.bar.refresh()
            self.bar.stop()


class Logger(Observer):
    """Sends each history line to one of Lightning Fabric's loggers (`CSVLogger`, `TensorBoardLogger`, or any with `log_metrics`)."""

    def __init__(self, logger: Any):
        self.logger = logger

    def on_log(self, loop: "Loop", row: Mapping[str, float]) -> None:
        self.logger.log_metrics({k: v for k, v in row.items() if k != "step"}, step=loop.step)

    def on_end(self, loop: "Loop") -> None:
        self.logger.finalize("success")


class TensorBoard(Logger):
    """Writes TensorBoard event files below `folder` (needs the `tensorboard` extra)."""

    def __init__(self, folder: str | Path):
        from lightning_fabric.loggers import TensorBoardLogger

        super().__init__(TensorBoardLogger(root_dir=folder, name=""))
