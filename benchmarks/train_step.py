"""One training step of the VAE 784-H-20, batch 128, through `fit`, beside a bare in-memory PyTorch loop with the same arithmetic.

The bare loop is what one would write by hand: the same layers, fused Adam, batches gathered by index. Contenders run in turn in one
process; `ratio` is the median over rounds. Targets: H = 400 at most 1.05x, H = 16 at most +0.1 ms a step.

    python benchmarks/train_step.py [--threads 1]
"""

import argparse
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from _timing import Result, interleave
from torch import Tensor, nn

import pushforward as pf

BATCH, EPOCHS = 128, 4


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


def bare(x: Tensor, hidden: int, *, bf16: bool = False) -> Callable[[], None]:
    model = Bare(hidden)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)

    def work() -> None:
        for _ in range(EPOCHS):
            for index in torch.randperm(len(x))[: len(x) // BATCH * BATCH].split(BATCH):
                with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                    loss = model(x[index])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()

    return work


def fit(data: pf.Data, hidden: int, **settings: object) -> Callable[[], None]:
    def work() -> None:
        model = pf.VAE(hidden=(hidden,), network="mlp")
        model.fit(data, epochs=EPOCHS, batch_size=BATCH, schedule="constant", validate_every=10**9, progress=False, **settings)

    return work


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=9)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    images = (np.random.default_rng(0).random((10_000, 28, 28)) < 0.3).astype(np.uint8)
    data = pf.load_data(images, support="binary")
    x = data.train.tensor().flatten(1)
    steps = EPOCHS * (len(x) // BATCH)
    with Result("bench_train_step", settings={"batch": BATCH, "epochs a call": EPOCHS, "repeats": given.repeats}) as result:
        for hidden in (400, 16):
            contenders = {
                "bare": bare(x, hidden),
                "fit": fit(data, hidden),
                "bare bf16": bare(x, hidden, bf16=True),
                "fit bf16": fit(data, hidden, precision="bf16"),
            }
            rows = interleave(contenders, floor="bare", repeats=given.repeats, per=steps)
            for name, row in rows.items():
                result.add(f"VAE 784-{hidden}-20: {name}", 1e3 * row["seconds"], unit="ms a step", kind="median")
            fitted, what = rows["fit"], f"VAE 784-{hidden}-20: fit over the bare loop"
            if hidden == 400:
                result.add(what, fitted["ratio"], unit="x", kind="median of rounds", target="<= 1.05")
            else:
                result.add(what, 1e3 * fitted["over"], unit="ms a step", kind="median of rounds", target="<= 0.1")
            result.add(
                f"VAE 784-{hidden}-20: fit bf16 over fit", rows["fit bf16"]["ratio"] / fitted["ratio"], unit="x", kind="median of rounds"
            )
