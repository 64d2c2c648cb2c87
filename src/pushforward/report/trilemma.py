"""Sample quality, coverage, speed: where each model stands between the three, and what it costs."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..metrics import Estimate
from .leaderboard import Entry
from .svg import Chart
from .words import KIND, MARK, counted, duration, memory, merit, number, with_spread

QUALITY, COVERAGE, SPEED = "density", "coverage", "samples_per_second"
CORNERS = (QUALITY, COVERAGE, SPEED)


@dataclass(frozen=True)
class Place:
    """A model among the three corners, with what stands beside it."""

    entry: Entry
    quality: Estimate
    coverage: Estimate
    speed: Estimate | None
    front: bool
    """Whether no other model is at least as good in all three and better in one, by the means."""
    beside: tuple[tuple[str, str], ...]
    """(what, how much) of speed, network evaluations, likelihood, training and memory."""


def places(done: Sequence[Entry]) -> list[Place]:
    """The models whose samples were compared with records."""
    found = [e for e in done if e.runs(QUALITY) and e.runs(COVERAGE)]
    ahead = front(found)
    out = []
    for e in found:
        quality, coverage = e.figure(QUALITY), e.figure(COVERAGE)
        assert quality is not None
        assert coverage is not None
        out.append(Place(e, quality, coverage, e.figure(SPEED), e.key in ahead, _beside(e)))
    return out


def front(done: Sequence[Entry]) -> set[str]:
    """The keys of the models that no other dominates in quality, coverage and speed (the Pareto front, by the means)."""

    def merits(e: Entry) -> tuple[float, ...]:
        return tuple(merit(name, f.value) if (f := e.figure(name)) is not None else -math.inf for name in CORNERS)

    scores = {e.key: merits(e) for e in done}

    def dominated(key: str) -> bool:
        own = scores[key]
        return any(all(o >= s for o, s in zip(other, own)) and other != own for other in scores.values())

    return {key for key in scores if not dominated(key)}


def _beside(e: Entry) -> tuple[tuple[str, str], ...]:
    speed, nfe, log_prob, bits = (e.figure(n) for n in (SPEED, "nfe", "log_prob", "bits_per_dim"))
    seconds, held = (e.figure(n) for n in ("training_seconds", "peak_memory"))
    if bits is not None:
        likelihood = f"{'≤ ' if e.kind == 'bound' else MARK[e.kind]}{with_spread(bits)} bits/dim"
    else:
        likelihood = f"{MARK[e.kind]}{with_spread(log_prob, 5)} nats" if log_prob is not None else "none"
    return (
        ("samples/s", counted(speed.value) if speed else "–"),
        ("NFE", f"{nfe.value:,.0f}" if nfe else "–"),
        ("likelihood", likelihood + (f", {KIND[e.kind]}" if log_prob is not None else "")),
        ("training", duration(seconds.value) if seconds else "–"),
        ("memory", memory(held.value) if held else "–"),
    )


# -- pictures -------------------------------------------------------------------------------------------------------


def pictures(done: Sequence[Entry], yardstick: dict[str, Estimate], colours: dict[str, str]) -> list[tuple[str, Chart]]:
    """(css class, chart): the plane of quality and coverage, then each of the two against speed."""
    found = places(done)
    words = "; ".join(map(_told, found))
    up = _span([p.quality for p in found] + [yardstick[n] for n in yardstick if n == QUALITY], 1.0)
    across = _span([p.coverage for p in found] + [yardstick[n] for n in yardstick if n == COVERAGE], 1.0)
    # Drawn for wide and for narrow pages: a picture that is scaled down takes its words with it.
    planes = [
        Chart(
            f"Quality against coverage; wider haloes sample faster, ringed models are on the front. {words}.",
            "coverage",
            "quality (density)",
        )
        for _ in range(2)
    ]
    for chart, (width, height) in zip(planes, ((600, 460), (340, 320))):
        chart.width, chart.height, chart.x_range, chart.y_range = width, height, across, up
    by_speed = [
        Chart(f"{what} against speed of sampling. {words}.", "samples per second", label, True, width=340, height=225, y_range=limits)
        for what, label, limits in (("Quality", "quality (density)", up), ("Coverage", "coverage", across))
    ]
    if QUALITY in yardstick and COVERAGE in yardstick:
        quality, coverage = yardstick[QUALITY], yardstick[COVERAGE]
        title = f"real records: quality {number(quality.value)}, coverage {number(coverage.value)}"
        for plane in planes:
            plane.guide("y", quality.value, title)
            plane.guide("x", coverage.value, title)
            plane.point(coverage.value, quality.value, "real", "", 5, title, across=_ends(coverage), up=_ends(quality), diamond=True)
        by_speed[0].guide("y", quality.value, title)
        by_speed[1].guide("y", coverage.value, title)
    for p in sorted(found, key=_halo, reverse=True):  # small haloes lie on large ones
        css, key, told = colours[p.entry.key], p.entry.key, _told(p)
        for plane in planes:
            ends = {"across": _ends(p.coverage), "up": _ends(p.quality)}
            plane.point(p.coverage.value, p.quality.value, css, key, 8, told, **ends, ring=p.front, halo=_halo(p))
        if p.speed is not None:
            for chart, figure in zip(by_speed, (p.quality, p.coverage)):
                chart.point(p.speed.value, figure.value, css, key, 8, told, across=_ends(p.speed), up=_ends(figure), ring=p.front)
    named = [("plane broad", planes[0]), ("plane slim", planes[1]), ("", by_speed[0]), ("", by_speed[1])]
    return [(css, chart) for css, chart in named if not chart.empty]


def _told(p: Place) -> str:
    beside = ", ".join(f"{what} {much}" for what, much in p.beside)
    front = ", on the front" if p.front else ""
    return f"{p.entry.key}, {p.entry.label}: quality {with_spread(p.quality)}, coverage {with_spread(p.coverage)}, {beside}{front}"


def _ends(figure: Estimate) -> tuple[float, float] | None:
    return (figure.low, figure.high) if figure.known else None


def _span(figures: Sequence[Estimate], best: float) -> tuple[float, float]:
    """An axis that holds the values with their intervals, as far as these are no wider than the values, and the best value."""
    lows = [max(f.low, f.value - 0.25) if f.known else f.value for f in figures] + [best]
    highs = [min(f.high, f.value + 0.25) if f.known else f.value for f in figures] + [best]
    room = 0.06 * max(max(highs) - min(lows), 0.1)
    return min(lows) - room, max(highs) + room


def _halo(p: Place) -> float:
    """The radius of a halo: a decade of speed is 3 pixels, from 10 at one sample a second."""
    return _radius(p.speed.value) if p.speed is not None else 0.0


def _radius(speed: float) -> float:
    return min(30.0, max(9.0, 10.0 + 3.0 * math.log10(max(speed, 1e-3))))


def scale() -> list[tuple[str, float]]:
    """(samples per second, diameter) of the discs that a legend shows."""
    return [(text, 2 * _radius(speed)) for text, speed in (("1", 1.0), ("100", 1e2), ("10,000", 1e4))]


def sentence(done: Sequence[Entry]) -> str:
    """Which models are on the front."""
    found = places(done)
    ahead = [p.entry.label for p in found if p.front]
    if len(found) < 2:
        return ""
    from .words import listed

    if len(ahead) == len(found):
        return "Every model is on the front (ringed): of no two is one at least as good in all three."
    return f"On the front (ringed), where no other model is at least as good in all three: {listed(ahead)}."


def rows(done: Sequence[Entry]) -> list[tuple[Entry, bool, Any]]:
    """(entry, on the front, what stands beside) for the table under the picture."""
    return [
        (p.entry, p.front, [("quality", with_spread(p.quality)), ("coverage", with_spread(p.coverage)), *p.beside]) for p in places(done)
    ]
