r"""Codes of records under a generator that has no encoder: a search for the z whose G(z) is nearest.

For each record on its own, with f the features of records (see `data.features`) and G a generator into them,

    z* = argmin_z  L(z) = |G(z | c) - f(x)|^2 + prior |z|^2        (Lipton & Tripathi 2017, eq. 1; Creswell & Bharath 2018, eq. 1 and 4)

from several starts, of which the best is kept. With prior = sigma^2 it is the most probable code where x is seen through Gaussian noise of
standard deviation sigma in feature units and z ~ N(0, I). For G(z) = A z + b it is known, z* = (A^T A + prior I)^{-1} A^T (f - b): at
prior = 0 the error |G(z*) - f|^2 is the squared distance from the range of G, and 0 inside it.

Two searches, both separable: what is found for a record depends on its own starts alone.

    damped   Levenberg 1944 and Marquardt 1963: z' = z - (J^T J + (prior + mu) I)^{-1} (J^T r + prior z), r = G(z) - f, J its slope, exact
             by d forward derivatives. A step that lowers L is taken, and mu follows how much of the fall that the linear model promised
             came about (Nielsen 1999, section 2); otherwise mu grows.
    adam     gradient descent with Adam (Kingma & Ba 2015), its step falling to 0 along a cosine.

Generators whose noise is uniform on [-1, 1] are searched over u with z = 2 Phi(u) - 1, where nothing has a boundary; |z| is then |u|.
"""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .data.features import Features
from .errors import ConfigError, DataError, Unsupported
from .known import Known
from .rng import Rng

if TYPE_CHECKING:
    from .model import Model

__all__ = ["Inversion", "Method", "Range", "invert", "range_of", "search"]

Method = Literal["damped", "adam"]
Generator = Callable[[Tensor, Tensor | None], Tensor]
"""(z (N, d), c (N, C) or None) -> features (N, *features), row by row and differentiable."""
ROWS = 512
"""Starts that are searched from together: what bounds the memory."""
MU = 1e-2
"""The damping mu at the start, as a share of the mean diagonal of J^T J + prior I."""


@dataclass(frozen=True)
class Inversion:
    """The codes that were found."""

    z: Float[Tensor, "n d"]
    """The best code of each record."""
    error: Float[Tensor, "n"]
    """|G(z) - f(x)|^2 there: the squared distance in feature units, summed over entries, without the prior."""
    errors: Float[Tensor, "n starts"] = field(repr=False)
    """The same for each start: what one restart more is worth."""
    start: Int[Tensor, "n"] = field(repr=False)
    """Which start was the best one."""
    seconds: float = 0.0


@dataclass(frozen=True)
class Range:
    """What a search needs of a model: its generator, and where codes begin."""

    generate: Generator
    prior: Callable[[int, Tensor | None, Rng], Tensor] | None
    """(N, c, rng) -> z (N, d), draws of the prior; None where the model has none."""
    uniform: bool = False
    """Whether codes are uniform on [-1, 1]."""

    def free(self, z: Tensor) -> Tensor:
        """Codes without a boundary."""
        # At the boundary itself u is infinite: 1 - 1e-6 is five deviations out.
        return torch.special.ndtri((1 + z.clamp(-1 + 1e-6, 1 - 1e-6)) / 2) if self.uniform else z

    def bound(self, u: Tensor) -> Tensor:
        """The inverse of `free`."""
        return 2 * torch.special.ndtr(u) - 1 if self.uniform else u


def range_of(model: "Model") -> Range:
    """The generator of a fitted model: G of a GAN, the mean of p(x | z) of a model with a likelihood, else a decoder into reals.

    Raises `Unsupported` for a model without a differentiable one.
    """
    spec, name = model._ready("invert"), type(model).__name__
    found: Any = model
    if hasattr(found, "generate") and hasattr(found, "noise_like"):
        noise = getattr(found, "noise", "normal")
        return Range(found.generate, lambda n, c, rng: found.noise_like(n, rng), noise == "uniform")
    if any(s.name == "categories" for s in spec.supports):
        raise Unsupported(f"{name} cannot be searched for codes: its records have categories, of which no mean exists. Use its encode().")
    features = Features(spec)
    if model.supports("likelihood"):
        generate: Generator = lambda z, c: features.encode(found._likelihood(z, c).mean)
    elif model.supports("decode") and spec.continuous:
        generate = lambda z, c: features.encode(found._decode(z, c))
    else:
        instead = "Use its encode()." if model.supports("encode") else "Fit a gan, a bigan or a vae."
        raise Unsupported(f"{name} has no map from codes to records that a search could follow downhill. {instead}")
    prior = found._joint().sample_prior if hasattr(found, "_joint") and not _takes_noise(found._joint) else None
    return Range(generate, prior)


