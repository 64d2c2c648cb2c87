"""Checkpoints: everything that training needs to go on bit for bit, as one safetensors file.

Weights, their average, the best weights so far, every optimiser's state, three random states (noise, the order of the data, torch's own)
and the position in the epoch. The permutation at hand is not stored: it is drawn again from the state it came from.
"""

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .store import rank_zero

if TYPE_CHECKING:
    from .train import Loop


def save(loop: "Loop") -> None:
    """Write `checkpoint/last.safetensors` of the loop's run folder, replacing the one before in one step."""
    if loop.run is None or not rank_zero():
        return
    tensors = {f"model.{k}": v for k, v in loop.model.state_dict().items()}
    tensors |= {f"ema.{i}": v for i, v in enumerate(loop.ema or ())}
    tensors |= {f"best.{k}": v for k, v in (loop.best or {}).items()}
    groups = []
    for i, optimizer in enumerate(loop.optimizers):
        state = optimizer.optimizer.state_dict()
        groups.append(state["param_groups"])
        for p, entries in state["state"].items():
            tensors |= {f"optimizer.{i}.{p}.{k}": torch.as_tensor(v) for k, v in entries.items() if v is not None}
    tensors |= {"random.noise": loop.noise.get_state(), "random.order": loop.order_state, "random.torch": torch.get_rng_state()}
    meta = {
        "step": loop.step,
        "seconds": loop.seconds,
        "position": loop.position,
        "bad": loop.bad,
        "judged": loop.judged,
        "best_value": None if loop.best is None else loop.best_value,
        "groups": groups,
    }
    loop.run.write_checkpoint(tensors, meta)


def restore(loop: "Loop") -> None:
    """Put the loop back where its run folder's last checkpoint was written, if there is one."""
    found = loop.run.read_checkpoint() if loop.run is not None else None
    if found is None or loop.run is None:
        return
    tensors, meta = found
    parts: dict[str, dict[str, Tensor]] = {}
    for key, t in tensors.items():
        head, rest = key.split(".", 1)
        parts.setdefault(head, {})[rest] = t
    loop.model.load_state_dict(parts["model"])
    for i, t in enumerate(loop.ema or ()):
        t.copy_(parts["ema"][str(i)])
    loop.best = parts.get("best")
    loop.best_value = math.inf if meta["best_value"] is None else meta["best_value"]
    for i, optimizer in enumerate(loop.optimizers):
        state: dict[int, dict[str, Tensor]] = {}
        for key, t in parts.get("optimizer", {}).items():
            at, p, name = key.split(".")
            if int(at) == i:
                state.setdefault(int(p), {})[name] = t
        optimizer.optimizer.load_state_dict({"state": state, "param_groups": meta["groups"][i]})
    loop.step, loop.seconds, loop.position, loop.bad = meta["step"], meta["seconds"], meta["position"], meta["bad"]
    loop.judged = meta.get("judged", 0)
    loop.order_state = parts["random"]["order"]
    loop.order.set_state(loop.order_state)
    loop.permutation = torch.randperm(len(loop.permutation), generator=loop.order)
    loop.noise.set_state(parts["random"]["noise"])
    torch.set_rng_state(parts["random"]["torch"])
    if rank_zero():
        loop.run.rewind(loop.step)
