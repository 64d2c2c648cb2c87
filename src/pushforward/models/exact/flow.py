"""Normalising flows: an invertible network f carries the data to a standard normal, and the density back.

With z = f(x; c) and phi the standard normal density in D dimensions,

    log p(x | c) = log phi(f(x; c)) + log|det df/dx|,        x = f^{-1}(z; c),   z ~ N(0, I).

f alternates coupling layers (half of the entries move, by a map whose parameters are a network's function of the other half) with
a mixing of all entries. Training maximises the mean of log p itself: there is no bound and no game.

Entries on a finite set {0 .. k-1} are dequantised (see `dequantised`), here with uniform noise u: log p then becomes a lower bound

    log P(x) = log E_u p(x + u)  >=  E_u log p(x + u),

and so does its K-sample version log (1/K) sum_k p(x + u_k), which rises to log P(x) with K (Burda et al. 2016; Hoogeboom et al. 2020).
"""

import math
from abc import abstractmethod
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from ...bijections import AffineCoupling, Bijection, Linear, Permutation, RationalQuadratic, RationalQuadraticCoupling
from ...data.spec import DataSpec, levels
from ...known import Known
from ...rng import Rng
from ...train import Training
from .dense import DenseFlow, far_answers, mass, scrambled
from .dequantised import Dequantisation

__all__ = ["RealNVP", "SplineFlow"]

Mixing = Literal["auto", "lu", "permutation", "reverse"]

WIDEST_LU = 128
"""`mixing="auto"` takes LU matrices up to this many entries: beyond it D x D numbers a layer outweigh the couplings."""


MARGINAL_BINS = 32
"""Bins of the splines of single entries: they cost D x 95 numbers, next to nothing."""


class _CouplingFlow(DenseFlow):
    """What both flows share; they differ in the coupling."""

    mixing: Mixing

    @abstractmethod
    def _first(self, dim: int) -> list[Bijection]:
        """What comes before any mixing."""

    @abstractmethod
    def _coupling(self, dim: int, condition_dim: int, last: bool) -> Bijection: ...

    def _steps(self, spec: DataSpec) -> list[Bijection]:
        dim = spec.dim
        mixing = ("lu" if dim <= WIDEST_LU else "permutation") if self.mixing == "auto" else self.mixing
        steps = self._first(dim)
        for i in range(self.layers):
            # Two entries must swap; more are shuffled, so that over the layers every entry meets every other.
            order = torch.randperm(dim) if dim > 2 else torch.arange(dim).flip(0)
            if mixing != "reverse":
                steps.append(Linear(dim, order) if mixing == "lu" else Permutation(dim, order))
            steps.append(self._coupling(dim, spec.condition_dim, mixing == "reverse" and i % 2 == 1))
        return steps


class RealNVP(_CouplingFlow):
    """Affine coupling flow: the quick one. Its density is smooth; sharp clusters come easier to `SplineFlow`.

    Source: Dinh, Sohl-Dickstein and Bengio, Density estimation using Real NVP (2017), without the multi-scale architecture.

    Parameters
    ----------
    layers
        Coupling layers, each after a mixing of the entries (Dinh et al. use 3 to 10 a scale).
    hidden
        Widths of the hidden layers of each coupling's network; wider ones overfit a thousand digits at once.
    mixing
        What goes between couplings: `lu`, a learned invertible matrix (Kingma & Dhariwal 2018); `permutation`, a fixed random one;
        `reverse`, halves that change places, the quickest; `auto`, the matrix up to 128 entries.
    max_log_scale
        Largest log-scale of one coupling, in nats; bounds the growth of rounding errors.
    alpha
        Squeeze of bounded entries before the logit, keeping its ends finite (Dinh et al., section 4.1).
    dequantisation
        How discrete entries are made continuous: by `uniform` noise, or by noise from a flow given the record, `variational` (Ho et al.
        2019), whose bound is higher once it is trained. Continuous entries need none.
    """

    name = "realnvp"
    training = Training(lr=2e-3, optimizer="adamw", weight_decay=1.0, schedule="cosine", clip=5.0)

    def __init__(
        self,
        layers: int = 6,
        hidden: tuple[int, ...] = (64, 64),
        mixing: Mixing = "auto",
        max_log_scale: float = 3.0,
        alpha: float = 0.05,
        dequantisation: Dequantisation = "uniform",
    ):
        super().__init__()
        self.dequantisation = dequantisation
        self.layers, self.hidden, self.mixing = layers, hidden, mixing
        self.max_log_scale, self.alpha = max_log_scale, alpha

    def _first(self, dim: int) -> list[Bijection]:
        return []

    def _coupling(self, dim: int, condition_dim: int, last: bool) -> Bijection:
        return AffineCoupling(dim, condition_dim, self.hidden, self.max_log_scale, last)


