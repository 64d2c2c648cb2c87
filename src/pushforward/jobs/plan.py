"""What a comparison is to do, written down before it begins: so that another process can go on with it."""

import contextlib
import functools
import importlib
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from .. import store
from ..data import Data
from ..errors import ConfigError, RunError
from ..evaluate import Evaluation
from ..model import Model
from ..models import catalog, from_config
from .handover import FILE, SPACES, hand_over, hand_over_spaces, take_over

PLAN = "comparison-plan.json"
BUDGETS = ("minutes", "steps", "epochs")
MEASURES = ("n", "features", "inception", "target")
"""What says how models are measured."""
UNFINISHED = "It had not finished when the comparison was stopped."


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

    @property
    def log_probs(self) -> torch.Tensor | None:
        """log p(x) of each held-out record, from the evaluation at hand or the run folder; None where there is none."""
        if self.evaluation is None or self.evaluation.log_probs is not None:
            return None if self.evaluation is None else self.evaluation.log_probs
        file = self.run / "samples.safetensors"
        with contextlib.suppress(RunError, OSError):
            return _log_probs(file, file.stat().st_mtime_ns)
        return None

    def to_json(self) -> dict[str, Any]:
        state = {k: getattr(self, k) for k in ("label", "model", "config", "seed", "command", "python", "error", "seconds")}
        return {**state, "run": self.run.name, "evaluation": None if self.evaluation is None else self.evaluation.to_json()}

    @classmethod
    def from_json(cls, state: Mapping[str, Any], path: Path) -> "Row":
        """The row of the comparison in the folder `path`."""
        own = {k: state[k] for k in ("label", "model", "config", "seed", "command", "python", "error", "seconds")}
        found = state["evaluation"]
        return cls(**own, run=path / "runs" / state["run"], evaluation=None if found is None else Evaluation.from_json(found))


@functools.lru_cache(maxsize=512)  # every pair of models asks again
def _log_probs(file: Path, _written: int) -> torch.Tensor | None:
    return store.read_tensors(file)[0].get("log_probs")


def fill(row: Row, found: Mapping[str, Any]) -> None:
    """Put what a job answered into its row."""
    row.error, row.seconds = found["error"], found["seconds"]
    row.evaluation = None if found["evaluation"] is None else Evaluation.from_json(found["evaluation"])


@dataclass
class Job:
    """A row to fill, and the model that is to fill it."""

    row: Row
    model: Model
    fit: dict[str, Any]
    condition: bool
    measure: dict[str, Any]
    """Arguments of `evaluate` that are plain values."""
    started: float = 0.0

    @property
    def name(self) -> str:
        return self.row.run.name

    @property
    def folder(self) -> Path:
        """Where the comparison keeps what jobs are asked and answer."""
        return self.row.run.parent.parent / "jobs"

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

    @property
    def question(self) -> Path:
        return self.folder / f"{self.name}.json"

    @property
    def answered(self) -> Path:
        return self.folder / f"{self.name}.answer.json"

    def begin(self, data: Data, threads: int) -> dict[str, Any] | None:
        """Start the job's clock and write down what its process is asked; None, and the row's error, where no process can do it."""
        self.started = time.monotonic()
        self.row.error = self._obstacle(data)
        if self.row.error is not None:
            return None
        asked = self._asked(threads)
        store.write_json(self.question, asked)
        self.answered.unlink(missing_ok=True)
        return asked

    def _asked(self, threads: int) -> dict[str, Any]:
        """The job as JSON, for a process of its own."""
        cls = type(self.model)
        return {
            "model": self.model.describe(),
            "class": f"{cls.__module__}:{cls.__qualname__}",
            "run": str(self.row.run.resolve()),
            "fit": self.fit,
            "condition": self.condition,
            "measure": self.measure,
            "threads": threads,
        }

    def _obstacle(self, data: Data) -> str | None:
        """Why no other process can do this job; None when one can."""
        cls = type(self.model)
        if (refusal := cls.accepts(data.spec)) is not None:
            return refusal
        networks = [k for k, v in self.model.config().items() if isinstance(v, torch.nn.Module) and not isinstance(v, Model)]
        if networks or cls.__module__ == "__main__" or "<locals>" in cls.__qualname__:
            why = f"its {networks[0]} is a network that was passed in" if networks else "its class lives in the running script"
            return f"{cls.__name__} cannot be described to another process: {why}. Compare with workers=0, which stays in this process."
        return None


