r"""Denoising diffusion: a network learns to undo a little noise, and sampling undoes it all.

Features f of a record fade into noise, z_t = alpha_t f + sigma_t eps, t = 1 .. T (`pushforward.noise`); a network that sees (z_t, t)
gives the expected features x_hat(z_t, t); the generative model is the chain

    p(z_T) = N(0, I),   p(z_s | z_t) = N(mu(z_t, x_hat(z_t, t)), v or beta_t)  for s = t - 1 >= 1,   p(x | z_1),

with mu and v those of q(z_s | z_t, x) (`pushforward.samplers`), and its evidence lower bound, in nats (Ho et al. 2020, equation 5):

    log p(x) >= -KL(q(z_T | x) || N(0, I))                                          L_T
                - sum_{t=2..T} E_eps KL(q(z_s | z_t, x) || p(z_s | z_t))            L_{t-1} = w_t |f - x_hat|^2 + constant
                + E_eps log p(x | z_1)                                              L_0

where w_t = (SNR(t-1) - SNR(t)) / 2 and the constant is 0 when the variance is v.

p(x | z_1) is centred on x_hat(z_1, 1) with variance beta_1 = sigma_1^2. On finite supports it is normalised over the values that exist,
p(v) proportional to exp(-|f(v) - x_hat|^2 / (2 beta_1)), a proper probability; on `unit` it is a Gaussian truncated to [0, 1], on `real`
a Gaussian. Expected features of bounded entries are clamped to [-1, 1], where the features are: part of the model, so that the bound and
the samples agree.
"""

import math
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor, nn

from ...data.features import Features
from ...data.spec import REAL, DataSpec, categories, levels
from ...errors import ConfigError, nearest
from ...known import Known
from ...model import GradientModel
from ...nn.denoiser import MLPDenoiser
from ...nn.unet import UNet
from ...noise import Parametrisation, Schedule, cosine, implied, linear, predicted_x, target
from ...objective import Batch, Loss, Objective, Training
from ...rng import Rng
from ...samplers import Denoise, ancestral, ddim, ddim_inverse, time_grid
from .entries import Entries

__all__ = ["DDPM"]

SCHEDULES = {"linear": linear, "cosine": cosine}
FEW = 16
"""Records of at most so many features are shown to the MLP as sinusoids too."""
CACHE = 2**16
"""Entries that the network sees at a time on a CPU: 512 images of 28 x 28 at once took 1.7 times as long for each as 64 did."""
TINY = 144
"""Images with at most so many pixels (12 x 12) get the MLP, which learns them several times faster on a CPU."""


