"""Planted failures of training and healthy training, 40 seeds of each: which alarms ring.

python experiments/alarms.py [seeds [processes [healthy seeds of each family]]]

A run that was cut short goes on where results/alarms.json ends, when the seeds are the same.

A failure is planted by hyperparameters or data; whether it happened in a run is judged by a criterion of its own, from the truth or from
the trained model, that shares no code with the alarms. Only runs in which it happened count towards detection, and an alarm counts as heard
when the one of its kind stands at the end. A healthy run counts as a false alarm when any alarm stands at its end.
"""

import functools
import json
import math
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import numpy as np
import pandas as pd
import torch
from _result import Result
from sklearn.datasets import load_wine
from torch import Tensor, nn

import pushforward as pf
from pushforward.alarms import Alarms
from pushforward.data import Data
from pushforward.model import Batch, GradientModel, Loss, Objective
from pushforward.models import create
from pushforward.rng import Rng

QUIET: dict[str, Any] = {"progress": False, "alarms": False}
WILD: dict[str, Any] = {"r1": 0.0, "r2": 0.0, "hidden": (64, 64), "critic_hidden": (64, 64)}


class Heard(Alarms):
    """Alarms that keep a list of all that was said on the way, and the state that training ended in."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []
        self.last: dict[str, Tensor] = {}

    def _tell(self, loop: Any, row: dict[str, Any], aloud: bool = True) -> None:
        if aloud and "try" in row:
            self.said.append(row["alarm"])

    def on_end(self, loop: Any) -> None:
        self.last = {k: v.detach().clone() for k, v in loop.model.state_dict().items()}
        super().on_end(loop)


# -- data -----------------------------------------------------------------------------------------------------------------


@functools.cache
def named(name: str) -> Data:
    return pf.load_data(name)


def table(seed: int, n: int = 2000) -> Data:
    """A mixed table: two factors behind two real columns, a skewed one, a count and a class."""
    g = np.random.default_rng(seed)
    z = g.normal(size=(n, 2))
    columns = {
        "a": z[:, 0] + 0.3 * g.normal(size=n),
        "b": 0.5 * z[:, 0] + z[:, 1],
        "skewed": np.exp(0.5 * z[:, 1]) + 0.1 * g.normal(size=n),
        "class": np.array(list("xyz"))[np.clip((z[:, 0] + 1.5).astype(int), 0, 2)],
        "count": g.poisson(np.exp(0.3 * z[:, 1] + 1)),
    }
    return pf.load_data(pd.DataFrame(columns))


def zero_inflated(seed: int) -> np.ndarray:
    """Two real columns, the second exactly 0 in six of ten records."""
    g = np.random.default_rng(seed)
    x = g.normal(size=(800, 2))
    x[:, 1] = np.where(g.random(800) < 0.6, 0.0, x[:, 1])
    return x


# -- planted failures: seed -> (did it happen, what was heard) -------------------------------------------------------------


def collapse(seed: int) -> tuple[bool, Heard]:
    """A non-saturating GAN without penalties or average on 8 modes. It happened: at most 4 modes have a fifth of their share."""
    ear, data = Heard(), named("ring")
    model = pf.GAN(loss="non-saturating", relativistic=False, fourier=0, noise_dim=2, **WILD)
    settings = {"steps": 500, "lr": 1e-2, "betas": (0.9, 0.999), "ema": None, "batch_size": 64, "schedule": "constant"}
    model.fit(data, observers=[ear], seed=seed, **settings, **QUIET)
    nearest = data.truth.nearest(torch.as_tensor(np.asarray(model.sample(4000, seed=seed))))
    return int((torch.bincount(nearest, minlength=8) >= 4000 / 8 / 5).sum()) <= 4, ear


def duplicates(seed: int) -> tuple[bool, Heard]:
    """A GAN with a learning rate that kills its units. It happened: half of 1,000 digits equal another pixel for pixel."""
    ear = Heard()
    model = pf.GAN(loss="non-saturating", relativistic=False, noise_dim=8, **WILD)
    settings = {"steps": 200, "lr": 0.05, "ema": None, "batch_size": 64, "schedule": "constant"}
    model.fit(named("digits"), observers=[ear], seed=seed, **settings, **QUIET)
    _, counts = np.unique(np.asarray(model.sample(1000, seed=seed)).reshape(1000, -1), axis=0, return_counts=True)
    return counts[counts > 1].sum() >= 500, ear


def saturated(seed: int) -> tuple[bool, Heard]:
    """The minimax game with five critic steps. It happened: the critic tells 97 % of unseen records and new samples apart."""
    ear, data = Heard(), named("digits")
    model = pf.GAN(loss="minimax", relativistic=False, critic_steps=5, **WILD)
    model.fit(data, observers=[ear], seed=seed, steps=200, batch_size=64, ema=None, **QUIET)
    with torch.no_grad():
        model.load_state_dict(ear.last)
        real = model.critic_net(model._features.encode(data.test.tensor()), None)
        fake = model.critic_net(model._features.encode(model._sample(len(real), None, Rng.seeded(seed))), None)
    return float(torch.cat([real > 0, fake < 0]).float().mean()) >= 0.97, ear


def silent_code(seed: int) -> tuple[bool, Heard]:
    """A VAE with beta = 100. It happened: a record is as likely given another record's code, to 0.2 nats."""
    ear, data = Heard(), named("digits")
    model = pf.VAE(beta=100.0, latent_dim=8, hidden=(64,)).fit(data, observers=[ear], seed=seed, steps=300, **QUIET)
    x = data.test.tensor()
    with torch.no_grad():
        z = model._posterior(x, None).mean
        own, other = (model._likelihood(at, None).log_prob(x).mean() for at in (z, z.roll(1, 0)))
    return abs(float(own - other)) <= 0.2, ear


