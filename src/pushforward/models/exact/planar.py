"""Planar and radial flows: many small moves of the plane, after an invertible matrix.

Each planar map bends space along one direction, x + u tanh(w.x + b); each radial map draws it to a point or pushes it away. Parameters are
constrained so that every map is invertible, and the density of a record is exact: unlike in variational inference, where Rezende and
Mohamed introduced them, maps here carry the data to the normal, and samples come by their inverses: by bisection along one line for
planar maps, in closed form for radial ones.
"""

from abc import abstractmethod
from collections.abc import Iterator

import torch

from ...bijections import Bijection, Linear, Planar, Radial
from ...data.spec import DataSpec
from ...known import Known
from ...train import Training
from .dense import DenseFlow, flow_answers
from .dequantised import Dequantisation

__all__ = ["PlanarFlow", "RadialFlow"]


class _Moves(DenseFlow):
    """What both share; they differ in the map."""

    @abstractmethod
    def _map(self, dim: int, condition_dim: int) -> Bijection: ...

    def _steps(self, spec: DataSpec) -> list[Bijection]:
        # Small moves cannot turn or stretch space as a whole: a matrix does that first, so that the flow begins as a Gaussian of full rank.
        return [Linear(spec.dim, torch.arange(spec.dim)), *(self._map(spec.dim, spec.condition_dim) for _ in range(self.layers))]


class PlanarFlow(_Moves):
    """Planar flow: maps x + u tanh(w.x + b), each a bend along one direction. For teaching, and for smooth densities of few dimensions.

    Source: Rezende and Mohamed, Variational Inference with Normalizing Flows (2015), section 4.1 and appendix A.1.

    Parameters
    ----------
    layers
        Planar maps (Rezende and Mohamed use 2 to 80).
    hidden
        Widths of the network that makes the parameters of a condition; unused without one.
    alpha
        Squeeze of bounded entries before the logit, keeping its ends finite (Dinh et al. 2017, section 4.1).
    dequantisation
        How discrete entries are made continuous: by `uniform` noise, or by noise from a flow given the record, `variational` (Ho et al.
        2019), whose bound is higher once it is trained. Continuous entries need none.
    """

    name = "planar"
    training = Training(lr=5e-3, schedule="cosine", clip=5.0)

    def __init__(self, layers: int = 16, hidden: tuple[int, ...] = (32,), alpha: float = 0.05, dequantisation: Dequantisation = "uniform"):
        super().__init__()
        self.dequantisation = dequantisation
        self.layers, self.hidden, self.alpha = layers, hidden, alpha

    def _map(self, dim: int, condition_dim: int) -> Bijection:
        return Planar(dim, condition_dim, self.hidden)


class RadialFlow(_Moves):
    """Radial flow: maps that draw space to a point or push it away. For teaching, and for smooth densities of few dimensions.

    Source: Rezende and Mohamed, Variational Inference with Normalizing Flows (2015), section 4.1 and appendix A.2.

    Parameters
    ----------
    layers
        Radial maps (Rezende and Mohamed use 2 to 80 of either kind).
    hidden
        Widths of the network that makes the parameters of a condition; unused without one.
    alpha
        Squeeze of bounded entries before the logit, keeping its ends finite (Dinh et al. 2017, section 4.1).
    dequantisation
        How discrete entries are made continuous: by `uniform` noise, or by noise from a flow given the record, `variational` (Ho et al.
        2019), whose bound is higher once it is trained. Continuous entries need none.
    """

    name = "radial"
    training = Training(lr=5e-3, schedule="cosine", clip=5.0)

    def __init__(self, layers: int = 16, hidden: tuple[int, ...] = (32,), alpha: float = 0.05, dequantisation: Dequantisation = "uniform"):
        super().__init__()
        self.dequantisation = dequantisation
        self.layers, self.hidden, self.alpha = layers, hidden, alpha

    def _map(self, dim: int, condition_dim: int) -> Bijection:
        return Radial(dim, condition_dim, self.hidden)


def known_answers() -> Iterator[Known]:
    """See `dense.flow_answers`, for both."""
    yield from flow_answers(lambda: PlanarFlow(layers=6))
    yield from flow_answers(lambda: RadialFlow(layers=6))
