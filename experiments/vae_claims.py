"""Claims of the lectures about variational autoencoders, each tried where the answer can be seen.

evidence          plain Monte Carlo, the ELBO and the importance-weighted bound beside a log p(x) that is known.
draws             one draw of z in training is enough: the held-out bound by L, at a fixed number of passes through the decoder.
variance          a Gaussian decoder that learns its variance: standardised residuals of held-out records, and what the floor is for.
unit variance     with variance 1 the reconstruction term is half the squared error and a constant, (D / 2) log 2 pi.
without encoder   sampling needs no encoder; inference does.
sixteen           a VAE of 16 codes on images: samples, and which classes are among them.

    python experiments/vae_claims.py --out FOLDER
    python experiments/vae_claims.py --only draws variance --out FOLDER
    python experiments/vae_claims.py --size 20 --out FOLDER       # in full
"""

import dataclasses
import math
from typing import Any

import numpy as np
import torch
from _rows import Row, run, sheet, unit

import pushforward as pf
from pushforward.likelihoods import Gaussian
from pushforward.metrics import class_statistics, standard_error
from pushforward.model import Batch
from pushforward.models.latent.linear import linear_gaussian, set_encoder
from pushforward.rng import Rng
from pushforward.spaces import spaces

QUIET: dict[str, Any] = {"progress": False, "alarms": False}


def evidence(row: Row) -> None:
    """x = W z + b + s e, 20 numbers from 8 codes; q a little off the posterior."""
    from matplotlib.figure import Figure

    model, posterior = linear_gaussian(20, 8)
    rng = Rng.seeded(row.seed, torch.zeros((), dtype=torch.float64))
    x = 2 * rng.randn(1, 20)
    known, mean, covariance = posterior(x)
    set_encoder(model, mean + 0.2, torch.diag(1.5 * covariance.diagonal()))
    ks, repeats = (1, 10, 100, 1000), 200
    row.settings |= {"repeats": repeats, "dimensions": 20, "codes": 8}
    found: dict[str, list[tuple[float, float]]] = {"draws of the prior": [], "importance-weighted bound": []}
    for k in ks:
        z = rng.randn(repeats * k, 8)
        log_x = model.p_x.log_prob(model.p_x(z), x.expand(repeats * k, -1)).view(repeats, k)
        plain = (log_x.logsumexp(1) - math.log(k)).detach()
        bound = model._log_prob(x.expand(repeats, -1), None, rng, samples=k).detach()
        for name, values in zip(found, (plain, bound)):
            short = known[0] - values
            found[name].append((float(short.mean()), float(values.std())))
            row.add(f"log p(x) less the mean of {name}, K = {k}", float(short.mean()), stderr=standard_error(short), unit="nats")
    last = {name: v[-1][0] for name, v in found.items()}
    row.add("K = 1000: draws of the prior fall shorter by", last["draws of the prior"] - last["importance-weighted bound"], target="> 0")
    figure = Figure(figsize=(6.5, 4), layout="constrained")
    axis = figure.subplots()
    for name, values in found.items():
        m, sd = np.array(values).T
        axis.errorbar(ks, -m, yerr=sd, marker="o", capsize=3, label=name)
    axis.axhline(0, color="0.4", lw=1)
    axis.annotate("log p(x), known", (22, 0), textcoords="offset points", xytext=(0, 4), fontsize=8, color="0.3")
    axis.annotate("the ELBO", (1, -found["importance-weighted bound"][0][0]), textcoords="offset points", xytext=(10, -12), fontsize=8)
    axis.set(xscale="log", yscale="symlog", xlabel="K, draws of z", ylabel="estimate less log p(x), nats (bars: sd of one)")
    axis.legend(frameon=False, loc="lower right")
    row.save(figure)


