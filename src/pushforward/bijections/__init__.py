"""Invertible maps with their log-determinants: the shared mathematics of flows.

A bijection takes x to y = f(x; c) and says how volume changes:

    forward(x, c) -> (y, log|det dy/dx|),    inverse(y, c) -> (x, log|det dx/dy|),

with x, y of shape (B, D), the condition c (B, C) or None, and log-determinants (B,) in nats. If y has density p_Y then x has

    log p_X(x) = log p_Y(f(x)) + log|det df/dx|.

Every class here is final; `Bijection` is the abstract noun.
"""

from .autoregressive import AffineAutoregressive, RationalQuadraticAutoregressive
from .base import Bijection, Compose, Inverse, near
from .bisection import TanhSum, bisect
from .coupling import AdditiveCoupling, AffineCoupling, RationalQuadraticCoupling
from .elementwise import Dequantise, Logit, Standardise
from .linear import ActNorm, Linear, Permutation
from .planar import Planar, Radial
from .spline import MIN_BIN, MIN_SLOPE, RationalQuadratic, spline

__all__ = [
    "MIN_BIN",
    "MIN_SLOPE",
    "ActNorm",
    "AdditiveCoupling",
    "AffineAutoregressive",
    "AffineCoupling",
    "Bijection",
    "Compose",
    "Dequantise",
    "Inverse",
    "Linear",
    "Logit",
    "Permutation",
    "Planar",
    "Radial",
    "RationalQuadratic",
    "RationalQuadraticAutoregressive",
    "RationalQuadraticCoupling",
    "Standardise",
    "TanhSum",
    "bisect",
    "near",
    "spline",
]
