"""The jobs of a comparison: each trains and evaluates one model, by default in a process of its own.

A job is described to its process in JSON and safetensors, never by pickle, and answers in JSON; a process that dies is a job that failed.
"""

import contextlib
import functools
import importlib
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from . import store
from .data import Data, DataSpec, Records, Schema, reload
from .errors import ConfigError, DataError, PushforwardError
from .evaluate import Evaluation, evaluate
from .model import Density, Model
from .models import catalog, from_config
from .report.plots import grid_of

if TYPE_CHECKING:
    from .compare import Row

GRID: Mapping[Density, int] = {"exact": 200, "bound": 80, "estimate": 60}
"""Points along each axis of the picture of a 2-D density: fewer where each costs many network evaluations."""


# -- one job --------------------------------------------------------------------------------------------------------


@dataclass
class Job:
    row: "Row"
    model: Model
    fit: dict[str, Any]
    condition: bool
    n: int | None
    process: "subprocess.Popen[bytes] | None" = None
    started: float = 0.0

    @property
    def name(self) -> str:
        return self.row.run.name

    @property
    def state(self) -> str:
        if self.row.error is not None:
            return "failed"
        if self.row.evaluation is not None:
            return "done"
        if not self.started:
            return "waiting"
        if (self.row.run / "model.safetensors").exists():
            return "evaluating"
        return "training" if (self.row.run / "config.json").exists() else "starting"


def run_job(model: Model, data: Data, run: Path, fit: Mapping[str, Any], *, condition: bool = False, n: int | None = None) -> Evaluation:
    """Fit `model`, evaluate it, and leave the run folder with its evaluation and samples."""
    started = time.perf_counter()
    model.fit(data, condition=True if condition else None, out=run, **fit)
    seconds = time.perf_counter() - started
    result = evaluate(model, data, n=n, seed=fit.get("seed", 0))
    # The loop's own clock leaves out imports and set-up; models without a loop have only the wall's.
    history = store.Run.open(run).history()
    result.training_seconds = history[-1].get("seconds", seconds) if history else seconds
    store.write_json(run / "evaluation.json", result.to_json())
    store.write_tensors(run / "samples.safetensors", _pictures(model, data, result, fit.get("seed", 0)))
    return result


def _pictures(model: Model, data: Data, result: Evaluation, seed: int) -> dict[str, torch.Tensor]:
    """What the report draws: some samples, and a density in the plane."""
    spec, out = data.spec, dict[str, torch.Tensor]()
    if type(model).supports("sample"):
        count, labels = 100 if spec.kind == "image" else 1000, None
        if result.conditional:
            labels = data.train.subset(torch.arange(count) % len(data.train)).labels()
        with contextlib.suppress(DataError):  # samples that are no records; the evaluation's notes say so
            out["samples"] = data.schema.encode(model.sample(count, condition=labels, seed=seed)).float()
    if spec.kind == "points" and spec.dim == 2 and result.kind != "none" and not result.conditional:
        side = GRID[result.kind]
        out["log_prob"] = model.log_prob(data.schema.decode(grid_of(data, side))).float().reshape(side, side)
    return out


def _plain_error(error: BaseException) -> str:
    return str(error) if isinstance(error, PushforwardError) else f"{type(error).__name__}: {error}"


def in_turn(jobs: Sequence[Job], data: Data, progress: bool) -> None:
    for job in jobs:
        job.started = time.monotonic()
        if progress:
            store.say(f"{job.name}: training")
        try:
            job.row.evaluation = run_job(job.model, data, job.row.run, job.fit, condition=job.condition, n=job.n)
        except Exception as error:  # one model's failure is its row, not the end of the comparison
            job.row.error = _plain_error(error)
            job.row.run.parent.parent.joinpath("jobs", f"{job.name}.log").write_text(traceback.format_exc(), encoding="utf-8")
        job.row.seconds = time.monotonic() - job.started
        if progress:
            store.say(_line(job))


