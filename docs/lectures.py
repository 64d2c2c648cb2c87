"""The page of what lectures show of latent models: what, by which command, with which figures. Figures come from results/ alone."""

from dataclasses import dataclass

import tables


@dataclass(frozen=True)
class Shown:
    """A thing that is shown."""

    what: str
    command: str
    results: str = ""
    """The file under results/, without .json; none where the command's own page is the result."""
    figure: str = ""
    """The beginning of a figure's name in that file, for the figures to quote."""


MAP = "pushforward fit vae --data mnist --latent-dim 2 --minutes 2 --out runs/map && pushforward explore runs/map"
LADDER = "pushforward fit hvae --data binarized-mnist --minutes 4 --out runs/ladder && pushforward explore runs/ladder"
PLAIN = "pushforward fit autoencoder --data mnist --minutes 1 --out runs/plain && pushforward explore runs/plain"
PERCEPTRON = "pushforward fit vae --data mnist --network mlp --hidden 400 --latent-dim 20 --minutes 1 --out runs/perceptron"
BOUNDS = "python experiments/variational_bounds.py --epochs 10 --estimates 5000 --steps 200"
DEEP = "python experiments/hinton_salakhutdinov.py --minutes 0.5"


def of(script: str, row: str) -> str:
    return f'python experiments/{script}.py --only "{row}"' if " " in row else f"python experiments/{script}.py --only {row}"


SECTIONS: dict[str, tuple[Shown, ...]] = {
    "Autoencoders": (
        Shown("A record, its code and its reconstruction, without labels", PLAIN),
        Shown(
            "One sigmoid layer, then deep ReLU layers, then convolutions",
            of("autoencoders", "evolution"),
            "autoencoders",
            "evolution: one sigmoid layer less",
        ),
        Shown(
            "The linear autoencoder spans the principal subspace",
            "python experiments/linear_autoencoders.py --seeds 3 --steps 1500 --records 500",
            "linear_autoencoders",
            "digits (1797 records), 10 codes: largest principal angle",
        ),
        Shown(
            "Deep networks are harder to train: depth, activation, and where the weights begin",
            of("autoencoders", "depth"),
            "autoencoders",
            "depth: sigmoid layers: error of 4 less",
        ),
        Shown(
            "Three dimensions through a code of two: the surface that the decoder draws",
            of("autoencoders", "swiss roll"),
            "autoencoders",
            "swiss roll: error of the autoencoder over",
        ),
        Shown(
            "Images above their reconstructions, deep autoencoder and PCA, 30 codes, digits and clothes",
            DEEP,
            "hinton_salakhutdinov",
            "MNIST, 30 codes: PCA less deep",
        ),
        Shown("Two codes by class, deep autoencoder and PCA", f"{DEEP} --only two", "hinton_salakhutdinov", "MNIST, 2 codes: gain"),
        Shown(
            "Codes as features, and as the start of a supervised network",
            "python experiments/code_features.py",
            "code_features",
            "start: 100 labels, three hidden layers: the autoencoder's start",
        ),
        Shown(
            "A density fitted to the codes afterwards, to draw from",
            "python experiments/expost.py --minutes 0.5 --samples 1000",
            "expost",
            "autoencoder with 10 Gaussians below autoencoder, N(0, I)",
        ),
        Shown(
            "Near records need not have near codes; what lies between clusters, beside a VAE",
            of("autoencoders", "gaps"),
            "autoencoders",
            "gaps: slope of the autoencoder",
        ),
        Shown(
            "One pixel to the left, by squared error and by better measures",
            of("autoencoders", "shift"),
            "autoencoders",
            "shift: that share by squared error",
        ),
    ),
    "Variational autoencoders: what holds": (
        Shown(
            "The evidence by plain draws, by the ELBO and by importance weights, where it is known",
            of("vae_claims", "evidence"),
            "vae_claims",
            "evidence: log p(x) less the mean of importance-weighted bound, K = 1000",
        ),
        Shown(
            "log p = ELBO + KL; no q exceeds log p; the K-sample bound rises",
            BOUNDS,
            "variational_bounds",
            "random q whose ELBO",
        ),
        Shown(
            "Score-function and reparametrised gradients: one mean, two variances; no gradient without either",
            BOUNDS,
            "variational_bounds",
            "K = 1, score: variance",
        ),
        Shown("KL terms in closed form, and every other known answer", "pushforward verify vae"),
        Shown("One draw in training is enough", of("vae_claims", "draws"), "vae_claims", "draws: fixed work"),
        Shown(
            "Free parameters for each record, and an encoder: bound, size, time, gap from train to test",
            BOUNDS,
            "variational_bounds",
            "training records: fitted q less",
        ),
        Shown(
            "A decoder that learns its variance, and why it has a floor",
            of("vae_claims", "variance"),
            "vae_claims",
            "variance: learned variance: sd of held-out (x - mean) / sd",
        ),
        Shown(
            "Variance 1 is half the squared error and a constant, which `log_prob` keeps",
            of("vae_claims", "unit variance"),
            "vae_claims",
            "unit variance: -log p(x | z)",
        ),
        Shown(
            "A Bernoulli decoder on MNIST, in nats",
            "python experiments/mnist_vae.py --minutes 2 --records 300 --samples 500",
            "mnist_vae",
            "held-out NLL",
        ),
        Shown("Sampling needs no encoder", of("vae_claims", "without encoder"), "vae_claims", "without encoder: 64 samples"),
        Shown("The multilayer perceptron of the slides, from images to samples", PERCEPTRON),
        Shown(
            "Richer posteriors: full covariance, mixture, planar and autoregressive flows",
            BOUNDS,
            "variational_bounds",
            "1-d valleys, mixture",
        ),
        Shown(
            "Categorical codes, beside exact enumeration",
            "python experiments/categorical_latents.py --repeats 500",
            "categorical_latents",
            "",
        ),
        Shown(
            "Independent, interpretable factors? MIG and DCI by beta and by seed, and after a rotation",
            "python experiments/disentanglement.py",
            "disentanglement",
            "MIG: sd over",
        ),
        Shown(
            "Diversity, blur and bits, beside a PixelCNN and a GAN",
            "python experiments/vae_beside_others.py",
            "vae_beside_others",
            "means of the VAE",
        ),
        Shown("Posterior collapse: made, noticed, mended", "python experiments/collapse.py", "collapse", "beta = 20: active"),
    ),
    "Variational autoencoders: pictures": (
        Shown(
            "Samples of a VAE of 16 codes, and which digits are among them", of("vae_claims", "sixteen"), "vae_claims", "sixteen: classes"
        ),
        Shown(
            "The square of codes through the inverse normal distribution function; walks, straight and on the sphere; sums of codes; "
            "one dimension at a time; attributes added and removed; samples beside their nearest training images",
            MAP,
        ),
        Shown("Codes by class, autoencoder beside VAE", of("autoencoders", "scatter"), "autoencoders", "scatter: VAE: silhouette"),
        Shown(
            "Adversarial autoencoder beside VAE, under a Gaussian and a mixture of ten; images at percentiles",
            "python experiments/makhzani.py --steps 400 --records 1000 --hidden 400 400",
            "makhzani",
            "MMD of the VAE's codes to the prior less the AAE's, panels ac",
        ),
        Shown(
            "VQ-VAE: codebook, reconstructions, samples of the learned prior",
            "python experiments/vqvae.py --minutes 4 --channels 32 --records 500 --out runs/vqvae",
            "vqvae",
            "perplexity",
        ),
        Shown("A hierarchical VAE: its samples beside the nearest training images", LADDER, "mnist_hvae", "hvae: held-out NLL"),
        Shown(
            "One hundred labels: M2 and the semi-supervised adversarial autoencoder",
            "python experiments/semi_supervised.py --steps 300 --seeds 0 1 --hidden 400 400",
            "semi_supervised",
            "ssaae: error",
        ),
    ),
}

