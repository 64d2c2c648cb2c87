"""The feature spaces in which samples are compared with records. None needs a download."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .data import Records
from .data.features import Features

__all__ = ["FIT_RECORDS", "FeatureSpace", "pick"]

FIT_RECORDS = 10_000
"""Training records from which the features are made at most."""
COMPONENTS = 64


def pick(records: Records, n: int, seed: int) -> Records:
    """At most `n` of the records, chosen by the seed, in their order."""
    if len(records) <= n:
        return records
    return records.subset(torch.randperm(len(records), generator=torch.Generator().manual_seed(seed))[:n].sort().values)


@dataclass(frozen=True)
class FeatureSpace:
    """An affine map from records to the vectors in which samples are compared, fitted to training records."""

    name: str
    spec_features: Features
    mean: Tensor
    """(F,)"""
    scale: Tensor
    """(F, d): features are (encode(x) - mean) @ scale; or (F,), then they are multiplied entry by entry."""

    @classmethod
    def fit(cls, train: Tensor, spec: Any) -> "FeatureSpace":
        """Make the features from training records x (n, *shape) of the `DataSpec`."""
        features = Features(spec)
        f = features.encode(train).flatten(1).double()
        mean = f.mean(0)
        if spec.kind == "image":
            values, vectors = torch.linalg.eigh((f - mean).T @ (f - mean) / max(1, len(f) - 1))
            values, vectors = values.flip(0).clamp_min(0), vectors.flip(1)
            share = values.cumsum(0) / values.sum().clamp_min(torch.finfo(values.dtype).tiny)
            d = min(COMPONENTS, int((share < 0.95).sum()) + 1, len(values))
            return cls(f"{d} principal components of the pixels ({share[d - 1]:.0%} of the variance)", features, mean, vectors[:, :d])
        variance = (f - mean).square().mean(0)
        scale = torch.ones_like(variance)
        for _, _, at in features.blocks:
            total = variance[at].sum()
            scale[at] = total.rsqrt() if total > 0 else 1.0
        return cls("standardised coordinates" if spec.kind == "points" else "standardised columns", features, mean, scale)

    def __call__(self, x: Tensor) -> Tensor:
        """Features (n, d) in float64 of records x (n, *shape)."""
        f = self.spec_features.encode(x).flatten(1).double() - self.mean
        return f @ self.scale if self.scale.ndim == 2 else f * self.scale
