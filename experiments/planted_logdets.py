"""Would a wrong log-determinant be noticed? Errors of sign and of scale are planted in each, one at a time, and the checks are run.

A plant replaces a method of one bijection in memory by one that is wrong in a known way: the log-determinant of `forward`, or of `inverse`,
with its sign turned, left out, halved, or 1 % too large; and errors that a family invites (a term of the radial map forgotten, tanh' for
sech^2 without its factor, a scale counted once instead of D times ...). For each the checks of the tests are run, which ask

* jacobian: is the log-determinant that of autograd's Jacobian, to 1e-8 in float64?
* both ways: do the log-determinants of `forward` and `inverse` cancel, to 1e-9?
* mass: does the density of a standard normal behind the map integrate to 1, to 1e-4? (one and two entries)

and the plant counts as found where any of them fails. Sound bijections must pass all of them (false alarms are counted too).

    python experiments/planted_logdets.py            # half a minute of one quiet core
"""

import argparse
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from _result import Result
from torch import Tensor

from pushforward import bijections as B

MAKERS: dict[str, Callable[[int], B.Bijection]] = {
    "ActNorm": lambda d: B.ActNorm(d),
    "Linear": lambda d: B.Linear(d),
    "Standardise": lambda d: B.Standardise(d),
    "Logit": lambda d: B.Logit(-9.0, 9.0, 0.01),
    "AdditiveCoupling": lambda d: B.Compose([B.AdditiveCoupling(d, 0, (8,)), B.ActNorm(d)]),
    "AffineCoupling": lambda d: B.AffineCoupling(d, 0, (8,)),
    "RationalQuadratic": lambda d: B.RationalQuadratic(d, 5),
    "RationalQuadraticCoupling": lambda d: B.RationalQuadraticCoupling(d, 0, 5, hidden=(8,)),
    "AffineAutoregressive": lambda d: B.AffineAutoregressive(d, 0, (8,)),
    "RationalQuadraticAutoregressive": lambda d: B.RationalQuadraticAutoregressive(d, 0, 5, hidden=(8,)),
    "Inverse": lambda d: B.Inverse(B.AffineAutoregressive(d, 0, (8,))),
    "Planar": lambda d: B.Planar(d),
    "Radial": lambda d: B.Radial(d),
    "TanhSum": lambda d: B.TanhSum(d),
    "Permutation": lambda d: B.Permutation(d),
    "Compose": lambda d: B.Compose([B.ActNorm(d), B.Permutation(d), B.ActNorm(d)]),
}
FREE = {"AdditiveCoupling", "Permutation"}
"""Their log-determinant is 0: a constant is planted instead."""
GENERIC: dict[str, Callable[[Tensor], Tensor]] = {
    "sign turned": lambda v: -v,
    "left out": lambda v: torch.zeros_like(v),
    "halved": lambda v: v / 2,
    "1 % too large": lambda v: 1.01 * v,
}


