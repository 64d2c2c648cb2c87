"""Pictures of records, drawn with matplotlib on figures of their own (no global state, no window)."""

import math
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from .data import Schema
from .data.sequences import LOWEST
from .data.spec import DataSpec
from .store import atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK = "#3b5b92"


def draw_samples(x: Tensor, schema: Schema | None, spec: DataSpec, path: Path) -> None:
    """Write a picture of the records x (n, *spec.shape): a grid of images, texts, pianorolls, a scatter of points, or histograms."""
    if spec.kind == "sequence":
        figure = sequences(x, schema, spec)
    else:
        figure = image_grid(x, spec) if spec.kind == "image" else scatter(x, schema) if spec.dim == 2 else histograms(x, schema)
    atomic(path, lambda draft: figure.savefig(draft, format="png", dpi=150, bbox_inches="tight"))


def _figure(width: float, height: float, rows: int = 1, columns: int = 1) -> "tuple[Figure, np.ndarray]":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, np.atleast_1d(figure.subplots(rows, columns, squeeze=False).ravel())


def image_grid(x: Tensor, spec: DataSpec) -> "Figure":
    """All images in one near-square grid, grey or colour, each level at its own brightness."""
    support = spec.support
    top = 1.0 if support is None or support.size is None else support.size - 1
    low, high = (float(x.min()), float(x.max())) if support is not None and support.name == "real" else (0.0, top)
    images = ((x - low) / max(high - low, 1e-12)).clamp(0, 1).permute(0, 2, 3, 1).numpy()
    n, h, w, channels = images.shape
    columns = math.ceil(math.sqrt(n * h / w))
    rows = math.ceil(n / columns)
    sheet = np.full((rows * (h + 1) - 1, columns * (w + 1) - 1, channels), 0.5, images.dtype)
    for i, image in enumerate(images):
        r, c = divmod(i, columns)
        sheet[r * (h + 1) : r * (h + 1) + h, c * (w + 1) : c * (w + 1) + w] = image
    figure, (axis,) = _figure(6, 6 * sheet.shape[0] / sheet.shape[1])
    axis.imshow(sheet.squeeze(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axis.axis("off")
    return figure


def sequences(x: Tensor, schema: Schema | None, spec: DataSpec, most: int = 8) -> "Figure":
    """The first texts, line by line, or the first pieces as pianorolls: time to the right, pitch upwards."""
    x = x[:most]
    if len(spec.shape) == 2:
        return pianorolls(x, spec.shape[1] - spec.ends)
    texts = [f"{row.long().tolist()}" for row in x] if schema is None else schema.decode(x)
    lines = []
    for text in texts:
        found = [piece for line in text.split("\n") for piece in (textwrap.wrap(line, 88, replace_whitespace=False) or [""])]
        lines += [*found[:10], "..."] if len(found) > 10 else found
        lines.append("─" * 20)
    figure, (axis,) = _figure(8, 0.13 * len(lines) + 0.3)
    axis.axis("off")
    # A dollar sign would begin a formula.
    shown = "\n".join(lines[:-1]).replace("$", r"\$")
    axis.text(0, 1, shown, family="monospace", fontsize=8, va="top", transform=axis.transAxes)
    return figure


def pianorolls(x: Tensor, keys: int) -> "Figure":
    """Pieces (n, T, keys or keys + 1): notes black, what is after the end grey."""
    over = x[..., keys:].any(2)
    steps = max(1, int((~over).sum(1).max()))
    bits = x.flatten(0, 1).amax(0)[:keys].nonzero().flatten().tolist() or [0]
    low, high = max(0, bits[0] - 2), min(keys, bits[-1] + 3)
    figure, axes = _figure(7, 1.1 * len(x) + 0.3, len(x))
    octaves = [k for k in range(low, high) if (k + LOWEST) % 12 == 0]  # the Cs, of which MIDI note 60 is C4
    for axis, roll, ended in zip(axes, x[:, :steps, low:high], over[:, :steps], strict=True):
        shade = (1 - roll).where(~ended[:, None], 0.9).T.numpy()
        axis.imshow(shade, cmap="gray", vmin=0, vmax=1, aspect="auto", origin="lower", interpolation="nearest")
        axis.set_yticks([k - low for k in octaves], [f"C{(k + LOWEST) // 12 - 1}" for k in octaves], fontsize=6)
        axis.set_xticks([])
    axes[-1].set_xlabel(f"step 1 to {steps}", fontsize=8)
    return figure


def scatter(x: Tensor, schema: Schema | None) -> "Figure":
    """Two-dimensional records as points, in the user's units."""
    columns = _columns(x, schema)
    figure, (axis,) = _figure(5, 5)
    (name_a, a), (name_b, b) = columns
    axis.scatter(a, b, s=4, c=INK, linewidths=0, alpha=0.6)
    axis.set(xlabel=name_a, ylabel=name_b)
    if all(np.issubdtype(np.asarray(v).dtype, np.number) for v in (a, b)):
        axis.set_aspect("equal", adjustable="datalim")
    return figure


def histograms(x: Tensor, schema: Schema | None, most: int = 12) -> "Figure":
    """One histogram (or bar chart) for each of the first `most` columns."""
    shown = _columns(x.flatten(1), schema)[:most]
    columns = min(4, len(shown))
    rows = math.ceil(len(shown) / columns)
    figure, axes = _figure(2.6 * columns, 2.2 * rows, rows, columns)
    for axis in axes[len(shown) :]:
        axis.axis("off")
    for axis, (name, values) in zip(axes, shown, strict=False):
        if np.issubdtype(values.dtype, np.number) and values.dtype != bool:
            axis.hist(values.astype(float), bins=30, color=INK)
        else:
            names, counts = np.unique(values.astype(str), return_counts=True)
            order = np.argsort(-counts)[:10]
            axis.barh([n[:18] for n in names[order]][::-1], counts[order][::-1], color=INK)
        axis.set_title(str(name), fontsize=8)
        axis.tick_params(labelsize=6)
    return figure


def _columns(x: Tensor, schema: Schema | None) -> list[tuple[str, np.ndarray]]:
    """Each column's name and values in the user's form."""
    records: Any = x if schema is None else schema.decode(x)
    if hasattr(records, "columns"):
        return [(str(name), np.asarray(records[name])) for name in records.columns]
    array = np.asarray(records).reshape(len(x), -1)
    return [(f"column {i}", array[:, i]) for i in range(array.shape[1])]
