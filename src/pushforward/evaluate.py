"""What a fitted model is worth: which figures apply to it, on which records, with which error.

All figures come from held-out records, and none needs a download. Samples are compared with records in feature spaces made from the
*training* split alone (see `spaces`), so that no model and no held-out record shapes the yardstick; the first of them gives the headline
figures, the others stand beside. `figures.FIGURES` says what each figure is.

None of these figures is free of sampling error, and some (coverage, a classifier's accuracy) depend on the number of records. So each
carries its 95 % interval, and the same figures of *real* records that neither the reference nor the features were made of travel along
as `real`: what a perfect model would score at this sample size.
"""

import contextlib
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from . import metrics, spaces
from .data import Data, Records, as_data
from .errors import DataError
from .figures import Evaluation
from .memory import memory_kept
from .metrics import Estimate
from .model import Model
from .spaces import FIT_RECORDS, FeatureSpace, pick

__all__ = ["Evaluation", "FeatureSpace", "evaluate"]

RECORDS = 1000
"""Held-out records, and samples, that figures use at most: shares then have a standard error of 1.6 percentage points at most."""
NEIGHBOURS = 5
ALARM = 3.0
"""Standard errors beyond which a share of copies is not chance."""
LEAST = 20
"""Records below which samples are not compared: what the copying test asks for."""
REPEATS = 6
"""Draws that are timed: the least and the greatest of six hold the median in 1 - 2 / 2^6 = 97 % of cases."""
PATIENCE = 10.0
"""Seconds that timing may take."""

ESTIMATOR: Mapping[str, str] = {
    "exact": "log p(x) itself",
    "bound": "a lower bound: log p(x) is at least this",
    "estimate": "a stochastic estimate of log p(x)",
    "none": "this family defines no likelihood",
}


@memory_kept()
def evaluate(
    model: Model,
    data: Any,
    *,
    n: int | None = None,
    features: Sequence[str] | Mapping[str, FeatureSpace] | None = None,
    inception: str | None = None,
    target: str | None = None,
    seed: int = 0,
) -> Evaluation:
    """Every figure that applies to this fitted model, on the held-out records of `data`.

    Parameters
    ----------
    model
        A fitted model. A conditional one is given the held-out records' own conditions.
    data
        A `Data` (its test split is used, or the validation split where there is no test split), or anything `load_data` takes.
    n
        Held-out records, and samples, to use; None for all held-out records up to 1,000.
    features
        Feature spaces to compare samples in, by name: `raw`, `pca`, `random-conv`, `learned`; the first gives the headline figures.
        None for those that suit the data.
    inception
        A safetensors file with the Inception network's weights: its features then give the headline figures, their Fréchet distance a FID.
    target
        The column of a table that is predicted after training on samples; None takes the labels of a conditional model.
    seed
        Fixes which records are used, the samples, and the noise of stochastic bounds.

    Raises
    ------
    NotFitted
        The model was not fitted.
    DataError
        There is no held-out record.
    ConfigError
        An unknown feature space.
    """
    model._ready("evaluate")
    data = as_data(data)
    result = Evaluation(model.name or type(model).__name__, model.density, seed=seed)
    assert model.spec is not None
    result.conditional = model.spec.condition_dim > 0
    result.alarms = [vars(alarm) for alarm in getattr(model, "alarms", ())]
    held_out = pick(_held_out(data), n or RECORDS, seed)
    result.held_out = len(held_out)
    _cost(result, model)
    _likelihood(result, model, data, held_out, seed)
    if type(model).supports("sample"):
        _samples(result, model, data, held_out, features, inception, target, seed)
    else:
        result.notes.append(f"No samples: {model.unsupported.get('sample', 'this family draws none.')}")
    return result


def _held_out(data: Data) -> Records:
    for split in (data.test, data.validation):
        if len(split):
            return split
    raise DataError("There is no held-out record to evaluate on. Leave load_data a test share, such as test=0.1.")


def _cost(result: Evaluation, model: Model) -> None:
    # Models fitted in closed form keep what they learn in buffers.
    learnt = list(model.parameters()) or [b for b in model.buffers() if b.is_floating_point()]
    result.figures["parameters"] = Estimate(float(sum(t.numel() for t in learnt)))
    result.figures["nfe"] = Estimate(float(model.nfe))


# -- likelihood -----------------------------------------------------------------------------------------------------


