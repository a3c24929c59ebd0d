"""The order of steps: each two neighbours, swapped, are caught, or cannot matter."""

from __future__ import annotations

import ctypes.util

import pytest

from tests.crash.campaigns import Campaigns
from tests.crash.neighbours import ALIKE, CAUGHT, CUT, FAILS, SWAPS

pytestmark = [pytest.mark.crash, pytest.mark.root]


def test_every_pair_is_judged() -> None:
    """No two steps are side by side of which nobody said what becomes of them in the other order."""
    assert set(SWAPS) == set(CAUGHT) | set(ALIKE)
    assert not set(CAUGHT) & set(ALIKE)


@pytest.mark.campaign
@pytest.mark.skipif(ctypes.util.find_library("fuse3") is None, reason="needs libfuse3")
@pytest.mark.parametrize("name", sorted(CAUGHT))
def test_two_steps_in_the_wrong_order_are_caught(campaigns: Campaigns, name: str) -> None:
    """A verb that fails, a sweep of kills, or states of a disk show that they changed places."""
    swap, how = SWAPS[name], CAUGHT[name]
    if how == CUT:
        scenario = f"btrfs:{swap.scenario}"
        result = campaigns.run("blocks", scenario, "--limit", "200", "--mutant", name)
    else:
        result = campaigns.run("mutant", swap.scenario, "--mutant", name)
        assert (how == FAILS) == result["caught"].startswith("without a kill")
    assert result["caught"], f"nothing caught that {swap.what}"