def draws(row: Row) -> None:
    """L draws of z for each of 128 / L records, the same work in every step; then the same records, and L times the work."""
    from matplotlib.figure import Figure

    data = pf.load_data("digits", binarize="threshold")
    steps, seeds, ls = row.steps(800), (0, 1, 2), (1, 2, 4, 8, 16)
    row.settings |= {"data": "digits, binarised", "steps": steps, "seeds": list(seeds), "decoded codes in a step": 128}
    found: dict[str, dict[int, list[float]]] = {"128 / L records": {}, "16 records": {}}
    for how, at in found.items():
        for L in ls if how == "128 / L records" else (1, 8):
            records = 128 // L if how == "128 / L records" else 16
            at[L] = [bound_after(data, records, L, steps, row.seed + seed) for seed in seeds]
            mean, sd = float(np.mean(at[L])), float(np.std(at[L], ddof=1))
            row.add(f"held-out bound, {how} of L = {L} draws", mean, stderr=sd / len(seeds) ** 0.5, unit="nats", kind="bound")
    same = found["128 / L records"]
    one = float(np.mean(same[1]))
    best = max(float(np.mean(v)) for k, v in same.items() if k > 1)
    row.add("fixed work: best L above 1, less L = 1", best - one, unit="nats", kind="measured", target="<= 0.1")
    extra = float(np.mean(found["16 records"][8]) - np.mean(found["16 records"][1]))
    row.add("16 records a step: gain of 8 draws, for 8 times the work", extra, unit="nats", kind="measured")
    figure = Figure(figsize=(6.5, 4), layout="constrained")
    axis = figure.subplots()
    for how, at in found.items():
        m, s = [np.mean(v) for v in at.values()], [np.std(v, ddof=1) for v in at.values()]
        label = how + (" in a step: the same work" if "128" in how else " in a step: L times the work")
        axis.errorbar(list(at), m, yerr=s, marker="o", capsize=3, label=label)
    axis.set(
        xscale="log", xticks=ls, xticklabels=ls, xlabel="L, draws of z for each record", ylabel="held-out bound, nats (bars: sd over seeds)"
    )
    axis.minorticks_off()
    axis.legend(frameon=False, fontsize=8)
    row.save(figure)


def bound_after(data: pf.Data, records: int, L: int, steps: int, seed: int) -> float:
    """The mean held-out bound of 100 draws after training with L draws for each of `records` records a step."""
    model = pf.VAE(latent_dim=8, hidden=(128,))
    model._adopt(data.schema, False)
    model.build(data.spec, seed=seed)
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    rng = Rng.seeded(seed + 1000)
    x = data.train.tensor()
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 1e-3 * (1 + math.cos(math.pi * step / steps))
        at = rng.randint(len(x), records).repeat_interleave(L)
        optimizer.zero_grad()
        model._elbo_loss(Batch(x[at], None, at, rng)).per_record.mean().backward()
        optimizer.step()
    return float(model.log_prob(data.test, samples=100, seed=0).mean())


