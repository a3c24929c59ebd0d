"""Controls: a sweep that does not catch a broken protocol proves nothing about a whole one."""

from __future__ import annotations

import pytest

from tests.crash.campaigns import Campaigns
from tests.crash.mutants import MUTANTS

pytestmark = [pytest.mark.crash, pytest.mark.campaign, pytest.mark.root]


@pytest.mark.parametrize("name", sorted(MUTANTS))
def test_a_broken_protocol_is_caught(campaigns: Campaigns, name: str) -> None:
    """A sweep catches this change of the protocol, which is harmless as long as nobody dies."""
    mutant = MUTANTS[name]
    result = campaigns.run("mutant", mutant.scenario, "--mutant", name)
    assert result["caught"], f"nothing caught that {mutant.what}"
    assert mutant.always == result["caught"].startswith("without a kill")
