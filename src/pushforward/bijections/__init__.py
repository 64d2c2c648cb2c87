"""Invertible maps with their log-determinants: the shared mathematics of flows.

A bijection takes x to y = f(x; c) and says how volume changes:

    forward(x, c) -> (y, log|det dy/dx|),    inverse(y, c) -> (x, log|det dx/dy|),

with x, y of shape (B, D), the condition c (B, C) or None, and log-determinants (B,) in nats. If y has density p_Y then x has

    log p_X(x) = log p_Y(f(x)) + log|det df/dx|.

Every class here is final; `Bijection` is the abstract noun.
"""

from .base import Bijection, Compose
from .coupling import AffineCoupling, RationalQuadraticCoupling
from .elementwise import Dequantise
from .linear import Linear, Permutation
from .spline import MIN_BIN, MIN_SLOPE, RationalQuadratic, spline

__all__ = [
    "MIN_BIN",
    "MIN_SLOPE",
    "AffineCoupling",
    "Bijection",
    "Compose",
    "Dequantise",
    "Linear",
    "Permutation",
    "RationalQuadratic",
    "RationalQuadraticCoupling",
    "spline",
]
