"""Owns the connection to the journal's database; nothing else in the process may ever open its files.

Closing any other descriptor of `journal.db`, `-wal` or `-shm` in this process, or a second SQLite
library in it, would drop SQLite's POSIX locks: another process would then take itself for the last
one and delete the WAL with acknowledged commits in it. So the driver is chosen here, once.

Assumptions: WAL mode; `synchronous` is FULL for a commit that must survive a power cut and NORMAL
otherwise, set before BEGIN (inside a transaction SQLite ignores it). Checkpoints are made here and
not by SQLite, which ignores a sync that fails in its own; and the WAL keeps its size, because on a
full disk it could not grow to it again.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any, Final, TypeVar

from layerstore.db import faults, paths, unchanged, wal
from layerstore.db import statements as sql
from layerstore.errors import StoreClosed, StoreDamaged, WritesRefused
from layerstore.fs import durable

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
T = TypeVar("T")
Rows = list[tuple[Any, ...]]

CHECKPOINT_EVERY: Final = 160
"""Commits of one connection: some thousand pages, which is also SQLite's own rule."""
CHECKPOINT_AT_CLOSE: Final = 64
"""Pages in the WAL: the next open reads them all."""
PAGE: Final = 500
"""Rows that one read transaction may fetch before it ends: a longer one would stop checkpoints."""


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
        # A close does it too, and where that fails says nothing: renamed, the file lacks its log.
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    except DriverError as error:
        raise faults.explain(path, error) from error
    finally:
        connection.close()


def vacuum_into(path: str, target: str, *, timeout: float) -> None:
    """A copy of a database with everything that its WAL holds; `target` is absent or empty.

    The database may be in use: the copy is of one moment. It is not synced.
    """
    connection = connect(path, read_only=True, timeout=timeout)
    try:
        connection.execute("PRAGMA query_only=OFF")  # SQLite counts a new file as a change
        connection.execute("VACUUM INTO ?", (target,))
    except DriverError as error:
        raise faults.explain(path, error) from error
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
    paths.make_reachable(path, DRIVER)
    uri = f"file:{paths.quoted(path)}?{query}"
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
        raise faults.damaged(path, error) from error
    try:
        _first_read(connection)
        connection.execute(
            "PRAGMA foreign_keys=ON" if query == "mode=rw" else "PRAGMA query_only=ON"
        )
    except DriverError as error:
        connection.close()
        raise faults.explain(path, error) from error
    return connection


@contextlib.contextmanager
def consistent(path: str, *, query: str = "") -> Iterator[Connection]:
    """A connection in one read transaction: everything that is asked of it is of one moment.

    It stops no writer, but no checkpoint gets past it: let it be short. `query`: see ReadDatabase.
    """
    if query:
        connection = _connect(path, query, timeout=30)
    else:
        connection = connect(path, read_only=True, timeout=30)
    try:
        connection.execute("BEGIN")
        yield connection
    except DriverError as error:
        raise faults.explain(path, error) from error
    finally:
        connection.close()


def _first_read(connection: Connection) -> None:
    """Read something: SQLite opens its log and shared memory now, and can be asked twice for them."""
    try:
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except DriverError as error:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF not in (10, 14):
            raise
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()


class ReadDatabase:
    """One reading connection, for every thread of the process."""

    def __init__(self, path: str, *, timeout: float, frozen: bool = False, query: str = "") -> None:
        """`frozen`: nobody ever changes the file, so that no lock is needed to read it. `query`: the
        parameters of SQLite's URI, for who knows better.
        """
        self.path = path
        if frozen or query:
            self._reader = _connect(path, query or "mode=ro&immutable=1", timeout=timeout)
        else:
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
                raise faults.explain(self.path, error) from error
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


_NO_FENCE: Final = contextlib.nullcontext()


def _keep_for_ever(connection: Connection) -> None:
    import ctypes

    ctypes.pythonapi.Py_IncRef(ctypes.py_object(connection))


