r"""Autoregressive flows: each entry moves by a map whose parameters are a masked network's function of the entries before it.

With y_d = g(x_d; theta_d(x_{<d}, c)) the Jacobian is triangular, and one pass gives the image and log|det| = sum_d log g'(x_d); the other
direction is sequential, D entries one after the other. Which of the two is the fast one is the difference between the families:

==========  ==========================  =========================================================
family      density (x -> z)            sample (z -> x)
==========  ==========================  =========================================================
`maf`       one pass a layer            entry by entry, each hidden unit once (about one pass of arithmetic)
`maf_spline`  the same, g a spline      the same
`iaf`       entry by entry              one pass a layer
==========  ==========================  =========================================================

IAF's likelihood is trained through its sequential inverse by the implicit function theorem, so its gradients are exact too.
"""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Literal

import torch

from ...bijections import (
    ActNorm,
    AffineAutoregressive,
    Bijection,
    Inverse,
    Linear,
    RationalQuadraticAutoregressive,
)
from ...data.spec import DataSpec
from ...known import Known
from ...train import Training
from .dense import DenseFlow, flow_answers
from .dequantised import Dequantisation

__all__ = ["IAF", "MAF", "AutoregressiveSplineFlow"]

Mixing = Literal["reverse", "lu"]


class _AutoregressiveFlow(DenseFlow):
    """What the three share; they differ in the map."""

    mixing: Mixing
    boxed: bool = False
    """Whether maps act within a box, in which an actnorm in front of each keeps the entries."""
    passes: Literal["one", "all"] = "all"
    """Evaluations of a layer's network that a sample needs, one after the other: one, or one (of a D-th of the units) for each entry."""

    @abstractmethod
    def _map(self, dim: int, condition_dim: int, order: Sequence[int]) -> Bijection: ...

    def _steps(self, spec: DataSpec) -> list[Bijection]:
        dim, steps = spec.dim, list[Bijection]()
        self.nfe = self.layers * (dim if self.passes == "all" else 1)
        natural = range(dim)
        for i in range(self.layers):
            if self.mixing == "lu":
                steps += [Linear(dim, torch.arange(dim).flip(0) if i else torch.arange(dim))]
            elif i == 0 or self.boxed:
                steps.append(ActNorm(dim))
            steps.append(self._map(dim, spec.condition_dim, natural[::-1] if self.mixing == "reverse" and i % 2 else natural))
        return steps


class MAF(_AutoregressiveFlow):
    """Masked autoregressive flow: affine maps of each entry given those before it. The density takes one pass a layer.

    Source: Papamakarios, Pavlakou and Murray, Masked Autoregressive Flow for Density Estimation (2017), with one actnorm in front, set from
    the first records, in place of batch normalisation, whose output depends on the other records of a batch. (The maps begin near the
    identity, and shift and scale by themselves: one in front of each would add little.)

    Parameters
    ----------
    layers
        Autoregressive maps, the order reversed from one to the next (Papamakarios et al. use 5 and 10).
    hidden
        Widths of the hidden layers of each map's network (Papamakarios et al. use one or two of 100 to 1024).
    mixing
        `reverse`: actnorm in front, and every second map takes the entries in reverse; `lu`: learned invertible matrices between maps.
    max_log_scale
        Largest log-scale of one map, in nats; bounds the growth of rounding errors.
    alpha
        Squeeze of bounded entries before the logit, keeping its ends finite (Dinh et al. 2017, section 4.1).
    dequantisation
        How discrete entries are made continuous: by `uniform` noise, or by noise from a flow given the record, `variational` (Ho et al.
        2019), whose bound is higher once it is trained. Continuous entries need none.
    """

    name = "maf"
    training = Training(lr=1e-3, optimizer="adamw", weight_decay=0.1, schedule="cosine", clip=5.0)

    def __init__(
        self,
        layers: int = 5,
        hidden: tuple[int, ...] = (128, 128),
        mixing: Mixing = "reverse",
        max_log_scale: float = 3.0,
        alpha: float = 0.05,
        dequantisation: Dequantisation = "uniform",
    ):
        super().__init__()
        self.dequantisation = dequantisation
        self.layers, self.hidden, self.mixing = layers, hidden, mixing
        self.max_log_scale, self.alpha = max_log_scale, alpha

    def _map(self, dim: int, condition_dim: int, order: Sequence[int]) -> Bijection:
        return AffineAutoregressive(dim, condition_dim, self.hidden, self.max_log_scale, order)


