"""A comparison that is stopped, however roughly, goes on to the figures of one that was not; on Ray as in processes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from toys import Duel, Gauss

from pushforward import store
from pushforward.compare import Comparison, Row, compare
from pushforward.data import Data, load_data
from pushforward.errors import ConfigError, RunError
from pushforward.jobs import hand_over
from pushforward.jobs.cluster import work
from pushforward.jobs.handover import hand_over_spaces, take_over_spaces

SCRIPT = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs inherit that it is ignored
import numpy as np
from pushforward.compare import compare
from toys import Duel, Gauss
data = np.random.default_rng(0).normal(size=(300, 2))
new = dict(models=[Gauss(), Duel()], data=data, steps=1500, seeds=1, n=20, checkpoint_every=0.01)
compare(out=sys.argv[1], workers=2, **({"resume": True} if sys.argv[2] == "resume" else new))
"""
CLOCKED = ("samples_per_second", "training_seconds", "peak_memory")


def figures(row: Row) -> dict:
    """All that an evaluation says and no clock measures."""
    assert row.evaluation is not None, row.error
    state = row.evaluation.to_json()
    for name in CLOCKED:
        state.pop(name, None)
        state.get("figures", {}).pop(name, None)
    return state


@pytest.fixture
def data() -> Data:
    return load_data(np.random.default_rng(0).normal(size=(300, 2)))


def started(out: Path, how: str) -> subprocess.Popen:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path]), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, "-c", SCRIPT, str(out), how], env=env, stderr=subprocess.PIPE, text=True)


