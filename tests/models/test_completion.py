"""`complete`: what is known stays, what is not is drawn; masks in the user's own form; any subset by a MADE that serves every order."""

import itertools

import numpy as np
import pandas as pd
import pytest
import torch
from test_autoregressive_promises import image, matches

import pushforward as pf
from pushforward.data.spec import BINARY, REAL, UNIT, DataSpec
from pushforward.errors import ConfigError, DataError, Unsupported
from pushforward.likelihoods import Gaussian, Mixture
from pushforward.models.exact.autoregressive import MADE, PixelCNN, enumerated
from pushforward.models.exact.nade import NADE, Cumulative
from pushforward.models.exact.sequential import draw
from pushforward.nn.masked import MaskedMLP
from pushforward.nn.orders import Ordering, reordered, under
from pushforward.rng import Rng

QUICK = {"steps": 4, "batch_size": 32, "progress": False, "alarms": False}
BITS = DataSpec("points", (6,), (BINARY,))


def agnostic(**kw) -> MADE:
    model = MADE(hidden=(16,), order="random", agnostic=True, **kw).build(BITS, seed=1).double()
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(2.0)
    return model


@pytest.mark.parametrize("masks", [1, 3])
def test_an_agnostic_made_completes_any_subset_exactly(masks: int) -> None:
    """Against p_o(x) / sum over the unknown, the joint enumerated in an order o that has the known entries first."""
    model = agnostic(masks=masks)
    known = torch.tensor([0, 1, 0, 1, 1, 0]).bool()
    assert not any(known[o.sequence].int().diff().max() <= 0 for o in model.orderings)  # none of its own orders would do
    heard = []
    drawn = model._drawn
    model._drawn = lambda *a: heard.append(a[4]) or drawn(*a)
    x = torch.cartesian_prod(*[torch.arange(2.0, dtype=torch.float64)] * 6)
    fact = x[44]
    with torch.no_grad():
        samples = model._complete(fact.expand(4000, -1), known, None, Rng.seeded(3, x))
        (ordering,) = heard
        p = model._member(x, None, ordering).exp()
    assert sorted(ordering.sequence[:3]) == [1, 3, 4]
    assert abs(float(p.sum()) - 1) < 1e-12
    p = torch.where((x[:, known] == fact[known]).all(1), p, 0)
    matches(samples, x, p / p.sum())


def test_many_masks_are_a_mixture_of_their_members() -> None:
    """Log p = log mean_m p_m, and the records follow it; no member is another's equal."""
    for order, shared in itertools.product(("natural", "random"), (True, False)):
        model = MADE(hidden=(16,), order=order, masks=3, shared=shared).build(BITS, seed=1).double()
        with torch.no_grad():
            for p in model.parameters():
                p.mul_(2.0)
        x, log_p = enumerated(model)
        with torch.no_grad():
            members = torch.stack([model._member(x, None, o).exp() for o in model.orderings])
            samples = model._sample(4000, None, Rng.seeded(1, x))
        assert torch.allclose(members.sum(1), torch.ones(3, dtype=torch.float64), rtol=0, atol=1e-12)
        assert float((members[0] - members[1]).abs().sum()) > 0.01
        torch.testing.assert_close(log_p, members.mean(0).log(), rtol=0, atol=1e-12)
        matches(samples, x, members.mean(0))
        sequences = {tuple(o.sequence) for o in model.orderings}
        assert len(sequences) == (1 if order == "natural" else 3)


def test_a_reordered_copy_is_the_network_under_that_ordering() -> None:
    """Three layers, a condition and direct connections: the same sums in another order, 1e-12 in float64; and it keeps that order."""
    net = MaskedMLP([1] * 5, [2] * 5, (20, 13), 3, direct=True).double()
    g = torch.Generator().manual_seed(0)
    x, c = torch.randn(4, 5, generator=g, dtype=torch.float64), torch.randn(4, 3, generator=g, dtype=torch.float64)
    for ordering in (Ordering.own(net), Ordering.drawn(net, 3, "random"), Ordering.drawn(net, 4, [4, 0, 2, 3, 1])):
        y = under(net, ordering, x, c)
        torch.testing.assert_close(reordered(net, ordering)(x, c), y, rtol=0, atol=1e-12)
        J = torch.autograd.functional.jacobian(lambda z, o=ordering: under(net, o, z, c).view(4, 5, 2).abs().sum((0, 2)), x).abs().sum(1)
        assert torch.all(J[ordering.sequence][:, ordering.sequence].triu() == 0)


def test_training_takes_the_masks_in_turn_and_fresh_ones_when_agnostic() -> None:
    from pushforward.train import Batch

    x = torch.randint(0, 2, (8, 6), generator=torch.Generator().manual_seed(0)).double()

    def losses(model: MADE) -> list[float]:
        model.build(BITS, seed=1).double().train()
        (objective,) = model._objectives()
        return [objective.loss(Batch(x, None, torch.arange(8), Rng.seeded(0), step)).per_record.mean().item() for step in range(6)]

    turns = losses(MADE(hidden=(16,), order="random", masks=3))
    assert turns[:3] == turns[3:]
    assert len(set(turns)) == 3
    fresh = losses(MADE(hidden=(16,), order="random", agnostic=True))
    assert len(set(fresh)) == 6
    assert fresh == losses(MADE(hidden=(16,), order="random", agnostic=True))


