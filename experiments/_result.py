"""Write results/NAME.json: figures, and all that it takes to have them again.

    with Result("ring", settings={"minutes": 5}, seeds=[0, 1]) as result:
        result.add("KL(p || spline)", kl, stderr=se, unit="nats", kind="exact", target="<= 0.05")

Nothing is written when the block fails, so a file is always a whole experiment.
"""

import json
import math
import operator
import os
import platform
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

ROOT = Path(__file__).resolve().parent.parent
COMPARE = {"<=": operator.le, ">=": operator.ge, "<": operator.lt, ">": operator.gt}


class Result:
    """The figures of one experiment.

    Parameters
    ----------
    experiment
        The name of the file under results/.
    settings
        What was chosen: models, budgets, data, as JSON values.
    seeds
        The seeds that were run.
    """

    def __init__(
        self, experiment: str, settings: Mapping[str, Any] | None = None, seeds: Sequence[int] = (), folder: Path = ROOT / "results"
    ):
        self.experiment, self.settings, self.seeds, self.folder = experiment, dict(settings or {}), list(seeds), folder
        self.figures: list[dict[str, Any]] = []
        self._started = time.perf_counter()

    def add(
        self,
        name: str,
        value: float | int,
        *,
        stderr: float | None = None,
        unit: str = "",
        kind: str = "",
        target: str | None = None,
        holds: bool | None = None,
    ) -> bool | None:
        """Add a figure; return whether it meets its `target` ("<= 89", ">= 25", None). A figure that misses stays, with holds false.

        `kind` says what the number is: exact, bound, estimate, measured. Give `holds` where a comparison does not say it.
        """
        value = value.item() if hasattr(value, "item") else value  # type: ignore[union-attr]
        stderr = None if stderr is None or not math.isfinite(stderr) else stderr
        if not math.isfinite(value):  # JSON has no such number, and a long run is not to be lost for one figure
            self.settings.setdefault("figures that are not finite", []).append(name)
            print(f"{name}: {value}", flush=True)
            return False
        if target is not None and holds is None:
            sign, _, limit = target.partition(" ")
            if sign not in COMPARE:
                raise ValueError(f"target {target!r} is no comparison such as '<= 89'; say holds= yourself.")
            holds = bool(COMPARE[sign](value, float(limit.split()[0])))
        self.figures.append({"name": name, "value": value, "stderr": stderr, "unit": unit, "kind": kind, "target": target, "holds": holds})
        print(
            f"{name}: {value:.5g}"
            + (f" ± {stderr:.2g}" if stderr else "")
            + f" {unit}"
            + ("" if holds is None else f"  {target}: {holds}"),
            flush=True,
        )
        return holds

    def to_json(self) -> dict[str, Any]:
        from pushforward.store import versions

        return {
            "experiment": self.experiment,
            "figures": self.figures,
            "settings": self.settings,
            "seeds": self.seeds,
            "seconds": round(time.perf_counter() - self._started, 1),
            "machine": machine(),
            "versions": versions(),
            "commit": commit(),
        }

    def write(self) -> Path:
        """Write the file, whole or not at all."""
        path = self.folder / f"{self.experiment}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_suffix(".json.tmp")
        draft.write_text(json.dumps(self.to_json(), indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
        os.replace(draft, path)
        print(path)
        return path

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is None:
            self.write()


def machine() -> dict[str, Any]:
    """What a timing depends on; no names of hosts or users."""
    import torch

    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        cpu = names[0] if names else cpu
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    found = {"cpu": cpu, "cores": f"{cores} cores", "threads": f"{torch.get_num_threads()} threads", "system": platform.system()}
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    return found


def commit() -> str | None:
    """The commit of the code, with "+" when files that it tracks were changed."""
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
        dirty = subprocess.run(
            ["git", "status", "--porcelain", "-uno"], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
    return head + ("+" if dirty else "")
