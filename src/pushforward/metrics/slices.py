"""Distances between two samples through their one-dimensional projections."""

import torch
from jaxtyping import Float
from torch import Tensor


def sliced_wasserstein(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"], *, projections: int = 128, seed: int = 0) -> float:
    """sqrt E_u[W_2^2(u.x, u.y)] over random unit vectors u, in feature units (Bonneel et al. 2015, eq. 7)."""
    u = torch.randn(projections, x.shape[1], generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(x.device)
    u = u / u.norm(dim=1, keepdim=True)
    a, b = (u @ x.double().T).sort(1).values, (u @ y.double().T).sort(1).values
    if a.shape != b.shape:  # equal numbers of quantiles, at the midpoints of equal shares
        q = (torch.arange(min(len(x), len(y)), dtype=torch.float64, device=x.device) + 0.5) / min(len(x), len(y))
        a, b = (s[:, (q * s.shape[1]).long()] for s in (a, b))
    return float((a - b).square().mean().sqrt())
