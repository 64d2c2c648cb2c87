"""Features that are learnt from the training records once, and kept."""

import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .. import store
from ..data import Data, Records
from ..data.builtin import cache_folder
from ..errors import RunError
from ..objective import Batch, Loss, Objective, Training
from ..rng import Rng
from .space import FIT_RECORDS, FeatureSpace, pick

__all__ = ["cached", "learned"]

VERSION = 2
"""Of the recipes below: raise it when they change, so that no cache gives features of an older recipe."""
WIDTH = 64
DAMAGES = ("none", "blur", "noise", "seam")
STEPS = {"classifier": 1500, "contrast": 600}
EPOCHS = 60
"""Passes over the training records at most, where they are few."""
BATCH = {"classifier": 128, "contrast": 256}
TEMPERATURE = 0.2
DAMAGE_WEIGHT = {"classifier": 0.5, "contrast": 0.1}


def learned(data: Data, seed: int = 0, cache: str | Path | Literal[False] | None = None) -> FeatureSpace:
    """The learned space of images: from labels when the data have classes, else by contrast; from the cache when it is there.

    With classes: a convolutional classifier, trained by cross-entropy; its last hidden layer (64 numbers) is the feature vector, and it can
    name classes. Without: an encoder for which two distorted views of one image are near each other and views of other images are not
    (SimCLR, Chen et al. 2020, eq. 1); the views are turned, scaled, shifted, and partly erased, never mirrored.

    Either also learns to tell records that were left alone from blurred, noisy and wrongly joined ones. Nothing else would make it notice:
    a classifier is right to overlook blur, and then calls blurred samples precise.
    """
    condition = data.schema.condition
    named = condition is not None and condition.kind == "classes" and condition.dim > 1 and data.train.condition is not None
    recipe = "classifier" if named else "contrast"
    identity = {
        "recipe": recipe,
        "version": VERSION,
        "seed": seed,
        "torch": torch.__version__,
        "spec": data.schema.spec.to_json(),
        "condition": None if condition is None else condition.to_json(),
        "train": data.fingerprint(),
        "validation": _digest(data.validation),
        "dynamic": data.train.dynamic,
    }
    return cached("learned", identity, lambda: _train(data, recipe, seed), cache)


# -- training -------------------------------------------------------------------------------------------------------


