"""CycleGAN: losses against their definitions, the pool, who learns from what, and translations in the user's form."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner

import pushforward as pf
from pushforward.cli import app
from pushforward.data.spec import DataSpec, categories, levels
from pushforward.errors import ConfigError, DataError, NotFitted, Unsupported
from pushforward.models.adversarial.cycle_answers import answers, between, set_line
from pushforward.models.adversarial.cyclegan import CycleGAN
from pushforward.models.adversarial.pool import Pool
from pushforward.rng import Rng

QUIET = {"progress": False, "alarms": False}
LIKE = torch.zeros((), dtype=torch.float64)
RANDOM = np.random.default_rng(0)


@pytest.mark.parametrize("answer", list(answers()), ids=lambda a: a.name)
def test_known_answers(answer):
    assert answer.holds, f"{answer.name}: {answer.ours} against {answer.known}"


# -- the losses -------------------------------------------------------------------------------------------------------


def test_losses_by_their_definition():
    # G(a) = 0.5 a + 1 and F(b) = 3 b - 2 between standardised collections, D_A(a) = 0.3 a + 0.1, D_B(b) = -0.2 b + 0.7.
    model, batch = between(RANDOM.normal(3, 2, (40, 1)), RANDOM.normal(-1, 0.5, (30, 1)), identity=0.25, cycle=7.0, adversarial=1.5)
    lines = (
        (model.generators[1], -0.5, 1.0),
        (model.generators[0], 2.0, -2.0),
        (model.critics[0], 0.3, 0.1),
        (model.critics[1], -0.2, 0.7),
    )
    for net, slope, intercept in lines:
        set_line(net, slope, intercept)
    loss = model._generators_loss(batch)
    a, b = (t.flatten().numpy() for t in model._round[1])
    centre, spread = model.centre.flatten().numpy(), model.spread.flatten().numpy()
    G, F = lambda x: 0.5 * x + 1, lambda x: 3 * x - 2
    into_a = lambda b: (b * spread[1] + centre[1] - centre[0]) / spread[0]  # a record of B in the coordinates of A
    into_b = lambda a: (a * spread[0] + centre[0] - centre[1]) / spread[1]
    game = 0.5 * ((-0.2 * G(a) + 0.7) - 1) ** 2 + 0.5 * ((0.3 * F(b) + 0.1) - 1) ** 2
    cycle = np.abs(F(G(a)) - a) + np.abs(G(F(b)) - b)
    identity = np.abs(G(into_a(b)) - b) + np.abs(F(into_b(a)) - a)
    known = 1.5 * game + 7 * cycle + 0.25 * 7 * identity
    assert np.allclose(loss.per_record.detach().numpy(), known, rtol=0, atol=1e-12)  # rounding of numbers below 100
    for side, (real, fake, slope, intercept) in enumerate(((a, F(b), 0.3, 0.1), (b, G(a), -0.2, 0.7))):
        known = 0.5 * (slope * real + intercept - 1) ** 2 + 0.5 * (slope * fake + intercept) ** 2
        critic = model._critic_loss(batch, side)
        assert np.allclose(critic.per_record.detach().numpy(), known, rtol=0, atol=1e-12)
    # Each collection is standardised by itself, in single precision as it is stored.
    own = model._stock[0]
    for side, label in enumerate("ab"):
        u = own.tensor(torch.float64)[own.condition == side]
        assert abs(float(u.mean()) - centre[side, ...]) < 1e-12, label
        assert abs(float(u.std(correction=0)) - spread[side, ...]) < 1e-12


def test_both_collections_are_seen_alike():
    # Of 900 and 100 records, a round sees as many of each. Records of A are below 10, those of B above.
    model, _ = between(RANDOM.uniform(0, 1, (900, 1)), RANDOM.uniform(20, 21, (100, 1)))
    records, rows = model._stock
    rng, seen = Rng.seeded(3, LIKE), torch.zeros(1000)
    for _ in range(50):
        index = torch.randperm(1000, generator=rng.generator)[:100]
        x, _ = records.batch(index, rng)
        a, b = (model._record(f, side).flatten() for side, f in enumerate(model._both(pf.model.Batch(x, None, index, rng))))
        own = records.schema.decode(torch.stack([a, b], 1).reshape(-1, 1)).reshape(-1, 2)
        assert (own[:, 0] < 10).all()
        assert (own[:, 1] > 10).all()
        # Each record of the batch is there.
        at = torch.where(records.condition[index] == 0, a, b)
        assert torch.allclose(at, x.flatten(), rtol=0, atol=1e-12)
        every = records.tensor(torch.float64).flatten()
        for t in (a, b):
            seen.index_add_(0, (t[:, None] - every).abs().argmin(1), torch.ones(100))
    # 5,000 of each: a record of B is seen 50 times on average, of which its own turns have variance below 1 and the others that of a
    # binomial: sd <= 7.
    assert float((seen[rows[1]] - 50).abs().max()) < 5 * 7
    assert abs(float(seen[rows[1]].mean()) - 50) < 1e-3


def test_each_player_learns_from_its_own_loss():
    # Weights that are not zero, so that a gradient which reaches a network is seen there.
    model, batch = between(RANDOM.normal(size=(20, 1)), RANDOM.normal(size=(20, 1)), hidden=(4,), critic_hidden=(4,), identity=0.5, pool=5)
    for p in model.parameters():
        p.data.uniform_(0.1, 0.5)
    generators, *critics = model._objectives()
    assert [o.name for o in (generators, *critics)] == ["generators", "critic a", "critic b"]
    assert not any(o.fresh for o in critics)
    assert {id(p) for p in generators.parameters()} == {id(p) for p in model.generators.parameters()}
    generators.loss(batch).per_record.mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.generators.parameters())
    for side, critic in enumerate(critics):
        model.zero_grad(set_to_none=True)
        critic.loss(batch).per_record.mean().backward()
        assert all(p.grad is not None for p in model.critics[side].parameters())
        others = [*model.generators.parameters(), *model.critics[1 - side].parameters()]
        assert all(p.grad is None for p in others)


# -- the pool ---------------------------------------------------------------------------------------------------------


def test_pool_is_that_of_the_paper():
    # The authors' ImagePool, one sample after the other, at the draws that ours makes of its generator.
    pool, kept = Pool(5, (1,)), []
    rng, twin = (torch.Generator().manual_seed(7) for _ in range(2))
    start = 0
    for n in (3, 4, 8, 1, 6, 40):
        fresh = torch.arange(start, start + n, dtype=torch.float32)[:, None]
        start += n
        swaps, slots = torch.rand(n, generator=twin) < 0.5, torch.randint(5, (n,), generator=twin)
        known = []
        for i in range(n):
            if len(kept) < 5:
                kept.append(float(fresh[i]))
                known.append(float(fresh[i]))
            elif swaps[i]:
                known.append(kept[slots[i]])
                kept[slots[i]] = float(fresh[i])
            else:
                known.append(float(fresh[i]))
        shown = pool.exchange(fresh, Rng(rng)).flatten().tolist()
        assert shown == known
        assert pool.kept.flatten()[: int(pool.count)].tolist() == kept
        assert all(seen <= own for seen, own in zip(shown, fresh.flatten().tolist(), strict=True)), "a sample from the future"


def test_pool_shows_the_past_half_the_time_and_is_state():
    pool, rng, past = Pool(50, (2,)), Rng.seeded(0), 0
    for t in range(100):
        past += int((pool.exchange(torch.full((20, 2), float(t)), rng)[:, 0] < t).sum())
    # After 50 samples each of 1,950 is swapped with probability 1/2 and then shows its own batch's with at most 20/50 of the time; a
    # slot's content is of the batch at hand with a share of 1 - (49/50)^(10 * share) < 0.18 on average over the batch.
    assert 0.5 * 0.82 * 1950 - 5 * math.sqrt(1950) / 2 < past < 0.5 * 1950 + 5 * math.sqrt(1950) / 2
    again = Pool(50, (2,))
    again.load_state_dict(pool.state_dict())
    a, b = (p.exchange(torch.full((20, 2), -1.0), Rng.seeded(5)) for p in (pool, again))
    assert torch.equal(a, b)
    assert torch.equal(Pool(0, (2,)).exchange(a, rng), a)


def test_resumed_run_has_the_pool_of_the_one_that_was_not(tmp_path: Path):
    data = pf.load_data(RANDOM.normal(size=(60, 2)), data_b=RANDOM.normal(2, 3, size=(90, 2)))
    make = lambda: CycleGAN(hidden=(4,), critic_hidden=(4,), pool=20, fourier=0)
    settings = {"steps": 8, "batch_size": 8, "checkpoint_every": 0.0, **QUIET}
    whole = make().fit(data, **settings)

    class Stop(pf.Observer):
        def on_step(self, loop):
            if loop.step == 5:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make().fit(data, out=tmp_path / "run", observers=[Stop()], **settings)
    again = pf.resume(tmp_path / "run", data)
    assert int(whole.pools[0].count) == 20
    for (name, a), b in zip(whole.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


# -- what is learnt ---------------------------------------------------------------------------------------------------


def test_finds_the_map_between_two_gaussians():
    # A = N(3, 2^2) and B = N(-1, 0.5^2), from lines that shrink and shift: G(a) must become -1 + (a - 3) / 4, as slopes have kept their
    # sign. The averaged players hover about the optimum by some steps of the learning rate, 0.01 times the gradient's signs.
    random = np.random.default_rng(0)
    a, b = random.normal(3, 2, (600, 1)), random.normal(-1, 0.5, (400, 1))
    data = pf.load_data(a, data_b=b, validation=0, test=0)

    class Astray(CycleGAN):
        name = ""

        def _prepare(self, data, seed):
            super()._prepare(data, seed)
            for net in self.generators:
                set_line(net, -0.4, 0.5)

    model = Astray(hidden=(), critic_hidden=(16,), fourier=0, cycle=1.0, critic_lr=0.1)
    model.fit(data, steps=300, batch_size=64, lr=1e-2, ema=0.95, **QUIET)
    at = np.array([[1.0], [3.0], [5.0]])
    there = model.translate(at, to="b")
    known = b.mean() + b.std() * (at - a.mean()) / a.std()
    assert np.abs(there - known).max() < 0.25 * 0.5  # a quarter of B's deviation; the start errs by 1.2 deviations
    assert np.abs(model.translate(there, to="a") - at).max() < 0.25 * 2


def test_tables_come_back_in_their_own_units():
    n = 80
    a = pd.DataFrame({"height": RANDOM.normal(170, 10, n), "sex": RANDOM.choice(["f", "m"], n), "children": RANDOM.integers(0, 5, n)})
    b = pd.DataFrame({"height": RANDOM.normal(5.6, 0.3, n), "sex": RANDOM.choice(["f", "m"], n), "children": RANDOM.integers(0, 5, n)})
    model = CycleGAN(hidden=(8,), critic_hidden=(8,)).fit(pf.load_data(a, data_b=b), steps=3, batch_size=16, **QUIET)
    there = model.translate(a, to="b")
    assert list(there.columns) == list(a.columns)
    assert there.dtypes.tolist() == a.dtypes.tolist()
    # Training begins at the identity of standardised columns, which is the exact map for the heights: 170 is 5.6, within the
    # sampling errors of both means (10 / sqrt(80) of 10 and 0.3 / sqrt(80) of 0.3: 0.16 of 0.3) and three small steps.
    assert abs(there["height"].mean() - 5.6) < 0.2
    assert abs(model.translate(b, to="a")["height"].mean() - 170) < 6
    # With the label's column beside, as a file may have it, and row by row.
    assert model.translate(a.assign(label="a"), to="b").equals(there)
    assert model.translate(a.iloc[:1], to="b")["height"][0] == pytest.approx(there["height"][0], rel=1e-5)


def test_images_grey_and_colour():
    grey = RANDOM.integers(0, 256, (30, 16, 18), dtype=np.uint8)
    colour = RANDOM.integers(0, 256, (30, 16, 18, 3), dtype=np.uint8)
    data = pf.load_data(grey, data_b=colour)
    model = CycleGAN(channels=2, blocks=1, halvings=1).fit(data, steps=2, batch_size=4, **QUIET)
    there = model.translate(grey, to="b")
    assert there.shape == colour.shape
    assert there.dtype == np.uint8
    assert np.array_equal(model.translate(np.repeat(grey[..., None], 3, -1), to="b"), there)
    assert model.translate(colour, to="a").shape == colour.shape
    # Of a part of the data set, the records of the other collection.
    of_a = data.test.records()[data.test.labels() == "a"]
    assert np.array_equal(model.translate(data.test, to="b"), model.translate(of_a, to="b"))


def test_codes_are_translations_and_the_way_back():
    data = pf.load_data(RANDOM.integers(0, 9, (60, 6)), label=np.repeat(["old", "young"], 30))
    model, plain = (CycleGAN(hidden=(8,), critic_hidden=(8,)).fit(data, condition=c, steps=3, batch_size=16, **QUIET) for c in (True, None))
    with torch.no_grad():  # far from the identity that it begins at, where all codes are the records
        for p, q in zip(model.generators.parameters(), plain.generators.parameters(), strict=True):
            q.copy_(p.copy_(torch.from_numpy(RANDOM.normal(size=p.shape))))
    x = data.test.records()
    there = model.translate(x, to="young")
    z = model.encode(x, condition="old")
    # The code is the translation's features, and decoding it for the same collection is the way back.
    assert torch.equal(model._features.decode(z), model.schema.encode(there))
    back = model.encode(there, condition="young")
    assert torch.equal(model._features.decode(back), model.schema.encode(model.translate(there, to="old")))
    assert not torch.equal(z, model.encode(x, condition="young"))
    assert np.array_equal(model.reconstruct(x, condition="old"), model.translate(there, to="old"))
    mixed = model.encode(x[:4], condition=["old", "young", "old", "young"])
    assert torch.equal(mixed[1], model.encode(x[1:2], condition="young")[0])
    assert torch.equal(plain.encode(x), model.encode(x, condition="old"))
    # Built without data the collections are 0 and 1.
    bare = CycleGAN(hidden=(4,), critic_hidden=(4,)).build(DataSpec("points", (2,)))
    assert torch.equal(bare.translate(torch.ones(3, 2), to=1), torch.ones(3, 2))


def test_rounded_translations_pass_the_gradient_straight_through():
    spec = DataSpec("points", (2,), (levels(9),))
    hard, soft = (CycleGAN(hidden=(4,), critic_hidden=(4,), rounding=r).build(spec, seed=0).double() for r in ("straight-through", "soft"))
    f = hard.see(torch.tensor([[1.0, 7.0], [4.0, 2.0]], dtype=torch.float64), 0)
    slopes = []
    for model in (hard, soft):
        y = model.across(f, 1)
        slopes.append(
            torch.autograd.grad(
                y.square().sum() if model is soft else (2 * soft.across(f, 1).detach() * y).sum(), list(model.generators[1].parameters())
            )
        )
    record = hard._record(hard.across(f, 1), 1)
    assert torch.equal(record, record.round())
    torch.testing.assert_close(hard.across(f, 1), hard.see(record, 1), rtol=0, atol=1e-15)
    # The gradient of what is linear in y is that of the unrounded y, exact to rounding.
    for a, b in zip(*slopes, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-15)
    assert any(b.abs().max() > 0 for b in slopes[1])


# -- refusals ---------------------------------------------------------------------------------------------------------


def test_refuses():
    digits = pf.load_data("digits")
    with pytest.raises(DataError, match=r"two collections; the labels 'label' are 10 classes. Give load_data\(A, data_b=B\)"):
        CycleGAN().fit(digits, **QUIET)
    points = RANDOM.normal(size=(40, 2))
    with pytest.raises(DataError, match=r"no label that says which. Give load_data\(A, data_b=B\)"):
        CycleGAN().fit(points, **QUIET)
    with pytest.raises(DataError, match="the labels 'label' are numbers"):
        CycleGAN().fit(pf.load_data(points, label=points[:, 0]), **QUIET)
    half = pf.load_data(points, label=np.array([0, 1, None, None] * 10, dtype=object), missing="unlabelled")
    with pytest.raises(DataError, match="training records do not say which collection they are from"):
        CycleGAN().fit(half, **QUIET)
    lonely = pf.load_data(points, label=np.arange(40) == int(pf.load_data(points).order[-1]))
    with pytest.raises(DataError, match="No training record is from the collection True. Give more of them"):
        CycleGAN().fit(lonely, steps=1, batch_size=8, **QUIET)
    with pytest.raises(NotFitted, match="translate was called before fit"):
        CycleGAN().translate(points, to="b")
    model = CycleGAN(hidden=(), critic_hidden=()).fit(pf.load_data(points, data_b=points + 1), steps=1, batch_size=8, **QUIET)
    with pytest.raises(DataError, match="There is no collection 'c' to translate to. Known: a, b"):
        model.translate(points, to="c")
    with pytest.raises(DataError, match="Records have shape"):
        model.translate(points[:, :1], to="b")
    only = pf.load_data(points, label=["b"] * 40, validation=0, test=0)
    with pytest.raises(DataError, match="None of these records is of the collection 'a'"):
        model.translate(only.train, to="b")
    for verb, remedy in (("sample", "translate"), ("log_prob", "realnvp"), ("posterior", "encode"), ("likelihood", "decode")):
        assert not CycleGAN.supports(verb)
        with pytest.raises(Unsupported, match=remedy):
            model.sample(2) if verb == "sample" else getattr(model, verb)(points)
    with pytest.raises(ConfigError, match="must be at least 0"):
        CycleGAN(pool=-1).build(DataSpec("points", (2,)))
    with pytest.raises(Unsupported, match="as levels, or as a table"):
        CycleGAN().build(DataSpec("image", (1, 8, 8), (categories(5),)))


# -- the command line -------------------------------------------------------------------------------------------------


def cli(*args: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, list(args))
    assert result.exit_code == code, f"{args}: {result.output}\n{result.exception!r}"
    return result.output


def test_two_folders_in_and_a_folder_out(tmp_path: Path):
    pf.data.write_records(RANDOM.integers(0, 256, (24, 8, 9), dtype=np.uint8), tmp_path / "A")
    pf.data.write_records(RANDOM.integers(0, 256, (20, 8, 9, 3), dtype=np.uint8), tmp_path / "B")
    run = str(tmp_path / "run")
    sources = ["--data", str(tmp_path / "A"), "--data-b", str(tmp_path / "B")]
    cli(
        "fit",
        "cyclegan",
        *sources,
        "--hidden",
        "8",
        "--critic-hidden",
        "8",
        "--steps",
        "2",
        "--batch-size",
        "8",
        "--no-progress",
        "--out",
        run,
    )
    out = tmp_path / "out"
    assert "24 records" in cli("translate", run, "--data", str(tmp_path / "A"), "--to", "b", "--out", str(out))
    assert len(list(out.iterdir())) == 24
    # The same as in Python, in the order of the files.
    model, images = pf.load(run), pf.data.read_records(tmp_path / "A")[0]
    assert np.array_equal(pf.data.read_records(out)[0], pf.data.pictures(model.translate(images, to="b")))
    cli("translate", run, "--to", "a", "--out", str(tmp_path / "held.npy"))  # held-out records of B
    assert np.load(tmp_path / "held.npy").shape[1:] == (8, 9, 3)
    cli("translate", run, "--to", "a", "--out", str(tmp_path / "held.png"))
    assert "finished its budget" in cli("resume", run, code=1)
    cli("resume", run, "--steps", "3")
    assert "no collection 'c' to translate to. Known: a, b" in cli("translate", run, "--to", "c", code=1)
    assert "Missing option '--to'" in cli("translate", run, code=2)


def test_tables_by_their_columns(tmp_path: Path):
    n = 40
    frame = lambda shift: pd.DataFrame({"id": [f"r{i}" for i in range(n)], "u": RANDOM.normal(shift, 1, n), "v": RANDOM.normal(size=n)})
    frame(0).to_csv(tmp_path / "a.csv", index=False)
    frame(9).to_csv(tmp_path / "b.csv", index=False)
    run, new = str(tmp_path / "run"), tmp_path / "new.csv"
    sources = ["--data", str(tmp_path / "a.csv"), "--data-b", str(tmp_path / "b.csv"), "--drop", "id"]
    cli(
        "fit",
        "cyclegan",
        *sources,
        "--hidden",
        "4",
        "--critic-hidden",
        "4",
        "--steps",
        "1",
        "--batch-size",
        "8",
        "--no-progress",
        "--out",
        run,
    )
    frame(0).iloc[:2].to_csv(new, index=False)
    lines = cli("translate", run, "--data", str(new), "--to", "b").splitlines()
    assert lines[0] == "u,v"
    assert len([line for line in lines if "," in line]) == 3
    cli("fit", "kde", "--data", str(tmp_path / "a.csv"), "--drop", "id", "--out", str(tmp_path / "kde"))
    assert "does not translate. Fit a cyclegan" in cli("translate", str(tmp_path / "kde"), "--to", "b", code=1)
