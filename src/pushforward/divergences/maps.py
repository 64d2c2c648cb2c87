r"""The density of y = G(z) in one dimension, z of known density: what a generator does to its noise, exactly.

Where G is monotone, q(y) = p(z) / |G'(z)| at the one z with G(z) = y; elsewhere the branches add up,

    q(y) = sum_{z : G(z) = y} p(z) / |G'(z)|                                                 (change of variable)

and it is infinite, but integrable, at the values of G's turning points. An interval's probability needs no slope: it is the sum over
branches of the prior's probability between the two places where the branch enters and leaves the interval.
"""

from collections.abc import Callable
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["branches", "density", "masses"]

Map = Callable[[Tensor], Tensor]
"""(n,) -> (n,)."""
HALVINGS = 60
"""Of an interval: down to float64's resolution."""


def branches(g: Map, low: float, high: float, n: int = 4001) -> Float[Tensor, " k"]:
    """low, the turning points of G between, and high: between two neighbours G is monotone.

    Turning points are looked for between `n` places and found by halving, so a fold narrower than (high - low) / n may be missed; what
    that costs is the prior's probability of the fold.
    """
    z = torch.linspace(low, high, n, dtype=torch.float64)
    falls = _slope(g, z) < 0
    at = (falls[1:] != falls[:-1]).nonzero()[:, 0]
    a, b, before = z[at], z[at + 1], falls[at]
    for _ in range(HALVINGS):
        middle = (a + b) / 2
        same = (_slope(g, middle) < 0) == before
        a, b = torch.where(same, middle, a), torch.where(same, b, middle)
    return torch.cat([z[:1], (a + b) / 2, z[-1:]])


def density(g: Map, prior: Map, edges: Float[Tensor, " k"], y: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """q(y), where `prior` is p(z) and `edges` come from `branches`."""
    total = torch.zeros_like(y, dtype=torch.float64)
    for a, b in pairwise(edges):
        at, z = _inverse(g, a, b, y)
        slope = _slope(g, z).abs()
        total += torch.where(at, prior(z) / slope, 0.0)
    return total


def masses(g: Map, cdf: Map, edges: Float[Tensor, " k"], ends: Float[Tensor, " n"]) -> Float[Tensor, " n_minus_1"]:
    """The probability of each interval between neighbouring `ends` (rising), where `cdf` is the prior's distribution function.

    The prior's probability outside `edges` is left out.
    """
    total = torch.zeros(len(ends) - 1, dtype=torch.float64)
    for a, b in pairwise(edges):
        total += cdf(_inverse(g, a, b, ends)[1]).diff().abs()
    return total


def _inverse(g: Map, a: Tensor, b: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Whether the branch of G on [a, b] takes the value y, and where; the nearer end where it does not."""
    with torch.no_grad():
        left, right = g(torch.stack([a, b])).double()
        sign = 1.0 if right >= left else -1.0
        lower, upper = a.expand_as(y).clone(), b.expand_as(y).clone()
        for _ in range(HALVINGS):
            middle = (lower + upper) / 2
            above = sign * (g(middle) - y) > 0
            lower, upper = torch.where(above, lower, middle), torch.where(above, middle, upper)
    inside = (torch.minimum(left, right) <= y) & (y < torch.maximum(left, right))
    return inside, (lower + upper) / 2


def _slope(g: Map, z: Tensor) -> Tensor:
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        (slope,) = torch.autograd.grad(g(z).sum(), z)
    return slope.detach()