def variance(row: Row) -> None:
    """A curve in six dimensions whose noise grows 15-fold along it; then six columns of which half the records are one and the same."""
    from matplotlib.figure import Figure

    n, generator = 30_000, np.random.default_rng(row.seed)
    t = generator.uniform(0, 1, n)
    curve = np.stack([f(2 * np.pi * k * t) for k in (0.5, 1.0) for f in (np.sin, np.cos)] + [t, t**2], 1)
    sd = 0.02 * 15**t
    x = curve + sd[:, None] * generator.standard_normal((n, 6))
    data = pf.load_data(x, seed=row.seed)
    steps, duplicated = row.steps(16_000), row.steps(5000)
    row.settings |= {"steps": steps, "steps on duplicates": duplicated, "records": n}
    residuals: dict[str, np.ndarray] = {}
    scale = np.asarray(x).std(0)
    for kind in ("gaussian", "gaussian-shared", "gaussian-unit"):
        model = pf.VAE(latent_dim=1, hidden=(64, 64), activation="silu", likelihood=kind)
        model.fit(data, steps=steps, lr=3e-3, schedule="cosine", seed=row.seed, **QUIET)
        held = data.test.tensor()
        q: Any = model.posterior(data.test)
        noise = torch.randn(q.mean.shape, generator=torch.Generator().manual_seed(row.seed))
        mean, sigma = decoded(model, q.mean + q.stddev * noise)
        r = ((held - mean) / sigma).numpy()
        name = {"gaussian": "learned variance", "gaussian-shared": "one shared variance", "gaussian-unit": "variance 1"}[kind]
        residuals[name] = r
        target = {"gaussian": (0.9, 1.1)}.get(kind)
        holds = None if target is None else target[0] <= float(r.std()) <= target[1]
        row.add(f"{name}: sd of held-out (x - mean) / sd", float(r.std()), target=target and "0.9 to 1.1", holds=holds, kind="measured")
        place = data.order.numpy()[-len(held) :]
        for part, rows in (("first", t[place] < 1 / 3), ("last", t[place] > 2 / 3)):
            row.add(f"{name}: the same, {part} third of the curve", float(r[rows].std()), kind="measured")
        row.add(f"{name}: held-out bound", float(model.log_prob(data.test, seed=0).mean()), unit="nats", kind="bound")
        if kind == "gaussian":
            spread, true = (sigma.numpy() * scale).mean(1), sd[place]
            ratio = float(np.median(spread / true))
            row.add("learned sd over the true one, median", ratio, target="0.9 to 1.1", holds=0.9 <= ratio <= 1.1, kind="measured")
    half = np.where(generator.uniform(size=(4000, 1)) < 0.5, 0.0, generator.standard_normal((4000, 6)))
    traces = {}
    for floor in (0.01, 1e-30):
        traces[floor] = blow_up(pf.load_data(half, seed=row.seed), floor, duplicated, row.seed)
        name = f"half of the records equal, floor {floor:g}"
        row.add(f"{name}: most nats of a batch", max(traces[floor][0]), unit="nats", kind="measured")
        row.add(f"{name}: largest finite gradient", max(traces[floor][1]), kind="measured")
        row.add(f"{name}: steps with a finite gradient, of {duplicated}", len(traces[floor][1]), kind="measured")
    row.add("largest finite gradient without a floor, over that with it", max(traces[1e-30][1]) / max(traces[0.01][1]), target="> 10")
    figure = Figure(figsize=(13, 4), layout="constrained")
    a, b, c = figure.subplots(1, 3)
    for name, r in residuals.items():
        a.hist(r.ravel(), bins=np.linspace(-4, 4, 61), density=True, histtype="step", lw=1.5, label=name)
    u = np.linspace(-4, 4, 200)
    a.plot(u, np.exp(-u * u / 2) / math.sqrt(2 * math.pi), "k--", lw=1, label="N(0, 1)")
    a.set(title="held-out (x - mean) / sd", ylim=(0, 1.2))
    a.legend(frameon=False, fontsize=8)
    b.scatter(true, spread, s=5)
    b.plot([0.02, 0.3], [0.02, 0.3], "k--", lw=1)
    b.set(title="learned sd beside the true one", xlabel="true", ylabel="learned", xscale="log", yscale="log")
    b.set(xticks=[0.02, 0.05, 0.1, 0.3], xticklabels=["0.02", "0.05", "0.1", "0.3"])
    b.minorticks_off()
    for floor, (_, sizes) in traces.items():
        c.plot(sizes, lw=0.8, label=f"floor {floor:g}" if floor > 1e-9 else "no floor")
    c.set(title="half of the records equal: gradient's norm", xlabel="step", yscale="log")
    c.legend(frameon=False)
    row.save(figure)


