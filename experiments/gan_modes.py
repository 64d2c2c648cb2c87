"""Which modes of a known mixture does a GAN find, and how well does it fit them? Losses and penalties on the ring and the grid.

The setting of PacGAN (Lin et al. 2018, section 4.1): 25 Gaussians at {-4, -2, 0, 2, 4}^2 with sd 0.05, or 8 on the unit circle with sd
0.01; 100,000 records. Counted over 50,000 samples: modes captured, the share within 3 sd of a mode (98.9 % for the truth), the reverse KL
of the histogram of modes to uniform, and the spread inside the modes over the true sd: a fit of every mode by a point has 100 % of the
share and a spread of 0, so that only the four together say that a fit is good. PacGAN4 reports 24.8 modes, 93.6 % and .04 on the grid.

One row is the default, every other one a published remedy on plain networks without Fourier features. Each run has so many minutes of one
core. Pictures: 2,500 samples of each first seed. `--keep FOLDER` keeps the samples of each run, so that a table that was interrupted goes
on where it was.

    python experiments/gan_modes.py --steps 56000 --seeds 10 --only default --name gan_modes_default    # the full form, 2 hours of a core
    python experiments/gan_modes.py --minutes 1 --seeds 1 --out FOLDER              # the reduced form of the whole table
"""

import argparse
import math
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _result import ROOT, Result

import pushforward as pf
from pushforward.data.densities import Mixture2D
from pushforward.metrics import ModeStatistics, mode_statistics

RECORDS, FRESH, SHOWN = 100_000, 50_000, 2_500

PLAIN: dict[str, Any] = {"relativistic": False, "r1": 0.0, "r2": 0.0, "fourier": 0, "hidden": (128, 128, 128)}
ADAM: dict[str, Any] = {"lr": 2e-4, "betas": (0.5, 0.999), "ema": None, "schedule": "constant"}

ROWS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "default": ({}, {}),
    "default without Fourier features": ({"fourier": 0}, {}),
    "vanilla": ({**PLAIN}, ADAM),
    "minimax": ({**PLAIN, "loss": "minimax"}, ADAM),
    "least squares": ({**PLAIN, "loss": "least-squares"}, ADAM),
    "hinge, spectral norm": ({**PLAIN, "loss": "hinge", "spectral": True}, ADAM),
    "Wasserstein, clipped": (
        {**PLAIN, "loss": "wasserstein", "clip_weights": 0.1, "critic_steps": 5},
        {**ADAM, "lr": 5e-5, "optimizer": "rmsprop"},
    ),
    "Wasserstein, gradient penalty": ({**PLAIN, "loss": "wasserstein", "critic_steps": 5}, {**ADAM, "lr": 1e-4, "betas": (0.0, 0.9)}),
    "DRAGAN": ({**PLAIN, "dragan": 10.0}, ADAM),
    "Roth": ({**PLAIN, "roth": 0.1}, ADAM),
    "R1": ({**PLAIN, "r1": 3.0}, ADAM),
    "packed by 4": ({**PLAIN, "pack": 4}, ADAM),
    "unrolled 5": ({**PLAIN, "unroll": 5}, ADAM),
    "relativistic": ({**PLAIN, "relativistic": True}, ADAM),
}
"""Name -> hyperparameters, training settings."""

TARGETS = {"grid": ("25", "95", "0.01"), "ring": ("8", "97", "0.01")}
"""Modes, share in per cent, reverse KL: what the default is to reach in its full form."""


def samples(data: pf.Data, name: str, budget: dict[str, Any], seed: int, kept: Path | None) -> tuple[np.ndarray, float]:
    """50,000 samples, and the minutes of one core that training took."""
    if kept is not None and kept.exists():
        with np.load(kept) as file:
            return file["x"], float(file["minutes"])
    hyper, training = ROWS[name]
    began = time.process_time()
    model = pf.GAN(**hyper).fit(data, **budget, seed=seed, progress=False, alarms=False, **training)
    took = (time.process_time() - began) / 60
    x = np.asarray(model.sample(FRESH, seed=seed))
    if kept is not None:
        np.savez(kept, x=x, minutes=took)
    return x, took


