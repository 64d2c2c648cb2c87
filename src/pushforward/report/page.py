"""The report: everything `compare` found, as one HTML page that opens offline, on a phone or on paper."""

import math
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from .. import store
from ..errors import RunError
from . import plots
from .leaderboard import KIND, MARK, Entry, counted, duration, entries, failures, mode_cells, notes, number, parts, real, with_spread
from .svg import Chart

if TYPE_CHECKING:
    from ..compare import Comparison

TILES = 40
"""Images in a grid."""


@dataclass(frozen=True)
class Cell:
    """One figure in the leaderboard: its text, smaller lines beneath, and whether it is the best of its column."""

    name: str
    text: str
    below: tuple[str, ...] = ()
    best: bool = False


@dataclass(frozen=True)
class Picture:
    title: str
    src: str
    alt: str
    note: str = ""


def render(comparison: "Comparison") -> str:
    """The page as text."""
    import jinja2

    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    environment.filters["zip"] = zip
    folder = resources.files(__package__ or "pushforward.report")
    template = environment.from_string((folder / "page.html.j2").read_text(encoding="utf-8"))
    found = entries(comparison)
    done = [e for e in found if e.error is None]
    data = comparison.data
    samples = {e.key: _pictures(e) for e in done}
    return template.render(
        style=_raw((folder / "style.css").read_text(encoding="utf-8")),
        title=_title(comparison, done),
        lead=_lead(done),
        entries=found,
        done=done,
        colours={e.key: f"c{i % len(plots.PALETTE)}" for i, e in enumerate(found)},
        headings=_headings(done),
        cells={e.key: _cells(e, done) for e in done},
        yardstick=_yardstick(comparison, done),
        modes={
            e.key: mode_cells(e) for e in done if any(r.evaluation and {"modes_captured", "kl"} & set(r.evaluation.figures) for r in e.rows)
        },
        failures=failures(comparison),
        notes=[n for n in notes(comparison) if n],
        estimators=[(e, _estimator(e)) for e in done],
        summary=data.summary(),
        facts=_facts(comparison),
        budget=_budget(comparison),
        tradeoff=[_raw(c.render()) for c in _tradeoff(comparison, done) if not c.empty],
        images=_images(comparison, done, samples),
        planes=_planes(comparison, done, samples),
        histograms=[(name, _raw(svg)) for name, svg in _histograms(comparison, done, samples)],
        curves=_curves(found),
        versions=store.versions(),
        fingerprint=data.fingerprint(),
        machine=f"{platform.system()} {platform.machine()}",
    )


def _raw(text: str) -> Any:
    from markupsafe import Markup

    return Markup(text)  # our own style sheet and charts, in which user text is escaped already


# -- words ----------------------------------------------------------------------------------------------------------


def _title(comparison: "Comparison", done: Sequence[Entry]) -> str:
    source = (comparison.data.source or {}).get("source", "records given in memory")
    count = len(comparison.groups())
    words = ("No", "One", "Two", "Three", "Four", "Five", "Six", "Seven", "Eight", "Nine", "Ten")
    return f"{words[count] if count < len(words) else count} generative model{'' if count == 1 else 's'} on {source}"


def _lead(done: Sequence[Entry]) -> list[tuple[str, str, str]]:
    """(what, who, how much) of the best figures; the likelihood with its kind."""
    said = []
    ranked = [(e, f) for e in done if (f := e.figure("log_prob")) is not None]
    if ranked:
        e, f = max(ranked, key=lambda pair: pair[1].value)
        bits = e.figure("bits_per_dim")
        amount = (
            f"{'≤ ' if bits and e.kind == 'bound' else MARK[e.kind]}{number(bits.value)} bits/dim"
            if bits
            else f"{MARK[e.kind]}{number(f.value)} nats"
        )
        unsure = any(other.kind != "exact" for other, _ in ranked if other is not e)
        said.append(("Highest log-likelihood shown" if unsure else "Highest log-likelihood", e.label, f"{amount}, {KIND[e.kind]}"))
    for name, what, best in (
        ("frechet", "Closest to held-out records", min),
        ("coverage", "Widest coverage", max),
        ("samples_per_second", "Fastest sampler", max),
    ):
        scored = [(e, f.value) for e in done if (f := e.figure(name)) is not None]
        if scored:
            e, value = best(scored, key=lambda pair: pair[1])
            text = {
                "frechet": f"Fréchet distance {number(value)}",
                "coverage": f"{value:.0%} of real neighbourhoods",
                "samples_per_second": f"{counted(value)} samples/s",
            }
            said.append((what, e.label, text[name]))
    return said


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
        ("Budget", f"{_budget(comparison)} for each model"),
        ("Seeds" if len(comparison.seeds) > 1 else "Seed", seeds),
        ("Made", f"{comparison.created}, in {duration(comparison.seconds)}"),
    ]


