"""Old events move to archives, and nothing that is asked about the past is answered otherwise."""

from __future__ import annotations

import logging
import os
import shutil
import threading
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from layerstore import Reader, Store, answers, archives, compaction, replay
from layerstore.audit import audit
from layerstore.db import engine, migrate, reserve
from layerstore.db import statements as sql
from layerstore.errors import Busy, InvalidArgument, JournalDamaged, NoLongerKept
from layerstore.fs import layout, locks
from tests.golden import format1
from tests.golden.test_format1 import golden_home
from tests.store.support import Worker, findings, traced

pytestmark = pytest.mark.root


def busy(store: Store, times: int) -> None:
    """Gets and puts of the layer `base`, two events each."""
    for _ in range(times):
        store.get("base", holder="docker")
        store.put("base", holder="docker")


def past(reader: Reader) -> tuple[list[Any], dict[int, answers.State]]:
    """Everything that is told about the past: each row, and the store after each event."""
    rows = list(reader.rows())
    return rows, {row["seq"]: reader.state_at(row["seq"]) for row in rows}


def names(home: Path) -> list[str]:
    """The files in the directory of archives."""
    directory = home / layout.ARCHIVES
    return sorted(os.listdir(directory)) if directory.exists() else []


def seqs(reader: Reader) -> list[int]:
    """The numbers of all events, as they are told."""
    return [row["seq"] for row in reader.rows()]


@pytest.fixture
def filled(store: Store) -> Store:
    """A store with a chain, a layer that is gone, a hold, and some forty events."""
    store.create("base", labels={"name": "Größe ✓"})
    store.create("child", parent="base")
    store.create("gone")
    store.remove("gone")
    store.get("base", holder="kept")
    busy(store, 12)
    return store


# --- the past stays -----------------------------------------------------------------------------


def test_the_past_is_told_as_before(filled: Store) -> None:
    """Log, history and the state after every event are the same, however often it was compacted."""
    rows, states = past(filled)
    history = {name: filled.history(name) for name in ("base", "child", "gone")}
    for keep in (20, 8, 0):
        filled.compact(keep=keep)
        found, again = past(filled)
        assert rows == found[: len(rows)]
        assert states == {seq: again[seq] for seq in states}
        assert history == {name: filled.history(name) for name in history}
    assert list(range(1, filled.last_seq() + 1)) == seqs(filled)
    assert [rows[10]] == list(filled.rows(after_seq=10, limit=1))
    assert [] == findings(filled.home)
    assert audit(filled.home, archives=True).clean


def test_only_what_may_go_goes(filled: Store) -> None:
    """The newest events stay, as many as were asked for; where there are no more, nothing is done."""
    last = filled.last_seq()
    done = filled.compact(keep=5)
    assert (1, last - 5, last - 5) == (done.first, done.last, done.events)
    assert done.archive == str(filled.home / layout.archive(1, last - 5))
    assert 5 + 1 == filled.status().events
    again = filled.compact(keep=6)
    assert (None, 0) == (again.archive, again.events)
    assert last + 1 == filled.last_seq()


ACTS = st.lists(
    st.tuples(
        st.sampled_from(["create", "child", "get", "put", "remove", "compact", "own", "reopen"]),
        st.integers(0, 2),
    ),
    min_size=5,
    max_size=16,
)


def act(store: Store, what: str, number: int) -> None:
    """One step of a random life; what the store refuses is part of it."""
    layer = f"l{number}"
    match what:
        case "create":
            store.create(layer)
        case "child":
            store.create(f"c{number}", parent=layer)
        case "get":
            store.get(layer, holder="docker")
        case "own":
            store.get(f"c{number}")
        case "put":
            store.put(layer, holder="docker")
        case "remove":
            store.remove(f"c{number}")


@settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(acts=ACTS)
def test_any_life_is_told_alike(bare: Path, acts: list[tuple[str, int]]) -> None:
    """Whatever happened, and whenever it was compacted: every event and every state stays."""
    home = bare / f"home-{len(os.listdir(bare))}"
    Store.initialize(home)
    store = Store.open(home, durability="process")
    try:
        store.create("l0")
        for what, number in acts:
            if what == "compact":
                rows, states = past(store)
                store.compact(keep=3 * number)
                found, again = past(store)
                assert rows == found[: len(rows)]
                assert states == {seq: again[seq] for seq in states}
            elif what == "reopen":
                store.close()
                store = Store.open(home, durability="process")
            else:
                try:
                    act(store, what, number)
                except layerstore_errors():
                    pass
        assert list(range(1, store.last_seq() + 1)) == seqs(store)
    finally:
        store.close()
    assert audit(home, archives=True).clean
    shutil.rmtree(home)


