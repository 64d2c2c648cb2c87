"""The maps of dense flows beyond couplings: inverses out to 50 sd, log-determinants against autograd, starts, constraints, gradients."""

import pytest
import torch
from torch.autograd.functional import jacobian

from pushforward.bijections import (
    ActNorm,
    AdditiveCoupling,
    AffineAutoregressive,
    AffineCoupling,
    Inverse,
    Linear,
    Logit,
    Permutation,
    Planar,
    Radial,
    RationalQuadratic,
    RationalQuadraticAutoregressive,
    RationalQuadraticCoupling,
    Standardise,
    TanhSum,
    bisect,
    near,
)
from pushforward.bijections.base import within

MAKERS = {
    "actnorm": lambda d, c: ActNorm(d),
    "linear": lambda d, c: Linear(d),
    "permutation": lambda d, c: Permutation(d),
    "standardise": lambda d, c: Standardise(d),
    "additive": lambda d, c: AdditiveCoupling(d, c, (8,)),
    "affine": lambda d, c: AffineCoupling(d, c, (8,)),
    "additive, last": lambda d, c: AdditiveCoupling(d, c, (8,), last=True),
    "affine, last": lambda d, c: AffineCoupling(d, c, (8,), last=True),
    "spline coupling, last": lambda d, c: RationalQuadraticCoupling(d, c, bins=5, hidden=(8,), last=True),
    "spline coupling": lambda d, c: RationalQuadraticCoupling(d, c, bins=5, hidden=(8,)),
    "spline": lambda d, c: RationalQuadratic(d),
    "affine autoregressive": lambda d, c: AffineAutoregressive(d, c, (8, 8)),
    "affine autoregressive, in an order": lambda d, c: AffineAutoregressive(d, c, (8, 8), order=[*range(1, d), 0]),
    "spline autoregressive, in reverse": lambda d, c: RationalQuadraticAutoregressive(d, c, 5, hidden=(8,), order=range(d)[::-1]),
    "spline autoregressive": lambda d, c: RationalQuadraticAutoregressive(d, c, bins=5, hidden=(8,)),
    "inverse": lambda d, c: Inverse(AffineAutoregressive(d, c, (8,))),
    "planar": lambda d, c: Planar(d, c, (8,)),
    "radial": lambda d, c: Radial(d, c, (8,)),
    "tanh": lambda d, c: TanhSum(d),
}


def scrambled(name, dim, condition_dim, scale=0.05):
    torch.manual_seed(dim + condition_dim)
    f = MAKERS[name](dim, condition_dim).double()
    if isinstance(f, Standardise):
        f.start(3 + 2 * torch.randn(50, dim, dtype=torch.float64))
    with torch.no_grad():
        for p in f.parameters():
            p.add_(scale * torch.randn_like(p))
    return f


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize(("dim", "condition_dim"), [(1, 0), (1, 2), (2, 0), (5, 2)])
def test_inverse_and_log_det_out_to_50_sd(name, dim, condition_dim):
    f = scrambled(name, dim, condition_dim)
    x = torch.randn(40, dim, dtype=torch.float64)
    x[20:] *= 50 / x[20:].norm(dim=1, keepdim=True)
    c = torch.randn(40, condition_dim, dtype=torch.float64) if condition_dim else None
    with torch.no_grad():
        y, log_det = f(x, c)
        back, there = f.inverse(y, c)
        # float64 rounding of numbers below 100, 1e-14, over a least slope above 1e-3; then the same of float32, 5e-6 in weights this mild.
        assert (back - x).abs().max() < 1e-10
        assert (log_det + there).abs().max() < 1e-9
        f.float()
        near_, c_ = x.float(), None if c is None else c.float()
        assert (f.inverse(f(near_, c_)[0], c_)[0] - near_).abs().max() < 1e-4
        f.double()
    f = scrambled(name, dim, condition_dim, 0.3)  # wilder, for the formulas
    for i in (0, 1, 39):
        at = None if c is None else c[i : i + 1]
        J = jacobian(lambda v, at=at: f(v[None], at)[0][0], x[i])
        assert abs(torch.linalg.slogdet(J)[1] - f(x[i : i + 1], at)[1]) < 1e-8  # float64, at most 5 x 5


