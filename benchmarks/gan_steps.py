"""A round of a GAN (critic, then generator) through `fit`, beside loops that one would write by hand with the same networks and losses.

Three games: DCGAN networks on 3 x 32 x 32 images with the plain loss, the same with the Wasserstein gradient penalty, and the default for
points (relativistic, R1 and R2). The loops by hand use torch's own layers and autograd, fused Adam and batches by index; for images once
with contiguous memory, as such loops are written, and once with channels last. Contenders run in turn in one process, each for a short
and a long call; the difference is what its rounds cost. Targets: 1.02x of the loop by hand in the same memory, 0.8x of the contiguous one.

    python benchmarks/gan_steps.py [--only images]
"""

import argparse
import itertools
import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from _timing import Result, interleave
from torch import Tensor, nn
from torch.nn.functional import softplus

import pushforward as pf

Work = Callable[[], None]
CHANNELS, SIZE, NOISE = 32, 32, 64
ADAM: dict[str, Any] = {"lr": 2e-4, "betas": (0.5, 0.999)}
PLAIN: dict[str, Any] = {"relativistic": False, "r1": 0.0, "r2": 0.0, "rounding": "soft"}
GAMES: dict[str, tuple[int, int, int, dict[str, Any]]] = {
    "images": (64, 2, 12, PLAIN),
    "images, gradient penalty": (64, 2, 12, {**PLAIN, "loss": "wasserstein"}),
    "points": (256, 20, 220, {"anneal": 1.0}),
}
"""Name -> batch, rounds of a short and of a long call, hyperparameters."""


def dcgan() -> tuple[nn.Module, nn.Module]:
    """The layers of `ConvDecoder` and `ConvEncoder` on 3 x 32 x 32: three halvings to 4 x 4."""
    c, act = CHANNELS, partial(nn.LeakyReLU, 0.2)
    up = partial(nn.ConvTranspose2d, kernel_size=4, stride=2, padding=1)
    down = partial(nn.Conv2d, kernel_size=4, stride=2, padding=1)
    generator = nn.Sequential(
        *(nn.Linear(NOISE, 4 * c * 16), nn.Unflatten(1, (4 * c, 4, 4)), act(), up(4 * c, 2 * c), act(), up(2 * c, c), act(), up(c, 3)),
        nn.Tanh(),
    )
    critic = nn.Sequential(*(down(3, c), act(), down(c, 2 * c), act(), down(2 * c, 4 * c), act(), nn.Flatten(), nn.Linear(4 * c * 16, 1)))
    return generator, critic


def slope(critic: nn.Module, u: Tensor) -> Tensor:
    (g,) = torch.autograd.grad(critic(u).sum(), u, create_graph=True)
    return g.flatten(1).square().sum(1)


def images_by_hand(x: Tensor, batch: int, penalty: bool, layout: torch.memory_format, rounds: int) -> None:
    generator, critic = (net.to(memory_format=layout) for net in dcgan())  # pyright: ignore[reportCallIssue]
    optimizers = [torch.optim.Adam(net.parameters(), fused=True, **ADAM) for net in (critic, generator)]
    order = itertools.chain.from_iterable(torch.randperm(len(x)).split(batch)[:-1] for _ in itertools.count())
    for _ in range(rounds):
        real = x[next(order)].contiguous(memory_format=layout)
        with torch.no_grad():
            fake = generator(torch.randn(batch, NOISE))
        critic.requires_grad_(True)
        r, f = critic(torch.cat([real, fake])).squeeze(1).chunk(2)
        loss = (f - r).mean() if penalty else (softplus(-r) + softplus(f)).mean()
        if penalty:
            e = torch.rand(batch, 1, 1, 1)
            loss = loss + 10 * ((slope(critic, (e * real + (1 - e) * fake).requires_grad_()) + 1e-12).sqrt() - 1).square().mean()
        step(loss, optimizers[0])
        critic.requires_grad_(False)
        f = critic(generator(torch.randn(batch, NOISE))).squeeze(1)
        step(-f.mean() if penalty else softplus(-f).mean(), optimizers[1])


