"""Flows beside zuko, nflows and normflows: a training step, log_prob of 4,096 records and 512 samples, one thread, in turn, a process each.

Same architecture for all: 5 maps, two hidden layers, the entries reversed (or shuffled) in between, 8 bins on [-5, 5]; parameter counts are
in the settings. All take their steps with the same fused Adam on batches of 256; `fit` is ours through the training loop. Actnorms, which
the peers' flows lack, are left out, but for `fit`. log_prob and samples of ours are the public calls, on records that are loaded; the
peers take tensors.

    pip install --no-deps --target PEERS zuko==1.6.0 nflows==0.14 normflows==1.7.3
    python benchmarks/flow_steps.py --peers PEERS [--dims 6 43] [--only "spline coupling"]

Targets: a step and log_prob at most the time of the fastest peer; sampling of 43 dimensions at least 5 times (affine autoregressive) and 10
times (spline autoregressive) faster than the fastest peer. About 12 minutes on one quiet core.
"""

import argparse
import statistics
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from _timing import AfterStep, Result, again, ratio, turns
from torch import Tensor, nn

import pushforward as pf
from pushforward.bijections import ActNorm, Compose
from pushforward.model import Batch
from pushforward.models.exact.dense import DenseFlow
from pushforward.models.exact.flow import RealNVP, SplineFlow
from pushforward.models.exact.maf import MAF, AutoregressiveSplineFlow
from pushforward.rng import Rng

if __name__ == "__main__":
    from _flow_peers import BUILD, Kind, find_peers

BATCH, ROWS, SAMPLES, LAYERS, BINS, BOUND = 256, 4096, 512, 5, 8, 5.0
KINDS: tuple["Kind", ...] = ("affine coupling", "affine autoregressive", "spline coupling", "spline autoregressive")
FASTER = {"affine autoregressive": ">= 5", "spline autoregressive": ">= 10"}
"""How many times faster than the fastest peer samples of 43 dimensions are to come."""


def width(dim: int) -> int:
    return 64 if dim < 10 else 128


def ours(kind: str, dim: int) -> DenseFlow:
    hidden = (width(dim),) * 2
    if kind == "affine coupling":
        return RealNVP(LAYERS, hidden, "reverse")
    if kind == "affine autoregressive":
        return MAF(LAYERS, hidden)
    if kind == "spline coupling":
        return SplineFlow(LAYERS, BINS, BOUND, False, hidden, "reverse")
    return AutoregressiveSplineFlow(LAYERS, BINS, BOUND, hidden, "reverse")


def bare(module: nn.Module, loss: Callable[[Tensor], Tensor], x: Tensor, after_step: Callable[[], None]) -> None:
    """Training steps of a bare loop."""
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-3, fused=True)
    while True:
        value = loss(x[torch.randint(len(x), (BATCH,))]).mean()
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        after_step()


def through_fit(kind: str, data: pf.Data, after_step: Callable[[], None]) -> None:
    ours(kind, data.spec.dim).fit(
        data,
        steps=10**9,
        batch_size=BATCH,
        optimizer="adam",
        weight_decay=0.0,
        lr=1e-3,
        schedule="constant",
        clip=None,
        progress=False,
        observers=[AfterStep(after_step)],
    )


def compare(result: "Result", title: str, own: tuple[str, ...], found: dict[str, list[float]], target: str | None) -> None:
    """Medians of all; for ours the median, over rounds, of the ratio to the fastest peer (by its median)."""
    for name, seconds in found.items():
        result.add(f"{title}: {name}", 1e3 * statistics.median(seconds), unit="ms", kind="median")
    peers = {name: statistics.median(t) for name, t in found.items() if name not in own}
    if not peers:
        return
    best = min(peers, key=lambda name: peers[name])
    for name in own:
        if target is None or target.startswith("<="):
            versus = ratio(found[name], found[best])
            result.add(f"{title}: {name} over the fastest peer ({best})", **versus, unit="x", kind="median of rounds", target=target)
        else:
            versus = ratio(found[best], found[name])
            result.add(f"{title}: times faster than the fastest peer ({best})", **versus, unit="x", kind="median of rounds", target=target)


