"""Do 95 % intervals hold the true value in 92-98 % of 400 repetitions, at n = 100 and n = 2,000?

    python experiments/intervals.py

Every repetition draws new records from a known distribution and asks whether the interval holds the true value: in closed form wherever
there is one, otherwise the mean of the figure itself over fresh repetitions (said in the row). `P = Q` rows are those where the two
distributions are equal, the degenerate case of every distance. 400 repetitions have a standard error of 1.1 points at 95 %: a case with
a share within two such errors of either limit is measured with 1,600, so that luck decides as little as may be.
"""

import argparse
import itertools
import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from _result import Result
from scipy.special import gamma, hyp1f1

from pushforward import metrics
from pushforward.metrics import Estimate
from pushforward.metrics.two_sample import _best, _labelled

REPEATS = 400
AGAIN = 1600
LOW, HIGH = 0.92, 0.98
F64 = torch.float64


def normal(n: int, d: int, g: torch.Generator, shift: float = 0.0, sd: float = 1.0) -> torch.Tensor:
    """n records of N(shift, sd^2 I)."""
    return shift + sd * torch.randn(n, d, generator=g, dtype=F64)


@dataclass(frozen=True)
class Case:
    """What one repetition is: the estimates that a generator's draws give, and the true values (a number, or one that the draw decides)."""

    name: str
    first: str
    """The first figure that it measures."""
    draw: Callable[[int, torch.Generator], dict[str, tuple[Estimate, float]]]
    truth: str
    sizes: tuple[int, ...] = (100, 2000)


# -- true values ----------------------------------------------------------------------------------------------------


def chi_mean(d: int, distance: float, sd: float) -> float:
    """E |z| of z from N(mu, sd^2 I) with |mu| = distance."""
    return sd * math.sqrt(2) * gamma((d + 1) / 2) / gamma(d / 2) * hyp1f1(-0.5, d / 2, -((distance / sd) ** 2) / 2)


def true_energy(d: int, shift: float, sd: float) -> float:
    across = chi_mean(d, shift * math.sqrt(d), math.sqrt(1 + sd**2))
    return 2 * across - chi_mean(d, 0, math.sqrt(2)) - chi_mean(d, 0, sd * math.sqrt(2))


def true_gaussian(d: int, shift: float, sd: float, bandwidth: float) -> float:
    """E k of two normal records is that of their difference, N(shift, v I): (h^2/(h^2 + v))^(d/2) exp(-|shift|^2 / 2(h^2 + v))."""
    h2 = bandwidth**2
    k = lambda v, square: (h2 / (h2 + v)) ** (d / 2) * math.exp(-square / (2 * (h2 + v)))
    return k(2, 0) + k(2 * sd**2, 0) - 2 * k(1 + sd**2, d * shift**2)


def true_polynomial(d: int, shift: float, sd: float) -> float:
    """(1 + t)^3 with t = x.y / d, from the moments <E x, E y>, <E xx', E yy'>, <E xxx, E yyy> of normal records."""
    eye = torch.eye(d, dtype=F64)

    def tensors(mean: float, var: float) -> list[torch.Tensor]:
        m = torch.full((d,), mean, dtype=F64)
        mixed = torch.einsum("i,jk->ijk", m, eye)
        third = torch.einsum("i,j,k->ijk", m, m, m) + var * (mixed + mixed.permute(1, 0, 2) + mixed.permute(1, 2, 0))
        return [m, torch.outer(m, m) + var * eye, third]

    def k(a: list[torch.Tensor], b: list[torch.Tensor]) -> float:
        one, two, three = (float((s * t).sum()) for s, t in zip(a, b))
        return 1 + 3 * one / d + 3 * two / d**2 + three / d**3

    x, y = tensors(0.0, 1.0), tensors(shift, sd**2)
    return k(x, x) + k(y, y) - 2 * k(x, y)


# -- cases ----------------------------------------------------------------------------------------------------------


