"""What an entry's likelihood is, and what its families share."""

import math
from abc import ABC, abstractmethod
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ..data.spec import Support
from ..errors import DataError
from ..rng import Rng

HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)

FITTING = {
    "real": "likelihood='gaussian'",
    "unit": "likelihood='gaussian' (truncated to [0, 1]) or 'continuous-bernoulli'",
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


class Discrete(Likelihood):
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


class Continuous(Likelihood):
    def _values(self) -> str:
        return "finite real numbers"

    def _valid(self, x: Tensor) -> Tensor:
        return torch.isfinite(x)


def soft_floor(raw: Tensor, low: float) -> Tensor:
    """Max(raw, low), smoothed: low + softplus(raw - low)."""
    return F.softplus(raw - low) + low


def log_scale(params: Tensor, scale: str | float, floor: float) -> Tensor:
    if scale == "learned":
        return soft_floor(params[..., 1], math.log(floor))
    return params.new_tensor(0.0 if isinstance(scale, str) else math.log(scale))