def run(result: "Result", kind: "Kind", dim: int, names: list[str], given: argparse.Namespace) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2 * ROWS, dim, generator=generator)  # some of them become the validation split
    x = x @ (torch.eye(dim) + 0.3 * torch.randn(dim, dim, generator=generator) / dim**0.5)
    torch.manual_seed(0)
    data = pf.load_data(x.numpy().astype(np.float32))
    whole = data.train.subset(slice(0, ROWS))
    model = ours(kind, dim)
    model._adopt(data.schema, conditional=False)
    model.build(data.spec)
    # The peers' flows have no actnorms; through `fit` ours is as it comes, with them.
    model.flow = Compose([f for f in model.flow.layers if not isinstance(f, ActNorm)])
    peers = {name: BUILD[name](kind, dim, LAYERS, width(dim), BINS, BOUND) for name in names}
    counts = {"pushforward": model.flow, **{name: peer.module for name, peer in peers.items()}}
    counts = {name: sum(p.numel() for p in module.parameters() if p.requires_grad) for name, module in counts.items()}
    result.settings.setdefault("parameters", {})[f"{kind}, {dim}"] = counts
    print(f"{kind}, {dim} dimensions: parameters {counts}", flush=True)

    x = whole.tensor()
    repeats = given.repeats if kind.startswith("affine") else max(2, given.repeats // 4)  # splines are slower, and their margins wide
    if "log_prob" in given.tasks:
        works = {"pushforward": partial(again, lambda: model.log_prob(whole))}
        for name, peer in peers.items():
            works[name] = partial(again, torch.no_grad()(lambda p=peer: p.log_prob(x)))
        compare(result, f"{kind}, {dim}d, log_prob", ("pushforward",), turns(works, 1, repeats), "<= 1.0")
    if "sample" in given.tasks:
        works = {"pushforward": partial(again, lambda: model.sample(SAMPLES, seed=0))}
        for name, peer in peers.items():
            works[name] = partial(again, torch.no_grad()(lambda p=peer: p.sample(SAMPLES)))
        target = FASTER.get(kind) if dim >= 43 else None
        compare(result, f"{kind}, {dim}d, sample", ("pushforward",), turns(works, 1, repeats), target)
    if "step" in given.tasks:
        model.train()
        rng = Rng.seeded(0)
        own = {"objective": partial(bare, model.flow, lambda x: model._loss(Batch(x, None, x[:, 0], rng)).per_record, x)}
        own["fit"] = partial(through_fit, kind, data)
        works = own | {name: partial(bare, p.module, lambda x, p=p: -p.log_prob(x), x) for name, p in peers.items()}
        compare(result, f"{kind}, {dim}d, step", tuple(own), turns(works, given.steps, repeats), "<= 1.0")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peers", help="a folder with zuko, nflows and normflows")
    parser.add_argument("--only", nargs="*", choices=KINDS, default=list(KINDS))
    parser.add_argument("--tasks", nargs="*", choices=["log_prob", "sample", "step"], default=["log_prob", "sample", "step"])
    parser.add_argument("--dims", nargs="*", type=int, default=[6, 43])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int, default=50, help="training steps of a turn")
    parser.add_argument("--repeats", type=int, default=40)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    names = find_peers(given.peers)
    chosen = {k: v for k, v in vars(given).items() if k != "peers"}
    settings = {"batch": BATCH, "rows": ROWS, "samples": SAMPLES, "maps": LAYERS, "bins": BINS, "widths": {d: width(d) for d in given.dims}}
    with Result("bench_flow_steps", settings=settings | chosen | {"peers": names}) as result:
        for kind in given.only:
            for dim in given.dims:
                run(result, kind, dim, names, given)
