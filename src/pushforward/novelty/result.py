"""What a score of novelty is, and the scores of records with what is needed to read them."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from ..metrics import Estimate

__all__ = ["METHODS", "About", "Method", "Novelty"]

Method = Literal["likelihood", "typicality", "likelihood_ratio", "complexity"]


@dataclass(frozen=True)
class About:
    """What a score is, and what it can tell."""

    formula: str
    unit: str
    tells: str
    misses: str
    source: str


METHODS: Mapping[str, About] = {
    "likelihood": About(
        "-log p(x)",
        "nats",
        "records that the model finds improbable.",
        "records that are simpler than the training data (plainer, darker, smoother) or nearer to its mode: they score as more ordinary "
        "than the data themselves. Do not rely on it alone.",
        "Bishop (1994); its failure: Nalisnick et al. (2019), Do Deep Generative Models Know What They Don't Know?",
    ),
    "typicality": About(
        "|-log p(x) - H|, H the mean of -log p over reference records; a batch takes the mean of -log p first",
        "nats",
        "records that are less or more likely than the data usually are. Batches of records of one origin tell far more than single ones.",
        "records of another kind whose likelihood happens to be the usual one.",
        "Nalisnick et al. (2019), Detecting Out-of-Distribution Inputs to Deep Generative Models Using Typicality, section 3",
    ),
    "likelihood_ratio": About(
        "log p_0(x) - log p(x), p_0 a background model of perturbed records",
        "nats",
        "records that lack what the model knows beyond the background model: structure instead of general statistics.",
        "what the background model knows as well. It depends on how strongly the background's records were perturbed, which only "
        "records known to be foreign can choose.",
        "Ren et al. (2019), Likelihood Ratios for Out-of-Distribution Detection, equations 5 and 6",
    ),
    "complexity": About(
        "-log2 p(x) - L(x), L the length of a PNG (images) or zlib (other records) code",
        "bits",
        "records that the model finds costlier than a general-purpose compressor does: it has no advantage on them as it has on its data.",
        "records that are as complex as the data and as improbable for the compressor: noise, for one, may score as ordinary. A record of "
        "a few bytes is too short for a code's length to mean anything.",
        "Serra et al. (2020), Input Complexity and Out-of-Distribution Detection with Likelihood-Based Generative Models, equation 1",
    ),
}


@dataclass
class Novelty:
    """Scores of records, higher = less like the training data, with what is needed to read them."""

    model: str
    method: str
    kind: str
    """What log p is: exact, a bound, or an estimate."""
    scores: Tensor
    """One for each record, or for each batch of records; in `unit`."""
    log_prob: Tensor
    """log p(x) of each record, in nats and in the data's own units."""
    p_values: Tensor | None = None
    """Of each score: how often a record (a batch) of the training data's own law scores as high. None without held-out records."""
    held_out: Tensor | None = None
    """Scores of the held-out records (batches) that the p-values rank against."""
    entropy: Estimate | None = None
    """H of typicality, in nats."""
    auroc: Estimate | None = None
    """How well the score tells the given records, all of them, from held-out ones; 1/2 where it does not."""
    flagged: Estimate | None = None
    """Share of p-values of at most 0.05: 5 % are expected of records like the training data."""
    batch: int = 1
    notes: list[str] = field(default_factory=list)
    seed: int = 0

    @property
    def unit(self) -> str:
        return METHODS[self.method].unit

    def to_json(self) -> dict[str, Any]:
        """Plain values, with what the score can and cannot tell; numbers that are not finite become None."""
        about = METHODS[self.method]
        plain = {"model": self.model, "method": self.method, **vars(about), "kind": self.kind, "batch": self.batch, "seed": self.seed}
        for name in ("entropy", "auroc", "flagged"):
            value = getattr(self, name)
            plain[name] = None if value is None else value.to_json()
        for name in ("scores", "p_values", "log_prob"):
            value = getattr(self, name)
            plain[name] = None if value is None else [v if math.isfinite(v) else None for v in value.tolist()]
        return {**plain, "held_out": 0 if self.held_out is None else len(self.held_out), "notes": list(self.notes)}

    def columns(self) -> dict[str, list[float]]:
        """Columns of a table with a row for each record (of a batch: its score and p-value again); those in no whole batch are left out."""
        rows = torch.arange(len(self.scores)).repeat_interleave(self.batch)
        found = {"log_prob": self.log_prob[: len(rows)], "score": self.scores[rows]}
        if self.p_values is not None:
            found["p_value"] = self.p_values[rows]
        if self.batch > 1:
            found["batch"] = rows
        return {name: values.tolist() for name, values in found.items()}

    def __str__(self) -> str:
        about = METHODS[self.method]
        batches = f", mean of batches of {self.batch}" if self.batch > 1 else ""
        lines = [f"score = {about.formula}{batches}: {float(self.scores.median()):.4g} {about.unit} in the median, log p: {self.kind}"]
        if self.held_out is not None and self.auroc is not None and self.flagged is not None:
            a, f, what = self.auroc, self.flagged, "batches" if self.batch > 1 else "records"
            lines.append(f"held-out {what} of the training data: {float(self.held_out.median()):.4g} in the median ({len(self.held_out)})")
            lines.append(
                f"p-value at most 0.05: {f.value:.1%} of {what} [{f.low:.1%}, {f.high:.1%}]; 5 % are expected of records like the data"
            )
            lines.append(
                f"AUROC against held-out {what}: {a.value:.3f} [{a.low:.3f}, {a.high:.3f}]; 0.5 = no difference that this score sees"
            )
        lines += [f"It finds {about.tells}", f"It misses {about.misses}", f"Source: {about.source}."]
        return "\n".join([*lines, *(f"Note: {note}" for note in self.notes)])
