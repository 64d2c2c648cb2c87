"""Intervals: what a figure may be, given the records it was had from.

Means, shares and differences have textbook intervals. Distances between distributions need one of their own, because they are
squares: with D = |mu|^2 the squared norm of a difference mu and mu^ = mu + e its estimate, |mu^|^2 = D + 2 <mu, e> + |e|^2. The last
term biases the plug-in upwards, and where the distributions are equal the middle one vanishes, so that the usual normal interval
(which knows the middle one alone) covers far too little or far too much. `distance_estimate` carries both terms.
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import ConfigError, DataError
from .estimate import Estimate

LEVEL = 0.95
CLEAR = 3.0
"""Null standard deviations beyond which a distance is not 0: by chance in 0.1 % of cases."""


def normal_quantile(p: float) -> float:
    """The quantile of N(0, 1)."""
    return float(torch.special.ndtri(torch.tensor(p, dtype=torch.float64)))


def t_quantile(p: float, freedom: float | int) -> float:
    """The quantile of Student's t."""
    from scipy.stats import t

    return float(t.ppf(p, freedom))


# -- means and shares -----------------------------------------------------------------------------------------------


def mean_estimate(values: Float[Tensor, "n"]) -> Estimate:
    """The mean of independent values, with Student's interval: mean ± t_{n-1} s / sqrt(n). One value has no interval."""
    values = torch.as_tensor(values).double().flatten()
    n = len(values)
    if n == 0:
        raise DataError("A mean needs at least one value, got none.")
    mean = float(values.mean())
    if n == 1 or not math.isfinite(mean):
        return Estimate(mean, n=n)
    error = float(values.std()) / math.sqrt(n)
    half = t_quantile(0.5 + LEVEL / 2, n - 1) * error
    return Estimate(mean, mean - half, mean + half, error, n, "Student t")


def difference_estimate(a: Float[Tensor, "n"], b: Float[Tensor, "m"], *, paired: bool = False) -> Estimate:
    """mean(a) - mean(b), with Welch's interval for independent values or Student's for pairs.

    Welch (1947): a - b ± t_v sqrt(A + B) with A = s_a^2 / n, B = s_b^2 / m and v = (A + B)^2 / (A^2 / (n - 1) + B^2 / (m - 1)).
    Pairs, such as two models' log-likelihoods of the same records, have far narrower intervals: say `paired=True`.

    Raises `DataError` for pairs of unequal numbers, or fewer than 2 values.
    """
    a, b = torch.as_tensor(a).double().flatten(), torch.as_tensor(b).double().flatten()
    if min(len(a), len(b)) < 2:
        raise DataError(f"A difference of two means needs at least 2 values of each, got {len(a)} and {len(b)}.")
    if paired:
        if len(a) != len(b):
            raise DataError(f"Paired values come in equal numbers, got {len(a)} and {len(b)}. Leave paired=False for independent ones.")
        return mean_estimate(a - b)
    value, va, vb = float(a.mean() - b.mean()), float(a.var()) / len(a), float(b.var()) / len(b)
    error = math.sqrt(va + vb)
    freedom = (va + vb) ** 2 / (va**2 / (len(a) - 1) + vb**2 / (len(b) - 1)) if error > 0 else math.inf
    half = t_quantile(0.5 + LEVEL / 2, freedom) * error if error > 0 else 0.0
    return Estimate(value, value - half, value + half, error, min(len(a), len(b)), "Welch t")


def share_estimate(hits: float | int, n: float | int) -> Estimate:
    """A share of n independent records, with Wilson's (1927) score interval, which stays inside [0, 1] and is right near its ends.

    (p + z^2/2n ± z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n). `n` may be an effective number (p(1-p)/variance), and then `hits` too.
    """
    if not 0 <= hits <= n or n <= 0:
        raise DataError(f"A share needs 0 <= hits <= n and n > 0, got {hits} of {n}.")
    p = hits / n
    return Estimate(p, *wilson(p, n), math.sqrt(p * (1 - p) / n), int(n), "Wilson")


def wilson(p: float, n: float | int, freedom: float | int = math.inf) -> tuple[float, float]:
    """Ends of Wilson's interval of a share p, with t instead of z where n is an effective number that was estimated."""
    t = t_quantile(0.5 + LEVEL / 2, freedom) if math.isfinite(freedom) else normal_quantile(0.5 + LEVEL / 2)
    z2 = t * t
    middle = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = math.sqrt(z2 * (p * (1 - p) / n + z2 / (4 * n * n))) / (1 + z2 / n)
    return min(p, max(0.0, middle - half)), max(p, min(1.0, middle + half))


# -- distances between distributions --------------------------------------------------------------------------------


