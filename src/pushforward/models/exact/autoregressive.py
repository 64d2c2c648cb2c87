r"""Autoregressive models: p(x) = prod_d p(x_d | x_1 .. x_{d-1}), exact by the chain rule of probability.

`MADE` (Germain et al. 2015) takes any record: one masked network gives the parameters of all D conditionals in a single pass.
`PixelCNN` (van den Oord et al. 2016, gated) takes images on a finite set and shares its weights over the positions.

log_prob costs one pass. Sampling is sequential by nature, D choices one after the other; both networks keep every activation once it is
known (`nn.masked`, `nn.pixelcnn`), so that a sample costs about as much arithmetic as one pass instead of D.
"""

import itertools
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from ...data.features import Features
from ...data.spec import BINARY, REAL, UNIT, DataSpec, Support, categories, levels
from ...known import Known
from ...likelihoods import Bernoulli, Categorical, ColumnLikelihood, Likelihood, Mixture, for_support
from ...model import GradientModel
from ...nn.masked import MaskedMLP
from ...nn.pixelcnn import GatedPixelCNN
from ...rng import Rng
from ...train import Batch, Loss, Objective, Training

__all__ = ["MADE", "PixelCNN"]

SOFTMAX_LEVELS = 64
"""MADE gives levels(k) a softmax up to this k; beyond, 784 pixels of 256 levels would ask for 200,000 outputs."""

UNSUPPORTED: dict[str, str] = dict.fromkeys(
    ("encode", "decode", "posterior", "likelihood"),
    "an autoregressive model has no latent code; use vae (approximate posterior) or realnvp (exact inverse).",
)


class MADE(GradientModel):
    r"""A masked autoencoder for distribution estimation: log p(x | c) = sum_d log p(x_d | x_{<d}, c), exactly.

    The conditional of an entry depends on its support: real, a mixture of Gaussians (MADE MoG, Papamakarios et al. 2017); unit, a
    mixture of Gaussians truncated to [0, 1]; binary, a Bernoulli; categories(k), a softmax; levels(k), a softmax for k <= 64 and a
    mixture of discretised logistics (Salimans et al. 2017) beyond. Columns of a table may differ. Categories enter the network one-hot,
    levels scaled to [-1, 1].

    Reference: Germain, Gregor, Murray, Larochelle 2015, MADE: Masked Autoencoder for Distribution Estimation, section 4.

    Parameters
    ----------
    hidden
        Units of each hidden layer. Default: two layers of 512, near the 500 units of the paper's networks for small binary tables.
    components
        Members K of each mixture. Default 10, as in MADE MoG (Papamakarios et al. 2017, section 4) and PixelCNN++'s code.
    order
        In which order the entries are modelled: `natural` (columns left to right, pixels row by row) or `random` (a fixed permutation).
    order_seed
        The seed of the random order; models of different orders make an ensemble.
    direct
        Whether inputs also reach the outputs linearly, as in the paper. Off by default: it adds D times the number of outputs in weights.
    """

    name = "made"
    density = "exact"
    training = Training(lr=1e-3, batch_size=64, ema=0.995, schedule="cosine", clip=10.0)
    unsupported = UNSUPPORTED

    def __init__(
        self,
        *,
        hidden: tuple[int, ...] = (512, 512),
        components: int = 10,
        order: Literal["natural", "random"] = "natural",
        order_seed: int = 0,
        direct: bool = False,
    ):
        super().__init__()
        self.order: Literal["natural", "random"] = order
        self.hidden, self.components, self.order_seed, self.direct = hidden, components, order_seed, direct

    def _build(self, spec: DataSpec) -> None:
        self.nfe = spec.dim
        self.features = Features(spec)
        self.columns = ColumnLikelihood([self._family(s) for s in spec.columns])
        one = {s: Features(DataSpec("points", (1,), (s,))) for s in spec.supports}
        self.encoders = [one[s] for s in spec.columns]
        self.net = MaskedMLP(
            [e.dim for e in self.encoders],
            [s.stop - s.start for s in self.columns.slices],
            self.hidden,
            spec.condition_dim,
            self.order,
            self.order_seed,
            self.direct,
        )
        self._spread()

    def _family(self, support: Support) -> Likelihood:
        softmax = support.name == "levels" and support.size is not None and support.size <= SOFTMAX_LEVELS
        family = for_support(support, ordered=not softmax)
        mixed = support.name in ("real", "unit") or (support.name == "levels" and not softmax)
        return Mixture(family, self.components) if mixed and self.components > 1 else family

    @torch.no_grad()
    def _spread(self) -> None:
        """Start the members of each mixture apart, at the quantiles of the column's rough range; equal ones would stay nearly equal."""
        K = self.components
        at = torch.special.ndtri((torch.arange(K) + 0.5) / K)
        for family, place in zip(self.columns.likelihoods, self.columns.slices, strict=True):
            if isinstance(family, Mixture):
                locations = torch.arange(place.start + K, place.stop, family.family.n_params)
                self.net.out.bias[locations] = at / 2 if "levels" in family.supports else at

    def _params(self, x: Tensor, c: Tensor | None) -> Tensor:
        return self.net(self.features.encode(x).flatten(1), c)

    def _objectives(self) -> tuple[Objective, ...]:
        return (Objective("nll", (self.net,), self._loss),)

    def _loss(self, batch: Batch) -> Loss:
        return Loss(-self._log_prob(batch.x, batch.c, batch.rng))

    def _log_prob(self, x: Tensor, c: Tensor | None, rng: Rng) -> Tensor:
        return self.columns.log_prob(self._params(x, c), x.flatten(1)).sum(1)

    def _sample(self, n: int, c: Tensor | None, rng: Rng, *, incremental: bool = True) -> Tensor:
        """Draw the entries in order; `incremental=False` repeats the full pass for each entry (slow; for checking)."""
        assert self.spec is not None
        x = self.net.out.weight.new_zeros(n, self.spec.dim)

        def choose(d: int, params: Tensor) -> Tensor:
            x[:, d] = self.columns.likelihoods[d].sample(params, rng)
            return self.encoders[d].encode(x[:, d : d + 1])

        if incremental:
            self.net.incremental(n, c, choose)
        else:
            for d in self.net.sequence:
                choose(d, self._params(x.view(n, *self.spec.shape), c)[:, self.columns.slices[d]])
        return x.view(n, *self.spec.shape)


