"""Likelihoods of whole records: the family of each entry, and the distribution that they make together."""

import itertools
import math
from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution

from ..data.spec import Support
from ..rng import Rng
from .base import Likelihood
from .continuous import Gaussian, TruncatedGaussian
from .discrete import Bernoulli, Categorical, DiscretisedLogistic


def for_support(support: Support, *, scale: Literal["learned", "unit"] | float = "learned", ordered: bool = True) -> Likelihood:
    """The family that fits a support: the one place where defaults are chosen.

    real: `Gaussian(scale)`; unit: `TruncatedGaussian(scale)`; binary: `Bernoulli`; categories(k): `Categorical(k)`;
    levels(k): `DiscretisedLogistic(k)`, or `Categorical(k)` when not `ordered`.
    """
    if support.name == "real":
        return Gaussian(scale)
    if support.name == "unit":
        return TruncatedGaussian(scale)
    if support.name == "binary":
        return Bernoulli()
    assert support.size is not None
    return DiscretisedLogistic(support.size) if support.name == "levels" and ordered else Categorical(support.size)


class ColumnLikelihood:
    """One family per entry over a flat parameter vector (..., total): for mixed tables, and for any record of D entries.

    Entries of one family are evaluated together, so 784 pixels cost one call.

    Parameters
    ----------
    likelihoods
        The family of each of the D entries.

    Attributes
    ----------
    slices
        Where each entry's parameters stand in the flat vector.
    total
        The length of the flat vector, the sum of the families' `n_params`.
    """

    def __init__(self, likelihoods: Sequence[Likelihood]):
        self.likelihoods = tuple(likelihoods)
        ends = list(itertools.accumulate((one.n_params for one in self.likelihoods), initial=0))
        self.slices = tuple(slice(a, b) for a, b in itertools.pairwise(ends))
        self.total = ends[-1]
        members: dict[Likelihood, list[int]] = {}
        for d, one in enumerate(self.likelihoods):
            members.setdefault(one, []).append(d)
        # Per family: its columns (n,) and the places of their parameters (n, P).
        self._groups = [
            (one, torch.tensor(at), torch.tensor([list(range(ends[d], ends[d + 1])) for d in at])) for one, at in members.items()
        ]
        self._order = torch.cat([at for _, at, _ in self._groups]).argsort()

    @classmethod
    def for_columns(cls, columns: Sequence[Support], **kw) -> "ColumnLikelihood":
        """`for_support` of each column."""
        return cls([for_support(s, **kw) for s in columns])

    def log_prob(self, params: Float[Tensor, "*B total"], x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        """log p of each entry."""
        if len(self._groups) == 1:
            return self._groups[0][0].log_prob(self._rows(params), x)
        return self._join([f.log_prob(params[..., p.to(params.device)], x[..., at.to(x.device)]) for f, at, p in self._groups])

    def sample(self, params: Float[Tensor, "*B total"], rng: Rng) -> Float[Tensor, "*B D"]:
        """One draw of each entry."""
        return self._each(params, lambda family, p: family.sample(p, rng))

    def mean(self, params: Float[Tensor, "*B total"]) -> Float[Tensor, "*B D"]:
        """The mean of each entry."""
        return self._each(params, lambda family, p: family.mean(p))

    def mode(self, params: Float[Tensor, "*B total"]) -> Float[Tensor, "*B D"]:
        """The most probable value of each entry."""
        return self._each(params, lambda family, p: family.mode(p))

    def check(self, x: Float[Tensor, "*B D"]) -> None:
        """Raise `DataError` for values outside a column's support."""
        for family, at, _ in self._groups:
            family.check(x[..., at.to(x.device)])

    def _rows(self, params: Tensor) -> Tensor:
        return params.unflatten(-1, (len(self.likelihoods), -1))

    def _each(self, params: Tensor, call) -> Tensor:
        if len(self._groups) == 1:
            return call(self._groups[0][0], self._rows(params))
        return self._join([call(family, params[..., p.to(params.device)]) for family, _, p in self._groups])

    def _join(self, parts: list[Tensor]) -> Tensor:
        return torch.cat(parts, -1)[..., self._order.to(parts[0].device)]


class LikelihoodDistribution(Distribution):
    """p(x | params) of whole records as a `torch.distributions.Distribution`: batch shape (B,), event shape `shape`.

    `log_prob` (B, *shape) -> (B,) sums over the entries; `mode` is a valid record. `sample` draws from torch's global generator.
    """

    arg_constraints = {}  # pyright: ignore

    def __init__(self, family: Likelihood | ColumnLikelihood, params: Tensor, shape: Sequence[int]):
        self.family, self.params = family, params
        super().__init__(torch.Size(params.shape[:1]), torch.Size(shape), validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """log p(x) of each record, (B,)."""
        flat = value.flatten(-len(self.event_shape)) if isinstance(self.family, ColumnLikelihood) else value
        return self.family.log_prob(self.params, flat).flatten(len(self.batch_shape)).sum(-1)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Draws of shape (*sample_shape, B, *shape)."""
        n = math.prod(sample_shape)
        generator = torch.Generator().manual_seed(int(torch.randint(2**62, ()).item()))
        params = self.params.expand(n, *self.params.shape)
        drawn = self.family.sample(params, Rng(generator, params.device, params.dtype))
        return drawn.reshape(*sample_shape, *self.batch_shape, *self.event_shape)

    @property
    def mean(self) -> Tensor:
        return self.family.mean(self.params).reshape(*self.batch_shape, *self.event_shape)

    @property
    def mode(self) -> Tensor:
        return self.family.mode(self.params).reshape(*self.batch_shape, *self.event_shape)
