"""What the rows of a training history say: a critic that always wins, a silent code, a dead codebook, overfitting."""

import math
import statistics
from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

from ..data.features import Features
from .records import independent_loss, structured
from .words import Finding, advice

if TYPE_CHECKING:
    from ..train import Loop

SATURATED = 0.05
"""D(real) above 1 - this and D(fake) below this: the critic tells 19 of 20 records apart, as at odds of 19 to 1."""
LEAST_KL = 0.1
"""Nats. KL bounds the information that z carries of x from above: at 0.1, z tells e^0.1 = 1.1 kinds of record apart. Below log 2 it tells
no two apart, and then the model must at least beat independent columns."""
LEAST_USAGE = 0.2
"""Share of a codebook in use below which most of it is dead."""


class History:
    """What history says: the last few training rows, and one entry for each validation."""

    def __init__(self) -> None:
        self.last: deque[Mapping[str, float]] = deque(maxlen=4)
        self.since: list[float] = []
        self.held: list[tuple[int, float, float]] = []  # step, training loss since the last validation, validation loss
        self.records: tuple[bool, float | None] | None = None

    def take(self, row: Mapping[str, float]) -> None:
        loss, held = row.get("loss"), row.get("validation/loss")
        if held is not None:
            if self.since:
                self.held.append((int(row["step"]), statistics.fmean(self.since), held))
            self.since = []
        else:
            self.last.append(row)
            if loss is not None:
                self.since.append(loss)

    def mean(self, name: str) -> float | None:
        """Mean over the last rows of the term `name`, whichever objective reports it."""
        found = [v for row in self.last for k, v in row.items() if (k == name or k.endswith(f"/{name}")) and isinstance(v, (int, float))]
        return statistics.fmean(found) if found else None

    def judge(self, loop: "Loop") -> dict[str, Finding | None]:
        checks = {
            "saturated critic": self._critic,
            "posterior collapse": self._kl,
            "dead codebook": self._codebook,
            "overfitting": self._overfitting,
        }
        return {kind: check(loop) for kind, check in checks.items()}

    def _critic(self, loop: "Loop") -> Finding | None:
        real, fake, w1 = self.mean("D(real)"), self.mean("D(fake)"), self.mean("W1")
        if real is not None and fake is not None:
            apart = max(1 - real, fake)
            if apart < SATURATED:
                says = (
                    f"The critic takes records for real with probability {real:.3f} and samples with {fake:.3f}: "
                    f"it tells them apart without error, and the generator's gradient says little.{_slope(loop)}"
                )
                return Finding(
                    SATURATED / max(apart, 1e-9),
                    says,
                    advice(
                        loop,
                        ("r1", "penalise the critic's slope, r1=3 and r2=3"),
                        ("relativistic", "relativistic=True"),
                        ("loss", "loss='non-saturating'"),
                        ("critic_steps", "critic_steps=1"),
                        ("lr", "a lower lr"),
                    ),
                )
        elif w1 is not None:
            # |T(x) - T(y)| <= |x - y| for a 1-Lipschitz critic, and two records in standardised features are about sqrt(2 D) apart.
            bound = math.sqrt(2 * Features(loop.data.spec).dim)
            if abs(w1) > 10 * bound:
                says = (
                    f"W1 reads {w1:.3g}, and two sets of this data's size are not farther apart than about {bound:.2g}: the slope of the "
                    "critic has no bound, and its figure is no distance."
                )
                return Finding(
                    abs(w1) / bound,
                    says,
                    advice(loop, ("gradient_penalty", "gradient_penalty=10"), ("clip", "clip=1"), ("lr", "a lower lr")),
                )
        return None

    def _kl(self, loop: "Loop") -> Finding | None:
        kl, reconstruction = self.mean("kl"), self.mean("reconstruction")
        if kl is None or kl >= math.log(2):
            return None
        if self.records is None:
            self.records = structured(loop), independent_loss(loop)
        has_structure, alone = self.records
        if not has_structure:
            return None
        if kl >= LEAST_KL and (reconstruction is None or alone is None or reconstruction + kl < alone):
            return None
        says = (
            f"KL(q(z|x) || p(z)) is {kl:.2g} nats per record: the code tells at most {math.exp(kl):.2f} kinds of record apart, "
            "so the decoder works without it, though the records have structure to encode."
        )
        if reconstruction is not None and alone is not None and reconstruction + kl >= alone:
            says += f" Its bound of {-reconstruction - kl:.4g} nats is below the {-alone:.4g} of independent columns."
        return Finding(
            LEAST_KL / max(kl, 1e-9),
            says,
            advice(
                loop,
                ("beta", "a smaller beta"),
                ("free_bits", "free bits, such as free_bits=0.5"),
                ("anneal", "a KL that is priced later, anneal=0.5"),
                ("decoder", "a weaker decoder, or one that has to use z"),
                ("latent_dim", "fewer latent_dim"),
                ("lr", "a lower lr"),
            ),
        )

    def _codebook(self, loop: "Loop") -> Finding | None:
        usage = self.mean("codebook usage")
        if usage is None or usage >= LEAST_USAGE:
            return None
        return Finding(
            LEAST_USAGE / max(usage, 1e-9),
            f"Only {usage:.1%} of the codebook is in use: the other entries are dead, as nothing draws them towards the data.",
            "a smaller codebook; start its entries at encoded records; move entries that are not chosen onto records that are badly coded; "
            "or a lower lr.",
        )

    def _overfitting(self, loop: "Loop") -> Finding | None:
        if len(self.held) < 5:
            return None
        steps, train, held = zip(*self.held, strict=True)
        best = min(range(len(held)), key=held.__getitem__)
        since = len(held) - 1 - best
        if since < max(3, len(held) // 5):
            return None
        # Noise of a validation: how far each lies from the middle of its neighbours, sqrt(3/2) of its standard deviation.
        wobble = [abs(b - (a + c) / 2) for a, b, c in zip(held, held[1:], held[2:])]
        noise = statistics.median(wobble) / (0.6745 * math.sqrt(1.5))
        now = statistics.median(held[-3:])
        rise, fall, gained = now - held[best], train[best] - statistics.median(train[-3:]), held[0] - held[best]
        if rise > 4 * noise and rise > 0.1 * gained and fall > 0.05 * (max(train) - min(train)):
            says = (
                f"The validation loss was least at step {steps[best]:,} ({held[best]:.4g}) and has risen by {rise:.3g} since, while the "
                f"training loss fell by {fall:.3g}: the model learns its records by heart."
            )
            if loop.best is not None:
                says += f" The weights of step {steps[best]:,} are kept."
            severity = rise / max(4 * noise, 0.1 * gained, 1e-12)
            return Finding(
                severity,
                says,
                advice(
                    loop,
                    ("patience", "patience=5 to stop there"),
                    ("weight_decay", "weight_decay"),
                    ("hidden", "a smaller network (hidden)"),
                    ("channels", "a smaller network (channels)"),
                    ("steps", "more records"),
                ),
            )
        return None


def _slope(loop: "Loop") -> str:
    """The size of the last player's gradient beside that of its weights, in words; empty when there is none."""
    grads = [p.grad for p in loop.players[-1] if p.grad is not None]
    if not grads:
        return ""
    size = float(torch.stack(torch._foreach_norm(grads)).norm())
    return f" The {loop.objectives[-1].name}'s gradient has norm {size:.2g}."
