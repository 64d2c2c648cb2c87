"""Many models on one data set: the same budget, the same held-out records, one leaderboard.

Each (model, seed) is an independent job in a process of its own, which trains, evaluates and leaves a run folder; a job that fails is a row
with its error, and the others finish. Jobs are described to their processes in JSON and safetensors, never by pickle:

==============================  =========================================================================
OUT/report.html                 the comparison, one self-contained page
OUT/comparison.json             every row's figures and settings
OUT/runs/LABEL-SEED/            the run folder, with `evaluation.json`, `samples.safetensors` and `samples.png`
OUT/jobs/LABEL-SEED.json, .log  what the job was asked, and what it printed
OUT/jobs/data.safetensors       the records, as all jobs saw them
==============================  =========================================================================
"""

import math
import shlex
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from . import store
from .data import Data, as_data
from .data.spec import DataSpec
from .errors import ConfigError, RunError, nearest
from .evaluate import Evaluation
from .jobs import Job, at_most, at_once, hand_over, in_turn
from .model import Model
from .models import catalog

__all__ = ["Comparison", "Row", "compare", "default_models"]

FAMILIES: tuple[tuple[str, ...], ...] = (("gmm",), ("vae",), ("gan",), ("spline", "realnvp"), ("pixelcnn", "made"), ("ddpm",))
"""One of each; the first of a group that accepts the records is taken (on images RealNVP goes first: splines there are slow)."""


# -- the result -----------------------------------------------------------------------------------------------------


@dataclass
class Row:
    """One (model, seed) and what became of it: an `evaluation`, or an `error` in plain words."""

    label: str
    """The model's name, with the hyperparameters that were given."""
    model: str
    config: dict[str, Any]
    seed: int
    run: Path
    command: str
    """The command that fits this model again."""
    python: str
    """The same in Python."""
    evaluation: Evaluation | None = None
    error: str | None = None
    seconds: float = 0.0
    """Wall time of the whole job: start, training, evaluation."""

    def to_json(self) -> dict[str, Any]:
        state = {k: getattr(self, k) for k in ("label", "model", "config", "seed", "command", "python", "error", "seconds")}
        return {**state, "run": self.run.name, "evaluation": None if self.evaluation is None else self.evaluation.to_json()}


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

    def __str__(self) -> str:
        from .report.leaderboard import as_text

        return as_text(self)


def rank(rows: Iterable[Row]) -> list[Row]:
    """The order of the leaderboard: by mean held-out log-likelihood over a model's seeds; then models without one, by Fréchet distance.

    Models that failed come last.

    A bound keeps its place by what it guarantees. It is marked as a bound wherever it is shown: the model may deserve a higher place, never
    (beyond its standard error) a lower one.
    """
    rows = list(rows)

    def mean(label: str, figure: str) -> float | None:
        found = [getattr(r.evaluation, figure) for r in rows if r.label == label and r.evaluation is not None]
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


def _given(model: Model) -> dict[str, Any]:
    """The hyperparameters that differ from their defaults."""
    defaults = {k: p.default for k, p in type(model).hyperparameters().items()}
    return {k: v for k, v in model.config().items() if isinstance(v, torch.nn.Module) or v != defaults[k]}


def _labels(models: Sequence[Model]) -> list[str]:
    """A short, unique name for each: `vae`, `gan loss=wasserstein`, `vae (2)`."""
    labels: list[str] = []
    for model in models:
        parts = [
            f"{k}={v.name if isinstance(v, Model) else type(v).__name__ if isinstance(v, torch.nn.Module) else v}"
            for k, v in _given(model).items()
        ]
        label = " ".join([model.name or type(model).__name__, *parts])
        n = sum(1 for known in labels if known == label or known.startswith(f"{label} ("))
        labels.append(f"{label} ({n + 1})" if n else label)
    return labels


def _slug(label: str) -> str:
    return "".join(c if c.isalnum() or c in "._=" else "-" for c in label).strip("-")


# -- compare --------------------------------------------------------------------------------------------------------


