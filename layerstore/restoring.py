"""Owns putting a copy of the database back in its place; it must not touch a layer.

A restore is decided by one rename: until then the old database is the store's, and from then on
the new one is. Whoever has the store to itself next finishes it.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Final

import attrs

from layerstore import copies, description
from layerstore.db import about as db_about
from layerstore.db import engine, faults
from layerstore.db import statements as sql
from layerstore.errors import InvalidArgument, StoreDamaged
from layerstore.fs import durable, layout, locks
from layerstore.fs.trace import trace
from layerstore.reader import check_not_newer, revision

NEW: Final = f"{layout.DATABASE}.new"
"""Where a database is made ready; what lies there is nobody's, and is swept."""
_READY: Final = os.path.basename(layout.READY)
_SUFFIXES: Final = ("", "-wal", "-shm")


# --- putting it back ----------------------------------------------------------------------------


def restore(home: Path, source: Path, *, timeout: float) -> None:
    """Put a copy of the database in place of the present one, which goes to quarantine.

    Nothing is acted upon yet: the next open compares the whole tree.
    """
    _check_source(home, source)
    with locks.store_to_oneself(os.fspath(home / layout.STORE_LOCK), timeout=timeout):
        finish(home)
        about = description.read(home)
        copies.refuse_copy(home, about)
        fresh = home / NEW
        _forget(fresh)
        try:
            _copy(source, fresh)
            trace("restore:copy:after")
            _check(fresh, source, about)
            _prepare(fresh, source, about)
        except BaseException:
            _forget(fresh)
            raise
        trace("restore:prepare:after")
        # Before the rename: should it not come to that, the old database goes on in a new epoch.
        description.write(home, attrs.evolve(about, epoch=description.new_epoch()))
        trace("restore:describe:after")
        fresh.rename(f"{home / layout.READY}{os.urandom(16).hex()}")
        durable.sync_directory(os.fspath(home / layout.OWN))
        trace("restore:decide:after")
        finish(home)


def _check_source(home: Path, source: Path) -> None:
    if not source.is_file():
        raise InvalidArgument(f"{source} is not a file.", hint="Is the path right?")
    present = home / layout.DATABASE
    if present.exists() and source.samefile(present):
        raise InvalidArgument(f"{source} is the database itself.", hint="Name a copy of it.")


def _copy(source: Path, fresh: Path) -> None:
    """SQLite itself reads the source: it may be a database that this process has open."""
    try:
        engine.vacuum_into(os.fspath(source), os.fspath(fresh), timeout=30)
    except StoreDamaged as error:
        raise InvalidArgument(
            f"{source} cannot be used: {error.message}",
            hint="'layerstore db backup' makes what this takes.",
        ) from error


def _check(fresh: Path, source: Path, about: description.Description) -> None:
    """Raise unless the copy is whole, of a schema that is known, and of this store."""
    database = engine.ReadDatabase(os.fspath(fresh), timeout=30)
    try:
        said = database.read("PRAGMA integrity_check(3)")
        if said != [("ok",)]:
            raise StoreDamaged(f"{source} is damaged: SQLite says {said[0][0]}.")
        try:
            stored = revision(database)
        except StoreDamaged as error:
            raise InvalidArgument(f"{source} is not the database of a layerstore.") from error
        check_not_newer(os.fspath(source), stored)
        if stored != sql.REVISION:
            from layerstore.db import migrate

            if not migrate.knows(stored):
                raise StoreDamaged(f"{source} has the schema {stored}, which was never released.")
        owner = db_about.meta(database).get("store_id")
    finally:
        database.close()
    if owner != about.store_id:
        raise InvalidArgument(
            f"{source} is of store {owner}, and this is store {about.store_id}.",
            hint="Restore it in the store that it was made of.",
        )


def _prepare(fresh: Path, source: Path, about: description.Description) -> None:
    """Leave word for the next open, and let numbers go on above every one that was given out."""
    connection = engine.connect(os.fspath(fresh), read_only=False, timeout=30)
    try:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("BEGIN IMMEDIATE")
        db_about.restart_numbers(connection, about.high_water)
        copies.put_word(connection, copies.Arrival(copies.RESTORED, os.fspath(source)))
        connection.execute("COMMIT")
    except engine.DriverError as error:
        raise faults.explain(os.fspath(fresh), error) from error
    finally:
        connection.close()
    os.chmod(fresh, 0o600)
    _sync(fresh)


def finish(home: Path) -> None:
    """Put a database in place that a restore made ready. The caller has the store to itself.

    The old one goes first, its WAL after it: a database is never seen beside the WAL of another.
    """
    own = home / layout.OWN
    for ready in sorted(own.glob(f"{_READY}*")):
        aside = home / layout.quarantine(ready.name.removeprefix(_READY))
        aside.mkdir(mode=layout.PRIVATE_MODE, exist_ok=True)
        note = "The database that 'layerstore db restore' replaced. Delete it when not needed.\n"
        durable.write_file(os.fspath(aside / "NOTE"), note, mode=0o600, synced=False)
        for suffix in _SUFFIXES:
            with contextlib.suppress(FileNotFoundError):
                path = home / (layout.DATABASE + suffix)
                path.rename(aside / path.name)
                trace(f"restore:aside{suffix}:after")
        for directory in (aside, aside.parent, own):
            durable.sync_directory(os.fspath(directory))
        trace("restore:place:before")
        ready.rename(home / layout.DATABASE)
        durable.sync_directory(os.fspath(own))
        trace("restore:place:after")


def _forget(path: Path) -> None:
    for suffix in ("", "-wal", "-shm", "-journal"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        durable.sync(descriptor, os.fspath(path))
    finally:
        os.close(descriptor)
