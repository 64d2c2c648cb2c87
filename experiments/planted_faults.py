"""Faults planted in samples of known quality: copying, missing classes, blur. Each must be caught by its own figure and by no other.

PUSHFORWARD_DATA=... python experiments/planted_faults.py        (MNIST; without the variable the built-in digits)

Every "generator" hands out real records that nobody else holds (fresh), or fresh records with one fault. All records come from the
training file; MNIST's test file, which other people wrote, is tried as held-out records beside.
"""

import math
import os

import numpy as np
import torch
from _result import Result
from scipy.ndimage import gaussian_filter

import pushforward as pf
from pushforward.evaluate import verdict
from pushforward.metrics import CopyingTest, Estimate, copied_share, data_copying, distance_ratio, duplicate_share, neighbourhoods
from pushforward.spaces import spaces

SEEDS = range(20)
KEYS = ("pca", "random-conv", "learned")
K = 5
NOISE = 0.1
"""Standard deviation of the noisy resampler, in units of white. Spaces that see texture hold its samples for poor ones, not for copies."""


def blurred(x: torch.Tensor, sigma: float) -> torch.Tensor:
    return torch.from_numpy(gaussian_filter(x.numpy(), (0, 0, sigma, sigma))).round()


def half_width(share: float, n: int) -> float:
    """Half of Wilson's 95 % interval of one evaluation."""
    return 1.96 * math.sqrt(share * (1 - share) / n + 0.96 / n**2) / (1 + 3.84 / n)


class Figures:
    """Mean and spread over the seeds of what was recorded under a name."""

    def __init__(self) -> None:
        self.of: dict[tuple, list[float]] = {}

    def add(self, *name: object, value: float) -> None:
        self.of.setdefault(name, []).append(float(value))

    def mean(self, *name: object) -> float:
        return float(np.mean(self.of[name]))

    def error(self, *name: object) -> float:
        return float(np.std(self.of[name], ddof=1) / math.sqrt(len(self.of[name])))


VERDICTS = {
    "a bootstrap resampler of the training records": ">= 0.95",
    "the same with noise": ">= 0.95",
    "a fifth of the samples resampled": ">= 0.95",
    "a fresh sampler": "<= 0.05",
    "2 of 10 classes missing": "<= 0.05",
    "a blurred sampler (false alarms if any)": "<= 0.05",
}
"""What `evaluate` should say of each, from all spaces together."""
Readings = dict[tuple[int, str], dict[str, tuple[CopyingTest, Estimate]]]


def copying(result: Result, found: Figures, readings: Readings) -> None:
    say = "share of 20 seeds flagged as copying by C_T"
    for key in KEYS:
        for case, target in (
            ("a bootstrap resampler of the training records", ">= 0.95"),
            ("the same with noise", None),
            ("a fifth of the samples resampled", None),
            ("a fresh sampler", "<= 0.05"),
            ("2 of 10 classes missing", None),
            ("a blurred sampler (false alarms if any)", None),
        ):
            name = (key, case)
            result.add(f"{say}, {key}: {case}", found.mean(*name, "copies"), kind="measured", target=target)
            result.add(f"z of C_T, {key}: {case}", found.mean(*name, "z"), stderr=found.error(*name, "z"), kind="measured")
            result.add(f"copied share, {key}: {case}", found.mean(*name, "share"), stderr=found.error(*name, "share"), kind="measured")
            result.add(f"share of seeds whose copied share is above 0, {key}: {case}", found.mean(*name, "sure"), kind="measured")
        result.add(f"distance ratio, {key}: fresh sampler", found.mean(key, "a fresh sampler", "ratio"), kind="measured")
        result.add(f"distance ratio, {key}: noisy resampler", found.mean(key, "the same with noise", "ratio"), kind="measured")
        name = (key, "fresh, held out by other writers")
        if (*name, "copies") in found.of:
            result.add(
                f"{say}, {key}: a fresh sampler against MNIST's own test file (other writers)", found.mean(*name, "copies"), kind="measured"
            )
    for case, target in VERDICTS.items():
        said = [verdict({key: of[key] for key in reversed(KEYS)}) for (_, c), of in readings.items() if c == case]
        flagged = float(np.mean([words.startswith("Copying") for words in said]))
        result.add(f"share of 20 seeds that evaluate's verdict calls copying: {case}", flagged, kind="measured", target=target)
    for case in ("a bootstrap resampler of the training records", "a fresh sampler"):
        result.add(f"duplicates among samples: {case}", found.mean("pca", case, "repeats"), unit="share", kind="measured")


def movement(result: Result, found: Figures, case: str, figure: str, where: tuple, n: int, falls: bool | None) -> float:
    """How far a figure fell from the fresh sampler's, in half-widths of one evaluation's interval."""
    fresh, faulty = found.mean(*where, "fresh", figure), found.mean(*where, case, figure)
    moved = (fresh - faulty) / half_width(fresh, n)
    target = None if falls is None else (">= 1" if falls else "<= 1")
    space = ", ".join(str(w) for w in where)
    result.add(
        f"{case}: fall of {figure} ({space}), {fresh:.3f} -> {faulty:.3f}",
        moved,
        unit="half-widths of its interval",
        kind="measured",
        target=target,
    )
    share = np.mean(
        [
            np.subtract(a, b) > math.sqrt(2) * half_width(a, n)
            for a, b in zip(found.of[(*where, "fresh", figure)], found.of[(*where, case, figure)])
        ]
    )
    result.add(f"{case}: share of seeds in which {figure} ({space}) fell by more than the interval of a difference", share, kind="measured")
    return moved


