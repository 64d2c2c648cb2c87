r"""Annealed importance sampling: log p(x) of a model that is known through p(z) and p(x | z) alone.

Between the prior and the posterior lie the densities f_b(z) = p(z) p(x | z)^b, 0 = b_0 < b_1 < ... < b_T = 1. A chain starts with a draw
z_0 from the prior and at each b_t, 0 < t < T, takes a step that leaves f_{b_t} invariant (Neal 2001, equations 5 to 10):

    log w = sum_t (b_t - b_{t-1}) log p(x | z_{t-1}),        E[w] = p(x).

So the mean of C weights is an unbiased estimate of p(x), and its logarithm a stochastic lower bound on log p(x): its expectation is
at most log p(x), and by Markov's inequality it exceeds log p(x) by b nats with probability e^{-b} at most. The same chain run backwards
from an exact draw of p(z | x) has E[1/w] = 1/p(x) and gives a stochastic upper bound. Such a draw exists where x itself was drawn from
the model with its z, and there the two bounds enclose log p(x) (bidirectional Monte Carlo: Grosse, Ghahramani & Adams 2015).

The steps are Hamiltonian Monte Carlo: L leapfrog steps and a Metropolis test (Neal 2011, sections 2.3 and 3.2). Their sizes are adapted
in a shorter run beforehand and then kept: sizes that followed the chain's own past would make the weights biased.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from .errors import ConfigError
from .known import Known
from .rng import Rng

__all__ = [
    "Annealing",
    "Chains",
    "annealed_importance_sampling",
    "Joint",
    "LogDensity",
    "Point",
    "anneal",
    "bidirectional",
    "find_step_sizes",
    "hmc",
    "leapfrog",
    "standard_normal",
    "temperatures",
]

LogDensity = Callable[[Tensor], Tensor]
"""z (N, d) -> log-density (N,), row by row and differentiable."""
GAIN = 0.2
"""Step of the stochastic approximation in log step size, per unit of acceptance off its target."""
SHARPNESS = 4.0
"""delta of the sigmoidal schedule (Grosse, Ghahramani & Adams 2015)."""


@dataclass(frozen=True)
class Joint:
    """p(z | c) p(x | z, c): all that annealed importance sampling asks of a model. Functions work row by row; c is (N, C) or None."""

    sample_prior: Callable[[int, Tensor | None, Rng], Tensor]
    """(N, c, rng) -> z (N, d)."""
    log_prior: Callable[[Tensor, Tensor | None], Tensor]
    """(z, c) -> log p(z | c), (N,), differentiable in z."""
    simulate: Callable[[Tensor, Tensor | None, Rng], Tensor]
    """(z, c, rng) -> x ~ p(x | z, c), (N, *shape)."""
    log_likelihood: Callable[[Tensor, Tensor, Tensor | None], Tensor]
    """(x, z, c) -> log p(x | z, c), (N,), differentiable in z."""


def standard_normal(z: Float[Tensor, "N d"], c: Tensor | None = None) -> Float[Tensor, "N"]:
    """log N(z; 0, I), whatever the condition."""
    del c
    return -0.5 * z.square().sum(1) - 0.5 * z.shape[1] * math.log(2 * math.pi)


@dataclass(frozen=True)
class Annealing:
    """How chains are run."""

    temperatures: int = 1000
    """T, temperatures from prior to posterior. The bound rises with it."""
    chains: int = 16
    """C, chains for each record."""
    steps: int = 10
    """L, leapfrog steps at each temperature."""
    schedule: Literal["sigmoid", "linear"] = "sigmoid"
    """How temperatures are spaced: `sigmoid` puts more of them near both ends."""
    acceptance: float = 0.65
    """The mean acceptance that step sizes are adapted to (Neal 2011, section 4.4)."""

    def __post_init__(self) -> None:
        for name in ("temperatures", "chains", "steps"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if self.schedule not in ("sigmoid", "linear"):
            raise ConfigError(f"schedule must be sigmoid or linear, got {self.schedule!r}.")
        if not 0 < self.acceptance < 1:
            raise ConfigError(f"acceptance must lie between 0 and 1, got {self.acceptance}.")

    @property
    def pilot(self) -> int:
        """Temperatures of the run in which step sizes are found."""
        return max(50, self.temperatures // 5)


def temperatures(T: int, schedule: Literal["sigmoid", "linear"] = "sigmoid") -> Float[Tensor, "T+1"]:
    """0 = b_0 < ... < b_T = 1 in float64: t/T, or s(delta (2t/T - 1)) with s the logistic function shifted and scaled onto [0, 1]."""
    t = torch.linspace(0, 1, T + 1, dtype=torch.float64)
    if schedule == "linear":
        return t
    s = torch.sigmoid(SHARPNESS * (2 * t - 1))
    return (s - s[0]) / (s[-1] - s[0])


# -- Hamiltonian Monte Carlo ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Point:
    """N states and what is known there: both log-densities (N,) and their gradients (N, d). Changing the temperature needs no more."""

    z: Tensor
    log_prior: Tensor
    log_likelihood: Tensor
    prior_slope: Tensor
    likelihood_slope: Tensor

    @classmethod
    def at(cls, z: Tensor, log_prior: LogDensity, log_likelihood: LogDensity) -> "Point":
        """Evaluate both log-densities at z."""
        a, da = _value_and_slope(log_prior, z)
        b, db = _value_and_slope(log_likelihood, z)
        return cls(z, a, b, da, db)

    def log_density(self, b: float) -> Tensor:
        """log f_b = log p(z) + b log p(x | z)."""
        return self.log_prior + b * self.log_likelihood

    def slope(self, b: float) -> Tensor:
        """Its gradient."""
        return self.prior_slope + b * self.likelihood_slope

    def where(self, chosen: Tensor, other: "Point") -> "Point":
        """`other` in the rows that are chosen, this one elsewhere."""
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return Point(*(torch.where(chosen[:, None] if a.ndim == 2 else chosen, b, a) for a, b in pairs))


def _value_and_slope(f: LogDensity, z: Tensor) -> tuple[Tensor, Tensor]:
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        value = f(z)
        if not value.requires_grad:
            raise ConfigError(
                "A log-density does not depend on z through differentiable operations, and Hamiltonian Monte Carlo needs slopes."
            )
        (slope,) = torch.autograd.grad(value.sum(), z)
    return value.detach(), slope


def leapfrog(
    log_prior: LogDensity, log_likelihood: LogDensity, at: Point, momentum: Tensor, b: float, size: Tensor, steps: int
) -> tuple[Point, Tensor]:
    """(z, p) after `steps` leapfrog steps of `size` (N, 1) for H = -log f_b(z) + |p|^2 / 2 (Neal 2011, equations 2.28 to 2.30).

    Reversible (negate p and run again) and volume-preserving.
    """
    p = momentum + 0.5 * size * at.slope(b)
    for step in range(steps):
        at = Point.at(at.z + size * p, log_prior, log_likelihood)
        p = p + (size if step < steps - 1 else 0.5 * size) * at.slope(b)
    return at, p


def hmc(log_prior: LogDensity, log_likelihood: LogDensity, at: Point, b: float, size: Tensor, steps: int, rng: Rng) -> tuple[Point, Tensor]:
    """A Metropolis-corrected step that leaves f_b invariant and is reversible; also the probability (N,) with which it was accepted.

    A proposal whose density is NaN counts as one of density 0.
    """
    momentum = rng.randn(*at.z.shape)
    new, p = leapfrog(log_prior, log_likelihood, at, momentum, b, size, steps)
    change = new.log_density(b) - at.log_density(b) - 0.5 * (p.square() - momentum.square()).sum(1)
    probability = change.clamp(max=0).exp().nan_to_num(nan=0.0)
    return at.where(rng.rand(len(change)).to(probability) < probability, new), probability


# -- annealing -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Chains:
    """What C chains for each of B records found."""

    log_weights: Float[Tensor, "B C"]
    acceptance: Float[Tensor, "B"]
    """Mean probability with which proposals were accepted."""
    reverse: bool = False
    """Whether chains ran from the posterior to the prior."""
    end: Float[Tensor, "B C d"] | None = None
    """Where each chain ended. Forward chains with their weights are a sample from the posterior."""

    @property
    def bound(self) -> Float[Tensor, "B"]:
        """log mean w, a stochastic lower bound on log p(x); of reverse chains -log mean 1/w, an upper one. In nats."""
        sign = -1.0 if self.reverse else 1.0
        return sign * ((sign * self.log_weights).logsumexp(1) - math.log(self.log_weights.shape[1]))

    @property
    def ess(self) -> Float[Tensor, "B"]:
        """Effective number of chains, (sum w)^2 / sum w^2 (of 1/w when reversed): between 1 and C."""
        w = (-self.log_weights if self.reverse else self.log_weights).log_softmax(1)
        return torch.exp(-(2 * w).logsumexp(1))


def find_step_sizes(
    log_prior: LogDensity,
    log_likelihood: LogDensity,
    start: Float[Tensor, "B C d"],
    how: Annealing,
    rng: Rng,
    tick: Callable[[], None] = lambda: None,
) -> Float[Tensor, "K B"]:
    """Step sizes of each record along the way, from a forward run over K = `how.pilot` temperatures whose weights are thrown away.

    The logarithm of a record's step size moves by `GAIN` times (mean acceptance of its chains - `how.acceptance`) after every step.
    `start` holds draws from the prior, other ones than those of the run that is reported.
    """
    B, C, d = start.shape
    at = Point.at(start.flatten(0, 1), log_prior, log_likelihood)
    log_size, found = torch.full((B,), -0.25 * math.log(d), dtype=start.dtype, device=start.device), []
    for b in temperatures(how.pilot, how.schedule)[1:].tolist():
        at, probability = hmc(log_prior, log_likelihood, at, b, _each(log_size.exp(), C, rng), how.steps, rng)
        log_size = log_size + GAIN * (probability.view(B, C).mean(1) - how.acceptance)
        found.append(log_size)
        tick()
    return torch.stack(found).exp()


def _each(size: Tensor, chains: int, rng: Rng) -> Tensor:
    """A size for each chain, up to a fifth off its record's: trajectories of one length can close upon themselves (Neal 2011)."""
    size = size.repeat_interleave(chains)[:, None]
    return size * (0.8 + 0.4 * rng.rand(*size.shape))


