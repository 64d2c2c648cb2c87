r"""Kernel density estimation (Rosenblatt 1956; Parzen 1962): a Gaussian bump on every training record.

    p(x) = (1/n) sum_i N(x; x_i, h^2 S),

with a scale matrix S taken from the records and one bandwidth h, that which maximises the leave-one-out log-likelihood of the training
records (Duin 1976), each judged by the bumps of all others:

    L(h) = (1/n) sum_i log (1/(n-1)) sum_{j != i} N(x_i; x_j, h^2 S).
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ...data import Data
from ...data.spec import DataSpec
from ...errors import ConfigError, DataError, Unsupported
from ...known import Known
from ...likelihoods import HALF_LOG_2PI
from ...model import ClosedFormModel
from ...objective import Training
from ...rng import Rng
from ...store import Run

__all__ = ["KernelDensity"]

BLOCK = 2**21
"""Distances held at a time."""
JUDGES = 1000
"""Records at which the leave-one-out likelihood is taken, at most."""


class KernelDensity(ClosedFormModel):
    """Gaussian kernel density with the bandwidth of the best leave-one-out likelihood: exact density, exact samples, nothing to train.

    A baseline for points and a prior for the codes of an autoencoder. It keeps the records: its samples are training records plus
    noise, which a small bandwidth makes copies of them.

    Parameters
    ----------
    bandwidth
        h, in units of the scale matrix S; None chooses it. With covariance `spherical` it is that of scikit-learn's KernelDensity.
    covariance
        S: `full`, the covariance of the records (Fukunaga 1972); `diag`, their variances; `spherical`, the identity.
    centres
        Records that carry a bump, drawn at random from the training records, at most. A density costs D operations for each.

    Notes
    -----
    With labels each class has its own S and h: p(x | label). No gradient steps: `steps`, `epochs` and `minutes` do nothing.

    Raises `Unsupported` for conditions that are vectors, `DataError` when a class has fewer than two distinct training records.
    """

    name = "kde"
    density = "exact"
    training = Training()

    points: Tensor
    starts: Tensor
    factors: Tensor
    widths: Tensor

    def __init__(self, *, bandwidth: float | None = None, covariance: Literal["full", "diag", "spherical"] = "full", centres: int = 10_000):
        super().__init__()
        self.bandwidth = bandwidth
        self.covariance = covariance
        self.centres = centres
        self.register_load_state_dict_pre_hook(_resize)

    @classmethod
    def accepts(cls, spec: DataSpec) -> str | None:
        if not all(s.name == "real" for s in spec.supports):
            return (
                f"KernelDensity is for real numbers; these records are {spec}. Fit gmm, made or vae, or use it as the prior of codes: "
                "LatentPrior(Autoencoder(), prior=KernelDensity())."
            )
        return None

    def _build(self, spec: DataSpec) -> None:
        if self.bandwidth is not None and not (self.bandwidth > 0 and math.isfinite(self.bandwidth)):
            raise ConfigError(f"bandwidth must be a number above 0, got {self.bandwidth}.")
        if self.centres < 2:
            raise ConfigError(f"centres must be at least 2, got {self.centres}.")
        D, C = spec.dim, max(1, spec.condition_dim)
        # Until it is fitted the model is one standard Gaussian (of each class). Bumps of class j are points[starts[j] : starts[j + 1]].
        self.register_buffer("points", torch.zeros(C, D))
        self.register_buffer("starts", torch.arange(C + 1))
        self.register_buffer("factors", torch.eye(D).repeat(C, 1, 1))
        self.register_buffer("widths", torch.ones(C))

    # -- fitting ----------------------------------------------------------------------------------------------------------

    def _estimate(self, data: Data, training: Training, run: Run | None) -> None:
        del run
        assert self.spec is not None
        x = data.train.tensor(torch.float64).to("cpu").flatten(1)
        classes = torch.zeros(len(x), dtype=torch.int64)
        C = len(self.widths)
        if self.spec.condition_dim:
            assert data.schema.condition is not None
            if data.schema.condition.kind != "classes":
                raise Unsupported(
                    "kde is conditional on labels only: it fits one density per class, and a vector condition has no classes. "
                    "Use realnvp or vae, or give integer labels."
                )
            assert data.train.condition is not None
            classes = data.train.condition.cpu()
        generator = torch.Generator().manual_seed(training.seed)
        kept: list[Tensor] = []
        for j in range(C):
            mine = x[classes == j]
            if len(mine) < 2 or not bool((mine != mine[:1]).any()):
                of = f" of class {data.schema.condition.classes[j]!r}" if self.spec.condition_dim and data.schema.condition else ""
                raise DataError(f"kde needs two different training records{of} to choose a bandwidth from, and has {len(mine)}.")
            share = max(2, self.centres * len(mine) // len(x))
            mine = mine[torch.randperm(len(mine), generator=generator)[:share]]
            factor = scale_factor(mine, self.covariance)
            self.factors[j] = factor
            white = torch.linalg.solve_triangular(factor, mine.T, upper=False).T
            self.widths[j] = best_bandwidth(white) if self.bandwidth is None else self.bandwidth
            kept.append(mine)
        self.points = torch.cat(kept).to(self.points)
        self.starts = torch.tensor([0, *(len(k) for k in kept)]).cumsum(0).to(self.starts)

    # -- verbs ------------------------------------------------------------------------------------------------------------

    def _log_prob(self, x: Tensor, c: Tensor | None, rng: Rng) -> Float[Tensor, " B"]:
        y = x.flatten(1)
        if c is None or len(self.widths) == 1:
            return self._log_prob_of(0, y)
        kinds, out = c.argmax(1), y.new_empty(len(y))
        for j in kinds.unique().tolist():
            out = out.index_put((torch.nonzero(kinds == j)[:, 0],), self._log_prob_of(j, y[kinds == j]))
        return out

    def _log_prob_of(self, j: int, y: Float[Tensor, "B D"]) -> Float[Tensor, " B"]:
        factor, h = self.factors[j].to(y.dtype), self.widths[j].to(y.dtype)
        bumps = self.points[int(self.starts[j]) : int(self.starts[j + 1])].to(y.dtype)
        # About the bumps' mean: the whitened numbers are then of order 1, and squares lose no digits.
        middle = bumps.mean(0)
        white, bumps = (torch.linalg.solve_triangular(factor, (t - middle).T, upper=False).T / h for t in (y, bumps))
        total = log_mean_bumps(white, bumps)
        return total - y.shape[1] * (h.log() + HALF_LOG_2PI) - factor.diagonal().log().sum()

    def _sample(self, n: int, c: Tensor | None, rng: Rng) -> Tensor:
        assert self.spec is not None
        j = torch.zeros(n, dtype=torch.int64, device=self.points.device) if c is None else c.argmax(1)
        first, count = self.starts[j], self.starts[j + 1] - self.starts[j]
        i = first + torch.minimum((rng.rand(n) * count).long(), count - 1)
        eps = rng.randn(n, self.points.shape[1]).to(self.points.dtype)
        x = self.points[i] + self.widths[j][:, None] * torch.einsum("nij,nj->ni", self.factors[j], eps)
        return x.reshape(n, *self.spec.shape)


def _resize(model: nn.Module, state: Mapping[str, Any], prefix: str, *_: Any) -> None:
    """Room for as many bumps as the weights hold: how many records were kept is known from them alone."""
    stored = state.get(f"{prefix}points")
    if isinstance(model, KernelDensity) and stored is not None and model.spec is not None:
        model.points = model.points.new_zeros(stored.shape)


def scale_factor(x: Float[Tensor, "n D"], covariance: str) -> Float[Tensor, "D D"]:
    """Lower triangular L with L L^T = S. Directions in which the records hardly vary get a millionth of the mean variance."""
    variance = x.var(0, correction=0)
    least = 1e-6 * variance.mean()
    if covariance == "spherical":
        return torch.eye(x.shape[1], dtype=x.dtype)
    if covariance == "diag":
        return torch.diag((variance + least).sqrt())
    return torch.linalg.cholesky(x.T.cov(correction=0).reshape(x.shape[1], -1) + least * torch.eye(x.shape[1], dtype=x.dtype))


def log_mean_bumps(y: Float[Tensor, "B D"], bumps: Float[Tensor, "n D"]) -> Float[Tensor, " B"]:
    """log (1/n) sum_i exp(-|y - b_i|^2 / 2), in blocks."""
    rows = max(1, BLOCK // len(bumps))
    parts = [(-0.5 * torch.cdist(a, bumps, compute_mode="donot_use_mm_for_euclid_dist").square()).logsumexp(1) for a in y.split(rows)]
    return torch.cat(parts) - math.log(len(bumps))


def leave_one_out(square: Float[Tensor, "m n"], h: float, D: int) -> float:
    """L(h) from squared distances, those of a record to itself infinite."""
    return float((-0.5 * square / h**2).logsumexp(1).mean()) - math.log(square.shape[1] - 1) - D * (math.log(h) + HALF_LOG_2PI)


def best_bandwidth(x: Float[Tensor, "n D"]) -> float:
    """The h of the largest L(h): the best of a grid over four decades about Silverman's rule, then a search between its neighbours.

    Records that occur more than once would be best explained by h = 0, as each lies on the other's bump: only different ones judge.
    """
    from scipy.optimize import minimize_scalar

    n, D = x.shape
    judges = x[: min(n, JUDGES)]
    square = torch.cdist(judges, x, compute_mode="donot_use_mm_for_euclid_dist").square()
    square[torch.arange(len(judges)), torch.arange(len(judges))] = math.inf
    square = torch.where(square == 0, math.inf, square)
    square = square[torch.isfinite(square).any(1)]
    silverman = (4 / (D + 2)) ** (1 / (D + 4)) * n ** (-1 / (D + 4))
    grid = [math.log(silverman) + math.log(10) * t / 4 for t in range(-8, 9)]
    figures = [leave_one_out(square, math.exp(t), D) for t in grid]
    i = max(range(len(grid)), key=figures.__getitem__)
    low, high = grid[max(0, i - 1)], grid[min(len(grid) - 1, i + 1)]
    found = minimize_scalar(lambda t: -leave_one_out(square, math.exp(t), D), bounds=(low, high), method="bounded", options={"xatol": 1e-4})
    return math.exp(float(found.x))


def known_answers() -> Iterator[Known]:
    """scikit-learn's own scores, mass one, and the leave-one-out likelihood term by term."""
    from sklearn.neighbors import KernelDensity as Peer

    generator = torch.Generator().manual_seed(0)
    x = torch.randn(60, 2, generator=generator, dtype=torch.float64) @ torch.tensor([[1.0, 0.6], [0.0, 0.5]], dtype=torch.float64)
    y = 3 * torch.randn(40, 2, generator=generator, dtype=torch.float64)
    rounding = "rounding of 1e-16 on squared distances of order 1e3"

    def fitted(covariance: Any, h: float) -> KernelDensity:
        model = KernelDensity(covariance=covariance).build(DataSpec("points", (2,))).double()
        model.points, model.starts = x, torch.tensor([0, len(x)])
        model.factors[0], model.widths[0] = scale_factor(x, covariance), h
        return model

    peer = torch.as_tensor(Peer(bandwidth=0.3).fit(x.numpy()).score_samples(y.numpy()))
    ours = fitted("spherical", 0.3)._log_prob(y, None, Rng.seeded(0, y))
    yield Known("kde: log_prob beside scikit-learn's, spherical", 0.0, float((ours - peer).abs().max()), 1e-9, rounding)
    side = torch.linspace(-7, 7, 401, dtype=torch.float64)
    for covariance in ("full", "diag"):
        model = fitted(covariance, 0.4)
        mass = float(model._log_prob(torch.cartesian_prod(side, side), None, Rng.seeded(0, x)).exp().sum()) * (14 / 400) ** 2
        yield Known(f"kde: total mass, {covariance}", 1.0, mass, 1e-6, "a lattice finer than a fifth of the narrowest bump; tails beyond 7")
    square = torch.cdist(x, x).square()
    square.fill_diagonal_(math.inf)
    others = [
        float(Peer(bandwidth=0.5).fit(torch.cat([x[:i], x[i + 1 :]]).numpy()).score_samples(x[i : i + 1].numpy())[0]) for i in range(60)
    ]
    yield Known("kde: leave-one-out likelihood", sum(others) / 60, leave_one_out(square, 0.5, 2), 1e-9, rounding)