@dataclass
class Plan:
    """The whole question: which models, which records, which budget, which seeds."""

    path: Path
    models: list[Model]
    data: Data
    fit: dict[str, Any]
    """Budget and settings of training, for all models."""
    seeds: tuple[int, ...]
    condition: bool = False
    n: int | None = None
    features: Sequence[str] | None = None
    inception: str | None = None
    target: str | None = None
    created: str = field(default_factory=lambda: time.strftime("%Y-%m-%d %H:%M %Z"))

    def to_json(self) -> dict[str, Any]:
        return {
            "models": [described(m) for m in self.models],
            "data": self.data.describe(),
            "fit": self.fit,
            "seeds": list(self.seeds),
            "condition": self.condition,
            **{k: getattr(self, k) for k in MEASURES},
            "created": self.created,
            "versions": store.versions(),
        }

    def write(self) -> None:
        """Make the folder: records and feature spaces first, the plan last, so that a plan can always be followed."""
        (self.path / "runs").mkdir(parents=True, exist_ok=True)
        (self.path / "jobs").mkdir(exist_ok=True)
        hand_over(self.data, self.path / "jobs")
        hand_over_spaces(self.data, self.path / "jobs", self.features, self.inception)
        store.write_json(self.path / PLAN, self.to_json())

    @classmethod
    def read(cls, path: Path, models: Sequence[Model] | None = None, data: Data | None = None) -> "Plan":
        """The plan of a comparison's folder. `models` and `data`, where they are given, stand for what the folder cannot hold."""
        if not (path / PLAN).exists():
            raise RunError(f"{path} holds no comparison that could go on: there is no {PLAN}. Start one with another out=.")
        found = store.read_json(path / PLAN)
        if models is None:
            models = [remade(m) for m in found["models"]]
        if data is None:
            data = take_over(path / "jobs")
        elif not (path / "jobs" / FILE).exists():
            hand_over(data, path / "jobs")
        plan = cls(path, list(models), data, found["fit"], tuple(found["seeds"]), found["condition"], *(found[k] for k in MEASURES))
        plan.created = found["created"]
        if not (path / "jobs" / SPACES).exists():
            hand_over_spaces(data, path / "jobs", plan.features, plan.inception)
        return plan

    def jobs(self) -> list[Job]:
        """One for each model and seed, with the answers of those that were finished before."""
        measure = {"n": self.n, "target": self.target}
        made = [
            Job(self._row(label, model, seed), model, {**self.fit, "seed": seed, "progress": False}, self.condition, measure)
            for label, model in zip(labels(self.models), self.models)
            for seed in self.seeds
        ]
        for job in made:
            if job.answered.exists():
                found = store.read_json(job.answered)
                if found["error"] is None:  # a job that failed is tried again
                    fill(job.row, found)
        return made

    def _row(self, label: str, model: Model, seed: int) -> Row:
        source = self.data.source or {}
        where, options = source.get("source", "DATA"), source.get("options") or {}
        run, settings = self.path / "runs" / f"{_slug(label)}-{seed}", {**self.fit, "seed": seed}

        name = model.name or type(model).__name__
        words = ["pushforward fit", name, *_flags(_given(model)), "--data", _shell(where), *_flags(options), *_flags(settings)]
        command = " ".join([*words, *(["--condition"] if self.condition else []), "--out", f"runs/{_slug(label)}-{seed}"])
        load = f"pf.load_data({', '.join([repr(where) if source else 'DATA', *(f'{k}={v!r}' for k, v in options.items())])})"
        arguments = ", ".join(f"{k}={v!r}" for k, v in ({**settings, "condition": True} if self.condition else settings).items())
        maker = f"pf.{type(model).__name__}({', '.join(f'{k}={_python(v)}' for k, v in _given(model).items())})"
        return Row(label, name, model.describe()["config"], seed, run, command, f"{maker}.fit({load}, {arguments})")


# -- models in words and in JSON ------------------------------------------------------------------------------------


