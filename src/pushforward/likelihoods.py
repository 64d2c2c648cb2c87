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
`MixtureOfGaussians(K)`  3K      K logits, K means, K log sds                                 real
=======================  ======  ===========================================================  =======================

Discrete families give log-probabilities, continuous ones log-densities; the two are never mixed for one entry: a density on grey levels
would be in no unit that another model could be compared in, and could be raised without bound by shrinking its scale.
"""

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution

from .data.spec import Support
from .errors import DataError
from .rng import Rng

__all__ = [
    "Bernoulli",
    "Categorical",
    "ColumnLikelihood",
    "DiscretisedLogistic",
    "Gaussian",
    "Likelihood",
    "LikelihoodDistribution",
    "MixtureOfGaussians",
    "TruncatedGaussian",
    "for_support",
]

HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)

FITTING = {
    "real": "likelihood='gaussian'",
    "unit": "likelihood='gaussian' (truncated to [0, 1])",
    "binary": "likelihood='bernoulli'",
    "levels": "likelihood='discretised'",
    "categories": "likelihood='categorical'",
}
"""Support -> the likelihood that fits it, for error messages."""


class Likelihood(ABC):
    """An elementwise family p(x | params); see the module's table. Instances are hashable descriptions without state."""

    name: ClassVar[str]
    supports: ClassVar[tuple[str, ...]]
    """Names of the supports that the family lives on."""
    n_params: int
    """P, the raw parameters of one entry."""

    @abstractmethod
    def log_prob(self, params: Float[Tensor, "*entries P"], x: Float[Tensor, "*entries"]) -> Float[Tensor, "*entries"]:
        """log p(x | params) of each entry, in nats."""

    @abstractmethod
    def sample(self, params: Float[Tensor, "*entries P"], rng: Rng) -> Float[Tensor, "*entries"]:
        """One draw for each entry; the first axis counts records."""

    @abstractmethod
    def mean(self, params: Float[Tensor, "*entries P"]) -> Float[Tensor, "*entries"]:
        """E[x | params] of each entry (of the integer codes, for discrete entries)."""

    @abstractmethod
    def mode(self, params: Float[Tensor, "*entries P"]) -> Float[Tensor, "*entries"]:
        """The most probable value of each entry, always a valid value of the support."""

    def check(self, x: Tensor) -> None:
        """Raise `DataError` when a value lies outside the support, naming it and the likelihood that fits."""
        bad = x[~self._valid(x)]
        if len(bad):
            value = float(bad[0])
            raise DataError(f"The {self.name} likelihood models {self._values()}; found {value:g}. Use {_fitting(x)} for such values.")

    def check_support(self, support: Support) -> None:
        """Raise `DataError` when the family cannot model entries of this support, naming the likelihood that can."""
        if support.name not in self.supports:
            raise DataError(
                f"The {self.name} likelihood models {self._values()}, not entries that are {support}. "
                f"Use {FITTING[support.name]}, or likelihood='auto'."
            )

    @abstractmethod
    def _values(self) -> str: ...

    @abstractmethod
    def _valid(self, x: Tensor) -> Tensor: ...


def _fitting(x: Tensor) -> str:
    """The likelihood for the values seen, in words."""
    if not bool(torch.isfinite(x).all()):
        return "finite numbers: no likelihood fits NaN or infinity; clean the data"
    if bool((x == x.round()).all()) and bool((x >= 0).all()):
        return FITTING["binary"] if bool((x <= 1).all()) else FITTING["levels"] + " (or 'categorical')"
    return FITTING["unit"] if bool(((x >= 0) & (x <= 1)).all()) else FITTING["real"]


class _Discrete(Likelihood):
    """Values 0 .. k-1."""

    k: int

    def _values(self) -> str:
        return "0 and 1" if self.k == 2 else f"integers 0 to {self.k - 1}"

    def _valid(self, x: Tensor) -> Tensor:
        return (x == x.round()) & (x >= 0) & (x <= self.k - 1)

    def check_support(self, support: Support) -> None:
        super().check_support(support)
        if support.size != self.k:
            raise DataError(
                f"A {self.name} likelihood over {self._values()} cannot model entries that are {support}; give it k={support.size}."
            )


