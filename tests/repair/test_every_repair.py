"""Every repair of the table: its plan tells it, a second one does nothing, and it is taken back, or it is
said why not."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest

from layerstore import Store
from layerstore import events as e
from layerstore.audit.codes import REPAIRS
from layerstore.db import engine
from layerstore.errors import InvalidArgument, LayerstoreError, Refused
from layerstore.fs import layout
from layerstore.repair.forms import Done
from layerstore.repair.verb import plan_repair
from layerstore.testing import damages as table
from layerstore.testing.stores import store_tree
from tests.audit import damages
from tests.cli.running import Program
from tests.repair.trees import bad, contents, shape

pytestmark = pytest.mark.root

BACK = ""
"""What is taken back leaves tree and index as they were."""


@attrs.frozen
class Way:
    """How a repair comes about, and what is said when it is to be taken back."""

    inflict: Callable[[Path], object]
    refused: str = BACK
    only: str = ""
    """The code, where the finding is a note."""


def _inflicting(name: str) -> Callable[[Path], object]:
    return table.named(name).do


def _set_apart(home: Path) -> None:
    """Recovery set a layer apart, and it is whole again."""
    damages.dying(home, lambda _: None)
    damages.edit(home, "UPDATE owners SET boot_id = 'an-earlier-boot'")
    lower = (home / "top/lower").read_text()
    (home / "top/lower").write_text("l")
    Store.open(home).close()
    (home / "top/lower").write_text(lower)


def _in_trash(home: Path) -> None:
    (home / "alone").rename(home / layout.TRASH / ("c" * 32))


def _hold_in_the_journal(home: Path) -> None:
    """A name outside holds a layer that is not mounted, and the journal has it so."""
    with Store.open(home) as store, store._hands.journal.transaction(full=True) as transaction:
        transaction.append(e.HoldTaken("side", "docker"))


WAYS = {
    "refold": Way(_inflicting("index changed"), "the journal decides"),
    "set-mode": Way(_inflicting("layer open to all")),
    "make-links": Way(_inflicting("l gone")),
    "make-link": Way(_inflicting("link gone")),
    "write-link": Way(_inflicting("link file garbled")),
    "write-lower": Way(_inflicting("layer dropped from the chain")),
    "make-work": Way(_inflicting("work gone")),
    "bring-back": Way(_in_trash, "in the trash it would be lost"),
    "reopen": Way(_set_apart),
    "adopt": Way(_inflicting("directory without a row")),
    "record-mount": Way(_inflicting("mounted behind its back"), "is mounted, whatever the journal"),
    "release": Way(_hold_in_the_journal, "a hold without a mount is the damage"),
    "end-mount": Way(_inflicting("unmounted behind its back"), "the kernel has no such mount"),
    "unmount": Way(_inflicting("removed while mounted"), "a layer that is gone"),
    "drop-merged": Way(_inflicting("merged left")),
    "drop-link": Way(_inflicting("second link")),
    "clear-committed": Way(
        _inflicting("committed without a child"), only="committed-without-child"
    ),
    "quarantine": Way(_inflicting("only a directory")),
    "forget": Way(lambda home: shutil.rmtree(home / "alone"), "has no directory is the damage"),
}
ELSEWHERE = {
    "settle": "test_what_the_dead_left_is_settled_once",
    "upgrade": "test_a_schema_is_upgraded_by_opening",
    "empty-quarantine": "test_what_is_gone_for_good_is_not_taken_back",
}
"""What no damage brings about while a store is open, and the test that does."""


def index(home: Path) -> dict[str, Any]:
    """Every row of the index, whole."""
    connection = engine.connect(os.fspath(home / layout.DATABASE), read_only=True, timeout=5)
    try:
        tables = ("layers", "holds", "mounts", "projects", "manifests")
        return {
            name: sorted(map(str, connection.execute(f"SELECT * FROM {name}"))) for name in tables
        }
    finally:
        connection.close()


def test_every_repair_has_a_way() -> None:
    """Each repair that a plan may have is brought about here."""
    mine = {r.name for r in REPAIRS.values() if r.command.startswith("layerstore repair")}
    assert mine | {"settle", "upgrade"} == {*WAYS, *ELSEWHERE}
    assert set(ELSEWHERE.values()) <= set(globals())


def take_back(store: Store, done: tuple[Done, ...]) -> bool:
    """The last act first: each is taken back once, but what is to be refused; whether all was."""
    whole = True
    for item in reversed(done):
        called = item.operation or str(item.event)
        refused = WAYS[item.act.repair].refused
        if refused:
            before = index(Path(store._home))
            with pytest.raises(Refused, match=refused):
                store.undo_repair(called)
            assert before == index(Path(store._home))
            whole = False
            continue
        assert "done" == store.undo_repair(called).outcome
        with pytest.raises(LayerstoreError, match=r"taken back already|was changed since"):
            store.undo_repair(called)
    return whole


@pytest.mark.parametrize("name", WAYS)
def test_a_repair_is_told_repeated_and_taken_back(bare: Path, name: str) -> None:
    """Its plan has it and changes nothing; it is done once; then all is as before, or stays with a reason."""
    way = WAYS[name]
    home = damages.make(bare, damages.STORE)
    way.inflict(home)
    before, was, files = shape(home), index(home), contents(home)
    only = [way.only] if way.only else []
    plan, _ = plan_repair(home, only=only)
    told = [act for act in plan.acts() if act.repair == name]
    assert told and all(act.does and (act.layer or act.path or name == "refold") for act in told)
    assert (before, was) == (shape(home), index(home))
    with Store.open(home) as store:
        outcome = store.repair(only=only)
        assert name in {item.act.repair for item in outcome.done}
        assert {"done"} == {item.outcome for item in outcome.done}
        after = shape(home), index(home)
        assert () == store.repair(only=only).done and after == (shape(home), index(home))
        whole = take_back(store, outcome.done)
        assert whole != bool(way.refused)
        if whole:
            assert (before, was) == (shape(home), index(home))
            again, _ = plan_repair(home, only=only)
            assert [a.does for a in told] == [a.does for a in again.acts() if a.repair == name]
        else:
            assert after[1] == index(home)
        store.repair(only=only)
    assert [] == bad(home) and files == contents(home)


def test_what_the_dead_left_is_settled_once(bare: Path) -> None:
    """A process that dies while the store is open elsewhere: told, settled, and dead it stays."""
    home = damages.make(bare, damages.STORE)
    with Store.open(home) as store:
        damages.dying(home, lambda s: s.create("late"), at="create:intent:after")
        plan, _ = plan_repair(home)
        assert ["settle"] == [act.repair for act in plan.acts()]
        (done,) = store.repair().done
        assert ("done", None, None) == (done.outcome, done.operation, done.event)
        assert () == store.repair().done
        (died,) = store.events(kind="owner.died.")
        with pytest.raises(Refused, match="the process is dead"):
            store.undo_repair(str(died.seq))
    assert [] == bad(home)


def test_a_schema_is_upgraded_by_opening(bare: Path) -> None:
    """The plan says that the schema is old; whoever opens the store has it upgraded, and nothing is left."""
    home = store_tree(bare / "home", revision="0003").home
    plan, _ = plan_repair(home)
    assert "upgrade" in {act.repair for act in plan.acts()}
    told = Program(home)("repair", "--yes", code=1).out
    assert "bring the schema of the database up to date" in told
    assert 0 == Program(home)("repair", "--yes").code


def test_what_is_gone_for_good_is_not_taken_back(bare: Path) -> None:
    """What the quarantine had is refused, and so is the repair that put it there."""
    home = damages.make(bare, damages.STORE)
    (home / "new").mkdir()
    with Store.open(home) as store:
        (aside,) = store.repair().done
        assert [""] == [item.message for item in store.empty_quarantine()]
        assert () == store.empty_quarantine()
        (emptied,) = {
            str(entry.operation)
            for entry in store.events(kind="repair.intended.")
            if entry.event.act == "empty-quarantine"
        }
        with pytest.raises(Refused, match="gone for good"):
            store.undo_repair(emptied)
        with pytest.raises(Refused, match="not in the quarantine any more"):
            store.undo_repair(str(aside.operation))


def test_an_adoption_is_taken_back_only_while_nothing_stands_on_it(bare: Path) -> None:
    """A layer that was built upon, or held, since it was taken in stays; and so does what is no repair."""
    home = damages.make(bare, damages.STORE)
    damages.hand_made(home, "found")
    with Store.open(home) as store:
        (taken,) = store.repair().done
        store.create("upon", parent="found")
        with pytest.raises(Refused, match="found is not taken back: it has children"):
            store.undo_repair(str(taken.event))
        store.remove("upon")
        with store.mounted("found"), pytest.raises(Refused, match="found was changed since"):
            store.undo_repair(str(taken.event))
        for number in ("1", "99999"):
            with pytest.raises(InvalidArgument, match="nothing that a repair did"):
                store.undo_repair(number)
    assert [] == bad(home)


def test_it_is_taken_back_by_the_number_that_was_told(bare: Path) -> None:
    """The command prints the number of the event, and takes it."""
    home = damages.make(bare, damages.STORE)
    damages.hand_made(home, "found")
    program = Program(home)
    (done,) = program("repair", "--yes", "--json", code=1).json["done"]
    assert ("adopt", None) == (done["repair"], done["operation"])
    program("repair", "--undo", str(done["event"]), "--yes", code=1)
    assert ["unknown-layer"] == [item.code for item in bad(home)]
    said = program("repair", "--yes", code=1).out
    number = said.rpartition("[")[2].partition("]")[0]
    program("repair", "--undo", number, "--yes", code=1)
    assert ["unknown-layer"] == [item.code for item in bad(home)]