def _train(data: Data, recipe: str, seed: int) -> FeatureSpace:
    from ..train import train

    started = time.perf_counter()
    data = _with_validation(data, seed)
    spec, condition = data.schema.spec, data.schema.condition
    classes: tuple[Any, ...] = ()
    if recipe == "classifier":
        assert condition is not None
        classes = condition.classes
    net = {
        "kind": "encoder",
        "outputs": len(classes) or WIDTH,
        "width": WIDTH,
        "head": "linear" if classes else "mlp",
        "damages": len(DAMAGES),
        "seed": seed,
    }
    space = FeatureSpace("learned", "", spec, torch.zeros(1), torch.ones(1), net)
    model: nn.Module = space.net.requires_grad_(True)
    loss = _classify(space, model) if classes else _contrast(space, model)
    n = len(data.train)
    size = max(1, min(BATCH[recipe], n // 2))
    settings = Training(
        steps=min(STEPS[recipe], max(300, EPOCHS * (n // size))),
        batch_size=size,
        lr=2e-3,
        schedule="cosine",
        warmup=50,
        weight_decay=1e-4,
        optimizer="adamw",
        clip=5.0,
        patience=8,
        seed=seed,
        progress=False,
        # On the CPU always: these networks are small, and a GPU's sums differ from run to run.
        accelerator="cpu",
    )
    train(model, [Objective(recipe, [model], loss)], data, settings, conditional=bool(classes))
    model.requires_grad_(False)
    return _scaled(space, data, classes, recipe, seed, time.perf_counter() - started)


def _scaled(space: FeatureSpace, data: Data, classes: tuple[Any, ...], recipe: str, seed: int, seconds: float) -> FeatureSpace:
    """The trained space, centred, and scaled as a whole to one unit of variance per feature, with what is known of it."""
    train = pick(data.train, FIT_RECORDS, seed).tensor()
    f = torch.cat([space.raw(x) for x in train.split(space.batch)])
    mean = f.mean(0)
    scale = 1.0 / float((f - mean).square().mean().sqrt().clamp_min(1e-12))
    details: dict[str, Any] = {"recipe": recipe, "seed": seed, "seconds": round(seconds, 2), "records": len(data.train)}
    name = f"{WIDTH} features of a contrastive encoder trained on the training records"
    if classes:
        name = f"{WIDTH} features of a classifier of the labels"
    made = FeatureSpace(
        "learned", name, data.schema.spec, mean, torch.full_like(mean, scale), space.network, space.net.state_dict(), classes, details
    )
    judges = data.test if len(data.test) else data.validation
    if classes and judges.condition is not None:
        seen = judges.condition.cpu() >= 0
        right = (made.classify(judges.tensor()) == judges.condition.cpu())[seen]
        made.details |= {"accuracy": float(right.double().mean()), "accuracy_records": len(right)}
        made.name += f" ({made.details['accuracy']:.1%} of held-out records classified rightly)"
    return made


def _classify(space: FeatureSpace, model: nn.Module) -> Callable[[Batch], Loss]:
    encoder: Any = model.encoder

    def loss(batch: Batch) -> Loss:
        assert batch.c is not None
        x = space._encode(batch.x)
        broken, kind = _damaged(x, batch.rng)
        f = encoder.features(torch.cat([x, broken]))
        right = F.cross_entropy(encoder.head(f[: len(x)]), batch.c, reduction="none")
        whole = F.cross_entropy(encoder.damage(f[len(x) :]), kind, reduction="none")
        return Loss(right + DAMAGE_WEIGHT["classifier"] * whole.mean(), {"class": right, "damage": whole})

    return loss


def _contrast(space: FeatureSpace, model: nn.Module) -> Callable[[Batch], Loss]:
    encoder: Any = model.encoder

    def loss(batch: Batch) -> Loss:
        x = space._encode(batch.x)
        n = len(x)
        broken, kind = _damaged(x, batch.rng)
        f = encoder.features(torch.cat([_view(x, batch.rng), _view(x, batch.rng), broken]))
        z = F.normalize(encoder.head(f[: 2 * n]), dim=1)
        alike = (z @ z.T / TEMPERATURE).fill_diagonal_(-torch.inf)
        partner = torch.arange(2 * n, device=z.device).roll(n)
        right = F.cross_entropy(alike, partner, reduction="none").reshape(2, n).mean(0)
        whole = F.cross_entropy(encoder.damage(f[2 * n :]), kind, reduction="none")
        return Loss(right + DAMAGE_WEIGHT["contrast"] * whole.mean(), {"contrast": right, "damage": whole})

    return loss


def _view(x: Tensor, rng: Rng) -> Tensor:
    """A view of every image (B, C, H, W): turned by up to 20 degrees, scaled by 0.8 to 1.2, shifted by up to a tenth, in part erased."""
    n, _, height, width = x.shape
    u = rng.rand(n, 7) * 2 - 1
    angle, size = u[:, 0] * 0.35, 1 + 0.2 * u[:, 1]
    cos, sin = angle.cos() / size, angle.sin() / size
    rows = torch.stack([cos, -sin, 0.2 * u[:, 2], sin, cos, 0.2 * u[:, 3]], 1).reshape(n, 2, 3)
    grid = F.affine_grid(rows, list(x.shape), align_corners=False)
    x = F.grid_sample(x, grid, padding_mode="border", align_corners=False)
    # A square of a quarter to a half of each side takes the image's own mean.
    side = 0.25 + 0.125 * (u[:, 4] + 1)
    h = torch.linspace(-1, 1, height, device=x.device).reshape(1, 1, -1, 1)
    w = torch.linspace(-1, 1, width, device=x.device).reshape(1, 1, 1, -1)
    y0, x0, side = (t.reshape(-1, 1, 1, 1) for t in (u[:, 5], u[:, 6], side))
    hidden = ((h - y0).abs() < side) & ((w - x0).abs() < side)
    return torch.where(hidden, x.mean((2, 3), keepdim=True), x)


def _damaged(x: Tensor, rng: Rng) -> tuple[Tensor, Tensor]:
    """The first half of the images (B, C, H, W), each with one of `DAMAGES`, and which, (B // 2,).

    Left as it is; smoothed once to three times with weights 1, 2, 1 in both directions; noise of 0.1 to 0.5 standard deviations; or cut
    through the middle and joined to another image's half.
    """
    low, high, sd = x.min(), x.max(), x.std()
    x = x[: max(1, len(x) // 2)]
    n, _, height, width = x.shape
    kind, u = rng.randint(len(DAMAGES), n).to(x.device), rng.rand(n, 1, 1, 1)
    noise, other = rng.randn(*x.shape), x.roll(1, 0)
    out = x.clone()
    for times in (1, 2, 3):
        at = ((kind == 1) & ((u.flatten() * 3).ceil() == times)).nonzero().flatten()
        smooth = x[at]
        for _ in range(times):
            smooth = _smooth(smooth)
        out[at] = smooth
    at = (kind == 2).nonzero().flatten()
    out[at] = (x[at] + (0.1 + 0.4 * u[at]) * sd * noise[at]).clamp(low, high)
    at = (kind == 3).nonzero().flatten()
    rows = torch.arange(height, device=x.device).reshape(1, 1, -1, 1) * 2 < height
    columns = torch.arange(width, device=x.device) * 2 < width
    out[at] = torch.where(torch.where(u[at] < 0.5, rows, columns), x[at], other[at])
    return out, kind


def _smooth(x: Tensor) -> Tensor:
    x = F.pad(x, (1, 1, 1, 1), mode="replicate")
    x = x[:, :, 1:-1] / 2 + (x[:, :, :-2] + x[:, :, 2:]) / 4
    return x[..., 1:-1] / 2 + (x[..., :-2] + x[..., 2:]) / 4


def _with_validation(data: Data, seed: int) -> Data:
    """The data with a validation split, a tenth of the training records where there is none (and enough of them)."""
    n = len(data.train)
    if len(data.validation) or n < 20:
        return data
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    held = n // 10
    train, validation = data.train.subset(order[held:]), data.train.subset(order[:held])
    return Data(data.schema, train, Records(data.schema, validation.tensor(), validation.condition), data.test)


# -- cache ----------------------------------------------------------------------------------------------------------


def _digest(records: Records) -> str:
    total = hashlib.sha256()
    for t in (records.x, records.condition):
        if t is not None:
            total.update(f"{t.dtype} {tuple(t.shape)}".encode())
            total.update(t.contiguous().cpu().numpy().data.cast("B") if t.numel() else b"")
    return total.hexdigest()


def _folder(cache: str | Path | None) -> Path:
    if cache is not None:
        return Path(cache).expanduser()
    given = os.environ.get("PUSHFORWARD_CACHE")
    return (Path(given).expanduser() if given else cache_folder()) / "spaces"


def cached(
    key: str, identity: Mapping[str, Any], make: Callable[[], FeatureSpace], cache: str | Path | Literal[False] | None
) -> FeatureSpace:
    """What `make` returns, or what it returned last time for this `identity` (JSON values).

    A damaged file, or a folder that cannot be written, is said on stderr and costs the time of making the space again.
    """
    if cache is False:
        return make()
    identity = json.loads(json.dumps(dict(identity)))
    path = _folder(cache) / f"{key}-{hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:32]}.safetensors"
    try:
        known = path.exists()
    except OSError:
        known = False
    if known:
        try:
            tensors, meta = store.read_tensors(path)
            if meta["identity"] == identity:
                return FeatureSpace.from_tensors(tensors, meta["space"])
            store.say(f"{path} belongs to other data; the {key} features are made again.")
        except (RunError, KeyError, RuntimeError, TypeError, ValueError) as error:
            store.say(f"The cached {key} features cannot be read and are made again. {error}")
    space = make()
    tensors, meta = space.tensors()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        store.write_tensors(path, tensors, {"identity": identity, "space": meta})
    except OSError as error:  # RunError is one
        store.say(f"The {key} features could not be kept for next time. {error}")
    return space
