"""Owns the connection to the journal's database; nothing else in the process may ever open its files.

Closing any other descriptor of `journal.db`, `-wal` or `-shm` in this process, or a second SQLite
library in it, would drop SQLite's POSIX locks: another process would then take itself for the last
one and delete the WAL with acknowledged commits in it. So the driver is chosen here, once.

Assumptions: WAL mode; `synchronous` is FULL for a commit that must survive a power cut and NORMAL
otherwise, set before BEGIN (inside a transaction SQLite ignores it).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
import urllib.parse
from collections.abc import Iterator
from typing import Any, Final

from layerstore.db import statements as sql
from layerstore.db import wal
from layerstore.errors import Busy, InvalidArgument, StoreClosed, StoreDamaged, WritesRefused

try:  # it carries a current SQLite; the standard library's is the distribution's
    import pysqlite3.dbapi2 as _driver
except ImportError:  # no wheel for this machine
    import sqlite3 as _driver

driver: Final[Any] = _driver
"""The DB-API module: one SQLite library for the whole process."""
DRIVER: Final[str] = "pysqlite3" if driver.__name__.startswith("pysqlite3") else "sqlite3"
SQLITE_VERSION: Final[str] = driver.sqlite_version
ONE_WRITER_NEEDED: Final[bool] = driver.sqlite_version_info < (3, 51, 3)
"""SQLite before 3.51.3 can corrupt a WAL that two connections reset at once
(https://www.sqlite.org/wal.html#walresetbug): there, writes and checkpoints take a lock file."""

DriverError: Final = driver.Error
Connection = Any
Rows = list[tuple[Any, ...]]

LONGEST_PATH: Final = 504
"""Bytes in the path of a database, symbolic links resolved: SQLite opens none that is longer."""
PAGE: Final = 500
"""Rows that one read transaction may fetch before it ends: a longer one would stop checkpoints."""


def check_path(path: str) -> None:
    """Raise InvalidArgument where SQLite cannot open a database because of the length of its path."""
    length = len(os.fsencode(path))
    if length > LONGEST_PATH:
        raise InvalidArgument(
            f"The path of the database would have {length} bytes, and SQLite opens none of more than "
            f"{LONGEST_PATH}: {path[:40]}…{path[-40:]}.",
            hint="Bind-mount the directory at a shorter path, and use that as the home.",
        )


def create(
    path: str, *, revision: str, meta: dict[str, str], first: dict[str, Any], after_seq: int
) -> None:
    """Make a database with the packaged schema at `path`, which must not exist; synced.

    `first` is the row of its first event, which gets the seq after `after_seq`.
    """
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    connection = driver.connect(path, isolation_level=None)
    try:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("BEGIN IMMEDIATE")
        for statement in sql.CREATE:
            connection.execute(statement)
        connection.execute(
            "CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL, "
            "CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num))"
        )
        connection.execute("INSERT INTO alembic_version VALUES (?)", (revision,))
        for key, value in meta.items():
            connection.execute(sql.PUT_META, {"key": key, "value": value})
        connection.execute(sql.INSERT_EVENT_AT, first | {"seq": after_seq + 1})
        connection.execute("COMMIT")
    finally:
        connection.close()


def scratch() -> Connection:
    """An empty database with the packaged schema in memory, for folding events anew."""
    connection = driver.connect(":memory:", isolation_level=None, check_same_thread=False)
    for statement in sql.CREATE:
        connection.execute(statement)
    return connection


def connect(path: str, *, read_only: bool, timeout: float) -> Connection:
    """A connection to an existing database; StoreDamaged if it is not one."""
    check_path(path)
    if not read_only:
        return _connect(path, "mode=rw", timeout=timeout)
    try:
        return _connect(path, "mode=ro", timeout=timeout)
    except StoreDamaged as error:
        # On a medium that cannot be written SQLite cannot make its -shm. Without a WAL with content
        # the file alone is the database.
        if os.path.exists(f"{path}-wal") and os.path.getsize(f"{path}-wal"):
            if os.access(os.path.dirname(path), os.W_OK):
                raise
            raise StoreDamaged(
                f"The database {path} has a write-ahead log, which cannot be read from where "
                "nothing can be written.",
                hint="Open the store once where it can be written. Nothing is lost.",
            ) from error
        return _connect(path, "mode=ro&immutable=1", timeout=timeout)


def _connect(path: str, query: str, *, timeout: float) -> Connection:
    uri = f"file:{urllib.parse.quote(path)}?{query}"
    try:
        connection = driver.connect(
            uri,
            uri=True,
            timeout=timeout,
            isolation_level=None,
            check_same_thread=False,
            cached_statements=256,
        )
    except DriverError as error:
        raise _damaged(path, error) from error
    try:
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        connection.execute(
            "PRAGMA foreign_keys=ON" if query == "mode=rw" else "PRAGMA query_only=ON"
        )
    except DriverError as error:
        connection.close()
        if is_locked(error):
            raise Busy(f"The database {path} is locked by another process.") from error
        raise _damaged(path, error) from error
    return connection


def is_locked(error: Exception) -> bool:
    return "locked" in str(error) or "busy" in str(error)


def _damaged(path: str, error: Exception) -> StoreDamaged:
    return StoreDamaged(
        f"The database {path} cannot be used: {error}.",
        hint="'layerstore db rebuild' sets it aside and makes it anew from the tree.",
    )


class ReadDatabase:
    """One reading connection, for every thread of the process."""

    def __init__(self, path: str, *, timeout: float) -> None:
        self.path = path
        self._reader = connect(path, read_only=True, timeout=timeout)
        self._read_lock = threading.RLock()
        self._closed = False

    def read(self, statement: str, parameters: dict[str, Any] | None = None) -> Rows:
        """All rows of one SELECT, in a read transaction that ends with it."""
        with self._read_lock:
            if self._closed:
                raise StoreClosed
            try:
                rows: Rows = self._reader.execute(statement, parameters or {}).fetchall()
            except DriverError as error:
                raise explain(self.path, error) from error
            return rows

    def close(self) -> None:
        with self._read_lock:
            if not self._closed:
                self._closed = True
                self._reader.close()

    def leak(self) -> None:
        """In a forked child: make sure that nothing ever closes the connection here.

        Closing it would checkpoint and unlink under the parent's feet.
        """
        _keep_for_ever(self._reader)
        self._closed = True


def _keep_for_ever(connection: Connection) -> None:
    import ctypes

    ctypes.pythonapi.Py_IncRef(ctypes.py_object(connection))


def explain(path: str, error: Exception) -> Exception:
    """What a driver error means to a user."""
    if is_locked(error):
        return Busy(f"The database {path} is locked by another process.")
    if "is full" in str(error):
        return StoreDamaged(f"The disk with {path} is full.", hint="Free some space and try again.")
    return _damaged(path, error)


class Database(ReadDatabase):
    """A writing connection beside the reading one."""

    def __init__(self, path: str, *, timeout: float, fence: str) -> None:
        """`fence` is the lock file that writers of an old SQLite take one at a time."""
        self._writer = connect(path, read_only=False, timeout=timeout)
        try:
            super().__init__(path, timeout=timeout)
        except BaseException:
            self._writer.close()
            raise
        self._wal = wal.Bound(self._writer, path)
        self._write_lock = threading.RLock()
        self._synchronous = ""
        self._refused = ""
        self._fence = -1
        if ONE_WRITER_NEEDED:
            self._fence = os.open(fence, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        status = os.stat(path)
        self._identity = (status.st_dev, status.st_ino)

    @contextlib.contextmanager
    def write(self, *, full: bool) -> Iterator[Connection]:
        """One BEGIN IMMEDIATE … COMMIT; `full` syncs the WAL before it returns."""
        with self._write_lock, self._fenced():
            self._check_usable()
            connection = self._writer
            # An interruption can fall between this generator and the `with` that entered it. Then
            # nothing ended its transaction yet, and this thread is settling what it had begun.
            self._roll_back()
            try:
                wanted = "FULL" if full else "NORMAL"
                if wanted != self._synchronous:
                    connection.execute(f"PRAGMA synchronous={wanted}")
                    self._synchronous = wanted
                connection.execute("BEGIN IMMEDIATE")
                yield connection
                connection.execute("COMMIT")
            except BaseException as error:
                self._roll_back()
                if not isinstance(error, DriverError):
                    raise
                if "disk I/O error" in str(error):
                    # What was acknowledged may not be on the disk: nothing more is.
                    self._refused = f"the database could not be written ({error})"
                    raise WritesRefused(self._refused) from error
                raise explain(self.path, error) from error
            with contextlib.suppress(
                DriverError
            ):  # the commit is done, whatever becomes of the log
                self._wal.keep(connection)

    def close(self) -> None:
        """Close both connections; the last one of all processes checkpoints the WAL."""
        with self._write_lock, self._read_lock:
            if self._closed:
                return
            with self._fenced():
                super().close()
                self._writer.close()
            self._close_fence()

    def leak(self) -> None:
        super().leak()
        _keep_for_ever(self._writer)
        self._close_fence()

    def _close_fence(self) -> None:
        if self._fence >= 0:
            os.close(self._fence)
            self._fence = -1

    def refuse(self, why: str) -> None:
        """Take no more writes: what was acknowledged may not be on the disk."""
        self._refused = why

    def _fenced(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext() if self._fence < 0 else self._alone()

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        fcntl.flock(self._fence, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._fence, fcntl.LOCK_UN)

    def _check_usable(self) -> None:
        if self._closed:
            raise StoreClosed
        if self._refused:
            raise WritesRefused(self._refused)
        try:
            status = os.stat(self.path)
        except FileNotFoundError:
            status = None
        if status is None or (status.st_dev, status.st_ino) != self._identity:
            self._refused = f"{self.path} is no longer the file that was opened"
            raise WritesRefused(self._refused)

    def _roll_back(self) -> None:
        with contextlib.suppress(DriverError):
            if self._writer.in_transaction:
                self._writer.execute("ROLLBACK")
