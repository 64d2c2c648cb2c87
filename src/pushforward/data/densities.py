"""Two-dimensional densities that generative models are tried on, seeded; the first two are known exactly.

========================  ==============================================================================================
`Mixture2D.ring()`        8 Gaussians on the unit circle, sd 0.01 (Metz et al., ICLR 2017, scaled to radius 1)
`Mixture2D.grid()`        25 Gaussians at {-4, -2, 0, 2, 4}^2, sd 0.05 (Lin et al., PacGAN, NeurIPS 2018)
`moons`, `swiss-roll`     two half circles; a spiral (scikit-learn's, drawn with our generator)
`checkerboard`            uniform on the 8 dark squares of a 4 x 4 board on [-4, 4]^2
`pinwheel`                5 bent arms (Johnson et al., NeurIPS 2016)
========================  ==============================================================================================
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Self

import torch
from torch import Tensor


@dataclass(frozen=True)
class Mixture2D:
    """An equal mixture of K isotropic Gaussians of standard deviation `sd` at `means` (K, 2).

    p(x) = (1/K) sum_k N(x; mean_k, sd^2 I).

    >>> ring = Mixture2D.ring()
    >>> ring.sample(3, seed=0).shape
    torch.Size([3, 2])
    """

    means: Tensor = field(repr=False)
    sd: float

    @classmethod
    def ring(cls, k: int = 8, radius: float = 1.0, sd: float = 0.01) -> Self:
        """`k` Gaussians evenly on a circle."""
        angle = torch.arange(k, dtype=torch.float64) * (2 * math.pi / k)
        return cls(radius * torch.stack([angle.cos(), angle.sin()], 1), sd)

    @classmethod
    def grid(cls, side: int = 5, spacing: float = 2.0, sd: float = 0.05) -> Self:
        """`side` x `side` Gaussians on a square grid about the origin."""
        at = (torch.arange(side, dtype=torch.float64) - (side - 1) / 2) * spacing
        return cls(torch.cartesian_prod(at, at), sd)

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x) in nats, (n,), for x (n, 2); in float64."""
        x = torch.as_tensor(x, dtype=torch.float64)
        squared = ((x[:, None, :] - self.means) ** 2).sum(-1)
        each = -squared / (2 * self.sd**2) - math.log(2 * math.pi * self.sd**2)
        return each.logsumexp(1) - math.log(len(self.means))

    def sample(self, n: int, seed: int = 0) -> Tensor:
        """`n` records (n, 2), float64."""
        g = torch.Generator().manual_seed(seed)
        k = torch.randint(len(self.means), (n,), generator=g)
        return self.means[k] + self.sd * torch.randn(n, 2, dtype=torch.float64, generator=g)

    def nearest(self, x: Tensor) -> Tensor:
        """The index of the closest mean for each x (n, 2), (n,) int64."""
        return torch.cdist(torch.as_tensor(x, dtype=torch.float64), self.means).argmin(1)


def moons(n: int, seed: int = 0, sd: float = 0.1) -> Tensor:
    """Two interleaved half circles of radius 1, with Gaussian noise."""
    g = torch.Generator().manual_seed(seed)
    angle = math.pi * torch.rand(n, dtype=torch.float64, generator=g)
    upper = torch.randint(2, (n,), generator=g, dtype=torch.int64).bool()
    x = torch.where(upper, angle.cos(), 1 - angle.cos())
    y = torch.where(upper, angle.sin(), 0.5 - angle.sin())
    return torch.stack([x, y], 1) + sd * torch.randn(n, 2, dtype=torch.float64, generator=g)


def swiss_roll(n: int, seed: int = 0, sd: float = 0.2) -> Tensor:
    """A spiral t (cos t, sin t) with t uniform on [1.5 pi, 4.5 pi], with Gaussian noise, divided by 5."""
    g = torch.Generator().manual_seed(seed)
    t = 1.5 * math.pi * (1 + 2 * torch.rand(n, dtype=torch.float64, generator=g))
    x = torch.stack([t * t.cos(), t * t.sin()], 1)
    return (x + sd * torch.randn(n, 2, dtype=torch.float64, generator=g)) / 5


def checkerboard(n: int, seed: int = 0) -> Tensor:
    """Uniform on the squares (i, j) of side 2 in [-4, 4]^2 with i + j even: the density there is 1/32."""
    g = torch.Generator().manual_seed(seed)
    i = torch.randint(4, (n,), generator=g)
    j = 2 * torch.randint(2, (n,), generator=g) + i % 2
    return 2 * (torch.stack([i, j], 1) + torch.rand(n, 2, dtype=torch.float64, generator=g)) - 4


def pinwheel(n: int, seed: int = 0, arms: int = 5, radial_sd: float = 0.3, tangential_sd: float = 0.1, rate: float = 0.25) -> Tensor:
    """Arms (1 + radial_sd e1, tangential_sd e2), each turned by its own angle plus rate * exp(radius), doubled."""
    g = torch.Generator().manual_seed(seed)
    f = torch.randn(n, 2, dtype=torch.float64, generator=g) * torch.tensor([radial_sd, tangential_sd], dtype=torch.float64)
    f[:, 0] += 1
    arm = torch.randint(arms, (n,), generator=g)
    angle = arm * (2 * math.pi / arms) + rate * f[:, 0].exp()
    x = f[:, 0] * angle.cos() - f[:, 1] * angle.sin()
    y = f[:, 0] * angle.sin() + f[:, 1] * angle.cos()
    return 2 * torch.stack([x, y], 1)


KNOWN: dict[str, Callable[[], Mixture2D]] = {"ring": Mixture2D.ring, "grid": Mixture2D.grid}
"""Densities with an exact `log_prob`, by name."""
DRAWN: dict[str, Callable[[int, int], Tensor]] = {
    "moons": moons,
    "swiss-roll": swiss_roll,
    "checkerboard": checkerboard,
    "pinwheel": pinwheel,
}
"""Densities that can only be drawn from, by name."""
