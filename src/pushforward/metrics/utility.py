"""Train on synthetic records, test on real ones: is a synthetic table as good a teacher as the real one?

TSTR (Esteban et al. 2017): a gradient-boosted tree ensemble is trained on the synthetic table and scored on real held-out records, beside
one that is trained on as many real records (TRTR). Each score is a mean over held-out records of what a record adds, so both models are
compared on the same records and the error of their ratio is the delta method's for pairs. Intervals are over held-out records, given the
two trained ensembles; that training on other records would give other ensembles is not in them.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from ..errors import ConfigError, DataError, nearest
from .estimate import Estimate
from .intervals import LEVEL, normal_quantile, share_estimate
from .tables import _columns

CATEGORIES = 255
"""Categories that the trees of scikit-learn can split on; columns with more are taken for numbers, in order of appearance."""


@dataclass(frozen=True)
class Utility:
    """Scores on real held-out records by name: accuracy and balanced accuracy, or R2."""

    task: Literal["classification", "regression"]
    synthetic: dict[str, Estimate]
    """Of the ensemble trained on synthetic records."""
    real: dict[str, Estimate]
    """Of the one trained on real records."""
    ratio: dict[str, Estimate]
    """Synthetic over real: 1 for a table that teaches as well. NaN where the real one's score is not above 0."""
    trained: int
    """Records that each was trained on."""
    held_out: int
    note: str = ""
    """What went otherwise than planned, in words."""

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        scores = {k: {n: e.to_json() for n, e in getattr(self, k).items()} for k in ("synthetic", "real", "ratio")}
        return {"task": self.task, **scores, "trained": self.trained, "held_out": self.held_out, "note": self.note}


@dataclass
class _Scores:
    value: dict[str, float] = field(default_factory=dict)
    adds: dict[str, np.ndarray] = field(default_factory=dict)
    """What each held-out record adds to the score, up to a constant: the score's error is that of their mean."""


def train_on_synthetic(
    real_train: Mapping[str, np.ndarray],
    real_test: Mapping[str, np.ndarray],
    synthetic: Mapping[str, np.ndarray],
    target: str,
    task: str = "auto",
    *,
    categories: Collection[str] = (),
    seed: int = 0,
) -> Utility:
    """How well the column `target` of real held-out records is told by trees that learnt it from the synthetic table.

    scikit-learn's `HistGradientBoostingClassifier` or `-Regressor` with its own defaults, which take missing values and categories as
    they are. Both tables are cut to the number of records of the smaller. Records without a target are left out.

    Parameters
    ----------
    real_train, real_test, synthetic
        Columns by name, as `column_fidelity` takes them.
    target
        The column to be told from all others.
    task
        classification or regression; auto: regression for a column of numbers, classification for a category or text.
    categories
        The columns that name categories; of a classification, the target is one in any case.
    seed
        Of the choice of records, and of the trees.

    Raises
    ------
    DataError
        Columns that do not fit together, no record with a target, or held-out numbers that are all equal.
    ConfigError
        An unknown task, or regression of a category.
    """
    if target not in real_train:
        raise DataError(f"There is no column {target!r}.{nearest(str(target), map(str, real_train))}")
    if task not in ("classification", "regression", "auto"):
        raise ConfigError(f"task={task!r} is neither 'classification', 'regression' nor 'auto'.")
    names = target in categories or (np.asarray(real_train[target]).dtype.kind in "bUSO" and not _numeric(real_train[target]))
    if task == "auto":
        task = "classification" if names else "regression"
    if task == "regression" and names:
        raise ConfigError(f"Column {target!r} holds categories, which have no regression. Use task='classification'.")
    of_categories = set(categories) | ({target} if task == "classification" else set())
    tables = _columns(real_train, real_test, synthetic, of_categories)
    kept = [t[target] != 0 if task == "classification" else ~np.isnan(t[target]) for t in tables]
    tables = [{k: v[at] for k, v in t.items()} for t, at in zip(tables, kept)]
    if len(tables[0]) < 2:
        raise DataError(f"There is no column but {target!r}, so there is nothing to tell it from.")
    real, test, fake = tables
    size = min(len(real[target]), len(fake[target]))
    if min(size, len(test[target])) < 2:
        raise DataError(f"Fewer than 2 records of one of the tables have a {target!r}.")
    if task == "regression" and np.ptp(test[target]) == 0:
        raise DataError(f"The held-out records' {target!r} is constant, so R^2 is not defined. Hold out other records.")
    rng = np.random.default_rng(seed)
    found, notes = [], []
    for what, table in (("synthetic", fake), ("real", real)):
        rows = rng.permutation(len(table[target]))[:size]
        predicted = _predict({k: v[rows] for k, v in table.items()}, test, target, task, of_categories, seed)
        if task == "classification" and len(np.unique(table[target][rows])) == 1:
            source, at = (synthetic, kept[2]) if what == "synthetic" else (real_train, kept[0])
            label = np.asarray(source[target], dtype=object)[at][rows[0]]
            notes.append(f"The {what} table holds one class alone, {label!r}, so its score is that of answering it always.")
        found.append(_score(predicted, test[target], task))
    ours, theirs = found
    estimates = [{k: _estimate(s, k, len(test[target])) for k in s.value} for s in found]
    ratio = {k: _ratio(ours, theirs, k) for k in ours.value}
    return Utility(
        "regression" if task == "regression" else "classification",
        estimates[0],
        estimates[1],
        ratio,
        size,
        len(test[target]),
        " ".join(notes),
    )


