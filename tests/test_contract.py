"""The contract suite over every model that discovery finds: a new file in `models/` cannot escape it."""

import pytest

from pushforward.models import catalog
from pushforward.testing import CHECKS


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("name", catalog())
def test_contract(name: str, check: str) -> None:
    CHECKS[check](catalog()[name])
