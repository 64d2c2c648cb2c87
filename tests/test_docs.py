"""What the documents say works, and figures come from results/ alone."""

import contextlib
import importlib.util
import json
import re
import shlex
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import pushforward as pf
from pushforward.cli import app
from pushforward.errors import RunError
from pushforward.testing import CHECKS

ROOT = Path(__file__).parent.parent


def script(path: str) -> ModuleType:
    """A script of the repository as a module."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def normal() -> type:
    """The model that CONTRIBUTING.md shows."""
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.S)
    module = ModuleType("normal")
    exec(code, module.__dict__)
    return module.Normal


@pytest.mark.parametrize("check", ["same_seed_same_bits", "save_load", "bad_input"])
def test_the_model_of_contributing_keeps_the_contract(normal: type, check: str, monkeypatch: pytest.MonkeyPatch):
    from pushforward import models

    names = [name for name in CHECKS if check in name.replace("check_", "")]
    monkeypatch.setattr(models, "catalog", lambda: {"normal": normal})
    for name in names:
        CHECKS[name](normal)


def test_the_model_of_contributing_finds_the_maximum_of_likelihood(normal: type):
    # Without a validation split the last weights are kept, not those that suit some held-out records best.
    records = pf.load_data(np.random.default_rng(0).normal(3, 2, size=(400, 1)), validation=0)
    model = normal(sigma=3.0).fit(records, steps=400, progress=False, schedule="cosine")
    train = records.train.tensor()
    # At the maximum mu and sigma are the sample's own; Adam with a decaying step ends within a thousandth of a standardised unit,
    # and minibatches of 128 records of 360 leave a jitter below 0.02.
    assert model.mu.item() == pytest.approx(train.mean().item(), abs=0.03)
    assert model.log_sigma.exp().item() == pytest.approx(train.std(correction=0).item(), abs=0.03)


PAGES = (ROOT / "README.md", *sorted((ROOT / "docs" / "pages").glob("*.md")))
COMMANDS = sorted({line for page in PAGES for line in re.findall(r"^\$ pushforward (.*)$", page.read_text(encoding="utf-8"), re.M)})


@pytest.mark.parametrize("line", COMMANDS)
def test_the_commands_that_are_shown_can_be_typed(line: str):
    """Every word is taken; options that a run's model decides are left to the run, which is not there."""
    name, *words = shlex.split(line, comments=True)
    command = app.commands[name]
    with app.make_context("pushforward", [name]) as context, contextlib.suppress(RunError):
        command.make_context(name, words, parent=context)


# -- results ---------------------------------------------------------------------------------------------------------------


def test_a_result_is_written_whole_or_not_at_all(tmp_path: Path):
    result = script("experiments/_result.py")
    with result.Result("ring", {"minutes": 5}, [0], folder=tmp_path) as r:
        assert r.add("KL", 0.04, stderr=0.003, unit="nats", kind="exact", target="<= 0.05") is True
        assert r.add("modes", 7, target=">= 8") is False
    written = json.loads((tmp_path / "ring.json").read_text())
    assert set(written) == {"experiment", "figures", "settings", "seeds", "seconds", "machine", "versions", "commit"}
    assert set(written["figures"][0]) == {"name", "value", "stderr", "unit", "kind", "target", "holds"}
    assert [f["holds"] for f in written["figures"]] == [True, False]
    with pytest.raises(ZeroDivisionError), result.Result("broken", folder=tmp_path):
        raise ZeroDivisionError
    assert not (tmp_path / "broken.json").exists()
    with pytest.raises(ValueError, match="is no comparison"):
        result.Result("x", folder=tmp_path).add("a", 1.0, target="about 3")


def test_tables_keep_figures_that_miss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    results = script("docs/tables.py")
    figures = [
        {"name": "NLL", "value": 88.1234, "stderr": 0.12, "unit": "nats", "kind": "bound", "target": "<= 89", "holds": True},
        {"name": "modes", "value": 7, "stderr": None, "unit": "", "kind": "measured", "target": ">= 8", "holds": False},
        {"name": "seconds", "value": 12.5, "stderr": None, "unit": "s", "kind": "measured", "target": None, "holds": None},
    ]
    (tmp_path / "x.json").write_text(json.dumps({"experiment": "x", "figures": figures, "seeds": [0, 1], "seconds": 3.0}))
    monkeypatch.setattr(results, "RESULTS", tmp_path)
    assert results.readme().splitlines()[2:] == [
        "| x | NLL | 88.12 ± 0.12 | nats | bound | <= 89 | yes |",
        "| x | modes | 7 |  | measured | >= 8 | **no** |",
    ]
    assert "| seconds | 12.5 | s |" in results.page()


def test_pages_show_figures_by_case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    results = script("docs/tables.py")
    monkeypatch.setattr(results, "RESULTS", tmp_path)
    assert results.pivot("long", "short") == "*Not run yet.*"
    for name, cases in (("long", {"ring": 0.5}), ("short", {"ring": 0.25, "grid": 2})):
        figures = [
            {"name": f"{case}: {figure}", "value": v, "unit": unit}
            for case, v in cases.items()
            for figure, unit in (("share", "%"), ("KL", ""))
        ]
        (tmp_path / f"{name}.json").write_text(json.dumps({"experiment": name, "figures": figures}))
    assert results.pivot("long", "short").splitlines() == [
        "|  | share | KL |",
        "| --- | --- | --- |",
        "| ring (long) | 0.5 % | 0.5 |",
        "| ring (short) | 0.25 % | 0.25 |",
        "| grid | 2 % | 2 |",
    ]


def test_simple_tables_become_markdown():
    doc = "Words.\n\n====  =====\nname  means\n====  =====\na     one\n      more\nb|c   two\n====  =====\n\nMore ``code``."
    assert script("docs/markdown_docs.py").markdown(doc).splitlines() == [
        *("Words.", "", "", "| name | means |", "| --- | --- |", "| a | one more |", "| b\\|c | two |", "", "", "More `code`."),
    ]
