"""Recurrent and Transformer: exact by enumeration, blind to the future, with caches that change nothing, never better than the truth."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

import pushforward as pf
from pushforward.data.spec import BINARY, REAL, DataSpec, categories
from pushforward.errors import ConfigError, DataError, Unsupported
from pushforward.models.exact import recurrent, sequences, transformer
from pushforward.models.exact.recurrent import Recurrent
from pushforward.models.exact.sequence_answers import enumerated, valid_records
from pushforward.models.exact.sequences import shaped, transposed
from pushforward.models.exact.transformer import Transformer
from pushforward.nn.frames import NADEHead
from pushforward.rng import Rng
from pushforward.train import Batch

TEXT, LINES = DataSpec("sequence", (6,), (categories(5),)), DataSpec("sequence", (6,), (categories(5),), 2, ends=True)
ROLL, PIECES = DataSpec("sequence", (5, 7), (BINARY,)), DataSpec("sequence", (5, 7), (BINARY,), 2, ends=True)
CASES = [
    (Recurrent(hidden=12, nade_hidden=5), TEXT),
    (Recurrent(hidden=12, cell="gru", layers=1), LINES),
    (Recurrent(hidden=12, nade_hidden=5), PIECES),
    (Recurrent(hidden=12, head="independent"), ROLL),
    (Transformer(width=16, layers=2, heads=2), LINES),
    (Transformer(width=16, layers=2, heads=2, positions="learned"), TEXT),
    (Transformer(width=16, layers=2, heads=2, nade_hidden=5), PIECES),
    (Transformer(width=16, layers=2, heads=2, positions="learned", head="independent"), ROLL),
    (
        Transformer(width=16, layers=2, heads=2),
        DataSpec("sequence", (18,), (categories(5),)),
    ),  # long enough for weights to be laid out anew
]


def rough(model, spec: DataSpec, dtype=torch.float64):
    """Random weights that make conditionals far from uniform, and not one certain."""
    model.build(spec, seed=3).to(dtype)
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(p * 2 + 0.1 * torch.randn(p.shape, generator=g).to(p))
        if getattr(model, "end", None) is not None:
            model.end.bias.sub_(4)  # most pieces have some steps
    return model


def condition(spec: DataSpec, n: int, dtype=torch.float64) -> Tensor | None:
    return torch.eye(spec.condition_dim, dtype=dtype)[torch.arange(n) % spec.condition_dim] if spec.condition_dim else None


def some(spec: DataSpec, n: int, dtype=torch.float64) -> Tensor:
    """Valid records without an early end but for the last step of some."""
    g = torch.Generator().manual_seed(1)
    if len(spec.shape) == 1:
        return torch.randint((spec.supports[0].size or 2) - spec.ends, (n, *spec.shape), generator=g).to(dtype)
    x = (torch.rand(n, *spec.shape, generator=g) < 0.4).to(dtype)
    if spec.ends:
        x[..., -1] = 0
    return x


@pytest.mark.parametrize("module", [recurrent, transformer])
def test_known_answers(module) -> None:
    assert [f"{k.name}: {k.ours}" for k in module.known_answers() if not k.holds] == []


@pytest.mark.parametrize(("model", "spec"), CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_cached_and_uncached_sampling_give_the_same_records(model, spec, dtype) -> None:
    rough(model, spec, dtype)
    like = next(model.parameters())
    with torch.no_grad():
        a = model._sample(64, condition(spec, 64, dtype), Rng.seeded(5, like))
        b = model._sample(64, condition(spec, 64, dtype), Rng.seeded(5, like), incremental=False)
    # The same uniform numbers; 64 x 35 choices whose probabilities differ by 1e-6 fall apart with probability 2e-3 in float32.
    assert torch.equal(a, b)
    assert torch.isfinite(model._log_prob(a, condition(spec, 64, dtype), Rng.seeded(0))).all()
    assert len({tuple(r.flatten().tolist()) for r in a}) > 20  # not all one record


@pytest.mark.parametrize(("model", "spec"), CASES)
def test_stepping_gives_the_features_of_one_pass(model, spec) -> None:
    rough(model, spec, torch.float32)
    x, c = some(spec, 9, torch.float32), condition(spec, 9, torch.float32)
    with torch.no_grad():
        given = None if c is None else model.given(c)[:, None]
        state, whole = model.net.start(9, spec.shape[0]), model._past(x, c)
        steps = torch.stack([model._next(x, t, t, given, state) for t in range(spec.shape[0])], 1)
        # The first steps at once, as a prompt enters, then two more at once, then the rest.
        state, prompted = model.net.start(9, spec.shape[0]), []
        for first, t in ((0, 1), (2, 3), (4, 4)):
            prompted.append(model._next(x, first, t, given, state))
    # Sums of 16 products in float32, normalised or squashed, of size 1: a few 1e-6.
    torch.testing.assert_close(steps, whole, rtol=0, atol=1e-5)
    torch.testing.assert_close(torch.stack(prompted, 1), whole[:, [1, 3, 4]], rtol=0, atol=1e-5)


@pytest.mark.parametrize(("model", "spec"), CASES)
def test_no_step_sees_itself_or_what_comes_after(model, spec) -> None:
    rough(model, spec)
    x, c = some(spec, 4), condition(spec, 4)
    with torch.no_grad():
        base = model._past(x, c)
        for t in range(spec.shape[0]):
            other = x.clone()
            other[:, t] = (x[:, t] + 1) % (4 if len(spec.shape) == 1 else 2)
            moved = model._past(other, c)
            assert torch.equal(moved[:, : t + 1], base[:, : t + 1])  # the same sums of the same numbers
            if t + 1 < spec.shape[0]:
                assert (moved[:, t + 1] - base[:, t + 1]).abs().amin(0).max() > 1e-6


@pytest.mark.parametrize(("model", "spec"), [case for case in CASES if case[1] in (ROLL, PIECES)])
def test_no_gradient_from_later_frames(model, spec) -> None:
    rough(model, spec)
    x = some(spec, 3).requires_grad_()
    h = model._past(x, condition(spec, 3))
    for t in range(spec.shape[0]):
        (g,) = torch.autograd.grad(h[:, t].square().sum(), x, retain_graph=True, allow_unused=True)
        assert g[:, t:].abs().max() == 0
        assert t == 0 or g[:, :t].abs().amin() > 0


def test_a_transformer_of_frames_attends_by_distance() -> None:
    """Rotary positions: attention between two steps depends on their distance alone, so a score shifts with both."""
    from pushforward.nn.sequence import angles, rotated

    q, k = torch.randn(2, 1, 1, 1, 1, 8, dtype=torch.float64)
    turn = angles(12, 8).double()
    score = lambda s, t: float((rotated(q, turn[s : s + 1]) * rotated(k, turn[t : t + 1])).sum())
    # The table is kept in float32.
    assert score(5, 3) == pytest.approx(score(11, 9), abs=1e-5)
    assert abs(score(5, 3) - score(5, 2)) > 1e-2


@pytest.mark.parametrize("rows", [1, 2, 16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(48, 16), (16, 64)])
def test_weights_laid_out_for_few_rows_are_the_same_map(rows: int, dtype: torch.dtype, shape: tuple[int, int]) -> None:
    from pushforward.nn.sequence import product

    w, h = torch.randn(*shape, dtype=dtype), torch.randn(rows, 1, shape[1], dtype=dtype)
    with torch.no_grad():
        # Sums of at most 64 products of normal numbers in another order.
        torch.testing.assert_close(product(w, rows)(h), torch.nn.functional.linear(h, w), rtol=0, atol=64 * 10 * torch.finfo(dtype).eps)


def test_nade_is_its_definition() -> None:
    head = NADEHead(3, 6, 4).double()
    h, v = torch.randn(40, 3, dtype=torch.float64), (torch.rand(40, 6) < 0.4).double()
    v[0], v[1] = 0, 1  # silence, and every key at once
    with torch.no_grad():
        found = head.logits(h, v)
        a, expected = head.hidden(h), []
        for k in range(6):  # equations of Larochelle & Murray 2011, section 3, with biases that depend on h
            expected.append(head.visible(h)[:, k] + a.sigmoid() @ head.V[k])
            a = a + v[:, k : k + 1] * head.W[k]
        torch.testing.assert_close(found, torch.stack(expected, 1), rtol=0, atol=1e-13)
        # Drawing bit by bit with the same numbers.
        u = torch.rand(40, 6, dtype=torch.float64)
        w = torch.zeros_like(v)
        for k in range(6):
            w[:, k] = (u[:, k] < head.logits(h, w)[:, k].sigmoid()).double()
        assert torch.equal(head.draw(h, u), w)


COUNTED = [
    (Recurrent(hidden=8, nade_hidden=5), DataSpec("sequence", (3, 3), (BINARY,), ends=True)),
    (Transformer(width=8, layers=1, heads=2), DataSpec("sequence", (3,), (categories(4),), ends=True)),
    (Transformer(width=8, layers=1, heads=2, head="independent"), DataSpec("sequence", (2, 3), (BINARY,))),
]


@pytest.mark.parametrize(("model", "spec"), COUNTED)
def test_samples_follow_log_prob(model, spec) -> None:
    """Pearson's statistic of 20,000 samples over all records; records expected fewer than 5 times are joined."""
    x, log_p = enumerated(rough(model, spec))
    with torch.no_grad():
        drawn = model._sample(20_000, None, Rng.seeded(2, next(model.parameters())))
    rows = {tuple(r.flatten().tolist()): i for i, r in enumerate(x)}
    counts = torch.bincount(torch.tensor([rows[tuple(r.flatten().tolist())] for r in drawn]), minlength=len(x)).double()
    expected = 20_000 * log_p.exp()
    rare = expected < 5
    counts, expected = (torch.cat([v[~rare], v[rare].sum()[None]]) for v in (counts, expected))
    df = len(counts) - 1
    statistic = float(((counts - expected).square() / expected.clamp(min=1e-9)).sum())
    # Chi-squared with df degrees has mean df and variance 2 df: five sd.
    assert statistic < df + 5 * math.sqrt(2 * df)


