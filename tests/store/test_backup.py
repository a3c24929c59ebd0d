"""The database is copied while it is used, and a copy is put back: the tree decides what there is."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest

from layerstore import Reader, Store, description
from layerstore.db import engine
from layerstore.errors import Busy, InvalidArgument, LayerstoreError, SchemaTooNew, StoreDamaged
from layerstore.fs import layout
from layerstore.journal import MARK_STEP
from layerstore.testing import dying_at, points
from tests.cli.running import Program
from tests.store.support import Worker, apart, check_settled, mounted, run, snapshot

pytestmark = pytest.mark.root


def saved(home: Path, name: str = "saved.db") -> Path:
    """A backup beside the home."""
    with Reader.open(home) as reader:
        reader.backup(home.parent / name)
    return home.parent / name


def ids(home: Path) -> list[str]:
    """The ids of all layers."""
    with Reader.open(home) as reader:
        return [layer.id for layer in reader.layers()]


def own_names(home: Path) -> set[str]:
    """What lies in the store's own directory, but for the files of SQLite's that come and go."""
    return {name for name in os.listdir(home / layout.OWN) if not name.startswith("journal.db-")}


def value(path: Path, query: str) -> Any:
    """The first value that a database file answers with."""
    connection = engine.driver.connect(path, isolation_level=None)
    try:
        return connection.execute(query).fetchone()[0]
    finally:
        connection.close()


# --- backup -------------------------------------------------------------------------------------


def test_a_backup_while_others_write(pair: Path, bare: Path, worker: Callable[..., Worker]) -> None:
    """Taken while another process works, it is whole, of one moment, and nobody else's to read."""
    other = worker(pair)
    other.send("[store.create(f'x{n}', parent='p') and None for n in range(60)] and 1")
    before = 0
    for turn in range(6):
        path = bare / f"{turn}.db"
        with Reader.open(pair) as reader:
            known = {layer.id for layer in reader.layers()}
            reader.backup(path)
        assert 0o600 == path.stat().st_mode & 0o777
        assert "ok" == value(path, "PRAGMA integrity_check")
        count = value(path, "SELECT count(*) FROM layers")
        assert len(known) <= count and before <= count
        # Every layer has its events, and every operation its intent: it is one moment.
        created = "SELECT count(*) FROM events WHERE kind LIKE 'layer.create.intended.%'"
        assert count == value(path, created)
        before = count
    assert 1 == other.value()
    assert {f"{turn}.db" for turn in range(6)} | {"home"} == set(os.listdir(bare))


def test_every_way_to_a_backup(pair: Path, bare: Path) -> None:
    """Store, Reader and program write the same copy, relative to where the caller is."""
    with Store.open(pair) as store:
        store.backup(bare / "a")
        with Reader.open(pair) as reader:
            reader.backup(os.fspath(bare / "b"))
        assert (
            str(bare / "c") == Program(pair)("--json", "db", "backup", str(bare / "c")).json["file"]
        )
    counts = {value(bare / name, "SELECT count(*) FROM events") for name in "abc"}
    assert 1 == len(counts)


def test_a_backup_goes_nowhere_else(pair: Path, bare: Path) -> None:
    """It replaces no file, follows no link, goes into no store, and leaves nothing behind."""
    (bare / "there").write_text("precious")
    (bare / "link").symlink_to("nowhere")
    other = bare / "other"
    Store.initialize(other)
    with Reader.open(pair) as reader:
        for target, words in (
            (bare / "there", "exists already"),
            (bare / "link", "exists already"),
            (bare / "none/file", "no directory"),
            (pair / "file", "inside the store"),
            (pair / "p/diff/file", "inside the store"),
            (other / layout.OWN / "file", "inside the store"),
            (bare / ("n" * 256), "too long"),
        ):
            with pytest.raises(LayerstoreError, match=words):
                reader.backup(target)
    assert "precious" == (bare / "there").read_text()
    assert {"home", "link", "other", "there"} == set(os.listdir(bare))
    assert 16 == Program(pair)("db", "backup", str(bare / "there"), code=16).code


