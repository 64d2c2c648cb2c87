"""Samples and completions of models of sequences: step after step, the network keeping what it has computed of the steps before.

Where the known steps come first the rest is drawn exactly; where a known step comes after an unknown one, by a filter of `particles`.
"""

from abc import abstractmethod
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ...data.sequences import SequenceSchema
from ...data.spec import DataSpec
from ...errors import ConfigError, Unsupported
from ...model import GradientModel
from ...rng import Rng
from .particles import Particles, filtered
from .sequence_parts import check_options, shaped

__all__ = ["SequenceDraws"]


class SequenceDraws(GradientModel):
    """What a `SequenceModel` draws; it lends the network and the distribution of a step."""

    net: Any
    given: nn.Linear | None
    out: nn.Linear
    keys: Any
    end: nn.Linear | None
    _keys: int
    _spec: DataSpec
    """The record as a sequence of steps; see `SequenceModel`."""

    @abstractmethod
    def _fed(self, x: Tensor, first: int, t: int, given: Tensor | None) -> Float[Tensor, "n k w"]:
        """The network's inputs at steps `first` .. `t`: the step before each (for the first a vector of its own), and what is `given`."""

    @abstractmethod
    def _past(self, x: Tensor, c: Tensor | None, drop: Any = None) -> Float[Tensor, "n T w"]:
        """h_1 .. h_T in one pass, of which h_t knows x_1 .. x_{t-1} and c."""

    @abstractmethod
    def _of_symbols(self, h: Tensor, x: Tensor) -> Tensor:
        """log p of the symbols x (...) given the features h (..., w) before them."""

    @abstractmethod
    def _unrolled(self, x: Tensor) -> Tensor:
        """Records as sequences of steps: images (n, C, H, W) -> (n, C H W)."""

    @abstractmethod
    def _rolled(self, x: Tensor) -> Tensor:
        """Sequences of steps as records."""

    @abstractmethod
    def _over(self, x: Tensor) -> Tensor:
        """Which steps say that the record has ended, (n, T) bool."""

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
        incremental: bool = True,
    ) -> Tensor:
        """Draw step by step. `incremental=False` repeats the full pass for each step (slow; for checking)."""
        check_options(temperature, top_k, top_p, len(self._spec.shape) == 2)
        begun = self._begun(prompt)
        x = torch.zeros(n, *self._spec.shape, dtype=rng.dtype, device=rng.device)
        x[:, : len(begun)] = begun.to(x)
        known = torch.arange(self._spec.shape[0]) < len(begun)
        return self._rolled(self._drawn(x, known, c, rng, temperature, top_k, top_p, incremental))

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
        particles: int = 64,
        incremental: bool = True,
    ) -> Tensor:
        """Steps after the last known one are drawn exactly; where a known one comes after an unknown one, by a filter of `particles`."""
        check_options(temperature, top_k, top_p, len(self._spec.shape) == 2)
        x, each = self._unrolled(x), self._unrolled(known[None])[0].cpu().view(self._spec.shape[0], -1)
        steps = each.all(1)
        if bool((each.any(1) & ~steps).any()):
            t = int((each.any(1) & ~steps).nonzero()[0])
            raise Unsupported(f"{type(self).__name__} knows a step whole or not at all; here step {t} (from 0) is known in part.")
        if not bool((steps[1:] & ~steps[:-1]).any()):
            return self._rolled(self._drawn(x, steps, c, rng, temperature, top_k, top_p, incremental))
        if top_k is not None or top_p is not None:
            raise ConfigError("top_k and top_p are for steps that come last; here a known one comes after. Leave them out.")

        def draw(x: Tensor, c: Tensor | None, swarm: Particles) -> Tensor:
            return self._drawn(x, steps, c, rng, 1.0, None, None, incremental, swarm)

        return self._rolled(filtered(draw, x, c, rng, particles=particles, temperature=temperature, rows=self.chunk)[0])

    def _drawn(
        self,
        x: Tensor,
        known: Tensor,
        c: Tensor | None,
        rng: Rng,
        temperature: float,
        top_k: int | None,
        top_p: float | None,
        incremental: bool,
        swarm: Particles | None = None,
    ) -> Tensor:
        """The records x (n, T, ...) with the steps outside `known` (T,) drawn; what is known first enters the network in one pass. The rows
        are those of a `swarm`, if any.
        """
        spec = self._spec
        T, begun = spec.shape[0], int(known.long().cumprod(0).sum())
        u = rng.rand(*x.shape)
        with torch.inference_mode():
            x = x.clone()
            over = self._over(x[:, begun - 1 : begun])[:, 0] if begun else torch.zeros(len(x), dtype=torch.bool, device=x.device)
            state = self.net.start(len(x), T) if incremental else None
            given = None if self.given is None else self.given(c)[:, None]
            for t in range(begun, T):
                h = self._past(x[:, : t + 1], c)[:, t] if state is None else self._next(x, t if t > begun else 0, t, given, state)
                if not known[t]:
                    x[:, t] = self._step(h, u[:, t], over, temperature, top_k, top_p)
                elif swarm is not None:
                    swarm.weigh(self._of_step(h, x[:, t], over), x)
                    index = swarm.moved()
                    if index is not None and state is not None:
                        self.net.move(state, index)
                if spec.ends:
                    over = self._over(x[:, t : t + 1])[:, 0]
                    if over.all() and not known[t:].any():
                        x[:, t + 1 :] = x[:, t : t + 1]
                        break
        return x.clone()  # an ordinary tensor again

    def _next(self, x: Tensor, first: int, t: int, given: Tensor | None, state: Any) -> Tensor:
        """h_t, the network having seen what comes before step `first` of x: the inputs of steps `first` .. t enter."""
        return self.net.steps(self._fed(x, first, t, given), state)[:, -1]

    def _step(self, h: Tensor, u: Tensor, over: Tensor, temperature: float, top_k: int | None, top_p: float | None) -> Tensor:
        """Step t given its features, from uniform numbers; where the record is `over` it stays so."""
        if len(self._spec.shape) == 1:
            p = shaped(self.out(h), temperature, top_k, top_p).cumsum(1)
            drawn = (u[:, None] * p[:, -1:] >= p).sum(1).clamp(max=p.shape[1] - 1).to(u.dtype)
            return drawn.masked_fill(over, p.shape[1] - 1) if self._spec.ends else drawn
        keys = self.keys.draw(h, u[:, : self._keys], temperature)
        if self.end is None:
            return keys
        over = over | (u[:, -1] < (self.end(h).squeeze(1) / temperature).sigmoid())
        return torch.cat([keys.masked_fill(over[:, None], 0.0), over[:, None].to(keys.dtype)], 1)

    def _of_step(self, h: Tensor, x: Tensor, over: Tensor) -> Float[Tensor, " n"]:
        """log p of a known step x (n, ...) given its features; after the end of a record nothing but the end is possible."""
        ended = self._over(x[:, None])[:, 0]
        if x.ndim == 1:
            log_p = self._of_symbols(h, x)
        else:
            v = x[:, : self._keys]
            log_p = -F.binary_cross_entropy_with_logits(self.keys.logits(h, v), v, reduction="none").sum(1).masked_fill(ended, 0.0)
            if self.end is not None:
                log_p = log_p - F.binary_cross_entropy_with_logits(self.end(h).squeeze(1), ended.to(h.dtype), reduction="none")
        return log_p.where(~over, torch.zeros_like(log_p).masked_fill(~ended, -torch.inf))

    def _begun(self, prompt: Any) -> Tensor:
        """The steps that a prompt gives."""
        if prompt is None:
            return torch.zeros(0, *self._spec.shape[1:])
        if isinstance(prompt, Tensor):
            return prompt
        if self.schema is not None and self.schema.spec.kind == "image":
            raise Unsupported("A prompt begins a text or a piece. For images give complete(records, known) with a mask of known pixels.")
        if not isinstance(self.schema, SequenceSchema):
            raise Unsupported("A model that was built and not fitted knows no vocabulary. Give the prompt as a tensor of steps.")
        return self.schema.prefix(prompt)

    def extend(self, prompt: Any, steps: int, *, condition: Any = None, seed: int | None = None, **options: Any) -> Any:
        """The prompt and `steps` more symbols or frames of it, fewer where the record ends: as long as you like, beyond T too.

        Where more than T steps are wanted, each half of T is drawn given the half before it. `options` are those of `sample`: temperature,
        top_k, top_p. Returns text or a piece; `seed` fixes it. Raises `Unsupported` for images.
        """
        self._ready("sample")
        if not isinstance(self.schema, SequenceSchema):
            raise Unsupported("extend() goes on with a text or a piece of music. Images have one size: see complete(records, known).")
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