def anneal(
    log_prior: LogDensity,
    log_likelihood: LogDensity,
    start: Float[Tensor, "B C d"],
    sizes: Float[Tensor, "K B"],
    how: Annealing,
    rng: Rng,
    *,
    reverse: bool = False,
    tick: Callable[[], None] = lambda: None,
) -> Chains:
    """Run C chains for each of B records through the temperatures of `how`.

    Parameters
    ----------
    log_prior, log_likelihood
        log p(z) and log p(x | z) at z (B C, d), -> (B C,). Rows are record by record: the C chains of a record stand side by side.
    start
        Draws from the prior; with `reverse`, from the posterior p(z | x), exact ones.
    sizes
        Step sizes at K evenly spaced points of the way from prior to posterior, from `find_step_sizes`.
    tick
        Called after each temperature.
    """
    B, C, _ = start.shape
    T, b = how.temperatures, temperatures(how.temperatures, how.schedule).tolist()
    at = Point.at(start.flatten(0, 1), log_prior, log_likelihood)
    log_w, accepted = at.z.new_zeros(B * C, dtype=torch.float64), at.z.new_zeros(B * C)
    # A forward chain weighs, then moves, at b_1 ... b_{T-1}; a reverse one passes the same states and moves the other way round.
    for t in reversed(range(1, T + 1)) if reverse else range(1, T + 1):
        log_w += (b[t] - b[t - 1]) * at.log_likelihood.double().nan_to_num(nan=-math.inf)
        then = t - 1 if reverse else t
        if 0 < then < T:
            size = sizes[min(len(sizes) - 1, then * len(sizes) // T)]
            at, probability = hmc(log_prior, log_likelihood, at, b[then], _each(size, C, rng), how.steps, rng)
            accepted += probability
        tick()
    return Chains(log_w.view(B, C), (accepted / max(1, T - 1)).view(B, C).mean(1), reverse, at.z.view(start.shape))


def annealed_importance_sampling(
    joint: Joint,
    x: Float[Tensor, "B *shape"],
    c: Float[Tensor, "B k"] | None,
    how: Annealing,
    rng: Rng,
    tick: Callable[[], None] = lambda: None,
) -> Chains:
    """Forward chains for each record: `Chains.bound` is a stochastic lower bound on log p(x | c)."""
    prior, likelihood, draw = _rows(joint, x, c, how.chains, rng)
    sizes = find_step_sizes(prior, likelihood, draw(), how, rng, tick)
    return anneal(prior, likelihood, draw(), sizes, how, rng, tick=tick)


def bidirectional(
    joint: Joint, n: int, c: Float[Tensor, "n k"] | None, how: Annealing, rng: Rng, tick: Callable[[], None] = lambda: None
) -> tuple[Chains, Chains]:
    """Forward and reverse chains for n records drawn from the model: bounds that enclose log p(x | c) from both sides.

    The expectation of their difference bounds the error of either. For records of the user's own it is an indication only: they may lie
    where the posterior is harder to reach than from the model's own (Wu et al. 2017 validate their figures in this way).
    """
    z = joint.sample_prior(n, c, rng).detach()
    prior, likelihood, draw = _rows(joint, joint.simulate(z, c, rng).detach(), c, how.chains, rng)
    sizes = find_step_sizes(prior, likelihood, draw(), how, rng, tick)
    forward = anneal(prior, likelihood, draw(), sizes, how, rng, tick=tick)
    posterior = z[:, None].expand(-1, how.chains, -1)
    return forward, anneal(prior, likelihood, posterior, sizes, how, rng, reverse=True, tick=tick)


def _rows(joint: Joint, x: Tensor, c: Tensor | None, chains: int, rng: Rng) -> tuple[LogDensity, LogDensity, Callable[[], Tensor]]:
    """(log p(z), log p(x | z), draws from the prior (B, C, d)) with every record repeated for its chains."""
    rows = x.repeat_interleave(chains, 0)
    conditions = None if c is None else c.repeat_interleave(chains, 0)
    return (
        lambda z: joint.log_prior(z, conditions),
        lambda z: joint.log_likelihood(rows, z, conditions),
        lambda: joint.sample_prior(len(rows), conditions, rng).detach().unflatten(0, (len(x), chains)),
    )


def known_answers() -> Iterator[Known]:
    """A linear-Gaussian model, x = W z + e with e ~ N(0, s^2 I): log p(x) = log N(x; 0, W W^T + s^2 I), and p(z | x), in closed form."""
    source, s2 = Rng.seeded(0, torch.zeros((), dtype=torch.float64)), 0.25
    W = source.randn(2, 4)
    x = source.randn(5, 2) @ W + math.sqrt(s2) * source.randn(5, 4)
    eye = torch.eye(4, dtype=W.dtype)
    exact = torch.distributions.MultivariateNormal(torch.zeros_like(x[0]), W.T @ W + s2 * eye).log_prob(x)

    def log_likelihood(x: Tensor, z: Tensor, c: Tensor | None) -> Tensor:
        return -0.5 * (x - z @ W).square().sum(1) / s2 - 2 * math.log(2 * math.pi * s2)

    def simulate(z: Tensor, c: Tensor | None, rng: Rng) -> Tensor:
        return z @ W + math.sqrt(s2) * rng.randn(len(z), 4)

    joint = Joint(lambda n, c, rng: rng.randn(n, 2), standard_normal, simulate, log_likelihood)
    how = Annealing(temperatures=400, chains=64, steps=2)
    found = annealed_importance_sampling(joint, x, None, how, source)
    # Independent chains: the error of log mean w is sd(w) / (mean(w) sqrt(C)), that of its mean over 5 records sqrt(5) times less.
    error = float((found.log_weights - exact[:, None]).exp().std()) / math.sqrt(5 * how.chains)
    because = "four standard errors by the spread of the weights"
    yield Known("AIS log p(x) - log p(x), linear-Gaussian model, 5 records", 0.0, float((found.bound - exact).mean()), 4 * error, because)

    # Reverse chains of a record share their start, so the error is had from the spread over records.
    lower, upper = bidirectional(joint, 20, None, Annealing(temperatures=400, chains=16, steps=2), source)
    gap = upper.bound - lower.bound
    because = "four standard errors over 20 records"
    yield Known("upper minus lower bound on simulated records", 0.0, float(gap.mean()), 4 * float(gap.std()) / math.sqrt(20), because)

    def of_x(z: Tensor) -> Tensor:
        return log_likelihood(x, z, None)

    at, p, size = Point.at(source.randn(5, 2), standard_normal, of_x), source.randn(5, 2), source.rand(5, 1) / 5
    there, q = leapfrog(standard_normal, of_x, at, p, 0.7, size, 10)
    back, _ = leapfrog(standard_normal, of_x, there, -q, 0.7, size, 10)
    yield Known("ten leapfrog steps there and back", 0.0, float((back.z - at.z).abs().max()), 1e-11, "rounding, over 20 steps")
