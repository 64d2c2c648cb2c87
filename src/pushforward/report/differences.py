"""Which differences between models are larger than luck explains."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from ..figures import FIGURES, comparable
from ..metrics import Estimate, difference_estimate
from .leaderboard import Entry, standard_error
from .words import listed, merit, number

LEVEL = 0.05
FIGURES_TESTED = ("log_prob", "density", "coverage", "frechet", "samples_per_second")
"""The figures whose differences are tested: likelihood, the three corners of the trilemma, and the distance."""
NAMES = {
    "log_prob": "log-likelihood",
    "density": "quality",
    "coverage": "coverage",
    "frechet": "Fréchet distance",
    "samples_per_second": "speed",
}

State = Literal["better", "worse", "open", "apart"]


@dataclass(frozen=True)
class Verdict:
    """What may be said of two models and one figure."""

    a: str
    """The key of the first model."""
    b: str
    name: str
    state: State
    """Whether the first is `better` or `worse`; `open` where the two cannot be told apart; `apart` where they may not be compared."""
    difference: float = math.nan
    """First less second, in the figure's unit."""
    p: float = math.nan
    """Probability of a difference as large by luck alone, corrected for the number of pairs (Holm 1979)."""
    reason: str = ""
    sided: bool = False
    """A lower bound against an exact value: only that the bound's model is better can be found."""

    def turned(self) -> "Verdict":
        """The same from the other side."""
        state: dict[State, State] = {"better": "worse", "worse": "better"}
        return replace(self, a=self.b, b=self.a, state=state.get(self.state, self.state), difference=-self.difference)

    def text(self) -> str:
        """In words, for who hovers or listens."""
        what = NAMES.get(self.name, FIGURES[self.name].label)
        if self.state == "apart":
            return f"{self.a} and {self.b}: {what} not comparable; {self.reason}"
        found = {"better": "is better than", "worse": "is worse than", "open": "cannot be told apart from"}[self.state]
        because = f"; {self.reason}" if self.reason else ""
        p = "p < 0.001" if self.p < 0.001 else f"p = {self.p:.3f}"
        return f"{self.a} {found} {self.b} in {what} (difference {number(self.difference)}, {p}{because})"


def verdicts(done: Sequence[Entry], name: str) -> dict[tuple[str, str], Verdict]:
    """Every ordered pair's verdict on one figure, at 5 % over all pairs together.

    Welch's (1947) test, on the figure as something of which more is better (a density's distance from 1, say; the logarithm of speed):
    the variance of a mean is s^2/k over its k seeds plus the squared standard error of a single run over its records, because all seeds
    share the held-out records. That counts the luck of sampling twice, so the tests err towards `open`. Pairs are corrected together
    by Holm (1979). Likelihoods are compared record by record, which takes out what is common to both: some records are hard for every
    model. They are compared only where `figures.comparable` allows; a lower bound against an exact value only in the
    direction that it guarantees.
    """
    found: list[Verdict] = []
    for i, a in enumerate(done):
        for b in done[i + 1 :]:
            if a.runs(name) and b.runs(name):
                found.append(_tested(a, b, name))
    adjusted = holm([v.p for v in found if not math.isnan(v.p)])
    at = iter(adjusted)
    out: dict[tuple[str, str], Verdict] = {}
    for v in found:
        if not math.isnan(v.p):
            v = replace(v, p=next(at))
            if v.p > LEVEL:
                v = replace(v, state="open")
        out[v.a, v.b], out[v.b, v.a] = v, v.turned()
    return out


def holm(p: Sequence[float]) -> list[float]:
    """p-values corrected for their number, step by step (Holm 1979): sorted, the largest so far of (m - i) p_i."""
    order = sorted(range(len(p)), key=lambda i: p[i])
    out, most = [0.0] * len(p), 0.0
    for place, i in enumerate(order):
        most = max(most, min(1.0, (len(p) - place) * p[i]))
        out[i] = most
    return out


def _tested(a: Entry, b: Entry, name: str) -> Verdict:
    """The verdict on one pair, its p-value not yet corrected."""
    sided = 0
    difference = sum(f.value for f in a.runs(name)) / len(a.runs(name)) - sum(f.value for f in b.runs(name)) / len(b.runs(name))
    plain = Verdict(a.key, b.key, name, "apart", difference)
    if name in ("log_prob", "bits_per_dim"):
        first, second = (next(v for v in e.done if v.kind == e.kind) for e in (a, b))
        kinds = (a.kind, b.kind)
        reason = comparable(first, second)
        if (
            reason is not None
            and set(kinds) == {"exact", "bound"}
            and comparable(first, replace(second, kind=first.kind)) in (None, BOUNDS)
        ):
            sided = 1 if a.kind == "bound" else -1  # the bound's model is at least that good
        elif reason is not None:
            return replace(plain, reason=reason)
    gap, variance, freedom = _gap(a, b, name)
    if math.isnan(variance):
        return replace(plain, reason="their intervals are not known")
    p = _p_value(gap, variance, freedom, sided)
    state: State = "better" if gap > 0 else "worse" if gap < 0 else "open"
    if sided and (gap > 0) != (sided > 0):
        return replace(plain, state="open", p=1.0, sided=True, reason="a lower bound may lie below an exact value and its model be better")
    return replace(plain, state=state, p=p, sided=bool(sided))


