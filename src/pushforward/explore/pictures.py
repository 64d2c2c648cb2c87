"""The pictures of an exploration: strips of images, rows of tables, charts of points."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..report import plots
from ..report.svg import Chart
from ..report.words import number
from .attributes import Edit
from .lens import Lens, Shown
from .paths import Arithmetic, Grid, Interpolation, Traversal
from .shift import PixelShift
from .smoothness import Gaps, Lipschitz
from .spread import Scatter

MOST_COLUMNS = 12
BACKGROUND = 400
"""Records drawn behind points."""


@dataclass
class Strip:
    """A row of images (or the page's whole picture), with what it shows."""

    label: str
    src: str
    alt: str


@dataclass
class Figure:
    """One picture of the page: strips of images, an SVG chart, or a table of records."""

    title: str = ""
    note: str = ""
    css: str = ""
    ticks: list[str] = field(default_factory=list)
    """What stands above the images of a strip, one for each."""
    strips: list[Strip] = field(default_factory=list)
    svg: Any = ""
    legend: list[tuple[str, str]] = field(default_factory=list)
    heads: list[str] = field(default_factory=list)
    rows: list[tuple[str, list[str]]] = field(default_factory=list)


def kind(lens: Lens) -> str:
    """`image`, `plane` for points of two dimensions, else `rows`."""
    spec = lens.data.spec
    return "image" if spec.kind == "image" else "plane" if spec.kind == "points" and spec.dim == 2 else "rows"


def _image(lens: Lens, x: Tensor, columns: int, gap: int = 1) -> str:
    return plots.data_uri(plots.png(plots.tiles(plots.pixels(x, lens.data), columns, gap)))


def _svg(chart: Chart) -> Any:
    from markupsafe import Markup

    return Markup(chart.render())  # user text is escaped in it


def table(lens: Lens, x: Tensor, names: Sequence[str], title: str = "", note: str = "") -> Figure:
    """Records as rows, in their owner's units."""
    shown = list(plots.columns(x, lens.data).items())
    more = len(shown) - MOST_COLUMNS
    shown = shown[:MOST_COLUMNS]
    rows = [(name, [_cell(values[i]) for _, values in shown]) for i, name in enumerate(names)]
    note = f"{note} {more} further columns are left out." if more > 0 else note
    return Figure(title, note.strip(), heads=[name for name, _ in shown], rows=rows)


def _cell(value: Any) -> str:
    if isinstance(value, (bool, np.bool_, str)) or value is None:
        return str(value)
    if isinstance(value, (int, np.integer)):
        return f"{int(value):,}"
    try:
        return number(float(value), 4)
    except (TypeError, ValueError):
        return str(value)


def _behind(chart: Chart, lens: Lens) -> tuple[str, str]:
    """Held-out records as small grey points; the names of the two columns."""
    held = plots.columns(lens.held.tensor()[:BACKGROUND], lens.data)
    (a, xs), (b, ys) = held.items()
    for x, y in zip(xs, ys):
        chart.point(float(x), float(y), "real faint", radius=1.8)
    chart.x_label, chart.y_label = a, b
    return a, b


def _xy(lens: Lens, x: Tensor) -> tuple[list[float], list[float]]:
    xs, ys = plots.columns(x, lens.data).values()
    return xs.astype(float).tolist(), ys.astype(float).tolist()


def _chart(describe: str) -> Chart:
    return Chart(describe, width=420, height=400)


# -- the parts ------------------------------------------------------------------------------------------------------------


def walks(lens: Lens, walk: Interpolation, title: str) -> list[Figure]:
    n, steps = len(walk.rows), walk.steps
    middle = walk.decoded.x.view(n, steps, *walk.decoded.x.shape[1:])
    ends = walk.ends.x.view(n, 2, *walk.ends.x.shape[1:]).to(middle)
    whole = torch.cat([ends[:, :1], middle, ends[:, 1:]], 1)
    if kind(lens) == "image":
        alt = f"{n} walks of {steps} steps between two held-out images, {title.lower()}"
        ticks = ["record", *([""] * steps), "record"]
        return [Figure(title, ticks=ticks, strips=[Strip("", _image(lens, whole.flatten(0, 1), steps + 2), alt)], css="half")]
    if kind(lens) == "plane":
        chart = _chart(f"{n} walks of {steps} steps between held-out records, {title.lower()}; grey: records.")
        _behind(chart, lens)
        for i in range(n):
            xs, ys = _xy(lens, middle[i])
            chart.line(xs, ys, f"c{i % 8}", f"walk {i + 1}")
            for x, y in zip(xs, ys):
                chart.point(x, y, f"c{i % 8}", radius=3)
            for x, y in zip(*_xy(lens, ends[i])):
                chart.point(x, y, f"c{i % 8}", str(i + 1), 8, f"record at an end of walk {i + 1}")
        return [Figure(title, svg=_svg(chart), note="Numbers stand at the records; small dots are the steps.", css="half")]
    names = ["record", *(f"{t:.2f}" for t in np.linspace(0, 1, steps)), "record"]
    return [table(lens, whole[i], names, f"{title}, walk {i + 1}") for i in range(min(n, 2))]


def sums(lens: Lens, found: Arithmetic) -> list[Figure]:
    n = len(found.rows)
    terms = found.terms.x.view(n, 3, *found.terms.x.shape[1:])
    whole = torch.cat([terms.to(found.decoded.x), found.decoded.x[:, None]], 1)
    if kind(lens) == "image":
        alt = f"{n} rows: records a, b and c, and what is decoded from a − b + c"
        return [Figure(ticks=["a", "− b", "+ c", "="], strips=[Strip("", _image(lens, whole.flatten(0, 1), 4), alt)], css="small")]
    names = ["a", "− b", "+ c", "="]
    return [table(lens, whole[i], names, f"Sum {i + 1}") for i in range(min(n, 3))]


def square(lens: Lens, g: Grid) -> list[Figure]:
    side = g.side
    if kind(lens) == "image":
        alt = f"{side} by {side} images, decoded at equally probable codes"
        return [Figure(strips=[Strip("", _image(lens, g.decoded.x, side, 0), alt)], css="square")]
    if kind(lens) == "plane":
        chart = _chart(f"The square of {side} by {side} codes, decoded: its lines among the records (grey).")
        _behind(chart, lens)
        x = g.decoded.x.view(side, side, -1)
        for i in range(side):
            for css, line in (("c0 thin", x[i]), ("c1 thin", x[:, i])):
                chart.line(*_xy(lens, line), css)
        legend = [(f"dimension {g.dims[0] + 1} moves", "c0"), (f"dimension {g.dims[1] + 1} moves", "c1")]
        return [Figure(svg=_svg(chart), legend=legend)]
    found = {k: v for k, v in plots.columns(g.decoded.x, lens.data).items() if plots.numeric(v)}
    out = []
    for name, values in list(found.items())[:6]:
        v = values.astype(float).reshape(side, side)
        low, high = float(np.nanmin(v)), float(np.nanmax(v))
        out.append(
            Figure(
                name,
                f"from {number(low)} (dark) to {number(high)}",
                "tile",
                strips=[Strip("", _heat(v), f"{name} over the square of codes")],
            )
        )
    return out


def _heat(v: np.ndarray) -> str:
    """A matrix as colours, one pixel for each entry."""
    from matplotlib import colormaps

    span = np.nanmax(v) - np.nanmin(v)
    unit = (v - np.nanmin(v)) / span if span > 0 else np.zeros_like(v)
    return plots.data_uri(plots.png((colormaps["viridis"](np.nan_to_num(unit))[:, :, :3] * 255).round().astype(np.uint8)))


def plane(c: Scatter, most: int = 1000) -> list[Figure]:
    chart = _chart(f"Codes of {len(c.points)} records: {c.how}.")
    points = c.points.double()
    # The plane's few outliers must not press the rest together.
    low, high = torch.quantile(points, 0.002, dim=0), torch.quantile(points, 0.998, dim=0)
    room = 0.06 * (high - low).clamp_min(1e-9)
    (x0, y0), (x1, y1) = (low - room).tolist(), (high + room).tolist()
    chart.x_range, chart.y_range = (x0, x1), (y0, y1)
    for i, (x, y) in enumerate(points[:most].tolist()):
        if x0 <= x <= x1 and y0 <= y <= y1:
            css = "real" if c.labels is None else f"c{int(c.labels[i]) % 10}"
            chart.point(x, y, f"{css} dot", radius=2.6, title="" if c.labels is None else str(c.classes[int(c.labels[i])]))
    legend = []
    if c.labels is not None:
        for k, name in enumerate(c.classes[:20]):
            mine = points[torch.from_numpy(c.labels == k)]
            if len(mine):
                x, y = mine.median(0).values.tolist()
                key = str(name) if len(str(name)) <= 2 else str(k + 1)
                chart.point(x, y, f"c{k % 10}", key, 9, f"median of {name}")
                legend.append((str(name) if key == str(name) else f"{key} {name}", f"c{k % 10}"))
    inside = "first component", "second component"
    chart.x_label, chart.y_label = inside if "components" in c.how else ("dimension 1", "dimension 2")
    return [Figure(svg=_svg(chart), legend=legend, css="broad", note="Discs stand at the median of each class." if legend else "")]


def _steps(lens: Lens, x: Tensor, rows: Sequence[tuple[str, str]], ticks: list[str], css: str = "") -> Figure:
    """Strips of images, x (rows, steps, *shape), each (label, alt)."""
    return Figure(ticks=ticks, css=css, strips=[Strip(label, _image(lens, x[i], x.shape[1]), alt) for i, (label, alt) in enumerate(rows)])


def traversal(lens: Lens, t: Traversal) -> list[Figure]:
    n, steps = t.values.shape
    x = t.decoded.x.view(n, steps, *t.decoded.x.shape[1:])
    names = [f"{k + 1}" for k in t.dims]
    if kind(lens) == "image":
        rows = [(f"dim. {name}", f"Dimension {name} from its 1 % to its 99 % quantile") for name in names]
        ticks = ["1 %", *[""] * (steps - 2), "99 %"]
        return [_steps(lens, x, rows, ticks, "labelled")]
    if kind(lens) == "plane":
        chart = _chart("One record with each dimension of its code moved; grey: records.")
        _behind(chart, lens)
        for i, name in enumerate(names):
            chart.line(*_xy(lens, x[i]), f"c{i % 8}", f"dimension {name}")
        return [Figure(svg=_svg(chart), legend=[(f"dimension {name}", f"c{i % 8}") for i, name in enumerate(names)])]
    return [
        table(lens, x[i], [number(float(v)) for v in t.values[i]], f"Dimension {name} (standard deviation {number(float(t.spread[k]))})")
        for i, (k, name) in enumerate(zip(t.dims[:3], names))
    ]


def edits(lens: Lens, found: Edit) -> list[Figure]:
    n, steps = len(found.rows), len(found.strengths)
    x = found.decoded.x.view(n, steps, *found.decoded.x.shape[1:])
    ticks = [f"{s:+g}".replace("-", "−") if s else "0" for s in found.strengths]
    how = "difference of means" if found.by == "difference" else "normal of the regression"
    title = f"{found.attribute.name}, by the {how}"
    if kind(lens) == "image":
        rows = [("", f"A record with {found.attribute.name} from {ticks[0]} to {ticks[-1]}, {how}") for _ in found.rows]
        figure = _steps(lens, x, rows, ticks, "half")
        figure.title = title
        return [figure]
    if kind(lens) == "plane":
        chart = _chart(f"{n} records moved along {found.attribute.name}; grey: records.")
        _behind(chart, lens)
        for i in range(n):
            xs, ys = _xy(lens, x[i])
            chart.line(xs, ys, f"c{i % 8}")
            for a, b, s in zip(xs, ys, found.strengths):
                chart.point(a, b, f"c{i % 8}", radius=6 if s == 1 else 3, title=f"strength {s:+g}")
        return [Figure(title, "The larger disc is strength +1.", svg=_svg(chart), css="half")]
    return [table(lens, x[0], ticks, title)] if found.by == "difference" else []


def pairs(lens: Lens, first: Shown, second: Shown, a: str, b: str) -> list[Figure]:
    n = len(first)
    if kind(lens) == "image":
        alt = f"{n} columns: {a} above, {b} beneath"
        x = torch.cat([first.x, second.x.to(first.x)])
        return [Figure(strips=[Strip("", _image(lens, x, n), alt)], css="strip")]
    if kind(lens) == "plane":
        chart = _chart(f"{n} of: {a}, with a line to its {b}; grey: records.")
        _behind(chart, lens)
        ones, others = _xy(lens, first.x), _xy(lens, second.x)
        for x, y, u, v in zip(*ones, *others):
            chart.line([x, u], [y, v], "c0")
            chart.point(u, v, "c1", radius=4, title=b)
            chart.point(x, y, "c0", radius=4, title=a)
        return [Figure(svg=_svg(chart), legend=[(a, "c0"), (b, "c1")])]
    x = torch.stack([first.x, second.x.to(first.x)], 1).flatten(0, 1)[:10]
    return [table(lens, x, [a, b] * (len(x) // 2))]


def gap(lens: Lens, g: Gaps) -> list[Figure]:
    out = pairs(lens, g.decoded, g.nearest, "decoded from a gap", "nearest training record")
    if kind(lens) == "image":
        out[0].ticks = [f"{i}–{j}" if len(i + j) <= 6 else "" for i, j in g.between]
    places = [[f"{i} – {j}", f"{number(float(e))} ×", f"{number(float(d))} ×"] for (i, j), e, d in zip(g.between, g.emptiness, g.distance)]
    heads = ["from the nearest code", "from the nearest record"]
    out.append(Figure("Distances, over those of held-out records", heads=heads, rows=[(row[0], row[1:]) for row in places]))
    return out


def steepness(found: Lipschitz) -> Figure:
    values = found.values.double().numpy()
    counts, edges = np.histogram(values, 24)
    chart = Chart(
        f"Histogram of the decoder's largest singular value at {len(values)} codes: median {number(found.median)}.",
        "largest singular value",
        "codes",
        width=420,
        height=240,
    )
    chart.line(np.repeat(edges, 2)[1:-1].tolist(), np.repeat(counts, 2).tolist(), "c0")
    chart.guide("x", found.median, "median")
    chart.guide("x", found.high, "95th percentile")
    return Figure(svg=_svg(chart), note="Dashed: the median and the 95th percentile.")


def shift(lens: Lens, p: PixelShift) -> list[Figure]:
    parts = [("image", p.x), ("shifted", p.moved), *([("rebuilt", p.again)] if p.again is not None else [])]
    x = torch.stack([part.to(p.x) for _, part in parts])
    return [_steps(lens, x, [(name, f"{len(p.x)} images: {name}") for name, _ in parts], [], "labelled")]
