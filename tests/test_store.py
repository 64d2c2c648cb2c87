"""Run folders: what a person meets when one is damaged, too new, in the way, or no run folder at all."""

import errno
import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from toys import Gauss

import pushforward as pf
from pushforward import store
from pushforward.data import load_data


@pytest.fixture
def run(tmp_path: Path, toys_registered: None) -> Path:
    data = load_data(np.random.default_rng(0).normal(size=(200, 3)).astype(np.float32))
    Gauss().fit(data, steps=5, batch_size=32, progress=False, out=tmp_path / "run")
    return tmp_path / "run"


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_reloads(run: Path) -> None:
    a, b = pf.load(run), pf.load(run)
    np.testing.assert_array_equal(a.sample(4, seed=0), b.sample(4, seed=0))
    assert a.describe() == b.describe()


@pytest.mark.parametrize("name", ["config.json", "data.json", "model.safetensors"])
def test_every_flipped_byte_is_found(run: Path, name: str) -> None:
    """A byte changed anywhere is either reported with the file's name or changes nothing (white space in JSON)."""
    path, untouched = run / name, pf.load(run)
    whole = path.read_bytes()
    for at in range(0, len(whole), max(1, len(whole) // 60)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        try:
            model = pf.load(run)
        except pf.RunError as error:
            assert name in str(error), str(error)
        else:
            assert name.endswith("json")
            assert model.describe() == untouched.describe()
            assert model.schema.to_json() == untouched.schema.to_json()
    path.write_bytes(whole)


@pytest.mark.parametrize("name", ["config.json", "data.json", "model.safetensors"])
def test_missing_file(run: Path, name: str) -> None:
    (run / name).unlink()
    with pytest.raises(pf.RunError, match=f"{name} is missing"):
        pf.load(run)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_truncated_file(run: Path, name: str) -> None:
    (run / name).write_bytes((run / name).read_bytes()[:-40])
    with pytest.raises(pf.RunError, match=f"{name} is damaged"):
        pf.load(run)


def test_newer_format(run: Path) -> None:
    value = json.loads((run / "config.json").read_text()) | {"format": store.FORMAT + 1}
    (run / "config.json").write_text(json.dumps(value))
    with pytest.raises(pf.RunError, match=r"format 2; this version of pushforward reads up to 1. Upgrade"):
        pf.load(run)


class Bomb:
    def __reduce__(self):
        return (os.system, ("touch exploded",))


def test_a_pickle_is_never_opened(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    bomb = tmp_path / "model.pt"
    bomb.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(pf.RunError, match="pickles and .pt files can execute code and are never opened"):
        pf.load(bomb)
    (run / "model.safetensors").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(pf.RunError, match="damaged or no safetensors"):
        pf.load(run)
    assert not (tmp_path / "exploded").exists()


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(pf.RunError, match="There is no run folder .*pushforward fit MODEL"):
        pf.load(tmp_path / "nowhere")


def test_output_in_the_way_is_left_alone(run: Path) -> None:
    before = snapshot(run)
    data = load_data(np.random.default_rng(0).normal(size=(200, 3)).astype(np.float32))
    with pytest.raises(pf.RunError, match=r"holds another run. Choose another --out, or continue that run with `pushforward resume"):
        Gauss().fit(data, steps=5, batch_size=32, progress=False, out=run)
    assert snapshot(run) == before
    other = run.parent / "notes"
    other.mkdir()
    (other / "thesis.txt").write_text("years of work")
    with pytest.raises(pf.RunError, match="exists and is not empty"):
        pf.load(run).save(other)
    assert snapshot(other) == {"thesis.txt": b"years of work"}


def test_full_disk_keeps_what_was_there(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = snapshot(run)

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(store.os, "fsync", full)
    with pytest.raises(pf.RunError, match="the disk is full. What was there before is unharmed. Free some space"):
        store.Run.open(run).write_model({"mu": torch.zeros(3)})
    with pytest.raises(pf.RunError, match="the disk is full"):
        pf.load(run).save(run.parent / "second")
    monkeypatch.undo()
    assert snapshot(run) == before
    assert not (run.parent / "second").exists()
    assert not list(run.parent.rglob("*.draft"))


def test_history_survives_a_line_cut_short(run: Path) -> None:
    rows = store.Run.open(run).history()
    with (run / "history.jsonl").open("a") as file:
        file.write('{"step": 6, "lo')
    assert store.Run.open(run).history() == rows


def test_equal_tensors_make_equal_files(tmp_path: Path) -> None:
    tensors = {f"t{i}": torch.arange(i + 1.0) for i in range(9)}
    for name in ("a", "b"):
        store.write_tensors(tmp_path / f"{name}.safetensors", tensors, {"one": 1, "two": [2.5, None]})
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_tied_weights_and_empty_tensors(tmp_path: Path) -> None:
    w = torch.randn(3)
    store.write_tensors(
        tmp_path / "t.safetensors", {"a": w, "b": w, "empty": torch.zeros(0), "scalar": torch.tensor(2.0)}, {"k": [1, None]}
    )
    tensors, meta = store.read_tensors(tmp_path / "t.safetensors")
    assert torch.equal(tensors["a"], w)
    assert torch.equal(tensors["b"], w)
    assert tensors["scalar"].shape == ()
    assert meta == {"k": [1, None]}
