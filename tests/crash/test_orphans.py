"""Kills and power cuts in the removal of orphans, in the way back, and in the end of them."""

from __future__ import annotations

import pytest

from tests.crash.campaigns import LONG, Campaigns
from tests.crash.orphans import MUTANTS, TREES, VERBS

pytestmark = [pytest.mark.crash, pytest.mark.campaign, pytest.mark.root]

CUTS = 6
SHORT = [("podman", "remove"), ("docker", "restore"), ("docker", "empty")]
"""The long form has both trees; what differs is how far the quarantine is away."""


@pytest.mark.parametrize(
    ("tree", "verb"), [(tree, verb) for tree in TREES for verb in VERBS] if LONG else SHORT
)
def test_a_kill_leaves_each_orphan_whole(campaigns: Campaigns, tree: str, verb: str) -> None:
    """A process may be killed at any mutating call: each orphan is in one place, whole, and the next goes on."""
    result = campaigns.run("orphans", f"{tree}:{verb}")
    assert result["points"] >= 20
    assert result["points"] == result["kills"]


@pytest.mark.parametrize("file_system", ["ext4", "xfs"])
@pytest.mark.parametrize("verb", VERBS)
def test_a_power_cut_leaves_each_orphan_whole(
    campaigns: Campaigns, verb: str, file_system: str
) -> None:
    """The same of a power cut, and what was acknowledged before it stays so."""
    tree = "podman" if verb == "remove" else "docker"
    limit = "0" if LONG else str(CUTS)
    result = campaigns.run("orphans-cut", f"{tree}:{verb}:{file_system}", "--limit", limit)
    assert result["points"] >= (result["possible"] if LONG else CUTS)


@pytest.mark.parametrize(
    "scenario", ["podman:remove:ext4", "docker:restore:btrfs", "docker:empty:ext4"]
)
def test_no_state_of_the_disk_breaks_an_orphan(campaigns: Campaigns, scenario: str) -> None:
    """The same of whatever a disk kept of its last writes."""
    limit = "0" if LONG else str(CUTS)
    result = campaigns.run("orphans-blocks", scenario, "--limit", limit)
    assert result["points"] >= CUTS


@pytest.mark.parametrize("name", sorted(MUTANTS))
def test_a_changed_order_is_caught(campaigns: Campaigns, name: str) -> None:
    """Kills and cuts are not blind: an order of steps that loses something is found to do so."""
    mutant = MUTANTS[name]
    result = campaigns.run(mutant.campaign, mutant.scenario, "--mutant", name)
    assert result["caught"], f"nothing caught that {mutant.what}"