def fit(
    data: pf.Data, which: str, name: str, budget: dict[str, Any], seed: int, keep: Path | None
) -> tuple[ModeStatistics, np.ndarray, float]:
    """What the samples are like, some of them, and the minutes of one core."""
    file = "-".join([which, name.replace(" ", "-"), *(f"{k}-{v}" for k, v in budget.items()), str(seed)]) + ".npz"
    x, took = samples(data, name, budget, seed, None if keep is None else keep / file)
    truth = data.truth
    assert isinstance(truth, Mixture2D)
    return mode_statistics(torch.as_tensor(x).double(), truth.means, truth.sd), x[:SHOWN], took


def summarise(result: Result, what: str, found: list[ModeStatistics], targets: tuple[str, str, str] | None) -> None:
    """Means over seeds, with standard errors, each against its target."""
    figures = {
        "modes captured": ([float(f.captured) for f in found], f"of {found[0].modes}", targets and f">= {targets[0]}"),
        "share within 3 sd": ([100 * f.share.value for f in found], "%", targets and f">= {targets[1]}"),
        "reverse KL over modes": ([f.reverse_kl.value for f in found], "nats", targets and f"<= {targets[2]}"),
        "spread inside the modes": ([f.spread.value for f in found], "of the true sd", targets and "0.9 to 1.1"),
    }
    for figure, (every, unit, target) in figures.items():
        values = [v for v in every if not math.isnan(v)]  # no sample near a mode has no spread
        if not values:
            continue
        mean = statistics.fmean(values)
        stderr = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
        holds = 0.9 <= mean <= 1.1 if target == "0.9 to 1.1" else None
        result.add(f"{what}: {figure}", mean, stderr=stderr, unit=unit, kind="samples", target=target, holds=holds)


def picture(panels: dict[str, np.ndarray], truth: Mixture2D, path: Path) -> None:
    from matplotlib.figure import Figure

    across = min(5, len(panels))
    down = math.ceil(len(panels) / across)
    figure = Figure(figsize=(2.6 * across, 2.8 * down), layout="constrained")
    end = 1.25 * float(truth.means.abs().max())
    for axis, (name, x) in zip(np.ravel(figure.subplots(down, across, squeeze=False)), panels.items()):
        axis.scatter(*x.T, s=1, alpha=0.4, linewidths=0)
        axis.set(xlim=(-end, end), ylim=(-end, end), aspect="equal", xticks=[], yticks=[])
        axis.set_title(name, fontsize=8)
    for axis in figure.axes[len(panels) :]:
        axis.set_axis_off()
    figure.savefig(path, dpi=130)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=15.0, help="of each run")
    parser.add_argument("--steps", type=int, help="rounds of each run, in place of minutes: the same work where a machine is shared")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--data", nargs="+", choices=["grid", "ring"], default=["grid", "ring"])
    parser.add_argument("--only", nargs="+", choices=list(ROWS), default=list(ROWS))
    parser.add_argument("--name", default="gan_modes", help="of the file under results/")
    parser.add_argument("--keep", type=Path, help="a folder for the samples of each run; those that are there are not trained again")
    parser.add_argument("--out", type=Path, default=Path("runs/gan-modes"))
    parser.add_argument("--results", type=Path, default=ROOT / "results")
    given = parser.parse_args()
    torch.set_num_threads(1)
    for folder in (given.out, given.keep):
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
    budget = {"minutes": given.minutes} if given.steps is None else {"steps": given.steps}
    settings = {**budget, "records": RECORDS, "samples": FRESH, "threads": 1}
    with Result(given.name, settings=settings, seeds=list(range(given.seeds))) as result:
        result.folder = given.results
        for which in given.data:
            data, panels = pf.load_data(which, n=RECORDS), {}
            for name in given.only:
                runs = [fit(data, which, name, budget, seed, given.keep) for seed in range(given.seeds)]
                panels[name] = runs[0][1]
                full = name == "default" and (given.steps is not None or given.minutes >= 15)
                summarise(result, f"{which}, {name}", [r[0] for r in runs], TARGETS[which] if full else None)
                target = "<= 15" if full else None
                result.add(f"{which}, {name}: one core, the longest seed", max(r[2] for r in runs), unit="minutes", target=target)
                print(which, name, *(f"{r[0].captured} {r[0].share.value:.3f} {r[0].spread.value:.2f}" for r in runs), flush=True)
            truth = data.truth
            assert isinstance(truth, Mixture2D)
            picture({"truth": truth.sample(SHOWN, seed=0).numpy(), **panels}, truth, given.out / f"{which}.png")
