"""Parts of models of sequences that are functions: what a symbol is drawn from, moved pieces, texts of any length read in one pass."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...errors import ConfigError
from ...rng import Rng

STRETCH = 1024
"""Symbols of a text of any length that are read at a time."""


def check_options(temperature: float, top_k: int | None, top_p: float | None, music: bool) -> None:
    """Raise `ConfigError` for options of a sampler that cannot be."""
    if not temperature > 0:
        raise ConfigError(f"temperature must be above 0, got {temperature}. Give top_k=1 for the most probable symbol each time.")
    if music and (top_k is not None or top_p is not None):
        raise ConfigError("top_k and top_p choose among symbols, and frames are bits. Lower the temperature instead.")
    if top_k is not None and top_k < 1:
        raise ConfigError(f"top_k must be at least 1, got {top_k}.")
    if top_p is not None and not 0 < top_p <= 1:
        raise ConfigError(f"top_p is a probability above 0 and at most 1, got {top_p}.")


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


def carried(model: Any, x: Tensor, c: Tensor | None) -> Tensor:
    """log p of the symbols x (n,), the state carried along."""
    state, found = model.net.start(1, len(x)), []
    for at in torch.arange(len(x)).split(STRETCH):
        e = model._embed(x[at[0] - 1 : at[-1]]) if at[0] else torch.cat([model.first[None], model._embed(x[: at[-1]])])
        h = model.net.steps((e if model.given is None else e + model.given(c))[None], state)[0]
        found.append(model._of_symbols(h, x[at]))
    return torch.cat(found)


def overlapping(model: Any, x: Tensor, c: Tensor | None) -> Tensor:
    """log p of the symbols x (n,) by windows of T that begin every T / 2 (rounded up); of all but the first the new symbols count."""
    T, n = model._spec.shape[0], len(x)
    stride = T - T // 2
    windows = 1 + max(0, -(-(n - T) // stride))
    whole = F.pad(x, (0, T + (windows - 1) * stride - n)).unfold(0, T, stride)
    log_p = torch.cat(
        [
            model._of_symbols(model._past(w, None if c is None else c.expand(len(w), -1)), w)
            for w in whole.split(len(model._parts(whole)[0]))
        ]
    )
    return torch.cat([log_p[0], log_p[1:, T // 2 :].flatten()])[:n]
