"""The one training loop, on Lightning Fabric. It knows objectives, not models.

A round visits every objective in turn: take a batch, compute the mean of its per-record losses, step its optimiser (k times for a
critic). Everything random comes from two generators held here, one for the order of the data and one for noise, so that a run interrupted
anywhere and resumed from its last checkpoint has the weights of the run that was not.
"""

import atexit
import contextlib
import math
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from . import checkpoint
from .alarms import Alarms, origin
from .data import Data
from .engine import forecast, interruptible, judges, learning_rate, leave_group, make_fabric, make_optimizer
from .errors import ConfigError, DataError, Diverged
from .memory import memory_kept
from .objective import Batch, Loss, Objective, Observer, Training
from .rng import Rng
from .store import Run, rank_zero, say

if TYPE_CHECKING:
    from lightning_fabric import Fabric

__all__ = ["Batch", "Loop", "Loss", "Objective", "Observer", "Training", "train"]

LOG_EVERY = 50
"""Rounds over which history averages the losses before it writes a line."""


class _Hand:
    """The batch at hand and its loss, outside the module: setting an attribute of a module costs more than a small layer."""

    batch: Batch
    loss: Loss


class _Round(nn.Module):
    """The model as data-parallel wrappers want it: forward(i) is objective i's mean loss on the batch at hand."""

    def __init__(self, model: nn.Module, objectives: Sequence[Objective], hand: _Hand):
        super().__init__()
        self.model = model  # registered, so that its parameters are found
        self.objectives, self.hand = objectives, hand

    def forward(self, i: int) -> Tensor:
        self.hand.loss = self.objectives[i].loss(self.hand.batch)
        return self.hand.loss.per_record.mean()


