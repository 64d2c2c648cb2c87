"""MNIST with 100 labels: M2 (Kingma et al. 2014), the semi-supervised adversarial autoencoder (Makhzani et al. 2015) and the same encoder
taught by the 100 labels alone.

The labels are drawn by the seed, ten of each class, the same for all three; the other training images come without. Published errors:
1.90 % (AAE) and 11.97 % (M2) after full training with 100 labels (both recalled, not re-read). The supervised baseline sees the labelled
images with the same noise, for as many steps as its own held-out labels ask for: its number of steps is the best of a list on validation,
which favours it. Each figure is the mean over seeds, its error the seeds' standard deviation; a margin counts when it exceeds both spreads.

Needs the four MNIST files (see the docs on data), under PUSHFORWARD_DATA or downloaded.

    python experiments/semi_supervised.py --steps 3000 --hidden 400 400 --seeds 0 1 2
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from _result import ROOT, Result
from torch.nn.functional import cross_entropy

import pushforward as pf
from pushforward.models.latent.labels import labelled_rows
from pushforward.models.latent.semi_supervised import M2VAE
from pushforward.models.latent.semi_supervised_aae import SemiSupervisedAAE
from pushforward.nn import encoder_for


def error_of(model, records) -> float:
    """Share of records whose class is not named, in per cent."""
    return 100 * float((model.predict(records) != records.labels()).mean())


def baseline(data, held, labelled: int, seed: int, hidden: tuple[int, ...], noise: float, network: str) -> tuple[float, int]:
    """(error in per cent on `held`, steps): the encoder by cross-entropy on the labelled images, for the best number of steps."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = encoder_for(data.spec.shape, 10, hidden=hidden, network=network)
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    part = data.train.subset(labelled_rows(data.train.condition, labelled, seed))
    rng, x_v, y_v = pf.rng.Rng.seeded(seed), data.validation.tensor(), data.validation.condition
    best, steps, kept = 1.0, 0, None
    for step in range(1, 1001):
        x, y = part.batch(torch.arange(len(part)), rng)
        f = 2 * x - 1
        cross_entropy(net(f + noise * rng.randn(*f.shape)), y.argmax(1)).backward()
        optimizer.step()
        optimizer.zero_grad()
        if step in (25, 50, 100, 200, 400, 700, 1000):
            with torch.no_grad():
                wrong = float((net(2 * x_v - 1).argmax(1) != y_v).float().mean())
            if wrong < best:
                best, steps, kept = wrong, step, {k: v.clone() for k, v in net.state_dict().items()}
    net.load_state_dict(kept)
    with torch.no_grad():
        return 100 * float((net(2 * held.tensor() - 1).argmax(1) != held.condition).float().mean()), steps


def sheet(model, path: Path) -> None:
    """Ten classes by ten styles: one row for a class, one style in each column."""
    from matplotlib.figure import Figure

    z = torch.randn(10, model.latent_dim, generator=torch.Generator().manual_seed(0))
    code = torch.cat([torch.eye(10).repeat_interleave(10, 0), z.repeat(10, 1)], 1)
    mean = model.likelihood(code).mean.reshape(10, 10, 28, 28).permute(0, 2, 1, 3).reshape(280, 280)
    figure = Figure(figsize=(6, 6), layout="constrained")
    axis = figure.subplots()
    axis.imshow(mean.numpy(), cmap="gray_r", vmin=0, vmax=1)
    axis.set_title(f"{model.name}: a class in each row, a style in each column")
    axis.axis("off")
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=20_000, help="rounds of each model and seed")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--labelled", type=int, default=100)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--models", nargs="+", default=["baseline", "m2", "ssaae"])
    parser.add_argument("--hidden", type=int, nargs="+", default=[1000, 1000], help="of the semi-supervised AAE and the baseline")
    parser.add_argument("--noise", type=float, default=0.6, help="input noise of the AAE and the baseline, on pixels from -1 to 1")
    parser.add_argument("--lr", type=float, default=1e-3, help="of the AAE")
    parser.add_argument("--alpha", type=float, default=10.0, help="of M2")
    parser.add_argument("--m2-hidden", type=int, nargs="+", default=[300, 300])
    parser.add_argument("--m2-lr", type=float, default=2e-3)
    parser.add_argument("--network", default="mlp")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--held", choices=["test", "validation"], default="test", help="settings are chosen on validation")
    parser.add_argument(
        "--pictures", type=Path, default=Path("semi_supervised"), help="folder for pictures, and for the errors that are done"
    )
    parser.add_argument("--results", type=Path, default=ROOT / "results")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    data = pf.load_data("mnist", binarize="dynamic")
    held = getattr(data, given.held)
    given.pictures.mkdir(parents=True, exist_ok=True)
    common = {"labelled": given.labelled, "network": given.network, "likelihood": "bernoulli"}
    hidden = tuple(given.hidden)
    makers = {
        "m2": lambda: (M2VAE(**common, hidden=tuple(given.m2_hidden), alpha=given.alpha), {"lr": given.m2_lr}),
        "ssaae": lambda: (SemiSupervisedAAE(**common, hidden=hidden, critic_hidden=hidden, input_noise=given.noise), {"lr": given.lr}),
    }
    settings = {**vars(given), "pictures": None, "results": None}
    # What is done is kept, so that seeds and models may be run one by one and put together by a last run of all.
    chosen = {k: v for k, v in settings.items() if k not in ("seeds", "models", "threads")}
    with Result("semi_supervised", settings=settings, seeds=given.seeds, folder=given.results) as result:
        errors: dict[str, list[float]] = {}
        for name in given.models:
            for seed in given.seeds:
                kept = given.pictures / f"{name}-{seed}.json"
                if kept.exists() and (found := json.loads(kept.read_text()))["settings"] == chosen:
                    error = found["error"]
                    result.settings["figures of earlier runs, not in seconds"] = 1 + result.settings.get(
                        "figures of earlier runs, not in seconds", 0
                    )
                elif name == "baseline":
                    error, steps = baseline(data, held, given.labelled, seed, hidden, given.noise, given.network)
                    print(f"baseline, seed {seed}: {error:.2f} % after {steps} steps", flush=True)
                else:
                    model, own = makers[name]()
                    model.fit(data, steps=given.steps, batch_size=given.batch, seed=seed, **own)
                    error = error_of(model, held)
                    print(f"{name}, seed {seed}: {error:.2f} %", flush=True)
                    if seed == given.seeds[0]:
                        sheet(model, given.pictures / f"{name}.png")
                kept.write_text(json.dumps({"error": error, "settings": chosen}))
                errors.setdefault(name, []).append(error)
        spread = lambda name: float(np.std(errors[name], ddof=1)) if len(errors[name]) > 1 else 0.0
        for name, values in errors.items():
            target = "<= 1.9" if name == "ssaae" else None
            what = f"{name}: error with {given.labelled} labels"
            result.add(what, float(np.mean(values)), stderr=spread(name), unit=f"% of {given.held} images", kind="measured", target=target)
        for name in errors:
            if name != "baseline" and "baseline" in errors:
                margin = float(np.mean(errors["baseline"]) - np.mean(errors[name])) - spread(name) - spread("baseline")
                result.add(f"{name}: margin over the baseline less both spreads", margin, unit="points", kind="measured", target="> 0")
