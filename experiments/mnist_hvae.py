"""MNIST, statically binarised (Larochelle & Murray 2011): a hierarchical VAE and a flat one, each trained for the same minutes.

NVAE has 78.01 nats with dynamic binarisation on two V100s in 21 hours; a convolutional hierarchical VAE of two levels about 82.4 static
(Tomczak & Welling 2018). The model that is scored has the best bound on the validation split. L_K rises with K, so L_1000 of all
test records is estimated as L_100 of all, plus the mean of L_1000 - L_100 over `--records` of them, evenly spaced.
Needs the binarised MNIST (see the docs on data), under PUSHFORWARD_DATA or downloaded.

    python experiments/mnist_hvae.py --minutes 90
    python experiments/mnist_hvae.py --minutes 90 --models hvae --groups 1 6 6 --channels 128 --batch 256 --lr 2e-3   (with a GPU)
    python experiments/mnist_hvae.py --minutes 3 --records 200 --few 10 --many 100
"""

import argparse
import math
from pathlib import Path
from typing import Any

import torch
from _result import ROOT, Result

import pushforward as pf
from pushforward.metrics import standard_error
from pushforward.models import create

HIERARCHICAL: dict[str, Any] = {"groups": (1, 3), "latent_dim": 16, "latent_channels": 4, "channels": 64, "anneal": 0.1}
FLAT: dict[str, Any] = {"latent_dim": 50, "hidden": (200, 200), "network": "mlp", "activation": "silu"}


def score(model: pf.Model, test: Any, few: int, many: int, records: int) -> dict[str, tuple[float, float]]:
    """Name -> (nats, standard error over records)."""
    some = model.log_prob(test, samples=few, seed=0)
    every = torch.arange(0, len(test), max(1, len(test) // records))  # the first test digits are not like the later ones
    gain = model.log_prob(test[every], samples=many, seed=1) - some[every]
    error = math.hypot(standard_error(some), standard_error(gain))  # as if independent: the gain's part is small
    return {
        f"K = {few}": (-float(some.mean()), standard_error(some)),
        f"K = {many}, gain over K = {few} from {len(every):,} records": (-float(some.mean() + gain.mean()), error),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=90.0, help="of training, of each model")
    parser.add_argument("--models", nargs="+", choices=("hvae", "vae"), default=["hvae", "vae"])
    parser.add_argument("--channels", type=int, default=HIERARCHICAL["channels"])
    parser.add_argument("--groups", type=int, nargs="+", default=list(HIERARCHICAL["groups"]))
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--ema", type=float, default=0.999)
    parser.add_argument("--few", type=int, default=100, help="K on all test records")
    parser.add_argument("--many", type=int, default=1000, help="K on some")
    parser.add_argument("--records", type=int, default=500, help="how many have the larger K")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=Path, default=None, help="a folder for the runs; none are kept without it")
    parser.add_argument("--results", type=Path, default=ROOT / "results")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    data = pf.load_data("binarized-mnist")
    ladder = HIERARCHICAL | {"channels": given.channels, "groups": tuple(given.groups)}
    common = {"minutes": given.minutes, "schedule": "cosine", "batch_size": given.batch}
    plans = {
        "hvae": (ladder, {**common, "lr": given.lr, "ema": given.ema, "clip": 100.0, "warmup": 200}),
        "vae": (FLAT, {**common, "lr": 2e-3}),
    }
    settings = {
        "models": {name: plans[name] for name in given.models},
        "threads": given.threads,
        "records": len(data.test),
    }
    full = given.minutes <= 90 and (given.few, given.many) == (100, 1000)
    with Result("mnist_hvae", settings=settings, seeds=[0], folder=given.results) as result:
        for name in given.models:
            config, training = plans[name]
            out = None if given.runs is None else given.runs / name
            model = create(name, **config).fit(data, out=out, **training)
            parameters = sum(p.numel() for p in model.parameters())
            result.add(f"{name}: parameters", parameters, kind="exact")
            for what, (nll, error) in score(model, data.test, given.few, given.many, given.records).items():
                target = "<= 83" if name == "hvae" and full and what.startswith("K = 1000") else None
                result.add(
                    f"{name}: held-out NLL, importance-weighted bound, {what}", nll, stderr=error, unit="nats", kind="bound", target=target
                )
            if name == "hvae":
                for i, kl in enumerate(model.group_kl(data.test).mean(0).tolist()):  # type: ignore[operator]
                    result.add(f"hvae: KL of group {i + 1} of {len(model.ladder.shapes)}", kl, unit="nats", kind="estimate")  # type: ignore[union-attr, arg-type]
