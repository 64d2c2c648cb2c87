"""The page of lectures: its commands name scripts, options and figures that there are."""

import json
import re
import shlex
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from pushforward.cli import app

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "docs"))
import lectures  # noqa: E402

ROWS = [row for rows in lectures.SECTIONS.values() for row in rows]
COMMANDS = sorted({command for row in ROWS for command in row.command.split(" && ")})


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_names_options_that_there_are(command: str):
    program, *words = shlex.split(command)
    options = [w for w in words if w.startswith("--")]
    if program == "python":
        known = (ROOT / words[0]).read_text()
        if "import Row, run" in known:
            known += (ROOT / "experiments/_rows.py").read_text()
        if "--only" in words:
            assert f'"{words[words.index("--only") + 1]}"' in known
        assert [o for o in options if f'"{o}"' not in known] == []
        return
    assert program == "pushforward"
    told = CliRunner().invoke(app, [*words[:2], "--help"] if words[0] == "fit" else [words[0], "--help"]).output
    assert [o for o in options if not re.search(rf"{o}\b", told)] == []


def test_the_page_quotes_figures_of_results_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for row in ROWS:
        path = ROOT / "results" / f"{row.results}.json"
        if row.figure and path.exists():
            names = [f["name"] for f in json.loads(path.read_text())["figures"]]
            if "--only" in row.command and row.figure.partition(": ")[0] not in {name.partition(": ")[0] for name in names}:
                continue  # a script of several parts, of which this one has not been run
            assert any(name.startswith(row.figure) for name in names), f"{row.results} has no figure {row.figure!r}"
    monkeypatch.setattr(lectures.tables, "RESULTS", tmp_path)
    assert not re.search(r"\d ±", lectures.page())
    figure = {"name": "one draw | of two", "value": 0.25, "stderr": 0.01, "unit": "nats"}
    (tmp_path / "x.json").write_text(json.dumps({"experiment": "x", "figures": [figure]}))
    monkeypatch.setattr(lectures, "SECTIONS", {"A": (lectures.Shown("a", "b", "x", "one"), lectures.Shown("c", "d", "y", "one"))})
    assert lectures.page().splitlines()[-2:] == [
        "| a | `b` | one draw \\| of two: 0.250 ± 0.010 nats; `results/x.json` |",
        "| c | `d` | `results/y.json`, not run yet |",
    ]
