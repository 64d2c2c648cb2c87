r"""Draws from p(unknown | known) of a flow, whose density is known but whose conditionals are not.

Let y be the record made continuous (see `dequantised`), y_k its known entries and y_u the others. Then

    p(y_u | y_k)  ~  p(y_u, y_k),        log p(y) = log phi(f(y)) + log|det df/dy|,

a density of y_u up to a constant. A known entry on a finite set fixes a cell, not a number: its place u in the cell is unknown too, and

    p(y_u, u_k | x_k)  ~  p(y) |dy_k/du_k|,        u_k = sigmoid(v_k) on the real line.

C chains a record run from N(0, I) in y_u (and the logistic distribution in v_k, under which u_k is uniform) to that density by annealed
importance sampling (see `pushforward.ais`); one of them is taken with a probability in proportion to its weight, and moved on by
Hamiltonian steps that leave the density as it is. In the limit of many chains, or of many temperatures, the draws are exact.
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from ...ais import Annealing, LogDensity, Point, anneal, find_step_sizes, hmc
from ...bijections import Dequantise
from ...rng import Rng

__all__ = ["complete"]

FAR = 1e3
"""Beyond this no state is proposed from, in standardised units or logits: a trajectory that left goes where flows overflow."""
MOVES = 10
"""Hamiltonian steps at the end, after one chain of each record was taken."""


def complete(
    log_density: Callable[[Tensor, Tensor | None], Tensor],
    dequantise: Dequantise,
    x: Float[Tensor, "B D"],
    known: Bool[Tensor, "B D"],
    c: Float[Tensor, "B C"] | None,
    how: Annealing,
    rng: Rng,
) -> Float[Tensor, "B D"]:
    """The records x with the entries outside `known` drawn anew.

    `log_density` takes (y, c) to log p(y | c), (N,), row by row and differentiable. States v have the width of a record, whatever is known
    of it, so that records of all patterns run together: v is y where an entry is unknown, the place in its cell where that alone is, and
    stays a normal number, of which nothing hangs, where an entry is known whole.
    """
    discrete = dequantise.noise > 0

    def repeated(a: Tensor) -> Tensor:
        return a.repeat_interleave(how.chains, 0)

    def assembled(v: Tensor, x: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
        """y, and log|dy_k/du_k| up to a constant: what unknown entries add to it is the same everywhere."""
        y, log_det = dequantise(x, torch.where(known & discrete, v.sigmoid(), 0.5))
        return torch.where(known, y, v), log_det

    def densities(x: Tensor, known: Tensor, c: Tensor | None) -> tuple[LogDensity, LogDensity]:
        """Of the start, and of the target over it."""
        placed = known & discrete

        def start(v: Tensor) -> Tensor:
            return torch.where(placed, logsigmoid(v) + logsigmoid(-v), _normal(v)).sum(1)

        def rest(v: Tensor) -> Tensor:
            near = (v.abs() < FAR).all(1)  # and finite
            v = torch.where(near[:, None], v, 0.0)
            y, log_det = assembled(v, x, known)
            value = log_density(y, c) + log_det - torch.where(known, 0.0, _normal(v)).sum(1)
            return torch.where(near, value, -math.inf)

        return start, rest

    def draw() -> Tensor:
        u = rng.rand(len(x) * how.chains, x.shape[1]).clamp(1e-6, 1 - 1e-6)
        return torch.where(repeated(known & discrete), u.logit(), torch.special.ndtri(u)).unflatten(0, (len(x), how.chains))

    log_start, log_rest = densities(repeated(x), repeated(known), None if c is None else repeated(c))
    sizes = find_step_sizes(log_start, log_rest, draw(), how, rng)
    chains = anneal(log_start, log_rest, draw(), sizes, how, rng)
    assert chains.end is not None
    # One chain of each record: the first at which the cumulative weights pass a uniform number.
    weights = chains.log_weights.softmax(1).cumsum(1)
    pick = (weights < rng.rand(len(x), 1).to(weights)).sum(1).clamp(max=how.chains - 1)
    log_start, log_rest = densities(x, known, c)
    at = Point.at(chains.end[torch.arange(len(x), device=pick.device), pick], log_start, log_rest)
    for _ in range(MOVES):
        at, _ = hmc(log_start, log_rest, at, 1.0, sizes[-1][:, None], how.steps, rng)
    return torch.where(known, x, dequantise.inverse(assembled(at.z, x, known)[0]))


def _normal(v: Tensor) -> Tensor:
    """log N(v; 0, 1), entry by entry."""
    return -0.5 * (v.square() + math.log(2 * math.pi))
