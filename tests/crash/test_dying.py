"""Disks that die at a write, under file systems of three kinds."""

from __future__ import annotations

import ctypes.util

import pytest

from tests.crash import campaigns as settings
from tests.crash.campaigns import Campaigns
from tests.crash.dying import BUS
from tests.crash.powercut import ALL, fits

pytestmark = [
    pytest.mark.crash,
    pytest.mark.campaign,
    pytest.mark.root,
    pytest.mark.skipif(ctypes.util.find_library("fuse3") is None, reason="needs libfuse3"),
]

SHORT = {"apply-child": 5, "create-sync-parent": 4, "get-first-name": 2, "life": 8}
"""How many deaths a scenario sees on each file system; in the long form one at each write of all."""
SCENARIOS = sorted(name for name, scenario in ALL.items() if fits(scenario))


@pytest.mark.parametrize("file_system", ["ext4", "xfs", "btrfs"])
@pytest.mark.parametrize("scenario", SCENARIOS if settings.LONG else sorted(SHORT))
def test_a_disk_that_dies_takes_nothing_that_was_acknowledged(
    campaigns: Campaigns, file_system: str, scenario: str
) -> None:
    """The verb says what failed; on the next disk everything acknowledged is there, nothing half-made."""
    limit = [] if settings.LONG else ["--limit", str(SHORT[scenario])]
    result = campaigns.run("dying", f"{file_system}:{scenario}", *limit)
    assert result["points"] > 0


def test_a_process_that_its_disk_kills_lost_nothing(campaigns: Campaigns) -> None:
    """SIGBUS ends a process on XFS whose disk died, and the next one finds all that was acknowledged."""
    result = campaigns.run("dying", "xfs:life", "--limit", "1", "--kills", "1")
    assert result["calls"][BUS] >= 1
