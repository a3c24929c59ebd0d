"""Owns writing the journal anew after an I/O error; it must not settle anything, nor read the tree.

After a sync that failed, the kernel can have pages of the journal that it takes for written and
that are not on the disk: read from memory the journal is whole, and what is appended to it stands
behind a hole after a power cut. So it is copied into a new file, which is synced, and replaces it.

    suspect                 left by whoever met the error: nobody writes until this has been done
    journal.db.new…         the copy while it is made; swept
    journal.db.rewritten    the copy, whole and synced: it is the journal from here on
    journal.db              the copy, with its right name; the old files lie in quarantine
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path

from layerstore.db import engine, faults
from layerstore.db import statements as sql
from layerstore.errors import LayerstoreError, StoreDamaged
from layerstore.fs import durable, layout, locks
from layerstore.fs.trace import trace

COPY = "journal.db.new-copy"
_SUFFIXES = ("", "-wal", "-shm")


def is_needed(home: Path) -> bool:
    return os.path.lexists(home / layout.SUSPECT) or os.path.lexists(home / layout.REWRITTEN)


def rewrite(home: Path, *, timeout: float, meta: Mapping[str, str]) -> bool:
    """Write the journal anew with the store to oneself; False if another process has done it.

    `meta` goes into the copy, where it has no such row: what the next open is to know. Raises Busy
    while another process has the store open, StoreDamaged if the journal cannot be read whole,
    DiskFull.
    """
    with locks.store_to_oneself(os.fspath(home / layout.STORE_LOCK), timeout=timeout):
        if not is_needed(home):
            return False
        try:
            _rewrite(home, meta)
        except engine.DriverError as error:
            meant = faults.explain(os.fspath(home / layout.OWN / COPY), error)
            raise (_failed(error) if type(meant) is StoreDamaged else meant) from error
        except durable.SyncFailed as error:
            raise _failed(error) from error
    return True


def _failed(error: Exception) -> LayerstoreError:
    return LayerstoreError(
        f"After an I/O error the journal cannot be written anew: {error}.",
        hint="See to the disk, then open the store again; what was there is untouched. If nothing "
        "helps, 'layerstore db rebuild' begins a new journal from the tree.",
    )


def _rewrite(home: Path, meta: Mapping[str, str]) -> None:
    rewritten = home / layout.REWRITTEN
    if not rewritten.exists():
        _copy(home, meta)
    trace("rewrite:copied:after")
    _set_aside(home)
    trace("rewrite:aside:after")
    # Until the rename the old files are nobody's: REWRITTEN is what everybody reads.
    for suffix in _SUFFIXES[1:]:
        home.joinpath(layout.DATABASE + suffix).unlink(missing_ok=True)
        home.joinpath(layout.REWRITTEN + suffix).unlink(missing_ok=True)
    durable.sync_directory(os.fspath(home / layout.OWN))
    trace("rewrite:replace:before")
    rewritten.rename(home / layout.DATABASE)
    durable.sync_directory(os.fspath(home / layout.OWN))
    trace("rewrite:replace:after")
    (home / layout.SUSPECT).unlink(missing_ok=True)
    durable.sync_directory(os.fspath(home / layout.OWN))


def _copy(home: Path, meta: Mapping[str, str]) -> None:
    """Everything that was acknowledged, from the journal and its WAL as this kernel has them."""
    new = home / layout.OWN / COPY
    for suffix in ("", "-wal", "-shm", "-journal"):
        new.with_name(new.name + suffix).unlink(missing_ok=True)
    # Whose closing writes nothing back, nor lets the other's do so.
    database = os.fspath(home / layout.DATABASE)
    reader = engine.connect(database, read_only=True, timeout=30)
    try:
        source = engine.connect(database, read_only=False, timeout=30)
        try:
            _check_whole(source, home)
            source.execute("VACUUM INTO ?", (os.fspath(new),))
        finally:
            source.close()
    finally:
        reader.close()
    os.chmod(new, 0o600)
    copy = engine.connect(os.fspath(new), read_only=False, timeout=30)
    try:
        _check_whole(copy, home)
        copy.execute("PRAGMA journal_mode=OFF")  # it is nobody's yet, and synced below
        known = dict(copy.execute(sql.SELECT_META).fetchall())
        for key, value in {**meta, **known}.items():
            copy.execute(sql.PUT_META, {"key": key, "value": value})
        copy.execute("PRAGMA journal_mode=WAL")
    finally:
        copy.close()
    descriptor = os.open(new, os.O_RDWR | os.O_CLOEXEC)
    try:
        durable.sync(descriptor, os.fspath(new))
    finally:
        os.close(descriptor)
    trace("rewrite:copy:after")
    new.rename(home / layout.REWRITTEN)
    durable.sync_directory(os.fspath(home / layout.OWN))


def _check_whole(connection: engine.Connection, home: Path) -> None:
    found = connection.execute("PRAGMA integrity_check").fetchall()
    if found != [("ok",)]:
        raise StoreDamaged(
            f"After an I/O error {home / layout.DATABASE} is not whole: {found[0][0]}.",
            hint="'layerstore db rebuild' sets it aside and begins a new journal from the tree.",
        )


def _set_aside(home: Path) -> None:
    """Give the old files a second name in quarantine, the database last. It is for people, and can
    fail.
    """
    place = home / layout.QUARANTINE / os.urandom(16).hex()
    with contextlib.suppress(OSError):
        if os.stat(home / layout.DATABASE).st_nlink > 1:
            return  # before a kill
        place.mkdir(mode=layout.PRIVATE_MODE)
        for suffix in reversed(_SUFFIXES):
            old = home / (layout.DATABASE + suffix)
            with contextlib.suppress(FileNotFoundError):
                os.link(old, place / old.name)
        (place / "NOTE").write_text(
            "The journal before it was written anew after an I/O error. Delete this when it is "
            "not needed.\n"
        )
