"""Deep autoencoders beside principal components, as in Hinton & Salakhutdinov (2006), without their pretraining.

30 codes of MNIST: the squared error of a test image, summed over its 784 pixels in [0, 1], of PCA (13.87 in the paper), logistic PCA
(8.01) and a deep autoencoder 784-1000-500-250-30 (3.00 with pretraining). Two codes: how well the 5 nearest training codes name a test
image's class. Fashion-MNIST stands in for the paper's faces. Pictures: images above their reconstructions, with the errors, and the two
scatters.

    PUSHFORWARD_DATA=... python experiments/hinton_salakhutdinov.py --minutes 30 --out FOLDER
    PUSHFORWARD_DATA=... python experiments/hinton_salakhutdinov.py --minutes 1.5 --out FOLDER        # the reduced form
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _result import ROOT, Result
from sklearn.decomposition import PCA
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor

import pushforward as pf
from pushforward.metrics import share_estimate, standard_error
from pushforward.models.latent.autoencoder import Autoencoder

HIDDEN = (1000, 500, 250)
SHOWN = 12


def flat(records: Any) -> Tensor:
    """Pixels in [0, 1], (n, 784)."""
    return records.tensor().flatten(1) / 255


def deep(data: pf.Data, codes: int, minutes: float, **settings: Any) -> Autoencoder:
    model = Autoencoder(latent_dim=codes, hidden=HIDDEN, network="mlp", activation=settings.pop("activation"), loss="squared")
    return model.fit(data, minutes=minutes, schedule="cosine", alarms=False, **settings)


def thirty(result: Result, name: str, data: pf.Data, minutes: float, out: Path, settings: dict[str, Any], paper: dict[str, str]) -> None:
    """The three rows of the figure, and their errors."""
    train, test = flat(data.train).numpy(), flat(data.test)
    pca = PCA(30).fit(train)
    linear = torch.from_numpy(pca.inverse_transform(pca.transform(test.numpy())))
    error = (linear - test).square().sum(1)
    target = None if "PCA" not in paper else "13.72 to 14.02"
    value = float(error.mean())
    holds = None if target is None else abs(value - 13.87) <= 0.15
    result.add(f"{name}, 30 codes: PCA", value, stderr=standard_error(error), unit="per image", kind="exact", target=target, holds=holds)
    model = deep(data, 30, minutes, **settings)
    found = model.squared_error(data.test)
    result.add(
        f"{name}, 30 codes: deep autoencoder",
        float(found.mean()),
        stderr=standard_error(found),
        unit="per image",
        kind="measured",
        target=paper.get("deep"),
    )
    seen = model.squared_error(data.train)
    result.add(f"{name}, 30 codes: deep autoencoder, on training images", float(seen.mean()), unit="per image", kind="measured")
    result.add(f"{name}, 30 codes: PCA less deep autoencoder", value - float(found.mean()), unit="per image", kind="measured", target="> 0")
    rows = [test[:SHOWN], flat_of(model, data)[:SHOWN], linear[:SHOWN]]
    labels = ["data", f"deep autoencoder, {float(found.mean()):.2f}", f"PCA, {value:.2f}"]
    three_rows(rows, labels, out / f"{name.lower()}-30.png")


def flat_of(model: Autoencoder, data: pf.Data) -> Tensor:
    """Reconstructions of the first test images, in [0, 1]."""
    return torch.from_numpy(np.asarray(model.reconstruct(data.test[:SHOWN].records()), dtype=np.float32)).reshape(SHOWN, -1) / 255


def two(result: Result, data: pf.Data, minutes: float, out: Path, settings: dict[str, Any]) -> None:
    """Two codes, and how well they keep classes apart."""
    train, test = flat(data.train).numpy(), flat(data.test).numpy()
    pca = PCA(2).fit(train)
    model = deep(data, 2, minutes, **settings)
    labels, known = np.asarray(data.train.labels()), np.asarray(data.test.labels())
    codes = {
        "PCA": (pca.transform(train), pca.transform(test)),
        "deep autoencoder": (model.encode(data.train).numpy(), model.encode(data.test).numpy()),
    }
    accuracy = {}
    for name, (seen, new) in codes.items():
        right = KNeighborsClassifier(5).fit(seen, labels).predict(new) == known
        share = share_estimate(float(right.sum()), float(len(right)))
        accuracy[name] = share.value
        result.add(
            f"MNIST, 2 codes: 5 nearest codes name the class, {name}", share.value, stderr=share.stderr, unit="share", kind="measured"
        )
    gain = accuracy["deep autoencoder"] - accuracy["PCA"]
    result.add("MNIST, 2 codes: gain of the deep autoencoder over PCA", gain, unit="share", kind="measured", target="> 0")
    scatters({f"{k}, {accuracy[k]:.1%} by 5 neighbours": v[1] for k, v in codes.items()}, known, out / "mnist-2.png")


# -- pictures -------------------------------------------------------------------------------------------------------


def three_rows(rows: list[Tensor], labels: list[str], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(SHOWN * 0.8, 3.4), layout="constrained")
    for axis, row, label in zip(figure.subplots(3, 1), rows, labels):
        axis.imshow(row.view(SHOWN, 28, 28).permute(1, 0, 2).reshape(28, -1), cmap="gray_r", vmin=0, vmax=1)
        axis.set_title(label, fontsize=9, loc="left")
        axis.set_axis_off()
    figure.savefig(path, dpi=120)


def scatters(codes: dict[str, np.ndarray], labels: np.ndarray, path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 5.2), layout="constrained")
    for axis, (title, z) in zip(figure.subplots(1, 2), codes.items()):
        for k in np.unique(labels):
            axis.scatter(*z[labels == k].T, s=2, label=str(k), color=f"C{int(k)}")
        axis.set_title(title, fontsize=10, loc="left")
    axis.legend(markerscale=5, fontsize=8, frameon=False)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0, help="of each training")
    parser.add_argument("--only", nargs="+", choices=("mnist", "fashion", "two"), default=["mnist", "fashion", "two"])
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--activation", default="silu")
    parser.add_argument("--weight-decay", type=float, default=0.1, help="of AdamW; without it the training error goes on alone")
    parser.add_argument("--ema", type=float, default=0.999)
    parser.add_argument("--precision", choices=["32", "bf16"], default="32", help="of training; errors are measured in single precision")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("runs/hinton-salakhutdinov"))
    parser.add_argument("--results", type=Path, default=ROOT / "results")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    given.out.mkdir(parents=True, exist_ok=True)
    settings = {"lr": given.lr, "batch_size": given.batch, "activation": given.activation, "precision": given.precision}
    settings |= {"optimizer": "adamw", "weight_decay": given.weight_decay, "ema": given.ema}
    with Result("hinton_salakhutdinov", settings={**settings, "minutes": given.minutes, "hidden": HIDDEN}, seeds=[0]) as result:
        result.folder = given.results
        mnist = pf.load_data("mnist")
        if "mnist" in given.only:
            thirty(result, "MNIST", mnist, given.minutes, given.out, settings, {"PCA": "13.87", "deep": "<= 3.0"})
        if "fashion" in given.only:
            thirty(result, "Fashion-MNIST", pf.load_data("fashion-mnist"), given.minutes, given.out, settings, {})
        if "two" in given.only:
            two(result, mnist, given.minutes, given.out, settings)
