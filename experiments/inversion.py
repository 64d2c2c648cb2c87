"""Codes of records under a generator that was not given them: by search, by an encoder, by both, and by a game of pairs.

GANs on handwritten digits, the codes of held-out ones found in five ways, beside a BiGAN's and a VAE's: how far the decoded record is from
the record, what it costs, and what the codes know of the class (5 nearest neighbours among codes of training records, and a linear reader).

    python experiments/inversion.py --out FOLDER                        # reduced form: 8x8 digits, minutes
    python experiments/inversion.py --data mnist --size 4 --out FOLDER  # in full: 28x28 digits
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _result import ROOT, Result
from _rows import strips, unit

import pushforward as pf
from pushforward.data.features import Features
from pushforward.metrics import standard_error

QUIET: dict[str, Any] = {"progress": False, "alarms": False}
SHOWN = 12


class Case:
    """The data, and where figures go."""

    def __init__(self, given: argparse.Namespace, result: Result):
        full = pf.load_data(given.data, seed=given.seed)
        train, held = round(given.records * max(1.0, given.size)), given.held
        self.data = pf.Data(full.schema, full.train[:train], full.validation[:200], full.test[:held])
        self.result, self.features = result, Features(self.data.spec)
        self.known, self.held = self.data.train[: given.labelled], self.data.test
        self.x = self.features.encode(self.held.tensor()).flatten(1)
        self.rows = {"records": unit(self.held.tensor()[:SHOWN], self.data)}

    def codes(self, name: str, model: pf.Model, encode: Callable[[Any], torch.Tensor], probe: bool = True) -> None:
        """Error of decoded codes, time for a record, and what the codes know."""
        start = time.process_time()
        z = encode(self.held)
        seconds = (time.process_time() - start) / len(self.held)
        with torch.no_grad():
            y = self.data.schema.encode(model.decode(z))
        error = (self.features.encode(y).flatten(1) - self.x).square().mean(1)
        self.result.add(
            f"{name}: squared error", float(error.mean()), stderr=standard_error(error), unit="per pixel of [-1, 1]", kind="measured"
        )
        self.result.add(f"{name}: time", 1e3 * seconds, unit="ms of a core per record", kind="measured")
        if probe:
            self.probe(name, encode(self.known), z)
        self.rows[f"{name}: {float(error.mean()):.3f}"] = unit(y[:SHOWN], self.data)

    def probe(self, name: str, z: torch.Tensor, z_held: torch.Tensor) -> None:
        from sklearn.linear_model import LogisticRegression
        from sklearn.neighbors import KNeighborsClassifier
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        y, y_held = np.asarray(self.known.labels()), np.asarray(self.held.labels())
        readers = {
            "5 nearest codes name the class": KNeighborsClassifier(5),
            "a linear reader names the class": LogisticRegression(max_iter=2000),
        }
        for what, reader in readers.items():
            hit = make_pipeline(StandardScaler(), reader).fit(z.numpy(), y).predict(z_held.numpy()) == y_held
            share = float(hit.mean())
            self.result.add(f"{name}: {what}", share, stderr=(share * (1 - share) / len(hit)) ** 0.5, unit="share", kind="measured")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=float, default=1.0, help="factor on training steps and, above 1, on records; 1 is the reduced form")
    parser.add_argument("--data", default="digits", help="digits, or mnist (see the docs on data)")
    parser.add_argument("--steps", type=int, default=2000, help="training steps of every model")
    parser.add_argument("--records", type=int, default=15_000, help="training records")
    parser.add_argument("--held", type=int, default=150, help="records whose codes are found")
    parser.add_argument("--labelled", type=int, default=1000, help="training records whose codes and classes the readers see")
    parser.add_argument("--codes", type=int, default=16, help="dimensions of z")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("runs/inversion"), help="folder for the picture")
    parser.add_argument("--results", type=Path, default=ROOT / "results")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    given.out.mkdir(parents=True, exist_ok=True)
    steps = max(1, round(given.steps * given.size))
    with Result("inversion", settings={}, seeds=[given.seed], folder=given.results) as result:
        case = Case(given, result)
        data = case.data
        form = "reduced" if given.data == "digits" or given.size < 4 else "full"
        sizes = {"training records": len(data.train), "records whose codes are found": len(data.test), "codes": given.codes}
        result.settings |= {"form": form, "data": given.data, "steps": steps, **sizes, "threads": given.threads}
        small = len(data.spec.shape) == 3 and min(data.spec.shape[1:]) < 16
        how: dict[str, Any] = {"steps": steps, "seed": given.seed, "batch_size": 128, **QUIET}

        gan = pf.GAN(noise_dim=given.codes, channels=16).fit(data, **how)
        turned = pf.InvertedGAN(gan=gan, channels=16, hidden=(256, 256)).fit(data, **how)
        pairs = pf.BiGAN(latent_dim=given.codes, channels=16).fit(data, **how)
        tied = pf.BiGAN(latent_dim=given.codes, channels=16, reconstruction=1.0).fit(data, **how)
        vae = pf.VAE(latent_dim=given.codes, hidden=(256, 256) if small else (400, 400)).fit(data, **how)

        search = lambda **options: lambda records: pf.invert(gan, records, seed=given.seed, **options).z
        begun = lambda records: pf.invert(turned, records, restarts=1, steps=10).z
        case.codes("GAN, Adam from one start", gan, search(method="adam", steps=200, restarts=1), probe=False)
        case.codes("GAN, Adam from four starts", gan, search(method="adam", steps=200, restarts=4), probe=False)
        case.codes("GAN, damped steps from one start", gan, search(steps=20, restarts=1), probe=False)
        case.codes("GAN, damped steps from four starts", gan, search(steps=20, restarts=4))
        case.codes("GAN, damped steps under the prior", gan, search(steps=20, restarts=4, prior=0.1))
        case.codes("GAN, encoder", turned, turned.encode)
        case.codes("GAN, encoder, then 10 damped steps", turned, begun)
        case.codes("BiGAN", pairs, pairs.encode)
        case.codes("BiGAN with reconstruction", tied, tied.encode)
        case.codes("VAE", vae, vae.encode)
        case.codes("VAE, then 10 damped steps", vae, lambda records: pf.invert(vae, records, restarts=1, steps=10).z)
        case.probe("pixels", case.features.encode(case.known.tensor()).flatten(1), case.x)

        figures = {f["name"]: f["value"] for f in result.figures}
        error = lambda name: figures[f"{name}: squared error"]
        made = data.schema.encode(gan.sample(len(data.test), seed=given.seed + 1))
        own = pf.invert(gan, data.schema.decode(made), seed=given.seed, steps=20)
        result.add("the GAN's own samples, searched: squared error", float(own.error.mean()) / data.spec.dim, unit="per pixel of [-1, 1]")
        for name, ours, theirs in (
            (
                "encoder, then search, over the best search alone",
                "GAN, encoder, then 10 damped steps",
                "GAN, damped steps from four starts",
            ),
            ("encoder, then search, over the encoder", "GAN, encoder, then 10 damped steps", "GAN, encoder"),
            ("damped over Adam, four starts each", "GAN, damped steps from four starts", "GAN, Adam from four starts"),
            ("BiGAN with reconstruction over without", "BiGAN with reconstruction", "BiGAN"),
        ):
            result.add(f"squared error, {name}", error(ours) / error(theirs), unit="ratio", kind="measured", target="< 1")
        figure = strips(case.rows)
        figure.savefig(given.out / "inversion.png", dpi=120)
        print(given.out / "inversion.png")


if __name__ == "__main__":
    main()
