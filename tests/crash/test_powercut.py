"""Power cuts: in front of any call of a verb its file system stops where it is."""

from __future__ import annotations

import pytest

from tests.crash import campaigns as settings
from tests.crash.campaigns import Campaigns
from tests.crash.powercut import ALL, MUTANTS, fits

pytestmark = [pytest.mark.crash, pytest.mark.campaign, pytest.mark.root]

SHORT = {
    "apply-child": 30,
    "compact-again": 12,
    "create-child": 25,
    "create-on-written": 12,
    "life": 15,
    "open-lost-intents": 8,
    "get-recorded": 8,
    "put-last-name": 8,
    "record-applied": 8,
    "repair-file": 12,
    "remove-child": 15,
}
"""How many points of a scenario are visited, on each file system; the long form visits all of all."""
SCENARIOS = sorted(name for name, scenario in ALL.items() if fits(scenario))


@pytest.mark.parametrize("file_system", ["ext4", "xfs"])
@pytest.mark.parametrize("scenario", SCENARIOS if settings.LONG else sorted(SHORT))
def test_a_power_cut_takes_nothing_that_was_acknowledged(
    campaigns: Campaigns, file_system: str, scenario: str
) -> None:
    """After any cut all acknowledged work is there, with its content, and nothing half-made."""
    limit = [] if settings.LONG else ["--limit", str(SHORT[scenario])]
    result = campaigns.run("powercut", f"{file_system}:{scenario}", *limit)
    assert result["points"] == result["kills"] > 0


@pytest.mark.parametrize("file_system", ["ext4", "xfs"])
def test_nor_does_one_between_three_verbs(campaigns: Campaigns, file_system: str) -> None:
    """The same in sequences of verbs: some, chosen by the seed; in the long form all that there are."""
    limit = [] if settings.LONG else ["--limit", "4"]
    result = campaigns.run("sequence", file_system, *limit)
    assert result["points"] == result["kills"] > 0


@pytest.mark.parametrize("file_system", ["ext4", "xfs"])
@pytest.mark.parametrize("name", sorted(MUTANTS))
def test_a_missing_sync_is_caught(campaigns: Campaigns, file_system: str, name: str) -> None:
    """Cuts catch a protocol that relies on memory; no kill can."""
    mutant = MUTANTS[name]
    result = campaigns.run("powercut", f"{file_system}:{mutant.scenario}", "--mutant", name)
    assert result["caught"], f"nothing caught that {mutant.what}"
