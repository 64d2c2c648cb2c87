"""Figures of merit beside answers that are known: closed forms, a published check, and comparisons of a set with itself.

python experiments/known_metrics.py
"""

import argparse
import math

import torch
from _result import Result
from scipy.stats import t as student

from pushforward import metrics

PUBLISHED = {"precision": 0.4772, "recall": 0.4705, "density": 1.0555, "coverage": 0.9735}
"""README of clovaai/generative-evaluation-prdc: one draw of two N(0, I) sets, 10,000 records in 1,000 dimensions, k = 5."""


def randn(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def positive(d: int, rank: int, seed: int) -> torch.Tensor:
    root = randn(d, rank, seed=seed) / rank**0.5
    return root @ root.T


def frechet(result: Result) -> None:
    """N(0, S) and N(m, T S T): a symmetric T >= 0 is the optimal map, so that F = |m|^2 + tr (1 - T) S (1 - T)."""
    d = 256
    for name, rank_s, rank_t in (("", 2 * d, 2 * d), (", one covariance singular", 2 * d, d // 2), (", both singular", d // 2, 2 * d)):
        S, T = positive(d, rank_s, seed=0), positive(d, rank_t, seed=1)
        off, mean = torch.eye(d, dtype=torch.float64) - T, randn(d, seed=2)
        exact = float(mean.square().sum() + (off @ S @ off).trace())
        got = metrics.frechet_distance(torch.zeros(d), S, mean, T @ S @ T)
        what = f"Fréchet distance of Gaussians that do not commute, {d} dimensions{name}"
        result.add(what, abs(got / exact - 1), unit="relative error", kind="closed form", target="<= 1e-6")
    values = [randn(d, seed=s).square() for s in (3, 4)]
    Q = torch.linalg.qr(randn(d, d, seed=5)).Q
    exact = float((values[0].sqrt() - values[1].sqrt()).square().sum())
    got = metrics.frechet_distance(torch.zeros(d), Q @ values[0].diag() @ Q.T, torch.zeros(d), Q @ values[1].diag() @ Q.T)
    what = f"Fréchet distance of Gaussians that commute, {d} dimensions"
    result.add(what, abs(got / exact - 1), unit="relative error", kind="closed form", target="<= 1e-6")
    x, y = randn(2, d, seed=6), randn(2, d, seed=7)
    u, w = x[0] - x[1], y[0] - y[1]
    exact = float((x.mean(0) - y.mean(0)).square().sum() + u.square().sum() / 2 + w.square().sum() / 2 - (u @ w).abs())
    what = f"Fréchet distance of two records each, {d} dimensions"
    result.add(what, abs(metrics.frechet_between(x, y) / exact - 1), unit="relative error", kind="closed form", target="<= 1e-6")


def balls(result: Result, seeds: int, n: int) -> None:
    """The published draw against the mean and spread of ours: both are one law, so that their difference is a t variable."""
    draws = []
    for seed in range(seeds):
        generator = torch.Generator().manual_seed(seed)
        real, fake = (torch.randn(n, 1000, generator=generator) for _ in range(2))
        draws.append(vars(metrics.precision_recall_density_coverage(real, fake, k=5)))
        print({name: round(v, 4) for name, v in draws[-1].items()}, flush=True)
    reach = float(student.ppf(0.995, seeds - 1)) * math.sqrt(1 + 1 / seeds)
    for name, known in PUBLISHED.items():
        values = torch.tensor([d[name] for d in draws], dtype=torch.float64)
        mean, spread = float(values.mean()), float(values.std())
        result.add(f"{name} of two N(0, I) sets", mean, stderr=spread / math.sqrt(seeds), kind="estimate")
        result.add(f"{name}: spread of one draw", spread, unit="standard deviation", kind="estimate")
        off = abs(known - mean) / spread
        holds = off <= reach
        what = f"{name}: published {known} from our mean"
        result.add(what, off, unit="spreads", kind="99 % of t", target=f"<= {reach:.2f}", holds=holds)
    exact = {"density": 1.0, "coverage": metrics.expected_coverage(n, n)}
    for name, known in exact.items():
        values = torch.tensor([d[name] for d in draws], dtype=torch.float64)
        off = abs(float(values.mean()) - known) / (float(values.std()) / math.sqrt(seeds))
        limit = float(student.ppf(0.995, seeds - 1))
        what = f"{name}: exact expectation {known:.5f} from our mean"
        result.add(what, off, unit="standard errors", kind="99 % of t", target=f"<= {limit:.2f}", holds=off <= limit)


def kernel(result: Result, splits: int = 200) -> None:
    """Over all splits of one set a within-half pair is as likely as any: the unbiased kernel distance has mean exactly 0."""
    x = randn(1000, 32, seed=0).exp()  # skewed, so that cubes matter
    values = []
    for seed in range(splits):
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
        values.append(metrics.kernel_distance(x[order[:500]], x[order[500:]]).value)
    found = torch.tensor(values, dtype=torch.float64)
    error = float(found.std()) / math.sqrt(splits)
    limit = 1.96 * error
    mean = float(found.mean())
    what = f"kernel distance (KID) of halves of one set, mean of {splits} splits"
    result.add(what, mean, stderr=error, kind="estimate", target=f"within ±{limit:.2g}", holds=abs(mean) <= limit)


def classifier(result: Result, seeds: int) -> None:
    """Two samples of one law: a classifier cannot tell them apart."""
    inside = []
    for seed in range(seeds):
        found = metrics.classifier_two_sample(randn(1000, 8, seed=2 * seed), randn(1000, 8, seed=2 * seed + 1))
        inside.append(found.low <= 0.5 <= found.high)
        if seed == 0:
            what = f"C2ST of equal sets, interval {found.low:.3f} ... {found.high:.3f}"
            result.add(what, found.value, stderr=found.stderr, kind="estimate", target="0.5 within", holds=inside[0])
    # Binomial: of 95 % intervals fewer than this share holds 0.5 with probability below 1 %
    from scipy.stats import binom

    least = float(binom.ppf(0.01, seeds, 0.95)) / seeds
    result.add(f"C2ST: 95 % intervals that hold 0.5, of {seeds}", sum(inside) / seeds, kind="measured", target=f">= {least:.2f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--records", type=int, default=10_000)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    settings = {"records": asked.records, "dimensions": 1000, "k": 5, "published by": "github.com/clovaai/generative-evaluation-prdc"}
    with Result("known_metrics", settings=settings, seeds=list(range(asked.seeds))) as result:
        frechet(result)
        balls(result, asked.seeds, asked.records)
        kernel(result)
        classifier(result, 20)
