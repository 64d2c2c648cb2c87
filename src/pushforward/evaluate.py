"""What a fitted model is worth: which figures apply to it, on which records, with which error.

All figures come from held-out records, and none needs a download. Sample quality and coverage are measured in features made from the
*training* split alone (so that no model and no held-out record shapes the yardstick):

* images: principal components of the pixels, as many as hold 95 % of the variance, at most 64;
* points and tables: the columns, scaled so that each contributes the same mean squared distance (one-hot blocks for categories).

The same figures of real training records against the held-out ones travel along as `real`: what a perfect model would score at this
sample size, because none of these figures is free of sampling error.
"""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor

from .data import Data, Records, as_data
from .errors import DataError
from .metrics import (
    Manifold,
    ModeStatistics,
    bits_per_dim,
    energy_distance,
    frechet_distance,
    mode_statistics,
    moments,
    precision_recall_density_coverage,
    standard_error,
)
from .model import Density, Model
from .spaces import FIT_RECORDS, FeatureSpace, pick

__all__ = ["Evaluation", "FeatureSpace", "evaluate"]

RECORDS = 2000
"""Held-out records, and samples, that figures use at most: enough for a standard error of a percentage point."""
NEIGHBOURS = 5

ESTIMATOR: Mapping[Density, str] = {
    "exact": "log p(x) itself",
    "bound": "a lower bound: log p(x) is at least this",
    "estimate": "a stochastic estimate of log p(x)",
    "none": "this family defines no likelihood",
}


# -- the result -----------------------------------------------------------------------------------------------------


