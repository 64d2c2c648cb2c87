"""Tables from results/*.json: the only place from which a figure reaches the docs or the README."""

import json
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent.parent / "results"


def load() -> list[dict[str, Any]]:
    """Every experiment's results, by name."""
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(RESULTS.glob("*.json"))]


def number(value: Any, stderr: Any = None) -> str:
    """A value with its standard error, which decides the digits."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return "—" if value is None else str(value)
    if stderr:
        digits = max(0, min(6, 1 - int(f"{stderr:e}".split("e")[1])))
        return f"{value:.{digits}f} ± {stderr:.{digits}f}"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def verdict(figure: dict[str, Any]) -> str:
    return {True: "yes", False: "**no**", None: ""}[figure.get("holds")]


def table(figures: list[dict[str, Any]], experiment: str | None = None) -> str:
    """A Markdown table of figures; with `experiment`, its name leads each row."""
    lead = ["experiment"] if experiment is not None else []
    rows = [[*lead, "figure", "value", "unit", "kind", "target", "met"], ["---"] * (6 + len(lead))]
    rows += [_row(f, [experiment] if experiment is not None else []) for f in figures]
    return "\n".join("| " + " | ".join(str(c).replace("|", "\\|") for c in row) + " |" for row in rows)


def _row(f: dict[str, Any], lead: list[str]) -> list[str]:
    target = f.get("target")
    shown = "" if target is None else target if isinstance(target, str) else f"{target:g}"
    return [*lead, f["name"], number(f["value"], f.get("stderr")), f.get("unit") or "", f.get("kind") or "", shown, verdict(f)]


def page() -> str:
    """The results page: every figure of every experiment, with what it takes to have it again."""
    parts = [
        "# Results",
        "Made from the files in `results/`, which the scripts in `experiments/` and `benchmarks/` write. "
        "A figure that misses its target stays here.",
    ]
    for result in load():
        parts += [f"## {result['experiment']}", table(result["figures"])]
        settings = ", ".join(f"{k} {v}" for k, v in (result.get("settings") or {}).items() if not isinstance(v, (dict, list)))
        machine = ", ".join(str(v) for v in (result.get("machine") or {}).values())
        versions = ", ".join(f"{k} {v}" for k, v in (result.get("versions") or {}).items())
        details = [
            f"Settings: {settings}" if settings else "",
            f"Seeds: {', '.join(map(str, result['seeds']))}" if result.get("seeds") else "",
            f"Took {result['seconds']:.0f} s" if result.get("seconds") else "",
            f"Machine: {machine}" if machine else "",
            f"Versions: {versions}" if versions else "",
        ]
        parts.append("\n".join(f"- {d}" for d in details if d))
    if len(parts) == 2:
        parts.append("No experiment has been run yet.")
    return "\n\n".join(parts) + "\n"


def pivot(*experiments: str) -> str:
    """A Markdown table of what experiments found, of figures named "case: figure": a row for each case, a column for each figure.

    Cases of the same name in several experiments are told apart by the experiment's.
    """
    found = [json.loads(path.read_text(encoding="utf-8")) for name in experiments if (path := RESULTS / f"{name}.json").exists()]
    cells: dict[str, dict[str, str]] = {}
    cases = [{f["name"].rpartition(": ")[0] for f in result["figures"]} for result in found]
    for f in (f | {"from": result["experiment"]} for result in found for f in result["figures"]):
        case, _, figure = f["name"].rpartition(": ")
        case += f" ({f['from']})" if sum(case in some for some in cases) > 1 else ""
        cells.setdefault(case, {}).setdefault(figure, number(f["value"], f.get("stderr")) + (f" {f['unit']}" if f.get("unit") else ""))
    if not cells:
        return "*Not run yet.*"
    columns = list(dict.fromkeys(figure for row in cells.values() for figure in row))
    rows = [["", *columns], ["---"] * (len(columns) + 1), *([case, *(row.get(c, "") for c in columns)] for case, row in cells.items())]
    return "\n".join("| " + " | ".join(c.replace("|", "\\|") for c in row) + " |" for row in rows)


MANY = 6
"""An experiment with more targets than this is one line of the README, and one for each that was missed; the results page has them all."""


def readme() -> str:
    """The README's table: the figures that have a target, met or not."""
    rows = []
    for result in load():
        aimed = [f for f in result["figures"] if f.get("target") is not None]
        if len(aimed) > MANY:
            missed = [f for f in aimed if not f.get("holds")]
            met = len(aimed) - len(missed)
            whole = {"name": "targets met", "value": f"{met} of {len(aimed)}", "target": "all", "holds": not missed}
            aimed = [whole, *missed]
        if aimed:
            rows += table(aimed, result["experiment"]).splitlines()[2 if rows else 0 :]
    return "\n".join(rows) if rows else "*No experiment has been run yet.*"


def figures() -> str:
    """Every figure that an evaluation may hold, by the question that it answers."""
    from pushforward.figures import FIGURES

    better = {"high": "higher", "low": "lower", "one": "1", "half": "0.5", "zero": "0", "none": ""}
    rows = ["| question | figure | what it says | unit | best | source |", "| --- | --- | --- | --- | --- | --- |"]
    for name, about in FIGURES.items():
        cells = (about.group, f"{about.label} (`{name}`)", about.text, about.unit, better[about.better], about.source)
        rows.append("| " + " | ".join(c.replace("|", "\\|") for c in cells) + " |")
    lead = "Made from `pushforward.figures.FIGURES`, where the terminal and the report take their words from as well."
    return "\n\n".join(["# Every figure", lead, "\n".join(rows)]) + "\n"