class DDPM(GradientModel):
    """Denoising diffusion probabilistic model (Ho, Jain & Abbeel 2020).

    `log_prob` is a lower bound, and itself estimated: L_T is exact, L_0 uses one draw of z_1, and of the T - 1 terms L_{t-1} `samples`
    are drawn at stratified times, so a record's figure scatters about its bound (unbiased). `encode` runs the deterministic DDIM
    sampler backwards.

    Parameters
    ----------
    timesteps
        T, the number of noise levels (Ho et al. 2020: 1000).
    schedule
        How the noise grows: `"linear"` in beta (Ho et al. 2020), or `"cosine"` (Nichol & Dhariwal 2021), which destroys more slowly.
    parametrisation
        What the network predicts: the noise (Ho et al. 2020), the clean features, or v (Salimans & Ho 2022; well conditioned at both ends).
        Training minimises its mean squared error, so each choice weights the noise levels differently. `"epsilon"` with the cosine
        schedule and few sampling steps is ill-conditioned on unbounded data, because alpha_T is nearly 0.
    sampler
        `"ancestral"` (Ho et al. 2020, algorithm 2) or `"ddim"` (Song et al. 2021), which needs fewer steps for smooth data. On narrow modes
        ancestral steps are better: a classifier tells samples of the 25-Gaussian grid from data 52 % of the time, with DDIM 76 %.
    sampling_steps
        Network evaluations for a sample; evenly spaced times when fewer than T. More than 100 gained nothing in our trials.
    eta
        Fresh noise in DDIM: 0 deterministic, 1 as much as ancestral sampling.
    variance
        Of p(z_{t-1} | z_t): the posterior's v, exact for a known record; beta_t, exact for N(0, I) data (Ho et al. 2020, section 3.2);
        or by entry, v on finite supports and beta_t on real ones, where v makes the bound 0.4 nats looser for each entry (T = 1000).
    lattice
        Entries with 2 to 64 values: let the network's output tilt the prior of each, and Bayes' rule give its expected value through the
        noise (`pushforward.models.diffusion.entries`), so that low noise is undone exactly; `parametrisation` then only weights the loss.
        False is the plain method of the papers. Digits of 17 levels after a minute: 1.9 bits/dim with, 3.9 without.
    network
        `"mlp"`, `"unet"` (images only), `"auto"` (the U-Net for images above 144 pixels), or a module: `network(z, t, c)` with
        z (B, *features), t (B,) in (0, 1] and c (B, condition_dim) or None gives the prediction, shaped as z.
    width
        Hidden units of the MLP.
    blocks
        Residual blocks of the MLP, two layers each; for the U-Net, residual blocks a level.
    fourier
        Octaves of sinusoids that the MLP sees of each feature of small records (at most 16 features): fine detail such as separate narrow
        modes. The 25-Gaussian grid after 2,500 steps: -0.30 nats with 4, -2.43 with 0 (truth -0.09).
    channels
        Channels of the U-Net at the finest level.
    multipliers
        Channels of the U-Net's levels in units of `channels`; an image has as many levels as its size allows.
    attention
        Self-attention at the U-Net's coarsest level.
    """

    name = "ddpm"
    density = "bound"
    estimator = "the variational bound, its terms between drawn at 16 stratified times for each record"
    training = Training(lr=1e-3, ema=0.999, clip=1.0, schedule="cosine")

    noise: Schedule
    nu: Tensor

    def __init__(
        self,
        *,
        timesteps: int = 1000,
        schedule: Literal["linear", "cosine"] = "cosine",
        parametrisation: Parametrisation = "v",
        sampler: Literal["ancestral", "ddim"] = "ancestral",
        sampling_steps: int = 100,
        eta: float = 0.0,
        variance: Literal["auto", "posterior", "beta"] = "auto",
        lattice: bool = True,
        network: Literal["auto", "mlp", "unet"] | nn.Module = "auto",
        width: int = 256,
        blocks: int = 2,
        fourier: int = 4,
        channels: int = 32,
        multipliers: tuple[int, ...] = (1, 2, 2),
        attention: bool = False,
    ):
        super().__init__()
        self.parametrisation: Parametrisation = parametrisation
        self.timesteps, self.schedule, self.variance, self.lattice = timesteps, schedule, variance, lattice
        self.sampler, self.sampling_steps, self.eta = sampler, sampling_steps, eta
        self.nfe = sampling_steps
        self.network, self.width, self.blocks, self.fourier = network, width, blocks, fourier
        self.channels, self.multipliers, self.attention = channels, multipliers, attention
        time_grid(timesteps, sampling_steps)  # refuses an impossible number of steps now, not after training

    @classmethod
    def accepts(cls, spec: DataSpec) -> str | None:
        if spec.kind == "image" and any(s.name == "categories" for s in spec.supports):
            return "ddpm adds noise to ordered values, and categorical pixels have no order: give the image as levels, or as a table."
        return super().accepts(spec)

    def _build(self, spec: DataSpec) -> None:
        self.noise = SCHEDULES[self.schedule](self.timesteps)
        self.features = Features(spec)
        self.entries = Entries(self.features, self.lattice)
        finite = self.entries.finite
        nu = {"posterior": torch.zeros_like(finite), "beta": torch.ones_like(finite), "auto": 1 - finite}[self.variance]
        self.register_buffer("nu", nu, persistent=False)
        if not isinstance(self.network, nn.Module):
            self.denoiser = self._make_network(spec)

    def _make_network(self, spec: DataSpec) -> nn.Module:
        kind = self.network
        if kind == "auto":
            kind = "unet" if spec.kind == "image" and spec.shape[1] * spec.shape[2] > TINY else "mlp"
        if kind == "unet":
            if spec.kind != "image":
                raise ConfigError(f"network='unet' needs images (C, H, W), and these records are {spec}. Use network='mlp'.")
            return UNet(spec.shape, self.channels, self.multipliers, self.blocks, self.attention, spec.condition_dim)
        fourier = self.fourier if self.features.dim <= FEW else 0
        return MLPDenoiser(self.features.dim, self.width, self.blocks, spec.condition_dim, fourier=fourier)

    @property
    def _net(self) -> nn.Module:
        return self.network if isinstance(self.network, nn.Module) else self.denoiser

    # -- train --------------------------------------------------------------------------------------------------------

    def _objectives(self) -> tuple[Objective, ...]:
        return (Objective("denoiser", (self._net,), self._denoising_loss),)

    def _denoising_loss(self, batch: Batch) -> Loss:
        """Ho et al. 2020, algorithm 1: the squared error of the prediction at a random time, averaged over the D features."""
        x = self.features.encode(batch.x)
        t = self._low_discrepancy_times(batch)
        alpha, sigma = self.noise.at(t, x)
        eps = batch.rng.randn(*x.shape)
        z = alpha * x + sigma * eps
        output = self._net(z, t.to(x.dtype) / self.noise.T, batch.c)
        if self.entries.k:
            expected = self.entries.expected(output, z, alpha, sigma)
            output = torch.where(self.entries.on_lattice, implied(expected, z, alpha, sigma, self.parametrisation), output)
        error = (output - target(x, eps, alpha, sigma, self.parametrisation)).square().flatten(1).mean(1)
        return Loss(error, {f"mse {self.parametrisation}": error})

    def _low_discrepancy_times(self, batch: Batch) -> Tensor:
        """Times 1 .. T, even over the global batch from one random start, each uniform by itself (Kingma et al. 2021, appendix I.1)."""
        rng, B = batch.rng, len(batch)
        start, total = (rng.rows.start or 0, rng.total) if rng.rows is not None and rng.total else (0, B)
        u = Rng(rng.generator, rng.device, rng.dtype).rand(1)  # without rows: the same number in every process
        u = (u + (start + torch.arange(B, device=u.device)) / total) % 1.0
        return 1 + (u * self.noise.T).long().clamp(max=self.noise.T - 1)

    # -- sample -------------------------------------------------------------------------------------------------------

    def _expected(self, z: Tensor, t: Tensor, c: Tensor | None) -> Tensor:
        """x_hat(z_t, t): z (B, *features), t (B,) integers 1 .. T -> (B, *features)."""
        alpha, sigma = self.noise.at(t, z)
        output = self._output(z, t.to(z.dtype) / self.noise.T, c)
        x = predicted_x(output, z, alpha, sigma, self.parametrisation)
        if self.entries.k:
            x = torch.where(self.entries.on_lattice, self.entries.expected(output, z, alpha, sigma), x)
        return self.entries.clamp(x)

    def _output(self, z: Tensor, t: Tensor, c: Tensor | None) -> Tensor:
        """The network's output; without gradients on a CPU, a few records at a time, whose activations stay in its cache."""
        rows = max(1, CACHE // self.features.dim)
        if torch.is_grad_enabled() or z.device.type != "cpu" or len(z) <= rows:
            return self._net(z, t, c)
        parts = zip(z.split(rows), t.split(rows), [None] * len(z) if c is None else c.split(rows))
        return torch.cat([self._net(*part) for part in parts])

    def _denoise_with(self, c: Tensor | None) -> Denoise:
        return lambda z, t: self._expected(z, torch.full((len(z),), t, device=z.device), c)

    def _sample(
        self,
        n: int,
        c: Tensor | None,
        rng: Rng,
        *,
        sampler: Literal["ancestral", "ddim"] | None = None,
        steps: int | None = None,
        eta: float | None = None,
    ) -> Tensor:
        """The last step shows the most probable record under p(x | z_1), as Ho et al. 2020 do; it is not sampled."""
        times = time_grid(self.noise.T, self.sampling_steps if steps is None else steps)
        z, denoise = rng.randn(n, *self.features.shape), self._denoise_with(c)
        kind: str = sampler or self.sampler
        if kind == "ancestral":
            return self.features.decode(ancestral(denoise, z, self.noise, times, rng, self.nu))
        if kind != "ddim":
            raise ConfigError(f"There is no sampler {kind!r}.{nearest(kind, ('ancestral', 'ddim'))}")
        return self.features.decode(ddim(denoise, z, self.noise, times, rng, self.eta if eta is None else eta))

    # -- evaluate likelihood ------------------------------------------------------------------------------------------

    def _log_prob(self, x: Tensor, c: Tensor | None, rng: Rng, *, samples: int | None = 16) -> Tensor:
        """The evidence lower bound in nats, (B,); `samples` times for each record, stratified, or None for all T of them."""
        if samples is not None and samples < 1:
            raise ConfigError(f"samples must be at least 1, got {samples}; None evaluates all {self.noise.T} terms.")
        f = self.features.encode(x)
        return -self._L_T(f) - self._L_between(f, c, rng, samples) + self._L_0(x, f, c, rng)

    def _L_T(self, f: Tensor) -> Tensor:
        """KL(N(alpha_T f, sigma_T^2 I) || N(0, I)), (B,)."""
        alpha, sigma = self.noise.level(self.noise.T)
        return ((alpha * f).square() + (sigma**2 - 1 - 2 * math.log(sigma))).flatten(1).sum(1) / 2

    def _L_between(self, f: Tensor, c: Tensor | None, rng: Rng, samples: int | None) -> Tensor:
        """sum_{t=2..T} KL(q(z_{t-1} | z_t, x) || p(z_{t-1} | z_t)), (B,): K terms, drawn with probabilities p_t and divided by K p_t."""
        w, constant = (table.to(f) for table in self._kl_weights())
        B, T, nu = len(f), self.noise.T, self.nu.flatten()
        if samples is None:
            t, scale = torch.arange(2, T + 1, device=f.device).expand(B, -1), f.new_ones(B, T - 1)
        else:
            p = self._time_proposal().to(f)
            u = (torch.arange(samples, device=f.device) + rng.rand(B, samples)) / samples
            i = torch.searchsorted(p.cumsum(0), u, right=True).clamp(max=T - 2)
            t, scale = i + 2, 1 / (samples * p[i])
        total = constant @ torch.stack([(1 - nu).sum(), nu.sum()])
        for k in range(t.shape[1]):
            alpha, sigma = self.noise.at(t[:, k], f)
            z = alpha * f + sigma * rng.randn(*f.shape)
            error = (f - self._expected(z, t[:, k], c)).square().flatten(1)
            weight = w[t[:, k] - 2]  # (B, 2)
            total = total + scale[:, k] * (weight[:, 0] * (error @ (1 - nu)) + weight[:, 1] * (error @ nu))
        return total

    def _kl_weights(self) -> tuple[Tensor, Tensor]:
        """w (T - 1, 2) for t = 2 .. T and variances (v, beta_t): L_{t-1} = w |f - x_hat|^2 + rest; the sums of the rest over t, (2,)."""
        snr, sigma2 = self.noise.snr[1:], self.noise.sigma[1:].square()
        w, ratio = -snr.diff() / 2, sigma2[:-1] / sigma2[1:]  # ratio = v / beta_t
        rest = (ratio - 1 - ratio.log()).sum() / 2
        return torch.stack([w, w * ratio], 1), torch.stack([torch.zeros_like(rest), rest])

    def _time_proposal(self) -> Tensor:
        """p_t for t = 2 .. T: half uniform, half in proportion to the terms that N(0, I) data would have, E|f - x_hat|^2 = sigma_t^2."""
        guess = self._kl_weights()[0][:, 0] * self.noise.sigma[2:].square()
        return 0.5 / len(guess) + 0.5 * guess / guess.sum()

    def _L_0(self, x: Tensor, f: Tensor, c: Tensor | None, rng: Rng) -> Tensor:
        """log p(x | z_1) at one draw of z_1, (B,)."""
        alpha, sigma = self.noise.level(1)
        z = alpha * f + sigma * rng.randn(*f.shape)
        mean = self._expected(z, torch.ones(len(f), dtype=torch.long, device=f.device), c)
        return self.entries.log_prob(x, mean, sigma)

    # -- represent ----------------------------------------------------------------------------------------------------

    def _encode(self, x: Tensor, c: Tensor | None) -> Tensor:
        times = time_grid(self.noise.T, self.sampling_steps)
        return ddim_inverse(self._denoise_with(c), self.features.encode(x), self.noise, times).flatten(1)

    def _decode(self, z: Tensor, c: Tensor | None) -> Tensor:
        times = time_grid(self.noise.T, self.sampling_steps)
        return self.features.decode(ddim(self._denoise_with(c), z.reshape(-1, *self.features.shape), self.noise, times))


# -- known answers ----------------------------------------------------------------------------------------------------


class _GaussianDenoiser(nn.Module):
    """The optimal prediction for N(m, s^2) data, entry by entry: E[x | z] = m + alpha s^2 (z - alpha m) / (alpha^2 s^2 + sigma^2)."""

    def __init__(self, m: float, s: float, noise: Schedule, parametrisation: Parametrisation = "v"):
        super().__init__()
        self.m, self.s, self.noise = m, s, noise
        self.parametrisation: Parametrisation = parametrisation

    def forward(self, z: Tensor, t: Tensor, c: Tensor | None = None) -> Tensor:
        del c
        alpha, sigma = self.noise.at((t * self.noise.T).round().long(), z)
        x = self.m + alpha * self.s**2 * (z - alpha * self.m) / ((alpha * self.s) ** 2 + sigma**2)
        return target(x, (z - alpha * x) / sigma, alpha, sigma, self.parametrisation)


def _gaussian_bound(x: Tensor, m: float, s: float, noise: Schedule, variance: str) -> Tensor:
    """The bound of `_GaussianDenoiser` with its expectations done, (B,) for x (B,).

    With gain g = alpha s^2 / (alpha^2 s^2 + sigma^2), E|x - x_hat|^2 = (1 - g alpha)^2 (x - m)^2 + g^2 sigma^2.
    """
    alpha, sigma2 = noise.alpha[1:], noise.sigma[1:].square()
    g = alpha * s**2 / (alpha**2 * s**2 + sigma2)
    error = (1 - g * alpha).square() * (x[:, None] - m).square() + g.square() * sigma2
    # q(z_s | z_t, x) has mean a z + b x and variance v (Ho et al. 2020, equations 6-7); the KL of two Gaussians does the rest.
    beta, v = noise.beta[1:], noise.beta[1:] * sigma2[:-1] / sigma2[1:]
    b, model = alpha[:-1] * beta / sigma2[1:], v if variance == "posterior" else beta
    between = ((v / model - 1 - (v / model).log()) + b.square() / model * error[:, 1:]).sum(1) / 2
    prior = ((alpha[-1] * x).square() + sigma2[-1] - 1 - sigma2[-1].log()) / 2
    last = -error[:, 0] / (2 * sigma2[0]) - (2 * math.pi * sigma2[0]).log() / 2
    return last - between - prior


def known_answers() -> Iterator[Known]:
    """N(m, s^2) data, whose optimal denoiser is known: put in as the network, samplers and bound must give the closed forms."""
    m, s, n = 0.5, 0.7, 4000
    noise = cosine(1000)
    model = DDPM(network=_GaussianDenoiser(m, s, noise), sampling_steps=1000).build(DataSpec("points", (1,), (REAL,))).double()
    x = torch.linspace(-1.5, 2.5, n, dtype=torch.float64)[:, None]

    # DDIM is an affine map of the noise here, z_T = 0, 1 show it: its slope is the samples' standard deviation.
    ends = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    coarse, fine = (ddim(model._denoise_with(None), ends, noise, time_grid(1000, k)).flatten() for k in (500, 1000))
    (a, b), (sd_coarse, sd) = fine.tolist(), (float(coarse.diff()), float(fine.diff()))
    step = 2 * abs(sd - sd_coarse)
    yield Known("DDIM: mean of N(m, s^2) data", m, a, noise.level(1000)[0] * 2 + step, "alpha_T, and the step error of first order")
    yield Known("DDIM: standard deviation", s, b - a, step, "first order: 1000 steps err as much as 500 and 1000 differ")

    samples = model._sample(n, None, Rng.seeded(0, x), sampler="ancestral")
    yield Known("ancestral: mean", m, float(samples.mean()), 5 * s / math.sqrt(n), "5 standard errors")
    yield Known("ancestral: standard deviation", s, float(samples.std()), 5 * s / math.sqrt(2 * n) + 1e-3 * s, "5 standard errors + 1/T")

    exact = _gaussian_bound(x[:, 0], m, s, noise, "beta")
    scatter = model._log_prob(x, None, Rng.seeded(1, x)) - exact
    yield Known("variational bound, mean over x", float(exact.mean()), float((exact + scatter).mean()), _se5(scatter), "5 standard errors")
    # The bound is quadratic in x, so its mean over the data is that over m - s and m + s; it cannot exceed minus the entropy.
    mean = float(_gaussian_bound(x.new_tensor([m - s, m + s]), m, s, noise, "beta").mean())
    gap = -math.log(s * math.sqrt(2 * math.pi * math.e)) - mean
    yield Known("-entropy - mean bound, in nats", 5e-4, gap, 5e-4, "never below 0, and of order 1/T above")

    for support in (levels(17), categories(3)):
        k = support.size or 0
        entries = Entries(Features(DataSpec("table", (1,), (support,)))).double()
        mean = torch.linspace(-1, 1, entries.features.dim, dtype=torch.float64).expand(k, -1)
        total = entries.log_prob(torch.arange(k, dtype=torch.float64)[:, None], mean, 0.3).exp().sum()
        yield Known(f"p(x | z_1) summed over {support}", 1.0, float(total), 1e-12, "rounding")


def _se5(x: Tensor) -> float:
    return 5 * float(x.std()) / math.sqrt(len(x))
