"""What a family that is too small settles on, under each divergence; what more components change.

1. One isotropic Gaussian fitted to a mixture in the plane by KL, MMD and JSD (Theis et al. 2016, figure 1): three optima on one target.
2. In one dimension by forward KL, reverse KL and JSD: covering all modes, or seeking one (Minka 2005).
3. K Gaussians fitted by forward and by reverse KL: what each loses in the other's divergence, as K grows to the target's own size.

All by quadrature and L-BFGS from seeded starts: no sampling, the same figures each time. Under a minute on one core.

    python experiments/divergence_fits.py --out pictures
"""

import argparse
import itertools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from _result import ROOT, Result
from torch import Tensor

from pushforward.divergences import Fit, Grid, Isotropic, fit, jensen_shannon, kl, mmd2, starts

PLANE = Isotropic.of([0.5, 0.3, 0.2], [[-1.6, -0.9], [0.2, 0.7], [2.4, 2.4]], [0.55, 0.45, 0.35])
NEAR = Isotropic.of([0.6, 0.4], [[-2.0], [2.0]], [0.6, 0.9])
FAR = Isotropic.of([0.6, 0.4], [[-3.5], [3.5]], [0.6, 0.9])
FOUR = Isotropic.of([0.35, 0.15, 0.3, 0.2], [[-4.0], [-1.5], [1.0], [4.5]], [0.5, 0.4, 0.8, 0.6])
BANDWIDTH = 1.0
Divergence = Callable[[Tensor], Tensor]


def divergences(log_p: Tensor, grid: Grid) -> dict[str, Divergence]:
    """Each as a function of log q."""
    return {
        "KL(p, q)": lambda log_q: kl(log_p, log_q, grid),
        "MMD": lambda log_q: mmd2(log_p, log_q, grid, BANDWIDTH).clamp(min=1e-30).sqrt(),
        "JSD": lambda log_q: jensen_shannon(log_p, log_q, grid),
        "KL(q, p)": lambda log_q: kl(log_q, log_p, grid),
    }


def single(p: Isotropic) -> list[Isotropic]:
    """Each component of p, and p's moments."""
    mean, variance = p.moments()
    each = [Isotropic(torch.ones(1).double(), m[None], s[None]) for m, s in zip(p.means, p.sds, strict=True)]
    return [*each, Isotropic(torch.ones(1).double(), mean[None], variance.sqrt()[None])]


def one_gaussian(result: Result, what: str, p: Isotropic, grid: Grid, names: Sequence[str]) -> dict[str, Isotropic]:
    """The best single Gaussian by each of `names`, and each fit under every one."""
    log_p = p.log_prob(grid.points)
    known = {name: f for name, f in divergences(log_p, grid).items() if name in names}
    found = {name: fit(f, grid, single(p)) for name, f in known.items()}
    for name, best in found.items():
        mean = best.mixture.means[0].tolist()
        for axis, m in zip("xy", mean):
            result.add(f"{what}: mean of the fit by {name}, {axis}", m, kind="exact")
        result.add(f"{what}: standard deviation of the fit by {name}", float(best.mixture.sds), kind="exact")
    for name, best in found.items():
        log_q = best.mixture.log_prob(grid.points)
        for other, f in known.items():
            result.add(f"{what}: {other} of the fit by {name}", float(f(log_q)), unit="" if other == "MMD" else "nats", kind="exact")
    losses = {a: {b: float(known[b](found[a].mixture.log_prob(grid.points))) for b in known} for a in found}
    margin = min(losses[a][b] / losses[b][b] - 1 for a in found for b in known if a != b)
    target = "> 0.1" if p is PLANE else None
    result.add(f"{what}: least excess of a fit in another's divergence", margin, unit="of its minimum", kind="exact", target=target)
    mean, variance = p.moments()
    best = found["KL(p, q)"].mixture
    off = max(float((best.means[0] - mean).abs().max()), abs(float(best.sds.square()) - float(variance)))
    result.add(f"{what}: the fit by KL(p, q) beside p's mean and variance", off, kind="exact", target="<= 1e-6")
    return {name: best.mixture for name, best in found.items()}


