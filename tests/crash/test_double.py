"""SIGKILL at a call, then SIGKILL at a call of the recovery from it."""

from __future__ import annotations

import pytest

from tests.crash.campaigns import LONG, Campaigns
from tests.crash.scenarios import SCENARIOS
from tests.crash.test_kills import QUIET

pytestmark = [pytest.mark.crash, pytest.mark.campaign, pytest.mark.root]

LOUD = sorted(set(SCENARIOS) - QUIET)
PAIRS = -(-5_600 // len(LOUD))
"""Of each scenario, unless all are wanted: more than 5,000 together, however many there are."""


@pytest.mark.parametrize("scenario", LOUD)
def test_a_kill_of_the_recovery_loses_nothing(campaigns: Campaigns, scenario: str) -> None:
    """A recovery may be killed at any mutating call, and the next one still loses nothing."""
    result = campaigns.run("double", scenario, "--limit", "0" if LONG else str(PAIRS))
    assert result["pairs"] >= (result["possible"] * 9 // 10 if LONG else PAIRS * 7 // 8)
