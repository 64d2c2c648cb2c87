"""What a comparison looks like: a leaderboard for the terminal, pictures, and one self-contained HTML page."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..compare import Comparison

__all__ = ["rewrite", "write_report"]


def write_report(comparison: "Comparison", path: str | Path) -> Path:
    """Write the comparison as one HTML file that opens offline and makes no request. Raises `RunError` when it cannot be written."""
    from ..store import atomic
    from .page import render

    path = Path(path)
    text = render(comparison)

    def write(draft: Path) -> None:
        draft.write_text(text, encoding="utf-8")

    atomic(path, write)
    return path


def rewrite(path: str | Path) -> Path:
    """Write the report of a comparison's folder again, from what it holds; nothing is trained. Gives the page's path.

    Raises `RunError` when the folder holds no comparison, or a file of it is damaged.
    """
    from ..compare import Comparison

    found = Comparison.load(path)
    return write_report(found, found.path / "report.html")
