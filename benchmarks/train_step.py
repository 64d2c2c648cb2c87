"""One training step of the VAE 784-H-20, batch 128, through `fit`, beside a bare in-memory PyTorch loop with the same arithmetic.

The bare loop is what one would write by hand: the same layers, fused Adam, batches gathered by index. Contenders are processes that take
50 steps in turn. Targets: H = 400 at most 1.05x, H = 16 at most +0.1 ms a step.

    python benchmarks/train_step.py [--threads 1]
"""

import argparse
import statistics
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from _timing import AfterStep, Result, ratio, turns
from torch import Tensor, nn

import pushforward as pf

BATCH, STEPS = 128, 50


class Bare(nn.Module):
    """784-H-20-H-784 with a Bernoulli likelihood, as in Kingma & Welling (2014)."""

    def __init__(self, hidden: int):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(784, hidden), nn.ReLU(), nn.Linear(hidden, 40))
        self.decoder = nn.Sequential(nn.Linear(20, hidden), nn.ReLU(), nn.Linear(hidden, 784))

    def forward(self, x: Tensor) -> Tensor:
        mu, log_var = self.encoder(x).chunk(2, 1)
        z = mu + torch.randn_like(mu) * torch.exp(0.5 * log_var)
        reconstruction = F.binary_cross_entropy_with_logits(self.decoder(z), x, reduction="none").sum(1)
        kl = 0.5 * (mu.square() + log_var.exp() - 1 - log_var).sum(1)
        return (reconstruction + kl).mean()


def bare(x: Tensor, hidden: int, after_step: Callable[[], None]) -> None:
    model = Bare(hidden)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    while True:
        for index in torch.randperm(len(x))[: len(x) // BATCH * BATCH].split(BATCH):
            loss = model(x[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            after_step()


def fit(data: pf.Data, hidden: int, precision: str, after_step: Callable[[], None]) -> None:
    model = pf.VAE(hidden=(hidden,), network="mlp")
    model.fit(
        data,
        steps=10**9,
        batch_size=BATCH,
        schedule="constant",
        precision=precision,
        progress=False,
        observers=[AfterStep(after_step)],
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=30)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    images = (np.random.default_rng(0).random((10_000, 28, 28)) < 0.3).astype(np.uint8)
    data = pf.load_data(images, support="binary")
    x = data.train.tensor().flatten(1)
    with Result("bench_train_step", settings={"batch": BATCH, "steps": STEPS, "repeats": given.repeats}) as result:
        for hidden in (400, 16):
            makers = {
                "bare": partial(bare, x, hidden),
                "fit": partial(fit, data, hidden, "32"),
                "fit bf16": partial(fit, data, hidden, "bf16"),
            }
            cost = turns(makers, STEPS, given.repeats)
            for name, values in cost.items():
                result.add(f"VAE 784-{hidden}-20: {name}", 1e3 * statistics.median(values), unit="ms a step", kind="median of turns")
            what = f"VAE 784-{hidden}-20: fit over the bare loop"
            if hidden == 400:
                result.add(what, **ratio(cost["fit"], cost["bare"]), unit="x", kind="median of turns", target="<= 1.05")
            else:
                more = 1e3 * statistics.median(f - b for f, b in zip(cost["fit"], cost["bare"], strict=True))
                result.add(what, more, unit="ms a step", kind="median of turns", target="<= 0.1")
            versus = ratio(cost["fit bf16"], cost["fit"])
            result.add(f"VAE 784-{hidden}-20: bf16 over single precision", **versus, unit="x", kind="median of turns")
