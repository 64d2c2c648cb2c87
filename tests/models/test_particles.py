"""Completion where a known entry comes after an unknown one: conditionals by enumeration, p(known) on average, cached as uncached."""

import pytest
import torch
from test_autoregressive_promises import EACH, condition, image, matches, rough
from torch import Tensor

import pushforward as pf
from pushforward.data.spec import BINARY, REAL, DataSpec, levels
from pushforward.errors import ConfigError
from pushforward.models.exact import made
from pushforward.models.exact.autoregressive import MADE, PixelCNN, enumerated
from pushforward.models.exact.particles import Particles, filtered
from pushforward.rng import Rng

HOLE = torch.tensor([[[1, 0, 0, 1], [1, 0, 0, 1], [0, 1, 1, 1]]]).bool()
"""Of a 3 x 4 image: the middle is missing, and a corner below it."""


def given(x: Tensor, log_p: Tensor, fact: Tensor, known: Tensor) -> Tensor:
    """p(x | known), over all x."""
    p = torch.where((x[:, known] == fact[known]).all(1), log_p.exp(), 0)
    return p / p.sum()


@EACH
def test_a_hole_is_filled_by_its_conditional(family: str) -> None:
    """400 records, 50 particles each. A filter's draws differ from the conditional by about 1 / 50 of a probability p, less than the five
    standard errors of a cell, 5 sqrt(p (1 - p) / 400), for all p."""
    model = rough(family, image(1, 3, 4))
    x, log_p = enumerated(model)
    fact = x[2741]
    junk = torch.where(HOLE, fact, 1 - fact).expand(400, *fact.shape)  # what stands at unknown places must not matter
    with torch.no_grad():
        drawn = model._complete(junk, HOLE, None, Rng.seeded(1, x), particles=50)
    matches(drawn, x, given(x, log_p, fact, HOLE))


def test_a_condition_goes_with_its_records() -> None:
    """Two labels, 400 records each, against the conditional of each."""
    model = rough("nade", image(1, 3, 4, condition=2))
    c = condition(model.spec, 800)
    fact = torch.zeros(1, 3, 4, dtype=torch.float64)
    with torch.no_grad():
        drawn = model._complete(fact.expand(800, *fact.shape), HOLE, c, Rng.seeded(1, fact), particles=50)
    for label in (0, 1):
        x = enumerated(model)[0]
        with torch.no_grad():
            log_p = model._log_prob(x, torch.eye(2, dtype=torch.float64)[[label]].expand(len(x), -1), Rng.seeded(0))
        matches(drawn[label::2], x, given(x, log_p, fact, HOLE))


@EACH
def test_what_is_kept_moves_with_its_rows(family: str, monkeypatch) -> None:
    """Cached and uncached filters of the same seed weigh alike, 60 records at 10 particles. Log p counts five times, so that rows
    move at most entries: 1e-10 of log p, which is a sum of some thousand products in float64."""
    heard: list[Tensor] = []
    weigh = Particles.weigh
    monkeypatch.setattr(Particles, "weigh", lambda self, log_p, x: heard.append(log_p.clone()) or weigh(self, 5 * log_p, x))
    for spec in (image(1, 4, 6), image(3, 4, 2, support=levels(3))):
        model = rough(family, spec)
        g = torch.Generator().manual_seed(2)
        x = torch.randint(0, spec.supports[0].size or 2, (60, *spec.shape), generator=g).double()
        known = torch.rand(spec.shape, generator=g) < 0.5
        with torch.no_grad():
            quick, slow = (model._complete(x, known, None, Rng.seeded(3, x), particles=10, incremental=k) for k in (True, False))
        assert torch.equal(quick, slow)
        assert torch.equal(quick[:, known], x[:, known])
        half = len(heard) // 2
        for a, b in zip(heard[:half], heard[half:], strict=True):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-9)
        heard.clear()


