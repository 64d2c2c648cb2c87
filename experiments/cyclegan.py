"""CycleGAN where the map is known: digits to digits in other colours, and shoes to their edges, both ways.

`digits`: A are MNIST digits, B other MNIST digits, inverted and coloured by one map of grey values to colours. `shoes`: A are Fashion-MNIST
sandals, sneakers and boots, B the edges (Sobel) of others. No training image of A has its partner in B. Held-out images have partners
that are known: the error of a translation is |translation - partner| per value in [0, 1], beside the same for the untouched image and for
the partner of another image; the class that 5 nearest neighbours among the target's real images see is that of the source, or not.

The form of results/cyclegan.json (about 4 minutes on one quiet core), and the full one:

    python experiments/cyclegan.py --out pictures
    python experiments/cyclegan.py --side 28 --channels 32 --blocks 3 --records 20000 --steps 60000 --out pictures

`--out` gets a picture of each direction: source, translation, known partner, and the way back.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _result import Result

import pushforward as pf
from pushforward.data.builtin import mnist
from pushforward.models.adversarial.cyclegan import CycleGAN

Arrays = tuple[np.ndarray, np.ndarray]
WAYS = {"digits": ("MNIST", "coloured"), "shoes": ("shoes", "edges")}


def shrink(images: np.ndarray, side: int) -> np.ndarray:
    """(n, 28, 28) -> (n, side, side), the mean over squares."""
    f = images.shape[1] // side
    return np.rint(images.reshape(len(images), side, f, side, f).mean((2, 4))).astype(np.uint8)


def coloured(grey: np.ndarray) -> np.ndarray:
    """Dark blue on yellow: black becomes (250, 225, 90) and white (20, 45, 160), on a straight line, (n, H, W) -> (n, H, W, 3)."""
    paper, ink = np.array([250, 225, 90.0]), np.array([20, 45, 160.0])
    return np.rint(paper + grey[..., None] / 255 * (ink - paper)).astype(np.uint8)


def edges(grey: np.ndarray) -> np.ndarray:
    """The size of the Sobel gradient, white at a full step, (n, H, W) -> (n, H, W)."""
    from scipy.ndimage import sobel

    x = grey.astype(np.float64)
    return np.rint(np.hypot(sobel(x, 1), sobel(x, 2)).clip(0, 1020) / 4).astype(np.uint8)


def task(name: str, side: int, records: int, held_out: int) -> tuple[Arrays, Arrays, Arrays, Any]:
    """(images, classes) of A, of what becomes B, and of held-out sources; and the known map."""
    images, labels = mnist("mnist" if name == "digits" else "fashion-mnist")
    assert labels is not None
    if name == "shoes":
        shoes = np.isin(labels, (5, 7, 9))
        train = int(shoes[:60_000].sum())
        images, labels = images[shoes], labels[shoes]
    else:
        train = 60_000
    half = min(records, train // 2)
    at = [slice(0, half), slice(train // 2, train // 2 + half), slice(train, train + held_out)]
    parts = [(shrink(images[rows], side), labels[rows]) for rows in at]
    return parts[0], parts[1], parts[2], coloured if name == "digits" else edges


def same_form(grey: np.ndarray, like: np.ndarray) -> np.ndarray:
    return np.repeat(grey[..., None], 3, -1) if like.ndim == 4 and grey.ndim == 3 else grey


def error(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Mean over records of the mean |x - y| in [0, 1], and its standard error."""
    each = np.abs(x.astype(np.float64) - y).reshape(len(x), -1).mean(1) / 255
    return float(each.mean()), float(each.std() / len(each) ** 0.5)


def named(real: Arrays, x: np.ndarray) -> np.ndarray:
    """The class of each image by 5 nearest neighbours among real ones."""
    from sklearn.neighbors import KNeighborsClassifier

    flat = lambda images: images.reshape(len(images), -1).astype(np.float32)
    return KNeighborsClassifier(5).fit(flat(real[0]), real[1]).predict(flat(x))