def wait_for(condition, seconds: float = 60.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


def at_work(out: Path) -> list[str]:
    """Processes whose command names the folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes()
        except OSError:
            continue
        if str(out).encode() in words:
            found.append(process.name)
    return found


@pytest.mark.slow
def test_killed_and_interrupted_comparisons_go_on_to_the_same_figures(data, tmp_path):
    out = tmp_path / "c"
    whole = compare([Gauss(), Duel()], data, steps=1500, seeds=1, n=20, workers=0, out=tmp_path / "whole", progress=False)

    first = started(out, "new")
    wait_for(lambda: list(out.glob("runs/*/checkpoint/last.safetensors")))
    first.kill()  # SIGKILL: the comparison has no chance to say good-bye
    first.communicate()
    # the jobs notice, save a checkpoint and end by themselves
    wait_for(lambda: not at_work(out), 30)
    assert "evaluation" not in (out / "comparison-plan.json").read_text()
    found = Comparison.load(out)  # what is there can be looked at
    assert {r.error for r in found.rows if r.evaluation is None} <= {"It had not finished when the comparison was stopped."}

    second = started(out, "resume")
    wait_for(lambda: len(at_work(out)) > 1 or second.poll() is not None)
    second.send_signal(signal.SIGINT)
    _, said = second.communicate()
    assert second.returncode != 0
    assert "Go on with: pushforward compare --resume --out " in said, said
    assert (out / "report.html").exists()
    wait_for(lambda: not at_work(out), 30)  # a job that was just being started notices by itself

    third = started(out, "resume")
    _, said = third.communicate()
    assert third.returncode == 0, said
    done = Comparison.load(out)
    assert [figures(r) for r in done.rows] == [figures(r) for r in whole.rows]
    # history holds every step once
    for row in done.rows:
        steps = [h["step"] for h in store.Run.open(row.run).history() if "validation/loss" in h]
        assert steps == sorted(set(steps))


def test_resume_trains_what_is_missing_and_nothing_else(data, tmp_path, monkeypatch):
    out = tmp_path / "c"
    whole = compare([Gauss(), Duel()], data, steps=40, seeds=2, n=20, workers=0, out=out, progress=False)
    before = {p: p.read_bytes() for p in out.glob("runs/*/model.safetensors")}
    assert len(before) == 4
    stamps = {p: p.stat().st_mtime_ns for p in before}
    (out / "jobs" / "gauss-0.answer.json").unlink()  # trained, not evaluated
    (out / "jobs" / "duel-1.answer.json").unlink()  # killed in training
    (out / "runs" / "duel-1" / "model.safetensors").unlink()
    (out / "jobs" / "duel-0.answer.json").unlink()  # killed before the first checkpoint
    (out / "runs" / "duel-0" / "model.safetensors").unlink()
    (out / "runs" / "duel-0" / "checkpoint" / "last.safetensors").unlink()
    anew = []
    fit = Duel.fit
    monkeypatch.setattr(Duel, "fit", lambda self, *args, **given: anew.append(given["out"].name) or fit(self, *args, **given))
    again = compare(out=out, resume=True, workers=0, progress=False)
    assert anew == ["duel-0"]  # the others went on
    assert [figures(r) for r in again.rows] == [figures(r) for r in whole.rows]
    assert {p: p.read_bytes() for p in before} == before
    kept = [p.parent.name for p in before if p.stat().st_mtime_ns == stamps[p]]
    assert sorted(kept) == ["gauss-0", "gauss-1"]


def test_feature_spaces_are_made_once_for_all_jobs(data, tmp_path, monkeypatch):
    from pushforward.jobs import handover

    made = []
    real = handover.spaces
    monkeypatch.setattr(handover, "spaces", lambda *args, **given: made.append(given) or real(*args, **given))
    out = tmp_path / "c"
    found = compare([Gauss(), Duel()], data, steps=2, seeds=2, n=20, features=["pca", "raw"], workers=0, out=out, progress=False)
    assert made == [{"which": ["pca", "raw"], "inception": None}]
    assert list(take_over_spaces(out / "jobs")) == ["pca", "raw"]
    for row in found.rows:
        assert "principal components" in row.evaluation.features
        assert len(row.evaluation.spaces) == 1
    with pytest.raises(ConfigError, match=r"features: \['pca', 'raw'\] then, \['raw'\] now"):
        compare(out=out, resume=True, seeds=2, features=["raw"])


def test_a_damaged_checkpoint_means_beginning_anew(data, tmp_path):
    out = tmp_path / "c"
    whole = compare([Gauss()], data, steps=20, seeds=1, n=20, workers=0, out=out, progress=False)
    (out / "jobs" / "gauss-0.answer.json").unlink()
    (out / "runs" / "gauss-0" / "model.safetensors").unlink()
    (out / "runs" / "gauss-0" / "checkpoint" / "last.safetensors").write_bytes(b"torn")
    again = compare(out=out, resume=True, workers=0, progress=False)
    assert figures(again.rows[0]) == figures(whole.rows[0])


def test_failed_jobs_are_tried_again(data, tmp_path, monkeypatch):
    monkeypatch.setattr(Gauss, "_objectives", lambda self: 1 / 0)
    out = tmp_path / "c"
    assert compare([Gauss()], data, steps=5, seeds=1, n=20, workers=0, out=out, progress=False).rows[0].error == (
        "ZeroDivisionError: division by zero"
    )
    monkeypatch.undo()
    assert compare(out=out, resume=True, workers=0, progress=False).rows[0].error is None


def test_another_question_is_refused_and_the_difference_named(data, tmp_path):
    out = tmp_path / "c"
    compare([Gauss()], data, steps=5, seeds=(0, 4), n=20, workers=0, out=out, progress=False, lr=0.1)
    other = load_data(np.random.default_rng(1).normal(size=(300, 2)))
    for given, named in (
        ({"models": [Gauss(), Duel()], "seeds": (0, 4)}, r"models: gauss then, gauss, duel now"),
        ({"models": [Gauss(width=2)], "seeds": (0, 4)}, r"models: gauss then, gauss width=2 now"),
        ({"steps": 6, "lr": 0.1, "seeds": (0, 4)}, r"steps: 5 then, 6 now"),
        ({"steps": 5, "seeds": (0, 4)}, r"lr: 0\.1 then, not given now"),
        ({"minutes": 1, "lr": 0.1, "seeds": (0, 4)}, r"minutes: not given then, 1 now; steps: 5 then, not given now"),
        ({"data": other, "seeds": (0, 4)}, r"data: fingerprint \w{12} then, \w{12} now"),
        ({"seeds": 2}, r"seeds: \[0, 4\] then, \(0, 1\) now"),
        ({"n": 7, "seeds": (0, 4)}, r"n: 20 then, 7 now"),
    ):
        with pytest.raises(ConfigError, match=rf"holds the answer to another question \({named}\)\. Leave out what differs"):
            compare(**given, out=out, resume=True, workers=0, progress=False)
    # the same question in full is no other
    compare([Gauss()], data, steps=5, seeds=(0, 4), n=20, lr=0.1, out=out, resume=True, workers=0, progress=False)


def test_misuse_of_resume_says_the_way_out(data, tmp_path):
    with pytest.raises(ConfigError, match="resume=True needs out="):
        compare(resume=True)
    with pytest.raises(RunError, match="holds no comparison that could go on"):
        compare(out=tmp_path, resume=True)
    out = tmp_path / "c"
    compare([Gauss()], data, steps=2, seeds=1, n=20, workers=0, out=out, progress=False)
    with pytest.raises(RunError, match=r"holds a comparison\. Go on with it: pushforward compare --resume --out \S+c \(in Python"):
        compare([Gauss()], data, steps=2, out=out)
    for seeds in (0, (), (1, 1), (-1,), ("a",)):
        with pytest.raises(ConfigError, match="names no seeds. Give how many"):
            compare([Gauss()], data, steps=2, seeds=seeds, out=tmp_path / "d")


def test_a_number_of_seeds_counts_from_zero_and_a_list_is_itself(data, tmp_path):
    def seeds(**given) -> list[int]:
        out = tmp_path / str(len(list(tmp_path.iterdir())))
        return [r.seed for r in compare([Gauss()], data, steps=1, n=20, workers=0, out=out, progress=False, **given).rows]

    assert seeds() == [0, 1, 2]
    assert seeds(seeds=2) == [0, 1]
    assert seeds(seeds=(7,)) == [7]


def test_the_command_line_goes_on_without_the_question(tmp_path, capfd):
    from pushforward.cli import app

    def run(*words: str) -> int:
        with pytest.raises(SystemExit) as done:
            app.main(["compare", *words, "--out", str(tmp_path / "c"), "--workers", "0"])
        return done.value.code

    assert run("--data", "ring", "--models", "gmm", "--seeds", "2", "--n", "50") == 0
    assert run("--data", "ring", "--models", "gmm") == 1
    assert "Go on with it: pushforward compare --resume --out " in capfd.readouterr().err
    assert run("--resume", "--seeds", "4") == 2
    assert "seeds: [0, 1] then, (0, 1, 2, 3) now" in capfd.readouterr().err
    assert run("--resume") == 0
    assert "2 of 2 jobs were finished before." in capfd.readouterr().err


def test_loading_gives_what_was_compared(data, tmp_path):
    out = tmp_path / "c"
    made = compare([Gauss()], data, steps=2, seeds=2, n=20, workers=0, out=out, progress=False)
    again = Comparison.load(out)
    assert again.to_json() == made.to_json()
    assert [r.run for r in again.rows] == [r.run for r in made.rows]


def test_a_run_keeps_its_alarms_when_another_process_evaluates_it(data, tmp_path):
    out = tmp_path / "c"
    compare([Gauss()], data, steps=2, seeds=1, n=20, workers=0, out=out, progress=False)
    (out / "jobs" / "gauss-0.answer.json").unlink()
    said = {"step": 1, "alarm": "mode collapse", "says": "half is missing", "try": "less"}
    store.Run.open(out / "runs" / "gauss-0").log([said, {**said, "alarm": "duplicates"}, {**said, "alarm": "duplicates", "cleared": True}])
    again = compare(out=out, resume=True, workers=0, progress=False)
    assert again.rows[0].evaluation.alarms == [{"kind": "mode collapse", "step": 1, "says": "half is missing", "remedy": "less"}]


# -- Ray ------------------------------------------------------------------------------------------------------------

RAY = """
import sys
import numpy as np
from pushforward.compare import compare
from test_compare import Killed
from toys import Duel, Gauss
data = np.random.default_rng(0).normal(size=(300, 2))
found = compare([Gauss(), Killed()], data, steps=40, seeds=1, n=20, out=sys.argv[1], address="local", workers=2, progress=False)
print([(r.label, r.error) for r in found.rows])
"""


@pytest.mark.slow
def test_ray_gives_the_figures_of_this_process_and_a_lost_worker_is_a_row(data, tmp_path):
    pytest.importorskip("ray")
    here = compare([Gauss()], data, steps=40, seeds=1, n=20, workers=0, out=tmp_path / "here", progress=False)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    done = subprocess.run([sys.executable, "-c", RAY, str(tmp_path / "c")], env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    there = Comparison.load(tmp_path / "c")
    assert figures(there.rows[0]) == figures(here.rows[0])
    assert there.rows[1].error.startswith("Its Ray worker was lost (WorkerCrashedError: "), there.rows[1].error


def test_a_worker_without_the_folder_sends_the_run_back(data, tmp_path):
    here = compare([Gauss()], data, steps=20, seeds=1, n=20, workers=0, out=tmp_path / "here", progress=False)
    (tmp_path / "jobs").mkdir()
    hand_over(data, tmp_path / "jobs")
    hand_over_spaces(data, tmp_path / "jobs")
    asked = {
        "model": Gauss().describe(),
        "class": "toys:Gauss",
        "run": "/not/here/runs/gauss-0",
        "fit": {"steps": 20, "seed": 0, "progress": False},
        "condition": False,
        "measure": {"n": 20},
        "threads": 1,
    }
    records, spaces = ((tmp_path / "jobs" / f"{name}.safetensors").read_bytes() for name in ("data", "spaces"))
    answer, files = work(json.dumps(asked), records, spaces, "/not/here", "token")
    assert {"config.json", "data.json", "model.safetensors", "evaluation.json", "history.jsonl", "samples.safetensors"} <= set(files)
    found = json.loads(answer)
    assert found["error"] is None
    assert found["peak_memory"] > 1e7
    assert found["evaluation"]["figures"]["peak_memory"]["value"] > 1e7
    assert files["model.safetensors"] == (here.rows[0].run / "model.safetensors").read_bytes()


def test_address_without_ray_says_what_to_install(data, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"address= needs Ray, which is not installed: pip install 'pushforward\[ray\]'"):
        compare([Gauss()], data, steps=1, out=tmp_path / "c", address="local", progress=False)
