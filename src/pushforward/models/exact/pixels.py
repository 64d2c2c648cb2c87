"""Autoregressive models of images: what does not depend on the network."""

import itertools
from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor

from ...data.features import Features
from ...data.spec import BINARY, DataSpec
from ...likelihoods import Bernoulli, Categorical
from ...model import GradientModel
from ...rng import Rng
from ...train import Batch, Loss, Objective
from .particles import Particles, filtered
from .sequential import UNSUPPORTED, check_temperature, known_first, pick


def refusal(name: str, spec: DataSpec, values: tuple[str, ...] = ("binary", "levels", "categories")) -> str | None:
    """Why a model of finite pixels cannot model such records; None when it can."""
    support = spec.support
    if spec.kind != "image":
        return f"{name} models images, and these records are {spec.kind}. Use made, the autoregressive model for any record."
    if support is None or support.name not in values or (support.name == "levels" and (support.size or 0) > 256):
        words = "binary pixels, categories or at most 256 levels" if "categories" in values else "binary pixels or at most 256 levels"
        return f"{name} models {words}, and these are {support or 'mixed'}. Use made, which models any support."
    return None


def raster(x: Tensor) -> Tensor:
    """Entries (..., C, H, W) in the order of the choices, (..., C H W): row by row, pixel by pixel, channel by channel."""
    return x.movedim(-3, -1).flatten(-3)


class RasterModel(GradientModel):
    """Images that are drawn row by row, pixel by pixel, channel by channel. A family writes `_drawn`."""

    @abstractmethod
    def _drawn(
        self,
        u: Tensor,
        given: Tensor | None,
        known: Tensor,
        c: Tensor | None,
        temperature: float,
        incremental: bool,
        swarm: Particles | None = None,
    ) -> Tensor:
        """Each entry at which its cumulative probabilities pass u, or as `given` where known; the rows are those of a `swarm`, if any."""

    def _sample(self, n: int, c: Tensor | None, rng: Rng, *, temperature: float = 1.0, incremental: bool = True) -> Tensor:
        """Draw pixel by pixel; `incremental=False` repeats the full pass for each choice (slow; for checking)."""
        assert self.spec is not None
        nothing = torch.zeros(self.spec.shape, dtype=torch.bool)
        return self._drawn(rng.rand(n, *self.spec.shape), None, nothing, c, temperature, incremental)

    def _complete(
        self,
        x: Tensor,
        known: Tensor,
        c: Tensor | None,
        rng: Rng,
        *,
        temperature: float = 1.0,
        particles: int = 64,
        incremental: bool = True,
    ) -> Tensor:
        """Pixels after the last known one are drawn exactly; where a known one comes after an unknown one, by a filter of `particles`."""
        order, there = raster(known), known.cpu()
        if known_first(order, range(len(order))):
            return self._drawn(rng.rand(*x.shape), x, there, c, temperature, incremental)

        def draw(x: Tensor, c: Tensor | None, swarm: Particles) -> Tensor:
            return self._drawn(rng.rand(*x.shape), x, there, c, 1.0, incremental, swarm)

        return filtered(draw, x, c, rng, particles=particles, temperature=temperature, rows=self.chunk)[0]


class PixelModel(RasterModel):
    """log p(x | c) = sum over pixels (i, j) and channels g of log p(x_{gij} | all before, c), in raster order, channels within a pixel.

    A family writes `_network`. Its network maps features (B, C E, H, W) and c to the parameters (B, C, H, W, P) of each entry, and its
    `incremental(n, (H, W), c, choose, moved)` visits the entries in order, keeping what it has computed.
    """

    density = "exact"
    unsupported = UNSUPPORTED
    net: Any

    @abstractmethod
    def _network(self, spec: DataSpec, params: int, embedded: int | None) -> torch.nn.Module:
        """The network for `params` parameters an entry; `embedded` is k where each of k values enters by a vector of its own."""

    @classmethod
    def accepts(cls, spec: DataSpec) -> str | None:
        return refusal(cls.__name__, spec)

    def _build(self, spec: DataSpec) -> None:
        self.nfe = spec.dim
        k = spec.supports[0].size
        assert k is not None
        self.family = Bernoulli() if spec.supports[0] == BINARY else Categorical(k)
        categorical = spec.supports[0].name == "categories"
        self.features = None if categorical else Features(spec)
        self.net = self._network(spec, self.family.n_params, k if categorical else None)
        # Categories have no place on a line: each enters by a vector of its own.
        self.embedding = torch.nn.Embedding(k, self.net.features) if categorical else None

    def _objectives(self) -> tuple[Objective, ...]:
        return (Objective("nll", (self,), self._loss),)

    def _input(self, x: Tensor) -> Tensor:
        """The features of pixels: (B, C, ...) -> (B, C E, ...)."""
        if self.features is not None:
            return self.features.encode(x)
        assert self.embedding is not None
        return self.embedding(x.long()).movedim(-1, 2).flatten(1, 2)

    def _loss(self, batch: Batch) -> Loss:
        return Loss(-self._log_probs(batch.x, batch.c))

    def _log_probs(self, x: Tensor, c: Tensor | None) -> Tensor:
        return self.family.log_prob(self.net(self._input(x), c), x).flatten(1).sum(1)

    def _log_prob(self, x: Tensor, c: Tensor | None, rng: Rng) -> Tensor:
        # 64 records at a time: 256 logits for each of 784 pixels are 0.8 MB a record, and small activations stay in the cache.
        parts = torch.arange(len(x)).split(64)
        return torch.cat([self._log_probs(x[at], None if c is None else c[at]) for at in parts])

    def _drawn(
        self,
        u: Tensor,
        given: Tensor | None,
        known: Tensor,
        c: Tensor | None,
        temperature: float,
        incremental: bool,
        swarm: Particles | None = None,
    ) -> Tensor:
        """Each entry at which its cumulative probabilities pass u, or as `given` where known; the rows are those of a `swarm`, if any."""
        check_temperature(temperature)
        n, C, H, W = u.shape
        x = torch.zeros_like(u)

        def choose(g: int, i: int, j: int, params: Tensor) -> Tensor:
            if given is not None and known[g, i, j]:
                x[:, g, i, j] = given[:, g, i, j]
                if swarm is not None:
                    swarm.weigh(self.family.log_prob(params.T, x[:, g, i, j]), x)
            else:
                x[:, g, i, j] = pick(params, u[:, g, i, j], temperature)
            chosen = self._input(x[:, g : g + 1, i, j])  # (n, E)
            return chosen.T

        if incremental:
            self.net.incremental(n, (H, W), c, choose, None if swarm is None else swarm.moved)
        else:
            for i, j, g in itertools.product(range(H), range(W), range(C)):
                choose(g, i, j, self.net(self._input(x), c)[:, g, i, j].T)
        return x
