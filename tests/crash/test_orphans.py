"""Kills and power cuts in the removal of orphans, in the way back, and in the end of them."""

from __future__ import annotations

import shutil

import pytest

from tests.crash.campaigns import LONG, Campaigns
from tests.crash.orphans import TREES, VERBS

pytestmark = [pytest.mark.crash, pytest.mark.campaign, pytest.mark.root]

CUTS = 12


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("tree", TREES)
def test_a_kill_leaves_each_orphan_whole(campaigns: Campaigns, tree: str, verb: str) -> None:
    """A process may be killed at any mutating call: each orphan is in one place, whole, and the next goes on."""
    result = campaigns.run("orphans", f"{tree}:{verb}")
    assert result["points"] >= 20
    assert result["points"] == result["kills"]


@pytest.mark.parametrize("file_system", ["ext4", "xfs", "btrfs"])
@pytest.mark.parametrize("verb", VERBS)
def test_a_power_cut_leaves_each_orphan_whole(
    campaigns: Campaigns, verb: str, file_system: str
) -> None:
    """The same of a power cut, and what was acknowledged before it stays so."""
    if file_system == "btrfs":
        pytest.skip("btrfs has no shutdown ioctl")
    if shutil.which(f"mkfs.{file_system}") is None:
        pytest.skip(f"needs mkfs.{file_system}")
    tree = "podman" if verb == "remove" else "docker"
    limit = "0" if LONG else str(CUTS)
    result = campaigns.run("orphans-cut", f"{tree}:{verb}:{file_system}", "--limit", limit)
    assert result["points"] >= (result["possible"] if LONG else CUTS)
