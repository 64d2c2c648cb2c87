"""NICE: additive couplings, which keep volume, and one learned scale for each entry.

    y_1 = x_1,  y_2 = x_2 + t(x_1; c),    ... ,    z = exp(s) h + b,        log|det dz/dx| = sum s,

the simplest of the coupling flows: its log-determinant is the same number for every record.
"""

from collections.abc import Iterator

from ...bijections import ActNorm, AdditiveCoupling, Bijection
from ...data.spec import DataSpec
from ...known import Known
from ...train import Training
from .dense import DenseFlow, flow_answers
from .dequantised import Dequantisation

__all__ = ["NICE"]


class NICE(DenseFlow):
    """Additive coupling flow with a diagonal scaling: inverse and log-determinant are free of rounding's growth, its shapes are limited.

    Source: Dinh, Krueger and Bengio, NICE: Non-linear Independent Components Estimation (2015), sections 3 and 4, with the Gaussian prior.
    A scale also comes first, set from the first records, so that networks see data of unit variance.

    Parameters
    ----------
    layers
        Additive couplings, whose halves change places (Dinh et al. use 4; fewer than 3 leave some entries independent).
    hidden
        Widths of the hidden layers of each coupling's network (Dinh et al. use five of 1000 to 5000 for images).
    alpha
        Squeeze of bounded entries before the logit, keeping its ends finite (Dinh et al. 2017, section 4.1).
    dequantisation
        How discrete entries are made continuous: by `uniform` noise, or by noise from a flow given the record, `variational` (Ho et al.
        2019), whose bound is higher once it is trained. Continuous entries need none.
    """

    name = "nice"
    training = Training(lr=1e-3, optimizer="adamw", weight_decay=0.1, schedule="cosine", clip=5.0)

    def __init__(
        self, layers: int = 4, hidden: tuple[int, ...] = (128, 128), alpha: float = 0.05, dequantisation: Dequantisation = "uniform"
    ):
        super().__init__()
        self.dequantisation = dequantisation
        self.layers, self.hidden, self.alpha = layers, hidden, alpha

    def _steps(self, spec: DataSpec) -> list[Bijection]:
        halves = (AdditiveCoupling(spec.dim, spec.condition_dim, self.hidden, last=i % 2 == 1) for i in range(self.layers))
        return [ActNorm(spec.dim), *halves, ActNorm(spec.dim)]


def known_answers() -> Iterator[Known]:
    """See `dense.flow_answers`."""
    yield from flow_answers(lambda: NICE(layers=4, hidden=(16,)))