CHAIN = np.array([[0.8, 0.15, 0.05], [0.1, 0.6, 0.3], [0.3, 0.1, 0.6]])


@pytest.mark.parametrize(
    "model", [Recurrent(hidden=24, layers=1), Transformer(width=24, layers=1, heads=2)], ids=["recurrent", "transformer"]
)
def test_a_markov_chain_is_learnt_to_its_entropy_and_no_further(model) -> None:
    """Known exactly by enumeration: entropy H of 6 symbols, and the cross-entropy of the trained model, which Gibbs keeps above H."""
    random = np.random.default_rng(0)
    x = np.zeros((3000, 6), int)
    for t in range(1, 6):
        x[:, t] = (random.random(3000)[:, None] > CHAIN[x[:, t - 1]].cumsum(1)).sum(1)
    data = pf.load_data(["".join("abc"[k] for k in row) for row in x])
    model.fit(data, steps=400, batch_size=64, lr=1e-2, weight_decay=0.0, progress=False, alarms=False, seed=1)
    every = torch.tensor([s for s in itertools.product(range(3), repeat=6) if s[0] == 0])
    p = torch.tensor([math.prod(CHAIN[a, b] for a, b in itertools.pairwise(s)) for s in every.tolist()], dtype=torch.float64)
    entropy = -float((p * p.log()).sum())
    with torch.no_grad():
        cross = -float((p * model.double()._log_prob(every.double(), None, Rng.seeded(0))).sum())
    assert cross >= entropy
    # The maximum-likelihood chain itself, 6 free numbers fitted to 2,400 records, lies 6 / (2 x 2400) = 0.00125 above on average; the first
    # symbol must be learnt to be certain and training noise comes on top: 0.02 nats of 3.6 is far below what a wrong model leaves.
    assert cross < entropy + 0.02
    held = -model.log_prob(data.test).double()
    log_true = torch.tensor(
        [math.log(math.prod(CHAIN["abc".index(a), "abc".index(b)] for a, b in itertools.pairwise(r))) for r in data.test.records()]
    )
    gap = held + log_true  # paired with the truth on the same records: KL up to its error
    assert abs(float(gap.mean()) - (cross - entropy)) < 4 * float(gap.std()) / math.sqrt(len(gap)) + 1e-9