def _estimator(e: Entry) -> str:
    return next((r.evaluation.estimator for r in e.rows if r.evaluation is not None), "")


# -- the table ------------------------------------------------------------------------------------------------------

COLUMNS: tuple[tuple[str, str, str], ...] = (
    (
        "log_prob",
        "log p(x)",
        "Mean log-likelihood of held-out records, in nats per record and in the data’s own units; higher is better. "
        "≥ marks a lower bound, ≈ an estimate.",
    ),
    (
        "bits_per_dim",
        "bits/dim",
        "The same as a code length: −log₂ p(x) per entry; lower is better. From a bound on log p(x) it is an upper bound, marked ≤.",
    ),
    (
        "density",
        "quality",
        "Density: how many real neighbourhoods hold a sample, relative to a perfect model’s 1; above it, samples crowd where records "
        "are dense. "
        "Beneath: precision, the share of samples near some real record.",
    ),
    (
        "coverage",
        "coverage",
        "Share of real neighbourhoods that hold at least one sample. Beneath: recall, the share of real records near some sample.",
    ),
    (
        "frechet",
        "Fréchet",
        "Squared Fréchet distance of samples from held-out records, lower is better, in the features named below the table. It is no FID.",
    ),
    (
        "samples_per_second",
        "samples/s",
        "Records drawn per second on this machine: the median of repeats. Beneath: network evaluations (NFE) that a batch takes.",
    ),
    ("parameters", "parameters", "Numbers that training sets."),
    ("training_seconds", "training", "Wall time of training, while the other jobs of the comparison ran beside it."),
)


def _headings(done: Sequence[Entry]) -> list[tuple[str, str, str]]:
    return [c for c in COLUMNS if any(e.figure(c[0]) is not None for e in done)]


def _cells(e: Entry, done: Sequence[Entry]) -> list[Cell]:
    return [_cell(e, name, heading, done) for name, heading, _ in _headings(done)]


def _cell(e: Entry, name: str, heading: str, done: Sequence[Entry]) -> Cell:
    figure = e.figure(name)
    if figure is None:
        return Cell(heading, "–", ("no likelihood",) if name == "log_prob" and e.kind == "none" else ())
    values = [(f.value, other.kind) for other in done if (f := other.figure(name)) is not None]
    best = (
        name not in ("parameters", "training_seconds")
        and len(values) > 1
        and _merit(name, figure.value, e) >= max(_merit(name, v, e) for v, _ in values)
    )
    if name in ("log_prob", "bits_per_dim"):
        best = best and all(kind == "exact" for _, kind in values)  # bounds leave open who is best
        mark = "≤ " if name == "bits_per_dim" and e.kind == "bound" else MARK[e.kind]
        value, spread = parts(figure, 5)
        return Cell(heading, mark + value, tuple(filter(None, (spread, KIND[e.kind] if name == "log_prob" else ""))), best)
    if name == "samples_per_second":
        nfe = e.figure("nfe")
        return Cell(heading, counted(figure.value), (f"NFE {nfe.value:,.0f}",) if nfe else (), best)
    if name == "parameters":
        return Cell(heading, counted(figure.value))
    if name == "training_seconds":
        return Cell(heading, duration(figure.value))
    beside = {"density": "precision", "coverage": "recall"}.get(name)
    other = e.figure(beside) if beside else None
    value, spread = parts(figure)
    return Cell(heading, value, tuple(filter(None, (spread, f"{beside} {number(other.value, 2)}" if other else ""))), best)


