"""One call fails and nobody dies: I/O errors from syncs and writes, and a full disk."""

from __future__ import annotations

import pytest

from tests.crash.campaigns import Campaigns

pytestmark = [pytest.mark.crash, pytest.mark.campaign, pytest.mark.root]

SCENARIOS = (
    "create-sync-parent",
    "life",
    "open-dead",
    "open-suspect",
    "put-last-name",
    "remove-mounted",
)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_call_that_fails_loses_nothing(campaigns: Campaigns, scenario: str) -> None:
    """After an I/O error or a full disk at some calls, all that was acknowledged is there."""
    assert campaigns.run("failures", scenario, "--limit", "30")["points"] > 0
