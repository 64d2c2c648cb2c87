"""The model card that a run folder carries: what was fitted to what, how, and what its numbers are."""

from typing import Any

from .alarms import alarms_of
from .data.spec import DataSpec
from .store import Run, atomic

KINDS = {
    "exact": "exact: `log_prob` is log p(x) itself",
    "bound": "a lower bound: log p(x) is at least what `log_prob` says",
    "estimate": "a stochastic estimate of log p(x)",
    "none": "none: this family defines no density; compare samples instead",
}


def write_card(run: Run, *, density: str, parameters: int) -> None:
    """Write README.md into the run folder from its own descriptions and history."""
    text = card(run, density=density, parameters=parameters)
    atomic(run.path / "README.md", lambda p: p.write_text(text, encoding="utf-8") and None)


def card(run: Run, *, density: str, parameters: int) -> str:
    """The card as Markdown."""
    config, data, training = run.config, run.data, run.config["training"]
    source = (data.get("source") or {}).get("source", "records given in memory")
    spec = DataSpec.from_json(config["spec"]) if config.get("spec") else "unknown"
    counts = ", ".join(f"{n} {split}" for split, n in (data.get("counts") or {}).items())
    sections = {
        "Data": {
            "source": source,
            "records": f"{spec}" + (f"; {counts}" if counts else ""),
            "fingerprint (sha256)": data.get("fingerprint", "unknown"),
            "conditional": "yes" if config.get("spec", {}).get("condition_dim") else "no",
        },
        "Model": {
            "family": config["model"],
            "likelihood": KINDS[density],
            "parameters": f"{parameters:,}",
            **{f"`{k}`": v for k, v in config["config"].items()},
        },
        "Training": _training(run.history(), training),
        "Versions": {**config.get("versions", {}), "written": config.get("created", "")},
    }
    lines = [f"# {config['model']} fitted to {source}", ""]
    lines += ["Made by pushforward. Nothing in this folder is executable; every file carries its own checksum.", ""]
    lines += ["```python", "import pushforward as pf", "", f'model = pf.load("{run.path.name}")', "model.sample(16)", "```", ""]
    for title, rows in sections.items():
        lines += [f"## {title}", "", "| | |", "|-|-|"]
        lines += [f"| {k} | {_cell(v)} |" for k, v in rows.items()]
        lines.append("")
    standing = alarms_of(run)
    if standing:
        lines += ["## Warnings while training", ""]
        lines += [f"- **{a.kind}** (step {a.step}): {a.says} Try: {a.remedy}" for a in standing] + [""]
    lines += ["![samples](samples.png)", ""] if (run.path / "samples.png").exists() else []
    return "\n".join(lines)


def _training(history: list[dict[str, Any]], training: dict[str, Any]) -> dict[str, Any]:
    rows: dict[str, Any] = {}
    if history:
        rows |= {"steps": history[-1].get("step"), "seconds": history[-1].get("seconds")}
        held = [r["validation/loss"] for r in history if r.get("validation/loss") is not None]
        if held:
            rows["best validation loss"] = f"{min(held):.6g} (per record, in the model's standardised units)"
    return rows | {f"`{k}`": v for k, v in training.items() if v is not None and k != "progress"}


def _cell(value: Any) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")
