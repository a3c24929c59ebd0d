"""Threads whose writes share a transaction, in a process that is killed in the middle of it."""

from __future__ import annotations

import pytest

from tests.crash.campaigns import Campaigns

pytestmark = [pytest.mark.crash, pytest.mark.campaign, pytest.mark.root]


def test_a_kill_in_a_group_loses_nothing_acknowledged(campaigns: Campaigns) -> None:
    """What a thread was told is there, whichever point of the common transaction the kill met."""
    result = campaigns.run("together", "threads")
    assert result["kills"] >= 60
    for point in ("part:before", "part:after", "commit:before", "commit:after"):
        assert result["calls"][f"group:{point}"] >= 3, result["calls"]
