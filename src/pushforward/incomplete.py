r"""Models of records with gaps: what is missing is drawn given what is there, in turns with the fit.

With x_k the known entries of a record and x_u the others, the likelihood of what is known is p(x_k; theta) = sum (or integral) over x_u of
p(x_k, x_u; theta), which few families can evaluate. Stochastic EM (Celeux & Diebolt 1985) goes round it:

    fit     theta_t = argmax_theta  sum over records of log p(x_k, x_u^(t-1); theta)
    draw    x_u^(t) ~ p(x_u | x_k; theta_t)

from x_u^(0) drawn by a fit to the rows without gaps, or, where those are fewer than `ENOUGH`, entry by entry from the values that its
column has elsewhere. It closes a share of the distance at each round, and settles about the maximum of the likelihood of what is known
(Nielsen 2000). That is the right thing to fit where values are missing at random: where whether one is missing hangs on what is known of
the record, not on the value itself (Rubin 1976). Rows with gaps are not left out, whose loss would bend every figure there.
"""

import copy
import math
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .data.columns import library_of, names_of, raw_column
from .errors import ConfigError, DataError, Unsupported

if TYPE_CHECKING:
    from .model import Model

__all__ = ["Imputed", "impute"]

ENOUGH = 200
"""Rows without gaps that the first fit is made to by themselves."""


@dataclass(frozen=True)
class Imputed:
    """A model of records with gaps, and the records without them."""

    model: "Model"
    """Of the last round."""
    records: Any
    """The user's records; what was missing is a draw from the model."""
    missing: float
    """Share of entries that were."""
    change: tuple[float, ...]
    """By how much each round moved the means of what was drawn, in standard deviations of their columns (root mean square). When it no
    longer falls, more rounds change nothing but the draws."""


def impute(
    model: "str | Model",
    records: Any,
    *,
    rounds: int = 3,
    seed: int = 0,
    data: dict[str, Any] | None = None,
    drawing: dict[str, Any] | None = None,
    **training: Any,
) -> Imputed:
    """Fit a model to records with gaps, and fill them.

    Raises `DataError` where nothing is missing, or a column has no value at all, and `Unsupported` where the family has no `complete`.

    Parameters
    ----------
    model
        A model that was not fitted, or a name of the catalog; a family that has `complete`, for what is missing in its records: any flow,
        `MADE(order="random", agnostic=True)`, or a Gaussian mixture, which is the quickest.
    records
        A DataFrame with missing values, a float array (n, D) with NaN, or a file of either.
    rounds
        Fits, each followed by a draw; that to the rows without gaps is one of them.
    seed
        Of the fits and the draws.
    data
        Options of `load_data`, such as `{"support": {"age": "real"}}`.
    drawing
        Options of `complete`, such as `{"temperatures": 30}` for rougher and quicker draws from a flow.
    training
        Options of `fit`, for each round.

    References
    ----------
    Celeux & Diebolt 1985, "The SEM algorithm"; Nielsen 2000, "The stochastic EM algorithm: estimation and asymptotic results"; Rubin 1976,
    "Inference and Missing Data".
    """
    from .data import load_data, read_records
    from .models import create

    if rounds < 1:
        raise ConfigError(f"rounds must be at least 1, got {rounds}.")
    model = create(model) if isinstance(model, str) else model
    if not model.supports("complete"):
        raise Unsupported(
            f"{type(model).__name__} cannot draw what is missing given the rest. Fit a gmm, a maf_spline or MADE(order='random', "
            "agnostic=True)."
        )
    if isinstance(records, str) or hasattr(records, "__fspath__"):
        records, _ = read_records(records)
    gaps = _gaps(records)
    filled = _from_own_column(records, gaps, np.random.default_rng(seed))
    means, change, fitted = _means(filled, gaps), [], model
    whole = ~np.any(list(gaps.values()), axis=0)
    for t in range(rounds):
        # Rows without gaps alone, the first time; the only round is of all rows.
        seen = _rows(filled, whole) if t == 0 < rounds - 1 and whole.sum() >= ENOUGH else filled
        fitted = copy.deepcopy(model).fit(load_data(seen, **(data or {})), **{"seed": seed, **training})
        filled = _with(filled, fitted.complete(records, seed=seed + t, **(drawing or {})))
        moved = [(now - before) / sd for (now, sd), (before, _) in zip(_means(filled, gaps), means)]
        change.append(math.sqrt(statistics.fmean(d * d for d in moved)) if moved else 0.0)
        means = _means(filled, gaps)
    return Imputed(fitted, filled, float(np.mean([g.mean() for g in gaps.values()])), tuple(change))


def _gaps(records: Any) -> dict[Any, np.ndarray]:
    """Column -> what is missing in it, bool (n,)."""
    if library_of(records) is not None:
        gaps = {name: raw_column(records, name).missing for name in names_of(records)}
    else:
        x = np.asarray(records)
        if x.ndim != 2 or x.dtype.kind != "f":
            raise DataError(f"impute takes a DataFrame, or floats of shape (n, D) with NaN; got {x.dtype} of shape {x.shape}.")
        gaps = {j: np.isnan(x[:, j]) for j in range(x.shape[1])}
    if not any(g.any() for g in gaps.values()):
        raise DataError("Nothing is missing in these records. Fit the model to them as they are.")
    empty = [name for name, g in gaps.items() if g.all()]
    if empty:
        raise DataError(f"Column {empty[0]!r} has no value at all. Leave it out.")
    return gaps


def _rows(records: Any, keep: np.ndarray) -> Any:
    if library_of(records) == "polars":
        return records.filter(keep)
    return records[keep]


def _from_own_column(records: Any, gaps: dict[Any, np.ndarray], random: np.random.Generator) -> Any:
    """The records with each gap filled by a value that its column has elsewhere. Whole numbers that gaps made floats are integers again."""
    donors = {name: random.choice(np.flatnonzero(~g), int(g.sum())) for name, g in gaps.items() if g.any()}
    if library_of(records) is None:
        x = np.array(records)
        for j, rows in donors.items():
            x[gaps[j], j] = x[rows, j]
        return x
    at = {name: np.arange(len(records)) for name in donors}
    for name, rows in donors.items():
        at[name][gaps[name]] = rows
    if library_of(records) == "polars":
        return records.with_columns(records[name].gather(rows) for name, rows in at.items())
    filled = records.copy()
    for name, rows in at.items():
        column = records[name].iloc[rows].set_axis(records.index)
        whole = column.dtype.kind == "f" and bool((column % 1 == 0).all())
        filled[name] = column.astype("int64") if whole else column
    return filled


def _with(records: Any, drawn: Any) -> Any:
    """The records with those columns that `drawn` has."""
    if library_of(records) is None:
        return drawn
    if library_of(records) == "polars":
        return records.with_columns(drawn[name] for name in drawn.columns)
    filled = records.copy()
    for name in drawn.columns:
        filled[name] = drawn[name].set_axis(records.index)
    return filled


def _means(records: Any, gaps: dict[Any, np.ndarray]) -> list[tuple[float, float]]:
    """Of each column of numbers with gaps: the mean of what fills them, and the standard deviation of the rest (1 where there is none)."""
    found = []
    for name, g in gaps.items():
        values = np.asarray(records)[:, name] if library_of(records) is None else raw_column(records, name).values
        if g.any() and values.dtype.kind in "iuf":
            found.append((float(values[g].mean()), float(values[~g].std()) or 1.0))
    return found
