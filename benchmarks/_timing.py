"""Timing that holds on a shared machine: contenders visited in turn, medians, ratios taken round by round."""

import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pushforward.store import versions


def interleave(
    contenders: dict[str, Callable[[], Any]], *, floor: str, repeats: int, per: float = 1.0, unit: str = "step"
) -> dict[str, dict[str, float]]:
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
            "over": statistics.median((t - f) / per for t, f in zip(ts, times[floor], strict=True)),
        }
        for name, ts in times.items()
    }
    for name, r in rows.items():
        print(f"{name:28s} {1e3 * r['seconds']:9.3f} ms/{unit}  x{r['ratio']:.3f}  {1e3 * r['over']:+.3f} ms", flush=True)
    return rows


def record(name: str, workload: str, rows: dict[str, dict[str, float]]) -> None:
    """Keep a workload's rows in `results/bench_NAME.json`, replacing those of an earlier run of the same workload."""
    path = Path(__file__).resolve().parent.parent / "results" / f"bench_{name}.json"
    path.parent.mkdir(exist_ok=True)
    known = json.loads(path.read_text()) if path.exists() else {"benchmark": name, "workloads": {}}
    known["workloads"][workload] = {n: {k: float(f"{v:.4g}") for k, v in row.items()} for n, row in rows.items()}
    known |= {"versions": versions(), "machine": {"cores": os.cpu_count(), "processor": processor()}}
    path.write_text(json.dumps(known, indent=2) + "\n")


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
