"""Do the codes of a VAE stand for the factors that made the data? Sprites whose factors are known, several betas, several seeds.

That the prior N(0, I) has independent dimensions is often read as codes of independent, interpretable factors. It is a statement about the
prior: the codes of records, all together, need not be independent, and N(0, I) is the same after any rotation, so that no likelihood can
prefer one set of axes (Locatello et al. 2019, theorem 1). They trained more than 12,000 models on seven data sets and found no way to
tell well-disentangled ones without labels. Here, with labels: the mutual information gap (Chen et al. 2018, eq. 6) and the DCI scores
(Eastwood & Williams 2018, importances of random forests) for each beta, the spread over seeds beside the spread over betas, and the
scores of the same codes after a rotation that no likelihood sees.

The sprites: square, disc or cross; 3 sizes; 8 x 8 places, on 16 x 16 pixels.

    python experiments/disentanglement.py --out FOLDER
    python experiments/disentanglement.py --steps 20000 --seeds 10 --out FOLDER       # in full
"""

import argparse
import itertools
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _result import ROOT, Result

import pushforward as pf
from pushforward.explore import Lens, traverse

FACTORS = {"shape": 3, "size": 3, "across": 8, "down": 8}
SIDE, BINS = 16, 20


def sprites() -> tuple[np.ndarray, np.ndarray]:
    """Every combination once: images (n, 16, 16) of 0 and 1, and factors (n, 4)."""
    u = np.arange(SIDE) + 0.5
    y, x = np.meshgrid(u, u, indexing="ij")
    images, factors = [], []
    for shape, size, i, j in itertools.product(*(range(k) for k in FACTORS.values())):
        r = 2.0 + 0.75 * size
        dx, dy = np.abs(x - 4 - 8 * i / 7), np.abs(y - 4 - 8 * j / 7)
        if shape == 0:
            inside = np.maximum(dx, dy) < 0.886 * r  # of the disc's area
        elif shape == 1:
            inside = dx**2 + dy**2 < r**2
        else:
            inside = (np.maximum(dx, dy) < 1.2 * r) & (np.minimum(dx, dy) < 0.4 * r)
        images.append(inside)
        factors.append((shape, size, i, j))
    return np.array(images).astype(np.uint8), np.array(factors)


# -- scores -------------------------------------------------------------------------------------------------------------


