"""Several processes on one home, of which one is killed again and again."""

from __future__ import annotations

import pytest

from tests.crash.campaigns import LONG, Campaigns

pytestmark = [pytest.mark.crash, pytest.mark.root]


@pytest.mark.parametrize("run", range(10 if LONG else 1))
def test_the_death_of_one_touches_nothing_of_the_others(campaigns: Campaigns, run: int) -> None:
    """While one process dies at random, what the others hold stays, and nothing said is lost."""
    result = campaigns.run("living", "crowd", "--limit", "60" if LONG else "5", "--kills", "60")
    assert result["kills"] >= 60
    assert result["points"] >= 10, "hardly anything was in flight when it died"


@pytest.mark.campaign
def test_many_die_among_many(campaigns: Campaigns) -> None:
    """Of 128 processes at once hundreds are killed, and at the end every count is exact."""
    seconds, kills = ("600", "6000") if LONG else ("10", "600")
    result = campaigns.run(
        "living", "crowd", "--workers", "128", "--limit", seconds, "--kills", kills
    )
    assert result["kills"] >= int(kills)
    assert result["points"] >= 200, "hardly anything was in flight when they died"
    assert result["calls"]["verbs"] >= 5000, "hardly anything was done"
