"""Stops and kills in repairs, in the recovery from them, and in the repair after that."""

from __future__ import annotations

import pytest

from tests.crash.campaigns import LONG, Campaigns
from tests.crash.repairs import REPAIRS

pytestmark = [pytest.mark.crash, pytest.mark.campaign, pytest.mark.root]


@pytest.mark.parametrize("scenario", sorted(REPAIRS))
def test_a_kill_in_a_repair_loses_nothing(campaigns: Campaigns, scenario: str) -> None:
    """A process may be killed at any mutating call of a repair: it is repaired again, and whole."""
    result = campaigns.run("kills", scenario)
    assert result["points"] > 0
    assert result["points"] == result["kills"]


@pytest.mark.parametrize("scenario", sorted(REPAIRS))
def test_a_kill_in_the_repair_of_a_repair_loses_nothing(
    campaigns: Campaigns, scenario: str
) -> None:
    """Recovery and the repair after it may be killed at any call, and the next still lose nothing."""
    limit = 24
    result = campaigns.run("double", scenario, "--limit", "0" if LONG else str(limit))
    assert result["pairs"] >= (result["possible"] * 9 // 10 if LONG else limit // 2)
