"""Bijections of images: inverses near and far, log-determinants against autograd, their parts against independent definitions."""

import pytest
import torch
from torch.autograd.functional import jacobian
from torch.nn import functional as F

from pushforward.bijections import Compose
from pushforward.bijections.image import WIDEST, ImageActNorm, ImageCoupling, InvertibleConv, Squeeze, shrunk
from pushforward.bijections.multiscale import MultiScale, most_scales
from pushforward.bijections.variational import VariationalNoise
from pushforward.errors import ConfigError
from pushforward.nn import ResidualConv

SHAPE = (3, 4, 2)
MAKERS = {
    "squeeze": lambda: Squeeze((2, 2)),
    "squeeze one side": lambda: Squeeze((1, 2)),
    "actnorm": lambda: ImageActNorm(3),
    "1x1 convolution": lambda: InvertibleConv(3),
    "channels": lambda: ImageCoupling(SHAPE, 2, channels=8),
    "channels, flipped": lambda: ImageCoupling(SHAPE, 2, flip=True, channels=8),
    "checkerboard": lambda: ImageCoupling(SHAPE, 2, "checkerboard", channels=8),
    "checkerboard, flipped": lambda: ImageCoupling(SHAPE, 2, "checkerboard", True, channels=8),
}
SIZES = [(1, 2, 2), (1, 8, 8), (3, 4, 4), (1, 6, 5), (1, 5, 3), (1, 1, 2), (2, 1, 1)]


def scrambled(f, scale=0.15):
    """In float64, with every parameter far from its start."""
    generator = torch.Generator().manual_seed(0)
    f = f.double()
    with torch.no_grad():
        for p in f.parameters():
            p.add_(scale * torch.randn(p.shape, generator=generator, dtype=p.dtype))
    return f


def made(make):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make()