class IAF(_AutoregressiveFlow):
    """Inverse autoregressive flow: MAF's maps the other way round. Samples take one pass a layer; the density goes entry by entry.

    Source: Kingma, Salimans, Jozefowicz, Chen, Sutskever and Welling, Improving Variational Inference with Inverse Autoregressive Flow
    (2016), equations 7 to 10, here as a density of its own, trained by its exact likelihood.

    Parameters
    ----------
    layers
        Autoregressive maps, the order reversed from one to the next. Default as for `maf`'s smaller form; each costs D steps in training.
    hidden
        Widths of the hidden layers of each map's network.
    mixing
        `reverse`: actnorm in front, and every second map takes the entries in reverse; `lu`: learned invertible matrices between maps.
    max_log_scale
        Largest log-scale of one map, in nats.
    alpha
        Squeeze of bounded entries before the logit (Dinh et al. 2017, section 4.1).
    dequantisation
        How discrete entries are made continuous: by `uniform` noise, or by noise from a flow given the record, `variational` (Ho et al.
        2019), whose bound is higher once it is trained. Continuous entries need none.
    """

    name = "iaf"
    passes = "one"
    training = Training(lr=1e-3, optimizer="adamw", weight_decay=0.1, schedule="cosine", clip=5.0)

    def __init__(
        self,
        layers: int = 3,
        hidden: tuple[int, ...] = (128, 128),
        mixing: Mixing = "reverse",
        max_log_scale: float = 3.0,
        alpha: float = 0.05,
        dequantisation: Dequantisation = "uniform",
    ):
        super().__init__()
        self.dequantisation = dequantisation
        self.layers, self.hidden, self.mixing = layers, hidden, mixing
        self.max_log_scale, self.alpha = max_log_scale, alpha

    def _map(self, dim: int, condition_dim: int, order: Sequence[int]) -> Bijection:
        return Inverse(AffineAutoregressive(dim, condition_dim, self.hidden, self.max_log_scale, order))


class AutoregressiveSplineFlow(_AutoregressiveFlow):
    """Autoregressive rational-quadratic spline flow: MAF with a monotone spline for each entry, which reaches sharp clusters.

    Source: Durkan, Bekasov, Murray and Papamakarios, Neural Spline Flows (2019), RQ-NSF (AR).

    Parameters
    ----------
    layers
        Autoregressive maps, the order reversed from one to the next. Default 3; Durkan et al. use 10 on a GPU.
    bins
        Bins of each spline (Durkan et al. use 8 on tables).
    bound
        Splines act on [-bound, bound] and are the identity outside.
    hidden
        Widths of the hidden layers of each map's network.
    mixing
        `lu`: learned invertible matrices between maps (Durkan et al., section 4.1); `reverse`: actnorm in front of every map,
        every second of which takes the entries in reverse.
    alpha
        Squeeze of bounded entries before the logit (Dinh et al. 2017, section 4.1).
    dequantisation
        How discrete entries are made continuous: by `uniform` noise, or by noise from a flow given the record, `variational` (Ho et al.
        2019), whose bound is higher once it is trained. Continuous entries need none.
    """

    name = "maf_spline"
    boxed = True
    training = Training(lr=2e-3, batch_size=256, optimizer="adamw", weight_decay=0.1, schedule="cosine", clip=5.0)

    def __init__(
        self,
        layers: int = 3,
        bins: int = 8,
        bound: float = 5.0,
        hidden: tuple[int, ...] = (128, 128),
        mixing: Mixing = "lu",
        alpha: float = 0.05,
        dequantisation: Dequantisation = "uniform",
    ):
        super().__init__()
        self.dequantisation = dequantisation
        self.layers, self.bins, self.bound = layers, bins, bound
        self.hidden, self.mixing, self.alpha = hidden, mixing, alpha

    def _map(self, dim: int, condition_dim: int, order: Sequence[int]) -> Bijection:
        return RationalQuadraticAutoregressive(dim, condition_dim, self.bins, self.bound, self.hidden, order)


def known_answers() -> Iterator[Known]:
    """See `dense.flow_answers`, for each of the three."""
    for make in (
        lambda: MAF(layers=2, hidden=(16, 16)),
        lambda: IAF(layers=2, hidden=(16, 16)),
        lambda: AutoregressiveSplineFlow(layers=2, bins=5, hidden=(16,)),
    ):
        yield from flow_answers(make)
