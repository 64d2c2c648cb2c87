"""Which GANs hold and which break: losses, penalties, networks and critic steps on MNIST at half its size, by the alarms' verdict.

Every loss with every stabiliser that goes with it, each on four grounds: DCGAN networks without normalisation, with batch normalisation in
both players, a generator and critic of six dense layers, and five critic steps (a third of the rounds, as each is dearer). A run ends as

    diverged     a loss was not finite                        collapsed    the alarm of mode collapse (or of duplicates) stands at the end
    saturated    the alarm of the critic stands               holds        none of these

and its coverage says how good it is: the share of 1,000 test records with a sample nearer than their fifth neighbour, in pixels (Naeem et
al. 2020; equal distributions have about .97). Roth et al. (2017), Gulrajani et al. (2017) and Mescheder et al. (2018) claim that their
penalties hold where the plain game breaks: the last figures compare them over all grounds. `--keep FOLDER` keeps the end of each run, so
that a table that was interrupted goes on where it was.

    PUSHFORWARD_DATA=... python experiments/gan_stability.py --out FOLDER                 # every loss, five seeds: 80 minutes of one core
    PUSHFORWARD_DATA=... python experiments/gan_stability.py --seeds 1 --losses non-saturating --out FOLDER    # the reduced form
"""

import argparse
import collections
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _result import ROOT, Result

import pushforward as pf
from pushforward.games import LOSSES
from pushforward.metrics import precision_recall_density_coverage, share_estimate

OFF: dict[str, Any] = {"relativistic": False, "r1": 0.0, "r2": 0.0, "gradient_penalty": 0.0, "anneal": 1.0}
ADAM: dict[str, Any] = {"lr": 1e-3, "betas": (0.5, 0.999), "ema": None, "schedule": "constant", "batch_size": 64}

STABILISERS: dict[str, dict[str, Any]] = {
    "none": {},
    "clipped weights": {"clip_weights": 0.05},
    "spectral norm": {"spectral": True},
    "gradient penalty": {"gradient_penalty": 10.0},
    "DRAGAN": {"dragan": 10.0},
    "R1": {"r1": 10.0},
    "R1 + R2": {"r1": 10.0, "r2": 10.0},
    "Roth": {"roth": 2.0},
    "relativistic R1 + R2": {"relativistic": True, "r1": 10.0, "r2": 10.0},
}
DEEP = (128,) * 6
GROUNDS: dict[str, dict[str, Any]] = {
    "no normalisation": {"network": "conv", "channels": 16},
    "batch normalisation": {"network": "conv", "channels": 16, "norm": "both"},
    "deep MLP": {"network": "mlp", "hidden": DEEP, "critic_hidden": DEEP},
    "five critic steps": {"network": "conv", "channels": 16, "critic_steps": 5},
}
CLAIMED = ("Roth", "gradient penalty", "R1")
SHOWN = 8


def half_size() -> pf.Data:
    """MNIST's first 6,000 images, 14 x 14, by the mean of four pixels."""
    source = pf.load_data("mnist")
    x = torch.nn.functional.avg_pool2d(source.train[:6000].tensor(), 2).round()
    return pf.load_data(x[:, 0].to(torch.uint8).numpy(), test=1000)


def run(
    data: pf.Data, loss: str, stabiliser: str, ground: str, steps: int, seed: int, keep: Path | None = None
) -> tuple[str, float, np.ndarray]:
    """(verdict, coverage, a few samples, none where it diverged), from `keep` where the run is there."""
    kept = None if keep is None else keep / ("-".join([ground, loss, stabiliser, str(steps), str(seed)]).replace(" ", "_") + ".npz")
    if kept is not None and kept.exists():
        with np.load(kept) as file:
            return str(file["verdict"]), float(file["coverage"]), file["x"]
    verdict, coverage, x = trained(data, loss, stabiliser, ground, steps, seed)
    if kept is not None:
        np.savez(kept, verdict=verdict, coverage=coverage, x=x)
    return verdict, coverage, x