def described(model: Model) -> dict[str, Any]:
    """An unfitted model as JSON, with the class that makes it again."""
    return {"class": f"{type(model).__module__}:{type(model).__qualname__}", **{k: model.describe()[k] for k in ("model", "config")}}


def remade(state: Mapping[str, Any]) -> Model:
    """The unfitted model that `described` (or a job's question) describes."""
    if state["model"] in catalog():
        return from_config(state)
    module, _, name = state["class"].partition(":")
    if module == "__main__" or "<locals>" in name:
        raise ConfigError(f"{name} is a class of the script that began the comparison: give models= again to go on with it.")
    cls: Any = functools.reduce(getattr, name.split("."), importlib.import_module(module))
    return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in state["config"].items()})


def labels(models: Sequence[Model]) -> list[str]:
    """A short, unique name for each: `vae`, `gan loss=wasserstein`, `vae (2)`."""
    found: list[str] = []
    for model in models:
        parts = [
            f"{k}={v.name if isinstance(v, Model) else type(v).__name__ if isinstance(v, torch.nn.Module) else v}"
            for k, v in _given(model).items()
        ]
        label = " ".join([model.name or type(model).__name__, *parts])
        n = sum(1 for known in found if known == label or known.startswith(f"{label} ("))
        found.append(f"{label} ({n + 1})" if n else label)
    return found


def _given(model: Model) -> dict[str, Any]:
    """The hyperparameters that differ from their defaults."""
    defaults = {k: p.default for k, p in type(model).hyperparameters().items()}
    return {k: v for k, v in model.config().items() if isinstance(v, torch.nn.Module) or v != defaults[k]}


def _slug(label: str) -> str:
    return "".join(c if c.isalnum() or c in "._=" else "-" for c in label).strip("-")


def _flags(values: Mapping[str, Any]) -> list[str]:
    def flag(name: str, value: Any) -> str:
        name = name.replace("_", "-")
        return f"--{name}" if value is True else f"--no-{name}" if value is False else f"--{name} {_shell(value)}"

    return [flag(k, v) for k, v in values.items()]


def _shell(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ",".join(map(str, value))
    return shlex.quote(value.name if isinstance(value, Model) else str(value))


def _python(value: Any) -> str:
    if isinstance(value, Model):
        return f"pf.{type(value).__name__}({', '.join(f'{k}={_python(v)}' for k, v in _given(value).items())})"
    return f"{type(value).__name__}(...)" if isinstance(value, torch.nn.Module) else repr(value)


# -- two questions ----------------------------------------------------------------------------------------------------


def differences(was: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs between two plans as JSON, in words; keys that `now` lacks are left open."""

    def words(models: Sequence[Mapping[str, Any]]) -> str:
        return ", ".join(labels([remade(m) if _importable(m) else _Named(m["model"]) for m in models]))  # pyright: ignore[reportArgumentType]

    found = []
    for key, value in now.items():
        before = was[key]
        if key == "data":
            if before["fingerprint"] != value["fingerprint"]:
                found.append(f"data: fingerprint {before['fingerprint'][:12]} then, {value['fingerprint'][:12]} now")
        elif key == "models":
            if _plain(before) != _plain(value):
                found.append(f"models: {words(before)} then, {words(value)} now")
        elif key == "fit":
            for name in sorted({*before, *value}):
                if _plain(before.get(name)) != _plain(value.get(name)):
                    found.append(f"{name}: {before.get(name, 'not given')} then, {value.get(name, 'not given')} now")
        elif _plain(before) != _plain(value):
            found.append(f"{key}: {before} then, {value} now")
    return found


class _Named:
    """Stands for a model that cannot be made here, where only its name is wanted."""

    def __init__(self, name: str):
        self.name = name

    @classmethod
    def hyperparameters(cls) -> dict[str, Any]:
        return {}

    def config(self) -> dict[str, Any]:
        return {}


def _importable(state: Mapping[str, Any]) -> bool:
    module, _, name = state["class"].partition(":")
    return state["model"] in catalog() or (module != "__main__" and "<locals>" not in name)


def _plain(value: Any) -> Any:
    """A value as JSON gives it back: tuples are lists there."""
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, (list, tuple)) else value
