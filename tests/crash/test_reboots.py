"""Power cuts of a whole machine: a second kernel is killed at its work, and booted again."""

from __future__ import annotations

import shutil

import pytest

from tests.crash import campaigns as settings
from tests.crash.campaigns import Campaigns

NEEDS = {"linux.uml": "user-mode-linux", "mkfs.xfs": "xfsprogs", "busybox": "busybox-static"}

pytestmark = [
    pytest.mark.crash,
    pytest.mark.campaign,
    pytest.mark.root,
    *(
        pytest.mark.skipif(shutil.which(program) is None, reason=f"needs Debian's {package}")
        for program, package in NEEDS.items()
    ),
]

CUTS = {"ext4": 60, "xfs": 40} if settings.LONG else {"ext4": 2}


@pytest.mark.parametrize("file_system", sorted(CUTS))
def test_a_machine_that_loses_its_power_loses_nothing_else(
    campaigns: Campaigns, file_system: str
) -> None:
    """Whenever it is cut: what had left the machine as acknowledged is there when it is booted again."""
    cuts = CUTS[file_system]
    result = campaigns.run("reboots", file_system, "--limit", str(cuts))
    assert cuts == result["points"] == result["kills"]
    assert result["calls"]["acknowledged"] > 0


if settings.LONG:  # some twenty cuts are needed; the states of a disk catch the same at once

    def test_a_machine_shows_that_nothing_is_synced(campaigns: Campaigns) -> None:
        """The same catches a store that commits nothing with FULL: its machine forgets what it told."""
        result = campaigns.run("reboots", "ext4", "--limit", "100", "--mutant", "never-full")
        assert result["caught"]
