"""The part p(x | h) of a model: a network from codes to raw parameters, and the likelihood that reads them.

Every family that draws its records from a distribution given a code is made with a `Decoder`, so that a likelihood added here or in
`likelihoods.py` is one that they all have.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from .data.spec import DataSpec, Support
from .errors import ConfigError, DataError, nearest
from .likelihoods import (
    Bernoulli,
    Categorical,
    ColumnLikelihood,
    ContinuousBernoulli,
    DiscretisedLogistic,
    Gaussian,
    Likelihood,
    LikelihoodDistribution,
    Mixture,
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
    variance: Tensor

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
        shared, optimal = likelihood == "gaussian-shared", likelihood == "gaussian-optimal"
        self._own = (own,)  # in a tuple: the caller has registered it
        self.net: Any = None
        if own is None:
            net: dict[str, Any] = {"hidden": hidden, "condition_dim": spec.condition_dim, "activation": activation}
            if self.columns is not None:
                self.net = decoder_for(in_dim, (self.columns.total,), **net)
            else:
                assert self.family is not None
                self.net = decoder_for(in_dim, spec.shape, params=self.family.n_params - (shared or optimal), network=network, **net)
        self.log_scale = None
        if shared and self.columns is not None:
            at = [a.stop - 1 for f, a in zip(self.columns.likelihoods, self.columns.slices) if isinstance(f, _SCALED)]
            self.register_buffer("scale_at", torch.tensor(at), persistent=False)
            self.log_scale = nn.Parameter(torch.zeros(len(at)))
        elif shared:
            self.log_scale = nn.Parameter(torch.zeros(spec.shape if spec.kind == "table" else ()))
        self.optimal = optimal
        if optimal:
            self.register_buffer("variance", torch.ones(spec.shape if spec.kind == "table" else ()))
        self.outputs = self.columns.total if self.columns is not None else spec.dim * (self.family or Bernoulli()).n_params
        """Raw parameters of one record."""

    def forward(self, h: Float[Tensor, "B d"], c: Float[Tensor, "B C"] | None = None) -> Tensor:
        """The raw parameters: (B, *shape, P), or (B, total) for a mixed table."""
        own = self._own[0]
        net = self.net if own is None else own
        out = net(h) if c is None else net(h, c)
        if own is not None:
            out = out.reshape(len(h), -1) if self.family is None else out.reshape(len(h), *self.shape, -1)
        if self.optimal:
            raw = _unfloored(0.5 * self.variance.to(out.dtype).log())
            return torch.cat([out, raw[..., None].expand_as(out)], -1)
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
        if self.optimal and self.training and torch.is_grad_enabled():
            params = self._at_the_optimum(params, x)
        if isinstance(self.family, Bernoulli):
            return -F.binary_cross_entropy_with_logits(params.flatten(1), x.flatten(1), reduction="none").sum(1, dtype=x.dtype)
        return self.family.log_prob(params, x).flatten(1).sum(1, dtype=x.dtype)

    def _at_the_optimum(self, params: Tensor, x: Tensor) -> Tensor:
        """The parameters with the variance that the batch's errors make the most probable, which `variance` follows.

        At sigma^2 = MSE the derivative of the batch's log-likelihood by sigma is zero, so that the gradient that reaches the mean is the
        same whether or not it also flows through sigma (Rybkin et al. 2021, section 4.2).
        """
        mean = params[..., 0].detach()
        axes = tuple(range(mean.ndim - self.variance.ndim))
        error = (x - mean).square().mean(axes)
        with torch.no_grad():
            self.variance.lerp_(error.to(self.variance.dtype), MEMORY_OF_ERRORS)
        raw = _unfloored(0.5 * error.log())
        return torch.stack([params[..., 0], raw.expand_as(mean)], -1)

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
MEMORY_OF_ERRORS = 0.01
"""Weight of a batch's error in the variance that is kept for records outside training."""
COMPONENTS = 5
"""Members of `logistic-mixture` (Salimans et al. 2017 find about five to be enough)."""


def _unfloored(log_sigma: Tensor) -> Tensor:
    """The raw parameter that `Gaussian` reads as this log sigma: the inverse of its smooth floor, just above which it stays."""
    floor = math.log(Gaussian().floor)
    above = (log_sigma - floor).clamp_min(1e-4)
    return floor + above + torch.log(-torch.expm1(-above))


def likelihood_for(choice: str, spec: DataSpec) -> tuple[Likelihood | None, ColumnLikelihood | None]:
    """(family of all entries, None), or (None, one family per column of a mixed table). Raises `DataError` when none fits."""
    if spec.support is not None:
        family = _chosen(choice, spec.support)
        if family is None:
            _named(choice, spec.support).check_support(spec.support)
            raise AssertionError
        return family, None
    if choice == "gaussian-optimal":
        raise DataError(
            "likelihood='gaussian-optimal' takes one variance from the errors of entries that are all real; this table mixes kinds. Use "
            "likelihood='gaussian-shared', which learns one for each real column."
        )
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
    if choice == "gaussian-optimal":
        return Gaussian()
    if choice.startswith("gaussian"):
        scale = "unit" if choice == "gaussian-unit" else "learned"
        return TruncatedGaussian(scale) if support.name == "unit" else Gaussian(scale)
    if choice == "bernoulli":
        return Bernoulli()
    if choice == "continuous-bernoulli":
        return ContinuousBernoulli()
    if choice == "logistic-mixture":
        return Mixture(DiscretisedLogistic(size), COMPONENTS, spread=True)
    if choice == "categorical":
        return Categorical(size)
    if choice == "discretised":
        return DiscretisedLogistic(size)
    raise ConfigError(f"There is no likelihood {choice!r}.{nearest(choice, _CHOICES)}")


_CHOICES = (
    *("auto", "bernoulli", "continuous-bernoulli", "gaussian", "gaussian-unit", "gaussian-shared", "gaussian-optimal"),
    *("discretised", "logistic-mixture", "categorical"),
)