def _merit(name: str, value: float, e: Entry) -> float:
    """A figure as something of which more is better. Density beyond that of real records is crowding, no merit."""
    if name == "density":
        target = next(
            (r.evaluation.real["density"].value for r in e.rows if r.evaluation is not None and "density" in r.evaluation.real), 1.0
        )
        return -abs(value - target)
    return -value if name in ("bits_per_dim", "frechet") else value


def _yardstick(comparison: "Comparison", done: Sequence[Entry]) -> list[Cell]:
    found = real(comparison)
    if not found:
        return []
    beside = {"density": "precision", "coverage": "recall"}
    return [
        Cell(heading, number(found[name]), (f"{beside[name]} {number(found.get(beside[name]), 2)}",) if name in beside else ())
        if name in found
        else Cell(heading, "")
        for name, heading, _ in _headings(done)
    ]


# -- charts ---------------------------------------------------------------------------------------------------------


def _tradeoff(comparison: "Comparison", done: Sequence[Entry]) -> list[Chart]:
    """Quality against coverage with speed as size, and both against speed."""
    speeds = {e.key: f.value for e in done if (f := e.figure("samples_per_second")) is not None and f.value > 0}
    logs = [math.log10(v) for v in speeds.values()] or [0.0]
    span = max(max(logs) - min(logs), 1e-9)

    def radius(e: Entry) -> float:
        return 8 + 10 * (math.log10(speeds[e.key]) - min(logs)) / span if e.key in speeds else 8.0

    def told(e: Entry) -> str:
        density, coverage = (with_spread(e.figure(k)) for k in ("density", "coverage"))
        return f"{e.key}, {e.label}: quality {density}, coverage {coverage}, {counted(speeds.get(e.key))} samples/s"

    words = "; ".join(map(told, done))
    yardstick = real(comparison)
    both = Chart(
        f"Quality against coverage; larger discs sample faster. {words}.",
        "coverage",
        "quality (density)",
        width=360,
        height=290,
        x_range=(-0.06, 1.06),
    )
    if yardstick:
        both.point(yardstick["coverage"], yardstick["density"], "real", "", 6, "real training records")
    for i, e in sorted(enumerate(done), key=lambda pair: -radius(pair[1])):  # small discs lie on large ones
        x, y = e.figure("coverage"), e.figure("density")
        if x and y:
            both.point(x.value, y.value, f"c{i % 8}", e.key, radius(e), told(e))
    fast = Chart(f"Fréchet distance against speed of sampling. {words}.", "samples per second", "Fréchet distance", True, True, 360, 290)
    for i, e in enumerate(done):
        y = e.figure("frechet")
        if y and e.key in speeds:
            fast.point(
                speeds[e.key],
                y.value,
                f"c{i % 8}",
                e.key,
                10,
                f"{e.key}, {e.label}: Fréchet {with_spread(y)}, {counted(speeds[e.key])} samples/s",
            )
    return [both, fast]


def _history(row) -> list[dict[str, Any]]:
    try:
        return store.Run.open(row.run).history()
    except RunError:
        return []


