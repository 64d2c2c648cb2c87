"""Comparisons: independent jobs, equal data, an order that says what it ranks, and failures that are rows."""

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from toys import Duel, Gauss, Poisoned

from pushforward import store
from pushforward.compare import Row, compare, default_models, rank
from pushforward.data import Data, load_data
from pushforward.data.spec import BINARY, DataSpec, categories, levels
from pushforward.errors import ConfigError, RunError
from pushforward.figures import Evaluation
from pushforward.jobs import hand_over, take_over
from pushforward.metrics import Estimate
from pushforward.models import catalog


class Killed(Gauss):
    """A model whose process is killed in the middle of training, as the system does when memory runs out."""

    name = "killed"

    def _objectives(self):
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture
def data() -> Data:
    return load_data(np.random.default_rng(0).normal(size=(300, 2)) * [1.0, 3.0])


def figures(row: Row) -> dict:
    assert row.evaluation is not None, row.error
    state = row.evaluation.to_json()
    for name in ("samples_per_second", "training_seconds", "peak_memory"):
        state["figures"].pop(name, None)
    return state


# -- the jobs -------------------------------------------------------------------------------------------------------


def test_in_this_process_a_failure_is_a_row_and_the_others_finish(data, tmp_path, capfd):
    out = tmp_path / "c"
    found = compare([Poisoned(), Duel(), Gauss()], data, steps=12, seeds=(0,), workers=0, out=out, n=60)
    assert [r.label for r in found.rows] == ["gauss", "duel", "poisoned"]
    gauss, duel, poisoned = found.rows
    assert gauss.evaluation.kind == "exact"
    assert duel.evaluation.kind == "none"
    assert poisoned.evaluation is None
    assert poisoned.error.startswith("The loss of nll: term 'poison' is not finite at step 7.")
    assert {p.name for p in out.iterdir()} == {"report.html", "comparison.json", "comparison-plan.json", "runs", "jobs"}
    assert (out / "runs" / "gauss-0" / "evaluation.json").exists()
    assert store.read_json(out / "comparison.json")["rows"][0]["evaluation"] == gauss.evaluation.to_json()
    assert "poisoned-0: failed after" in capfd.readouterr().err


def test_processes_give_the_figures_of_this_process_and_survive_a_killed_one(data, tmp_path):
    here = compare([Gauss()], data, steps=12, workers=0, out=tmp_path / "here", n=60, seeds=(5,), progress=False)
    there = compare([Gauss(), Killed()], data, steps=12, workers=2, out=tmp_path / "there", n=60, seeds=(5,), progress=False)
    ours, killed = there.rows
    assert figures(ours) == figures(here.rows[0])
    assert killed.error.startswith("The process was killed by SIGKILL (is memory short? fewer workers= need less). What it printed is in ")
    asked = json.loads((tmp_path / "there" / "jobs" / "gauss-5.json").read_text())
    assert asked["fit"] == {"steps": 12, "seed": 5, "progress": False}


def test_a_model_that_refuses_the_records_says_so_without_a_process(data, tmp_path):
    pixelcnn = catalog()["pixelcnn"]
    found = compare(["pixelcnn"], data, steps=1, seeds=1, workers=1, out=tmp_path / "c", progress=False)
    assert found.rows[0].error == pixelcnn.accepts(data.spec)
    assert not (tmp_path / "c" / "jobs" / "pixelcnn-0.json").exists()


def test_a_model_that_no_other_process_can_import_is_told_the_way_out(data, tmp_path):
    class Local(Gauss):
        name = "local"

    found = compare([Local()], data, steps=1, seeds=1, workers=1, out=tmp_path / "c", progress=False)
    assert found.rows[0].error == (
        "Local cannot be described to another process: its class lives in the running script. "
        "Compare with workers=0, which stays in this process."
    )


def test_all_jobs_see_the_records_that_were_given(tmp_path):
    ring = load_data("ring", n=400)
    labelled = load_data("digits")
    for data in (ring, labelled):
        folder = tmp_path / str(data.spec.kind)
        folder.mkdir()
        hand_over(data, folder)
        again = take_over(folder)
        assert again.fingerprint() == data.fingerprint()
        assert again.schema == data.schema
        assert again.describe() == data.describe()
        for split in ("train", "validation", "test"):
            assert torch.equal(getattr(again, split).x, getattr(data, split).x)
    assert torch.equal(again.test.condition, labelled.test.condition)
    hand_over(ring, tmp_path)
    assert torch.equal(take_over(tmp_path).truth.means, ring.truth.means)