def capacity(result: Result, what: str, log_p: Tensor, grid: Grid, near: Isotropic, most: int, tries: int) -> list[dict[str, Any]]:
    """Fits of 1 to `most` components by KL(p, q) and KL(q, p), and what each loses in the other's divergence."""
    both = divergences(log_p, grid)
    forward, reverse = both["KL(p, q)"], both["KL(q, p)"]
    rows: list[dict[str, Any]] = []
    for K in range(1, most + 1):
        begin = starts(near, K, tries, seed=K)
        found: dict[str, Fit] = {}
        for name, f in (("forward", forward), ("reverse", reverse)):
            before = [_with_one_more(rows[-1][name].mixture, m) for m in near.means] if rows else []
            found[name] = fit(f, grid, [*begin, *before], iterations=400)
        coverage = float(forward(found["reverse"].mixture.log_prob(grid.points))) - found["forward"].loss
        quality = float(reverse(found["forward"].mixture.log_prob(grid.points))) - found["reverse"].loss
        apart = float(jensen_shannon(*(f.mixture.log_prob(grid.points) for f in found.values()), grid))
        rows.append({"K": K, "coverage": coverage, "quality": quality, "JSD": apart, **found})
        result.add(f"{what}, K = {K}: KL(p, q) of the forward fit", found["forward"].loss, unit="nats", kind="exact")
        result.add(f"{what}, K = {K}: KL(p, q) that the reverse fit loses", coverage, unit="nats", kind="exact")
        result.add(f"{what}, K = {K}: KL(q, p) of the reverse fit", found["reverse"].loss, unit="nats", kind="exact")
        result.add(f"{what}, K = {K}: KL(q, p) that the forward fit loses", quality, unit="nats", kind="exact")
        result.add(f"{what}, K = {K}: JSD between the two fits", apart, unit="nats", kind="exact")
    return rows


def _with_one_more(q: Isotropic, mean: Tensor) -> Isotropic:
    """q with a narrow tenth of its weight at `mean`."""
    return Isotropic(
        torch.cat([0.9 * q.weights, q.weights.new_tensor([0.1])]), torch.cat([q.means, mean[None]]), torch.cat([q.sds, q.sds.min()[None]])
    )


def skewed(x: Tensor) -> Tensor:
    """Log density of two Gumbel distributions, which no finite mixture of Gaussians equals: 0.6 at -3, scale 0.6, and 0.4 at 2, scale 1."""
    parts = [math.log(w / s) - (x - m) / s - (-(x - m) / s).exp() for w, m, s in ((0.6, -3.0, 0.6), (0.4, 2.0, 1.0))]
    return torch.logsumexp(torch.stack(parts), 0).clamp(min=-700)


# -- pictures -------------------------------------------------------------------------------------------------------------

COLOURS = {"KL(p, q)": "#c44e52", "MMD": "#8172b3", "JSD": "#55a868", "KL(q, p)": "#4c72b0"}


