"""Shared by all tests: one thread, one seed, and annotations of shape that are checked as the code runs."""

import atexit
import os
import shutil
import tempfile

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
# Learned features are made once for all tests of a run, and never in the user's own cache.
if "PUSHFORWARD_CACHE" not in os.environ:
    os.environ["PUSHFORWARD_CACHE"] = tempfile.mkdtemp(prefix="pushforward-tests-")
    atexit.register(shutil.rmtree, os.environ["PUSHFORWARD_CACHE"], ignore_errors=True)

import pytest
import torch
from jaxtyping import install_import_hook

# Before anything imports the package: shapes in annotations are checked in tests, and cost users nothing. Only the mathematics has shapes;
# elsewhere beartype cannot follow typing.Self, which jaxtyping hands it method by method.
_SHAPED = ("bijections", "data.features", "likelihoods", "metrics", "nn", "noise", "samplers")
install_import_hook([f"pushforward.{name}" for name in _SHAPED], "beartype.beartype")

torch.set_num_threads(1)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", default="cpu", help="device on which models are tested: cpu, cuda, mps")
    parser.addoption("--dtype", default="float32", choices=["float32", "float64"], help="floating type of the models under test")


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> torch.device:
    return torch.device(request.config.getoption("--device"))


@pytest.fixture(scope="session")
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    return getattr(torch, request.config.getoption("--dtype"))


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def toys_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """The toy models in the catalog, as an installed package would put them there."""
    import toys

    from pushforward import models

    monkeypatch.setattr(models, "catalog", lambda: {m.name: m for m in (toys.Gauss, toys.Poisoned, toys.Duel, toys.Uneven)})
