r"""What models of sequences share: p(x | c) = prod_t p(x_t | x_{<t}, c), exactly, whatever network reads the past.

A network over time (`nn.sequence`) turns the steps before t into h_t; a head turns h_t into the distribution of step t:

- symbols: a softmax over the vocabulary, the end of the record being one more symbol; the pixels of an image are symbols too, in raster
  order (row by row, pixel by pixel, channel by channel), and the network is told the row and the column of each;
- frames of bits, such as the keys of a piano: the bit "the record has ended" by a logistic unit of its own, then, where it has not, the
  keys by NADE or independently (`nn.frames`).

All steps of a record come from one pass (teacher forcing). After the end nothing is left to chance: such steps count nothing.
"""

from abc import abstractmethod
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ...data import Data
from ...data.sequences import SequenceSchema
from ...data.spec import DataSpec, categories
from ...errors import ConfigError, DataError, Unsupported
from ...nn.frames import IndependentHead, NADEHead
from ...nn.sequence import Raster
from ...rng import Rng
from ...train import Batch, Loss, Objective
from .pixels import raster, refusal
from .sequence_draws import SequenceDraws
from .sequence_parts import carried, overlapping, shaped, transposed

__all__ = ["SequenceModel", "shaped", "transposed"]

Head = Literal["nade", "independent"]
FREQUENCIES = 2**24
"""Entries of training records that are counted before the first step."""
LOGITS = 2**24
"""Logits that a pass of log_prob makes at most, 64 MB of floats."""