def layerstore_errors() -> type[Exception]:
    """What the store raises where it refuses."""
    from layerstore import LayerstoreError

    return LayerstoreError


def test_a_store_of_the_first_format_is_compacted(bare: Path) -> None:
    """Upgraded from the first schema and compacted, its golden past is told as it was written."""
    home = golden_home(bare / "home")
    to_first_schema(home)
    with Store.open(home) as store:
        assert sql.REVISION == Store.revision(home)[0]
        assert store.compact(keep=0).events > len(format1.journal())
        found = list(store.rows(limit=len(format1.journal())))
        assert [row["seq"] for row in format1.journal()] == [row["seq"] for row in found]
        assert [row["kind"] for row in format1.journal()] == [row["kind"] for row in found]
        folded = {layer.id for layer in store.state_at(format1.journal()[-1]["seq"]).layers}
        assert folded <= {row["id"] for row in format1.index()["layers"]}
    assert {"adopted"} == {
        f.layer for f in audit(home, archives=True).findings if f.severity != "note"
    }


def to_first_schema(home: Path) -> None:
    """Make the database one of the first schema: what its tables hold stays."""
    path = home / layout.DATABASE
    old = path.with_name("first.db")
    migrate.run(migrate._sqlalchemy(str(old)), "0001")
    connection = engine.driver.connect(old, isolation_level=None)
    connection.execute("ATTACH ? AS new", (str(path),))
    tables = connection.execute("SELECT name FROM main.sqlite_master WHERE type = 'table'")
    for (name,) in tables.fetchall():
        if name not in ("alembic_version", "sqlite_sequence"):
            columns = connection.execute(f"PRAGMA main.table_info({name})").fetchall()
            names = ", ".join(f'"{column[1]}"' for column in columns)
            connection.execute(f"INSERT INTO main.{name} SELECT {names} FROM new.{name}")
    connection.execute("DETACH new")
    connection.execute("PRAGMA journal_mode=WAL")
    connection.close()
    for suffix in ("-wal", "-shm"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)
    old.rename(path)


