"""The contract suite: what every model must keep, whoever wrote it.

`check_model(MyModel)` runs all checks on a class (or a function that makes instances) and raises `AssertionError`
naming the promise that was broken. Packages that register models under the entry point `pushforward.models` can call
it from their own tests.
"""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .data import Data, load_data
from .errors import DataError, NotFitted, Unsupported
from .model import ClosedFormModel, GradientModel, Model
from .models import load, resume
from .objective import Batch, Observer
from .rng import Rng

__all__ = ["CHECKS", "check_model", "example_data"]

Make = Callable[[], Model]
SETTINGS: dict[str, Any] = {"steps": 6, "batch_size": 32, "progress": False, "validate_every": 4}
"""Enough training for a promise to break in, little enough to run over every model."""


def _settings(**changed: Any) -> dict[str, Any]:
    return {**SETTINGS, **changed}


def example_data() -> dict[str, Data]:
    """Small labelled data sets of each kind: points, a mixed table, grey images of few levels, short texts and pieces of music."""
    import pandas as pd

    random = np.random.default_rng(0)
    label = random.integers(0, 2, 160)
    points = random.normal(size=(160, 2)) + 3 * label[:, None]
    table = pd.DataFrame(
        {"size": points[:, 0], "kind": np.array(["a", "b", "c"])[random.integers(0, 3, 160)], "count": random.integers(0, 9, 160)}
    )
    images = (random.integers(0, 3, (160, 6, 5)) + label[:, None, None]).astype(np.uint8)
    texts = ["".join(random.choice(list("ab" if y else "bc"), random.integers(3, 8))) for y in label]
    pieces = [[sorted({60 + 4 * y, int(note)}) for note in random.integers(60, 72, random.integers(3, 7))] for y in label.tolist()]
    return {
        "points": load_data(points.astype(np.float32), label=label),
        "table": load_data(table, label=label),
        "images": load_data(images, label=label, support="levels"),
        "text": load_data(texts, label=label),
        "music": load_data(pieces, label=label),
    }


def _accepted(make: Make) -> Iterator[tuple[str, Data]]:
    for kind, data in example_data().items():
        model = make()
        if model.accepts(data.schema.spec) is None and (data.spec.kind != "sequence" or model.takes_sequences):
            yield kind, data


def _outputs(model: Model, data: Data, **kw: Any) -> list[torch.Tensor]:
    """What the model says of the data: samples, log-probabilities and codes, as tensors."""
    condition = {"condition": data.train.labels()[:5]} if kw else {}
    found = [data.schema.encode(model.sample(5, seed=3, **condition))] if model.supports("sample") else []
    if model.supports("log_prob"):
        found.append(model.log_prob(data.test, seed=4))
    if model.supports("encode"):
        found.append(model.encode(data.test))
    return found


