"""The report: everything `compare` found, as one HTML page that opens offline, on a phone or on paper."""

import platform
from collections.abc import Sequence
from importlib import resources
from typing import TYPE_CHECKING, Any

from .. import store
from . import board, differences, plots, records, training, trilemma
from .leaderboard import Entry, entries, failures, notes, real
from .words import KIND, MARK, counted, duration, number

if TYPE_CHECKING:
    from ..compare import Comparison

SYMBOL = {"better": "▲", "worse": "▼", "open": "≈", "apart": "×"}


def render(comparison: "Comparison") -> str:
    """The page as text."""
    import jinja2

    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    folder = resources.files(__package__ or "pushforward.report")
    template = environment.from_string((folder / "page.html.j2").read_text(encoding="utf-8"))
    found = entries(comparison)
    done = [e for e in found if e.error is None]
    data, yardstick = comparison.data, real(comparison)
    colours = {e.key: f"c{i % len(plots.PALETTE)}" for i, e in enumerate(found)}
    samples = {e.key: records.left(e) for e in done}
    return template.render(
        style=_raw((folder / "style.css").read_text(encoding="utf-8")),
        title=_title(comparison),
        lead=_lead(done),
        entries=found,
        done=done,
        colours=colours,
        board=board.leaderboard(done, yardstick),
        failures=failures(comparison),
        notes=notes(comparison),
        estimators=[(e, _estimator(e)) for e in done],
        remarks=_remarks(done),
        alarms=training.alarms(done),
        summary=data.summary(),
        facts=_facts(comparison),
        budget=_budget(comparison),
        tradeoff=[(css, _raw(c.render())) for css, c in trilemma.pictures(done, yardstick, colours)],
        corners=trilemma.rows(done),
        front=trilemma.sentence(done),
        scale=trilemma.scale(),
        tests=_tests(done),
        further=board.further(done, yardstick),
        spaces=board.spaces(done),
        images=records.images(comparison, done, samples),
        copies=records.copies(comparison, done, samples),
        planes=records.planes(comparison, done, samples),
        histograms=[(name, _raw(svg)) for name, svg in records.histograms(comparison, done, samples)],
        curves=[(e, None if svg is None else _raw(svg), legend, note) for e, svg, legend, note in training.curves(found)],
        versions=store.versions(),
        fingerprint=data.fingerprint(),
        machine=f"{platform.system()} {platform.machine()}",
    )


def _raw(text: str) -> Any:
    from markupsafe import Markup

    return Markup(text)  # our own style sheet and charts, in which user text is escaped already


# -- words ----------------------------------------------------------------------------------------------------------


def _title(comparison: "Comparison") -> str:
    source = (comparison.data.source or {}).get("source", "records given in memory")
    count = len(comparison.groups())
    words = ("No", "One", "Two", "Three", "Four", "Five", "Six", "Seven", "Eight", "Nine", "Ten")
    return f"{words[count] if count < len(words) else count} generative model{'' if count == 1 else 's'} on {source}"


def _lead(done: Sequence[Entry]) -> list[tuple[str, str, str]]:
    """(what, who, how much) of the best figures; the likelihood with its kind, and who cannot be told apart from the leader."""
    said = []
    ranked = [(e, f) for e in done if (f := e.figure("log_prob")) is not None]
    if ranked:
        e, f = max(ranked, key=lambda pair: pair[1].value)
        bits = e.figure("bits_per_dim")
        amount = (
            f"{'≤ ' if e.kind == 'bound' else MARK[e.kind]}{number(bits.value)} bits/dim"
            if bits
            else f"{MARK[e.kind]}{number(f.value)} nats"
        )
        unsure = any(other.kind != "exact" for other, _ in ranked if other is not e)
        what = "Highest log-likelihood shown" if unsure else "Highest log-likelihood"
        said.append((what, e.label, f"{amount}, {KIND[e.kind]}{_rivals(done, 'log_prob')}"))
    for name, what in (
        ("frechet", "Closest to held-out records"),
        ("coverage", "Widest coverage"),
        ("samples_per_second", "Fastest sampler"),
    ):
        scored = [(e, f.value) for e in done if (f := e.figure(name)) is not None]
        if scored:
            e, value = (min if name == "frechet" else max)(scored, key=lambda pair: pair[1])
            text = {
                "frechet": f"Fréchet distance {number(value)}",
                "coverage": f"{value:.0%} of real neighbourhoods",
                "samples_per_second": f"{counted(value)} samples/s",
            }
            said.append((what, e.label, text[name] + _rivals(done, name)))
    return said


def _rivals(done: Sequence[Entry], name: str) -> str:
    """How many models cannot be told apart from the one that leads."""
    rivals = [e.label for e in differences.best(done, name)[1:]]
    if not rivals:
        return ""
    return f"; {rivals[0]} cannot be told apart" if len(rivals) == 1 else f"; {len(rivals)} others cannot be told apart"


def _budget(comparison: "Comparison") -> str:
    parts = [
        f"{v:g} {k if v != 1 else k.removesuffix('s')}" if k in ("minutes", "steps", "epochs") else f"{k} {v}"
        for k, v in comparison.budget.items()
    ]
    return ", ".join(parts)


def _facts(comparison: "Comparison") -> list[tuple[str, str]]:
    data = comparison.data
    counts = data.counts()
    seeds = ", ".join(map(str, comparison.seeds))
    return [
        ("Data", str((data.source or {}).get("source", "in memory"))),
        ("Records", " · ".join(f"{n:,} {k}" for k, n in counts.items())),
        ("One record", str(data.spec)),
        ("Budget", f"{_budget(comparison)} for each training"),
        ("Seeds" if len(comparison.seeds) > 1 else "Seed", seeds),
        ("Made", comparison.created + (f", in {duration(comparison.seconds)}" if comparison.seconds else "")),
    ]


def _estimator(e: Entry) -> str:
    return next((v.estimator for v in e.done), "")


def _remarks(done: Sequence[Entry]) -> list[tuple[Entry, str]]:
    """What the evaluations noted, each once for a model."""
    return [(e, note) for e in done for note in dict.fromkeys(note for v in e.done for note in v.notes)]


# -- differences ----------------------------------------------------------------------------------------------------


def _tests(done: Sequence[Entry]) -> list[dict[str, Any]]:
    """A matrix for each figure that is tested: the row's model against the column's."""
    out = []
    for name in differences.FIGURES_TESTED:
        found = differences.verdicts(done, name)
        have = [e for e in done if e.runs(name)]
        if not found:
            continue
        rows = [(a, [_verdict(found.get((a.key, b.key))) for b in have]) for a in have]
        pairs = [found[a.key, b.key].text() for i, a in enumerate(have) for b in have[i + 1 :]]
        what = differences.NAMES[name]
        out.append(
            {"title": what[0].upper() + what[1:], "have": have, "rows": rows, "pairs": pairs, "said": differences.indistinct(done, name)}
        )
    return out


def _verdict(v: differences.Verdict | None) -> tuple[str, str, str] | None:
    return None if v is None else (v.state, SYMBOL[v.state], v.text())
