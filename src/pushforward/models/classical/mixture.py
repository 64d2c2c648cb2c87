r"""Gaussian mixtures, fitted by expectation-maximisation with scikit-learn (Dempster, Laird & Rubin 1977).

    p(y) = sum_k w_k N(y; mu_k, Sigma_k),    responsibilities r_k(y) = w_k N(y; mu_k, Sigma_k) / p(y).

Real entries are modelled as they are: the density is exact. Discrete entries of k values are dequantised uniformly,
y = 2 (x + u) / k - 1 with u ~ U[0, 1)^D, which gives the bound (Theis et al. 2016, section 3.1)

    log P(x) >= E_u[log p(y(x, u))] + sum_d log(2 / k_d),

tightened by averaging p over several draws of u. `unit` entries become y = 2 x - 1.
"""

import math
import time
import warnings
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Categorical, Distribution

from ...data import Data
from ...data.spec import DataSpec
from ...errors import ConfigError, DataError, Diverged, Unsupported
from ...known import Known
from ...likelihoods import HALF_LOG_2PI
from ...model import ClosedFormModel
from ...objective import Training
from ...rng import Rng
from ...store import Run, say
from .conditioning import Given

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sklearn.mixture import GaussianMixture as Fitted

__all__ = ["GaussianMixture"]


