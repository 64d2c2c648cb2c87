r"""What autoregressive families share: p(x) = prod_d p(x_d | x_1 .. x_{d-1}), exact by the chain rule of probability.

log_prob costs one pass. Sampling is sequential by nature, D choices one after the other; every network keeps what it has computed, so
that a sample costs about as much arithmetic as one pass instead of D.

**Temperature.** A choice at temperature T is drawn from p(x_d | x_{<d})^{1/T}, made to sum to 1: below 1 the samples keep to what is
probable, at 1 they follow the model. The product of such choices is not p(x)^{1/T}: the normalisers differ from record to record. A
mixture of Gaussians has no such closed form; its member is drawn from pi^{1/T}, and the value from that Gaussian to the power of 1/T.

**Completion.** p(unknown | known) is the product of the last conditionals when the unknown entries come last in the order; otherwise it
would need a sum over all values of the entries between, and is approached by `particles`.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ...errors import ConfigError, Unsupported
from ...likelihoods import Gaussian, Likelihood, Mixture
from ...rng import Rng

UNSUPPORTED: dict[str, str] = dict.fromkeys(
    ("encode", "decode", "posterior", "likelihood"),
    "an autoregressive model has no latent code; use vae (approximate posterior) or realnvp (exact inverse).",
)
"""Verb -> why an autoregressive family has none."""


def check_temperature(temperature: float) -> None:
    """Raise `ConfigError` for a temperature that is no positive number."""
    if not temperature > 0 or temperature == float("inf"):
        raise ConfigError(f"temperature must be a number above 0, got {temperature!r}. 1 samples the model; 0.8 keeps to what is probable.")


def draw(family: Likelihood, params: Tensor, rng: Rng, temperature: float = 1.0) -> Tensor:
    """One value for each of n entries, parameters (n, P), from p^{1/temperature} (see the module). Raises `Unsupported` on [0, 1]."""
    if temperature == 1:
        return family.sample(params, rng)
    k = values_of(family)
    if k:
        values = torch.arange(k, dtype=params.dtype, device=params.device)
        return rng.categorical(family.log_prob(params.unsqueeze(-2), values) / temperature).to(params.dtype)
    if isinstance(family, Mixture):
        log_pi, theta = family.parts(params)
        j = rng.categorical(log_pi / temperature)[..., None, None].expand(*log_pi.shape[:-1], 1, theta.shape[-1])
        return draw(family.family, theta.gather(-2, j).squeeze(-2), rng, temperature)
    if isinstance(family, Gaussian):
        # N(mu, s^2)^{1/T} is proportional to N(mu, T s^2).
        mu = family.parts(params)[0]
        return mu + temperature**0.5 * (family.sample(params, rng) - mu)
    raise Unsupported(
        f"temperature is for values on a finite set and for real ones, and the {family.name} likelihood lives on {family.supports[0]}. "
        "Leave temperature out, or load the data with support='levels'."
    )


def values_of(family: Likelihood) -> int | None:
    """How many values 0 .. k-1 the family is over; None for densities."""
    if isinstance(family, Mixture):
        return values_of(family.family)
    return 2 if family.supports == ("binary",) else getattr(family, "k", None)


def pick(params: Tensor, u: Tensor, temperature: float = 1.0) -> Tensor:
    """The values (n,) at which cumulative probabilities pass u (n,): parameters (1, n) are logits of x = 1, (k, n) those of k values."""
    if temperature != 1:
        params = params / temperature
    if len(params) == 1:
        return (u < params[0].sigmoid()).to(u.dtype)
    cumulative = params.softmax(0).cumsum(0)
    # Scaling by the last sum keeps u below it when rounding leaves the total a little under 1.
    return (u * cumulative[-1] >= cumulative).sum(0).clamp(max=len(params) - 1).to(u.dtype)


def known_first(known: Tensor, sequence: Sequence[int]) -> bool:
    """Whether all known entries, a flat mask (D,), come before all others in the order `sequence`."""
    there = known[torch.as_tensor(sequence, device=known.device)]
    return not bool((there[1:] & ~there[:-1]).any())


@torch.no_grad()
def enumerated(model: Any) -> tuple[Tensor, Tensor]:
    """All records of a finite spec, (N, *shape), and their log-probabilities, (N,); given c = (1, 0, ...) when the model is conditional."""
    spec = model.spec
    assert spec is not None
    assert spec.discrete
    x = torch.cartesian_prod(*[torch.arange(s.size or 0, dtype=model.dtype) for s in spec.columns]).view(-1, *spec.shape)
    c = None if spec.condition_dim == 0 else torch.eye(spec.condition_dim, dtype=model.dtype)[:1].expand(len(x), -1)
    return x, model._log_prob(x, c, Rng.seeded(0))


def roughened(model: Any, spec: Any, by: float = 2.0) -> Any:
    """Random weights, in float64, large enough that the conditionals are far from uniform."""
    model.build(spec, seed=1).double()
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(by)
    return model


ROUNDING = "Each probability is exp of a sum of D <= 12 logs in float64: relative error below 100 D 2.2e-16, and so that of their sum."
"""Why a total probability is 1 to 1e-11."""
