r"""Glow: an invertible network for images, from levels to standard normal codes scale by scale, with an exact inverse.

With y the image made continuous, z = f(y; c) and phi the standard normal density in D dimensions,

    log p(y | c) = log phi(f(y; c)) + log|det df/dy|,        y = f^{-1}(z; c),   z ~ N(0, I).

f works on images throughout: blocks of pixels become channels, channels are mixed, and half of them move by a map that a convolutional
net makes of the other half; then half leave as codes, given those that go on, which are squeezed again (`bijections.MultiScale`).

Levels become continuous by uniform noise, or by noise that is fitted (`dequantised`): log p is then a bound.
"""

import math
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from ...bijections import Bijection, Compose
from ...bijections.image import ImageCoupling
from ...bijections.multiscale import MultiScale
from ...bijections.variational import VariationalNoise
from ...data import Data
from ...data.spec import BINARY, REAL, DataSpec
from ...errors import ConfigError
from ...known import Known
from ...rng import Rng
from ...train import Training
from .dequantised import START, Dequantisation, DequantisedFlow

__all__ = ["Glow"]

NOISE_STEPS = 4
"""Checkerboard couplings of the flow of noise in variational dequantisation."""


class Glow(DequantisedFlow):
    """Multi-scale flow of images with invertible 1x1 convolutions: exact codes, exact inverse, parallel sampling.

    Source: Kingma and Dhariwal, Glow: Generative Flow with Invertible 1x1 Convolutions (2018); Dinh, Sohl-Dickstein and Bengio, Density
    estimation using Real NVP (2017), for `style="realnvp"`; Ho, Chen, Srinivas, Duan and Abbeel, Flow++ (2019), for
    `dequantisation="variational"`.

    Sides are halved where they are even and left where they are odd, so images of any size go, without padding.

    Parameters
    ----------
    scales
        Scales of the multi-scale architecture. None takes as many as the sides allow, at most 3, as Glow on CIFAR-10 (28 x 28: 14 and 7;
        32 x 32: 16, 8 and 4).
    steps
        Steps of flow at each scale. Glow takes 32 on CIFAR-10, for days of 8 GPUs; 4 are for minutes of one core.
    channels
        Width of the couplings' residual nets (Glow: 512).
    blocks
        Residual blocks of each coupling's net.
    style
        `glow`: actnorm, invertible 1x1 convolutions, split priors given what goes on. `realnvp`: couplings by checkerboards and channels,
        and codes that leave as they are.
    dequantisation
        How levels are made continuous: by `uniform` noise, or by noise from a flow given the image, `variational`. Continuous images need
        none.
    positions
        Whether the nets know where in the image they are, by learned numbers for each position; off for textures.
    max_log_scale
        Largest log-scale of one coupling, in nats; bounds the growth of rounding errors.
    alpha
        Squeeze of bounded entries before the logit, keeping its ends finite (Dinh et al., section 4.1).
    """

    name = "glow"
    flow: MultiScale
    training = Training(lr=3e-3, batch_size=64, schedule="cosine", clip=10.0)

    def __init__(
        self,
        scales: int | None = None,
        steps: int = 4,
        channels: int = 32,
        blocks: int = 1,
        style: Literal["glow", "realnvp"] = "glow",
        dequantisation: Dequantisation = "uniform",
        positions: bool = True,
        max_log_scale: float = 1.0,
        alpha: float = 0.05,
    ):
        super().__init__()
        self.scales, self.steps, self.channels, self.blocks, self.positions = scales, steps, channels, blocks, positions
        self.style: Literal["glow", "realnvp"] = style
        self.dequantisation = dequantisation
        self.max_log_scale, self.alpha = max_log_scale, alpha

    @classmethod
    def accepts(cls, spec: DataSpec) -> str | None:
        if spec.kind == "image" and spec.dim > 1:
            return None
        return f"Glow models images (C, H, W) of two entries or more, not {spec}. Use realnvp or spline, which take vectors."

    def _build(self, spec: DataSpec) -> None:
        for name in ("steps", "channels"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if self.style not in ("glow", "realnvp"):
            raise ConfigError(f"style must be one of glow, realnvp, got {self.style!r}.")
        net = {"channels": self.channels, "blocks": self.blocks, "positions": self.positions, "max_log_scale": self.max_log_scale}

        def noise() -> Bijection:
            given = spec.shape[0] + spec.condition_dim
            return Compose([ImageCoupling(spec.shape, given, "checkerboard", i % 2 == 1, **net) for i in range(NOISE_STEPS)])

        self.flow = MultiScale(spec.shape, spec.condition_dim, self.scales, self.steps, self.style, **net)
        self._make_continuous(spec, noise)

    @torch.no_grad()
    def _prepare(self, data: Data, seed: int) -> None:
        """Actnorm's scales and shifts, from training records; a loaded or resumed model has them in its weights."""
        assert self.spec is not None
        rng = Rng.seeded(seed, self.flow(torch.zeros(1, self.spec.dim, dtype=self.dtype, device=self.device))[0])
        x, c = data.train.batch(torch.randperm(len(data.train), generator=rng.generator)[:START], rng)
        c = c if self.spec.condition_dim else None
        self.flow.start(self._continuous(x, c, rng)[0], c)

    def _draw_noise(self, noise: VariationalNoise, x: Tensor, c: Tensor | None, rng: Rng) -> tuple[Tensor, Tensor]:
        u, log_q = noise(rng.randn(*x.shape), self._context(x, c))
        return u.flatten(1), log_q

    def _context(self, x: Tensor, c: Tensor | None) -> Tensor:
        """What the noise is told of its record, as planes: the image scaled to [-1, 1], and the condition everywhere alike."""
        seen = x * (2 / (self.dequantise.size.view(x.shape[1:]) - 1).clamp(min=1)) - 1
        return seen if c is None else torch.cat([seen, c[:, :, None, None].expand(-1, -1, *x.shape[2:])], 1)

    def _sample(self, n: int, c: Tensor | None, rng: Rng, *, temperature: float = 1.0) -> Tensor:
        """Images at codes from N(0, T^2 I): T = 1 samples the model, less gives plainer images (Kingma & Dhariwal: 0.7)."""
        assert self.spec is not None
        if temperature < 0:
            raise ConfigError(f"temperature must be 0 or more, got {temperature}.")
        return self._decode(temperature * rng.randn(n, self.spec.dim), c)


# -- known answers ------------------------------------------------------------------------------------------------------------


def _scrambled(model: Glow, spec: DataSpec, seed: int, scale: float = 0.1) -> Glow:
    """A float64 flow far from its start: weights moved by noise, so that no term vanishes."""
    model.build(spec, seed=seed).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            # The flow of noise less: as a proposal it must stay wide enough for the weights p / q to have a variance.
            p.add_((0.2 if name.startswith("noise.") else 1.0) * scale * torch.randn(p.shape, generator=generator, dtype=p.dtype))
    return model


def _mass(model: Glow, half: float, n: int) -> float:
    """The density of images of two real pixels, summed by the midpoint rule on n x n cells of [-half, half]^2."""
    h = 2 * half / n
    axis = -half + h * (torch.arange(n, dtype=torch.float64) + 0.5)
    x = torch.cartesian_prod(axis, axis).view(-1, 1, 1, 2)
    return sum(float(model._log_prob(part, None, Rng.seeded(0)).exp().sum()) for part in x.split(20_000)) * h * h


def known_answers() -> Iterator[Known]:
    """Densities that integrate to one, log-determinants, a Gaussian, and the probabilities of all images of four binary pixels."""
    two = DataSpec("image", (1, 1, 2), (REAL,))
    for style in ("glow", "realnvp"):
        model = _scrambled(Glow(steps=1, channels=8, style=style), two, 0)
        with torch.no_grad():
            coarse, fine = _mass(model, 8.0, 80), _mass(model, 8.0, 160)
        # Smooth but for the kinks of rectifiers: halving the cell must change more than what error remains, up to 1e-5 at the kinks.
        because = f"midpoint rule, halving the cell changed it by {abs(fine - coarse):.0e}"
        yield Known(f"glow, {style}: density of two pixels integrates to 1", 1.0, fine, abs(fine - coarse) + 1e-5, because)

        model = _scrambled(Glow(steps=2, channels=8, style=style), DataSpec("image", (1, 8, 8), (REAL,)), 1)
        x = torch.randn(64, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        jacobian = torch.autograd.functional.jacobian(lambda x, f=model.flow: f(x[None])[0][0], x)
        assert isinstance(jacobian, Tensor)
        ours, theirs = float(model.flow(x[None])[1].detach()), float(torch.linalg.slogdet(jacobian)[1])
        yield Known(f"glow, {style}: log-det = autograd's", theirs, ours, 1e-8, "float64 rounding, 64 x 64 matrix, two scales")
    yield from _gaussian()
    yield _noise()
    yield from _all_images()


def _gaussian() -> Iterator[Known]:
    """Couplings of zero weights leave an affine map z = A x + b: the density must be that of N(-A^-1 b, (A^T A)^-1)."""
    model = _scrambled(Glow(steps=2, channels=4), DataSpec("image", (2, 4, 4), (REAL,)), 2)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if ".net." in name:
                p.zero_()
        origin = model.flow(torch.zeros(1, 32, dtype=torch.float64))[0][0]
        a = (model.flow(torch.eye(32, dtype=torch.float64))[0] - origin).t()
        truth = torch.distributions.MultivariateNormal(-torch.linalg.solve(a, origin), precision_matrix=a.t() @ a)
        z = torch.randn(4000, 32, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
        x = torch.linalg.solve(a, (z - origin).t()).t()
        ours, exact = model._log_prob(x.view(-1, 2, 4, 4), None, Rng.seeded(0)), truth.log_prob(x)
        yield Known(
            "glow set to a Gaussian: largest error of log p", 0.0, float((ours - exact).abs().max()), 1e-9, "float64 rounding, 32 x 32"
        )
        mean, error = float(ours.mean()), 4 * float(ours.std()) / math.sqrt(len(x))
        yield Known("glow set to a Gaussian: mean log p = -entropy", -float(truth.entropy()), mean, error, "4 standard errors")


def _noise() -> Known:
    """log q(u | x) of the fitted noise: u is a function of e ~ N(0, I), whose Jacobian autograd knows."""
    model = _scrambled(Glow(steps=1, channels=8, dequantisation="variational"), DataSpec("image", (1, 2, 3), (BINARY,)), 4, 0.5)
    assert model.noise is not None
    noise, seen = model.noise, torch.tensor([[[[1.0, -1.0, 1.0], [1.0, 1.0, -1.0]]]], dtype=torch.float64)
    e = torch.randn(6, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda e: noise(e.view(1, 1, 2, 3), seen)[0].flatten(), e)
    assert isinstance(jacobian, Tensor)
    log_base = -0.5 * float(e.square().sum()) - 3 * math.log(2 * math.pi)
    known = log_base - float(torch.linalg.slogdet(jacobian)[1])
    ours = float(noise(e.view(1, 1, 2, 3), seen)[1].detach())
    return Known("glow: log q of the fitted noise = autograd's", known, ours, 1e-8, "float64 rounding, 6 x 6 matrix")


def _all_images(draws: int = 4000) -> Iterator[Known]:
    """Importance sampling over the noise: without a squeeze the cells fill the space, so the 16 probabilities sum to 1."""
    x = torch.cartesian_prod(*[torch.arange(2, dtype=torch.float64)] * 4).view(16, 1, 2, 2)
    for dequantisation in ("uniform", "variational"):
        model = _scrambled(Glow(steps=2, channels=8, dequantisation=dequantisation, alpha=0.0), DataSpec("image", (1, 2, 2), (BINARY,)), 4)
        with torch.no_grad():
            records = x.repeat(draws, 1, 1, 1)
            p = model._log_prob(records, None, Rng.seeded(5, records)).view(draws, 16).exp()
        error = float((p.var(0).sum() / draws).sqrt())
        yield Known(f"glow, {dequantisation} noise: 16 probabilities sum to 1", 1.0, float(p.mean(0).sum()), 4 * error, "4 standard errors")
        # What the model draws is what it says: the share of each image among its samples against its probability.
        n = 20_000
        with torch.no_grad():
            drawn = model._sample(n, None, Rng.seeded(6, x)).flatten(1) @ torch.tensor([8.0, 4.0, 2.0, 1.0], dtype=torch.float64)
        share = torch.bincount(drawn.long(), minlength=16) / n
        sd = (p.var(0) / draws + share * (1 - share) / n).sqrt()
        worst = float(((share - p.mean(0)) / sd).abs().max())
        yield Known(
            f"glow, {dequantisation} noise: samples against probabilities, in sd", 0.0, worst, 4.5, "16 normal deviates, 1e-4 of a miss"
        )