@dataclass
class Evaluation:
    """The figures of one model on one data set. None where a figure does not apply; `notes` say why."""

    model: str
    kind: Density
    """What `log_prob` is: exact, a lower bound, an estimate, or nothing."""
    log_prob: float | None = None
    """Mean over held-out records, in nats per record and in the data's own units."""
    log_prob_se: float | None = None
    """Its standard error over records."""
    bits_per_dim: float | None = None
    """Code length of one entry; for records on finite sets only. A bound on log p makes it an upper bound."""
    bits_per_dim_se: float | None = None
    estimator: str = ""
    """How `log_prob` was had."""
    conditional: bool = False
    """Whether it is log p(x | condition)."""
    features: str = ""
    """The space in which samples are compared."""
    precision: float | None = None
    recall: float | None = None
    density: float | None = None
    """Quality: mean number of real neighbourhoods around a sample, relative to a perfect model's."""
    coverage: float | None = None
    """Coverage: share of real neighbourhoods that hold a sample."""
    frechet: float | None = None
    """Squared Fréchet distance of samples from held-out records, in these features. This is no FID."""
    energy: float | None = None
    """Energy distance of samples from held-out records, in these features."""
    real: dict[str, float] = field(default_factory=dict)
    """The same figures of training records against held-out ones: the yardstick."""
    kl: float | None = None
    """KL(p || model) in nats where the data's density p is known; of kind `kind` (from a bound, an upper bound)."""
    kl_se: float | None = None
    modes: ModeStatistics | None = None
    samples_per_second: float | None = None
    """Median over repeats, on this machine."""
    sample_batch: int = 0
    nfe: int | None = None
    """Network evaluations to draw one batch of samples."""
    parameters: int = 0
    training_seconds: float | None = None
    held_out: int = 0
    """Held-out records used."""
    samples: int = 0
    """Samples drawn for the figures."""
    seed: int = 0
    notes: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Plain values; numbers that are not finite become None (JSON has no others)."""
        state = {f.name: getattr(self, f.name) for f in fields(self)}
        state["modes"] = None if self.modes is None else self.modes.to_json()
        return _finite(state)

    @classmethod
    def from_json(cls, state: Mapping[str, Any]) -> "Evaluation":
        known = {f.name for f in fields(cls)}
        values = {k: v for k, v in state.items() if k in known}
        if values.get("modes"):
            modes: dict[str, Any] = {k: math.nan if v is None else v for k, v in values["modes"].items()}
            values["modes"] = ModeStatistics(**modes)
        return cls(**values)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


# -- the work -------------------------------------------------------------------------------------------------------


def evaluate(model: Model, data: Any, *, n: int | None = None, seed: int = 0) -> Evaluation:
    """Every figure that applies to this fitted model, on the held-out records of `data`.

    Parameters
    ----------
    model
        A fitted model. A conditional one is given the held-out records' own conditions.
    data
        A `Data` (its test split is used, or the validation split where there is no test split), or anything `load_data` takes.
    n
        Held-out records, and samples, to use; None for all held-out records up to 2,000.
    seed
        Fixes which records are used, the samples, and the noise of stochastic bounds.

    Raises
    ------
    NotFitted
        The model was not fitted.
    DataError
        There is no held-out record.
    """
    model._ready("evaluate")
    data = as_data(data)
    result = Evaluation(model.name or type(model).__name__, model.density, seed=seed)
    assert model.spec is not None
    result.conditional = model.spec.condition_dim > 0
    # Models fitted in closed form keep what they learn in buffers.
    learnt = list(model.parameters()) or [b for b in model.buffers() if b.is_floating_point()]
    result.parameters = sum(t.numel() for t in learnt)
    result.nfe = model.nfe
    result.training_seconds = getattr(model, "training_seconds", None)
    held_out = pick(_held_out(data), n or RECORDS, seed)
    result.held_out = len(held_out)
    _likelihood(result, model, data, held_out, seed)
    if type(model).supports("sample"):
        _samples(result, model, data, held_out, seed)
    else:
        result.notes.append(f"No samples: {model.unsupported.get('sample', 'this family draws none.')}")
    return result


def _held_out(data: Data) -> Records:
    for split in (data.test, data.validation):
        if len(split):
            return split
    raise DataError("There is no held-out record to evaluate on. Leave load_data a test share, such as test=0.1.")


def _likelihood(result: Evaluation, model: Model, data: Data, held_out: Records, seed: int) -> None:
    if not type(model).supports("log_prob"):
        result.kind = "none"
        result.estimator = model.unsupported.get("log_prob", ESTIMATOR["none"])
        return
    assert model.spec is not None
    log_prob = model.log_prob(held_out, seed=seed).double()
    result.estimator = model.estimator or ESTIMATOR[result.kind]
    lost = int((~log_prob.isfinite()).sum())
    if lost:
        result.notes.append(f"{lost} of {len(log_prob)} held-out records have no finite log-likelihood under this model.")
        return
    result.log_prob, result.log_prob_se = float(log_prob.mean()), standard_error(log_prob)
    if model.spec.discrete:
        bits = bits_per_dim(log_prob, model.spec.dim)
        result.bits_per_dim, result.bits_per_dim_se = float(bits.mean()), standard_error(bits)
    truth = data.truth
    if truth is not None and hasattr(truth, "log_prob") and not result.conditional:
        gap = truth.log_prob(_user_tensor(data, held_out.tensor())).double() - log_prob
        result.kl, result.kl_se = float(gap.mean()), standard_error(gap)


def _samples(result: Evaluation, model: Model, data: Data, held_out: Records, seed: int) -> None:
    spec = data.schema.spec
    n = len(held_out)
    condition = held_out.labels() if result.conditional else None
    started = time.perf_counter()
    drawn = model.sample(n, condition=condition, seed=seed)
    seconds = time.perf_counter() - started
    result.samples = n
    _speed(result, model, condition, n, seconds, seed)
    try:
        fake = data.schema.encode(drawn).double()
    except DataError as error:
        result.notes.append(f"The samples are no records of this kind, so they are not compared with any. {error}")
        return
    train = pick(data.train, FIT_RECORDS, seed).tensor().double()
    space = FeatureSpace.fit(train, spec)
    result.features = space.name
    reference = space(held_out.tensor().double())
    real = space(pick(data.train, n, seed + 1).tensor().double())
    if min(n, len(real), len(fake)) <= NEIGHBOURS:
        result.notes.append(f"Too few records ({min(n, len(fake))}) to compare samples with; more than {NEIGHBOURS} are needed.")
        return
    manifold, result.frechet, result.energy = compare_features(reference, space(fake))
    result.precision, result.recall, result.density, result.coverage = (
        manifold.precision,
        manifold.recall,
        manifold.density,
        manifold.coverage,
    )
    yardstick, frechet, energy = compare_features(reference, real)
    result.real = {**vars(yardstick), "frechet": frechet, "energy": energy, "records": float(len(real))}
    truth = data.truth
    if truth is not None and getattr(truth, "means", None) is not None:
        result.modes = mode_statistics(_user_tensor(data, fake), truth.means, truth.sd, getattr(truth, "weights", None))


def compare_features(reference: Tensor, other: Tensor) -> tuple[Manifold, float, float]:
    """Precision, recall, density and coverage; the Fréchet distance; the energy distance, of two sets of features."""
    return (
        precision_recall_density_coverage(reference, other, k=NEIGHBOURS),
        frechet_distance(*moments(reference), *moments(other)),
        energy_distance(reference, other).value,
    )


def _speed(result: Evaluation, model: Model, condition: Any, n: int, seconds: float, seed: int) -> None:
    """Samples per second: the median of three more draws, or the one there was where it took long."""
    rates, batch = [n / seconds], n
    if seconds < 10:
        rates, batch = [], min(n, 256)
        for repeat in range(3):
            started = time.perf_counter()
            model.sample(batch, condition=None if condition is None else condition[:batch], seed=seed + repeat)
            rates.append(batch / (time.perf_counter() - started))
    result.samples_per_second, result.sample_batch = sorted(rates)[len(rates) // 2], batch


def _user_tensor(data: Data, x: Tensor) -> Tensor:
    """Records of a points set in the user's own units, as float64."""
    return torch.as_tensor(data.schema.decode(x.float())).double()
