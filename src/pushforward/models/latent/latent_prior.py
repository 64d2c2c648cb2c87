r"""A generative model in two stages: an autoencoder, then a model of its codes.

With q(z | x) and p(x | z) from the first stage, the second is fitted to the aggregate posterior q(z) = E_data[q(z | x)], which is what the
decoder was trained on and what the autoencoder's own prior only approximates. Then p(x) = int p(z) p(x | z) dz with the new p(z). One
wrapper is many models: autoencoder + mixture (Ghosh et al. 2020), two-stage VAE (Dai & Wipf 2019), latent diffusion (Rombach et al. 2022),
VQ-VAE + PixelCNN (van den Oord et al. 2017).

What an autoencoder may say of itself, beyond the verbs of the contract:

=====================================  ===============================================================================================
`importance_bound(x, c, rng, K, lp)`   a lower bound on log p(x | c) under any log-prior lp(z, c) of codes z (B, d)
`emit(z, c, rng)`                      a draw from p(x | z, c); without it samples are decoded codes
=====================================  ===============================================================================================
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution, Independent, Normal

from ...ais import Joint
from ...data import ArraySchema, Data, Records
from ...data.spec import REAL, DataSpec
from ...errors import ConfigError, Unsupported
from ...known import Known
from ...likelihoods import Gaussian
from ...model import ClosedFormModel, Model
from ...objective import Training
from ...rng import Rng
from ...store import Run, rank_zero
from .linear import linear_gaussian, set_encoder
from .vae import VAE

__all__ = ["LatentPrior"]

CODES = 10_000
"""Codes that the prior is fitted to at least: of small data sets several are drawn from each record's posterior, ten at most."""


