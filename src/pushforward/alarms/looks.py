"""Looks at samples and losses while training goes on: mode collapse, duplicates, and likelihoods that rise without bound."""

import contextlib
import math
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..objective import Batch
from ..rng import Rng
from .records import features, resolution, training_features
from .words import Finding, advice

if TYPE_CHECKING:
    from ..train import Loop

SHARE = 0.01
"""Of the training time, at most, that the looks at samples and losses take."""
DRAWN = 512
"""Samples in a look."""
CELLS = 32
"""Cells that the training records are divided into; a look expects 16 samples in each."""
MISSING = 0.45
"""Share of the records in cells that samples miss, above which modes have collapsed."""
APART = 100
"""Rounds between looks at least: two in a row find a collapse within 200 rounds, where the share of the time allows it."""


class Looks:
    """Samples against records, and losses against the records' precision, at moments that cost `SHARE` of the time."""

    def __init__(self, loop: "Loop"):
        self.spent, self.cost, self.done_at = 0.0, 0.0, -APART
        self.cells: Cells | None = None
        self.suspects = False
        """Whether the last look found something: then the next one does not wait for its share of the time."""
        model: Any = loop.model
        hook = getattr(model, "_sample", None)
        # Another process would have to take part in a look at weights that are shared out.
        whole = loop.fabric.world_size == 1 or "ddp" in type(loop.fabric.strategy).__name__.lower()
        self.sample = hook if hook is not None and "sample" not in getattr(model, "unsupported", {}) and whole else None
        self.judges = [o for o in loop.objectives if o.validate] if whole else []

    def affordable(self, loop: "Loop", last: bool = False) -> bool:
        """Whether another look fits into the share of the time; the last may take a second, or twice the share."""
        if self.sample is None and not self.judges:
            return False
        allowed = SHARE * loop.seconds - self.spent
        if last:
            allowed = max(allowed, 1.0, 2 * SHARE * loop.seconds)
        if not self.cost:
            # Even the first 8 samples can be dear: half a round for each evaluation of the network, for a batch of that size.
            pace = loop.seconds / max(loop.step, 1)
            if 0.5 * getattr(loop.model, "nfe", 1) * pace * max(8 / loop.training.batch_size, 0.2) > allowed / 2:
                return False
            self.cost = self._forecast(loop, allowed)
        return self.cost <= allowed

    def due(self, loop: "Loop") -> bool:
        """Whether it is time: as often as the share of the time allows, none in the first seconds."""
        if loop.seconds < 2 or loop.step == self.done_at:  # losses and validation write a line each
            return False
        return self.suspects or (loop.step >= self.done_at + APART and self.affordable(loop))

    def _forecast(self, loop: "Loop", allowed: float) -> float:
        """The seconds of a look, from those of 8 samples and, where these leave room, of 64: many samplers cost by the step."""
        few = self._time(loop, 8)
        if 8 * few > allowed:
            return 0.02 + few * DRAWN / 8
        more = self._time(loop, 64)
        return 0.02 + more + max(more - few, 0.0) * (DRAWN - 64) / (64 - 8)

    def _time(self, loop: "Loop", n: int) -> float:
        start = time.perf_counter()
        with _undisturbed(loop):
            if self._draw(loop, n) is None:
                self.sample = None
        taken = time.perf_counter() - start
        self.spent += taken
        return taken

    def look(self, loop: "Loop", last: bool = False) -> dict[str, Finding | None]:
        start = time.perf_counter()
        found: dict[str, Finding | None] = {}
        with _undisturbed(loop, last):
            x = self._draw(loop, DRAWN)
            if x is not None:
                found |= self._against(loop, x)
            found["exploding likelihood"] = self._precision(loop)
        self.suspects = not self.suspects and any(found.values())
        taken = time.perf_counter() - start
        self.cost, self.spent = min(self.cost or taken, taken), self.spent + taken  # the first also divides the records into cells
        self.done_at = loop.step
        return found

    def _draw(self, loop: "Loop", n: int) -> Tensor | None:
        """Features of n samples under the conditions of training records, (n, d); None for a model that cannot."""
        if self.sample is None:
            return None
        rng = Rng.seeded(loop.training.seed + 3)
        rng.device, rng.dtype = loop.rng.device, loop.rng.dtype
        train = loop.data.train
        index = torch.randint(len(train), (n,), generator=rng.generator)
        c = train.batch(index, rng)[1] if loop.conditional else None
        try:
            return features(loop, self.sample(n, c, rng))
        except (RuntimeError, ValueError, NotImplementedError):  # or no features, as categorical pixels (DataError, a ValueError)
            return None

    def _against(self, loop: "Loop", x: Tensor) -> dict[str, Finding | None]:
        if self.cells is None:
            records = training_features(loop, 2048)
            self.cells = None if records is None or len(records) < 128 else Cells(records)
        if self.cells is None or not bool(torch.isfinite(x).all()):
            return {}
        missing, cells, total = self.cells.missing(x)
        collapse = duplicates = None
        if missing > MISSING:
            says = f"Samples miss {cells} of {total} regions of the data, which hold {missing:.0%} of its records."
            collapse = Finding(missing / MISSING, says, _collapse_advice(loop))
        twins, usual = self.cells.twins(x)
        if twins > usual + 0.25:
            says = f"{twins:.0%} of {len(x)} samples repeat another one; of as many records {usual:.0%} do."
            duplicates = Finding((twins - usual) / 0.25, says, _collapse_advice(loop))
        return {"mode collapse": collapse, "duplicates": duplicates}

    def _precision(self, loop: "Loop") -> Finding | None:
        """How much the losses rise when records move by less than the precision they are recorded with."""
        step = resolution(loop) if self.judges else None
        if step is None:
            return None
        rng = Rng.seeded(loop.training.seed + 4)
        rng.device, rng.dtype = loop.rng.device, loop.rng.dtype
        train = loop.data.train
        index = torch.randint(len(train), (256,), generator=rng.generator)
        x, c = train.batch(index, rng)
        moved = x + (rng.rand(*x.shape) - 0.5) * step.to(x).reshape(x.shape[1:])
        inside = torch.tensor([s.name == "unit" for s in loop.data.spec.columns], device=x.device).reshape(x.shape[1:])
        moved = torch.where(inside, moved.clamp(0, 1), moved)
        losses: list[Tensor] = []
        with loop.fabric.autocast():
            for at in (x, moved):
                same = Rng.seeded(loop.training.seed + 5)
                same.device, same.dtype = rng.device, rng.dtype
                batch = Batch(at, c if loop.conditional else None, index, same, loop.step, loop.progress)
                losses.append(torch.stack([o.loss(batch).per_record.expand(len(index)) for o in self.judges]).sum(0).double().cpu())
        rise = torch.nan_to_num(losses[1] - losses[0], nan=math.inf, posinf=math.inf)
        entries = int((step > 0).sum())
        # A density of width s loses (step / s)^2 / 24 for each entry: 0.1 is s = 0.65 step; a nat more for what chance moves.
        spiked = rise > 1 + 0.1 * entries
        share = float(spiked.double().mean())
        if share < 0.1:
            return None
        middle = float(rise[spiked].median())
        says = (
            f"For {share:.0%} of the records the log-likelihood falls by {middle:.3g} nats when they move by less than the precision they "
            "are recorded with: the density piles up on repeated or rounded values, can rise without bound, and compares with nothing."
        )
        return Finding(
            middle / (1 + 0.1 * entries),
            says,
            "give rounded or repeated values their own kind (integers, categories), leave out columns that repeat others, or add noise of "
            "the size of the rounding; a floor on the scale (likelihood='gaussian') also stops it.",
        )


