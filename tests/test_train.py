"""The training loop against what is known of it: bits, budgets, averages, errors."""

import json
import math
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from toys import Duel, Gauss, Poisoned, Uneven

import pushforward as pf
from pushforward.data import Data, load_data
from pushforward.objective import Loss, Objective, Observer, Training
from pushforward.store import Run

QUIET = {"progress": False, "batch_size": 32}


@pytest.fixture(scope="module")
def data() -> Data:
    return load_data(np.random.default_rng(0).normal([3.0, -1.0], [2.0, 0.5], (500, 2)).astype(np.float32))


def weights(model: torch.nn.Module) -> list[torch.Tensor]:
    return [t.clone() for t in model.state_dict().values()]


def same(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(weights(a), weights(b), strict=True))


def test_reaches_the_maximum_likelihood(data: Data) -> None:
    model = Gauss().fit(data, steps=600, schedule="cosine", **QUIET)
    # The mean log-density of a fitted Gaussian is minus its entropy; 600 decaying steps of 0.05 end within 1e-2 of the optimum, where the
    # likelihood is flat: the remaining loss is quadratic in that, below 1e-3 nats per dimension.
    x = data.train.records()
    entropy = sum(math.log(s * math.sqrt(2 * math.pi * math.e)) for s in x.std(0))
    assert float(model.log_prob(data.train).mean()) == pytest.approx(-entropy, abs=2e-3)


