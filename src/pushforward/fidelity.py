"""How faithful the samples of a table are: column by column, pair by pair, and as training records for a predictor."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from . import metrics
from .data import Data, Records
from .errors import ConfigError, DataError, nearest
from .figures import Evaluation

__all__ = ["table_figures"]

LABEL = "the label"
"""The name that labels outside the table go by beside its columns."""


def table_figures(
    result: Evaluation, data: Data, held_out: Records, fake: Tensor, real: Tensor, target: str | None = None, seed: int = 0
) -> None:
    """Add a table's figures to `result`: of samples `fake` (n, D), and of fresh records `real`, against the held-out ones.

    A conditional model's samples are taken to have the held-out records' labels, in their order.

    Raises `ConfigError` when `target` is no column of the table.
    """
    held = _columns(data, held_out.tensor())
    supports = {name: s.name for name, s in zip(held, data.spec.columns)}
    if target is not None and target not in held:
        raise ConfigError(f"target={target!r} is no column of this table.{nearest(target, held)}")
    categories = {name for name, support in supports.items() if support in ("categories", "binary")}
    samples = _columns(data, fake)
    for columns, into in ((samples, result.figures), (_columns(data, real), result.real)):
        scores = metrics.column_fidelity(held, columns, categories, seed=seed)
        into["column_fidelity"] = scores["columns"]
        if "pairs" in scores:
            into["pair_fidelity"] = scores["pairs"]
        worst = metrics.worst_pair(scores)
        if into is result.figures and worst is not None:
            result.notes.append(f"The pair of columns that samples keep least: {worst[0]}, {worst[1].value:.2f} of 1.")
    train = data.train.subset(torch.randperm(len(data.train), generator=torch.Generator().manual_seed(seed))[: len(fake)])
    tables = [_columns(data, train.tensor()), held, samples]
    condition = data.schema.condition
    if target is None and result.conditional and condition is not None and condition.kind == "classes":
        target, labels = LABEL, (train.labels(), held_out.labels(), held_out.labels())
        tables, categories = [{**t, LABEL: np.asarray(y)} for t, y in zip(tables, labels)], categories | {LABEL}
    if target is None:
        return
    real_train, real_test, synthetic = tables
    try:
        found = metrics.train_on_synthetic(real_train, real_test, synthetic, target, categories=categories, seed=seed)
    except DataError as error:
        result.notes.append(f"No predictor was trained on the samples: {error}")
        return
    score = "balanced accuracy" if "balanced accuracy" in found.synthetic else next(iter(found.synthetic))
    result.figures["synthetic_score"], result.real["synthetic_score"] = found.synthetic[score], found.real[score]
    result.notes.append(f"Train on synthetic: {score} of {target}, from {found.trained} records. {found.note}".strip())


def _columns(data: Data, x: Tensor) -> Mapping[str, np.ndarray]:
    """The columns of a table's records in the user's own values."""
    frame: Any = data.schema.decode(x.to(torch.get_default_dtype()))
    return {str(name): np.asarray(frame[name].to_numpy()) for name in frame.columns}
