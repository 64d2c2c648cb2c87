"""Texts of any length and beginnings of records: one pass with the state carried, prompts that enter at once, exact completions.

And what wrong code planted in models of sequences left unnoticed elsewhere: temperature of frames, where dropout is, what training reports.
"""

import math

import pytest
import torch

import pushforward as pf
from pushforward.data import SequenceSchema
from pushforward.data.spec import BINARY, DataSpec, categories
from pushforward.errors import ConfigError, DataError, Unsupported
from pushforward.models.exact import sequence_parts, sequences
from pushforward.models.exact.recurrent import Recurrent
from pushforward.models.exact.sequence_answers import enumerated
from pushforward.models.exact.transformer import Transformer
from pushforward.nn.sequence import CausalTransformer, RecurrentNet
from pushforward.rng import Rng
from pushforward.train import Batch

LETTERS = "abcde"
SMALL = [Recurrent(hidden=8), Recurrent(hidden=8, cell="gru", tied=True), Transformer(width=8, layers=2, heads=2)]
SMALL += [Transformer(width=8, layers=1, heads=2, positions="learned")]


def letters(T: int, condition: int = 0, ends: bool = False) -> DataSpec:
    return DataSpec("sequence", (T,), (categories(5 + ends),), condition, ends=ends)


def rough(model, spec: DataSpec):
    """Random weights in float64 that make conditionals far from uniform."""
    model.build(spec, seed=3).double()
    model.schema = SequenceSchema(spec.with_condition(0), "characters", tuple(LETTERS)) if len(spec.shape) == 1 else None
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(p * 2 + 0.2 * torch.randn(p.shape, generator=g, dtype=p.dtype))
    return model


def written(n: int) -> tuple[str, torch.Tensor]:
    ids = torch.randint(5, (n,), generator=torch.Generator().manual_seed(n))
    return "".join(LETTERS[i] for i in ids), ids