def draw(rows: dict[str, np.ndarray], path: Path, columns: int = 14) -> None:
    """One row of images for each name."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(columns * 0.62 + 1.3, len(rows) * 0.62), layout="constrained")
    for axis, (name, images) in zip(figure.subplots(len(rows), 1), rows.items(), strict=True):
        shown = np.pad(images[:columns], [(0, 0), (1, 1), (1, 1), *[(0, 0)] * (images.ndim - 3)], constant_values=128)
        axis.imshow(np.concatenate(list(shown), 1), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        axis.set(xticks=[], yticks=[])
        axis.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9)
        axis.spines[:].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150, bbox_inches="tight")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", nargs="+", default=list(WAYS), choices=list(WAYS))
    parser.add_argument("--side", type=int, default=14, choices=(14, 28))
    parser.add_argument("--records", type=int, default=4000, help="training records of each collection, at most")
    parser.add_argument("--held-out", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--channels", type=int, default=8)
    parser.add_argument("--blocks", type=int, default=2)
    parser.add_argument("--halvings", type=int, default=1)
    parser.add_argument("--identity", type=float, default=0.5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--name", default="cyclegan", help="the file under results/")
    parser.add_argument("--out", default=None, help="folder for the pictures and the runs")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    config = {"channels": given.channels, "blocks": given.blocks, "halvings": given.halvings}
    config |= {"identity": given.identity, "network": "conv"}
    training = {"steps": given.steps, "batch_size": given.batch_size, "lr": given.lr, "seed": given.seed}
    settings = {"tasks": given.tasks, "side": given.side, "records": given.records, **config, **training, "threads": given.threads}
    settings["form"] = "full" if given.side == 28 and given.records >= 6000 else "reduced: half the size, few records, small networks"
    with Result(given.name, settings=settings, seeds=[given.seed]) as result:
        for name in given.tasks:
            a, b, held, known = task(name, given.side, given.records, given.held_out)
            b = known(b[0]), b[1]
            data = pf.load_data(a[0], data_b=b[0], validation=0, test=0)
            out = None if given.out is None else Path(given.out)
            start = time.perf_counter()
            model = CycleGAN(**config).fit(data, out=None if out is None else out / name, progress=False, **training)
            spent = time.perf_counter() - start
            partner = known(held[0])
            source = same_form(held[0], partner)
            there, back = model.translate(held[0], to="b"), model.translate(partner, to="a")
            ways = {
                f"{WAYS[name][0]} to {WAYS[name][1]}": (source, there, partner, model.translate(there, to="a"), b),
                f"{WAYS[name][1]} to {WAYS[name][0]}": (
                    partner,
                    back,
                    source,
                    model.translate(back, to="b"),
                    (same_form(a[0], partner), a[1]),
                ),
            }
            for way, (x, y, truth, cycled, target) in ways.items():
                mean, stderr = error(y, truth)
                untouched, another = error(x, truth)[0], error(np.roll(truth, 1, 0), truth)[0]
                # A map that was not found errs as the partner of another image does.
                result.add(f"{way}: error", mean, stderr=stderr, kind="measured", target=f"<= {another / 4:.3g}")
                result.add(f"{way}: error of the untouched image", untouched, kind="measured")
                result.add(f"{way}: error of another image's partner", another, kind="measured")
                result.add(f"{way}: error there and back", error(cycled, x)[0], kind="measured")
                accuracy, best = (float((named(target, v) == held[1]).mean()) for v in (y, truth))
                result.add(f"{way}: class kept", accuracy, kind="measured", target=f">= {best - 0.05:.3g}")
                result.add(f"{way}: class of the known partners", best, kind="measured")
                if out is not None:
                    rows = {"source": x, "translated": y, "known": truth, "and back": cycled}
                    draw(rows, out / f"{way.replace(' ', '_')}.png")
            result.add(f"{name}: seconds of training", spent, unit="s", kind="measured")
