r"""A Gaussian observation model around a network's output: what gives a deterministic decoder a likelihood.

A generator G maps codes to features (see `data.features`) and puts no mass on any record outside its range. Seen through noise of
standard deviation sigma in feature units it has p(x | z), entry by entry with y = G(z) and f(x) the features of x:

    real           N(f; y, sigma^2)
    unit           2 N(f; y, sigma^2), because f = 2 x - 1
    levels, binary  Phi((f + h - y) / sigma) - Phi((f - h - y) / sigma), h = 1 / (k - 1), the end bins open: a probability, not a density.

Wu et al. (2017) score GANs so; they take grey levels for real numbers, which we do not.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from .data.spec import DataSpec
from .errors import ConfigError, Unsupported
from .rng import Rng

__all__ = ["GaussianObservation"]


class GaussianObservation:
    """p(x | y) for network outputs y in the features of the `spec`, with noise of standard deviation `sigma`.

    Raises
    ------
    ConfigError
        `sigma` is not above 0.
    Unsupported
        The records have categories, whose features are corners of a simplex: Gaussian noise about them is no distribution of categories.
    """

    def __init__(self, spec: DataSpec, sigma: float):
        if not (sigma > 0 and math.isfinite(sigma)):
            raise ConfigError(f"noise must be a number above 0 (in feature units: levels and unit values span [-1, 1]), got {sigma}.")
        if any(s.name == "categories" for s in spec.supports):
            raise Unsupported(
                "Gaussian noise cannot observe columns of categories. Score such data with a model that has a likelihood of its own "
                "(vae, made, gmm), or leave those columns out."
            )
        self.spec, self.sigma = spec, sigma
        self.discrete = torch.tensor([s.discrete for s in spec.columns])
        self.top = torch.tensor([(s.size or 2) - 1.0 for s in spec.columns])
        self.slope = torch.tensor([1.0 if s.name == "real" else 2.0 / ((s.size or 2) - 1) for s in spec.columns])
        self.offset = torch.tensor([0.0 if s.name == "real" else 1.0 for s in spec.columns])

    def _of(self, name: str, like: Tensor) -> Tensor:
        held = getattr(self, name)
        return held.to(like.device) if held.dtype == torch.bool else held.to(like)

    def log_prob(self, x: Float[Tensor, "N *shape"], y: Float[Tensor, "N *features"]) -> Float[Tensor, " N"]:
        """log p(x | y) in nats, summed over entries."""
        x, y = x.flatten(1), y.flatten(1)
        slope, discrete = self._of("slope", y), self._of("discrete", y)
        off = (x * slope - self._of("offset", y) - y) / self.sigma
        if not self.spec.discrete:
            density = -0.5 * off.square() + torch.log(slope / (self.sigma * math.sqrt(2 * math.pi)))
            if self.spec.continuous:
                return density.sum(1)
            continuous = density[:, ~discrete].sum(1)
            return continuous + self._bins(x[:, discrete], off[:, discrete], self._of("top", y)[discrete]).sum(1)
        return self._bins(x, off, self._of("top", y)).sum(1)

    def _bins(self, x: Tensor, off: Tensor, top: Tensor) -> Tensor:
        """log of the Gaussian mass of each level's bin.

        On the side where both ends lie below 0, log Phi keeps its relative precision: log Phi(b) + log(1 - Phi(a) / Phi(b)).
        """
        half = 1.0 / (top * self.sigma)
        below = -off.abs()
        upper = torch.special.log_ndtr(below + half)
        inside = upper + torch.log(-torch.expm1(torch.special.log_ndtr(below - half) - upper))
        ends = torch.where(x < 0.5, torch.special.log_ndtr(off + half), torch.special.log_ndtr(half - off))
        return torch.where((x < 0.5) | (x > top - 0.5), ends, inside)

    def sample(self, y: Float[Tensor, "N *features"], rng: Rng) -> Float[Tensor, "N *shape"]:
        """x ~ p(x | y). Numbers of support `unit` may leave [0, 1], as this observation model does."""
        y = y.flatten(1)
        x = (y + self.sigma * rng.randn(*y.shape) + self._of("offset", y)) / self._of("slope", y)
        levels = x.round().clamp_min(0).minimum(self._of("top", y))
        return torch.where(self._of("discrete", y), levels, x).reshape(len(y), *self.spec.shape)