# -- many processes -------------------------------------------------------------------------------------------------


def at_most(workers: int | None, jobs: int) -> int:
    if workers is not None and workers < 0:
        raise ConfigError(f"workers={workers} is negative. Give the number of jobs at once, or 0 to stay in this process.")
    return max(1, min(workers or torch.cuda.device_count() or _cores(), jobs))


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def at_once(jobs: Sequence[Job], data: Data, path: Path, workers: int, progress: bool) -> None:
    threads = max(1, _cores() // workers)
    minutes = jobs[0].fit.get("minutes")
    if progress and minutes:
        rounds = -(-len(jobs) // workers)
        plural = "s" if len(jobs) > 1 else ""
        store.say(f"{len(jobs)} job{plural}, {workers} at once: {rounds * minutes:g} min of training, and evaluation after each. -> {path}")
    waiting, running = list(jobs), []
    show = _Progress(jobs, enabled=progress)
    try:
        with show:
            while waiting or running:
                while waiting and len(running) < workers:
                    job = waiting.pop(0)
                    _start(job, data.spec, path, threads, jobs.index(job))
                    if job.process is not None:
                        running.append(job)
                for job in [j for j in running if j.process is not None and j.process.poll() is not None]:
                    _finish(job, path)
                    running.remove(job)
                show.update()
                time.sleep(0.1)
    finally:
        for job in running:  # an interrupt reaches here with jobs still at work
            if job.process is not None and job.process.poll() is None:
                job.process.terminate()
                try:
                    job.process.wait(10)
                except subprocess.TimeoutExpired:
                    job.process.kill()


def _start(job: Job, spec: DataSpec, path: Path, threads: int, slot: int) -> None:
    job.started = time.monotonic()
    cls = type(job.model)
    if (refusal := cls.accepts(spec)) is not None:
        job.row.error = refusal
        return
    networks = [k for k, v in job.model.config().items() if isinstance(v, torch.nn.Module) and not isinstance(v, Model)]
    if networks or cls.__module__ == "__main__" or "<locals>" in cls.__qualname__:
        why = f"its {networks[0]} is a network that was passed in" if networks else "its class lives in the running script"
        job.row.error = (
            f"{cls.__name__} cannot be described to another process: {why}. Compare with workers=0, which stays in this process."
        )
        return
    asked = {
        "model": job.model.describe(),
        "class": f"{cls.__module__}:{cls.__qualname__}",
        "run": str(job.row.run.resolve()),
        "fit": job.fit,
        "condition": job.condition,
        "n": job.n,
        "threads": threads,
    }
    file = path / "jobs" / f"{job.name}.json"
    store.write_json(file, asked)
    threading = {k: str(threads) for k in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    env = {**os.environ, **threading, "PYTHONPATH": os.pathsep.join(p or os.getcwd() for p in sys.path)}
    if torch.cuda.device_count() > 1:
        env["CUDA_VISIBLE_DEVICES"] = str(slot % torch.cuda.device_count())
    with (path / "jobs" / f"{job.name}.log").open("wb") as log:
        code = "import sys; from pushforward.jobs import main; main(sys.argv[1])"
        job.process = subprocess.Popen([sys.executable, "-c", code, str(file.resolve())], stdout=log, stderr=subprocess.STDOUT, env=env)


def _finish(job: Job, path: Path) -> None:
    assert job.process is not None
    job.row.seconds = time.monotonic() - job.started
    answer = path / "jobs" / f"{job.name}.answer.json"
    log = path / "jobs" / f"{job.name}.log"
    if answer.exists():
        found = store.read_json(answer)
        job.row.error = found["error"]
        if found["evaluation"] is not None:
            job.row.evaluation = Evaluation.from_json(found["evaluation"])
        answer.unlink()
        return
    code = job.process.returncode
    if code < 0:
        what = f"was killed by {signal.Signals(-code).name}" + (
            " (is memory short? fewer workers= need less)" if code == -signal.SIGKILL else ""
        )
    else:
        what = f"ended with status {code}"
    job.row.error = f"The process {what}. What it printed is in {log}."


def main(job: str) -> None:
    """The body of a job's own process: read what is asked, do it, write the answer."""
    asked = store.read_json(Path(job))
    answer = Path(job).with_suffix(".answer.json")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    torch.set_num_threads(asked["threads"])
    evaluation, error = None, None
    try:
        data = take_over(Path(job).parent)
        model = from_config(asked["model"]) if asked["model"]["model"] in catalog() else _import(asked["class"], asked["model"]["config"])
        evaluation = run_job(model, data, Path(asked["run"]), asked["fit"], condition=asked["condition"], n=asked["n"]).to_json()
    except Exception as failure:
        traceback.print_exc()
        error = _plain_error(failure)
    store.write_json(answer, {"evaluation": evaluation, "error": error})


def _import(path: str, config: Mapping[str, Any]) -> Model:
    """A model that no catalog lists, by its module and name."""
    module, _, name = path.partition(":")
    cls: Any = functools.reduce(getattr, name.split("."), importlib.import_module(module))
    return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in config.items()})


# -- the data, handed over ------------------------------------------------------------------------------------------

SPLITS = ("train", "validation", "test")


def hand_over(data: Data, folder: Path) -> None:
    tensors, dynamic = {}, {}
    for split in SPLITS:
        records: Records = getattr(data, split)
        tensors[f"{split}.x"], dynamic[split] = records.x, records.dynamic
        if records.condition is not None:
            tensors[f"{split}.condition"] = records.condition
    if data.order is not None:
        tensors["order"] = data.order
    meta = {**data.describe(), "dynamic": dynamic, "notes": list(data.notes), "truth": data.truth is not None}
    store.write_tensors(folder / "data.safetensors", tensors, meta)


def take_over(folder: Path) -> Data:
    tensors, meta = store.read_tensors(folder / "data.safetensors")
    schema = Schema.from_json(meta["schema"])
    train, validation, test = (Records(schema, tensors[f"{s}.x"], tensors.get(f"{s}.condition"), meta["dynamic"][s]) for s in SPLITS)
    # The exact density of a built-in set: only its source can bring it back.
    truth = reload(meta).truth if meta["truth"] and meta["source"] is not None else None
    return Data(schema, train, validation, test, meta["source"], truth, tensors.get("order"), tuple(meta["notes"]))


# -- what the terminal shows ----------------------------------------------------------------------------------------


def _line(job: Job) -> str:
    seconds = f"{job.row.seconds or (time.monotonic() - job.started if job.started else 0):.0f} s"
    if job.row.error is not None:
        return f"{job.name}: failed after {seconds}: {job.row.error}"
    if job.row.evaluation is not None and job.row.evaluation.log_prob is not None:
        return f"{job.name}: done in {seconds}, {job.row.evaluation.kind} log-likelihood {job.row.evaluation.log_prob:.2f} nats"
    return f"{job.name}: {job.state}" + ("" if job.state == "waiting" else f", {seconds}")


class _Progress:
    """One line per job: redrawn in place on a terminal, printed when a job's state changes elsewhere."""

    def __init__(self, jobs: Sequence[Job], *, enabled: bool):
        self.jobs, self.enabled, self.said, self.live = jobs, enabled, dict[str, str](), None

    def __enter__(self) -> "_Progress":
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
                    store.say(_line(job))

    @staticmethod
    def _progress(job: Job) -> str:
        minutes = job.fit.get("minutes")
        if job.state != "training" or not minutes:
            return _line(job)
        share = min(1.0, (time.monotonic() - job.started) / (60 * minutes))
        return f"{_line(job)}  {'━' * round(24 * share)}{'·' * (24 - round(24 * share))} {share:.0%}"

    def __exit__(self, *_: object) -> None:
        if self.live is not None:
            self.update()
            self.live.stop()
