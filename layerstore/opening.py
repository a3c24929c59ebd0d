"""Owns opening and closing a store: locks, database, owner, probes; no verb on a layer.

The order of an open: description, shared lock, database (let go and migrated if older), owner (its
lock, then its row), probes, then what dead owners left.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import sys
import time
from pathlib import Path

import attrs

from layerstore import (
    access,
    adoption,
    burial,
    copies,
    description,
    log,
    place,
    recovery,
    room,
    rows,
)
from layerstore import model as m
from layerstore.db import about as db_about
from layerstore.db import engine
from layerstore.db import statements as sql
from layerstore.errors import (
    Busy,
    CannotCarryOverlay,
    DiskFull,
    InvalidArgument,
    LayerstoreError,
)
from layerstore.fs import (
    ballast,
    durable,
    files,
    layout,
    locks,
    mount,
    mountinfo,
    namespaces,
    perform,
)
from layerstore.journal import MARK_STEP, Author, Journal
from layerstore.options import NO_OPTIONS, Options
from layerstore.reader import check_database


def check(timeout: float, durability: str, this_is: str | None) -> None:
    """Raise InvalidArgument for what cannot be meant."""
    if not timeout >= 0:  # nor is it, of what is not a number
        raise InvalidArgument(f"A timeout is a number of seconds, 0 or more, not {timeout!r}.")
    if durability not in set(m.Durability):
        raise InvalidArgument(f"The durability is 'full' or 'process', not {durability!r}.")
    if this_is not in (None, "copy", "move"):
        raise InvalidArgument(f"This home is a 'copy' or a 'move', not {this_is!r}.")


@attrs.define(repr=False, eq=False)
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
        with contextlib.suppress(LayerstoreError):
            self.database.before_close()
            self.hands.with_room(self._close_owner)
        self.release()
        with contextlib.suppress(OSError):
            ballast.restore(self.hands.home)

    def _close_owner(self) -> None:
        me = self.hands.journal.author.owner
        with self.hands.journal.transaction(full=False) as tx:
            holds = tx.one(sql.SELECT_HELD_BY, holder=m.OWNER_PREFIX + me)
            if holds is None and tx.one(sql.SELECT_OPERATION_OF, owner=me) is None:
                tx.execute(sql.CLOSE_OWNER, id=me, at=now())

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
            f"{home} cannot carry a layerstore: {found.problem}.",
            hint="Use a directory on ext4, XFS, btrfs or tmpfs.",
        )
    if found.problem and not durable.has_room(os.fspath(home / layout.PROBES)):
        raise OSError(errno.ENOSPC, "nothing can be tried out on a full disk", home)
    text = json.dumps({"boot_id": boot_id(), **attrs.asdict(found)}, indent=2) + "\n"
    durable.replace_file(os.fspath(home / layout.PROBES), text, mode=0o600)


def boot_id() -> str:
    """It only explains: containers invent boot ids."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def open_store(
    home: Path,
    *,
    timeout: float,
    durability: m.Durability,
    options: Options = NO_OPTIONS,
) -> Opened:
    """Open a store for writing, and settle what dead owners left."""
    adoption.refuse(home)
    copies.refuse_copy(home, description.read(home))  # there is a store, and it is not another's
    check_rights("The store", home)
    _check_writable(home)
    access.rewrite_if_suspect(home, timeout=timeout)
    where = os.fspath(home)
    ballast.make_way(where)
    _prepare(home, options)
    shared, database = room.making(where, lambda: access.open_current(home, timeout=timeout))
    try:
        about = description.read(home)
        check_database(database, about)
        about = copies.restart_numbers(home, database, about)
        opened = room.making(
            where,
            lambda: _become_owner(home, about, database, shared, durability),
            database=database,
        )
    except BaseException:
        access.let_go(shared, database)
        raise
    try:
        _probe_if_new_boot(home)
        opened.settled += settle(opened.hands)
        _keep_reserves(opened)
    except BaseException:
        opened.close()
        raise
    return opened


def _prepare(home: Path, options: Options) -> None:
    """What the options ask of the home: quotas, and a way through it for the root of containers."""
    if options.size:
        from layerstore import projects

        projects.require_quotas(os.fspath(home), "The option 'overlay2.size'")
    for warning in options.warnings():
        log.warning("%s", warning)
    if options.gid is not None:
        found = home.stat()
        if (found.st_gid, found.st_mode & 0o7777) != (options.gid, layout.HOME_MODE):
            os.chown(home, -1, options.gid)
            home.chmod(layout.HOME_MODE)


def _keep_reserves(opened: Opened) -> None:
    """Ballast, and room for the journal, where there is enough of it; nobody waits or fails for it."""
    from layerstore.db import reserve

    with contextlib.suppress(OSError, DiskFull, Busy):
        ballast.restore(opened.hands.home)
        reserve.keep(opened.database)


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

    def raise_mark(seq: int) -> int:
        current = description.read(home)
        raised = attrs.evolve(current, high_water=seq + MARK_STEP)
        if raised.high_water <= current.high_water:
            return current.high_water
        try:
            room.making(
                os.fspath(home),
                lambda: description.write(home, raised),
                may_release=lambda: seq > current.high_water,
            )
        except OSError as error:
            # It keeps numbers from coming back should the database be lost, too. No remove fails for
            # want of it: the next event tries again.
            if not room.is_full(error):
                raise
            return current.high_water
        return raised.high_water

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
        try:
            room.making(os.fspath(home), lambda: probe_home(home, insist=False))
        except OSError as error:
            # The next open finds it out; a layer that cannot be mounted says so itself.
            log.warning("what kernel and file system can do was not found out: %s", error)


def _compared(journal: Journal, *, again: bool) -> None:
    with journal.transaction(full=True) as transaction:
        if again:
            transaction.execute(sql.PUT_META, key=place.COMPARE, value="needed")
        else:
            transaction.execute(sql.DELETE_META, key=place.COMPARE)


def settle(hands: recovery.Hands, *, insist: bool = False) -> list[m.Settled]:
    """What an open does about dead owners: operations, tree, holds, mounts, in this order.

    `insist`: also what was tried in vain a moment ago.
    """
    me = hands.journal.author
    owners = [rows.owner(row) for row in hands.journal.database.read(sql.SELECT_OPEN_OWNERS)]
    others = [owner for owner in owners if owner.id != me.owner]
    dead = [owner for owner in others if not hands.is_alive(owner.id)]
    hands.ask_for_errors(owner.id for owner in dead)
    settled = list(copies.settle(hands))
    settled += recovery.settle_operations(hands, insist=insist)
    mount_id = mountinfo.mount_id(hands.home)
    elsewhere = [o for o in dead if (o.boot_id, o.mount_id) != (me.boot_id, mount_id)]
    alone = len(dead) == len(others)
    asked = db_about.meta(hands.journal.database).get(place.COMPARE)
    if asked == copies.STALE:
        settled += copies.forget_removed(hands)
    if asked or (elsewhere and alone):
        from layerstore import comparison

        settled += comparison.compare(hands)
    if asked or hands.uncompared:
        hands.with_room(lambda: _compared(hands.journal, again=hands.uncompared))
        hands.uncompared = False
    # One that died before this boot is buried only by who compared the tree after it.
    for owner in dead:
        if alone or owner not in elsewhere:
            settled.append(burial.bury(hands, owner))
    burial.remove_locks(hands)
    settled += burial.forget_lost(hands)
    settled += burial.unmount_unheld(hands)
    return settled
