"""Many models on one data set: the same budget, the same held-out records, one leaderboard.

Each (model, seed) is an independent job in a process of its own, which trains, evaluates and leaves a run folder; a job that fails is a row
with its error, and the others finish. Jobs are described to their processes in JSON and safetensors, never by pickle:

==============================  =========================================================================
OUT/report.html                 the comparison, one self-contained page
OUT/comparison.json             every row's figures and settings
OUT/comparison-plan.json        what was asked, written before the first job: `resume=True` goes on with it
OUT/runs/LABEL-SEED/            the run folder, with `evaluation.json`, `samples.safetensors` and `samples.png`
OUT/jobs/LABEL-SEED.json, .log  what the job was asked, and what it printed
OUT/jobs/LABEL-SEED.answer.json what it answered
OUT/jobs/data.safetensors       the records, as all jobs saw them
OUT/jobs/spaces.safetensors     the feature spaces, as all jobs saw them
==============================  =========================================================================
"""

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import store
from .data import Data, as_data
from .data.spec import DataSpec
from .errors import ConfigError, RunError, nearest
from .jobs import Job, Plan, Row, at_most, at_once, in_turn, take_over
from .jobs.plan import BUDGETS, PLAN, UNFINISHED, described, differences, fill
from .jobs.processes import only_one
from .model import Model
from .models import catalog

__all__ = ["Comparison", "Row", "compare", "default_models"]

FAMILIES: tuple[tuple[str, ...], ...] = (("gmm",), ("vae",), ("gan",), ("spline", "realnvp"), ("pixelcnn", "made"), ("ddpm",))
"""One of each; the first of a group that accepts the records is taken (on images RealNVP goes first: splines there are slow)."""
SEEDS = 3
"""Trainings of each model, when nobody says how many: the fewest that show how much luck there is."""


# -- the result -----------------------------------------------------------------------------------------------------


@dataclass
class Comparison:
    """What `compare` found. Printing it shows the leaderboard; `path` is the folder and `path / "report.html"` the report."""

    rows: list[Row]
    data: Data
    path: Path
    budget: dict[str, Any]
    seeds: tuple[int, ...]
    seconds: float = 0.0
    created: str = field(default_factory=lambda: time.strftime("%Y-%m-%d %H:%M %Z"))

    def groups(self) -> list[list[Row]]:
        """The rows of each model together (one for each seed), in the order of the leaderboard."""
        found: dict[str, list[Row]] = {}
        for row in self.rows:
            found.setdefault(row.label, []).append(row)
        return list(found.values())

    def to_json(self) -> dict[str, Any]:
        return {
            "rows": [row.to_json() for row in self.rows],
            "data": self.data.describe(),
            "budget": self.budget,
            "seeds": list(self.seeds),
            "seconds": self.seconds,
            "created": self.created,
            "versions": store.versions(),
        }

    @classmethod
    def load(cls, path: str | Path) -> "Comparison":
        """The comparison in a folder that `compare` made, finished or not; nothing is trained.

        Raises `RunError` when the folder holds none, or a file of it is damaged.
        """
        path = Path(path).expanduser()
        if not (path / "comparison.json").exists():
            plan = Plan.read(path)
            jobs = plan.jobs()
            for job in jobs:
                job.row.error = UNFINISHED if job.row.evaluation is None else None
            return cls(rank(job.row for job in jobs), plan.data, path, plan.fit, plan.seeds, created=plan.created)
        found = store.read_json(path / "comparison.json")
        rows = [Row.from_json(state, path) for state in found["rows"]]
        for row in rows:  # those that finished after the file was written, when the comparison went on
            answered = path / "jobs" / f"{row.run.name}.answer.json"
            if row.evaluation is None and answered.exists():
                fill(row, store.read_json(answered))
        return cls(rank(rows), take_over(path / "jobs"), path, found["budget"], tuple(found["seeds"]), found["seconds"], found["created"])

    def __str__(self) -> str:
        from .report.terminal import as_text

        return as_text(self)


def rank(rows: Iterable[Row]) -> list[Row]:
    """The order of the leaderboard: by mean held-out log-likelihood over a model's seeds; then models without one, by Fréchet distance.

    Models that failed come last.

    A bound keeps its place by what it guarantees. It is marked as a bound wherever it is shown: the model may deserve a higher place, never
    (beyond its standard error) a lower one.
    """
    rows = list(rows)

    def mean(label: str, figure: str) -> float | None:
        found = [r.evaluation.value(figure) for r in rows if r.label == label and r.evaluation is not None]
        found = [v for v in found if v is not None]
        return sum(found) / len(found) if found else None

    def key(row: Row) -> tuple[Any, ...]:
        likelihood, frechet = mean(row.label, "log_prob"), mean(row.label, "frechet")
        failed = all(r.evaluation is None for r in rows if r.label == row.label)
        first = (0, -likelihood) if likelihood is not None else (1, frechet if frechet is not None else math.inf)
        return ((2, 0.0) if failed else first), row.label, row.seed

    return sorted(rows, key=key)