class GaussianMixture(ClosedFormModel):
    """Gaussian mixture by EM: exact density on real data, a dequantised bound on discrete data.

    Parameters
    ----------
    components
        K. With labels they are shared out, K / classes (at least one) to each class, and p(x | label) is that class's own mixture.
        10 suits the ten digits.
    covariance
        `full`, `tied` (one for all components), `diag` or `spherical`. Full covariances are the model; take `diag` with more components
        when records are few or have many entries (D^2 / 2 numbers each).
    reg_covar
        Added to the diagonal of every covariance, in the units of y above. None takes the variance of the dequantisation noise itself,
        (2/k)^2 / 12, on discrete data (on the 8 x 8 digits the best of 1e-6 ... 2e-2 for six of nine shapes of mixture), 1e-4 on tables (a
        hundredth of a column's sd, because values repeat) and scikit-learn's 1e-6 otherwise.
    init
        Where EM starts: `kmeans`, `k-means++`, `random` or `random_from_data`; see scikit-learn's GaussianMixture.
    tol
        EM stops when the mean log-likelihood rises by less, in nats (scikit-learn's default).

    Notes
    -----
    `steps` (or `epochs`) counts EM iterations, 100 unless given; `minutes` is honoured to about one iteration. `encode` gives
    responsibilities p(k | x), (n, K), `posterior` the same as an exact `Categorical`; `decode` the mean under given responsibilities.
    `complete` draws p(unknown | known) in closed form: a component by p(k | known), then its conditional Gaussian. A known entry of a
    finite set fixes a cell, not a number: of `draws` places in it one is taken by its density, which is exact in the limit of many.

    Raises `Unsupported` for conditions that are vectors, not labels, and `DataError` when a mixture has fewer records than components.
    """

    name = "gmm"
    density = "exact"
    training = Training(steps=100)

    log_weights: Tensor
    means: Tensor
    precision_factors: Tensor
    offset: Tensor
    slope: Tensor
    cells: Tensor
    top: Tensor

    def __init__(
        self,
        *,
        components: int = 10,
        covariance: Literal["full", "tied", "diag", "spherical"] = "full",
        reg_covar: float | None = None,
        init: Literal["kmeans", "k-means++", "random", "random_from_data"] = "kmeans",
        tol: float = 1e-3,
    ):
        super().__init__()
        self.components = components
        self.covariance = covariance
        self.reg_covar = reg_covar
        self.init = init
        self.tol = tol

    def _build(self, spec: DataSpec) -> None:
        if self.components < 1:
            raise ConfigError(f"components must be at least 1, got {self.components}.")
        D, C = spec.dim, max(1, spec.condition_dim)
        K = max(1, self.components // C)
        self.density = "exact" if spec.continuous else "bound"
        self.estimator = "" if spec.continuous else "uniform dequantisation, averaged inside the logarithm over 10 draws"
        size = torch.tensor([float(s.size or 1) for s in spec.columns])
        real = torch.tensor([s.name == "real" for s in spec.columns])
        self.register_buffer("slope", torch.where(real, 1.0, 2 / size), persistent=False)
        self.register_buffer("offset", torch.where(real, 0.0, -1.0), persistent=False)
        self.register_buffer("top", torch.tensor([s.size - 1.0 if s.size else 1.0 for s in spec.columns]), persistent=False)
        self.register_buffer("cells", torch.tensor([float(s.discrete) for s in spec.columns]), persistent=False)
        # Until it is fitted the model is one standard Gaussian. Sigma_k^-1 = P_k P_k^T, and P is what is kept (of each class).
        shape = {"full": (K, D, D), "tied": (1, D, D), "diag": (K, D), "spherical": (K, 1)}[self.covariance]
        factor = torch.eye(D).expand(shape) if len(shape) == 3 else torch.ones(shape)
        self.register_buffer("log_weights", torch.full((C, K), -math.log(K)))
        self.register_buffer("means", torch.zeros(C, K, D))
        self.register_buffer("precision_factors", factor.expand(C, *shape).clone())

    # -- fitting ----------------------------------------------------------------------------------------------------------

    def _estimate(self, data: Data, training: Training, run: Run | None) -> None:
        del run
        assert self.spec is not None
        classes = torch.zeros(len(data.train), dtype=torch.int64)
        if self.spec.condition_dim:
            assert data.schema.condition is not None
            if data.schema.condition.kind != "classes":
                raise Unsupported(
                    "gmm is conditional on labels only: it fits one mixture per class, and a vector condition has no classes. "
                    "Use realnvp, made or vae, or give integer labels."
                )
            assert data.train.condition is not None
            classes = data.train.condition.cpu()
        # Noise within the cells is drawn once, so that EM climbs a fixed likelihood.
        rng = Rng.seeded(training.seed, torch.zeros((), dtype=torch.float64))
        y = self._encode_cells(data.train.tensor(torch.float64).to("cpu"), rng)
        clock = time.perf_counter()
        counts = classes.bincount(minlength=self.means.shape[0])
        for j, count in enumerate(counts.tolist()):
            needed = max(2, self.log_weights.shape[1])
            if count < needed:
                of = f" of class {data.schema.condition.classes[j]!r}" if self.spec.condition_dim and data.schema.condition else ""
                raise DataError(
                    f"gmm has {count} training records{of} for {needed} components. Give components={max(1, count // 2)} or less."
                )
            share = None
            if training.minutes is not None:
                share = clock + 60 * training.minutes * float(counts[: j + 1].sum()) / len(y)
            self._fit_class(j, y if len(counts) == 1 else y[classes == j], training, share)

    def _fit_class(self, j: int, y: Tensor, training: Training, deadline: float | None) -> None:
        """EM on y (n, D) until it converges, its iterations are spent or the deadline has passed."""
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.mixture import GaussianMixture as Fitted

        budget = training.steps if training.steps is not None else None if training.epochs is None else max(1, round(training.epochs))
        if budget is None and deadline is None:
            budget = 100
        mixture = Fitted(
            self.log_weights.shape[1],
            covariance_type=self.covariance,
            tol=self.tol,
            reg_covar=self._regularisation(),
            init_params=self.init,
            max_iter=1,
            random_state=training.seed,
            warm_start=True,
        )
        done, chunk = 0, 1
        try:
            while not (done and mixture.converged_) and (budget is None or done < budget):
                start = time.perf_counter()
                if done and deadline is not None and start >= deadline:
                    break
                mixture.max_iter = chunk if budget is None else min(chunk, budget - done)
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", ConvergenceWarning)
                    mixture.fit(y.numpy())
                self._take(j, mixture)
                done += mixture.n_iter_
                # One iteration at a time is exact but repeats an E-step; take as many as last half a second.
                chunk = max(1, min(20, int(0.5 * mixture.n_iter_ / max(1e-6, time.perf_counter() - start))))
        except ValueError as error:
            raise Diverged(
                f"EM broke down after {done} iterations: {str(error).splitlines()[0]} "
                f"To go on: raise reg_covar (now {self._regularisation():.2g}), take fewer components or covariance='diag'."
            ) from error
        except KeyboardInterrupt:
            say(f"Interrupted after {done} EM iterations, which the model holds. EM has no checkpoints: a resumed run starts over.")
            raise

    def _regularisation(self) -> float:
        if self.reg_covar is not None:
            return self.reg_covar
        assert self.spec is not None
        if self.spec.discrete:
            return min((2 / (s.size or 2)) ** 2 / 12 for s in self.spec.supports)
        return 1e-4 if self.spec.kind == "table" else 1e-6

    def _take(self, j: int, mixture: "Fitted") -> None:
        """Keep a fitted mixture's parameters as those of class j."""
        factor = torch.as_tensor(mixture.precisions_cholesky_)
        self.log_weights[j] = torch.as_tensor(mixture.weights_).log()
        self.means[j] = torch.as_tensor(mixture.means_)
        self.precision_factors[j] = factor.reshape(self.precision_factors.shape[1:])

    # -- density ----------------------------------------------------------------------------------------------------------

    def _encode_cells(self, x: Tensor, rng: Rng | None) -> Float[Tensor, "B D"]:
        """Y of records x: the middle of the cells, or dequantised with noise from `rng`."""
        x = x.flatten(1)
        cells, slope, offset = (t.to(x) for t in (self.cells, self.slope, self.offset))
        u = 0.5 if rng is None or not cells.any() else rng.rand(*x.shape)
        return (x + u * cells) * slope + offset

    def _decode_cells(self, y: Float[Tensor, "B D"]) -> Tensor:
        """The record whose cell holds y, the nearest one when it lies outside of all."""
        assert self.spec is not None
        x = (y - self.offset) / self.slope
        inside = torch.minimum(torch.where(self.cells > 0, x.floor(), x).clamp(min=0), self.top)
        return torch.where(self.offset == 0, x, inside).reshape(-1, *self.spec.shape)

    def _joint(self, y: Float[Tensor, "B D"], c: Tensor | None) -> Float[Tensor, "B K"]:
        """log w_k + log N(y; mu_k, Sigma_k), of each record's own class."""
        if c is None or len(self.means) == 1:
            return self._joint_of(0, y)
        kinds, out = c.argmax(1), y.new_empty(len(y), self.means.shape[1])
        for j in kinds.unique().tolist():
            out[kinds == j] = self._joint_of(j, y[kinds == j])
        return out

    def _joint_of(self, j: int, y: Tensor) -> Tensor:
        mu, P = self.means[j], self.precision_factors[j]
        # One component at a time: (B, D) in memory instead of (B, K, D), and no cancelling of large squares in single precision.
        P = P.expand(len(mu), *P.shape[1:])
        if P.ndim == 3:
            square = torch.stack([((y - m) @ p).square().sum(1) for m, p in zip(mu, P)], 1)
            log_det = P.diagonal(dim1=1, dim2=2).log().sum(1)
        else:
            square = torch.stack([((y - m) * p).square().sum(1) for m, p in zip(mu, P)], 1)
            log_det = P.expand_as(mu).log().sum(1)
        return self.log_weights[j] - 0.5 * square + log_det - y.shape[1] * HALF_LOG_2PI

    def _log_prob(self, x: Tensor, c: Tensor | None, rng: Rng, *, samples: int = 10) -> Float[Tensor, " B"]:
        """log p(x); on discrete data log (1/samples) sum over draws of the noise, a bound in expectation."""
        if samples < 1:
            raise ConfigError(f"samples must be at least 1, got {samples}.")
        draws = samples if self.density == "bound" else 1
        total = x.new_full((len(x),), -math.inf)
        for _ in range(draws):
            total = torch.logaddexp(total, self._joint(self._encode_cells(x, rng), c).logsumexp(1))
        return total - math.log(draws) + self.slope.log().sum()

    # -- samples and codes ------------------------------------------------------------------------------------------------

    def _sample(self, n: int, c: Tensor | None, rng: Rng) -> Tensor:
        j = torch.zeros(n, dtype=torch.int64, device=self.means.device) if c is None else c.argmax(1)
        return self._decode_cells(self._drawn(j, rng.categorical(self.log_weights[j]), rng))

    def _drawn(self, j: Tensor, k: Tensor, rng: Rng) -> Float[Tensor, "B D"]:
        """Y ~ N(mu_jk, Sigma_jk) of class j's component k."""
        y, P = self.means[j, k], self.precision_factors
        eps = rng.randn(*y.shape)
        if P.ndim == 3:
            return y + eps / P[j, k]
        # Sigma = P^-T P^-1, so that P^-T eps has covariance Sigma; solved per component that was drawn.
        k = k if P.shape[1] > 1 else torch.zeros_like(k)
        for a, b in torch.stack([j, k], 1).unique(dim=0).tolist():
            rows = (j == a) & (k == b)
            y[rows] += torch.linalg.solve_triangular(P[a, b].T, eps[rows].T, upper=False).T
        return y

    def _complete(self, x: Tensor, known: Tensor, c: Tensor | None, rng: Rng, *, draws: int = 20) -> Tensor:
        """A place in each known cell and a component, by their density given what is known; then that component's conditional."""
        if draws < 1:
            raise ConfigError(f"draws must be at least 1, got {draws}.")
        seen = known.flatten()
        if seen.all() or not seen.any():
            return x if seen.all() else self._sample(len(x), c, rng)
        n, K = len(x), self.log_weights.shape[1]
        places = draws if self.cells[seen].any() else 1
        j = torch.zeros(n, dtype=torch.int64, device=x.device) if c is None else c.argmax(1)
        y = self._encode_cells(x.repeat_interleave(places, 0), rng).unflatten(0, (n, places))
        factors = {a: [Given(P, seen) for P in self.precision_factors[a]] for a in j.unique().tolist()}
        log_joint = y.new_empty(n, places, K, dtype=torch.float64)
        for a, given in factors.items():
            rows = (j == a).nonzero()[:, 0]
            for b, mu in enumerate(self.means[a]):
                log_p = given[b % len(given)].log_prob((y[rows] - mu)[..., seen].flatten(0, 1))
                log_joint[rows, :, b] = self.log_weights[a, b] + log_p.view(-1, places)
        pick = rng.categorical(log_joint.flatten(1))
        y, k = y[torch.arange(n, device=x.device), pick.div(K, rounding_mode="floor")], pick % K
        drawn = self._drawn(j, k, rng)
        for a, b in torch.stack([j, k], 1).unique(dim=0).tolist():
            rows = ((j == a) & (k == b)).nonzero()
            moved = factors[a][b % len(factors[a])].carried((y - drawn)[rows[:, 0]][:, seen])
            drawn[rows, (~seen).nonzero()[:, 0]] += moved.to(drawn)
        return torch.where(known, x, self._decode_cells(drawn))

    def _encode(self, x: Tensor, c: Tensor | None) -> Float[Tensor, "B K"]:
        return self._joint(self._encode_cells(x, None), c).softmax(1)

    def _decode(self, z: Tensor, c: Tensor | None) -> Tensor:
        means = self.means[torch.zeros(len(z), dtype=torch.int64, device=z.device) if c is None else c.argmax(1)]
        if z.shape[1] != means.shape[1]:
            raise DataError(f"gmm decodes responsibilities (n, {means.shape[1]}), one per component; got {tuple(z.shape)}.")
        return self._decode_cells((z[:, None] @ means)[:, 0])

    def _posterior(self, x: Tensor, c: Tensor | None) -> Distribution:
        return Categorical(logits=self._joint(self._encode_cells(x, None), c))


def known_answers() -> "Iterator[Known]":
    """scikit-learn's own scores, the climb of EM, and mass one, over real values and over all small images."""
    from sklearn.mixture import GaussianMixture as Fitted

    generator = torch.Generator().manual_seed(0)
    y = torch.randn(300, 3, generator=generator, dtype=torch.float64) @ torch.randn(3, 3, generator=generator, dtype=torch.float64)
    y[:150] += 3
    for kind in ("full", "tied", "diag", "spherical"):
        model = GaussianMixture(components=4, covariance=kind).build(DataSpec("points", (3,))).double()
        peer = Fitted(4, covariance_type=kind, random_state=0).fit(y.numpy())
        model._take(0, peer)
        gap = (model._log_prob(y, None, Rng.seeded(0, y)) - torch.as_tensor(peer.score_samples(y.numpy()))).abs().max()
        yield Known(f"gmm, {kind}: log p(x) - scikit-learn's", 0.0, float(gap), 1e-10, "rounding of double precision, numbers of order 100")

    model = GaussianMixture(components=3).build(DataSpec("points", (3,))).double()
    heights = []
    for steps in (1, 2, 4, 8, 16):
        model._fit_class(0, y, Training(steps=steps), None)
        heights.append(float(model._log_prob(y, None, Rng.seeded(0, y)).mean()))
    fall = max(a - b for a, b in pairwise(heights))
    yield Known(
        "gmm: the largest fall of log p between EM iterations", 0.0, max(0.0, fall), 1e-9, "EM never falls; rounding, and reg_covar"
    )

    line = GaussianMixture(components=3).build(DataSpec("points", (1,))).double()
    line._fit_class(0, y[:, :1], Training(steps=20), None)
    grid = torch.linspace(-40, 40, 20001, dtype=torch.float64)
    mass = torch.trapezoid(line._log_prob(grid[:, None], None, Rng.seeded(0, grid)).exp(), grid)
    yield Known("gmm: the integral of p(x)", 1.0, float(mass), 1e-9, "trapezoid rule on a smooth density that vanishes at both ends")
