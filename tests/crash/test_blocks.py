"""Block states: what a disk may have after a power cut, on file systems of three kinds."""

from __future__ import annotations

import ctypes.util

import pytest

from tests.crash import campaigns as settings
from tests.crash.campaigns import Campaigns
from tests.crash.cutmutants import MUTANTS
from tests.crash.powercut import ALL, fits
from tests.crash.sequences import sequences

pytestmark = [
    pytest.mark.crash,
    pytest.mark.campaign,
    pytest.mark.root,
    pytest.mark.skipif(ctypes.util.find_library("fuse3") is None, reason="needs libfuse3"),
]

SHORT = {
    "apply-child": 70,
    "compact-again": 50,
    "create-child": 70,
    "create-on-written": 50,
    "create-on-written-while-others-sync": 20,
    "create-first-child": 40,
    "create-while-others-sync": 20,
    "life": 70,
    "open-lost-intents": 40,
    "put-last-name": 30,
    "remove-child": 50,
    "remove-while-others-sync": 20,
    "create+apply+get": 50,
}
"""How many states of a scenario are looked at, on each file system; the long form has 120 of all."""
LONG = 120
SCENARIOS = sorted(name for name, scenario in ALL.items() if fits(scenario))


@pytest.mark.parametrize("file_system", ["ext4", "xfs", "btrfs"])
@pytest.mark.parametrize("scenario", [*SCENARIOS, *sequences()] if settings.LONG else sorted(SHORT))
def test_no_state_of_the_disk_lacks_what_was_acknowledged(
    campaigns: Campaigns, file_system: str, scenario: str
) -> None:
    """Whatever a disk kept of its last writes: acknowledged work is there, and nothing half-made."""
    limit = LONG if settings.LONG else SHORT[scenario]
    result = campaigns.run("blocks", f"{file_system}:{scenario}", "--limit", str(limit))
    assert result["points"] >= limit


@pytest.mark.parametrize("name", sorted(MUTANTS))
def test_each_sync_that_is_left_out_is_caught(campaigns: Campaigns, name: str) -> None:
    """Some state of a disk with btrfs shows that the sync is missing, or that it is out of place."""
    mutant = MUTANTS[name]
    result = campaigns.run("blocks", f"btrfs:{mutant.scenario}", "--limit", "200", "--mutant", name)
    assert result["caught"], f"nothing caught that {mutant.what}"
