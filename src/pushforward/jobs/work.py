"""One job: train a model, or go on where an earlier attempt stopped; evaluate it; leave what the report draws."""

import contextlib
import os
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from .. import store
from ..alarms import alarms_of
from ..data import Data
from ..errors import DataError, PushforwardError, RunError
from ..evaluate import Evaluation, evaluate
from ..metrics import Estimate, nearest
from ..model import Density, Model
from ..objective import Training
from ..report.plots import grid_of
from ..spaces import FIT_RECORDS, FeatureSpace, pick
from .handover import take_over, take_over_spaces
from .plan import Job, fill, remade
from .progress import line

GRID: Mapping[Density, int] = {"exact": 200, "bound": 80, "estimate": 60}
"""Points along each axis of the picture of a 2-D density: fewer where each costs many network evaluations."""
NEIGHBOURS = 10
"""Samples of which the nearest training records are kept."""
PATIENCE = 10.0
"""Seconds that a job has to save a checkpoint when it is told to stop."""


def run_job(
    model: Model,
    data: Data,
    run: Path,
    fit: Mapping[str, Any],
    *,
    condition: bool = False,
    features: Mapping[str, FeatureSpace] | None = None,
    memory: bool = False,
    **measure: Any,
) -> Evaluation:
    """Fit `model`, evaluate it, and leave the run folder with its evaluation and samples.

    What an earlier attempt left in `run` is used: weights are evaluated only, a checkpoint is gone on from. `memory` says that this
    process is the job's own, so that its memory is a figure; `measure` goes to `evaluate`.
    """
    if not _taken_up(model, data, run, condition):
        started = time.perf_counter()
        model.fit(data, condition=True if condition else None, out=run, **fit)
        if not store.Run.open(run).history():  # models without a loop have only the wall's clock
            store.Run.open(run).log([{"step": 0, "seconds": time.perf_counter() - started}])
    seed = fit.get("seed", 0)
    result = evaluate(model, data, features=features, seed=seed, **measure)
    found = store.Run.open(run)
    result.alarms = [vars(alarm) for alarm in alarms_of(found)]  # also of a training that another process did
    seconds = next((row["seconds"] for row in reversed(found.history()) if "seconds" in row), None)
    if seconds is not None:
        result.figures["training_seconds"] = Estimate(float(seconds))
    if memory and (held := peak_memory()) is not None:
        result.figures["peak_memory"] = Estimate(float(held))
    store.write_tensors(run / "samples.safetensors", _pictures(model, data, result, features or {}, seed))
    store.write_json(run / "evaluation.json", result.to_json())
    return result


def _taken_up(model: Model, data: Data, run: Path, condition: bool) -> bool:
    """Bring `model` to the end of its training from what `run` holds; False, and nothing left there, when it must start anew."""
    with contextlib.suppress(RunError):
        found = store.Run.open(run)
        if found.data.get("fingerprint") == data.fingerprint():
            training = Training.from_json(found.config["training"])
            state = found.read_model() if found.finished else None
            if state is not None or found.read_checkpoint() is not None:
                model._adopt(data.schema, condition)
                assert model.spec is not None
                model.build(model.spec, seed=training.seed)
                if state is None:
                    model.carry_on(data, training, found)
                else:
                    first = next((t for t in state.values() if t.is_floating_point()), None)
                    model.to(first.dtype if first is not None else torch.get_default_dtype())
                    model.load_state_dict(state)
                    model.eval()
                    if not (run / "README.md").exists():  # stopped between the weights and their portrait
                        model._portray(found)
                return True
    shutil.rmtree(run, ignore_errors=True)
    for draft in run.parent.glob(f".{run.name}.*.draft"):
        shutil.rmtree(draft, ignore_errors=True)
    return False


def _pictures(model: Model, data: Data, result: Evaluation, features: Mapping[str, FeatureSpace], seed: int) -> dict[str, torch.Tensor]:
    """What the report needs beside figures: log-likelihoods by record, samples and their nearest records, a density in the plane."""
    spec, out = data.spec, dict[str, torch.Tensor]()
    if result.log_probs is not None:
        out["log_probs"] = result.log_probs
    if type(model).supports("sample"):
        count, labels = {"image": 100, "sequence": 16}.get(spec.kind, 1000), None
        if result.conditional:
            labels = data.train.subset(torch.arange(count) % len(data.train)).labels()
        with contextlib.suppress(DataError):  # samples that are no records; the evaluation's notes say so
            out["samples"] = data.schema.encode(model.sample(count, condition=labels, seed=seed)).float()
            if spec.kind == "image":
                out |= _nearest(out["samples"][:NEIGHBOURS], data, features)
    if spec.kind == "points" and spec.dim == 2 and result.kind != "none" and not result.conditional:
        side = GRID[result.kind]
        out["log_prob"] = model.log_prob(data.schema.decode(grid_of(data, side))).float().reshape(side, side)
    return out