def test_the_mean_weight_is_the_probability_of_what_is_known() -> None:
    """Without bias, for five particles: the mean over 4,000 filters within five of its standard errors."""
    model = rough("pixelcnn", image(1, 3, 4))
    x, log_p = enumerated(model)
    wanted = float(torch.where((x[:, HOLE] == x[2741][HOLE]).all(1), log_p.exp(), 0).sum())
    rng, moves = Rng.seeded(4, x), []

    def draw(y: Tensor, c: Tensor | None, swarm: Particles) -> Tensor:
        weigh = swarm.weigh
        swarm.weigh = lambda *a: moves.append(weigh(*a)) or moves[-1]
        return model._drawn(rng.rand(*y.shape), y, HOLE, c, 1.0, True, swarm)

    with torch.no_grad():
        _, log_evidence = filtered(draw, x[2741].expand(4000, -1, -1, -1), None, rng, particles=5, temperature=1.0, rows=100_000)
    found = log_evidence.exp()
    assert any(index is not None for index in moves)
    assert abs(float(found.mean()) - wanted) < 5 * float(found.std()) / 4000**0.5
    assert float(found.std()) < wanted


def test_what_is_impossible_is_no_end() -> None:
    swarm = Particles(2, 4, Rng.seeded(0))
    x = torch.arange(8.0)
    assert swarm.weigh(torch.tensor([-torch.inf] * 4 + [0.0] * 4), x) is None
    index = swarm.weigh(torch.tensor([0.0] * 4 + [-torch.inf, 0.0, -torch.inf, -torch.inf]), x)
    assert index is not None
    assert index.tolist() == [0, 1, 2, 3, 5, 5, 5, 5]
    assert x.tolist() == index.tolist()
    assert swarm.moved() is index
    assert swarm.moved() is None
    assert set(swarm.one().tolist()) <= set(range(8))


def test_numbers_weigh_by_their_density() -> None:
    """x_0 given x_1 of a MADE whose order is (0, 1): the mean of 2,000 draws against quadrature over the line."""
    model = MADE(hidden=(8,), components=2).build(DataSpec("points", (2,), (REAL,)), seed=0).double()
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(3.0)
    line = torch.linspace(-12, 12, 4801, dtype=torch.float64)
    y = torch.stack([line, torch.full_like(line, 1.2)], 1)
    with torch.no_grad():
        p = model._log_prob(y, None, Rng.seeded(0)).exp()
        drawn = model._complete(torch.full((2000, 2), 1.2, dtype=torch.float64), torch.tensor([False, True]), None, Rng.seeded(5, y))
    mean = float((p * line).sum() / p.sum())
    sd = float((p * (line - mean).square()).sum() / p.sum()) ** 0.5
    prior = float(model._sample(2000, None, Rng.seeded(6, y))[:, 0].mean())
    assert abs(prior - mean) > 0.3 * sd  # x_1 says something
    assert abs(float(drawn[:, 0].mean()) - mean) < 5 * sd / 2000**0.5 + sd / 64


def test_the_members_of_a_mixture_are_taken_by_their_evidence(monkeypatch) -> None:
    """Two orders, whose filters say p(known) = 0.09 and 0.01: the second for a tenth of 4,000 records, five standard errors."""
    model = MADE(hidden=(8,), masks=2).build(DataSpec("points", (3,), (BINARY,))).double()
    found = iter([(0.0, 0.09), (1.0, 0.01)])

    def said(draw, x, c, rng, **how):
        value, evidence = next(found)
        return torch.full_like(x, value), torch.full((len(x),), evidence, dtype=x.dtype).log()

    monkeypatch.setattr(made, "filtered", said)
    x = torch.zeros(4000, 3, dtype=torch.float64)
    share = float(model._complete(x, torch.tensor([False, False, True]), None, Rng.seeded(0, x)).mean())
    assert abs(share - 0.1) < 5 * (0.09 / 4000) ** 0.5


def test_options_are_checked_and_few_rows_pass_at_a_time() -> None:
    model = PixelCNN(layers=2, channels=4).build(image(1, 3, 4))
    seen = []
    drawn = model._drawn
    model._drawn = lambda u, *a: seen.append(len(u)) or drawn(u, *a)
    with torch.no_grad():
        model._complete(torch.zeros(20, 1, 3, 4), HOLE, None, Rng.seeded(0), particles=100)
    assert seen == [500] * 4
    with pytest.raises(ConfigError, match="particles must be at least 1"):
        model.complete(torch.zeros(2, 1, 3, 4), HOLE[0], particles=0)
    with pytest.raises(ConfigError, match="temperature is for entries that come last"):
        model.complete(torch.zeros(2, 1, 3, 4), HOLE[0], temperature=0.5)
    bits = pf.catalog()["nade"](hidden=4).build(DataSpec("points", (3,), (BINARY,)))
    assert bits.complete(torch.tensor([[1.0, 0.0, 1.0]]), torch.tensor([False, False, True]), seed=0)[0, 2] == 1
