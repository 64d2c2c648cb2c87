"""How far two densities are apart, exactly: by quadrature where there is no closed form.

What adversarial training is about in theory (f-divergences and the game that has them as its value, the maximum mean discrepancy, the
Wasserstein distance), the density of what a generator of one dimension makes of its noise, and the fits that each divergence likes best.
Distances between samples are in `metrics`.
"""

from .answers import known_answers
from .fits import Fit, Isotropic, fit, starts
from .game import best_critic, optimal_discriminator, value
from .grid import Grid
from .maps import branches, density, masses
from .measures import (
    F_DIVERGENCES,
    FDivergence,
    f_bound,
    jensen_shannon,
    kl,
    mmd2,
    total_variation,
    wasserstein1,
)

__all__ = [
    "F_DIVERGENCES",
    "FDivergence",
    "Fit",
    "Grid",
    "Isotropic",
    "best_critic",
    "branches",
    "density",
    "f_bound",
    "fit",
    "jensen_shannon",
    "kl",
    "known_answers",
    "masses",
    "mmd2",
    "optimal_discriminator",
    "starts",
    "total_variation",
    "value",
    "wasserstein1",
]
