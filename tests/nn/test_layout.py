"""Layouts of memory: the same numbers either way, and gradients that come in the layout of what they belong to."""

import pytest
import torch
from torch import Tensor, nn

from pushforward.nn.layout import flat, laid_out

LAST = torch.channels_last


def image(*, last: bool) -> Tensor:
    x = torch.randn(3, 4, 5, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return (x.contiguous(memory_format=LAST) if last else x).requires_grad_()


@pytest.mark.parametrize("last", [False, True])
def test_a_gradient_comes_in_the_layout_of_its_images(last: bool) -> None:
    """What flattens gives planes back, whatever it was given (else there is nothing to mend)."""
    layouts, grads = [], []
    for through in (laid_out, lambda h: h):
        x = image(last=last)
        h = x * 1.0
        h.register_hook(lambda g: layouts.append(g.is_contiguous(memory_format=LAST)))
        through(h).flatten(1).square().sum().backward()
        grads.append(x.grad)
    assert layouts == [last, False]
    torch.testing.assert_close(*grads, rtol=0, atol=0)


def test_other_uses_of_the_images_keep_their_gradients() -> None:
    x, y = image(last=True), image(last=True)
    (laid_out(x).flatten(1).square().sum() + x.sum()).backward()
    (y.flatten(1).square().sum() + y.sum()).backward()
    torch.testing.assert_close(x.grad, y.grad, rtol=0, atol=0)


@pytest.mark.parametrize("out", [1, 7])
def test_a_dense_layer_sees_the_same_images_in_either_layout(out: int) -> None:
    """Values, gradients, and gradients of a squared gradient; sums of 120 terms in another order, 1e-12 in float64."""
    torch.manual_seed(0)
    layer = nn.Linear(120, out).double()
    found = []
    for last in (False, True):
        x = image(last=last)
        y = flat(layer, x.tanh())
        (slope,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        found.append([y, slope, *torch.autograd.grad(slope.square().sum(), (x, *layer.parameters()))])
    torch.testing.assert_close(*found, rtol=0, atol=1e-12)


def test_gradients_in_channels_last_memory_pass_under_vmap() -> None:
    """Which knows no layouts of memory: Jacobians by vmap and row by row."""
    torch.manual_seed(0)
    conv, x = nn.Conv2d(2, 3, 3).double().to(memory_format=LAST), torch.randn(2, 2, 4, 4, dtype=torch.float64)  # pyright: ignore[reportCallIssue]
    dense = nn.Linear(12, 2).double()
    for last in (lambda h: laid_out(h).flatten(1), lambda h: flat(dense, h)):
        slow, fast = (torch.autograd.functional.jacobian(lambda x, f=last: f(conv(x).tanh()), x, vectorize=v) for v in (False, True))
        torch.testing.assert_close(slow, fast, rtol=0, atol=1e-12)


def test_images_of_one_channel_or_one_pixel_are_left_alone() -> None:
    for shape in ((3, 1, 4, 4), (3, 4, 1, 1)):
        h = torch.randn(shape).requires_grad_()
        assert laid_out(h) is h
        layer = nn.Linear(h[0].numel(), 2)
        assert torch.equal(flat(layer, h), layer(h.flatten(1)))
