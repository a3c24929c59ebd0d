"""What the crash campaigns need: the fault library, built once per test process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.crash import shim
from tests.crash.campaigns import Campaigns


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The preloaded library; where no compiler is, what needs it is skipped."""
    if shim.compiler() is None:
        pytest.skip("needs gcc, for the fault library")
    return shim.build(tmp_path_factory.mktemp("faultshim"))


@pytest.fixture
def campaigns(library: Path, record_property: Callable[[str, object], None]) -> Campaigns:
    """Runs campaigns as processes of their own."""
    return Campaigns(library, record_property)