@pytest.mark.parametrize("model", SMALL[:2])
@pytest.mark.parametrize("dim", [0, 2])
def test_a_recurrent_network_reads_a_text_in_one_pass(monkeypatch, model, dim) -> None:
    """Its definition: one record of all the symbols, however long; read in stretches the state goes along."""
    rough(model, letters(6, dim))
    c = torch.tensor([0.0, 1.0], dtype=torch.float64) if dim else None
    for n in (1, 6, 7, 8, 23):
        text, ids = written(n)
        with torch.no_grad():
            h = model._past(ids[None].double(), None if c is None else c[None])[0]
            expected = model.out(h).log_softmax(1).gather(1, ids[:, None])[:, 0]
        monkeypatch.setattr(sequence_parts, "STRETCH", 7)
        # Sums of 8 products of size 1 in float64, over at most 23 steps: far below 1e-12.
        torch.testing.assert_close(model.running(text, condition=c), expected, rtol=0, atol=1e-12)
        monkeypatch.undo()
        torch.testing.assert_close(model.running(text, condition=c), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("model", SMALL[2:])
@pytest.mark.parametrize("T", [5, 6])
def test_a_transformer_reads_a_text_by_windows_that_overlap(model, T) -> None:
    rough(model, letters(T, 2))
    c = torch.tensor([0.0, 1.0], dtype=torch.float64)
    for n in (1, T - 1, T, T + 1, 4 * T + 2):
        text, ids = written(n)
        expected = []
        for t in range(n):
            # The window that begins last among those every T - T // 2 in which t has T // 2 symbols before it; else the first.
            begin = max((s for s in range(0, t + 1, T - T // 2) if t - s >= T // 2), default=0) if t >= T else 0
            with torch.no_grad():
                h = model._past(ids[None, begin : t + 1].double(), c[None])[0, -1]
                expected.append(model.out(h).log_softmax(0)[ids[t]])
        torch.testing.assert_close(model.running(text, condition=c), torch.stack(expected), rtol=0, atol=1e-12)


def test_texts_that_cannot_be_read_on_say_so() -> None:
    with pytest.raises(Unsupported, match=r"running\(\) reads one text that has no end.*Use per_token"):
        rough(Recurrent(hidden=8), letters(6, ends=True)).running("abc")
    with pytest.raises(Unsupported, match=r"running\(\) reads one text"):
        rough(Recurrent(hidden=8), DataSpec("sequence", (5, 7), (BINARY,))).running("abc")
    with pytest.raises(DataError, match="The text is empty"):
        rough(Recurrent(hidden=8), letters(6)).running("")
    with pytest.raises(DataError, match=r"holds 'z' \(symbol 2\)"):
        rough(Recurrent(hidden=8), letters(6)).running("abz")


def test_perplexity_of_a_fitted_text() -> None:
    """A text that repeats is learnt; exp of the mean of minus running() is the perplexity of windows but for their beginnings."""
    model = Recurrent(hidden=16, layers=1, tied=True)
    model.fit(pf.load_data(["abcd" * 2] * 40), steps=150, lr=2e-2, batch_size=16, progress=False, alarms=False)
    nats = -model.running("abcd" * 20)
    assert len(nats) == 80
    assert math.exp(float(nats[:8].mean())) < 1.1


def test_tied_weights_are_one_tensor() -> None:
    tied, untied = Recurrent(hidden=8, tied=True).build(letters(6)), Recurrent(hidden=8).build(letters(6))
    assert tied.out.weight is tied.symbols.weight
    count = lambda m: sum(p.numel() for p in m.parameters())
    assert count(untied) - count(tied) == 5 * 8
    wide = Recurrent(hidden=64, tied=True).build(DataSpec("sequence", (6,), (categories(1000),)))
    # 64,000 normal entries: the error of their sd is 0.058 / (2 x 64000)^(1/2) = 1.6e-4.
    assert float(wide.symbols.weight.detach().std()) == pytest.approx(0.058, abs=8e-4)


def test_probabilities_keep_single_precision_under_autocast() -> None:
    model = Recurrent(hidden=8).build(letters(6))
    x = torch.randint(5, (3, 6)).float()
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        log_p, _, _ = model._steps(x, None)
        logits = model.out(model._past(x, None))
        assert logits.dtype == torch.bfloat16
    assert log_p.dtype == torch.float32
    # The sum over symbols of exp log p is 1 to single precision; bfloat16 keeps 3 digits.
    every = torch.stack([model._of_symbols(model._past(x, None).detach(), torch.full_like(x, float(k))) for k in range(5)])
    torch.testing.assert_close(every.exp().sum(0), torch.ones(3, 6), rtol=0, atol=1e-6)


@pytest.mark.parametrize("model", [*SMALL, Recurrent(hidden=8, nade_hidden=5)])
def test_a_prompt_enters_in_one_pass(monkeypatch, model) -> None:
    music = model.config().get("nade_hidden") == 5
    spec = DataSpec("sequence", (6, 4), (BINARY,)) if music else letters(6)
    rough(model, spec)
    prompt = torch.ones(4, 4) if music else torch.tensor([1, 4, 0, 2])
    seen, steps = [], type(model.net).steps
    monkeypatch.setattr(type(model.net), "steps", lambda net, e, state: seen.append(e.shape[1]) or steps(net, e, state))
    with torch.no_grad():
        a = model._sample(50, None, Rng.seeded(1, model.first), prompt=prompt)
        assert seen == [5, 1]  # the beginning and the four of the prompt; then the step drawn
        assert torch.equal(a[:, :4], prompt.to(a).expand(50, *prompt.shape))
        assert torch.equal(a, model._sample(50, None, Rng.seeded(1, model.first), prompt=prompt, incremental=False))
        known = (torch.arange(6) < 4).view(6, *[1] * (len(spec.shape) - 1)).expand(spec.shape)
        assert torch.equal(a, model._complete(a, known, None, Rng.seeded(1, model.first)))
    assert not a.is_inference()


COUNTED = [
    (Recurrent(hidden=8, nade_hidden=5), DataSpec("sequence", (3, 3), (BINARY,), ends=True)),
    (Transformer(width=8, layers=1, heads=2), DataSpec("sequence", (3,), (categories(4),), ends=True)),
]


@pytest.mark.parametrize(("model", "spec"), COUNTED)
def test_completions_follow_the_conditional(model, spec) -> None:
    """Pearson's statistic of 8,000 completions of one first step over all records that begin with it, by enumeration."""
    rough(model, spec)
    x, log_p = enumerated(model)
    first = torch.tensor([1.0, 0.0, 0.0]) if x.ndim == 3 else torch.tensor([2.0])  # two keys, and not the end
    among = (x[:, :1].flatten(1) == first).all(1)
    x, p = x[among], (log_p[among] - log_p[among].logsumexp(0)).exp()
    known = torch.zeros(spec.shape, dtype=torch.bool)
    known[0] = True
    given = x[:1].expand(8000, *spec.shape).clone()
    given[:, 1:] = 0
    drawn = model._complete(given, known, None, Rng.seeded(4, model.first))
    rows = {tuple(r.flatten().tolist()): i for i, r in enumerate(x)}
    counts = torch.bincount(torch.tensor([rows[tuple(r.flatten().tolist())] for r in drawn]), minlength=len(x)).double()
    expected = 8000 * p
    rare = expected < 5
    counts, expected = (torch.cat([v[~rare], v[rare].sum()[None]]) for v in (counts, expected))
    df = len(counts) - 1
    # Chi-squared with df degrees has mean df and variance 2 df: five sd.
    assert float(((counts - expected).square() / expected.clamp(min=1e-9)).sum()) < df + 5 * math.sqrt(2 * df)


@pytest.mark.parametrize(("model", "spec"), [*COUNTED, (Recurrent(hidden=8), letters(4)), (Transformer(width=8, heads=2), letters(4))])
def test_a_hole_is_filled_by_its_conditional(model, spec) -> None:
    """Of 3 or 4 steps the second is not known (nor the last of 4), 2,000 records of 50 particles each, against enumeration.

    A filter's draws differ from the conditional p by about p / 50: with five standard errors, and 2 / n for the rarest.
    """
    rough(model, spec)
    x, log_p = enumerated(model)
    known = torch.ones(spec.shape, dtype=torch.bool)
    known[[1, 3][: spec.shape[0] - 2]] = False
    alive = x[:, 2].flatten(1)[:, -1] == 0 if x.ndim == 3 else x[:, 2] < 4 if not spec.ends else x[:, 2] < 3
    fact = x[alive][int(alive.sum()) // 2]
    p = torch.where((x[:, known] == fact[known]).all(1), log_p.exp(), 0)
    p = p / p.sum()
    junk = torch.where(known, fact, 1 - fact.clamp(max=1)).expand(2000, *fact.shape)
    drawn = model._complete(junk, known, None, Rng.seeded(2, model.first), particles=50)
    cells = (drawn.flatten(1)[:, None] == x.flatten(1)).all(2).double().mean(0)
    assert float(cells.sum()) == pytest.approx(1)
    assert float((p > 0.02).sum()) > 1  # there is something to choose
    assert torch.all((cells - p).abs() <= 5 * (p * (1 - p) / 2000).sqrt() + 2 / 2000 + p / 50)
    slow = model._complete(junk[:40], known, None, Rng.seeded(3, model.first), particles=50, incremental=False)
    assert torch.equal(slow, model._complete(junk[:40], known, None, Rng.seeded(3, model.first), particles=50))


def test_what_has_ended_stays_ended() -> None:
    model = rough(Recurrent(hidden=8), letters(6, ends=True))
    x = torch.tensor([[0, 1, 5, 5, 0, 0], [0, 1, 2, 3, 0, 0.0]], dtype=torch.float64).repeat(50, 1)
    drawn = model._complete(x, torch.arange(6) < 4, None, Rng.seeded(0, x))
    assert (drawn[::2, 2:] == 5).all()
    assert torch.equal(drawn[:, :4], x[:, :4])
    assert (drawn[1::2, 4:] < 5).any()


@pytest.fixture(scope="module")
def writer():
    lines = ["abcabcab"[: 4 + i % 5] for i in range(60)]
    return Recurrent(hidden=16, layers=1).fit(pf.load_data(lines), steps=150, lr=2e-2, progress=False, alarms=False)


def test_texts_are_completed_in_the_users_own_form(writer) -> None:
    found = writer.complete(["ab", "abc", "", "abcabcab"], seed=0)
    assert [t.startswith(b) for t, b in zip(found, ["ab", "abc", "", "abcabcab"], strict=True)] == [True] * 4
    assert found == writer.complete(["ab", "abc", "", "abcabcab"], seed=0)
    assert len(found[3]) == 8
    assert set(writer.complete(["ab"] * 9, seed=0, top_k=1)) == set(writer.complete(["ab"], seed=1, temperature=1e-3))
    first = torch.arange(8) < 3
    found = writer.complete(["abcab", "abbb"], first, seed=0)
    assert found[0].startswith("abc")
    assert found[1].startswith("abb")
    each = torch.stack([first, torch.ones(8, dtype=torch.bool)])
    assert writer.complete(["abcab", "abbb"], each, seed=0)[1] == "abbb"
    hole = torch.ones(8, dtype=torch.bool)
    hole[2] = False
    assert writer.complete(["abbabcab"] * 20, hole, seed=0) == ["abcabcab"] * 20  # fitted to nothing else
    with pytest.raises(ConfigError, match="top_k and top_p are for steps that come last"):
        writer.complete(["abcab"], hole, top_k=1)
    with pytest.raises(ConfigError, match="temperature is for entries that come last"):
        writer.complete(["abcab"], hole, temperature=0.5)
    with pytest.raises(DataError, match=r"booleans of shape \(8,\) for all records or \(1, 8\) for each; got torch.bool of shape \(5,\)"):
        writer.complete(["abcab"], torch.ones(5, dtype=torch.bool))
    with pytest.raises(DataError, match="takes a list of beginnings of records; got str"):
        writer.complete("ab")
    with pytest.raises(DataError, match="The prompt has 9 steps"):
        writer.complete(["abcabcabc"])
    with pytest.raises(ConfigError, match="top_k must be at least 1"):
        writer.complete(["ab"], top_k=0)


def test_pieces_are_completed() -> None:
    pieces = [[[60, 64], [62], [60, 67], [], [55]][: 3 + i % 3] for i in range(40)]
    model = Transformer(width=8, layers=1, heads=2, nade_hidden=4).fit(pf.load_data(pieces), steps=3, progress=False, alarms=False)
    found = model.complete([[[60, 64], [62]], []], seed=0)
    assert found[0][:2] == [[60, 64], [62]]
    frame = torch.ones(5, 89, dtype=torch.bool)
    frame[1, 40:] = False
    x = model.schema.encode(pieces[:1])
    # Half a frame is known, and no more.
    half = frame.clone()
    half[2:] = False
    for known in (frame, half):
        with pytest.raises(Unsupported, match=r"Transformer knows a step whole or not at all; here step 1 \(from 0\) is known in part"):
            model._complete(x, known, None, Rng.seeded(0))


FRAMES = DataSpec("sequence", (4, 7), (BINARY,), ends=True)


@pytest.mark.parametrize("head", ["independent", "nade"])
def test_temperature_divides_the_logits_of_frames(head) -> None:
    model = rough(Recurrent(hidden=8, nade_hidden=5, head=head), FRAMES)
    g = torch.Generator().manual_seed(0)
    h, u = torch.randn(500, 8, generator=g, dtype=torch.float64), torch.rand(500, 7, generator=g, dtype=torch.float64)
    with torch.no_grad():
        found = model._step(h, u, torch.zeros(500, dtype=torch.bool), 0.3, None, None)
        over = u[:, -1] < (model.end(h).squeeze(1) / 0.3).sigmoid()
        keys = torch.zeros(500, 6, dtype=torch.float64)
        for k in range(6):  # key by key, each given those before
            keys[:, k] = (u[:, k] < (model.keys.logits(h, keys)[:, k] / 0.3).sigmoid()).double()
        assert torch.equal(found, torch.cat([keys * ~over[:, None], over[:, None]], 1))
        # Nothing is left to chance near 0, in the sampler as a whole.
        cold = model._sample(40, None, Rng.seeded(0, h), temperature=1e-9)
        assert len(cold.unique(dim=0)) == 1
        assert len(model._sample(40, None, Rng.seeded(0, h)).unique(dim=0)) > 5


def test_dropout_is_at_the_inputs_and_after_each_part() -> None:
    e, seen = torch.randn(2, 3, 8), []
    for net, calls in ((RecurrentNet(8, 3, "lstm"), 3 + 1), (CausalTransformer(8, 3, 2, 5, "rotary"), 1 + 2 * 3)):
        whole = net(e)
        for i in range(calls + 1):
            seen.clear()
            out = net(e, lambda h, i=i: seen.append(h) or (h * 0 if len(seen) == i + 1 else h))
            assert len(seen) == calls
            assert torch.equal(seen[0], e)
            assert torch.equal(out, whole) == (i == calls)  # each of them counts


def test_training_moves_pieces_and_validation_does_not(monkeypatch) -> None:
    model = rough(Recurrent(hidden=8, transpose=2), FRAMES)
    x = (torch.rand(3, 4, 7, generator=torch.Generator().manual_seed(1)) < 0.4).double()
    x[..., -1] = 0
    batch, asked = Batch(x, None, torch.arange(3), Rng.seeded(0, x)), []
    monkeypatch.setattr(sequences, "transposed", lambda x, keys, most, rng: asked.append((keys, most)) or x.flip(0))
    still = model._loss(batch).per_record
    assert asked == []
    model.train()
    assert torch.equal(model._loss(batch).per_record, still.flip(0))
    assert asked == [(6, 2)]


def test_what_training_reports_is_nats_per_symbol() -> None:
    model = rough(Recurrent(hidden=8), letters(6, ends=True))
    x = torch.full((3, 6), 5.0, dtype=torch.float64)
    x[1, :2], x[2] = 1, 2
    terms = model._loss(Batch(x, None, torch.arange(3), Rng.seeded(0, x))).terms
    torch.testing.assert_close(terms["per_token"], -model.per_token(model.schema.decode(x)).nanmean(1), rtol=0, atol=1e-12)
