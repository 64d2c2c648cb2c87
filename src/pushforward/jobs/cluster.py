"""Many jobs at once, as tasks of a Ray cluster.

A task gets the job's JSON and the files of records and feature spaces as bytes, and gives back its answer as JSON and the files of its run
folder as bytes. Where the workers see the comparison's own folder (one machine, or a shared disk), they work there instead: then trainings
that are stopped go on from their checkpoints. Workers need the same version of pushforward.
"""

import json
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .. import store
from ..data import Data
from ..errors import ConfigError, RunError
from .handover import FILE, SPACES
from .plan import PLAN, Job, fill
from .processes import announce
from .progress import Progress


def on_ray(jobs: Sequence[Job], data: Data, path: Path, address: str, workers: int | None, progress: bool) -> None:
    """Do the jobs as Ray tasks, at most `workers` at a time. Raises `ConfigError` without Ray, `RunError` without a cluster there."""
    try:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to anybody
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        import ray
    except ImportError as error:
        raise ConfigError(
            "address= needs Ray, which is not installed: pip install 'pushforward[ray]'. Without it, leave it out."
        ) from error
    if workers is not None and workers < 1:
        raise ConfigError(f"workers={workers} goes without address=. Give the number of jobs at once, or leave it out.")
    ours = not ray.is_initialized()
    if ours:
        _connect(ray, address)
    try:
        _drive(ray, jobs, data, path, workers, progress)
    finally:
        if ours:
            ray.shutdown()


def _connect(ray: Any, address: str) -> None:
    here = os.pathsep.join(p or os.getcwd() for p in sys.path)
    local = {} if address != "local" else {"include_dashboard": False}
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR", "runtime_env": {"env_vars": {"PYTHONPATH": here}}, **local}
    try:
        ray.init(address=address, **options)
    except (ConnectionError, ValueError, RuntimeError, OSError) as error:
        raise RunError(f"There is no Ray cluster at {address!r} ({error}). Start one with `ray start --head`, or give 'local'.") from error


def _drive(ray: Any, jobs: Sequence[Job], data: Data, path: Path, workers: int | None, progress: bool) -> None:
    have = ray.cluster_resources()
    cpus, gpus = max(1, int(have.get("CPU", 1))), int(have.get("GPU", 0))
    most = max(1, min(workers or (gpus or cpus), len(jobs)))
    threads = max(1, cpus // most)
    announce(jobs, most, path, progress)
    # max_calls=1: a fresh process for each job, as on one machine; a job is not tried twice behind our back.
    task = ray.remote(max_calls=1, max_retries=0, num_cpus=threads, num_gpus=min(1, gpus))(work)
    records, spaces = (ray.put((path / "jobs" / file).read_bytes()) for file in (FILE, SPACES))
    token = _token(path)
    waiting, running = list(jobs), dict[Any, Job]()
    try:
        with Progress(jobs, enabled=progress) as show:
            while waiting or running:
                while waiting and len(running) < most:
                    job = waiting.pop(0)
                    asked = job.begin(data, threads)
                    if asked is not None:
                        running[task.remote(json.dumps(asked), records, spaces, str(path.resolve()), token)] = job
                done, _ = ray.wait(list(running), num_returns=1, timeout=0.2) if running else ([], [])
                for reference in done:
                    _finish(ray, reference, running.pop(reference))
                show.update()
    finally:
        for reference in running:  # an interrupt reaches here: tasks are asked to stop as by Ctrl-C
            ray.cancel(reference)
        if running:
            ray.wait(list(running), num_returns=len(running), timeout=10)


def _finish(ray: Any, reference: Any, job: Job) -> None:
    seconds = time.monotonic() - job.started
    try:
        answer, files = ray.get(reference)
    except ray.exceptions.RayError as error:
        job.row.error = f"Its Ray worker was lost ({_first_line(error)}). Is memory short there? Fewer workers= need less."
    else:
        for name, content in files.items():
            file = job.row.run / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        found = json.loads(answer)
        store.write_json(job.answered, found)
        fill(job.row, found)
    job.row.seconds = seconds


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _token(path: Path) -> str:
    """The plan's checksum, by which a worker knows that it sees the same folder."""
    return str(json.loads((path / PLAN).read_text(encoding="utf-8"))["sha256"])


# -- on the worker --------------------------------------------------------------------------------------------------


def work(asked: str, records: bytes, spaces: bytes, path: str, token: str) -> tuple[str, dict[str, bytes]]:
    """Do the job in `path` where it is seen here, else in a temporary folder whose files travel back: (answer, files)."""
    from .work import carried_out

    job: Mapping[str, Any] = json.loads(asked)
    there = Path(path)
    try:
        shared = _token(there) == token
    except (OSError, ValueError, KeyError):
        shared = False
    if shared:
        return json.dumps(carried_out(job, there / "jobs", Path(job["run"]))), {}
    with tempfile.TemporaryDirectory() as scratch:
        folder, run = Path(scratch) / "jobs", Path(scratch) / "runs" / Path(job["run"]).name
        folder.mkdir()
        run.parent.mkdir()
        (folder / FILE).write_bytes(records)
        (folder / SPACES).write_bytes(spaces)
        answer = carried_out(job, folder, run)
        return json.dumps(answer), {str(f.relative_to(run)): f.read_bytes() for f in run.rglob("*") if f.is_file()}
