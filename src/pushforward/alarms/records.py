"""What the training records themselves say: their features, precision, structure, and how well independent columns describe them."""

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..data.features import Features
from ..errors import DataError
from ..rng import Rng

if TYPE_CHECKING:
    from ..train import Loop


def features(loop: "Loop", x: Tensor) -> Tensor:
    return Features(loop.data.spec).encode(x).flatten(1).float().cpu()


def training_features(loop: "Loop", most: int) -> Tensor | None:
    """Features of up to `most` training records, chosen once for all; None where records have no features."""
    rng = Rng.seeded(loop.training.seed + 6)
    n = len(loop.data.train)
    index = torch.randperm(n, generator=rng.generator)[:most]
    try:
        return torch.cat([features(loop, loop.data.train.batch(at, rng)[0]) for at in index.split(256)])
    except DataError:
        return None


def resolution(loop: "Loop") -> Tensor | None:
    """The precision each entry is recorded with, (D,): the median gap between its different values, at least 1e-3; 0 for discrete ones."""
    columns = loop.data.spec.columns
    if all(s.discrete for s in columns):
        return None
    x = loop.data.train.tensor(torch.float64)[:2048].flatten(1).cpu()
    steps = torch.zeros(x.shape[1], dtype=torch.float64)
    for j, s in enumerate(columns):
        if not s.discrete:
            values = x[:, j].unique()
            if len(values) > 1:
                steps[j] = max(float(values.diff().median()), 1e-3)
    return steps


def independent_loss(loop: "Loop") -> float | None:
    """The loss in nats per record of independent columns, sum_d H(x_d): Gaussians for real entries, tables of shares for discrete ones."""
    columns = loop.data.spec.columns
    if any(s.name == "unit" for s in columns):
        return None
    x = loop.data.train.tensor(torch.float64)[:4096].flatten(1).cpu()
    total = 0.0
    for j, s in enumerate(columns):
        if s.discrete:
            p = torch.bincount(x[:, j].long()).double() / len(x)
            total -= float(torch.xlogy(p, p).sum())
        else:
            total += 0.5 * math.log(2 * math.pi * math.e * max(float(x[:, j].var()), 1e-12))
    return total


def structured(loop: "Loop") -> bool:
    """Whether the records have anything for a code to say: entries that depend on each other, or real ones that are not Gaussian."""
    found = training_features(loop, 1024)
    if found is None:
        return True
    n, x = len(found), found[:, :256].double()
    x = (x - x.mean(0)) / x.std(0).clamp(min=1e-9)
    limit = 5 / math.sqrt(n)  # five standard errors of a correlation of independent entries: 256^2/2 of them stay below
    if loop.data.spec.continuous and float((x.pow(4).mean(0) - 3).abs().max()) > 5 * math.sqrt(24 / n):
        return True  # Var(kurtosis of n Gaussians) = 24 / n
    for y in (x, x.square()):
        y = y - y.mean(0)
        y = y / y.norm(dim=0).clamp(min=1e-9)
        correlation = y.T @ y
        correlation.fill_diagonal_(0)
        if float(correlation.abs().max()) > limit:
            return True
    return False
