"""Does a generator repeat its training records, or itself?

T are the training records, P held-out ones, Q generated ones, all as vectors of features; d(x) = min over t in T of |x - t|.
A generator that learnt the distribution draws Q and P alike, so d is distributed alike over both. One that copies has smaller d.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..errors import DataError
from .blocks import BLOCK, blocks, squared_distances
from .estimate import Estimate
from .intervals import LEVEL, normal_quantile, share_estimate

LEAST = 20
"""Generated records below which a cell says nothing (Meehan et al. 2020 take tau = 20/m)."""
CELL = 100
"""Held-out records that a cell holds on average, where the number of cells is not given."""
ALARM = 3.0
"""Standard deviations that make a verdict: 0.13 % of generators that do not copy lie beyond."""


# -- neighbours -----------------------------------------------------------------------------------------------------


def nearest(fake: Float[Tensor, "m d"], train: Float[Tensor, "n e"], k: int = 1) -> tuple[Float[Tensor, "m k"], Int[Tensor, "m k"]]:
    """Distances (m, k), in float64, to the k nearest training records and their indices, nearest first, in bounded memory.

    Candidates come from one matrix product; their distances are then had from differences, so that equal records are 0 apart.
    Raises `DataError` for sets that do not fit together, and for k beyond the training records.
    """
    return _nearest(fake, train, k, own=False)


def _nearest(x: Tensor, y: Tensor, k: int, *, own: bool) -> tuple[Tensor, Tensor]:
    """As `nearest`; with `own`, x and y are one set and no record is its own neighbour."""
    if x.shape[1] != y.shape[1]:
        raise DataError(f"The two sets have {x.shape[1]} and {y.shape[1]} features. Measure both in one feature space.")
    if not 1 <= k <= len(y) - own:
        raise DataError(f"The {k} nearest of {len(y) - own} records do not exist. Give more records or a smaller k.")
    # Features of equal records may differ in their last bits (sums are ordered by the batch): that much is no distance.
    rounding = 64 * torch.finfo(x.dtype).eps * float(torch.cat([x, y]).norm(dim=1).max())
    centre = y.mean(0)
    x, y = x - centre, y - centre
    squares = y.square().sum(1)
    found = []
    for at in blocks(x, len(y)):
        distance = squared_distances(x[at], y, squares)
        if own:
            distance[torch.arange(len(at)), at] = torch.inf
        found.append(distance.topk(k, largest=False).indices)
    index = torch.cat(found) if found else torch.zeros(0, k, dtype=torch.long)
    rows = torch.arange(len(x)).split(max(1, BLOCK // (k * x.shape[1])))
    distance = torch.cat([(x[at, None].double() - y[index[at]].double()).norm(dim=2) for at in rows] or [torch.zeros(0, k).double()])
    distance[distance <= rounding] = 0.0
    order = distance.argsort(dim=1, stable=True)
    return distance.gather(1, order), index.gather(1, order)


# -- the test of Meehan et al. --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CopyingTest:
    """The data-copying test of Meehan, Chaudhuri & Dasgupta (2020). Negative: nearer to the training records than held-out ones are."""

    statistic: float
    """C_T: the mean of the cells' z, weighted by their shares of held-out records."""
    z: float
    """C_T over its standard deviation, sqrt(sum of squared weights): N(0, 1) for a generator that does not copy."""
    global_z: float
    """Z_U with all records in one cell."""
    worst_z: float
    """The least z of a cell: copying of one region alone."""
    cells: int
    """Cells used."""
    made: int
    """Cells made; those with fewer than 20 generated records, or no held-out one, were left out."""
    left_out: float
    """Share of held-out records in the cells left out."""
    training: int
    held_out: int
    generated: int

    @property
    def copies(self) -> bool:
        """Whether C_T lies more than 3 of its standard deviations below 0: a false alarm in 0.13 % of honest generators."""
        return self.z < -ALARM

    @property
    def copies_somewhere(self) -> bool:
        """Whether one cell alone does, the same 0.13 % being shared among the cells (Bonferroni)."""
        from scipy.stats import norm

        return bool(self.worst_z < norm.ppf(norm.cdf(-ALARM) / self.cells))

    @property
    def verdict(self) -> str:
        """What the figures say, in words."""
        figures = f"C_T = {self.statistic:.1f}, {self.z:+.1f} standard deviations, {self.cells} cell{'s' if self.cells > 1 else ''}"
        if self.copies:
            said = "Copying: samples lie nearer to training records than held-out records do"
        elif self.copies_somewhere:
            said = f"Copying in places: one cell's samples lie nearer to training records than its held-out ones (z = {self.worst_z:.1f})"
        elif self.z > ALARM:
            said = "No copying, but underfitting: samples lie farther from training records than held-out records do"
        else:
            said = "No sign of copying: samples lie as far from training records as held-out records do"
        missing = (
            f" {self.left_out:.0%} of the held-out records lie where there are too few samples to say." if self.left_out > 0.005 else ""
        )
        return f"{said} ({figures}).{missing}"

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "copies": self.copies, "copies_somewhere": self.copies_somewhere, "verdict": self.verdict}


