"""Owns opening and closing a store: locks, database, owner, probes; no verb on a layer.

The order of an open: description, shared lock, database (let go and migrated if older), owner (its
lock, then its row), probes, then what dead owners left.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from pathlib import Path

import attrs

from layerstore import description, recovery, rows
from layerstore import model as m
from layerstore.db import engine
from layerstore.db import statements as sql
from layerstore.errors import Busy, CannotCarryOverlay, LayerstoreError
from layerstore.fs import (
    durable,
    files,
    layout,
    locks,
    mount,
    mountinfo,
    namespaces,
    perform,
)
from layerstore.journal import Author, Journal
from layerstore.reader import check_database, revision


@attrs.define
class Opened:
    """Everything an open store consists of."""

    about: description.Description
    database: engine.Database
    hands: recovery.Hands
    owner: locks.OwnerLock
    shared: locks.SharedStoreLock
    settled: list[m.Settled]

    def close(self) -> None:
        """Say that this owner ended cleanly, if it did, and let go of everything."""
        me = self.hands.journal.author.owner
        with (
            contextlib.suppress(LayerstoreError),
            self.hands.journal.transaction(full=False) as tx,
        ):
            holds = tx.one(sql.SELECT_HELD_BY, holder=m.OWNER_PREFIX + me)
            if holds is None and tx.one(sql.SELECT_OPERATION_OF, owner=me) is None:
                tx.execute(sql.CLOSE_OWNER, id=me, at=now())
        self.release()

    def release(self) -> None:
        """Let go of files and locks, in the order of trust: the lock last."""
        self.database.close()
        self.owner.release()
        self.shared.close()

    def leak(self) -> None:
        """In a forked child: the parent's database and locks are not this process's."""
        self.database.leak()
        self.owner.close()
        self.shared.close()


def now() -> int:
    """Microseconds since 1970, UTC."""
    return time.time_ns() // 1000


NEW_DATABASE = "journal.db.new"
"""Where a new database is made before it gets its name."""
COMPARE = "compare"
"""The row of `meta` that asks the next open for a comparison with the tree."""


def probe_home(home: Path, *, insist: bool) -> None:
    """Find out what kernel and file system can do, and keep it for this boot.

    `insist`: CannotCarryOverlay if a store cannot live there. One that exists opens all the same:
    its layers can be asked about and removed, and `status` says what is wrong.
    """
    from layerstore.fs import probe

    found = probe.probe_home(
        os.fspath(home),
        os.fspath(home / layout.STAGING),
        userxattr=files.uses_user_xattrs(os.fspath(home)),
    )
    if found.problem and insist:
        raise CannotCarryOverlay(
            f"{home} cannot carry a layerstore: {found.problem}",
            hint="Use a directory on ext4, XFS, btrfs or tmpfs.",
        )
    text = json.dumps({"boot_id": boot_id(), **attrs.asdict(found)}, indent=2) + "\n"
    durable.replace_file(os.fspath(home / layout.PROBES), text, mode=0o600)


def boot_id() -> str:
    """It only explains: containers invent boot ids."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def open_store(home: Path, *, timeout: float, durability: m.Durability) -> Opened:
    """Open a store for writing, and settle what dead owners left."""
    description.read(home)  # there is a store
    check_rights("The store", home)
    _check_writable(home)
    shared, database = _open_current(home, timeout=timeout)
    try:
        about = description.read(home)
        check_database(database, about)
        opened = _become_owner(home, about, database, shared, durability)
    except BaseException:
        _let_go(shared, database)
        raise
    try:
        _probe_if_new_boot(home)
        opened.settled += settle(opened.hands)
    except BaseException:
        opened.close()
        raise
    return opened


def _sweep_own(home: Path) -> None:
    """Remove what was killed while it made a file of the store's own, or tried the file system.

    No row tells of these. Whoever calls this has the store to itself.
    """
    for path in (home / layout.OWN).iterdir():
        if path.name.endswith(".tmp") or path.name.startswith(f"{NEW_DATABASE}"):
            path.unlink()
    for path in (home / layout.STAGING).glob(f"{layout.TRIAL}*"):
        from layerstore.fs import probe

        probe.clear(os.fspath(path.parent), path.name)


def check_rights(what: str, home: Path) -> None:
    """Refuse an ordinary user who could do half of everything: rename a layer, and not unmount it."""
    if os.geteuid() != 0 and not namespaces.may_mount():
        raise LayerstoreError(
            f"{what} at {home} needs root: an ordinary user may not mount overlays.",
            hint="'layerstore unshare COMMAND' runs a command as the root of a user namespace, "
            "where an ordinary user may; questions ('layerstore ls') need no rights.",
        )


