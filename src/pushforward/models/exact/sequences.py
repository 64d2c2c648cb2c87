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
from ...errors import ConfigError, Unsupported
from ...model import GradientModel
from ...nn.frames import IndependentHead, NADEHead
from ...rng import Rng
from ...train import Batch, Loss, Objective

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
            nn.init.normal_(self.symbols.weight, std=0.02 if self._tied else 1.0)
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
            log_p = -F.cross_entropy(self.out(h).flatten(0, 1), x.long().flatten(), reduction="none").view(x.shape)
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
        spec = self._spec
        T, music = spec.shape[0], len(spec.shape) == 2
        self._check_options(temperature, top_k, top_p, music)
        begun = self._begun(prompt)
        u = rng.rand(n, *spec.shape)
        x = torch.zeros_like(u)
        over = torch.zeros(n, dtype=torch.bool, device=u.device)
        state = self.net.start(n, T) if cached else None  # type: ignore[operator]
        given = 0.0 if self.given is None else self.given(c)
        for t in range(T):
            h = self._past(x[:, : t + 1], c)[:, t] if state is None else self._next(x, t, given, state)
            if t < len(begun):
                x[:, t] = begun[t].to(x)
                continue
            x[:, t] = self._frame(h, u[:, t], over, temperature) if music else self._symbol(h, u[:, t], over, temperature, top_k, top_p)
            if spec.ends:
                over = self._over(x[:, t : t + 1])[:, 0]
                if over.all():
                    x[:, t + 1 :] = x[:, t : t + 1]
                    break
        return x

    def _next(self, x: Tensor, t: int, given: Any, state: Any) -> Tensor:
        e = self._embed(x[:, t - 1]) if t else self.first.expand(len(x), -1)
        return self.net.step(e + given, state)  # type: ignore[operator]

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

    def _check_options(self, temperature: float, top_k: int | None, top_p: float | None, music: bool) -> None:
        if not temperature > 0:
            raise ConfigError(f"temperature must be above 0, got {temperature}. Give top_k=1 for the most probable symbol each time.")
        if music and (top_k is not None or top_p is not None):
            raise ConfigError("top_k and top_p choose among symbols, and frames are bits. Lower the temperature instead.")
        if top_k is not None and top_k < 1:
            raise ConfigError(f"top_k must be at least 1, got {top_k}.")
        if top_p is not None and not 0 < top_p <= 1:
            raise ConfigError(f"top_p is a probability above 0 and at most 1, got {top_p}.")

    def _begun(self, prompt: Any) -> Tensor:
        """The steps that a prompt gives."""
        if prompt is None:
            return torch.zeros(0)
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


def shaped(logits: Tensor, temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None) -> Tensor:
    """Probabilities p^(1/temperature), of the k most probable symbols, or of the fewest whose sum reaches top_p (nucleus; Holtzman et al.
    2020, equation 2), zero elsewhere: not normalised.
    """
    p = (logits / temperature).softmax(-1)
    if top_k is not None and top_k < p.shape[-1]:
        p = p.where(p >= p.topk(top_k, -1).values[..., -1:], 0.0)
    if top_p is not None and top_p < 1:
        q, order = (p / p.sum(-1, keepdim=True)).sort(-1, descending=True)
        # A symbol stays while the more probable ones together are below top_p.
        p = p * torch.zeros_like(p).scatter(-1, order, (q.cumsum(-1) - q < top_p).to(p.dtype))
    return p


def transposed(x: Tensor, keys: int, most: int, rng: Rng) -> Tensor:
    """Each piece (B, T, K) moved by a random number of keys, at most `most` up or down and never off the keyboard."""
    sounds = x[..., :keys].amax(1) > 0
    place = torch.arange(keys, device=x.device)
    lowest = torch.where(sounds, place, keys).amin(1).clamp(max=keys - 1)
    highest = torch.where(sounds, place, -1).amax(1).clamp(min=0)
    down, up = lowest.clamp(max=most), (keys - 1 - highest).clamp(max=most)
    by = (rng.rand(len(x)) * (down + up + 1)).floor().long() - down
    at = (place - by[:, None]) % keys  # keys that wrap round are silent
    moved = x[..., :keys].gather(2, at[:, None].expand(-1, x.shape[1], -1))
    return torch.cat([moved, x[..., keys:]], 2)
