"""Pictures of records for the report, without frames or text: tiles of images, scatters, densities.

Figures are made without pyplot, so nothing global changes. Colours are those of Okabe & Ito, which colour-blind readers can tell apart.
"""

import base64
import io
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..data import Data

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b98200", "#3a97c4", "#8c6bb1", "#7a7a00")


# -- images ---------------------------------------------------------------------------------------------------------


def pixels(x: Tensor, data: Data) -> np.ndarray:
    """Image records x (n, C, H, W) as uint8 (n, H, W, 3); channels beyond three are averaged to grey."""
    support = data.spec.support
    if support is not None and support.name != "real":
        v = x.double() / ((support.size or 2) - 1)
    else:
        seen = data.train.x[:1000].double()
        low, high = float(seen.min()), float(seen.max())
        v = (x.double() - low) / max(high - low, 1e-12)
    if v.shape[1] != 3:
        v = v.mean(1, keepdim=True).expand(-1, 3, -1, -1)
    return (v.nan_to_num(0.0).clamp(0, 1) * 255).round().to(torch.uint8).movedim(1, -1).cpu().numpy()


def tiles(images: np.ndarray, columns: int | None = None, gap: int = 1) -> np.ndarray:
    """Images (n, H, W, 3) side by side, row by row, as one picture (uint8); the gaps are transparent in its fourth channel."""
    n, height, width, _ = images.shape
    columns = columns or math.ceil(math.sqrt(n))
    rows = math.ceil(n / columns)
    canvas = np.zeros((rows * (height + gap) - gap, columns * (width + gap) - gap, 4), dtype=np.uint8)
    for i, image in enumerate(images):
        y, x = (i // columns) * (height + gap), (i % columns) * (width + gap)
        canvas[y : y + height, x : x + width, :3] = image
        canvas[y : y + height, x : x + width, 3] = 255
    return canvas


def png(canvas: np.ndarray) -> bytes:
    """A picture (H, W, 3 or 4) as PNG bytes, pixel by pixel."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(canvas).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


# -- points and columns ---------------------------------------------------------------------------------------------


def columns(x: Tensor, data: Data) -> dict[str, np.ndarray]:
    """The columns of table or points records in the user's own units, by name; images and sequences have none."""
    if data.spec.kind in ("image", "sequence"):
        return {}
    user = data.schema.decode(x)
    if hasattr(user, "columns"):
        return {str(name): np.asarray(user[name].to_numpy()) for name in user.columns}
    array = np.asarray(user)
    return {f"x{i + 1}": array[:, i] for i in range(array.shape[1])}


def numeric(values: np.ndarray) -> bool:
    return values.dtype.kind in "iuf"


def scatter(
    x: np.ndarray, y: np.ndarray, extent: tuple[float, float, float, float] | None = None, *, colour: str = PALETTE[0], size: float = 3.0
) -> "Figure":
    """Points without axes, on nothing: `extent` is (left, right, bottom, top), the same for pictures that are compared."""
    figure = _figure(3.0, 3.0)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.scatter(x, y, s=size, c=colour, alpha=0.55, linewidths=0)
    axes.set_axis_off()
    if extent is not None:
        axes.set_xlim(*extent[:2])
        axes.set_ylim(*extent[2:])
    return figure


def density(log_prob: np.ndarray) -> "Figure":
    """A density on a grid (rows from below) as brightness: p to the power 1/2, so that low parts show too."""
    figure = _figure(3.0, 3.0)
    axes = figure.add_axes((0, 0, 1, 1))
    finite = np.where(np.isfinite(log_prob), log_prob, -np.inf)
    top = finite.max() if np.isfinite(finite.max()) else 0.0
    axes.imshow(np.exp(0.5 * (finite - top)), origin="lower", cmap="magma", aspect="auto", interpolation="bilinear", vmin=0, vmax=1)
    axes.set_axis_off()
    return figure


def window(data: Data) -> tuple[Tensor, Tensor]:
    """The corners (D,) of the part of space that pictures show: the training records' range and 15 % around."""
    x = data.train.tensor()
    low, high = x.amin(0), x.amax(0)
    return low - 0.15 * (high - low), high + 0.15 * (high - low)


def grid_of(data: Data, side: int) -> Tensor:
    """The points (side^2, 2), row by row from below, on which 2-D densities are drawn."""
    low, high = window(data)
    across, up = (torch.linspace(float(low[i]), float(high[i]), side) for i in (0, 1))
    return torch.stack([across.repeat(side), up.repeat_interleave(side)], 1)


# -- writing --------------------------------------------------------------------------------------------------------


def _figure(width: float, height: float) -> "Figure":
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    return figure


def to_png(figure: "Figure", *, dpi: int = 150, transparent: bool = False) -> bytes:
    """A figure as PNG bytes, the same bytes for the same figure."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, transparent=transparent, metadata={"Software": None})
    return buffer.getvalue()


def data_uri(content: bytes) -> str:
    """PNG bytes as text that an `src` takes."""
    return "data:image/png;base64," + base64.b64encode(content).decode("ascii")


def plain(value: Any) -> str:
    """A category's name, as text."""
    return "missing" if value is None or (isinstance(value, float) and math.isnan(value)) else str(value)