def _takes_noise(hook: Callable[..., Any]) -> bool:
    import inspect

    return "noise" in inspect.signature(hook).parameters


def invert(
    model: "Model",
    records: Any,
    *,
    condition: Any = None,
    restarts: int = 4,
    steps: int = 30,
    method: Method = "damped",
    lr: float = 0.1,
    prior: float = 0.0,
    start: Any = None,
    seed: int = 0,
) -> Inversion:
    """Search the codes whose decoded records are nearest to these, with any fitted model that generates records from codes.

    Parameters
    ----------
    model
        A fitted model: a GAN, a BiGAN, a VAE (its p(x | z)'s mean), an autoencoder or a flow of real records.
    records
        In any form that the model's other verbs take.
    restarts
        Starts for each record. The first is the model's own `encode` where it has one; the others are draws of the prior.
    steps
        Steps of each search. One `damped` step costs about d forward passes, d the width of a code; one of `adam` about three.
    method
        `damped` (Levenberg-Marquardt) or `adam`; see the module.
    lr
        Largest step of `adam`, in codes' deviations.
    prior
        Weight of |z|^2: the variance of the noise, in feature units, that the records are taken to be seen through.
    start
        Codes (n, d) to begin with instead of `encode`'s; "prior" begins with draws of the prior alone.
    seed
        Fixes the draws, bit for bit.

    Returns
    -------
    The codes, on the CPU, with their errors. `model.decode(found.z)` gives the records.

    Raises
    ------
    Unsupported
        The model generates no records from codes, or in steps that have no slope.
    ConfigError
        Numbers out of range, or restarts of a model that has no prior to draw them from.
    DataError
        The records or the starts do not fit the model.

    References
    ----------
    Lipton & Tripathi 2017, "Precise Recovery of Latent Vectors from Generative Adversarial Networks"; Creswell & Bharath 2018, "Inverting
    the Generator of a Generative Adversarial Network".
    """
    began = time.perf_counter()
    _check(restarts, steps, method, lr, prior)
    where = range_of(model)
    x, c = model._inputs(records, condition)
    rng = Rng.seeded(seed, x)
    with torch.no_grad():
        starts = _starts(model, where, x, c, restarts, start, rng)
        assert model.spec is not None
        target = Features(model.spec).encode(x).flatten(1)
        parts = []
        for at in torch.arange(len(x)).split(max(1, ROWS // starts.shape[1])):
            parts.append(
                search(
                    lambda u, c: where.generate(where.bound(u), c),
                    target[at],
                    None if c is None else c[at],
                    where.free(starts[at]),
                    steps=steps,
                    method=method,
                    lr=lr,
                    prior=prior,
                )
            )
    u, error, value = (torch.cat(p).cpu() for p in zip(*parts, strict=True))
    best = value.argmin(1)
    row = torch.arange(len(best))
    return Inversion(where.bound(u[row, best]), error[row, best], error, best, time.perf_counter() - began)


def _check(restarts: int, steps: int, method: str, lr: float, prior: float) -> None:
    if restarts < 1 or steps < 1:
        raise ConfigError(f"restarts and steps must be at least 1, got {restarts} and {steps}.")
    if method not in ("damped", "adam"):
        raise ConfigError(f"method={method!r} is not known. Choose 'damped' or 'adam'.")
    if not (lr > 0 and math.isfinite(lr)):
        raise ConfigError(f"lr must be above 0, got {lr}.")
    if not (prior >= 0 and math.isfinite(prior)):
        raise ConfigError(f"prior is a variance: it must be at least 0, got {prior}.")


def _starts(model: "Model", where: Range, x: Tensor, c: Tensor | None, restarts: int, start: Any, rng: Rng) -> Float[Tensor, "n R d"]:
    """The codes that searches begin with."""
    first, encode = None, getattr(model, "_encode", None)
    if encode is not None and start is None and model.supports("encode"):
        first = torch.cat([encode(a, b) for a, b in _pieces(x, c)])
    elif start is not None and not isinstance(start, str):
        first = torch.as_tensor(start).to(x)
        if first.ndim != 2 or len(first) != len(x):
            raise DataError(f"start has shape {tuple(first.shape)}; {len(x)} records need codes of shape ({len(x)}, d).")
    elif start not in (None, "prior"):
        raise ConfigError(f"start={start!r} is not known. Give codes (n, d), or 'prior'.")
    drawn = restarts - (first is not None)
    if drawn and where.prior is None:
        raise ConfigError(f"{type(model).__name__} has no prior to draw {drawn} starts from. Give restarts=1, or start=CODES with it.")
    found = [] if first is None else [first[:, None]]
    if drawn:
        assert where.prior is not None
        every = None if c is None else c.repeat_interleave(drawn, 0)
        found.append(where.prior(len(x) * drawn, every, rng).unflatten(0, (len(x), drawn)))
    return torch.cat(found, 1)


def _pieces(x: Tensor, c: Tensor | None) -> Iterator[tuple[Tensor, Tensor | None]]:
    for at in torch.arange(len(x)).split(ROWS):
        yield x[at], None if c is None else c[at]


# -- the searches --------------------------------------------------------------------------------------------------------


def search(
    generate: Generator,
    target: Float[Tensor, "B F"],
    c: Float[Tensor, "B C"] | None,
    starts: Float[Tensor, "B R d"],
    *,
    steps: int,
    method: Method = "damped",
    lr: float = 0.1,
    prior: float = 0.0,
) -> tuple[Float[Tensor, "B R d"], Float[Tensor, "B R"], Float[Tensor, "B R"]]:
    """(z, |G(z) - target|^2, L(z)) after a search from every start; never worse in L than the start itself."""
    B, R, _ = starts.shape
    z, target = starts.flatten(0, 1), target.repeat_interleave(R, 0)
    c = None if c is None else c.repeat_interleave(R, 0)

    def residual(u: Tensor) -> Tensor:
        return generate(u, c).flatten(1) - target

    z = _damped(residual, z, steps, prior) if method == "damped" else _adam(residual, z, steps, lr, prior)
    with torch.no_grad():
        error = residual(z).square().sum(1)
    value = error + prior * z.square().sum(1)
    return z.detach().unflatten(0, (B, R)), error.view(B, R), value.view(B, R)


def _value(r: Tensor, z: Tensor, prior: float) -> Tensor:
    return r.square().sum(1) + prior * z.square().sum(1)


@torch.no_grad()
def _damped(residual: Callable[[Tensor], Tensor], z: Float[Tensor, "N d"], steps: int, prior: float) -> Float[Tensor, "N d"]:
    d = z.shape[1]
    eye = torch.eye(d, dtype=z.dtype, device=z.device)
    r = residual(z)
    value, mu, up = _value(r, z, prior), None, torch.full_like(z[:, 0], 2.0)
    for _ in range(steps):
        J = _slope(residual, z)
        A = J.mT @ J + prior * eye
        g = (J.mT @ r[..., None])[..., 0] + prior * z
        size = A.diagonal(dim1=1, dim2=2).mean(1)
        # Entries of z that G does not hear of leave A singular: a share of its own size that rounding does not swallow keeps it regular.
        least = torch.finfo(z.dtype).eps * d * size + torch.finfo(z.dtype).tiny
        mu = torch.maximum(MU * size if mu is None else mu, least).clamp(max=1e6)
        step = torch.linalg.solve(A + mu[:, None, None] * eye, g)
        new = z - step
        r_new = residual(new)
        fallen = value - _value(r_new, new, prior)
        taken = fallen > 0  # false for NaN
        z, r = torch.where(taken[:, None], new, z), torch.where(taken[:, None], r_new, r)
        value = torch.where(taken, value - fallen, value)
        kept = fallen / (step * (mu[:, None] * step + g)).sum(1)
        mu = mu * torch.where(taken, (1 - (2 * kept - 1) ** 3).clamp(min=1 / 3), up)
        up = torch.where(taken, 2.0, 2 * up).clamp(max=1e6)
    return z


def _slope(residual: Callable[[Tensor], Tensor], z: Float[Tensor, "N d"]) -> Float[Tensor, "N F d"]:
    """J of each row, column by column: rows do not mix, so that one forward derivative gives a column of all."""
    basis = torch.eye(z.shape[1], dtype=z.dtype, device=z.device)
    try:
        return torch.stack([torch.func.jvp(residual, (z,), (e.expand_as(z).contiguous(),))[1] for e in basis], 2)
    except (RuntimeError, NotImplementedError) as error:
        if "forward" not in str(error).lower():
            raise
        raise Unsupported("A layer of this generator has no forward derivative. Use method='adam'.") from error


def _adam(residual: Callable[[Tensor], Tensor], z: Float[Tensor, "N d"], steps: int, lr: float, prior: float) -> Float[Tensor, "N d"]:
    z = z.detach().clone().requires_grad_()
    optimizer = torch.optim.Adam([z], lr)
    best, least = z.detach().clone(), torch.full((len(z),), torch.inf, dtype=z.dtype, device=z.device)
    for step in range(steps + 1):
        with torch.enable_grad():
            value = _value(residual(z), z, prior)
            if not value.requires_grad:
                raise Unsupported("This generator does not depend on its codes through differentiable operations.")
            (z.grad,) = torch.autograd.grad(value.sum(), z)
        better = value.detach() < least
        best, least = torch.where(better[:, None], z.detach(), best), torch.where(better, value.detach(), least)
        optimizer.param_groups[0]["lr"] = lr * (1 + math.cos(math.pi * step / max(1, steps))) / 2
        optimizer.step()
    return best


def known_answers() -> Iterator[Known]:
    """Linear generators: least squares, the distance from their range, ridge regression; and a curved one on a circle."""
    rng = Rng.seeded(0, torch.zeros((), dtype=torch.float64))
    A, b, f = rng.randn(6, 3), rng.randn(6), rng.randn(5, 6)
    linear: Generator = lambda z, c: z @ A.T + b
    starts = rng.randn(5, 1, 3)
    # Errors L of order 10 are told apart to 1e-15, and L rises by |A dz|^2 from its minimum: dz is known to 3e-8 / the least stretch of A.
    flat = 1e-7 / float(torch.linalg.svdvals(A)[-1])
    for prior in (0.0, 0.3):
        known = torch.linalg.solve(A.T @ A + prior * torch.eye(3, dtype=f.dtype), A.T @ (f - b).T).T
        z, error, _ = search(linear, f, None, starts, steps=30, prior=prior)
        name = "least squares" if prior == 0 else "ridge regression, prior = 0.3"
        yield Known(
            f"z* of a linear generator against {name}", 0.0, float((z[:, 0] - known).abs().max()), flat, "how flat L is to rounding"
        )
        if prior == 0:
            q, _ = torch.linalg.qr(A)
            off = (f - b) - (f - b) @ q @ q.T
            gap = float((error[:, 0] - off.square().sum(1)).abs().max())
            yield Known("error against the squared distance from the range", 0.0, gap, 1e-12, "rounding of numbers of order 10")
    inside = rng.randn(5, 3)
    z, error, _ = search(linear, linear(inside, None), None, starts, steps=30)
    # Here L falls to 0, where it is not flat but exact.
    because = "rounding of 1e-16 by the condition number of A, below 1e3"
    yield Known("z of records that are in the range", 0.0, float((z[:, 0] - inside).abs().max()), 1e-12, because)
    yield Known("their error", 0.0, float(error.max()), 1e-22, "the square of the one before, by |A|^2 below 100")
    # G(z) = (cos z, sin z): the nearest point of the circle to f is f / |f|, at distance | |f| - 1 |.
    circle: Generator = lambda z, c: torch.cat([z.cos(), z.sin()], 1)
    angle, radius = 6 * rng.rand(20, 1, 1), 0.5 + 2 * rng.rand(20)
    f = radius[:, None] * circle(angle[:, 0], None)
    _, error, _ = search(circle, f, None, angle + 0.5, steps=60)
    gap = float((error[:, 0] - (radius - 1).square()).abs().max())
    because = "each step takes off at least half of what is left at |f| = 1/2, so that 60 leave rounding"
    yield Known("squared distance from a circle", 0.0, gap, 1e-10, because)