# -- what is compared -----------------------------------------------------------------------------------------------


def test_six_families_by_default_each_of_which_accepts_the_records():
    images = default_models(DataSpec("image", (1, 8, 8), (levels(17),)))
    points = default_models(DataSpec("points", (2,)))
    table = default_models(DataSpec("table", (3,), (levels(5), categories(3), BINARY)))
    assert {"vae", "gan", "pixelcnn", "ddpm", "realnvp"} <= set(images)
    assert {"vae", "gan", "made", "ddpm", "spline"} <= set(points)
    for chosen, spec in ((images, DataSpec("image", (1, 8, 8), (levels(17),))), (points, DataSpec("points", (2,)))):
        assert all(catalog()[name].accepts(spec) is None for name in chosen)
        assert len(chosen) <= 6
    assert "pixelcnn" not in [*points, *table]


def test_labels_and_commands_tell_models_apart(data, tmp_path):
    found = compare(
        [Gauss(), Gauss(), Gauss(width=3)], data, steps=2, seeds=1, workers=0, out=tmp_path / "c", n=20, progress=False, lr=0.01
    )
    assert {r.label for r in found.rows} == {"gauss", "gauss (2)", "gauss width=3"}
    row = next(r for r in found.rows if r.label == "gauss width=3")
    assert row.command == "pushforward fit gauss --width 3 --data DATA --steps 2 --lr 0.01 --seed 0 --out runs/gauss-width=3-0"
    assert row.python == "pf.Gauss(width=3).fit(pf.load_data(DATA), steps=2, lr=0.01, seed=0)"


def test_commands_quote_what_a_shell_would_split(tmp_path):
    file = tmp_path / "my data.npy"
    np.save(file, np.random.default_rng(0).normal(size=(50, 2)))
    found = compare([Gauss()], load_data(str(file)), steps=1, seeds=1, workers=0, out=tmp_path / "c", n=20, batch_size=8, progress=False)
    assert f"--data '{file}'" in found.rows[0].command


# -- the order ------------------------------------------------------------------------------------------------------


def row(label: str, kind: str, log_prob: float | None, seed: int = 0, frechet: float = 1.0, error: str | None = None) -> Row:
    found = {"log_prob": log_prob, "frechet": frechet}
    evaluation = None if error else Evaluation(label, kind, {k: Estimate(float(v)) for k, v in found.items() if v is not None})
    return Row(label, label, {}, seed, Path(label), "", "", evaluation, error)


def test_rank_orders_likelihoods_then_samples_then_failures():
    rows = [
        row("dead", "none", None, error="no"),
        row("gan far", "none", None, frechet=9.0),
        row("gan near", "none", None, frechet=2.0),
        row("low", "exact", -10.0),
        row("high", "bound", -1.0, seed=1),
        row("high", "bound", -3.0, seed=0),
        row("middle", "exact", -2.5),
    ]
    assert [(r.label, r.seed) for r in rank(rows)] == [
        ("high", 0),
        ("high", 1),
        ("middle", 0),
        ("low", 0),
        ("gan near", 0),
        ("gan far", 0),
        ("dead", 0),
    ]


# -- misuse ---------------------------------------------------------------------------------------------------------


def test_nothing_is_trained_when_the_question_is_wrong(data, tmp_path):
    out = tmp_path / "c"
    with pytest.raises(ConfigError, match=r"'vea'\. Did you mean 'vae'\?"):
        compare(["vea"], data, out=out)
    with pytest.raises(ConfigError, match=r"fit has no setting 'batchsize'\. Did you mean 'batch_size'\?"):
        compare([Gauss()], data, out=out, batchsize=3)
    with pytest.raises(ConfigError, match=r"compare takes seeds=\(0, 1, \.\.\.\)"):
        compare([Gauss()], data, out=out, seed=3)
    with pytest.raises(ConfigError, match=r"condition=True needs labels, and this data set has none"):
        compare([Gauss()], data, out=out, condition=True)
    with pytest.raises(ConfigError, match=r"models holds a int; give names of the catalog"):
        compare([3], data, out=out)
    with pytest.raises(ConfigError, match="No model to compare"):
        compare([], data, out=out)
    assert not out.exists()


def test_a_folder_that_holds_something_is_left_alone(data, tmp_path):
    (tmp_path / "precious.txt").write_text("keep")
    with pytest.raises(RunError, match=r"exists and is not empty\. Choose another out= \(nothing was changed\)"):
        compare([Gauss()], data, out=tmp_path, steps=1)
    assert [p.name for p in tmp_path.iterdir()] == ["precious.txt"]
