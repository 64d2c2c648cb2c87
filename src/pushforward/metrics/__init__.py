"""Figures of merit, as pure functions of tensors: no model, no data set, no download.

Sets of points are (n, d) float tensors of *features* (`evaluate.py` chooses which). Nothing here is a FID: that name
belongs to the Fréchet distance in the features of one particular network.
"""

from .estimate import Estimate
from .frechet import frechet_between, frechet_distance
from .intervals import bootstrap_interval
from .kernels import energy_distance
from .likelihood import bits_per_dim, standard_error
from .modes import ModeStatistics, mode_statistics
from .moments import Moments, moments, reduce_moments
from .neighbours import Manifold, Neighbourhoods, expected_coverage, neighbourhoods, precision_recall_density_coverage
from .slices import sliced_wasserstein

__all__ = [
    "Estimate",
    "Manifold",
    "ModeStatistics",
    "Moments",
    "Neighbourhoods",
    "bits_per_dim",
    "bootstrap_interval",
    "energy_distance",
    "expected_coverage",
    "frechet_between",
    "frechet_distance",
    "mode_statistics",
    "moments",
    "neighbourhoods",
    "precision_recall_density_coverage",
    "reduce_moments",
    "sliced_wasserstein",
    "standard_error",
]
