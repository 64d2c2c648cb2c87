"""The smallest models that keep the contract, for tests of the machinery around models, and the numbers that many tests are made of."""

import math

import torch
from torch import Tensor, nn

from pushforward.data.spec import BINARY, REAL, UNIT, DataSpec, categories, levels
from pushforward.model import Batch, GradientModel, Loss, Objective
from pushforward.objective import Training
from pushforward.rng import Rng

LIKE = torch.zeros((), dtype=torch.float64)
"""What an `Rng` is to be like for double precision."""
MIXED = DataSpec("table", (6,), (REAL, categories(3), BINARY, levels(4), UNIT, REAL))
"""A column of every support."""


def randn(*shape: int, seed: int = 0) -> Tensor:
    """Standard normal numbers in double precision."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gap_to_gaussian(model: GradientModel, steps: int, lr: float, mean: tuple[float, float] = (0.0, 0.0)) -> Tensor:
    """log p - log q of 4,000 fresh records of a correlated Gaussian p, for a model q of pairs that `steps` of Adam fitted to as many."""
    rng, mu = Rng.seeded(0), torch.tensor(mean)
    root = torch.tensor([[1.0, 0.0], [0.8, 0.6]])
    x, fresh = rng.randn(4000, 2) @ root.t() + mu, rng.randn(4000, 2) @ root.t() + mu
    truth = torch.distributions.MultivariateNormal(mu, root @ root.t()).log_prob(fresh)
    optimizer = torch.optim.Adam(model.parameters(), lr)
    (objective,) = model._objectives()
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = lr * (1 - step / steps)
        i = rng.randint(len(x), 128)
        loss = objective.loss(Batch(x[i], None, i, rng)).per_record.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return truth - model.log_prob(fresh)


class Gauss(GradientModel):
    """N(mu, diag(sigma^2)) fitted by gradient: every answer is known in closed form."""

    name = "gauss"
    density = "exact"
    training = Training(lr=0.05)
    unsupported = {"encode": "a Gaussian has no code; use a vae."}

    def __init__(self, width: int = 1):
        super().__init__()
        self.width = width

    def _build(self, spec: DataSpec) -> None:
        self.mu = nn.Parameter(torch.randn(spec.dim) * 0.1)
        self.rho = nn.Parameter(torch.zeros(spec.dim))

    def _objectives(self) -> tuple[Objective, ...]:
        return (Objective("nll", [self], self._loss),)

    def _loss(self, batch: Batch) -> Loss:
        z = (batch.x.flatten(1) - self.mu) * torch.exp(-self.rho) + 0.0 * batch.rng.randn(*batch.x.flatten(1).shape)
        square, volume = 0.5 * z.square().sum(1), (self.rho.sum() + 0.5 * self.mu.numel() * math.log(2 * math.pi)).expand(len(batch))
        return Loss(square + volume, {"square": square, "volume": volume})

    def _log_prob(self, x: Tensor, c: Tensor | None, rng: Rng) -> Tensor:
        return torch.distributions.Normal(self.mu, self.rho.exp()).log_prob(x.flatten(1)).sum(1)

    def _sample(self, n: int, c: Tensor | None, rng: Rng) -> Tensor:
        assert self.spec is not None
        return (self.mu + self.rho.exp() * rng.randn(n, len(self.mu))).reshape(n, *self.spec.shape)


class Poisoned(Gauss):
    """A Gaussian whose loss turns NaN in its term `poison` at step 7."""

    name = "poisoned"

    def _objectives(self) -> tuple[Objective, ...]:
        return (Objective("nll", [self], self._poison),)

    def _poison(self, batch: Batch) -> Loss:
        loss = self._loss(batch)
        bad = loss.per_record * (float("nan") if batch.step >= 7 else 1.0)
        return Loss(bad, {"fine": loss.per_record, "poison": bad})


class Duel(GradientModel):
    """Two players with a double-backward penalty, as in a Wasserstein GAN with k = 2 critic steps."""

    name = "duel"
    training = Training(lr=0.01)

    def __init__(self, critic_steps: int = 2):
        super().__init__()
        self.critic_steps = critic_steps

    def _build(self, spec: DataSpec) -> None:
        self.critic = nn.Sequential(nn.Linear(spec.dim, 8), nn.Tanh(), nn.Linear(8, 1))
        self.generator = nn.Linear(2, spec.dim)

    def _objectives(self) -> tuple[Objective, ...]:
        return (
            Objective("critic", [self.critic], self._critic, self.critic_steps, validate=False),
            Objective("generator", [self.generator], self._generator, validate=False),
        )

    def _critic(self, batch: Batch) -> Loss:
        with torch.no_grad():
            fake = self.generator(batch.rng.randn(len(batch), 2))
        mid = (batch.x * batch.rng.rand(len(batch), 1) + fake).requires_grad_()
        (slope,) = torch.autograd.grad(self.critic(mid).sum(), mid, create_graph=True)
        return Loss((self.critic(fake) - self.critic(batch.x))[:, 0] + (slope.norm(dim=1) - 1) ** 2)

    def _generator(self, batch: Batch) -> Loss:
        return Loss(-self.critic(self.generator(batch.rng.randn(len(batch), 2)))[:, 0])

    def _sample(self, n: int, c: Tensor | None, rng: Rng) -> Tensor:
        return self.generator(rng.randn(n, 2))


class Uneven(GradientModel):
    """Three players with a quadratic loss each: the first by plain descent at its own rate, the second on the first one's batch and kept in
    a box, the third on a batch of its own with the run's settings.
    """

    name = "uneven"
    training = Training(lr=0.05)
    BOX = 0.12

    def _build(self, spec: DataSpec) -> None:
        self.first, self.second, self.third = (nn.Parameter(torch.zeros(spec.dim)) for _ in range(3))

    def _objectives(self) -> tuple[Objective, ...]:
        own = {"optimizer": "sgd", "lr": 0.5}
        return (
            Objective("first", [self.first], lambda b: self._loss(self.first, b), validate=False, settings=own),
            Objective("second", [self.second], lambda b: self._loss(self.second, b), validate=False, after=self._box, fresh=False),
            Objective("third", [self.third], lambda b: self._loss(self.third, b), validate=False),
        )

    def _box(self) -> None:
        with torch.no_grad():
            self.second.clamp_(-self.BOX, self.BOX)

    @staticmethod
    def _loss(where: Tensor, batch: Batch) -> Loss:
        return Loss((batch.x.flatten(1) + 1 - where).square().sum(1))

    def _sample(self, n: int, c: Tensor | None, rng: Rng) -> Tensor:
        return self.third.expand(n, -1)