def made(name: str, dim: int) -> B.Bijection:
    """A float64 bijection whose every parameter is away from its start."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(dim)
        f = MAKERS[name](dim).double()
        with torch.no_grad():
            for p in f.parameters():
                p.add_(0.2 * torch.randn_like(p))
            if isinstance(f, B.Standardise):
                f.start(1 + 2 * torch.randn(100, dim, dtype=torch.float64))
    return f


def mass(f: B.Bijection, dim: int, half: float, n: int) -> float:
    """What the density phi(f(x)) |det df/dx| sums to over cells of [-half, half]^dim, by the midpoint rule."""
    h = 2 * half / n
    axis = -half + h * (torch.arange(n, dtype=torch.float64) + 0.5)
    x = torch.cartesian_prod(*[axis] * dim).view(-1, dim)
    z, log_det = f(x)
    return float((log_det - 0.5 * z.square().sum(1)).exp().sum()) * (h / math.sqrt(2 * math.pi)) ** dim


def failures(name: str) -> set[str]:
    """The checks that this bijection fails."""
    found = set()
    for dim in (1, 2, 4):
        f = made(name, dim)
        x = torch.randn(6, dim, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
        for i in range(6):
            J = torch.autograd.functional.jacobian(lambda v, f=f: f(v[None])[0][0], x[i])
            if not abs(torch.linalg.slogdet(J)[1] - f(x[i : i + 1])[1][0]) < 1e-8:
                found.add("jacobian")
        with torch.no_grad():
            y, there = f(x)
            if not (there + f.inverse(y)[1]).abs().max() < 1e-9:
                found.add("both ways")
            half = 8.9999 if name == "Logit" else 16.0
            if dim < 3 and not abs(mass(f, dim, half, 20_000 if dim == 1 else 640) - 1) < 1e-4:
                found.add("mass")
    return found


@contextmanager
def planted(owner: type, method: str, wrong: Callable[..., object]) -> Iterator[None]:
    """`owner.method` replaced by `wrong` in memory; it is given the right one first."""
    right = getattr(owner, method)
    setattr(owner, method, lambda *args, **kw: wrong(right, *args, **kw))
    try:
        yield
    finally:
        setattr(owner, method, right)


def generic(change: Callable[[Tensor], Tensor]) -> Callable[..., tuple[Tensor, Tensor]]:
    def wrong(right: Callable[..., tuple[Tensor, Tensor]], *args: object, **kw: object) -> tuple[Tensor, Tensor]:
        y, log_det = right(*args, **kw)
        return y, change(log_det)

    return wrong


def radial_without(term: str) -> Callable[..., Tensor]:
    def wrong(right: object, self: B.Radial, r: Tensor, alpha: Tensor, s: Tensor) -> Tensor:
        side = ((r + s) / (r + alpha)).log()
        radial = ((r * r + 2 * alpha * r + alpha * s) / (r + alpha).square()).log()
        forms = {
            "h' forgotten": self.dim * side,
            "D for D - 1": self.dim * side + radial,
            "the tangential factor forgotten": radial,
        }
        return forms[term].squeeze(1)

    return wrong


def planar_slope(form: str) -> Callable[..., tuple[Tensor, Tensor]]:
    def wrong(right: Callable[..., tuple[Tensor, Tensor]], self: B.Planar, x: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        y, _ = right(self, x, c)
        _, w, b, slope = self._params(len(x), c)
        h = torch.tanh((w * x).sum(1, keepdim=True) + b)
        derivative = {"1 - tanh for sech^2": 1 - h, "sech for sech^2": (1 - h * h).sqrt(), "sech^2 forgotten": torch.ones_like(h)}[form]
        return y, (1 + (slope - 1) * derivative).abs().log().squeeze(1)

    return wrong


def spline_slope(change: Callable[[Tensor, Tensor, float], Tensor]) -> Callable[..., tuple[Tensor, Tensor]]:
    def wrong(right: Callable[..., tuple[Tensor, Tensor]], x: Tensor, params: Tensor, bound: float, **kw: bool):
        y, log_slope = right(x, params, bound, **kw)
        return y, change(x, log_slope, bound)

    return wrong


def plants() -> Iterator[tuple[str, str, object, str, Callable[..., object]]]:
    """(what, bijection, owner, method, wrong version)."""
    for name in MAKERS:
        owner = getattr(B, name)
        changes = {"0.01 too large": lambda v: v + 0.01} if name in FREE else GENERIC
        for method in ("forward", "inverse"):
            for what, change in changes.items():
                yield f"{name}.{method}: {what}", name, owner, method, generic(change)
    for term in ("h' forgotten", "D for D - 1", "the tangential factor forgotten"):
        yield f"Radial: {term}", "Radial", B.Radial, "_log_det", radial_without(term)
    for form in ("1 - tanh for sech^2", "sech for sech^2", "sech^2 forgotten"):
        yield f"Planar.forward: {form}", "Planar", B.Planar, "forward", planar_slope(form)
    sign = lambda right, self: (*right(self)[:2], -right(self)[2])
    product = lambda right, self: (*right(self)[:2], right(self)[2].exp())
    yield "Linear: -sum s", "Linear", B.Linear, "_factors", sign
    yield "Linear: the product of the diagonal for its logarithm", "Linear", B.Linear, "_factors", product

    def unbounded(right, self, x, params, *, inverse=False):
        y, _ = right(self, x, params, inverse=inverse)
        return y, (-params[0] if inverse else params[0])

    yield "AffineAutoregressive: the raw log-scale, its bound forgotten", "AffineAutoregressive", B.AffineAutoregressive, "_move", unbounded

    def first(right, self, x, c=None):
        return right(self, x, c)[0], self._move(x, self._params(x, c))[1][:, 0]

    yield "AffineAutoregressive.forward: the first entry for all", "AffineAutoregressive", B.AffineAutoregressive, "forward", first
    inside = spline_slope(lambda x, v, bound: torch.where(x.abs() < bound, v - math.log(2 * bound), v))
    scale = spline_slope(lambda x, v, bound: v + 1e-3 * (x.abs() < bound))
    for name in ("RationalQuadratic", "RationalQuadraticCoupling", "RationalQuadraticAutoregressive"):
        module = __import__("sys").modules[getattr(B, name).__module__]
        yield f"{name}: the width of the box forgotten", name, module, "spline", inside
        yield f"{name}: slopes 0.1 % too large inside the box", name, module, "spline", scale


def run(only: str | None = None) -> None:
    torch.set_num_threads(1)
    with Result("planted_logdets", settings={"only": only, "checks": ["jacobian", "both ways", "mass"]}) as result:
        names = [n for n in MAKERS if only is None or only in n]
        alarms = {name: failures(name) for name in names}
        for name, failed in alarms.items():
            result.add(f"checks that the sound {name} fails", len(failed), kind="measured", target="<= 0")
        count, caught = 0, 0
        by = {"jacobian": 0, "both ways": 0, "mass": 0}
        for what, name, owner, method, wrong in plants():
            if name not in names:
                continue
            with planted(owner, method, wrong):  # type: ignore[arg-type]
                failed = failures(name)
            count, caught = count + 1, caught + bool(failed)
            for check in failed:
                by[check] += 1
            result.add(f"{what}: checks that fail ({', '.join(sorted(failed)) or 'none'})", len(failed), kind="measured", target=">= 1")
        result.add("plants", count, kind="measured")
        result.add("plants found", caught, kind="measured", target=f">= {count}")
        for check, found in by.items():
            result.add(f"plants that {check} alone would find", found, kind="measured")
        result.add("sound bijections that fail a check", sum(map(bool, alarms.values())), kind="measured", target="<= 0")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="bijections whose name contains this")
    run(parser.parse_args().only)
