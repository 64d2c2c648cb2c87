"""Features: nothing is lost on the way to networks and back, and every discrete value lies in [-1, 1]."""

import pytest
import torch

from pushforward.data import BINARY, REAL, UNIT, DataSpec, Features, categories, levels
from pushforward.errors import DataError

SPECS = [
    DataSpec("points", (3,), (REAL,)),
    DataSpec("points", (3,), (UNIT,)),
    DataSpec("image", (1, 4, 5), (BINARY,)),
    DataSpec("image", (3, 4, 5), (levels(256),)),
    DataSpec("table", (3,), (categories(4),)),
    DataSpec("table", (4,), (REAL, categories(3), levels(7), BINARY)),
]


def draw(spec: DataSpec, n: int) -> torch.Tensor:
    columns = [torch.randint(s.size, (n,)).double() if s.size else torch.rand(n, dtype=torch.float64) for s in spec.columns]
    return torch.stack(columns, 1).reshape(n, *spec.shape)


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_round_trip(spec):
    features, x = Features(spec), draw(spec, 50)
    f = features.encode(x)
    assert f.shape == (50, *features.shape)
    assert f.abs().max() <= 1
    # Two roundings of numbers below 256 in float64; discrete values are then exact.
    torch.testing.assert_close(features.decode(f), x, rtol=0, atol=0 if spec.discrete else 1e-15)
    assert DataSpec.from_json(spec.to_json()) == spec


def test_decode_takes_the_nearest_record():
    spec = DataSpec("table", (2,), (levels(5), categories(3)))
    f = torch.tensor([[9.0, 0.1, 0.3, 0.2], [-0.6, 1.0, 0.0, 0.0]])
    assert Features(spec).decode(f).tolist() == [[4, 1], [1, 0]]


def test_blocks_cover_the_features():
    features = Features(SPECS[-1])
    assert features.dim == 6
    assert [(c, at.start, at.stop) for c, _, at in features.blocks] == [(0, 0, 1), (1, 1, 4), (2, 4, 5), (3, 5, 6)]


def test_images_of_categories_have_none():
    with pytest.raises(DataError, match="give them as levels or as a table"):
        Features(DataSpec("image", (1, 2, 2), (categories(3),)))


def test_a_network_is_shown_binary_and_real_records_as_they_are_and_all_others_scaled():
    x = torch.tensor([[0.0, 1.0], [1.0, 1.0]])
    for support in (BINARY, REAL):
        assert torch.equal(Features(DataSpec("table", (2,), (support,))).see(x), x)
    assert torch.equal(Features(DataSpec("table", (2,), (levels(2),))).see(x), 2 * x - 1)
    assert torch.equal(Features(DataSpec("table", (2,), (BINARY, REAL))).see(x), torch.tensor([[-1.0, 1.0], [1.0, 1.0]]))
