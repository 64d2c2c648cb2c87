"""MNIST, dynamically binarised, a VAE 784-200-200-50: the held-out importance-weighted bound with K = 5,000 after a few minutes.

Burda et al. (2016) report 86.76 nats for K = 1 after their full schedule of 3,280 epochs. Test images are binarised once, from a fixed
seed. Needs the four MNIST files (see the docs on data), under PUSHFORWARD_DATA or downloaded.

    python experiments/mnist_vae.py --minutes 15
"""

import argparse

import torch
from _result import Result

import pushforward as pf
from pushforward.metrics import standard_error

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=15.0)
    parser.add_argument("--samples", type=int, default=5000, help="K of the bound")
    parser.add_argument("--records", type=int, default=10_000, help="test records that are evaluated")
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    data = pf.load_data("mnist", binarize="dynamic")
    config = {"latent_dim": 50, "hidden": (200, 200), "network": "mlp", "activation": "silu", "likelihood": "bernoulli"}
    training = {"minutes": given.minutes, "lr": 3e-3, "schedule": "cosine", "batch_size": 128}
    with Result("mnist_vae", settings={**config, **training, "threads": given.threads, "records": given.records}) as result:
        model = pf.VAE(**config).fit(data, **training)
        test = data.test[: given.records]
        for k in (1, given.samples):
            bound = model.log_prob(test, samples=k, seed=0)
            nll, se = -float(bound.mean()), standard_error(bound)
            holds = nll <= 89 if k == 5000 and given.records == 10_000 else None
            target = None if holds is None else "<= 89"
            result.add(
                f"held-out NLL, importance-weighted bound, K = {k}", nll, stderr=se, unit="nats", kind="bound", target=target, holds=holds
            )
