"""Class-conditional DCGANs on images, and the three questions that a GAN is asked: what likelihood, does it copy, what is missing?

One projection critic (Miyato & Koyama 2018) per data set. Figures, each on held-out records and in a named feature space: Fréchet
distance, precision, recall, density, coverage (Naeem et al. 2020), the copying test C_T (Meehan et al. 2020), classes found by a
classifier, log p(x | class) under an observation noise by annealed importance sampling with its gap (Wu et al. 2017), and precision
against recall as the noise is truncated (Brock et al. 2019). CIFAR-10 is read from JPEG copies, cifar10/cifar10_jpeg.npz below
PUSHFORWARD_DATA: figures of those compare with no published ones. Pictures: samples beside their nearest training records, a row
for each class, the curve.

    PUSHFORWARD_DATA=... python experiments/gan_images.py --data mnist fashion-mnist --minutes 30 --out FOLDER
    PUSHFORWARD_DATA=... python experiments/gan_images.py --data mnist --minutes 2 --chains 4 --out FOLDER    # the reduced form
"""

import argparse
import io
import itertools
import os
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _result import ROOT, Result
from torch import Tensor

import pushforward as pf
from pushforward.evidence import evidence
from pushforward.metrics import nearest, precision_recall_density_coverage
from pushforward.report.plots import pixels, tiles
from pushforward.spaces import FIT_RECORDS, pick, spaces

CUTS = (0.2, 0.4, 0.7, 1.0, 1.5, 2.5, None)
SHOWN, PER_CLASS = 24, 10


def cifar10() -> pf.Data:
    """The 60,000 images from their JPEG copies: bytes, offsets and labels of each split."""
    from PIL import Image

    held = np.load(Path(os.environ["PUSHFORWARD_DATA"]) / "cifar10" / "cifar10_jpeg.npz", allow_pickle=False)
    images, labels = [], []
    for part in ("train", "test"):
        content, at = held[f"{part}_bytes"].tobytes(), held[f"{part}_offsets"].tolist()
        images += [np.asarray(Image.open(io.BytesIO(content[a:b]))) for a, b in itertools.pairwise(at)]
        labels.append(held["class_names"][held[f"{part}_y"]])
    return pf.load_data(np.stack(images), label=np.concatenate(labels))


def figures(result: Result, name: str, model: pf.GAN, data: pf.Data) -> None:
    """What the samples are like, and whether they are copies."""
    found = pf.evaluate(model, data)
    for key in ("frechet", "precision", "recall", "density", "coverage", "copying", "copied_share", "classes_captured"):
        at, real = found.figures.get(key), found.real.get(key)
        if at is None:
            continue
        unit = f"{found.features}; real {real.value:.3g}" if real is not None else found.features
        result.add(f"{name}: {key}", at.value, stderr=at.stderr, unit=unit, kind="samples")
    print(name, found.copying, flush=True)


def likelihood(result: Result, name: str, model: pf.GAN, data: pf.Data, chains: int, records: int) -> None:
    """log p(x | class) under the observation noise that validation records choose."""
    found = evidence(model, data, n=records, chains=chains, simulated=records)
    noise = f"noise {found.noise:.3g} of the features in [-1, 1]"
    result.add(f"{name}: AIS on test records, {noise}", found.log_prob.value, stderr=found.log_prob.stderr, unit="nats", kind="bound")
    if found.gap is not None:
        result.add(f"{name}: gap between the bounds", found.gap.value, stderr=found.gap.stderr, unit="nats", kind="measured")


def truncation(result: Result, name: str, model: pf.GAN, data: pf.Data, out: Path) -> None:
    """Precision against recall as z stays nearer and nearer to 0."""
    from matplotlib.figure import Figure

    held = pick(data.test, 1000, 0)
    space = next(iter(spaces(data).values()))
    real, labels = space(held.tensor().double()), held.labels()
    curve = []
    for cut in CUTS:
        x = data.schema.encode(model.sample(len(held), condition=labels, seed=0, truncation=cut)).double()
        found = precision_recall_density_coverage(real, space(x))
        curve.append((found.recall, found.precision))
        what = "not truncated" if cut is None else f"truncated at {cut}"
        result.add(f"{name}, {what}: precision", found.precision, unit=space.name, kind="samples")
        result.add(f"{name}, {what}: recall", found.recall, unit=space.name, kind="samples")
    figure = Figure(figsize=(4, 3.6), layout="constrained")
    axis = figure.subplots()
    axis.plot(*zip(*curve), marker="o", markersize=4)
    for (x, y), cut in zip(curve, CUTS):
        axis.annotate("none" if cut is None else f"{cut:g}", (x, y), textcoords="offset points", xytext=(5, 4), fontsize=8)
    axis.set(xlabel="recall", ylabel="precision")
    axis.margins(0.12)
    axis.set_title(textwrap.fill(f"{name}: z truncated; {space.name}", 52), fontsize=8)
    figure.savefig(out / f"{name}-truncation.png", dpi=130)


def pictures(name: str, model: pf.GAN, data: pf.Data, out: Path) -> None:
    """Samples above their nearest training records, in pixels, and a row for each class."""
    classes = sorted(set(data.train.labels().tolist()))
    encode = data.schema.encode
    x = encode(model.sample(SHOWN, condition=np.resize(classes, SHOWN), seed=0))
    train = pick(data.train, FIT_RECORDS, 0).tensor()
    _, at = nearest(x.flatten(1), train.flatten(1))
    pairs = torch.cat([torch.cat([x[i : i + 12], train[at[i : i + 12, 0]]]) for i in range(0, SHOWN, 12)])
    save(pairs, data, 12, out / f"{name}-nearest.png")
    save(
        encode(model.sample(PER_CLASS * len(classes), condition=np.repeat(classes, PER_CLASS), seed=1)),
        data,
        PER_CLASS,
        out / f"{name}-classes.png",
    )


def save(x: Tensor, data: pf.Data, columns: int, path: Path) -> None:
    from PIL import Image

    canvas = tiles(pixels(x, data), columns, 1)
    Image.fromarray(canvas.squeeze()).resize((3 * canvas.shape[1], 3 * canvas.shape[0]), Image.Resampling.NEAREST).save(path)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", nargs="+", default=["mnist", "fashion-mnist"], help="built-in sets, cifar10, or folders with a folder per class"
    )
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--network", choices=["conv", "residual"], default="conv")
    parser.add_argument("--channels", type=int, default=32)
    parser.add_argument("--precision", choices=["32", "bf16"], default="32")
    parser.add_argument("--chains", type=int, default=8)
    parser.add_argument("--records", type=int, default=50, help="scored by annealing")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("runs/gan-images"))
    parser.add_argument("--results", type=Path, default=ROOT / "results")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    given.out.mkdir(parents=True, exist_ok=True)
    hyper: dict[str, Any] = {"network": given.network, "channels": given.channels, "conditioning": "projection"}
    settings = {
        **hyper,
        "minutes": given.minutes,
        "precision": given.precision,
        "threads": given.threads,
        "data": [Path(d).name for d in given.data],
    }
    with Result("gan_images", settings=settings, seeds=[0]) as result:
        result.folder = given.results
        for source in given.data:
            data, name = cifar10() if source == "cifar10" else pf.load_data(source), Path(source).name
            model = pf.GAN(**hyper).fit(data, condition=True, minutes=given.minutes, seed=0, precision=given.precision)
            pictures(name, model, data, given.out)
            figures(result, name, model, data)
            truncation(result, name, model, data, given.out)
            likelihood(result, name, model, data, given.chains, given.records)