@pytest.mark.parametrize(("model", "spec"), CASES)
def test_per_token_adds_up(model, spec) -> None:
    rough(model, spec)
    x, c = some(spec, 6), condition(spec, 6)
    if spec.ends:  # records of 0 to 5 steps
        for i in range(6):
            x[i, i:] = 0
            x[i, i:, ...] = torch.tensor([0.0] * 6 + [1.0], dtype=x.dtype) if x.ndim == 3 else 4
    with torch.no_grad():
        found, total = model.per_token(x, condition=c), model._log_prob(x, c, Rng.seeded(0))
        _, stops, there = model._steps(x, c)
    assert torch.equal(found.isnan(), ~there)
    torch.testing.assert_close(found.nansum(1) + stops.sum(1), total, rtol=0, atol=1e-12)
    lengths = torch.arange(6) if spec.ends else torch.full((6,), spec.shape[0])
    if spec.ends and x.ndim == 2:
        lengths = lengths + 1  # the end is a symbol
    assert there.sum(1).tolist() == lengths.tolist()
    if x.ndim == 3 and spec.ends:
        # A piece of n frames goes on n times and ends once: by the probability of the end bit alone.
        with torch.no_grad():
            q = model.end(model._past(x, c)).squeeze(2)
        expected = [float(-q[i, :i].exp().log1p().sum() - (-q[i, i]).exp().log1p()) for i in range(5)]
        assert stops.sum(1)[:5].tolist() == pytest.approx(expected, abs=1e-10)


