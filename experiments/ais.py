"""Annealed importance sampling where the answer is known, on trained models from both sides, and what Parzen windows say instead.

MNIST (or the 8 x 8 digits with --data digits) for the trained models. The last part follows Wu et al. (2017): two variational
autoencoders on grey levels made continuous, with 10 and with 50 codes; annealing tells them apart and a Parzen window on 10,000 samples
of each may not.

    python experiments/ais.py
"""

import argparse
from typing import Any

import torch
from _result import Result

import pushforward as pf
from pushforward.ais import Annealing, annealed_importance_sampling, bidirectional
from pushforward.evidence import Evidence, evidence
from pushforward.metrics import mean_estimate
from pushforward.metrics.parzen import parzen_log_prob, parzen_sigma
from pushforward.models.latent.linear import linear_gaussian
from pushforward.rng import Rng
from pushforward.spaces import pick


def known(result: Result, given: argparse.Namespace, run: dict[str, Any]) -> None:
    """Linear-Gaussian models against their closed form: an easy one, and one whose posterior is ten times as narrow as its prior."""
    del given, run
    for dim, codes, temperatures, target in ((5, 2, 2000, "<= 0.01"), (20, 10, 5000, None)):
        what, (model, exact) = f"linear-Gaussian model, {dim} entries, {codes} codes", linear_gaussian(dim, codes)
        x = 2 * torch.randn(20, dim, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        how, joint = Annealing(temperatures=temperatures, chains=64, steps=1), model._joint()
        found = annealed_importance_sampling(joint, x, None, how, Rng.seeded(0, x))
        off = mean_estimate(found.bound - exact(x)[0])
        result.add(
            f"{what}: |AIS - log p(x)|, mean over 20 records", abs(off.value), stderr=off.stderr, unit="nats", kind="bound", target=target
        )
        lower, upper = bidirectional(joint, 20, None, how, Rng.seeded(1, x))
        gap = mean_estimate(upper.bound - lower.bound)
        result.add(f"{what}: gap between the bounds", gap.value, stderr=gap.stderr, unit="nats", kind="measured")


def add(result: Result, what: str, found: Evidence) -> None:
    """The bound, and the two that enclose log p(x) on simulated records."""
    result.add(f"{what}: AIS on test records", found.log_prob.value, stderr=found.log_prob.stderr, unit="nats", kind="bound")
    for name in ("lower", "upper", "gap"):
        side = getattr(found, name)
        result.add(f"{what}: {name}, simulated records", side.value, stderr=side.stderr, unit="nats", kind="measured")
    result.add(f"{what}: effective chains of 8", found.ess, kind="measured")
    print(found.estimator, f"{found.seconds:.0f} s", *found.notes)


def autoencoder(result: Result, given: argparse.Namespace, run: dict[str, Any]) -> None:
    """A trained VAE: annealing from both sides, and above the importance-weighted bounds."""
    data = pf.load_data(given.data, binarize="dynamic") if given.data == "mnist" else pf.load_data("digits")
    what, model = f"VAE, 20 codes, {given.data}", pf.VAE(latent_dim=20, **NET).fit(data, minutes=given.minutes, **TRAINING)
    found = evidence(model, data, **run)
    add(result, what, found)
    test = pick(data.test, run["n"], 0)
    for k in (1, 50, 5000):
        bound = model.log_prob(test, samples=k, seed=0)
        over, ours = mean_estimate(found.values - bound), mean_estimate(bound)
        result.add(f"{what}: importance-weighted bound, K = {k}", ours.value, stderr=ours.stderr, unit="nats", kind="bound")
        target, holds = (">= 0 within 2 standard errors", over.value >= -2 * over.stderr) if k == 5000 else (None, None)
        name = f"{what}: AIS above the bound with K = {k}"
        result.add(name, over.value, stderr=over.stderr, unit="nats", kind="measured", target=target, holds=holds)


def adversary(result: Result, given: argparse.Namespace, run: dict[str, Any]) -> None:
    """A GAN seen through noise, on the 8 x 8 digits: probabilities of levels, as a VAE's are."""
    digits = pf.load_data("digits")
    gan = pf.GAN(noise_dim=10, network="mlp").fit(digits, minutes=given.minutes / 2, progress=False)
    found = evidence(gan, digits, **run)
    add(result, f"GAN, 10 codes, digits, noise {found.noise:g}", found)


def window(result: Result, given: argparse.Namespace, run: dict[str, Any]) -> None:
    """Grey levels made continuous, (x + u) / 256 with u uniform on [0, 1): AIS and a Parzen window, with 10 codes and with 50."""
    grey, rng = pf.load_data(given.data), Rng.seeded(0)
    parts = [part.tensor() for part in (grey.train, grey.validation, grey.test)]
    x = torch.cat([(part + rng.rand(*part.shape)) / (256.0 if given.data == "mnist" else 17.0) for part in parts])
    data = pf.load_data(x.numpy(), support="unit", validation=len(parts[1]) / len(x), test=len(parts[2]) / len(x))
    held, validation = (pick(part, 1000, 0).tensor().flatten(1) for part in (data.test, data.validation))
    scores = {}
    for codes in (10, 50):
        what = f"VAE, {codes} codes, continuous {given.data}"
        model = pf.VAE(latent_dim=codes, likelihood="gaussian-shared", **NET).fit(data, minutes=given.minutes, **TRAINING)
        found = evidence(model, data, **{**run, "n": run["n"] // 2, "simulated": run["simulated"] // 2})
        add(result, what, found)
        bound = mean_estimate(model.log_prob(pick(data.test, run["n"] // 2, 0), samples=5000, seed=0))
        result.add(f"{what}: importance-weighted bound, K = 5000", bound.value, stderr=bound.stderr, unit="nats", kind="bound")
        samples = torch.as_tensor(model.sample(10_000, seed=0)).flatten(1)
        scored = mean_estimate(parzen_log_prob(samples, held, parzen_sigma(samples, validation)))
        name = f"{what}: Parzen window on 10,000 samples"
        result.add(name, scored.value, stderr=scored.stderr, unit="nats", kind="misleading estimate")
        scores[codes] = found.log_prob.value, scored.value
    ais, parzen = (scores[50][i] - scores[10][i] for i in (0, 1))
    result.add(f"50 codes over 10, continuous {given.data}: AIS", ais, unit="nats", kind="measured")
    result.add(f"50 codes over 10, continuous {given.data}: Parzen window", parzen, unit="nats", kind="measured")


PARTS = {"known": known, "vae": autoencoder, "gan": adversary, "parzen": window}
NET = {"hidden": (200, 200), "network": "mlp", "activation": "silu"}
TRAINING = {"lr": 3e-3, "batch_size": 128, "progress": False}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="mnist", choices=["mnist", "digits"])
    parser.add_argument("--minutes", type=float, default=1.5, help="training of each model")
    parser.add_argument("--records", type=int, default=20, help="test records that are scored, and simulated ones; half for the windows")
    parser.add_argument("--temperatures", type=int, default=2500)
    parser.add_argument("--parts", nargs="+", choices=[*PARTS], default=[*PARTS], help="each writes its own results/ais_PART.json")
    given = parser.parse_args()
    torch.set_num_threads(1)
    run = {"n": given.records, "simulated": given.records, "temperatures": given.temperatures, "chains": 8, "steps": 2, "progress": False}
    settings = {k: v for k, v in vars(given).items() if k != "parts"} | NET | TRAINING | run
    for name in given.parts:
        with Result(f"ais_{name}", settings=settings, seeds=[0]) as result:
            PARTS[name](result, given, run)
