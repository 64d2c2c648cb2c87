"""Networks over time: the output at step t is a function of the inputs up to t alone.

Both networks are called on whole sequences, `net(e, drop)` with e (B, T, width) -> (B, T, width), for training and densities, and on the
next k steps at a time, `net.steps(e, state)` with e (n, k, width) and `state = net.start(n, T)`, for sampling: a recurrent network keeps
its hidden state, a transformer the keys and values of the steps before (Pope et al. 2023, Efficiently Scaling Transformer Inference,
section 2.1). A prompt enters in one such call.

`drop` is a function that sets entries of activations to zero, or None. Its noise comes from the batch's own generator, so that two
processes compute what one does.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from .moving import move

__all__ = ["CausalTransformer", "Raster", "RecurrentNet"]

Drop = Callable[[Tensor], Tensor] | None
Product = Callable[[Tensor], Tensor]
INITIAL_SD = 0.02
"""Of a transformer's weights (Radford et al. 2019, GPT-2)."""
LONG = 16
"""Steps from which weights are laid out anew for sampling."""


class Raster(nn.Module):
    """Where in an image (C, H, W) a step in raster order is: a vector for its row, one for its column and one for its channel, added."""

    place: Tensor

    def __init__(self, shape: tuple[int, ...], width: int, sd: float):
        super().__init__()
        C, H, W = shape
        self.vectors = nn.Parameter(sd * torch.randn(H + W + C, width))
        # Row i, column j and channel g of step t, as rows of `vectors`.
        i, j, g = torch.meshgrid(torch.arange(H), H + torch.arange(W), H + W + torch.arange(C), indexing="ij")
        self.register_buffer("place", torch.stack([i, j, g], -1).view(-1, 3), persistent=False)

    def forward(self, first: int, last: int) -> Float[Tensor, "k w"]:
        """Those of steps `first` .. `last` - 1."""
        return F.embedding_bag(self.place[first:last], self.vectors, mode="sum")


class RecurrentNet(nn.Module):
    """Layers of LSTM or GRU cells (Hochreiter & Schmidhuber 1997; Cho et al. 2014), with dropout between them."""

    endless = True
    """Whether steps may go on without bound."""

    def __init__(self, width: int, layers: int, cell: Literal["lstm", "gru"]):
        super().__init__()
        make = nn.LSTM if cell == "lstm" else nn.GRU
        self.layers = nn.ModuleList(make(width, width, batch_first=True) for _ in range(layers))
        if cell == "lstm":
            # Gates that forget little at first (Jozefowicz et al. 2015, section 3): both biases add up to 1.
            for name, p in self.named_parameters():
                if "bias" in name:
                    p.data[width : 2 * width] = float("bias_hh" in name)

    def forward(self, e: Float[Tensor, "B T w"], drop: Drop = None) -> Float[Tensor, "B T w"]:
        for layer in self.layers:
            e = layer(e if drop is None else drop(e))[0]
        return e if drop is None else drop(e)

    def start(self, n: int, length: int) -> list[Any]:
        """The state before the first step of n sequences."""
        return [None] * len(self.layers)

    def steps(self, e: Float[Tensor, "n k w"], state: list[Any]) -> Float[Tensor, "n k w"]:
        """The outputs of the next k steps; `state` is brought up to date."""
        for i, layer in enumerate(self.layers):
            e, state[i] = layer(e, state[i])
        return e

    def move(self, state: list[Any], index: Tensor) -> None:
        """Let row r of the state be what row `index[r]` was."""
        state[:] = [tuple(s[:, index] for s in kept) if isinstance(kept, tuple) else kept[:, index] for kept in state]