class SplineFlow(_CouplingFlow):
    """Rational-quadratic spline coupling flow: each coupling bends its entries by splines, which reach sharp, separate clusters.

    Source: Durkan, Bekasov, Murray and Papamakarios, Neural Spline Flows (2019).

    Parameters
    ----------
    layers
        Coupling layers, each after a mixing of the entries.
    bins
        Bins of each spline (Durkan et al. use 4 to 128). None takes 32 up to 16 entries, where a narrow cluster needs some four of its own,
        and 8 for wider records.
    bound
        Splines act on [-bound, bound] and are the identity outside; columns have unit variance, codes are standard normal.
    marginals
        Begin with one spline for each entry, before anything is mixed: it takes up steps, clusters and skew of single entries.
    hidden
        Widths of the hidden layers of each coupling's network.
    mixing
        What goes between couplings: `lu`, a learned invertible matrix (Durkan et al., section 4.1); `permutation`, a fixed random one;
        `reverse`, halves that change places, the quickest; `auto`, the matrix up to 128 entries.
    alpha
        Squeeze of bounded entries before the logit, keeping its ends finite (Dinh et al. 2017, section 4.1).
    dequantisation
        How discrete entries are made continuous: by `uniform` noise, or by noise from a flow given the record, `variational` (Ho et al.
        2019), whose bound is higher once it is trained. Continuous entries need none.
    """

    name = "spline"
    training = Training(lr=3e-3, batch_size=256, optimizer="adamw", weight_decay=0.1, schedule="cosine", clip=5.0)

    def __init__(
        self,
        layers: int = 4,
        bins: int | None = None,
        bound: float = 5.0,
        marginals: bool = True,
        hidden: tuple[int, ...] = (64, 64),
        mixing: Mixing = "auto",
        alpha: float = 0.05,
        dequantisation: Dequantisation = "uniform",
    ):
        super().__init__()
        self.dequantisation = dequantisation
        self.layers, self.bins, self.bound, self.marginals = layers, bins, bound, marginals
        self.hidden, self.mixing, self.alpha = hidden, mixing, alpha

    def _first(self, dim: int) -> list[Bijection]:
        return [RationalQuadratic(dim, MARGINAL_BINS, self.bound)] if self.marginals else []

    def _coupling(self, dim: int, condition_dim: int, last: bool) -> Bijection:
        bins = self.bins or (32 if dim <= 16 else 8)
        return RationalQuadraticCoupling(dim, condition_dim, bins, self.bound, self.hidden, last)


# -- known answers ------------------------------------------------------------------------------------------------------------