LEAD = """# The lectures' latent models

What courses on autoencoders and variational autoencoders draw and claim, each by one command of a clean checkout. The commands are the
reduced forms, of minutes on two cores; each script's `--help` says how to have the full one. Figures are from the files in `results/`,
whose settings say the size that they were run at ([all of them](results.md)); a script writes its file anew, and `git checkout results`
has the old one back. MNIST is downloaded when it is not at hand
([your own data](data.md)). Pictures go to `runs/`, or where `--out` says; `pushforward explore` writes [a page](exploring.md)."""


def page() -> str:
    """The page."""
    known = {r["experiment"]: r for r in tables.load()}
    parts = [LEAD]
    for title, rows in SECTIONS.items():
        lines = ["| what is shown | command | figure |", "| --- | --- | --- |"]
        lines += [f"| {r.what} | `{r.command}` | {_figures(r, known)} |" for r in rows]
        parts += [f"## {title}", "\n".join(lines)]
    return "\n\n".join(parts) + "\n"


def _figures(row: Shown, known: dict[str, dict]) -> str:
    """The figures that a row quotes, and the file that they are from."""
    if not row.results:
        return "its own page" if "explore" in row.command else "on the terminal and in the run folder"
    if row.results not in known:
        return f"`results/{row.results}.json`, not run yet"
    aimed = [f for f in known[row.results]["figures"] if f["name"].startswith(row.figure)] if row.figure else []
    if row.figure and not aimed:
        return f"`results/{row.results}.json`, not run yet"
    says = [f"{f['name']}: {tables.number(f['value'], f.get('stderr'))} {f.get('unit') or ''}".strip() for f in aimed[:2]]
    return "; ".join([*says, f"`results/{row.results}.json`"]).replace("|", "\\|")
