"""Small charts as inline SVG: they take their colours from the page, so that light and dark both work, and need no script."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

LEFT, RIGHT, TOP, BOTTOM = 52, 14, 12, 42


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
    _points: list[tuple[float, float, str, str, float, str]] = field(default_factory=list)

    def line(self, xs: Sequence[float], ys: Sequence[float], css: str, title: str = "") -> None:
        """A line through the finite points (on logarithmic axes, the positive ones)."""
        points = [(x, y) for x, y in zip(xs, ys) if _good(x, self.x_log) and _good(y, self.y_log)]
        if points:
            self._lines.append((points, css, title))

    def point(self, x: float, y: float, css: str, key: str = "", radius: float = 9.0, title: str = "") -> None:
        """A disc, with a letter inside when `key` is given."""
        if _good(x, self.x_log) and _good(y, self.y_log):
            self._points.append((x, y, css, key, radius, title))

    @property
    def empty(self) -> bool:
        return not self._lines and not self._points

    def render(self) -> str:
        """The SVG element as text."""
        xs = [x for points, _, _ in self._lines for x, _ in points] + [p[0] for p in self._points]
        ys = [y for points, _, _ in self._lines for _, y in points] + [p[1] for p in self._points]
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
        for x, y, css, key, radius, title in self._points:
            px, py = x_axis(x), y_axis(y)
            letter = f'<text class="key" x="{px:.1f}" y="{py + 4:.1f}" text-anchor="middle">{escape(key)}</text>' if key else ""
            out.append(
                f'<g class="point {css}"><title>{escape(title)}</title><circle cx="{px:.1f}" cy="{py:.1f}" r="{radius:.1f}"/>{letter}</g>'
            )
        return "".join([*out, "</svg>"])


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
