"""MNIST, binarised, VAEs 784-200-200-50: the held-out importance-weighted bound with K = 5,000.

Burda et al. (2016, table 1) report, for dynamic binarisation and 3,280 epochs, 86.76 nats for k = 1 and 85.54 for k = 5; Tomczak & Welling
(2018, table 2) report 85.57 for a VampPrior on the fixed binarisation of Larochelle & Murray, with 40 codes and gated layers.

Settings are chosen on validation records (`--on validation`), never on the test set, whose images are binarised once, from a fixed seed.
Needs the MNIST files (see the docs on data), under PUSHFORWARD_DATA or downloaded.

    python experiments/mnist_vae.py --minutes 15
    python experiments/mnist_vae.py --name mnist_vae_k1 --minutes 90 --target 87.2
    python experiments/mnist_vae.py --name mnist_vae_k5 --k 5 --gradient doubly --minutes 90 --target 85.9
    python experiments/mnist_vae.py --name mnist_vae_vamp --data binarized-mnist --prior vamp --warmup 0.2 --minutes 90 --target 86.0
"""

import argparse
from typing import Any

import torch
from _result import Result

import pushforward as pf
from pushforward.metrics import standard_error

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", default="mnist_vae", help="of the file under results/")
    parser.add_argument("--data", choices=["mnist", "binarized-mnist"], default="mnist", help="dynamic or fixed binarisation")
    parser.add_argument("--minutes", type=float, default=15.0)
    parser.add_argument("--k", type=int, default=1, help="draws of the bound in training")
    parser.add_argument("--gradient", choices=["reparametrised", "doubly", "score"], default="reparametrised")
    parser.add_argument("--prior", choices=["none", "mixture", "vamp"], default="none")
    parser.add_argument("--prior-components", type=int, default=500)
    parser.add_argument("--latent-dim", type=int, default=50)
    parser.add_argument("--warmup", type=float, default=0.0, help="share of the budget over which the KL's weight rises")
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--ema", type=float, default=None)
    parser.add_argument("--samples", type=int, default=5000, help="K of the bound that is reported")
    parser.add_argument("--on", choices=["test", "validation"], default="test")
    parser.add_argument("--records", type=int, default=10_000, help="records that are evaluated")
    parser.add_argument("--target", type=float, default=89.0, help="nats that the bound must come down to")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    data = pf.load_data("mnist", binarize="dynamic") if given.data == "mnist" else pf.load_data(given.data)
    config: dict[str, Any] = {"hidden": (200, 200), "network": "mlp", "activation": "silu", "likelihood": "bernoulli"}
    config |= {"latent_dim": given.latent_dim, "samples": given.k, "gradient": given.gradient, "anneal": given.warmup}
    if given.prior != "none":
        config |= {"prior": given.prior, "prior_components": given.prior_components}
    training: dict[str, Any] = {"minutes": given.minutes, "lr": given.lr, "schedule": "cosine", "batch_size": given.batch_size}
    training |= {"ema": given.ema, "seed": given.seed}
    settings = {**config, **training, "data": given.data, "on": given.on, "threads": given.threads, "records": given.records}
    name = given.name if given.on == "test" else f"{given.name}_validation"
    with Result(name, settings=settings, seeds=[given.seed]) as result:
        model = pf.VAE(**config).fit(data, **training)
        held = getattr(data, given.on)[: given.records]
        for k in (1, given.samples):
            bound = model.log_prob(held, samples=k, seed=0)
            nll, se = -float(bound.mean()), standard_error(bound)
            whole = given.on == "test" and k == 5000 and len(held) == 10_000
            what = f"held-out NLL, importance-weighted bound, K = {k}"
            result.add(what, nll, stderr=se, unit="nats", kind="bound", target=f"<= {given.target:g}" if whole else None)
        result.add("active units", model.active_units(held), kind="measured")
