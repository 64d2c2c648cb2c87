"""Many jobs at once, each in a process of its own on this machine."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

import torch

from .. import store
from ..data import Data
from ..errors import ConfigError, RunError
from .plan import Job, fill
from .progress import Progress
from .work import PATIENCE

CODE = "import sys; from pushforward.jobs import main; main(sys.argv[1])"


def at_most(workers: int | None, jobs: int) -> int:
    """How many jobs run at once: what is asked for, or one for each GPU or core, and no more than there are jobs."""
    if workers is not None and workers < 0:
        raise ConfigError(f"workers={workers} is negative. Give the number of jobs at once, or 0 to stay in this process.")
    return max(1, min(workers or torch.cuda.device_count() or cores(), jobs))


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def only_one(path: Path) -> Iterator[int | None]:
    """Hold the comparison's lock, which its jobs' processes share: so nobody goes on with one whose jobs are still at work.

    Raises `RunError` when others hold it for longer than jobs of a killed comparison need to stop.
    """
    try:
        import fcntl
    except ImportError:  # a system without it has no lock
        yield None
        return
    with (path / "jobs" / "lock").open("w") as file:
        until = time.monotonic() + PATIENCE + 5
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > until:
                    raise RunError(f"Another process is at work on the comparison in {path}. Wait for it, or stop it first.") from error
                time.sleep(0.1)
        yield file.fileno()


def at_once(jobs: Sequence[Job], data: Data, path: Path, workers: int, progress: bool, lock: int | None = None) -> None:
    """Do the jobs, `workers` at a time. An interrupt stops those at work, which save a checkpoint first."""
    threads = max(1, cores() // workers)
    announce(jobs, workers, path, progress)
    waiting, running = list(jobs), dict[str, subprocess.Popen[bytes]]()
    try:
        with Progress(jobs, enabled=progress) as show:
            while waiting or running:
                while waiting and len(running) < workers:
                    job = waiting.pop(0)
                    if job.begin(data, threads) is not None:
                        running[job.name] = _start(job, threads, jobs.index(job), lock)
                for job in [j for j in jobs if j.name in running and running[j.name].poll() is not None]:
                    _finish(job, running.pop(job.name))
                show.update()
                time.sleep(0.1)
    finally:
        _stop(list(running.values()))


def announce(jobs: Sequence[Job], workers: int, path: Path, progress: bool) -> None:
    """Say how long the jobs will take."""
    minutes = jobs[0].fit.get("minutes") if jobs else None
    if progress and minutes:
        rounds = -(-len(jobs) // workers)
        plural = "s" if len(jobs) > 1 else ""
        store.say(f"{len(jobs)} job{plural}, {workers} at once: {rounds * minutes:g} min of training, and evaluation after each. -> {path}")


def _start(job: Job, threads: int, slot: int, lock: int | None) -> "subprocess.Popen[bytes]":
    threading = {k: str(threads) for k in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    env = {**os.environ, **threading, "PYTHONPATH": os.pathsep.join(p or os.getcwd() for p in sys.path)}
    if torch.cuda.device_count() > 1:
        env["CUDA_VISIBLE_DEVICES"] = str(slot % torch.cuda.device_count())
    with (job.folder / f"{job.name}.log").open("ab") as log:
        # A session of its own: Ctrl-C reaches this process alone, which tells the jobs. Its standard input closes when we die.
        return subprocess.Popen(
            [sys.executable, "-c", CODE, str(job.question.resolve())],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=env,
            start_new_session=True,
            pass_fds=() if lock is None else (lock,),
        )


def _stop(processes: "Sequence[subprocess.Popen[bytes]]") -> None:
    """Ask all to stop, which lets training save a checkpoint; end those that do not."""
    for process in processes:
        with contextlib.suppress(OSError):
            process.send_signal(signal.SIGINT)
    until = time.monotonic() + PATIENCE
    for process in processes:
        try:
            process.wait(max(0.1, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        _close(process.stdin)


def _close(stream: IO[bytes] | None) -> None:
    if stream is not None:
        with contextlib.suppress(OSError):
            stream.close()


def _finish(job: Job, process: "subprocess.Popen[bytes]") -> None:
    _close(process.stdin)
    if job.answered.exists():
        fill(job.row, store.read_json(job.answered))
    job.row.seconds = time.monotonic() - job.started
    if job.answered.exists():
        return
    code = process.returncode
    if code < 0:
        what = f"was killed by {signal.Signals(-code).name}" + (
            " (is memory short? fewer workers= need less)" if code == -signal.SIGKILL else ""
        )
    else:
        what = f"ended with status {code}"
    job.row.error = f"The process {what}. What it printed is in {job.folder / f'{job.name}.log'}."
