"""An older database is brought up to date at open; a newer one is left alone."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy

from layerstore import Reader, Store
from layerstore.audit import audit
from layerstore.db import engine, migrate
from layerstore.db import statements as sql
from layerstore.errors import Busy, SchemaTooNew, StoreDamaged
from layerstore.fs import layout
from tests.cli.running import Program
from tests.index import children
from tests.schema.conftest import NEW, OLD
from tests.schema.databases import look
from tests.schema.test_migrations import scripts

pytestmark = pytest.mark.root


def database(home: Path) -> Path:
    """The database of a store."""
    return home / layout.DATABASE


def saved(home: Path) -> Path:
    """Where the copy from before the upgrade lies."""
    return home / f"{layout.DATABASE}.before-{OLD}"


def own_files(home: Path) -> dict[str, bytes]:
    """The bytes of every file of the store's own, but for those that any opening of it makes.

    SQLite makes `-shm` and, where there is none, an empty `-wal` also for a connection that may
    only read.
    """
    own = home / layout.OWN
    found = {
        str(path.relative_to(own)): path.read_bytes() for path in own.rglob("*") if path.is_file()
    }
    found.pop("journal.db-shm", None)
    found.setdefault("journal.db-wal", b"")
    return found


def set_revision(home: Path, revision: str) -> None:
    """Let the database say that it has this schema."""
    connection = engine.driver.connect(database(home))
    with connection:
        connection.execute("UPDATE alembic_version SET version_num = ?", (revision,))
    connection.close()


def ids(store: Reader) -> list[str]:
    """The ids of all layers."""
    return [layer.id for layer in store.layers()]


def test_an_open_upgrades_and_loses_nothing(old_home: Path, newer_package: str) -> None:
    """After an open the schema is the package's, and every row is where it was."""
    before = look(database(old_home))[1]
    with Store.open(old_home) as store:
        assert (["base", "child"], "v") == (ids(store), store.layer("base").labels["k"])
        assert len(before["events"]) == store.last_seq()
    schema, rows = look(database(old_home))
    assert {(newer_package,)} == set(rows["alembic_version"])
    assert "table notes of notes" in schema
    assert before["events"] == rows["events"]
    assert [(seq, kind) for seq, *_, kind, _, _ in before["events"]] == rows["notes"]
    assert [] == [f for f in audit(old_home).findings if f.severity != "note"]


def test_the_copy_from_before_is_a_whole_store(old_home: Path, newer_package: str) -> None:
    """The copy holds what the database held, and put back in its place it opens again."""
    before = look(database(old_home))
    Store.open(old_home).close()
    assert before == look(saved(old_home))
    assert 0o600 == saved(old_home).stat().st_mode & 0o777
    assert [] == list((old_home / layout.OWN).glob("*.tmp"))
    for suffix in ("", "-wal", "-shm"):
        Path(f"{database(old_home)}{suffix}").unlink(missing_ok=True)
    shutil.copy(saved(old_home), database(old_home))
    with Store.open(old_home) as store:
        assert ["base", "child"] == ids(store)


def test_the_copy_from_before_is_restored(old_home: Path, newer_package: str) -> None:
    """`restore` takes the copy from before an upgrade, upgrades it again, and compares the tree."""
    with Store.open(old_home) as store:
        store.create("late", parent="base")
        last = store.last_seq()
    settled = Store.restore(old_home, saved(old_home))
    assert ["reverted", "adopted"] == [item.what for item in settled if item.what != "released"]
    rows = look(database(old_home))[1]
    assert {(newer_package,)} == set(rows["alembic_version"])
    with Store.open(old_home) as store:
        assert ["base", "child", "late"] == ids(store)
        assert last < next(store.rows(kind="store.restored"))["seq"]
    assert [] == [f for f in audit(old_home).findings if f.severity != "note"]


