"""What is known of divergences, of the game's value, of maps and of fits in closed form."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from ..known import Known
from .fits import Isotropic, fit
from .game import best_critic, value
from .grid import Grid
from .maps import branches, density, masses
from .measures import F_DIVERGENCES, f_bound, jensen_shannon, kl, mmd2, wasserstein1

__all__ = ["known_answers"]

SMOOTH = "the trapezoid rule on smooth densities that have vanished at both ends converges to rounding"
NORMAL = torch.distributions.Normal(torch.tensor(0.0, dtype=torch.float64), 1.0)


def known_answers() -> Iterator[Known]:
    """Divergences of Gaussians, the bound of each f-divergence, the game's value, densities of maps, and fits."""
    yield from _gaussians()
    yield from _game()
    yield from _maps()
    yield from _fits()


def _gaussians() -> Iterator[Known]:
    # p = N(0, 1), q = N(a, s^2).
    a, s = 1.5, 0.7
    grid = Grid.line(-14, 14, 4001)
    x = grid.points[:, 0]
    log_p, log_q = _normal(x, 0.0, 1.0), _normal(x, a, s)
    known = {
        "kl": math.log(s) + (1 + a * a) / (2 * s * s) - 0.5,
        "reverse-kl": -math.log(s) + (s * s + a * a) / 2 - 0.5,
        "hellinger": 1 - math.sqrt(2 * s / (1 + s * s)) * math.exp(-a * a / (4 * (1 + s * s))),
    }
    for name, d in known.items():
        yield Known(f"{name} of N(0, 1) and N(1.5, 0.49)", d, float(F_DIVERGENCES[name](log_p, log_q, grid)), 1e-11, SMOOTH)
    log_r = _normal(x, a, 1.0)
    pearson = float(F_DIVERGENCES["pearson"](log_r, log_p, grid))
    yield Known("Pearson's of N(1.5, 1) and N(0, 1)", math.expm1(a * a), pearson, 1e-10, SMOOTH)
    # |p - r| has a kink at a/2, where the rule errs by at most h^2/4 of the change of slope there, 2 |a/2| p(a/2).
    step = float(x[1] - x[0])
    kink = step**2 / 4 * a * float(_normal(x.new_tensor(a / 2), 0.0, 1.0).exp())
    tv = float(F_DIVERGENCES["total-variation"](log_p, log_r, grid))
    yield Known("total variation of N(0, 1) and N(1.5, 1)", math.erf(a / math.sqrt(8)), tv, kink, "trapezoid rule at a kink")
    # An independent form: JSD = H(m) - (H(p) + H(q)) / 2, the two entropies in closed form.
    m = (log_p.exp() + log_q.exp()) / 2
    entropies = sum(math.log(t * math.sqrt(2 * math.pi * math.e)) for t in (1.0, s)) / 2
    jsd = -float(grid.integrate(torch.special.xlogy(m, m))) - entropies
    yield Known("Jensen-Shannon by entropies", jsd, float(jensen_shannon(log_p, log_q, grid)), 1e-11, SMOOTH)
    for name, f in F_DIVERGENCES.items():
        log_u = log_p - log_q if name != "pearson" else log_r - log_p
        pair = (log_p, log_q) if name != "pearson" else (log_r, log_p)
        # Where p/q is beyond e^30, f* of f' cancels; of these two f' there hardly changes, or multiplies a density below e^-30.
        T = f.witness(log_u.clamp(-30, 30) if name in ("jensen-shannon", "hellinger") else log_u)
        yield Known(f"the bound of {name} is tight at f'(p/q)", float(f(*pair, grid)), float(f_bound(name, T, *pair, grid)), 1e-9, SMOOTH)
    # W1 of a shift is its length; of a scale |s - t| E|z|. Distribution functions by the trapezoid rule err by h^2/12 of the density's
    # change of slope, at most 1/s^2 over the width of the densities, here below 20.
    because = "trapezoid rule for the distribution functions, h^2 / 12 times 20 / s^2"
    tolerance = step**2 / 12 * 20 / s**2
    yield Known("W1 of a shift by 1.5", a, float(wasserstein1(log_p, log_r, grid)), tolerance, because)
    w1 = float(wasserstein1(log_p, _normal(x, 0.0, s), grid))
    yield Known("W1 of N(0, 1) and N(0, 0.49)", (1 - s) * math.sqrt(2 / math.pi), w1, tolerance, because)
    p = Isotropic.of([0.7, 0.3], [[-1.0, 0.5], [2.0, -1.0]], [0.6, 0.9])
    q = Isotropic.of([1.0], [[0.3, 0.0]], [1.2])
    plane = Grid.box((-9, -9), (9, 9), 161)
    ours = float(mmd2(p.log_prob(plane.points), q.log_prob(plane.points), plane, 0.8))
    yield Known("squared MMD of two mixtures in the plane", float(p.mmd2(q, 0.8)), ours, 1e-12, SMOOTH)
    # Two parallel lines theta apart (Arjovsky et al. 2017, example 1): no atom in common, so log 2 whatever theta.
    atoms = Grid.atoms(torch.arange(100.0)[:, None])
    first = torch.tensor([-math.log(50)] * 50 + [-math.inf] * 50, dtype=torch.float64)
    yield Known("JSD of disjoint supports", math.log(2), float(jensen_shannon(first, first.flip(0), atoms)), 1e-12, "rounding")
    disjoint = value(best_critic(first, first.flip(0)), first, first.flip(0), atoms)
    yield Known("V(G, D*) of disjoint supports", 0.0, float(disjoint), 1e-12, "rounding")


