"""Likelihood as a figure of merit: code lengths and standard errors."""

import math

from jaxtyping import Float
from torch import Tensor


def bits_per_dim(log_prob: Float[Tensor, "n"], dim: int) -> Float[Tensor, "n"]:
    """-log2 p(x) / D: the code length of one entry of a discrete record, in bits."""
    return -log_prob / (dim * math.log(2.0))


def standard_error(values: Float[Tensor, "n"]) -> float:
    """s / sqrt(n) of the mean of independent values; NaN for fewer than two."""
    return float(values.double().std() / math.sqrt(len(values))) if len(values) > 1 else math.nan