def _check_writable(home: Path) -> None:
    if not os.access(home / layout.OWN, os.W_OK):
        raise LayerstoreError(
            f"{home} cannot be written.",
            hint="Open it with read_only=True, or see why it is read-only.",
        )


def _open_current(home: Path, *, timeout: float) -> tuple[locks.SharedStoreLock, engine.Database]:
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
            _let_go(shared, database)
            raise
        _let_go(shared, database)
        try:
            upgrade(home, timeout=min(0.1, timeout))
        except Busy:
            if time.monotonic() >= deadline:
                raise


def _open_database(home: Path, *, timeout: float) -> tuple[locks.SharedStoreLock, engine.Database]:
    shared = locks.SharedStoreLock(
        os.fspath(home / layout.STORE_LOCK), timeout=timeout, alone=lambda: _sweep_own(home)
    )
    try:
        database = engine.Database(
            os.fspath(home / layout.DATABASE),
            timeout=timeout,
            fence=os.fspath(home / layout.WRITE_LOCK),
        )
    except BaseException:
        shared.close()
        raise
    return shared, database


def _let_go(shared: locks.SharedStoreLock, database: engine.Database) -> None:
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


def _become_owner(
    home: Path,
    about: description.Description,
    database: engine.Database,
    shared: locks.SharedStoreLock,
    durability: m.Durability,
) -> Opened:
    """The lock first, then the row, synced: an owner whose row is lost would hide its death."""
    name = recovery.new_name()
    lock = locks.OwnerLock(os.fspath(home / layout.owner_lock(name)))
    try:
        pid = os.getpid()
        row = {
            "id": name,
            "pid": pid,
            "started": mountinfo.process_start(pid),
            "boot_id": boot_id(),
            "mount_id": mountinfo.mount_id(os.fspath(home)),
            "command": _command()[:200],
            "durability": durability.value,
            "opened_at": now(),
            "closed_at": None,
        }
        with database.write(full=True) as connection:
            connection.execute(sql.INSERT_OWNER, row)
    except BaseException:
        lock.release()
        raise

    def raise_mark(mark: int) -> None:
        current = description.read(home)
        if mark > current.high_water:
            description.write(home, attrs.evolve(current, high_water=mark))

    journal = Journal(
        database,
        Author(name, str(row["boot_id"]), about.epoch),
        now=now,
        raise_mark=raise_mark,
        mark=about.high_water,
    )
    hands = recovery.Hands(
        home=os.fspath(home),
        journal=journal,
        performer=perform.Performer(os.fspath(home), mount.STYLES),
        full=durability is m.Durability.FULL,
    )
    return Opened(about, database, hands, lock, shared, [])


def _command() -> str:
    """The command line of this process, as a person would write it."""
    program = Path(sys.argv[0] or "python")
    name = program.parent.name if program.name == "__main__.py" else program.name
    return " ".join([name, *sys.argv[1:]])


def _probe_if_new_boot(home: Path) -> None:
    try:
        kept = json.loads((home / layout.PROBES).read_text())
        known = kept["boot_id"], kept["user_namespace"]
    except (OSError, ValueError, KeyError, TypeError):
        known = None
    # What root may is not what a process in a user namespace may.
    if known != (boot_id(), namespaces.in_user_namespace()):
        probe_home(home, insist=False)


def settle(hands: recovery.Hands, *, insist: bool = False) -> list[m.Settled]:
    """What an open does about dead owners: operations, tree, holds, mounts, in this order.

    `insist`: also what was tried in vain a moment ago.
    """
    me = hands.journal.author
    owners = [rows.owner(row) for row in hands.journal.database.read(sql.SELECT_OPEN_OWNERS)]
    others = [owner for owner in owners if owner.id != me.owner]
    dead = [owner for owner in others if not hands.is_alive(owner.id)]
    settled = list(recovery.settle_operations(hands, insist=insist))
    mount_id = mountinfo.mount_id(hands.home)
    elsewhere = [o for o in dead if (o.boot_id, o.mount_id) != (me.boot_id, mount_id)]
    alone = len(dead) == len(others)
    meta = hands.journal.database.read(sql.SELECT_META)
    asked = any(key == COMPARE for key, _ in meta)
    if asked or (elsewhere and alone):
        from layerstore import comparison

        settled += comparison.compare(hands)
    if asked:
        with hands.journal.transaction(full=True) as transaction:
            transaction.execute(sql.DELETE_META, key=COMPARE)
    # One that died before this boot is buried only by who compared the tree after it.
    for owner in dead:
        if alone or owner not in elsewhere:
            settled.append(recovery.bury(hands, owner))
    recovery.remove_locks(hands)
    settled += recovery.forget_lost(hands)
    settled += recovery.unmount_unheld(hands)
    return settled
