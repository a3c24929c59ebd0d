"""Owns the scenarios of repairs: one for each kind of act, what is derived, set aside, and taken back."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Final

from layerstore.fs import layout
from tests.crash.model import (
    Close,
    Create,
    EmptyQuarantine,
    Facts,
    Open,
    Repair,
    State,
    TakeBack,
    Write,
)
from tests.crash.scenarios import CHAIN, STRAY, Scenario, Template, change_database, plain_layer


def _broken(home: Path) -> None:
    """What can be derived again: a small file, a link, a directory, a mode."""
    (home / "mid" / "lower").write_text("garbled")
    os.unlink(home / "l" / (home / "base" / "link").read_text())
    shutil.rmtree(home / "mid" / "work")
    os.chmod(home / "base", 0o777)


def _without_links(home: Path) -> None:
    shutil.rmtree(home / "l")


def _littered(home: Path) -> None:
    """What nobody understands, and a layer that lies in the trash though the index has it."""
    os.symlink("/etc", home / "l" / STRAY)
    (home / "mid" / "merged").mkdir(0o700)
    os.rename(home / "gone", home / layout.TRASH / ("c" * 32))


def _half_made(home: Path) -> None:
    os.makedirs(home / "new" / "diff")


def _unrecorded(home: Path) -> None:
    """The index is not what the journal says, and does not know a layer."""
    change_database(home, "UPDATE layers SET depth = 7 WHERE id = 'base'")
    plain_layer(home, "stray", STRAY, None)
    os.symlink("../stray/diff", home / "l" / STRAY)


def _with_stray(state: State) -> State:
    return state.after_death().with_layer("stray", Facts())


REPAIR_TEMPLATES: Final = {
    "broken": Template((*CHAIN, Close()), tamper=_broken),
    "without-links": Template((*CHAIN, Close()), tamper=_without_links),
    "littered": Template(
        (*CHAIN, Create("gone"), Write("gone", "old", "not gone\n"), Close()), tamper=_littered
    ),
    "half-made": Template((*CHAIN, Close()), tamper=_half_made),
    "unrecorded": Template((*CHAIN, Close()), tamper=_unrecorded, expect=_with_stray),
}
_O = (Open(),)

REPAIRS: Final = {
    scenario.name: scenario
    for scenario in (
        Scenario("repair-broken", "broken", _O, (Repair(),), mends="repair"),
        Scenario("repair-links", "without-links", _O, (Repair(),), mends="repair"),
        Scenario("repair-littered", "littered", _O, (Repair(),), mends="repair"),
        Scenario("repair-records", "unrecorded", _O, (Repair(),), mends="repair"),
        Scenario("repair-back", "broken", (*_O, Repair()), (TakeBack(),), mends="repair"),
        Scenario(
            "repair-for-good", "half-made", (*_O, Repair()), (EmptyQuarantine(),), mends="repair"
        ),
    )
}
