"""Codes as features for a classifier: linear probes over several families, and an encoder as the start of a supervised network.

probe    the held-out accuracy of a logistic regression on codes, from 100 and 1,000 labels, beside the pixels and each untrained network.
start    a classifier of few labels whose first layers are those of an autoencoder of all images, without labels, against the same network
         from its random start (Vincent et al. 2010 initialise deep networks so): all weights trained, or a linear layer alone; two depths.

    python experiments/code_features.py --out FOLDER
    python experiments/code_features.py --size 20 --out FOLDER       # in full
"""

import copy
from typing import Any

import numpy as np
import torch
from _rows import Row, run
from torch import Tensor, nn

from pushforward.explore import linear_probe
from pushforward.models import create
from pushforward.models.latent.autoencoder import Autoencoder

QUIET: dict[str, Any] = {"progress": False, "alarms": False}
NET: dict[str, Any] = {"latent_dim": 20, "hidden": (400, 200), "network": "mlp"}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "autoencoder": ("autoencoder", NET),
    "denoising autoencoder": ("autoencoder", {**NET, "noise": 0.3}),
    "VAE": ("vae", NET),
    "adversarial autoencoder": ("aae", NET),
    "regularised autoencoder": ("autoencoder", {**NET, "code_penalty": 1e-2, "decoder_decay": 1e-4}),
}


def probe(row: Row) -> None:
    from matplotlib.figure import Figure

    data = row.images(20_000, binarize="threshold")
    steps = row.steps(1500)
    row.settings |= {"steps": steps, "families": FAMILIES, "records of the probe": 2000}
    models = {
        name: create(kind, **hyper).fit(data, steps=steps, seed=row.seed, schedule="cosine", **QUIET)
        for name, (kind, hyper) in FAMILIES.items()
    }
    found = linear_probe(models, data, counts=(100, 1000), n=2000, seed=row.seed)
    for name, accuracy in found.accuracy.items():
        for labels, share in accuracy.items():
            row.add(f"{name}, {labels} labels", share.value, stderr=share.stderr, unit="share right", kind="measured")
    pixels = found.accuracy["the records themselves"][100].value
    best = max(found.accuracy[name][100].value for name in FAMILIES)
    row.add("100 labels: the best codes less the pixels", best - pixels, unit="share", kind="measured", target="> 0")
    gain = found.accuracy["VAE"][100].value - found.accuracy["VAE, untrained"][100].value
    row.add("100 labels: the VAE's codes less those before training", gain, unit="share", kind="measured", target="> 0")
    names = list(found.accuracy)
    figure = Figure(figsize=(9, 5), layout="constrained")
    axis = figure.subplots()
    at = np.arange(len(names))
    for i, labels in enumerate(found.accuracy[names[0]]):
        shares = [found.accuracy[name][labels] for name in names]
        error = [s.stderr for s in shares]
        axis.barh(at + 0.38 * i - 0.19, [s.value for s in shares], 0.36, xerr=error, label=f"{labels} labels", color=f"C{i}")
    axis.set(yticks=at, yticklabels=names, xlabel="share of held-out images named rightly by a logistic regression", xlim=(0, 1))
    axis.invert_yaxis()
    axis.legend(frameon=False, loc="lower right")
    row.save(figure)


def start(row: Row) -> None:
    from matplotlib.figure import Figure

    data = row.images(20_000)
    steps, counts, repeats = row.steps(1500), (50, 100, 500), 10
    row.settings |= {"steps": steps, "labels": list(counts), "draws of the labelled images": repeats}
    y, truth = (torch.as_tensor(np.asarray(part.labels())) for part in (data.train, data.test))
    found: dict[str, list[tuple[float, float]]] = {}
    for depth, hidden in (("two", (400, 200)), ("three", (400, 400, 400))):
        model = Autoencoder(latent_dim=64, hidden=hidden, network="mlp", loss="squared", noise=0.5)
        model.fit(data, steps=steps, seed=row.seed, schedule="cosine", **QUIET)
        fresh = Autoencoder(latent_dim=64, hidden=hidden, network="mlp", loss="squared", noise=0.5)
        fresh._adopt(data.schema, False)
        fresh.build(data.spec, seed=row.seed)
        x, held = (model.entries.encode(part.tensor()) for part in (data.train, data.test))
        ways = {
            "random start, all weights": (fresh, True),
            "autoencoder's weights, all weights": (model, True),
            "autoencoder's weights, linear layer alone": (model, False),
        }
        for count in counts:
            draws, shares = [balanced(y, count, row.seed + r) for r in range(repeats)], {}
            for way, (source, whole) in ways.items():
                encoders = (copy.deepcopy(source.encoder_net) for _ in draws)
                shares[way] = np.array(
                    [taught(e, x[at], y[at], held, truth, whole, row.seed + r) for r, (e, at) in enumerate(zip(encoders, draws))]
                )
                name = f"{depth} hidden layers, {way}"
                found.setdefault(name, []).append((float(shares[way].mean()), float(shares[way].std(ddof=1))))
                about: dict[str, Any] = {"stderr": found[name][-1][1] / repeats**0.5, "unit": "share right", "kind": "measured"}
                row.add(f"{count} labels, {name}", found[name][-1][0], **about)
            # The same draws and heads for both: the difference has an error of its own.
            gain = shares["autoencoder's weights, all weights"] - shares["random start, all weights"]
            value, error = float(gain.mean()), float(gain.std(ddof=1)) / repeats**0.5
            claimed = depth == "three" and count <= 100
            target, holds = ("> 2 standard errors", value > 2 * error) if claimed else (None, None)
            what = f"{count} labels, {depth} hidden layers: the autoencoder's start less the random one"
            row.add(what, value, stderr=error, unit="share", kind="measured", target=target, holds=holds)
    figure = Figure(figsize=(6.5, 4), layout="constrained")
    axis = figure.subplots()
    for name, values in found.items():
        if name.startswith("two"):
            continue
        m, sd = np.array(values).T
        axis.errorbar(counts, m, yerr=sd, marker="o", capsize=3, label=name)
    axis.set(
        xscale="log", xticks=counts, xticklabels=counts, xlabel="labelled images", ylabel="share right, held-out (bars: sd over draws)"
    )
    axis.minorticks_off()
    axis.legend(frameon=False, fontsize=8)
    row.save(figure)


def balanced(y: Tensor, count: int, seed: int) -> Tensor:
    """Positions of as many records of each class."""
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))
    classes = y.unique()
    return torch.cat([order[y[order] == k][: count // len(classes)] for k in classes])


def taught(encoder: nn.Module, x: Tensor, y: Tensor, held: Tensor, truth: Tensor, whole: bool, seed: int, steps: int = 200) -> float:
    """Held-out accuracy of encoder -> ReLU -> linear layer, after `steps` of Adam on all labelled records."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        head = nn.Linear(encoder(x[:2], None).shape[1], 10)
    parameters = [*head.parameters(), *(encoder.parameters() if whole else ())]
    optimizer = torch.optim.Adam(parameters, 1e-3 if whole else 1e-2, weight_decay=1e-4)
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(head(torch.relu(encoder(x, None))), y).backward()
        optimizer.step()
    with torch.no_grad():
        return float((head(torch.relu(encoder(held, None))).argmax(1) == truth).double().mean())


if __name__ == "__main__":
    run("code_features", __doc__, {"probe": probe, "start": start})
