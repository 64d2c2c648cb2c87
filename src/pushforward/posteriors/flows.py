r"""Posteriors made by flows: z_0 ~ N(mu, diag sigma^2), z_t = f_t(z_{t-1}), log q(z_T) = log q(z_0) - sum_t log |det f_t'|.

Drawing and the density of what was drawn cost one pass. The density of any other code needs z_0: planar flows are inverted by a search
along one direction, autoregressive ones entry by entry; exact to rounding, but slower, and without gradients to learn from.
"""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution

from ..likelihoods import HALF_LOG_2PI
from ..nn.masked import MaskedMLP
from ..rng import Rng
from .base import Draws, Posterior, normal_log_prob

__all__ = ["FlowDistribution", "InverseAutoregressive", "Planar"]

BISECTIONS = 80
"""Halvings of the interval of a planar flow's inverse: from a width of 1e8 to below rounding of double precision."""


class _Flow(Posterior):
    """What flows share: a diagonal Gaussian that they start from, in the first 2 d parameters."""

    evaluates = False

    def __init__(self, dim: int, layers: int):
        super().__init__(dim)
        self.layers = layers

    @abstractmethod
    def push(self, params: Tensor, z: Float[Tensor, "B S d"]) -> tuple[Tensor, Tensor]:
        """z_0 -> (z_T, sum_t log |det|), shapes (B, S, d) and (B, S)."""

    @abstractmethod
    def pull(self, params: Tensor, z: Float[Tensor, "B S d"]) -> Tensor:
        """z_T -> z_0."""

    def draw(self, params: Tensor, samples: int, rng: Rng, *, strata: bool = False) -> Draws:
        mu, log_var = params[:, : self.dim], params[:, self.dim : 2 * self.dim]
        eps = rng.randn(len(mu), samples, self.dim)
        log_q = (-0.5 * eps.square()).sum(2) - (0.5 * log_var.sum(1) + self.dim * HALF_LOG_2PI)[:, None]
        z, log_det = self.push(params, mu[:, None] + torch.exp(0.5 * log_var)[:, None] * eps)
        return Draws(z, log_q - log_det)

    @torch.no_grad()
    def log_prob(self, params: Tensor, z: Tensor) -> Tensor:
        start = self.pull(params, z)
        mu, log_var = params[:, None, : self.dim], params[:, None, self.dim : 2 * self.dim]
        return normal_log_prob(start, mu, log_var) - self.push(params, start)[1]

    def centre(self, params: Tensor) -> Tensor:
        return self.push(params, params[:, None, : self.dim])[0][:, 0]

    def distribution(self, params: Tensor) -> Distribution:
        return FlowDistribution(self, params)


