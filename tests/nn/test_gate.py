"""Gates, shifts, residuals and frames against their definitions, values and gradients, in float64."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pushforward.errors import Unsupported
from pushforward.nn.gate import Frame, framed, gate, gated, residual

FRAMES = [Frame(), Frame(1, 1, 1), Frame(0, 2, 0), Frame(3, 0, 1)]
# The same few operations on numbers of order 1, in another order at most: a few units of 2.2e-16 each.
ROUNDING = 1e-14


@pytest.fixture(autouse=True)
def _memory_is_not_zero_by_luck(monkeypatch: pytest.MonkeyPatch) -> None:
    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *size, **kw: empty(*size, **kw).fill_(torch.nan))


def values(*shape: int, seed: int = 0) -> Tensor:
    x = torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return x.requires_grad_()


def padded(x: Tensor, f: Frame) -> Tensor:
    return F.pad(x, (f.left, f.right, f.top, 0))


def agree(ours: Tensor, theirs: Tensor, inputs: tuple[Tensor, ...]) -> None:
    """Equal values, and equal gradients of a random projection."""
    torch.testing.assert_close(ours, theirs, rtol=0, atol=ROUNDING)
    w = torch.randn(ours.shape, dtype=ours.dtype, generator=torch.Generator().manual_seed(9))
    for a, b in zip(torch.autograd.grad(ours, inputs, w), torch.autograd.grad(theirs, inputs, w), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize("height", [1, 4])
def test_gated_is_the_gate_of_the_shifted_sum(frame: Frame, height: int) -> None:
    x, above = values(2, 6, height, 3), values(2, 6, height, 3, seed=1)
    agree(gated(x, frame=frame), padded(gate(x), frame), (x,))
    agree(gated(x, above, frame), padded(gate(x + F.pad(above, (0, 0, 1, 0))[:, :, :-1]), frame), (x, above))
    assert torch.autograd.gradcheck(lambda x, above: gated(x, above, frame), (x, above))


@pytest.mark.parametrize("had", FRAMES)
@pytest.mark.parametrize("frame", FRAMES)
def test_residual_adds_within_frames(had: Frame, frame: Frame) -> None:
    x, o = values(2, 3, 4, 5), values(2, 3, 4, 5, seed=1)
    agree(residual(framed(x, had), o, had, frame), padded(x + o, frame), (x, o))
    agree(framed(x, had), padded(x, had), (x,))


def test_inputs_are_left_as_they_were_and_layouts_do_not_matter() -> None:
    x, above = values(2, 6, 4, 3), values(2, 6, 4, 3, seed=1)
    before = x.detach().clone(), above.detach().clone()
    one = gated(x, above)
    other = gated(x.to(memory_format=torch.channels_last), above)
    assert torch.equal(one, other)
    assert one.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(x, before[0])
    assert torch.equal(above, before[1])


def test_second_derivatives_are_refused() -> None:
    x = values(1, 2, 2, 2)
    for y in (gated(x), framed(x, Frame(1)), residual(x, x, Frame(), Frame())):
        with pytest.raises(Unsupported, match="no second derivatives. Leave create_graph=True out"):
            torch.autograd.grad(y.sum(), x, create_graph=True)