def dead_codes(seed: int) -> tuple[bool, Heard]:
    """A vector-quantised autoencoder whose codebook starts far too wide. It happened: under a fifth of it codes all training records."""
    ear, data = Heard(), named("digits")
    model = Quantised(spread=4.0).fit(data, observers=[ear], seed=seed, steps=200, **QUIET)
    with torch.no_grad():
        used = len(model.codes(data.train.tensor()).unique())
    return used / model.entries < 0.2, ear


def exploding(seed: int) -> tuple[bool, Heard]:
    """A flow on a column that is exactly 0 in six of ten records. It happened: three samples of ten are within 0.005 sd of that 0."""
    ear, records = Heard(), zero_inflated(seed)
    model = pf.RealNVP(layers=4, hidden=(32, 32)).fit(pf.load_data(records), observers=[ear], seed=seed, steps=700, lr=5e-3, **QUIET)
    drawn = np.asarray(model.sample(4000, seed=seed))[:, 1]
    return float(np.mean(np.abs(drawn) < 0.005 * records[:, 1].std())) >= 0.3, ear


def overfitting(seed: int) -> tuple[bool, Heard]:
    """A large flow on 142 wines. It happened: the test records are less likely under the last weights than under the best, by 3 errors."""
    ear = Heard()
    data = pf.load_data(load_wine().data, seed=seed)
    model = pf.MADE(hidden=(128, 128)).fit(data, observers=[ear], seed=seed, steps=400, batch_size=64, **QUIET)
    best = model.log_prob(data.test).double()
    model.load_state_dict(ear.last)
    lost = best - model.log_prob(data.test).double()
    return float(lost.mean()) > 3 * float(lost.std()) / math.sqrt(len(lost)), ear


def non_finite(seed: int) -> tuple[bool, Heard]:
    """A learning rate of 1,000. It happened: training ended in Diverged."""
    ear = Heard()
    try:
        pf.VAE(latent_dim=8, hidden=(64,)).fit(named("digits"), observers=[ear], seed=seed, steps=100, lr=1e3, **QUIET)
    except pf.Diverged:
        return True, ear
    return False, ear


class Quantised(GradientModel):
    """A vector-quantised autoencoder (van den Oord et al. 2017), one code a record: enough for a codebook that dies."""

    name = "quantised"

    def __init__(self, *, entries: int = 64, spread: float = 1.0):
        super().__init__()
        self.entries, self.spread = entries, spread

    def _build(self, spec: Any) -> None:
        self.encoder, self.decoder = nn.Linear(spec.dim, 4), nn.Linear(4, spec.dim)
        self.book = nn.Parameter(self.spread * torch.randn(self.entries, 4))
        self.top = (spec.support.size or 2) - 1

    def codes(self, x: Tensor) -> Tensor:
        return torch.cdist(self.encoder(x.flatten(1) / self.top), self.book).argmin(1)

    def _objectives(self) -> tuple[Objective, ...]:
        return (Objective("quantised", [self], self._loss),)

    def _loss(self, batch: Batch) -> Loss:
        x = batch.x.flatten(1) / self.top
        h = self.encoder(x)
        code = torch.cdist(h, self.book).argmin(1)
        e = self.book[code]
        p = torch.bincount(code, minlength=self.entries) / len(code)
        loss = (
            (self.decoder(h + (e - h).detach()) - x).square().sum(1) + (e - h.detach()).square().sum(1) + (h - e.detach()).square().sum(1)
        )
        return Loss(loss, {"codebook usage": torch.exp(-torch.xlogy(p, p).sum()) / self.entries})


FAILURES: dict[str, Callable[[int], tuple[bool, Heard]]] = {
    "mode collapse": collapse,
    "duplicates": duplicates,
    "saturated critic": saturated,
    "posterior collapse": silent_code,
    "dead codebook": dead_codes,
    "exploding likelihood": exploding,
    "overfitting": overfitting,
    "non-finite": non_finite,
}

# -- healthy training ------------------------------------------------------------------------------------------------------

