"""Networks from image to image, and critics of patches."""

import pytest
import torch

from pushforward.errors import ConfigError
from pushforward.nn.translator import PatchCritic, Translator


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 14, 14), (1, 9, 15), (2, 8, 8)])
def test_any_size_comes_back(shape):
    net = Translator(shape, channels=4, blocks=1)
    assert net(torch.randn(2, *shape)).shape == (2, *shape)
    assert min(net.sizes[-1]) >= 4


def test_a_record_depends_on_itself_alone():
    x = torch.randn(3, 1, 14, 14, dtype=torch.float64)
    for net in (Translator((1, 14, 14), 4, 1), PatchCritic((1, 14, 14), 4)):
        net.double().train()
        together, alone = net(x), torch.cat([net(r[None]) for r in x])
        assert torch.allclose(together, alone, rtol=0, atol=1e-12)  # rounding of sums of some hundred terms of order 1


@pytest.mark.parametrize(("layers", "patch"), [(1, 16), (2, 34), (3, 70)])
def test_patches_are_as_large_as_the_paper_says(layers, patch):
    net = PatchCritic((1, 96, 96), 2, layers, "none")
    x = torch.randn(1, 1, 96, 96, requires_grad=True)
    scores = net(x)
    scores[0, scores.shape[1] // 2, scores.shape[2] // 2].backward()
    rows, columns = x.grad[0, 0].nonzero().T
    assert (int(rows.max() - rows.min()) + 1, int(columns.max() - columns.min()) + 1) == (patch, patch)


def test_critics_go_by_the_size():
    assert [len(PatchCritic((1, side, side), 2).convs) - 1 for side in (8, 28, 50, 51, 104, 105)] == [1, 1, 1, 2, 2, 3]


def test_refusals():
    for net in (Translator, PatchCritic):
        with pytest.raises(ConfigError, match=r"images of 8 pixels and more a side; these have 6 x 12. Use 'mlp'"):
            net((1, 6, 12))
    with pytest.raises(ConfigError, match="A critic of 3 layers leaves too few of 16 x 16 pixels"):
        PatchCritic((1, 16, 16), 2, 3)
    with pytest.raises(ConfigError, match="no normalisation 'batch' here. Known: instance, none"):
        Translator((1, 16, 16), norm="batch")