def _nearest(samples: torch.Tensor, data: Data, features: Mapping[str, FeatureSpace]) -> dict[str, torch.Tensor]:
    """The training records nearest to samples: by pixels among all, by learned features among as many as features are made of."""
    train = data.train.tensor()
    _, at = nearest(samples.flatten(1), train.flatten(1))
    out = {"nearest": train[at[:, 0]].float()}
    if (learned := features.get("learned")) is not None:
        some = pick(data.train, FIT_RECORDS, 0).tensor().double()
        _, at = nearest(learned(samples.double()), learned(some))
        out["nearest_learned"] = some[at[:, 0]].float()
    return out


def plain_error(error: BaseException) -> str:
    return str(error) if isinstance(error, PushforwardError) else f"{type(error).__name__}: {error}"


def peak_memory() -> int | None:
    """Bytes that this process held at most; None where the system does not say."""
    with contextlib.suppress(OSError, ValueError):
        # Not getrusage: its figure for a process starts with what the parent held when it was born.
        text = Path("/proc/self/status").read_text()
        return 1024 * int(text.partition("VmHWM:")[2].split()[0])
    with contextlib.suppress(ImportError, OSError):
        import resource

        used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return used if sys.platform == "darwin" else 1024 * used
    return None


# -- in this process ------------------------------------------------------------------------------------------------


def in_turn(jobs: Sequence[Job], data: Data, path: Path, progress: bool) -> None:
    """One job after the other in this process."""
    features = take_over_spaces(path / "jobs")
    for job in jobs:
        job.started = time.monotonic()
        if progress:
            store.say(f"{job.name}: training")
        found: dict[str, Any] = {"evaluation": None, "error": None}
        try:
            result = run_job(job.model, data, job.row.run, job.fit, condition=job.condition, features=features, **job.measure)
            found["evaluation"] = result.to_json()
        except Exception as error:  # one model's failure is its row, not the end of the comparison
            found["error"] = plain_error(error)
            (job.folder / f"{job.name}.log").write_text(traceback.format_exc(), encoding="utf-8")
        found["seconds"] = time.monotonic() - job.started
        store.write_json(job.answered, found)
        fill(job.row, found)
        if progress:
            store.say(line(job))


# -- in a process of its own ----------------------------------------------------------------------------------------


def main(job: str) -> None:
    """The body of a job's own process: read what is asked, do it, write the answer."""
    asked = store.read_json(Path(job))
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs are born deaf to it
    _watch_parent()
    try:
        found = carried_out(asked, Path(job).parent, Path(asked["run"]))
    except KeyboardInterrupt:
        sys.exit(130)
    store.write_json(Path(job).with_suffix(".answer.json"), found)


def carried_out(asked: Mapping[str, Any], folder: Path, run: Path) -> dict[str, Any]:
    """Do the job that `asked` describes with the records in `folder`, into `run`: the answer as JSON."""
    started = time.monotonic()
    torch.set_num_threads(asked["threads"])
    found: dict[str, Any] = {"evaluation": None, "error": None}
    try:
        data, features = take_over(folder), take_over_spaces(folder)
        model = remade({**asked["model"], "class": asked["class"]})
        how = {"condition": asked["condition"], "features": features, "memory": True, **asked["measure"]}
        result = run_job(model, data, run, asked["fit"], **how)
        found["evaluation"] = result.to_json()
    except Exception as failure:
        traceback.print_exc()
        found["error"] = plain_error(failure)
    return {**found, "seconds": time.monotonic() - started, "peak_memory": peak_memory()}


def _watch_parent() -> None:
    """Stop when the comparison's own process is gone: its end of our standard input closes, however it died."""

    def watch() -> None:
        with contextlib.suppress(OSError):
            while os.read(0, 1):  # not sys.stdin, whose lock a thread must not hold when the process ends
                pass
        os.kill(os.getpid(), signal.SIGINT)  # as Ctrl-C: training saves a checkpoint
        time.sleep(PATIENCE)
        os._exit(130)

    threading.Thread(target=watch, daemon=True).start()
