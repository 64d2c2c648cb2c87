"""Linear autoencoders beside PCA, and linear variational ones beside probabilistic PCA.

1. A linear autoencoder spans the principal subspace (Baldi & Hornik 1989): the largest principal angle, and the squared error per record.
2. A linear VAE with one shared variance has the maximum likelihood of probabilistic PCA, `sklearn.decomposition.PCA.score`, and no other
   optimum (Lucas et al. 2019): the exact log N(x; b, W W^T + s^2 I) of its weights, trained by stochastic gradients from many seeds.

    python experiments/linear_autoencoders.py
    python experiments/linear_autoencoders.py --seeds 3 --steps 1500 --records 500    # under a minute
"""

import argparse
import math

import numpy as np
import torch
from _result import Result
from scipy.linalg import subspace_angles
from sklearn.decomposition import PCA

import pushforward as pf
from pushforward.models.latent.autoencoder import Autoencoder, fit_full_batch


def principal(result: Result, name: str, x: torch.Tensor, codes: int, iterations: int) -> None:
    """Fit a linear autoencoder to the records x (n, D) by L-BFGS on all of them, and set it beside scikit-learn's PCA."""
    model = Autoencoder(latent_dim=codes, hidden=()).build(pf.DataSpec("points", (x.shape[1],))).double()
    fit_full_batch(model, x, iterations)
    pca = PCA(codes, svd_solver="full").fit(x.numpy())
    theirs = float(np.square(pca.inverse_transform(pca.transform(x.numpy())) - x.numpy()).sum(1).mean())
    ours = float(model.squared_error(x).mean())
    W = model._decode(torch.eye(codes, dtype=x.dtype), None) - model._decode(torch.zeros(1, codes, dtype=x.dtype), None)
    angle = float(subspace_angles(W.T.detach().numpy(), pca.components_.T).max())
    what = f"{name}, {codes} codes"
    result.add(f"{what}: largest principal angle to PCA", angle, unit="radians", kind="exact", target="<= 1e-3")
    result.add(f"{what}: squared error, PCA", theirs, kind="exact")
    result.add(f"{what}: squared error, linear autoencoder, above PCA's", ours - theirs, kind="exact", target="<= 1e-6")


def evidence(model: pf.VAE, x: torch.Tensor) -> float:
    """Mean log N(x; b, W W^T + s^2 I), from what the decoder says."""
    zero, unit = torch.zeros(1, model.latent_dim, dtype=x.dtype), torch.eye(model.latent_dim, dtype=x.dtype)
    b = model.likelihood(zero).mean
    W = (model.likelihood(unit).mean - b).T
    D = x.shape[1]
    log_s = -float(model.likelihood(zero).log_prob(b)) / D - 0.5 * math.log(2 * math.pi)
    C = W @ W.T + math.exp(2 * log_s) * torch.eye(D, dtype=x.dtype)
    return float(torch.distributions.MultivariateNormal(b[0], C).log_prob(x).mean())


def likelihoods(result: Result, name: str, array: np.ndarray, codes: int, seeds: int, settings: dict) -> None:
    """Fit linear VAEs from `seeds` initial weights, and set their exact likelihoods beside PCA.score, in the same units."""
    data = pf.load_data(array, validation=0.0, test=0.0)
    x = data.train.tensor(torch.float64)
    known = float(PCA(codes, svd_solver="full").fit(x.numpy()).score(x.numpy()))
    # PCA.score takes variances with n - 1; maximum likelihood is a little higher. Both are known: eigenvalues of the covariance by n.
    lam = torch.linalg.eigvalsh(x.T.cov(correction=0)).flip(0)
    D, s2 = x.shape[1], lam[codes:].mean()
    best = float(-0.5 * (D * math.log(2 * math.pi) + lam[:codes].log().sum() + (D - codes) * s2.log() + D))
    found = []
    for seed in range(seeds):
        model = pf.VAE(latent_dim=codes, hidden=(), likelihood="gaussian-shared")
        model.fit(data, seed=seed, batch_size=len(x), precision="64", progress=False, alarms=False, **settings)
        found.append(evidence(model.double(), x))
    what = f"{name}, {codes} codes"
    result.add(f"{what}: PCA.score", known, unit="nats", kind="exact")
    result.add(f"{what}: maximum likelihood of probabilistic PCA", best, unit="nats", kind="exact")
    result.add(f"{what}: linear VAE, mean over {seeds} seeds", float(np.mean(found)), unit="nats", kind="exact")
    off = max(abs(f - known) for f in found)
    result.add(f"{what}: linear VAE beside PCA.score, the farthest seed", off, unit="nats", kind="exact", target="<= 1e-3")
    stuck = sum(best - f > 1e-2 for f in found)
    result.add(f"{what}: seeds that ended in another optimum, of {seeds}", stuck, kind="exact", target="<= 0")


def varied(x: np.ndarray) -> np.ndarray:
    """The columns that vary."""
    return x[:, x.std(0) > 0]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--steps", type=int, default=5000, help="of a linear VAE")
    parser.add_argument("--lr", type=float, default=1e-2)
    parser.add_argument("--ema", type=float, default=0.999, help="of a linear VAE: averages out the noise of one draw a step")
    parser.add_argument("--iterations", type=int, default=3000, help="of L-BFGS, for a linear autoencoder")
    parser.add_argument("--records", type=int, default=2000, help="MNIST records of the linear autoencoder")
    given = parser.parse_args()
    torch.set_num_threads(1)
    from sklearn.datasets import load_wine

    digits = pf.load_data("digits", validation=0.0, test=0.0).train.tensor(torch.float64).flatten(1) / 16
    mnist = pf.load_data("mnist").train[: given.records].tensor(torch.float64).flatten(1) / 255
    settings = {"steps": given.steps, "lr": given.lr, "ema": given.ema, "schedule": "cosine"}
    with Result("linear_autoencoders", settings=vars(given), seeds=list(range(given.seeds))) as result:
        principal(result, f"digits ({len(digits)} records)", digits, 10, given.iterations)
        principal(result, f"MNIST ({len(mnist)} records)", mnist, 30, given.iterations)
        likelihoods(result, "wine (178 x 13)", varied(load_wine().data), 3, given.seeds, settings)
        rough = digits.numpy() * 16 + np.random.default_rng(0).uniform(-0.5, 0.5, digits.shape)  # levels are no real numbers
        likelihoods(result, "digits, dequantised (1797 x 64)", rough, 5, given.seeds, settings)