SMALL = {"hidden": (64, 64), "critic_hidden": (64, 64)}
HEALTHY: dict[str, Callable[[], tuple[pf.Model, str, dict[str, Any]]]] = {
    "gan, ring": lambda: (pf.GAN(**SMALL), "ring", {"steps": 800, "batch_size": 128}),
    "gan, digits": lambda: (pf.GAN(**SMALL), "digits", {"steps": 800, "batch_size": 128}),
    "gan, table": lambda: (pf.GAN(**SMALL), "table", {"steps": 400, "batch_size": 128}),
    "vae, digits": lambda: (pf.VAE(hidden=(128,)), "digits", {"steps": 400}),
    "vae, table": lambda: (pf.VAE(latent_dim=4, hidden=(64,)), "table", {"steps": 600}),
    "made, digits": lambda: (pf.MADE(hidden=(128,)), "digits", {"steps": 200}),
    "made, table": lambda: (pf.MADE(hidden=(64,)), "table", {"steps": 300}),
    "realnvp, moons": lambda: (pf.RealNVP(layers=4, hidden=(32, 32)), "moons", {"steps": 300}),
    "realnvp, table": lambda: (pf.RealNVP(layers=4, hidden=(32, 32)), "table", {"steps": 300}),
    "spline, grid": lambda: (create("spline", layers=2, hidden=(32, 32)), "grid", {"steps": 200, "batch_size": 128}),
    "ddpm, moons": lambda: (pf.DDPM(sampling_steps=20, width=64), "moons", {"steps": 300}),
    "pixelcnn, digits": lambda: (pf.PixelCNN(layers=2, channels=16), "digits", {"steps": 60}),
    "latent_prior, digits": lambda: (create("latent_prior"), "digits", {"steps": 300}),
}


def healthy(name: str, seed: int) -> Heard:
    """One healthy run of a family with its own defaults, in a smaller network; what was heard."""
    model, data, settings = HEALTHY[name]()
    ear = Heard()
    records = table(seed) if data == "table" else named(data)
    if name.startswith("latent_prior"):  # its stages make their own observers
        model.fit(records, seed=seed, progress=False, **settings)
        ear.standing = {a.kind: a for a in model.alarms}
        ear.said = list(ear.standing)
    else:
        model.fit(records, observers=[ear], seed=seed, **settings, **QUIET)
    return ear


def one(name: str, seed: int) -> tuple[bool, list[str], list[str]]:
    """(the failure happened, the alarms that stand, all that was said) of one run."""
    torch.set_num_threads(1)
    did, ear = FAILURES[name](seed) if name in FAILURES else (False, healthy(name, seed))
    return did, list(ear.standing), ear.said


def main(seeds: int, processes: int, each: int) -> None:
    with ProcessPoolExecutor(processes, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        report(seeds, each, lambda name, n: list(pool.map(one, [name] * n, range(n))))


def report(seeds: int, each: int, runs: Callable[[str, int], list[tuple[bool, list[str], list[str]]]]) -> None:
    settings = {
        "failures": {kind: plant.__doc__ for kind, plant in FAILURES.items()},
        "healthy": "each family with its own defaults in a smaller network, see HEALTHY",
    }
    settings["seeds of each healthy family"] = each
    result = Result("alarms", settings=settings, seeds=range(seeds))
    path = result.folder / "alarms.json"
    before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if before.get("seeds") == result.seeds and not any("all families" in f["name"] for f in before["figures"]):
        result.figures = [f for f in before["figures"] if not f["name"].startswith("healthy")]
    done = {f["name"].partition(":")[0] for f in result.figures}
    for kind in FAILURES:
        if kind in done:
            continue
        started, happened, heard = time.perf_counter(), 0, 0
        for did, standing, _ in runs(kind, seeds):
            happened += did
            heard += did and kind in standing
        print(f"{kind}: {(time.perf_counter() - started) / seeds:.2f} s a run", flush=True)
        result.add(f"{kind}: happened in", happened, unit=f"of {seeds} runs", kind="measured")
        if happened:
            p = heard / happened
            result.add(
                f"{kind}: detected", p, stderr=math.sqrt(p * (1 - p) / happened), unit="share of those", kind="measured", target=">= 0.95"
            )
        result.write()
    total, false, spoken = 0, 0, 0
    for name in HEALTHY:
        started, alarms, said = time.perf_counter(), [], 0
        for _, standing, on_the_way in runs(name, each):
            alarms += [", ".join(standing)] if standing else []
            said += bool(on_the_way)
        print(f"{name}: {(time.perf_counter() - started) / each:.2f} s a run {alarms}", flush=True)
        p = len(alarms) / each
        error = math.sqrt(p * (1 - p) / each)
        what = f"healthy {name}: false alarms" + (f" ({'; '.join(sorted(set(alarms)))})" if alarms else "")
        result.add(what, p, stderr=error, unit="share of runs", kind="measured", target="<= 0.05")
        total, false, spoken = total + each, false + len(alarms), spoken + said
        result.write()
    p = false / total
    error = math.sqrt(p * (1 - p) / total)
    result.add("healthy, all families: false alarms", p, stderr=error, unit=f"share of {total} runs", kind="measured", target="<= 0.05")
    result.add("healthy, all families: an alarm was heard on the way", spoken / total, unit=f"share of {total} runs", kind="measured")
    result.write()


if __name__ == "__main__":
    torch.set_num_threads(1)
    given = [int(a) for a in sys.argv[1:]]
    main(*(given + [40, 1, 40][len(given) :]))
