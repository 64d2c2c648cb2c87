"""A density fitted to an autoencoder's codes afterwards, beside the prior that a VAE is trained with (Ghosh et al. 2020, table 1).

Plain and regularised autoencoders and a VAE of the same size are trained once; then priors are put on their codes: N(0, I), the Gaussian
of the codes' own mean and covariance, and a mixture of ten Gaussians with full covariances. Decoded draws are compared with test images by
the squared Fréchet distance in the features of a classifier of the labels: no FID, but the question is the paper's, whose order on MNIST
is 10.7 for the plain autoencoder with a mixture against 58.7 with one Gaussian and 19.2 for the VAE.

    PUSHFORWARD_DATA=... python experiments/expost.py --minutes 20 --out FOLDER
    PUSHFORWARD_DATA=... python experiments/expost.py --minutes 1.5 --samples 2000 --out FOLDER       # the reduced form
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _result import ROOT, Result
from torch import Tensor

import pushforward as pf
from pushforward import metrics
from pushforward.models import create
from pushforward.spaces import pick, spaces

CODES = 16
NET: dict[str, Any] = {"latent_dim": CODES, "network": "conv"}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "autoencoder": ("autoencoder", {**NET, "loss": "squared"}),
    "regularised autoencoder": ("autoencoder", {**NET, "loss": "squared", "code_penalty": 1e-3, "decoder_decay": 1e-4}),
    "VAE": ("vae", NET),
}


def priors(z: Tensor, seed: int) -> dict[str, Callable[[int], Tensor]]:
    """Ways to draw codes, from the training records' own."""
    generator = torch.Generator().manual_seed(seed)
    noise = lambda n: torch.randn(n, z.shape[1], generator=generator)
    root = torch.linalg.cholesky(z.T.cov() + 1e-6 * torch.eye(z.shape[1]))
    mixture = create("gmm", components=10, covariance="full").fit(z.numpy(), seed=seed)
    return {
        "N(0, I)": noise,
        "one Gaussian": lambda n: z.mean(0) + noise(n) @ root.T,
        "10 Gaussians": lambda n: torch.as_tensor(np.asarray(mixture.sample(n, seed=seed)), dtype=z.dtype),
    }


def codes(model: pf.Model, records: Any, seed: int) -> Tensor:
    """Draws of q(z | x) where there is one: what the decoder was trained on; codes otherwise."""
    if not model.supports("posterior"):
        return model.encode(records)
    generator = torch.Generator().manual_seed(seed)
    found: Any = model.posterior(records)
    return found.mean + found.stddev * torch.randn(found.mean.shape, generator=generator)


def decoded(model: pf.Model, z: Tensor, data: pf.Data) -> Tensor:
    """Mean images at these codes, in the values of the support."""
    if not model.supports("likelihood"):
        return data.schema.encode(model.decode(z))
    return torch.cat([model.likelihood(part).mean.round() for part in z.split(500)])


def picture(rows: dict[str, Tensor], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 1.0 * len(rows)), layout="constrained")
    for axis, (title, x) in zip(np.atleast_1d(figure.subplots(len(rows), 1)), rows.items()):
        axis.imshow(x[:16, 0].permute(1, 0, 2).reshape(28, -1), cmap="gray_r", vmin=0, vmax=255)
        axis.set_title(title, fontsize=8, loc="left")
        axis.set_axis_off()
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=20.0, help="of each training")
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/expost"))
    parser.add_argument("--results", type=Path, default=ROOT / "results")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    given.out.mkdir(parents=True, exist_ok=True)
    data = pf.load_data("mnist")
    space = spaces(data, which="learned")["learned"]
    test = space(pick(data.test, given.samples, 0).tensor())
    settings = {"minutes": given.minutes, "samples": given.samples, "threads": given.threads, "features": space.name, "models": MODELS}
    with Result("expost", settings=settings, seeds=[given.seed], folder=given.results) as result:
        found, rows = {}, {}
        for label, (name, hyper) in MODELS.items():
            model = create(name, **hyper).fit(data, minutes=given.minutes, schedule="cosine", seed=given.seed, alarms=False)
            z = codes(model, data.train, given.seed)
            ways = {"reconstructions of test images": lambda n, m=model: m.encode(pick(data.test, n, 0)), **priors(z, given.seed)}
            for way, draw in ways.items():
                x = decoded(model, draw(given.samples), data)
                distance = metrics.frechet(space(x), test)
                found[label, way] = distance
                rows[f"{label}, {way}: {distance.value:.2f}"] = x
                result.add(
                    f"{label}, {way}: squared Fréchet distance",
                    distance.value,
                    stderr=distance.stderr,
                    unit="squared feature units",
                    kind="measured",
                )
        ours = found["autoencoder", "10 Gaussians"].value
        for other in (("autoencoder", "N(0, I)"), ("autoencoder", "one Gaussian"), ("VAE", "N(0, I)")):
            gain = found[other].value - ours
            result.add(f"autoencoder with 10 Gaussians below {other[0]}, {other[1]}", gain, kind="measured", target="> 0")
        picture(rows, given.out / "expost.png")
