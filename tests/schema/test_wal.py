"""The write-ahead log stays bounded, also while somebody reads all the time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from layerstore.db import engine, wal

SMALL = 1 << 20


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[engine.Database]:
    """A database whose log is to stay below 1 MiB, with a table of its own."""
    monkeypatch.setattr(wal, "LIMIT", SMALL)
    path = str(tmp_path / "x.db")
    made = engine.driver.connect(path, isolation_level=None)
    made.execute("PRAGMA journal_mode=WAL")
    made.execute("CREATE TABLE x (data BLOB)")
    made.close()
    database = engine.Database(
        path,
        timeout=30,
        fence=str(tmp_path / "fence"),
        suspect=str(tmp_path / "suspect"),
        spare=str(tmp_path / "spare"),
    )
    # As if somebody always read when it is time for a checkpoint.
    monkeypatch.setattr(engine, "CHECKPOINT_EVERY", 1 << 30)
    yield database
    database.close()


def log_size(database: engine.Database) -> int:
    """Bytes of the log."""
    return Path(f"{database.path}-wal").stat().st_size


def fill(database: engine.Database, commits: int) -> list[int]:
    """Commit 64 KiB so many times; the size of the log after each."""
    sizes = []
    for _ in range(commits):
        with database.write(full=False) as connection:
            connection.execute("INSERT INTO x VALUES (zeroblob(65536))")
        sizes.append(log_size(database))
    return sizes


def test_the_log_begins_anew_past_its_limit(database: engine.Database) -> None:
    """Past its limit the log begins anew, is cut to the limit, and goes on so."""
    sizes = fill(database, 100)
    assert max(sizes) < SMALL + 2 * 65536 + 65536
    assert max(sizes[-20:]) <= SMALL + 65536 * 2


def test_a_reader_in_the_way_is_not_waited_for_long(database: engine.Database) -> None:
    """While a read transaction is open the log grows and commits go on; when it ends the log is cut."""
    reader = engine.connect(database.path, read_only=True, timeout=1)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM x").fetchall()
    began = time.monotonic()
    sizes = fill(database, 60)
    assert sizes[-1] > 3 * SMALL
    assert time.monotonic() - began < 20  # it would be 30 with its usual patience
    reader.execute("COMMIT")
    reader.close()
    fill(database, 40)
    assert log_size(database) <= SMALL + 65536 * 2


def test_what_waits_for_the_database_waits_as_long_as_before(database: engine.Database) -> None:
    """After the log was begun anew the connection has its own patience again."""
    usual = database._writer.execute("PRAGMA busy_timeout").fetchone()
    fill(database, 40)
    assert (30_000,) == usual == database._writer.execute("PRAGMA busy_timeout").fetchone()
