r"""PixelCNN++ (Salimans, Karpathy, Chen & Kingma 2017): whole pixels by a mixture whose channels follow one another linearly."""

import itertools
import math
from collections.abc import Iterator

import torch
from torch import Tensor

from ...data.features import Features
from ...data.spec import BINARY, DataSpec, levels
from ...known import Known
from ...likelihoods import Bernoulli, DiscretisedLogistic
from ...nn.pixelcnnpp import PixelCNNPPNetwork
from ...rng import Rng
from ...train import Batch, Loss, Objective, Training
from .particles import Particles
from .pixels import RasterModel, refusal
from .sequential import ROUNDING, UNSUPPORTED, check_temperature, enumerated, pick, roughened

__all__ = ["PixelCNNPP"]


class PixelCNNPP(RasterModel):
    r"""PixelCNN++: log p(x | c) = sum over pixels of log sum_k pi_k prod_g p_k(x_g | x_{<g}), exactly; pi and p_k from all pixels before.

    The network sees whole pixels. Within one, a member k of the mixture draws channel g from a discretised logistic whose mean is moved by
    the channels before it,

        mu_{kg} = m_{kg} + sum_{h<g} tanh(a_{kgh}) y_h,     y = the channels scaled to [-1, 1]

    (the paper's equation 3). So 256 levels cost 2 parameters a member, not 256, and near levels share what is learned. Binary pixels have a
    Bernoulli in place of the logistic, its logit moved in the same way. Dropout and weight normalisation are left out.

    Reference: Salimans, Karpathy, Chen, Kingma 2017, PixelCNN++, sections 2.1 to 2.4 and figure 2.

    Parameters
    ----------
    channels
        Features of each stream. Default: 48 for images of at least 16x16, else 24 (the paper's 160 are for eight GPUs).
    blocks
        Gated residual blocks of each stream at each resolution, on the way down and again on the way up. Default 2 (the paper: 5).
    resolutions
        Resolutions, each half of the one before. Default: 3, as in the paper, for images of at least 16x16, else 2.
    components
        Members K of the mixture. Default 10, as in the paper's code. One for binary pixels of one channel, for which more say no more.
    """

    name = "pixelcnnpp"
    density = "exact"
    training = Training(lr=1e-3, batch_size=64, ema=0.995, schedule="cosine", clip=1.0)
    unsupported = UNSUPPORTED

    def __init__(self, *, channels: int | None = None, blocks: int = 2, resolutions: int | None = None, components: int = 10):
        super().__init__()
        self.channels, self.blocks, self.resolutions, self.components = channels, blocks, resolutions, components

    @classmethod
    def accepts(cls, spec: DataSpec) -> str | None:
        return refusal("PixelCNN++", spec, ("binary", "levels"))

    def _build(self, spec: DataSpec) -> None:
        self.nfe = spec.dim
        C, H, W = spec.shape
        k = spec.supports[0].size
        assert k is not None
        self.family = Bernoulli() if spec.supports[0] == BINARY else DiscretisedLogistic(k)
        self.values = torch.arange(k)
        self.K = 1 if C == 1 and spec.supports[0] == BINARY else self.components
        self.features = Features(spec)
        channels, resolutions = (48, 3) if min(H, W) >= 16 else (24, 2)
        channels, resolutions = self.channels or channels, self.resolutions or resolutions
        each = 1 + C * self.family.n_params + C * (C - 1) // 2
        self.net = PixelCNNPPNetwork(C, self.K * each, channels, self.blocks, resolutions, spec.condition_dim)

    def _objectives(self) -> tuple[Objective, ...]:
        return (Objective("nll", (self.net,), self._loss),)

    def _loss(self, batch: Batch) -> Loss:
        return Loss(-self._log_probs(batch.x, batch.c))

    def _parts(self, params: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """log pi (..., K), the family's parameters (..., K, C, P), and tanh(a) (..., K, pairs of channels)."""
        assert self.spec is not None
        C, K, P = self.spec.shape[0], self.K, self.family.n_params
        logits, theta, a = params.split((K, K * C * P, K * (C * (C - 1) // 2)), -1)
        theta = theta.unflatten(-1, (K, C, P))
        if K > 1:
            # Members that start equal stay nearly equal: means are counted from the quantiles of N(0, 1/4), over the range of the levels.
            at = torch.special.ndtri((torch.arange(K, dtype=params.dtype, device=params.device) + 0.5) / K) / 2
            theta = torch.cat([theta[..., :1] + at[:, None, None], theta[..., 1:]], -1)
        return logits.log_softmax(-1), theta, a.unflatten(-1, (K, -1)).tanh() if C > 1 else a

    def _channel(self, g: int, theta: Tensor, a: Tensor, y: Tensor) -> Tensor:
        """Parameters (..., K, P) of channel g given those before it, y (..., C)."""
        first = g * (g - 1) // 2
        if g == 0:
            return theta[..., 0, :]
        moved = (a[..., first : first + g] * y[..., None, :g]).sum(-1, keepdim=True)
        return torch.cat([theta[..., g, :1] + moved, theta[..., g, 1:]], -1)

    def _log_probs(self, x: Tensor, c: Tensor | None) -> Tensor:
        y = self.features.encode(x)
        log_pi, theta, a = self._parts(self.net(y, c))
        y, values = y.permute(0, 2, 3, 1), x.permute(0, 2, 3, 1)
        each = [self.family.log_prob(self._channel(g, theta, a, y), values[..., g, None]) for g in range(x.shape[1])]
        return torch.logsumexp(log_pi + torch.stack(each).sum(0), -1).flatten(1).sum(1)

    def _log_prob(self, x: Tensor, c: Tensor | None, rng: Rng) -> Tensor:
        parts = torch.arange(len(x)).split(64)  # small activations stay in the cache
        return torch.cat([self._log_probs(x[at], None if c is None else c[at]) for at in parts])

    def _drawn(
        self,
        u: Tensor,
        given: Tensor | None,
        known: Tensor,
        c: Tensor | None,
        temperature: float,
        incremental: bool,
        swarm: Particles | None = None,
    ) -> Tensor:
        """Each entry at which its cumulative probabilities pass u, or as `given` where known; the rows are those of a `swarm`, if any."""
        check_temperature(temperature)
        n, C, H, W = u.shape
        x, values = torch.zeros_like(u), self.values.to(u)

        def choose(i: int, j: int, params: Tensor) -> Tensor:
            log_w, theta, a = self._parts(params)
            y = u.new_zeros(n, C)
            for g in range(C):
                of = self._channel(g, theta, a, y)
                # p(x_g | x_{<g}) is a mixture too, its weights pi_k times what member k gave the channels before: (n, values).
                each = self.family.log_prob(of[:, None], values[:, None])
                logits = torch.logsumexp(log_w[:, None] + each, -1)
                if given is None or not known[g, i, j]:
                    x[:, g, i, j] = pick(logits.T, u[:, g, i, j], temperature)
                else:
                    x[:, g, i, j] = given[:, g, i, j]
                    p = logits.log_softmax(1).gather(1, x[:, g, i, j].long()[:, None])[:, 0]
                    index = None if swarm is None else swarm.weigh(p, x)
                    if index is not None:
                        log_w, theta, a, y, each = log_w[index], theta[index], a[index], y[index], each[index]
                log_w = log_w + each.gather(1, x[:, g, i, j].long()[:, None, None].expand(-1, 1, self.K))[:, 0]
                y[:, g] = self.features.encode(x[:, g : g + 1, i, j])[:, 0]
            return y

        if incremental:
            self.net.incremental(n, (H, W), c, choose, None if swarm is None else swarm.moved)
        else:
            for i, j in itertools.product(range(H), range(W)):
                choose(i, j, self.net(self.features.encode(x), c)[:, i, j])
        return x


def known_answers() -> Iterator[Known]:
    """Probabilities that sum to 1, and one pixel of three channels by the paper's equation 3 written out."""
    pixels, small = DataSpec("image", (1, 3, 4), (BINARY,)), {"channels": 6, "blocks": 1}
    cases: list[tuple[str, PixelCNNPP, DataSpec]] = [
        ("PixelCNN++, 2^12 binary 3x4 images", PixelCNNPP(**small), pixels),
        ("PixelCNN++ given c, 2^12 binary 3x4 images", PixelCNNPP(**small, resolutions=3), pixels.with_condition(2)),
        ("PixelCNN++, 2^12 colour 2x2 images", PixelCNNPP(**small, components=3), DataSpec("image", (3, 2, 2), (BINARY,))),
        ("PixelCNN++, 3^6 images of levels(3)", PixelCNNPP(**small, components=3), DataSpec("image", (1, 2, 3), (levels(3),))),
        ("PixelCNN++, 17^3 colours of a pixel", PixelCNNPP(**small, components=3), DataSpec("image", (3, 1, 1), (levels(17),))),
    ]
    for what, model, spec in cases:
        total = float(enumerated(roughened(model, spec, 1.5))[1].exp().sum())
        yield Known(f"{what}: probabilities sum to 1", 1.0, total, 1e-11, ROUNDING)
    yield _equation_3()


@torch.no_grad()
def _equation_3() -> Known:
    """One pixel (r, g, b) of 256 levels under one member, with round numbers for the parameters."""
    model = PixelCNNPP(channels=4, blocks=1, resolutions=1, components=1).build(DataSpec("image", (3, 1, 1), (levels(256),))).double()
    m, log_s, a = (0.1, -0.3, 0.2), (-2.0, -1.5, -2.5), (0.4, -0.7, 1.1)
    model.net.head.weight.zero_()
    numbers = [0.0, *itertools.chain(*zip(m, log_s, strict=True)), *a]
    assert model.net.head.bias is not None
    model.net.head.bias.copy_(torch.tensor(numbers, dtype=torch.float64))
    x = (150, 90, 140)
    r, g, b = (v / 127.5 - 1 for v in x)
    alpha, beta, gamma = map(math.tanh, a)
    means = (m[0], m[1] + alpha * r, m[2] + beta * r + gamma * g)
    floored = [-7 + math.log1p(math.exp(s + 7)) for s in log_s]
    total = 0.0
    for y, mean, s in zip((r, g, b), means, floored, strict=True):
        ends = [1 / (1 + math.exp(-(y + side / 255 - mean) / math.exp(s))) for side in (1, -1)]
        total += math.log(ends[0] - ends[1])
    ours = float(model._log_prob(torch.tensor(x, dtype=torch.float64).view(1, 3, 1, 1), None, Rng.seeded(0)))
    because = "Differences of two sigmoids near 0.01 lose two digits: 1e-13; the rest is rounding."
    return Known("PixelCNN++, a colour by equation 3 written out", total, ours, 1e-10, because)
