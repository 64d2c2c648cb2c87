"""Critics in one dimension, trained by the objective that every GAN here uses, and read on a grid."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import pushforward as pf
from pushforward.data.spec import DataSpec
from pushforward.divergences import Grid, Isotropic
from pushforward.rng import Rng
from pushforward.train import Batch

LIKE = torch.zeros((), dtype=torch.float64)
GRID = Grid.line(-16, 16, 3201)


class Affine(nn.Module):
    """G(z) = mean + sd z: a generator whose density is known."""

    def __init__(self, mean: float, sd: float):
        super().__init__()
        self.mean, self.sd = mean, sd

    def forward(self, z: Tensor) -> Tensor:
        return self.mean + self.sd * z


def gan(loss: str, generator: nn.Module | None, seed: int = 0, **hyper: Any) -> pf.GAN:
    """A plain GAN in one dimension: no penalties but those asked for, and no random waves."""
    plain: dict[str, Any] = {"relativistic": False, "noise_dim": 1, "critic_hidden": (48, 48), "fourier": 0, "r1": 0.0, "r2": 0.0}
    return pf.GAN(loss=loss, generator=generator, **(plain | hyper)).build(DataSpec("points", (1,)), seed=seed)


def train(
    model: pf.GAN, records: Callable[[], Tensor], steps: int, lr: float = 1e-2, seed: int = 0, look: Callable[[int], None] | None = None
) -> None:
    """Train the critic by its own objective, the learning rate falling to 0 by a cosine (constant where someone looks on)."""
    critic = model._objectives()[0]
    optimizer, rng = torch.optim.Adam(critic.parameters(), lr=lr, betas=(0.9, 0.99)), Rng.seeded(seed)
    for step in range(steps):
        if look:
            look(step)
        else:
            optimizer.param_groups[0]["lr"] = lr * (1 + math.cos(math.pi * step / steps)) / 2
        x = records()
        optimizer.zero_grad()
        critic.loss(Batch(x, None, torch.arange(len(x)), rng)).per_record.mean().backward()
        optimizer.step()
        if critic.after:
            critic.after()


def drawn(p: Isotropic, n: int, seed: int = 1) -> Callable[[], Tensor]:
    """Fresh batches of `n` records."""
    rng = Rng.seeded(seed, LIKE)
    return lambda: p.sample(n, rng).float()


@torch.no_grad()
def critic_on_grid(model: pf.GAN, grid: Grid = GRID) -> Tensor:
    return model.critic_net(grid.points.float()).double()