@pytest.mark.parametrize("name", ["planar", "tanh", "affine autoregressive", "spline autoregressive"])
def test_gradients_of_inverses_without_a_closed_form(name):
    """By the implicit function theorem: against finite differences, for the argument and for every parameter, log-determinants too."""
    f = scrambled(name, 3, 0, 0.2)
    y = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(4, 3, dtype=torch.float64)

    def value():
        x, log_det = f.inverse(y)
        return (weights * x).sum() + log_det.square().sum()

    names = [y, *f.parameters()]
    ours = torch.autograd.grad(value(), names, allow_unused=True)
    with torch.no_grad():
        for p, g in zip(names, ours, strict=True):
            for i in range(0, p.numel(), max(1, p.numel() // 4)):
                flat, h = p.view(-1), 1e-6
                was = flat[i].item()
                flat[i] = was + h
                up = value()
                flat[i] = was - h
                down = value()
                flat[i] = was
                # Central differences: rounding 1e-15 / 1e-6 and h^2 of third derivatives below 1e4, 1e-8; kinks are not that near.
                assert abs(0 if g is None else g.view(-1)[i] - (up - down) / (2 * h)) < 1e-6 * (1 + abs((up - down) / (2 * h)))


def test_autoregressive_maps_see_only_what_comes_before():
    for f in (AffineAutoregressive(5, 2, (16,)).double(), RationalQuadraticAutoregressive(5, 2, hidden=(16,)).double()):
        with torch.no_grad():
            for p in f.parameters():
                p.add_(0.3 * torch.randn_like(p))
        x, c = torch.randn(5, dtype=torch.float64), torch.randn(1, 2, dtype=torch.float64)
        J = jacobian(lambda v, f=f, c=c: f(v[None], c)[0][0], x)
        assert torch.equal(J.triu(1), torch.zeros(5, 5, dtype=torch.float64))
        assert J.tril(-1).abs().sum() > 1e-3
        # The first entry's map depends on the condition alone.
        assert f(x[None], c)[0][0, 0] != f(x[None], c + 1)[0][0, 0]


def test_each_hidden_unit_is_computed_once(monkeypatch):
    """The inverse never runs the whole network, and multiplies as much as about one pass."""
    f = AffineAutoregressive(12, 0, (24, 24))
    rows = []
    addmm = torch.addmm
    monkeypatch.setattr(torch, "addmm", lambda b, w, h: rows.append(len(w)) or addmm(b, w, h))
    monkeypatch.setattr(f.net, "forward", lambda *_: pytest.fail("a full pass"))
    with torch.no_grad():
        f.inverse(torch.randn(3, 12))
    assert sum(rows) <= 24 + 24 + 2 * 12


@pytest.mark.parametrize("kind", [ActNorm, Standardise])
def test_starts_from_records(kind):
    x = torch.tensor([3.0, -1.0, 7.0]) + torch.randn(500, 3) * torch.tensor([2.0, 0.1, 0.0])
    f = kind(3)
    f.start(x)
    y, log_det = f(x)
    torch.testing.assert_close(y.mean(0), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(y.std(0, correction=0), torch.tensor([1.0, 1.0, 0.0]), atol=1e-5, rtol=0)
    torch.testing.assert_close(log_det, -x[:, :2].std(0, correction=0).log().sum().expand(500))  # the constant entry's scale is 1


@pytest.mark.parametrize("alpha", [0.0, 0.05])
def test_logit_is_of_an_interval(alpha):
    f = Logit(-2.0, 3.0, alpha)
    x = torch.empty(30, 2, dtype=torch.float64).uniform_(-1.99, 2.99)
    y, log_det = f(x)
    torch.testing.assert_close(y, torch.logit(alpha + (1 - 2 * alpha) * (x + 2) / 5))
    back, there = f.inverse(y)
    assert (back - x).abs().max() < 1e-12
    assert (log_det + there).abs().max() < 1e-10
    J = jacobian(lambda v: f(v[None])[0][0], x[0])
    assert abs(torch.linalg.slogdet(J)[1] - log_det[0]) < 1e-10
    for far in (torch.full((1, 2), 9.0), torch.full((1, 2), -9.0)):  # beyond the ends: finite all the same
        assert all(t.isfinite().all() for t in f(far))
        assert all(t.isfinite().all() for t in f.inverse(50 * far))


@pytest.mark.parametrize("push", [-1e3, -30.0, 0.0, 30.0])
def test_planar_and_radial_stay_invertible_for_any_parameters(push):
    """Rezende and Mohamed's constraints: whatever the raw numbers, the slope is at least 1e-3 and the log-determinant finite."""
    x = torch.randn(200, 3, dtype=torch.float64) * 3
    planar, radial = Planar(3).double(), Radial(3).double()
    with torch.no_grad():
        own = planar.params.own
        own[:3] = push * own[3:6] / own[3:6].square().sum()  # w.r = push
        u, w, _, slope = planar._params(1, None)
        torch.testing.assert_close((u * w).sum(1, keepdim=True), slope - 1, atol=1e-9, rtol=1e-9)
        radial.params.own[3:] = push
        for f in (planar, radial):
            y, log_det = f(x)
            assert log_det.isfinite().all()
            back, _ = f.inverse(y)
            # Slopes of 1e-3 along one line, or of up to 1e3 (rounding of numbers of 1e3, 1e-13).
            assert (back - x).abs().max() < 1e-9
    assert float(slope) >= 1e-3


def test_radial_is_the_paper_s_formula():
    f = scrambled("radial", 3, 0, 0.3)
    x = torch.randn(6, 3, dtype=torch.float64)
    centre, alpha, s = f._params(6, None)
    r = (x - centre).norm(dim=1, keepdim=True)
    torch.testing.assert_close(f(x)[0], x + (s - alpha) / (alpha + r) * (x - centre))
    h, slope = 1 / (alpha + r), -1 / (alpha + r) ** 2
    beta = s - alpha
    want = (1 + beta * h) ** 2 * (1 + beta * h + beta * slope * r)  # equation 14, D = 3
    torch.testing.assert_close(f(x)[1], want.log().squeeze(1))


def test_bisection_meets_a_known_root():
    y = torch.linspace(-60, 60, 25, dtype=torch.float64)
    x = bisect(lambda x: (x**3 + x, 3 * x**2 + 1), y, torch.full_like(y, -60), torch.full_like(y, 60))
    assert (x**3 + x - y).abs().max() < 1e-12  # rounding of 60


def test_near_is_the_identity_within_and_smooth():
    x = torch.linspace(-50, 50, 2001, dtype=torch.float64, requires_grad=True)
    y = near(x)
    inside = x.abs() <= 5
    assert torch.equal(y[inside], x[inside])
    slope = torch.autograd.grad(y.sum(), x)[0]
    outside = x.abs() > 5.01
    torch.testing.assert_close(slope[outside], 1 / (x[outside].detach().abs() - 4))


@pytest.mark.parametrize(("dtype", "error"), [(torch.float64, 1e-14), (torch.float32, 1e-5), (torch.bfloat16, 5e-2)])
def test_within_is_a_scaled_tanh(dtype, error):
    # Rounding of numbers up to 3: a few units in the last place, which is 2^-7 in bfloat16.
    r = torch.linspace(-40, 40, 801, dtype=torch.float64)
    s = within(r.to(dtype), 3.0)
    assert s.dtype == dtype
    assert s.abs().max() <= 3
    torch.testing.assert_close(s.double(), 3 * torch.tanh(r.to(dtype).double() / 3), rtol=0, atol=error)
    assert within(torch.zeros(1, dtype=dtype), 3.0).item() == 0  # zero parameters are the identity
