r"""Draws from p(unknown | known) of an autoregressive model where a known entry comes after an unknown one: a particle filter.

M particles a record go through the entries in the model's order. Each draws an unknown entry from p(x_d | x_{<d}) and takes a known one as
it is, which multiplies its weight w by p(x_d | x_{<d}). Where the effective number of a record's particles, (sum w)^2 / sum w^2, falls
below M / 2, they are drawn anew in proportion to w (systematically: Kitagawa 1996). At the end one of them is taken by its weight.

In the limit of many particles the draws are exact, and the mean weight estimates p(known) without bias for any number of them (Gordon,
Salmond & Smith 1993; Del Moral 2004, "Feynman-Kac Formulae", section 7.4.2).
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ...errors import ConfigError
from ...rng import Rng

__all__ = ["Particles", "filtered"]


class Particles:
    """The weights of `each` particles for n records; a record's particles are rows that stand together."""

    def __init__(self, n: int, each: int, rng: Rng):
        self.each, self.rng = each, rng
        self.log_w = torch.zeros(n, each, dtype=torch.float64, device=rng.device)
        self._moved: Tensor | None = None

    def weigh(self, log_p: Float[Tensor, " B"], x: Tensor) -> Int[Tensor, " B"] | None:
        """Multiply the weights by p. Where few are left, rows of x (B, ...) are drawn anew, in place: the rows they came from, or None."""
        # Next to nothing in place of 0: where all of a record's particles find what is known impossible, they go on alike.
        self.log_w = self.log_w + log_p.view_as(self.log_w).clamp(min=-1e30)
        share = self.log_w.softmax(1)
        few = share.square().sum(1) * self.each > 2 + 1e-6  # equal weights of just half of them: rounding does not decide
        if not few.any():
            return None
        places = (self.rng.rand(len(share), 1).to(share) + torch.arange(self.each, device=share.device)) / self.each
        own = torch.arange(self.each, device=share.device).expand_as(share)
        drawn = torch.searchsorted(share.cumsum(1), places).clamp(max=self.each - 1)
        first = torch.arange(len(share), device=share.device)[:, None] * self.each
        index = (first + torch.where(few[:, None], drawn, own)).flatten()
        mean = self.log_w.logsumexp(1, keepdim=True) - math.log(self.each)
        self.log_w = torch.where(few[:, None], mean, self.log_w)
        x.copy_(x[index])
        self._moved = index if self._moved is None else self._moved[index]
        return index

    def moved(self) -> Int[Tensor, " B"] | None:
        """The rows that all rows came from since this was last asked, for a network to move what it keeps of them; None: they stayed."""
        index, self._moved = self._moved, None
        return index

    def one(self) -> Int[Tensor, " n"]:
        """A row for each record, by weight."""
        return self.rng.categorical(self.log_w) + torch.arange(len(self.log_w), device=self.log_w.device) * self.each


def filtered(
    draw: Callable[[Tensor, Tensor | None, Particles], Tensor],
    x: Tensor,
    c: Tensor | None,
    rng: Rng,
    *,
    particles: int,
    temperature: float,
    rows: int,
) -> tuple[Tensor, Float[Tensor, " B"]]:
    """(Records completed from x, log of the estimate of p(known)); `draw(x, c, swarm)` passes rows through the model, `rows` at a time.

    Raises `ConfigError` for a temperature other than 1, at which known entries would have no weights, and for no particles.
    """
    if particles < 1:
        raise ConfigError(f"particles must be at least 1, got {particles}.")
    if temperature != 1:
        raise ConfigError("temperature is for entries that come last in the model's order; here a known one comes after. Leave it out.")
    ends, evidence = [], []
    for at in torch.arange(len(x), device=x.device).split(max(1, rows // particles)):
        swarm = Particles(len(at), particles, rng)
        given = [None if a is None else a[at].repeat_interleave(particles, 0) for a in (x, c)]
        assert given[0] is not None
        drawn = draw(given[0], given[1], swarm)
        ends.append(drawn[swarm.one()])
        evidence.append(swarm.log_w.logsumexp(1) - math.log(particles))
    return torch.cat(ends), torch.cat(evidence)
