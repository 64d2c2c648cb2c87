"""The figures that an evaluation may hold: what each says, in which unit, which way is better, and who defined it; and `Evaluation` itself.

Every face that shows a figure (terminal, report, docs) takes its words from `FIGURES`, so that it is explained once.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from torch import Tensor

from .metrics import Estimate
from .model import Density

__all__ = ["FIGURES", "About", "Evaluation", "comparable"]

Better = Literal["high", "low", "one", "half", "zero", "none"]
"""Which value is best: the highest, the lowest, 1, 1/2 or 0; or no judgement."""


@dataclass(frozen=True)
class About:
    """What a figure is."""

    label: str
    """Its name, in the field's words."""
    group: str
    """The question that it answers: likelihood, quality, coverage, distance, mixture, copying, table, speed, cost."""
    better: Better
    text: str
    """What it says, in one or two sentences."""
    unit: str = ""
    source: str = ""
    """Who defined it."""


FIGURES: Mapping[str, About] = {
    # -- likelihood
    "log_prob": About(
        "log p(x)", "likelihood", "high", "Mean log-likelihood of held-out records, in the data's own units.", "nats per record"
    ),
    "bits_per_dim": About(
        "bits/dim", "likelihood", "low", "The same as a code length, −log₂ p(x) per entry; for records on finite sets only.", "bits"
    ),
    "nats_per_token": About(
        "nats/token",
        "likelihood",
        "low",
        "−log p of a symbol of a text (its exponential is the perplexity), or of a frame of music, given those before.",
        "nats per token",
    ),
    "kl": About(
        "KL(p ‖ model)", "likelihood", "low", "Divergence from the density that the records were drawn from, where that is known.", "nats"
    ),
    # -- quality and coverage
    "density": About(
        "density",
        "quality",
        "one",
        "How many real neighbourhoods hold a sample, relative to a perfect model's 1; above it, samples crowd where records are dense.",
        source="Naeem et al. 2020, eq. 6",
    ),
    "precision": About(
        "precision", "quality", "high", "Share of samples that lie near some real record.", source="Kynkäänniemi et al. 2019, eq. 1"
    ),
    "coverage": About(
        "coverage", "coverage", "high", "Share of real neighbourhoods that hold at least one sample.", source="Naeem et al. 2020, eq. 7"
    ),
    "recall": About(
        "recall", "coverage", "high", "Share of real records that lie near some sample.", source="Kynkäänniemi et al. 2019, eq. 2"
    ),
    # -- distances between samples and held-out records
    "frechet": About(
        "Fréchet",
        "distance",
        "low",
        "Squared Fréchet distance of samples from held-out records in the features named with it, corrected for the bias of small samples. "
        "It is a FID in the Inception network's features alone.",
        "squared feature units",
        "Dowson & Landau 1982; Heusel et al. 2017",
    ),
    "kernel": About(
        "kernel distance",
        "distance",
        "low",
        "Unbiased squared MMD with the kernel (x·y/d + 1)³ (in Inception's features: KID); around 0 for a perfect model.",
        source="Bińkowski et al. 2018",
    ),
    "mmd": About("MMD²", "distance", "low", "Unbiased squared MMD with a Gaussian kernel.", source="Gretton et al. 2012, eq. 3"),
    "energy": About("energy distance", "distance", "low", "0 only for equal distributions; unbiased.", source="Székely & Rizzo 2013"),
    "sliced": About(
        "sliced W₂", "distance", "low", "Wasserstein distance averaged over random projections.", "feature units", "Bonneel et al. 2015"
    ),
    "c2st": About(
        "two-sample accuracy",
        "distance",
        "half",
        "How often a classifier tells samples from held-out records: 0.5 when it cannot.",
        source="Lopez-Paz & Oquab 2017",
    ),
    # -- known mixtures and classes
    "mode_share": About("within 3 sd", "mixture", "none", "Share of samples within 3 standard deviations of a mode of the known mixture."),
    "mode_reverse_kl": About("reverse KL", "mixture", "low", "Divergence of the samples' shares of the modes from the true ones.", "nats"),
    "mode_spread": About("spread", "mixture", "one", "Standard deviation inside the modes, relative to the true one."),
    "modes_captured": About("modes", "mixture", "high", "Modes with a sample within 3 standard deviations."),
    "classes_captured": About("classes", "coverage", "high", "Classes that a classifier trained on the training split finds in samples."),
    "class_kl": About(
        "class KL", "coverage", "low", "Divergence of the samples' classes from the held-out records', both as classified.", "nats"
    ),
    # -- copying
    "copying": About(
        "copying z",
        "copying",
        "zero",
        "The data-copying test C_T in its own standard deviations: below −3, samples lie nearer to training records than held-out records "
        "do and the model copies; above 3 they lie farther and it underfits.",
        "standard deviations",
        "Meehan et al. 2020",
    ),
    "copied_share": About(
        "copied",
        "copying",
        "low",
        "Share of samples that lie nearer to a training record than held-out records account for.",
    ),
    "distance_ratio": About(
        "distance ratio",
        "copying",
        "one",
        "Distance from samples to their nearest training records, relative to that of held-out records; 0 for a copier.",
    ),
    "duplicates": About("duplicates", "copying", "low", "Share of samples that repeat another sample."),
    "copies": About("exact copies", "copying", "low", "Share of samples that are a training record, entry by entry."),
    # -- tables
    "column_fidelity": About(
        "columns", "table", "high", "Mean over columns of one minus the Kolmogorov–Smirnov or total-variation distance from real records."
    ),
    "pair_fidelity": About("pairs", "table", "high", "Mean over pairs of columns of how well their dependence is kept."),
    "synthetic_score": About(
        "train on synthetic",
        "table",
        "high",
        "Score on held-out records of a predictor trained on samples; that of one trained on as many real records stands beside it.",
        source="Esteban et al. 2017",
    ),
    # -- speed and cost
    "samples_per_second": About("samples/s", "speed", "high", "Records drawn per second on this machine, the median of repeats.", "1/s"),
    "nfe": About("NFE", "speed", "low", "Network evaluations, one after the other, that a sample takes."),
    "parameters": About("parameters", "cost", "none", "Numbers that training sets."),
    "training_seconds": About("training", "cost", "none", "Wall time of training, beside whatever else ran then.", "s"),
    "peak_memory": About(
        "memory", "cost", "low", "Largest memory that the job's process held, the data and the libraries included.", "bytes"
    ),
}


