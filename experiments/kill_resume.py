"""Kill -9 at random moments of `pushforward fit`, then `pushforward resume`: are the final weights those of the run that was left alone?

Each trial is a fresh run of the command line, killed with SIGKILL at a moment drawn uniformly from the time the whole run takes, and
resumed to its end. The commands run in processes forked after the imports, so that the moments fall into training and not into
Python's start.

    python experiments/kill_resume.py [--kills 20] [--models vae,gan]
"""

import argparse
import hashlib
import os
import random
import shutil
import signal
import tempfile
import time
from pathlib import Path

import lightning_fabric  # noqa: F401  (imported before forking)
import torch
from _result import Result

from pushforward import catalog
from pushforward.cli import app

STEPS = {"pixelcnn": 60, "gmm": 20, "latent_prior": 150}


def command(arguments: list[str]) -> int:
    """Start the command line in a forked process, its output thrown away; returns the process id."""
    pid = os.fork()
    if pid == 0:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
        try:
            app.main(arguments)
            status = 0
        except SystemExit as exit_:
            status = exit_.code
        except BaseException:
            status = 1
        os._exit(status if isinstance(status, int) else 0)
    return pid


def wait(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def digest(run: Path) -> str:
    return hashlib.sha256((run / "model.safetensors").read_bytes()).hexdigest()


def trial(model: str, folder: Path, data: str, kills: int, dice: random.Random) -> tuple[int, int, int]:
    """(runs equal, kills that fell before the first checkpoint, kills that came after the end)"""
    fit = ["fit", model, "--data", data, "--steps", str(STEPS.get(model, 300)), "--checkpoint-every", "0.1", "--no-progress"]
    start = time.perf_counter()
    assert wait(command([*fit, "--out", str(folder / "whole")])) == 0, f"{model}: the run that was left alone failed"
    duration = time.perf_counter() - start
    expected, equal, early, late = digest(folder / "whole"), 0, 0, 0
    for i in range(kills):
        run = folder / f"killed-{i}"
        pid = command([*fit, "--out", str(run)])
        time.sleep(dice.uniform(0, duration))
        os.kill(pid, signal.SIGKILL)
        wait(pid)
        late += (run / "model.safetensors").exists()
        early += not (run / "checkpoint" / "last.safetensors").exists()
        if not run.exists():  # killed before the folder was there: nothing half-written, so fit starts anew
            assert wait(command([*fit, "--out", str(run)])) == 0
        elif not (run / "model.safetensors").exists():
            assert wait(command(["resume", str(run), "--no-progress"])) == 0, f"{model}: resume failed on {run}"
        equal += digest(run) == expected
        shutil.rmtree(run)
    return equal, early, late


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--models", default=",".join(catalog()))
    parser.add_argument("--data", default="digits")
    given = parser.parse_args()
    torch.set_num_threads(1)
    dice = random.Random(0)
    settings = {"kills": given.kills, "data": given.data, "steps": 300, **{f"steps of {k}": v for k, v in STEPS.items()}}
    with Result("kill_resume", settings=settings) as result:
        for model in given.models.split(","):
            with tempfile.TemporaryDirectory() as folder:
                equal, early, late = trial(model, Path(folder), given.data, given.kills, dice)
            note = f"{early} killed before the first checkpoint, {late} after the end"
            target = f"{given.kills} of {given.kills}"
            result.add(
                f"{model}: resumed weights identical ({note})", equal, unit="runs", kind="count", target=target, holds=equal == given.kills
            )
