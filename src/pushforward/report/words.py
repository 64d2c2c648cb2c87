"""Numbers and figures in words, alike in the terminal and on the page."""

import math

from ..figures import FIGURES
from ..metrics import Estimate

MARK = {"exact": "", "bound": "≥ ", "estimate": "≈ ", "none": ""}
KIND = {"exact": "exact", "bound": "lower bound", "estimate": "estimate", "none": "none"}
MEASURE = {"mass": "probability", "density": "density", "mixed": "mixed probability and density"}
PER_CENT = ("mode_share", "duplicates", "copies", "copied_share")
"""Shares that are written in per cent."""
BETTER = {
    "high": "Higher is better.",
    "low": "Lower is better.",
    "one": "Best at 1.",
    "half": "Best at 0.5.",
    "zero": "Best at 0.",
    "none": "",
}


def explained(name: str) -> str:
    """What a figure says, its unit, which way is better, and who defined it."""
    about = FIGURES[name]
    parts = [about.text, f"In {about.unit}." if about.unit else "", BETTER[about.better], f"({about.source}.)" if about.source else ""]
    return " ".join(filter(None, parts))


def merit(name: str, value: float) -> float:
    """A figure as something of which more is better."""
    aim = {"one": 1.0, "half": 0.5, "zero": 0.0}
    better = FIGURES[name].better
    return -abs(value - aim[better]) if better in aim else -value if better == "low" else value


def number(value: float | None, digits: int = 3) -> str:
    """A number to `digits` significant digits with a true minus sign, `–` for None."""
    if value is None or not math.isfinite(value):
        return "–"
    if value != 0 and (abs(value) >= 10 ** max(digits, 5) or abs(value) < 1e-3):
        return f"{value:.{digits - 1}e}".replace("-", "−").replace("e+0", "e").replace("e−0", "e−")
    decimals = digits if value == 0 else max(0, digits - 1 - math.floor(math.log10(abs(value))))
    return f"{value:,.{decimals}f}".replace("-", "−")


def half_width(figure: Estimate | None) -> float | None:
    """Half the 95 % interval; None where none is known."""
    return (figure.high - figure.low) / 2 if figure is not None and figure.known else None


def parts(figure: Estimate | None, digits: int = 3) -> tuple[str, str]:
    """(`1.234`, `± 0.012`): as many decimals as two digits of the half-width need, five digits at most; to `digits` where none is known."""
    if figure is None:
        return "–", ""
    spread = half_width(figure)
    if spread is None or spread == 0 or abs(figure.value) >= 1e6:
        return number(figure.value, digits), ""
    if figure.value == 0 and spread < 1e-3:
        return "0", f"± {number(spread, 2)}"
    whole = math.floor(math.log10(max(abs(figure.value), spread)) + 1e-9)
    decimals = max(0, min(1 - math.floor(math.log10(spread) + 1e-9), 4 - whole))  # 0.01 is often 0.0099999
    return f"{figure.value:,.{decimals}f}".replace("-", "−"), f"± {spread:,.{decimals}f}"


def with_spread(figure: Estimate | None, digits: int = 3) -> str:
    """`1.234 ± 0.012` on one line."""
    return " ".join(parts(figure, digits)).strip()


def counted(value: float | None) -> str:
    """A large count in short: `1.2 M`, `34 k`, `512`."""
    if value is None:
        return "–"
    for size, unit in ((1e9, " G"), (1e6, " M"), (1e4, " k")):
        if value >= size:
            return f"{value / (1e3 if unit == ' k' else size):.3g}{unit}"
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def memory(value: float | None) -> str:
    """Bytes in short: `210 MB`."""
    if value is None:
        return "–"
    return f"{value / 1e9:.2g} GB" if value >= 1e9 else f"{value / 1e6:.0f} MB"


def duration(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.1f} min"


def plainly(name: str, figure: Estimate | None, digits: int = 3) -> tuple[str, str]:
    """A figure's value and spread as it is usually written: counts, times and memory in short, shares of modes in per cent."""
    if figure is None:
        return "–", ""
    if name == "training_seconds":
        return duration(figure.value), ""
    if name == "peak_memory":
        return memory(figure.value), ""
    if name == "samples_per_second":
        return counted(figure.value), f"{counted(figure.low)} to {counted(figure.high)}" if figure.known else ""
    if name == "parameters":
        return counted(figure.value), ""
    if name in PER_CENT:
        # The copied share is estimated without bias, and so may fall outside what a share can be; its interval may be most of it.
        value, low, high = (min(1.0, max(0.0, v)) for v in (figure.value, figure.low, figure.high))
        return f"{value:.1%}", f"{100 * low:.1f} to {high:.1%}" if figure.known and low < high else ""
    if name == "nfe":
        return f"{figure.value:,.0f}", ""
    return parts(figure, digits)


def listed(names: "list[str]") -> str:
    """`A`, `A and B`, `A, B and C`."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}" if names else ""