class Loop:
    """The state of one training run; observers see it, `train` drives it."""

    def __init__(
        self,
        model: nn.Module,
        objectives: Sequence[Objective],
        data: Data,
        training: Training,
        run: Run | None,
        observers: Sequence[Observer],
        conditional: bool,
        fabric: "Fabric",
    ):
        self.model, self.objectives, self.data, self.training = model, objectives, data, training
        self.run, self.observers, self.conditional, self.fabric = run, list(observers), conditional, fabric
        self.step, self.seconds, self.interrupted = 0, 0.0, False
        self.best: dict[str, Tensor] | None = None
        self.best_value, self.bad = math.inf, 0
        self.position, self.estimate, self.judged = 0, "", 0
        self.window: list[tuple[str, Loss]] = []
        self.last: dict[str, float] = {}
        self._clock = time.perf_counter()

        n, size, world = len(data.train), training.batch_size, fabric.world_size
        if n < size:
            raise DataError(f"The training split has {n} records, fewer than batch_size={size}. Give batch_size={max(1, n // 2)} or less.")
        if size % world:
            raise ConfigError(f"batch_size={size} cannot be shared equally by {world} processes. Give a multiple of {world}.")
        if training.compile and len(objectives) > 1:
            raise ConfigError("compile=True is for models with one objective: torch.compile makes no second derivatives. Leave it out.")
        if not objectives[0].fresh or any(o.steps > 1 and not o.fresh for o in objectives):
            raise ConfigError("The first objective of a round needs a batch of its own, and so does one of several steps: fresh=True.")
        self.epoch_steps = max(1, n // (size * sum(o.steps for o in objectives if o.fresh)))
        self.settings = [training.override(**o.settings) if o.settings else training for o in objectives]
        self.total = self._total()
        per = size // world
        self.rows = slice(fabric.global_rank * per, (fabric.global_rank + 1) * per)

        self.noise = torch.Generator().manual_seed(training.seed)
        self.order = torch.Generator().manual_seed(training.seed + 1)
        self.order_state = self.order.get_state()
        self.permutation = torch.randperm(n, generator=self.order)
        dtype = torch.float64 if training.precision == "64" else torch.float32
        self.rng = Rng(self.noise, fabric.device, dtype, *((self.rows, size) if world > 1 else (None, None)))

        self.players = [o.parameters() for o in objectives]
        self.playing: int | None = None
        self.hand = _Hand()
        round_ = _Round(model, objectives, self.hand)
        forward = torch.compile(round_) if training.compile else round_
        self.forward = fabric.setup_module(forward)  # pyright: ignore[reportArgumentType]
        optimizers = [make_optimizer(p, s) for p, s in zip(self.players, self.settings)]
        self.optimizers: list[Any] = [fabric.setup_optimizers(o) for o in optimizers]
        # On one device in single precision Fabric's wrappers pass everything on, at a tenth of a millisecond a step: the loop then calls
        # what they wrap.
        bare = world == 1 and training.precision == "32" and "SingleDevice" in type(fabric.strategy).__name__
        self.call, self.backward, self.steppers = (
            (forward, Tensor.backward, optimizers) if bare else (self.forward, fabric.backward, self.optimizers)
        )
        self.averaged = [t for t in model.state_dict().values() if t.is_floating_point()]
        self.ema = [t.detach().clone() for t in self.averaged] if training.ema else None

    # -- budget ----------------------------------------------------------------------------------------------------------

    def _total(self) -> int | None:
        t = self.training
        if t.minutes is not None:
            return None
        return t.steps if t.steps is not None else max(1, round((50 if t.epochs is None else t.epochs) * self.epoch_steps))

    @property
    def progress(self) -> float:
        """Share of the budget used, 0 to 1."""
        if self.total is not None:
            return min(1.0, self.step / self.total)
        assert self.training.minutes is not None
        return min(1.0, self.seconds / (60 * self.training.minutes))

    # -- one round ---------------------------------------------------------------------------------------------------------

    def next_batch(self, rng: Rng | None = None) -> Batch:
        """The next global batch of the epoch's order, our rows of it."""
        size = self.training.batch_size
        if self.position + size > len(self.permutation):
            self.order_state = self.order.get_state()
            self.permutation = torch.randperm(len(self.permutation), generator=self.order)
            self.position = 0
        index = self.permutation[self.position : self.position + size]
        self.position += size
        if self.rng.rows is not None:
            index = index[self.rows]
        rng = rng or self.rng
        x, c = self.data.train.batch(index, rng)
        return Batch(x, c if self.conditional else None, index, rng, self.step, self.progress)

    def round_once(self) -> None:
        """Step every objective's optimiser its number of times."""
        t = self.training
        for i, objective in enumerate(self.objectives):
            if len(self.objectives) > 1:
                self._only(i)
            optimizer = self.steppers[i]
            lr = learning_rate(self.settings[i], self.step, self.progress)
            if lr is not None:
                for group in optimizer.param_groups:
                    group["lr"] = lr
            for _ in range(objective.steps):
                if objective.fresh:
                    self.hand.batch = self.next_batch()
                loss = self.call(i)
                self._check(loss, objective.name)
                for p in self.players[i]:  # as zero_grad does, at a third of its time
                    p.grad = None
                self.backward(loss)
                if t.clip is not None:
                    self.fabric.clip_gradients(self.forward, self.optimizers[i], max_norm=t.clip, error_if_nonfinite=False)
                optimizer.step()
                if objective.after is not None:
                    objective.after()
            self.window.append((objective.name, _detach(self.hand.loss)))
        self.step += 1
        if self.ema is not None:
            assert t.ema is not None
            # The average forgets its start sooner while it is young, as in TensorFlow's ExponentialMovingAverage.
            decay = min(t.ema, (1 + self.step) / (10 + self.step))
            torch._foreach_lerp_(self.ema, self.averaged, 1 - decay)

    def _only(self, i: int) -> None:
        """Let gradients reach objective i's own parameters and no others."""
        if self.playing == i:
            return
        for player in self.players if self.playing is None else [self.players[self.playing]]:
            for p in player:
                p.requires_grad_(False)
        for p in self.players[i]:
            p.requires_grad_(True)
        self.playing = i

    def _everyone(self) -> None:
        """Let gradients reach all parameters, and forget those that there are."""
        for p in self.model.parameters():
            p.grad = None
        for p in (p for player in self.players for p in player):
            p.requires_grad_(True)
        self.playing = None

    def _check(self, loss: Tensor, name: str) -> None:
        if loss.device.type == "cpu" and not math.isfinite(loss.item()):
            self._diverged(name, self.hand.loss)

    def _diverged(self, name: str, loss: Loss | None) -> None:
        bad = [k for k, v in (loss.terms.items() if loss else ()) if not torch.isfinite(v).all()]
        term = f"{name}: term {bad[0]!r}" if bad else name
        kept = f" The last good checkpoint is kept in {self.run.path}." if self.run else ""
        t = next((s for o, s in zip(self.objectives, self.settings) if o.name == name), self.training)
        remedy = (
            "use precision='32'"
            if t.precision == "bf16"
            else f"lower lr (now {t.lr:g}) or clip gradients (clip={1 if t.clip is None else t.clip / 10:g})"
        )
        where = origin(self, loss)
        for o in self.observers:
            o.on_diverged(self, f"The loss of {term} is not finite. {where}", f"{remedy}.")
        raise Diverged(f"The loss of {term} is not finite at step {self.step}. {where} To go on: {remedy}.{kept}")

    # -- weights ----------------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def result_weights(self) -> Iterator[None]:
        """Within the block the model has the weights that training would return now: the average where there is one."""
        if self.ema is None:
            yield
            return
        now = [t.detach().clone() for t in self.averaged]
        with torch.no_grad():
            torch._foreach_copy_(self.averaged, self.ema)
        try:
            yield
        finally:
            with torch.no_grad():
                torch._foreach_copy_(self.averaged, now)

    def validate(self) -> None:
        """Mean loss on (the first `judged` of) the validation split, with the same noise each time; keeps the best weights."""
        players = [o for o in self.objectives if o.validate]
        if not players or not self.judged:
            return
        rng = Rng.seeded(self.training.seed + 2)
        rng.device, rng.dtype = self.rng.device, self.rng.dtype
        total, count, sums = 0.0, 0, dict[str, float]()
        self.model.eval()
        with self.result_weights(), torch.no_grad(), self.fabric.autocast():
            for index in torch.arange(self.judged).split(512):
                x, c = self.data.validation.batch(index, rng)
                batch = Batch(x, c if self.conditional else None, index, rng, self.step, self.progress)
                for o in players:
                    loss = o.loss(batch)
                    total += float(loss.per_record.mean()) * len(index)
                    for k, v in loss.terms.items():
                        sums[k] = sums.get(k, 0.0) + float(v.float().mean()) * len(index)
                count += len(index)
            value = total / count
            if value < self.best_value:
                self.best_value, self.bad = value, 0
                self.best = {k: v.detach().to("cpu", copy=True) for k, v in self.model.state_dict().items()}
            else:
                self.bad += 1
        self.model.train()
        self.record({"validation/loss": value, **{f"validation/{k}": v / count for k, v in sums.items()}})

    # -- history and checkpoints ---------------------------------------------------------------------------------------

    def means(self) -> dict[str, float]:
        """Mean of each named term over the rounds since the last history line."""
        seen: dict[str, list[Tensor]] = {}
        for name, loss in self.window:
            prefix = "" if len(self.objectives) == 1 else f"{name}/"
            seen.setdefault(f"{prefix}loss", []).append(loss.per_record)
            for k, v in loss.terms.items():
                seen.setdefault(f"{prefix}{k}", []).append(v)
        # All are of as many records, so that one mean is the mean of theirs.
        return {k: float(torch.cat([v.reshape(-1) for v in vs]).float().mean()) for k, vs in seen.items()}

    def record(self, row: dict[str, float]) -> None:
        self.last.update(row)
        row = {"step": self.step, "seconds": round(self.seconds, 3), "epoch": round(self.step / self.epoch_steps, 3), **row}
        if self.run is not None and rank_zero():
            self.run.log([row])
        for o in self.observers:
            o.on_log(self, row)

    def flush(self) -> None:
        """Write the window's means as a history line."""
        if self.window:
            means = self.means()
            self.window.clear()
            bad = next((k for k, v in means.items() if not math.isfinite(v)), None)
            if bad is not None:
                self._diverged(bad, None)
            self.record(means)

    # -- time -------------------------------------------------------------------------------------------------------------

    def tick(self) -> None:
        """Bring `seconds` up to date; with several processes the first one's clock counts for all."""
        now = time.perf_counter()
        self.seconds += now - self._clock
        self._clock = now
        if self.total is None and self.fabric.world_size > 1:
            self.seconds = self.fabric.broadcast(self.seconds)

    def measure(self) -> float:
        """Seconds a round takes, from a few rounds of forward and backward passes that leave no trace in the run."""
        saved = self.position, self.permutation, self.order_state, self.order.get_state(), torch.get_rng_state()
        buffers = [b.detach().clone() for b in self.model.buffers()]
        rng = Rng(torch.Generator().manual_seed(0), self.rng.device, self.rng.dtype, self.rng.rows, self.rng.total)
        times: list[float] = []
        # Several processes must run equally many rounds, as each backward pass is an exchange: then two, whatever the clock says.
        while len(times) < 2 or (self.fabric.world_size == 1 and len(times) < 8 and sum(times) < 0.1):
            start = time.perf_counter()
            for i, o in enumerate(self.objectives):
                self._only(i)
                for _ in range(o.steps):
                    if o.fresh:
                        self.hand.batch = self.next_batch(rng)
                    loss = self.call(i)
                    self._check(loss, o.name)
                    self.backward(loss)
            times.append(time.perf_counter() - start)
        self._everyone()
        with torch.no_grad():
            for b, was in zip(self.model.buffers(), buffers, strict=True):
                b.copy_(was)
        self.position, self.permutation, self.order_state, order, torch_state = saved
        self.order.set_state(order)
        torch.set_rng_state(torch_state)
        return self.fabric.broadcast(min(times)) if self.fabric.world_size > 1 else min(times)


@memory_kept()
def train(
    model: nn.Module,
    objectives: Sequence[Objective],
    data: Data,
    training: Training,
    *,
    run: Run | None = None,
    observers: Sequence[Observer] = (),
    conditional: bool = False,
) -> None:
    """Minimise the objectives within the budget, leaving the best (or averaged, or last) weights in `model`.

    With a `run` that holds a checkpoint, training goes on from it. Ctrl-C finishes the round, saves a checkpoint and raises
    `KeyboardInterrupt`.
    Raises `Diverged` when a loss is not finite and `DataError` when there are fewer records than a batch.
    """
    from .observers import Progress

    fabric = make_fabric(training, unused=len(objectives) > 1 or objectives[0].partial)
    ours = not torch.distributed.is_initialized() if torch.distributed.is_available() else False
    fabric.launch()
    watching = [*observers, *(kind() for kind, on in ((Alarms, training.alarms), (Progress, training.progress)) if on and rank_zero())]
    loop = Loop(model, objectives, data, training, run, watching, conditional, fabric)
    model.train()
    checkpoint.restore(loop)
    pace = loop.measure()
    loop.judged = loop.judged or judges(loop, pace)
    loop.estimate = forecast(loop, pace)
    t = training
    every = t.validate_every or max(loop.epoch_steps, (loop.total or round(60 * (t.minutes or 1) / pace)) // 20, 1)
    for o in watching:
        o.on_start(loop)
    saved = loop._clock = time.perf_counter()
    try:
        with interruptible(loop):
            while loop.progress < 1 and not (t.patience is not None and loop.bad >= t.patience):
                loop.round_once()
                loop.tick()
                if loop.step % LOG_EVERY == 0:
                    loop.flush()
                if loop.step % every == 0:
                    loop.flush()
                    loop.validate()
                for o in watching:
                    o.on_step(loop)
                if run is not None and loop._clock - saved > t.checkpoint_every:
                    loop.flush()
                    checkpoint.save(loop)
                    saved = time.perf_counter()
                if loop.interrupted:
                    break
            loop.flush()
            checkpoint.save(loop)
            if not loop.interrupted and loop.step % every:
                loop.flush()
                loop.validate()
    finally:
        for o in watching:
            o.on_end(loop)
        model.eval()
        for p in model.parameters():
            p.requires_grad_(True)
            p.grad = None
    if loop.interrupted:
        if run is not None:
            say(f"Interrupted at step {loop.step}; saved. Go on with: pushforward resume {run.path}")
        raise KeyboardInterrupt
    if loop.best is not None:
        model.load_state_dict(loop.best)
    elif loop.ema is not None:
        with torch.no_grad():
            torch._foreach_copy_(loop.averaged, loop.ema)
    if fabric.world_size > 1:
        fabric.barrier()  # a process that leaves while another still reads would break its last exchange
    if ours and fabric.world_size > 1:
        # Kept for a next fit of this process: a group formed anew would find the addresses of the old one in the launcher's store.
        atexit.register(leave_group)


def _detach(loss: Loss) -> Loss:
    return Loss(loss.per_record.detach(), {k: v.detach() if v.requires_grad else v for k, v in loss.terms.items()})