def test_records_that_go_on_after_their_end_are_impossible() -> None:
    model = rough(Recurrent(hidden=8), LINES)
    x = torch.tensor([[0, 1, 4, 4, 4, 4], [0, 1, 4, 2, 4, 4.0]], dtype=torch.float64)
    assert model._log_prob(x, condition(LINES, 2), Rng.seeded(0)).isfinite().tolist() == [True, False]
    model = rough(Recurrent(hidden=8), PIECES)
    x = some(PIECES, 3)
    x[:, 2:] = 0
    x[:, 2:, -1] = 1
    x[1, 3, -1] = 0
    x[2, 4, 2] = 1
    assert model._log_prob(x, condition(PIECES, 3), Rng.seeded(0)).isfinite().tolist() == [True, False, False]


def test_all_records_of_small_specs_are_counted_once() -> None:
    counts = {"lines": 1 + 3 + 9, "pieces": 1 + 4 + 16}
    found = list(valid_records(DataSpec("sequence", (2,), (categories(4),), ends=True)))
    assert len({tuple(r.tolist()) for r in found}) == len(found) == counts["lines"]
    found = list(valid_records(DataSpec("sequence", (2, 3), (BINARY,), ends=True)))
    assert len({tuple(r.flatten().tolist()) for r in found}) == len(found) == counts["pieces"]


def test_log_prob_in_parts_is_log_prob(monkeypatch) -> None:
    for model, spec in (CASES[1], CASES[2]):
        rough(model, spec)
        x, c = some(spec, 7), condition(spec, 7)
        whole = model._log_prob(x, c, Rng.seeded(0))
        monkeypatch.setattr(sequences, "LOGITS", 1)
        assert len(model._parts(x)) == 7
        torch.testing.assert_close(model._log_prob(x, c, Rng.seeded(0)), whole, rtol=0, atol=1e-12)
        monkeypatch.undo()


def test_temperature_top_k_and_top_p() -> None:
    p = torch.tensor([[0.5, 0.3, 0.15, 0.05]], dtype=torch.float64)
    norm = lambda q: (q / q.sum()).flatten().tolist()
    assert norm(shaped(p.log())) == pytest.approx(p[0].tolist())
    assert norm(shaped(p.log(), 0.5)) == pytest.approx((p[0] ** 2 / (p**2).sum()).tolist())
    assert norm(shaped(p.log(), top_k=2)) == pytest.approx([0.625, 0.375, 0, 0])
    assert norm(shaped(p.log(), top_p=0.81)) == pytest.approx([50 / 95, 30 / 95, 15 / 95, 0])
    assert norm(shaped(p.log(), top_p=0.79)) == pytest.approx([0.625, 0.375, 0, 0])
    assert norm(shaped(p.log(), top_p=1e-9)) == pytest.approx([1, 0, 0, 0])  # the most probable one always stays
    # Of two symbols that are left, top_p counts shares of what top_k left: 0.625 alone reaches 0.6.
    assert norm(shaped(p.log(), top_k=2, top_p=0.6)) == pytest.approx([1, 0, 0, 0])


@pytest.fixture(scope="module")
def writer():
    lines = ["abcabcab"[: 4 + i % 5] for i in range(60)]
    return Recurrent(hidden=16, layers=1).fit(pf.load_data(lines), steps=150, lr=2e-2, progress=False, alarms=False)


