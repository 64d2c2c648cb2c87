"""What flows of vectors share: a composition of bijections f of (B, D) in front of a standard normal.

    log p(x | c) = log phi(f(x; c)) + log|det df/dx|,        x = f^{-1}(z; c),   z ~ N(0, I).

A family writes `_steps`, its bijections. Entries on a finite set are dequantised, which makes log p a bound; see `dequantised`.
"""

from abc import abstractmethod
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from ...bijections import ActNorm, AffineCoupling, Bijection, Compose, Linear
from ...bijections.variational import VariationalNoise
from ...data import Data
from ...data.spec import DataSpec
from ...errors import ConfigError
from ...known import Known
from ...model import CHUNK
from ...rng import Rng
from .dequantised import START, DequantisedFlow

__all__ = ["DenseFlow"]

NARROW = 128
"""Up to so many entries four times as many records pass at a time: the calls, not the arithmetic, are what they cost."""
NOISE_STEPS = 4
"""Affine couplings of the flow of noise in variational dequantisation."""
NOISE_HIDDEN = (64, 64)
"""Widths of the hidden layers of each of their networks."""


class DenseFlow(DequantisedFlow):
    """A flow of vectors; images are flattened."""

    layers: int
    flow: Compose

    @abstractmethod
    def _steps(self, spec: DataSpec) -> list[Bijection]:
        """The bijections, data first."""

    def _build(self, spec: DataSpec) -> None:
        if self.layers < 1:
            raise ConfigError(f"layers must be at least 1, got {self.layers}.")
        self.flow = Compose(self._steps(spec))
        if spec.dim <= NARROW:
            self.chunk = 4 * CHUNK
        self._make_continuous(spec, lambda: self._noise_flow(spec))

    def _noise_flow(self, spec: DataSpec) -> Bijection:
        """A flow of the noise of the discrete entries, given the record and the condition."""
        d = sum(s.discrete for s in spec.columns)
        given = spec.condition_dim + sum((s.size or 1) if s.name == "categories" else 1 for s in spec.columns)
        return Compose([AffineCoupling(d, given, NOISE_HIDDEN, last=i % 2 == 1) for i in range(NOISE_STEPS)])

    def _draw_noise(self, noise: VariationalNoise, x: Tensor, c: Tensor | None, rng: Rng) -> tuple[Tensor, Tensor]:
        at = self.dequantise.noise > 0
        flat = x.flatten(1)
        e = rng.randn(len(flat), int(at.sum()))
        u, log_q = noise(e, self._context(flat, c))
        return flat.new_zeros(flat.shape).masked_scatter(at.expand_as(flat), u), log_q

    def _context(self, x: Tensor, c: Tensor | None) -> Tensor:
        """What the noise is told of its record (B, D): levels scaled to [-1, 1], categories one-hot, the rest as it is; the condition."""
        assert self.spec is not None
        scaled = torch.where(self.dequantise.noise > 0, x * (2 / (self.dequantise.size - 1).clamp(min=1)) - 1, x)
        unordered = [(i, s.size or 1) for i, s in enumerate(self.spec.columns) if s.name == "categories"]
        parts = [F.one_hot(x[:, i].long(), k).to(x.dtype) for i, k in unordered]
        rest = [i for i, s in enumerate(self.spec.columns) if s.name != "categories"]
        parts += [scaled[:, rest] if unordered else scaled, *([] if c is None else [c])]
        return torch.cat(parts, 1)

    def _prepare(self, data: Data, seed: int) -> None:
        """Actnorm's scales and shifts, from training records; a loaded or resumed model has them in its weights."""
        assert self.spec is not None
        norms = [i for i, f in enumerate(self.flow.layers) if isinstance(f, ActNorm)]
        if not norms:
            return
        rng = Rng.seeded(seed, torch.zeros(1, dtype=self.dtype, device=self.device))
        x, c = data.train.batch(torch.randperm(len(data.train), generator=rng.generator)[:START], rng)
        c = c if self.spec.condition_dim else None
        with torch.no_grad():
            y = self._continuous(x, c, rng)[0]
            for f in self.flow.layers[: norms[-1] + 1]:
                if isinstance(f, ActNorm):
                    f.start(y)
                y = f(y, c)[0]

    def _parts(self, x: Tensor, c: Tensor | None, rng: Rng) -> tuple[Tensor, Tensor]:
        """log phi(z) and the rest of log p(x | c), each (B,), at one draw of the noise."""
        log_base, *rest = self._terms(x, c, rng).values()
        return log_base, sum(rest, start=torch.zeros_like(log_base))

    def _sample(self, n: int, c: Tensor | None, rng: Rng) -> Tensor:
        assert self.spec is not None
        return self._decode(rng.randn(n, self.spec.dim), c)


