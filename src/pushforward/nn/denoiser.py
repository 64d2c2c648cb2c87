"""Networks that look at a noisy vector and say something of its noise or its signal; and the embedding of time that all of them share."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["ConditionedTime", "MLPDenoiser"]


class ConditionedTime(nn.Module):
    """An embedding of the time and of the condition: sinusoids of 1000 t (Vaswani et al. 2017) through two layers, plus a linear map of c.

    Parameters
    ----------
    dim
        Width of the embedding.
    condition_dim
        Width of the condition, 0 for none.
    """

    frequencies: Tensor

    def __init__(self, dim: int, condition_dim: int = 0):
        super().__init__()
        half = dim // 2
        self.register_buffer("frequencies", torch.exp(-math.log(1e4) * torch.arange(half) / half), persistent=False)
        self.time = nn.Sequential(nn.Linear(2 * half, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.condition = nn.Linear(condition_dim, dim, bias=False) if condition_dim else None

    def forward(self, t: Float[Tensor, "B"], c: Float[Tensor, "B C"] | None = None) -> Float[Tensor, "B dim"]:
        """t: (B,) in (0, 1]; c: (B, condition_dim) -> (B, dim)."""
        angle = 1000.0 * t[:, None] * self.frequencies
        h = self.time(torch.cat([angle.sin(), angle.cos()], 1))
        return h if self.condition is None or c is None else h + self.condition(c)


class _Block(nn.Module):
    """h + W2 silu(modulate(W1 silu(h))): the embedding scales and shifts the hidden units. No normalisation: the size of z matters."""

    def __init__(self, width: int, time_dim: int):
        super().__init__()
        self.first = nn.Linear(width, width)
        self.modulation = nn.Linear(time_dim, 2 * width)
        self.second = nn.Linear(width, width)

    def forward(self, h: Tensor, e: Tensor) -> Tensor:
        scale, shift = self.modulation(e).chunk(2, 1)
        return h + self.second(nn.functional.silu(self.first(nn.functional.silu(h)) * (1 + scale) + shift))


class MLPDenoiser(nn.Module):
    """A residual multilayer perceptron over flattened records, with time and condition modulating every block.

    Its output starts at zero: with the v parametrisation that is the best denoiser of N(0, I) data.

    Parameters
    ----------
    dim
        Features of a record, flattened.
    width
        Hidden units.
    blocks
        Residual blocks of two layers each.
    condition_dim
        Width of the condition, 0 for none.
    time_dim
        Width of the time embedding.
    fourier
        Octaves of sinusoids of each feature, sin and cos of 2^k z for k below this, shown beside z: fine detail in few dimensions, which
        a plain perceptron is slow to learn (Tancik et al. 2020).
    """

    def __init__(self, dim: int, width: int = 256, blocks: int = 2, condition_dim: int = 0, time_dim: int = 64, fourier: int = 0):
        super().__init__()
        self.fourier = fourier
        self.embedding = ConditionedTime(time_dim, condition_dim)
        self.first = nn.Linear(dim * (1 + 2 * fourier), width)
        self.blocks = nn.ModuleList(_Block(width, time_dim) for _ in range(blocks))
        self.last = nn.Linear(width, dim)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(
        self, z: Float[Tensor, "B *features"], t: Float[Tensor, "B"], c: Float[Tensor, "B C"] | None = None
    ) -> Float[Tensor, "B *features"]:
        """z: (B, *features), t: (B,) in (0, 1], c: (B, condition_dim) or None -> (B, *features)."""
        e = nn.functional.silu(self.embedding(t, c))
        h = z.flatten(1)
        octaves = [2.0**k * h for k in range(self.fourier)]
        h = self.first(torch.cat([h, *(a.sin() for a in octaves), *(a.cos() for a in octaves)], 1))
        for block in self.blocks:
            h = block(h, e)
        return self.last(nn.functional.silu(h)).reshape(z.shape)