def test_members_with_weights_of_their_own_are_trained_one_a_step() -> None:
    from pushforward.train import Batch

    model = MADE(hidden=(16,), order="random", masks=3, shared=False).build(BITS, seed=1).train()
    nets = [model.net, *model.others]
    assert len({n.out.weight.sum().item() for n in nets}) == 3
    for step in range(6):
        model.zero_grad()
        model._objectives()[0].loss(Batch(torch.ones(8, 6), None, torch.arange(8), Rng.seeded(0), step)).per_record.sum().backward()
        assert [n.out.weight.grad is not None for n in nets] == [step % 3 == m for m in range(3)]
    # Several processes are told that a step leaves parameters without gradients.
    assert model._objectives()[0].partial
    assert not MADE(hidden=(16,), masks=3).build(BITS)._objectives()[0].partial
    with pytest.raises(ConfigError, match="masks must be at least 1, got 0"):
        MADE(masks=0).build(BITS)
    with pytest.raises(ConfigError, match="serves every order by one set of weights"):
        MADE(order="random", agnostic=True, shared=False).build(BITS)


def test_dropout_thins_out_hidden_units_of_training_steps_alone() -> None:
    from pushforward.train import Batch

    model = MADE(hidden=(16,), order="random", masks=2, dropout=0.4).build(BITS, seed=1).double()
    x = torch.randint(0, 2, (8, 6), generator=torch.Generator().manual_seed(0)).double()
    loss = lambda seed: model._objectives()[0].loss(Batch(x, None, torch.arange(8), Rng.seeded(seed, x), 1)).per_record
    torch.testing.assert_close(loss(0), -model._log_prob(x, None, Rng.seeded(0)))
    model.train()
    assert torch.equal(loss(0), loss(0))
    assert not torch.equal(loss(0), loss(1))
    # One hidden layer: outputs are linear in what is dropped, so that their mean over draws is the output of the whole network.
    drop, seen = model._thinned(Rng.seeded(0, x)), []
    with torch.no_grad():
        for ordering in model.orderings:
            draws = torch.stack([model._params(x, None, ordering, drop) for _ in range(4000)])
            gap = draws.mean(0) - model._params(x, None, ordering)
            seen.append(gap.abs() / (draws.std(0) / 4000**0.5 + 1e-12))
    # 96 means, each within 5 standard errors but for 6e-5 of the seeds; this one is fixed.
    assert torch.stack(seen).max() < 5
    with pytest.raises(ConfigError, match="dropout"):
        MADE(dropout=1.0).build(BITS)


def test_the_cumulative_network_is_nades_sum_written_out() -> None:
    """Over 37 entries: three blocks, the last one short."""
    net = Cumulative(37, 2, 3, 5, "sigmoid", 4).double()
    f, c = (torch.randn(2, *s, generator=torch.Generator().manual_seed(0), dtype=torch.float64) for s in ((37, 2), (4,)))
    a, out = net.given(c, 2)
    with torch.no_grad():
        y = net(f, c)
        for d in range(37):
            torch.testing.assert_close(y[:, d], out[:, d] + torch.sigmoid(a) @ net.V[d].T, rtol=0, atol=1e-12)
            a = a + f[:, d] @ net.W[d]


def digits() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 3, (60, 5, 4)).astype(np.uint8)


def test_images_are_completed_in_the_users_own_form() -> None:
    x = digits()
    model = PixelCNN(layers=2, channels=4).fit(pf.load_data(x, support="levels"), **QUICK)
    upper = np.zeros((5, 4), bool)
    upper[:3] = True
    a = model.complete(x[:6], upper, seed=1)
    assert a.dtype == np.uint8
    assert a.shape == (6, 5, 4)
    assert (a[:, :3] == x[:6, :3]).all()
    assert (a[:, 3:] != x[:6, 3:]).any()
    assert (a == model.complete(x[:6], upper, seed=1)).all()
    each = np.repeat(upper[None], 6, 0)
    each[2:4] = True
    b = model.complete(x[:6], each, seed=1)
    assert (b[2:4] == x[2:4]).all()
    assert (b[:, :3] == x[:6, :3]).all()
    assert (model.complete(x[:6], upper, seed=1, temperature=1e-4) == model.complete(x[:6], upper, seed=2, temperature=1e-4)).all()


