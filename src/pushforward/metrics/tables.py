"""Is a synthetic table like the real one: column by column and pair by pair?

Every score is 1 - distance between two distributions, in [0, 1], 1 for equal ones:

===================  ==========================================================================================================
a column of numbers  1 - sup_x |F(x) - G(x)| (Kolmogorov-Smirnov); a missing value lies below every number
a category           1 - 1/2 sum_c |p_c - q_c| (total variation); a missing value is a category of its own
two numbers          1 - |r - s| / 2 with Pearson's correlations r, s of the records in which both are there
any other pair       1 - total variation of the contingency tables; numbers are cut at the real column's deciles
===================  ==========================================================================================================

A distance is overestimated from records: equal tables of 1,000 and 1,000 have a mean Kolmogorov distance of 0.04, so their score is 0.96.
The interval allows for that. The error D^ - D of an empirical distance has, to first order, the law of the distance's directional
derivative at the two distributions, taken in the direction of the errors h of the shares (Fang and Santos 2019): a share that differs by
more than chance adds sign(p - q) h, one that may be equal adds |h|, which is what overestimates. The errors are those of random halves of
the pooled records (a permutation), so that equal tables are treated exactly. The score is then at most 1 - D^ + the 96 % quantile, and
at least 1 - D^ - 1.96 se, se being the delta method's: the interval of equal tables holds 1 in 96 % of cases, and that of unequal
ones the true score in 94 to 98 %.
"""

import itertools
import math
from collections.abc import Callable, Mapping

import numpy as np

from ..errors import DataError, nearest
from .estimate import Estimate
from .intervals import LEVEL, normal_quantile

BINS = 10
RECORDS = 10_000
"""Records of each table that are used at most, chosen by the seed: the standard error of a share is then half a percentage point."""
REPEATS = 400
"""Permutations: their 96 % quantile is the 16th largest, which stands for the 94th to 98th percentile."""
ABOVE = 0.96
"""The quantile at the upper end. The lower end misses in at most 2.5 % of cases, and never for equal tables."""


NONE = (math.nan, math.nan, math.nan, math.nan, math.nan)


class _Split:
    """Which of the pooled records are the real ones, as weights."""

    def __init__(self, real: np.ndarray):
        self.real, self.fake = real, 1.0 - real
        n, m = float(real.sum()), float(self.fake.sum())
        self.signed = real / n - self.fake / m
        self.inverse, self.size = 1 / n + 1 / m, min(n, m)


class _Shares:
    """Distances from the differences of shares p - q of codes: total variation, or Kolmogorov-Smirnov where codes are in order."""

    def __init__(self, x: np.ndarray, y: np.ndarray, *, ordered: bool):
        _, self.codes = np.unique(np.concatenate([x, y]), return_inverse=True)
        self.ordered = ordered

    def difference(self, split: _Split) -> np.ndarray:
        """p - q, or F - G."""
        d = np.bincount(self.codes, weights=split.signed)
        d = d.cumsum() if self.ordered else d
        return np.where(np.abs(d) < 1e-12, 0.0, d)  # sums of fractions are equal but for their rounding

    def distance(self, split: _Split) -> float:
        d = np.abs(self.difference(split))
        return float(d.max() if self.ordered else d.sum() / 2)

    def error(self, given: _Split) -> Callable[[_Split], float]:
        """The directional derivative at the given tables, of the errors of any permuted ones."""
        d = self.difference(given)
        share = np.bincount(self.codes) / len(self.codes)
        share = share.cumsum() if self.ordered else share
        errors = np.sqrt(np.maximum(share * (1 - share), 0.0) * given.inverse)
        if self.ordered:
            # Equal distributions are called different with a probability of 1/n (Massart's bound).
            apart = np.abs(d).max() > math.sqrt(math.log(2 * given.size) / 2 * given.inverse)
            near = np.abs(d) >= np.abs(d).max() - math.sqrt(math.log(given.size)) * errors  # where the largest one may truly be
            sign = np.sign(d[near])
            return lambda split: float((sign * self.difference(split)[near]).max()) if apart else self.distance(split)
        # One of many equal shares is called different with a probability below 1/n: a bound over all of them.
        sign = np.where(np.abs(d) > math.sqrt(2 * math.log(len(d)) + math.log(given.size)) * errors, np.sign(d), 0.0)

        def error(split: _Split) -> float:
            h = self.difference(split)
            return float(np.where(sign == 0.0, np.abs(h), sign * h).sum() / 2)

        return error

    def influence(self, split: _Split) -> np.ndarray:
        """What each record adds to the distance to first order: a mean over real records minus one over synthetic ones is taken."""
        d = self.difference(split)
        if self.ordered:
            k = int(np.abs(d).argmax())
            return np.sign(d[k]) * (self.codes <= k)
        return np.sign(d)[self.codes] / 2