def compare(
    models: Sequence[str | Model] | None = None,
    data: Any = "digits",
    *,
    minutes: float | None = None,
    steps: int | None = None,
    epochs: float | None = None,
    seeds: Sequence[int] = (0,),
    condition: bool = False,
    out: str | Path | None = None,
    workers: int | None = None,
    n: int | None = None,
    progress: bool = True,
    **settings: Any,
) -> Comparison:
    """Train each model for the same budget, evaluate all on the same held-out records, and write a leaderboard and a report.

    Parameters
    ----------
    models
        Names (`"vae"`, `"gan:loss=wasserstein"`) or unfitted models (`GAN(loss="wasserstein")`); None for one of each of six families.
    data
        A `Data` from `load_data`, or anything `load_data` takes.
    minutes, steps, epochs
        The budget of each model; one minute when none is given.
    seeds
        Each model is trained once with each; figures are then means with their standard deviation over seeds.
    condition
        True to model p(x | label) with the data's own labels.
    out
        A new folder for the report and the runs; None makes one under `runs/`.
    workers
        Jobs that run at once, each in its own process with its share of the cores; None for one per core (per GPU where there are any);
        0 to run one after the other in this process.
    n
        Held-out records and samples to evaluate with; None for all up to 2,000.
    progress
        Show the jobs' progress on stderr.
    **settings
        Other fields of `Training`, for all models: `batch_size`, `lr`, `precision` ...

    Raises
    ------
    ConfigError
        An unknown model or setting, before anything is trained.
    RunError
        `out` exists and is not empty.
    """
    data = as_data(data)
    chosen = _as_models(models, data.spec)
    seeds = tuple(seeds)
    if "seed" in settings:
        raise ConfigError("compare takes seeds=(0, 1, ...), one or several, instead of seed.")
    budget = {k: v for k, v in (("minutes", minutes), ("steps", steps), ("epochs", epochs)) if v is not None} or {"minutes": 1.0}
    for model in chosen:
        type(model).training.override(**budget, **settings)
    if condition and data.schema.condition is None:
        raise ConfigError("condition=True needs labels, and this data set has none. Give load_data(..., label=...).")
    path = _new_folder(out)
    (path / "runs").mkdir(parents=True)
    (path / "jobs").mkdir()
    hand_over(data, path / "jobs")

    fit = {**budget, **settings}
    jobs = [
        Job(_row(label, model, seed, data, fit, condition, path), model, {**fit, "seed": seed, "progress": False}, condition, n)
        for label, model in zip(_labels(chosen), chosen)
        for seed in seeds
    ]
    started = time.monotonic()
    if workers == 0:
        in_turn(jobs, data, progress)
    else:
        at_once(jobs, data, path, at_most(workers, len(jobs)), progress)
    result = Comparison(rank(job.row for job in jobs), data, path, {**budget, **settings}, seeds, time.monotonic() - started)
    store.write_json(path / "comparison.json", result.to_json())
    from .report import write_report

    write_report(result, path / "report.html")
    return result


def _new_folder(out: str | Path | None) -> Path:
    path = Path(out).expanduser() if out is not None else Path("runs") / time.strftime("compare-%Y%m%d-%H%M%S")
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise RunError(f"{path} exists and is not empty. Choose another out= (nothing was changed).")
    path.mkdir(parents=True, exist_ok=True)
    return path


def _row(label: str, model: Model, seed: int, data: Data, fit: Mapping[str, Any], condition: bool, path: Path) -> Row:
    source = data.source or {}
    where, options = source.get("source", "DATA"), source.get("options") or {}
    run, settings = path / "runs" / f"{_slug(label)}-{seed}", {**fit, "seed": seed}

    def flags(values: Mapping[str, Any]) -> list[str]:
        return [
            f"--{k.replace('_', '-')}"
            if v is True
            else f"--no-{k.replace('_', '-')}"
            if v is False
            else f"--{k.replace('_', '-')} {_shell(v)}"
            for k, v in values.items()
        ]

    name = model.name or type(model).__name__
    words = ["pushforward fit", name, *flags(_given(model)), "--data", _shell(where), *flags(options), *flags(settings)]
    command = " ".join([*words, *(["--condition"] if condition else []), "--out", f"runs/{_slug(label)}-{seed}"])
    load = f"pf.load_data({', '.join([repr(where) if source else 'DATA', *(f'{k}={v!r}' for k, v in options.items())])})"
    arguments = ", ".join(f"{k}={v!r}" for k, v in ({**settings, "condition": True} if condition else settings).items())
    maker = f"pf.{type(model).__name__}({', '.join(f'{k}={_python(v)}' for k, v in _given(model).items())})"
    return Row(label, name, model.describe()["config"], seed, run, command, f"{maker}.fit({load}, {arguments})")


def _shell(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ",".join(map(str, value))
    return shlex.quote(value.name if isinstance(value, Model) else str(value))


def _python(value: Any) -> str:
    if isinstance(value, Model):
        return f"pf.{type(value).__name__}({', '.join(f'{k}={_python(v)}' for k, v in _given(value).items())})"
    return f"{type(value).__name__}(...)" if isinstance(value, torch.nn.Module) else repr(value)
