"""Owns the way to the database of a home: what others left half done, the shared lock, the schema.

It must not become an owner, nor settle anything in the journal.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from layerstore import copies, place, room
from layerstore.db import engine
from layerstore.db import statements as sql
from layerstore.errors import Busy
from layerstore.fs import layout, locks
from layerstore.journal import database_of
from layerstore.reader import revision

_READY = os.path.basename(layout.READY)
NEW_DATABASE = "journal.db.new"
"""Where a new database is made before it gets its name."""
_REWRITTENS = f"{os.path.basename(layout.REWRITTEN)}-"
"""What SQLite makes beside it for somebody who reads it."""


def rewrite_if_suspect(home: Path, *, timeout: float) -> None:
    """After an I/O error the journal is written anew, and the tree compared with it."""
    if not any(os.path.lexists(home / name) for name in (layout.SUSPECT, layout.REWRITTEN)):
        return
    from layerstore import rewriting

    _finish_restore(home, timeout=timeout)
    meta = {place.COMPARE: "after an I/O error"}
    room.making(os.fspath(home), lambda: rewriting.rewrite(home, timeout=timeout, meta=meta))


def open_current(home: Path, *, timeout: float) -> tuple[locks.SharedStoreLock, engine.Database]:
    """The shared lock and the database, with the packaged schema or one that is refused.

    An older one is upgraded, which needs the store to itself: so both are let go first. Where
    another process upgrades it or keeps it open, looking again is the way in.
    """
    deadline = time.monotonic() + timeout
    while True:
        shared, database = _open_database(home, timeout=timeout)
        try:
            if not _is_older(database):
                return shared, database
        except BaseException:
            let_go(shared, database)
            raise
        let_go(shared, database)
        try:
            upgrade(home, timeout=min(0.1, timeout))
        except Busy:
            if time.monotonic() >= deadline:
                raise


def _open_database(home: Path, *, timeout: float) -> tuple[locks.SharedStoreLock, engine.Database]:
    shared = locks.SharedStoreLock(
        os.fspath(home / layout.STORE_LOCK), timeout=timeout, alone=lambda: _alone(home)
    )
    try:
        database = database_of(home, timeout=timeout)
    except BaseException:
        shared.close()
        raise
    return shared, database


def let_go(shared: locks.SharedStoreLock, database: engine.Database) -> None:
    try:
        database.close()
    finally:
        shared.close()


def _is_older(database: engine.ReadDatabase) -> bool:
    return revision(database) < sql.REVISION


def upgrade(home: Path, *, timeout: float) -> None:
    """Bring the schema to the packaged revision, after a copy, with the store to oneself."""
    from layerstore.db import migrate

    path = os.fspath(home / layout.DATABASE)
    with locks.store_to_oneself(os.fspath(home / layout.STORE_LOCK), timeout=timeout):
        database = engine.ReadDatabase(path, timeout=30)
        try:
            older = _is_older(database)
        finally:
            database.close()
        if older:  # nobody was faster
            migrate.upgrade(path)


def _is_restored(home: Path) -> bool:
    return any(name.startswith(_READY) for name in os.listdir(home / layout.OWN))


def _finish_restore(home: Path, *, timeout: float) -> None:
    """A database that a restore made ready is the journal, whatever happened to the one before it."""
    if _is_restored(home):
        from layerstore import restoring

        with locks.store_to_oneself(os.fspath(home / layout.STORE_LOCK), timeout=timeout):
            restoring.finish(home)


def _alone(home: Path) -> None:
    """What an open does first where nobody else has the store open."""
    if _is_restored(home):
        from layerstore import restoring

        restoring.finish(home)
    copies.arrive(home)
    _sweep_own(home)


def _sweep_own(home: Path) -> None:
    """Remove what was killed while it made a file of the store's own, or tried the file system.

    No row tells of these. Whoever calls this has the store to itself.
    """
    for path in (home / layout.OWN).iterdir():
        if path.name.endswith(".tmp") or path.name.startswith((NEW_DATABASE, _REWRITTENS)):
            path.unlink()
    for path in (home / layout.STAGING).glob(f"{layout.TRIAL}*"):
        from layerstore.fs import probe

        probe.clear(os.fspath(path.parent), path.name)
