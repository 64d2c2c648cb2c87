r"""NADE (Larochelle & Murray 2011) and RNADE (Uria, Murray & Larochelle 2013): hidden units that grow with each entry seen.

    a_d = b + V c + sum_{e<d} W_e f(x_e),     h_d = g(a_d),     parameters of x_d = b_d + V_d h_d + R_d c

with one column block W_e and one output block V_d per entry, shared hidden units and f(x_e) the features of an entry. a_{d+1} differs from
a_d by one term, so density and sampling both cost O(D H) and not O(D^2 H).
"""

import math
from collections.abc import Iterator
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...data.features import Features
from ...data.spec import BINARY, REAL, DataSpec, categories, levels
from ...known import Known
from ...likelihoods import ColumnLikelihood, Mixture, for_support
from ...model import GradientModel
from ...nn.masked import ranks, sequence_of
from ...rng import Rng
from ...train import Batch, Loss, Objective, Training
from .particles import Particles, filtered
from .sequential import ROUNDING, UNSUPPORTED, check_temperature, draw, enumerated, known_first, roughened

__all__ = ["NADE"]

BLOCK = 16
"""Entries whose activations are made by one product; see `Cumulative.forward`."""


class Cumulative(nn.Module):
    """NADE's network over D variables in order: features (B, D, E) -> parameters (B, D, P), those of d from the features before it."""

    def __init__(self, D: int, E: int, P: int, hidden: int, activation: str, condition_dim: int):
        super().__init__()
        self.activation = torch.sigmoid if activation == "sigmoid" else F.relu
        self.W = nn.Parameter(torch.randn(D, E, hidden) / math.sqrt(D * E))
        self.b = nn.Parameter(torch.zeros(hidden))
        self.V = nn.Parameter(torch.randn(D, P, hidden) / math.sqrt(hidden))
        self.out = nn.Parameter(torch.zeros(D, P))
        self.condition = nn.Linear(condition_dim, hidden + D * P, bias=False) if condition_dim else None

    def given(self, c: Tensor | None, n: int) -> tuple[Tensor, Tensor]:
        """a_1 (n, H), and what is added to the outputs, (n, D, P)."""
        a, out = self.b.expand(n, -1), self.out.expand(n, -1, -1)
        if self.condition is None or c is None:
            return a, out
        u, r = self.condition(c).split((len(self.b), self.out.numel()), 1)
        return a + u, out + r.view_as(out)

    def forward(self, f: Tensor, c: Tensor | None = None) -> Tensor:
        """All D conditionals in one pass, without a loop over single entries.

        The sum over earlier entries is split: whole blocks of `BLOCK` entries by a cumulative sum over blocks, those of the same block by a
        product with the strictly lower triangle, of size BLOCK. So no activation is summed more than once per block.
        """
        B, D, E = f.shape
        P, H, pad = self.V.shape[1], len(self.b), -D % BLOCK
        first, out = self.given(c, B)
        x = F.pad(f, (0, 0, 0, pad)).view(B, -1, BLOCK * E)
        W = F.pad(self.W, (0, 0, 0, 0, 0, pad)).view(-1, BLOCK * E, H)
        whole = torch.einsum("bnk,nkh->bnh", x, W)
        before = whole.cumsum(1) - whole + first[:, None]
        earlier = torch.ones(BLOCK, BLOCK, dtype=f.dtype, device=f.device).tril(-1).repeat_interleave(E, 1)
        V = F.pad(self.V, (0, 0, 0, 0, 0, pad)).view(-1, BLOCK, P, H)
        parts = []
        for n in range(len(W)):  # the activations of a block stay in the cache
            within = (x[:, n, None] * earlier).flatten(0, 1) @ W[n]
            h = self.activation(within.view(B, BLOCK, H) + before[:, n, None])
            parts.append(torch.einsum("bdh,dph->bdp", h, V[n]))
        return torch.cat(parts, 1)[:, :D] + out


