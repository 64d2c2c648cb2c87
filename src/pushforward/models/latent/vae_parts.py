"""What `VAE` is made with beside its mathematics: which parts go together, q for records that have no parameters, models as priors."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from ...errors import ConfigError, nearest
from ...model import Model
from ...rng import Rng

if TYPE_CHECKING:
    from .vae import VAE

__all__ = ["LogPrior", "ModelPrior", "check_hyperparameters", "fitted_params"]

LogPrior = Callable[[Tensor, Tensor | None], Tensor]
"""(z (N, d), c (N, C) or None) -> log p(z | c), (N,)."""
GRADIENTS = ("reparametrised", "doubly", "score")
DRAWS = 4
"""Draws of each step that fits them, an even number."""
INFERRED = 512
"""Records whose own parameters are fitted at a time."""


def check_hyperparameters(vae: "VAE") -> None:
    """Raise `ConfigError` for a hyperparameter out of its range, or parts that do not go together."""
    for name in ("latent_dim", "samples", "inference_steps"):
        if getattr(vae, name) < 1:
            raise ConfigError(f"{name} must be at least 1, got {getattr(vae, name)}.")
    for name in ("beta", "free_bits"):
        if getattr(vae, name) < 0:
            raise ConfigError(f"{name} must not be negative, got {getattr(vae, name)}.")
    if not 0 <= vae.anneal <= 1:
        raise ConfigError(f"anneal is a share of the budget, 0 to 1, got {vae.anneal}.")
    if isinstance(vae.prior, str) and vae.prior not in ("mixture", "vamp"):
        raise ConfigError(f"There is no prior {vae.prior!r}.{nearest(vae.prior, ('mixture', 'vamp'))}")
    if vae.gradient not in GRADIENTS:
        raise ConfigError(f"There is no gradient {vae.gradient!r}.{nearest(vae.gradient, GRADIENTS)}")
    plain = vae.gradient == "reparametrised"
    if not vae.q_z.evaluates and not plain:
        raise ConfigError(
            f"gradient={vae.gradient!r} needs log q(z | x) as a formula in z, and posterior={vae.posterior_!r} has to be inverted for it. "
            "Use posterior='diagonal', 'full' or 'mixture', or gradient='reparametrised'."
        )
    if vae.posterior_ == "mixture" and vae.gradient == "doubly" and vae.samples > 1:
        raise ConfigError("gradient='doubly' of a mixture posterior needs samples=1. Use that, or gradient='reparametrised'.")
    if vae.free_bits and not (plain and vae.samples == 1):
        raise ConfigError("free_bits needs the bound as reconstruction and KL: samples=1 and gradient='reparametrised'.")
    if not vae.amortised and (vae.encoder is not None or vae.prior == "vamp"):
        what = "prior='vamp'" if vae.encoder is None else "encoder="
        raise ConfigError(f"{what} needs an encoder, and amortised=False has none. Leave out one of the two.")
    if vae.prior == "vamp" and not vae.q_z.evaluates:
        raise ConfigError(
            f"prior='vamp' needs log q(z | u) of any z, and posterior={vae.posterior_!r} has to be inverted for it. "
            "Use posterior='diagonal', 'full' or 'mixture'."
        )


def fitted_params(vae: "VAE", x: Tensor, c: Tensor | None, steps: int) -> Tensor:
    """q's parameters for new records, (B, P), by Adam on their ELBO, `INFERRED` at a time.

    Each step's noise is the same for all records, so that a record's parameters do not depend on its company.
    """
    parts = zip(x.split(INFERRED), [None] * len(x) if c is None else c.split(INFERRED))
    return torch.cat([_fit(vae, a, b, steps) for a, b in parts])


def _fit(vae: "VAE", x: Tensor, c: Tensor | None, steps: int) -> Tensor:
    rng = _Common(torch.Generator().manual_seed(0), x.device, x.dtype)
    with torch.enable_grad():
        log_prior = vae._log_prior(rng)
        phi = vae.q_z.initial(len(x)).to(x).clone().requires_grad_()
        # The steps' sizes add up to 5 standard deviations of the prior, whatever their number.
        lr = min(0.5, 10.0 / steps)
        optimizer = torch.optim.Adam([phi], lr=lr)
        for step in range(steps):
            optimizer.param_groups[0]["lr"] = lr * (1 - step / steps)
            reconstruction, kl = vae._two_terms(x, c, phi, rng, log_prior, DRAWS)
            (phi.grad,) = torch.autograd.grad((reconstruction + kl.sum(1)).sum(), phi)
            optimizer.step()
    return phi.detach()


class _Common(Rng):
    """The same normal numbers for every record, in pairs eps, -eps along the second axis: what is odd in them cancels."""

    def randn(self, *shape: int) -> Tensor:
        half = super().randn(1, shape[1] // 2, *shape[2:])
        return torch.cat([half, -half], 1).expand(shape)


class ModelPrior:
    """A model of points as a prior; `rng` for densities that draw."""

    def __init__(self, model: Model, rng: Rng):
        self.model, self.rng = cast(Any, model), rng

    def log_prob(self, z: Tensor) -> Tensor:
        return self.model._log_prob(z, None, self.rng)

    def sample(self, n: int, rng: Rng) -> Tensor:
        return self.model._sample(n, None, rng)
