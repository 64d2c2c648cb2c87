"""Does a likelihood know what it does not know? Models of Fashion-MNIST are shown handwritten digits, and each score of novelty is ranked.

    PUSHFORWARD_DATA=... python experiments/out_of_distribution.py --out PICTURES                       (reduced, 7 minutes of one core)
    PUSHFORWARD_DATA=... python experiments/out_of_distribution.py --seconds 3600 --records 54000 --held-out 5000 --out PICTURES  (5 hours)

A flow (Glow) and a VAE are fitted to images of clothes, and the AUROC of each score of
`pushforward.novelty` tells held-out clothes from MNIST's digits: 1/2 is chance, below it the score takes digits for *better* clothes than
clothes (Nalisnick et al. 2019, figure 1). The background models of the likelihood ratio are the same models fitted to images of which
chance replaced a share of the pixels (Ren et al. 2019); that share is fixed beforehand, not chosen by digits. Time is the process's own
(user and system), so other work on the machine does not count.

Images keep their 28 x 28 pixels, or are cropped to their middle: averaged down, digits are all edges, and no longer look smooth to a model.
"""

import argparse
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from _result import Result

import pushforward as pf
from pushforward.data import Data, Records
from pushforward.metrics import mean_estimate
from pushforward.model import Model
from pushforward.models.exact.glow import Glow
from pushforward.models.latent.vae import VAE
from pushforward.novelty import METHODS, Novelty, novelty

CONTESTANTS: dict[str, tuple[Callable[[], Model], dict[str, Any], dict[str, Any]]] = {
    "glow": (Glow, {}, {}),
    "vae": (lambda: VAE(latent_dim=20, hidden=(400, 200), network="mlp"), {}, {"samples": 10}),
}
"""How to make it, its training settings, and options of its log_prob."""
SCORES: tuple[tuple[str, int], ...] = (
    ("likelihood", 1),
    ("typicality", 1),
    ("typicality", 5),
    ("typicality", 25),
    ("likelihood_ratio", 1),
    ("complexity", 1),
)
"""Method, and images that are scored together."""


