"""Small charts as inline SVG: they take their colours from the page, so that light and dark both work, and need no script."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

LEFT, RIGHT, TOP, BOTTOM = 52, 14, 12, 42


@dataclass(frozen=True)
class Mark:
    """A disc, with a letter where `key` is given and whiskers where intervals are; `ring` sets it off, a diamond is no model."""

    x: float
    y: float
    css: str
    key: str = ""
    radius: float = 9.0
    title: str = ""
    across: tuple[float, float] | None = None
    """The ends of the horizontal whisker."""
    up: tuple[float, float] | None = None
    ring: bool = False
    diamond: bool = False
    halo: float = 0.0
    """Radius of a faint disc beneath, for a third quantity."""


@dataclass
class Chart:
    """An x-y chart of `width` x `height` CSS pixels; marks carry a class (`c0` ... `c7`, `real`) that the style sheet colours."""

    describe: str
    """What the picture shows, for those who do not see it."""
    x_label: str = ""
    y_label: str = ""
    x_log: bool = False
    y_log: bool = False
    width: int = 340
    height: int = 250
    x_names: Sequence[str] | None = None
    """Names of the positions 0, 1, 2 ... instead of a scale."""
    x_range: tuple[float, float] | None = None
    y_range: tuple[float, float] | None = None
    _lines: list[tuple[list[tuple[float, float]], str, str]] = field(default_factory=list)
    _points: list[Mark] = field(default_factory=list)
    _guides: list[tuple[str, float, str]] = field(default_factory=list)

    def line(self, xs: Sequence[float], ys: Sequence[float], css: str, title: str = "") -> None:
        """A line through the finite points (on logarithmic axes, the positive ones)."""
        points = [(x, y) for x, y in zip(xs, ys) if _good(x, self.x_log) and _good(y, self.y_log)]
        if points:
            self._lines.append((points, css, title))

    def point(self, x: float, y: float, css: str, key: str = "", radius: float = 9.0, title: str = "", **further: Any) -> None:
        """A `Mark`, left out where an axis cannot hold it."""
        if _good(x, self.x_log) and _good(y, self.y_log):
            self._points.append(Mark(x, y, css, key, radius, title, **further))

    def guide(self, axis: str, value: float, title: str = "") -> None:
        """A dashed line across the chart at a value of the axis `x` or `y`."""
        self._guides.append((axis, value, title))

    @property
    def empty(self) -> bool:
        return not self._lines and not self._points

    def render(self) -> str:
        """The SVG element as text."""
        xs = [x for points, _, _ in self._lines for x, _ in points] + [x for m in self._points for x in (m.x, *_ends(m.across, self.x_log))]
        ys = [y for points, _, _ in self._lines for _, y in points] + [y for m in self._points for y in (m.y, *_ends(m.up, self.y_log))]
        x_axis = _Axis.over(xs, self.x_log, self.x_range, LEFT, self.width - RIGHT, pad=0.08 if self._points else 0.0)
        y_axis = _Axis.over(ys, self.y_log, self.y_range, self.height - BOTTOM, TOP, pad=0.1 if self._points else 0.05)
        if self.x_names is not None:
            x_axis = _Axis(-0.5, len(self.x_names) - 0.5, False, LEFT, self.width - RIGHT)
        out = [
            f'<svg class="chart" viewBox="0 0 {self.width} {self.height}" width="{self.width}" height="{self.height}" role="img" '
            f'aria-label="{escape(self.describe)}">'
        ]
        bottom, right = self.height - BOTTOM, self.width - RIGHT
        for value, text in y_axis.ticks(5):
            y = y_axis(value)
            out.append(f'<line class="grid" x1="{LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
            out.append(f'<text class="tick" x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{text}</text>')
        names = [(float(i), escape(_short(t))) for i, t in enumerate(self.x_names)] if self.x_names is not None else x_axis.ticks(5)
        for value, text in names:
            out.append(f'<text class="tick" x="{x_axis(value):.1f}" y="{bottom + 16}" text-anchor="middle">{text}</text>')
        out.append(f'<line class="axis" x1="{LEFT}" x2="{right}" y1="{bottom}" y2="{bottom}"/>')
        out.append(f'<text class="label" x="{(LEFT + right) / 2}" y="{self.height - 6}" text-anchor="middle">{escape(self.x_label)}</text>')
        if self.y_label:
            middle = (TOP + bottom) / 2
            out.append(
                f'<text class="label" transform="translate(12 {middle}) rotate(-90)" text-anchor="middle">{escape(self.y_label)}</text>'
            )
        for points, css, title in self._lines:
            path = " ".join(f"{x_axis(x):.1f},{y_axis(y):.1f}" for x, y in points)
            out.append(f'<polyline class="line {css}" points="{path}"><title>{escape(title)}</title></polyline>')
        for axis, value, title in self._guides:
            at = x_axis(value) if axis == "x" else y_axis(value)
            ends = (
                f'x1="{at:.1f}" x2="{at:.1f}" y1="{TOP}" y2="{bottom}"'
                if axis == "x"
                else f'x1="{LEFT}" x2="{right}" y1="{at:.1f}" y2="{at:.1f}"'
            )
            if (LEFT <= at <= right) if axis == "x" else (TOP <= at <= bottom):
                out.append(f'<line class="guide" {ends}><title>{escape(title)}</title></line>')
        out.extend(self._marks(x_axis, y_axis))
        return "".join([*out, "</svg>"])

    def _marks(self, x_axis: "_Axis", y_axis: "_Axis") -> list[str]:
        """Haloes beneath all, then whiskers, then discs with letters, which give way to each other: a dot keeps their place."""
        bottom, right = self.height - BOTTOM, self.width - RIGHT
        places = [(x_axis(m.x), y_axis(m.y)) for m in self._points]
        lettered = [p for p, m in zip(places, self._points) if m.key]
        moved = iter(_spread(lettered, (LEFT + 12, right - 12), (TOP + 12, bottom - 12)))
        haloes, whiskers, discs = [], [], []
        for m, (px, py) in zip(self._points, places):
            if m.halo:
                haloes.append(f'<circle class="halo {m.css}" cx="{px:.1f}" cy="{py:.1f}" r="{m.halo:.1f}"/>')
            for ends, axis, low, high in ((m.across, x_axis, LEFT, right), (m.up, y_axis, TOP, bottom)):
                if ends is not None and all(math.isfinite(e) for e in ends):
                    a, b = (min(max(axis(max(e, 1e-300) if axis.log else e), low), high) for e in ends)
                    at = f'x1="{a:.1f}" x2="{b:.1f}" y1="{py:.1f}" y2="{py:.1f}"'
                    at = at if axis is x_axis else f'x1="{px:.1f}" x2="{px:.1f}" y1="{a:.1f}" y2="{b:.1f}"'
                    whiskers.append(f'<line class="whisker {m.css}" {at}/>')
            x, y, r = px, py, m.radius
            if m.key:
                x, y = next(moved)
                if math.hypot(x - px, y - py) > 3:
                    whiskers.append(f'<line class="whisker {m.css}" x1="{px:.1f}" y1="{py:.1f}" x2="{x:.1f}" y2="{y:.1f}"/>')
                    whiskers.append(f'<g class="point {m.css}"><circle cx="{px:.1f}" cy="{py:.1f}" r="3.5"/></g>')
                else:
                    x, y = px, py
            shape = f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{r:.1f}"/>'
            if m.diamond:
                shape = f'<polygon points="{x - r:.1f} {y:.1f}, {x:.1f} {y - r:.1f}, {x + r:.1f} {y:.1f}, {x:.1f} {y + r:.1f}"/>'
            ring = f'<circle class="ring" cx="{x:.1f}" cy="{y:.1f}" r="{r + 2.5:.1f}"/>' if m.ring else ""
            letter = f'<text class="key" x="{x:.1f}" y="{y + 4:.1f}" text-anchor="middle">{escape(m.key)}</text>' if m.key else ""
            discs.append(f'<g class="point {m.css}"><title>{escape(m.title)}</title>{ring}{shape}{letter}</g>')
        return [*haloes, *whiskers, *discs]


def _spread(
    places: Sequence[tuple[float, float]], across: tuple[float, float], up: tuple[float, float], apart: float = 23.0
) -> list[tuple[float, float]]:
    """The places of letters, those that were closer than `apart` pushed from each other."""
    at = [list(p) for p in places]
    for _ in range(60):
        moved = False
        for i, a in enumerate(at):
            for j, b in enumerate(at[i + 1 :], i + 1):
                dx, dy = b[0] - a[0], b[1] - a[1]
                gap = math.hypot(dx, dy)
                if gap < apart:
                    if gap < 1e-6:  # one place: along a direction of their own
                        dx, dy, gap = math.cos(i + 2.0 * j), math.sin(i + 2.0 * j), 1.0
                    push = (apart - math.hypot(b[0] - a[0], b[1] - a[1]) + 0.1) / 2 / gap
                    a[0], a[1], b[0], b[1] = a[0] - dx * push, a[1] - dy * push, b[0] + dx * push, b[1] + dy * push
                    moved = True
        for p, was in zip(at, places):
            if math.hypot(p[0] - was[0], p[1] - was[1]) > 0:
                p[0], p[1] = min(max(p[0], across[0]), across[1]), min(max(p[1], up[0]), up[1])
        if not moved:
            break
    return [(p[0], p[1]) for p in at]


@dataclass(frozen=True)
class _Axis:
    low: float
    high: float
    log: bool
    start: float
    end: float

    @classmethod
    def over(cls, values: Sequence[float], log: bool, fixed: tuple[float, float] | None, start: float, end: float, pad: float) -> "_Axis":
        if fixed is not None:
            return cls(*fixed, log, start, end)
        low, high = (min(values), max(values)) if values else (0.0, 1.0)
        if log:
            low, high = math.log10(low), math.log10(high)
        if high - low < 1e-12 * max(1.0, abs(high)):
            low, high = low - 0.5, high + 0.5
        room = pad * (high - low)
        low, high = low - room, high + room
        return cls(10**low, 10**high, True, start, end) if log else cls(low, high, False, start, end)

    def __call__(self, value: float) -> float:
        low, high = (math.log10(self.low), math.log10(self.high)) if self.log else (self.low, self.high)
        at = math.log10(value) if self.log else value
        return self.start + (at - low) / (high - low) * (self.end - self.start)

    def ticks(self, most: int) -> list[tuple[float, str]]:
        if self.log:
            decades = range(math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9) + 1)
            step = max(1, -(-len(decades) // most))
            shown = [(10.0**d, _power(d)) for d in decades][::step]
            if len(shown) >= 2:
                return shown
            return [(v, _plain(v)) for v in (self.low * 1.05, math.sqrt(self.low * self.high), self.high / 1.05)]
        rough = (self.high - self.low) / most
        size = 10.0 ** math.floor(math.log10(rough))
        step = next(m * size for m in (1, 2, 5, 10) if m * size >= rough)
        first = math.ceil(self.low / step - 1e-9)
        decimals = max(0, -math.floor(math.log10(step) + 1e-9))
        last = math.floor(self.high / step + 1e-9)
        return [(i * step, f"{i * step + 0.0:,.{decimals}f}".replace("-", "−")) for i in range(first, last + 1)]


def _ends(whisker: tuple[float, float] | None, log: bool) -> list[float]:
    return [e for e in whisker or () if _good(e, log)]


def _good(value: float | None, log: bool) -> bool:
    return value is not None and math.isfinite(value) and (value > 0 or not log)


def _power(d: int) -> str:
    return {-2: "0.01", -1: "0.1", 0: "1", 1: "10", 2: "100", 3: "1,000", 4: "10⁴"}.get(
        d, "10" + str(d).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    )


def _plain(value: float) -> str:
    return f"{value:.2g}" if value < 100 else f"{value:,.0f}"


def _short(text: str, most: int = 8) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
