"""What codes are used for."""

from jaxtyping import Float
from torch import Tensor

__all__ = ["active_units"]


def active_units(means: Float[Tensor, "n d"], threshold: float = 0.01) -> int:
    """Dimensions whose posterior mean varies over records by more than `threshold` (Burda et al. 2016, section 5.2: 0.01).

    A dimension below it says the same of every record: its posterior has collapsed onto the prior.
    """
    return int((means.var(0) > threshold).sum())