def _same(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def _raises(error: type[Exception], word: str, call: Callable[[], Any], otherwise: str) -> None:
    """Assert that `call` raises `error` with `word` in its text."""
    try:
        call()
    except error as caught:
        if word not in str(caught):
            raise AssertionError(f"the message does not name {word!r}: {caught}") from caught
    else:
        raise AssertionError(otherwise)


def check_same_seed_same_bits(make: Make) -> None:
    """Two fits with one seed agree to the last bit, and leave the global random state alone."""
    kind, data = next(_accepted(make))
    state = torch.get_rng_state()
    a, b = make().fit(data, **SETTINGS), make().fit(data, **SETTINGS)
    assert torch.equal(state, torch.get_rng_state()), "fit changed torch's global random state"
    assert _same(list(a.state_dict().values()), list(b.state_dict().values())), f"two fits of {kind} with one seed differ"
    assert _same(_outputs(a, data), _outputs(b, data)), "one seed gave two samples or log-probabilities"
    other = make().fit(data, **SETTINGS, seed=1)
    assert not _same(list(a.state_dict().values()), list(other.state_dict().values())), "the seed changes nothing"


def check_every_kind(make: Make) -> None:
    """On each kind of data that the model accepts: valid samples, finite log-probabilities, codes of the right shape."""
    for kind, data in _accepted(make):
        model = make().fit(data, **SETTINGS)
        if model.supports("sample"):
            data.schema.encode(model.sample(4, seed=0))  # raises when a value is outside its support
        if model.supports("log_prob"):
            log_prob = model.log_prob(data.test)
            assert log_prob.shape == (len(data.test),), f"log_prob of {kind} has shape {tuple(log_prob.shape)}"
            assert torch.isfinite(log_prob).all(), f"log_prob of {kind} is not finite"
            assert model.density != "none", "a model with log_prob must say what kind of number it is"
            if data.schema.spec.discrete and model.density == "exact":
                assert (log_prob <= 1e-6).all(), f"a probability of {kind} is above 1"
        if model.supports("encode"):
            z = model.encode(data.test)
            assert z.shape[:1] == (len(data.test),), f"codes of {kind} have shape {tuple(z.shape)}"
            assert z.ndim == 2
            if model.supports("decode"):
                data.schema.encode(model.decode(z))


def check_records_stay(make: Make) -> None:
    """log_prob and encode leave the records that they are given as they were: they see the user's own memory."""
    for kind, data in _accepted(make):
        model = make().fit(data, **SETTINGS)
        x = data.test.tensor(model.dtype).to(model.device)
        before, rest = x.clone(), {"log_prob": (Rng.seeded(0, x),), "encode": ()}
        for verb, more in rest.items():
            if model.supports(verb):
                with torch.no_grad():
                    model._hook(verb)(x, None, *more)
                assert torch.equal(x, before), f"{verb} changed its {kind}"


def check_save_load(make: Make) -> None:
    """A saved model reloads to identical outputs."""
    for kind, data in _accepted(make):
        model = make().fit(data, **SETTINGS)
        with tempfile.TemporaryDirectory() as folder:
            again = load(model.save(Path(folder) / "run"))
        assert again.describe() == model.describe()
        assert _same(_outputs(model, data), _outputs(again, data)), f"{kind}: outputs differ after save and load"


def check_gradients(make: Make) -> None:
    """Every parameter of every objective receives a gradient."""
    for kind, data in _accepted(make):
        model = make().fit(data, **_settings(steps=1))
        if not isinstance(model, GradientModel):
            return
        for objective in model._objectives():
            x, _ = data.train.batch(torch.arange(32), Rng.seeded(0))
            loss = objective.loss(Batch(x, None, torch.arange(32), Rng.seeded(1)))
            model.zero_grad(set_to_none=True)
            loss.per_record.mean().backward()
            mine = {id(p) for p in objective.parameters()}
            for name, p in model.named_parameters():
                if id(p) in mine:
                    assert p.grad is not None, f"{kind}: {name} gets no gradient from {objective.name!r}"
            assert loss.per_record.shape in ((32,), ()), f"the loss of {objective.name!r} has shape {tuple(loss.per_record.shape)}"


class _Stop(Observer):
    """Breaks training off at a step, as a crash would: nothing is saved on the way out."""

    def __init__(self, step: int):
        self.step = step

    def on_step(self, loop: Any) -> None:
        if loop.step == self.step:
            raise RuntimeError("stopped on purpose")


def check_resume(make: Make) -> None:
    """Interrupted and resumed equals uninterrupted, bit for bit."""
    _, data = next(_accepted(make))
    if isinstance(make(), ClosedFormModel):
        return
    settings = SETTINGS | {"steps": 9, "checkpoint_every": 0.0}
    whole = make().fit(data, **settings)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        _raises(RuntimeError, "on purpose", lambda: make().fit(data, out=out, observers=[_Stop(5)], **settings), "training did not stop")
        torch.rand(3)  # other work between the two must not matter
        again = resume(out, data)
    for (name, a), b in zip(whole.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(a, b), f"{name} differs after resume"


def check_float64(make: Make) -> None:
    """The model works in double precision."""
    _, data = next(_accepted(make))
    model = make().fit(data, **SETTINGS).double()
    if model.supports("sample"):
        model.sample(3, seed=0)
    if model.supports("encode"):
        assert model.encode(data.test).dtype == torch.float64
    if model.supports("log_prob"):
        assert model.log_prob(data.test).dtype == torch.float64
    if isinstance(model, GradientModel):
        make().fit(data, **_settings(precision="64"))


def check_condition(make: Make) -> None:
    """A conditional model needs its condition, and another condition gives another answer."""
    for kind, data in _accepted(make):
        model = make().fit(data, condition=True, **_settings(steps=40))
        records = data.test.records()
        without = (lambda m=model: m.sample(2)) if model.supports("sample") else (lambda m=model, r=records: m.encode(r))
        _raises(DataError, "condition", without, "a conditional model sampled (or encoded) without a condition")
        classes = sorted(set(data.train.labels()))
        if model.supports("log_prob"):
            figures = [model.log_prob(data.test, condition=c, seed=0) for c in classes[:2]]
        elif model.supports("sample"):
            figures = [data.schema.encode(model.sample(64, condition=c, seed=0)).double() for c in classes[:2]]
        else:
            figures = [model.encode(records, condition=c) for c in classes[:2]]
        assert not torch.equal(*figures), f"{kind}: the condition changes nothing"


def check_bad_input(make: Make) -> None:
    """Every verb answers bad input with a typed error that names the remedy."""
    kind, data = next(_accepted(make))
    fresh = make()
    for verb in ("sample", "log_prob", "encode"):
        arguments = [] if verb == "sample" else [data.test]
        _raises(NotFitted, "fit", lambda v=verb, a=arguments: getattr(fresh, v)(*a), f"{verb} of an unfitted model raised nothing")
    model = make().fit(data, **SETTINGS)
    for verb in ("log_prob", "encode"):
        if model.supports(verb):
            _raises(
                DataError,
                "shape",
                lambda v=verb: getattr(model, v)(np.zeros((3, 11, 13), np.float32)),
                f"{verb} accepted {kind} of the wrong shape",
            )
        else:
            _raises(Unsupported, ":", lambda v=verb: getattr(model, v)(data.test), f"{verb} is not supported, yet raised nothing")
    answers = (lambda: model.sample(2, condition=0)) if model.supports("sample") else lambda: model.encode(data.test.records(), condition=0)
    _raises(DataError, "condition", answers, "an unconditional model accepted a condition")


def check_complete(make: Make) -> None:
    """A model that completes records keeps what is known, and draws all where nothing is; the same seed gives the same bits."""
    for kind, data in _accepted(make):
        model = make()
        if not model.supports("complete"):
            return
        model = make().fit(data, **SETTINGS)
        x = data.test[:5].tensor()
        whole, nothing = (torch.full(x.shape[1:], known) for known in (True, False))
        hook = model._hook("complete")
        with torch.no_grad():
            kept, drawn, again = (hook(x, known, None, Rng.seeded(seed)) for known, seed in ((whole, 0), (nothing, 0), (nothing, 0)))
        assert torch.equal(kept, x), f"{kind}: a known entry was changed"
        assert torch.equal(drawn, again), f"{kind}: one seed gave two completions"
        data.schema.encode(data.schema.decode(drawn))  # raises when a value is outside its support


CHECKS: dict[str, Callable[[Make], None]] = {
    name.removeprefix("check_"): check for name, check in list(globals().items()) if name.startswith("check_")
}


def check_model(make: Make) -> None:
    """Run every check on the models that `make` makes (a class will do). Raises `AssertionError` naming the broken promise."""
    for check in CHECKS.values():
        check(make)
