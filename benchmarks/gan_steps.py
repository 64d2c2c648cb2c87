"""A round of a GAN (critic, then generator) through `fit`, beside loops that one would write by hand with the same networks and losses.

Four games: DCGAN on 1 x 28 x 28 (batch normalisation in both players, the generator trained on the samples that the critic has just seen),
DCGAN networks without normalisation on 3 x 32 x 32 with the plain loss and fresh samples, the same with the Wasserstein gradient penalty,
and the default for points (relativistic, R1 and R2). The loops by hand use torch's own layers and autograd, fused Adam and batches by
index, with channels last for images; for images a second loop is as such loops are usually written: contiguous memory, Adam as it comes,
convolutions for what is dense, records and samples in a pass each, samples seen twice, and gradients of the critic in the generator's step
that nobody uses. Contenders are processes that take a few rounds in turn. Targets: 1.02x of the loop by hand, and for DCGAN 0.8x of the
usual one, in float32 and in bf16.

    python benchmarks/gan_steps.py [--only DCGAN]

About 8 minutes on one quiet core.
"""

import argparse
import itertools
import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from _timing import AfterStep, Result, ratio, turns
from torch import Tensor, nn
from torch.nn.functional import softplus

import pushforward as pf

CHANNELS, NOISE = 32, 64
ADAM: dict[str, Any] = {"lr": 2e-4, "betas": (0.5, 0.999)}
PLAIN: dict[str, Any] = {"relativistic": False, "r1": 0.0, "r2": 0.0, "rounding": "soft"}
GAMES: dict[str, tuple[int, int, dict[str, Any]]] = {
    "DCGAN": (64, 2, {**PLAIN, "channels": 64, "noise_dim": 100, "norm": "both", "reuse": True}),
    "images": (64, 2, PLAIN),
    "images, gradient penalty": (64, 2, {**PLAIN, "loss": "wasserstein"}),
    "points": (256, 50, {"anneal": 1.0}),
}
"""Name -> batch, rounds of a turn, hyperparameters. Every 50 rounds `fit` writes a line of its history."""

After = Callable[[], None]
"""What a contender calls after each round."""


def dcgan(depth: int, side: int, c: int, noise: int, norm: bool, usual: bool) -> tuple[nn.Module, nn.Module]:
    """The layers of `ConvDecoder` and `ConvEncoder`: halvings to 4 x 4, or to 7 x 7 from 28 x 28.

    What is dense there, the generator's first layer and the critic's last, is usually written as a convolution of the whole image.
    """
    up = partial(nn.ConvTranspose2d, kernel_size=4, stride=2, padding=1)
    down = partial(nn.Conv2d, kernel_size=4, stride=2, padding=1)
    halvings, normalised = {28: 2, 32: 3}[side], nn.BatchNorm2d if norm else nn.Identity
    widths = [depth, *(c * 2**i for i in range(halvings))]
    end = side // 2**halvings
    generator: list[nn.Module] = [nn.Linear(noise, widths[-1] * end**2), nn.Unflatten(1, (widths[-1], end, end))]
    top: list[nn.Module] = [nn.Flatten(), nn.Linear(widths[-1] * end**2, 1)]
    if usual:
        generator = [nn.Unflatten(1, (noise, 1, 1)), nn.ConvTranspose2d(noise, widths[-1], end)]
        top = [nn.Conv2d(widths[-1], 1, end), nn.Flatten()]
    critic: list[nn.Module] = []
    for a, b in itertools.pairwise(widths):
        critic += [down(a, b), normalised(b) if a != depth else nn.Identity(), nn.LeakyReLU(0.2)]
    for a, b in itertools.pairwise(widths[::-1]):
        generator += [normalised(a), nn.LeakyReLU(0.2), up(a, b)]
    return nn.Sequential(*generator, nn.Tanh()), nn.Sequential(*critic, *top)


def slope(critic: nn.Module, u: Tensor) -> Tensor:
    (g,) = torch.autograd.grad(critic(u).sum(), u, create_graph=True)
    return g.flatten(1).square().sum(1)


def images_by_hand(x: Tensor, batch: int, hyper: dict[str, Any], usual: bool, after_round: After) -> None:
    layout = torch.contiguous_format if usual else torch.channels_last
    penalty, noise, reuse = "loss" in hyper, hyper.get("noise_dim", NOISE), usual or "reuse" in hyper
    _, depth, side, _ = x.shape
    nets = dcgan(depth, side, hyper.get("channels", CHANNELS), noise, "norm" in hyper, usual)
    generator, critic = (net.to(memory_format=layout) for net in nets)  # pyright: ignore[reportCallIssue]
    optimizers = [torch.optim.Adam(net.parameters(), fused=not usual, **ADAM) for net in (critic, generator)]
    order = itertools.chain.from_iterable(torch.randperm(len(x)).split(batch)[:-1] for _ in itertools.count())
    while True:
        real = x[next(order)].contiguous(memory_format=layout)
        with torch.set_grad_enabled(reuse):
            made = generator(torch.randn(batch, noise))
        fake = made.detach()
        critic.requires_grad_(True)
        r, f = (critic(real), critic(fake)) if usual or "norm" in hyper else critic(torch.cat([real, fake])).chunk(2)
        loss = (f - r).mean() if penalty else (softplus(-r) + softplus(f)).mean()
        if penalty:
            e = torch.rand(batch, 1, 1, 1)
            loss = loss + 10 * ((slope(critic, (e * real + (1 - e) * fake).requires_grad_()) + 1e-12).sqrt() - 1).square().mean()
        step(loss, optimizers[0])
        critic.requires_grad_(usual)
        f = critic(made if reuse else generator(torch.randn(batch, noise)))
        step(-f.mean() if penalty else softplus(-f).mean(), optimizers[1])
        after_round()


