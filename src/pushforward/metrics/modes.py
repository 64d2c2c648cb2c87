"""What a sample shows of a mixture that is known."""

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class ModeStatistics:
    """What a sample shows of a mixture of well-separated Gaussians that is known (Srivastava et al. 2017; Lin et al. 2018)."""

    modes: int
    """The number of components, K."""
    captured: int
    """Components with at least one sample within 3 standard deviations."""
    share: float
    """Share of samples within 3 standard deviations of their nearest centre; the truth has `share_of_truth`."""
    share_of_truth: float
    """P(chi^2_D < 9) of the mixture itself: 0.98889 in two dimensions."""
    reverse_kl: float
    """KL(q || w) in nats of the samples' shares q of the modes from the weights w; 0 when every mode has its share."""
    spread: float
    """Standard deviation inside the modes over the true one: 1 for the truth, less for a shrunken fit."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


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
    q = torch.bincount(nearest, minlength=K).double() / len(x)
    counts = torch.bincount(nearest[near], minlength=K)
    means = torch.zeros_like(centres).index_add_(0, nearest[near], x[near]) / counts.clamp_min(1)[:, None]
    z = (x[near] - means[nearest[near]]) / scale[nearest[near], None]
    freedom = D * int((counts - 1).clamp_min(0).sum())  # one mean was estimated for each mode
    half = torch.tensor([D / 2.0, D / 2.0 + 1.0], dtype=torch.float64)
    share_of_truth, truncated = (float(p) for p in torch.special.gammainc(half, torch.full_like(half, 4.5)))
    spread = math.sqrt(float(z.square().sum()) / freedom / (truncated / share_of_truth)) if freedom else math.nan
    return ModeStatistics(
        modes=K,
        captured=int((counts > 0).sum()),
        share=float(near.double().mean()),
        share_of_truth=share_of_truth,
        reverse_kl=float(torch.special.xlogy(q, q / w).sum()),
        spread=spread,
    )
