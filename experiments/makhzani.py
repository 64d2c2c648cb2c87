"""Makhzani et al. (2015), figure 2, on MNIST: codes of held-out images by an adversarial autoencoder and by a VAE.

(a) AAE and (c) VAE with a 2-D Gaussian prior, (b) AAE and (d) VAE with a mixture of ten 2-D Gaussians, (e) the images that the AAE of (a)
decodes at the percentiles of its prior. The distance of each set of codes to its prior is the squared maximum mean discrepancy under a
Gaussian kernel of bandwidth 1 (0.25 beside it for the mixture, whose petals are narrow), with its 95 % interval; 0 is equality. A VAE's
codes are draws of q(z | x), whose mean over x is what its prior is compared with.

Needs the four MNIST files (see the docs on data), under PUSHFORWARD_DATA or downloaded.

    python experiments/makhzani.py --steps 3000 --hidden 400 400 --pictures OUT
"""

import argparse
import math
from pathlib import Path

import numpy as np
import torch
from _result import ROOT, Result

import pushforward as pf
from pushforward.metrics import kernel_distance
from pushforward.model import GradientModel
from pushforward.models.latent.adversarial_autoencoder import AdversarialAutoencoder, RadialMixture
from pushforward.rng import Rng

SIDE = 20


class Petals(GradientModel):
    """The mixture of ten as a prior that a VAE takes: an exact density with nothing to learn."""

    density = "exact"

    def _build(self, spec):
        self.petals = RadialMixture(10, spec.dim)

    def _objectives(self):
        return ()

    def _sample(self, n, c, rng):
        return self.petals.sample(n, rng)

    def _log_prob(self, x, c, rng):
        return self.petals.log_prob(x)


def codes(model, records, seed: int) -> torch.Tensor:
    """Codes of held-out images: the encoder's value for an AAE, a draw of q(z | x) for a VAE."""
    if not model.supports("posterior"):
        return model.encode(records)
    q = model.posterior(records)
    noise = torch.randn(q.mean.shape, generator=torch.Generator().manual_seed(seed))
    return q.mean + q.stddev * noise


def percentiles(side: int) -> torch.Tensor:
    """Codes (side^2, 2) at the middles of a grid of equal parts of N(0, I), the second entry falling along the rows."""
    at = torch.special.ndtri((torch.arange(side, dtype=torch.float64) + 0.5) / side)
    across, down = torch.meshgrid(at, at.flip(0), indexing="xy")
    return torch.stack([across.flatten(), down.flatten()], 1).float()


def draw(panels: dict, sheet: np.ndarray, path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 7.6), layout="constrained")
    axes = figure.subplot_mosaic([["a", "b", "e"], ["c", "d", "e"]], width_ratios=[1, 1, 1.5])
    for key, (title, z, label) in panels.items():
        axis = axes[key]
        shown = axis.scatter(z[:, 0], z[:, 1], c=label, s=2, cmap="tab10", vmin=-0.5, vmax=9.5, linewidths=0)
        axis.set(title=f"({key}) {title}", xlim=(-4, 4), ylim=(-4, 4), aspect="equal")
    figure.colorbar(shown, ax=[axes["c"], axes["d"]], location="bottom", ticks=range(10), shrink=0.6, label="digit")
    axes["e"].imshow(sheet, cmap="gray_r", vmin=0, vmax=1)
    axes["e"].set_title("(e) AAE decoded at the percentiles of its prior")
    axes["e"].axis("off")
    figure.savefig(path, dpi=130)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=20_000, help="rounds of each of the four models")
    parser.add_argument("--records", type=int, default=10_000, help="test images whose codes are shown and compared")
    parser.add_argument("--hidden", type=int, nargs="+", default=[1000, 1000])
    parser.add_argument("--lr", type=float, default=1e-3, help="of the AAE; the VAE keeps its own")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--held", choices=["test", "validation"], default="test", help="settings are chosen on validation")
    parser.add_argument("--pictures", type=Path, default=Path("makhzani"), help="folder for the picture")
    parser.add_argument("--results", type=Path, default=ROOT / "results")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    data = pf.load_data("mnist", binarize="dynamic")
    held = getattr(data, given.held)[: given.records]
    shared = {"latent_dim": 2, "hidden": tuple(given.hidden), "network": "mlp", "likelihood": "bernoulli"}
    training = {"steps": given.steps, "seed": given.seed}
    critic = {"critic_hidden": tuple(given.hidden)}
    models = {
        "a": ("AAE, Gaussian", AdversarialAutoencoder(**shared, **critic), {"lr": given.lr}),
        "b": ("AAE, mixture of 10", AdversarialAutoencoder(**shared, **critic, prior="mixture"), {"lr": given.lr}),
        "c": ("VAE, Gaussian", pf.VAE(**shared), {}),
        "d": ("VAE, mixture of 10", pf.VAE(**shared, prior=Petals()), {}),
    }
    settings = {**vars(given), "pictures": None, "results": None}
    with Result("makhzani", settings=settings, seeds=[given.seed], folder=given.results) as result:
        panels, distance = {}, {}
        for key, (title, model, own) in models.items():
            model.fit(data, **training, **own)
            z = codes(model, held, seed=given.seed)
            panels[key] = title, z.numpy(), held.labels()
            rng = Rng.seeded(given.seed + 1)
            prior = RadialMixture(10).sample(len(z), rng) if key in "bd" else rng.randn(len(z), 2)
            for width in (1.0, 0.25) if key in "bd" else (1.0,):
                found = kernel_distance(prior, z, kernel="gaussian", bandwidth=width)
                name = f"({key}) {title}: MMD^2 of held-out codes to the prior, bandwidth {width:g}"
                result.add(name, found.value, stderr=(found.high - found.low) / 3.92, unit="95 % interval / 3.92 as error", kind="estimate")
                distance[key, width] = found
            back = model.reconstruct(held)
            error = float(np.square(np.asarray(back, float) / 255 - np.asarray(held.records(), float) / 255).sum((1, 2)).mean())
            result.add(f"({key}) {title}: squared error of reconstructed binary images", error, unit="sum over 784 pixels", kind="measured")
            if key == "a":
                mean = model.likelihood(percentiles(SIDE)).mean.reshape(SIDE, SIDE, 28, 28)
                sheet = mean.permute(0, 2, 1, 3).reshape(28 * SIDE, 28 * SIDE).numpy()
        for pair, width in (("ac", 1.0), ("bd", 1.0), ("bd", 0.25)):
            a, b = (math.sqrt(max(distance[k, width].value, 0.0)) for k in pair)
            name = f"MMD of the VAE's codes to the prior less the AAE's, panels {pair}, bandwidth {width:g}"
            result.add(name, b - a, kind="measured", target=">= 0" if width == 1.0 else None)
        given.pictures.mkdir(parents=True, exist_ok=True)
        draw(panels, sheet, given.pictures / "makhzani.png")
        print(given.pictures / "makhzani.png")
