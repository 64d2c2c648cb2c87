"""Annealed importance sampling where the answer is known, on trained models from both sides, and what Parzen windows say instead.

MNIST (or the 8 x 8 digits with --data digits) for the trained models. The last part follows Wu et al. (2017, table 2): two variational
autoencoders on grey levels made continuous, with 10 and with 50 codes; annealing tells them apart and a Parzen window on 10,000 samples
of each may not.

    python experiments/ais.py
"""

import argparse

import torch
from _result import Result

import pushforward as pf
from pushforward.ais import Annealing, annealed_importance_sampling, bidirectional
from pushforward.evidence import Evidence, evidence
from pushforward.metrics import mean_estimate
from pushforward.metrics.parzen import parzen_log_prob, parzen_sigma
from pushforward.models.latent.vae import linear_gaussian
from pushforward.rng import Rng
from pushforward.spaces import pick


def known(result: Result) -> None:
    """Linear-Gaussian models against their closed form: an easy one, and one whose posterior is ten times as narrow as its prior."""
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


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="mnist", choices=["mnist", "digits"])
    parser.add_argument("--minutes", type=float, default=1.5, help="training of each model")
    parser.add_argument("--records", type=int, default=20, help="test records that are scored, and simulated ones")
    parser.add_argument("--temperatures", type=int, default=2500)
    given = parser.parse_args()
    torch.set_num_threads(1)
    net = {"hidden": (200, 200), "network": "mlp", "activation": "silu"}
    training = {"minutes": given.minutes, "lr": 3e-3, "batch_size": 128, "progress": False}
    run = {"n": given.records, "simulated": given.records, "temperatures": given.temperatures, "chains": 8, "steps": 2}
    with Result("ais", settings={**vars(given), **net, **training, **run}, seeds=[0]) as result:
        known(result)
        result.write()

        binary = pf.load_data(given.data, binarize="dynamic") if given.data == "mnist" else pf.load_data("digits")
        what, model = f"VAE, 20 codes, {given.data}", pf.VAE(latent_dim=20, **net).fit(binary, **training)
        found = evidence(model, binary, **run, progress=False)
        add(result, what, found)
        test = pick(binary.test, given.records, 0)
        for k in (1, 50, 5000):
            bound = model.log_prob(test, samples=k, seed=0)
            over = mean_estimate(found.values - bound)
            ours = mean_estimate(bound)
            result.add(f"{what}: importance-weighted bound, K = {k}", ours.value, stderr=ours.stderr, unit="nats", kind="bound")
            target, holds = (">= 0 within 2 standard errors", over.value >= -2 * over.stderr) if k == 5000 else (None, None)
            result.add(f"{what}: AIS above it", over.value, stderr=over.stderr, unit="nats", kind="measured", target=target, holds=holds)
        result.write()

        digits = pf.load_data("digits")
        gan = pf.GAN(noise_dim=10, network="mlp").fit(digits, minutes=given.minutes / 2, progress=False)
        found = evidence(gan, digits, **run, progress=False)
        add(result, f"GAN, 10 codes, digits, noise {found.noise:g}", found)
        result.write()

        # Grey levels made continuous: x + u in steps of 1 / 256, u uniform on [0, 1), as Wu et al. do.
        grey = pf.load_data(given.data, label=None)
        levels = 256.0 if given.data == "mnist" else 17.0
        parts = [part.tensor() for part in (grey.train, grey.validation, grey.test)]
        rng = Rng.seeded(0)
        x = torch.cat([(part + rng.rand(*part.shape)) / levels for part in parts])
        sizes = {"validation": len(parts[1]) / len(x), "test": len(parts[2]) / len(x)}
        data = pf.load_data(x.numpy(), support="unit", **sizes)
        held, scores = pick(data.test, 1000, 0).tensor().flatten(1), {}
        validation = pick(data.validation, 1000, 0).tensor().flatten(1)
        for codes in (10, 50):
            what = f"VAE, {codes} codes, continuous {given.data}"
            model = pf.VAE(latent_dim=codes, likelihood="gaussian-shared", **net).fit(data, **training)
            found = evidence(model, data, **{**run, "temperatures": 2 * given.temperatures}, progress=False)
            add(result, what, found)
            bound = mean_estimate(model.log_prob(pick(data.test, given.records, 0), samples=5000, seed=0))
            result.add(f"{what}: importance-weighted bound, K = 5000", bound.value, stderr=bound.stderr, unit="nats", kind="bound")
            samples = torch.as_tensor(model.sample(10_000, seed=0)).flatten(1)
            sigma = parzen_sigma(samples, validation)
            window = mean_estimate(parzen_log_prob(samples, held, sigma))
            result.add(f"{what}: Parzen window on 10,000 samples", window.value, stderr=window.stderr, unit="nats", kind="estimate")
            scores[codes] = found.log_prob.value, window.value
            result.write()
        ais, parzen = (scores[50][i] - scores[10][i] for i in (0, 1))
        result.add("50 codes over 10, AIS", ais, unit="nats", kind="measured")
        result.add("50 codes over 10, Parzen window", parzen, unit="nats", kind="measured")
        result.add("the Parzen window ranks the two the other way round", float((ais > 0) != (parzen > 0)), kind="measured")
