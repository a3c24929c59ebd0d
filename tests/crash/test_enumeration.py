"""Stopping at every trace point, of each verb and of each recovery from it."""

from __future__ import annotations

import pytest

from tests.crash.campaigns import Campaigns
from tests.crash.scenarios import SCENARIOS

pytestmark = [pytest.mark.crash, pytest.mark.campaign, pytest.mark.root]

WITHOUT = {
    "apply-refused",
    "initialize",
    "open-close",
    "rebuild",
    "rebuild-mounted",
    "create-refused",
    "get-more-own",
    "get-more-name",
    "get-base",
    "put-not-last",
    "put-base",
    "put-refused",
    "remove-refused",
}
"""They are one transaction, or none, or make the store itself: no step, hence no point."""


@pytest.mark.parametrize("scenario", sorted(set(SCENARIOS) - WITHOUT))
def test_a_stop_at_any_point_loses_nothing(campaigns: Campaigns, scenario: str) -> None:
    """A process may stop at any trace point, and its recovery at any of its own, without loss."""
    result = campaigns.run("enumerate", scenario)
    assert result["points"] > 0
    assert result["again"] >= result["points"] // 2
