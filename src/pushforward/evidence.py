"""log p(x) of models with a decoder, by annealed importance sampling, with its error shown from both sides.

A variational bound mixes two errors: the model's and the encoder's. Annealed importance sampling (see `ais`) needs no encoder, so it
scores variational autoencoders, decoders under other priors and, through an observation noise, GANs by one and the same estimator.
"""

import copy
import inspect
import math
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from .ais import Annealing, Chains, Joint, annealed_importance_sampling, bidirectional
from .data import Records, as_data
from .errors import ConfigError, DataError, Unsupported
from .memory import memory_kept
from .metrics import Estimate, bits_per_dim, mean_estimate
from .model import Density, Model
from .rng import Rng
from .spaces import pick
from .store import say

__all__ = ["Evidence", "evidence"]

MEMORY = 2**18
"""Decoder outputs held at a time, over all chains that run together."""
ROWS = 2**12
"""Chains that run together at most: of records with few entries, hidden layers fill the memory."""
CHOICE = {"temperatures": 300, "chains": 4, "records": 20}
"""The shorter runs that choose an observation noise, on validation records."""
FIRST, LEAST, MOST = 0.1, 0.00625, 1.6
"""The observation noise at which the choice starts, and between which it stays; neighbours differ by a factor of 2."""


@dataclass
class Evidence:
    """Stochastic lower bounds on log p(x), and how loose they may be."""

    model: str
    log_prob: Estimate
    """Mean over the records, in nats and in the data's own units. The interval is over records, and holds the chains' noise as well."""
    values: Tensor = field(repr=False)
    """The bound of each record, (n,)."""
    kind: Density = "bound"
    """A lower bound in expectation; one record's exceeds its log p(x) by b nats with probability e^-b at most."""
    estimator: str = ""
    """How it was had: chains, temperatures, transitions, observation noise."""
    base_measure: str = ""
    """What it is relative to: `mass` on discrete values, `density` in the data's units, or `mixed`."""
    conditional: bool = False
    """Whether it is log p(x | condition)."""
    bits_per_dim: Estimate | None = None
    """The same as a code length, for records on finite sets: an upper bound."""
    ess: float = math.nan
    """Mean effective number of chains; near 1, a single chain decides and the bound is loose."""
    acceptance: float = math.nan
    """Mean acceptance of the proposals."""
    lower: Estimate | None = None
    """On records drawn from the model: the lower bound,"""
    upper: Estimate | None = None
    """the upper bound,"""
    gap: Estimate | None = None
    """and their difference, which bounds the error of either in expectation (Grosse et al. 2015)."""
    noise: float | None = None
    """Standard deviation of the observation noise, in feature units, where the decoder has no likelihood of its own."""
    held_out: int = 0
    """Records scored."""
    simulated: int = 0
    """Records drawn from the model for the gap."""
    seed: int = 0
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Plain values; numbers that are not finite become None (JSON has no others)."""
        return {name: _plain(value) for name, value in vars(self).items()}


def _plain(value: Any) -> Any:
    if isinstance(value, Estimate):
        return value.to_json()
    if isinstance(value, Tensor):
        return [_plain(v) for v in value.tolist()]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@memory_kept()
def evidence(
    model: Model,
    data: Any,
    *,
    noise: float | None = None,
    temperatures: int = 2000,
    chains: int = 8,
    steps: int = 2,
    schedule: Literal["sigmoid", "linear"] = "sigmoid",
    n: int = 50,
    simulated: int = 20,
    precision: Literal["32", "64"] = "32",
    seed: int = 0,
    progress: bool = True,
) -> Evidence:
    """Bound log p(x) from below by annealed importance sampling, for any fitted model that decodes codes into records.

    Parameters
    ----------
    model
        A fitted model with a decoder: a VAE, a LatentPrior over one, a GAN. A conditional one is given the records' own conditions.
    data
        A `Data` (its test split is scored, or the validation split where there is no test split), `Records` of one, or anything that
        `load_data` takes.
    noise
        For decoders without a likelihood (GANs): standard deviation of Gaussian noise around their output, in feature units, where
        grey levels and unit values span [-1, 1] and reals are standardised. None chooses it on validation records, among
        0.1 and its doubles and halves.
    temperatures
        Temperatures from prior to posterior. More close the gap; time is proportional.
    chains
        Chains for each record.
    steps
        Leapfrog steps at each temperature. At equal cost, more temperatures are worth more than more steps.
    schedule
        How temperatures are spaced: `sigmoid` puts more of them near both ends.
    n
        Records to score, chosen by the seed.
    simulated
        Records to draw from the model for the bidirectional gap; 0 leaves it out.
    precision
        `64` runs a copy of the model in double precision: for likelihoods as sharp as hundreds of thousands of nats.
    seed
        Fixes the choice of records and the chains, bit for bit.
    progress
        Show progress on stderr.

    Raises
    ------
    Unsupported
        The model has no decoder to integrate over, or its records have categories and it needs an observation noise.
    ConfigError
        Numbers out of range; `noise` for a model with a likelihood of its own; or noise to choose and no validation records.
    DataError
        There is no held-out record.
    """
    started = time.perf_counter()
    model._ready("evidence")
    _hook(model, noise)
    how = Annealing(temperatures, chains, steps, schedule)
    for name, value, least in (("n", n, 1), ("simulated", simulated, 0)):
        if value < least:
            raise ConfigError(f"{name} must be at least {least}, got {value}.")
    if precision == "64":
        model = copy.deepcopy(model).double()
    records, validation = _records(data)
    records = pick(records, n, seed)
    x, c = model._inputs(records, None)
    rng = Rng.seeded(seed, x)
    result = Evidence(model.name or type(model).__name__, Estimate(math.nan), torch.empty(0), seed=seed)
    assert model.spec is not None
    result.conditional, result.held_out = model.spec.condition_dim > 0, len(records)
    result.base_measure = "mass" if model.spec.discrete else "density" if model.spec.continuous else "mixed"
    with torch.no_grad():
        hook, chosen = _hook(model, noise), ""
        if _takes_noise(hook):
            if noise is None:
                noise, chosen = _choose_noise(model, hook, validation, how, seed, progress, result.notes)
            joint, result.noise = hook(noise=noise), noise
        else:
            joint = hook()
        with _ticking("evidence", _parts(x, how), how.pilot + how.temperatures, progress) as tick:
            found = [annealed_importance_sampling(joint, a, b, how, rng, tick) for a, b in _split(x, c, how)]
        log_det = 0.0 if model.schema is None else model.schema.log_det
        _summarise(result, found, model, log_det)
        if simulated:
            few = torch.arange(simulated, device=x.device) % len(x)
            parts = _split(x[few], None if c is None else c[few], how)
            with _ticking("gap", len(parts), how.pilot + 2 * how.temperatures, progress) as tick:
                pairs = [bidirectional(joint, len(a), b, how, rng, tick) for a, b in parts]
            lower, upper = (torch.cat([p[side].bound for p in pairs]).cpu() + log_det for side in (0, 1))
            result.lower, result.upper, result.gap = mean_estimate(lower), mean_estimate(upper), mean_estimate(upper - lower)
            result.simulated = simulated
    result.estimator = _describe(how, result, chosen)
    result.seconds = time.perf_counter() - started
    return result


# -- the parts -----------------------------------------------------------------------------------------------------------


def _hook(model: Model, noise: float | None) -> Callable[..., Joint]:
    """The model's joint density; raises for models without one, and for a noise that they have no use for."""
    name = type(model).__name__
    hook = getattr(model, "_joint", None)
    if hook is None:
        instead = {
            "exact": "its log_prob is exact: use that",
            "bound": "its log_prob is a bound of another kind: use that",
            "estimate": "its log_prob is an estimate of another kind: use that",
            "none": "compare samples with evaluate()",
        }[model.density]
        raise Unsupported(f"{name} has no decoder p(x | z) with a prior p(z) to integrate over; {instead}.")
    if noise is not None and not _takes_noise(hook):
        raise ConfigError(f"{name} has a likelihood p(x | z) of its own and takes no noise. Leave noise out.")
    return hook