def test_archives_are_read_however_few_are_looked_up_at_once(
    filled: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A log through more archives than one look gives is whole, also where one is pruned meanwhile."""
    monkeypatch.setattr(archives, "_AHEAD", 2)
    rows, _ = past(filled)
    for keep in (40, 30, 20, 10, 5):
        filled.compact(keep=keep)
    kept = names(filled.home)
    assert len(kept) >= 4
    assert rows == list(filled.rows())[: len(rows)]
    assert [rows[20]] == list(filled.rows(after_seq=20, limit=1))
    told = filled.rows()
    first = next(told)
    (filled.home / layout.ARCHIVES / kept[1]).unlink()
    rest = [row["seq"] for row in told]
    missing = archives.listed(str(filled.home))
    gone = set(range(missing[0].last + 1, missing[1].first))
    assert gone
    assert [s for s in range(first["seq"] + 1, filled.last_seq() + 1) if s not in gone] == rest


def test_thousands_of_archives_cost_no_memory(tmp_path: Path) -> None:
    """Whoever looks for what a compaction left, or for the next archives, never has all in hand."""
    (tmp_path / layout.ARCHIVES).mkdir(parents=True)
    for number in range(2_000):
        (tmp_path / layout.archive(number * 10 + 1, number * 10 + 10)).touch()
    tracemalloc.start()
    try:
        assert ([], []) == archives.leftovers(str(tmp_path), 20_000)
        assert [] == archives._following(str(tmp_path), 20_000, 20_000)
        ahead = archives._following(str(tmp_path), 20_000, 19_995)
        assert [19_991] == [archive.first for archive in ahead]
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


# --- at the same time ---------------------------------------------------------------------------


@pytest.mark.parametrize("point", ["compact:archive:after", "compact:rename:after"])
def test_a_reader_sees_each_event_once_at_any_moment(filled: Store, point: str) -> None:
    """Also when the archive has its name already, and the journal still has its events."""
    filled.compact(keep=20)
    rows, _ = past(filled)
    seen: list[Any] = []

    def look(passed: str) -> None:
        if passed == point:
            with Reader.open(filled.home) as reader:
                seen.append(past(reader)[0])

    with traced(look):
        filled.compact(keep=4)
    assert [rows] == seen


def test_a_reader_that_is_under_way_misses_nothing(
    filled: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A walk through the journal that compactions overtake goes on in the archives."""
    monkeypatch.setattr(engine, "PAGE", 3)
    wanted = seqs(filled)
    with Reader.open(filled.home) as reader:
        found = []
        for number, row in enumerate(reader.rows()):
            found.append(row["seq"])
            if number in (1, 4, 20):
                filled.compact(keep=15 if number < 20 else 0)
    assert wanted == found[: len(wanted)] == sorted(set(found))


def test_what_is_in_flight_stays(filled: Store) -> None:
    """A compaction stops below the oldest intent without an outcome."""
    found: list[answers.Compaction] = []

    def compact(point: str) -> None:
        if point == "create:outcome:before":
            thread = threading.Thread(target=lambda: found.append(filled.compact(keep=0)))
            thread.start()
            thread.join()

    with traced(compact):
        filled.create("new", parent="base")
    (intent,) = filled.rows(layer="new", kind="layer.create.intended")
    assert intent["seq"] - 1 == found[0].last
    assert "layer.created.v1" in {entry.kind for entry in filled.history("new")}
    filled.compact(keep=0)
    assert [] == findings(filled.home)


def test_processes_work_and_ask_while_it_is_compacted(
    home: Path, worker: Callable[..., Worker]
) -> None:
    """Writers, readers and compactions of several processes at once: nothing is lost or told twice."""
    with Store.open(home, durability="process") as store:
        for number in range(3):
            store.create(f"l{number}")
    writers = [worker(home, opened=False) for _ in range(3)]
    for number, process in enumerate(writers):
        process.do("store = Store.open(home, durability='process', compact_above=60)")
        process.send(
            f"[(store.get('l{number}', holder='h'), store.put('l{number}', holder='h'))"
            " for _ in range(120)] and None"
        )
    with Reader.open(home) as reader:
        for _ in range(15):
            found = seqs(reader)
            assert list(range(1, len(found) + 1)) == found
            assert 3 == len(reader.state_at(found[len(found) // 2]).layers) or len(found) < 14
    for process in writers:
        process.value()
        assert process.end() == 0
    with Reader.open(home) as reader:
        assert 7 + 3 * 240 == sum(1 for row in reader.rows() if row["kind"] != compacted())
        assert reader.status().archives > 1
        assert list(range(1, reader.last_seq() + 1)) == seqs(reader)
    assert audit(home, archives=True).clean


def compacted() -> str:
    """The kind of a compaction's own event."""
    return "journal.compacted.v1"


def test_nobody_is_waited_for_who_reads(filled: Store) -> None:
    """A read transaction of another keeps the log from being emptied, and a compaction from nothing."""
    with engine.consistent(str(filled.home / layout.DATABASE)) as reading:
        before = reading.execute("SELECT count(*) FROM events").fetchone()
        began = time.monotonic()
        assert filled.compact(keep=0).events == before[0]
        assert time.monotonic() - began < 15  # the driver's patience is 30 s
        assert filled.status().wal_bytes > 0
        assert before == reading.execute("SELECT count(*) FROM events").fetchone()
    busy(filled, 1)
    filled.compact(keep=0)
    size = filled.status().wal_bytes
    busy(filled, 5)
    assert size == filled.status().wal_bytes  # nobody reads: it begins anew, and keeps its size


def test_one_at_a_time(filled: Store) -> None:
    """Where another compacts, one that is asked for is Busy, and one that is due waits its turn."""
    with locks.alone(str(filled.home / layout.COMPACT_LOCK), timeout=0) as had:
        assert had
        filled._timeout = 0
        with pytest.raises(Busy, match="being compacted"):
            filled.compact()
        with Store.open(filled.home, compact_above=5) as other:
            busy(other, 3)
    assert [] == names(filled.home)


def test_a_forked_child_keeps_nobody_out(home: Path) -> None:
    """A child that is forked during a compaction does not have its lock."""
    path = str(home / layout.COMPACT_LOCK)
    ours, theirs = os.pipe()
    with locks.alone(path, timeout=0):
        (descriptor,) = locks._ALONE
        pid = os.fork()
        if pid == 0:
            os.close(theirs)
            code = 1
            try:
                os.fstat(descriptor)
            except OSError:
                code = 0
            os.read(ours, 1)
            os._exit(code)
    with locks.alone(path, timeout=0) as had:
        assert had
    os.close(theirs)
    os.close(ours)
    assert 0 == os.waitpid(pid, 0)[1]


# --- by itself ----------------------------------------------------------------------------------


def test_a_store_keeps_its_journal_short(home: Path) -> None:
    """Over thousands of gets and puts, database, WAL and archives stay within bounds."""
    sizes: list[tuple[int, int]] = []
    with Store.open(home, durability="process", compact_above=500, keep_archives=2) as store:
        store.create("base")
        for _ in range(10):
            busy(store, 250)
            status = store.status()
            assert status.events <= 501
            assert status.archives <= 2
            sizes.append((status.database_bytes, status.wal_bytes))
        assert 5_004 < store.last_seq()
        assert len(store.state_at(store.last_seq() - 600).layers) == 1
    assert max(size for size, _ in sizes) < 400_000 + reserve.LARGEST
    assert max(size for _, size in sizes) < 5_000_000
    assert audit(home, archives=True).clean


def test_an_open_compacts_what_is_due(home: Path) -> None:
    """Programs that only ever do one thing have their journal compacted when they open it."""
    with Store.open(home, durability="process", compact_above=0) as store:
        store.create("base")
        busy(store, 20)
        assert (44 - 1, []) == (store.last_seq(), names(home))
    Store.open(home, compact_above=43).close()
    assert [] == names(home)
    with Store.open(home, compact_above=42) as store:
        assert 1 == len(names(home))
        assert 4 + 1 == store.status().events


def test_a_verb_does_not_fail_because_of_it(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What goes wrong with a compaction that is due is logged, and it is tried again later."""
    (home / layout.ARCHIVES).write_text("in the way")
    caplog.set_level(logging.WARNING)
    with Store.open(home, compact_above=20) as store:
        store.create("base")
        busy(store, 15)
        assert 2 <= sum("was not compacted" in record.message for record in caplog.records) <= 8
        (home / layout.ARCHIVES).unlink()
        busy(store, 3)
        assert 1 == store.status().archives


def test_after_a_rebuild_old_numbers_do_not_count(home: Path) -> None:
    """A journal that begins above the high-water mark is not taken for a long one."""
    with Store.open(home) as store:
        store.create("base")
    Store.rebuild(home)
    with Store.open(home, compact_above=100) as store:
        assert store.last_seq() > 10_000
        busy(store, 10)
        assert [] == names(home)


# --- what is not kept ---------------------------------------------------------------------------


def test_archives_that_are_too_many_go(filled: Store) -> None:
    """With `keep_archives` the past ends at the oldest one that is kept, and says so."""
    for keep in (25, 15):
        filled.compact(keep=keep)
    cut = int(names(filled.home)[-1].partition("-")[0]) - 1
    before = past(filled)[1]
    done = filled.compact(keep=5, keep_archives=2)
    assert (1, 2) == (len(done.deleted), len(names(filled.home)))
    found = seqs(filled)
    assert list(range(cut + 1, filled.last_seq() + 1)) == found
    assert all(before[seq] == filled.state_at(seq) for seq in found if seq in before)
    assert before[cut] == filled.state_at(cut)
    with pytest.raises(NoLongerKept, match=f"reach back to event {cut + 1}"):
        filled.state_at(cut - 1)
    assert [] == findings(filled.home)
    filled.compact(keep=1, keep_archives=0)
    assert [] == names(filled.home)
    assert filled.state_at(filled.last_seq()).layers == tuple(filled.layers())
    assert audit(filled.home, archives=True).clean


@pytest.mark.parametrize("number", [-1, True])
def test_numbers_that_mean_nothing_are_refused(filled: Store, number: int) -> None:
    """A negative number, or none at all, is an argument that no store accepts."""
    with pytest.raises(InvalidArgument):
        filled.compact(keep=number)
    with pytest.raises(InvalidArgument):
        Store.open(filled.home, keep_archives=number)


def test_owners_that_are_long_gone_go_with_their_events(home: Path) -> None:
    """The table of owners has who wrote what the journal has; of others the archives tell."""
    for number in range(8):
        with Store.open(home) as store:
            store.create(f"l{number}")
    with Store.open(home) as store:
        store.get("l0", holder="docker")
    with Store.open(home) as store:
        rows = list(store.rows())
        owners = {row["owner"]: store.owner(row["owner"]) for row in rows}
        held = store.holders()
        store.compact(keep=0)
        assert 2 == len(store.select("SELECT id FROM owners"))
        assert owners == {name: store.owner(name) for name in owners}
        assert held == store.holders()
        assert held[0].taken_by is not None


# --- what is wrong ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("UPDATE layers SET labels = '{}' WHERE id = 'base'", "table layers, row of base"),
        ("INSERT INTO holds VALUES ('child', 'x', 1, 'o', 1, 1)", "child: only the index"),
        ("DELETE FROM holds", "table holds, row of base: only the journal"),
    ],
)
def test_nothing_is_thrown_away_where_the_fold_differs(
    filled: Store, change: str, said: str
) -> None:
    """Where index and journal do not agree, a compaction is refused, and nothing has changed."""
    rows = list(filled.rows())
    with filled._hands.journal.transaction(full=True) as tx:
        tx.execute(change)
    with pytest.raises(JournalDamaged, match=f"{said}.*nothing was compacted"):
        filled.compact(keep=3)
    assert [] == names(filled.home)
    assert (rows, 0) == (list(filled.rows()), filled.status().archives)


def test_an_archive_of_another_database_is_set_aside(filled: Store) -> None:
    """Events that the journal does not have are not deleted with what a compaction left."""
    home = filled.home
    saved = home / "saved.db"
    filled.close()
    migrate.copy(str(home / layout.DATABASE), str(saved))
    with Store.open(home) as store:
        store.create("later")
        store.compact(keep=0)
    (archive,) = names(home)
    for suffix in ("-wal", "-shm"):
        Path(f"{home / layout.DATABASE}{suffix}").unlink(missing_ok=True)
    saved.rename(home / layout.DATABASE)
    with Reader.open(home) as reader:
        assert 0 == reader.status().archives
    Store.open(home).close()
    assert [] == names(home)
    assert 1 == len(list((home / layout.QUARANTINE).glob(f"*/{archive}")))


def test_a_rebuild_sets_archives_aside_with_their_database(filled: Store) -> None:
    """They belong together; the new journal begins with the rebuild, and finds nothing amiss."""
    filled.compact(keep=0)
    filled.close()
    home = filled.home
    Store.rebuild(home)
    assert 1 == len(list((home / layout.QUARANTINE).glob("*/archive/*.db")))
    with Store.open(home) as store:
        assert "store.rebuilt.v1" == next(store.rows())["kind"]
        store.compact(keep=0)
        assert 1 == store.status().archives
    assert audit(home, archives=True).clean


def test_the_audit_sees_gaps_and_leftovers(filled: Store) -> None:
    """By their names alone: an archive that is missing between two, and a file that is none."""
    for keep in (25, 15, 5):
        filled.compact(keep=keep)
    directory = filled.home / layout.ARCHIVES
    first, middle, _ = names(filled.home)
    (directory / first).unlink()
    assert [] == findings(filled.home)
    (directory / f".{first}.tmp").touch()
    shutil.copy(directory / middle, directory / Path(layout.archive(900, 901)).name)
    (directory / middle).unlink()
    found = findings(filled.home)
    assert ["archive-leftover"] * 2 == [line.partition(" ")[0] for line in found]
    (directory / names(filled.home)[1]).rename(directory / middle)
    (directory / names(filled.home)[-1]).unlink()
    found = [finding.code for finding in audit(filled.home).findings]
    assert "archive-gap" in found


@pytest.mark.parametrize(
    "change",
    [
        "DELETE FROM events WHERE seq = 7",
        "UPDATE events SET data = '{}' WHERE seq = 2",
        "UPDATE events SET data = replace(data, 'Größe', 'Kleid')",
        "UPDATE meta SET value = 'x' WHERE key = 'store_id'",
        "UPDATE meta SET value = '1000' WHERE key = 'last'",
    ],
)
def test_the_audit_reads_archives_whole_if_asked(filled: Store, change: str) -> None:
    """An archive with other events than it had is found by folding it."""
    filled.compact(keep=5)
    assert audit(filled.home, archives=True).clean
    (name,) = names(filled.home)
    connection = engine.driver.connect(filled.home / layout.ARCHIVES / name)
    with connection:
        assert connection.execute(change).rowcount > 0
    connection.close()
    assert audit(filled.home).clean
    found = {finding.code for finding in audit(filled.home, archives=True).findings}
    assert {"damaged-archive"} == found


def test_an_archive_that_is_garbled_is_named(filled: Store) -> None:
    """What needs it says which file it is and what can be done; everything else goes on."""
    filled.compact(keep=5)
    (name,) = names(filled.home)
    path = filled.home / layout.ARCHIVES / name
    path.write_bytes(b"garbled" * 1000)
    with pytest.raises(layerstore_errors(), match=name):
        list(filled.rows())
    assert filled.state_at(filled.last_seq()).layers == tuple(filled.layers())
    busy(filled, 3)
    filled.compact(keep=0)
    assert {"damaged-archive"} == {f.code for f in audit(filled.home, archives=True).findings}


# --- snapshots ----------------------------------------------------------------------------------


def test_a_table_that_is_added_later_comes_along(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is a folded table is in a snapshot; what an old one lacks is empty, or has defaults."""
    old = replay.begin([])
    old.execute("INSERT INTO holds VALUES ('a', 'b', 1, 'o', 2, 3)")
    before = list(replay.parts(old))
    old.close()
    more = "CREATE TABLE quotas (id INTEGER PRIMARY KEY, of_layer TEXT)"
    wider = "ALTER TABLE holds ADD COLUMN reason TEXT NOT NULL DEFAULT 'none'"
    monkeypatch.setattr(sql, "CREATE", (*sql.CREATE, more, wider))
    monkeypatch.setitem(replay.FOLDED, "quotas", "SELECT * FROM quotas ORDER BY id")
    newer = replay.begin(before)
    newer.execute("INSERT INTO quotas VALUES (7, 'a')")
    after = list(replay.parts(newer))
    newer.close()
    again = replay.begin(after)
    assert [("a", "b", 1, "o", 2, 3, "none")] == again.execute("SELECT * FROM holds").fetchall()
    assert [(7, "a")] == again.execute("SELECT * FROM quotas").fetchall()
    again.close()
    monkeypatch.delitem(replay.FOLDED, "quotas")
    with pytest.raises(JournalDamaged, match="quotas"):
        replay.begin(after)


def test_large_snapshots_come_in_parts(home: Path) -> None:
    """A snapshot of more rows than a part has, and more parts than a page, folds to the same."""
    with Store.open(home, durability="process") as store:
        layers = [(f"l{number:04}", f"{number:026}".translate(LETTERS)) for number in range(4_000)]
        with store._hands.journal.transaction(full=True) as tx:
            for layer, link in layers:
                event = compaction_event(layer, link)
                tx.append(event)
        store.compact(keep=10)
        parts = archives.parts_of(store.select)
        assert parts is not None and len(parts) > archives._PARTS
        assert 4_000 == len(store.state_at(store.last_seq()).layers)
        store.compact(keep=0)
        assert 3_990 < len(store.state_at(4_000).layers) <= 4_000


LETTERS = str.maketrans("0123456789", "ABCDEFGHIJ")


def compaction_event(layer: str, link: str) -> Any:
    """A layer that the journal gets to know at once."""
    from layerstore import events as e

    return e.LayerAdopted(layer, link, None, "", 0, False, "a test")


def test_it_costs_a_comparison_where_it_is_not_due(
    filled: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two verbs nothing is asked of the database as long as the number is below the limit."""
    monkeypatch.setattr(compaction.Compactor, "_look", lambda *_: pytest.fail("it looked"))
    busy(filled, 5)