def test_bare_loop_gives_the_same_weights(data: Data) -> None:
    """Fabric, objectives and observers around it change no bit of what a plain PyTorch loop computes."""
    model = Gauss().fit(data, steps=20, validate_every=1000, **QUIET)
    bare = Gauss().build(data.spec)
    optimizer = torch.optim.Adam(bare.parameters(), lr=0.05, fused=True)
    order = torch.Generator().manual_seed(1)
    x, done = data.train.tensor(), 0
    while done < 20:
        for index in torch.randperm(len(x), generator=order)[: len(x) // 32 * 32].split(32):
            if done < 20:
                z = (x[index] - bare.mu) * torch.exp(-bare.rho)
                loss = (0.5 * z.square().sum(1) + (bare.rho.sum() + math.log(2 * math.pi)).expand(32)).mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                done += 1
    best = Gauss().fit(data, steps=20, validate_every=20, **QUIET)
    assert same(bare, best)
    assert same(model, best)


def test_players_have_their_own_optimisers_boxes_and_shared_batches(data: Data) -> None:
    """The bits of a plain loop with one SGD, a second player on the first one's batch, clamped after its step, and Adam for the rest."""
    model = Uneven().fit(data, steps=20, schedule="cosine", **QUIET)
    bare = Uneven().build(data.spec)
    first = torch.optim.SGD([bare.first], lr=0.5, fused=True)
    second, third = (torch.optim.Adam([p], lr=0.05, fused=True) for p in (bare.second, bare.third))
    order = torch.Generator().manual_seed(1)
    x = data.train.tensor()
    source = (x[i] for _ in range(9) for i in torch.randperm(len(x), generator=order)[: len(x) // 32 * 32].split(32))
    for done in range(20):
        a, b = next(source), next(source)
        for p, batch, optimizer, lr in ((bare.first, a, first, 0.5), (bare.second, a, second, 0.05), (bare.third, b, third, 0.05)):
            optimizer.param_groups[0]["lr"] = lr * 0.5 * (1 + math.cos(math.pi * done / 20))
            optimizer.zero_grad()
            (batch + 1 - p).square().sum(1).mean().backward()
            optimizer.step()
            with torch.no_grad():
                bare.second.clamp_(-Uneven.BOX, Uneven.BOX)
    assert same(model, bare)
    assert bare.second.detach().abs().tolist() == pytest.approx([Uneven.BOX] * 2)  # the box was felt


def test_an_epoch_counts_the_batches_that_are_taken(data: Data) -> None:
    class Count(Observer):
        step = 0

        def on_end(self, loop) -> None:
            self.step = loop.step

    count = Count()
    Uneven().fit(data, epochs=3, observers=[count], **QUIET)
    assert count.step == 3 * (len(data.train) // (2 * 32))  # two of three players take one


@pytest.mark.parametrize("players", [[{"fresh": False}], [{}, {"fresh": False, "steps": 2}]], ids=["first", "several steps"])
def test_a_batch_that_is_not_there_cannot_be_shared(players: list[dict], data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    loss = lambda batch: Loss(batch.x.sum(1))
    monkeypatch.setattr(Gauss, "_objectives", lambda self: tuple(Objective(str(i), [self], loss, **p) for i, p in enumerate(players)))
    with pytest.raises(
        pf.ConfigError, match=r"first objective of a round needs a batch of its own, and so does one of several steps: fresh"
    ):
        Gauss().fit(data, steps=1, **QUIET)


def test_an_impossible_setting_of_a_player_is_named(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    objective = Objective("nll", [], lambda batch: Loss(batch.x.sum(1)), settings={"learning_rate": 1.0})
    monkeypatch.setattr(Gauss, "_objectives", lambda self: (objective,))
    with pytest.raises(pf.ConfigError, match="no setting 'learning_rate'"):
        Gauss().fit(data, steps=1, **QUIET)


class Stop(Observer):
    def __init__(self, step: int, how: str = "raise"):
        self.step, self.how = step, how

    def on_step(self, loop) -> None:
        if loop.step == self.step:
            if self.how == "raise":
                raise RuntimeError("power cut")
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("kind", [Gauss, Duel, Uneven])
@pytest.mark.parametrize("extra", [{}, {"ema": 0.9}, {"optimizer": "sgd"}, {"schedule": "cosine", "warmup": 5, "clip": 0.1}])
def test_resume_is_bit_exact(kind: type, extra: dict, data: Data, tmp_path: Path, toys_registered: None) -> None:
    settings = {"steps": 40, "validate_every": 6, "checkpoint_every": 0.0, **QUIET, **extra}
    whole = kind().fit(data, **settings)
    with pytest.raises(RuntimeError, match="power cut"):
        kind().fit(data, out=tmp_path / "run", observers=[Stop(23)], **settings)
    assert same(pf.resume(tmp_path / "run", data), whole)


def test_resume_without_a_checkpoint_starts_again(data: Data, tmp_path: Path, toys_registered: None, capsys) -> None:
    settings = {"steps": 10, "checkpoint_every": 1e9, **QUIET}
    with pytest.raises(RuntimeError, match="power cut"):
        Gauss().fit(data, out=tmp_path / "run", observers=[Stop(3)], **settings)
    assert same(pf.resume(tmp_path / "run", data), Gauss().fit(data, **settings))
    assert "starting from the beginning" in capsys.readouterr().err


def test_interrupt_saves_and_says_how_to_go_on(data: Data, tmp_path: Path, toys_registered: None, capsys) -> None:
    settings = {"steps": 50, "checkpoint_every": 1e9, **QUIET}
    with pytest.raises(KeyboardInterrupt):
        Gauss().fit(data, out=tmp_path / "run", observers=[Stop(17, "signal")], **settings)
    assert f"pushforward resume {tmp_path / 'run'}" in capsys.readouterr().err
    found = Run.open(tmp_path / "run").read_checkpoint()
    assert found is not None
    assert found[1]["step"] == 17
    assert same(pf.resume(tmp_path / "run", data), Gauss().fit(data, **settings))


def test_finished_run_asks_for_a_larger_total(data: Data, tmp_path: Path, toys_registered: None) -> None:
    settings = {"validate_every": 5, **QUIET}
    Gauss().fit(data, out=tmp_path / "run", steps=10, **settings)
    with pytest.raises(pf.RunError, match="finished its budget.*larger total"):
        pf.resume(tmp_path / "run", data)
    assert same(pf.resume(tmp_path / "run", data, steps=20), Gauss().fit(data, steps=20, **settings))


def test_other_data_are_refused(data: Data, tmp_path: Path, toys_registered: None) -> None:
    with pytest.raises(RuntimeError):
        Gauss().fit(data, out=tmp_path / "run", steps=10, observers=[Stop(3)], **QUIET)
    other = load_data(np.random.default_rng(1).normal(size=(500, 2)).astype(np.float32))
    with pytest.raises(pf.RunError, match="not those that"):
        pf.resume(tmp_path / "run", other)


def test_non_finite_loss_names_term_step_and_remedy(data: Data, tmp_path: Path, toys_registered: None) -> None:
    with pytest.raises(
        pf.Diverged, match=r"nll: term 'poison' is not finite at step 7.*lower lr \(now 0.05\).*clip=1.*last good checkpoint"
    ):
        Poisoned().fit(data, out=tmp_path / "run", steps=20, checkpoint_every=0.0, **QUIET)
    found = Run.open(tmp_path / "run").read_checkpoint()
    assert found is not None
    assert found[1]["step"] == 7
    assert all(torch.isfinite(t).all() for k, t in found[0].items() if k.startswith("model."))


def test_a_diverging_players_own_learning_rate_is_named(monkeypatch):
    def explode(where, batch):
        return Loss(torch.full((len(batch),), float("nan") if where is model.first and batch.step >= 3 else 0.0) * where.sum())

    model = Uneven()
    monkeypatch.setattr(model, "_loss", explode)
    with pytest.raises(pf.Diverged, match=r"first is not finite at step 3.*lower lr \(now 0.5\)"):
        model.fit(torch.randn(200, 2, generator=torch.Generator().manual_seed(0)), steps=6, batch_size=32, progress=False, alarms=False)


def test_budgets(data: Data) -> None:
    class Count(Observer):
        step, minutes = 0, 0.0

        def on_end(self, loop) -> None:
            self.step, self.minutes = loop.step, loop.seconds / 60

    count = Count()
    Gauss().fit(data, epochs=2, observers=[count], **QUIET)
    assert count.step == 2 * (len(data.train) // 32)
    Gauss().fit(data, minutes=0.005, observers=[count], **QUIET)
    assert 0.005 <= count.minutes < 0.05


def test_early_stopping_keeps_the_best_weights(data: Data) -> None:
    class Count(Observer):
        step, best = 0, 0.0

        def on_end(self, loop) -> None:
            self.step, self.best = loop.step, loop.best_value

    count = Count()
    model = Gauss().fit(data, steps=100_000, validate_every=10, patience=3, observers=[count], **QUIET)
    assert count.step < 10_000
    log_det = data.schema.log_det
    assert -float(model.log_prob(data.validation).mean()) + log_det == pytest.approx(count.best, abs=1e-4)


def test_ema_is_the_average_of_the_weights(data: Data) -> None:
    seen: list[list[torch.Tensor]] = []

    class Keep(Observer):
        def on_step(self, loop) -> None:
            seen.append(weights(loop.model))

    start = weights(Gauss().build(data.spec))
    model = Duel().fit(data, steps=3, ema=0.5, observers=[Keep()], **QUIET)
    average = weights(Duel().build(data.spec))
    del start
    for step, now in enumerate(seen, 1):
        decay = min(0.5, (1 + step) / (10 + step))
        average = [decay * a + (1 - decay) * w for a, w in zip(average, now, strict=True)]
    for a, w in zip(average, weights(model), strict=True):
        torch.testing.assert_close(a, w)


def test_history_holds_every_named_term(data: Data, tmp_path: Path) -> None:
    Gauss().fit(data, out=tmp_path / "run", steps=60, validate_every=30, **QUIET)
    rows = [json.loads(line) for line in (tmp_path / "run" / "history.jsonl").read_text().splitlines()]
    train, held = [r for r in rows if "loss" in r], [r for r in rows if "validation/loss" in r]
    assert len(held) == 2
    for row in train:
        assert row["loss"] == pytest.approx(row["square"] + row["volume"], rel=1e-5)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"stepz": 3}, "no setting 'stepz'. Did you mean 'steps'"),
        ({"lr": -1.0}, "lr must be above 0"),
        ({"batch_size": 4096}, "fewer than batch_size=4096. Give batch_size="),
    ],
)
def test_bad_settings(settings: dict, text: str, data: Data) -> None:
    with pytest.raises(pf.PushforwardError, match=text):
        Gauss().fit(data, steps=1, progress=False, **settings)


def test_precision_and_compile_options(data: Data) -> None:
    assert Gauss().fit(data, steps=3, precision="64", **QUIET).dtype == torch.float64
    assert torch.isfinite(Gauss().fit(data, steps=3, precision="bf16", **QUIET).mu).all()


def test_games_are_not_compiled(data: Data) -> None:
    with pytest.raises(pf.ConfigError, match="one objective: torch.compile makes no second derivatives"):
        Duel().fit(data, steps=3, compile=True, **QUIET)


def test_json_round_trip() -> None:
    training = Training(steps=3, betas=(0.5, 0.9))
    assert Training.from_json(json.loads(json.dumps(training.to_json()))) == training


def test_two_processes_equal_one(tmp_path: Path) -> None:
    """The same global batch on two gloo processes gives the losses of one process, for both players of a game."""
    script = tmp_path / "two.py"
    script.write_text(
        textwrap.dedent(f"""
        import os, sys; sys.path.insert(0, {str(Path(__file__).parent)!r})
        import numpy as np, torch; torch.set_num_threads(1)
        from toys import Duel, Gauss
        from pushforward.data import load_data
        data = load_data(np.random.default_rng(0).normal(size=(400, 2)).astype(np.float32))
        for kind in (Gauss, Duel):
            kw = dict(accelerator="cpu", devices=int(sys.argv[1]), strategy="ddp") if sys.argv[1] != "1" else {{}}
            model = kind().fit(data, steps=12, batch_size=32, progress=False, validate_every=6, **kw)
            if os.environ.get("RANK", "0") == "0":  # the lines of two processes may run into each other
                print(kind.name, *[f"{{v:.9f}}" for t in model.state_dict().values() for v in t.flatten().tolist()])
        """)
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    one = subprocess.run([sys.executable, str(script), "1"], capture_output=True, text=True, env=environment, check=True).stdout
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone", str(script), "2"]
    two = subprocess.run(launch, capture_output=True, text=True, env=environment, check=False)
    assert two.returncode == 0, two.stderr[-2000:]
    for name in ("gauss", "duel"):
        a, b = (next(line for line in text.splitlines() if line.startswith(name)).split()[1:] for text in (one, two.stdout))
        # Averaging two half-batch means and one whole-batch mean differ by rounding: a few float32 ulps a step, 12 steps.
        np.testing.assert_allclose(np.array(a, float), np.array(b, float), atol=2e-6)


@pytest.mark.parametrize(("steps", "judged"), [(3, 500), (2000, 960), (10_000, 2000)])
def test_a_short_run_validates_on_few_records(steps: int, judged: int) -> None:
    """1.5 % of the records that training visits (2,000 steps of 32: 960), never fewer than 500, never more than there are."""
    from pushforward.engine import judges

    data = load_data(np.random.default_rng(0).normal(size=(4000, 2)).astype(np.float32), validation=2000)
    model = Gauss().build(data.spec)
    seen = type("Seen", (), {"total": steps, "training": Training(batch_size=32), "objectives": model._objectives(), "data": data})()
    assert judges(seen, 1.0) == judged  # type: ignore[arg-type]
    if steps == 3:
        sizes: list[int] = []
        loss = model._loss
        model._loss = lambda batch: (sizes.append(len(batch)), loss(batch))[1]  # type: ignore[method-assign]
        model.fit(data, steps=steps, validate_every=3, alarms=False, **QUIET)
        assert sum(s for s in sizes if s != 32) == judged
