"""Owns the database file of one archive: written once, then only read; it must not know where it lies.

An archive holds the events of one range, the folded tables as they were before the first of them,
and the owners that wrote them: it needs no other file. Nobody changes it once it has its name, so
it is read without locks, and opening and closing it leaves no file beside it.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from typing import Any, Final

from layerstore.db import engine, faults
from layerstore.db import statements as sql
from layerstore.errors import StoreDamaged
from layerstore.fs import durable

_TABLES: Final = {"meta", "events", "owners", "snapshots"}


def _tables() -> Iterator[str]:
    """The statements that make the tables of an archive, and its index at the end."""
    for statement in sql.CREATE:
        found = re.match(r"CREATE TABLE (\w+)", statement)
        if found and found[1] in _TABLES:
            yield statement


_INDEX: Final = next(text for text in sql.CREATE if "ix_events_layer" in text)


class Writer:
    """An archive that is being written, under a temporary name."""

    def __init__(self, path: str) -> None:
        """Make the file, which must not be there."""
        self.path = path
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
        self._connection = engine.driver.connect(path, isolation_level=None)
        try:
            self._begin()
        except BaseException:
            self.close()
            raise

    def _begin(self) -> None:
        with self._explained():
            # It has its name only when it is whole and synced, so no journal is needed.
            self._connection.execute("PRAGMA journal_mode=OFF")
            self._connection.execute("PRAGMA synchronous=OFF")
            self._connection.execute("BEGIN IMMEDIATE")
            for statement in _tables():
                self._connection.execute(statement)

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except engine.DriverError as error:
            raise faults.explain(self.path, error) from error

    def add(self, table: str, rows: engine.Rows) -> None:
        """Add rows, whose columns are those of the table in their order."""
        if not rows:
            return
        places = ", ".join("?" * len(rows[0]))
        with self._explained():
            self._connection.executemany(f"INSERT INTO {table} VALUES ({places})", rows)

    def finish(self, meta: dict[str, str]) -> None:
        """Make it whole, and sync it."""
        self.add("meta", list(meta.items()))
        with self._explained():
            self._connection.execute(_INDEX)
            self._connection.execute("COMMIT")
        self.close()
        descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            durable.sync(descriptor, self.path)
        finally:
            os.close(descriptor)

    def close(self) -> None:
        """Let go of it, whole or not; safe to repeat."""
        self._connection.close()


class Frozen(engine.ReadDatabase):
    """An archive, opened to be read."""

    def __init__(self, path: str) -> None:
        """FileNotFoundError where it is gone; StoreDamaged where it is no database."""
        os.stat(path)
        try:
            super().__init__(path, timeout=30, frozen=True)
        except StoreDamaged as error:
            os.stat(path)
            raise _damaged(path, error) from error

    def read(self, statement: str, parameters: dict[str, Any] | None = None) -> engine.Rows:
        """All rows of one SELECT; StoreDamaged names the archive, not the store."""
        try:
            return super().read(statement, parameters)
        except StoreDamaged as error:
            raise _damaged(self.path, error) from error

    def meta(self) -> dict[str, str]:
        """What it says about itself."""
        return dict(self.read(sql.SELECT_META))


def _damaged(path: str, error: StoreDamaged) -> StoreDamaged:
    return StoreDamaged(
        f"The archive {path} cannot be used: {error.__cause__ or error}.",
        hint="Put it back from a copy, or move it away: the log then begins after it. The layers "
        "do not need it.",
    )