BOUNDS = "both are lower bounds, whose gaps are unknown"


def _gap(a: Entry, b: Entry, name: str) -> tuple[float, float, float]:
    """(difference of merits, its variance, degrees of freedom by Welch and Satterthwaite)."""
    pairs = paired(a, b) if name == "log_prob" else []
    if pairs:
        gaps, errors = [d.value for d in pairs], [d.stderr for d in pairs]
        gap, k = sum(gaps) / len(gaps), len(gaps)
        parts = [(sum(e * e for e in errors) / k, pairs[0].n - 1)]
        if k > 1:
            parts.append((sum((v - gap) ** 2 for v in gaps) / (k - 1) / k, k - 1))
        return _welch(gap, parts)
    gap, parts = 0.0, []
    for e, sign in ((a, 1.0), (b, -1.0)):
        runs = e.runs(name)
        errors = [standard_error(f) for f in runs]
        if name == "samples_per_second":
            values = [math.log(max(f.value, 1e-300)) for f in runs]
            errors = [error / f.value if f.value > 0 else math.nan for error, f in zip(errors, runs)]
        else:
            values = [merit(name, f.value) for f in runs]
        mean, k = sum(values) / len(values), len(values)
        gap += sign * mean
        if k > 1:
            parts.append((sum((v - mean) ** 2 for v in values) / (k - 1) / k, k - 1))
        known = [error for error in errors if math.isfinite(error)]
        if known and not (k > 1 and name == "samples_per_second"):  # a run's rate is a median of repeats: nothing is shared over seeds
            parts.append((sum(error**2 for error in known) / len(known), max(1, min((f.n for f in runs if f.n), default=1000) - 1)))
        elif k == 1 and not known:
            return gap, math.nan, math.nan
    return _welch(gap, parts)


def _welch(gap: float, parts: Sequence[tuple[float, int]]) -> tuple[float, float, float]:
    """The gap with the sum of the (variance, degrees of freedom) and the degrees of that sum."""
    variance = sum(v for v, _ in parts)
    freedom = variance**2 / sum(v**2 / f for v, f in parts) if variance > 0 else math.inf
    return gap, variance, freedom


def paired(a: Entry, b: Entry) -> list[Estimate]:
    """For each seed the mean difference of log p(x), first less second, over the records that both were asked of; empty when unknown."""
    first, second = ({r.seed: r.log_probs for r in e.rows if r.log_probs is not None} for e in (a, b))
    both = [seed for seed in first if seed in second and len(first[seed]) == len(second[seed]) > 1]
    if len(both) < max(len(a.runs("log_prob")), len(b.runs("log_prob"))):
        return []
    return [difference_estimate(first[seed], second[seed], paired=True) for seed in both]


def _p_value(gap: float, variance: float, freedom: float, sided: int) -> float:
    from scipy import stats

    if variance == 0:
        return 1.0 if gap == 0 else 0.0
    z = abs(gap) / math.sqrt(variance)
    tail = float(stats.t.sf(z, freedom)) if math.isfinite(freedom) else float(stats.norm.sf(z))
    return tail if sided else 2 * tail


# -- in words -------------------------------------------------------------------------------------------------------


def best(done: Sequence[Entry], name: str, found: Mapping[tuple[str, str], Verdict] | None = None) -> list[Entry]:
    """The leader of a figure, and after it those that cannot be told apart from it; empty where no model leads.

    For likelihoods nobody leads unless all are exact, or all estimates, of one base measure.
    """
    have = [e for e in done if e.runs(name)]
    if len(have) < 2 or FIGURES[name].better == "none":
        return []
    found = verdicts(done, "log_prob" if name == "bits_per_dim" else name) if found is None else found
    if name in ("log_prob", "bits_per_dim") and any(v.state == "apart" or v.sided for v in found.values()):
        return []
    leader = max(have, key=lambda e: sum(merit(name, f.value) for f in e.runs(name)) / len(e.runs(name)))
    return [leader, *(e for e in have if e is not leader and found[leader.key, e.key].state == "open")]


def indistinct(done: Sequence[Entry], name: str) -> str:
    """A sentence on who leads a figure and who cannot be told apart from the leader."""
    found = verdicts(done, name)
    if not found:
        return ""
    what = NAMES[name]
    leaders = best(done, name, found)
    labels = {e.key: e.label for e in done}
    if not leaders:
        sure = [v for v in found.values() if v.state == "better"]
        if not sure:
            reasons = list(dict.fromkeys(v.reason or "too uncertain" for v in found.values()))
            return f"{what[0].upper()}{what[1:]}: no difference may be claimed ({'; '.join(reasons)})."
        winners = {v.a: [labels[w.b] for w in sure if w.a == v.a] for v in sure}
        said = "; ".join(f"{labels[a]} beats {listed(beaten)}" for a, beaten in winners.items())
        return f"{what[0].upper()}{what[1:]}: {said}. No other difference may be claimed."
    first, *others = [e.label for e in leaders]
    if not others:
        return f"{what[0].upper()}{what[1:]}: {first} is best, by more than luck explains."
    return f"{what[0].upper()}{what[1:]}: {first} leads, but cannot be told apart from {listed(others)}."