def test_nan_and_missing_values_are_what_is_not_known() -> None:
    x = np.random.default_rng(1).normal(size=(60, 3)).astype(np.float32)
    model = NADE(hidden=4).fit(x, **QUICK)
    holes = x[:4].copy()
    holes[0, 2] = holes[1, 1:] = np.nan
    filled = model.complete(holes, seed=0)
    kept = ~np.isnan(holes)
    assert np.isfinite(filled).all()
    np.testing.assert_allclose(filled[kept], holes[kept], atol=1e-5)  # there and back through the scaling, in float32
    frame = pd.DataFrame({"size": x[:, 0], "kind": np.array(["a", "b", "c"])[(x[:, 1] > 0) * 1 + (x[:, 2] > 0)]})
    table = MADE(hidden=(8,)).fit(frame, **QUICK)
    some = frame[:5].copy()
    some.loc[1, "kind"] = None
    full = table.complete(some, seed=0)
    assert full["kind"].isin(["a", "b", "c"]).all()
    assert (full["kind"][[0, 2, 3, 4]] == frame["kind"][[0, 2, 3, 4]]).all()
    named = table.complete(frame[["size"]][:5], ["size"], seed=0)
    assert list(named.columns) == ["size", "kind"]
    np.testing.assert_allclose(named["size"], frame["size"][:5], atol=1e-5)
    sizes = table.complete(frame[:5], ["kind"], seed=0)  # its order has the size first: by a filter
    assert (sizes["kind"] == frame["kind"][:5]).all()
    assert (sizes["size"] != frame["size"][:5]).all()
    with pytest.raises(DataError, match="known= names 'colour'"):
        table.complete(frame[:5], ["colour"])
    for column, value in (("size", np.nan), ("kind", None)):
        lacking = frame[:5].copy()
        lacking.loc[[2, 3], column] = value
        with pytest.raises(DataError, match=rf"Column '{column}' is named in known= and row 2 \(from 0\) has no value in it \(2 such\)"):
            table.complete(lacking, ["size", "kind"])


def test_errors_name_the_remedy() -> None:
    model = PixelCNN(layers=2, channels=4).fit(pf.load_data(digits(), support="levels"), **QUICK)
    with pytest.raises(DataError, match=r"known= has shape \(4, 4\); give a mask of shape \(5, 4\)"):
        model.complete(digits()[:2], np.ones((4, 4), bool))
    with pytest.raises(DataError, match="give booleans"):
        model.complete(digits()[:2], np.full((5, 4), 2))
    with pytest.raises(ConfigError, match="temperature must be a number above 0, got 0"):
        model.sample(1, temperature=0)
    with pytest.raises(Unsupported, match="VAE has no complete: this family defines no complete"):
        pf.VAE(hidden=(4,), latent_dim=1).build(BITS).complete(torch.zeros(1, 6))
    unit = MADE(hidden=(4,)).build(DataSpec("points", (2,), (UNIT,)))
    with pytest.raises(Unsupported, match="temperature is for values on a finite set and for real ones"):
        unit.sample(2, temperature=0.5)


def test_a_gaussian_at_temperature_T_has_T_times_its_variance() -> None:
    """N(mu, s^2)^{1/T} is N(mu, T s^2); a mixture of two draws its member from pi^{1/T}."""
    n, T = 20_000, 0.25
    one = torch.tensor([[1.5, 0.3]], dtype=torch.float64).expand(n, -1)
    s = Gaussian().parts(one[0])[1].exp()
    x = draw(Gaussian(), one, Rng.seeded(0, one), T)
    # 5 standard errors of a mean and of a variance.
    assert abs(float(x.mean()) - 1.5) < 5 * float(s) * T**0.5 / n**0.5
    assert abs(float(x.var() / (T * s**2)) - 1) < 5 * (2 / n) ** 0.5
    two = torch.tensor([[0.0, 1.0, -20.0, 0.0, 20.0, 0.0]], dtype=torch.float64).expand(n, -1)
    upper = float((draw(Mixture(Gaussian(), 2), two, Rng.seeded(0, one), T) > 0).double().mean())
    p = 1 / (1 + np.exp(-1 / T))
    assert abs(upper - p) < 5 * (p * (1 - p) / n) ** 0.5


def test_real_columns_are_completed_by_their_conditional() -> None:
    """A MADE of one Gaussian: the mean and spread of what is drawn are those that the network says."""
    model = MADE(hidden=(8,), components=1).build(DataSpec("points", (2,), (REAL,)), seed=0).double()
    x = torch.tensor([[0.7, 9.0]], dtype=torch.float64).expand(5000, -1)
    with torch.no_grad():
        drawn = model._complete(x, torch.tensor([True, False]), None, Rng.seeded(0, x))
        mu, log_s = Gaussian().parts(model._params(x[:1], None, model.orderings[0])[:, 2:])
    assert torch.equal(drawn[:, 0], x[:, 0])
    assert abs(float(drawn[:, 1].mean() - mu)) < 5 * float(log_s.exp()) / 5000**0.5


def test_pixels_known_in_part_of_their_channels() -> None:
    model = PixelCNN(layers=2, channels=6).build(image(3, 2, 2)).double()
    known = torch.zeros(3, 2, 2).bool()
    known[:, 0] = known[0, 1, 0] = True
    x = torch.ones(4, 3, 2, 2, dtype=torch.float64)
    with torch.no_grad():
        assert torch.equal(model._complete(x, known, None, Rng.seeded(0, x))[:, known], x[:, known])