def test_prompts_are_continued(writer) -> None:
    found = writer.sample(20, prompt="ab", seed=0)
    assert all(text.startswith("ab") and len(text) <= 8 for text in found)
    assert len(writer.sample(1, prompt="abcabcab", seed=0)[0]) == 8
    assert set(writer.sample(8, prompt="abc", top_k=1, seed=0)) == set(writer.sample(8, prompt="abc", top_k=1, seed=1))
    again = writer.sample(20, prompt="ab", seed=0, temperature=1.0, incremental=False)
    assert again == found
    assert writer.sample(3, seed=0) == writer.sample(3, seed=0)
    with pytest.raises(DataError, match=r"The prompt has 9 steps; records of this model have 8. Shorten it, or use extend\(\)"):
        writer.sample(1, prompt="abcabcabc")
    with pytest.raises(DataError, match=r"The prompt holds 'z' \(symbol 0\)"):
        writer.sample(1, prompt="z")
    with pytest.raises(DataError, match="The prompt is of type list; this model continues texts"):
        writer.sample(1, prompt=["ab"])
    for options, says in (
        ({"temperature": 0.0}, "temperature must be above 0"),
        ({"top_k": 0}, "top_k must be at least 1"),
        ({"top_p": 1.5}, "top_p is a probability"),
        ({"topk": 3}, "no option 'topk'. Did you mean 'top_k'"),
    ):
        with pytest.raises(ConfigError, match=says):
            writer.sample(1, **options)


def test_texts_are_extended_beyond_the_window() -> None:
    text = "abcd" * 300
    data = pf.load_data([text[i : i + 8] for i in range(0, 800, 3)])
    model = Transformer(width=16, layers=1, heads=2).fit(data, steps=250, lr=2e-2, progress=False, alarms=False)
    assert not data.spec.ends
    assert model.extend("abc", 30, top_k=1, seed=0) == ("abcd" * 9)[:33]
    assert model.extend("bcdabcdabcda", 5, top_k=1, seed=0) == "bcdabcdabcdabcdab"  # a prompt longer than the window


def test_extending_stops_at_the_end(writer) -> None:
    assert len(writer.extend("ab", 100, seed=0)) <= 8
    assert len(writer.extend("ab", 3, seed=0)) <= 5


def test_pieces_in_and_out() -> None:
    pieces = [[[60, 64], [62], [60, 67], [], [55]][: 3 + i % 3] for i in range(60)]
    data = pf.load_data(pieces)
    model = Recurrent(hidden=24, layers=1, nade_hidden=20).fit(data, steps=300, lr=2e-2, progress=False, alarms=False)
    found = model.sample(20, prompt=[[60, 64], [62]], temperature=0.3, seed=0)
    assert all(p[:2] == [[60, 64], [62]] for p in found)
    assert sum(p in pieces for p in found) >= 15  # there are three pieces, and little doubt at this temperature
    assert model.extend([[60, 64]], 2, temperature=0.1, seed=0) == [[60, 64], [62], [60, 67]]
    with pytest.raises(ConfigError, match="top_k and top_p choose among symbols, and frames are bits"):
        model.sample(1, top_k=2)
    log_p = model.per_token(data.test)
    assert -float(log_p.nanmean()) < 1.0
    figure = pf.evaluate(model, data).figures["nats_per_token"]
    counted = -float(log_p.nansum() / (~log_p.isnan()).sum())
    assert figure.value == pytest.approx(counted, abs=1e-6)
    # The error of a ratio: nats less the mean rate times the number of frames, by records.
    rest = (-log_p.nansum(1) - counted * (~log_p.isnan()).sum(1)).double()
    mean_length = float((~log_p.isnan()).sum(1).double().mean())
    assert figure.stderr == pytest.approx(math.sqrt(float(rest.square().sum()) / (len(rest) * (len(rest) - 1))) / mean_length, rel=1e-5)


def test_transposing_moves_whole_pieces() -> None:
    x = torch.zeros(400, 4, 11)
    x[:, 0, [3, 7]] = 1
    x[:, 1, 5] = 1
    x[:, 2:, 10] = 1  # the end stays
    moved = transposed(x, 10, 5, Rng.seeded(0))
    assert torch.equal(moved[..., 10], x[..., 10])
    by = moved[:, 0, :10].argmax(1) - 3
    # Down to key 0 (3 steps) and up to key 9 (2 steps), equally often: 400 / 6 = 67, sd 7.5.
    assert sorted(set(by.tolist())) == [-3, -2, -1, 0, 1, 2]
    assert by.add(3).bincount().min() > 67 - 5 * 7.5
    for row, shift in zip(moved[..., :10], by.tolist(), strict=True):
        assert torch.equal(row, x[0, :, :10].roll(shift, 1))
    silent = torch.zeros(2, 3, 11)
    assert torch.equal(transposed(silent, 10, 5, Rng.seeded(0)), silent)


