"""Shared by all tests: one thread, one seed, and annotations of shape that are checked as the code runs."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")

import pytest
import torch
from jaxtyping import install_import_hook

# Before anything imports the package: shapes in annotations are checked in tests, and cost users nothing.
install_import_hook("pushforward", "beartype.beartype")

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
