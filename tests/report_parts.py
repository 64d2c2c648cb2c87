"""Evaluations, rows and comparisons with figures of one's choice, for tests of what is said about them."""

import math
from pathlib import Path

from pushforward.compare import Comparison, Row, rank
from pushforward.data import Data
from pushforward.figures import Evaluation
from pushforward.metrics import Estimate
from pushforward.report import leaderboard


def estimate(value: float, half: float = math.nan) -> Estimate:
    return Estimate(float(value), float(value - half), float(value + half), half / 1.959964, 100, "t")


def figures(kind: str = "exact", half: float = math.nan, **values) -> Evaluation:
    """An evaluation with these figures, each with an interval of `half` on either side."""
    base = {"density": 0.9, "coverage": 0.8, "precision": 0.7, "recall": 0.6, "frechet": 0.5, "samples_per_second": 100.0, "nfe": 1.0}
    real = {"density": 1.0, "coverage": 0.97, "precision": 0.9, "recall": 0.9, "frechet": 0.1}
    found = {**base, "parameters": 5.0, **values}
    return Evaluation(
        "m",
        kind,
        {k: v if isinstance(v, Estimate) else estimate(v, half) for k, v in found.items() if v is not None},
        {k: estimate(v) for k, v in real.items()},
        base_measure="" if kind == "none" else "density",
        features="pixels",
        yardstick="unseen records",
        held_out=10,
        samples=10,
    )


def comparison(rows: list[Row], data: Data, seeds: tuple[int, ...] = (0,)) -> Comparison:
    return Comparison(rank(rows), data, Path("nowhere"), {"minutes": 1.0}, seeds, 3.0)


def row(label: str, evaluation: Evaluation | None, error: str | None = None, seed: int = 0) -> Row:
    return Row(label, label, {"width": 3}, seed, Path("nowhere/run"), f"pushforward fit {label}", f"pf.{label}()", evaluation, error)


def entry(key: str, *runs: Evaluation) -> leaderboard.Entry:
    return leaderboard.Entry(key, f"model {key}", [row(f"model {key}", e, seed=i) for i, e in enumerate(runs)])