def mann_whitney_z(fake: Float[Tensor, "m"], held_out: Float[Tensor, "n"]) -> float:
    """Z_U = (U - mn/2) / sd(U), with U the number of pairs where the generated value is the larger, ties counting a half.

    sd(U)^2 = mn/12 (m + n + 1 - sum over ties of (t^3 - t) / ((m + n)(m + n - 1))); Z_U is 0 where all values are tied.
    (Mann & Whitney 1947; the correction for ties as in Lehmann 1975, eq. 1.34.)
    """
    from scipy.stats import rankdata

    m, n = len(fake), len(held_out)
    pooled = torch.cat([fake.double(), held_out.double()])
    ranks = torch.from_numpy(rankdata(pooled.numpy()))
    u = float(ranks[:m].sum()) - m * (m + 1) / 2
    t = pooled.unique(return_counts=True)[1].double()
    total = m + n
    variance = m * n / 12 * (total + 1 - float((t**3 - t).sum()) / (total * (total - 1))) if total > 1 else 0.0
    return (u - m * n / 2) / math.sqrt(variance) if variance > 1e-9 * m * n else 0.0


def data_copying(
    train: Float[Tensor, "l d"], test: Float[Tensor, "n d"], fake: Float[Tensor, "m d"], *, cells: int | None = None, seed: int = 0
) -> CopyingTest:
    """C_T = sum_c P(c) Z_U(c) / sum_c P(c), over the cells c of a k-means partition of T that hold at least 20 generated records.

    P(c) is the share of held-out records in cell c, and Z_U(c) the Mann-Whitney z of the nearest-training-record distances d of the
    generated against the held-out records of that cell. (Meehan et al. 2020, sections 3-4; d(x) is taken over all of T.) Given T,
    each Z_U(c) of a generator that does not copy is N(0, 1) and independent of the others, so C_T ~ N(0, sum w_c^2) with
    w_c = P(c) / sum P: `z` is C_T over that standard deviation, and the verdict is drawn at 3 of them.

    Small d is not only had by copying: samples that are smoother than real records are nearer to everything. `copied_share`, which
    compares distances to training and to held-out records of the *same* samples, tells the two apart.

    Parameters
    ----------
    cells
        Cells of the partition; None for one in 100 held-out (or generated, when fewer) records, and 50 at most.
    seed
        Of k-means.

    Raises
    ------
    DataError
        Fewer than 20 generated or held-out records, or cells that leave none with 20 generated ones.
    """
    if min(len(fake), len(test)) < LEAST:
        raise DataError(f"The copying test needs at least {LEAST} generated and held-out records, got {len(fake)} and {len(test)}.")
    if cells is None:
        cells = max(1, min(50, min(len(test), len(fake)) // CELL))
    a, b = nearest(fake, train)[0][:, 0], nearest(test, train)[0][:, 0]
    of_fake, of_test = _cells(train, [fake, test], cells, seed)
    shares, scores = [], []
    for c in range(cells):
        mine, theirs = a[of_fake == c], b[of_test == c]
        if len(mine) >= LEAST and len(theirs):
            shares.append(len(theirs) / len(test))
            scores.append(mann_whitney_z(mine, theirs))
    if not shares:
        raise DataError(f"None of {cells} cells holds {LEAST} generated records. Draw more samples, or take fewer cells.")
    w = torch.tensor(shares, dtype=torch.float64)
    kept = float(w.sum())
    w /= kept
    statistic = float(w @ torch.tensor(scores, dtype=torch.float64))
    return CopyingTest(
        statistic=statistic,
        z=statistic / float(w.norm()),
        global_z=mann_whitney_z(a, b),
        worst_z=min(scores),
        cells=len(shares),
        made=cells,
        left_out=max(0.0, 1.0 - kept),
        training=len(train),
        held_out=len(test),
        generated=len(fake),
    )


def _cells(train: Tensor, sets: list[Tensor], cells: int, seed: int) -> list[Tensor]:
    """The cell of every record of each set, from k-means (Lloyd) on the training records."""
    if cells == 1:
        return [torch.zeros(len(x), dtype=torch.long) for x in sets]
    distinct = len(train.unique(dim=0)) if len(train) <= 10 * cells else cells  # k-means warns of fewer points than cells
    if len(train) < cells or distinct < cells:
        raise DataError(
            f"{distinct if len(train) >= cells else len(train)} distinct training records do not fill {cells} cells. Take fewer."
        )
    from sklearn.cluster import KMeans

    means = KMeans(cells, random_state=seed).fit(train.double().numpy())
    return [torch.from_numpy(means.predict(x.double().numpy())).long() for x in sets]


# -- ratios and shares ----------------------------------------------------------------------------------------------


def distance_ratio(train: Float[Tensor, "l d"], test: Float[Tensor, "n d"], fake: Float[Tensor, "m d"]) -> Estimate:
    """E d(Q) / E d(P): mean distance to the nearest training record, of generated over held-out records.

    1 for a perfect generator, 0 for a copier, more than 1 for one that strays. The interval is had from the variance of the
    logarithm, sd(d_Q)^2 / (m mean(d_Q)^2) + sd(d_P)^2 / (n mean(d_P)^2) (delta method), given T.

    Raises `DataError` when every held-out record is a copy of a training record, for then there is nothing to compare with.
    """
    if min(len(fake), len(test)) < 2:
        raise DataError(f"A ratio of distances needs at least 2 generated and held-out records, got {len(fake)} and {len(test)}.")
    a, b = nearest(fake, train)[0][:, 0], nearest(test, train)[0][:, 0]
    if not float(b.sum()) > 0:
        raise DataError("Every held-out record is equal to a training record, so copying cannot be told from drawing afresh here.")
    ratio = float(a.mean() / b.mean())
    n, method = min(len(a), len(b)), "delta method on the logarithm"
    if ratio == 0:
        return Estimate(0.0, 0.0, 0.0, 0.0, n, method)
    spread = math.sqrt(sum(float(x.var() / len(x) / x.mean() ** 2) for x in (a, b)))
    half = normal_quantile(0.5 + LEVEL / 2) * spread
    return Estimate(ratio, ratio * math.exp(-half), ratio * math.exp(half), ratio * spread, n, method)


def copied_share(train: Float[Tensor, "l d"], test: Float[Tensor, "n d"], fake: Float[Tensor, "m d"]) -> Estimate:
    """The share of samples that owe their place to a training record: 1 - (l + n)/n * s, where s is the share of samples whose
    nearest record, among training *and* held-out ones, is a held-out one.

    A generator that knows nothing of T beyond its distribution finds either kind in proportion to their numbers, E[s] = n/(l + n),
    whatever else is wrong with it (blur, missing classes): its share is 0. A copier's is 1. Unbiased, so it may fall below 0.

    Which of the l + n records are the held-out ones is chance, so given how often each was found (c, of mean mu = m/(l + n) and
    variance S^2: some are found by many samples) the variance is that of a mean of n of them drawn without replacement. Samples that
    are copies find no held-out record, and a share a of copies leaves

        Var(a^) = l/(m n) (1 - a + max(0, S^2/mu - 1)),

    the binomial part and that of the hubs. The interval holds every a with |a^ - a| <= 1.96 sd(a) (a score interval).
    """
    l, n, m = len(train), len(test), len(fake)
    if min(l, n, m) < 2:
        raise DataError(f"The copied share needs at least 2 records of each kind, got {l} training, {n} held-out and {m} generated ones.")
    (a, of_train), (b, of_test) = (tuple(x[:, 0] for x in nearest(fake, records)) for records in (train, test))
    held = (b < a).double() + 0.5 * (b == a).double()  # as near to both: half of each
    counts = torch.zeros(l + n, dtype=torch.float64).index_add_(0, of_train, 1 - held).index_add_(0, l + of_test, held)
    value = 1 - (l + n) / n * float(held.mean())
    binomial, hubs = l / (m * n), l / (m * n) * max(0.0, float(counts.var()) / (m / (l + n)) - 1)
    z = normal_quantile(0.5 + LEVEL / 2)
    # (value - a)^2 = z^2 (binomial (1 - a) + hubs), a quadratic in a
    middle = value - z * z * binomial / 2
    half = math.sqrt(max(0.0, middle**2 - value**2 + z * z * (binomial + hubs)))
    error = math.sqrt(max(0.0, binomial * (1 - value) + hubs))
    return Estimate(value, middle - half, max(value, min(1.0, middle + half)), error, min(n, m), "score, counts of neighbours")


def duplicate_share(fake: Float[Tensor, "m d"], reference: Float[Tensor, "n d"] | None = None) -> Estimate:
    """Share of samples that repeat another sample: nearer to it than `threshold`, or exactly.

    Without a reference only exact repeats count. With real records as reference, the threshold is the 0.1 % quantile of the distances
    from a real record to its nearest other one, among as many real records as there are samples (the larger set is cut to the
    smaller). So data that repeat by nature have their own share: `duplicate_share(reference, reference)`; the distance shrinks with
    the number of records, which is why their numbers are equal.

    Two records make a repeat, so records are not independent. The standard error takes the samples for draws from many values with
    small probabilities: then the number of values seen c times, F_c, is a sum over values of indicators of N ~ Poisson(lambda), and
    the number of samples without a repeat, F_1, given that there are m samples in all, has the variance

        sum q - sum q^2 - cov(F_1, m)^2 / m,    q = lambda exp(-lambda),    sum q = E F_1,    cov(F_1, m) = E[F_1 - 2 F_2],

    with sum q^2 = E[2 F_2 - 6 F_3 + 12 F_4 - ...], cut after two terms and at 0, which errs towards a wider interval.
    It is Wilson's for as many independent records as have that error.

    Raises `DataError` for fewer than 4 records.
    """
    m = len(fake) if reference is None else min(len(fake), len(reference))
    if m < 4:
        raise DataError(f"A share of duplicates needs at least 4 records, got {m}.")
    threshold = 0.0 if reference is None else float(_nearest(reference[:m], reference[:m], 1, own=True)[0].quantile(0.001))
    distance, _ = _nearest(fake[:m], fake[:m], 3, own=True)
    times = torch.bincount((distance <= threshold).sum(1), minlength=3)  # of samples, by the number of their repeats
    f1, f2, f3 = (float(times[c - 1]) / c for c in (1, 2, 3))
    squares = min(max(2 * f2 - 6 * f3, 0.0), f1)
    stderr = math.sqrt(max(0.0, f1 - squares - (f1 - 2 * f2) ** 2 / m)) / m
    share = 1 - f1 / m
    low, high = _share_interval(share, stderr, m // 2)
    return Estimate(share, low, high, stderr, m, "Wilson, error of an occupancy count")


def copy_share(fake: Float[Tensor, "m d"], train: Float[Tensor, "n d"]) -> Estimate:
    """Share of samples that equal a training record exactly."""
    if not len(fake):
        raise DataError("There is no sample. Draw some.")
    copies = (nearest(fake, train)[0][:, 0] == 0).double()
    return share_estimate(float(copies.sum()), float(len(fake)))


def _share_interval(share: float, stderr: float, most: int) -> tuple[float, float]:
    """Wilson's interval of a share for the n of independent records that would have this standard error, `most` when it is 0."""
    n = share * (1 - share) / stderr**2 if stderr > 0 else 0.0
    n = n if n > 0 else float(most)
    found = share_estimate(share * n, n)
    return found.low, found.high