def decoded(model: pf.VAE, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The mean and the standard deviation of a Gaussian p(x | z)."""
    family: Any = model.p_x.family
    with torch.no_grad():
        mean, log_sigma = family.parts(model.p_x(z))
    return mean, log_sigma.exp().expand_as(mean)


def blow_up(data: pf.Data, floor: float, steps: int, seed: int) -> tuple[list[float], list[float]]:
    """Mean nats of each batch and the norm of the gradient, training a VAE whose learned sd has this floor."""
    model = pf.VAE(latent_dim=2, hidden=(32,), likelihood="gaussian")
    model._adopt(data.schema, False)
    model.build(data.spec, seed=seed)
    replace_floor(model, floor)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(0.3)  # so that no record begins far out, where the first density is already 0
    optimizer, rng, x = torch.optim.Adam(model.parameters(), 3e-3), Rng.seeded(seed), data.train.tensor()
    nats, sizes = [], []
    for _ in range(steps):
        at = rng.randint(len(x), 128)
        optimizer.zero_grad()
        loss = model._elbo_loss(Batch(x[at], None, at, rng)).per_record.mean()
        loss.backward()
        sizes.append(float(torch.nn.utils.clip_grad_norm_(model.parameters(), math.inf)))
        nats.append(-loss.item())
        if not math.isfinite(sizes[-1]):
            break
        optimizer.step()
    return [v for v in nats if math.isfinite(v)], [s for s in sizes if math.isfinite(s)]


def replace_floor(model: pf.VAE, floor: float) -> None:
    """Give the decoder's Gaussians another floor."""
    p: Any = model.p_x
    assert isinstance(p.family, Gaussian)
    p.family = dataclasses.replace(p.family, floor=floor)


def unit_variance(row: Row) -> None:
    data = pf.load_data("moons")
    model = pf.VAE(latent_dim=2, hidden=(32,), likelihood="gaussian-unit").fit(data, steps=row.steps(200), seed=row.seed, **QUIET).double()
    x = data.test.tensor(torch.float64)
    with torch.no_grad():
        z = model.encode(data.test).double()
        nll = -model.p_x.log_prob(model.p_x(z, None), x)
        half = 0.5 * (x - model.likelihood(z).mean).square().flatten(1).sum(1)
    constant = 0.5 * data.spec.dim * math.log(2 * math.pi)
    row.settings |= {"data": "moons", "records": len(x)}
    off = float((nll - half - constant).abs().max())
    row.add("-log p(x | z) less half the squared error less (D / 2) log 2 pi, the farthest record", off, unit="nats", target="<= 1e-12")
    row.add("(D / 2) log 2 pi", constant, unit="nats", kind="exact")
    bound = model.log_prob(data.test, seed=0)
    row.add("held-out bound, constants and units included", float(bound.mean()), stderr=standard_error(bound), unit="nats", kind="bound")


def without_encoder(row: Row) -> None:
    data = pf.load_data("digits", binarize="threshold")
    model = pf.VAE(latent_dim=8, hidden=(128,)).fit(data, steps=row.steps(300), seed=row.seed, **QUIET)
    row.settings |= {"data": "digits, binarised"}
    before = np.asarray(model.sample(64, seed=1))
    row.add("weights of the encoder", sum(p.numel() for p in model.networks["encoder"].parameters()), kind="exact")
    row.add("weights of the decoder", sum(p.numel() for p in model.p_x.parameters()), kind="exact")
    del model.networks["encoder"]
    same = bool(np.array_equal(before, np.asarray(model.sample(64, seed=1))))
    row.add("64 samples are the same, bit for bit, once the encoder is gone", int(same), kind="exact", target=">= 1")
    try:
        model.encode(data.test)
        works = 1
    except KeyError:
        works = 0
    row.add("encode without it", works, kind="exact", target="<= 0")


def sixteen(row: Row) -> None:
    from matplotlib.figure import Figure

    data = row.images(20_000, binarize="threshold")
    model = pf.VAE(latent_dim=16, hidden=(400,), network="mlp", likelihood="bernoulli")
    model.fit(data, steps=row.steps(2500), schedule="cosine", seed=row.seed, **QUIET)
    z = torch.randn(1000, 16, generator=torch.Generator().manual_seed(row.seed))
    mean = torch.cat([model.likelihood(part).mean for part in z.split(250)])
    grey = pf.load_data(row.data)
    space = spaces(grey, which="learned")["learned"]
    top = (grey.spec.support.size or 2) - 1
    said = space.classify((mean * top).round())
    real = space.classify(grey.test.tensor()[:1000])
    found = class_statistics(real, said, len(space.classes))
    row.settings |= {"steps": row.steps(2500), "codes": 16, "samples": 1000, "features": space.name}
    row.add("classes among 1,000 samples (means of p(x | z))", found.captured, kind="measured", target=">= 10")
    row.add("KL of the samples' classes from the records'", found.kl.value, stderr=found.kl.stderr, unit="nats", kind="estimate")
    shares = torch.bincount(said, minlength=10).double() / len(said)
    row.add("rarest class, share of samples", float(shares.min()), unit="share", kind="measured")
    bound = model.log_prob(data.test, samples=100, seed=0)
    row.add("held-out bound, K = 100", float(bound.mean()), stderr=standard_error(bound), unit="nats", kind="bound")
    figure = Figure(figsize=(12, 5.6), layout="constrained")
    a, b, c = figure.subplots(1, 3, width_ratios=[1.25, 1.25, 1])
    sheet(a, mean[:100], 10, "p(x | z) at 100 draws of N(0, I), 16 codes")
    sheet(b, unit(data.test.tensor()[:100], data), 10, "held-out images, binarised")
    truth = torch.bincount(real, minlength=10).double() / len(real)
    at = np.arange(10)
    c.bar(at - 0.2, truth.numpy(), 0.4, label="held-out", color="0.7")
    c.bar(at + 0.2, shares.numpy(), 0.4, label="samples", color="C0")
    c.set(xticks=at, xlabel="class, by a classifier", ylabel="share")
    c.legend(frameon=False)
    row.save(figure)


if __name__ == "__main__":
    rows = {
        "evidence": evidence,
        "draws": draws,
        "variance": variance,
        "unit variance": unit_variance,
        "without encoder": without_encoder,
        "sixteen": sixteen,
    }
    run("vae_claims", __doc__, rows)
