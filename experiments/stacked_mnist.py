"""Stacked MNIST: three digits as the colours of one image, 1,000 modes, and how many of them a GAN finds.

Srivastava et al. (2017), Lin et al. (2018): 26,000 samples, each named by a classifier's three digits; the modes found, and the KL
divergence of their shares from uniform. PacGAN reports 99 modes and 3.40 for DCGAN, 1,000 and 0.06 for PacDCGAN2 to 4. A uniform draw
of 26,000 over 1,000 modes has a plug-in KL of (1000 - 1) / (2 * 26,000) = 0.019 (Miller 1955), which is in the figures here as in
published ones; held-out images have what a perfect model would.

    PUSHFORWARD_DATA=... python experiments/stacked_mnist.py --minutes 20 --out FOLDER
    PUSHFORWARD_DATA=... python experiments/stacked_mnist.py --minutes 2 --samples 5000 --rows default --out FOLDER      # the reduced form
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _result import ROOT, Result

import pushforward as pf
from pushforward.metrics import class_statistics
from pushforward.report.plots import pixels, tiles
from pushforward.spaces import FeatureSpace, spaces

MODES, RECORDS = 1000, 100_000
PLAIN: dict[str, Any] = {"relativistic": False, "r1": 0.0, "r2": 0.0}
ADAM: dict[str, Any] = {"lr": 2e-4, "betas": (0.5, 0.999), "ema": None, "schedule": "constant", "batch_size": 64}
ROWS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "default": ({}, {"batch_size": 128}),
    "DCGAN": ({**PLAIN, "norm": "both"}, ADAM),
    "DCGAN packed by 2": ({**PLAIN, "norm": "both", "pack": 2}, ADAM),
    "R1 + R2, not relativistic": ({"relativistic": False}, {"batch_size": 128}),
}


def stacked(digits: torch.Tensor, labels: np.ndarray, n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """n images (28, 28, 3) of three digits drawn with replacement, and their three-digit numbers."""
    at = torch.randint(len(digits), (n, 3), generator=torch.Generator().manual_seed(seed))
    images = digits[:, 0].to(torch.uint8).numpy()[at.numpy()].transpose(0, 2, 3, 1)
    return np.ascontiguousarray(images), labels[at.numpy()] @ np.array([100, 10, 1])


def modes(space: FeatureSpace, images: np.ndarray) -> torch.Tensor:
    """The three-digit number that the classifier of single digits reads in each image."""
    each = [space.classify(torch.as_tensor(images[..., k])[:, None].double()) for k in range(3)]
    return 100 * each[0] + 10 * each[1] + each[2]


def plug_in(found: torch.Tensor) -> float:
    """KL of the histogram of modes from uniform, with the small-sample bias that the published figures have."""
    share = torch.bincount(found.long(), minlength=MODES).double() / len(found)
    return float(torch.xlogy(share, share * MODES).sum())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=20.0, help="of each row")
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS))
    parser.add_argument("--samples", type=int, default=26_000)
    parser.add_argument("--precision", choices=["32", "bf16"], default="32")
    parser.add_argument("--channels", type=int, default=32)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("runs/stacked-mnist"))
    parser.add_argument("--results", type=Path, default=ROOT / "results")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    given.out.mkdir(parents=True, exist_ok=True)
    settings = {"minutes": given.minutes, "samples": given.samples, "channels": given.channels, "precision": given.precision}
    with Result("stacked_mnist", settings={**settings, "threads": given.threads}, seeds=[0]) as result:
        result.folder = given.results
        mnist = pf.load_data("mnist")
        space = spaces(mnist, which=["learned"])["learned"]
        images, _ = stacked(mnist.train.tensor(), np.asarray(mnist.train.labels()).astype(int), RECORDS, 0)
        held, numbers = stacked(mnist.test.tensor(), np.asarray(mnist.test.labels()).astype(int), given.samples, 1)
        real = modes(space, held)
        right = float((real == torch.as_tensor(numbers)).double().mean())
        result.add("held-out images: share whose three digits are read rightly", right, unit="share", kind="measured")
        data = pf.load_data(images, test=0.01, validation=0.01)
        uniform = torch.arange(given.samples) % MODES
        for name in given.rows:
            hyper, training = ROWS[name]
            model = pf.GAN(channels=given.channels, network="conv", **hyper)
            model.fit(data, minutes=given.minutes, seed=0, precision=given.precision, alarms=False, **training)
            x = np.asarray(model.sample(given.samples, seed=0))
            found = class_statistics(uniform, modes(space, x), MODES)
            full = name == "default" and given.samples >= 25_600
            result.add(f"{name}: modes found of {MODES}", found.captured, unit="modes", kind="samples", target=">= 1000" if full else None)
            target = "<= 0.06" if full else None
            result.add(f"{name}: KL from uniform", plug_in(modes(space, x)), unit="nats", kind="samples", target=target)
            from PIL import Image

            canvas = tiles(pixels(data.schema.encode(x[:60]), data), 12, 1)
            Image.fromarray(canvas.squeeze()).resize((2 * canvas.shape[1], 2 * canvas.shape[0])).save(
                given.out / f"{name.replace(' ', '-')}.png"
            )
        against = class_statistics(uniform, real, MODES)
        result.add("held-out images: modes read", against.captured, unit="modes", kind="samples")
        result.add("held-out images: KL from uniform", plug_in(real), unit="nats", kind="samples")