class _Centred:
    """A column of numbers about its mean, with 0 where it is missing or infinite: shared by all pairs that it is in."""

    def __init__(self, values: np.ndarray):
        there = np.isfinite(values)
        v = np.where(there, values, 0.0)
        v = np.where(there, v - v.sum() / max(1, there.sum()), 0.0)
        self.values = v / (np.abs(v).max() or 1.0)
        self.squares = np.square(self.values)
        self.there = None if there.all() else there.astype(np.float64)


class _Correlations:
    """|r - s| / 2 of the records in which both numbers are there; 0 where a column is constant and has no correlation."""

    def __init__(self, a: _Centred, b: _Centred):
        self.a, self.b = a, b

    def marked(self, of: np.ndarray) -> np.ndarray:
        """The weights of the records in which both are there."""
        for there in (self.a.there, self.b.there):
            of = of if there is None else of * there
        return of

    def moments(self, of: np.ndarray) -> tuple[float, float, float, float, float]:
        """Means, standard deviations and correlation (NaN where there is none) of the marked records."""
        of = self.marked(of)
        n, a, b = float(of.sum()), self.a, self.b
        if n < 3:
            return NONE
        ma, mb, product = float(of @ a.values) / n, float(of @ b.values) / n, float((of * a.values) @ b.values) / n
        va, vb = float(of @ a.squares) / n - ma * ma, float(of @ b.squares) / n - mb * mb
        if min(va, vb) <= 1e-12:
            return NONE
        return ma, mb, math.sqrt(va), math.sqrt(vb), (product - ma * mb) / math.sqrt(va * vb)

    def difference(self, split: _Split) -> float:
        """(r - s) / 2."""
        d = (self.moments(split.real)[4] - self.moments(split.fake)[4]) / 2
        return d if math.isfinite(d) else 0.0

    def distance(self, split: _Split) -> float:
        return abs(self.difference(split))

    def error(self, given: _Split) -> Callable[[_Split], float]:
        """As of shares."""
        d = self.difference(given)
        if abs(d) <= math.sqrt(math.log(given.size)) * _standard_error(self.influence(given), given):
            return self.distance
        return lambda split: math.copysign(1.0, d) * self.difference(split)

    def influence(self, split: _Split) -> np.ndarray:
        """A record adds z_a z_b - r (z_a^2 + z_b^2) / 2 to its r."""
        out, r = np.zeros(len(self.a.values)), []
        for of in (split.real, split.fake):
            ma, mb, sa, sb, rho = self.moments(of)
            if not math.isfinite(rho):
                return np.zeros(len(out))
            z, w = (self.a.values - ma) / sa, (self.b.values - mb) / sb
            there = self.marked(of)
            out += (z * w - rho * (z * z + w * w) / 2) * there * (of.sum() / there.sum())
            r.append(rho)
        return np.sign(r[0] - r[1]) / 2 * out


def column_fidelity(
    real: Mapping[str, np.ndarray], fake: Mapping[str, np.ndarray], categories: set[str], *, seed: int = 0
) -> dict[str, Estimate]:
    """Scores of every column and every pair of columns, and their means, each with its 95 % interval.

    Parameters
    ----------
    real, fake
        Columns by name: numbers (NaN or None where missing) or, for names in `categories`, values of any kind (None or NaN where missing).
    categories
        The columns that name categories.
    seed
        Of the permutations that intervals are made from, and of the 10,000 records of each table that are used where there are more.

    Returns
    -------
    dict
        `columns` and `pairs`: the two means; `column NAME`; `pair NAME x NAME`. `worst_pair` finds the least of those.

    Raises
    ------
    DataError
        Columns that one of the tables lacks, of different lengths, or of numbers that are none; fewer than 2 records.
    """
    rng = np.random.default_rng(seed)
    x, y = ({c: v[_some(len(v), seed)] for c, v in t.items()} for t in _columns(real, fake, categories))
    n, m = (len(next(iter(t.values()))) for t in (x, y))
    codes = {c: (x[c], y[c]) if c in categories else _binned(x[c], y[c]) for c in x}
    centred = {c: _Centred(np.concatenate([x[c], y[c]])) for c in x if c not in categories}
    found: dict[str, _Shares | _Correlations] = {}
    for c in x:
        if c in categories:
            found[f"column {c}"] = _Shares(x[c], y[c], ordered=False)
        else:
            found[f"column {c}"] = _Shares(*(np.where(np.isnan(t[c]), -np.inf, t[c]) for t in (x, y)), ordered=True)
    for a, b in itertools.combinations(x, 2):
        if a in categories or b in categories:
            size = 1 + max(int(v.max()) for v in codes[b])
            found[f"pair {a} x {b}"] = _Shares(*(codes[a][i] * size + codes[b][i] for i in (0, 1)), ordered=False)
        else:
            found[f"pair {a} x {b}"] = _Correlations(centred[a], centred[b])
    groups = {"columns": [k for k in found if k.startswith("column ")], "pairs": [k for k in found if k.startswith("pair ")]}
    groups = {k: v for k, v in {**groups, **{k: [k] for k in found}}.items() if v}
    given = _Split((np.arange(n + m) < n).astype(np.float64))
    errors = {k: s.error(given) for k, s in found.items()}
    chance: dict[str, list[float]] = {k: [] for k in groups}
    for _ in range(REPEATS):
        shuffled = _Split(rng.permutation(given.real))
        distances = {k: error(shuffled) for k, error in errors.items()}
        for k, members in groups.items():
            chance[k].append(sum(distances[i] for i in members) / len(members))
    scores = {}
    for k, members in groups.items():
        value = sum(found[i].distance(given) for i in members) / len(members)
        adds = np.zeros(n + m)
        for i in members:
            adds += found[i].influence(given) / len(members)
        error = _standard_error(adds, given)
        low = max(0.0, 1 - value - normal_quantile(0.5 + LEVEL / 2) * error)
        high = min(1.0, 1 - value + float(np.quantile(chance[k], ABOVE, method="weibull")))
        scores[k] = Estimate(1 - value, low, high, error, min(n, m), "permutation above, delta method below")
    return scores


