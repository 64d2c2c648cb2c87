r"""Continuous flow: records are carried to the normal by an ordinary differential equation, along paths that never cross.

With z(0) = x and dz/dt = f(z, t; c) up to t = 1,

    log p(x | c) = log phi(z(1)) + int_0^1 tr(df/dz) dt,

the instantaneous change of variables (Chen et al. 2018, theorem 1). f may be any network, for following the field backwards inverts it. The
trace takes D products of vectors with the Jacobian, exactly, or one on average (Hutchinson 1990; Grathwohl et al. 2019, equation 7):

    tr(J) = E[e^T J e],        e of independent signs, the same along a path.

Both are solved by an adaptive Runge-Kutta method (`torchdiffeq`), so samples and densities hold to the tolerance of that solver. The
tolerance of training serves its gradient alone: what is evaluated is solved to 1e-6, or 1e-11 in double precision, in every record.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from ...bijections import ActNorm, Bijection
from ...data.spec import DataSpec
from ...errors import ConfigError, Diverged
from ...known import Known
from ...nn import MLP
from ...rng import Rng
from ...train import Training
from .dense import DenseFlow, far_answers, mass, scrambled
from .dequantised import Dequantisation

__all__ = ["ContinuousFlow"]

Trace = Literal["auto", "exact", "hutchinson"]

TRAINED_EXACTLY = 4
"""Entries up to which `trace="auto"` trains with the exact trace: it costs a product for each, and is free of noise."""
EVALUATED_EXACTLY = 64
"""Entries up to which it evaluates exactly."""
PROBES = 8
"""Draws of e that an evaluated estimate averages; the density of a record is then an estimate."""
PRECISION = {torch.float32: 1e-6, torch.float64: 1e-11}
"""Relative and absolute tolerance of what is evaluated."""
MOST_STEPS = 1000
"""Steps of the solver beyond which a field counts as stiff."""
FAR = 3.5
"""Scale beyond which networks see FAR asinh(z / FAR) grow like a logarithm: as `bijections.near`, but smooth, as solvers want it."""


def _odeint() -> Any:
    try:
        from torchdiffeq import odeint  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise ConfigError('A continuous flow needs torchdiffeq: pip install "pushforward[ode]". Other flows need nothing.') from None
    return odeint


class _Field(nn.Module):
    """f(z, t; c) = A z + g(z, t, c), (B, D), for a scalar t: a linear field, zero at first, and a network that is small at first."""

    def __init__(self, dim: int, condition_dim: int, hidden: Sequence[int]):
        super().__init__()
        self.linear = nn.Parameter(torch.zeros(dim, dim))
        self.net = MLP(dim, dim, hidden, condition_dim=1 + condition_dim, activation="tanh")
        with torch.no_grad():
            dense = [m for m in self.net.modules() if isinstance(m, nn.Linear)]
            dense[-1].weight.mul_(0.1)

    def forward(self, z: Tensor, t: Tensor, c: Tensor | None) -> Tensor:
        time = t.to(z.dtype).expand(len(z), 1)
        given = time if c is None else torch.cat([time, c], 1)
        return z @ self.linear.t() + self.net(FAR * torch.asinh(z / FAR), given)


class _Continuous(Bijection):
    """The map z(0) -> z(1) of a field, and back. With gradients it is solved to `tolerance`, without to `PRECISION`."""

    def __init__(self, dim: int, condition_dim: int, hidden: Sequence[int], tolerance: float):
        super().__init__()
        self.field, self.tolerance = _Field(dim, condition_dim, hidden), tolerance
        self.evaluations = 0
        """Evaluations of the field that the last solution took."""

    def forward(self, x: Tensor, c: Tensor | None = None, probes: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(z(1), the integral of the trace): exact, or by `probes` e (P, B, D), averaged."""
        state = self._solve(torch.cat([x, x.new_zeros(len(x), 1)], 1), c, False, probes)
        return state[:, :-1], state[:, -1]

    def inverse(self, y: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        state = self._solve(torch.cat([y, y.new_zeros(len(y), 1)], 1), c, True)
        return state[:, :-1], state[:, -1]

    def move(self, z: Tensor, c: Tensor | None, back: bool) -> Tensor:
        """`forward` or `inverse` without the log-determinant, for codes and samples."""
        return self._solve(z, c, back, traced=False)

    def _solve(self, state: Tensor, c: Tensor | None, back: bool, probes: Tensor | None = None, traced: bool = True) -> Tensor:
        """(z, trace integrated) at the other end of the path, (B, D + 1), or z alone."""
        odeint, learning, self.evaluations = _odeint(), torch.is_grad_enabled(), 0

        def rate(t: Tensor, s: Tensor) -> Tensor:
            self.evaluations += 1
            # Half precision has no more digits than one step of the solver must keep.
            with torch.autocast(s.device.type, enabled=False):
                if not traced:
                    return self.field(s.to(dtype), t, c).to(s.dtype)
                with torch.enable_grad():
                    z = s[:, :-1].to(dtype)
                    z = z if learning and z.requires_grad else z.detach().requires_grad_()
                    f = self.field(z, t, c)
                    found = torch.cat([f, _trace(f, z, probes, learning)[:, None]], 1).to(s.dtype)
                return found if learning else found.detach()

        dtype = state.dtype
        limit = self.tolerance if learning else PRECISION.get(dtype, 1e-6)
        wide = torch.float32 if state.device.type == "mps" else torch.float64  # Apple's GPUs have no doubles
        if not learning:
            state = state.to(wide)  # sums of many small steps, far from the origin: the field itself keeps its own precision
        t = torch.tensor([1.0, 0.0] if back else [0.0, 1.0], dtype=wide, device=state.device)
        # A step ends at the end of the path: interpolation would lose orders there. Tolerances hold in each record that is evaluated.
        options: dict[str, Any] = {"step_t": t[1:], "max_num_steps": MOST_STEPS, "dtype": wide}
        if not learning:
            options["norm"] = lambda e: e.square().flatten(1).mean(1).sqrt().max() if e.ndim > 1 else e.abs().max()
        method = "dopri8" if dtype == torch.float64 else "dopri5"
        try:
            return odeint(rate, state, t, rtol=limit, atol=limit, method=method, options=options)[-1].to(dtype)
        except AssertionError as error:
            raise Diverged(
                f"The differential equation of the continuous flow has no solution in {MOST_STEPS} steps ({str(error)[:80]}): its field "
                "became too steep. Give a lower lr or a smaller clip; records far from all training records can be a cause as well."
            ) from error


def _trace(f: Tensor, z: Tensor, probes: Tensor | None, learning: bool) -> Tensor:
    """tr(df/dz) of each record, (B,)."""

    def product(v: Tensor) -> Tensor:
        return torch.autograd.grad(f, z, v, create_graph=learning, retain_graph=True)[0]

    if probes is not None:
        return torch.stack([(product(e) * e).sum(1) for e in probes]).mean(0)
    rows = torch.eye(z.shape[1], dtype=z.dtype, device=z.device)
    return torch.stack([product(row.expand_as(z))[:, i] for i, row in enumerate(rows)]).sum(0)


class ContinuousFlow(DenseFlow):
    """Continuous normalizing flow: a differential equation carries the records to the normal. Smooth, free-form, slow to train.

    Source: Grathwohl, Chen, Bettencourt, Sutskever and Duvenaud, FFJORD (2019); Chen, Rubanova, Bettencourt and Duvenaud, Neural Ordinary
    Differential Equations (2018), section 4. Gradients are those of the solver's own steps, not of the adjoint equation. Needs torchdiffeq.

    Parameters
    ----------
    layers
        Differential equations, one after the other, after a scaling to unit variance (Grathwohl et al. use 1 to 5 on tables).
    hidden
        Widths of the hidden layers of each field's network (Grathwohl et al. use multiples of the entries, 60 to 860).
    trace
        Of the Jacobian, in the log-determinant: `exact`, at D products with it; `hutchinson`, an unbiased estimate at one (8 where it is
        evaluated, and `log_prob` then says that it is an estimate); `auto` trains exactly up to 4 entries and evaluates exactly up to 64.
    tolerance
        Relative and absolute tolerance of the solver in training (Grathwohl et al.: 1e-5). What is evaluated is solved to 1e-6, in double
        precision to 1e-11, whatever this says.
    alpha
        Squeeze of bounded entries before the logit, keeping its ends finite (Dinh et al. 2017, section 4.1).
    dequantisation
        How discrete entries are made continuous: by `uniform` noise, or by noise from a flow given the record, `variational` (Ho et al.
        2019), whose bound is higher once it is trained. Continuous entries need none.
    """

    name = "continuous"
    training = Training(lr=3e-3, schedule="cosine", clip=5.0)

    def __init__(
        self,
        layers: int = 1,
        hidden: tuple[int, ...] = (64, 64),
        trace: Trace = "auto",
        tolerance: float = 1e-4,
        alpha: float = 0.05,
        dequantisation: Dequantisation = "uniform",
    ):
        super().__init__()
        self.layers, self.hidden, self.tolerance, self.alpha = layers, hidden, tolerance, alpha
        self.trace: Trace = trace
        self.dequantisation = dequantisation

    def _steps(self, spec: DataSpec) -> list[Bijection]:
        _odeint()  # said before any training, not in its first step
        if self.trace not in get_args(Trace):
            raise ConfigError(f"trace must be one of {', '.join(get_args(Trace))}, got {self.trace!r}.")
        if not self.tolerance > 0:
            raise ConfigError(f"tolerance must be above 0, got {self.tolerance}.")
        fields = [_Continuous(spec.dim, spec.condition_dim, self.hidden, self.tolerance) for _ in range(self.layers)]
        return [ActNorm(spec.dim), *fields]

    def _build(self, spec: DataSpec) -> None:
        super()._build(spec)
        solved = f"its differential equation solved to {PRECISION[torch.float32]:g}"
        if self._exact(EVALUATED_EXACTLY, spec.dim):
            self.estimator = ", ".join([self.estimator or "log p(x) itself", solved])
        else:
            self.density = "estimate"
            self.estimator = ", ".join(filter(None, [self.estimator, f"Hutchinson's estimate of the trace, {PROBES} draws", solved]))

    def _exact(self, most: int, dim: int) -> bool:
        return self.trace == "exact" or (self.trace == "auto" and dim <= most)

    @property
    def nfe(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Evaluations of the fields, one after the other, that 16 samples at fixed codes took: the solver chooses."""
        if self.spec is None:
            return 1
        rng = Rng.seeded(0, torch.zeros(1, dtype=self.dtype, device=self.device))
        c = rng.randn(16, self.spec.condition_dim) if self.spec.condition_dim else None
        with torch.no_grad():
            self._decode(rng.randn(16, self.spec.dim), c)
        return sum(f.evaluations for f in self.flow.layers if isinstance(f, _Continuous))

    def _transport(self, y: Tensor, c: Tensor | None, rng: Rng) -> tuple[Tensor, Tensor]:
        learning, log_det = self.learning, y.new_zeros(len(y))
        exact = self._exact(TRAINED_EXACTLY if learning else EVALUATED_EXACTLY, y.shape[1])
        for f in self.flow.layers:
            if isinstance(f, _Continuous) and not exact:
                signs = [2.0 * rng.randint(2, *y.shape) - 1 for _ in range(1 if learning else PROBES)]
                y, change = f(y, c, torch.stack(signs).to(y.dtype))
            else:
                y, change = f(y, c)
            log_det = log_det + change
        return y, log_det

    def _encode(self, x: Tensor, c: Tensor | None) -> Tensor:
        """As every flow, but without the trace, which costs D times as much as the path."""
        y = self.dequantise(x.flatten(1))[0]
        for f in self.flow.layers:
            y = f.move(y, c, back=False) if isinstance(f, _Continuous) else f(y, c)[0]
        return y

    def _decode(self, z: Tensor, c: Tensor | None) -> Tensor:
        assert self.spec is not None
        for f in reversed(self.flow.layers):
            z = f.move(z, c, back=True) if isinstance(f, _Continuous) else f.inverse(z, c)[0]  # pyright: ignore[reportCallIssue]
        return self.dequantise.inverse(z).reshape(len(z), *self.spec.shape)


# -- known answers ------------------------------------------------------------------------------------------------------------


def known_answers() -> Iterator[Known]:
    """A linear field, whose map is a matrix's exponential; autograd's Jacobian; inverses out to 50 sd; mass; Hutchinson's estimate."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(20, 3, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        model = ContinuousFlow(hidden=(8,)).build(DataSpec("points", (3,))).double()
        for p in model.parameters():
            p.zero_()
        a = 0.7 * torch.randn(3, 3, generator=generator, dtype=torch.float64)
        _continuous(model).field.linear.copy_(a)
        z, log_det = model.flow(x)
        whole = torch.linalg.matrix_exp(a)
        tolerance, because = 1e-9, "1e-11 in each of some ten steps, grown by exp of the field's norm"
        yield Known("continuous, linear field: z = exp(A) x", 0.0, float((z - x @ whole.t()).abs().max()), tolerance, because)
        yield Known("continuous, linear field: log-det = tr A", float(a.trace()), float(log_det[0]), tolerance, because)
        truth = torch.distributions.MultivariateNormal(x.new_zeros(3), precision_matrix=whole.t() @ whole)
        error = float((model._log_prob(x, None, Rng.seeded(0)) - truth.log_prob(x)).abs().max())
        yield Known("continuous, linear field: largest error of a Gaussian's log p", 0.0, error, 10 * tolerance, because)

    model = scrambled(ContinuousFlow(layers=2, hidden=(8,), tolerance=1e-11), DataSpec("points", (3,), condition_dim=2), 1)
    c = torch.randn(20, 2, generator=generator, dtype=torch.float64)
    with torch.enable_grad():
        at = x[:4].clone().requires_grad_()
        z, log_det = model.flow(at, c[:4])
        rows = [torch.autograd.grad(z[:, i].sum(), at, retain_graph=True)[0] for i in range(3)]
    error = float((torch.linalg.slogdet(torch.stack(rows, 1))[1] - log_det).detach().abs().max())
    yield Known("continuous: largest error of log-dets, autograd's as truth", 0.0, error, 1e-8, "1e-11 in each of some ten steps")

    with torch.no_grad():
        many, given = x[:1].repeat(4000, 1), c[:1].repeat(4000, 1)
        log_det = model.flow(x[:1], c[:1])[1]
        model.trace = "hutchinson"
        drawn = model._transport(many, given, Rng.seeded(3, x))[1]
        error = 4 * float(drawn.std()) / len(drawn) ** 0.5
        yield Known("continuous: mean of Hutchinson's log-dets", float(log_det[0]), float(drawn.mean()), error, "4 standard errors")

        model = scrambled(ContinuousFlow(hidden=(8,)), DataSpec("points", (2,)), 2)
        coarse, fine = mass(model, 10.0, 60), mass(model, 10.0, 120)
        because = f"midpoint rule, halving the cell changed it by {abs(fine - coarse):.0e}"
        yield Known("continuous: density integrates to 1", 1.0, fine, max(1e-6, abs(fine - coarse)), because)

        model = scrambled(ContinuousFlow(hidden=(8,)), DataSpec("points", (4,), condition_dim=2), 3, 0.1)
        x = torch.randn(40, 4, generator=generator, dtype=torch.float64)
        x[20:] *= 50 / x[20:].norm(dim=1, keepdim=True)
        yield from far_answers(model, x, torch.randn(40, 2, generator=generator, dtype=torch.float64))


def _continuous(model: ContinuousFlow) -> _Continuous:
    """Its first field."""
    return next(f for f in model.flow.layers if isinstance(f, _Continuous))