def _curves(found: Sequence[Entry]) -> list[tuple[Entry, Any, list[tuple[str, str]], str]]:
    """(entry, chart, legend, note) of each model's losses over its training time."""
    out = []
    for e in found:
        rows = _history(e.rows[0])
        losses = sorted({k for row in rows for k in row if (k == "loss" or k.endswith("/loss")) and isinstance(row[k], (int, float))})
        if not losses:
            out.append(
                (
                    e,
                    None,
                    [],
                    "Fitted in closed form or by EM: no loss curve." if e.error is None else "No training history: the job failed.",
                )
            )
            continue
        chart = Chart("", "seconds of training", "loss", width=340, height=230)
        legend, values = [], []
        for k in sorted(losses, key=lambda k: k.startswith("validation")):
            points = [(row["seconds"], row[k]) for row in rows if isinstance(row.get(k), (int, float)) and "seconds" in row]
            css = "held" if k.startswith("validation") else f"t{sum(1 for _, c in legend if c.startswith('t')) % 3}"
            name = {"loss": "training", "validation/loss": "validation"}.get(k, k.removesuffix("/loss"))
            chart.line([p[0] for p in points], [p[1] for p in points], css, name)
            legend.append((name, css))
            values.extend(v for _, v in points)
        ends = "; ".join(
            f"{name} ends at {number(next(r[k] for r in reversed(rows) if k in r))}"
            for k, (name, _) in zip(sorted(losses, key=lambda k: k.startswith("validation")), legend)
        )
        chart.describe = f"Losses of {e.label} over training time: {ends}."
        chart.y_range = _body(values)
        out.append((e, None if chart.empty else _raw(chart.render()), legend, ends))
    return out


def _body(values: Sequence[float]) -> tuple[float, float] | None:
    """The range of a loss curve without its first plunge: the 0 to 97 % quantiles with a little room."""
    finite = np.array([v for v in values if math.isfinite(v)])
    if len(finite) < 8:
        return None
    low, high = float(finite.min()), float(np.quantile(finite, 0.97))
    room = 0.08 * (high - low)
    return (low - room, high + room) if high > low else None


# -- pictures of records --------------------------------------------------------------------------------------------


def _pictures(e: Entry) -> dict[str, Tensor]:
    """What the first successful run left to look at."""
    for row in e.rows:
        try:
            if row.evaluation is not None:
                return store.read_tensors(row.run / "samples.safetensors")[0]
        except RunError:
            continue
    return {}


def _held(comparison: "Comparison", n: int) -> Tensor:
    data = comparison.data
    held = data.test if len(data.test) else data.validation
    return held.subset(slice(0, n)).tensor()


def _images(comparison: "Comparison", done: Sequence[Entry], samples: dict[str, dict[str, Tensor]]) -> list[Picture]:
    data = comparison.data
    if data.spec.kind != "image":
        return []

    def grid(x: Tensor) -> str:
        return plots.data_uri(plots.png(plots.tiles(plots.pixels(x[:TILES], data), 8)))

    held = _held(comparison, TILES)
    out = [Picture("Held-out records", grid(held), f"{len(held)} real held-out images", "real")]
    for e in done:
        if "samples" in samples[e.key]:
            x = samples[e.key]["samples"]
            out.append(Picture(e.label, grid(x), f"{min(TILES, len(x))} images drawn by {e.label}", e.key))
    return out


def _planes(comparison: "Comparison", done: Sequence[Entry], samples: dict[str, dict[str, Tensor]]) -> dict[str, Any]:
    """Scatter pictures of two columns, with the density beside them where there is one."""
    data = comparison.data
    held = plots.columns(_held(comparison, 1000), data)
    names = _pair(held)
    if names is None:
        return {}
    a, b = names
    exact = data.spec.kind == "points" and data.spec.dim == 2
    if exact:
        low, high = plots.window(data)
        corners = plots.columns(torch.stack([low, high]), data)
        extent = (float(corners[a][0]), float(corners[a][1]), float(corners[b][0]), float(corners[b][1]))
    else:
        extent = (*_span(held[a]), *_span(held[b]))

    def cloud(found: dict[str, np.ndarray], colour: str) -> str:
        return plots.data_uri(plots.to_png(plots.scatter(found[a], found[b], extent, colour=colour), dpi=120, transparent=True))

    out = [
        (
            Picture("Held-out records", cloud(held, "#808080"), f"Real held-out records: {a} across, {b} up", "real"),
            _truth(comparison, exact),
        )
    ]
    for i, e in enumerate(done):
        if "samples" not in samples[e.key]:
            continue
        found = plots.columns(samples[e.key]["samples"][:1000], data)
        picture = Picture(e.label, cloud(found, plots.PALETTE[i % 8]), f"Samples of {e.label}: {a} across, {b} up", e.key)
        beside = None
        if "log_prob" in samples[e.key]:
            heat = plots.data_uri(plots.to_png(plots.density(samples[e.key]["log_prob"].double().numpy()), dpi=100))
            beside = Picture(
                f"{e.label}, density",
                heat,
                f"Density of {e.label}",
                {"exact": "exact density", "bound": "from its bound"}.get(e.kind, e.kind),
            )
        out.append((picture, beside))
    return {"pictures": out, "a": a, "b": b, "extent": [number(v) for v in extent], "density": any(d for _, d in out)}


