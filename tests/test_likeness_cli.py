"""`pushforward novelty` and `pushforward background`: what they write and say is what the library gives."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import pushforward as pf
from pushforward.cli import app


def cli(*args: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, list(args))
    assert result.exit_code == code, f"{args}: {result.output}\n{result.exception!r}"
    return result.output


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A flow of two columns of numbers, read from a .npy file."""
    folder = tmp_path_factory.mktemp("likeness")
    np.save(folder / "points.npy", np.random.default_rng(0).normal(3, 2, size=(400, 2)))
    np.save(folder / "far.npy", np.random.default_rng(1).normal(30, 1, size=(7, 2)))
    flags = ["--steps", "4", "--batch-size", "16", "--layers", "1", "--hidden", "4", "--no-progress"]
    cli("fit", "realnvp", "--data", str(folder / "points.npy"), *flags, "--out", str(folder / "run"))
    return folder / "run"


def test_scores_in_files_and_words(run: Path, tmp_path: Path):
    far = str(run.parent / "far.npy")
    shown = cli("novelty", str(run), far, "--method", "likelihood", "--out", str(tmp_path / "s.csv"))
    rows = list(csv.DictReader((tmp_path / "s.csv").read_text().splitlines()))
    model, data = pf.load(run), pf.load_data(run.parent / "points.npy")
    expected = pf.novelty(model, np.load(far), method="likelihood", reference=data)
    np.testing.assert_allclose([float(r["score"]) for r in rows], expected.scores, rtol=1e-5)
    np.testing.assert_allclose([float(r["p_value"]) for r in rows], 1 / 41)  # 40 test records, none as far
    assert "7 records of" in shown
    assert "It misses records that are simpler than the training data" in shown
    assert "AUROC against held-out records: 1.000" in shown
    shown = cli("novelty", str(run), far, "--batch", "3", "--out", str(tmp_path / "s.json"))
    state = json.loads((tmp_path / "s.json").read_text())
    assert (state["method"], state["batch"], len(state["scores"])) == ("typicality", 3, 2)
    assert "1 records at the end form no whole batch" in shown
    assert "is there already" in cli("novelty", str(run), far, "--out", str(tmp_path / "s.json"), code=1)


def test_background_is_the_same_model_of_perturbed_records(run: Path):
    far = str(run.parent / "far.npy")
    refused = cli("novelty", str(run), far, "--method", "likelihood_ratio", code=2)
    assert "`pushforward background RUN`" in refused
    shown = cli("background", str(run), "--rate", "0.5", "--steps", "3", "--no-progress")
    other = f"{run}-background"
    assert f"--background {other}" in shown
    config = json.loads((Path(other) / "config.json").read_text())
    assert config["model"] == "realnvp"
    assert config["config"]["layers"] == 1
    assert config["training"]["steps"] == 3
    shown = cli("novelty", str(run), far, "--method", "likelihood_ratio", "--background", other)
    assert "log p_0(x) - log p(x)" in shown


def test_runs_of_records_in_memory_need_a_reference(run: Path, tmp_path: Path):
    far = str(run.parent / "far.npy")
    memory = pf.RealNVP(layers=1, hidden=(4,)).fit(np.load(run.parent / "points.npy"), steps=2, progress=False, out=tmp_path / "run")
    assert memory.density == "exact"
    assert "Or give --reference FILE" in cli("novelty", str(tmp_path / "run"), far, code=1)
    assert "No p-values: The run was trained on records given in memory" in cli(
        "novelty", str(tmp_path / "run"), far, "--method", "likelihood"
    )
    shown = cli("novelty", str(tmp_path / "run"), far, "--reference", str(run.parent / "points.npy"))
    assert "p-value at most 0.05: 100.0% of records" in shown
    assert "Did you mean 'typicality'" in cli("novelty", str(run), far, "--method", "typical", code=2)
