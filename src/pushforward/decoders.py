"""The part p(x | h) of a model: a network from codes to raw parameters, and the likelihood that reads them.

Every family that draws its records from a distribution given a code is made with a `Decoder`, so that a likelihood added here or in
`likelihoods.py` is one that they all have.
"""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from .data.spec import DataSpec, Support
from .errors import ConfigError, nearest
from .likelihoods import (
    Bernoulli,
    Categorical,
    ColumnLikelihood,
    DiscretisedLogistic,
    Gaussian,
    Likelihood,
    LikelihoodDistribution,
    TruncatedGaussian,
    for_support,
)
from .nn import decoder_for
from .rng import Rng

__all__ = ["Decoder", "likelihood_for"]


class Decoder(nn.Module):
    """p(x | h, c) for records of a `DataSpec`: `forward(h, c)` gives raw parameters, which the other methods read.

    Parameters
    ----------
    spec
        The records; its `condition_dim` is the width of c.
    in_dim
        The width of h.
    likelihood
        `auto` follows the data; see `likelihood_for`.
    hidden, network, activation
        Of the network; see `pushforward.nn.decoder_for`.
    own
        A network of the caller's, (B, in_dim) -> (B, D * P) in any shape, which the caller registers. None builds one.

    Raises
    ------
    DataError
        The likelihood does not fit the data; the message names the one that does.
    """

    scale_at: Tensor

    def __init__(
        self,
        spec: DataSpec,
        in_dim: int,
        *,
        likelihood: str = "auto",
        hidden: tuple[int, ...] = (256, 256),
        network: str = "auto",
        activation: str = "relu",
        own: nn.Module | None = None,
    ):
        super().__init__()
        self.family, self.columns = likelihood_for(likelihood, spec)
        self.shape = spec.shape
        shared = likelihood == "gaussian-shared"
        self._own = (own,)  # in a tuple: the caller has registered it
        self.net: Any = None
        if own is None:
            net: dict[str, Any] = {"hidden": hidden, "condition_dim": spec.condition_dim, "activation": activation}
            if self.columns is not None:
                self.net = decoder_for(in_dim, (self.columns.total,), **net)
            else:
                assert self.family is not None
                self.net = decoder_for(in_dim, spec.shape, params=self.family.n_params - shared, network=network, **net)
        self.log_scale = None
        if shared and self.columns is not None:
            at = [a.stop - 1 for f, a in zip(self.columns.likelihoods, self.columns.slices) if isinstance(f, _SCALED)]
            self.register_buffer("scale_at", torch.tensor(at), persistent=False)
            self.log_scale = nn.Parameter(torch.zeros(len(at)))
        elif shared:
            self.log_scale = nn.Parameter(torch.zeros(spec.shape if spec.kind == "table" else ()))
        self.outputs = self.columns.total if self.columns is not None else spec.dim * (self.family or Bernoulli()).n_params
        """Raw parameters of one record."""

    def forward(self, h: Float[Tensor, "B d"], c: Float[Tensor, "B C"] | None = None) -> Tensor:
        """The raw parameters: (B, *shape, P), or (B, total) for a mixed table."""
        own = self._own[0]
        net = self.net if own is None else own
        out = net(h) if c is None else net(h, c)
        if own is not None:
            out = out.reshape(len(h), -1) if self.family is None else out.reshape(len(h), *self.shape, -1)
        if self.log_scale is None:
            return out
        if self.family is None:
            return out.index_copy(1, self.scale_at, self.log_scale.to(out.dtype).expand(len(out), -1))
        return torch.cat([out, self.log_scale.to(out.dtype)[..., None].expand_as(out)], -1)

    def log_prob(self, params: Tensor, x: Float[Tensor, "B *shape"]) -> Float[Tensor, " B"]:
        """log p(x | h), summed over entries, in nats."""
        if self.family is None:
            assert self.columns is not None
            return self.columns.log_prob(params, x).sum(1, dtype=x.dtype)
        if isinstance(self.family, Bernoulli):
            return -F.binary_cross_entropy_with_logits(params.flatten(1), x.flatten(1), reduction="none").sum(1, dtype=x.dtype)
        return self.family.log_prob(params, x).flatten(1).sum(1, dtype=x.dtype)

    def emit(self, params: Tensor, rng: Rng | None) -> Float[Tensor, "B *shape"]:
        """A record for each row of parameters: a draw, or its most probable value when `rng` is None; always a valid record."""
        family = self.family or self.columns
        assert family is not None
        return family.mode(params) if rng is None else family.sample(params, rng)

    def distribution(self, params: Tensor) -> LikelihoodDistribution:
        """p(x | h) as a `torch.distributions.Distribution`."""
        family = self.family or self.columns
        assert family is not None
        return LikelihoodDistribution(family, params, self.shape)


_SCALED = (Gaussian, TruncatedGaussian)


def likelihood_for(choice: str, spec: DataSpec) -> tuple[Likelihood | None, ColumnLikelihood | None]:
    """(family of all entries, None), or (None, one family per column of a mixed table). Raises `DataError` when none fits."""
    if spec.support is not None:
        family = _chosen(choice, spec.support)
        if family is None:
            _named(choice, spec.support).check_support(spec.support)
            raise AssertionError
        return family, None
    families = [_chosen(choice, s) for s in spec.columns]
    if not any(families):
        _named(choice, spec.columns[0]).check_support(spec.columns[0])
    return None, ColumnLikelihood([f or for_support(s) for f, s in zip(families, spec.columns)])


def _chosen(choice: str, support: Support) -> Likelihood | None:
    """The chosen family for entries of this support, or None when it does not fit them."""
    if choice == "auto":
        return for_support(support)
    family = _named(choice, support)
    return family if support.name in family.supports else None


def _named(choice: str, support: Support) -> Likelihood:
    size = support.size or 2
    if choice.startswith("gaussian"):
        scale = "unit" if choice == "gaussian-unit" else "learned"
        return TruncatedGaussian(scale) if support.name == "unit" else Gaussian(scale)
    if choice == "bernoulli":
        return Bernoulli()
    if choice == "categorical":
        return Categorical(size)
    if choice == "discretised":
        return DiscretisedLogistic(size)
    raise ConfigError(f"There is no likelihood {choice!r}.{nearest(choice, _CHOICES)}")


_CHOICES = ("auto", "bernoulli", "gaussian", "gaussian-unit", "gaussian-shared", "discretised", "categorical")