def points_by_hand(x: Tensor, batch: int, after_round: After) -> None:
    def dense(*sizes: int) -> nn.Sequential:
        pairs = itertools.pairwise(sizes)
        return nn.Sequential(*[m for a, b in pairs for m in (nn.Linear(a, b), nn.LeakyReLU(0.2))][:-1])

    generator, top = dense(2, 128, 128, 128, 128, 128, 2), dense(258, 128, 128, 1)
    waves = torch.randn(2, 128) * 4.0 ** torch.arange(128).remainder(4)

    def critic(y: Tensor) -> Tensor:
        phase = y @ waves
        return top(torch.cat([y, phase.sin(), phase.cos()], 1)).squeeze(1)

    optimizers = [torch.optim.Adam(net.parameters(), lr=2e-4, betas=(0.0, 0.99), fused=True) for net in (top, generator)]
    order = itertools.chain.from_iterable(torch.randperm(len(x)).split(batch)[:-1] for _ in itertools.count())
    while True:
        with torch.no_grad():
            fake = generator(torch.randn(batch, 2))
        top.requires_grad_(True)
        both = torch.cat([x[next(order)], fake]).requires_grad_()
        scores = critic(both)
        r, f = scores.chunk(2)
        (g,) = torch.autograd.grad(scores.sum(), both, create_graph=True)
        on_real, on_fake = g.square().sum(1).chunk(2)
        step((softplus(f - r) + 1.5 * on_real + 1.5 * on_fake).mean(), optimizers[0])
        top.requires_grad_(False)
        f, r = critic(generator(torch.randn(batch, 2))), critic(x[next(order)])
        step(softplus(r - f).mean(), optimizers[1])
        after_round()


def step(loss: Tensor, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def fit(data: pf.Data, batch: int, hyper: dict[str, Any], precision: str, after_round: After) -> None:
    images = len(data.schema.spec.shape) == 3
    adam = ADAM if images else {"lr": 2e-4, "betas": (0.0, 0.99)}
    model = pf.GAN(**(({"network": "conv", "channels": CHANNELS, "noise_dim": NOISE} if images else {}) | hyper))
    model.fit(
        data,
        steps=10**9,
        batch_size=batch,
        ema=None,
        schedule="constant",
        precision=precision,
        progress=False,
        alarms=False,
        observers=[AfterStep(after_round)],
        **adam,
    )


def contenders(name: str, data: pf.Data) -> dict[str, Callable[[After], None]]:
    batch, _, hyper = GAMES[name]
    found: dict[str, Callable[[After], None]] = {"fit": partial(fit, data, batch, hyper, "32")}
    if name == "points":
        found["by hand"] = partial(points_by_hand, data.train.tensor(), batch)
        return found
    if name == "DCGAN":
        found["fit in bf16"] = partial(fit, data, batch, hyper, "bf16")
    x = data.train.tensor() / 127.5 - 1
    found["by hand"] = partial(images_by_hand, x, batch, hyper, False)
    found["the usual loop"] = partial(images_by_hand, x, batch, hyper, True)
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(GAMES), default=list(GAMES))
    parser.add_argument("--repeats", type=int, default=100)
    given = parser.parse_args()
    torch.set_num_threads(1)
    random = np.random.default_rng(0)
    sets = {
        "DCGAN": pf.load_data(random.integers(0, 256, (2_000, 28, 28), dtype=np.uint8)),
        "images": pf.load_data(random.integers(0, 256, (2_000, 32, 32, 3), dtype=np.uint8)),
        "points": pf.load_data(random.normal(size=(20_000, 2)).astype(np.float32)),
    }
    with Result("bench_gan_steps", settings={"games": given.only, "channels": CHANNELS, "repeats": given.repeats}) as result:
        for name in given.only:
            cost = turns(contenders(name, sets[name.split(",")[0]]), GAMES[name][1], given.repeats)
            for who, values in cost.items():
                result.add(f"{name}: {who}", 1e3 * statistics.median(values), unit="ms a round", kind="median of turns")
            wanted = "<= 0.8" if name == "DCGAN" else None
            for a, b, target in (
                ("fit", "by hand", "<= 1.02"),
                ("fit", "the usual loop", wanted),
                ("fit in bf16", "the usual loop", wanted),
            ):
                if a in cost and b in cost:
                    result.add(f"{name}: {a} over {b}", **ratio(cost[a], cost[b]), unit="x", kind="median of turns", target=target)
