"""How codes lie: in the plane by class, and how much a simple reader learns from them."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..data import as_data
from ..errors import DataError, PushforwardError
from ..metrics import Estimate, share_estimate
from ..model import GradientModel, Model
from .lens import Lens

__all__ = ["Probe", "Scatter", "linear_probe", "probe_features", "scatter"]

NEIGHBOURS = 5


@dataclass(frozen=True)
class Scatter:
    """Held-out codes in a plane, with their classes."""

    points: Tensor
    """(n, 2)."""
    labels: np.ndarray | None
    """Positions in `classes`, (n,)."""
    classes: tuple[Any, ...]
    how: str
    """What the plane is: the code itself, or principal components with the share of variance they hold."""
    silhouette: float | None = None
    """Mean over records of (b - a) / max(a, b), with a and b the mean distances to its own and to the next class's codes (Rousseeuw 1987).

    In all dimensions of the codes: -1 to 1, 0 where classes overlap.
    """
    accuracy: Estimate | None = None
    """Held-out accuracy of the 5 nearest training codes' vote, in all dimensions of the codes."""


def scatter(lens: Lens) -> Scatter:
    """Codes of the held-out records in two dimensions: as they are, or by PCA of the codes."""
    from sklearn.decomposition import PCA
    from sklearn.metrics import silhouette_score
    from sklearn.neighbors import KNeighborsClassifier

    z, held = lens.z.double().numpy(), lens.z_held.double().numpy()
    if z.shape[1] == 1:
        points, how = np.concatenate([held, np.zeros_like(held)], 1), "the code's one dimension"
    elif z.shape[1] == 2:
        points, how = held, "the code's two dimensions"
    else:
        pca: Any = PCA(2, svd_solver="full").fit(z)
        points, share = pca.transform(held), float(pca.explained_variance_ratio_.sum())
        how = f"the first two principal components of {z.shape[1]}-dimensional codes ({share:.0%} of their variance)"
    if not lens.classes:
        return Scatter(torch.from_numpy(points), None, (), how)
    labels, held_labels = lens.labels(lens.train), lens.labels(lens.held)
    silhouette = accuracy = None
    if 1 < len(np.unique(held_labels)) < len(held_labels):
        silhouette = float(silhouette_score(held, held_labels))
        right = KNeighborsClassifier(min(NEIGHBOURS, len(z))).fit(z, labels).predict(held) == held_labels
        accuracy = share_estimate(float(right.sum()), float(len(right)))
    return Scatter(torch.from_numpy(points), held_labels, lens.classes, how, silhouette, accuracy)


@dataclass(frozen=True)
class Probe:
    """Held-out accuracy of a linear reader of features, by the number of labels that it learnt from."""

    classes: int
    held_out: int
    accuracy: Mapping[str, Mapping[int, Estimate]]
    """Features -> labels -> accuracy. With fewer labels than all, the mean over 5 draws of the labelled records."""

    def to_json(self) -> dict[str, Any]:
        rows = {name: {str(k): vars(v) for k, v in row.items()} for name, row in self.accuracy.items()}
        return {"classes": self.classes, "held_out": self.held_out, "accuracy": rows}


REPEATS = 5


def probe_features(
    features: Mapping[str, tuple[Any, Any]], labels: Any, held_labels: Any, *, counts: Sequence[int] = (100, 1000), seed: int = 0
) -> Probe:
    """Logistic regression on each set of features: name -> (features (n, d) to learn from, features (m, d) to be judged on).

    Standardised by the records it learns from, C = 1. The same records are labelled for every set of features, as many of each class as
    `counts` allow.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    labels, held_labels = np.asarray(labels), np.asarray(held_labels)
    classes = np.unique(labels)
    if len(classes) < 2:
        raise DataError("A probe needs records of at least 2 classes.")
    sizes = sorted({min(max(int(k), len(classes)), len(labels)) for k in counts})
    found: dict[str, dict[int, Estimate]] = {name: {} for name in features}
    for size in sizes:
        rights: dict[str, list[float]] = {name: [] for name in features}
        for repeat in range(1 if size == len(labels) else REPEATS):
            rows = _balanced(labels, size, seed + repeat)
            for name, (train, held) in features.items():
                reader: Any = make_pipeline(StandardScaler(), LogisticRegression(max_iter=300))
                reader.fit(np.asarray(train, dtype=np.float64)[rows], labels[rows])
                rights[name].append(float((reader.predict(np.asarray(held, dtype=np.float64)) == held_labels).sum()))
        for name, right in rights.items():
            found[name][size] = share_estimate(float(np.mean(right)), float(len(held_labels)))
    return Probe(len(classes), len(held_labels), found)


def _balanced(labels: np.ndarray, size: int, seed: int) -> np.ndarray:
    """Rows of `size` records, as many of each class as there are, in turn."""
    if size >= len(labels):
        return np.arange(len(labels))
    order = np.random.default_rng(seed).permutation(len(labels))
    rank = np.empty(len(labels), dtype=int)
    for k in np.unique(labels):
        mine = order[labels[order] == k]
        rank[mine] = np.arange(len(mine))
    return order[np.argsort(rank[order], kind="stable")][:size]


def linear_probe(
    models: Mapping[str, Model] | Sequence[Model] | Model,
    data: Any,
    *,
    counts: Sequence[int] = (100, 1000),
    n: int = 2000,
    untrained: bool = True,
    seed: int = 0,
) -> Probe:
    """How much of the classes a linear reader finds in each model's codes, from few labels and from many (Vincent et al. 2010).

    Beside the models stand the records themselves (pixels, standardised columns) and, with `untrained`, the codes of each model's own
    networks as they were before training: what the architecture gives without learning.

    Raises `DataError` when the records have no classes, `Unsupported` for a model that has no encode.
    """
    data = as_data(data)
    named = {models.name: models} if isinstance(models, Model) else models
    named = named if isinstance(named, Mapping) else {m.name: m for m in named}
    if not named:
        raise DataError("There is no model to probe.")
    features: dict[str, tuple[Tensor, Tensor]] = {}
    for name, model in named.items():
        lens = Lens(model, data, n=n, seed=seed)
        features[name] = lens.z, lens.z_held
        before = _before(lens) if untrained else None
        if before is not None:
            features[f"{name}, untrained"] = before
    lens = Lens(next(iter(named.values())), data, n=n, seed=seed)
    labels, held_labels = lens.labels(lens.train), lens.labels(lens.held)
    features = {"the records themselves": (lens.raw(lens.train.tensor()), lens.raw(lens.held.tensor())), **features}
    return probe_features(features, labels, held_labels, counts=counts, seed=seed)


def _before(lens: Lens) -> tuple[Tensor, Tensor] | None:
    """The codes that the model's networks give with fresh weights; None where they cannot be made without the data."""
    if not isinstance(lens.model, GradientModel) or lens.model.spec is None:
        return None
    try:
        model = copy.deepcopy(lens.model)
        model.build(model.spec, seed=lens.seed)  # pyright: ignore[reportArgumentType]
        fresh = Lens(model, lens.data, n=lens.n, seed=lens.seed)
        codes = fresh.encode(lens.train), fresh.encode(lens.held)
    except (PushforwardError, RuntimeError):
        return None
    return codes if all(bool(torch.isfinite(z).all()) for z in codes) else None