def known_answers() -> Iterator[Known]:
    """Densities that integrate to one, log-determinants, a Gaussian, Gibbs' inequality and the probability of a cell."""
    points = DataSpec("points", (2,))
    with torch.no_grad():
        for make in (RealNVP, lambda **kw: SplineFlow(bins=6, **kw)):
            model = scrambled(make(layers=2, hidden=(16,)), points, 0, 0.1)
            coarse, fine = mass(model, 8.0, 160), mass(model, 8.0, 320)
            # Smooth within cells, the midpoint rule is of second order: halving the cell must change more than what error remains.
            # 1e-5: the joins of splines, where y'' jumps.
            because = f"midpoint rule, halving the cell changed it by {abs(fine - coarse):.0e}"
            yield Known(f"{model.name}: density integrates to 1", 1.0, fine, abs(fine - coarse) + 1e-5, because)

    for make in (RealNVP, SplineFlow):
        model = scrambled(make(layers=2, hidden=(16,)), DataSpec("points", (5,)), 1)
        x = torch.randn(5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        jacobian = torch.autograd.functional.jacobian(lambda x, f=model.flow: f(x[None])[0][0], x)
        assert isinstance(jacobian, Tensor)
        ours = float(model.flow(x[None])[1].detach())
        yield Known(
            f"{make.name}: log-det = autograd's", float(torch.linalg.slogdet(jacobian)[1]), ours, 1e-8, "float64 rounding, 5 x 5 matrix"
        )

    for make in (RealNVP, SplineFlow):
        model = make().build(DataSpec("points", (4,)), seed=1).double()
        x = torch.randn(200, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        x[100:] *= 50 / x[100:].norm(dim=1, keepdim=True)
        yield from far_answers(model, x, None)

    yield from _gaussian()
    yield from _cell()


def _gaussian() -> Iterator[Known]:
    """One layer whose matrix whitens N(mu, Sigma), couplings the identity: the log-density must be the Gaussian's."""
    dim, generator = 3, torch.Generator().manual_seed(2)
    model = RealNVP(layers=1, hidden=(8,), mixing="lu").build(DataSpec("points", (dim,))).double()
    root = torch.randn(dim, dim, generator=generator, dtype=torch.float64)
    sigma = root @ root.t() + torch.eye(dim, dtype=torch.float64)
    mu = torch.randn(dim, generator=generator, dtype=torch.float64)
    linear, coupling = model.flow.layers
    assert isinstance(linear, Linear)
    with torch.no_grad():
        for p in coupling.parameters():
            p.zero_()
        order = linear.permutation.order
        # A = chol(P Sigma P^T)^-1 is lower triangular: A = (A D^-1) D, with D its diagonal.
        a = torch.linalg.inv(torch.linalg.cholesky(sigma[order][:, order]))
        linear.lu.copy_((a / a.diagonal()).tril(-1) + a.diagonal().log().diag())
        linear.bias.copy_(-a @ mu[order])
        truth = torch.distributions.MultivariateNormal(mu, sigma)
        z = torch.randn(20_000, dim, generator=generator, dtype=torch.float64)
        x = z @ torch.linalg.cholesky(sigma).t() + mu
        ours, exact = model._log_prob(x, None, Rng.seeded(0)), truth.log_prob(x)
        yield Known("realnvp set to a Gaussian: largest error of log p", 0.0, float((ours - exact).abs().max()), 1e-10, "float64 rounding")
        mean, sd = float(ours.mean()), float(ours.std())
        yield Known(
            "realnvp set to a Gaussian: mean log p = -entropy",
            -float(truth.entropy()),
            mean,
            4 * sd / math.sqrt(len(x)),
            "4 standard errors",
        )
        # Moving the codes by delta makes it another Gaussian, with KL(p || q) = |delta|^2 / 2 exactly.
        delta = torch.tensor([0.3, -0.4, 1.2], dtype=torch.float64)
        linear.bias.add_(delta)
        gap = float((exact - model._log_prob(x, None, Rng.seeded(0))).mean())
        norm = float(delta.norm())
        yield Known(
            "realnvp moved off a Gaussian: KL", norm**2 / 2, gap, 4 * norm / math.sqrt(len(x)), "4 standard errors, |delta| / sqrt n"
        )


def _cell() -> Iterator[Known]:
    """One entry with 4 levels and the identity flow: P(x) = Phi(y(x + 1)) - Phi(y(x)), which the K-sample bound approaches from below."""
    model = SplineFlow(layers=1, mixing="permutation", alpha=0.05).build(DataSpec("table", (1,), (levels(4),))).double()
    samples = 20_000
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
        edges = torch.special.ndtr(torch.logit(0.05 + 0.9 * torch.arange(5, dtype=torch.float64) / 4))
        known = edges.diff()[1]
        # samples as records: one draw each, averaged here so that the standard error can be had
        x = torch.ones(samples, 1, dtype=torch.float64)
        draws = model._log_prob(x, None, Rng.seeded(4, x))
        ours, error = float(draws.exp().mean()), float(draws.exp().std()) / math.sqrt(samples)
        yield Known("spline: probability of a dequantised cell", float(known), ours, 4 * error, "4 standard errors")
        bound = float(draws.mean())
        yield Known("spline: the bound exceeds log P by", 0.0, max(0.0, bound - float(known.log())), 1e-12, "Jensen's inequality")
