r"""Draws from p(unknown | known) of a flow, whose density is known but whose conditionals are not.

Let y be the record made continuous (see `dequantised`), y_k its known entries and y_u the others. Then

    p(y_u | y_k)  ~  p(y_u, y_k),        log p(y) = log phi(f(y)) + log|det df/dy|,

a density of y_u up to a constant. A known entry on a finite set fixes a cell, not a number: its place u in the cell is unknown too, and

    p(y_u, u_k | x_k)  ~  p(y) |dy_k/du_k|,        u_k = sigmoid(v_k) on the real line.

C chains a record run from N(0, I) in y_u (and the logistic distribution in v_k, under which u_k is uniform) to that density by annealed
importance sampling (see `pushforward.ais`); one of them is taken with a probability in proportion to its weight, and moved on by
Hamiltonian steps that leave the density as it is. In the limit of many chains, or of many temperatures, the draws are exact.
"""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from ...ais import Annealing, Point, anneal, find_step_sizes, hmc, standard_normal
from ...bijections import Dequantise
from ...rng import Rng

__all__ = ["complete"]

MOVES = 10
"""Hamiltonian steps at the end, after one chain of each record was taken."""


def complete(
    log_density: Callable[[Tensor, Tensor | None], Tensor],
    dequantise: Dequantise,
    x: Float[Tensor, "B D"],
    known: Bool[Tensor, "D"],
    c: Float[Tensor, "B C"] | None,
    how: Annealing,
    rng: Rng,
) -> Float[Tensor, "B D"]:
    """The records x with the entries outside `known` drawn anew.

    `log_density` takes (y, c) to log p(y | c), (N,), row by row and differentiable.
    """
    rows = x.repeat_interleave(how.chains, 0)
    conditions = None if c is None else c.repeat_interleave(how.chains, 0)
    placed = known & (dequantise.noise > 0)  # known entries of which only the cell is
    n, m = int((~known).sum()), int(placed.sum())

    def assembled(v: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """y, and log|dy_k/du_k| up to a constant: what unknown entries add to it is the same everywhere."""
        u = torch.full_like(x, 0.5).masked_scatter(placed.expand_as(x), v[:, n:].sigmoid())
        y, log_det = dequantise(x, u)
        return torch.where(known, y, torch.zeros_like(y).masked_scatter(~known.expand_as(y), v[:, :n])), log_det

    def log_start(v: Tensor) -> Tensor:
        w = v[:, n:]
        return standard_normal(v[:, :n]) + (logsigmoid(w) + logsigmoid(-w)).sum(1)

    def log_rest(v: Tensor, x: Tensor, c: Tensor | None) -> Tensor:
        y, log_det = assembled(v, x)
        return log_density(y, c) + log_det - standard_normal(v[:, :n])

    def start() -> Tensor:
        u = rng.rand(len(rows), m).clamp(1e-6, 1 - 1e-6)
        return torch.cat([rng.randn(len(rows), n), u.logit()], 1).unflatten(0, (len(x), how.chains))

    def along(v: Tensor) -> Tensor:
        return log_rest(v, rows, conditions)

    sizes = find_step_sizes(log_start, along, start(), how, rng)
    chains = anneal(log_start, along, start(), sizes, how, rng)
    assert chains.end is not None
    # One chain of each record: the first at which the cumulative weights pass a uniform number.
    weights = chains.log_weights.softmax(1).cumsum(1)
    pick = (weights < rng.rand(len(x), 1).to(weights)).sum(1).clamp(max=how.chains - 1)
    v = chains.end[torch.arange(len(x), device=pick.device), pick]

    def of_own(v: Tensor) -> Tensor:
        return log_rest(v, x, c)

    at = Point.at(v, log_start, of_own)
    for _ in range(MOVES):
        at, _ = hmc(log_start, of_own, at, 1.0, sizes[-1][:, None], how.steps, rng)
    return torch.where(known, x, dequantise.inverse(assembled(at.z, x)[0]))