@pytest.mark.parametrize("make", [Recurrent, Transformer])
def test_dropout_is_for_training_and_has_its_own_seed(make) -> None:
    size = {"hidden": 16} if make is Recurrent else {"width": 16, "heads": 2}
    model = make(dropout=0.5, **size).build(TEXT)
    batch = lambda seed: Batch(some(TEXT, 5, torch.float32), None, torch.arange(5), Rng.seeded(seed))
    still = model._loss(batch(0)).per_record
    assert torch.equal(still, model._loss(batch(1)).per_record)
    assert torch.allclose(still * 6, -model._log_prob(batch(0).x, None, Rng.seeded(0)))
    model.train()
    state = torch.get_rng_state()
    a, b, again = (model._loss(batch(seed)).per_record for seed in (0, 1, 0))
    assert torch.equal(a, again)
    assert not torch.equal(a, b)
    assert torch.equal(state, torch.get_rng_state())
    mask = model._mask(torch.zeros(2000, 6, 16), Rng.seeded(0))
    assert mask.mean() == pytest.approx(1.0, abs=5 / math.sqrt(2000 * 16))  # entries 0 or 2: sd 1
    assert model.per_record_dropout == (mask.shape[1] == 1) == (make is Recurrent)


def test_training_starts_at_the_frequencies_of_steps() -> None:
    data = pf.load_data(["aab", "a"] * 10, validation=0, test=0)
    model = Recurrent(hidden=8).build(data.spec)
    model._prepare(data, 0)
    # Of 60 symbols 30 are a, 10 b and 20 ends (two after each "a"); one of each is added.
    assert model.out.bias.exp().tolist() == pytest.approx([31 / 63, 11 / 63, 21 / 63])
    data = pf.load_data([[[60], [60, 64]], [[60]]] * 10, validation=0, test=0)
    model = Recurrent(hidden=8).build(data.spec)
    model._prepare(data, 0)
    share = model.keys.visible.bias.sigmoid()
    assert share[[39, 43, 0]].tolist() == pytest.approx([31 / 32, 11 / 32, 1 / 32])  # 30 frames, 30 with note 60, 10 with note 64
    # Ten records end after their first step, ten are full: 10 ends at 40 chances, and one of each is added.
    assert model.end.bias.sigmoid().tolist() == pytest.approx([11 / 42])


def test_who_takes_what() -> None:
    for spec in (DataSpec("points", (3,), (REAL,)), DataSpec("sequence", (3,), (REAL,)), DataSpec("table", (3,), (categories(3),))):
        with pytest.raises(Unsupported, match="models texts, music and images, and these records are"):
            Recurrent().build(spec)
    for name, model in pf.catalog().items():
        if not model.takes_sequences:
            assert model.accepts(TEXT) is not None, name
    with pytest.raises(Unsupported, match="GAN models records whose entries have fixed places, and these are sequences. Use recurrent"):
        pf.GAN().build(LINES)
    with pytest.raises(ConfigError, match="heads=3 does not divide width=128"):
        Transformer(heads=3).build(TEXT)
    with pytest.raises(ConfigError, match="heads=4 does not divide width=12 into even shares, for rotary positions"):
        Transformer(width=12).build(TEXT)
    with pytest.raises(ConfigError, match="head='rbm' is not known"):
        Recurrent(head="rbm").build(ROLL)
    with pytest.raises(ConfigError, match="dropout is a share"):
        Recurrent(dropout=1.0).build(TEXT)


def test_a_run_folder_of_texts_and_of_music(tmp_path) -> None:
    for name, records in (("text", ["ab$c", "b_c"] * 20), ("music", [[[60], [60, 64]], [[60]]] * 20)):
        data = pf.load_data(records)
        model = Transformer(width=8, layers=1, heads=2).fit(data, steps=2, out=tmp_path / name, progress=False)
        assert (tmp_path / name / "samples.png").stat().st_size > 1000
        again = pf.load(tmp_path / name)
        assert again.sample(3, seed=0) == model.sample(3, seed=0)
        assert torch.equal(again.log_prob(records[:2]), model.log_prob(records[:2]))
