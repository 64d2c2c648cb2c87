"""Networks for noisy records: any size, time and condition felt, zero at the start, no mixing between records."""

import pytest
import torch
from torch import nn

from pushforward.nn.denoiser import MLPDenoiser
from pushforward.nn.unet import HEAD_DIM, UNet


def awake(net: nn.Module) -> nn.Module:
    """Small random weights where layers start at zero, so that something comes out."""
    for p in net.parameters():
        if not p.any():
            nn.init.normal_(p, std=0.2)
    return net


def nets(shape: tuple[int, ...], condition_dim: int = 0) -> list[nn.Module]:
    dim = torch.Size(shape).numel()
    return [
        UNet(shape, channels=8, condition_dim=condition_dim),
        UNet(shape, channels=8, attention=True, blocks=2, condition_dim=condition_dim),
        MLPDenoiser(dim, 16, 2, condition_dim),
        MLPDenoiser(dim, 16, 1, condition_dim, fourier=3),
    ]


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 20), (3, 7, 33), (2, 1, 1), (1, 28, 28)])
def test_shapes_kept_and_zero_at_the_start(shape: tuple[int, ...]) -> None:
    for net in nets(shape):
        z, t = torch.randn(2, *shape), torch.tensor([0.001, 1.0])
        assert net(z, t).shape == z.shape
        assert not net(z, t).any()
        assert awake(net)(z, t).any()


@pytest.mark.parametrize("size", [(8, 8), (28, 20), (9, 15)])
def test_time_condition_and_every_pixel_matter(size: tuple[int, int]) -> None:
    for net in nets((1, *size), condition_dim=3):
        awake(net).double()
        z, t, c = torch.randn(2, 1, *size).double(), torch.rand(2).double(), torch.eye(3)[:2].double()
        y = net(z, t, c)
        assert not torch.allclose(net(z, t * 0.5, c), y)
        assert not torch.allclose(net(z, t, c.flip(0)), y)
        z2 = z.clone()
        z2[0, 0, -1, -1] += 1
        changed = (net(z2, t, c) - y).abs().flatten(1).amax(1)
        assert changed[0] > 0
        assert changed[1] == 0  # records do not see each other: no batch statistics


def test_every_parameter_gets_gradient() -> None:
    for net in nets((1, 12, 10), condition_dim=2):
        awake(net)
        net(torch.randn(3, 1, 12, 10), torch.rand(3), torch.randn(3, 2)).square().mean().backward()
        assert [n for n, p in net.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_levels_follow_the_size() -> None:
    assert [len(UNet((1, h, 28), channels=8).down) for h in (4, 7, 8, 15, 16, 28)] == [1, 1, 2, 2, 3, 3]
    assert len(UNet((1, 64, 64), channels=8, multipliers=(1, 2, 2, 4)).down) == 4


@pytest.mark.parametrize("channels", [8, 32, 48, 64, 80])
def test_heads_have_at_least_32_dimensions(channels: int) -> None:
    net = UNet((1, 8, 8), channels=channels, multipliers=(1, 1), attention=True)
    assert net.attention is not None
    width = channels // net.attention.heads
    assert channels % net.attention.heads == 0
    assert width >= min(HEAD_DIM, channels)
