r"""Likelihoods p(x | h): what the last layer of a network means, entry by entry.

A `Likelihood` is an elementwise family. Its raw parameters, any real numbers, stand in the *last* axis: for entries x of shape (...)
the parameters have shape (..., P) with P = `n_params`, and `log_prob` returns shape (...), in nats. The sums over entries are the
caller's. `ColumnLikelihood` joins one family per entry over a flat parameter vector.

=======================  ======  ===========================================================  =======================
family                   P       raw parameters                                               support
=======================  ======  ===========================================================  =======================
`Bernoulli`              1       logit                                                        binary
`Categorical(k)`         k       logits                                                       categories, levels, binary
`DiscretisedLogistic(k)` 2       location (on [-1, 1]), log scale                             levels
`Gaussian`               2 or 1  mean, log sd (absent for a fixed scale)                      real
`TruncatedGaussian`      2 or 1  logit of the location in (0, 1), log sd                      unit
`ContinuousBernoulli`    1       logit                                                        unit
`MixtureOfGaussians(K)`  3K      K logits, K means, K log sds                                 real
`Mixture(family, K)`     K(1+P)  K logits, K blocks of the family's parameters                the family's
=======================  ======  ===========================================================  =======================

Discrete families give log-probabilities, continuous ones log-densities; the two are never mixed for one entry: a density on grey levels
would be in no unit that another model could be compared in, and could be raised without bound by shrinking its scale.
"""

from .base import FITTING, HALF_LOG_2PI, Likelihood
from .columns import ColumnLikelihood, LikelihoodDistribution, for_support
from .continuous import ContinuousBernoulli, Gaussian, MixtureOfGaussians, TruncatedGaussian
from .discrete import Bernoulli, Categorical, DiscretisedLogistic
from .mixture import Mixture

__all__ = [
    "FITTING",
    "HALF_LOG_2PI",
    "Bernoulli",
    "Categorical",
    "ColumnLikelihood",
    "ContinuousBernoulli",
    "DiscretisedLogistic",
    "Gaussian",
    "Likelihood",
    "LikelihoodDistribution",
    "Mixture",
    "MixtureOfGaussians",
    "TruncatedGaussian",
    "for_support",
]