def mutual_information(z: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """I(z_j; v_k) in nats (d, K), codes cut into 20 bins of equal width as Locatello et al. do, and H(v_k) (K,)."""
    from sklearn.metrics import mutual_info_score

    cut = np.stack([np.digitize(c, np.histogram_bin_edges(c, BINS)[:-1]) for c in z.T])
    mutual = np.array([[mutual_info_score(c, f) for f in v.T] for c in cut])
    return mutual, np.array([mutual_info_score(f, f) for f in v.T])


def mig(z: np.ndarray, v: np.ndarray) -> float:
    """The mean over factors of (the most informative code's share of H(v_k) less the second's)."""
    mutual, entropy = mutual_information(z, v)
    top = np.sort(mutual, 0)[::-1]
    return float(((top[0] - top[1]) / entropy).mean())


def dci(z: np.ndarray, v: np.ndarray, seed: int) -> tuple[float, float, float]:
    """Disentanglement, completeness, informativeness (held-out accuracy), from importances R (d, K) of forests that read the factors.

    D = sum_j rho_j (1 - H_K(R_j / sum)), with the rows' shares rho of all importance; C is the mean over factors of 1 - H_d of the columns.
    """
    from sklearn.ensemble import RandomForestClassifier

    order = np.random.default_rng(seed).permutation(len(z))
    learn, judge = order[: 3 * len(z) // 4], order[3 * len(z) // 4 :]
    columns, right = [], []
    for f in v.T:
        forest = RandomForestClassifier(40, max_depth=8, max_features=None, random_state=seed).fit(z[learn], f[learn])
        columns.append(forest.feature_importances_)
        right.append(forest.score(z[judge], f[judge]))
    R = np.stack(columns, 1)
    rows = R.sum(1)
    D = float((rows / rows.sum()) @ (1 - _entropy(R / np.maximum(rows, 1e-12)[:, None], 1)))
    return D, float((1 - _entropy(R / R.sum(0), 0)).mean()), float(np.mean(right))


def _entropy(p: np.ndarray, axis: int) -> np.ndarray:
    """To the base of the number of entries, so that the uniform distribution has 1."""
    return -(p * np.log(np.maximum(p, 1e-300))).sum(axis) / np.log(p.shape[axis])


def check() -> None:
    """Both scores are 1 for codes that are the factors, and 0 or nearly for a code that they all share."""
    _, v = sprites()
    assert abs(mig(v.astype(float), v) - 1) < 1e-9
    assert dci(v.astype(float), v, 0)[0] > 0.99
    whole = np.repeat((v @ [192, 64, 8, 1]).astype(float)[:, None], 2, 1)
    assert abs(mig(whole, v)) < 1e-9


def rotation(d: int, seed: int) -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((d, d)))[0]


def picture(found: dict[float, list[dict[str, float]]], model: pf.VAE, data: pf.Data, path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4), layout="constrained")
    *axes, last = figure.subplots(1, 3, width_ratios=[1, 1, 1.1])
    for axis, score in zip(axes, ("MIG", "DCI disentanglement")):
        for i, runs in enumerate(found.values()):
            y = [run[score] for run in runs]
            axis.plot([i] * len(y), y, "o", color="C0", alpha=0.7, label="each a seed" if i == 0 else None)
            axis.plot([i + 0.2] * len(y), [run[f"{score}, rotated"] for run in runs], "x", color="C1", label="rotated" if i == 0 else None)
        axis.set(title=score, xlabel="beta", xticks=range(len(found)), xticklabels=[f"{b:g}" for b in found], ylim=(0, 1))
    axes[0].legend(frameon=False)
    moved = traverse(Lens(model, data), 0, steps=9, most=6)
    x = moved.decoded.x.double().view(-1, 9, SIDE, SIDE)
    x = torch.nn.functional.pad(x, (1, 1, 1, 1), value=0.3)
    last.imshow(x.permute(0, 2, 1, 3).reshape(x.shape[0] * x.shape[2], -1), cmap="gray_r", vmin=0, vmax=1)
    last.set(title=f"one code at a time, beta {model.beta:g}, its last seed", xticks=[], yticks=[])
    figure.savefig(path, dpi=120)
    print(path)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--betas", type=float, nargs="+", default=[1.0, 4.0, 8.0])
    parser.add_argument("--codes", type=int, default=6)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("runs/disentanglement"))
    parser.add_argument("--results", type=Path, default=ROOT / "results")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    given.out.mkdir(parents=True, exist_ok=True)
    check()
    images, factors = sprites()
    data = pf.load_data(images, validation=0.05, test=0.05)
    assert data.order is not None
    v = factors[data.order.numpy()]
    config: dict[str, Any] = {"latent_dim": given.codes, "hidden": (256, 128), "network": "mlp"}
    training: dict[str, Any] = {"steps": given.steps, "batch_size": 64, "lr": 2e-3, "schedule": "cosine"}
    settings = {**{k: v for k, v in vars(given).items() if k not in ("out", "results")}, "reduced": given.steps < 20_000, **config}
    with Result("disentanglement", settings={**settings, "records": len(images)}, seeds=range(given.seeds), folder=given.results) as result:
        found: dict[float, list[dict[str, float]]] = {}
        start = time.perf_counter()
        for beta, seed in itertools.product(given.betas, range(given.seeds)):
            model = pf.VAE(**config, beta=beta).fit(data, seed=seed, **training, progress=False, alarms=False)
            z = np.concatenate([model.encode(part).double().numpy() for part in (data.train, data.validation, data.test)])
            turned = z @ rotation(given.codes, seed)
            scores = {"MIG": mig(z, v), "MIG, rotated": mig(turned, v)}
            for name, codes in (("", z), (", rotated", turned)):
                D, C, right = dci(codes, v, seed)
                scores |= {f"DCI disentanglement{name}": D, f"DCI completeness{name}": C, f"factors read by a forest{name}": right}
            active = z[:, z.var(0) > 0.01]
            scores["active codes"] = active.shape[1]
            pairs = np.corrcoef(active.T) if active.shape[1] > 1 else np.eye(2)
            scores["largest correlation of two codes"] = float(np.abs(pairs - np.diag(np.diag(pairs))).max())
            scores["bound"] = float(model.log_prob(data.test, samples=50, seed=0).mean())
            found.setdefault(beta, []).append(scores)
            print(f"beta {beta:g}, seed {seed}: MIG {scores['MIG']:.3f}, {time.perf_counter() - start:.0f} s", flush=True)
        for beta, runs in found.items():
            for name in runs[0]:
                values = np.array([run[name] for run in runs])
                sd = float(values.std(ddof=1)) if len(values) > 1 else None
                unit = "nats" if name == "bound" else ""
                result.add(f"beta {beta:g}: {name} (error: the seeds' sd)", float(values.mean()), stderr=sd, unit=unit, kind="measured")
        for score in ("MIG", "DCI disentanglement"):
            table = np.array([[run[score] for run in runs] for runs in found.values()])
            within, across = float(table.var(1, ddof=1).mean() ** 0.5), float(table.mean(1).std(ddof=1))
            result.add(f"{score}: sd over seeds, mean of all betas", within, kind="measured")
            result.add(f"{score}: sd over betas of the mean", across, kind="measured")
            turned = np.array([[run[f"{score}, rotated"] for run in runs] for runs in found.values()])
            result.add(f"{score}: lost by a rotation that no likelihood sees", float((table - turned).mean()), kind="measured")
        picture(found, model, data, given.out / "disentanglement.png")
