"""The scores themselves."""

import inspect
import math
import zlib
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import metrics
from ..data import Data, Records, as_data
from ..data.spec import DataSpec
from ..errors import ConfigError, DataError, Unsupported, nearest
from ..model import Model
from .result import METHODS, Method, Novelty

__all__ = ["code_lengths", "novelty"]

MOST = 10_000
"""Reference records used at most, for the entropy and for the ranks each: ranks are then known to one percentage point."""
PNG_FRAME = 57
"""Bytes of every PNG file that say nothing of its picture: signature 8, IHDR 25, IDAT's frame 12, IEND 12."""


def novelty(
    model: Model,
    records: Any,
    *,
    method: Method = "typicality",
    reference: Any = None,
    background: Model | None = None,
    batch: int = 1,
    condition: Any = None,
    seed: int = 0,
    **options: Any,
) -> Novelty:
    """Score records by how unlike the training data they are; see `METHODS` for what each score can and cannot tell.

    Parameters
    ----------
    model
        A fitted model with a likelihood. A bound or an estimate of log p serves as well, and is named as such in the result.
    records
        The records in question, in any form that `model.log_prob` takes.
    method
        The score: `likelihood`, `typicality`, `likelihood_ratio` or `complexity`.
    reference
        What "like" means, for p-values and for the entropy of typicality: the `Data` that the model was fitted to (its validation records
        give the entropy, its test records the ranks; where one split is empty the training records give the entropy), or other records
        that the model has *not* seen (half of them give the entropy then). None goes without p-values.
    background
        For `likelihood_ratio`: a model fitted to perturbed records, `type(model)().fit(pushforward.perturbed(data))`.
    batch
        Records of one origin that are scored together, in their order; what is left over at the end is not scored.
    condition
        Labels of the records, for a conditional model.
    seed
        Fixes the noise of bounds and estimates, and which held-out records form a batch.
    **options
        For the model's `log_prob`, such as `samples=16`.

    Raises
    ------
    Unsupported
        The model has no likelihood, or its records have no lossless code (`complexity`).
    ConfigError
        An unknown method, no background model, none that fits, or no reference for typicality.
    DataError
        Records of another shape, or too few of them for a batch.
    NotFitted
        The model was not fitted.

    >>> import numpy as np, pushforward as pf
    >>> data = pf.load_data(np.random.default_rng(0).normal(size=(400, 20)))
    >>> model = pf.RealNVP(layers=2).fit(data, steps=20, progress=False)
    >>> found = pf.novelty(model, np.zeros((3, 20)), method="likelihood", reference=data)
    >>> bool((found.p_values > 0.9).all())  # the mode is far from every record, and the likelihood finds it the most ordinary of all
    True
    >>> found = pf.novelty(model, np.zeros((3, 20)), method="typicality", reference=data)
    >>> bool((found.p_values < 0.1).all())
    True
    """
    spec = model._ready("novelty")
    _check(model, spec, method, background, batch)
    result = Novelty(model.name or type(model).__name__, method, model.density, torch.empty(0), torch.empty(0), batch=batch, seed=seed)

    def raw(of: Any, c: Any, at: int) -> tuple[Tensor, Tensor]:
        """(score before means over batches and, for typicality, the distance to H; log p) of records, with noise of their own."""
        log_p = model.log_prob(of, condition=c, seed=seed + at, **options).double()
        if method == "likelihood_ratio":
            assert background is not None
            conditional = background.spec is not None and background.spec.condition_dim > 0
            given = {"condition": c if conditional else None}
            return background.log_prob(of, seed=seed + at, **given, **_shared(background, options)).double() - log_p, log_p
        if method == "complexity":
            return -log_p / math.log(2) - code_lengths(model._inputs(of, c)[0], spec), log_p
        return -log_p, log_p

    given, result.log_prob = raw(records, condition, 0)
    if len(given) < batch:
        raise DataError(f"{len(given)} records are too few for a batch of {batch}. Give more records, or a smaller batch.")
    if len(given) % batch:
        result.notes.append(f"{len(given) % batch} records at the end form no whole batch of {batch} and were not scored.")
    means = _batches(given, batch)
    centre, held = _reference(reference, method, seed)
    if method == "typicality":
        if centre is None:
            raise ConfigError(
                "typicality needs reference=, the data that the model was fitted to (or held-out records), for its entropy H."
            )
        result.entropy = metrics.mean_estimate(raw(centre, None, 1)[0])
        if not math.isfinite(result.entropy.value):
            raise DataError("Some reference records have no finite log p, so the entropy has no estimate. Use another model or method.")
        means = (means - result.entropy.value).abs()
    result.scores = means
    if held is not None:
        _rank(result, raw(held, None, 2)[0])
    lost = int(result.log_prob.isnan().sum())
    if lost:
        result.notes.append(f"log p of {lost} records is no number: they cannot be told from others.")
    return result