class NADE(GradientModel):
    r"""A neural autoregressive distribution estimator: log p(x | c) = sum_d log p(x_d | x_{<d}, c), exactly, at a cost of O(D H).

    The conditionals are those of `MADE`: Bernoulli, softmax, mixtures of Gaussians for real columns (which makes it RNADE), by column. All
    the hidden units see every earlier entry, where MADE deals them out; each entry has an output layer of its own.

    Reference: Larochelle, Murray 2011, The Neural Autoregressive Distribution Estimator, equations 9 and 10 and algorithm 1; Uria,
    Murray, Larochelle 2013, RNADE, equations 2 to 8 (without its rescaling of activations by rho_d).

    Parameters
    ----------
    hidden
        H, the hidden units. Default 500, as in the paper.
    components
        Members K of each mixture. Default 10, as in RNADE's experiments on small tables.
    activation
        g: `sigmoid`, as in NADE, or `relu`, as in RNADE; `auto` takes the sigmoid where all entries are discrete.
    order
        `natural` (columns left to right, pixels row by row) or `random`, a permutation fixed by `order_seed`. The paper's is random.
    order_seed
        The seed of the random order.
    """

    name = "nade"
    density = "exact"
    training = Training(lr=1e-3, batch_size=64, ema=0.995, schedule="cosine", clip=10.0)
    unsupported = UNSUPPORTED

    def __init__(
        self,
        *,
        hidden: int = 500,
        components: int = 10,
        activation: Literal["auto", "sigmoid", "relu"] = "auto",
        order: Literal["natural", "random"] = "natural",
        order_seed: int = 0,
    ):
        super().__init__()
        self.activation: Literal["auto", "sigmoid", "relu"] = activation
        self.order: Literal["natural", "random"] = order
        self.hidden, self.components, self.order_seed = hidden, components, order_seed

    def _build(self, spec: DataSpec) -> None:
        self.nfe = spec.dim
        K = self.components
        families = [for_support(s, ordered=(s.size or 0) > 64) for s in spec.columns]
        mixed = [f if K == 1 or s.name in ("binary", "categories") or f.name == "categorical" else Mixture(f, K, spread=True)
                 for f, s in zip(families, spec.columns, strict=True)]  # fmt: skip
        self.columns = ColumnLikelihood(mixed)
        self.features = Features(spec)
        self.encoders = self.features.of_columns()
        self.sequence = sequence_of(spec.dim, self.order, self.order_seed)
        self.widths = [e.dim for e in self.encoders]
        self.params = [s.stop - s.start for s in self.columns.slices]
        smooth = self.activation == "sigmoid" or (self.activation == "auto" and spec.discrete)
        activation = "sigmoid" if smooth else "relu"
        self.net = Cumulative(spec.dim, max(self.widths), max(self.params), self.hidden, activation, spec.condition_dim)

    def _objectives(self) -> tuple[Objective, ...]:
        return (Objective("nll", (self.net,), self._loss),)

    def _loss(self, batch: Batch) -> Loss:
        return Loss(-self._log_probs(batch.x, batch.c))

    def _params(self, x: Tensor, c: Tensor | None) -> Tensor:
        """The parameters of all conditionals side by side, (B, total), as `ColumnLikelihood` takes them."""
        f = self._padded(self.features.see(x).flatten(1))[:, self.sequence]
        y = self.net(f, c)[:, (ranks(self.sequence) - 1).to(x.device)]
        if len(set(self.params)) == 1:
            return y.flatten(1)
        return torch.cat([y[:, d, :p] for d, p in enumerate(self.params)], 1)

    def _padded(self, f: Tensor) -> Tensor:
        """Features side by side, (B, sum of widths), as one row of equal width for each variable, (B, D, E)."""
        if len(set(self.widths)) == 1:
            return f.unflatten(1, (len(self.widths), -1))
        wide = max(self.widths)
        return torch.stack([F.pad(part, (0, wide - part.shape[1])) for part in f.split(self.widths, 1)], 1)

    def _log_probs(self, x: Tensor, c: Tensor | None) -> Tensor:
        return self.columns.log_prob(self._params(x, c), x.flatten(1)).sum(1)

    def _log_prob(self, x: Tensor, c: Tensor | None, rng: Rng) -> Tensor:
        # 64 records at a time: their activations, D H numbers each, are 100 MB for images of 28x28.
        parts = torch.arange(len(x)).split(64)
        return torch.cat([self._log_probs(x[at], None if c is None else c[at]) for at in parts])

    def _sample(self, n: int, c: Tensor | None, rng: Rng, *, temperature: float = 1.0, incremental: bool = True) -> Tensor:
        """Draw the entries in order; `incremental=False` repeats the full pass for each entry (slow; for checking)."""
        assert self.spec is not None
        x = self.net.b.new_zeros(n, *self.spec.shape)
        return self._drawn(x, torch.zeros(self.spec.dim, dtype=torch.bool), c, rng, temperature, incremental)

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
        """Draw what is not known, exactly where it comes last in the order, and by a filter of `particles` elsewhere."""
        flat = known.flatten().cpu()
        if known_first(flat, self.sequence):
            return self._drawn(x, flat, c, rng, temperature, incremental)

        def draw(x: Tensor, c: Tensor | None, swarm: Particles) -> Tensor:
            return self._drawn(x, flat, c, rng, 1.0, incremental, swarm)

        return filtered(draw, x, c, rng, particles=particles, temperature=temperature, rows=self.chunk)[0]

    def _drawn(
        self,
        given: Tensor,
        known: Tensor,
        c: Tensor | None,
        rng: Rng,
        temperature: float,
        incremental: bool,
        swarm: Particles | None = None,
    ) -> Tensor:
        """The records (n, *shape) with the entries outside `known` (D,) drawn one by one; the rows are those of a `swarm`, if any."""
        check_temperature(temperature)
        x = torch.where(known.to(given.device), given.flatten(1), 0)
        a, out = self.net.given(c, len(x))
        for r, d in enumerate(self.sequence):
            if not known[d] or swarm is not None:
                if incremental:
                    params = torch.addmm(out[:, r], self.net.activation(a), self.net.V[r].T)[:, : self.params[d]]
                else:
                    params = self._params(x.view_as(given), c)[:, self.columns.slices[d]]
                if not known[d]:
                    x[:, d] = draw(self.columns.likelihoods[d], params, rng, temperature)
                elif swarm is not None:
                    index = swarm.weigh(self.columns.likelihoods[d].log_prob(params, x[:, d]), x)
                    a = a if index is None else a[index]
            a = torch.addmm(a, self.encoders[d].see(x[:, d : d + 1]), self.net.W[r, : self.widths[d]])
        return x.view_as(given)