class SequenceModel(SequenceDraws):
    """The base of `Recurrent` and `Transformer`, which give the network over time. Not offered itself."""

    density = "exact"
    takes_sequences = True
    unsupported = dict.fromkeys(
        ("encode", "decode", "posterior", "likelihood"),
        "an autoregressive model has no latent code; its samples continue a prompt instead.",
    )

    head: Head
    nade_hidden: int
    transpose: int
    dropout: float
    per_record_dropout: bool = False
    """Whether a record keeps one dropout mask for all its steps."""

    @classmethod
    def accepts(cls, spec: DataSpec) -> str | None:
        support = spec.support
        if spec.kind == "image":
            return refusal(cls.__name__, spec)
        if spec.kind != "sequence" or support is None or (support.name, len(spec.shape)) not in (("categories", 1), ("binary", 2)):
            return (
                f"{cls.__name__} models texts, music and images, and these records are {spec}. Use made, the autoregressive model for any "
                "record."
            )
        return None

    # -- networks -----------------------------------------------------------------------------------------------------

    @abstractmethod
    def _network(self, length: int) -> tuple[nn.Module, int]:
        """The network over time for sequences of this length, and its width."""

    def _build(self, spec: DataSpec) -> None:
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"dropout is a share from 0 to below 1, got {self.dropout}.")
        if self.head not in ("nade", "independent"):
            raise ConfigError(f"head={self.head!r} is not known. Choose 'nade' or 'independent'.")
        self._image = spec.shape if spec.kind == "image" else None
        if self._image is not None:
            spec = DataSpec("sequence", (spec.dim,), (categories(spec.supports[0].size or 2),), spec.condition_dim)
        self._spec = spec
        self.nfe = spec.shape[0]
        self.net, width = self._network(spec.shape[0])
        self.first = nn.Parameter(0.02 * torch.randn(width))
        self.given = nn.Linear(spec.condition_dim, width, bias=False) if spec.condition_dim else None
        self.places = None if self._image is None else Raster(self._image, width, self._symbol_sd)
        if len(spec.shape) == 1:
            self.symbols = nn.Embedding(spec.supports[0].size or 2, width)
            nn.init.normal_(self.symbols.weight, std=self._symbol_sd)
            self.out = nn.Linear(width, spec.supports[0].size or 2)
            if self._tied:
                self.out.weight = self.symbols.weight
            return
        self._keys = spec.shape[1] - spec.ends
        self.frame = nn.Linear(spec.shape[1], width)
        self.keys = NADEHead(width, self._keys, self.nade_hidden) if self.head == "nade" else IndependentHead(width, self._keys)
        self.end = nn.Linear(width, 1) if spec.ends else None

    @torch.no_grad()
    def _prepare(self, data: Data, seed: int) -> None:
        """Start at the frequencies of the training records' steps: the first steps of training need not find them."""
        x = self._unrolled(data.train.subset(slice(0, max(1, FREQUENCIES // self._spec.dim))).tensor())
        if x.ndim == 2:
            counts = torch.bincount(x.flatten().long(), minlength=self.out.out_features).to(self.out.bias)
            self.out.bias.copy_(((counts + 1) / (counts + 1).sum()).log())
            return
        over = self._over(x)
        share = (x[~over][:, : self._keys].sum(0) + 1) / ((~over).sum() + 2)
        self.keys.visible.bias.copy_(share.logit())
        if self.end is not None:
            first = (over.cumsum(1) == 1).sum()
            self.end.bias.copy_(((first + 1) / (first + (~over).sum() + 2)).logit())

    @property
    @abstractmethod
    def _tied(self) -> bool:
        """Whether symbols enter by the weights that they leave by (Press & Wolf 2017)."""

    @property
    @abstractmethod
    def _symbol_sd(self) -> float:
        """The standard deviation of the first weights by which symbols enter."""

    def _embed(self, x: Tensor) -> Tensor:
        """Steps as inputs of the network, (..., T) or (..., K) -> (..., w)."""
        return self.symbols(x.long()) if self._spec.shape[1:] == () else self.frame(x)

    def _unrolled(self, x: Tensor) -> Tensor:
        return x if self._image is None else raster(x)

    def _rolled(self, x: Tensor) -> Tensor:
        if self._image is None:
            return x
        C, H, W = self._image
        return x.view(len(x), H, W, C).movedim(-1, 1)

    def _over(self, x: Tensor) -> Tensor:
        if not self._spec.ends:
            return torch.zeros(x.shape[:2], dtype=torch.bool, device=x.device)
        return x[..., -1] > 0 if x.ndim == 3 else x == self.out.out_features - 1

    def _fed(self, x: Tensor, first: int, t: int, given: Tensor | None) -> Float[Tensor, "B k w"]:
        e = self._embed(x[:, max(first, 1) - 1 : t])
        if not first:
            e = torch.cat([self.first.expand(len(x), 1, -1), e], 1)
        e = e if given is None else e + given
        return e if self.places is None else e + self.places(first, t + 1)

    def _past(self, x: Tensor, c: Tensor | None, drop: Any = None) -> Float[Tensor, "B T w"]:
        return self.net(self._fed(x, 0, x.shape[1] - 1, None if self.given is None else self.given(c)[:, None]), drop)

    # -- density ------------------------------------------------------------------------------------------------------

    def _steps(self, x: Tensor, c: Tensor | None, drop: Any = None) -> tuple[Tensor, Tensor, Tensor]:
        """log p of each step, log p of each frame's end bit (zeros for symbols), and which steps are part of the record: (B, T) each."""
        T, music, over = x.shape[1], x.ndim == 3, self._over(x)
        ended_before = (over.cumsum(1) - over.long()) > 0
        lasts = int((~ended_before).sum(1).max())
        # Steps after the end of the longest record cost nothing.
        x, over, ended_before = x[:, :lasts], over[:, :lasts], ended_before[:, :lasts]
        h = self._past(x, c, drop)
        if not music:
            log_p = self._of_symbols(h, x)
            found = log_p.masked_fill(ended_before, 0.0), torch.zeros_like(log_p), ~ended_before
        else:
            alive, v = ~over & ~ended_before, x[..., : self._keys]
            bits = -F.binary_cross_entropy_with_logits(self.keys.logits(h[alive], v[alive]), v[alive], reduction="none").sum(1)
            log_p = torch.zeros(alive.shape, dtype=h.dtype, device=h.device).masked_scatter(alive, bits)
            stops = torch.zeros_like(log_p)
            if self.end is not None:
                stops = -F.binary_cross_entropy_with_logits(self.end(h).squeeze(2), over.to(h.dtype), reduction="none")
            found = log_p, stops.masked_fill(ended_before, 0.0), alive
        return tuple(F.pad(t, (0, T - lasts)) for t in found)  # type: ignore[return-value]

    def _of_symbols(self, h: Tensor, x: Tensor) -> Tensor:
        # In the weights' own precision under autocast too.
        rows, symbols = h.flatten(0, -2), x.long().flatten()
        # Without gradients nothing needs all logits at once.
        size = len(rows) if torch.is_grad_enabled() else max(1, LOGITS // self.out.out_features)
        parts = zip(rows.split(size), symbols.split(size), strict=True)
        log_p = [-F.cross_entropy(self.out(r).to(self.first.dtype), s, reduction="none") for r, s in parts]
        return torch.cat(log_p).view(x.shape)

    def _parts(self, x: Tensor) -> tuple[Tensor, ...]:
        """Positions of records for one pass after the other, so that logits stay within bounds."""
        size = self.out.out_features if x.ndim == 2 else 16 * self._spec.shape[1]
        return torch.arange(len(x)).split(max(1, LOGITS // (x.shape[1] * size)))

    def _log_prob(self, x: Tensor, c: Tensor | None, rng: Rng) -> Tensor:
        x = self._unrolled(x)

        def total(at: Tensor) -> Tensor:
            log_p, stops, _ = self._steps(x[at], None if c is None else c[at])
            return (log_p + stops).sum(1)

        log_p = torch.cat([total(at) for at in self._parts(x)])
        if not self._spec.ends:
            return log_p
        # A record stays ended once it has, and nothing sounds after its end.
        over = self._over(x)
        wrong = (over[:, :-1] & ~over[:, 1:]).any(1)
        if x.ndim == 3:
            wrong |= (over & (x[..., :-1] > 0).any(2)).any(1)
        return log_p.masked_fill(wrong, -torch.inf)

    def per_token(self, records: Any, *, condition: Any = None) -> Tensor:
        """log p(x_t | x_{<t}) of each symbol, frame or pixel (in raster order) in nats, (n, T); NaN where a record has none.

        The end counts as a symbol of texts, as in perplexities of sentences. For frames the chance that a piece goes on, or ends, is left
        out, as in published figures: it is in `log_prob`. Minus the mean of what is not NaN is the figure in nats per symbol or frame.
        """
        self._ready("log_prob")
        x, c = self._inputs(records, condition)
        x = self._unrolled(x)
        found = []
        with torch.no_grad():
            for at in self._parts(x):
                log_p, _, there = self._steps(x[at], None if c is None else c[at])
                found.append(log_p.masked_fill(~there, torch.nan).cpu())
        return torch.cat(found)

    def running(self, text: str, *, condition: Any = None) -> Tensor:
        """log p(x_t | x_{<t}) in nats of each symbol of one text of any length, in one pass, (n,).

        A recurrent network carries its state from the first symbol to the last, so that each is given all before it. A transformer reads
        windows of T symbols that overlap by half: each symbol is given at least T / 2 before it, or all there are. exp of minus the mean is
        the perplexity of the text; the end of a line is one of the symbols of words. The first symbol is given nothing.

        Raises `Unsupported` for music, and for models of texts that end (fitted to lines): `per_token` has those.
        """
        spec = self._ready("log_prob")
        if len(spec.shape) > 1 or spec.ends or not isinstance(self.schema, SequenceSchema):
            raise Unsupported("running() reads one text that has no end, by a model fitted to such. Use per_token(records).")
        x, c = self.schema.ids(text).to(self.device), self._condition(condition, 1)
        if len(x) < 1:
            raise DataError("The text is empty. Give at least one symbol.")
        with torch.no_grad():
            return (carried if self.net.endless else overlapping)(self, x, c).cpu()

    # -- training -----------------------------------------------------------------------------------------------------

    def _objectives(self) -> tuple[Objective, ...]:
        return (Objective("nll", (self,), self._loss),)

    def _loss(self, batch: Batch) -> Loss:
        """-log p(x | c) / T: in nats per step, so that clipping and learning rates do not depend on T."""
        x, drop = self._unrolled(batch.x), None
        if self.net.training:
            if self.transpose and x.ndim == 3:
                x = transposed(x, self._keys, self.transpose, batch.rng)
            if self.dropout:
                drop = lambda h: h * self._mask(h, batch.rng)
        log_p, stops, there = self._steps(x, batch.c, drop)
        nats = -(log_p + stops).sum(1)
        return Loss(nats / x.shape[1], {"per_token": -log_p.detach().sum(1) / there.sum(1).clamp(min=1)})

    def _mask(self, h: Tensor, rng: Rng) -> Tensor:
        shape = (h.shape[0], 1, h.shape[2]) if self.per_record_dropout else h.shape
        return (rng.rand(*shape) >= self.dropout).to(h.dtype) / (1 - self.dropout)
