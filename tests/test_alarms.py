"""Alarms: each fires on its own failure, all are silent on a healthy run, and none changes a weight."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from toys import Duel, Gauss, Poisoned

import pushforward as pf
from pushforward.alarms import Alarm, alarms_of
from pushforward.data import Data, load_data
from pushforward.data.spec import DataSpec
from pushforward.model import Batch, GradientModel, Loss, Objective
from pushforward.objective import Observer
from pushforward.rng import Rng
from pushforward.store import Run
from pushforward.train import Loop

QUIET = {"progress": False, "batch_size": 64}


@pytest.fixture(autouse=True)
def _a_look_at_the_end_whatever_it_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    from pushforward.alarms import looks

    # The clock decides how often users' runs are looked at; a busy machine must not decide how these tests end.
    monkeypatch.setattr(looks.Looks, "affordable", lambda self, loop, last=False: last)


def kinds(alarms: tuple[Alarm, ...] | list[Alarm]) -> list[str]:
    return sorted(a.kind for a in alarms)


@pytest.fixture(scope="module")
def blobs() -> Data:
    """Eight tight groups on a circle."""
    g = np.random.default_rng(0)
    angle = g.integers(0, 8, 2000) * (math.pi / 4)
    return load_data(np.stack([np.cos(angle), np.sin(angle)], 1) + 0.05 * g.normal(size=(2000, 2)))


class Puppet(Gauss):
    """A Gaussian that trains well and draws what a test tells it to."""

    name = "puppet"
    draw: str = ""

    def _sample(self, n: int, c: Tensor | None, rng: Rng) -> Tensor:
        assert self.records is not None
        at = torch.randint(len(self.records), (n,), generator=rng.generator)
        x = self.records[at]
        if self.draw == "one side":  # three of the eight groups
            angle = torch.atan2(self.records[:, 1], self.records[:, 0])
            near = self.records[(angle > -0.4) & (angle < 1.9)]
            x = near[at % len(near)]
        if self.draw == "copies":
            x = self.records[at % 40]
        return x + (0.0 if self.draw == "copies" else 0.01) * rng.randn(*x.shape)


def puppet(data: Data, draw: str) -> tuple[Alarm, ...]:
    model = Puppet()
    model.draw, model.records = draw, data.train.tensor()
    return model.fit(data, steps=200, lr=0.05, **QUIET).alarms


def test_healthy_training_is_silent(blobs: Data) -> None:
    assert puppet(blobs, "") == ()


def test_mode_collapse(blobs: Data) -> None:
    found = puppet(blobs, "one side")
    assert kinds(found) == ["mode collapse"]
    assert "regions of the data, which hold 6" in found[0].says  # five of eight groups are missed: 62 %, and cells cut across none


def test_a_collapse_is_said_within_200_rounds(blobs: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where its share of the time allows a look each hundred rounds: the one after a finding comes at once, whatever it costs."""
    from pushforward.alarms import looks

    seen = list[int]()
    look = looks.Looks.look
    monkeypatch.setattr(looks.Looks, "look", lambda self, loop, last=False: (seen.append(loop.step), look(self, loop, last))[1])
    monkeypatch.setattr(looks.Looks, "affordable", lambda self, loop, last=False: last or loop.step % 300 == 0)

    class Late(Observer):
        """A second's worth of time has passed, and from round 450 on the samples are of one side."""

        def on_step(self, loop: Loop) -> None:
            loop.seconds = max(loop.seconds, 3.0)
            loop.model.draw = "one side" if loop.step >= 450 else ""

    model = Puppet()
    model.draw, model.records = "", blobs.train.tensor()
    model.fit(blobs, steps=1000, lr=0.05, observers=[Late()], **QUIET)
    # Affordable at 300, 600 and 900; what 600 and 900 see is looked at again at the next line of the history, 50 rounds on.
    assert seen == [300, 600, 650, 900, 950, 1000]
    assert [a.kind for a in model.alarms] == ["mode collapse"]


def test_duplicates(blobs: Data) -> None:
    # 512 draws from 40 records, five from each group.
    assert "duplicates" in kinds(puppet(blobs, "copies"))


class Terms(Gauss):
    """A Gaussian that reports terms which a test sets."""

    name = "terms"
    terms: dict[str, float]

    def _objectives(self) -> tuple[Objective, ...]:
        def loss(batch: Batch) -> Loss:
            value = self._loss(batch)
            return Loss(value.per_record, {k: torch.tensor(v) for k, v in self.terms.items()})

        return (Objective("nll", [self], loss),)