class Database(ReadDatabase):
    """A writing connection beside the reading one."""

    def __init__(self, path: str, *, timeout: float, fence: str, suspect: str, spare: str) -> None:
        """`fence` is the lock file that writers of an old SQLite take one at a time; `suspect` the
        mark of an I/O error, which makes every process refuse to write; `spare` see note_failure.
        """
        self._suspect = suspect
        self._spare = spare
        self._commits = 0
        self.verbs = 0
        self._writer = connect(path, read_only=False, timeout=timeout)
        try:
            self._writer.execute("PRAGMA wal_autocheckpoint=0")
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
        self._unchanged = unchanged.Unchanged(path, suspect)

    @contextlib.contextmanager
    def write(self, *, full: bool) -> Iterator[Connection]:
        """One BEGIN IMMEDIATE … COMMIT; `full` syncs the WAL before it returns."""
        with self._write_lock, self._fenced():
            self._check_usable()
            # An interruption can fall between this generator and the `with` that entered it. Then
            # nothing ended its transaction yet, and this thread is settling what it had begun.
            self._roll_back()
            try:
                yield self._begin(full=full)
                self._writer.execute("COMMIT")
            except BaseException as error:
                self._failed(error)
                raise
            self._committed()

    def transact(self, action: Callable[[Connection], T], *, full: bool) -> T:
        """The same around one call, which costs a verb less than a `with` does."""
        with self._write_lock, self._fenced():
            self._check_usable()
            self._roll_back()
            try:
                result = action(self._begin(full=full))
                self._writer.execute("COMMIT")
            except BaseException as error:
                self._failed(error)
                raise
            self._committed()
            return result

    def _begin(self, *, full: bool) -> Connection:
        connection = self._writer
        wanted = "FULL" if full else "NORMAL"
        if wanted != self._synchronous:
            connection.execute(f"PRAGMA synchronous={wanted}")
            self._synchronous = wanted
        connection.execute("BEGIN IMMEDIATE")
        return connection

    def _failed(self, error: BaseException) -> None:
        """Take the transaction back; raise what the driver's error means."""
        self._roll_back()
        if not isinstance(error, DriverError):
            return
        if faults.is_io_error(error):
            self.refuse(f"the database could not be written ({error})")
            raise WritesRefused(self._refused) from error
        raise faults.explain(self.path, error) from error

    def _committed(self) -> None:
        """The commit is done, whatever becomes of the log."""
        self._commits += 1
        if self._commits >= CHECKPOINT_EVERY:
            self._checkpoint()
        self._wal.keep(self._writer, self._checkpoint)

    def checkpoint(self) -> bool:
        """Write the WAL back into the database, but for what somebody reads; the next commit begins
        it anew. False: there was no room for it.
        """
        with self._write_lock, self._fenced():
            return self._closed or bool(self._refused) or self._checkpoint() is not None

    def _checkpoint(self, mode: str = "PASSIVE") -> int | None:
        """How many pages the WAL has that the database has not; None where there is no room."""
        self._commits = 0
        try:
            _, pages, done = self._writer.execute(f"PRAGMA wal_checkpoint({mode})").fetchone()
        except DriverError as error:
            # What was committed is in the WAL, and stays there until a checkpoint succeeds.
            if faults.is_io_error(error):
                self.refuse(f"the database could not be written ({error})")
            return None if faults.is_full(self.path, error) else 0
        return int(pages - done)

    def before_close(self) -> None:
        """Leave little in the WAL, if the last commit is still to come. An older SQLite does not
        know NOOP and takes it for PASSIVE.
        """
        with self._write_lock, self._fenced():
            if self._closed or self._refused:
                return
            if (self._checkpoint("NOOP") or 0) > CHECKPOINT_AT_CLOSE:
                self._checkpoint()

    def close(self) -> None:
        """Close both connections. The WAL stays, with its size.

        SQLite deletes it where a last connection that may write is closed. The reading one, which
        may not, is closed after it: it has its share of a lock that deleting would need.
        """
        with self._write_lock, self._read_lock:
            if self._closed:
                return
            with self._fenced():
                self._writer.close()
                super().close()
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
        """Take no more writes, in any process: what was acknowledged may not be on the disk.

        Where the mark cannot be left, the file system takes no writes at all, and forgets what it
        has in memory before it does again.
        """
        self._refused = why
        durable.note_failure(self._suspect, why, spare=self._spare)

    def _fenced(self) -> contextlib.AbstractContextManager[None]:
        return _NO_FENCE if self._fence < 0 else self._alone()

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
        self._refused = self._refused or self._unchanged.difference()
        if self._refused:
            raise WritesRefused(self._refused)

    def _roll_back(self) -> None:
        if self._writer.in_transaction:
            with contextlib.suppress(DriverError):
                self._writer.execute("ROLLBACK")
