"""Kills and power cuts in adopts, releases and take-overs of trees of other programs."""

from __future__ import annotations

import pytest

from tests.crash.adoptions import VERBS
from tests.crash.campaigns import LONG, Campaigns

pytestmark = [pytest.mark.crash, pytest.mark.campaign, pytest.mark.root]

LIMIT = "0" if LONG else "12"
"""Points of each kind: before a call, after it, in the middle of it."""


@pytest.mark.parametrize("verb", VERBS)
def test_a_kill_of_an_adopt_touches_nothing(campaigns: Campaigns, verb: str) -> None:
    """At any mutating call: the tree is as it was, and the same command does the rest."""
    result = campaigns.run("adoptions", f"docker-{verb}", "--limit", LIMIT)
    assert result["points"] > 20


@pytest.mark.parametrize("verb", ["first", "again", "release"])
def test_a_kill_beside_a_graph_root_touches_nothing(campaigns: Campaigns, verb: str) -> None:
    """The same of a tree of podman's, whose index is in a directory beside it."""
    result = campaigns.run("adoptions", f"podman-{verb}", "--limit", LIMIT)
    assert result["points"] > 20


CUTS = 5
"""Points, or states of a disk, in the short form."""
MANY = "0" if LONG else str(CUTS)


@pytest.mark.parametrize(
    "scenario",
    ["docker-first:ext4", "docker-again:xfs", "docker-release:ext4", "podman-first:ext4"],
)
def test_a_power_cut_of_an_adopt_touches_nothing(campaigns: Campaigns, scenario: str) -> None:
    """The power goes in front of any call: as with a kill, and what was acknowledged stands."""
    result = campaigns.run("adoptions-cut", scenario, "--limit", MANY)
    assert result["points"] >= CUTS


@pytest.mark.parametrize(
    "scenario", ["docker-first:btrfs", "podman-release:ext4", "docker-take-over:ext4"]
)
def test_no_state_of_the_disk_touches_the_tree(campaigns: Campaigns, scenario: str) -> None:
    """The same of whatever a disk kept of its last writes."""
    result = campaigns.run("adoptions-blocks", scenario, "--limit", MANY)
    assert result["points"] >= CUTS