class LatentPrior(ClosedFormModel):
    """An autoencoder and a prior fitted to its codes afterwards.

    Parameters
    ----------
    autoencoder
        A model that encodes and decodes; None for `VAE()`.
    prior
        A model of the codes. None for `GaussianMixture()`, which fits to (standardised) real codes in seconds; for the discrete codes of
        a VQ-VAE or a categorical VAE, `PixelCNN()` on grids and `MADE()` otherwise.

    Notes
    -----
    Codes are drawn from the posterior q(z | x) where the autoencoder has one (their means would leave out the spread that the decoder
    was trained on) and are `encode`'s otherwise. With labels both stages are conditional: p(z | label) p(x | z, label). Real codes are
    standardised for the prior, discrete ones go to it as they are.

    The budget is halved between the stages. A prior fitted by EM needs less: a tenth of the minutes, and `steps` or `epochs` count for
    the autoencoder alone. Settings such as `lr` go to both. A run folder holds both stages as run folders of their own, `autoencoder/`
    and `prior/`; `resume` goes on with the unfinished one.

    `log_prob` is the autoencoder's bound with the new prior: importance-weighted for a VAE; log p(x | k) + log P(k) at the encoder's
    codes k for a VQ-VAE. Other autoencoders have no likelihood, nor have priors without an exact density.

    Raises `ConfigError` when the autoencoder has no codes, `Unsupported` when the prior cannot model codes of their kind.
    """

    name = "latent_prior"
    density = "bound"
    estimator = "the importance-weighted bound, K = 100"
    training = Training()

    shift: Tensor
    scale: Tensor

    def __init__(self, *, autoencoder: Model | None = None, prior: Model | None = None):
        super().__init__()
        self.autoencoder = autoencoder
        self.prior = prior

    def _build(self, spec: DataSpec) -> None:
        self.defaults = nn.ModuleDict()
        if self.autoencoder is None:
            self.defaults["autoencoder"] = VAE()
        autoencoder: Any = self.autoencoder or self.defaults["autoencoder"]
        for verb in ("encode", "decode"):
            if not autoencoder.supports(verb):
                raise ConfigError(f"autoencoder={autoencoder.name} does not {verb}; LatentPrior needs codes. Use VAE().")
        autoencoder.build(spec)
        codes = autoencoder.code_spec
        if codes is None:
            dim = autoencoder._encode(*_blank(autoencoder, spec)).shape[1]
            codes = DataSpec("points", (dim,), (REAL,), spec.condition_dim)
        if self.prior is None:
            # A family does not know another: the default is found by name.
            from .. import create

            self.defaults["prior"] = create("gmm" if codes.continuous else "pixelcnn" if codes.kind == "image" else "made")
        _, prior = self.stages
        prior.build(codes)
        self.register_buffer("shift", torch.zeros(codes.dim))
        self.register_buffer("scale", torch.ones(codes.dim))
        self.density = "none" if self._why_no_density() else "bound"
        # The class's words: an instance that sums over all codes under its own prior draws them here.
        self.estimator = type(autoencoder).estimator.replace(", P uniform", ", P the prior") if self.density == "bound" else ""

    @property
    def stages(self) -> tuple[Any, Any]:
        """(autoencoder, prior): those given, or the defaults."""
        return self.autoencoder or self.defaults["autoencoder"], self.prior or self.defaults["prior"]

    @property
    def code_spec(self) -> DataSpec | None:
        """What the codes of a record are where they are not reals: the autoencoder's own word."""
        return self.stages[0].code_spec

    def _why_no_density(self) -> str | None:
        autoencoder, prior = self.stages
        if not hasattr(autoencoder, "importance_bound"):
            return f"{autoencoder.name} defines no p(x | z). Use LatentPrior(VAE(), ...), or compare samples with evaluate()."
        if prior.density != "exact":
            return f"{prior.name} has no exact density of codes. Use a mixture or a flow as prior, or compare samples with evaluate()."
        return None

    # -- fitting ----------------------------------------------------------------------------------------------------------

    def _estimate(self, data: Data, training: Training, run: Run | None) -> None:
        autoencoder, prior = self.stages
        quick = isinstance(prior, ClosedFormModel)
        minutes, rounds = (0.9, 1.0) if quick else (0.5, 0.5)
        self._stage("autoencoder", autoencoder, data, training, minutes, rounds, run)
        codes = self._codes(data, training.seed)
        self._stage("prior", prior, codes, training, 1 - minutes, 1 - rounds, run)

    def _stage(self, name: str, model: Model, data: Data, training: Training, minutes: float, rounds: float, run: Run | None) -> None:
        """Fit one stage with its share of the minutes, or of the steps or epochs, in its own run folder: from where it stopped."""
        # What the user changed goes to both stages; the rest are each family's own defaults.
        ours = type(self).training.to_json()
        changed = {k: v for k, v in training.to_json().items() if v != ours[k]}
        for budget, share in (("minutes", minutes), ("steps", rounds), ("epochs", rounds)):
            if changed.get(budget) is not None:
                changed[budget] *= share
                if not share:
                    del changed[budget]
                elif budget == "steps":
                    changed[budget] = max(1, round(changed[budget]))
        settings = type(model).training.override(**changed)
        assert model.spec is not None
        model.build(model.spec, seed=training.seed)
        own = None
        if run is not None and (run.path / name / "config.json").exists():
            own = Run.open(run.path / name)
            if own.finished:
                model.load_state_dict(own.read_model(model.device))
                return
        elif run is not None and rank_zero():
            own = Run.create(run.path / name, model.describe(), data.describe(), settings.to_json())
        model.carry_on(data, settings, own)

    def _codes(self, data: Data, seed: int) -> Data:
        """The splits as codes in the form that the prior takes: real ones standardised."""
        autoencoder, prior = self.stages
        # Without a posterior a second draw is the first: repeated codes would be taken for a density that is infinite there.
        repeats = max(1, min(10, math.ceil(CODES / len(data.train)))) if autoencoder.supports("posterior") else 1
        train = self._draw(data.train, repeats, seed)
        if prior.spec.continuous:
            spread = train.std(0)
            self.shift.copy_(train.mean(0))
            self.scale.copy_(torch.where(spread > 1e-6, spread, 1.0))
        layout = "first" if prior.spec.kind == "image" else "vector"
        schema = ArraySchema(prior.spec, "float32", layout, condition=data.schema.condition)

        def records(part: Records, z: Tensor) -> Records:
            condition = None if part.condition is None else part.condition.repeat(len(z) // max(1, len(part)))
            return Records(schema, ((z - self.shift) / self.scale).reshape(-1, *prior.spec.shape).cpu(), condition)

        splits = [data.train, data.validation, data.test]
        drawn = [train, *(self._draw(s, 1, seed + i) for i, s in enumerate(splits[1:], 1))]
        train_, validation, test = (records(s, z) for s, z in zip(splits, drawn))
        return Data(schema, train_, validation, test)

    @torch.no_grad()
    def _draw(self, part: Records, repeats: int, seed: int) -> Float[Tensor, "N d"]:
        """`repeats` codes of every record, all records before the next round."""
        autoencoder, _ = self.stages
        assert self.spec is not None
        rng = Rng.seeded(seed, self.shift)
        found = []
        for _ in range(repeats):
            for index in torch.arange(len(part)).split(512):
                x, c = part.batch(index, rng)
                c = c if self.spec.condition_dim else None
                q = autoencoder._posterior(x, c) if autoencoder.supports("posterior") else None
                if isinstance(q, Independent) and isinstance(q.base_dist, Normal):
                    found.append(q.mean + q.stddev * rng.randn(*q.mean.shape))
                elif isinstance(q, Independent) and isinstance(q.base_dist, Categorical):
                    found.append(rng.categorical(q.base_dist.logits).to(x.dtype))
                elif q is not None and isinstance(autoencoder, VAE):
                    found.append(autoencoder.q_z.draw(autoencoder._params(x, c), 1, rng).z[:, 0])
                else:
                    found.append(autoencoder._encode(x, c))
        return torch.cat(found) if found else self.shift.new_empty(0, len(self.shift))

    # -- verbs ------------------------------------------------------------------------------------------------------------

    def _sample(self, n: int, c: Tensor | None, rng: Rng, *, mode: bool = False) -> Tensor:
        """Records drawn from p(x | z), z from the prior; with `mode` the most probable record at each z."""
        autoencoder, _ = self.stages
        z = self._draw_prior(n, c, rng)
        return autoencoder.emit(z, c, None if mode else rng) if hasattr(autoencoder, "emit") else autoencoder._decode(z, c)

    def _draw_prior(self, n: int, c: Tensor | None, rng: Rng) -> Float[Tensor, "n d"]:
        _, prior = self.stages
        return prior._sample(n, c, rng).flatten(1) * self.scale + self.shift

    def _log_prob(self, x: Tensor, c: Tensor | None, rng: Rng, *, samples: int = 100) -> Float[Tensor, " B"]:
        """The autoencoder's bound with the fitted prior, of `samples` importance weights where it has any; see `VAE`."""
        reason = self._why_no_density()
        if reason:
            raise Unsupported(f"LatentPrior has no log_prob here: {reason}")
        return self.stages[0].importance_bound(x, c, rng, samples, self._log_prior(rng))

    def _joint(self) -> Joint:
        reason = self._why_no_density()
        if reason:
            raise Unsupported(f"LatentPrior has no joint density here: {reason}")
        autoencoder, _ = self.stages
        if not hasattr(autoencoder, "_joint"):
            raise Unsupported(
                f"LatentPrior has no joint density here: chains of real codes cannot walk over those of {autoencoder.name}. Use log_prob."
            )
        return replace(autoencoder._joint(), sample_prior=self._draw_prior, log_prior=self._log_prior(Rng.seeded(0, self.shift)))

    def _log_prior(self, rng: Rng) -> Callable[[Tensor, Tensor | None], Tensor]:
        """Log p(z | c) = log p_prior((z - shift) / scale | c) - sum log scale."""
        _, prior = self.stages
        log_det = self.scale.log().sum()
        shape = prior.spec.shape
        return lambda z, c: prior._log_prob(((z - self.shift) / self.scale).reshape(-1, *shape), c, rng) - log_det

    def _encode(self, x: Tensor, c: Tensor | None) -> Tensor:
        return self.stages[0]._encode(x, c)

    def _decode(self, z: Tensor, c: Tensor | None) -> Tensor:
        return self.stages[0]._decode(z, c)

    def _posterior(self, x: Tensor, c: Tensor | None) -> Distribution:
        return self._of_autoencoder("posterior")(x, c)

    def _likelihood(self, z: Tensor, c: Tensor | None) -> Distribution:
        return self._of_autoencoder("likelihood")(z, c)

    def _of_autoencoder(self, verb: str) -> Callable[..., Distribution]:
        autoencoder, _ = self.stages
        if not autoencoder.supports(verb):
            raise Unsupported(f"LatentPrior has no {verb} here: its autoencoder, {autoencoder.name}, has none. Use VAE() as autoencoder.")
        return getattr(autoencoder, f"_{verb}")


def _blank(model: Model, spec: DataSpec) -> tuple[Tensor, Tensor | None]:
    """One record of zeros (a value of every support) and its condition, to learn the width of a code."""
    x = torch.zeros(1, *spec.shape, dtype=model.dtype, device=model.device)
    return x, x.new_zeros(1, spec.condition_dim) if spec.condition_dim else None


def known_answers() -> Iterator[Known]:
    """A linear VAE whose codes get the prior N(m, S): then p(x) = N(W m + b, W S W^T + s^2 I), known in closed form."""
    vae, _ = linear_gaussian(4, 2)
    from .. import create

    model = LatentPrior(autoencoder=vae, prior=create("gmm", components=1)).build(DataSpec("points", (4,))).double().requires_grad_(False)
    inner, _ = linear_gaussian(4, 2)
    vae.load_state_dict(inner.state_dict())
    m, sd = torch.tensor([0.7, -0.4], dtype=torch.float64), torch.tensor([1.5, 0.6], dtype=torch.float64)
    # One component as built is N(0, I), of standardised codes: shift and scale carry the whole prior.
    model.shift.copy_(m)
    model.scale.copy_(sd)
    x = 2 * torch.randn(5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    W = vae._likelihood(torch.eye(2, dtype=torch.float64), None).mean - vae._likelihood(torch.zeros(2, 2, dtype=torch.float64), None).mean
    b = vae._likelihood(torch.zeros(1, 2, dtype=torch.float64), None).mean[0]
    s2 = _noise(vae) ** 2
    known = torch.distributions.MultivariateNormal(b + m @ W, W.T @ torch.diag(sd**2) @ W + s2 * torch.eye(4, dtype=x.dtype)).log_prob(x)
    # q = the posterior under the new prior, which is diagonal because the rows of W are orthogonal: every weight is then p(x).
    covariance = torch.linalg.inv(torch.diag(sd**-2) + W @ W.T / s2)
    mean = ((x - b) @ W.T / s2 + m / sd**2) @ covariance
    set_encoder(vae, mean, covariance)
    gap = float((model._log_prob(x, None, Rng.seeded(0, x), samples=1) - known).abs().max())
    yield Known("latent_prior: log p(x) under a second prior N(m, S)", 0.0, gap, 1e-10, "rounding, numbers of order 10")


def _noise(vae: VAE) -> Tensor:
    """The sd s of a linear-Gaussian VAE's likelihood."""
    assert vae.p_x.log_scale is not None
    return Gaussian().parts(torch.stack([vae.p_x.log_scale, vae.p_x.log_scale]))[1].exp()