def _likelihood(result: Evaluation, model: Model, data: Data, held_out: Records, seed: int) -> None:
    if not type(model).supports("log_prob"):
        result.kind = "none"
        result.estimator = model.unsupported.get("log_prob", ESTIMATOR["none"])
        return
    spec = model.spec
    assert spec is not None
    log_prob = model.log_prob(held_out, seed=seed).double()
    result.estimator = model.estimator or ESTIMATOR[result.kind]
    result.base_measure = "mass" if spec.discrete else "density" if spec.continuous else "mixed"
    lost = int((~log_prob.isfinite()).sum())
    if lost:
        result.notes.append(f"{lost} of {len(log_prob)} held-out records have no finite log-likelihood under this model.")
        return
    result.log_probs, result.figures["log_prob"] = log_prob, metrics.mean_estimate(log_prob)
    if spec.discrete and spec.kind != "sequence":  # whose entries are not equally many
        result.figures["bits_per_dim"] = metrics.mean_estimate(metrics.bits_per_dim(log_prob, spec.dim))
    if spec.kind == "sequence" and hasattr(model, "per_token"):
        result.figures["nats_per_token"] = _per_token(model, held_out)
    truth = data.truth
    if truth is not None and hasattr(truth, "log_prob") and not result.conditional:
        gap = truth.log_prob(_user_tensor(data, held_out.tensor())).double() - log_prob
        result.figures["kl"] = metrics.mean_estimate(gap)


def _per_token(model: Any, held_out: Records) -> Estimate:
    """Nats over symbols (or frames) of all records together, with the error of that ratio by records (Cochran 1977, equation 2.45)."""
    log_p = model.per_token(held_out).double()
    nats, count = -log_p.nansum(1), (~log_p.isnan()).sum(1).double()
    value, n = nats.sum() / count.sum(), len(nats)
    stderr = float((nats - value * count).square().sum().sqrt() / count.sum() * (n / max(n - 1, 1)) ** 0.5) if n > 1 else math.nan
    value = float(value)
    return Estimate(value, value - 1.96 * stderr, value + 1.96 * stderr, stderr, n, "normal")


# -- samples --------------------------------------------------------------------------------------------------------


def _samples(
    result: Evaluation, model: Model, data: Data, held_out: Records, features: Any, inception: str | None, target: str | None, seed: int
) -> None:
    n = result.samples = min(len(held_out), 64) if data.spec.kind == "sequence" else len(held_out)
    condition = held_out.labels()[:n] if result.conditional else None
    started = time.perf_counter()
    drawn = model.sample(n, condition=condition, seed=seed)
    _speed(result, model, condition, n, time.perf_counter() - started, seed)
    if data.spec.kind == "sequence":
        result.notes.append("Samples of sequences are not compared with records: their figure is the likelihood.")
        return
    try:
        fake = data.schema.encode(drawn).double()
    except DataError as error:
        result.notes.append(f"The samples are no records of this kind, so they are not compared with any. {error}")
        return
    reference, train = held_out.tensor().double(), pick(data.train, FIT_RECORDS, seed).tensor().double()
    real, result.yardstick = _fresh(data, held_out, seed)
    if min(n, len(real)) < LEAST:
        result.notes.append(f"Too few records ({min(n, len(real))}) to compare samples with; at least {LEAST} are needed.")
        return
    found = features if isinstance(features, Mapping) else _spaces(data, features, inception)
    names = next((space for space in found.values() if space.classes), None)
    if names is not None:
        _classes(result, names, reference, fake, real)
    readings = {}
    for i, space in enumerate(found.values()):
        a, b, t = space(reference), space(fake), space(train)
        copying, test = _copying(t, a, b, seed)
        readings[space.name] = test, copying["copied_share"]
        inside = in_space(a, b, seed, every=i == 0) | copying
        if i == 0:
            result.features, c = space.name, space(real)
            result.figures |= inside
            result.real |= in_space(a, c, seed) | _copying(t, a, c, seed)[0]
        else:
            result.spaces[space.name] = inside
    result.copying = verdict(readings)
    _repeats(result, fake, real, train)
    _modes(result, data, fake)
    if data.spec.kind == "table":
        from .fidelity import table_figures

        table_figures(result, data, held_out, fake, real, target, seed)


def _spaces(data: Data, which: Sequence[str] | str | None, inception: str | None) -> dict[str, FeatureSpace]:
    """The feature spaces, Inception's first when its file is given. Their seed is not the evaluation's: figures share a yardstick."""
    found = spaces.spaces(data, which=which, inception=inception)
    return dict(sorted(found.items(), key=lambda pair: pair[0] != "inception")) if inception else found


def _fresh(data: Data, held_out: Records, seed: int) -> tuple[Tensor, str]:
    """Real records to hold the figures of samples against, as many as the held-out ones where there are, and what they are."""
    n = len(held_out)
    if len(data.test):
        rest = data.test.subset(torch.randperm(len(data.test), generator=torch.Generator().manual_seed(seed))[n:])
        parts = [r.tensor().double() for r in (rest, data.validation) if len(r)]
        unseen = torch.cat(parts)[:n] if parts else held_out.tensor()[:0]
        if len(unseen) == n:
            return unseen, "held-out records that no figure was made with"
    return pick(data.train, n, seed + 1).tensor().double(), "training records, as no held-out ones are left"


