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
from .model import Model


def table_figures(
    result: Evaluation,
    data: Data,
    model: Model,
    held_out: Records,
    fake: Tensor,
    real: Tensor,
    condition: Any,
    target: str | None,
    seed: int,
) -> None:
    """Add the table's figures to `result`: samples `fake` (n, D) and fresh records `real`, against the held-out ones."""
    names = [str(column.name) for column in getattr(data.schema, "columns")]  # noqa: B009
    categories = {name for name, s in zip(names, data.spec.columns) if s.name in ("categories", "binary")}
    held = _columns(held_out.tensor(), names)
    for x, into in ((fake, result.figures), (real, result.real)):
        found = metrics.column_fidelity(held, _columns(x, names), categories)
        into["column_fidelity"] = found.columns
        if found.pairs is not None:
            into["pair_fidelity"] = found.pairs
        if into is result.figures and found.worst:
            result.notes.append(found.worst)
    _predictor(result, data, held_out, fake, condition, target, seed, names)


def _columns(x: Tensor, names: list[str]) -> Mapping[str, np.ndarray]:
    return {name: x[:, i].double().numpy() for i, name in enumerate(names)}


def _predictor(
    result: Evaluation, data: Data, held_out: Records, fake: Tensor, condition: Any, target: str | None, seed: int, names: list[str]
) -> None:
    """Train a predictor of the target on samples and on as many real records; score both on the held-out records."""
    train = data.train.subset(torch.randperm(len(data.train), generator=torch.Generator().manual_seed(seed))[: len(fake)])
    real, test = train.tensor().double(), held_out.tensor().double()
    if target is not None:
        if target not in names:
            raise ConfigError(f"target={target!r} is no column of this table.{nearest(target, names)}")
        at = names.index(target)
        keep = [i for i in range(len(names)) if i != at]
        kind = data.spec.columns[at].name
        y = [x[:, at] for x in (real, test, fake)]
        x = [x[:, keep] for x in (real, test, fake)]
    elif result.conditional and condition is not None and data.schema.condition is not None and data.schema.condition.kind == "classes":
        assert train.condition is not None
        assert held_out.condition is not None
        keep, kind = list(range(len(names))), "categories"
        x, y = [real, test, fake], [train.condition, held_out.condition, held_out.condition]  # samples were asked for with these labels
    else:
        return
    among = [i for i, c in enumerate(keep) if data.spec.columns[c].name == "categories"]
    try:
        found = metrics.train_on_synthetic(
            *[(a.numpy(), b.numpy()) for a, b in zip(x, y)],
            task="classification" if kind in ("categories", "binary") else "regression",
            categories=among,
            seed=seed,
        )
    except DataError as error:
        result.notes.append(f"No predictor was trained on the samples: {error}")
        return
    result.figures["synthetic_score"], result.real["synthetic_score"] = found.synthetic, found.real