def _numeric(values: Any) -> bool:
    try:
        np.array(values, dtype=np.float64)
    except (TypeError, ValueError):
        return False
    return True


def _predict(
    table: dict[str, np.ndarray], test: dict[str, np.ndarray], target: str, task: str, categories: set[str], seed: int
) -> np.ndarray:
    """The answers for the held-out records of trees fitted to the table; the one answer that the table knows, where it is one."""
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

    y = table[target]
    if np.ptp(y) == 0:
        return np.full(len(test[target]), y[0])
    inputs = [k for k in table if k != target]

    def matrix(t: dict[str, np.ndarray]) -> np.ndarray:
        return np.stack([np.where(t[k] == 0, np.nan, t[k]) if k in categories else t[k] for k in inputs], 1).astype(np.float64)

    x, z, as_categories = matrix(table), matrix(test), []
    for i, k in enumerate(inputs):
        known = np.unique(x[~np.isnan(x[:, i]), i])
        if k in categories and len(known) <= CATEGORIES:
            as_categories.append(i)  # codes 0, 1, ... of those that the table has; others are missing
            for m in (x, z):
                code = np.searchsorted(known, m[:, i])
                hit = (code < len(known)) & (known[np.minimum(code, len(known) - 1)] == m[:, i]) if len(known) else np.zeros(len(m), bool)
                m[:, i] = np.where(hit, code, np.nan)
    kind = HistGradientBoostingClassifier if task == "classification" else HistGradientBoostingRegressor
    settings: dict[str, Any] = {"random_state": seed, "categorical_features": as_categories or None}
    return kind(**settings).fit(x, y).predict(z)


# -- scores ---------------------------------------------------------------------------------------------------------


def _score(predicted: np.ndarray, truth: np.ndarray, task: str) -> _Scores:
    if task == "regression":
        value, adds = r_squared(predicted, truth)
        return _Scores({"R2": value}, {"R2": adds})
    hit = (predicted == truth).astype(np.float64)
    value, adds = balanced(hit, truth)
    return _Scores({"accuracy": float(hit.mean()), "balanced accuracy": value}, {"accuracy": hit, "balanced accuracy": adds})


def balanced(hit: np.ndarray, truth: np.ndarray) -> tuple[float, np.ndarray]:
    """Mean over classes of the share hit, and what each record adds to it: n / (K n_c) (hit - share of its class)."""
    _, code, count = np.unique(truth, return_inverse=True, return_counts=True)
    share = np.bincount(code, weights=hit) / count
    return float(share.mean()), (hit - share[code]) * len(hit) / (len(count) * count[code])


def r_squared(predicted: np.ndarray, truth: np.ndarray) -> tuple[float, np.ndarray]:
    """1 - sum (y - y^)^2 / sum (y - mean)^2, and what each record adds: ((1 - R^2)(y - mean)^2 - (y - y^)^2) / var(y)."""
    error, spread = np.square(truth - predicted), np.square(truth - truth.mean())
    value = 1 - float(error.sum() / spread.sum())
    return value, ((1 - value) * spread - error) / float(spread.mean())


def _estimate(scores: _Scores, name: str, n: int) -> Estimate:
    if name == "accuracy":
        return share_estimate(float(scores.adds[name].sum()), float(n))
    value, error = scores.value[name], float(scores.adds[name].std(ddof=1)) / math.sqrt(n)
    half = normal_quantile(0.5 + LEVEL / 2) * error
    low = max(0.0, value - half) if name != "R2" else value - half
    return Estimate(value, low, min(1.0, value + half), error, n, "delta method")


def _ratio(ours: _Scores, theirs: _Scores, name: str) -> Estimate:
    """a / b of two scores of the same records: a record adds (a_i - a/b b_i) / b."""
    a, b, n = ours.value[name], theirs.value[name], len(ours.adds[name])
    if b <= 0:
        return Estimate(math.nan, n=n, method="the real table teaches nothing here")
    error = float(((ours.adds[name] - a / b * theirs.adds[name]) / b).std(ddof=1)) / math.sqrt(n)
    half = normal_quantile(0.5 + LEVEL / 2) * error
    return Estimate(a / b, a / b - half, a / b + half, error, n, "delta method, paired")