# -- what to compare ------------------------------------------------------------------------------------------------


def default_models(spec: DataSpec) -> list[str]:
    """One model of each of six families, such as accept these records."""
    known = catalog()
    chosen = []
    for group in FAMILIES:
        order = reversed(group) if group[0] == "spline" and spec.kind == "image" else group
        chosen.extend([name for name in order if name in known and known[name].accepts(spec) is None][:1])
    return chosen


def _as_models(models: Sequence[str | Model] | None, spec: DataSpec) -> list[Model]:
    from .signatures import model_from_text

    chosen = default_models(spec) if models is None else [models] if isinstance(models, (str, Model)) else list(models)
    if not chosen:
        raise ConfigError(f"No model to compare. Give names such as models=['vae', 'gan'].{nearest('', catalog())}")
    made = [model_from_text(m) if isinstance(m, str) else m for m in chosen]
    for m in made:
        if not isinstance(m, Model):
            raise ConfigError(f"models holds a {type(m).__name__}; give names of the catalog, or models such as GAN(loss='wasserstein').")
    return made


# -- compare --------------------------------------------------------------------------------------------------------


def compare(
    models: Sequence[str | Model] | None = None,
    data: Any = None,
    *,
    minutes: float | None = None,
    steps: int | None = None,
    epochs: float | None = None,
    seeds: int | Sequence[int] = SEEDS,
    condition: bool = False,
    out: str | Path | None = None,
    workers: int | None = None,
    address: str | None = None,
    n: int | None = None,
    features: Sequence[str] | None = None,
    inception: str | None = None,
    target: str | None = None,
    resume: bool = False,
    progress: bool = True,
    **settings: Any,
) -> Comparison:
    """Train each model for the same budget, evaluate all on the same held-out records, and write a leaderboard and a report.

    Parameters
    ----------
    models
        Names (`"vae"`, `"gan:loss=wasserstein"`) or unfitted models (`GAN(loss="wasserstein")`); None for one of each of six families.
    data
        A `Data` from `load_data`, or anything `load_data` takes; None for the built-in digits.
    minutes, steps, epochs
        The budget of each model; one minute when none is given.
    seeds
        How many times each model is trained (with seeds 0, 1, ...), or the seeds themselves. Figures are then means with a 95 % interval
        over seeds; a single seed says nothing about luck.
    condition
        True to model p(x | label) with the data's own labels.
    out
        A new folder for the report and the runs; None makes one under `runs/`.
    workers
        Jobs that run at once, each in its own process with its share of the cores; None for one per core (per GPU where there are any);
        0 to run one after the other in this process.
    address
        None for processes of this machine; or a Ray cluster: `auto` for one that runs, `ray://HOST:PORT`, or `local` to start one here
        (needs the ray extra).
    n
        Held-out records and samples to evaluate with; None for all up to 1,000.
    features
        Feature spaces in which samples are compared, by name (see `evaluate`): made once, and the same for all models.
    inception
        A safetensors file with the Inception network's weights: its features then lead.
    target
        The column of a table that is predicted after training on samples.
    resume
        True to go on with the comparison in `out`, which was stopped: what is finished stays, trainings go on from their last
        checkpoints, and what failed is tried again. The rest of the question may be left out; where it is given, it must be the same.
    progress
        Show the jobs' progress on stderr.
    **settings
        Other fields of `Training`, for all models: `batch_size`, `lr`, `precision` ...

    Raises
    ------
    ConfigError
        An unknown model or setting, or another question than the one that `resume` goes on with, before anything is trained.
    RunError
        `out` exists and is not empty, or there is nothing in it to go on with.
    KeyboardInterrupt
        Ctrl-C, after the jobs have saved checkpoints and the report of what is finished was written.
    """
    if "seed" in settings:
        raise ConfigError("compare takes seeds=(0, 1, ...), one or several, instead of seed.")
    budget = {k: v for k, v in zip(BUDGETS, (minutes, steps, epochs)) if v is not None}
    if resume:
        measured = {"n": n, "features": features, "inception": inception, "target": target}
        plan = _resumed(models, data, budget, settings, seeds, condition, {k: v for k, v in measured.items() if v is not None}, out)
    else:
        data = as_data("digits" if data is None else data)
        fit = {**(budget or {"minutes": 1.0}), **settings}
        plan = Plan(Path(), _as_models(models, data.spec), data, fit, _seeds(seeds), condition, n, features, inception, target)
        _check(plan)
        plan.path = _new_folder(out)
        plan.write()
    started = time.monotonic()
    jobs = plan.jobs()
    left = [job for job in jobs if job.row.evaluation is None]
    if resume and progress:
        store.say(f"{plan.path}: {len(jobs) - len(left)} of {len(jobs)} jobs were finished before.")
    try:
        with only_one(plan.path) as lock:
            if address is not None:
                from .jobs.cluster import on_ray

                on_ray(left, plan.data, plan.path, address, workers, progress)
            elif workers == 0:
                in_turn(left, plan.data, plan.path, progress)
            elif left:
                at_once(left, plan.data, plan.path, at_most(workers, len(left)), progress, lock)
    except KeyboardInterrupt:
        for job in left:
            if job.row.evaluation is None and job.row.error is None:
                job.row.error = UNFINISHED
        done = sum(job.row.evaluation is not None for job in jobs)
        path = _finished(plan, jobs, time.monotonic() - started).path
        store.say(f"Stopped with {done} of {len(jobs)} jobs finished; {path / 'report.html'} shows them. Go on with: {_how(path)}")
        raise
    return _finished(plan, jobs, time.monotonic() - started)


