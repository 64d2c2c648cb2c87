"""`impute`: means that rows without gaps would bend are found; every form of record; what is known is not touched."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from test_cli import cli

import pushforward as pf

TRAINING = {"progress": False, "alarms": False}
ROUGH = {"temperatures": 2, "chains": 1, "steps": 1}
QUICK = {**TRAINING, "steps": 3, "batch_size": 16}


def test_what_is_missing_at_random_bends_nothing():
    """x ~ N(0, 1), y = 0.8 x + 0.6 e. y is missing with probability 0.8 where x > 0 and 0.1 elsewhere: E[y | seen] =
    0.8 (0.1 - 0.45) E|x| / 0.55 = -0.41, while E[y] = 0. With n = 1,200 and 540 gaps the mean of all of y, drawn ones included, has a
    standard error below sqrt(1 / 1200 + 0.36 / 660) = 0.037, and p(y | x) where x > 0 is known from 120 rows: 0.6 / sqrt(120) = 0.055 in
    half of them. 0.15 is allowed, for the mean and for the covariance, which is 0.8 (0.56 where gaps are filled from the column)."""
    random = np.random.default_rng(0)
    x = random.normal(size=1200)
    y = 0.8 * x + 0.6 * random.normal(size=1200)
    gone = random.random(1200) < np.where(x > 0, 0.8, 0.1)
    records = np.stack([x, np.where(gone, np.nan, y)], 1)
    assert abs(np.nanmean(records[:, 1]) + 0.41) < 0.1
    settings = {"steps": 150, "lr": 1e-2, "schedule": "cosine", "batch_size": 256, "drawing": {"temperatures": 20, "chains": 2}}
    found = pf.impute(pf.RealNVP(layers=2, hidden=(16,)), records, rounds=2, seed=0, **settings, **TRAINING)
    filled = found.records
    assert np.array_equal(filled[~gone], records[~gone])
    assert abs(filled[:, 1].mean()) < 0.15
    assert abs(np.cov(filled.T)[0, 1] - 0.8) < 0.15
    assert found.missing == gone.mean() / 2
    # The first round moves the drawn ones from -0.41 to about 0.5 (E[y | x > 0] = 0.64), the second hardly.
    assert found.change[0] > 0.5 > 5 * found.change[1]


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_tables_keep_their_columns(library: str):
    frames = pytest.importorskip(library)
    random = np.random.default_rng(1)
    n = 60
    columns = {
        "age": [None if i % 7 == 0 else int(v) for i, v in enumerate(random.integers(20, 60, n))],
        "pay": [None if i % 5 == 0 else float(v) for i, v in enumerate(random.normal(size=n))],
        "kind": [None if i % 9 == 0 else str(v) for i, v in enumerate(random.choice(["a", "b"], n))],
        "whole": random.normal(size=n),
    }
    frame = frames.DataFrame(columns)
    before = frame.copy() if library == "pandas" else frame.clone()
    found = pf.impute(pf.MAF(layers=1, hidden=(8,)), frame, rounds=1, drawing=ROUGH, **QUICK)
    assert before.equals(frame)  # the user's own is left alone
    filled = found.records
    assert list(filled.columns) == list(columns)
    ages = filled["age"].to_numpy()
    assert ages.dtype.kind == "i"
    for name, values in columns.items():
        for own, given in zip(filled[name].to_list() if library == "polars" else filled[name].tolist(), values):
            assert own == own  # a number, not NaN
            assert own == given or (given is None and own is not None)
    assert set(filled["kind"]) == {"a", "b"}


def test_errors_that_say_what_to_do():
    whole, holes = np.zeros((30, 2)), np.zeros((30, 2))
    holes[0, 0] = np.nan
    with pytest.raises(pf.DataError, match="Nothing is missing"):
        pf.impute("maf", whole, **QUICK)
    with pytest.raises(pf.Unsupported, match="maf_spline"):
        pf.impute("vae", holes, **QUICK)
    with pytest.raises(pf.DataError, match="Column 1 has no value at all"):
        pf.impute("maf", np.stack([whole[:, 0], np.full(30, np.nan)], 1), **QUICK)
    with pytest.raises(pf.DataError, match="float"):
        pf.impute("maf", np.zeros((30, 2), int), **QUICK)
    with pytest.raises(pf.ConfigError, match="rounds must be at least 1"):
        pf.impute("maf", holes, rounds=0, **QUICK)


def test_the_command(tmp_path: Path):
    random = np.random.default_rng(2)
    frame = pd.DataFrame({"u": random.normal(size=50), "v": random.normal(size=50), "side": random.choice(["l", "r"], 50)})
    frame.loc[:9, "v"] = np.nan
    frame.to_csv(tmp_path / "gaps.csv", index=False)
    out = tmp_path / "filled.csv"
    flags = ("--rounds", "2", "--layers", "1", "--hidden", "8", "--steps", "3", "--batch-size", "16", "--no-progress", "--no-alarms")
    said = cli("impute", "maf", str(tmp_path / "gaps.csv"), *flags, "--out", str(out), "--run", str(tmp_path / "run"), "--seed", "1").output
    filled = pd.read_csv(out)
    known = frame.notna()
    assert filled.notna().all().all()
    assert filled.where(known).equals(pd.read_csv(tmp_path / "gaps.csv").where(known))
    assert "6.7% of entries were missing" in said
    assert "50 records" in cli("complete", str(tmp_path / "run"), str(tmp_path / "gaps.csv"), "--out", str(tmp_path / "again.csv")).output
