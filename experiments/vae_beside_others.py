"""Three things said of VAEs - good diversity, blurry samples, a likelihood that is only bounded - measured beside a PixelCNN and a GAN.

Small grey images (MNIST, averaged down). Diversity: recall and coverage in the features of a classifier of
the labels. Blur: the variance of the discrete Laplacian of an image, over that of held-out images (1 is as sharp; noise raises it too, so a
VAE is shown by its means p(x | z), as it usually is, and by its draws). Likelihood: bits for each entry, and what kind of number it is.

    python experiments/vae_beside_others.py --out FOLDER
    python experiments/vae_beside_others.py --size 20 --side 28 --records 60000 --samples 2000 --out FOLDER       # in full
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _result import ROOT, Result
from _rows import sheet, unit
from torch import Tensor

import pushforward as pf
from pushforward import metrics
from pushforward.metrics import bits_per_dim, mean_estimate, standard_error
from pushforward.models import create
from pushforward.spaces import spaces

MODELS: dict[str, tuple[str, int, dict[str, Any]]] = {
    "VAE": ("vae", 3000, {"latent_dim": 20, "hidden": (400, 200), "network": "mlp"}),
    "PixelCNN": ("pixelcnn", 600, {"layers": 5, "channels": 32}),
    "GAN": ("gan", 3000, {"network": "mlp", "hidden": (256, 256), "critic_hidden": (256, 256)}),
}
"""Name, training steps of the reduced form, hyperparameters."""


def laplacian_variance(x: Tensor) -> Tensor:
    """The variance over pixels of (sum of the four neighbours - 4 x), (n,), of images (n, 1, H, W) in [0, 1]."""
    kernel = torch.tensor([[0.0, 1.0, 0.0], [1.0, -4.0, 1.0], [0.0, 1.0, 0.0]], dtype=x.dtype)[None, None]
    return torch.nn.functional.conv2d(x, kernel).flatten(1).var(1, correction=0)


def shrunken(name: str, side: int, records: int) -> pf.Data:
    """Images averaged down to side x side pixels of 0 to 255, with their labels, in their official split."""
    full = pf.load_data(name)
    x, y = [], []
    for part, n in ((full.train, records), (full.validation, records // 10), (full.test, 2000)):
        small = torch.nn.functional.interpolate(part.tensor()[:n], size=(side, side), mode="area") if side != 28 else part.tensor()[:n]
        x.append(small.round().to(torch.uint8)[:, 0])
        y.append(np.asarray(part.labels())[:n])
    return pf.load_data(torch.cat(x).numpy(), label=np.concatenate(y), validation=len(x[1]), test=len(x[2]))


def shown(model: pf.Model, name: str, n: int, seed: int, data: pf.Data) -> dict[str, Tensor]:
    """Samples in the values of the support; for a VAE its means as well."""
    drawn = {name: data.schema.encode(model.sample(n, seed=seed))}
    if name == "VAE":
        z = torch.randn(n, model.latent_dim, generator=torch.Generator().manual_seed(seed))
        mean = torch.cat([model.likelihood(part).mean for part in z.split(250)])
        drawn = {"VAE, means": mean.round(), "VAE, draws": drawn[name]}
    return drawn


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="mnist")
    parser.add_argument("--size", type=float, default=1.0, help="factor on training steps")
    parser.add_argument("--side", type=int, default=14)
    parser.add_argument("--records", type=int, default=12_000)
    parser.add_argument("--samples", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("runs/vae-beside-others"))
    parser.add_argument("--results", type=Path, default=ROOT / "results")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    given.out.mkdir(parents=True, exist_ok=True)
    data = shrunken(given.data, given.side, given.records)
    space = spaces(data, which="learned")["learned"]
    held = data.test.tensor()
    reference, others = held[: given.samples], held[given.samples : 2 * given.samples]
    known = space(reference)
    settings = {k: v for k, v in vars(given).items() if k not in ("out", "results")}
    settings |= {"features": space.name, "models": MODELS, "reduced": given.size < 10}
    with Result("vae_beside_others", settings=settings, seeds=[given.seed], folder=given.results) as result:
        sets: dict[str, Tensor] = {"held-out images": others}
        likelihoods: dict[str, tuple[str, float]] = {}
        for name, (kind, steps, hyper) in MODELS.items():
            model = create(kind, **hyper)
            model.fit(data, steps=max(1, round(steps * given.size)), seed=given.seed, schedule="cosine", progress=False, alarms=False)
            sets |= shown(model, name, given.samples, given.seed, data)
            if model.supports("log_prob"):
                bits = bits_per_dim(model.log_prob(data.test[: given.samples], seed=0).double(), data.spec.dim)
                likelihoods[name] = model.density, float(bits.mean())
                about: dict[str, Any] = {"stderr": standard_error(bits), "unit": "bits/dim", "kind": model.density}
                result.add(f"{name}: held-out likelihood", float(bits.mean()), **about)
            print(f"{name}: density {model.density}", flush=True)
        sharp = laplacian_variance(unit(reference, data)).mean()
        found: dict[str, dict[str, float]] = {}
        for name, x in sets.items():
            figures = metrics.manifold(known, space(x))
            ratio = mean_estimate((laplacian_variance(unit(x, data)) / sharp).numpy())
            found[name] = {k: figures[k].value for k in ("precision", "recall", "coverage")} | {"sharpness": ratio.value}
            for k in ("precision", "recall", "coverage"):
                stderr = figures[k].stderr if figures[k].known else None
                result.add(f"{name}: {k}", figures[k].value, stderr=stderr, kind="estimate")
            result.add(f"{name}: variance of the Laplacian over that of records", ratio.value, stderr=ratio.stderr, kind="measured")
        blur = found["VAE, means"]["sharpness"]
        result.add("means of the VAE are less sharp than records", blur, kind="measured", target="< 1")
        result.add("sharpness: GAN less means of the VAE", found["GAN"]["sharpness"] - blur, kind="measured", target="> 0")
        less = likelihoods["VAE"][1] - likelihoods["PixelCNN"][1]
        result.add("bits/dim: the VAE's bound less the PixelCNN's exact value", less, unit="bits/dim", kind="measured", target="> 0")
        from matplotlib.figure import Figure

        figure = Figure(figsize=(3.1 * len(sets), 4.3), layout="constrained")
        for axis, (name, x) in zip(figure.subplots(1, len(sets)), sets.items()):
            f = found[name]
            kind, value = likelihoods.get(name.partition(",")[0], ("", 0.0))
            says = f"\n{value:.2f} bits/dim ({kind})" if kind else "\nno likelihood" if name == "GAN" else "\n"
            sheet(axis, unit(x[:64], data), 8, f"{name}\nsharpness {f['sharpness']:.2f}, coverage {f['coverage']:.2f}{says}")
        figure.savefig(given.out / "vae-beside-others.png", dpi=120)
        print(given.out / "vae-beside-others.png")
