"""Figures of merit, as pure functions of tensors: no model, no data set, no download.

Sets of points are (n, d) float tensors of *features* (`evaluate.py` chooses which). Nothing here is a FID: that name
belongs to the Fréchet distance in the features of one particular network.
"""

from .answers import known_answers
from .copying import CopyingTest, copied_share, copy_share, data_copying, distance_ratio, duplicate_share, mann_whitney_z, nearest
from .estimate import Estimate
from .frechet import frechet, frechet_between, frechet_distance
from .intervals import difference_estimate, mean_estimate, share_estimate
from .kernels import energy_distance, kernel_distance
from .likelihood import bits_per_dim, standard_error
from .modes import ClassStatistics, ModeStatistics, class_statistics, mode_statistics
from .moments import Moments, moments, reduce_moments
from .neighbours import Manifold, Neighbourhoods, expected_coverage, manifold, neighbourhoods, precision_recall_density_coverage
from .ranking import auroc, conformal_p
from .slices import sliced_wasserstein
from .tables import column_fidelity, worst_pair
from .two_sample import classifier_two_sample
from .utility import Utility, train_on_synthetic

__all__ = [
    "ClassStatistics",
    "CopyingTest",
    "Estimate",
    "Manifold",
    "ModeStatistics",
    "Moments",
    "Neighbourhoods",
    "Utility",
    "auroc",
    "bits_per_dim",
    "class_statistics",
    "classifier_two_sample",
    "column_fidelity",
    "conformal_p",
    "copied_share",
    "copy_share",
    "data_copying",
    "difference_estimate",
    "distance_ratio",
    "duplicate_share",
    "energy_distance",
    "expected_coverage",
    "frechet",
    "frechet_between",
    "frechet_distance",
    "kernel_distance",
    "known_answers",
    "manifold",
    "mann_whitney_z",
    "mean_estimate",
    "mode_statistics",
    "moments",
    "nearest",
    "neighbourhoods",
    "precision_recall_density_coverage",
    "reduce_moments",
    "share_estimate",
    "sliced_wasserstein",
    "standard_error",
    "train_on_synthetic",
    "worst_pair",
]
