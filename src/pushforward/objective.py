"""What training is made of: settings, batches, losses, objectives and observers. The loop over them is `train.py`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Literal, Self

from torch import Tensor, nn

from .errors import ConfigError, nearest
from .rng import Rng

if TYPE_CHECKING:
    from .train import Loop


@dataclass(frozen=True)
class Training:
    """How to train: the budget, the optimiser and what watches over it.

    One budget counts: `minutes`, `steps` or `epochs`, the first that is given.
    """

    steps: int | None = None
    """Budget in rounds; a round steps every objective (a critic k times)."""
    epochs: float | None = None
    """Budget in passes over the training records; 50 when no budget is given."""
    minutes: float | None = None
    """Budget in minutes of training, set-up left out."""
    batch_size: int = 128
    """Records in a batch, over all processes together."""
    lr: float = 1e-3
    """Learning rate of every objective."""
    optimizer: Literal["adam", "adamw", "sgd", "rmsprop"] = "adam"
    """The optimiser, fused where torch offers it."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Averaging constants of Adam and AdamW."""
    weight_decay: float = 0.0
    """Weight decay of the optimiser."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """How the learning rate falls to zero over the budget."""
    warmup: int = 0
    """Rounds over which the learning rate rises from zero."""
    clip: float | None = None
    """Largest norm of an objective's gradient; None leaves gradients alone."""
    ema: float | None = None
    """Decay of the exponential moving average of the weights that becomes the result; None for no average."""
    patience: int | None = None
    """Stop after this many validations without a better one; None runs to the end. The best weights are kept either way."""
    validate_every: int | None = None
    """Rounds between validations; None spreads about 20 over the budget, at least an epoch apart."""
    checkpoint_every: float = 30.0
    """Seconds between checkpoints of a run folder."""
    seed: int = 0
    """Fixes the initial weights, the order of the data and all noise."""
    precision: Literal["32", "64", "bf16"] = "32"
    """Arithmetic: single, double, or bfloat16 where it is safe (autocast)."""
    compile: bool = False
    """Compile the objective with torch.compile; pays on long runs of small networks. Not for games (their penalties)."""
    accelerator: str = "auto"
    """Lightning Fabric's accelerator: auto, cpu, cuda, mps ..."""
    devices: int | str = 1
    """Devices (or CPU processes) to train on."""
    nodes: int = 1
    """Machines to train on, launched by torchrun or SLURM."""
    strategy: str = "auto"
    """Lightning Fabric's strategy: auto, ddp, fsdp ..."""
    progress: bool = True
    """Show progress on stderr."""
    alarms: bool = True
    """Watch for mode collapse, posterior collapse, overfitting and the like, and say what to try; changes no weight. See `alarms`."""

    def override(self, **settings: Any) -> Self:
        """These settings with some replaced. Raises `ConfigError` for an unknown or impossible one."""
        known = {f.name for f in fields(self)}
        for name in settings:
            if name not in known:
                raise ConfigError(f"fit has no setting {name!r}.{nearest(name, known)}")
        if any(settings.get(b) is not None for b in ("steps", "epochs", "minutes")):
            settings = {"steps": None, "epochs": None, "minutes": None} | settings  # a new budget replaces the old one
        new = replace(self, **settings)
        for name in ("steps", "epochs", "minutes", "batch_size", "lr"):
            value = getattr(new, name)
            if value is not None and not value > 0:
                raise ConfigError(f"{name} must be above 0, got {value!r}.")
        return new

    def to_json(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in fields(self)}

    @classmethod
    def from_json(cls, state: Mapping[str, Any]) -> "Training":
        known = {f.name for f in fields(cls)}
        new = cls(**{k: v for k, v in state.items() if k in known})
        return replace(new, betas=tuple(new.betas))


@dataclass
class Batch:
    """What an objective sees of the data."""

    x: Tensor
    """(B, *shape), floating, in the values of the support."""
    c: Tensor | None
    """Conditions (B, condition_dim), or None."""
    index: Tensor
    """(B,) positions in the training split, for per-record parameters."""
    rng: Rng
    """The only source of randomness."""
    step: int = 0
    """Rounds done so far."""
    progress: float = 0.0
    """Share of the budget used, 0 to 1, for annealing."""

    def __len__(self) -> int:
        return len(self.x)


@dataclass
class Loss:
    """An objective's value on a batch."""

    per_record: Tensor
    """(B,), minimised on average; a scalar only where the objective is no sum over records."""
    terms: Mapping[str, Tensor] = field(default_factory=dict)
    """Named parts to report, (B,) or scalars."""


@dataclass(frozen=True)
class Objective:
    """One player: `loss` is minimised over the parameters of `modules`, `steps` times a round, each on a fresh batch."""

    name: str
    modules: Sequence[nn.Module | nn.Parameter]
    loss: Callable[[Batch], Loss]
    steps: int = 1
    validate: bool = True
    """Whether the loss on held-out records says how good the model is (not so for the players of a game)."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """What differs from the run's `Training` for this player's optimiser: lr, optimizer, betas, weight_decay."""
    after: Callable[[], None] | None = None
    """Done to the parameters after each of its steps, such as clipping them to a box."""
    fresh: bool = True
    """Whether it takes a new batch; False looks at the one that the objective before it has just used."""
    partial: bool = False
    """Whether a step may leave some of the parameters without a gradient."""

    def parameters(self) -> list[nn.Parameter]:
        found: dict[int, nn.Parameter] = {}
        for m in self.modules:
            for p in [m] if isinstance(m, nn.Parameter) else m.parameters():
                found[id(p)] = p
        return list(found.values())


class Observer:
    """Watches training. Progress bars, loggers, alarms and the studio derive from this and override what they need."""

    def on_start(self, loop: "Loop") -> None:
        """Before the first step; `loop.estimate` tells how long it will take."""

    def on_step(self, loop: "Loop") -> None:
        """After each round. Called often: look at the clock before doing work."""

    def on_log(self, loop: "Loop", row: Mapping[str, float]) -> None:
        """After each history line: step, seconds and the mean of each named term, or the validation figures."""

    def on_diverged(self, loop: "Loop", where: str, remedy: str) -> None:
        """Before `Diverged` is raised: where the first number that is not finite was found, and what to try."""

    def on_end(self, loop: "Loop") -> None:
        """After the last step, interrupted or not."""
