"""What a sample shows of a mixture that is known, or of the classes that a classifier finds in it.

Divergences over K classes have intervals like those of squared distances (`intervals.distance_estimate`): at equality 2n KL(q^ || w) is
chi^2 with K - 1 degrees of freedom, which gives the plug-in its excess (K - 1) / 2n (Miller 1955) and its variance there, (K - 1) / 2n^2.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..errors import DataError
from .estimate import Estimate
from .intervals import distance_estimate, mean_estimate, root_estimate, share_estimate

__all__ = ["ClassStatistics", "ModeStatistics", "class_statistics", "mode_statistics"]


@dataclass(frozen=True)
class ModeStatistics:
    """What a sample shows of a mixture of well-separated Gaussians that is known (Srivastava et al. 2017; Lin et al. 2018)."""

    modes: int
    """The number of components, K."""
    captured: int
    """Components with at least one sample within 3 standard deviations."""
    share: Estimate
    """Share of samples within 3 standard deviations of their nearest centre; the truth has `share_of_truth`."""
    share_of_truth: float
    """P(chi^2_D < 9) of the mixture itself: 0.98889 in two dimensions."""
    reverse_kl: Estimate
    """KL(q || w) in nats of the shares q of the modes from the weights w, without the plug-in's excess; 0 when every mode has its share."""
    spread: Estimate
    """Standard deviation inside the modes over the true one: 1 for the truth, less for a shrunken fit."""

    def to_json(self) -> dict[str, Any]:
        return {k: v.to_json() if isinstance(v, Estimate) else v for k, v in vars(self).items()}


@dataclass(frozen=True)
class ClassStatistics:
    """Which classes a sample has, beside those of real records."""

    classes: int
    captured: int
    """Classes with at least one sample."""
    kl: Estimate
    """KL(q || p) in nats of the samples' shares q from the real records' p: 0 when every class has its share."""

    def to_json(self) -> dict[str, Any]:
        return {"classes": self.classes, "captured": self.captured, "kl": self.kl.to_json()}


def mode_statistics(
    x: Float[Tensor, "n d"], centres: Float[Tensor, "K d"], sd: float | Float[Tensor, "K"], weights: Float[Tensor, "K"] | None = None
) -> ModeStatistics:
    """Modes captured, share within 3 sd, reverse KL over modes and spread inside modes, for isotropic components N(centre, sd^2 I).

    The spread counts samples within 3 sd, about their own mode's mean, and is divided by what that truncation leaves of a Gaussian:
    E[r^2 | r < 3 sd] = D sd^2 P(chi^2_{D+2} < 9) / P(chi^2_D < 9).
    """
    x, centres = x.double(), centres.double()
    K, D = centres.shape
    scale = torch.as_tensor(sd, dtype=torch.float64).expand(K)
    w = torch.full((K,), 1.0 / K, dtype=torch.float64) if weights is None else weights.double()
    distance, nearest = torch.cdist(x, centres).min(1)
    near = distance <= 3.0 * scale[nearest]
    counts = torch.bincount(nearest[near], minlength=K)
    means = torch.zeros_like(centres).index_add_(0, nearest[near], x[near]) / counts.clamp_min(1)[:, None]
    z = (x[near] - means[nearest[near]]) / scale[nearest[near], None]
    freedom = D * int((counts - 1).clamp_min(0).sum())  # one mean was estimated for each mode
    half = torch.tensor([D / 2.0, D / 2.0 + 1.0], dtype=torch.float64)
    share_of_truth, truncated = (float(p) for p in torch.special.gammainc(half, torch.full_like(half, 4.5)))
    spread = Estimate(math.nan)
    if freedom:
        squares = z.square().sum(1) * (len(z) / freedom / (truncated / share_of_truth))
        spread = root_estimate(mean_estimate(squares))
    return ModeStatistics(
        modes=K,
        captured=int((counts > 0).sum()),
        share=share_estimate(int(near.sum()), len(x)),
        share_of_truth=share_of_truth,
        reverse_kl=_reverse_kl(torch.bincount(nearest, minlength=K).double(), w),
        spread=spread,
    )


def _reverse_kl(counts: Tensor, w: Tensor) -> Estimate:
    """KL(q || w) of the shares that the counts estimate."""
    n, seen = float(counts.sum()), int((counts > 0).sum())
    q = counts / n
    ratio = torch.where(counts > 0, (q / w).log(), 0.0)
    plug_in, excess = float((q * ratio).sum()), (seen - 1) / (2 * n)
    spread = float((q * ratio.square()).sum() - plug_in**2) / n
    null = (len(counts) - 1) / (2 * n * n)
    return distance_estimate(plug_in - excess, bias=excess, spread=spread, null=null, n=int(n), method="chi^2 and delta")


def class_statistics(real: Int[Tensor, "m"], fake: Int[Tensor, "n"], classes: int) -> ClassStatistics:
    """Classes captured, and the divergence of their shares, from the labels 0 ... classes - 1 that a classifier gave to both sets.

    KL^ = sum q^ (log q^ - log p~) - (K - 1) / 2n. Both corrections are of order 1/n: Miller's for q^, and p~ = (c + 1/2) / (m + 1/2) from
    c of m real records, whose logarithm has an expectation within O(1/m^2) of log p and is finite at c = 0. At equality
    KL^ has variance (K - 1)(1/n + 1/m)^2 / 2.

    Raises `DataError` for no label, or one out of range.
    """
    if min(len(real), len(fake)) == 0:
        raise DataError(f"Shares of classes need at least one label in each set, got {len(real)} and {len(fake)}.")
    every = torch.cat([real, fake])
    if int(every.min()) < 0 or int(every.max()) >= classes:
        raise DataError(f"Labels must lie in 0 ... {classes - 1}, got {int(every.min())} ... {int(every.max())}.")
    c, counts = (torch.bincount(labels, minlength=classes).double() for labels in (real, fake))
    m, n = float(c.sum()), float(counts.sum())
    q, p = counts / n, (c + 0.5) / (m + 0.5)
    ratio = torch.where(counts > 0, (q / p).log(), 0.0)
    seen = int((counts > 0).sum())
    mean = float((q * ratio).sum())
    value = mean - (seen - 1) / (2 * n)
    bias = (seen - 1) / (2 * n) + float((q * (1 - p).clamp_min(0.0) / p).sum()) / (2 * m)
    weight = q / p
    spread = float((q * ratio.square()).sum() - mean**2) / n + float((p * weight.square()).sum() - (p * weight).sum() ** 2) / m
    present = int(((c + counts) > 0).sum())
    null = (present - 1) * (1 / n + 1 / m) ** 2 / 2
    kl = distance_estimate(value, bias=bias, spread=spread, null=null, n=int(min(n, m)), method="chi^2 and delta")
    return ClassStatistics(classes, seen, kl)