def in_space(reference: Tensor, other: Tensor, seed: int = 0, *, every: bool = True) -> dict[str, Estimate]:
    """The figures of `other` (m, d) against held-out records `reference` (n, d), both as features; only the chief ones unless `every`."""
    found = metrics.manifold(reference, other, k=NEIGHBOURS)
    found |= {"frechet": metrics.frechet(reference, other), "kernel": metrics.kernel_distance(reference, other)}
    if every:
        found |= {
            "mmd": metrics.kernel_distance(reference, other, kernel="gaussian"),
            "energy": metrics.energy_distance(reference, other),
            "sliced": metrics.sliced_wasserstein(reference, other),
            "c2st": metrics.classifier_two_sample(reference, other, seed=seed),
        }
    return found


def _copying(train: Tensor, held: Tensor, fake: Tensor, seed: int) -> tuple[dict[str, Estimate], metrics.CopyingTest]:
    test, share = metrics.data_copying(train, held, fake, seed=seed), metrics.copied_share(train, held, fake)
    found = {"copying": Estimate(test.z, test.z - 1.96, test.z + 1.96, 1.0, len(fake), "normal"), "copied_share": share}
    with contextlib.suppress(DataError):  # every held-out record repeats a training record: the verdict says how little that leaves to see
        found["distance_ratio"] = metrics.distance_ratio(train, held, fake)
    return found, test


def verdict(readings: Mapping[str, tuple[metrics.CopyingTest, Estimate]]) -> str:
    """What the two tests of copying say together in all feature spaces (by name, the main one first), in words.

    C_T takes samples that are smoother than records for copies, as they lie near everything; the copied share asks whether they lie
    nearer to training records than to others. Copies under noise are copies in some spaces only, so one in which the share exceeds 0 by
    three of its errors is enough: for an honest model that is chance in 0.4 % of three spaces.
    """
    main, _ = next(iter(readings.values()))
    space, (_, share) = max(readings.items(), key=lambda reading: reading[1][1].value / max(reading[1][1].stderr, 1e-9))
    if share.value > 0 and share.value >= ALARM * share.stderr:
        amount = f"{share.value:.0%} of samples ({max(0.0, share.low):.0%} to {share.high:.0%})"
        return f"Copying: {amount} lie nearer to a training record than held-out records account for, in {space}."
    if main.copies:
        return (
            f"Smooth rather than copied: samples lie nearer to training records than held-out records do (C_T = {main.statistic:.1f}, "
            f"{main.z:+.1f} standard deviations), but as near to held-out ones as to those."
        )
    return main.verdict


def _repeats(result: Evaluation, fake: Tensor, real: Tensor, train: Tensor) -> None:
    """Samples that repeat each other or a training record, entry by entry."""
    fake, real, train = fake.flatten(1), real.flatten(1), train.flatten(1)
    result.figures["duplicates"] = metrics.duplicate_share(fake, real)
    result.real["duplicates"] = metrics.duplicate_share(real, real)
    result.figures["copies"], result.real["copies"] = metrics.copy_share(fake, train), metrics.copy_share(real, train)


def _classes(result: Evaluation, space: FeatureSpace, reference: Tensor, fake: Tensor, real: Tensor) -> None:
    """Which classes a classifier of the training split finds in samples, held against what it finds in held-out records."""
    expected, classes = space.classify(reference), len(space.classes)
    for x, into in ((fake, result.figures), (real, result.real)):
        found = metrics.class_statistics(expected, space.classify(x), classes)
        into["classes_captured"], into["class_kl"] = Estimate(float(found.captured)), found.kl
    result.modes = classes


def _modes(result: Evaluation, data: Data, fake: Tensor) -> None:
    truth = data.truth
    if truth is None or getattr(truth, "means", None) is None:
        return
    found = metrics.mode_statistics(_user_tensor(data, fake), truth.means, truth.sd, getattr(truth, "weights", None))
    result.modes = found.modes
    result.figures |= {
        "modes_captured": Estimate(float(found.captured)),
        "mode_share": found.share,
        "mode_reverse_kl": found.reverse_kl,
        "mode_spread": found.spread,
    }
    result.real["mode_share"], result.real["mode_spread"] = Estimate(found.share_of_truth), Estimate(1.0)


def _speed(result: Evaluation, model: Model, condition: Any, n: int, seconds: float, seed: int) -> None:
    """Samples per second: the median of some more draws, or the one there was where it took long."""
    rates, batch = [n / seconds], n
    if seconds < PATIENCE:
        rates, batch, began = [], min(n, 256), time.perf_counter()
        while len(rates) < REPEATS and (not rates or time.perf_counter() - began < PATIENCE):
            started = time.perf_counter()
            model.sample(batch, condition=None if condition is None else condition[:batch], seed=seed + len(rates))
            rates.append(batch / (time.perf_counter() - started))
    result.sample_batch = batch
    middle = float(torch.tensor(rates).median())
    whole = len(rates) == REPEATS
    result.figures["samples_per_second"] = (
        Estimate(middle, min(rates), max(rates), n=REPEATS, method="least and greatest of six") if whole else Estimate(middle, n=len(rates))
    )


def _user_tensor(data: Data, x: Tensor) -> Tensor:
    """Records of a points set in the user's own units, as float64."""
    return torch.as_tensor(data.schema.decode(x.float())).double()