# --- restore ------------------------------------------------------------------------------------


def test_a_restored_database_and_the_tree(pair: Path) -> None:
    """Layers made since are taken in, those removed since are dropped, and labels are those of then."""
    with Store.open(pair) as store:
        store.create("gone", parent="p")
        store.create("again", labels={"old": ""})
    copy = saved(pair)
    with Store.open(pair) as store:
        store.remove("gone")
        store.remove("again")
        store.create("again", labels={"new": ""})
        store.create("late", parent="c")
        last = store.last_seq()
    epoch, tree = description.read(pair).epoch, snapshot(pair)
    settled = Store.restore(pair, copy)
    assert ["again", "gone"] == sorted(str(i.layer) for i in settled if i.what == "forgotten")
    assert ["again", "late"] == sorted(str(i.layer) for i in settled if i.what == "adopted")
    assert "reverted" == settled[0].what
    assert tree == snapshot(pair)
    with Store.open(pair) as store:
        assert () == store.settled
        assert ["again", "c", "late", "p"] == ids(pair)
        assert ({}, "c") == (store.layer("again").labels, store.layer("late").parent)
        assert "v" == store.layer("p").labels["k"]
        told = list(store.rows(kind="store.restored"))
        assert [str(copy)] == [row["data"]["source"] for row in told]
        assert told[0]["seq"] > last and told[0]["epoch"] != epoch
        check_settled(store)
        with store.mounted("late") as path:
            assert ["p"] == os.listdir(path)
    aside = list((pair / layout.QUARANTINE).glob("*/journal.db"))
    assert 1 == len(aside)
    assert last == value(aside[0], "SELECT max(seq) FROM events")


def test_numbers_never_come_back(pair: Path) -> None:
    """Restored twice, each journal goes on above every number that the one before may have given."""
    copy = saved(pair)
    seen: set[int] = set()
    with Reader.open(pair) as reader:
        known = reader.last_seq()
    for turn in range(3):
        with Store.open(pair) as store:
            store.create(f"x{turn}")
            numbers = {row["seq"] for row in store.rows(after_seq=known)}
        assert not seen & numbers
        seen |= numbers
        assert max(numbers) <= description.read(pair).high_water
        Store.restore(pair, copy)
    assert 3 == len(list((pair / layout.QUARANTINE).iterdir()))


def test_holds_in_a_restored_database(pair: Path) -> None:
    """A name's hold stays where the layer is mounted; what is mounted stays so, held by nobody known."""
    with Store.open(pair) as store:
        for layer in ("d", "e", "f"):
            store.create(layer, parent="p")
            store.get(layer, holder="docker")
        store.get("p", holder="docker")
        store.get("c")  # by this process
        copy = saved(pair)
        store.put("d", holder="docker")
        store.put("e", holder="docker")
        store.get("e", holder="later")
    assert ["e", "f"] == mounted(pair)
    Store.restore(pair, copy)
    assert ["e", "f"] == mounted(pair)
    with Store.open(pair) as store:
        check_settled(store)
        assert {
            ("e", "docker", 1),
            ("e", "unknown", 1),
            ("f", "docker", 1),
            ("f", "unknown", 1),
        } == {(hold.layer, hold.holder, hold.count) for hold in store.holders()}
        store.release("unknown")
        store.release("docker")
    assert [] == mounted(pair)


