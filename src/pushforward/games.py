r"""The losses of two-player games, as parts: what a critic T and a generator G minimise.

With the critic's values r = T(x) on records and f = T(G(z)) on samples, softplus(t) = log(1 + e^t) and (t)+ = max(0, t),

=================  ==================  ==================  ===================  =========================================
loss               A(r), of records    B(f), of samples    generator, C(f)      source
=================  ==================  ==================  ===================  =========================================
minimax            softplus(-r)        softplus(f)         -softplus(f)         Goodfellow et al. 2014, eq. 1
non-saturating     softplus(-r)        softplus(f)         softplus(-f)         Goodfellow et al. 2014, section 3
least-squares      (r - 1)^2 / 2       f^2 / 2             (f - 1)^2 / 2        Mao et al. 2017, eq. 2 and 9
hinge              (1 - r)+            (1 + f)+            -f                   Lim & Ye 2017; Miyato et al. 2018, eq. 16-17
wasserstein        -r                  f                   -f                   Arjovsky et al. 2017, eq. 2-3
=================  ==================  ==================  ===================  =========================================

The critic minimises A(r) + B(f). Minimax is the zero-sum game: its generator minimises what the critic maximises, up to a term without G.

**Relativistic pairing** (Jolicoeur-Martineau 2018, section 4.2; Huang et al. 2024) judges differences of pairs: the critic minimises
A(r - f), the generator A(f - r). Minimax stays zero-sum: its generator minimises -A(r - f).

A loss of your own is added in one place, `register(name, Rule(...))`, and every game knows it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import relu, softplus

from .errors import ConfigError, nearest

__all__ = ["LOSSES", "Game", "LossName", "Rule", "register"]

LossName = Literal["minimax", "non-saturating", "least-squares", "hinge", "wasserstein"]
"""The losses that are built in."""

Part = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Rule:
    """The three functions of a loss, each (B,) -> (B,)."""

    real: Part
    """A: what the critic minimises of its value on a record."""
    fake: Part
    """B: what it minimises of its value on a sample."""
    generator: Part
    """C: what the generator minimises of that value."""
    probability: Part | None = torch.sigmoid
    """D, the probability of "this is a record" that T says; None where T says none (Wasserstein)."""
    zero_sum: bool = False
    """Whether the generator minimises what the critic maximises."""


LOSSES: dict[str, Rule] = {
    "minimax": Rule(lambda t: softplus(-t), softplus, lambda t: -softplus(t), zero_sum=True),
    "non-saturating": Rule(lambda t: softplus(-t), softplus, lambda t: softplus(-t)),
    "least-squares": Rule(
        lambda t: (t - 1).square() / 2, lambda t: t.square() / 2, lambda t: (t - 1).square() / 2, lambda t: t.clamp(0, 1)
    ),
    "hinge": Rule(lambda t: relu(1 - t), lambda t: relu(1 + t), lambda t: -t, lambda t: ((t + 1) / 2).clamp(0, 1)),
    "wasserstein": Rule(lambda t: -t, lambda t: t, lambda t: -t, None, zero_sum=True),
}
"""Every known loss by name."""


def register(name: str, rule: Rule) -> None:
    """Make `rule` known as `name` to every game. Raises `ConfigError` for a name that is taken."""
    if name in LOSSES:
        raise ConfigError(f"There is a loss {name!r} already. Give yours another name.")
    LOSSES[name] = rule


class Game:
    """A loss, plain or relativistic. Raises `ConfigError` for an unknown one."""

    def __init__(self, loss: str, relativistic: bool = False):
        if loss not in LOSSES:
            raise ConfigError(f"There is no loss {loss!r}.{nearest(loss, LOSSES)}")
        self.rule, self.relativistic = LOSSES[loss], relativistic

    def probabilities(self, real: Float[Tensor, " B"], fake: Float[Tensor, " B"]) -> tuple[Tensor, Tensor] | None:
        """D of records and of samples (of a pair's, that the record is the record, and that the sample is); None where T says none."""
        if self.rule.probability is None:
            return None
        real, fake = (real - fake, fake - real) if self.relativistic else (real, fake)
        return self.rule.probability(real), self.rule.probability(fake)

    def critic(self, real: Float[Tensor, " B"], fake: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        """What the critic minimises."""
        return self.rule.real(real - fake) if self.relativistic else self.rule.real(real) + self.rule.fake(fake)

    def generator(self, fake: Float[Tensor, " B"], real: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        """What the generator minimises; only a relativistic game looks at `real`."""
        if not self.relativistic:
            return self.rule.generator(fake)
        return -self.rule.real(real - fake) if self.rule.zero_sum else self.rule.real(fake - real)
