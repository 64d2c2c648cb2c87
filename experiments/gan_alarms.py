"""Three GANs that fail, when they say so, and whether the remedy that they name mends them.

While a run goes on, samples are held every 20 rounds against what is known of its data: modes found of the ring, digits that repeat
each other, records and samples that the critic tells apart. The failure begins where it is first seen five times in a row, or
where that is earlier at the fifth of the budget before which alarms are silent. Then the same run again with the remedy that the
alarm names.

    python experiments/gan_alarms.py [--steps 1200]
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from _result import Result
from torch import Tensor

import pushforward as pf
from pushforward.alarms import WARM_UP, Alarms
from pushforward.rng import Rng

EVERY, DRAWN = 20, 1000
Fails = Callable[[Any, pf.Data, Tensor], bool]


def lost_modes(model: Any, data: pf.Data, x: Tensor) -> bool:
    """At most 4 of the 8 modes have a fifth of their share."""
    nearest = data.truth.nearest(torch.as_tensor(data.schema.decode(x)))
    return int((torch.bincount(nearest, minlength=8) >= len(x) / 8 / 5).sum()) <= 4


def repeated(model: Any, data: pf.Data, x: Tensor) -> bool:
    """Half of the samples equal another, pixel for pixel."""
    _, counts = torch.unique(x.flatten(1), dim=0, return_counts=True)
    return int(counts[counts > 1].sum()) >= len(x) / 2


def told_apart(model: Any, data: pf.Data, x: Tensor) -> bool:
    """The critic calls 97 % of unseen records and of samples rightly."""
    features = model._features
    real, fake = (model.critic_net(features.encode(t)) for t in (data.test.tensor(), x))
    return float(torch.cat([real > 0, fake < 0]).float().mean()) >= 0.97


@dataclass
class Case:
    """A failure, how it is planted, how it is seen, and the remedy: what the alarm must name, and the settings that follow it."""

    alarm: str
    data: str
    hyper: dict[str, Any]
    training: dict[str, Any]
    fails: Fails
    named: tuple[str, ...]
    remedy: dict[str, Any] = field(default_factory=dict)
    remedy_training: dict[str, Any] = field(default_factory=dict)


PLAIN: dict[str, Any] = {"relativistic": False, "r1": 0.0, "r2": 0.0, "hidden": (64, 64), "critic_hidden": (64, 64)}
SETTINGS: dict[str, Any] = {"ema": None, "batch_size": 64, "schedule": "constant"}
MENDED: dict[str, Any] = {"r1": 3.0, "r2": 3.0, "relativistic": True}
ADVICE = ("r1=3 and r2=3", "relativistic=True")
CASES = [
    Case(
        *("mode collapse", "ring", {**PLAIN, "fourier": 0}, {"lr": 1e-2, "betas": (0.9, 0.999)}, lost_modes),
        *((*ADVICE, "ema=0.999", "a lower lr"), MENDED, {"lr": 2e-3, "ema": 0.99}),
    ),
    Case("duplicates", "digits", {**PLAIN, "noise_dim": 8}, {"lr": 0.05}, repeated, ("a lower lr",), {}, {"lr": 2e-3}),
    Case(
        *("saturated critic", "digits", {**PLAIN, "loss": "minimax", "critic_steps": 5, "critic_hidden": (256, 256)}, {}, told_apart),
        *(ADVICE, MENDED),
    ),
]


class Watch(Alarms):
    """The alarms, with what was said and when, and every 20 rounds whether the failure is there."""

    def __init__(self, fails: Fails):
        super().__init__()
        self.fails, self.failing, self.said = fails, dict[int, bool](), dict[str, tuple[int, str]]()

    def on_step(self, loop: Any) -> None:
        if loop.step % EVERY == 0:
            model = loop.model.eval()
            with torch.no_grad(), loop.result_weights():
                self.failing[loop.step] = self.fails(model, loop.data, model._sample(DRAWN, None, Rng.seeded(0)))
            model.train()

    def _tell(self, loop: Any, row: dict[str, Any], aloud: bool = True) -> None:
        if "try" in row:
            self.said.setdefault(row["alarm"], (loop.step, row["try"]))
        else:
            self.said.pop(row["alarm"], None)

    @property
    def began(self) -> int | None:
        """The first of five looks in a row, a hundred rounds, that all see the failure; None when there are none."""
        steps = sorted(self.failing)
        return next((steps[i] for i in range(len(steps) - 4) if all(self.failing[s] for s in steps[i : i + 5])), None)


def run(case: Case, seed: int, steps: int, mended: bool) -> Watch:
    watch = Watch(case.fails)
    hyper = {**case.hyper, **(case.remedy if mended else {})}
    training = {**SETTINGS, **case.training, **(case.remedy_training if mended else {}), "steps": steps, "seed": seed}
    pf.GAN(**hyper).fit(pf.load_data(case.data), observers=[watch], progress=False, alarms=False, **training)
    return watch


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    with Result("gan_alarms", settings={"steps": given.steps, "seen every": EVERY}, seeds=[given.seed]) as result:
        for case in CASES:
            broken = run(case, given.seed, given.steps, mended=False)
            began, what = broken.began, f"{case.data}, {case.alarm}"
            result.add(f"{what}: the failure begins at round", -1 if began is None else began, unit="rounds", kind="known", target=">= 0")
            if began is None or case.alarm not in broken.said:
                result.add(f"{what}: alarm", 0, kind="alarms", target=">= 1")
                continue
            step, remedy = broken.said[case.alarm]
            print(what, broken.said, flush=True)
            since = max(began, round(WARM_UP * given.steps))
            result.add(f"{what}: rounds to the alarm", step - since, unit="rounds", kind="alarms", target="<= 200")
            named = all(words in remedy for words in case.named)
            result.add(f"{what}: the alarm names {', '.join(case.named)}", float(named), kind="alarms", target=">= 1")
            again = run(case, given.seed, given.steps, mended=True)
            cured = again.began is None and case.alarm not in again.said
            result.add(f"{what}: mended by it", float(cured), kind="known", target=">= 1")
