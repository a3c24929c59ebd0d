"""The order of steps: each two neighbours, swapped, are caught, or cannot matter."""

from __future__ import annotations

import ctypes.util
import json
from pathlib import Path

import pytest

from layerstore.fs import files, layout
from tests.crash.alike import uncovered
from tests.crash.campaigns import Campaigns
from tests.crash.neighbours import ALIKE, CAUGHT, CUT, FAILS, OPERATION, SWAPS, WORST, orders

pytestmark = [pytest.mark.crash, pytest.mark.root]


def test_every_pair_is_judged() -> None:
    """Each pair is caught by something, or is among those of which a proof is asked below."""
    assert set(CAUGHT) < set(SWAPS)
    assert ALIKE


@pytest.mark.parametrize("name", sorted(ALIKE))
def test_a_cut_cannot_tell_the_orders_apart(name: str) -> None:
    """At every moment of the other order a disk has nothing that the written order could not leave."""
    written, swapped = orders(name)
    assert written != swapped and sorted(map(repr, written)) == sorted(map(repr, swapped))
    assert [] == uncovered(OPERATION, written, swapped)


@pytest.mark.parametrize(
    "name", sorted(name for name, how in CAUGHT.items() if how in (CUT, WORST))
)
def test_the_proof_fails_where_a_cut_can(name: str) -> None:
    """Of the pairs that states of a disk catch the same computation says that they differ; so it does of
    those which only the worst disk shows.
    """
    assert uncovered(OPERATION, *orders(name))


@pytest.mark.parametrize("replaced", [True, False])
def test_what_was_applied_is_known_from_either_place(bare: Path, replaced: bool) -> None:
    """Whether an apply is finished is told alike while its own things are in staging or in the trash.

    Of an archive with nothing in it either answer leaves the same: an empty layer.
    """
    told = set()
    for number, place in enumerate((layout.staging("op"), layout.trash("op"))):
        home = bare / str(number)
        own, content = home / place, home / layout.diff("a")
        content.mkdir(parents=True)
        own.mkdir(parents=True)
        (home / layout.applied(place)).write_text(json.dumps({"empty": False}))
        (content / "file" if replaced else own / "diff").mkdir()
        told.add(files.is_applied(str(home), "op", "a"))
    assert {replaced} == told


@pytest.mark.campaign
@pytest.mark.parametrize("verb", sorted({name.partition(":")[0] for name in ALIKE}))
def test_nor_can_a_kill(campaigns: Campaigns, verb: str) -> None:
    """Killed at every point in both orders, and opened again, the same homes are left."""
    result = campaigns.run("alike", verb)
    assert result["pairs"] == sum(name.startswith(f"{verb}:") for name in ALIKE)
    assert result["possible"] > 1


@pytest.mark.campaign
@pytest.mark.skipif(ctypes.util.find_library("fuse3") is None, reason="needs libfuse3")
@pytest.mark.parametrize("name", sorted(name for name, how in CAUGHT.items() if how != WORST))
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
