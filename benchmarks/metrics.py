"""Fréchet distance and precision/recall/density/coverage beside the packages that people use for them, on the same features.

Everything runs on one core, contenders in turn; peak memory is that of a process of its own. Features are ready: 10,000 x 2,048 as
Inception gives, rectified and correlated. A peer that cannot be imported is left out, and its name is printed.

    pip install --no-deps --target PEERS torch-fidelity torchmetrics lightning-utilities pytorch-fid prdc
    python benchmarks/metrics.py --peers PEERS
"""

import argparse
import contextlib
import importlib
import io
import math
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from functools import partial

for library in ("OMP", "MKL", "OPENBLAS"):
    os.environ[f"{library}_NUM_THREADS"] = "1"

import numpy as np
import torch
from _timing import Result, interleave

from pushforward import metrics
from pushforward.metrics import frechet_between, frechet_distance, precision_recall_density_coverage

K = 5
NEEDS = {"torch-fidelity": "torch_fidelity.metric_fid", "torchmetrics": "torchmetrics.image.fid", "pytorch-fid": "pytorch_fid.fid_score"}
Work = Callable[[], float | tuple[float, ...]]


def features(rows: int, dim: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    mix = torch.randn(dim, dim, generator=generator) / dim**0.5
    return tuple((torch.randn(rows, dim, generator=generator) @ mix + shift).relu() for shift in (0.0, 0.05))  # type: ignore[return-value]


def torch_fidelity_distance(a: tuple[np.ndarray, np.ndarray], b: tuple[np.ndarray, np.ndarray]) -> float:
    from torch_fidelity.metric_fid import fid_statistics_to_metric  # type: ignore[import-not-found]

    sides = [{"mu": mean, "sigma": cov} for mean, cov in (a, b)]
    return fid_statistics_to_metric(*sides, False)["frechet_inception_distance"]


def torch_fidelity_from_features(x: torch.Tensor, y: torch.Tensor) -> float:
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric  # type: ignore[import-not-found]

    return fid_statistics_to_metric(fid_features_to_statistics(x), fid_features_to_statistics(y), False)["frechet_inception_distance"]


def torchmetrics_distance(a: tuple[torch.Tensor, torch.Tensor], b: tuple[torch.Tensor, torch.Tensor]) -> float:
    from torchmetrics.image.fid import _compute_fid  # type: ignore[import-not-found]

    return float(_compute_fid(*a, *b))


def torchmetrics_from_features(x: torch.Tensor, y: torch.Tensor) -> float:
    from torchmetrics.image.fid import FrechetInceptionDistance  # type: ignore[import-not-found]

    class Ready(torch.nn.Module):
        """Hands features through; torchmetrics asks for their number."""

        num_features = x.shape[1]

        def forward(self, z: torch.Tensor) -> torch.Tensor:
            return z

    metric = FrechetInceptionDistance(feature=Ready(), normalize=False, input_img_size=(1, 1, 1))
    metric.used_custom_model = True
    for real, z in ((True, x), (False, y)):
        for batch in z.split(1000):
            metric.update(batch, real=real)
    return float(metric.compute())


def pytorch_fid_distance(a: tuple[np.ndarray, np.ndarray], b: tuple[np.ndarray, np.ndarray]) -> float:
    from pytorch_fid.fid_score import calculate_frechet_distance  # type: ignore[import-not-found]

    with contextlib.redirect_stdout(io.StringIO()):
        return float(calculate_frechet_distance(*a, *b))


def pytorch_fid_from_features(x: np.ndarray, y: np.ndarray) -> float:
    """As its `calculate_activation_statistics` does."""
    return pytorch_fid_distance(*((np.mean(z, axis=0), np.cov(z, rowvar=False)) for z in (x, y)))


def ours_prdc(x: torch.Tensor, y: torch.Tensor) -> tuple[float, ...]:
    m = precision_recall_density_coverage(x, y, k=K)
    return m.precision, m.recall, m.density, m.coverage


def prdc(x: np.ndarray, y: np.ndarray) -> tuple[float, ...]:
    from prdc import compute_prdc  # type: ignore[import-not-found]

    with contextlib.redirect_stdout(io.StringIO()):
        found = compute_prdc(real_features=x, fake_features=y, nearest_k=K)
    return tuple(float(found[name]) for name in ("precision", "recall", "density", "coverage"))


def suites(rows: int, few: int, dim: int) -> dict[str, Callable[[], dict[str, Work]]]:
    """Name -> what makes the contenders, `pushforward` first."""

    def from_moments(n: int) -> dict[str, Work]:
        ours = [metrics.moments(z[:n]) for z in features(rows, dim)]
        arrays = [(mean.numpy(), cov.numpy()) for mean, cov in ours]
        return {
            "pushforward": lambda: frechet_distance(*ours[0], *ours[1]),
            "torch-fidelity": partial(torch_fidelity_distance, *arrays),
            "torchmetrics": partial(torchmetrics_distance, *ours),
            "pytorch-fid": partial(pytorch_fid_distance, *arrays),
        }

    def from_features(n: int) -> dict[str, Work]:
        x, y = (z[:n].contiguous() for z in features(rows, dim))
        return {
            "pushforward": partial(frechet_between, x, y),
            "torch-fidelity": partial(torch_fidelity_from_features, x, y),
            "torchmetrics": partial(torchmetrics_from_features, x, y),
            "pytorch-fid": partial(pytorch_fid_from_features, x.numpy(), y.numpy()),
        }

    def neighbours() -> dict[str, Work]:
        x, y = features(rows, dim)
        return {"pushforward": partial(ours_prdc, x, y), "prdc": partial(prdc, x.numpy(), y.numpy())}

    return {
        f"Fréchet from the moments of {rows:,} x {dim:,}": partial(from_moments, rows),
        f"Fréchet from {rows:,} x {dim:,} features": partial(from_features, rows),
        f"Fréchet from the moments of {few:,} x {dim:,}": partial(from_moments, few),
        f"Fréchet from {few:,} x {dim:,} features": partial(from_features, few),
        f"P/R/D/C of {rows:,} x {dim:,}": neighbours,
    }


def present(name: str) -> bool:
    try:
        importlib.import_module(NEEDS.get(name, name))
    except ImportError as error:
        print(f"without {name}: {error}", flush=True)
        return False
    return True


def high_water() -> float:
    """The most memory that this process has held, in GB. Linux's ru_maxrss starts from the parent's: VmHWM does not."""
    with contextlib.suppress(OSError), open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) * 1024 / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9


