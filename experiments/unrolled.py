"""Modes of the ring that a plain GAN covers as it trains, and one that looks ahead through 5 or 10 steps of its critic (Metz et al. 2017).

Their figure 2: without unrolling the generator runs round the ring and covers a mode or two at a time; with it, all. A mode is covered
when a fifth of its share of 2,000 samples lies nearer to it than to any other and within 10 of its deviations.

    python experiments/unrolled.py --steps 4000 --seeds 3 --out FOLDER
"""

import argparse
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _result import ROOT, Result

import pushforward as pf
from pushforward.data.densities import Mixture2D
from pushforward.rng import Rng

DRAWN, RADIUS = 2000, 10.0
PLAIN: dict[str, Any] = {"relativistic": False, "r1": 0.0, "r2": 0.0, "fourier": 0, "noise_dim": 16}
TRAINING: dict[str, Any] = {"lr": 1e-3, "betas": (0.5, 0.999), "ema": None, "schedule": "constant", "batch_size": 256}


class Covered(pf.Observer):
    """Modes covered, every so many rounds."""

    def __init__(self, truth: Mixture2D, every: int):
        self.truth, self.every = truth, every
        self.steps, self.modes, self.drawn = list[int](), list[int](), list[np.ndarray]()

    def on_step(self, loop: Any) -> None:
        if loop.step % self.every:
            return
        with torch.no_grad():
            x = torch.as_tensor(loop.data.schema.decode(loop.model._sample(DRAWN, None, Rng.seeded(0)))).double()
        distance, mode = torch.cdist(x, self.truth.means).min(1)
        counts = torch.bincount(mode[distance < RADIUS * self.truth.sd], minlength=len(self.truth.means))
        self.steps.append(loop.step)
        self.modes.append(int((counts >= DRAWN / len(self.truth.means) / 5).sum()))
        self.drawn.append(x.numpy())


def picture(found: dict[str, list[Covered]], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 2.2 * len(found)), layout="constrained")
    grid = figure.add_gridspec(len(found), 7)
    for row, (name, runs) in enumerate(found.items()):
        axis = figure.add_subplot(grid[row, :2])
        for run in runs:
            axis.plot(run.steps, run.modes, linewidth=1)
        axis.set(ylim=(-0.3, 8.3), ylabel="modes of 8", title=name, xlabel="rounds" if row == len(found) - 1 else "")
        for column, at in enumerate(np.linspace(0, len(runs[0].drawn) - 1, 5).astype(int)):
            panel = figure.add_subplot(grid[row, 2 + column])
            panel.scatter(*runs[0].drawn[at].T, s=1, alpha=0.3, linewidths=0)
            panel.set(xlim=(-1.5, 1.5), ylim=(-1.5, 1.5), aspect="equal", xticks=[], yticks=[], title=f"round {runs[0].steps[at]:,}")
            panel.title.set_fontsize(8)
    figure.savefig(path, dpi=130)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--unroll", type=int, nargs="+", default=[0, 5, 10])
    parser.add_argument("--unroll-lr", type=float, default=0.1)
    parser.add_argument("--out", type=Path, default=Path("runs/unrolled"))
    parser.add_argument("--results", type=Path, default=ROOT / "results")
    given = parser.parse_args()
    torch.set_num_threads(1)
    given.out.mkdir(parents=True, exist_ok=True)
    settings = {"steps": given.steps, "unroll_lr": given.unroll_lr, **PLAIN, **TRAINING}
    with Result("unrolled", settings=settings, seeds=list(range(given.seeds))) as result:
        result.folder = given.results
        data, found, means = pf.load_data("ring"), dict[str, list[Covered]](), dict[int, float]()
        truth = data.truth
        assert isinstance(truth, Mixture2D)
        for k in given.unroll:
            name = f"unrolled {k}" if k else "vanilla"
            for seed in range(given.seeds):
                watch = Covered(truth, max(1, given.steps // 40))
                model = pf.GAN(**PLAIN, unroll=k, unroll_lr=given.unroll_lr)
                model.fit(data, steps=given.steps, seed=seed, observers=[watch], progress=False, alarms=False, **TRAINING)
                found.setdefault(name, []).append(watch)
            late = [m for w in found[name] for m in w.modes[len(w.modes) // 2 :]]
            means[k] = statistics.fmean(late)
            result.add(f"{name}: modes covered of 8, mean over the second half", means[k], unit="modes", kind="samples")
        for k in (k for k in means if k and 0 in means):
            result.add(f"unrolled {k}: modes more than vanilla", means[k] - means[0], unit="modes", kind="samples", target="> 0")
        picture(found, given.out / "unrolled.png")