def reporting(data: Data, **terms: float) -> tuple[Alarm, ...]:
    model = Terms()
    model.terms = {k.replace("_", " "): v for k, v in terms.items()}
    return model.fit(data, steps=200, lr=0.05, **QUIET).alarms


@pytest.mark.parametrize(
    ("terms", "kind"),
    [
        ({"D(real)": 0.99, "D(fake)": 0.01}, "saturated critic"),
        ({"W1": 25.0}, "saturated critic"),  # ten times sqrt(2 D) = 2 is 20
        ({"kl": 0.01}, "posterior collapse"),
        ({"codebook usage": 0.05}, "dead codebook"),
    ],
)
def test_terms(terms: dict[str, float], kind: str, blobs: Data) -> None:
    assert kind in kinds(reporting(blobs, **terms))


@pytest.mark.parametrize("terms", [{"D(real)": 0.7, "D(fake)": 0.4}, {"W1": 3.0}, {"kl": 5.0}, {"codebook usage": 0.5}])
def test_healthy_terms(terms: dict[str, float], blobs: Data) -> None:
    assert reporting(blobs, **terms) == () or kinds(reporting(blobs, **terms)) == ["mode collapse"]


def test_a_silent_code_is_right_for_records_without_structure() -> None:
    data = load_data(np.random.default_rng(0).normal(size=(2000, 3)))
    assert reporting(data, kl=0.01) == ()


class Codebook(GradientModel):
    """A codebook and nothing else: the nearest entry codes a record and is drawn to it. Entries that start afar never are."""

    name = "codebook"

    def __init__(self, *, entries: int = 64, spread: float = 1.0):
        super().__init__()
        self.entries, self.spread = entries, spread

    def _build(self, spec: DataSpec) -> None:
        self.book = nn.Parameter(self.spread * torch.randn(self.entries, spec.dim))

    def _sample(self, n: int, c: Tensor | None, rng: Rng) -> Tensor:
        return self.book[rng.randint(self.entries, n)] + 0.3 * rng.randn(n, self.book.shape[1])

    def _objectives(self) -> tuple[Objective, ...]:
        return (Objective("codes", [self], self._loss),)

    def _loss(self, batch: Batch) -> Loss:
        distance, code = torch.cdist(batch.x, self.book).min(1)
        p = torch.bincount(code, minlength=self.entries) / len(code)
        return Loss(distance.square(), {"codebook usage": torch.exp(-torch.xlogy(p, p).sum()) / self.entries})


@pytest.fixture(scope="module")
def cloud() -> Data:
    return load_data(np.random.default_rng(0).normal(size=(1000, 2)))


def test_dead_codebook(cloud: Data) -> None:
    assert Codebook(spread=1.0).fit(cloud, steps=200, **QUIET).alarms == ()
    assert "dead codebook" in kinds(Codebook(spread=30.0).fit(cloud, steps=200, **QUIET).alarms)


def test_posterior_collapse(blobs: Data) -> None:
    model = pf.VAE(beta=100.0, hidden=(32,), latent_dim=2).fit(blobs, steps=300, **QUIET)
    (found,) = [a for a in model.alarms if a.kind == "posterior collapse"]
    assert "a smaller beta (now 100.0)" in found.remedy


def test_saturated_critic() -> None:
    model = pf.GAN(loss="minimax", relativistic=False, r1=0.0, r2=0.0, critic_steps=5, hidden=(32,), critic_hidden=(64, 64))
    (found,) = [a for a in model.fit(load_data("digits"), steps=200, **QUIET).alarms if a.kind == "saturated critic"]
    assert "r1=3" in found.remedy
    assert "The generator's gradient has norm" in found.says


def test_exploding_likelihood() -> None:
    g = np.random.default_rng(0)
    x = g.normal(size=(800, 2))
    assert pf.RealNVP(layers=4, hidden=(32,)).fit(load_data(x), steps=150, **QUIET).alarms == ()
    x[:, 1] = np.where(g.random(800) < 0.6, 0.0, x[:, 1])  # six in ten records are exactly 0
    found = pf.RealNVP(layers=4, hidden=(32, 32)).fit(load_data(x), steps=600, lr=5e-3, **QUIET).alarms
    assert "exploding likelihood" in kinds(found)


def test_overfitting() -> None:
    x = np.random.default_rng(0).normal(size=(120, 6))
    model = pf.MADE(hidden=(256, 256)).fit(load_data(x), steps=400, progress=False, batch_size=32)
    assert kinds(model.alarms) == ["overfitting"]
    assert "are kept" in model.alarms[0].says


