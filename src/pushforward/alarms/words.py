"""What checks hand over, what they advise, and where numbers stopped being finite."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..objective import Loss

if TYPE_CHECKING:
    from ..train import Loop


@dataclass(frozen=True)
class Finding:
    """What a check saw: `severity` grows with the trouble, for telling when it got much worse."""

    severity: float
    says: str
    remedy: str


def value(loop: "Loop", name: str) -> Any:
    return _values(loop).get(name, getattr(loop.training, name, None))


def _values(loop: "Loop") -> dict[str, Any]:
    config = getattr(loop.model, "config", None)
    known = config() if callable(config) else {}
    return known if isinstance(known, dict) else {}


def advice(loop: "Loop", *options: tuple[str, str]) -> str:
    """The options that this model and training have and do not follow already, with their present values."""
    known, said = _values(loop), []
    for name, text in options:
        now = known.get(name, getattr(loop.training, name, None))
        if (name in known or hasattr(loop.training, name)) and f"{name}={now!r}" not in text:
            said.append(f"{text} (now {now!r})" if name in ("r1", "beta", "critic_steps", "lr", "ema", "loss") else text)
    return "; ".join(said) + "."


def origin(loop: "Loop", loss: Loss | None) -> str:
    """Where the first numbers that are not finite are: in the records, the parameters or the loss of which records."""
    batch = getattr(loop.hand, "batch", None)
    if batch is not None and not bool(torch.isfinite(batch.x).all()):
        bad = batch.index[~torch.isfinite(batch.x).flatten(1).all(1).cpu()]
        return f"Training records {_some(bad)} of the batch hold values that are not finite."
    broken = [name for name, p in loop.model.named_parameters() if not bool(torch.isfinite(p).all())]
    if broken:
        more = f" and {len(broken) - 1} more" if len(broken) > 1 else ""
        return f"Parameter {broken[0]!r}{more} was no longer finite after the update of the step before."
    if loss is not None and batch is not None and loss.per_record.ndim:
        bad = ~torch.isfinite(loss.per_record.detach()).cpu()
        largest = max((float(p.detach().abs().max()) for p in loop.model.parameters() if p.numel()), default=0.0)
        return (
            f"All parameters are finite (the largest is {largest:.3g}); the loss is not for {int(bad.sum())} of {len(bad)} records "
            f"of the batch, the first at {_some(batch.index[bad])}."
        )
    return "All records and parameters are finite."


def _some(index: Tensor) -> str:
    shown = ", ".join(str(int(i)) for i in index[:3])
    return shown + (" ..." if len(index) > 3 else "")