def points_by_hand(x: Tensor, batch: int, rounds: int) -> None:
    def dense(*sizes: int) -> nn.Sequential:
        pairs = itertools.pairwise(sizes)
        return nn.Sequential(*[m for a, b in pairs for m in (nn.Linear(a, b), nn.LeakyReLU(0.2))][:-1])

    generator, top = dense(2, 128, 128, 128, 2), dense(130, 128, 128, 1)
    waves = torch.randn(2, 64) * 4.0 ** torch.arange(64).remainder(4)

    def critic(y: Tensor) -> Tensor:
        phase = y @ waves
        return top(torch.cat([y, phase.sin(), phase.cos()], 1)).squeeze(1)

    optimizers = [torch.optim.Adam(net.parameters(), lr=2e-4, betas=(0.0, 0.99), fused=True) for net in (top, generator)]
    order = itertools.chain.from_iterable(torch.randperm(len(x)).split(batch)[:-1] for _ in itertools.count())
    for _ in range(rounds):
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


def step(loss: Tensor, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def fit(data: pf.Data, batch: int, hyper: dict[str, Any], rounds: int) -> None:
    images = len(data.schema.spec.shape) == 3
    adam = ADAM if images else {"lr": 2e-4, "betas": (0.0, 0.99)}
    model = pf.GAN(**hyper, **({"network": "conv", "channels": CHANNELS, "noise_dim": NOISE} if images else {}))
    model.fit(data, steps=rounds, batch_size=batch, ema=None, schedule="constant", progress=False, alarms=False, **adam)


def contenders(name: str, data: pf.Data) -> dict[str, Callable[[int], None]]:
    batch, _, _, hyper = GAMES[name]
    found: dict[str, Callable[[int], None]] = {"fit": partial(fit, data, batch, hyper)}
    if name == "points":
        found["by hand"] = partial(points_by_hand, data.train.tensor(), batch)
        return found
    x, penalty = data.train.tensor() / 127.5 - 1, "penalty" in name
    found["by hand"] = partial(images_by_hand, x, batch, penalty, torch.channels_last)
    found["by hand, contiguous"] = partial(images_by_hand, x, batch, penalty, torch.contiguous_format)
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(GAMES), default=list(GAMES))
    parser.add_argument("--repeats", type=int, default=9)
    given = parser.parse_args()
    torch.set_num_threads(1)
    random = np.random.default_rng(0)
    sets = {
        "images": pf.load_data(random.integers(0, 256, (2_000, SIZE, SIZE, 3), dtype=np.uint8)),
        "points": pf.load_data(random.normal(size=(20_000, 2)).astype(np.float32)),
    }
    with Result("bench_gan_steps", settings={"games": given.only, "channels": CHANNELS, "repeats": given.repeats}) as result:
        for name in given.only:
            _, short, long, _ = GAMES[name]
            makers = contenders(name, sets[name.split(",")[0]])
            calls = {f"{who}, {n}": partial(work, n) for who, work in makers.items() for n in (short, long)}
            rows = interleave(calls, floor=f"by hand, {short}", repeats=given.repeats, unit="call")
            cost = {
                who: [(b - a) / (long - short) for a, b in zip(rows[f"{who}, {short}"]["times"], rows[f"{who}, {long}"]["times"])]
                for who in makers
            }
            for who, values in cost.items():
                result.add(f"{name}: {who}", 1e3 * statistics.median(values), unit="ms a round", kind="median slope")
            for who, target in (("by hand", "<= 1.02"), ("by hand, contiguous", "<= 0.8")):
                if who in cost:
                    ratio = statistics.median(f / b for f, b in zip(cost["fit"], cost[who]))
                    result.add(f"{name}: fit over {who}", ratio, unit="x", kind="median of rounds", target=target)
