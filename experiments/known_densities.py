"""Densities in two dimensions that are known: how far is a flow from them, and what does the default GAN miss?

The ring (8 Gaussians), the grid (25), and moons (800 along two half circles, so close that none shows). A flow is judged by
KL(p || q) = E_p[log p(x) - log q(x)] over fresh records, in nats, and drawn beside the truth. The GAN has no density: its samples are
counted as in PacGAN (Lin et al. 2018): modes captured, share within 3 sd of a mode (98.9 % for the truth), reverse KL of the mode
histogram to uniform, and the spread inside the modes as a ratio to the true sd, which a shrunken fit betrays.

    python experiments/known_densities.py spline --minutes 5 --out FOLDER
    python experiments/known_densities.py maf_spline --minutes 5
    python experiments/known_densities.py gan --minutes 15
"""

import argparse
import math
from pathlib import Path
from typing import Any

import torch
from _result import ROOT, Result

import pushforward as pf
from pushforward.data.densities import Mixture2D
from pushforward.metrics import mode_statistics

RECORDS, FRESH, CELLS = 300_000, 50_000, 240


def moons(sd: float = 0.1, each: int = 400) -> Mixture2D:
    """The half circles of `load_data("moons")`, as a mixture of equal Gaussians at the midpoints of `each` equal parts of an arc."""
    angle = math.pi * (torch.arange(each, dtype=torch.float64) + 0.5) / each
    upper = torch.stack([angle.cos(), angle.sin()], 1)
    return Mixture2D(torch.cat([upper, torch.stack([1 - angle.cos(), 0.5 - angle.sin()], 1)]), sd)


DENSITIES = {"ring": Mixture2D.ring, "grid": Mixture2D.grid, "moons": moons}

# Hyperparameters and settings of training, where they are not the family's own. Clusters of a hundredth of the data's width want large
# weights, against which decay works, and more couplings.
PLANS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {"spline": ({"layers": 6}, {"weight_decay": 0.01})}


def log_prob(truth: Mixture2D, x: torch.Tensor) -> torch.Tensor:
    return torch.cat([truth.log_prob(part) for part in x.split(5000)])


def judge_flow(result: Result, name: str, model: pf.Model, truth: Mixture2D) -> None:
    x = truth.sample(FRESH, seed=1234)
    gap = log_prob(truth, x) - model.log_prob(x.float().numpy()).double()
    kl, stderr = float(gap.mean()), float(gap.std() / FRESH**0.5)
    result.add(f"{name}: KL from the exact density", kl, stderr=stderr, unit="nats", kind="exact", target="<= 0.01")


def draw(model: pf.Model, truth: Mixture2D, path: Path) -> None:
    """log p of the truth and of the flow over the same square, and samples of both."""
    from matplotlib.figure import Figure

    end = 1.15 * float((truth.means - truth.means.mean(0)).abs().max()) + 3 * truth.sd
    middle = truth.means.mean(0)
    ticks = torch.linspace(-end, end, CELLS, dtype=torch.float64)
    x = torch.cartesian_prod(ticks, ticks) + middle
    panels = {"truth": log_prob(truth, x), model.name or "": model.log_prob(x.float().numpy()).double()}
    top = float(panels["truth"].max())
    sides = [float(v) for k in range(2) for v in (middle[k] - end, middle[k] + end)]
    figure = Figure(figsize=(8, 8), layout="constrained")
    axes = figure.subplots(2, 2)
    for axis, (name, values) in zip(axes[0], panels.items()):
        axis.imshow(values.reshape(CELLS, CELLS).T, origin="lower", extent=sides, vmin=top - 12, vmax=top, cmap="viridis")
        axis.set_title(f"{name}: log density, 12 nats", fontsize=9)
    drawn = truth.sample(5000, seed=5), torch.as_tensor(model.sample(5000, seed=5))
    for axis, name, y in zip(axes[1], panels, drawn):
        axis.scatter(*y.T, s=1, alpha=0.5, linewidths=0)
        axis.set(xlim=sides[:2], ylim=sides[2:], aspect="equal")
        axis.set_title(f"{name}: 5,000 samples", fontsize=9)
    for axis in figure.axes:
        axis.set(xticks=[], yticks=[])
    figure.savefig(path, dpi=110)


def judge_gan(result: Result, name: str, model: pf.Model, truth: Mixture2D) -> None:
    x = torch.as_tensor(model.sample(FRESH, seed=1)).double()
    found, modes = mode_statistics(x, truth.means, truth.sd), len(truth.means)
    result.add(f"{name}: modes captured of {modes}", found.captured, unit="modes", kind="samples")
    result.add(f"{name}: share within 3 sd", 100 * found.share.value, stderr=100 * found.share.stderr, unit="%", kind="samples")
    result.add(f"{name}: reverse KL over modes", found.reverse_kl.value, stderr=found.reverse_kl.stderr, unit="nats", kind="samples")
    result.add(f"{name}: spread inside modes", found.spread.value, stderr=found.spread.stderr, unit="ratio to the true sd", kind="samples")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="of the catalog: a flow, or gan")
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--batch-size", type=int, help="[512 for flows; the GAN's own]")
    parser.add_argument("--only", nargs="+", choices=list(DENSITIES), help="[ring, grid, and moons for flows]")
    parser.add_argument("--out", type=Path, help="a folder for pictures; none are made without it")
    parser.add_argument("--results", type=Path, default=ROOT / "results")
    given = parser.parse_args()
    torch.set_num_threads(1)
    game = given.model == "gan"
    names = given.only or [name for name in DENSITIES if not (game and name == "moons")]
    training: dict[str, Any] = {"minutes": given.minutes}
    if given.batch_size or not game:
        training["batch_size"] = given.batch_size or 512
    config, own = PLANS.get(given.model, ({}, {}))
    training |= own
    settings = {"hyperparameters": config, **training, "records": RECORDS, "fresh records": FRESH, "threads": 1}
    with Result(f"known_densities_{given.model}", settings=settings, folder=given.results) as result:
        for name in names:
            truth = DENSITIES[name]()
            model = pf.catalog()[given.model](**config).fit(truth.sample(RECORDS, seed=0).numpy(), **training)
            (judge_gan if game else judge_flow)(result, name, model, truth)
            if given.out is not None and not game:
                given.out.mkdir(parents=True, exist_ok=True)
                draw(model, truth, given.out / f"{given.model}-{name}.png")
