"""Owns making, opening and rebuilding a store: locks, database, owner, probes; no verb on a layer.

The order of an open: description, schema (migrated if older), shared lock, database, owner (its
lock, then its row), probes, then what dead owners left.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import sys
import time
from pathlib import Path

import attrs

from layerstore import codec, comparison, description, recovery, rows
from layerstore import events as e
from layerstore import model as m
from layerstore.db import engine
from layerstore.db import statements as sql
from layerstore.errors import CannotCarryOverlay, InvalidArgument, LayerstoreError, StoreExists
from layerstore.fs import durable, layout, locks, mount, mountinfo, perform, probe
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


COMPARE = "compare"
"""The row of `meta` that asks the next open for a comparison with the tree."""

# --- making -----------------------------------------------------------------------------------


def initialize(home: Path, *, max_depth: int) -> None:
    """Make a store at `home`, which may exist and hold an overlay2 tree.

    Raises StoreExists, CannotCarryOverlay, InvalidArgument. `store.json` comes last: until it is
    there, nothing is a store.
    """
    if not 1 <= max_depth <= m.MAX_DEPTH:
        raise InvalidArgument(f"max_depth must be 1 to {m.MAX_DEPTH}, not {max_depth}.")
    _make_home(home)
    if (home / layout.STORE_FILE).exists():
        raise StoreExists(
            f"{home} is a layerstore already.", hint="Open it; 'layerstore status' shows it."
        )
    _make_own(home)
    with locks.store_to_oneself(os.fspath(home / layout.STORE_LOCK), timeout=30):
        if (home / layout.STORE_FILE).exists():
            raise StoreExists(f"{home} is a layerstore already.")
        _probe(home)
        about = description.Description(
            store_id=secrets.token_hex(16),
            epoch=secrets.token_hex(8),
            format=description.FORMAT,
            max_depth=max_depth,
            high_water=0,
        )
        _new_database(home, about, e.StoreInitialized(about.store_id, max_depth))
        durable.sync_directory(os.fspath(home))
        durable.sync_directory(os.fspath(home.parent))
        description.write(home, about)


def _make_home(home: Path) -> None:
    try:
        home.mkdir(mode=layout.HOME_MODE)
        home.chmod(layout.HOME_MODE)
    except FileExistsError:
        if not home.is_dir():
            raise InvalidArgument(f"{home} is not a directory.") from None
    except FileNotFoundError:
        raise InvalidArgument(
            f"There is no directory {home.parent}.", hint="Make it first; only the last is made."
        ) from None
    except OSError as error:
        raise LayerstoreError(f"{home} cannot be made: {error.strerror}.") from error


def _make_own(home: Path) -> None:
    """The store's own directories, and `l/`; each may be there already."""
    try:
        for name in (
            layout.OWN,
            layout.STAGING,
            layout.TRASH,
            layout.QUARANTINE,
            layout.OWNERS,
            layout.LINKS,
        ):
            (home / name).mkdir(mode=layout.PRIVATE_MODE, exist_ok=True)
        descriptor = os.open(home / layout.STORE_LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        os.close(descriptor)
    except OSError as error:
        raise LayerstoreError(
            f"{home} cannot be written: {error.strerror}.",
            hint="A store needs a home that it can write to, as root.",
        ) from error


def _new_database(home: Path, about: description.Description, first: e.Event) -> None:
    """A database with one event, whose first open compares it with the tree.

    It appears whole, or not at all; what stood in its place goes to quarantine.
    """
    _set_aside(home)
    path = home / layout.DATABASE
    fresh = path.with_name(f"{path.name}.new")
    fresh.unlink(missing_ok=True)
    kind, data = codec.encode(first)
    engine.create(
        os.fspath(fresh),
        revision=sql.REVISION,
        meta={"store_id": about.store_id, COMPARE: "needed"},
        first={
            "epoch": about.epoch,
            "operation": None,
            "owner": "",
            "boot_id": boot_id(),
            "at": now(),
            "kind": kind,
            "layer": None,
            "data": data,
        },
        after_seq=about.high_water,
    )
    fresh.rename(path)
    durable.sync_directory(os.fspath(path.parent))


def _probe(home: Path) -> None:
    """Find out what kernel and file system can do, and keep it for this boot."""
    found = probe.probe_home(os.fspath(home), os.fspath(home / layout.STAGING))
    if found.problem:
        raise CannotCarryOverlay(
            f"{home} cannot carry a layerstore: {found.problem}",
            hint="Use a directory on ext4, XFS, btrfs or tmpfs.",
        )
    text = json.dumps({"boot_id": boot_id(), **attrs.asdict(found)}, indent=2) + "\n"
    durable.replace_file(os.fspath(home / layout.PROBES), text, mode=0o600)


def boot_id() -> str:
    """It only explains: containers invent boot ids."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


# --- opening ----------------------------------------------------------------------------------


def open_store(home: Path, *, timeout: float, durability: m.Durability) -> Opened:
    """Open a store for writing, and settle what dead owners left."""
    about = description.read(home)
    _check_writable(home)
    _migrate_if_older(home, timeout=timeout)
    shared = locks.SharedStoreLock(os.fspath(home / layout.STORE_LOCK), timeout=timeout)
    try:
        database = engine.Database(
            os.fspath(home / layout.DATABASE),
            timeout=timeout,
            fence=os.fspath(home / layout.WRITE_LOCK),
        )
        try:
            about = description.read(home)
            check_database(database, about)
            opened = _become_owner(home, about, database, shared, durability)
        except BaseException:
            database.close()
            raise
    except BaseException:
        shared.close()
        raise
    try:
        _probe_if_new_boot(home)
        opened.settled += settle(opened.hands)
    except BaseException:
        opened.close()
        raise
    return opened


def _check_writable(home: Path) -> None:
    if not os.access(home / layout.OWN, os.W_OK):
        raise LayerstoreError(
            f"{home} cannot be written.",
            hint="Open it with read_only=True, or see why it is read-only.",
        )


def _migrate_if_older(home: Path, *, timeout: float) -> None:
    database = engine.ReadDatabase(os.fspath(home / layout.DATABASE), timeout=timeout)
    try:
        older = revision(database) < sql.REVISION
    finally:
        database.close()
    if older:
        upgrade(home, timeout=timeout)


def upgrade(home: Path, *, timeout: float) -> None:
    """Bring the schema to the packaged revision, after a copy, with the store to oneself."""
    from layerstore.db import migrate

    with locks.store_to_oneself(os.fspath(home / layout.STORE_LOCK), timeout=timeout):
        migrate.upgrade(os.fspath(home / layout.DATABASE))


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
            "started": _started(pid),
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


def _started(pid: int) -> int:
    """The start time of a process, in clock ticks since boot; 0 if it is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0
    return int(text.rpartition(")")[2].split()[19])


def _probe_if_new_boot(home: Path) -> None:
    try:
        known = json.loads((home / layout.PROBES).read_text()).get("boot_id")
    except (OSError, ValueError):
        known = None
    if known != boot_id():
        _probe(home)


def settle(hands: recovery.Hands) -> list[m.Settled]:
    """What an open does about dead owners: operations, tree, holds, mounts, in this order."""
    me = hands.journal.author
    owners = [rows.owner(row) for row in hands.journal.database.read(sql.SELECT_OPEN_OWNERS)]
    others = [owner for owner in owners if owner.id != me.owner]
    dead = [owner for owner in others if not hands.is_alive(owner.id)]
    settled = list(recovery.settle_operations(hands))
    mount_id = mountinfo.mount_id(hands.home)
    elsewhere = [o for o in dead if (o.boot_id, o.mount_id) != (me.boot_id, mount_id)]
    alone = len(dead) == len(others)
    meta = hands.journal.database.read(sql.SELECT_META)
    asked = any(key == COMPARE for key, _ in meta)
    if asked or (elsewhere and alone):
        settled += comparison.compare(hands)
    if asked:
        with hands.journal.transaction(full=True) as transaction:
            transaction.execute(sql.DELETE_META, key=COMPARE)
    # One that died before this boot is buried only by who compared the tree after it.
    for owner in dead:
        if alone or owner not in elsewhere:
            settled.append(recovery.bury(hands, owner))
    settled += recovery.forget_lost(hands)
    settled += recovery.unmount_unheld(hands)
    return settled


# --- rebuilding -------------------------------------------------------------------------------


def rebuild(home: Path, *, timeout: float) -> list[m.Settled]:
    """Set the database aside and begin a new journal from the tree, which is not touched."""
    if not (home / layout.OWN).is_dir() and not (home / layout.LINKS).is_dir():
        description.read(home)  # raises NoStore
    _make_own(home)
    with locks.store_to_oneself(os.fspath(home / layout.STORE_LOCK), timeout=timeout):
        about = _description_anew(home)
        _new_database(home, about, e.StoreRebuilt(about.store_id, "asked for"))
        description.write(home, about)
    opened = open_store(home, timeout=timeout, durability=m.Durability.FULL)
    opened.close()
    return opened.settled


def _description_anew(home: Path) -> description.Description:
    """The same store in a new epoch; a new one where its description is lost too."""
    try:
        return attrs.evolve(description.read(home), epoch=secrets.token_hex(8))
    except LayerstoreError:
        return description.Description(
            store_id=secrets.token_hex(16),
            epoch=secrets.token_hex(8),
            format=description.FORMAT,
            max_depth=m.DEFAULT_DEPTH,
            high_water=0,
        )


def _set_aside(home: Path) -> None:
    """Move database and WAL into quarantine: they are never deleted."""
    place = home / layout.QUARANTINE / recovery.new_name()
    for suffix in ("", "-wal", "-shm"):
        path = home / (layout.DATABASE + suffix)
        if path.exists():
            place.mkdir(mode=layout.PRIVATE_MODE, exist_ok=True)
            path.rename(place / path.name)
    if place.exists():
        note = (
            "The database that 'layerstore db rebuild' replaced. Delete it when it is not needed.\n"
        )
        (place / "NOTE").write_text(note)