def test_the_upgrade_has_the_store_to_itself(
    old_home: Path, newer_package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it runs nobody else can take the store's lock, not even shared."""
    seen: list[str] = []
    upgrade = migrate.upgrade

    def watched(path: str, **options: Any) -> str:
        with (old_home / layout.STORE_LOCK).open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                seen.append("locked")
        return upgrade(path, **options)

    monkeypatch.setattr(migrate, "upgrade", watched)
    Store.open(old_home).close()
    assert ["locked"] == seen


def test_a_process_that_has_the_store_open_makes_it_busy(
    old_home: Path, newer_package: str
) -> None:
    """The schema is not changed under an older process: the open fails, and changes nothing."""
    with children.Gate() as opened, children.Gate() as done:

        def hold() -> None:
            sql.REVISION = OLD  # type: ignore[misc]  # an older package
            with Store.open(old_home) as store:
                opened.open()
                done.wait()
                store.create("meanwhile")

        with children.running(hold) as holder:
            opened.wait()
            with pytest.raises(Busy, match="open in another process"):
                Store.open(old_home, timeout=0.1)
            assert not saved(old_home).exists()
            done.open()
            assert children.Ended(0, 0) == holder.wait()
    with Store.open(old_home) as store:
        assert ["base", "child", "meanwhile"] == ids(store)


def test_processes_that_start_together_all_get_in(old_home: Path, newer_package: str) -> None:
    """Several processes meet the old schema at once: one upgrades it, and all can work at once."""
    with children.Gate() as arrived, children.Gate() as go, children.Gate() as leave:

        def come() -> str:
            arrived.open()
            go.wait()
            store = Store.open(old_home, timeout=20)
            arrived.open()
            leave.wait()  # all are in before the first one leaves
            name = f"by-{os.getpid()}"
            store.create(name)
            store.close()
            return name

        started = [children.start(come) for _ in range(4)]
        arrived.wait(4)
        go.open(4)
        arrived.wait(4)
        leave.open(4)
        names = {child.wait().result for child in started}
    with Store.open(old_home) as store:
        assert {"base", "child"} | names == set(ids(store))
    copies = [path.name for path in (old_home / layout.OWN).glob("*.before-*")]
    assert [saved(old_home).name] == copies


class Killer:
    """Kills the process before the n-th statement that an upgrade gives to SQLite."""

    def __init__(self, fatal: int) -> None:
        self.fatal = fatal
        self.passed = 0

    def __call__(self, statement: str) -> None:
        if self.passed == self.fatal:
            os.kill(os.getpid(), signal.SIGKILL)
        self.passed += 1


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Callable[[Killer], None]:
    """Have each statement of every connection of an upgrade pass a Killer first."""

    def watch(killer: Killer) -> None:
        make, connect = migrate._sqlalchemy, engine.connect

        def made(path: str) -> Any:
            database = make(path)

            @sqlalchemy.event.listens_for(database, "connect")
            def _(connection: Any, __: Any) -> None:
                connection.set_trace_callback(killer)

            return database

        def connected(path: str, **options: Any) -> Any:
            connection = connect(path, **options)
            connection.set_trace_callback(killer)
            return connection

        monkeypatch.setattr(migrate, "_sqlalchemy", made)
        monkeypatch.setattr(engine, "connect", connected)

    return watch


@pytest.mark.crash
def test_an_upgrade_that_is_killed_leaves_one_whole_schema(
    old_home: Path, newer_package: str, watched: Callable[[Killer], None], tmp_path: Path
) -> None:
    """SIGKILL before any statement leaves the old schema or the new one, and the next open goes on."""
    pristine = tmp_path / "pristine"
    shutil.copytree(old_home / layout.OWN, pristine)
    old = look(database(old_home))

    def upgrade(fatal: int) -> children.Ended:
        killer = Killer(fatal)

        def work() -> int:
            watched(killer)
            migrate.upgrade(str(database(old_home)))
            return killer.passed

        return children.run(work)

    points = upgrade(-1).result
    new = look(database(old_home))
    assert points > 15 and old != new
    killed = 0
    left = []
    for fatal in range(points):
        shutil.rmtree(old_home / layout.OWN)
        shutil.copytree(pristine, old_home / layout.OWN)
        killed += upgrade(fatal).signal == signal.SIGKILL
        found = look(database(old_home))
        left.append("old" if found == old else "new" if found == new else "torn")
        if saved(old_home).exists():
            assert old == look(saved(old_home))
        with Store.open(old_home) as store:
            assert ["base", "child"] == ids(store)
        assert {(NEW,)} == set(look(database(old_home))[1]["alembic_version"])
    assert points == killed
    assert ["old"] * points == left


@pytest.mark.parametrize("way", ["store", "reader"])
def test_a_newer_schema_is_refused_untouched(old_home: Path, way: str) -> None:
    """A database of a newer layerstore is SchemaTooNew, and not a byte of it changes."""
    set_revision(old_home, "9999")
    before = own_files(old_home)
    with pytest.raises(SchemaTooNew, match="9999"):
        Store.open(old_home) if way == "store" else Reader.open(old_home)
    assert before == own_files(old_home)


@pytest.mark.parametrize(
    "words", [("ls",), ("create", "x"), ("status",), ("recover",), ("db", "upgrade")]
)
def test_the_program_ends_with_12_on_a_newer_schema(old_home: Path, words: tuple[str, ...]) -> None:
    """Every command ends with exit code 12 on a newer schema, and leaves the files as they were."""
    set_revision(old_home, "9999")
    before = own_files(old_home)
    done = Program(old_home)(*words, code=12)
    assert ("", True) == (done.out, "9999" in done.err)
    assert before == own_files(old_home)


def test_a_reader_does_not_upgrade(old_home: Path, newer_package: str) -> None:
    """A Reader, which may not write, says what to do about an older schema and changes nothing."""
    before = own_files(old_home)
    with pytest.raises(StoreDamaged, match=f"older schema {OLD}") as caught:
        Reader.open(old_home)
    assert "db upgrade" in caught.value.hint
    assert before == own_files(old_home)


def test_upgrade_says_from_where_to_where(old_home: Path, newer_package: str) -> None:
    """Store.upgrade tells both revisions, and a second one finds nothing to do."""
    assert (OLD, NEW) == Store.upgrade(old_home)
    at = saved(old_home).stat().st_mtime_ns
    assert (NEW, NEW) == Store.upgrade(old_home)
    assert at == saved(old_home).stat().st_mtime_ns
    assert (NEW, NEW) == Store.revision(old_home)


def test_a_store_from_before_limits_gets_the_table_of_projects(old_home: Path) -> None:
    """It opens, keeps its layers, and has a table without rows."""
    before = scripts().get_revision("0003").down_revision
    connection = engine.driver.connect(database(old_home))
    with connection:
        connection.execute("DROP TABLE projects")
        connection.execute("DROP TABLE manifests")  # younger still, as are these:
        for column in ("applied", "diff_id", "size", "inodes"):
            connection.execute(f"ALTER TABLE layers DROP COLUMN {column}")
        connection.execute("UPDATE alembic_version SET version_num = ?", (before,))
    connection.close()
    with Store.open(old_home) as store:
        assert ["base", "child"] == ids(store)
        store.create("new", parent="child")
        store.remove("new")
    schema, rows = look(database(old_home))
    assert "table projects of projects" in schema
    assert [(sql.REVISION,)] == rows["alembic_version"]
    assert [] == rows.get("projects", [])
    assert [] == [finding for finding in audit(old_home).findings if finding.severity != "note"]