@pytest.mark.parametrize("verb", ["create", "remove", "mount", "unmount"])
def test_what_was_in_flight_is_not_acted_upon(
    pair: Path, worker: Callable[..., Worker], verb: str
) -> None:
    """An operation that was in flight when the copy was made has ended since: its layer is kept."""
    other = worker(pair, "nsenter", f"--mount=/proc/{os.getpid()}/ns/mnt")
    if verb == "unmount":
        other.do("str(store.get('c', holder='docker'))")
    other.do(f"stop_at('{verb}:intent:after')")
    other.send(
        {
            "create": "str(store.create('x', parent='c', labels={'of': 'x'}))",
            "remove": "store.remove('c')",
            "mount": "str(store.get('c', holder='docker'))",
            "unmount": "store.put('c', holder='docker')",
        }[verb]
    )
    other.stopped()
    copy = saved(pair)
    other.go_on()
    other.value()
    if verb == "remove":
        other.do("store.create('c', parent='p')")
    if verb == "create":
        (pair / "x/diff/precious").write_text("of x")
    assert 0 == other.end()
    now = mounted(pair)
    Store.restore(pair, copy)
    assert now == mounted(pair)
    with Store.open(pair) as store:
        check_settled(store)
        if verb == "create":
            assert "x" == store.layer("x").labels["of"]
            assert "of x" == (pair / "x/diff/precious").read_text()
        else:
            assert ["c", "p"] == ids(pair)
        if verb == "mount":
            assert [("c", "unknown")] == [(hold.layer, hold.holder) for hold in store.holders()]
            store.release("unknown")


@pytest.mark.parametrize("damage", ["lost", "garbled", "another's", "older"])
def test_a_restore_mends_what_an_open_refuses(pair: Path, bare: Path, damage: str) -> None:
    """Where the database is lost, garbled or another store's, the open is refused, and this mends it."""
    copy, path = saved(pair), pair / layout.DATABASE
    other = bare / "other"
    Store.initialize(other)
    with Store.open(pair) as store:
        store.create("late")
        mark = description.read(pair).high_water
    for suffix in ("", "-wal", "-shm"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)
    if damage == "garbled":
        path.write_bytes(b"garbled" * 4096)
    elif damage == "another's":
        shutil.copy(other / layout.DATABASE, path)
    elif damage == "older":
        shutil.copy(copy, path)
    if damage != "older":
        with pytest.raises(StoreDamaged):
            Store.open(pair)
    Program(pair)("db", "restore", str(copy))
    with Store.open(pair) as store:
        assert ["c", "late", "p"] == ids(pair)
        assert mark < store.last_seq()
        check_settled(store)


def test_a_database_that_was_put_back_by_hand(pair: Path) -> None:
    """Far behind the numbers that were given out, it is taken for an older one: none comes back."""
    copy = saved(pair)
    about = description.read(pair)
    description.write(pair, attrs.evolve(about, high_water=7 * MARK_STEP))
    with Store.open(pair) as store:
        store.get("p", holder="docker")
        assert ["reverted"] == [item.what for item in store.settled]
        assert 7 * MARK_STEP < next(store.rows(kind="store.restored"))["seq"]
        assert description.read(pair).epoch != about.epoch
        check_settled(store)
    with Store.open(pair) as store:
        assert () == store.settled
    Store.restore(pair, copy)
    with Store.open(pair) as store:
        check_settled(store)