class PixelCNN(GradientModel):
    r"""A gated PixelCNN: log p(x | c) = sum over pixels (i, j) and channels g of log p(x_{gij} | all before, c), exactly.

    "Before" is raster order, the channels of a pixel in their own order. Binary pixels have a Bernoulli, levels(k) a softmax over the k
    values, k <= 256; categories(k), such as a grid of codes, have a softmax too, and enter by a learned vector each. The weights are shared
    over the positions, so the network is small and images of one size are its records. Sampling
    keeps all activations (`nn.pixelcnn`): 64 images of 28x28 take less than 1/300 of the time of a full pass per pixel.

    Reference: van den Oord, Kalchbrenner, Vinyals, Espeholt, Graves, Kavukcuoglu 2016, Conditional Image Generation with PixelCNN
    Decoders, equation 2 (gate), equation 4 (class bias) and figure 2 (the two stacks).

    Parameters
    ----------
    layers
        Gated layers, the first 7x7 and the others 3x3. Default: 7 (which see 9 pixels left and up) for images of at least 16x16, else 4.
    channels
        Features of each stack, rounded up to a multiple of the image's channels. Default: 64 for images of at least 16x16, else 32: on 8x8
        digits 4 x 32 reaches 78.7 nats in a minute of one core, where 7 x 64 takes too few steps. (The paper's networks are for GPUs and
        days.)
    """

    name = "pixelcnn"
    density = "exact"
    training = Training(lr=3e-3, batch_size=64, ema=0.995, schedule="cosine", clip=1.0)
    unsupported = UNSUPPORTED

    def __init__(self, *, layers: int | None = None, channels: int | None = None):
        super().__init__()
        self.layers, self.channels = layers, channels

    @classmethod
    def accepts(cls, spec: DataSpec) -> str | None:
        support = spec.support
        if spec.kind != "image":
            return f"PixelCNN models images, and these records are {spec.kind}. Use made, the autoregressive model for any record."
        if support is None or not support.discrete or (support.name == "levels" and (support.size or 0) > 256):
            return (
                f"PixelCNN models binary pixels, categories or at most 256 levels, and these are {support or 'mixed'}. "
                "Use made, which models any support."
            )
        return None

    def _build(self, spec: DataSpec) -> None:
        self.nfe = spec.dim
        k = spec.supports[0].size
        assert k is not None
        self.family = Bernoulli() if spec.supports[0] == BINARY else Categorical(k)
        layers, channels = (7, 64) if min(spec.shape[1:]) >= 16 else (4, 32)
        width = min(k, self.channels or channels)
        self.features = None if spec.supports[0].name == "categories" else Features(spec)
        # Categories have no place on a line: each enters by a vector of its own.
        self.embedding = torch.nn.Embedding(k, width) if self.features is None else None
        self.net = GatedPixelCNN(
            spec.shape[0],
            self.family.n_params,
            self.layers or layers,
            self.channels or channels,
            spec.condition_dim,
            width if self.features is None else 1,
        )

    def _objectives(self) -> tuple[Objective, ...]:
        return (Objective("nll", (self,), self._loss),)

    def _input(self, x: Tensor) -> Tensor:
        """The features of pixels: (B, C, ...) -> (B, C E, ...)."""
        if self.features is not None:
            return self.features.encode(x)
        assert self.embedding is not None
        return self.embedding(x.long()).movedim(-1, 2).flatten(1, 2)

    def _loss(self, batch: Batch) -> Loss:
        return Loss(-self._log_probs(batch.x, batch.c))

    def _log_probs(self, x: Tensor, c: Tensor | None) -> Tensor:
        return self.family.log_prob(self.net(self._input(x), c), x).flatten(1).sum(1)

    def _log_prob(self, x: Tensor, c: Tensor | None, rng: Rng) -> Tensor:
        # 64 records at a time: 256 logits for each of 784 pixels are 0.8 MB a record, and small activations stay in the cache.
        parts = torch.arange(len(x)).split(64)
        return torch.cat([self._log_probs(x[at], None if c is None else c[at]) for at in parts])

    def _sample(self, n: int, c: Tensor | None, rng: Rng, *, incremental: bool = True) -> Tensor:
        """Draw pixel by pixel; `incremental=False` repeats the full pass for each pixel and channel (slow; for checking)."""
        assert self.spec is not None
        C, H, W = self.spec.shape
        u = rng.rand(n, C, H, W)
        x = torch.zeros_like(u)

        def choose(g: int, i: int, j: int, params: Tensor) -> Tensor:
            x[:, g, i, j] = _invert(params, u[:, g, i, j])
            chosen = self._input(x[:, g : g + 1, i, j])  # (n, E)
            return chosen.T

        if incremental:
            self.net.incremental(n, (H, W), c, choose)
        else:
            for i, j, g in itertools.product(range(H), range(W), range(C)):
                choose(g, i, j, self.net(self._input(x), c)[:, g, i, j].T)
        return x


