"""What the lectures show of autoencoders, each in a minute or so.

evolution    one sigmoid layer, then deep ReLU layers, then convolutions: the same code, a smaller error on held-out images.
depth        deeper is better only if it can be trained: sigmoid and ReLU networks of 1, 2 and 4 hidden layers, from two ways to begin.
swiss roll   three dimensions through a code of two: the surface that the decoder draws, beside the plane of PCA.
gaps         near records need not have near codes, and between clusters a plain autoencoder decodes what a VAE would not.
shift        one pixel to the left: what squared error, structural similarity and a network's features make of it (Wang et al. 2004).
scatter      codes in two dimensions by class, autoencoder beside VAE, with their silhouettes.

    python experiments/autoencoders.py --out FOLDER
    python experiments/autoencoders.py --only "swiss roll" --out FOLDER
    python experiments/autoencoders.py --size 20 --out FOLDER       # in full
"""

from typing import Any

import numpy as np
import torch
from _rows import Row, run, sizes, strips, unit
from sklearn.decomposition import PCA

import pushforward as pf
from pushforward.explore import Lens, gaps, lipschitz, pixel_shift, scatter
from pushforward.metrics import standard_error
from pushforward.metrics.copying import nearest
from pushforward.models.latent.autoencoder import Autoencoder

QUIET: dict[str, Any] = {"progress": False, "alarms": False}
LAYERS = (1, 2, 4)


def evolution(row: Row) -> None:
    data = row.images(20_000)
    kinds: dict[str, dict[str, Any]] = {
        "one sigmoid layer": {"hidden": (400,), "network": "mlp", "activation": "sigmoid"},
        "deep ReLU layers": {"hidden": (500, 300, 200), "network": "mlp"},
        "ReLU convolutions": {"network": "conv"},
    }
    shown = {"data": unit(data.test.tensor()[:12], data)}
    found: dict[str, float] = {}
    row.settings |= {"steps": row.steps(2500), "codes": 20}
    for name, kind in kinds.items():
        model = Autoencoder(latent_dim=20, loss="squared", **kind)
        model.fit(data, steps=row.steps(2500), schedule="cosine", seed=row.seed, **QUIET)
        error = model.squared_error(data.test)
        found[name] = float(error.mean())
        row.add(f"{name}, squared error of a held-out image", found[name], stderr=standard_error(error), kind="measured")
        row.add(f"{name}, weights", sum(p.numel() for p in model.parameters()), kind="exact")
        again = data.schema.encode(model.reconstruct(data.test[:12].records()))
        shown[f"{name}: {found[name]:.1f}"] = unit(again, data)
    gain = found["one sigmoid layer"] - found["ReLU convolutions"]
    row.add("one sigmoid layer less ReLU convolutions", gain, kind="measured", target="> 0")
    row.save(strips(shown))


