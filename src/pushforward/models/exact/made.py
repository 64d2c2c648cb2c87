r"""MADE (Germain et al. 2015): one masked network gives the parameters of all D conditionals of any record in a single pass."""

import math
from collections.abc import Callable, Iterator
from typing import Literal

import torch
from torch import Tensor

from ...data.features import Features
from ...data.spec import BINARY, REAL, UNIT, DataSpec, Support, categories, levels
from ...errors import ConfigError
from ...known import Known
from ...likelihoods import ColumnLikelihood, Likelihood, Mixture, for_support
from ...model import GradientModel
from ...nn.masked import MaskedMLP
from ...nn.orders import Ordering, reordered, under
from ...rng import Rng
from ...train import Batch, Loss, Objective, Training
from .particles import Particles, filtered
from .sequential import ROUNDING, UNSUPPORTED, check_temperature, draw, enumerated, known_first, roughened

__all__ = ["MADE"]

SOFTMAX_LEVELS = 64
"""MADE gives levels(k) a softmax up to this k; beyond, 784 pixels of 256 levels would ask for 200,000 outputs."""
FRESH = 2**40
"""Where the seeds of orderings drawn for a step of training begin, apart from those that a user names."""


class MADE(GradientModel):
    r"""A masked autoencoder for distribution estimation: log p(x | c) = sum_d log p(x_d | x_{<d}, c), exactly.

    The conditional of an entry depends on its support: real, a mixture of Gaussians (MADE MoG, Papamakarios et al. 2017); unit, a
    mixture of Gaussians truncated to [0, 1]; binary, a Bernoulli; categories(k), a softmax; levels(k), a softmax for k <= 64 and a
    mixture of discretised logistics (Salimans et al. 2017) beyond. Columns of a table may differ. Categories enter the network one-hot,
    levels scaled to [-1, 1], and bits, where there is nothing else, as they are: the weights of pixels that are hardly ever on then hardly
    ever move, and binarised digits are overfitted later.

    With several `masks` the density is their mean, p(x) = (1/M) sum_m p_m(x): still exact, and never worse in mean log-probability than
    the mean of the members (Jensen). `complete` draws p_o(unknown | known) in an order o in which all that is known comes first: one of
    its own, or any order when it is `agnostic` and random; with several masks this is the conditional of that member alone. Where there is
    no such order, a filter of `particles` draws p(unknown | known) of the mean: exact in the limit of many.

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
    masks
        M, the orderings: each deals other degrees to the hidden units and, when the order is random, has another order. A step of training
        takes one of them in turn. Default 1; the paper's best on binarised MNIST has 32.
    shared
        Whether the orderings share the weights, as in the paper. Where each has weights of its own its members know nothing of each other,
        take M times the memory, and differ by their first weights too.
    dropout
        Share of hidden units set to zero in a step of training. Off by default; wide layers over few records overfit without it.
    agnostic
        Whether each step of training takes a fresh ordering instead, so that the network serves every order (when the order is random).
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
        masks: int = 1,
        shared: bool = True,
        dropout: float = 0.0,
        agnostic: bool = False,
    ):
        super().__init__()
        self.order: Literal["natural", "random"] = order
        self.hidden, self.components, self.order_seed, self.direct = hidden, components, order_seed, direct
        self.masks, self.shared, self.dropout, self.agnostic = masks, shared, dropout, agnostic

    def _build(self, spec: DataSpec) -> None:
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"dropout is a share from 0 to below 1, got {self.dropout}.")
        if self.masks < 1:
            raise ConfigError(f"masks must be at least 1, got {self.masks}.")
        if self.agnostic and not self.shared:
            raise ConfigError("An agnostic MADE serves every order by one set of weights. Give shared=True, or leave agnostic out.")
        self.nfe = spec.dim
        self.features = Features(spec)
        self.columns = ColumnLikelihood([self._family(s) for s in spec.columns])
        self.encoders = self.features.of_columns()
        self.net, *others = (self._network(spec, self.order_seed + m) for m in range(1 if self.shared else self.masks))
        self.others = torch.nn.ModuleList(others)
        """The networks of the orderings after the first, where they do not share it."""
        self.orderings = [Ordering.own(net) for net in (self.net, *others)]
        if self.shared:
            self.orderings += [Ordering.drawn(self.net, self.order_seed + m, self.order) for m in range(1, self.masks)]

    def _network(self, spec: DataSpec, seed: int) -> MaskedMLP:
        widths = [e.dim for e in self.encoders], [s.stop - s.start for s in self.columns.slices]
        net = MaskedMLP(*widths, self.hidden, spec.condition_dim, self.order, seed, self.direct)
        self._spread(net)
        return net

    def _family(self, support: Support) -> Likelihood:
        softmax = support.name == "levels" and support.size is not None and support.size <= SOFTMAX_LEVELS
        family = for_support(support, ordered=not softmax)
        mixed = support.name in ("real", "unit") or (support.name == "levels" and not softmax)
        return Mixture(family, self.components) if mixed and self.components > 1 else family

    @torch.no_grad()
    def _spread(self, net: MaskedMLP) -> None:
        """Start the members of each mixture apart, at the quantiles of the column's rough range; equal ones would stay nearly equal."""
        K = self.components
        at = torch.special.ndtri((torch.arange(K) + 0.5) / K)
        for family, place in zip(self.columns.likelihoods, self.columns.slices, strict=True):
            if isinstance(family, Mixture):
                locations = torch.arange(place.start + K, place.stop, family.family.n_params)
                net.out.bias[locations] = at / 2 if "levels" in family.supports else at

    def _params(self, x: Tensor, c: Tensor | None, ordering: Ordering, drop: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        seen = self.features.see(x).flatten(1)
        net = self._own(ordering)
        return under(self.net, ordering, seen, c, drop) if net is None else net(seen, c, drop)

    def _own(self, ordering: Ordering) -> MaskedMLP | None:
        """The network whose own order this is, if any."""
        nets = (self.net, *self.others)
        return next((n for n, o in zip(nets, self.orderings) if o is ordering), None)  # pyright: ignore[reportReturnType]

    def _objectives(self) -> tuple[Objective, ...]:
        return (Objective("nll", (self.net, self.others), self._loss, partial=not self.shared),)

    def _loss(self, batch: Batch) -> Loss:
        if not self.learning:
            return Loss(-self._log_prob(batch.x, batch.c, batch.rng))
        ordering = self.orderings[batch.step % len(self.orderings)]
        if self.agnostic:
            ordering = Ordering.drawn(self.net, FRESH + batch.step, self.order)
        return Loss(-self._member(batch.x, batch.c, ordering, self._thinned(batch.rng) if self.dropout else None))

    def _thinned(self, rng: Rng) -> Callable[[Tensor], Tensor]:
        """Hidden units, some of them set to zero; their means stay."""
        return lambda h: h * ((rng.rand(*h.shape) >= self.dropout).to(h.dtype) / (1 - self.dropout))

    def _member(self, x: Tensor, c: Tensor | None, ordering: Ordering, drop: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """log p_m(x | c) under one ordering."""
        return self.columns.log_prob(self._params(x, c, ordering, drop), x.flatten(1)).sum(1)

    def _log_prob(self, x: Tensor, c: Tensor | None, rng: Rng) -> Tensor:
        if len(self.orderings) == 1:
            return self._member(x, c, self.orderings[0])
        members = torch.stack([self._member(x, c, o) for o in self.orderings])
        return members.logsumexp(0) - math.log(len(members))

    def _sample(self, n: int, c: Tensor | None, rng: Rng, *, temperature: float = 1.0, incremental: bool = True) -> Tensor:
        """Draw the entries in order; `incremental=False` repeats the full pass for each entry (slow; for checking)."""
        assert self.spec is not None
        x = self.net.out.weight.new_zeros(n, *self.spec.shape)
        nothing = torch.zeros(self.spec.dim, dtype=torch.bool)
        # A mixture: each record has a member of its own.
        which = rng.randint(len(self.orderings), n) if len(self.orderings) > 1 else torch.zeros(n, dtype=torch.long)
        for m, ordering in enumerate(self.orderings):
            at = (which == m).nonzero()[:, 0]
            if len(at):
                x[at] = self._drawn(x[at], nothing, None if c is None else c[at], rng, ordering, temperature, incremental)
        return x

    def _complete(
        self,
        x: Tensor,
        known: Tensor,
        c: Tensor | None,
        rng: Rng,
        *,
        temperature: float = 1.0,
        particles: int = 64,
        incremental: bool = True,
    ) -> Tensor:
        """Draw what is not known, in an order that has the known entries first; where the model has none, by a filter of `particles`."""
        flat = known.flatten().cpu()
        own = [o for o in self.orderings if known_first(flat, o.sequence)]
        if not own and not (self.agnostic and self.order == "random"):
            return self._filtered(x, flat, c, rng, temperature, particles, incremental)
        ordering = own[0] if own else self.orderings[0]
        if not own:
            sequence = sorted(ordering.sequence, key=lambda d: not flat[d])  # stable: the known ones first, each part in its own order
            ordering = Ordering(sequence, ordering.units)
        return self._drawn(x, flat, c, rng, ordering, temperature, incremental)

    def _filtered(
        self, x: Tensor, known: Tensor, c: Tensor | None, rng: Rng, temperature: float, particles: int, incremental: bool
    ) -> Tensor:
        """By a filter in each ordering, of which one is taken in proportion to its estimate of p(known): p is the mean of the members."""
        found = []
        for ordering in self.orderings:

            def draw(x: Tensor, c: Tensor | None, swarm: Particles, ordering: Ordering = ordering) -> Tensor:
                return self._drawn(x, known, c, rng, ordering, 1.0, incremental, swarm)

            found.append(filtered(draw, x, c, rng, particles=particles, temperature=temperature, rows=self.chunk))
        which = rng.categorical(torch.stack([evidence for _, evidence in found], 1))
        return torch.stack([drawn for drawn, _ in found])[which, torch.arange(len(x), device=x.device)]

    def _drawn(
        self,
        given: Tensor,
        known: Tensor,
        c: Tensor | None,
        rng: Rng,
        ordering: Ordering,
        temperature: float,
        incremental: bool,
        swarm: Particles | None = None,
    ) -> Tensor:
        """The records (n, *shape) with the entries outside `known` (D,) drawn one by one in this ordering; rows of a `swarm`, if any."""
        check_temperature(temperature)
        x = torch.where(known.to(given.device), given.flatten(1), 0)

        def choose(d: int, params: Tensor) -> Tensor:
            if not known[d]:
                x[:, d] = draw(self.columns.likelihoods[d], params, rng, temperature)
            elif swarm is not None:
                swarm.weigh(self.columns.likelihoods[d].log_prob(params, x[:, d]), x)
            return self.encoders[d].see(x[:, d : d + 1])

        if incremental:
            net = self._own(ordering) or reordered(self.net, ordering)
            net.incremental(len(x), c, lambda d, params: choose(d, params.t()).t(), None if swarm is None else swarm.moved)
        else:
            for d in ordering.sequence:
                choose(d, self._params(x.view_as(given), c, ordering)[:, self.columns.slices[d]])
        return x.view_as(given)


def known_answers() -> Iterator[Known]:
    """Probabilities that sum to 1, densities that integrate to 1, and a fit that reaches minus the entropy."""
    bits = DataSpec("points", (12,), (BINARY,))
    mixed = DataSpec("table", (4,), (BINARY, categories(5), levels(7), categories(3)), condition_dim=2)
    small: list[tuple[str, MADE, DataSpec]] = [
        ("MADE, 2^12 binary records", MADE(hidden=(32, 32)), bits),
        ("MADE, 4 random orders, 2^12 binary records", MADE(hidden=(32, 32), order="random", masks=4, direct=True), bits),
        ("MADE, random order, 3^7 records", MADE(hidden=(32,), order="random", direct=True), DataSpec("points", (7,), (levels(3),))),
        ("MADE, 100^2 records, logistics", MADE(hidden=(32,), components=3), DataSpec("points", (2,), (levels(100),))),
        ("MADE, mixed columns given c", MADE(hidden=(32, 32)), mixed),
    ]
    for what, model, spec in small:
        total = float(enumerated(roughened(model, spec))[1].exp().sum())
        yield Known(f"{what}: probabilities sum to 1", 1.0, total, 1e-11, ROUNDING)
    yield from _integrals()
    yield _entropy()


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