def _game() -> Iterator[Known]:
    grid = Grid.line(-14, 14, 1001)
    x = grid.points[:, 0]
    p = Isotropic.of([0.3, 0.7], [[-2.0], [1.5]], [0.5, 1.0])
    log_p = p.log_prob(grid.points)
    for a, s in ((0.0, 1.0), (1.5, 0.7), (-6.0, 0.4)):
        log_q = _normal(x, a, s)
        jsd = (
            kl(log_p, torch.logaddexp(log_p, log_q) - math.log(2), grid) + kl(log_q, torch.logaddexp(log_p, log_q) - math.log(2), grid)
        ) / 2
        ours = float(value(best_critic(log_p, log_q), log_p, log_q, grid))
        yield Known(f"V(G, D*) = -log 4 + 2 JSD, q = N({a:g}, {s:g}^2)", -math.log(4) + 2 * float(jsd), ours, 1e-11, SMOOTH)
    log_p = _normal(x, 1.5, 0.7)
    found = fit(lambda log_q: value(best_critic(log_p, log_q), log_p, log_q, grid), grid, [Isotropic.of([1.0], [[-1.0]], [2.0])])
    yield Known("min over G of V(G, D*) is -log 4", -math.log(4), found.loss, 1e-9, "an optimiser that stops at rounding, on a quadratic")


def _maps() -> Iterator[Known]:
    prior = lambda z: NORMAL.log_prob(z).exp()
    y = torch.tensor([0.3, 1.0, 2.5], dtype=torch.float64)
    rounding = "halving down to rounding"
    log_normal = prior(y.log()) / y
    ours = density(torch.exp, prior, branches(torch.exp, -9, 9), y)
    yield Known("density of exp(z), worst of 3", 0.0, float((ours - log_normal).abs().max()), 1e-12, rounding)
    square = branches(torch.square, -9, 9)
    chi = (-y / 2).exp() / (2 * math.pi * y).sqrt()
    ours = density(torch.square, prior, square, y)
    yield Known("density of z^2 (two branches), worst of 3", 0.0, float((ours - chi).abs().max()), 1e-12, rounding)
    wave = lambda z: (3 * z).sin()
    at = torch.tensor([-0.8, 0.1, 0.6], dtype=torch.float64)
    # z uniform on [-pi, pi]: 3 whole periods, so y has the arcsine law 1 / (pi sqrt(1 - y^2)), and [-1/2, 1/2] a probability of 1/3.
    edges = branches(wave, -math.pi, math.pi)
    ours = density(wave, lambda z: torch.full_like(z, 1 / (2 * math.pi)), edges, at)
    off = float((ours - 1 / (math.pi * (1 - at.square()).sqrt())).abs().max())
    yield Known("density of sin 3z, z uniform (six branches and two halves), worst of 3", 0.0, off, 1e-12, rounding)
    third = masses(wave, lambda z: (z + math.pi) / (2 * math.pi), edges, torch.tensor([-0.5, 0.5], dtype=torch.float64))
    yield Known("P(|sin 3z| < 1/2)", 1 / 3, float(third[0]), 1e-12, rounding)
    cubic = lambda z: z**3 - 3 * z
    ends = torch.linspace(-700, 700, 1402, dtype=torch.float64)
    total = float(masses(cubic, NORMAL.cdf, branches(cubic, -8, 8), ends).sum())
    yield Known("total probability of z^3 - 3z", 1 - 2 * float(NORMAL.cdf(torch.tensor(-8.0))), total, 1e-12, rounding)


def _fits() -> Iterator[Known]:
    p = Isotropic.of([0.7, 0.3], [[-1.0, 0.0], [2.0, 1.0]], [0.5, 0.8])
    grid = Grid.box((-7, -7), (9, 9), 101)
    log_p = p.log_prob(grid.points)
    found = fit(lambda log_q: kl(log_p, log_q, grid), grid, [Isotropic.of([1.0], [[0.0, 0.0]], [1.0])]).mixture
    mean, variance = p.moments()
    # Close to its minimum the loss changes by 1e-16 over sqrt(1e-16) = 1e-8 in place, where line searches end; the curvature is about 1.
    because = "line searches end where the loss changes by rounding: 1e-8 in place, and a few steps of that"
    off = float((found.means[0] - mean).abs().max())
    yield Known("the Gaussian nearest to a mixture by KL has its mean", 0.0, off, 1e-7, because)
    yield Known("... and its variance", float(variance), float(found.sds[0].square()), 1e-7, because)


def _normal(x: Tensor, mean: float, sd: float) -> Tensor:
    return -0.5 * ((x - mean) / sd).square() - math.log(sd * math.sqrt(2 * math.pi))
