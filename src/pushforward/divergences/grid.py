"""Where densities are evaluated: points with the weights of a quadrature rule."""

from dataclasses import dataclass
from typing import Self

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import ConfigError

__all__ = ["Grid"]


@dataclass(frozen=True)
class Grid:
    """Points (n, d) with weights (n,), so that the integral of f is about sum_i w_i f(x_i); float64.

    The trapezoid rule: on a smooth density that has vanished at the ends its error falls faster than any power of the spacing h. For a
    Gaussian of standard deviation s it is about 2 exp(-2 pi^2 s^2 / h^2), below rounding from s = 1.4 h on.

    >>> grid = Grid.line(-8, 8)
    >>> round(float(grid.integrate((-grid.points[:, 0] ** 2).exp())) ** 2, 12)  # pi
    3.14159265359
    """

    points: Float[Tensor, "n d"]
    weights: Float[Tensor, " n"]
    axes: tuple[Tensor, ...] = ()
    """The coordinates along each dimension where the points are a product; empty for atoms."""

    @classmethod
    def line(cls, low: float, high: float, n: int = 2001) -> Self:
        """`n` points on [low, high]."""
        return cls.box((low,), (high,), n)

    @classmethod
    def box(cls, low: tuple[float, ...], high: tuple[float, ...], n: int = 201) -> Self:
        """`n` points along each side of a box; the last dimension moves fastest. Raises `ConfigError` for an empty box."""
        if n < 2 or len(low) != len(high) or not all(a < b for a, b in zip(low, high, strict=True)):
            raise ConfigError(f"A grid needs low < high in every dimension and n of 2 or more, got low={low}, high={high}, n={n}.")
        axes = tuple(torch.linspace(a, b, n, dtype=torch.float64) for a, b in zip(low, high, strict=True))
        weights = torch.ones(1, dtype=torch.float64)
        for axis in axes:
            rule = torch.full_like(axis, float(axis[1] - axis[0]))
            rule[[0, -1]] /= 2
            weights = (weights[:, None] * rule).flatten()
        return cls(torch.cartesian_prod(*axes).reshape(len(weights), len(axes)), weights, axes)

    @classmethod
    def atoms(cls, points: Float[Tensor, "n d"]) -> Self:
        """The counting measure of `points`: densities are then probabilities."""
        points = points.double()
        return cls(points, torch.ones(len(points), dtype=torch.float64))

    def integrate(self, f: Float[Tensor, " n"]) -> Float[Tensor, ""]:
        """sum_i w_i f_i."""
        return (self.weights * f).sum()
