"""Can a classifier tell the samples from the records?"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import DataError
from .estimate import Estimate
from .intervals import share_estimate

__all__ = ["classifier_two_sample"]


def classifier_two_sample(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"], *, seed: int = 0) -> Estimate:
    """The classifier two-sample test (Lopez-Paz & Oquab 2017, section 3): accuracy on held-out records of both sets.

    1/2 where nothing tells them apart, 1 where everything does. The larger set is cut down to the smaller, so that guessing scores 1/2. A
    random half of each set trains a classifier, the other half tests it, once: given the classifier the answers are independent, and
    Wilson's interval is that of *its* accuracy on new records. (Folds of a cross-validation are not independent, and no interval of
    theirs is honest.) Where the interval excludes 1/2, the distributions differ; where it does not, this classifier did not
    find how.

    The classifier is whichever does best on a third of the training half: logistic regression (shifts), nearest neighbours
    (local differences, few features) or boosted trees (the rest), each on standardised features. It is then trained on the whole half.

    Raises `DataError` for fewer than 12 records in a set.
    """
    n = min(len(x), len(y))
    if n < 12:
        raise DataError(f"The classifier two-sample test needs at least 12 records in each set, got {len(x)} and {len(y)}.")
    generator = torch.Generator().manual_seed(seed)
    order_x, order_y = (torch.randperm(len(s), generator=generator)[:n] for s in (x, y))
    train, test = (_labelled(x[order_x[at]], y[order_y[at]]) for at in (slice(n // 2), slice(n // 2, n)))
    right = _best(*train, seed).predict(test[0]) == test[1]
    found = share_estimate(int(right.sum()), len(right))
    return Estimate(found.value, found.low, found.high, found.stderr, n, found.method)


def _labelled(x: Float[Tensor, "n d"], y: Float[Tensor, "n d"]) -> tuple[Any, Any]:
    """Records in turn of x, label 0, and of y, label 1, so that any cut leaves both equally often; as numpy arrays."""
    records = torch.stack([x, y], 1).flatten(0, 1).double().cpu()
    return records.numpy(), torch.arange(len(records)).remainder(2).numpy()


def _best(records: Any, labels: Any, seed: int) -> Any:
    """The classifier that does best on the last third, trained on everything."""
    from sklearn.base import clone

    cut = 2 * (len(labels) // 3)
    cut -= cut % 2
    scores = []
    for kind in _kinds(len(labels), seed):
        scores.append((float(kind.fit(records[:cut], labels[:cut]).score(records[cut:], labels[cut:])), -len(scores), kind))
    chosen: Any = clone(max(scores, key=lambda s: s[:2])[2])
    return chosen.fit(records, labels)


def _kinds(n: int, seed: int) -> list[Any]:
    """Unfitted classifiers, the simplest first: it wins a tie."""
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return [
        make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)),
        make_pipeline(StandardScaler(), KNeighborsClassifier(max(1, round(n**0.5) // 2 * 2 + 1))),  # odd: no vote is tied
        HistGradientBoostingClassifier(max_iter=60, max_leaf_nodes=15, min_samples_leaf=min(20, max(2, n // 10)), random_state=seed),
    ]