def _invert(params: Tensor, u: Tensor) -> Tensor:
    """The values (n,) at which the cumulative probabilities pass u (n,): parameters (1, n) are logits of x = 1, (k, n) those of k
    values.
    """
    if len(params) == 1:
        return (u < params[0].sigmoid()).to(u.dtype)
    cumulative = params.softmax(0).cumsum(0)
    # Scaling by the last sum keeps u below it when rounding leaves the total a little under 1.
    return (u * cumulative[-1] >= cumulative).sum(0).clamp(max=len(params) - 1).to(u.dtype)


def known_answers() -> Iterator[Known]:
    """Probabilities that sum to 1, densities that integrate to 1, and a fit that reaches minus the entropy."""
    rounding = "Each probability is exp of a sum of D <= 12 logs in float64: relative error below 100 D 2.2e-16, and so that of their sum."
    bits, pixels = DataSpec("points", (12,), (BINARY,)), DataSpec("image", (1, 3, 4), (BINARY,))
    colours = DataSpec("image", (3, 2, 2), (BINARY,))
    mixed = DataSpec("table", (4,), (BINARY, categories(5), levels(7), categories(3)), condition_dim=2)
    small: list[tuple[str, GradientModel, DataSpec]] = [
        ("MADE, 2^12 binary records", MADE(hidden=(32, 32)), bits),
        ("MADE, random order, 3^7 records", MADE(hidden=(32,), order="random", direct=True), DataSpec("points", (7,), (levels(3),))),
        ("MADE, 100^2 records, logistics", MADE(hidden=(32,), components=3), DataSpec("points", (2,), (levels(100),))),
        ("MADE, mixed columns given c", MADE(hidden=(32, 32)), mixed),
        ("PixelCNN, 2^12 binary 3x4 images", PixelCNN(layers=3, channels=16), pixels),
        ("PixelCNN given c, 2^12 binary 3x4 images", PixelCNN(layers=3, channels=16), pixels.with_condition(2)),
        ("PixelCNN, 3^6 images of levels(3)", PixelCNN(layers=3, channels=16), DataSpec("image", (1, 2, 3), (levels(3),))),
        ("PixelCNN, 2^12 colour 2x2 images", PixelCNN(layers=3, channels=12), colours),
        ("PixelCNN, 3^6 grids of categories(3)", PixelCNN(layers=3, channels=16), DataSpec("image", (1, 2, 3), (categories(3),))),
        (
            "PixelCNN, 3^8 two-channel grids of categories(3)",
            PixelCNN(layers=3, channels=16),
            DataSpec("image", (2, 2, 2), (categories(3),)),
        ),
    ]
    for what, model, spec in small:
        total = float(enumerated(_roughened(model, spec))[1].exp().sum())
        yield Known(f"{what}: probabilities sum to 1", 1.0, total, 1e-11, rounding)
    yield from _integrals()
    yield _entropy()


