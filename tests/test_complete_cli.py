"""`pushforward complete`: gaps of tables, NaN of arrays, masks of images, ends of lines; what is known comes back to the last digit."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from test_cli import cli

FEW = ("--steps", "3", "--batch-size", "16", "--no-progress", "--no-alarms")
RANDOM = np.random.default_rng(0)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("complete")
    x = RANDOM.normal(size=80)
    frame = pd.DataFrame({"a": x, "b": 10 * x + RANDOM.normal(size=80), "kind": RANDOM.choice(["red", "green"], 80)})
    frame.to_csv(folder / "whole.csv", index=False)
    frame.loc[:9, "b"] = np.nan
    frame.loc[10:14, "kind"] = None
    frame.head(20).to_csv(folder / "gaps.csv", index=False)
    cli("fit", "maf", "--data", str(folder / "whole.csv"), "--layers", "2", "--hidden", "8", *FEW, "--out", str(folder / "run"))
    return folder


QUICK = ("--temperatures", "3", "--chains", "2", "--steps", "1")


def test_gaps_are_filled_and_nothing_else_is_touched(table: Path):
    out = table / "filled.csv"
    cli("complete", str(table / "run"), str(table / "gaps.csv"), "--seed", "1", *QUICK, "--out", str(out))
    gaps, filled = pd.read_csv(table / "gaps.csv"), pd.read_csv(out)
    known = gaps.notna()
    assert filled.notna().all().all()
    assert known.sum().sum() == 45
    assert filled.where(known).equals(gaps.where(known))  # equal floats, not close ones
    assert set(filled["kind"]) <= {"red", "green"}
    again = cli("complete", str(table / "run"), str(table / "gaps.csv"), "--seed", "1", *QUICK)
    assert again.stdout.splitlines()[1].split(",")[0] == str(gaps["a"][0])
    other = cli("complete", str(table / "run"), str(table / "gaps.csv"), "--seed", "2", *QUICK)
    assert other.stdout != again.stdout


def test_named_columns_alone_are_known(table: Path):
    shown = cli("complete", str(table / "run"), str(table / "whole.csv"), "--known", "a,kind", "--seed", "1", *QUICK).stdout
    whole = pd.read_csv(table / "whole.csv")
    rows = [row.split(",") for row in shown.splitlines()]
    assert rows[0] == ["a", "b", "kind"]
    assert [r[0] for r in rows[1:]] == [str(v) for v in whole["a"]]
    assert not any(r[1] == str(v) for r, v in zip(rows[1:], whole["b"]))
    wrong = cli("complete", str(table / "run"), str(table / "whole.csv"), "--known", "a,nix", code=1).output
    assert "nix" in wrong
    assert "'kind'" in wrong


def test_masks_of_images(tmp_path: Path):
    from PIL import Image

    images = RANDOM.integers(0, 2, (40, 6, 6), dtype=np.uint8)
    np.save(tmp_path / "images.npy", images)
    flags = ("--hidden", "8", "--order", "random", "--agnostic")
    cli("fit", "made", "--data", str(tmp_path / "images.npy"), *flags, *FEW, "--out", str(tmp_path / "run"))
    mask = np.zeros((6, 6), np.uint8)
    mask[1:4, 2:] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    np.save(tmp_path / "mask.npy", mask > 0)
    found = []
    for name in ("mask.png", "mask.npy"):
        out = tmp_path / f"{name}-out.npy"
        run = ("complete", str(tmp_path / "run"), str(tmp_path / "images.npy"), "--known", str(tmp_path / name), "--seed", "3")
        cli(*run, "--out", str(out))
        found.append(np.load(out))
    assert np.array_equal(*found)
    assert np.array_equal(found[0][:, mask > 0], images[:, mask > 0])
    assert (found[0] != images).any()
    np.save(tmp_path / "small.npy", np.ones((3, 3), bool))
    wrong = cli(*run[:4], str(tmp_path / "small.npy"), code=1).output
    assert "(3, 3)" in wrong
    assert "(6, 6)" in wrong
    (tmp_path / "torn.npy").write_bytes(b"no array")
    assert "cannot be read as a mask" in cli(*run[:4], str(tmp_path / "torn.npy"), code=1).output


def test_nan_in_points_and_a_condition(tmp_path: Path):
    x = RANDOM.normal(size=(60, 3))
    x[:, 2] = x[:, 0] > 0
    frame = pd.DataFrame(x, columns=["u", "v", "side"])
    frame["side"] = frame["side"].map({0.0: "left", 1.0: "right"})
    frame.to_csv(tmp_path / "t.csv", index=False)
    run = str(tmp_path / "run")
    data = ("--data", str(tmp_path / "t.csv"), "--label", "side", "--condition")
    cli("fit", "maf", *data, "--layers", "2", "--hidden", "8", *FEW, "--out", run)
    frame.loc[:4, "u"] = np.nan
    frame.to_csv(tmp_path / "gaps.csv", index=False)
    by_table = cli("complete", run, str(tmp_path / "gaps.csv"), "--seed", "1", *QUICK).stdout
    assert len(by_table.splitlines()) == 61
    named = cli("complete", run, str(tmp_path / "gaps.csv"), "--seed", "1", "--condition", "left", *QUICK).stdout
    assert named != by_table
    np.save(tmp_path / "p.npy", RANDOM.normal(size=(50, 2)))
    cli("fit", "maf", "--data", str(tmp_path / "p.npy"), "--layers", "2", "--hidden", "8", *FEW, "--out", str(tmp_path / "points"))
    holes = np.array([[0.1234567890123, np.nan], [np.nan, 2.5]])
    np.save(tmp_path / "holes.npy", holes)
    cli("complete", str(tmp_path / "points"), str(tmp_path / "holes.npy"), *QUICK, "--out", str(tmp_path / "full.npy"))
    full = np.load(tmp_path / "full.npy")
    assert full[0, 0] == holes[0, 0]
    assert full[1, 1] == 2.5
    assert np.isfinite(full).all()


def test_beginnings_of_lines(tmp_path: Path):
    (tmp_path / "names.txt").write_text("\n".join(["anna", "hanna", "nan", "ana"] * 12), encoding="utf-8")
    run = str(tmp_path / "run")
    flags = ("--width", "8", "--layers", "1", "--heads", "1")
    cli("fit", "transformer", "--data", str(tmp_path / "names.txt"), "--lines", *flags, *FEW, "--out", run)
    (tmp_path / "begun.txt").write_text("an\nh", encoding="utf-8")
    shown = cli("complete", run, str(tmp_path / "begun.txt"), "--seed", "1").stdout.split("\n----\n")
    assert len(shown) == 2
    assert shown[0].startswith("an")
    assert shown[1].startswith("h")