class Cells:
    """Training records as cells of like size: which of them samples reach, and how close records lie."""

    def __init__(self, records: Tensor):
        self.generator = torch.Generator().manual_seed(0)
        # Distances survive a random projection (Johnson & Lindenstrauss), and cost no more for large images.
        d = records.shape[1]
        self.projection = torch.randn(d, 64, generator=self.generator) / 8 if d > 64 else None
        records = self._project(records)
        k = min(CELLS, len(records) // 16)
        self.centres = _centres(records, k, self.generator)
        self.share = torch.bincount(self._cell(records), minlength=k).double() / len(records)
        n = min(DRAWN, len(records))
        self.own = _nearest(records[:n])
        """Distances of as many records as there are samples in a look."""

    def _project(self, x: Tensor) -> Tensor:
        return x if self.projection is None else x @ self.projection

    def _cell(self, x: Tensor) -> Tensor:
        return torch.cdist(x, self.centres).argmin(1)

    def missing(self, x: Tensor) -> tuple[float, int, int]:
        """(share of the records in cells that samples x miss, the number of those, the number of cells).

        A cell of share p is missed when fewer than p/5 of the samples fall into it: of 512 fresh records 16 fall into a cell of 1/32,
        and 3 or fewer do with probability 1e-4.
        """
        x = self._project(x)
        reached = torch.bincount(self._cell(x), minlength=len(self.share)).double() / len(x)
        missed = (reached < self.share / 5) & (self.share * len(x) >= 8)
        return float(self.share[missed].sum()), int(missed.sum()), len(self.share)

    def twins(self, x: Tensor) -> tuple[float, float]:
        """Shares of samples, and of as many records, closer to another than a fiftieth of the records' middle distance to the next."""
        n, own = min(len(x), len(self.own)), self.own
        near = 0.02 * float(own.median()) + 1e-6
        return float((_nearest(self._project(x[:n])) <= near).double().mean()), float((own <= near).double().mean())


def _nearest(x: Tensor) -> Tensor:
    """Distance of each point to the next one, (n,), from differences and not from squares: twins are exactly 0 apart."""
    distances = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")
    return distances.fill_diagonal_(math.inf).min(1).values


def _centres(x: Tensor, k: int, generator: torch.Generator) -> Tensor:
    """Ten rounds of k-means from k distant records; scikit-learn's would take longer to import than a short training runs."""
    centres = x[torch.randint(len(x), (1,), generator=generator)]
    nearest = torch.cdist(x, centres).squeeze(1)
    for _ in range(k - 1):
        at = torch.multinomial(nearest.square() + 1e-12, 1, generator=generator)
        centres = torch.cat([centres, x[at]])
        nearest = torch.minimum(nearest, torch.cdist(x, x[at]).squeeze(1))
    for _ in range(10):
        cell = torch.cdist(x, centres).argmin(1)
        counts = torch.bincount(cell, minlength=k)
        sums = torch.zeros_like(centres).index_add_(0, cell, x)
        centres = torch.where(counts[:, None] > 0, sums / counts.clamp(min=1)[:, None], centres)
    return centres


@contextlib.contextmanager
def _undisturbed(loop: "Loop", last: bool = False) -> Iterator[None]:
    """Within the block the model has the weights that training would return now, in evaluation; after it, nothing has changed."""
    best = loop.best if last else None
    modes = [(m, m.training) for m in loop.model.modules()]
    loop.model.eval()
    buffers = [(b, b.detach().clone()) for b in loop.model.buffers()]
    with torch.random.fork_rng(devices=[]), loop.result_weights(), torch.no_grad():
        now = None
        if best is not None:
            now = {k: v.detach().clone() for k, v in loop.model.state_dict().items()}
            loop.model.load_state_dict(best)
        try:
            yield
        finally:
            if now is not None:
                loop.model.load_state_dict(now)
            for b, was in buffers:
                b.copy_(was)
            for m, mode in modes:
                m.training = mode


def _collapse_advice(loop: "Loop") -> str:
    return advice(
        loop,
        ("r1", "penalise the critic's slope, r1=3 and r2=3"),
        ("relativistic", "relativistic=True"),
        ("ema", "average the weights, ema=0.999"),
        ("lr", "a lower lr"),
        ("batch_size", "a larger batch_size"),
    )
