"""What mkdocs asks while it builds: generated pages and a navigation that nobody has to keep."""

import inspect
import pkgutil
import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent / "src")]
import lectures
import tables
from markdown_docs import markdown

import pushforward
from pushforward.models import catalog
from pushforward.signatures import parameters, section, summary, written

VERBS = ("sample", "log_prob", "encode", "decode", "posterior", "likelihood")


def on_config(config: Any) -> Any:
    """The navigation, from what there is."""
    config["nav"] = [
        {"Home": "index.md"},
        {"Getting started": "start.md"},
        {"Your own data": "data.md"},
        {"Comparing": "comparing.md"},
        {"Looking inside": "exploring.md"},
        {"Exact densities": "densities.md"},
        {"GANs": [{"Parts": "gans.md"}, {"The theory of games": "game-theory.md"}, {"Translating": "translating.md"}]},
        {"The lectures' latent models": "lectures.md"},
        {"Trusting a number": [{"How": "trusting.md"}, {"Every figure": "figures.md"}]},
        {"Models": [{"All": "models/index.md"}, *({name: f"models/{name}.md"} for name in catalog())]},
        {"Results": "results.md"},
        {"Adding a model": "contributing.md"},
        {"API": [{"All": "api/index.md"}, *({name.removeprefix("pushforward."): f"api/{name}.md"} for name in modules())]},
        {"Changes": "changelog.md"},
    ]
    return config


def on_page_markdown(text: str, page: Any, config: Any, files: Files) -> str:
    """Put tables from results/ where a page asks for them: `<!-- figures of NAME, NAME -->`."""
    del page, config, files
    return re.sub(r"<!-- figures of ([\w, ]+) -->", lambda m: tables.pivot(*m[1].split(", ")), text)


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are made from the code, from results/ and from the files of the repository."""
    root = Path(__file__).parent.parent
    pages = {
        "results.md": tables.page(),
        "figures.md": tables.figures(),
        "lectures.md": lectures.page(),
        "contributing.md": (root / "CONTRIBUTING.md").read_text(encoding="utf-8"),
        "changelog.md": (root / "CHANGELOG.md").read_text(encoding="utf-8"),
        "models/index.md": _models(),
        "api/index.md": _api(),
    }
    pages |= {f"models/{name}.md": _model(model) for name, model in catalog().items()}
    pages |= {f"api/{name}.md": f"# {name}\n\n::: {name}\n    options:\n      show_root_heading: false\n" for name in modules()}
    for path, text in pages.items():
        files.append(File.generated(config, path, content=text))
    return files


def modules() -> list[str]:
    """Every public module of the package."""
    walked = pkgutil.walk_packages(pushforward.__path__, "pushforward.")
    names = [m.name for m in walked if not any(part.startswith("_") for part in m.name.split("."))]
    # A family's package holds nothing but its modules.
    return [name for name in names if (inspect.getdoc(sys.modules.get(name)) or _documented(name))]


def _documented(name: str) -> bool:
    spec = pkgutil.resolve_name(name)
    return bool(spec.__doc__)


def _models() -> str:
    rows = ["| name | class | `log_prob` | what it is |", "| --- | --- | --- | --- |"]
    for name, model in catalog().items():
        rows.append(f"| [{name}]({name}.md) | `{model.__name__}` | {_kind(model)} | {_cell(summary(model))} |")
    return "# Models\n\nEvery model keeps one contract: `fit`, `sample`, `log_prob`, `encode`, `decode`.\n\n" + "\n".join(rows) + "\n"


def _kind(model: Any) -> str:
    if not model.supports("log_prob"):
        return "none"
    return "by data" if model.density == "none" else model.density


def _model(model: Any) -> str:
    """The page of one model: what it is, its mathematics, what it can do, its hyperparameters."""
    doc = inspect.getdoc(model) or ""
    body = doc.split("\nParameters\n---")[0]
    parts = [
        f"# {model.name}",
        markdown(body),
        f"```python\nimport pushforward as pf\n\nmodel = pf.{model.__name__}().fit(data, minutes=1)\n```",
    ]
    parts.append(f"```console\n$ pushforward fit {model.name} --data SOURCE --minutes 1\n```")
    parts += ["## Verbs", "| verb | |", "| --- | --- |"]
    verbs = []
    for verb in VERBS:
        offered = f"yes ({_kind(model)})" if verb == "log_prob" else "yes"
        refused = "no: " + model.unsupported.get(verb, "this family defines none.")
        verbs.append(f"| `{verb}` | {_cell(offered if model.supports(verb) else refused)} |")
    parts[-2:] = ["\n".join([*parts[-2:], *verbs])]
    parts += ["## Hyperparameters", _fields(parameters(model))]
    changed = [f for f in parameters(pushforward.Training) if getattr(model.training, f.name) != f.default]
    if changed:
        rows = [f"| `{f.name}` | {_cell(written(getattr(model.training, f.name)))} | {_cell(f.help)} |" for f in changed]
        parts += ["## Its own training settings", "\n".join(["| setting | value | meaning |", "| --- | --- | --- |", *rows])]
    references = section(doc, "References")
    if references:
        parts += ["## References", references]
    module = sys.modules[model.__module__]
    parts += ["## The mathematics", markdown(inspect.getdoc(module) or ""), f"[API of this module](../api/{module.__name__}.md)"]
    return "\n\n".join(parts) + "\n"


def _fields(members: Any) -> str:
    rows = ["| name | type | default | meaning |", "| --- | --- | --- | --- |"]
    for f in members:
        kind = f.placeholder.replace("|", " | ") if f.textual else "network"
        rows.append(f"| `{f.name}` | {_cell(kind)} | `{written(f.default)}` | {_cell(f.help)} |")
    return "\n".join(rows)


def _api() -> str:
    rows = ["| module | what it holds |", "| --- | --- |"]
    for name in modules():
        rows.append(f"| [{name}]({name}.md) | {_cell(summary(pkgutil.resolve_name(name)))} |")
    return "# API\n\nGenerated from the docstrings.\n\n" + "\n".join(rows) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ").replace("``", "`")