@dataclass
class Evaluation:
    """The figures of one model on one data set; those that do not apply are absent, and `notes` say why."""

    model: str
    kind: Density
    """What `log_prob` is: exact, a lower bound, an estimate, or nothing."""
    figures: dict[str, Estimate] = field(default_factory=dict)
    """Name in `FIGURES` -> the figure; those of samples in the space that `features` names."""
    real: dict[str, Estimate] = field(default_factory=dict)
    """The same figures of real records that no figure was made with: what a perfect model would score at this sample size."""
    spaces: dict[str, dict[str, Estimate]] = field(default_factory=dict)
    """Name of another feature space -> the samples' figures in it."""
    estimator: str = ""
    """How `log_prob` was had."""
    base_measure: str = ""
    """What the likelihood is relative to: `mass` on discrete values, `density` in the data's units, or `mixed`."""
    conditional: bool = False
    """Whether it is log p(x | condition)."""
    features: str = ""
    """The space in which samples are compared."""
    yardstick: str = ""
    """Which real records `real` is of."""
    modes: int | None = None
    """The number of modes or classes there are to capture, where it is known."""
    copying: str = ""
    """The verdict of the copying test, in words."""
    held_out: int = 0
    """Held-out records used."""
    samples: int = 0
    """Samples drawn for the figures."""
    sample_batch: int = 0
    """Records in the batches whose drawing was timed."""
    seed: int = 0
    notes: list[str] = field(default_factory=list)
    log_probs: Tensor | None = field(default=None, repr=False, compare=False)
    """log p(x) of each held-out record, (n,), in their order, for comparisons record by record. Not in the JSON; None when read back."""
    alarms: list[dict[str, Any]] = field(default_factory=list)
    """What training warned of and did not take back: {"kind", "step", "says", "remedy"}."""

    def value(self, name: str) -> float | None:
        """A figure's value; None where it does not apply."""
        found = self.figures.get(name)
        return None if found is None or not math.isfinite(found.value) else found.value

    def to_json(self) -> dict[str, Any]:
        """Plain values; numbers that are not finite become None (JSON has no others)."""
        state = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "log_probs"}
        state["figures"], state["real"] = _plain(self.figures), _plain(self.real)
        state["spaces"] = {name: _plain(found) for name, found in self.spaces.items()}
        return state

    @classmethod
    def from_json(cls, state: Mapping[str, Any]) -> "Evaluation":
        known = {f.name for f in fields(cls)} - {"log_probs"}
        values = {k: v for k, v in state.items() if k in known}
        for name in ("figures", "real"):
            values[name] = _read(values.get(name) or {})
        values["spaces"] = {name: _read(found) for name, found in (values.get("spaces") or {}).items()}
        return cls(**values)


def _plain(found: Mapping[str, Estimate]) -> dict[str, Any]:
    return {name: estimate.to_json() for name, estimate in found.items()}


def _read(found: Mapping[str, Any]) -> dict[str, Estimate]:
    return {name: Estimate.from_json(state) for name, state in found.items()}


def comparable(a: Evaluation, b: Evaluation) -> str | None:
    """None when the two likelihoods may be ranked against each other, else the reason why not.

    An exact value and a lower bound may be ranked one way only: the bound's model is at least that good.
    """
    if "none" in (a.kind, b.kind) or a.value("log_prob") is None or b.value("log_prob") is None:
        return "one of them has no likelihood"
    if a.base_measure != b.base_measure:
        return f"one is a probability {a.base_measure}, the other a {b.base_measure}: they are in different units"
    if a.conditional != b.conditional:
        return "one is given the records' labels, the other is not"
    if a.kind != b.kind:
        return f"one is {_KIND[a.kind]}, the other {_KIND[b.kind]}"
    return "both are lower bounds, whose gaps are unknown" if a.kind == "bound" else None


_KIND = {"exact": "an exact value", "bound": "a lower bound", "estimate": "a stochastic estimate", "none": "nothing"}