def distance_estimate(
    value: float, *, bias: float, spread: float, null: float, n: int, freedom: float | int = math.inf, method: str = ""
) -> Estimate:
    """The interval of an unbiased estimate D^ of a squared distance D = |mu|^2 >= 0 that calibrates at D = 0 and far from it.

    With C the covariance of the error of mu^ (a vector of features, possibly of infinitely many),

        Var D^ = 2 tr C^2 + 4 <mu, C mu>.

    The second term grows with D: it is 4 rho D, where rho = <mu, C mu> / |mu|^2 is the variance along mu. Taken at mu^, the first
    and the second factor have expectations <mu, C mu> + tr C^2 and D + tr C, so rho^ = (spread / 4) / (D^ + bias); where D^ is clear
    of 0 by three of its null deviations, rho^ is at least (spread - 2 null) / 4 D^, which assumes nothing of mu's direction. The interval
    is the set of all D that |D^ - D| <= t sqrt(null + 4 rho^ D) does not refuse: a score interval, as Wilson's is for a share.
    At D = 0 the law of D^ is that of a weighted sum of centred chi^2, of variance `null`; P(|D^| <= 1.96 sd) is 0.948 for a single
    chi^2_1 and tends to 0.95 for many, so a normal quantile serves there as well.

    Parameters
    ----------
    value
        D^.
    bias
        tr C: what the plug-in |mu^|^2 exceeds D^ by.
    spread
        An estimate of Var_1 + 2 Var_2, where Var_1 = 4 <mu, C mu> and Var_2 = 2 tr C^2; the jackknife's variance is one.
    null
        An estimate of Var_2.
    freedom
        Degrees of freedom of the variances: t instead of the normal quantile.
    """
    null, spread = max(null, 0.0), max(spread, 0.0)
    t = t_quantile(0.5 + LEVEL / 2, freedom) if math.isfinite(freedom) else normal_quantile(0.5 + LEVEL / 2)
    rho = spread / 4 / max(value + bias, 1e-300)
    if value > CLEAR * math.sqrt(null):  # far from 0 the two terms can be told apart, and mu may lie along the larger variances of C
        rho = max(rho, (spread - 2 * null) / 4 / value)
    half = t * math.sqrt(null)
    middle = value + 2 * t * t * rho
    root = math.sqrt(max(0.0, middle * middle - value * value + half * half))
    low = value - half if value <= half else middle - root
    high = value + half if value <= -half else middle + root
    error = math.sqrt(max(null, spread - null))
    return Estimate(value, low, high, error, n, method)


def root_estimate(square: Estimate) -> Estimate:
    """The square root of an estimated square: the ends move with it, and what is below 0 becomes 0."""
    value, low, high = (math.sqrt(max(0.0, v)) if math.isfinite(v) else v for v in (square.value, square.low, square.high))
    return Estimate(value, low, high, square.stderr / (2 * value) if value > 0 else math.nan, square.n, square.method)


def jackknife_distance(
    statistic: Callable[[Tensor], Tensor], groups: int, *, n: int, value: float | int | None = None, method: str = ""
) -> Estimate:
    """`distance_estimate` of a plug-in squared distance, from leaving out one group of records, and two.

    With theta of all K groups, theta_k without group k and theta_kl without two, the bias-corrected value is K theta - (K - 1)
    mean theta_k, and the variance of the pseudo-values p_k = K theta - (K - 1) theta_k over K estimates Var_1 + 2 Var_2 (Efron & Stein
    1981). The quadratic part of theta is sum_kl q_kl / K^2, and theta - theta_k - theta_l + theta_kl = 2 q_kl / (K - 2)^2 + terms
    of k and of l alone, which two-way centring takes away: K (K - 3) / 2 degrees of freedom remain, and Var_2 = 2 E q_kl^2 / K(K-1).

    Parameters
    ----------
    statistic
        Maps masks (B, K) of the groups that are kept to the plug-ins (B,).
    groups
        K, at least 4.
    value
        A better unbiased estimate than the jackknife's, where there is one; only the interval comes from the jackknife then.
    """
    K = groups
    if K < 4:
        raise ConfigError(f"The jackknife needs at least 4 groups, got {K}.")
    one = ~torch.eye(K, dtype=torch.bool)
    first, second = torch.triu_indices(K, K, offset=1)
    found = statistic(torch.cat([torch.ones(1, K, dtype=torch.bool), one, one[first] & one[second]])).double()
    whole, single = float(found[0]), found[1 : K + 1]
    value = K * whole - (K - 1) * float(single.mean()) if value is None else value
    spread = (K - 1) ** 2 * float(single.var()) / K
    pairs = torch.zeros(K, K, dtype=torch.float64)
    pairs[first, second] = pairs[second, first] = whole - single[first] - single[second] + found[K + 1 :]
    rows = pairs.sum(1)
    mean = float(rows.sum()) / (K * (K - 1))
    side = (rows - (K - 1) * mean) / (K - 2)  # the least-squares fit of mean + side_k + side_l to the entries off the diagonal
    rest = (pairs - mean - side[:, None] - side[None]).fill_diagonal_(0.0)
    q2 = float(rest.square().sum()) / (K * (K - 3)) * ((K - 2) ** 2 / 2) ** 2
    method = method or f"jackknife, {K} groups"
    return distance_estimate(value, bias=whole - value, spread=spread, null=2 * q2 / (K * (K - 1)), n=n, freedom=K - 1, method=method)


def group_labels(n: int, groups: int) -> Tensor:
    """Labels 0 ... K-1 of n records in groups of sizes that differ by one at most, in their order dealt like cards."""
    return torch.arange(n) % groups