def _standard_error(influence: np.ndarray, split: _Split) -> float:
    """Of a mean over real records minus one over synthetic ones."""
    sides = (influence[split.real == side] for side in (1.0, 0.0))
    return math.sqrt(sum(float(np.var(v, ddof=1)) / len(v) for v in sides))


def worst_pair(scores: Mapping[str, Estimate]) -> tuple[str, Estimate] | None:
    """The pair of columns with the least score of `column_fidelity`; None when there is no pair."""
    pairs = {k: e for k, e in scores.items() if k.startswith("pair ")}
    name = min(pairs, key=lambda k: pairs[k].value, default=None)
    return None if name is None else (name.removeprefix("pair "), pairs[name])


def _some(n: int, seed: int) -> np.ndarray:
    """Which of n records are used."""
    return np.arange(n) if n <= RECORDS else np.sort(np.random.default_rng(seed).permutation(n)[:RECORDS])


def _binned(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Codes of numbers by the deciles of the first column; missing values have their own."""
    present = x[~np.isnan(x)]
    edges = np.unique(np.quantile(present, np.arange(1, BINS) / BINS)) if len(present) else np.zeros(0)
    return tuple(np.where(np.isnan(v), len(edges) + 1, np.searchsorted(edges, v)) for v in (x, y))  # type: ignore[return-value]


# -- reading columns ------------------------------------------------------------------------------------------------


def _columns(*tables: Mapping[str, np.ndarray] | set[str]) -> list[dict[str, np.ndarray]]:
    """Each table's columns as float64, or for the categories (the last argument) as codes common to all tables."""
    *given, categories = tables
    first = given[0]
    assert not isinstance(first, set)
    for what in categories:
        if what not in first:
            raise DataError(f"There is no column {what!r}.{nearest(str(what), map(str, first))}")
    if not first:
        raise DataError("There is no column to compare.")
    out: list[dict[str, np.ndarray]] = [{} for _ in given]
    for name in first:
        found = []
        for table in given:
            assert not isinstance(table, set)
            if name not in table:
                raise DataError(f"Column {name!r} is missing from one of the tables. Give tables with the same columns.")
            found.append(np.asarray(table[name]))
        read = _codes(found) if name in categories else [_numbers(name, v) for v in found]
        for t, v in zip(out, read):
            t[name] = v
    for t in out:
        lengths = {len(v) for v in t.values()}
        if len(lengths) > 1 or min(lengths) < 2:
            raise DataError(f"The columns of a table need the same number of records, 2 or more; they have {sorted(lengths)}.")
    return out


def _numbers(name: str, values: np.ndarray) -> np.ndarray:
    try:
        return np.array(values, dtype=np.float64)  # None becomes NaN
    except (TypeError, ValueError):
        raise DataError(f"Column {name!r} holds values that are no numbers. Name it among the categories, or correct them.") from None


def _codes(columns: list[np.ndarray]) -> list[np.ndarray]:
    """Codes 1, 2, ... in order of appearance, the same in all columns; 0 for a missing value."""
    import pandas as pd

    codes, _ = pd.factorize(np.concatenate([np.asarray(c, dtype=object) for c in columns]))
    return np.split(codes + 1, np.cumsum([len(c) for c in columns])[:-1])