def _takes_noise(hook: Callable[..., Joint]) -> bool:
    return "noise" in inspect.signature(hook).parameters


def _records(data: Any) -> tuple[Records, Records | None]:
    """(records to score, validation records that are none of them)."""
    if isinstance(data, Records):
        records, validation = data, None
    else:
        split = as_data(data)
        records, validation = (split.test, split.validation) if len(split.test) else (split.validation, None)
    if not len(records):
        raise DataError("There is no held-out record to score. Leave load_data a test share, such as test=0.1.")
    return records, validation if validation is not None and len(validation) else None


def _together(x: Tensor, how: Annealing) -> int:
    """Records whose chains run side by side."""
    return max(1, min(ROWS, MEMORY // max(1, x[0].numel())) // how.chains)


def _parts(x: Tensor, how: Annealing) -> int:
    return math.ceil(len(x) / _together(x, how))


def _split(x: Tensor, c: Tensor | None, how: Annealing) -> list[tuple[Tensor, Tensor | None]]:
    size = _together(x, how)
    return list(zip(x.split(size), c.split(size) if c is not None else [None] * _parts(x, how), strict=True))


def _summarise(result: Evidence, found: list[Chains], model: Model, log_det: float) -> None:
    result.values = torch.cat([f.bound for f in found]).cpu() + log_det
    result.ess = float(torch.cat([f.ess for f in found]).mean())
    result.acceptance = float(torch.cat([f.acceptance for f in found]).mean())
    result.log_prob = mean_estimate(result.values)
    lost = int((~result.values.isfinite()).sum())
    if lost:
        result.notes.append(f"{lost} of {len(result.values)} records have no finite bound: no chain found a code with a finite likelihood.")
    assert model.spec is not None
    if model.spec.discrete:
        result.bits_per_dim = mean_estimate(bits_per_dim(result.values, model.spec.dim))
    if result.ess < 2 < found[0].log_weights.shape[1]:
        of = found[0].log_weights.shape[1]
        result.notes.append(f"The effective number of chains is {result.ess:.1f} of {of}: the bound is loose. Take more temperatures.")


def _describe(how: Annealing, result: Evidence, chosen: str) -> str:
    text = (
        f"annealed importance sampling from the prior: {how.chains} chains, {how.temperatures} temperatures ({how.schedule}), "
        f"HMC with {how.steps} leapfrog steps, acceptance {result.acceptance:.2f}"
    )
    if result.noise is not None:
        text += f"; the decoder seen through Gaussian noise of sd {result.noise:g} in feature units{chosen}"
    return text + "; a lower bound in expectation, exceeding log p(x) by b nats with probability e^-b at most"


def _choose_noise(
    model: Model,
    hook: Callable[..., Joint],
    validation: Records | None,
    how: Annealing,
    seed: int,
    progress: bool,
    notes: list[str],
) -> tuple[float, str]:
    """The noise of the highest bound on validation records among FIRST 2^k, climbing from FIRST until both neighbours are lower."""
    if validation is None:
        raise ConfigError("There are no validation records to choose the observation noise on. Give noise=, such as noise=0.1.")
    x, c = model._inputs(pick(validation, CHOICE["records"], seed), None)
    short = Annealing(min(CHOICE["temperatures"], how.temperatures), min(CHOICE["chains"], how.chains), how.steps, how.schedule)
    tried: dict[float, float] = {}

    def score(sigma: float) -> float:
        if sigma not in tried:
            rng, joint = Rng.seeded(seed, x), hook(noise=sigma)
            tried[sigma] = float(
                torch.cat([annealed_importance_sampling(joint, a, b, short, rng).bound for a, b in _split(x, c, short)]).mean()
            )
            if progress:
                say(f"noise {sigma:g}: {tried[sigma]:.2f} nats on {len(x)} validation records")
        return tried[sigma]

    sigma = FIRST
    while True:
        around = [s for s in (sigma / 2, sigma, sigma * 2) if LEAST <= s <= MOST]
        best = max(around, key=score)
        if best == sigma:
            break
        sigma = best
    if sigma in (LEAST, MOST):
        notes.append(f"The chosen noise, {sigma:g}, is the last of its grid.")
    return sigma, f", the best of {', '.join(f'{s:g}' for s in sorted(tried))} on {len(x)} validation records"


@contextmanager
def _ticking(what: str, parts: int, each: int, show: bool) -> Any:
    """A function to call `each` times for each of `parts`, with a line on stderr at each tenth."""
    total, done, started = parts * each, 0, time.perf_counter()

    def tick() -> None:
        nonlocal done
        done += 1
        if show and done * 10 // total > (done - 1) * 10 // total:
            say(f"{what}: {done / total:4.0%}  {time.perf_counter() - started:.0f} s")

    yield tick