def trained(data: pf.Data, loss: str, stabiliser: str, ground: str, steps: int, seed: int) -> tuple[str, float, np.ndarray]:
    hyper = {**OFF, "loss": loss, **STABILISERS[stabiliser], **GROUNDS[ground], "noise_dim": 64, "rounding": "soft"}
    model = pf.GAN(**hyper)
    try:
        model.fit(data, steps=steps // 3 if "critic_steps" in hyper else steps, seed=seed, progress=False, **ADAM)
    except pf.Diverged:
        return "diverged", 0.0, np.empty((0, 14, 14))
    real = data.test.tensor().flatten(1)
    x = np.asarray(model.sample(len(real), seed=seed))
    fake = torch.as_tensor(x.reshape(len(x), -1)).to(real)
    kinds = {a.kind for a in model.alarms}
    verdict = "collapsed" if kinds & {"mode collapse", "duplicates"} else "saturated" if "saturated critic" in kinds else "holds"
    return verdict, precision_recall_density_coverage(real, fake).coverage, x.reshape(len(x), 14, 14)[:SHOWN]


def picture(rows: dict[str, np.ndarray], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.5, 0.55 * len(rows)), layout="constrained")
    for axis, (name, x) in zip(figure.subplots(len(rows), 1, squeeze=False)[:, 0], rows.items()):
        axis.imshow(x.transpose(1, 0, 2).reshape(14, -1), cmap="gray_r", vmin=0, vmax=255)
        axis.set(xticks=[], yticks=[])
        axis.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=7)
    figure.savefig(path, dpi=130)


def allowed(loss: str, stabiliser: str) -> bool:
    """Roth's weights need a probability; a pairing is a loss of its own, shown once."""
    if stabiliser == "Roth":
        return loss in ("minimax", "non-saturating")
    return stabiliser != "relativistic R1 + R2" or loss == "non-saturating"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--losses", nargs="+", choices=list(LOSSES), default=list(LOSSES))
    parser.add_argument("--stabilisers", nargs="+", choices=list(STABILISERS), default=list(STABILISERS))
    parser.add_argument("--grounds", nargs="+", choices=list(GROUNDS), default=list(GROUNDS))
    parser.add_argument("--keep", type=Path, help="a folder for the end of each run; those that are there are not trained again")
    parser.add_argument("--out", type=Path, default=Path("runs/gan-stability"))
    parser.add_argument("--results", type=Path, default=ROOT / "results")
    given = parser.parse_args()
    torch.set_num_threads(1)
    for folder in (given.out, given.keep):
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
    data, verdicts = half_size(), collections.defaultdict[str, list[str]](list)
    settings = {"steps": given.steps, "images": "MNIST, 6,000 of 14 x 14", **ADAM, "losses": given.losses, "grounds": given.grounds}
    with Result("gan_stability", settings=settings, seeds=list(range(given.seeds))) as result:
        result.folder = given.results
        for ground in given.grounds:
            shown: dict[str, np.ndarray] = {}
            for loss in given.losses:
                for stabiliser in (s for s in given.stabilisers if allowed(loss, s)):
                    runs = [run(data, loss, stabiliser, ground, given.steps, seed, given.keep) for seed in range(given.seeds)]
                    ended = [r[0] for r in runs]
                    verdicts[stabiliser] += ended
                    what = f"{ground}, {loss}, {stabiliser}"
                    broken = collections.Counter(v for v in ended if v != "holds")
                    held = share_estimate(float(ended.count("holds")), float(len(ended)))
                    says = ", ".join(f"{v} {n}" for v, n in broken.items()) or "all hold"
                    result.add(f"{what}: share of runs that hold ({says})", held.value, unit="of 1", kind="alarms")
                    result.add(f"{what}: coverage", statistics.median(r[1] for r in runs), unit="of 1", kind="median of runs")
                    shown |= {f"{loss}, {stabiliser}": r[2] for r in runs[:1] if len(r[2])}
            picture(shown, given.out / f"{ground.replace(' ', '-')}.png")
        for stabiliser, ended in verdicts.items():
            value = ended.count("holds") / len(ended)
            bare = verdicts.get("none")
            target = f"> {bare.count('holds') / len(bare)}" if stabiliser in CLAIMED and bare else None
            result.add(f"all grounds and losses, {stabiliser}: share of runs that hold", value, unit="of 1", kind="alarms", target=target)