def images(name: str, side: int, records: int, held_out: int) -> Data:
    """The middle side x side pixels of images, in their official split: training, a tenth as many (at least 500) for validation, test."""
    full, at = pf.load_data(name), slice((28 - side) // 2, (28 - side) // 2 + side)
    parts = [part[:n].tensor()[:, 0, at, at].to(torch.uint8) for part, n in _sizes(full, records, held_out)]
    schema = pf.load_data(parts[0].numpy(), support="levels(256)", validation=0, test=0).schema
    return Data(schema, *(Records(schema, schema.encode(x.numpy()).to(torch.uint8)) for x in parts))


def _sizes(full: Data, records: int, held_out: int) -> tuple[tuple[Records, int], ...]:
    return (full.train, records), (full.validation, max(records // 10, 500)), (full.test, held_out)


def steps_for(make: Callable[[], Model], data: Data, settings: dict[str, Any], seconds: float) -> int:
    """How many steps fit into so much processor time: what 24 steps take beyond 6, so that building and imports drop out."""
    took = []
    for steps in (6, 6, 24):  # the first warms caches up
        begun = time.process_time()
        make().fit(data, **settings, steps=steps)
        took.append(time.process_time() - begun)
    return max(40, round(seconds * 18 / (took[2] - took[1])))


def picture(found: dict[tuple[str, int], Novelty], kind: str, path: Path) -> None:
    """A histogram for each score, of held-out clothes and of digits; the likelihood's shows log p itself, as in the paper's figure 1."""
    import numpy as np
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 5.6), layout="constrained")
    for axes, ((method, batch), result) in zip(figure.subplots(2, 3).flat, found.items(), strict=True):
        sign = -1 if method == "likelihood" else 1
        assert result.held_out is not None
        assert result.auroc is not None
        both = [sign * v.numpy() for v in (result.held_out, result.scores)]
        low, high = np.quantile(np.concatenate(both), [0.002, 0.998])
        bins = np.linspace(low, high, 60 if batch == 1 else 30)
        for values, label, colour in zip(both, ("clothes, held out", "digits"), ("tab:blue", "tab:orange"), strict=True):
            axes.hist(values.clip(low, high), bins, density=True, alpha=0.6, label=label, color=colour)
        axes.set_title(
            f"{method.replace('_', ' ')}{f', {batch} images together' if batch > 1 else ''}: AUROC {result.auroc.value:.3f}", fontsize=10
        )
        axes.set_xlabel(f"log p(x), {result.unit}" if sign < 0 else f"score, {result.unit} (higher = less like clothes)", fontsize=9)
        axes.set_yticks([])
    figure.axes[0].legend(fontsize=9)
    figure.suptitle(f"{kind} fitted to Fashion-MNIST, shown MNIST")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def run(args: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    clothes = images("fashion-mnist", args.side, args.records, args.held_out)
    digits = images("mnist", args.side, 200, args.held_out).test.records()
    background = pf.perturbed(clothes, args.rate, seed=0)
    settings: dict[str, Any] = {
        "pixels a side": args.side,
        "training records": len(clothes.train),
        "held-out records of each set": args.held_out,
        "seconds of processor time for each fit": args.seconds,
        "share of pixels replaced for the background": args.rate,
    }
    if args.side < 28 or args.seconds < 3600:
        settings["size"] = "reduced: the full form takes all of the images and an hour for each fit"
    with Result("out_of_distribution", settings=settings, seeds=[0]) as result:
        for name in args.models:
            make, own, options = CONTESTANTS[name]
            training = {**own, "progress": False, "alarms": False, "seed": 0}
            steps = steps_for(make, clothes, training, args.seconds)
            model, other = (make().fit(data, **training, steps=steps) for data in (clothes, background))
            result.add(f"{name}: steps", steps, kind="measured")
            found: dict[tuple[str, int], Novelty] = {}
            for method, batch in SCORES:
                given = {"background": other} if method == "likelihood_ratio" else {}
                found[method, batch] = novelty(model, digits, method=method, reference=clothes, batch=batch, **given, **options)
            bits = 1 / (clothes.spec.dim * math.log(2))
            first = found["likelihood", 1]
            assert first.held_out is not None
            for what, values in (("held-out clothes", first.held_out), ("digits", first.scores)):
                mean = mean_estimate(values)
                result.add(f"{name}: {what}", mean.value * bits, stderr=mean.stderr * bits, unit="bits per pixel", kind=model.density)
            best = 0.0
            for (method, batch), one in found.items():
                auroc = one.auroc
                assert auroc is not None
                what = f"{name}: AUROC of {method}" + (f", {batch} images together" if batch > 1 else "")
                target = "< 0.5" if method == "likelihood" else None
                result.add(what, auroc.value, stderr=auroc.stderr, kind="measured", target=target)
                result.settings.setdefault("95 % intervals", {})[what] = [round(auroc.low, 4), round(auroc.high, 4)]
                best = max(best, auroc.value if method != "likelihood" and batch == 1 else 0.0)
            result.add(f"{name}: AUROC of the best score of single images", best, kind="measured", target="> 0.9")
            if args.out:
                picture(found, type(model).__name__, args.out / f"out-of-distribution-{name}.png")
    assert set(METHODS) == {method for method, _ in SCORES}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=list(CONTESTANTS), default=list(CONTESTANTS))
    parser.add_argument("--side", type=int, default=28, help="pixels a side; fewer crop the images to their middle")
    parser.add_argument("--records", type=int, default=20_000, help="training records")
    parser.add_argument("--held-out", type=int, default=1000, help="held-out records of each set")
    parser.add_argument("--seconds", type=float, default=75.0, help="processor time of each of two fits per model")
    parser.add_argument("--rate", type=float, default=0.2, help="share of pixels that chance replaces for the background models")
    parser.add_argument("--out", type=Path, help="a folder for pictures")
    run(parser.parse_args())