def depth(row: Row) -> None:
    from matplotlib.figure import Figure

    data, widths, codes = row.images(20_000), (512, 256, 128, 64), 30
    train, test = (unit(part.tensor(), data).flatten(1).numpy() for part in (data.train, data.test))
    codes = min(codes, train.shape[1] // 4)
    pca = PCA(codes).fit(train)
    known = float(np.square(pca.inverse_transform(pca.transform(test)) - test).sum(1).mean())
    row.add(f"PCA of {codes} components, squared error of a held-out image", known, kind="exact")
    row.settings |= {"steps": row.steps(2000), "widths": sizes(widths), "codes": codes}
    found: dict[str, list[float]] = {}
    for activation, start in (("relu", None), ("relu", 0.02), ("sigmoid", None), ("sigmoid", 0.02)):
        how = f"{activation}, " + ("weights scaled to the layer" if start is None else f"weights of sd {start:g}")
        found[how] = []
        for layers in LAYERS:
            model = Autoencoder(latent_dim=codes, hidden=widths[:layers], network="mlp", activation=activation, loss="squared")
            begin(model, data, start, row.seed)
            training = pf.Training(steps=row.steps(2000), schedule="cosine", seed=row.seed, **QUIET)
            model.carry_on(data, training, None)
            found[how].append(float(model.squared_error(data.test).mean()))
            row.add(f"{how}, {layers} hidden layers each way", found[how][-1], kind="measured")
    harder = found["sigmoid, weights scaled to the layer"]
    row.add("sigmoid layers: error of 4 less that of 1, harder to train", harder[-1] - harder[0], kind="measured", target="> 0")
    best = min(min(v) for v in found.values())
    row.add("PCA less the best network", known - best, kind="measured", target="> 0")
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axis = figure.subplots()
    for how, errors in found.items():
        line = "--" if "sd" in how else "-"
        axis.plot(LAYERS, errors, line, marker="o", color="C0" if "relu" in how else "C1", label=how)
    axis.axhline(known, color="0.4", lw=1, label=f"PCA, {codes} components")
    axis.set(xlabel="hidden layers each way", ylabel="squared error of a held-out image", xticks=LAYERS, ylim=(0, None))
    axis.legend(frameon=False, fontsize=8)
    row.save(figure)


def begin(model: Autoencoder, data: pf.Data, sd: float | None, seed: int) -> None:
    """Build the model for these data; with `sd`, weights anew from N(0, sd^2) and biases 0."""
    model._adopt(data.schema, False)
    assert model.spec is not None
    model.build(model.spec, seed=seed)
    if sd is None:
        return
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(sd * torch.randn(p.shape, generator=generator) if p.ndim > 1 else torch.zeros_like(p))


def swiss_roll(row: Row) -> None:
    """x = (t cos t, h, t sin t) / 5 + noise, t in [1.5 pi, 4.5 pi] and h in [0, 4 pi]."""
    from matplotlib.figure import Figure
    from sklearn.neighbors import KNeighborsRegressor

    n, generator = 6000, np.random.default_rng(row.seed)
    t, h = np.pi * generator.uniform(1.5, 4.5, n), generator.uniform(0, 4 * np.pi, n)
    x = np.stack([t * np.cos(t), h, t * np.sin(t)], 1) / 5 + 0.02 * generator.standard_normal((n, 3))
    data = pf.load_data(x, seed=row.seed)
    row.settings |= {"steps": row.steps(6000), "records": n}
    model = Autoencoder(latent_dim=2, hidden=(128, 128, 128), activation="silu", code_penalty=1e-4)
    model.fit(data, steps=row.steps(6000), lr=3e-3, schedule="cosine", seed=row.seed, **QUIET)
    test, train = np.asarray(data.test.records()), np.asarray(data.train.records())
    back = np.asarray(model.reconstruct(test))
    pca = PCA(2).fit(train)
    flat = pca.inverse_transform(pca.transform(test))
    errors = {name: np.square(y - test).sum(1) for name, y in (("autoencoder", back), ("PCA", flat))}
    for name, error in errors.items():
        row.add(f"squared error of a held-out point, {name}", float(error.mean()), stderr=float(error.std() / len(error) ** 0.5))
    ratio = float(errors["autoencoder"].mean() / errors["PCA"].mean())
    row.add("error of the autoencoder over PCA's", ratio, kind="measured", target="<= 0.05")
    order = data.order.numpy()
    place = np.stack([t, h], 1)[order]
    seen, held = place[: len(train)], place[-len(test) :]
    for name, a, b in (
        ("autoencoder", model.encode(train).numpy(), model.encode(test).numpy()),
        ("PCA", pca.transform(train), pca.transform(test)),
    ):
        score = KNeighborsRegressor(5).fit(a, seen).score(b, held)
        row.add(f"place on the roll read from the 5 nearest codes, {name}", float(score), unit="R^2", kind="measured")
    z = model.encode(train).double()
    low, high = torch.quantile(z, 0.005, dim=0), torch.quantile(z, 0.995, dim=0)
    u, v = (torch.linspace(float(low[i]), float(high[i]), 60, dtype=torch.float64) for i in (0, 1))
    at = torch.cartesian_prod(u, v)
    # The square of codes reaches past the records: what is far from any code is left out.
    spacing = float((high - low).prod() / len(z)) ** 0.5
    far = nearest(at, z)[0][:, 0] > 4 * spacing
    surface = np.asarray(model.decode(at)).astype(float)
    surface[far.numpy()] = np.nan
    planes = {"the surface that the decoder draws": surface.reshape(60, 60, 3), "the plane of PCA": plane(pca, train)}
    figure = Figure(figsize=(11, 5), layout="constrained")
    for i, (title, s) in enumerate(planes.items()):
        axis: Any = figure.add_subplot(1, 3, i + 1, projection="3d")
        axis.scatter(*test.T, s=3, c=held[:, 0], cmap="viridis", depthshade=False)
        axis.plot_wireframe(*np.moveaxis(s, 2, 0), rcount=30, ccount=30, color="0.35", lw=0.4)
        axis.set_title(title, fontsize=10)
        axis.view_init(elev=12, azim=-78)
        axis.set_box_aspect(None, zoom=1.35)
        axis.set(xticks=[], yticks=[], zticks=[])
    axis = figure.add_subplot(1, 3, 3)
    axis.scatter(*model.encode(test).T, s=5, c=held[:, 0], cmap="viridis")
    axis.set_title("codes, coloured by the angle along the roll", fontsize=10)
    axis.set(xlabel="code 1", ylabel="code 2")
    row.save(figure)


def plane(pca: PCA, x: np.ndarray) -> np.ndarray:
    z = pca.transform(x)
    u, v = (np.linspace(z[:, i].min(), z[:, i].max(), 20) for i in (0, 1))
    return pca.inverse_transform(np.stack(np.meshgrid(u, v, indexing="ij"), -1).reshape(-1, 2)).reshape(20, 20, 3)


_pairs: dict[Any, tuple[pf.Data, dict[str, pf.Model]]] = {}


def pair(row: Row) -> tuple[pf.Data, dict[str, pf.Model]]:
    """Binary images, and an autoencoder and a VAE of two codes with the same networks, trained alike; made once."""
    data, steps = row.images(20_000, binarize="threshold"), row.steps(2000)
    row.settings |= {"steps": steps, "codes": 2}
    key = row.data, steps, row.seed
    if key not in _pairs:
        shared: dict[str, Any] = {"latent_dim": 2, "hidden": (400, 200), "network": "mlp"}
        models = {"autoencoder": Autoencoder(**shared, loss="cross-entropy"), "VAE": pf.VAE(**shared, likelihood="bernoulli")}
        for model in models.values():
            model.fit(data, steps=steps, schedule="cosine", seed=row.seed, **QUIET)
        _pairs[key] = data, models
    return _pairs[key]


def between(row: Row) -> None:
    data, models = pair(row)
    shown: dict[str, Any] = {}
    steep = {}
    for name, model in models.items():
        lens = Lens(model, data, n=2000, seed=row.seed)
        found, slope = gaps(lens), lipschitz(lens)
        z, x = lens.z_held.double(), unit(lens.held.tensor(), data).flatten(1)
        at = nearest(x, x, 2)[1][:, 1]  # the nearest other image; the first is the image itself
        spread = float(z.var(0).sum()) ** 0.5
        apart = (z - z[at]).norm(dim=1) / spread
        steep[name] = slope.relative
        row.add(
            f"{name}: distance of the codes of an image and of that nearest to it, median, over the codes' spread", float(apart.median())
        )
        row.add(f"{name}: the same, 95th percentile", float(apart.quantile(0.95)))
        row.add(f"{name}: steepest slope of the decoder where records and codes have spread 1, median", slope.relative, kind="measured")
        row.add(
            f"{name}: emptiest place between two classes, from the nearest code, over that of held-out codes", float(found.emptiness[0])
        )
        row.add(f"{name}: decoded there, from the nearest training image, over that of held-out images", found.ratio, kind="measured")
        ticks = ", ".join(f"{i}-{j}" for i, j in found.between)
        shown[f"{name}, decoded half-way between the classes {ticks}"] = grey(model, found.codes)
        shown[f"{name}, nearest training images"] = unit(found.nearest.x, data)
    row.add("slope of the autoencoder over the VAE's", steep["autoencoder"] / steep["VAE"], kind="measured", target="> 1")
    row.save(strips(shown, 9))


def grey(model: pf.Model, z: torch.Tensor) -> torch.Tensor:
    """Decoded binary images as the probabilities of white."""
    with torch.no_grad():
        mean = model.outputs(z.float(), None) if isinstance(model, Autoencoder) else model.likelihood(z.float()).mean
    return mean.detach()


def one_pixel(row: Row) -> None:
    data = row.images(20_000)
    row.settings |= {"steps": row.steps(1000), "codes": 20}
    model = Autoencoder(latent_dim=20, hidden=(400, 200), network="mlp", loss="squared")
    model.fit(data, steps=row.steps(1000), schedule="cosine", seed=row.seed, **QUIET)
    found = pixel_shift(Lens(model, data, seed=row.seed))
    row.settings["features"] = found.space
    assert found.reconstruction is not None
    for what, close in (
        ("one pixel to the left", found.shift),
        ("its reconstruction", found.reconstruction),
        ("another image", found.other),
    ):
        row.add(f"an image beside {what}, mean squared error", close.mse, unit="per pixel, 0 to 1", kind="measured")
        row.add(f"an image beside {what}, structural similarity", close.ssim, kind="measured")
    shares = {k: found.share(k) for k in ("mse", "ssim", "features")}
    for k, share in shares.items():
        row.add(f"the shift's share of the way to another image, by {k}", share, kind="measured")
    row.add("that share by squared error less by features", shares["mse"] - shares["features"], kind="measured", target="> 0")
    assert found.again is not None
    parts = {"images": found.x, "one pixel to the left": found.moved, "reconstructed": found.again}
    row.save(strips({k: unit(v, data) for k, v in parts.items()}))


def two_scatters(row: Row) -> None:
    from matplotlib.figure import Figure

    data, models = pair(row)
    figure = Figure(figsize=(11, 5.2), layout="constrained")
    for axis, (name, model) in zip(figure.subplots(1, 2), models.items()):
        c = scatter(Lens(model, data, n=2000, seed=row.seed))
        assert c.silhouette is not None
        assert c.accuracy is not None
        assert c.labels is not None
        row.add(f"{name}: silhouette of held-out codes by class", c.silhouette, kind="measured")
        row.add(f"{name}: the 5 nearest codes name the class", c.accuracy.value, stderr=c.accuracy.stderr, unit="share", kind="measured")
        z = c.points.numpy()
        row.add(f"{name}: standard deviation of the codes, the wider dimension", float(z.std(0).max()), kind="measured")
        dots = axis.scatter(*z.T, c=c.labels, s=6, cmap="tab10", vmin=-0.5, vmax=9.5, linewidths=0)
        axis.set_title(f"{name}: silhouette {c.silhouette:.2f}, {c.accuracy.value:.0%} by 5 neighbours", fontsize=10, loc="left")
    figure.colorbar(dots, ticks=range(10), label="class")
    row.save(figure)


if __name__ == "__main__":
    rows = {
        "evolution": evolution,
        "depth": depth,
        "swiss roll": swiss_roll,
        "gaps": between,
        "shift": one_pixel,
        "scatter": two_scatters,
    }
    run("autoencoders", __doc__, rows)