def test_what_is_not_restored(pair: Path, bare: Path) -> None:
    """A file that is no whole database of this store is refused in words, and nothing changes."""
    other = bare / "other"
    Store.initialize(other)
    good, foreign, newer, torn = (saved(pair, n) for n in ("good", "foreign", "newer", "torn"))
    shutil.copy(saved(other, "of-other"), foreign)
    value_of = engine.driver.connect(newer, isolation_level=None)
    value_of.execute("UPDATE alembic_version SET version_num = '9999'")
    value_of.close()
    unknown = Path(shutil.copy(newer, bare / "unknown"))
    value_of = engine.driver.connect(unknown, isolation_level=None)
    value_of.execute("UPDATE alembic_version SET version_num = '0000'")
    value_of.close()
    torn.write_bytes(torn.read_bytes()[:4096] + b"\xff" * (torn.stat().st_size - 4096))
    (bare / "empty").touch()
    (bare / "text").write_text("no database" * 100)
    before = own_names(pair), (pair / layout.DATABASE).read_bytes(), description.read(pair)
    for source, error, words in (
        (foreign, InvalidArgument, "is of store"),
        (newer, SchemaTooNew, "9999"),
        (unknown, StoreDamaged, "never released"),
        (torn, LayerstoreError, "torn"),
        (bare / "empty", InvalidArgument, "not the database of a layerstore"),
        (bare / "text", InvalidArgument, "text cannot be used"),
        (bare / "none", InvalidArgument, "is not a file"),
        (bare, InvalidArgument, "is not a file"),
        (pair / layout.DATABASE, InvalidArgument, "the database itself"),
    ):
        with pytest.raises(error, match=words):
            Store.restore(pair, source)
        now = own_names(pair), (pair / layout.DATABASE).read_bytes(), description.read(pair)
        assert before == now, source
    with Store.open(pair), pytest.raises(Busy):
        Store.restore(pair, good, timeout=0.1)
    with Store.open(pair) as store:
        assert () == store.settled


def test_a_backup_of_the_original_is_not_the_copys(pair: Path, bare: Path) -> None:
    """A copy with an id of its own does not take the database of the store that it was."""
    copy = saved(pair)
    run("cp", "-a", pair, bare / "copy")
    Store.adopt(bare / "copy", this_is="copy")
    with pytest.raises(InvalidArgument, match="is of store"):
        Store.restore(bare / "copy", copy)
    Store.restore(bare / "copy", saved(bare / "copy", "own.db"))
    Store.restore(pair, copy)


# --- killed meanwhile ---------------------------------------------------------------------------


@pytest.mark.crash
def test_a_restore_that_is_killed(pair: Path, bare: Path) -> None:
    """Killed at every point, the next open has the old database or the new one, and the WAL with it.

    The old one has acknowledged work that is in its WAL alone, and loses none of it.
    """
    copy = saved(pair)

    def crowd() -> None:
        store = Store.open(pair)
        store.create("late", labels={"only": "in the WAL"})
        os._exit(0)

    assert 0 == apart(crowd)
    assert (pair / f"{layout.DATABASE}-wal").stat().st_size > 0
    pristine = bare / "pristine"
    pair.rename(pristine)

    def renew() -> None:
        shutil.rmtree(pair, ignore_errors=True)
        run("cp", "-a", pristine, pair)
        (pair / layout.PLACE_FILE).unlink()  # it takes itself for the directory that it was

    renew()
    with points() as passed:
        Store.restore(pair, copy)
    restore = [name for name in passed if name.startswith("restore:")]
    assert {"restore:copy:after", "restore:decide:after", "restore:aside-wal:after"} < set(restore)
    outcomes = []
    for index in range(len(passed)):
        renew()

        def work(index: int = index) -> None:
            with dying_at(index):
                Store.restore(pair, copy)

        assert 9 == apart(work)
        with Store.open(pair) as store:
            new = "store.restored.v1" in [row["kind"] for row in store.rows()]
            labels = {} if new else {"only": "in the WAL"}
            assert labels == store.layer("late").labels
            check_settled(store)
            outcomes.append(new)
        with Store.open(pair) as store:
            assert () == store.settled
        assert {"journal.db", "owners", "place.json", "probes.json"} < own_names(pair)
        assert not [name for name in own_names(pair) if name.startswith("journal.db.")]
        aside = list((pair / layout.QUARANTINE).glob("*/journal.db"))
        assert int(new) == len(aside)
        if new:
            with engine.driver.connect(aside[0], isolation_level=None) as old:
                assert [("late",)] == old.execute(
                    "SELECT id FROM layers WHERE id='late'"
                ).fetchall()
            old.close()
    decided = passed.index("restore:decide:after")
    assert [index >= decided for index in range(len(passed))] == outcomes
