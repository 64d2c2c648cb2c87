"""What the training loop asks of its engine: Lightning Fabric, optimisers, the learning rate, a forecast, and Ctrl-C."""

import contextlib
import math
import signal
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from .objective import Training

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from .train import Loop


def leave_group() -> None:
    """End the group of processes, if there is one."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def make_fabric(t: Training, unused: bool) -> "Fabric":
    """Fabric for these settings; `unused` says whether a step may leave parameters without a gradient, as several objectives do in turn."""
    from lightning_fabric import Fabric
    from lightning_fabric.strategies import DDPStrategy

    precision = {"32": "32-true", "64": "64-true", "bf16": "bf16-mixed"}[t.precision]
    strategy: Any = t.strategy
    if strategy == "ddp" or (strategy == "auto" and (t.devices not in (1, "1", "auto") or t.nodes > 1)):
        strategy = DDPStrategy(find_unused_parameters=unused)
    return Fabric(accelerator=t.accelerator, devices=t.devices, num_nodes=t.nodes, strategy=strategy, precision=precision)  # pyright: ignore


def make_optimizer(parameters: list[nn.Parameter], t: Training) -> torch.optim.Optimizer:
    """The optimiser for these settings, fused where torch offers it."""
    kw: dict[str, Any] = {"lr": t.lr, "weight_decay": t.weight_decay}
    if t.optimizer == "rmsprop":
        return torch.optim.RMSprop(parameters, **kw)
    if t.optimizer == "sgd":
        return torch.optim.SGD(parameters, fused=True, **kw)
    kind = torch.optim.AdamW if t.optimizer == "adamw" else torch.optim.Adam
    return kind(parameters, betas=(float(t.betas[0]), float(t.betas[1])), fused=True, **kw)


def learning_rate(t: Training, step: int, progress: float) -> float | None:
    """The learning rate at this point, or None when it never changes."""
    if t.schedule == "constant" and (not t.warmup or step > t.warmup):
        return None
    fall = {"constant": 1.0, "linear": 1 - progress, "cosine": 0.5 * (1 + math.cos(math.pi * progress))}[t.schedule]
    return t.lr * fall * min(1.0, (step + 1) / t.warmup if t.warmup else 1.0)


def judges(loop: "Loop", pace: float) -> int:
    """How many validation records a validation looks at: all, or as many as keep it near half a per cent of the budget.

    A step costs about three forward passes, so the twenty validations of a run take a tenth of its time at most (or 500 records each).
    """
    rounds = loop.total or 60 * (loop.training.minutes or 1) / pace
    seen = rounds * loop.training.batch_size * sum(o.steps for o in loop.objectives if o.fresh)
    return min(len(loop.data.validation), max(500, round(0.015 * seen)))


def forecast(loop: "Loop", pace: float) -> str:
    """A sentence on how long training will take, from the measured pace of a round."""
    ms = f"{1000 * pace:.3g} ms a step"
    if loop.total is None:
        minutes = loop.training.minutes or 0
        left = 60 * minutes - loop.seconds
        return f"{left / 60:.3g} minutes: about {left / pace:,.0f} steps, {left / pace / loop.epoch_steps:,.1f} epochs ({ms})"
    left = (loop.total - loop.step) * pace
    return (
        f"{loop.total - loop.step:,} steps: about {left:.0f} seconds ({ms})"
        if left < 100
        else f"{loop.total - loop.step:,} steps: about {left / 60:.0f} minutes ({ms})"
    )


@contextlib.contextmanager
def interruptible(loop: "Loop") -> Iterator[None]:
    """The first Ctrl-C asks the loop to stop after the round at hand; a second one stops at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGINT)

    def ask(*_: Any) -> None:
        loop.interrupted = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    signal.signal(signal.SIGINT, ask)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
