r"""What models of sequences share: p(x | c) = prod_t p(x_t | x_{<t}, c), exactly, whatever network reads the past.

A network over time (`nn.sequence`) turns the steps before t into h_t; a head turns h_t into the distribution of step t:

- symbols: a softmax over the vocabulary, the end of the record being one more symbol;
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
from ...data.spec import DataSpec
from ...errors import ConfigError, DataError, Unsupported
from ...model import GradientModel
from ...nn.frames import IndependentHead, NADEHead
from ...rng import Rng
from ...train import Batch, Loss, Objective
from .sequence_parts import carried, check_options, overlapping, shaped, transposed

__all__ = ["SequenceModel", "shaped", "transposed"]

Head = Literal["nade", "independent"]
FREQUENCIES = 2**24
"""Entries of training records that are counted before the first step."""
LOGITS = 2**24
"""Logits that a pass of log_prob makes at most, 64 MB of floats."""


class SequenceModel(GradientModel):
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
        if spec.kind != "sequence" or support is None or (support.name, len(spec.shape)) not in (("categories", 1), ("binary", 2)):
            return (
                f"{cls.__name__} models texts and music, and these records are {spec}. Use made, the autoregressive model for any record."
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
        self.nfe = spec.shape[0]
        self.net, width = self._network(spec.shape[0])
        self.first = nn.Parameter(0.02 * torch.randn(width))
        self.given = nn.Linear(spec.condition_dim, width, bias=False) if spec.condition_dim else None
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
        x = data.train.x[: max(1, FREQUENCIES // self._spec.dim)]
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

    @property
    def _spec(self) -> DataSpec:
        assert self.spec is not None
        return self.spec

    def _over(self, x: Tensor) -> Tensor:
        """Which steps of records (B, T, ...) say that the record has ended, (B, T) bool."""
        if not self._spec.ends:
            return torch.zeros(x.shape[:2], dtype=torch.bool, device=x.device)
        return x[..., -1] > 0 if x.ndim == 3 else x == self.out.out_features - 1

    def _past(self, x: Tensor, c: Tensor | None, drop: Any = None) -> Float[Tensor, "B T w"]:
        """h_1 .. h_T, of which h_t knows x_1 .. x_{t-1} and c."""
        e = torch.cat([self.first.expand(len(x), 1, -1), self._embed(x[:, :-1])], 1)
        return self.net(e if self.given is None else e + self.given(c)[:, None], drop)

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
        """log p of the symbols x (...) given the features h (..., w) before them; in the weights' own precision under autocast too."""
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
        """log p(x_t | x_{<t}) of each symbol or frame in nats, (n, T); NaN where a record has none.

        The end counts as a symbol of texts, as in perplexities of sentences. For frames the chance that a piece goes on, or ends, is left
        out, as in published figures: it is in `log_prob`. Minus the mean of what is not NaN is the figure in nats per symbol or frame.
        """
        self._ready("log_prob")
        x, c = self._inputs(records, condition)
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
        x, drop = batch.x, None
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

    # -- samples ------------------------------------------------------------------------------------------------------

    def _sample(
        self,
        n: int,
        c: Tensor | None,
        rng: Rng,
        *,
        prompt: Any = None,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        cached: bool = True,
    ) -> Tensor:
        """Draw step by step. `cached=False` repeats the full pass for each step (slow; for checking)."""
        begun = self._begun(prompt)
        x = torch.zeros(n, *self._spec.shape, dtype=rng.dtype, device=rng.device)
        x[:, : len(begun)] = begun.to(x)
        return self._continued(x, len(begun), c, rng, temperature, top_k, top_p, cached)

    def _complete(
        self,
        x: Tensor,
        known: Tensor,
        c: Tensor | None,
        rng: Rng,
        *,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
    ) -> Tensor:
        """p(the rest | a beginning) is the product of the last conditionals; any other part would need a sum over all between."""
        steps = known.flatten(1).all(1) if known.ndim == 2 else known
        count = int(steps.long().cumprod(0).sum())
        if bool(known.flatten()[count * known[0].numel() :].any()):
            raise Unsupported(
                f"{type(self).__name__} draws p(unknown | known) exactly only where the known steps are the first ones; here step {count} "
                "(from 0) is not known whole and a later entry is. Mark only a beginning as known."
            )
        return self._continued(x, count, c, rng, temperature, top_k, top_p, True)

    def _continued(
        self,
        x: Tensor,
        begun: int,
        c: Tensor | None,
        rng: Rng,
        temperature: float,
        top_k: int | None,
        top_p: float | None,
        cached: bool,
    ) -> Tensor:
        """The records x (n, T, ...) drawn anew from step `begun` on; what was begun enters the network in one pass."""
        spec = self._spec
        T, music = spec.shape[0], len(spec.shape) == 2
        check_options(temperature, top_k, top_p, music)
        u = rng.rand(*x.shape)
        with torch.inference_mode():
            x = x.clone()
            over = self._over(x[:, begun - 1 : begun])[:, 0] if begun else torch.zeros(len(x), dtype=torch.bool, device=x.device)
            state = self.net.start(len(x), T) if cached else None  # type: ignore[operator]
            given = None if self.given is None else self.given(c)[:, None]
            for t in range(begun, T):
                h = self._past(x[:, : t + 1], c)[:, t] if state is None else self._next(x, t if t > begun else 0, t, given, state)
                x[:, t] = self._frame(h, u[:, t], over, temperature) if music else self._symbol(h, u[:, t], over, temperature, top_k, top_p)
                if spec.ends:
                    over = self._over(x[:, t : t + 1])[:, 0]
                    if over.all():
                        x[:, t + 1 :] = x[:, t : t + 1]
                        break
        return x.clone()  # an ordinary tensor again

    def _next(self, x: Tensor, first: int, t: int, given: Tensor | None, state: Any) -> Tensor:
        """h_t, the network having seen what comes before step `first` of x: the inputs of steps `first` .. t enter."""
        e = self._embed(x[:, max(first, 1) - 1 : t])
        if not first:
            e = torch.cat([self.first.expand(len(x), 1, -1), e], 1)
        return self.net.steps(e if given is None else e + given, state)[:, -1]  # type: ignore[operator]

    def _symbol(self, h: Tensor, u: Tensor, over: Tensor, temperature: float, top_k: int | None, top_p: float | None) -> Tensor:
        p = shaped(self.out(h), temperature, top_k, top_p).cumsum(1)
        drawn = (u[:, None] * p[:, -1:] >= p).sum(1).clamp(max=p.shape[1] - 1).to(u.dtype)
        return drawn.masked_fill(over, p.shape[1] - 1) if self._spec.ends else drawn

    def _frame(self, h: Tensor, u: Tensor, over: Tensor, temperature: float) -> Tensor:
        keys = self.keys.draw(h, u[:, : self._keys], temperature)
        if self.end is None:
            return keys
        over = over | (u[:, -1] < (self.end(h).squeeze(1) / temperature).sigmoid())
        return torch.cat([keys.masked_fill(over[:, None], 0.0), over[:, None].to(keys.dtype)], 1)

    def _begun(self, prompt: Any) -> Tensor:
        """The steps that a prompt gives."""
        if prompt is None:
            return torch.zeros(0, *self._spec.shape[1:])
        if isinstance(prompt, Tensor):
            return prompt
        if not isinstance(self.schema, SequenceSchema):
            raise Unsupported("A model that was built and not fitted knows no vocabulary. Give the prompt as a tensor of steps.")
        return self.schema.prefix(prompt)

    def extend(self, prompt: Any, steps: int, *, condition: Any = None, seed: int | None = None, **options: Any) -> Any:
        """The prompt and `steps` more symbols or frames of it, fewer where the record ends: as long as you like, beyond T too.

        Where more than T steps are wanted, each half of T is drawn given the half before it. `options` are those of `sample`: temperature,
        top_k, top_p. Returns text or a piece; `seed` fixes it.
        """
        self._ready("sample")
        assert isinstance(self.schema, SequenceSchema)
        schema, T = self.schema, self._spec.shape[0]
        whole = schema.begun(prompt)
        wanted, c, rng = len(whole) + steps, self._condition(condition, 1), self._rng(None, seed)
        hook = self._hook("sample", options)
        with torch.no_grad():
            while len(whole) < wanted:
                seen = whole if len(whole) < T else whole[-(T // 2) :]
                drawn = hook(1, c, rng, prompt=seen, **options)[0].cpu()
                over = self._over(drawn[None])[0]
                new = drawn[len(seen) :][~over[len(seen) :]]
                whole = torch.cat([whole.to(new), new])[:wanted]
                if over.any():
                    break
        return schema.plain(whole)
