"""Data sets by name: the digits that scikit-learn carries, two-dimensional densities, and MNIST's family."""

import numpy as np

from .arrays import array_data
from .densities import DRAWN, KNOWN
from .records import Data

NAMES = ("digits", *KNOWN, *DRAWN)


def named_data(name: str, *, n: int | None = None, **options) -> Data:
    """The built-in data set `name`; `n` records of a density (20,000 by default)."""
    if name == "digits":
        from sklearn.datasets import load_digits

        bunch = load_digits()
        return array_data(bunch.images.astype(np.uint8), label=bunch.target, **{"support": "levels(17)"} | options)
    n, seed = 20_000 if n is None else n, options.get("seed", 0)
    truth = KNOWN[name]() if name in KNOWN else None
    x = truth.sample(n, seed) if truth is not None else DRAWN[name](n, seed)
    data = array_data(x.numpy(), **options)
    data.truth = truth
    return data