def _rank(result: Novelty, held: Tensor) -> None:
    """p-values, and the figures of all records together, from the raw scores of the held-out records."""
    order = torch.randperm(len(held), generator=torch.Generator().manual_seed(result.seed))
    scores = _batches(held[order], result.batch)
    if result.entropy is not None:
        scores = (scores - result.entropy.value).abs()
    if len(scores) < 20:
        what = "batches" if result.batch > 1 else "records"
        result.notes.append(f"{len(scores)} held-out {what} give p-values no smaller than {1 / (len(scores) + 1):.2g}. Hold out more.")
    if not len(scores):
        return
    result.held_out, result.p_values = scores, metrics.conformal_p(scores, result.scores)
    result.flagged = metrics.share_estimate(int((result.p_values <= 0.05).sum()), len(result.p_values))
    if min(len(scores), len(result.scores)) >= 2 and not (scores.isnan().any() or result.scores.isnan().any()):
        result.auroc = metrics.auroc(scores, result.scores)
        if result.method == "likelihood" and result.auroc.high < 0.5:
            result.notes.append(
                "These records are more likely under the model than held-out records of its own data. That does not make them ordinary: "
                "the likelihood cannot tell. Try typicality, complexity or likelihood_ratio."
            )


def _check(model: Model, spec: DataSpec, method: str, background: Model | None, batch: int) -> None:
    name = type(model).__name__
    if method not in METHODS:
        raise ConfigError(f"There is no method {method!r}.{nearest(method, METHODS)}")
    if batch < 1:
        raise ConfigError(f"batch must be at least 1, got {batch}.")
    if not model.supports("log_prob"):
        why = model.unsupported.get("log_prob", "this family defines none.")
        raise Unsupported(
            f"{name} has no likelihood to score with: {why} Fit a model that has one, such as realnvp, maf, glow, pixelcnn or vae."
        )
    if method == "complexity" and (not spec.discrete or spec.kind == "sequence"):
        raise Unsupported(
            f"complexity compares log p with the length of a lossless code, which {spec} has not: it needs images or tables of discrete "
            "values. Use typicality or likelihood_ratio."
        )
    if method != "likelihood_ratio":
        if background is not None:
            raise ConfigError(f"{method} takes no background model. Leave background out, or choose likelihood_ratio.")
        return
    if background is None:
        raise ConfigError(
            "likelihood_ratio needs background=, a model of perturbed records: type(model)().fit(pushforward.perturbed(data)); "
            "on the command line, `pushforward background RUN`."
        )
    other = background._ready("novelty")
    if not background.supports("log_prob") or (other.shape, other.supports) != (spec.shape, spec.supports):
        raise ConfigError(f"The background model must have a likelihood of the same records: it models {other}, {name} models {spec}.")


def _shared(background: Model, options: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the options that the background's `log_prob` knows too."""
    known = inspect.signature(getattr(background, "_log_prob")).parameters  # noqa: B009 (a hook that the base class does not declare)
    return {name: value for name, value in options.items() if name in known}


def _batches(values: Tensor, batch: int) -> Tensor:
    return values[: len(values) // batch * batch].view(-1, batch).mean(1)


def _reference(reference: Any, method: str, seed: int) -> tuple[Any, Any]:
    """(records for the entropy, held-out records to rank against), None each where there are none."""
    if reference is None:
        return None, None
    if isinstance(reference, str | Path):
        reference = as_data(reference)
    if isinstance(reference, Data):
        splits = [r for r in (reference.test, reference.validation) if len(r)]
        held = splits[0] if splits else None
        centre = splits[1] if len(splits) > 1 else reference.train
        return _some(centre, seed), None if held is None else _some(held, seed)
    if method != "typicality":
        return None, reference
    if len(reference) < 4:
        raise DataError(f"{len(reference)} reference records are too few: half of them give the entropy, half the ranks.")
    half = len(reference) // 2
    return reference[:half], reference[half:]


def _some(records: Records, seed: int) -> Records:
    if len(records) <= MOST:
        return records
    return records.subset(torch.randperm(len(records), generator=torch.Generator().manual_seed(seed))[:MOST].sort().values)


# -- code lengths ---------------------------------------------------------------------------------------------------------


def code_lengths(x: Tensor, spec: DataSpec) -> Tensor:
    """L(x): bits of a lossless code of each discrete record (B, *shape), (B,).

    Grey and RGB images of up to 256 levels: PNG with the strongest compression, less the 57 bytes that frame any picture. Other records:
    zlib at level 9 of their codes in order.
    """
    from PIL import Image

    wide = max(s.size or 1 for s in spec.supports) > 256
    codes = x.detach().cpu().round().long().numpy().astype("uint16" if wide else "uint8")
    if spec.kind != "image" or wide or spec.shape[0] not in (1, 3):
        return torch.tensor([8.0 * len(zlib.compress(row.tobytes(), 9)) for row in codes], dtype=torch.float64)
    bits = []
    for image in codes:
        file, picture = BytesIO(), Image.fromarray(image[0] if spec.shape[0] == 1 else image.transpose(1, 2, 0))
        if max(s.size or 1 for s in spec.supports) == 2 and spec.shape[0] == 1:
            picture = Image.fromarray(image[0] * 255).convert("1")
        picture.save(file, "png", optimize=True)
        bits.append(8.0 * (len(file.getvalue()) - PNG_FRAME))
    return torch.tensor(bits, dtype=torch.float64)