class _Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)): the pre-norm block (Xiong et al. 2020, figure 1b), without biases."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width, bias=False), nn.LayerNorm(width, bias=False)
        self.qkv, self.out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
        self.up, self.down = nn.Linear(width, 4 * width, bias=False), nn.Linear(4 * width, width, bias=False)

    @property
    def maps(self) -> tuple[nn.Linear, ...]:
        """The four matrices."""
        return self.qkv, self.out, self.up, self.down

    def forward(
        self, x: Tensor, turn: Tensor | None, drop: Drop, cache: Tensor | None = None, t: int = 0, maps: Sequence[Product] | None = None
    ) -> Tensor:
        """x (B, T, w); or with a cache (2, B, heads, length, w / heads) of t steps the next T of them, by `maps` laid out for few rows."""
        B, T, w = x.shape
        qkv, out, up, down = maps or self.maps
        qk, v = qkv(self.norm1(x)).view(B, T, 3, self.heads, w // self.heads).split([2, 1], 2)
        if turn is not None:
            qk = rotated(qk, turn[t : t + T])
        q, k, v = (y.transpose(1, 2) for y in (*qk.unbind(2), v.squeeze(2)))
        if cache is None:
            a = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            cache[0, :, :, t : t + T] = k
            cache[1, :, :, t : t + T] = v
            # Step t + i sees those up to itself; a single step sees all that there are.
            seen = None if T == 1 else torch.ones(T, t + T, dtype=torch.bool, device=x.device).tril(t)
            a = F.scaled_dot_product_attention(q, cache[0, :, :, : t + T], cache[1, :, :, : t + T], seen)
        a = out(a.transpose(1, 2).reshape(B, T, w))
        x = x + (a if drop is None else drop(a))
        y = down(F.gelu(up(self.norm2(x))))
        return x + (y if drop is None else drop(y))


class CausalTransformer(nn.Module):
    """A transformer in which each step attends to itself and those before (Vaswani et al. 2017; Radford et al. 2019).

    Parameters
    ----------
    width, layers, heads
        Features of a step, blocks, and attention heads of width / heads features each.
    length
        The most steps T.
    positions
        `learned`: a vector for each step, added to the inputs; `rotary`: keys and queries are turned by angles in proportion to their step
        (Su et al. 2021, RoFormer, equation 34), so that attention sees how far apart two steps are.
    """

    turn: Tensor | None
    endless = False

    def __init__(self, width: int, layers: int, heads: int, length: int, positions: Literal["learned", "rotary"]):
        super().__init__()
        self.places = nn.Parameter(torch.zeros(length, width)) if positions == "learned" else None
        self.blocks = nn.ModuleList(_Block(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width, bias=False)
        for name, p in self.named_parameters():
            if p.ndim == 2:
                # What is added to the residual stream starts small with depth, so that its variance does not grow (GPT-2, section 2.3).
                residual = name.endswith(("out.weight", "down.weight"))
                nn.init.normal_(p, std=INITIAL_SD / math.sqrt(2 * layers) if residual else INITIAL_SD)
        self.register_buffer("turn", angles(length, width // heads) if positions == "rotary" else None, persistent=False)

    def forward(self, e: Float[Tensor, "B T w"], drop: Drop = None) -> Float[Tensor, "B T w"]:
        if self.places is not None:
            e = e + self.places[: e.shape[1]]
        if drop is not None:
            e = drop(e)
        for block in self.blocks:
            e = block(e, self.turn, drop)
        return self.norm(e)

    def start(self, n: int, length: int) -> dict[str, Any]:
        """An empty cache for n sequences of at most `length` steps."""
        blocks: list[Any] = list(self.blocks)
        w = blocks[0].out.weight
        shape = (len(blocks), 2, n, blocks[0].heads, length, len(w) // blocks[0].heads)
        maps = [[product(m.weight, n) for m in b.maps] for b in blocks] if length >= LONG else [None] * len(blocks)
        return {"cache": w.new_empty(shape), "t": 0, "maps": maps}

    def steps(self, e: Float[Tensor, "n k w"], state: dict[str, Any]) -> Float[Tensor, "n k w"]:
        """The outputs of the next k steps; their keys and values join the cache."""
        t, k = state["t"], e.shape[1]
        x = e if self.places is None else e + self.places[t : t + k]
        for block, cache, maps in zip(self.blocks, state["cache"], state["maps"], strict=True):
            x = block(x, self.turn, None, cache, t, maps)
        state["t"] = t + k
        return self.norm(x)

    def move(self, state: dict[str, Any], index: Tensor) -> None:
        """Let row r of the cache be what row `index[r]` was."""
        move(index, 2, state["cache"][:, :, :, :, : state["t"]])


def product(w: Float[Tensor, "out in"], rows: int) -> Product:
    """h -> h W^T for so many rows h at a time, again and again.

    One row goes quickest through W^T in a piece where that is wider than high (half of the time), some through W as oneDNN packs it (half
    of the time at 16). torch.compile packs weights the same way; where torch has no such operation, W is taken as it is.
    """
    if w.device.type == "cpu" and w.dtype == torch.float32:
        if rows == 1 and len(w) >= w.shape[1]:
            turned = w.t().contiguous()
            return lambda h: h @ turned
        if rows > 1 and hasattr(torch.ops.mkldnn, "_reorder_linear_weight") and torch.backends.mkldnn.is_available():
            packed = torch.ops.mkldnn._reorder_linear_weight(w.detach(), rows)
            return lambda h: torch.ops.mkldnn._linear_pointwise(h, packed, None, "none", [], "")
    return lambda h: F.linear(h, w)


def angles(length: int, width: int) -> Tensor:
    """cos and sin of t 10000^(-2i / width) for steps t and pairs i, (length, width / 2, 2)."""
    a = torch.arange(length, dtype=torch.float64)[:, None] * 10000.0 ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
    return torch.stack([a.cos(), a.sin()], 2).to(torch.get_default_dtype())


def rotated(x: Float[Tensor, "B T two h d"], turn: Float[Tensor, "T half 2"]) -> Float[Tensor, "B T two h d"]:
    """The pairs (x_2i, x_2i+1) turned by their angles, queries and keys at once, as complex numbers: one operation for eight."""
    pairs = torch.view_as_complex(x.to(turn.dtype).unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * torch.view_as_complex(turn)[:, None, None]).flatten(-2)