def run() -> None:
    torch.set_num_threads(1)
    name = "mnist" if os.environ.get("PUSHFORWARD_DATA") else "digits"
    data = pf.load_data(name)
    n, l, wide = (1000, 2000, 8) if name == "mnist" else (300, 600, 3)
    sigma = data.spec.shape[-1] / 28  # a blur of one pixel of 28
    mild = 0.45 * sigma
    pool = data.train[:12_000]
    x, y = pool.tensor(torch.float32), torch.as_tensor(pool.labels())
    white = float(x.max())
    found, readings = Figures(), Readings()
    settings = {
        "data": name,
        "records": n,
        "training records": l,
        "blur": [sigma, mild],
        "noise": NOISE,
        "neighbours": K,
        "wide": wide,
    }
    with Result("planted_faults", settings=settings, seeds=list(SEEDS)) as result:
        noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0)) * NOISE * white
        versions = {"clean": x, "blur": blurred(x, sigma), "mild": blurred(x, mild), "noisy": (x + noise).clamp(0, white).round()}
        for key, space in spaces(data, which=KEYS, cache=False).items():
            f = {what: space(v) for what, v in versions.items()}
            other = space(data.test.tensor(torch.float32)) if name == "mnist" else None
            for seed in SEEDS:
                g = torch.Generator().manual_seed(seed)
                order = torch.randperm(len(x), generator=g)
                gone = torch.randperm(10, generator=g)[:2]
                train, test, rest = order[:l], order[l : l + n], order[l + n :]
                some = rest[~torch.isin(y[rest], gone)]
                again = train[torch.randint(l, (n,), generator=g)]
                fifth = torch.cat([again[: n // 5], rest[: n - n // 5]])
                T, P = f["clean"][train], f["clean"][test]
                cases = {
                    "a bootstrap resampler of the training records": f["clean"][again],
                    "the same with noise": f["noisy"][again],
                    "a fifth of the samples resampled": f["clean"][fifth],
                    "a fresh sampler": f["clean"][rest[:n]],
                    "2 of 10 classes missing": f["clean"][some[:n]],
                    "a blurred sampler (false alarms if any)": f["blur"][rest[:n]],
                }
                for case, Q in cases.items():
                    tested, share = data_copying(T, P, Q, seed=seed), copied_share(T, P, Q)
                    readings.setdefault((seed, case), {})[key] = tested, share
                    found.add(key, case, "copies", value=tested.copies)
                    found.add(key, case, "z", value=tested.z)
                    found.add(key, case, "share", value=share.value)
                    found.add(key, case, "sure", value=share.low > 0)
                    found.add(key, case, "ratio", value=distance_ratio(T, P, Q).value)
                    found.add(key, case, "repeats", value=duplicate_share(Q, P).value)
                if other is not None:
                    against = other[torch.randperm(len(other), generator=g)[:n]]
                    tested = data_copying(T, against, f["clean"][rest[:n]], seed=seed)
                    found.add(key, "fresh, held out by other writers", "copies", value=tested.copies)
                faults = {
                    "fresh": ("clean", rest),
                    "2 of 10 classes missing": ("clean", some),
                    "blur": ("blur", rest),
                    "mild blur": ("mild", rest),
                }
                for case, (what, at) in faults.items():
                    balls = neighbourhoods(P, f[what][at[:n]], k=K).manifold
                    for figure, value in vars(balls).items():
                        found.add(key, case, figure, value=value)
                    if key == "random-conv":  # half the records and many samples for each
                        balls = neighbourhoods(P[: n // 2], f[what][at[: n // 2 * wide]], k=K).manifold
                        for figure in ("precision", "coverage"):
                            found.add(key, f"{wide} samples a record", case, figure, value=getattr(balls, figure))
        copying(result, found, readings)
        for key in KEYS:
            for case in ("2 of 10 classes missing", "blur", "mild blur"):
                missing = case.startswith("2")
                for figure in ("precision", "coverage", "recall"):
                    falls = None if not missing or figure == "recall" else figure == "coverage"
                    movement(result, found, case, figure, (key,), n, falls)
                result.add(
                    f"{case}: density ({key})", found.mean(key, case, "density"), stderr=found.error(key, case, "density"), kind="measured"
                )
        # A blurred sample is poor where texture is seen, and its digit is still covered where it is not.
        case = "quality in random-conv, coverage in pca"
        a = movement(result, found, "blur", "precision", ("random-conv",), n, True)
        b = movement(result, found, "blur", "coverage", ("pca",), n, False)
        result.add(f"blur loses precision and not coverage: {case}", float(a >= 1 and b <= 1), kind="measured", target=">= 1")
        where = ("random-conv", f"{wide} samples a record")
        for case in ("2 of 10 classes missing", "mild blur"):
            missing = case.startswith("2")
            movement(result, found, case, "precision", where, n // 2 * wide, not missing)
            movement(result, found, case, "coverage", where, n // 2, missing)


if __name__ == "__main__":
    run()