def means() -> Iterator[Case]:
    def skewed(n: int, g: torch.Generator) -> dict[str, tuple[Estimate, float]]:
        # log p of 8-dimensional normal records under N(0, I): -4 log 2 pi - chi^2_8 / 2
        value = metrics.mean_estimate(-4 * math.log(2 * math.pi) - normal(n, 8, g).square().sum(1) / 2)
        return {"mean log-likelihood": (value, -4 * math.log(2 * math.pi) - 4)}

    def shares(n: int, g: torch.Generator) -> dict[str, tuple[Estimate, float]]:
        hits = lambda p: int((torch.rand(n, generator=g) < p).sum())
        return {f"share of {p}": (metrics.share_estimate(hits(p), n), p) for p in (0.3, 0.97)}

    def differences(n: int, g: torch.Generator) -> dict[str, tuple[Estimate, float]]:
        a, b = normal(n, 1, g), normal(n // 2, 1, g, 0.2, 2.0)
        c = a + 0.1 * normal(n, 1, g) - 0.05
        return {
            "difference of means": (metrics.difference_estimate(a, b), -0.2),
            "paired difference": (metrics.difference_estimate(a, c, paired=True), 0.05),
        }

    yield Case("N(0, I) in 8 dimensions", "mean log-likelihood", skewed, "closed form")
    yield Case("Bernoulli", "share of 0.3", shares, "closed form")
    yield Case("normal values, n and n/2", "difference of means", differences, "closed form")


def distances() -> Iterator[Case]:
    for d, shift, sd, name in [
        (2, 0.0, 1.0, "P = Q"),
        (2, 0.1, 1.2, "near"),
        (2, 0.5, 1.0, "apart"),
        (8, 0.2, 1.1, "apart"),
        (32, 0.0, 1.0, "P = Q"),
        (32, 0.1, 1.1, "apart"),
        (32, 0.3, 1.2, "far"),
    ]:
        what = f"{name}: N(0, I) and N({shift:g}, {sd:g}^2 I) in {d} dimensions"

        def kernels(n: int, g: torch.Generator, d: int = d, shift: float = shift, sd: float = sd) -> dict[str, tuple[Estimate, float]]:
            x, y = normal(n, d, g), normal(n, d, g, shift, sd)
            gaussian = metrics.kernel_distance(x, y, kernel="gaussian")
            return {
                "kernel distance, polynomial": (metrics.kernel_distance(x, y), true_polynomial(d, shift, sd)),
                "kernel distance, Gaussian": (gaussian, true_gaussian(d, shift, sd, float(gaussian.method.split()[-1]))),
                "energy distance": (metrics.energy_distance(x, y), true_energy(d, shift, sd)),
            }

        def sliced(n: int, g: torch.Generator, d: int = d, shift: float = shift, sd: float = sd) -> dict[str, tuple[Estimate, float]]:
            x, y = normal(n, d, g), normal(n, d, g, shift, sd)
            return {"sliced Wasserstein": (metrics.sliced_wasserstein(x, y, projections=16), math.hypot(shift, 1 - sd))}

        # The largest sets in two dimensions only: there a null distribution is furthest from normal.
        yield Case(what, "kernel distance, polynomial", kernels, "closed form", (100, 2000) if d == 2 and name != "near" else (100,))
        yield Case(what, "sliced Wasserstein", sliced, "closed form", (100, 2000) if d == 2 and name != "near" else (100,))


def frechets() -> Iterator[Case]:
    for d in (2, 8, 32, 64):
        for shift, sd, name in ((0.0, 1.0, "P = Q"), (0.1, 1.1, "near"), (0.3, 1.2, "apart")):

            def draw(n: int, g: torch.Generator, d: int = d, shift: float = shift, sd: float = sd) -> dict[str, tuple[Estimate, float]]:
                found = metrics.frechet(normal(n, d, g), normal(n, d, g, shift, sd))
                return {"Fréchet distance": (found, d * (shift**2 + (1 - sd) ** 2))}

            what = f"{name}: N(0, I) and N({shift:g}, {sd:g}^2 I) in {d} dimensions"
            yield Case(what, "Fréchet distance", draw, "closed form")


def manifolds() -> Iterator[Case]:
    for d, shift, sd, name in ((2, 0.0, 1.0, "P = Q"), (8, 0.4, 1.0, "apart"), (32, 0.2, 0.9, "apart")):
        expected: dict[int, dict[str, float]] = {}

        def truth(n: int, d: int, shift: float, sd: float) -> dict[str, float]:
            g = torch.Generator().manual_seed(99)
            repeats = 2000 if n < 1000 else 100
            draws = [metrics.precision_recall_density_coverage(normal(n, d, g), normal(n, d, g, shift, sd)) for _ in range(repeats)]
            return {k: sum(vars(m)[k] for m in draws) / repeats for k in vars(draws[0])}

        def draw(
            n: int, g: torch.Generator, d: int = d, shift: float = shift, sd: float = sd, expected: dict[int, dict[str, float]] = expected
        ) -> dict[str, tuple[Estimate, float]]:
            if n not in expected:
                expected[n] = truth(n, d, shift, sd)
            found = metrics.manifold(normal(n, d, g), normal(n, d, g, shift, sd))
            return {k: (e, expected[n][k]) for k, e in found.items()}

        what = f"{name}: N(0, I) and N({shift:g}, {sd:g}^2 I) in {d} dimensions"
        yield Case(what, "precision", draw, "mean of 2,000 fresh repetitions, 100 at n = 2,000", (100, 2000) if d == 8 else (100,))


def mixtures() -> Iterator[Case]:
    angles = torch.arange(8, dtype=F64) * math.pi / 4
    ring = torch.stack([angles.cos(), angles.sin()], 1)
    even = torch.full((8,), 1 / 8, dtype=F64)
    skewed = torch.tensor([2, 2, 2, 2, 1, 1, 1, 1], dtype=F64) / 12
    for q, shrink, name in ((even, 1.0, "the truth"), (skewed, 1.5, "uneven and blurred")):

        def draw(n: int, g: torch.Generator, q: torch.Tensor = q, shrink: float = shrink) -> dict[str, tuple[Estimate, float]]:
            which = torch.multinomial(q, n, replacement=True, generator=g)
            found = metrics.mode_statistics(ring[which] + 0.02 * shrink * normal(n, 2, g), ring, 0.02)
            # P(r < 3 sd) = 1 - exp(-4.5 / s^2) in the plane, and E[r^2 | r < c] as in a truncated exponential
            kept = lambda s: 1 - (4.5 / s**2) * math.exp(-4.5 / s**2) / (1 - math.exp(-4.5 / s**2))
            return {
                "mode share": (found.share, 1 - math.exp(-4.5 / shrink**2)),
                "mode reverse KL": (found.reverse_kl, float((q * (q * 8).log()).sum())),
                "mode spread": (found.spread, shrink * math.sqrt(kept(shrink) / kept(1.0))),
            }

        yield Case(f"ring of 8 normals: {name}", "mode share", draw, "closed form")

        def classes(n: int, g: torch.Generator, same: bool = name == "the truth") -> dict[str, tuple[Estimate, float]]:
            p = torch.arange(4, 14, dtype=F64) / 85
            q = p if same else p.flip(0)
            real, fake = (torch.multinomial(w, n, replacement=True, generator=g) for w in (p, q))
            return {"class KL": (metrics.class_statistics(real, fake, 10).kl, float((q * (q / p).log()).sum()))}

        yield Case("ten classes: " + ("P = Q" if name == "the truth" else "reversed weights"), "class KL", classes, "closed form")


def classifiers() -> Iterator[Case]:
    for shift, name in ((0.0, "P = Q"), (0.5, "apart")):

        def draw(n: int, g: torch.Generator, shift: float = shift) -> dict[str, tuple[Estimate, float]]:
            x, y = normal(n, 2, g), normal(n, 2, g, shift)
            found = metrics.classifier_two_sample(x, y)
            if shift == 0:
                return {"classifier two-sample": (found, 0.5)}
            g2 = torch.Generator().manual_seed(0)  # the same halves as in the function: the classifier whose accuracy is asked for
            i, j = torch.randperm(n, generator=g2)[: n // 2], torch.randperm(n, generator=g2)[: n // 2]
            records, labels = _labelled(normal(20_000, 2, g), normal(20_000, 2, g, shift))
            return {"classifier two-sample": (found, float(_best(*_labelled(x[i], y[j]), 0).score(records, labels)))}

        what = f"{name}: N(0, I) and N({shift:g}, I) in 2 dimensions"
        yield Case(
            what,
            "classifier two-sample",
            draw,
            "1/2" if shift == 0 else "accuracy of that classifier on 40,000 new records",
            (100, 2000) if shift == 0 else (100,),
        )


def copies() -> Iterator[Case]:
    d, sd = 2, 0.8
    train = normal(1000, d, torch.Generator().manual_seed(7))  # the ratio is that of one set of training records
    g = torch.Generator().manual_seed(8)
    near = [metrics.nearest(normal(100_000, d, g, 0.0, s), train)[0].mean().item() for s in (1.0, sd)]

    def ratio(n: int, g: torch.Generator) -> dict[str, tuple[Estimate, float]]:
        return {"distance ratio": (metrics.distance_ratio(train, normal(n, d, g), normal(n, d, g, 0.0, sd)), near[1] / near[0])}

    yield Case(f"N(0, {sd:g}^2 I) in {d} dimensions, 1,000 training records", "distance ratio", ratio, "mean of 100,000 distances")
    for copied in (0.0, 0.3):

        def share(n: int, g: torch.Generator, copied: float = copied) -> dict[str, tuple[Estimate, float]]:
            known, fake = normal(2 * n, d, g), normal(n, d, g)
            again = torch.rand(n, generator=g) < copied
            fake[again] = known[torch.randint(2 * n, (int(again.sum()),), generator=g)]
            return {"copied share": (metrics.copied_share(known, normal(n, d, g), fake), copied)}

        yield Case(f"{copied:.0%} copies of 2 n training records in {d} dimensions", "copied share", share, "closed form")


def tables() -> Iterator[Case]:
    p = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=F64)
    for shift, q, rho, name in ((0.0, p, 0.5, "P = Q"), (0.5, p.flip(0), -0.2, "apart")):

        def draw(n: int, g: torch.Generator, shift: float = shift, q: torch.Tensor = q, rho: float = rho) -> dict[str, Any]:
            sides = []
            for mean, shares, r in ((0.0, p, 0.5), (shift, q, rho)):
                z = normal(n, 2, g)
                pair = {"a": z[:, 0] + mean, "b": r * z[:, 0] + math.sqrt(1 - r * r) * z[:, 1]}
                sides.append((pair, {"c": torch.multinomial(shares, n, replacement=True, generator=g)}))
            (real, kind), (fake, made) = [[{k: v.numpy() for k, v in t.items()} for t in side] for side in sides]
            numbers, codes = metrics.column_fidelity(real, fake, set()), metrics.column_fidelity(kind, made, {"c"})
            ks = math.erf(shift / math.sqrt(8))  # sup |Phi(x) - Phi(x - s)| = 2 Phi(s/2) - 1
            return {
                "column of numbers": (numbers["column a"], 1 - ks),
                "pair of numbers": (numbers["pairs"], 1 - abs(rho - 0.5) / 2),
                "column of categories": (codes["columns"], 1 - float((p - q).abs().sum()) / 2),
            }

        yield Case(f"a table: {name}", "column of numbers", draw, "closed form")


GROUPS = {f.__name__: f for f in (means, mixtures, frechets, distances, manifolds, classifiers, copies, tables)}


def coverage(case: Case, n: int, repeats: Iterable[int], seed: int) -> dict[str, list[tuple[bool, bool]]]:
    """Of each repetition and figure: whether its interval holds the truth, and whether it lies above it."""
    held: dict[str, list[tuple[bool, bool]]] = {}
    for repeat in repeats:
        g = torch.Generator().manual_seed(seed * 1_000_003 + repeat)
        for name, (found, truth) in case.draw(n, g).items():
            held.setdefault(name, []).append((bool(found.low <= truth <= found.high), bool(found.low > truth)))
    return held


def close(held: Sequence[tuple[bool, bool]]) -> bool:
    """Whether the share lies within two standard errors of a limit."""
    share = sum(h for h, _ in held) / len(held)
    return any(abs(share - limit) <= 2 * math.sqrt(limit * (1 - limit) / len(held)) for limit in (LOW, HIGH))


def label(name: str, n: int, case: Case) -> str:
    return f"{name}, n = {n}, {case.name}"


def row(figure: dict[str, Any]) -> str:
    return figure["name"].partition(" [")[0]


def rows_of(result: Result) -> list[dict[str, Any]]:
    """The rows that earlier runs have left in the file."""
    path = result.folder / f"{result.experiment}.json"
    return [f for f in json.loads(path.read_text(encoding="utf-8"))["figures"] if f["unit"] == "coverage"] if path.exists() else []


def write(result: Result) -> None:
    """Write the file after every case, beside the rows that another run (of other sizes or groups) has left there."""
    own, mine = result.figures, {row(figure) for figure in result.figures}
    rows = [f for f in rows_of(result) if row(f) not in mine] + own
    inside = sum(bool(f["holds"]) for f in rows)
    summary = {"name": "rows that meet their target", "value": inside, "stderr": None, "unit": f"of {len(rows)} rows", "kind": "measured"}
    result.figures = [*rows, {**summary, "target": f">= {len(rows)}", "holds": inside == len(rows)}]
    result.write()
    result.figures = own


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--only", nargs="*", choices=list(GROUPS), default=list(GROUPS))
    parser.add_argument("--sizes", type=int, nargs="*", default=[100, 2000])
    parser.add_argument("--resume", action="store_true", help="leave out what results/intervals.json has")
    args = parser.parse_args()
    torch.set_num_threads(1)
    settings: dict[str, Any] = {"repeats": args.repeats, "near a limit": AGAIN, "level": metrics.intervals.LEVEL, "n": "of each set"}
    result = Result("intervals", settings=settings, seeds=[1])
    done = {row(f) for f in rows_of(result)} if args.resume else set()
    for n, group in itertools.product(args.sizes, args.only):
        for case in GROUPS[group]():
            if n not in case.sizes or label(case.first, n, case) in done:
                continue
            found = coverage(case, n, range(args.repeats), 1)
            if any(close(held) for held in found.values()):
                more = coverage(case, n, range(args.repeats, AGAIN), 1)
                found = {name: held + more[name] for name, held in found.items()}
            for name, held in found.items():
                share, above = (sum(column) / len(held) for column in zip(*held))
                error = math.sqrt(share * (1 - share) / len(held))
                what = f"{label(name, n, case)} [truth: {case.truth}; {len(held):,} repetitions, {above:.1%} of intervals lie above it]"
                # One miss in ninety: n = 100 has so few that no interval made from their number can hold in less than 98 % of cases.
                few = name == "mode share" and n == 100 and "the truth" in case.name
                target, holds = (f">= {LOW}", share >= LOW) if few else (f"{LOW} to {HIGH}", LOW <= share <= HIGH)
                result.add(what, share, stderr=error, unit="coverage", kind="measured", target=target, holds=holds)
            write(result)
