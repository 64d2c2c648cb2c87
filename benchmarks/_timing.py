"""Timing that holds on a shared machine: contenders visited in turn, medians, ratios taken round by round."""

import contextlib
import functools
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "experiments"))
from _result import Result as Result


def _serve(work: Callable[[], Any], pipe: Connection) -> None:
    while pipe.recv():
        pipe.send(work())


@contextlib.contextmanager
def apart(contenders: dict[str, Callable[[], Any]]) -> Iterator[dict[str, Callable[[], Any]]]:
    """The contenders in a process each, as they would be in a script of their own.

    Our verbs set the C library's allocator (`pushforward.memory`), from which others in the same process would profit. Linux only: the
    processes are forks, so nothing may have been trained before.
    """
    fork = multiprocessing.get_context("fork")
    pipes: dict[str, Connection] = {}
    for name, work in contenders.items():
        pipes[name], there = fork.Pipe()
        fork.Process(target=_serve, args=(work, there), daemon=True).start()

    def called(pipe: Connection) -> Any:
        pipe.send(True)
        return pipe.recv()

    try:
        yield {name: functools.partial(called, pipe) for name, pipe in pipes.items()}
    finally:
        for pipe in pipes.values():
            pipe.send(False)


def _slope(work: Callable[[int], Any], short: int, long: int) -> float:
    times = [time.perf_counter()]
    for n in (short, long):
        work(n)
        times.append(time.perf_counter())
    return (times[2] - 2 * times[1] + times[0]) / (long - short)


def slopes(works: dict[str, Callable[[int], Any]], short: int, long: int, repeats: int) -> dict[str, list[float]]:
    """Seconds that one more unit of each work(n) takes, round by round, after one warm-up: a long call less a short one, so that set-up
    falls out. The contenders are `apart`.
    """
    with apart({name: functools.partial(_slope, work, short, long) for name, work in works.items()}) as calls:
        for call in calls.values():
            call()
        rounds = [{name: call() for name, call in calls.items()} for _ in range(repeats)]
    found = {name: [r[name] for r in rounds] for name in works}
    for name, values in found.items():
        print(f"{name:28s} {1e3 * statistics.median(values):9.3f} ms", flush=True)
    return found


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