class Planar(_Flow):
    r"""z + u tanh(w . z + b), `layers` times; the encoder gives each layer's u, w, b (Rezende & Mohamed 2015, equations 10 to 12).

    Each layer is invertible where w . u > -1, which their appendix A.1 enforces by u + (m(w . u) - w . u) w / |w|^2 with
    m(x) = log(1 + e^x) - 1. That is singular at w = 0, where an encoder starts; m(x) = log(1 + (e - 1) e^x) - 1 has m(0) = 0, which makes
    it smooth.
    """

    name = "planar"

    def __init__(self, dim: int, layers: int):
        super().__init__(dim, layers)
        self.n_params = 2 * dim + layers * (2 * dim + 1)

    def parts(self, params: Tensor) -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
        """(u, w, b, w . u) of each layer, u already such that w . u > -1; shapes (B, d), (B, d), (B,), (B,)."""
        found = []
        for own in params[:, 2 * self.dim :].chunk(self.layers, 1):
            u, w, b = own.split([self.dim, self.dim, 1], 1)
            inner = (u * w).sum(1, keepdim=True)
            wanted = F.softplus(inner + _LOG_E_MINUS_1) - 1.0
            u = u + (wanted - inner) * w / (w.square().sum(1, keepdim=True) + 1e-12)
            found.append((u, w, b[:, 0], (u * w).sum(1)))
        return found

    def push(self, params: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        log_det = z.new_zeros(z.shape[:2])
        for u, w, b, inner in self.parts(params):
            h = torch.tanh((z * w[:, None]).sum(2) + b[:, None])
            log_det = log_det + torch.log1p((1 - h.square()) * inner[:, None])
            z = z + u[:, None] * h[:, :, None]
        return z, log_det

    def pull(self, params: Tensor, z: Tensor) -> Tensor:
        for u, w, b, inner in reversed(self.parts(params)):
            # a = w . z solves a + (w . u) tanh(a + b) = w . y, whose left side rises with a: within |w . u| of w . y.
            wanted = (z * w[:, None]).sum(2)
            low, high = wanted - inner.abs()[:, None], wanted + inner.abs()[:, None]
            for _ in range(BISECTIONS):
                a = 0.5 * (low + high)
                below = a + inner[:, None] * torch.tanh(a + b[:, None]) < wanted
                low, high = torch.where(below, a, low), torch.where(below, high, a)
            z = z - u[:, None] * torch.tanh(0.5 * (low + high) + b[:, None])[:, :, None]
        return z

    def initial(self, n: int) -> Tensor:
        # At u = w = 0 each is the other's derivative's factor, and neither would move.
        start = 0.1 * torch.randn(self.n_params - 2 * self.dim, generator=torch.Generator().manual_seed(0))
        return torch.cat([torch.zeros(2 * self.dim), start]).expand(n, -1)


class InverseAutoregressive(_Flow):
    r"""z_i <- s_i z_i + (1 - s_i) m_i, (m_i, s_i) functions of z_{<i} and the encoder's context (Kingma et al. 2016, equations 13, 14).

    log |det| = sum_i log s_i, s = sigmoid(raw + 2): a layer begins near the identity. The order of the entries is reversed from layer to
    layer. Each layer is a MADE of one hidden layer of `max(64, 4 d)` units; the context has d numbers.
    """

    name = "iaf"

    def __init__(self, dim: int, layers: int):
        super().__init__(dim, layers)
        self.n_params = 3 * dim
        hidden = (max(64, 4 * dim),)
        nets = [MaskedMLP([1] * dim, [2] * dim, hidden, condition_dim=dim) for _ in range(layers)]
        for net in nets:
            with torch.no_grad():
                for p in net.out.parameters():
                    p.mul_(0.1)
        self.nets = nn.ModuleList(nets)

    def _context(self, params: Tensor, z: Tensor) -> Tensor:
        return params[:, None, 2 * self.dim :].expand(-1, z.shape[1], -1).flatten(0, 1)

    @staticmethod
    def _gate(net: Any, z: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """(m, raw s), each (N, d)."""
        out = net(z, context).unflatten(1, (-1, 2))
        return out[..., 0], out[..., 1] + 2.0

    def push(self, params: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        context, flat = self._context(params, z), z.flatten(0, 1)
        log_det = flat.new_zeros(len(flat))
        for net in self.nets:
            m, raw = self._gate(net, flat, context)
            s = torch.sigmoid(raw)
            flat = (s * flat + (1 - s) * m).flip(1)
            log_det = log_det + F.logsigmoid(raw).sum(1)
        return flat.view_as(z), log_det.view(z.shape[:2])

    def pull(self, params: Tensor, z: Tensor) -> Tensor:
        context, flat = self._context(params, z), z.flatten(0, 1)
        for net in reversed(self.nets):
            y, x = flat.flip(1), torch.zeros_like(flat)
            for i in range(self.dim):  # entry i of x needs the entries before it
                m, raw = self._gate(net, x, context)
                s = torch.sigmoid(raw[:, i]).clamp_min(1e-12)  # codes that far out have density 0, not NaN
                x[:, i] = (y[:, i] - (1 - s) * m[:, i]) / s
            flat = x
        return flat.view_as(z)


class FlowDistribution(Distribution):
    """q(z | x) of a flow: `rsample`, `sample`, and `log_prob` by inversion. Its mean has no formula.

    Draws come from torch's global generator, as those of every torch distribution.
    """

    arg_constraints = {}  # pyright: ignore
    has_rsample = True  # pyright: ignore[reportIncompatibleVariableOverride, reportAssignmentType]

    def __init__(self, flow: _Flow, params: Float[Tensor, "B P"]):
        self.flow, self.params = flow, params
        super().__init__(torch.Size([len(params)]), torch.Size([flow.dim]), validate_args=False)

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Codes of shape (*sample_shape, B, d)."""
        shape = torch.Size(sample_shape)
        generator = torch.Generator().manual_seed(int(torch.randint(2**62, ()).item()))
        z = self.flow.draw(self.params, shape.numel(), Rng(generator, self.params.device, self.params.dtype)).z
        return z.transpose(0, 1).reshape(*shape, *self.batch_shape, self.flow.dim)

    def log_prob(self, value: Tensor) -> Tensor:
        """log q of codes (*S, B, d), (*S, B)."""
        B, d = len(self.params), self.flow.dim
        value = value.expand(torch.broadcast_shapes(value.shape, (B, d)))
        flat = value.reshape(-1, B, d).transpose(0, 1)
        return self.flow.log_prob(self.params, flat).T.reshape(value.shape[:-1])


_LOG_E_MINUS_1 = 0.5413248546129181
