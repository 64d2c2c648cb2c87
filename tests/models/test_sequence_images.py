"""Recurrent and Transformer over images: pixels as symbols in raster order, each told its place. Sums, samples, completions and caches are
in `test_autoregressive_promises` and `test_particles`, beside those of the other families."""

import math

import numpy as np
import pytest
import torch

import pushforward as pf
from pushforward.data.spec import BINARY, REAL, DataSpec, levels
from pushforward.errors import Unsupported
from pushforward.models.exact.recurrent import Recurrent
from pushforward.models.exact.transformer import Transformer
from pushforward.nn.sequence import Raster

COLOURS = DataSpec("image", (2, 3, 4), (levels(3),), 2)
EACH = pytest.mark.parametrize("make", [lambda: Recurrent(hidden=8), lambda: Transformer(width=8, layers=2, heads=2)])


def rough(model, spec: DataSpec):
    model.build(spec, seed=3).double()
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(p * 2 + 0.2 * torch.randn(p.shape, generator=g, dtype=p.dtype))
    return model


@EACH
def test_no_pixel_sees_itself_or_what_comes_after(make) -> None:
    """Rows from the top, pixels from the left, channels in their order; and every pixel sees all before."""
    model = rough(make(), COLOURS)
    g, c = torch.Generator().manual_seed(1), torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    x = torch.randint(0, 3, (1, 2, 3, 4), generator=g).double()
    order = [(g, i, j) for i in range(3) for j in range(4) for g in range(2)]
    with torch.no_grad():
        base = model._past(model._unrolled(x), c)
        for t, (channel, i, j) in enumerate(order):
            other = x.clone()
            other[0, channel, i, j] = (other[0, channel, i, j] + 1) % 3
            changed = (model._past(model._unrolled(other), c) - base).abs().amax(2)[0]
            assert torch.all(changed[: t + 1] == 0)
            assert torch.all(changed[t + 1 :] > 0)
    assert torch.equal(model._rolled(model._unrolled(x)), x)


def test_a_place_is_its_row_its_column_and_its_channel() -> None:
    place = Raster((2, 3, 4), 5, 1.0)
    rows, columns, channels = place.vectors.split([3, 4, 2])
    each = [rows[i] + columns[j] + channels[g] for i in range(3) for j in range(4) for g in range(2)]
    torch.testing.assert_close(place(0, 24), torch.stack(each))
    torch.testing.assert_close(place(7, 9), torch.stack(each[7:9]))


@EACH
def test_pixels_are_learnt_to_their_entropy_and_no_further(make) -> None:
    """Independent pixels whose chances depend on their place alone: what the place's vectors are for."""
    rows, columns = np.array([-1.5, 0.5, 1.0, -0.5]), np.array([1.0, -1.0, 2.0])
    p = 1 / (1 + np.exp(-(rows[:, None] + columns)))
    x = (np.random.default_rng(0).random((4000, 4, 3)) < p).astype(np.uint8)
    data = pf.load_data(x, support="binary", validation=0.1, test=0.25)
    model = make().fit(data, steps=400, batch_size=128, lr=1e-2, progress=False, alarms=False)
    of_test = data.test.tensor().double().flatten(1).numpy()
    truth = (of_test * np.log(p.ravel()) + (1 - of_test) * np.log(1 - p.ravel())).sum(1)
    gap = truth - model.log_prob(data.test).double().numpy()
    # KL(p, q) on average, of standard error sd / n^(1/2); 100 weights or so of use, each of which costs 1 / (2 n) nats: .02 of 2,600.
    assert -4 * gap.std() / math.sqrt(len(gap)) < gap.mean() < 0.05


def test_what_is_for_texts_alone_says_so() -> None:
    x = (np.random.default_rng(0).random((40, 4, 4)) < 0.4).astype(np.uint8)
    model = Transformer(width=8, layers=1, heads=2).fit(pf.load_data(x, support="binary"), steps=2, progress=False, alarms=False)
    with pytest.raises(Unsupported, match="A prompt begins a text or a piece. For images give complete"):
        model.sample(1, prompt="a")
    with pytest.raises(Unsupported, match=r"extend\(\) goes on with a text or a piece of music"):
        model.extend("a", 3)
    with pytest.raises(Unsupported, match=r"running\(\) reads one text"):
        model.running("a")
    assert model.per_token(x[:3]).shape == (3, 16)
    torch.testing.assert_close(model.per_token(x[:3]).sum(1), model.log_prob(x[:3]))
    known = np.zeros((4, 4), bool)
    known[1:3] = True
    drawn = model.complete(x[:5], known, seed=0)
    assert np.array_equal(drawn[:, 1:3], x[:5, 1:3])
    with pytest.raises(Unsupported, match="Transformer models binary pixels, categories or at most 256 levels"):
        Transformer().build(DataSpec("image", (1, 4, 4), (REAL,)))
    assert Recurrent.accepts(DataSpec("image", (1, 4, 4), (BINARY,))) is None