def _truth(comparison: "Comparison", exact: bool) -> Picture | None:
    data = comparison.data
    if not exact or data.truth is None or not hasattr(data.truth, "log_prob"):
        return None
    x = plots.grid_of(data, 200)
    values = data.truth.log_prob(torch.as_tensor(np.stack(list(plots.columns(x, data).values()), 1)))
    heat = plots.data_uri(plots.to_png(plots.density(values.reshape(200, 200).numpy()), dpi=100))
    return Picture("The density itself", heat, "The density that the records were drawn from", "known exactly")


def _pair(held: dict[str, np.ndarray]) -> tuple[str, str] | None:
    """The two numeric columns that are correlated most."""
    names = [k for k, v in held.items() if plots.numeric(v) and np.isfinite(v).sum() > 2 and np.nanstd(v.astype(float)) > 0][:30]
    if len(names) < 2:
        return None
    values = np.stack([np.nan_to_num(held[k].astype(float), nan=float(np.nanmean(held[k]))) for k in names])
    strength = np.abs(np.corrcoef(values))
    i, j = np.unravel_index(np.argmax(np.triu(np.nan_to_num(strength), 1)), strength.shape)
    return (names[i], names[j]) if i != j else (names[0], names[1])


def _span(values: np.ndarray) -> tuple[float, float]:
    finite = values[np.isfinite(values)].astype(float)
    low, high = np.quantile(finite, [0.005, 0.995])
    room = 0.1 * (high - low) or 0.5
    return float(low - room), float(high + room)


def _histograms(comparison: "Comparison", done: Sequence[Entry], samples: dict[str, dict[str, Tensor]]) -> list[tuple[str, str]]:
    """One chart for each of the first columns: real records and every model's samples."""
    data = comparison.data
    if data.spec.kind == "image" or (data.spec.kind == "points" and data.spec.dim == 2):
        return []
    sets = [("real", "real records", plots.columns(_held(comparison, 2000), data))]
    sets += [
        (f"c{i % 8}", e.label, plots.columns(samples[e.key]["samples"], data)) for i, e in enumerate(done) if "samples" in samples[e.key]
    ]
    out = []
    for name, values in list(sets[0][2].items())[:12]:
        chart = Chart(f"Distribution of {name}: real records and samples of each model.", name, "share", width=340, height=220)
        if plots.numeric(values):
            low, high = _span(values)
            edges = np.linspace(low, high, 31)
            for css, label, found in sets:
                v = found[name].astype(float)
                counts, _ = np.histogram(v[np.isfinite(v)], edges)
                share = counts / max(len(v), 1)
                chart.line(np.repeat(edges, 2)[1:-1].tolist(), np.repeat(share, 2).tolist(), css, label)
        else:
            kinds = [plots.plain(k) for k in values.tolist()]
            common = sorted(set(kinds), key=lambda k: -kinds.count(k))[:8]
            chart.x_names = common
            for offset, (css, label, found) in enumerate(sets):
                v = [plots.plain(k) for k in found[name].tolist()]
                for i, k in enumerate(common):
                    at = i + 0.5 * (offset - (len(sets) - 1) / 2) / len(sets)
                    chart.point(at, v.count(k) / max(len(v), 1), css, "", 4, f"{label}: {k}")
        out.append((name, chart.render()))
    return out
