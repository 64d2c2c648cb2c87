"""Bijections: inverses, log-determinants against autograd, the spline against its paper's formula, and extremes."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd.functional import jacobian
from torch.nn import functional as F

from pushforward.bijections import (
    MIN_BIN,
    MIN_SLOPE,
    AffineCoupling,
    Compose,
    Dequantise,
    Linear,
    Permutation,
    RationalQuadratic,
    RationalQuadraticCoupling,
    near,
    spline,
)
from pushforward.bijections.spline import Knots, knots
from pushforward.data.spec import BINARY, REAL, UNIT, categories, levels

MAKERS = {
    "affine": lambda d, c: AffineCoupling(d, c, hidden=(8,)),
    "spline": lambda d, c: RationalQuadraticCoupling(d, c, bins=5, bound=3.0, hidden=(8,)),
    "marginals": lambda d, c: RationalQuadratic(d, bins=6, bound=3.0),
    "linear": lambda d, c: Linear(d, torch.randperm(d)),
    "permutation": lambda d, c: Permutation(d, torch.randperm(d)),
    "reverse": lambda d, c: Permutation(d),
    "composed": lambda d, c: Compose(
        [Linear(d), AffineCoupling(d, c, hidden=(8,)), Permutation(d), RationalQuadraticCoupling(d, c, bins=4, hidden=(8,))]
    ),
}


def scrambled(name, dim, condition_dim, seed):
    """A float64 bijection whose every parameter is far from its start."""
    torch.manual_seed(seed)
    f = MAKERS[name](dim, condition_dim).double()
    with torch.no_grad():
        for p in f.parameters():
            p.add_(0.15 * torch.randn_like(p))
    return f


@pytest.mark.parametrize("name", MAKERS)
@settings(max_examples=12, deadline=None, derandomize=True)
@given(dim=st.integers(1, 6), condition_dim=st.integers(0, 2), seed=st.integers(0, 2**31), spread=st.sampled_from([0.1, 1.0, 4.0]))
def test_inverse_and_log_det(name, dim, condition_dim, seed, spread):
    f = scrambled(name, dim, condition_dim, seed)
    x = spread * torch.randn(7, dim, dtype=torch.float64)
    c = torch.randn(7, condition_dim, dtype=torch.float64) if condition_dim else None
    with torch.no_grad():
        y, log_det = f(x, c)
        back, inverse_log_det = f.inverse(y, c)
    assert log_det.shape == inverse_log_det.shape == (7,)
    # Rounding (1e-16, some dozens of times) is amplified by 1 / slope, whose least value here is about 1e-4 over all layers.
    assert (back - x).abs().max() < 1e-10
    assert (log_det + inverse_log_det).abs().max() < 1e-9
    for i in range(3):
        J = jacobian(lambda v, i=i: f(v[None], None if c is None else c[i : i + 1])[0][0], x[i])
        assert abs(torch.linalg.slogdet(J)[1] - log_det[i]) < 1e-8  # float64, at most 6 x 6


@pytest.mark.parametrize("name", ["affine", "spline"])
def test_conditions_reach_couplings(name):
    f = scrambled(name, 3, 2, 0)
    x, c = torch.randn(4, 3, dtype=torch.float64), torch.randn(4, 2, dtype=torch.float64)
    (a, la), (b, lb) = f(x, c), f(x, c + 1)
    assert (a - b)[:, 1:].abs().min() > 1e-6
    assert torch.equal(a[:, :1], x[:, :1])
    assert (la - lb).abs().min() > 1e-6


def test_affine_log_scale_is_bounded():
    f = AffineCoupling(2, hidden=(4,), max_log_scale=2.0)
    with torch.no_grad():
        for p in f.parameters():
            p.mul_(1e4)
    assert f(torch.randn(50, 2))[1].abs().max() <= 2.0


def test_linear_is_its_matrix():
    f = scrambled("linear", 4, 0, 3)
    eye = torch.eye(4, dtype=torch.float64)
    W = (f(eye)[0] - f.bias).t()
    x = torch.randn(5, 4, dtype=torch.float64)
    y, log_det = f(x)
    torch.testing.assert_close(y, x @ W.t() + f.bias)
    torch.testing.assert_close(log_det, torch.linalg.slogdet(W)[1].expand(5))
    P = eye[f.permutation.order]
    fresh = Linear(4, f.permutation.order).double()
    torch.testing.assert_close(fresh(x)[0], x @ P.t())


# -- spline -------------------------------------------------------------------------------------------------------------------


def durkan(x, params, bound):
    """Equations 4 and 5 of Neural Spline Flows for one number, bin by bin, as printed."""
    K = (len(params) + 1) // 3
    w, h = ((MIN_BIN + (1 - MIN_BIN * K) * p.softmax(0)) * 2 * bound for p in (params[:K], params[K : 2 * K]))
    raw = math.log(math.expm1(1 - MIN_SLOPE))
    d = F.pad(F.softplus(params[2 * K :] + raw) + MIN_SLOPE, (1, 1), value=1.0)
    X, Y = (F.pad(v.cumsum(0), (1, 0)) - bound for v in (w, h))
    if not -bound <= x <= bound:
        return x, torch.zeros(())
    k = min(int((x >= X[1:]).sum()), K - 1)
    s, xi = h[k] / w[k], (x - X[k]) / w[k]
    below = s + (d[k + 1] + d[k] - 2 * s) * xi * (1 - xi)
    y = Y[k] + h[k] * (s * xi**2 + d[k] * xi * (1 - xi)) / below
    slope = s**2 * (d[k + 1] * xi**2 + 2 * s * xi * (1 - xi) + d[k] * (1 - xi) ** 2) / below**2
    return y, slope.log()


def test_spline_is_durkan_s():
    params = 2 * torch.randn(1, 40, 3 * 4 - 1, dtype=torch.float64)
    x = torch.linspace(-4, 4, 40, dtype=torch.float64)[None]
    y, log_slope = spline(x, params, 3.0)
    for i in range(40):
        want, want_log = durkan(x[0, i], params[0, i], 3.0)
        assert abs(y[0, i] - want) < 1e-12
        assert abs(log_slope[0, i] - want_log) < 1e-11


def test_spline_of_zeros_is_the_identity():
    x = torch.linspace(-9, 9, 101, dtype=torch.float64)[None]
    y, log_slope = spline(x, torch.zeros(1, 101, 23, dtype=torch.float64), 5.0)
    torch.testing.assert_close(y, x, atol=1e-14, rtol=0)
    torch.testing.assert_close(log_slope, torch.zeros_like(x), atol=1e-14, rtol=0)


def test_spline_rises_smoothly():
    x = torch.linspace(-4, 4, 20_001, dtype=torch.float64)[None]
    params = torch.randn(1, 1, 3 * 6 - 1, dtype=torch.float64).expand(1, 20_001, -1)
    y, log_slope = spline(x, params, 3.0)
    assert (y.diff() > 0).all()
    # The trapezoid rule over the slope gives back y: error h^2 / 12 * total variation of y'' < (4e-4)^2 / 12 * 1e4 = 1.4e-4.
    slope = log_slope.exp()
    area = ((slope[:, 1:] + slope[:, :-1]) / 2 * x.diff()).cumsum(1)
    assert (area - (y[:, 1:] - y[:, :1])).abs().max() < 1.4e-4
    assert log_slope.diff().abs().max() < 0.1  # no jump at knots or at the edge of the box


@settings(max_examples=40, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**31), scale=st.sampled_from([0.0, 1.0, 5.0, 30.0]), K=st.sampled_from([1, 2, 8, 32]))
def test_spline_inverse_is_safe(seed, scale, K):
    """However wild the parameters and far the point: finite, in the box when it must be, and close on the way back, in float32."""
    torch.manual_seed(seed)
    params = scale * torch.randn(64, 3, 3 * K - 1)
    x = torch.cat([50 * torch.randn(32, 3), torch.empty(32, 3).uniform_(-5, 5)])
    x[0, 0], x[0, 1] = 5.0, -5.0
    y, forward = spline(x, params, 5.0)
    back, log_slope = spline(y, params, 5.0, inverse=True)
    assert all(t.isfinite().all() for t in (y, forward, back, log_slope))
    outside = x.abs() > 5
    assert torch.equal(y[outside].sign(), x[outside].sign())
    # Outside: y = edge + (x - edge), each rounded at |x| <= 250, 2e-5; edges of the box by sums of K shares, 10 K * 6e-8.
    assert (y - x)[outside].abs().max() < 1e-4
    assert (back - x)[outside].abs().max() < 2e-4
    # Inside, positions x and y in the box are each rounded by some 1e-6. Where the slope exceeds 1 that moves x by as little; where it
    # is less, y: so one of the two errors is small, however steep or flat the bin.
    residual = spline(back, params, 5.0)[0] - y
    assert torch.minimum((back - x).abs(), residual.abs()).max() < 2e-4
    there = torch.empty(64, 3).uniform_(-5, 5)
    z, _ = spline(there, params, 5.0, inverse=True)
    assert z.abs().max() <= 5 + 1e-5


def test_spline_inverse_in_float64():
    params, x = torch.randn(50, 4, 95, dtype=torch.float64), 6 * torch.randn(50, 4, dtype=torch.float64)
    y, a = spline(x, params, 5.0)
    back, b = spline(y, params, 5.0, inverse=True)
    assert (back - x).abs().max() < 1e-10  # rounding of 1e-15 over the least slope, here 1e-3
    assert (a + b).abs().max() < 1e-8


@pytest.mark.parametrize("inverse", [False, True])
def test_spline_gradients(inverse):
    params = torch.randn(2, 3, 3 * 4 - 1, dtype=torch.float64, requires_grad=True)
    x = torch.tensor([[-2.9, -0.4, 0.3], [1.1, 2.2, 5.0]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, p: spline(x, p, 3.0, inverse=inverse), (x, params), eps=1e-7, atol=1e-5)


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.parametrize(("K", "rows"), [(1, 4), (5, 4), (5, 1)])
def test_knots_of_each_record_are_autograd_s(K, rows, raw, inverse):
    """The quick way to the bin, and its gradient by hand, against the softmax and autograd."""
    params = (2 * torch.randn(rows, 3, 3 * K - 1, dtype=torch.float64)).requires_grad_()
    u = torch.rand(4, 3, dtype=torch.float64)
    quick = Knots.apply(params, u, inverse, raw)
    plain = [v.squeeze(-1) for v in knots(params.expand(4, -1, -1), u.unsqueeze(-1), inverse, raw)]
    weights = [torch.randn(4, 3, dtype=torch.float64) for _ in plain]
    a, b = (torch.autograd.grad(found, params, weights)[0] for found in (quick, plain))
    # Rounding of 2e-16 in some 20 operations on numbers of at most 10.
    assert max((p - q).abs().max() for p, q in zip(quick, plain, strict=True)) < 1e-13
    assert (a - b).abs().max() < 1e-13


def test_a_spline_s_second_derivatives():
    params = torch.randn(2, 3, 3 * 4 - 1, dtype=torch.float64, requires_grad=True)
    x = torch.tensor([[-2.9, -0.4, 0.3], [1.1, 2.2, 4.0]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x, p: spline(x, p, 3.0, raw=True), (x, params))


def test_one_spline_for_all_records_is_the_same_for_each():
    params, x = torch.randn(1, 3, 14, dtype=torch.float64, requires_grad=True), 3 * torch.randn(20, 3, dtype=torch.float64)
    for inverse in (False, True):
        shared = spline(x, params, 4.0, inverse=inverse)
        each = spline(x, params.repeat(20, 1, 1), 4.0, inverse=inverse)
        for a, b in zip(shared, each, strict=True):
            assert (a - b).abs().max() < 1e-12  # rounding, over slopes of at least 1e-3
        a, b = (torch.autograd.grad(y.sin().sum() + s.sum(), params)[0] for y, s in (shared, each))
        assert (a - b).abs().max() < 1e-10


@pytest.mark.parametrize("order", [None, torch.tensor([2, 0, 3, 1])])
def test_gradients_of_permutations(order):
    f, x = Permutation(4, order), torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    y = f(x)[0]
    assert torch.equal(y, x[:, [3, 2, 1, 0] if order is None else order])
    assert torch.equal(f.inverse(y)[0], x)
    assert torch.autograd.gradcheck(lambda x: f(x)[0].square(), x)
    assert torch.autograd.gradgradcheck(lambda x: f(x)[0].square(), x)


def test_derivatives_of_near():
    x = torch.tensor([[-9.0, -3.4, 0.0, 2.0, 3.6, 50.0]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(near, x)
    assert torch.autograd.gradgradcheck(near, x)


# -- dequantisation -----------------------------------------------------------------------------------------------------------

COLUMNS = (REAL, UNIT, BINARY, levels(17), categories(5), levels(256))


def records(n):
    columns = [torch.randint(s.size, (n,)).double() if s.size else torch.rand(n, dtype=torch.float64) for s in COLUMNS]
    return torch.stack(columns, 1)


def test_dequantise_log_det_is_autograd_s():
    f, x, u = Dequantise(COLUMNS).double(), records(5), torch.rand(5, 6, dtype=torch.float64)
    _, log_det = f(x, u)
    for i in range(5):
        J = jacobian(lambda v, i=i: f(v[None], u[i : i + 1])[0][0], x[i])
        assert abs(torch.linalg.slogdet(J)[1] - log_det[i]) < 1e-10


def test_dequantised_uniform_has_the_probability_of_its_cell():
    """Where y is logistic and cut to the squeezed interval, v is uniform: every draw of u gives exactly P = prod 1 / k."""
    f, x, u = Dequantise(COLUMNS[1:], alpha=0.1).double(), records(9)[:, 1:], torch.rand(9, 5, dtype=torch.float64)
    y, log_det = f(x, u)
    log_p = (F.logsigmoid(y) + F.logsigmoid(-y) - math.log(0.8)).sum(1) + log_det
    torch.testing.assert_close(log_p, torch.full((9,), -math.log(2 * 17 * 5 * 256), dtype=torch.float64))


@settings(max_examples=20, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**31), dtype=st.sampled_from([torch.float32, torch.float64]))
def test_dequantise_returns_the_record(seed, dtype):
    torch.manual_seed(seed)
    f, x = Dequantise(COLUMNS).to(dtype), records(64).to(dtype)
    u = 0.001 + 0.998 * torch.rand(64, 6, dtype=dtype)  # 1e-3 of a cell of 1/256 is 4e-6: some 30 roundings of float32 near 1
    back = f.inverse(f(x, u)[0])
    assert torch.equal(back[:, 2:], x[:, 2:])
    assert torch.equal(back[:, 0], x[:, 0])
    torch.testing.assert_close(back[:, 1], x[:, 1], atol=1e-5, rtol=0)


def test_dequantise_clips_to_the_support():
    f = Dequantise(COLUMNS)
    far = torch.tensor([[-40.0] * 6, [40.0] * 6])
    assert f.inverse(far).tolist() == [[-40.0, 0, 0, 0, 0, 0], [40.0, 1, 1, 16, 4, 255]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_without_a_squeeze_the_ends_stay_finite(dtype):
    """The top level of three and noise just below 1 add up to 3, as 3 - eps is no number; entries of [0, 1] may be 0 or 1 themselves."""
    f, end = Dequantise((levels(3), UNIT), alpha=0.0).to(dtype), 1 - torch.finfo(dtype).eps
    for x, u in (([2.0, 1.0], end), ([0.0, 0.0], 0.0)):
        y, log_det = f(torch.tensor([x], dtype=dtype), u)
        assert y.isfinite().all()
        assert log_det.isfinite().all()
        assert f.inverse(y)[0, 0] == x[0]


def test_real_records_pass_untouched():
    f, x = Dequantise((REAL,) * 3), torch.randn(4, 3)
    y, log_det = f(x)
    assert torch.equal(y, x)
    assert torch.equal(f.inverse(y), x)
    assert torch.equal(log_det, torch.zeros(4))
