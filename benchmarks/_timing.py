"""Timing that holds on a shared machine: contenders visited in turn, medians, ratios taken round by round."""

import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "experiments"))
from _result import Result as Result

from pushforward.objective import Observer

if TYPE_CHECKING:
    from pushforward.train import Loop


def _settle() -> None:
    """Stay on the cores that all contenders take: two cores of a shared machine may differ by several percent for minutes."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-torch.get_num_threads() :])


class _Turns:
    """A contender's side of `turns`: called after each of its steps, it waits for its next turn when one is over."""

    def __init__(self, pipe: Connection, steps: int):
        self.pipe, self.steps, self.left, self.start = pipe, steps, 0, 0.0

    def __call__(self) -> None:
        if self.left:
            self.left -= 1
            if self.left:
                return
            self.pipe.send((time.perf_counter() - self.start) / self.steps)
        self.pipe.recv()
        self.left, self.start = self.steps, time.perf_counter()


def _take(work: Callable[[Callable[[], None]], Any], pipe: Connection, steps: int) -> None:
    _settle()
    work(_Turns(pipe, steps))


def turns(works: dict[str, Callable[[Callable[[], None]], Any]], steps: int, repeats: int) -> dict[str, list[float]]:
    """Seconds a step of each contender, turn by turn, after one turn to warm up.

    work(after_step) takes steps without end and calls after_step() after each. Contenders are processes that take `steps` steps in turn:
    the shorter a turn, the more alike is what else the machine does in the turns of a round. Set-up is in none of them.

    Processes of their own, because our verbs set the C library's allocator (`pushforward.memory`), from which others in the same process
    would profit. Linux only: they are forks, so nothing may have been trained before.
    """
    fork = multiprocessing.get_context("fork")
    pipes: dict[str, Connection] = {}
    processes: list[multiprocessing.Process] = []
    for name, work in works.items():
        pipes[name], there = fork.Pipe()
        processes.append(fork.Process(target=_take, args=(work, there, steps), daemon=True))
        processes[-1].start()
        there.close()  # so that one that fails is heard of
    found: dict[str, list[float]] = {name: [] for name in works}
    try:
        for _ in range(1 + repeats):
            for name, pipe in pipes.items():
                pipe.send(None)
                found[name].append(pipe.recv())
    finally:
        for process in processes:
            process.kill()
    return {name: seconds[1:] for name, seconds in found.items()}


def again(call: Callable[[], Any], after_step: Callable[[], None]) -> None:
    """A contender of `turns` whose step is a call."""
    while True:
        call()
        after_step()


def ratio(a: list[float], b: list[float]) -> dict[str, float]:
    """The median over rounds of a / b, and its standard error: 1.25 sd / sqrt(n), the sd from the middle half of the rounds."""
    ratios = [x / y for x, y in zip(a, b, strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    return {"value": middle, "stderr": 1.2533 * (high - low) / 1.349 / len(ratios) ** 0.5}


class AfterStep(Observer):
    """Calls what `turns` hands to a contender, after each step of `fit`."""

    def __init__(self, after_step: Callable[[], None]):
        self.after_step = after_step

    def on_step(self, loop: "Loop") -> None:
        self.after_step()


def interleave(
    contenders: dict[str, Callable[[], Any]], *, floor: str, repeats: int, per: float = 1.0, unit: str = "step"
) -> dict[str, dict[str, Any]]:
    """Time each contender `repeats` times in turn after one warm-up; `ratio` is the median of its per-round ratios to `floor`.

    Each call of a contender does `per` units of work; seconds are given per unit.
    """
    for work in contenders.values():
        work()
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(repeats):
        for name, work in contenders.items():
            start = time.perf_counter()
            work()
            times[name].append(time.perf_counter() - start)
    rows = {
        name: {
            "seconds": statistics.median(ts) / per,
            "min": min(ts) / per,
            "max": max(ts) / per,
            "ratio": statistics.median(t / f for t, f in zip(ts, times[floor], strict=True)),
            "times": ts,
            "over": statistics.median((t - f) / per for t, f in zip(ts, times[floor], strict=True)),
        }
        for name, ts in times.items()
    }
    for name, r in rows.items():
        print(f"{name:28s} {1e3 * r['seconds']:9.3f} ms/{unit}  x{r['ratio']:.3f}  {1e3 * r['over']:+.3f} ms", flush=True)
    return rows