@dataclass(frozen=True)
class Bernoulli(_Discrete):
    """p(x = 1) = sigmoid(l), x in {0, 1}."""

    name = "bernoulli"
    supports = ("binary",)
    n_params = 1
    k = 2

    def log_prob(self, params: Tensor, x: Tensor) -> Tensor:
        return -F.binary_cross_entropy_with_logits(*torch.broadcast_tensors(params[..., 0], x), reduction="none")

    def sample(self, params: Tensor, rng: Rng) -> Tensor:
        p = params[..., 0].sigmoid()
        return (rng.rand(*p.shape) < p).to(p.dtype)

    def mean(self, params: Tensor) -> Tensor:
        return params[..., 0].sigmoid()

    def mode(self, params: Tensor) -> Tensor:
        return (params[..., 0] > 0).to(params.dtype)


@dataclass(frozen=True)
class Categorical(_Discrete):
    """p(x = v) = softmax(l)_v over k values without order (or with one that the family ignores)."""

    k: int
    name = "categorical"
    supports = ("categories", "levels", "binary")

    @property
    def n_params(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.k

    def log_prob(self, params: Tensor, x: Tensor) -> Tensor:
        logp = params.log_softmax(-1)
        shape = torch.broadcast_shapes(logp.shape[:-1], x.shape)
        return logp.expand(*shape, self.k).gather(-1, x.long().expand(shape).unsqueeze(-1)).squeeze(-1)

    def sample(self, params: Tensor, rng: Rng) -> Tensor:
        return rng.categorical(params).to(params.dtype)

    def mean(self, params: Tensor) -> Tensor:
        return params.softmax(-1) @ torch.arange(self.k, dtype=params.dtype, device=params.device)

    def mode(self, params: Tensor) -> Tensor:
        return params.argmax(-1).to(params.dtype)


@dataclass(frozen=True)
class DiscretisedLogistic(_Discrete):
    r"""A logistic distribution with every level's bin integrated, over k ordered levels (Kingma et al. 2016, IAF; PixelCNN++ eq. 2).

    With the level v at y = 2 v / (k-1) - 1, bins of half-width h = 1 / (k-1), location m and scale s,
    p(v) = sigmoid((y + h - m) / s) - sigmoid((y - h - m) / s); the lowest bin reaches to -inf and the highest to inf, so that the k
    probabilities sum to 1 exactly. log s has a smooth floor of -7 (that of PixelCNN++), about a ninth of a bin at k = 256.

    The difference is computed as sigmoid(a) sigmoid(-b) (1 - e^{b-a}), which never cancels: no special case in the tails.
    """

    k: int
    name = "discretised logistic"
    supports = ("levels", "binary")
    n_params = 2
    floor: ClassVar[float] = -7.0

    def _parts(self, params: Tensor) -> tuple[Tensor, Tensor]:
        return params[..., 0], _soft_floor(params[..., 1], self.floor)

    def log_prob(self, params: Tensor, x: Tensor) -> Tensor:
        m, log_s = self._parts(params)
        h, inv = 1.0 / (self.k - 1), torch.exp(-log_s)
        centred = x * (2 * h) - 1.0 - m
        upper, lower = (centred + h) * inv, (centred - h) * inv
        logp = torch.where(x > self.k - 1.5, 0.0, F.logsigmoid(upper)) + torch.where(x < 0.5, 0.0, F.logsigmoid(-lower))
        interior = (x > 0.5) & (x < self.k - 1.5)
        return logp + torch.where(interior, torch.log(-torch.expm1(-2 * h * inv)), 0.0)

    def sample(self, params: Tensor, rng: Rng) -> Tensor:
        m, log_s = self._parts(params)
        u = rng.rand(*m.shape)
        return self._level(m + log_s.exp() * (torch.log(u) - torch.log1p(-u)))

    def mean(self, params: Tensor) -> Tensor:
        # E[v] = sum_{t=1}^{k-1} p(v >= t); a loop over levels keeps memory at one record's size.
        m, log_s = self._parts(params)
        h, inv, total = 1.0 / (self.k - 1), torch.exp(-log_s), torch.zeros_like(m)
        for t in range(1, self.k):
            total = total + torch.sigmoid((m - ((2 * t - 1) * h - 1.0)) * inv)
        return total

    def mode(self, params: Tensor) -> Tensor:
        # The interior falls away from the location, but an end bin holds a whole tail: compare the three candidates.
        near = self._level(params[..., 0])
        candidates = torch.stack([near, torch.zeros_like(near), torch.full_like(near, self.k - 1)])
        best = self.log_prob(params.unsqueeze(0), candidates).argmax(0, keepdim=True)
        return candidates.gather(0, best).squeeze(0)

    def _level(self, y: Tensor) -> Tensor:
        return ((y + 1.0) * ((self.k - 1) / 2)).round().clamp(0, self.k - 1) + 0.0  # -0.0 becomes 0.0


class _Continuous(Likelihood):
    def _values(self) -> str:
        return "finite real numbers"

    def _valid(self, x: Tensor) -> Tensor:
        return torch.isfinite(x)


@dataclass(frozen=True)
class Gaussian(_Continuous):
    r"""N(x; mu, sigma^2), with parameters (mu, log sigma) or, for a fixed `scale`, mu alone.

    A learned sigma has a smooth floor, log sigma = log f + softplus(raw - log f) with f = 0.01: real entries are standardised by the
    data layer, so f is a hundredth of a column's spread. Without it the density of a column with repeated values (or a constant pixel)
    grows without bound as sigma shrinks onto them, and training diverges; the floor caps it at -log f - log(2 pi)/2 = 3.7 nats per entry.
    One scale *shared* by all records is this family too: give the same learned number as the log sigma of every record.

    Parameters
    ----------
    scale
        `"learned"` (a parameter of each entry), `"unit"` (sigma = 1) or a number.
    floor
        f, the smallest learned sigma.
    """

    scale: Literal["learned", "unit"] | float = "learned"
    floor: float = 0.01
    name = "gaussian"
    supports = ("real",)

    @property
    def n_params(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return 2 if self.scale == "learned" else 1

    def parts(self, params: Tensor) -> tuple[Tensor, Tensor]:
        """(mu, log sigma) of each entry."""
        return params[..., 0], _log_scale(params, self.scale, self.floor)

    def log_prob(self, params: Tensor, x: Tensor) -> Tensor:
        mu, log_sigma = self.parts(params)
        return -0.5 * ((x - mu) * torch.exp(-log_sigma)).square() - log_sigma - HALF_LOG_2PI

    def sample(self, params: Tensor, rng: Rng) -> Tensor:
        mu, log_sigma = self.parts(params)
        return mu + log_sigma.exp() * rng.randn(*mu.shape)

    def mean(self, params: Tensor) -> Tensor:
        return params[..., 0]

    def mode(self, params: Tensor) -> Tensor:
        return params[..., 0]


@dataclass(frozen=True)
class TruncatedGaussian(_Continuous):
    r"""N(x; mu, sigma^2) restricted to [0, 1] and divided by its mass there: a proper density that is finite at both ends.

    mu = sigmoid(raw) lies in (0, 1), which keeps the mass Phi((1-mu)/sigma) - Phi(-mu/sigma) away from underflow. Chosen before the
    logit-normal, whose density is zero at 0 and 1 where grey images put most of their values, and before the continuous Bernoulli, whose
    single parameter cannot be sharp in the interior. `scale` and `floor` as in `Gaussian` (`"unit"` means sigma = 1).
    """

    scale: Literal["learned", "unit"] | float = "learned"
    floor: float = 0.01
    name = "truncated gaussian"
    supports = ("unit",)

    @property
    def n_params(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return 2 if self.scale == "learned" else 1

    def _values(self) -> str:
        return "numbers in [0, 1]"

    def _valid(self, x: Tensor) -> Tensor:
        return (x >= 0) & (x <= 1)

    def parts(self, params: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(mu, log sigma, Phi at the lower end, mass on [0, 1]) of each entry."""
        mu = params[..., 0].sigmoid()
        # Beyond sigma = 20 the density is flat to 1e-3; a ceiling keeps the mass above 0.01, clear of cancellation.
        log_sigma = _log_scale(params, self.scale, self.floor)
        if self.scale == "learned":
            log_sigma = 3.0 - F.softplus(3.0 - log_sigma)
        low = torch.special.ndtr(-mu * torch.exp(-log_sigma))
        return mu, log_sigma, low, torch.special.ndtr((1 - mu) * torch.exp(-log_sigma)) - low

    def log_prob(self, params: Tensor, x: Tensor) -> Tensor:
        mu, log_sigma, _, mass = self.parts(params)
        return -0.5 * ((x - mu) * torch.exp(-log_sigma)).square() - log_sigma - HALF_LOG_2PI - mass.log()

    def sample(self, params: Tensor, rng: Rng) -> Tensor:
        mu, log_sigma, low, mass = self.parts(params)
        p = low + mass * rng.rand(*mu.shape)
        return (mu + log_sigma.exp() * torch.special.ndtri(p)).clamp(0, 1)

    def mean(self, params: Tensor) -> Tensor:
        mu, log_sigma, _, mass = self.parts(params)
        sigma = log_sigma.exp()
        density = [torch.exp(-0.5 * ((end - mu) / sigma).square() - HALF_LOG_2PI) for end in (0.0, 1.0)]
        return mu + sigma * (density[0] - density[1]) / mass

    def mode(self, params: Tensor) -> Tensor:
        return params[..., 0].sigmoid()


@dataclass(frozen=True)
class MixtureOfGaussians(_Continuous):
    """sum_j pi_j N(x; mu_j, sigma_j^2): parameters are K logits, K means, K log sigmas (floored as in `Gaussian`).

    `mode` is the component mean of highest density: exact for one component or well-separated ones.
    """

    K: int
    floor: float = 0.01
    name = "mixture of gaussians"
    supports = ("real",)

    @property
    def n_params(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return 3 * self.K

    def parts(self, params: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(log pi, mu, log sigma), each (..., K)."""
        logits, mu, raw = params.split(self.K, -1)
        return logits.log_softmax(-1), mu, _soft_floor(raw, math.log(self.floor))

    def log_prob(self, params: Tensor, x: Tensor) -> Tensor:
        log_pi, mu, log_sigma = self.parts(params)
        each = -0.5 * ((x.unsqueeze(-1) - mu) * torch.exp(-log_sigma)).square() - log_sigma - HALF_LOG_2PI
        return torch.logsumexp(log_pi + each, -1)

    def sample(self, params: Tensor, rng: Rng) -> Tensor:
        log_pi, mu, log_sigma = self.parts(params)
        j = rng.categorical(log_pi).unsqueeze(-1)
        mu, sigma = mu.gather(-1, j).squeeze(-1), log_sigma.gather(-1, j).squeeze(-1).exp()
        return mu + sigma * rng.randn(*mu.shape)

    def mean(self, params: Tensor) -> Tensor:
        log_pi, mu, _ = self.parts(params)
        return (log_pi.exp() * mu).sum(-1)

    def mode(self, params: Tensor) -> Tensor:
        _, mu, _ = self.parts(params)
        density = self.log_prob(params.unsqueeze(-2), mu)
        return mu.gather(-1, density.argmax(-1, keepdim=True)).squeeze(-1)


def _soft_floor(raw: Tensor, low: float) -> Tensor:
    """Max(raw, low), smoothed: low + softplus(raw - low)."""
    return F.softplus(raw - low) + low


def _log_scale(params: Tensor, scale: str | float, floor: float) -> Tensor:
    if scale == "learned":
        return _soft_floor(params[..., 1], math.log(floor))
    return params.new_tensor(0.0 if isinstance(scale, str) else math.log(scale))


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