def draw(n, *shape, sd=1.0, seed=1):
    return sd * torch.randn(n, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def check(f, shape, single):
    c = draw(16, 2, seed=2)
    for sd in (1.0, 50.0):
        for dtype, most in ((torch.float64, 1e-10), (torch.float32, single)):
            g, x = f.to(dtype), draw(16, *shape, sd=sd).to(dtype)
            with torch.no_grad():
                y, log_det = g(x, c.to(dtype))
                back, inverse = g.inverse(y, c.to(dtype))
            assert (back - x).abs().max() < most, (sd, dtype)
            assert log_det.shape == inverse.shape == (16,)
            if dtype == torch.float64:
                assert (log_det + inverse).abs().max() < 1e-10
    f, x = f.double(), draw(2, *shape)
    J = jacobian(lambda v: f(v[None], c[1:2])[0][0], x[1]).reshape(x[0].numel(), -1)
    # float64, at most 64 x 64: some hundred roundings of 1e-16
    assert abs(torch.linalg.slogdet(J)[1] - f(x, c[:2])[1][1]) < 1e-8


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_inverse_and_log_det(make):
    # float32 at 50 sd: inputs of up to 200 are rounded at 200 * 6e-8 = 1e-5, a few times, and divided by scales of e^-0.5 at least
    check(scrambled(made(make)), SHAPE, 1e-4)


@pytest.mark.parametrize("style", ["glow", "realnvp"])
@pytest.mark.parametrize("shape", SIZES, ids=str)
def test_multiscale_inverse_and_log_det(shape, style):
    f = scrambled(made(lambda: MultiScale(shape, 2, steps=2, style=style, channels=8, max_log_scale=1.0)), 0.03)
    check(f, (torch.Size(shape).numel(),), 1e-4)


def test_far_records_do_not_multiply_rounding():
    """Twelve couplings: were the nets shown far records as they are, float64 would keep two digits at 50 sd (0.03 was seen)."""
    f = scrambled(made(lambda: MultiScale((1, 8, 8), steps=6, channels=8, max_log_scale=1.0)), 0.05)
    x = draw(16, 64, sd=50.0)
    with torch.no_grad():
        assert (f.inverse(f(x)[0])[0] - x).abs().max() < 1e-10


def test_shrinking_leaves_data_alone_and_bounds_the_rest():
    x = draw(5, 2, 3, 3)
    assert torch.equal(shrunk(x), x)
    far = shrunk(100 * x)
    torch.testing.assert_close(far.square().mean((1, 2, 3)).sqrt(), torch.full((5,), WIDEST, dtype=torch.float64))
    torch.testing.assert_close(F.cosine_similarity(far.flatten(1), x.flatten(1)), torch.ones(5, dtype=torch.float64))
    zero = torch.zeros(1, 1, 2, 2, requires_grad=True)
    shrunk(zero).sum().backward()
    assert zero.grad is not None
    assert zero.grad.isfinite().all()


def test_squeeze_is_pixel_unshuffle():
    x = draw(2, 3, 4, 6)
    assert torch.equal(Squeeze((2, 2))(x)[0], F.pixel_unshuffle(x, 2))


def test_actnorm_starts_from_a_batch():
    f, x = ImageActNorm(3).double(), 3 * draw(8, 3, 4, 4) + 7
    x[:, 2] = 5.0  # a constant channel is centred and not blown up
    f.start(x)
    y, _ = f(x)
    torch.testing.assert_close(y.mean((0, 2, 3)), torch.zeros(3, dtype=torch.float64), atol=1e-12, rtol=0)
    torch.testing.assert_close(y.std((0, 2, 3), correction=0), torch.tensor([1.0, 1.0, 0.0], dtype=torch.float64))


def test_multiscale_start_reaches_every_actnorm():
    f = made(lambda: MultiScale((1, 8, 8), steps=2, channels=8)).double()
    x = 5 * draw(200, 64) + 3
    f.start(x)
    seen = []
    for stage in f.stages:
        for layer in stage.layers:
            if isinstance(layer, ImageActNorm):
                layer.register_forward_hook(lambda _, __, out: seen.append(out[0]))
    f(x)
    assert len(seen) == 4
    for y in seen:
        torch.testing.assert_close(y.mean((0, 2, 3)).abs().max().item(), 0.0, atol=1e-12, rtol=0)
        torch.testing.assert_close(y.std((0, 2, 3), correction=0), torch.ones(y.shape[1], dtype=torch.float64))


def test_invertible_conv_starts_as_a_rotation():
    for channels in (1, 4, 7):
        f = made(lambda c=channels: InvertibleConv(c)).double()
        w = f(torch.eye(channels, dtype=torch.float64)[:, :, None, None])[0].flatten(1)
        # Built in float32, whose factors are exact to 1e-6
        torch.testing.assert_close(w @ w.t(), torch.eye(channels, dtype=torch.float64), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", [n for n in MAKERS if "ch" in n and "conv" not in n])
def test_half_stays_and_alone_decides(name):
    f, x, c = scrambled(made(MAKERS[name])), draw(1, *SHAPE), draw(1, 2)
    y, log_det = f(x, c)
    stays = y == x
    # 3 x 4 x 2 entries: a checkerboard keeps half; of three channels floor(3 / 2) = 1, or flipped 2
    assert stays.sum() == {"channels": 8, "channels, flipped": 16}.get(name, 12)
    moved = x + draw(1, *SHAPE, seed=5) * ~stays
    assert torch.equal(f(moved, c)[1], log_det)  # its scale is a function of what stays
    assert not torch.equal(f(x, c + 1)[1], log_det)


def test_conditions_as_vectors_and_as_planes():
    net = scrambled(made(lambda: ResidualConv(2, 3, 8, condition_dim=2, size=(4, 5))))
    x, c = draw(3, 2, 4, 5), draw(3, 2)
    torch.testing.assert_close(net(x, c), net(x, c[:, :, None, None].expand(-1, -1, 4, 5)))
    assert (net(x, c) - net(x, c + 1)).abs().min() > 1e-9


def test_scales():
    assert [most_scales((1, *s)) for s in ((28, 28), (32, 32), (8, 8), (2, 2), (5, 7), (6, 5), (64, 4))] == [2, 4, 2, 1, 1, 1, 1]
    f = MultiScale((3, 32, 32), steps=1, channels=4)
    assert [tuple(s) for s in f.leaving] == [(6, 16, 16), (12, 8, 8), (48, 4, 4)]  # half of 12, of 24; all of 48
    assert sum(f.size) == 3 * 32 * 32
    with pytest.raises(ConfigError, match="scales=3 does not suit images of 28 x 28.*from 1 to 2"):
        MultiScale((1, 28, 28), scales=3)


def test_noise_begins_uniform_and_knows_its_density():
    steps = [ImageCoupling((1, 2, 2), 1, "checkerboard", i == 1, channels=8) for i in range(2)]
    noise, e, seen = VariationalNoise(Compose(steps)).double(), draw(4000, 1, 2, 2), draw(4000, 1, 2, 2, seed=2)
    with torch.no_grad():
        for step in steps:
            step.net.head.weight.zero_()
        u, log_q = noise(e, seen)
    assert log_q.abs().max() == 0
    # Mean 1/2 and sd 1 / sqrt(12) within 4 standard errors of 16,000 draws
    assert abs(u.mean() - 0.5) < 4 / (12 * 16_000) ** 0.5
    scrambled(noise, 0.3)
    J = jacobian(lambda v: noise(v.view(1, 1, 2, 2), seen[:1])[0].flatten(), e[0].flatten())
    log_base = torch.distributions.Normal(0.0, 1.0).log_prob(e[0]).sum()
    assert abs(log_base - torch.linalg.slogdet(J)[1] - noise(e[:1], seen[:1])[1][0]) < 1e-8
