r"""Approximate posteriors q(z | x): what an encoder's last layer means.

A `Posterior` says how many numbers an encoder must give (`n_params`), draws reparametrised codes with their log q, and has a density, a
centre and a `torch.distributions.Distribution`; those with a closed-form KL to N(0, I) have `kl`.

==========  ==================================  ======================  ===============================================
name        q(z | x)                            P, numbers per record   source
==========  ==================================  ======================  ===============================================
`diagonal`  N(mu, diag sigma^2)                 2 d                     Kingma & Welling 2014
`full`      N(mu, L L^T)                        d (d + 3) / 2           any Gaussian posterior is within it
`mixture`   sum_j pi_j N(mu_j, diag sigma_j^2)  J (1 + 2 d)             Morningstar et al. 2021
`planar`    T planar flows of a diagonal one    2 d + T (2 d + 1)       Rezende & Mohamed 2015
`iaf`       T autoregressive flows of it        3 d                     Kingma et al. 2016
==========  ==================================  ======================  ===============================================
"""

from ..errors import ConfigError, nearest
from .answers import known_answers
from .base import Draws, Posterior, normal_log_prob
from .flows import FlowDistribution, InverseAutoregressive, Planar
from .gaussian import Diagonal, FullCovariance, Mixture, diagonal_pairwise

__all__ = [
    "Diagonal",
    "Draws",
    "FlowDistribution",
    "FullCovariance",
    "InverseAutoregressive",
    "Mixture",
    "Planar",
    "Posterior",
    "diagonal_pairwise",
    "known_answers",
    "normal_log_prob",
    "posterior_for",
]


def posterior_for(name: str, dim: int, *, components: int = 5, layers: int = 4) -> Posterior:
    """The family of this name over codes of `dim` dimensions; `components` of a mixture, `layers` of a flow.

    Raises `ConfigError` for an unknown name or an impossible size.
    """
    for what, size in (("components", components), ("flow_layers", layers)):
        if size < 1:
            raise ConfigError(f"{what} must be at least 1, got {size}.")
    if name == "diagonal":
        return Diagonal(dim)
    if name == "full":
        return FullCovariance(dim)
    if name == "mixture":
        return Mixture(dim, components)
    if name == "planar":
        return Planar(dim, layers)
    if name == "iaf":
        return InverseAutoregressive(dim, layers)
    raise ConfigError(f"There is no posterior {name!r}.{nearest(name, ('diagonal', 'full', 'mixture', 'planar', 'iaf'))}")
