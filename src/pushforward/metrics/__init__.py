"""Figures of merit, as pure functions of tensors: no model, no data set, no download.

Sets of points are (n, d) float tensors of *features* (`evaluate.py` chooses which). Nothing here is a FID: that name
belongs to the Fréchet distance in the features of one particular network.
"""

from .estimate import Estimate
from .frechet import frechet_distance, moments
from .intervals import bootstrap_interval
from .kernels import energy_distance
from .likelihood import bits_per_dim, standard_error
from .modes import ModeStatistics, mode_statistics
from .neighbours import Manifold, expected_coverage, precision_recall_density_coverage
from .slices import sliced_wasserstein

__all__ = [
    "Estimate",
    "Manifold",
    "ModeStatistics",
    "bits_per_dim",
    "bootstrap_interval",
    "energy_distance",
    "expected_coverage",
    "frechet_distance",
    "mode_statistics",
    "moments",
    "precision_recall_density_coverage",
    "sliced_wasserstein",
    "standard_error",
]