def _roughened(model: GradientModel, spec: DataSpec) -> GradientModel:
    """Random weights, in float64, large enough that the conditionals are far from uniform."""
    model.build(spec, seed=1).double()
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(2.0)
    return model


@torch.no_grad()
def enumerated(model: GradientModel) -> tuple[Tensor, Tensor]:
    """All records of a finite spec, (N, *shape), and their log-probabilities, (N,); given c = (1, 0, ...) when the model is conditional."""
    spec = model.spec
    assert spec is not None
    assert spec.discrete
    x = torch.cartesian_prod(*[torch.arange(s.size or 0, dtype=model.dtype) for s in spec.columns]).view(-1, *spec.shape)
    c = None if spec.condition_dim == 0 else torch.eye(spec.condition_dim, dtype=model.dtype)[:1].expand(len(x), -1)
    assert isinstance(model, MADE | PixelCNN)
    return x, model._log_prob(x, c, Rng.seeded(0))


@torch.no_grad()
def _integrals() -> Iterator[Known]:
    """Densities over the line, the plane and the unit interval, by the trapezoid and midpoint rules."""
    for D, step in ((1, 0.02), (2, 0.1)):
        model = MADE(hidden=(16,), components=3).build(DataSpec("points", (D,), (REAL,)), seed=2).double()
        line = torch.arange(-15, 15, step, dtype=torch.float64)
        x = torch.cartesian_prod(*[line] * D).view(-1, D)
        total = float(model._log_prob(x, None, Rng.seeded(0)).exp().sum()) * step**D
        because = (
            "Initial scales lie in 0.5 .. 2: the trapezoid rule errs by 2 exp(-2 (pi 0.5 / 0.1)^2) < 1e-200 and the tails beyond 15 hold "
            "below 1e-9, with locations within 3 of 0."
        )
        yield Known(f"MADE, {D}-D real: the density integrates to 1", 1.0, total, 1e-8, because)
    model = MADE(components=3).build(DataSpec("points", (1,), (UNIT,)), seed=2).double()
    x = (torch.arange(2000, dtype=torch.float64)[:, None] + 0.5) / 2000
    total = float(model._log_prob(x, None, Rng.seeded(0)).exp().mean())
    because = "Midpoint rule: |p''| h^2 / 24 with h = 1/2000 and, for scales above 0.1, |p''| below 1000: 1e-5."
    yield Known("MADE, unit: the density integrates to 1", 1.0, total, 1e-5, because)


def _entropy() -> Known:
    """Fit independent bits with exact weights: by Gibbs' inequality E log q <= -H, with equality at the truth, which
    MADE contains.
    """
    p = torch.tensor([0.1, 0.3, 0.5, 0.8, 0.95], dtype=torch.float64)
    model = MADE(hidden=(8,)).build(DataSpec("points", (5,), (BINARY,))).double()
    x, _ = enumerated(model)
    weights = (x * p + (1 - x) * (1 - p)).prod(1)
    minus_entropy = float((weights * weights.log()).sum())
    (objective,) = model._objectives()
    optimiser = torch.optim.LBFGS(model.net.parameters(), max_iter=200, line_search_fn="strong_wolfe")
    batch = Batch(x, None, torch.arange(len(x)), Rng.seeded(0))

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = (weights * objective.loss(batch).per_record).sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        optimiser.step(closure)
    ours = float((weights * enumerated(model)[1]).sum())
    because = "L-BFGS stops at a gradient of 1e-7, and the gap KL(p, q) is quadratic in it; nothing can go above minus the entropy."
    return Known("MADE, independent bits: mean log_prob reaches minus the entropy", minus_entropy, ours, 1e-5, because)
