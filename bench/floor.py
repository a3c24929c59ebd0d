"""Owns the floors: what a verb costs at the least; it must not use more of the library than names.

A floor issues the system calls that the verb issues, in its order, and the same number of SQLite
write transactions at the same `synchronous` levels, with one event row and one projection row in
each. There is nothing else: no checks, no classes, no JSON, no trace points, no locks between
threads. `bench/run.py --check-floors` holds both against strace.

What a verb does beyond its floor: it reads rows in its transactions and answers from the index
afterwards (`fcntl` and `pread64` of SQLite), it projects into more tables than one (`pwrite64`:
each page that is touched goes into the WAL), and it draws random names (`getrandom`).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from typing import Any

from stores import Spec, child

from layerstore.db import engine
from layerstore.db import statements as sql
from layerstore.fs import layout, syscalls

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_DOWN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_BENEATH = syscalls.RESOLVE_NO_XDEV | syscalls.RESOLVE_NO_SYMLINKS | syscalls.RESOLVE_BENEATH
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_WRITE = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
_PARAMETERS = "/sys/module/overlay/parameters"
_NAME = "0123456789abcdef0123456789abcdef"

_EVENT = {
    "epoch": "0123456789abcdef",
    "operation": _NAME,
    "owner": _NAME,
    "boot_id": "01234567-89ab-cdef-0123-456789abcdef",
    "at": 1_700_000_000_000_000,
    "kind": "layer.create.intended.v2",
    "data": '{"layer":"l0000009","parent":"l0000008","durable":true,"reason":"as long as most"}',
}
_HOLD = {"holder": f"owner:{_NAME}", "owner": _NAME, "since_at": 1, "since_seq": 1}
_OWNER = {
    "pid": 1,
    "started": 1,
    "boot_id": _EVENT["boot_id"],
    "mount_id": 1,
    "command": "bench",
    "durability": "full",
    "opened_at": 1,
    "closed_at": None,
}


class FloorStore:
    """Bare calls below one home, under the names that the benchmarks call the verbs by."""

    def __init__(
        self, home: str, layers: dict[str, Spec], *, full: bool, owner: str = _NAME
    ) -> None:
        self.home = home
        self._owner = owner
        self._layers = layers
        self._full = full
        self._made: dict[str, Spec] = {}
        self._level = ""
        self._open()

    # --- the database and the lock file -------------------------------------------------------

    def _open(self) -> None:
        """One lock file, two connections, their pragmas; no transaction yet."""
        self._database = f"{self.home}/{layout.DATABASE}"
        self._lock_path = f"{self.home}/{layout.owner_lock(self._owner)}"
        self._lock = os.open(f"{self._lock_path}.tmp", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.rename(f"{self._lock_path}.tmp", self._lock_path)
        self._writer = self._connect("rw", "PRAGMA foreign_keys=ON")
        self._reader = self._connect("ro", "PRAGMA query_only=ON")

    def _connect(self, mode: str, pragma: str) -> Any:
        connection = engine.driver.connect(
            f"file:{self._database}?mode={mode}",
            uri=True,
            isolation_level=None,
            check_same_thread=False,
            cached_statements=256,
        )
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        connection.execute(pragma)
        return connection

    def close(self) -> None:
        self._reader.close()
        self._writer.close()
        os.unlink(self._lock_path)
        os.close(self._lock)

    def transaction(
        self, statement: str, values: dict[str, Any], *, full: bool, event: Any
    ) -> None:
        """One event row and one projection row. The verb looks at the path first: so does this."""
        os.stat(self._database)
        self.bare(statement, values, full=full, event=event)

    def bare(self, statement: str, values: dict[str, Any], *, full: bool, event: Any) -> None:
        """The same without the look at the path."""
        level = "FULL" if full else "NORMAL"
        execute = self._writer.execute
        if level != self._level:
            execute(f"PRAGMA synchronous={level}")
            self._level = level
        execute("BEGIN IMMEDIATE")
        execute(sql.INSERT_EVENT, event)
        execute(statement, values)
        execute("COMMIT")

    def own(self) -> None:
        """What opening a store commits: that there is an owner; and what it asks first."""
        self._reader.execute(sql.SELECT_META).fetchall()
        execute = self._writer.execute
        execute("PRAGMA synchronous=FULL")
        self._level = "FULL"
        execute("BEGIN IMMEDIATE")
        execute(sql.INSERT_OWNER, _OWNER | {"id": str(time.time_ns())})
        execute("COMMIT")

    # --- create -------------------------------------------------------------------------------

    def create(self, layer: str, parent: str) -> None:
        above = self._layers[parent]
        spec = self._made[layer] = child(layer, above)
        event = _EVENT | {"layer": layer}
        home, stage = self.home, f"{self.home}/{layout.staging(_NAME)}"
        os.path.lexists(f"{home}/{layer}")
        self.intend(spec)
        self._verify(parent)
        os.readlink(f"{home}/l/{above.link}")
        written = self.stage(stage, spec)
        if self._full:
            for fd in written:
                os.fsync(fd)
                os.close(fd)
            self._sync(stage, f"{home}/l")
        syscalls.renameat2(
            syscalls.AT_FDCWD,
            stage,
            syscalls.AT_FDCWD,
            f"{home}/{layer}",
            syscalls.RENAME_NOREPLACE,
        )
        if self._full:
            self._sync(home)
        which = {"id": layer, "at": 1, "seq": 1}
        self.transaction(sql.CREATED_LAYER, which, full=self._full, event=event)

    def intend(self, spec: Spec) -> None:
        event = _EVENT | {"layer": spec.id}
        self.transaction(sql.INSERT_LAYER, _row(spec), full=False, event=event)

    def stage(self, stage: str, spec: Spec) -> list[int]:
        """Everything of a create before its syncs and its rename; what is still to be synced."""
        for path, mode in ((stage, 0o710), (f"{stage}/diff", 0o755)):
            os.mkdir(path, mode)
            os.stat(path)  # it may need a chmod: a umask cuts the mode
        written = [self._write(f"{stage}/link", spec.link)]
        os.mkdir(f"{stage}/work", 0o700)
        os.stat(f"{stage}/work")
        written.append(self._write(f"{stage}/lower", spec.lower))
        os.close(self._write(f"{self.home}/{spec.parent}/committed", ""))
        os.symlink(f"../{spec.id}/diff", f"{self.home}/l/{spec.link}")
        if self._full:
            return written
        for fd in written:
            os.close(fd)
        return []

    def _write(self, path: str, text: str) -> int:
        fd = os.open(path, _WRITE, 0o644)
        if text:
            os.write(fd, text.encode())
        os.fstat(fd)  # the same as os.stat of a directory
        if self._full and text:
            syscalls.sync_file_range(fd, syscalls.SYNC_FILE_RANGE_WRITE, path=path)
        return fd

    @staticmethod
    def _sync(*paths: str) -> None:
        for path in paths:
            fd = os.open(path, _DIRECTORY)
            os.fsync(fd)
            os.close(fd)

    @staticmethod
    def _read(path: str) -> str:
        fd = os.open(path, _READ)
        text = os.read(fd, 1 << 16).decode()
        os.close(fd)
        return text

    def _verify(self, layer: str) -> str:
        """The looks at a layer's own files before anything is built upon it; its `lower`."""
        top = f"{self.home}/{layer}"
        self._read(f"{top}/link")
        lower = self._read(f"{top}/lower")
        os.lstat(f"{top}/diff")
        if not os.path.lexists(f"{top}/committed"):
            os.lstat(f"{top}/work")
        return lower

    def _follow(self, name: str) -> None:
        """The looks at one link of a chain."""
        os.lstat(self.home + os.readlink(f"{self.home}/{name}")[2:])

    # --- remove -------------------------------------------------------------------------------

    def remove(self, layer: str) -> None:
        spec = self._made.pop(layer)
        event = _EVENT | {"layer": layer}
        home, away = self.home, f"{self.home}/{layout.trash(_NAME)}"
        link = f"{home}/l/{spec.link}"
        which = {"id": layer, "draining": 0}
        self.transaction(sql.DRAIN_LAYER, which, full=False, event=event)
        try:
            os.rmdir(f"{home}/{layer}/merged")
        except FileNotFoundError:
            pass
        self.probe(layer)
        self._read(f"{home}/{layer}/link")
        os.rename(f"{home}/{layer}", away)
        os.lstat(link)
        os.readlink(link)
        os.unlink(link)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{home}/{layout.manifest(layer)}")
        if self._full:
            self._sync(home)
        self.transaction(sql.DELETE_LAYER, {"id": layer}, full=self._full, event=event)
        fd = os.open(f"{home}/{layout.TRASH}", _DIRECTORY)
        remove_tree(fd, _NAME)
        os.close(fd)
        which = {"id": spec.parent, "draining": 0}
        self.transaction(sql.DRAIN_LAYER, which, full=False, event=event)

    # --- get and put --------------------------------------------------------------------------

    def get(self, layer: str, *, probe: bool = True) -> None:
        """The first one: it mounts."""
        spec, home = self._layers[layer], self.home
        event = _EVENT | {"layer": layer}
        merged = f"{home}/{layer}/merged"
        _statx(merged)
        which = {"id": layer, "read_only": 0}
        self.transaction(sql.MOUNT_LAYER, which, full=False, event=event)
        lowers = self._verify(layer).split(":")
        for name in (f"l/{spec.link}", *lowers):
            self._follow(name)
        if probe:
            self.probe(layer)
        os.mkdir(merged, 0o700)
        os.stat(merged)
        settings = [("lowerdir+", f"{home}/{name}") for name in lowers]
        settings += [("upperdir", f"{home}/{layer}/diff"), ("workdir", f"{home}/{layer}/work")]
        context = _configure(settings, index="off")
        mounted = syscalls.fsmount(context, syscalls.FSMOUNT_CLOEXEC, 0)
        flags = syscalls.MOVE_MOUNT_F_EMPTY_PATH
        syscalls.move_mount(mounted, "", syscalls.AT_FDCWD, merged, flags)
        os.close(mounted)
        os.close(context)
        _statx(merged)
        self.transaction(sql.TAKE_HOLD, _HOLD | {"layer": layer}, full=False, event=event)

    def put(self, layer: str) -> None:
        """The last one: it unmounts."""
        event = _EVENT | {"layer": layer}
        merged = f"{self.home}/{layer}/merged"
        which = {"id": layer, "draining": 0}
        self.transaction(sql.DRAIN_LAYER, which, full=False, event=event)
        syscalls.umount2(merged, syscalls.UMOUNT_NOFOLLOW)
        _statx(merged)
        os.rmdir(merged)
        self.transaction(sql.END_HOLDS_ON, {"layer": layer}, full=False, event=event)

    def hold(self, layer: str) -> None:
        """A further get: its transaction and nothing else."""
        event = _EVENT | {"layer": layer}
        self.bare(sql.TAKE_HOLD, _HOLD | {"layer": layer}, full=False, event=event)

    def release(self, layer: str) -> None:
        """A put that is not the last one: its transaction and nothing else."""
        event = _EVENT | {"layer": layer}
        self.bare(sql.RELEASE_HOLD, _HOLD | {"layer": layer}, full=False, event=event)

    def probe(self, layer: str) -> None:
        """Ask the kernel whether the upper is free, as the library asks."""
        diff, scratch = f"{self.home}/{layer}/diff", f"{self.home}/{layout.staging(_NAME)}"
        upper, work = f"{scratch}/upper", f"{scratch}/work"
        os.stat(diff)
        os.mkdir(scratch)
        os.mkdir(upper, 0o700)
        os.mkdir(work, 0o700)
        settings = [("lowerdir+", diff), ("upperdir", upper), ("workdir", work)]
        os.close(_configure(settings, index="on"))
        os.stat(f"{work}/index")
        os.path.lexists(f"{scratch}/merged")
        for made in (f"{work}/index", f"{work}/work", work, upper, scratch):
            os.rmdir(made)

    # --- questions ----------------------------------------------------------------------------

    def lower_dirs(self, layer: str) -> list[str]:
        """As Docker's driver finds them: the `lower` file, and each link that it names."""
        home = self.home
        names = self._read(f"{home}/{layer}/lower").split(":")
        return [home + os.readlink(f"{home}/{name}")[2:] for name in names]

    def metadata(self, layer: str) -> dict[str, str]:
        top = f"{self.home}/{layer}"
        return {
            "UpperDir": f"{top}/diff",
            "WorkDir": f"{top}/work",
            "MergedDir": f"{top}/merged",
            "LowerDir": ":".join(self.lower_dirs(layer)),
        }

    # --- settling ------------------------------------------------------------------------------

    def settle_create(self, layer: str, parent: str, stage: str, owner_lock: str) -> None:
        """Claim and undo a create that a dead owner left, from any of its steps."""
        spec, home = child(layer, self._layers[parent]), self.home
        event = _EVENT | {"layer": layer}
        away, link = f"{layout.TRASH}/{stage}", f"{home}/l/{spec.link}"
        self._ask(owner_lock)
        which = {"id": layer, "draining": 0}
        self.transaction(sql.DRAIN_LAYER, which, full=False, event=event)
        os.path.lexists(f"{home}/{layer}")
        os.path.lexists(f"{home}/{away}")
        try:
            self._read(f"{home}/{layer}/link")
            os.rename(f"{home}/{layer}", f"{home}/{away}")
        except FileNotFoundError:
            os.path.lexists(f"{home}/{layer}")
        if os.path.islink(link):
            os.readlink(link)
            os.unlink(link)
        for directory, name in (
            (layout.STAGING, f"{stage}-probe"),
            (layout.STAGING, stage),
            (layout.TRASH, stage),
        ):
            fd = os.open(f"{home}/{directory}", _DIRECTORY)
            remove_tree(fd, name)
            os.close(fd)
        self.transaction(sql.DELETE_LAYER, {"id": layer}, full=self._full, event=event)

    def bury(self, owner_lock: str, parent: str) -> None:
        """End what a dead owner held."""
        self._ask(owner_lock)
        which = {"id": parent, "draining": 0}
        self.transaction(sql.DRAIN_LAYER, which, full=False, event=_EVENT | {"layer": None})
        os.unlink(owner_lock)

    @staticmethod
    def _ask(owner_lock: str) -> None:
        fd = os.open(owner_lock, os.O_RDONLY | os.O_CLOEXEC)
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        os.close(fd)


