"""A linear ladder, whose evidence and posterior are known: what a hierarchical VAE's mathematics is held to."""

import math

import torch
from torch import Tensor, nn

__all__ = ["LinearLadder"]


class LinearLadder(nn.Module):
    """z_1 ~ N(0, 1), z_2 = a z_1 + t e: two groups of one latent; the state is (z_1, z_2) and the head linear. q may be set at will.

    x = W (z_1, z_2) + b + noise of standard deviation s, so that p(x), p(z_1 | x) and p(z_2 | z_1, x) are normal. `shift` and `stretch`
    spoil the exact posterior: its means are moved by `shift` prior standard deviations, its scales multiplied by `stretch`.
    """

    def __init__(self, dim: int, a: float = 0.8, t: float = 0.6, seed: int = 0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.a, self.t, self.s, self.shift, self.stretch = a, t, 1.0, 0.0, 1.0
        self.head = nn.Linear(2, dim, dtype=torch.float64)
        with torch.no_grad():
            self.head.weight.copy_(torch.randn(dim, 2, generator=generator, dtype=torch.float64))
            self.head.bias.copy_(torch.randn(dim, generator=generator, dtype=torch.float64))
        self.shapes, self.widest = [(1,), (1,)], dim

    def evidence(self, x: Tensor) -> Tensor:
        """log p(x), (B,)."""
        prior = torch.tensor([[1.0, self.a], [self.a, self.a**2 + self.t**2]], dtype=x.dtype)
        W = self.head.weight
        noise = self.s**2 * torch.eye(x.shape[1], dtype=x.dtype)
        return torch.distributions.MultivariateNormal(self.head.bias, W @ prior @ W.T + noise).log_prob(x)

    def bottom_up(self, x: Tensor, c: Tensor | None) -> list[Tensor]:
        del c
        return [x]

    def begin(self, n: int, c: Tensor | None) -> Tensor:
        del c
        return self.head.weight.new_zeros(n, 2)

    def enter(self, l: int, h: Tensor) -> Tensor:
        del l
        return h

    def prior(self, l: int, h: Tensor) -> tuple[Tensor, Tensor] | None:
        return None if l == 0 else (self.a * h[:, :1], torch.full_like(h[:, :1], math.log(self.t)))

    def residual(self, l: int, h: Tensor, maps: list[Tensor]) -> tuple[Tensor, Tensor]:
        w, v = self.head.weight[:, 0], self.head.weight[:, 1]
        r, eye = maps[0] - self.head.bias, torch.eye(len(w), dtype=w.dtype)
        if l == 0:  # x - b = z_1 (w + a v) + N(0, t^2 v v^T + s^2 I)
            way, mean, sd = w + self.a * v, torch.zeros_like(h[:, :1]), 1.0
            noise = torch.linalg.inv(self.t**2 * torch.outer(v, v) + self.s**2 * eye)
        else:  # x - b - w z_1 = z_2 v + N(0, s^2 I)
            way, mean, sd, noise = v, self.a * h[:, :1], self.t, eye / self.s**2
            r = r - h[:, :1] * w
        variance = 1.0 / (1.0 / sd**2 + way @ noise @ way)
        shift = variance * ((r - mean * way) @ noise @ way)[:, None]
        log_ratio = 0.5 * variance.log() - math.log(sd) + math.log(self.stretch)
        return shift + self.shift * sd, log_ratio.expand_as(shift)

    def absorb(self, l: int, h: Tensor, z: Tensor) -> Tensor:
        return torch.cat([z, h[:, 1:]], 1) if l == 0 else torch.cat([h[:, :1], z], 1)

    def finish(self, h: Tensor) -> Tensor:
        return h
