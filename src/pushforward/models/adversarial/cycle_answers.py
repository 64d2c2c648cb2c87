"""What is known of a CycleGAN between two Gaussians; `cyclegan.known_answers` yields it."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...data import load_data
from ...known import Known
from ...rng import Rng
from ...train import Batch

__all__ = ["answers", "between", "set_line"]

N = 20_000


def between(a: Any, b: Any, **config: Any) -> tuple[Any, Batch]:
    """An untrained CycleGAN in double precision between two collections of points, and a batch of all their records."""
    from .cyclegan import CycleGAN

    data = load_data(a, data_b=b, validation=0, test=0)
    model = CycleGAN(**{"pool": 0, "hidden": (), "critic_hidden": (), "fourier": 0, **config})
    model._adopt(data.schema, False)
    assert model.spec is not None
    model.build(model.spec).double()
    model._prepare(data, 0)
    index = torch.arange(len(data.train))
    rng = Rng.seeded(0, torch.zeros((), dtype=torch.float64))
    return model, Batch(data.train.batch(index, rng)[0], None, index, rng)


@torch.no_grad()
def set_line(net: nn.Module, slope: float, intercept: float) -> None:
    """Make a linear network slope x + intercept."""
    for p in net.parameters():
        p.fill_(slope if p.ndim == 2 else intercept)


def answers() -> Iterator[Known]:
    """The exact maps, the cycle's length for others, the value of the game where the laws agree, and the critic of least squares."""
    random = np.random.default_rng(0)
    a, b = random.normal(3, 2, (N, 1)), random.normal(-1, 0.5, (N, 1))
    model, batch = between(a, b)

    # Standardised, both are N(0, 1): the exact map is the identity there, b = mean_b + sd_b (a - mean_a) / sd_a in the users' units.
    exact = float(b.mean() + b.std() * (5 - a.mean()) / a.std())
    yield Known(
        "G(5) of the exact map",
        exact,
        float(model.translate(np.array([[5.0]]), to="b")[0, 0]),
        1e-6,
        "records are kept in single precision",
    )
    # Where the laws agree the best critic of least squares says 1/2: A + B = 1/8 + 1/8, and C = 1/8 for each generator.
    for critic in model.critics:
        set_line(critic, 0.0, 0.5)
    loss = model._generators_loss(batch)
    yield Known("generators' loss there, 2 C + 2 C", 0.5, float(loss.per_record.detach().mean()), 1e-12, "rounding")
    yield Known("critic's loss there", 0.25, float(model._critic_loss(batch, 1).per_record.detach().mean()), 1e-12, "rounding")

    # F(G(a)) = G(F(b)) = 1.5 times the record: E|x| / 2 each way, x ~ N(0, 1), of sd sqrt(1 - 2/pi) / 2.
    for net, slope in zip(model.generators, (0.75, 2.0), strict=True):
        set_line(net, slope - 1, 0.0)  # beside the residual
    tolerance = 4 * math.sqrt((1 - 2 / math.pi) / 2 / N)  # of the sum of two ways; each sees about N/2 records twice over
    cycle = float(model._generators_loss(batch).terms["cycle"].mean())
    yield Known("cycle of 1.5 x there and back", math.sqrt(2 / math.pi), cycle, tolerance * math.sqrt(2), "four standard errors")

    yield from _least_squares(model, batch)


def _least_squares(model: Any, batch: Batch) -> Iterator[Known]:
    """The linear critic that minimises its own objective is the regression of "1 for a record, 0 for a translation" on both."""
    set_line(model.generators[1], -0.3, 1.0)  # G(x) = 0.7 x + 1 between standard normals
    model._generators_loss(batch)
    _, real, fake = model._round
    r, f = real[1].flatten(), fake[1].flatten()
    both, truth = torch.cat([r, f]), torch.cat([torch.ones_like(r), torch.zeros_like(f)])
    slope = float(((both - both.mean()) * (truth - truth.mean())).sum() / (both - both.mean()).square().sum())
    critic = model.critics[1]
    optimizer = torch.optim.LBFGS(
        critic.parameters(), max_iter=50, tolerance_grad=1e-12, tolerance_change=0.0, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = model._critic_loss(batch, 1).per_record.mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    with torch.no_grad():
        at = critic(torch.tensor([[0.0], [1.0]], dtype=torch.float64))
    because = "a quadratic minimised to a gradient of 1e-12"
    yield Known("slope of the least-squares critic", slope, float(at[1] - at[0]), 1e-8, because)
    yield Known("its value at 0", 0.5 - slope * float(both.mean()), float(at[0]), 1e-8, because)
