r"""What flows of records share: records made continuous, a bijection f of real vectors, a standard normal.

    log p(y | c) = log phi(f(y; c)) + log|det df/dy|,        y the record made continuous, phi the standard normal density.

Entries on a finite set {0 .. k-1} become continuous by noise u in [0, 1) that a distribution q(u | x) draws, and the density of x + u
bounds the log-probability from below:

    log P(x)  =  log E_q[p(x + u) / q(u | x)]  >=  E_q[log p(x + u) - log q(u | x)].

With q uniform (Theis et al. 2016) a smooth p is asked to be flat within cells; a q that is a flow itself, fitted along with p, may put the
noise where p can follow: variational dequantisation (Ho et al. 2019). Both are bounds: `density` says so, and more draws raise them.
"""

import math
from abc import abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from ...ais import Annealing, standard_normal
from ...bijections import Bijection, Dequantise
from ...bijections.variational import VariationalNoise
from ...data.spec import DataSpec
from ...errors import ConfigError, Unsupported
from ...model import GradientModel
from ...rng import Rng
from ...train import Batch, Loss, Objective
from .completion import complete

__all__ = ["START", "Dequantisation", "DequantisedFlow"]

Dequantisation = Literal["uniform", "variational"]

START = 512
"""Training records that set the actnorms before the first step."""


class DequantisedFlow(GradientModel):
    """A flow f in front of a standard normal, for records of any support. A family makes `flow` and says what its noise is given."""

    complete_by_row = True
    unsupported = {
        "posterior": "the code is a function of the record, so p(z | x) is a single point. Use encode(records).",
        "likelihood": "the record is a function of the code, so p(x | z) is a single point. Use decode(z) or log_prob(records).",
    }

    alpha: float
    dequantisation: Dequantisation
    flow: Any
    """The bijection, in a class of the family's own."""

    def _make_continuous(self, spec: DataSpec, noise: Callable[[], Bijection]) -> None:
        """Build `dequantise` and, where it is asked for and records have discrete entries, the flow of noise."""
        if not 0 <= self.alpha < 0.5:
            raise ConfigError(f"alpha must lie in [0, 0.5), got {self.alpha}.")
        if self.dequantisation not in get_args(Dequantisation):
            raise ConfigError(f"dequantisation must be one of {', '.join(get_args(Dequantisation))}, got {self.dequantisation!r}.")
        self.dequantise = Dequantise(spec.columns, self.alpha)
        self.noise = VariationalNoise(noise()) if self.dequantise.discrete and self.dequantisation == "variational" else None
        self.density = "exact" if spec.continuous else "bound"
        self.estimator = "" if spec.continuous else f"{self.dequantisation} dequantisation, one draw"

    @abstractmethod
    def _draw_noise(self, noise: VariationalNoise, x: Tensor, c: Tensor | None, rng: Rng) -> tuple[Tensor, Tensor]:
        """u (B, D), which continuous entries ignore, and log q(u | x), (B,)."""

    @abstractmethod
    def _sample(self, n: int, c: Tensor | None, rng: Rng) -> Tensor: ...

    def _objectives(self) -> tuple[Objective, ...]:
        return (Objective("likelihood", [self], self._loss),)

    def _loss(self, batch: Batch) -> Loss:
        terms = self._terms(batch.x, batch.c, batch.rng)
        return Loss(-_sum(terms), terms)

    def _continuous(self, x: Tensor, c: Tensor | None, rng: Rng) -> tuple[Tensor, Tensor, Tensor | None]:
        """y (B, D), log|det dy/du| and, where the noise is fitted, -log q(u | x)."""
        flat = x.flatten(1)
        if not self.dequantise.discrete:
            return *self.dequantise(flat), None
        if self.noise is None:
            return *self.dequantise(flat, rng.rand(*flat.shape)), None
        u, log_q = self._draw_noise(self.noise, x, c, rng)
        return *self.dequantise(flat, u), -log_q

    def _terms(self, x: Tensor, c: Tensor | None, rng: Rng) -> dict[str, Tensor]:
        """The parts of the bound (or the density), (B,) each, at one draw of the noise: they add up to it."""
        y, log_det, minus_log_q = self._continuous(x, c, rng)
        z, change = self._transport(y, c, rng)
        terms = {"log_base": standard_normal(z), "log_det": log_det + change if self.dequantise.any_bounded else change}
        return terms if minus_log_q is None else {**terms, "minus_log_q": minus_log_q}

    def _transport(self, y: Tensor, c: Tensor | None, rng: Rng) -> tuple[Tensor, Tensor]:
        """z = f(y; c) and log|det dz/dy|; a family that can only estimate the latter draws from `rng`."""
        del rng
        return self.flow(y, c)

    def _log_prob(self, x: Tensor, c: Tensor | None, rng: Rng, *, samples: int = 1) -> Tensor:
        """log p(x | c); with discrete entries the bound, averaged inside the logarithm over `samples` draws of the noise."""
        if samples < 1:
            raise ConfigError(f"log_prob needs samples of at least 1, got {samples}.")
        draws = samples if self.dequantise.discrete else 1
        found = [_sum(self._terms(x, c, rng)) for _ in range(draws)]
        return found[0] if draws == 1 else torch.stack(found).logsumexp(0) - math.log(draws)

    def _complete(
        self, x: Tensor, known: Tensor, c: Tensor | None, rng: Rng, *, chains: int = 8, temperatures: int = 100, steps: int = 5
    ) -> Tensor:
        """Draws by annealed importance sampling (see `completion`): exact in the limit of many chains, or of many temperatures.

        `steps` are those of Hamiltonian Monte Carlo at each temperature. Raises `Unsupported` where log p is an estimate.
        """
        if self.density == "estimate":
            raise Unsupported(
                f"{type(self).__name__} completes records where it knows log p(x), and here it estimates it. Ask for trace='exact', "
                "or fit a maf_spline."
            )
        known = known.expand(x.shape)
        whole, nothing = known.flatten(1).all(1), ~known.flatten(1).any(1)
        x = x.clone()
        if nothing.any():
            x[nothing] = self._sample(int(nothing.sum()), None if c is None else c[nothing], rng)
        log_density = partial(self._log_density, rng=rng)
        some = (~whole & ~nothing).nonzero()[:, 0]
        for at in some.split(max(1, self.chunk // chains)) if len(some) else ():
            given = (x[at].flatten(1), known[at].flatten(1), None if c is None else c[at])
            x[at] = complete(log_density, self.dequantise, *given, Annealing(temperatures, chains, steps), rng).view_as(x[at])
        return x

    def _log_density(self, y: Tensor, c: Tensor | None, rng: Rng) -> Tensor:
        """log p(y | c) of a record made continuous, (B,)."""
        z, change = self._transport(y, c, rng)
        return standard_normal(z) + change

    def _encode(self, x: Tensor, c: Tensor | None) -> Tensor:
        """z = f(x; c); a discrete entry is taken at the middle of its cell, so that `_decode` returns it exactly."""
        return self.flow(self.dequantise(x.flatten(1))[0], c)[0]

    def _decode(self, z: Tensor, c: Tensor | None) -> Tensor:
        assert self.spec is not None
        return self.dequantise.inverse(self.flow.inverse(z, c)[0]).reshape(len(z), *self.spec.shape)


def _sum(terms: dict[str, Tensor]) -> Tensor:
    first, *rest = terms.values()
    return sum(rest, start=first)
