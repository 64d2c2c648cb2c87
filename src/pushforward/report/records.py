"""Pictures of records and samples: tiles of images, planes of two columns, histograms of all."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from .. import store
from ..errors import RunError
from . import plots
from .leaderboard import Entry
from .svg import Chart
from .words import number

if TYPE_CHECKING:
    from ..compare import Comparison

TILES = 40
"""Images in a grid."""
NEIGHBOURS = 10
"""Samples that are shown with their nearest training records."""


@dataclass(frozen=True)
class Picture:
    title: str
    src: str
    alt: str
    note: str = ""


def left(e: Entry) -> dict[str, Tensor]:
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


def images(comparison: "Comparison", done: Sequence[Entry], samples: dict[str, dict[str, Tensor]]) -> list[Picture]:
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


def copies(comparison: "Comparison", done: Sequence[Entry], samples: dict[str, dict[str, Tensor]]) -> list[tuple[Entry, Picture, str]]:
    """(entry, samples above their nearest training records, verdict of the copying test)."""
    if comparison.data.spec.kind != "image":
        return []
    out = []
    for e in done:
        found = samples[e.key]
        if "samples" not in found or "nearest" not in found:
            continue
        shown = ["samples", "nearest", *(["nearest_learned"] if "nearest_learned" in found else [])]
        n = min(NEIGHBOURS, len(found["nearest"]), len(found["samples"]))
        pixels = plots.pixels(torch.cat([found[k][:n].double() for k in shown]), comparison.data)
        what = "in pixels" + (", then in learned features" if len(shown) == 3 else "")
        alt = f"{n} samples of {e.label}; beneath each the nearest training record {what}"
        verdict = next((v.copying for v in e.done if v.copying), "")
        out.append((e, Picture(e.label, plots.data_uri(plots.png(plots.tiles(pixels, n))), alt, e.key), verdict))
    return out


def planes(comparison: "Comparison", done: Sequence[Entry], samples: dict[str, dict[str, Tensor]]) -> dict[str, Any]:
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


def histograms(comparison: "Comparison", done: Sequence[Entry], samples: dict[str, dict[str, Tensor]]) -> list[tuple[str, str]]:
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