# -- known answers that any such flow must give ---------------------------------------------------------------------------------


Flow = TypeVar("Flow", bound=DenseFlow)


def scrambled(model: Flow, spec: DataSpec, seed: int, scale: float = 0.2) -> Flow:
    """A float64 flow far from the identity: weights moved by noise, so that no term vanishes."""
    model.build(spec, seed=seed).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(scale * torch.randn(p.shape, generator=generator, dtype=p.dtype))
    return model


def mass(model: DenseFlow, half: float, n: int) -> float:
    """The density of points, summed by the midpoint rule on n x n cells of [-half, half]^2."""
    h = 2 * half / n
    axis = -half + h * (torch.arange(n, dtype=torch.float64) + 0.5)
    x = torch.cartesian_prod(axis, axis)
    return sum(float(model._log_prob(part, None, Rng.seeded(0)).exp().sum()) for part in x.split(20_000)) * h * h


@torch.no_grad()
def flow_answers(make: Callable[[], DenseFlow]) -> Iterator[Known]:
    """A density that integrates to 1, autograd's Jacobian, inverses out to 50 standard deviations, and a Gaussian."""
    name = make().name
    model = scrambled(make(), DataSpec("points", (2,)), 0, 0.1)
    coarse, fine = mass(model, 12.0, 180), mass(model, 12.0, 360)
    because = f"midpoint rule, halving the cell changed it by {abs(fine - coarse):.0e}"
    yield Known(f"{name}: density integrates to 1", 1.0, fine, 1e-4, because)

    generator = torch.Generator().manual_seed(1)
    model = scrambled(make(), DataSpec("points", (4,), condition_dim=2), 1, 0.05)
    x = torch.randn(200, 4, generator=generator, dtype=torch.float64)
    x[100:] *= 50 / x[100:].norm(dim=1, keepdim=True)
    c = torch.randn(200, 2, generator=generator, dtype=torch.float64)
    with torch.enable_grad():
        at = x[96:104].clone().requires_grad_()
        z, log_det = model.flow(at, c[96:104])
        rows = [torch.autograd.grad(z[:, i].sum(), at, retain_graph=True)[0] for i in range(4)]
    error = float((torch.linalg.slogdet(torch.stack(rows, 1))[1] - log_det).abs().max())
    yield Known(f"{name}: largest error of log-dets, autograd's as truth", 0.0, error, 1e-8, "float64 rounding, 4 x 4 matrices")
    yield from far_answers(model, x, c)
    yield _normal(make(), generator)


@torch.no_grad()
def far_answers(model: DenseFlow, x: Tensor, c: Tensor | None) -> Iterator[Known]:
    """Largest errors of the flow's inverse at float64 records x, in double and in single precision (in which it leaves the model)."""
    there_and_back = [model.flow.inverse(model.flow(x, c)[0], c)[0] - x]
    model.float()
    x, c = x.float(), None if c is None else c.float()
    there_and_back.append(model.flow.inverse(model.flow(x, c)[0], c)[0] - x)
    for error, tolerance, bits in zip(there_and_back, (1e-10, 1e-4), (64, 32)):
        because = f"50 x rounding of float{bits} over the least slope of the maps"
        name = f"{model.name}: largest error of the inverse out to 50 sd, float{bits}"
        yield Known(name, 0.0, float(error.abs().max()), tolerance, because)


def _normal(model: DenseFlow, generator: torch.Generator) -> Known:
    """All maps but the first scale and shift the identity, which standardise N(mu, diag sd^2): its density, exactly."""
    model.build(DataSpec("points", (3,))).double()
    mu, sd = torch.tensor([0.5, -1.0, 2.0]).double(), torch.tensor([0.2, 1.5, 3.0]).double()
    for p in model.parameters():
        p.zero_()  # the identity: every map here is one at zero, but for the bias of `Planar` and `Radial`, which then moves nothing
    f = next(f for f in model.flow.layers if isinstance(f, ActNorm | Linear))
    order = f.permutation.order if isinstance(f, Linear) else torch.arange(3)
    if isinstance(f, Linear):
        f.lu.copy_(-sd[order].log().diag())
    else:
        f.log_scale.copy_(-sd.log())
    f.bias.copy_(-(mu / sd)[order])
    x = mu + sd * torch.randn(100, 3, generator=generator, dtype=torch.float64)
    truth = torch.distributions.Normal(mu, sd).log_prob(x).sum(1)
    error = float((model._log_prob(x, None, Rng.seeded(0)) - truth).abs().max())
    return Known(f"{model.name} set to a Gaussian: largest error of log p", 0.0, error, 1e-10, "float64 rounding")