class Burst(Gauss):
    name = "burst"

    def _objectives(self) -> tuple[Objective, ...]:
        def loss(batch: Batch) -> Loss:
            if batch.step == 5:
                with torch.no_grad():
                    self.rho.fill_(math.nan)
            return self._loss(batch)

        return (Objective("nll", [self], loss),)


def test_non_finite_names_its_origin(blobs: Data, tmp_path: Path) -> None:
    with pytest.raises(pf.Diverged, match="Parameter 'rho' was no longer finite"):
        Burst().fit(blobs, out=tmp_path / "a", steps=20, **QUIET)
    with pytest.raises(pf.Diverged, match="All parameters are finite .* 64 of 64 records of the batch"):
        Poisoned().fit(blobs, out=tmp_path / "b", steps=20, **QUIET)
    for folder, text in (("a", "Parameter 'rho'"), ("b", "term 'poison'")):
        (found,) = alarms_of(Run.open(tmp_path / folder))
        assert found.kind == "non-finite"
        assert text in found.says
        assert "lower lr" in found.remedy


def test_run_folder_tells_it(cloud: Data, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = Codebook(spread=30.0).fit(cloud, out=tmp_path / "run", steps=200, batch_size=64)
    run = Run.open(tmp_path / "run")
    assert alarms_of(run) == list(model.alarms)
    rows = [r for r in run.history() if "alarm" in r]
    assert [r["alarm"] for r in rows] == [
        "dead codebook",
        "dead codebook",
        "mode collapse",
    ]  # first and at the end; the samples are the entries, far from the records
    assert {"step", "seconds", "epoch", "says", "try"} <= set(rows[0])
    card = (tmp_path / "run" / "README.md").read_text()
    assert "## Warnings while training" in card
    assert "- **dead codebook**" in card
    assert capsys.readouterr().err.count("dead codebook.") == 1  # the terminal hears it once


class Recovers(Terms):
    name = "recovers"

    def _objectives(self) -> tuple[Objective, ...]:
        def loss(batch: Batch) -> Loss:
            return Loss(self._loss(batch).per_record, {"codebook usage": torch.tensor(0.1 if batch.progress < 0.5 else 0.9)})

        return (Objective("nll", [self], loss),)


def test_an_alarm_that_is_over_is_cleared(tmp_path: Path) -> None:
    data = load_data(np.random.default_rng(0).normal(size=(500, 2)))
    model = Recovers().fit(data, out=tmp_path / "run", steps=1500, lr=0.05, **QUIET)
    assert model.alarms == ()
    rows = [r for r in Run.open(tmp_path / "run").history() if "alarm" in r]
    assert [r.get("cleared", False) for r in rows] == [False, True]
    assert alarms_of(Run.open(tmp_path / "run")) == []


@pytest.mark.parametrize("kind", [Gauss, Duel])
@pytest.mark.parametrize("ema", [None, 0.9])
def test_weights_are_those_without_alarms(kind: type, ema: float | None, blobs: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    from pushforward.alarms import looks

    # Look at every row, whatever it costs.
    monkeypatch.setattr(looks.Looks, "due", lambda self, loop: True)
    looked = []
    whole = looks.Looks.look
    monkeypatch.setattr(looks.Looks, "look", lambda self, loop, last=False: looked.append(loop.step) or whole(self, loop, last))
    state = torch.get_rng_state()
    watched = kind().fit(blobs, steps=200, ema=ema, **QUIET)
    assert torch.equal(torch.get_rng_state(), state)
    assert len(looked) >= 4
    bare = kind().fit(blobs, steps=200, ema=ema, alarms=False, **QUIET)
    assert all(torch.equal(a, b) for a, b in zip(watched.state_dict().values(), bare.state_dict().values(), strict=True))


class Stop(Observer):
    def on_step(self, loop) -> None:
        if loop.step == 150:
            raise RuntimeError("power cut")


def test_resume_remembers_what_was_said(blobs: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pushforward import models

    monkeypatch.setattr(models, "catalog", lambda: {"codebook": Codebook})
    with pytest.raises(RuntimeError, match="power cut"):
        Codebook(spread=30.0).fit(blobs, out=tmp_path / "run", steps=200, checkpoint_every=0.0, observers=[Stop()], **QUIET)
    model = pf.resume(tmp_path / "run", blobs)
    assert "dead codebook" in kinds(model.alarms)
    # Said in the first part, and once more with the figures of the end.
    steps = [r["step"] for r in Run.open(tmp_path / "run").history() if r.get("alarm") == "dead codebook"]
    assert steps[0] < 150
    assert steps[1:] == [200]
