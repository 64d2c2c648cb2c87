"""A figure with its uncertainty: what every function of this package that looks at a sample returns."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Estimate"]


@dataclass(frozen=True)
class Estimate:
    """A figure of merit and the 95 % interval in which its true value lies."""

    value: float
    low: float = math.nan
    """Lower end of the 95 % interval; NaN where none is known."""
    high: float = math.nan
    """Upper end of the 95 % interval."""
    stderr: float = math.nan
    """Standard error; NaN where the interval is not made from one."""
    n: int = 0
    """Independent records that the figure was had from (the smaller number, for two sets)."""
    method: str = ""
    """How the interval was had: `t`, `Wilson`, `jackknife` ..."""

    @property
    def known(self) -> bool:
        """Whether there is an interval."""
        return math.isfinite(self.low) and math.isfinite(self.high)

    def to_json(self) -> dict[str, Any]:
        """Plain values; numbers that are not finite become None (JSON has no others)."""
        return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in vars(self).items()}

    @classmethod
    def from_json(cls, state: Mapping[str, Any]) -> "Estimate":
        numbers = {k: math.nan if state.get(k) is None else float(state[k]) for k in ("value", "low", "high", "stderr")}
        return cls(**numbers, n=int(state.get("n") or 0), method=str(state.get("method") or ""))
