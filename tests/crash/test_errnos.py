"""Every mutating call of every verb fails, and the store says so and loses nothing."""

from __future__ import annotations

import pytest

from tests.crash import campaigns as settings
from tests.crash.campaigns import Campaigns
from tests.crash.scenarios import LONG, SCENARIOS

pytestmark = [pytest.mark.crash, pytest.mark.root]

SHORT = (
    *("initialize", "rebuild", "adopt-copy", "import"),
    *("open-dead", "open-lost-intents", "open-suspect", "open-new-kernel", "close-holding"),
    *("create-sync-parent", "create-read-write", "apply-child", "remove-mounted"),
    *("get-draining", "put-last-name", "cleanup", "release", "compact-again"),
)
"""One way of each verb; the long form takes all of them."""
EXPECTED = {"create-collides", "create-usurped", "compact-automatic", "life"}
"""These wait for a certain error, or write files of their own; the verbs in them are in others."""
REFUSED = {name for name in SCENARIOS if name.endswith("-refused")}
EVERY = {*SCENARIOS, *LONG} - EXPECTED - REFUSED


@pytest.mark.campaign
@pytest.mark.parametrize("scenario", sorted(EVERY) if settings.LONG else SHORT)
def test_a_call_that_fails_says_so_and_loses_nothing(campaigns: Campaigns, scenario: str) -> None:
    """Each call fails with one of ten errors, once or from then on: a clear error, nothing lost."""
    result = campaigns.run("errnos", scenario)
    assert 0 < result["points"] == result["possible"]