def _row(spec: Spec) -> dict[str, Any]:
    """The projection row of a layer."""
    return {
        "id": spec.id,
        "link": spec.link,
        "parent": spec.parent,
        "lower": spec.lower,
        "depth": spec.depth,
        "read_write": 0,
        "committed": 0,
        "labels": "{}",
        "storage_options": "{}",
        "mount_label": "",
        "created_at": 1,
        "created_seq": 1,
        "durable": 1,
        "used": 0,
        "draining": 0,
        "damage": None,
        "applied": 0,
        "diff_id": None,
        "size": None,
        "inodes": None,
    }


def _statx(path: str) -> None:
    try:
        syscalls.statx(path)
    except FileNotFoundError:
        pass


def _configure(settings: list[tuple[str, str]], *, index: str) -> int:
    """A context with an overlay in it, attached nowhere."""
    for _ in range(3):
        os.stat(_PARAMETERS)
    context = syscalls.fsopen("overlay", syscalls.FSOPEN_CLOEXEC)
    last = [("index", index), ("metacopy", "off"), ("redirect_dir", "off")]
    for key, value in [("source", "overlay"), *settings, *last]:
        syscalls.fsconfig(context, syscalls.FSCONFIG_SET_STRING, key, value, 0)
    if index == "on":  # the probe's superblock ends without a sync
        syscalls.fsconfig(context, syscalls.FSCONFIG_SET_FLAG, "ro", None, 0)
    syscalls.fsconfig(context, syscalls.FSCONFIG_CMD_CREATE, None, None, 0)
    return context


def remove_tree(parent: int, name: str) -> None:
    """The calls of a removal that no mount can mislead, for a tree that nobody else touches."""
    try:
        os.lstat(name, dir_fd=parent)
    except FileNotFoundError:
        try:
            os.lstat(name, dir_fd=parent)  # the library looks twice before it says so
        except FileNotFoundError:
            return
    _remove_directory(parent, name)


def _remove_directory(parent: int, name: str) -> None:
    fd = syscalls.openat2(parent, name, _DOWN, resolve=_BENEATH)
    os.fstat(fd)
    while True:
        os.lseek(fd, 0, os.SEEK_SET)
        directories, files = [], 0
        with os.scandir(fd) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    directories.append(entry.name)
                else:
                    files += 1
                    os.lstat(entry.name, dir_fd=fd)
                    os.unlink(entry.name, dir_fd=fd)
        for directory in directories:
            _remove_directory(fd, directory)
        if not directories and not files:
            break
    os.close(fd)
    os.rmdir(name, dir_fd=parent)