def _finished(plan: Plan, jobs: Sequence[Job], seconds: float) -> Comparison:
    """The result, and the files that tell of it."""
    from .report import write_report

    result = Comparison(rank(job.row for job in jobs), plan.data, plan.path, plan.fit, plan.seeds, seconds, plan.created)
    store.write_json(plan.path / "comparison.json", result.to_json())
    write_report(result, plan.path / "report.html")
    return result


def _how(path: Path) -> str:
    return f"pushforward compare --resume --out {path} (in Python: compare(out={str(path)!r}, resume=True))"


def _seeds(seeds: int | Sequence[int]) -> tuple[int, ...]:
    found = tuple(range(seeds)) if isinstance(seeds, int) else tuple(seeds)
    if not found or len(set(found)) < len(found) or not all(isinstance(s, int) and s >= 0 for s in found):
        raise ConfigError(f"seeds={seeds!r} names no seeds. Give how many, such as seeds=3, or different ones, such as seeds=(0, 1, 5).")
    return found


def _check(plan: Plan) -> None:
    """Refuse what cannot work, before anything is trained."""
    for model in plan.models:
        type(model).training.override(**plan.fit)
    if plan.condition and plan.data.schema.condition is None:
        raise ConfigError("condition=True needs labels, and this data set has none. Give load_data(..., label=...).")


def _new_folder(out: str | Path | None) -> Path:
    path = Path(out).expanduser() if out is not None else Path("runs") / time.strftime("compare-%Y%m%d-%H%M%S")
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        if (path / PLAN).exists():
            raise RunError(f"{path} holds a comparison. Go on with it: {_how(path)}; or choose another out= (nothing was changed).")
        raise RunError(f"{path} exists and is not empty. Choose another out= (nothing was changed).")
    path.mkdir(parents=True, exist_ok=True)
    return path


def _resumed(
    models: Sequence[str | Model] | None,
    data: Any,
    budget: Mapping[str, Any],
    settings: Mapping[str, Any],
    seeds: int | Sequence[int],
    condition: bool,
    measured: Mapping[str, Any],
    out: str | Path | None,
) -> Plan:
    """The plan in `out`, where it is the one that was asked for."""
    if out is None:
        raise ConfigError("resume=True needs out=, the folder of the comparison to go on with.")
    path = Path(out).expanduser()
    data = None if data is None else as_data(data)
    made = None if models is None else _as_models(models, data.spec if data is not None else take_over(path / "jobs").spec)
    plan = Plan.read(path, made, data)
    now: dict[str, Any] = {}
    if made is not None:
        now["models"] = [described(m) for m in made]
    if data is not None:
        now["data"] = data.describe()
    if budget or settings:
        was = {k: v for k, v in plan.fit.items() if k in BUDGETS}
        now["fit"] = {**(budget or was), **settings}
    if now or _seeds(seeds) != _seeds(SEEDS):
        now["seeds"] = _seeds(seeds)
    if condition:
        now["condition"] = condition
    now |= measured
    if found := differences(store.read_json(path / PLAN), now):
        raise ConfigError(
            f"{path} holds the answer to another question ({'; '.join(found)}). Leave out what differs, or begin anew with another out=."
        )
    return plan
