"""Posterior collapse: made, noticed and mended, on binarised 8x8 digits.

A KL that weighs too much drives q(z | x) onto the prior: the code says nothing, and the decoder does without it. Free bits make the first
nats free (Kingma et al. 2016); annealing lets the code be learned before it is priced (Sonderby et al. 2016), and the best weights are
those of the best true bound, met on the way. That mends a weight of 4 and not one of 20, of which the row is kept without a target. An
alarm of the run has to name the collapse, and no alarm where there is none.

    python experiments/collapse.py --epochs 20
"""

import argparse

import torch
from _result import Result

import pushforward as pf
from pushforward.metrics import standard_error

CASES = {
    "beta = 1": {},
    "beta = 4": {"beta": 4.0},
    "beta = 4, annealed over 0.8": {"beta": 4.0, "anneal": 0.8},
    "beta = 4, free bits 0.5": {"beta": 4.0, "free_bits": 0.5},
    "beta = 20": {"beta": 20.0},
    "beta = 20, annealed over 0.8": {"beta": 20.0, "anneal": 0.8},
    "beta = 20, free bits 0.5": {"beta": 20.0, "free_bits": 0.5},
}


def units_wanted(name: str) -> str | None:
    """At beta = 4 the weights kept, the best by the true bound, are those of before the collapse: there is no one answer."""
    return {"beta = 4": None, "beta = 20": "<= 1", "beta = 20, annealed over 0.8": None}.get(name, ">= 5")


def alarm_wanted(name: str) -> str | None:
    return {"beta = 4": ">= 1", "beta = 20": ">= 1", "beta = 20, annealed over 0.8": None}.get(name, "<= 0")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=float, default=20.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    data = pf.load_data("digits", binarize="threshold")
    config = {"latent_dim": 10, "hidden": (128,)}
    training = {"epochs": given.epochs, "batch_size": 64, "lr": 2e-3, "seed": given.seed, "progress": False}
    with Result("collapse", settings={**config, **training, "data": "digits, binarised at 1/2"}, seeds=[given.seed]) as result:
        for name, hyper in CASES.items():
            model = pf.VAE(**config, **hyper).fit(data, **training)
            named = any(a.kind == "posterior collapse" for a in model.alarms)
            units = model.active_units(data.test)
            q = model.posterior(data.test)
            unit = torch.distributions.Independent(torch.distributions.Normal(torch.zeros_like(q.mean), 1.0), 1)
            kl = torch.distributions.kl_divergence(q, unit)
            bound = model.log_prob(data.test, samples=1, seed=0)
            result.add(f"{name}: active units of 10", units, kind="measured", target=units_wanted(name))
            result.add(f"{name}: KL(q || p(z))", float(kl.mean()), stderr=standard_error(kl), unit="nats", kind="exact")
            result.add(f"{name}: held-out ELBO", float(bound.mean()), stderr=standard_error(bound), unit="nats", kind="bound")
            result.add(f"{name}: alarmed", int(named), kind="measured", target=alarm_wanted(name))