def known_answers() -> Iterator[Known]:
    """Probabilities that sum to 1, and a density that integrates to 1."""
    bits = DataSpec("points", (12,), (BINARY,))
    mixed = DataSpec("table", (4,), (BINARY, categories(5), levels(7), categories(3)), condition_dim=2)
    small: list[tuple[str, NADE, DataSpec]] = [
        ("NADE, 2^12 binary records", NADE(hidden=16), bits),
        ("NADE, random order, 3x4 images, given c", NADE(hidden=16, order="random"), DataSpec("image", (1, 3, 4), (BINARY,), 2)),
        ("NADE, mixed columns given c", NADE(hidden=16), mixed),
        ("NADE, 100^2 records, logistics", NADE(hidden=16, components=3), DataSpec("points", (2,), (levels(100),))),
    ]
    for what, model, spec in small:
        total = float(enumerated(roughened(model, spec))[1].exp().sum())
        yield Known(f"{what}: probabilities sum to 1", 1.0, total, 1e-11, ROUNDING)
    model = NADE(hidden=16, components=3, activation="sigmoid").build(DataSpec("points", (2,), (REAL,)), seed=2).double()
    line = torch.arange(-15, 15, 0.1, dtype=torch.float64)
    with torch.no_grad():
        total = float(model._log_prob(torch.cartesian_prod(line, line), None, Rng.seeded(0)).exp().sum()) * 0.1**2
    because = (
        "The trapezoid rule errs by 2 exp(-2 (pi s / 0.1)^2), below 1e-8 for scales s above 0.1, and sigmoid units keep the initial ones "
        "there and the means within 5 of 0: the tails beyond 15 hold below 1e-9."
    )
    yield Known("RNADE, 2-D real: the density integrates to 1", 1.0, total, 1e-8, because)