def plane_picture(path: Path, p: Isotropic, fits: dict[str, Isotropic]) -> None:
    """The target, and each fit over it, at one, two and three standard deviations."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Circle

    grid = Grid.box((-4.2, -4.2), (4.6, 4.6), 201)
    a, b = grid.axes
    figure = Figure(figsize=(3 * (1 + len(fits)), 3.9), layout="constrained")
    axes = figure.subplots(1, 1 + len(fits), sharex=True, sharey=True)
    for axis, (name, q) in zip(axes, {"target p": None, **fits}.items(), strict=True):
        axis.contourf(a, b, p.log_prob(grid.points).exp().reshape(len(a), -1).T, levels=12, cmap="Greys")
        axis.set(title=name if q is None else f"least {name}", aspect="equal", xlabel="x")
        if q is not None:
            for k in (1, 2):
                axis.add_patch(Circle(tuple(q.means[0].tolist()), k * float(q.sds), fill=False, color=COLOURS[name], lw=2))
            axis.plot(*q.means[0].tolist(), "+", color=COLOURS[name], ms=10, mew=2)
    axes[0].set_ylabel("y")
    figure.suptitle("One isotropic Gaussian fitted to a mixture: circles at one and two standard deviations", fontsize=11)
    figure.savefig(path, dpi=130)


def line_picture(path: Path, lines: dict[str, tuple[Isotropic, dict[str, Isotropic]]]) -> None:
    """A row for each target, a panel for each divergence."""
    from matplotlib.figure import Figure

    x = torch.linspace(-7, 7, 701, dtype=torch.float64)
    figure = Figure(figsize=(10.5, 2.7 * len(lines)), layout="constrained")
    axes = figure.subplots(len(lines), 3, sharex=True, sharey=True)
    for row, (which, (p, fits)) in zip(axes, lines.items(), strict=True):
        for axis, (name, q) in zip(row, fits.items(), strict=True):
            axis.fill_between(x, p.log_prob(x[:, None]).exp(), color="0.8", label="p")
            axis.plot(x, q.log_prob(x[:, None]).exp(), color=COLOURS[name], lw=2, label="q*")
            axis.set_title(f"least {name}, {which}")
            axis.legend(frameon=False)
        row[0].set_ylabel("density")
    for axis in axes[-1]:
        axis.set_xlabel("x")
    figure.savefig(path, dpi=130)


def capacity_picture(path: Path, curves: dict[str, tuple[Tensor, list[dict[str, Any]]]]) -> None:
    """For each target: the fits at three sizes, and the two losses by K."""
    from matplotlib.figure import Figure

    x = torch.linspace(-7, 8, 751, dtype=torch.float64)
    figure = Figure(figsize=(14, 3 * len(curves)), layout="constrained")
    axes = figure.subplots(len(curves), 4, squeeze=False)
    for row, (name, (density, rows)) in zip(axes, curves.items(), strict=True):
        for axis, at in zip(row, (0, 1, 3), strict=False):
            axis.fill_between(x, density, color="0.85", label="p")
            for which, colour in (("forward", COLOURS["KL(p, q)"]), ("reverse", COLOURS["KL(q, p)"])):
                label = {"forward": "least KL(p, q)", "reverse": "least KL(q, p)"}[which]
                style = "-" if which == "forward" else "--"
                axis.plot(x, rows[at][which].mixture.log_prob(x[:, None]).exp(), style, color=colour, lw=1.8, label=label)
            axis.set(title=f"{name}, K = {rows[at]['K']}", xlabel="x", ylim=(0, 1.9 * float(density.max())))
        row[0].legend(frameon=False, fontsize=8)
        row[0].set_ylabel("density")
        K = [r["K"] for r in rows]
        for key, label, colour in (
            ("coverage", "KL(p, q) lost by the reverse fit", COLOURS["KL(q, p)"]),
            ("quality", "KL(q, p) lost by the forward fit", COLOURS["KL(p, q)"]),
        ):
            row[3].semilogy(K, [max(r[key], 1e-12) for r in rows], "o-", color=colour, label=label)
        row[3].set(xlabel="components K of q", ylabel="nats", title="each in the other's (from 1e-12)", xticks=K)
        row[3].legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="folder for the pictures; none are drawn without")
    parser.add_argument("--results", type=Path, default=ROOT / "results", help="folder of the figures")
    parser.add_argument("--most", type=int, default=6, help="components of the largest mixture")
    parser.add_argument("--tries", type=int, default=4, help="starts of each fit of several components")
    given = parser.parse_args()
    torch.set_num_threads(1)
    settings = {"most": given.most, "tries": given.tries, "bandwidth": BANDWIDTH}
    with Result("divergence_fits", settings=settings, folder=given.results) as result:
        plane = one_gaussian(result, "in the plane", PLANE, Grid.box((-8, -8), (9, 9), 121), ("KL(p, q)", "MMD", "JSD"))
        wide, kinds = Grid.line(-16, 16, 641), ("KL(p, q)", "KL(q, p)", "JSD")
        lines = {
            "modes near": (NEAR, one_gaussian(result, "on a line, modes near", NEAR, wide, kinds)),
            "modes far": (FAR, one_gaussian(result, "on a line, modes far", FAR, wide, kinds)),
        }
        for name, (p, fits) in lines.items():
            # Forward KL takes the whole variance, reverse KL hardly more than its mode's.
            width = float(fits["KL(q, p)"].sds) / float(p.sds[0])
            what = f"on a line, {name}: standard deviation of the fit by KL(q, p) over its mode's"
            result.add(what, width, kind="exact", target="<= 1.05")
            fall = float(fits["KL(q, p)"].log_prob(p.means[1:]) - p.log_prob(p.means[1:])) / math.log(10)
            result.add(f"on a line, {name}: density of the fit by KL(q, p) at the other mode, over p's", fall, unit="decades", kind="exact")
        grid = Grid.line(-14, 16, 401)
        inside = FOUR.log_prob(grid.points)
        own = capacity(result, "a mixture of four", inside, grid, FOUR, given.most, given.tries)
        outside = skewed(grid.points[:, 0])
        near = Isotropic.of([0.35, 0.25, 0.25, 0.15], [[-3.1], [-1.9], [1.9], [4.0]], [0.5, 0.9, 0.8, 1.2])
        other = capacity(result, "two Gumbels", outside, grid, near, given.most, given.tries)
        for what, rows in (("a mixture of four", own), ("two Gumbels", other)):
            for name in ("forward", "reverse"):
                falls = all(b[name].loss <= a[name].loss + 1e-9 for a, b in itertools.pairwise(rows))
                result.add(f"{what}: the {name} fit's KL never rises with K", int(falls), kind="exact", target=">= 1")
        for key in ("coverage", "quality", "JSD"):
            result.add(f"a mixture of four, K = 4: {key} gap", own[3][key], unit="nats", kind="exact", target="<= 1e-8")
            ratio = other[-1][key] / other[0][key]
            result.add(f"two Gumbels: {key} gap at K = {given.most} of that at K = 1", ratio, kind="exact", target="<= 0.01")
        if given.out:
            given.out.mkdir(parents=True, exist_ok=True)
            plane_picture(given.out / "theis_figure_1.png", PLANE, plane)
            line_picture(given.out / "covering_and_seeking.png", lines)
            x = torch.linspace(-7, 8, 751, dtype=torch.float64)
            shown = {"mixture of four": (FOUR.log_prob(x[:, None]).exp(), own), "two Gumbels": (skewed(x).exp(), other)}
            capacity_picture(given.out / "capacity.png", shown)