def peak(arguments: list[str], suite: str, name: str) -> float:
    """Peak memory of a process that does this alone, in GB; the features are part of it."""
    command = [sys.executable, __file__, *arguments, "--suite", suite, "--contender", name]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])


def apart(a: float | tuple[float, ...], b: float | tuple[float, ...]) -> float:
    """Largest relative difference of b from a."""
    a, b = np.atleast_1d(a), np.atleast_1d(b)
    return float((np.abs(b - a) / np.abs(a)).max())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", default="", help="folder of the packages to compare with, where the environment lacks them")
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--few", type=int, default=1_000, help="records of the case with fewer of them than features")
    parser.add_argument("--dim", type=int, default=2048)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--suite", help="only this one")
    parser.add_argument("--contender", help="run this one once and print its peak memory")
    asked = parser.parse_args()
    sys.path[:0] = [asked.peers] if asked.peers else []
    torch.set_num_threads(1)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})  # packages that start threads of their own get one core as well
    every = suites(asked.rows, asked.few, asked.dim)
    if asked.contender:
        every[asked.suite]()[asked.contender]()
        print(high_water())
        sys.exit()
    missing = {name for name in (*NEEDS, "prdc") if not present(name)}
    size = [f"--{name}={getattr(asked, name)}" for name in ("peers", "rows", "few", "dim")]
    failures: dict[str, str] = {}
    settings = {
        "records": asked.rows,
        "few": asked.few,
        "features": asked.dim,
        "k": K,
        "repeats": asked.repeats,
        "peers that failed": failures,
    }
    part = "" if asked.suite is None else "_" + "".join(c if c.isalnum() else "-" for c in asked.suite.lower()).strip("-")
    with Result(f"bench_metrics{part}", settings=settings) as result:  # one suite alone has a file of its own
        for suite, make in every.items():
            if asked.suite and asked.suite not in suite:
                continue
            print(f"-- {suite}", flush=True)
            contenders = {name: work for name, work in make().items() if name not in missing}
            figures = {}
            for name, work in list(contenders.items()):
                try:
                    figures[name] = work()
                    if not np.isfinite(figures[name]).all():
                        raise ArithmeticError(f"gives {figures[name]}")
                except Exception as error:
                    if name == "pushforward":
                        raise
                    failures[f"{suite}: {name}"] = f"{type(error).__name__}: {error}"
                    del contenders[name]
            rows = interleave(contenders, floor="pushforward", repeats=asked.repeats, unit="call")
            result.add(f"{suite}: pushforward", rows["pushforward"]["seconds"], unit="s", kind="measured")
            first = {"P/R/D/C": ("prdc", ">= 2")}.get(suite.split()[0], ("torch-fidelity", ">= 2.5"))
            for name in list(contenders)[1:]:
                result.add(f"{suite}: {name}", rows[name]["seconds"], unit="s", kind="measured")
                target = first[1] if name == first[0] else None
                result.add(f"{suite}: {name} over pushforward", rows[name]["ratio"], unit="x", kind="median of ratios", target=target)
                off = apart(figures["pushforward"], figures[name])
                result.add(f"{suite}: {name}, difference", off, unit="relative", kind="measured", target="<= 1e-4")
            for name in contenders:
                target = "<= 2" if name == "pushforward" else None
                result.add(f"{suite}: {name}, peak memory", peak(size, suite, name), unit="GB", kind="measured", target=target)
        assert all(math.isfinite(f["value"]) for f in result.figures)
        for name, why in failures.items():
            print(f"failed: {name}: {why}")
