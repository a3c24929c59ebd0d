"""Owns reading what is mounted; it must not decide whether a layer is free (``upper.upper_is_free``
asks the kernel).

Whether a path is a mount root, and of which mount, statx says exactly for this namespace.
Everything read from /proc only explains: other pid namespaces are invisible there, namespace
numbers are reused, and paths depend on who looks.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

import attrs

from layerstore.fs import layout, syscalls
from layerstore.values import value

_OVERLAYFS = 0x794C7630
"""OVERLAYFS_SUPER_MAGIC of linux/magic.h."""
_OCTAL = re.compile(rb"\\([0-7]{3})")
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)


@value
@attrs.frozen(repr=False, eq=False)
class MountEntry:
    """One line of a mountinfo file, octal escapes decoded; ``device`` is ``major:minor``."""

    mount_id: int
    parent_id: int
    device: str
    root: str
    mount_point: str
    options: tuple[str, ...]
    fs_type: str
    source: str
    super_options: tuple[str, ...]
    tags: tuple[str, ...] = ()
    """Of its propagation: ``shared:N``, ``master:N`` and so on."""


@value
@attrs.frozen(repr=False, eq=False)
class MountUser:
    """A process that keeps a layer busy, in words: ``how`` completes "the process …"."""

    pid: int
    command: str
    namespace: int
    mount_point: str
    how: str


def is_mount_root(path: str) -> bool:
    """Whether something is mounted at ``path`` in this namespace; False if ``path`` is missing."""
    try:
        status = syscalls.statx(path)
    except FileNotFoundError:
        return False
    if status.tells_root:
        return status.mount_root
    # Before Linux 5.8.
    place = os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
    return any(entry.mount_point == place for entry in _own_mounts())


def is_overlay(path: str) -> bool:
    """Whether ``path`` lies in an overlay; False for what cannot be asked: a server that is dead."""
    try:
        return syscalls.statfs(path) == _OVERLAYFS
    except OSError:
        return False


def mount_id(path: str) -> int:
    """The id of the mount that ``path`` lies in; unique in one boot from Linux 6.8 on, reused
    before.
    """
    return syscalls.statx(path).mnt_id


def mount_namespace() -> int:
    """The inode number of this process' mount namespace; it is reused at once, so it only explains."""
    return os.stat("/proc/self/ns/mnt").st_ino


def process_start(pid: int) -> int:
    """The start time of a process, in clock ticks since boot; 0 if it is gone."""
    try:
        stat = _read(f"/proc/{pid}/stat")
    except OSError:
        return 0
    return int(stat.rpartition(b")")[2].split()[19])


def shares_mounts(pid: int, started: int) -> bool:
    """Whether this process is to be seen here, and sees the mounts that are seen here."""
    try:
        namespace = os.stat(f"/proc/{pid}/ns/mnt").st_ino
    except OSError:
        return False
    return process_start(pid) == started and namespace == mount_namespace()


def parse_mountinfo(text: bytes) -> list[MountEntry]:
    """The entries of a mountinfo file; lines that are not of its form are passed over."""
    entries: list[MountEntry] = []
    for line in text.splitlines():
        fields = line.split(b" ")
        # Optional fields, of any number, end with a single dash.
        dash = fields.index(b"-", 6) if b"-" in fields[6:] else len(fields)
        if len(fields) < dash + 4:
            continue
        entries.append(
            MountEntry(
                mount_id=int(fields[0]),
                parent_id=int(fields[1]),
                device=fields[2].decode(),
                root=_decode(fields[3]),
                mount_point=_decode(fields[4]),
                options=_options(fields[5]),
                fs_type=_decode(fields[dash + 1]),
                source=_decode(fields[dash + 2]),
                super_options=_options(fields[dash + 3]),
                tags=tuple(os.fsdecode(tag) for tag in fields[6:dash]),
            )
        )
    return entries


def _decode(field: bytes) -> str:
    return os.fsdecode(_OCTAL.sub(lambda match: bytes([int(match[1], 8) & 0xFF]), field))


def _options(field: bytes) -> tuple[str, ...]:
    # A comma inside a value is written \054, so splitting comes first.
    return tuple(_decode(option) for option in field.split(b","))


def mounts_below(path: str) -> list[MountEntry]:
    """The mounts of this namespace strictly below ``path``, in the order they were made."""
    return [
        entry for entry in _own_mounts() if _is_below(entry.mount_point, os.path.realpath(path))
    ]


def mount_of(path: str) -> MountEntry | None:
    """The mount that ``path`` lies in: of those above it the last one on the longest path."""
    place, found = os.path.realpath(path), None
    for entry in _own_mounts():
        above = entry.mount_point == place or _is_below(place, entry.mount_point)
        if above and (found is None or len(entry.mount_point) >= len(found.mount_point)):
            found = entry
    return found


def parted(home: str) -> tuple[str, ...]:
    """Which of a store's own directories are another mount, or device, than the directory above."""

    def where(path: str) -> tuple[int, int]:
        return mount_id(path), os.stat(path).st_dev

    names = (layout.OWN, layout.STAGING, layout.TRASH)
    paths = {name: f"{home}/{name}" for name in names if os.path.isdir(f"{home}/{name}")}
    return tuple(
        name for name, path in paths.items() if where(path) != where(os.path.dirname(path))
    )


def _own_mounts() -> list[MountEntry]:
    return parse_mountinfo(_read("/proc/self/mountinfo"))


def _is_below(path: str, directory: str) -> bool:
    return path != directory and path.startswith(directory.rstrip("/") + "/")


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def who_uses(upper: str, merged: str) -> list[MountUser]:
    """Who has ``upper`` mounted, or works below ``merged``, as far as /proc shows it; to explain,
    never to decide.
    """
    users: list[MountUser] = []
    seen: dict[int, tuple[set[str], set[int]]] = {}
    for pid in sorted(int(name) for name in os.listdir("/proc") if name.isdigit()):
        try:
            namespace = os.stat(f"/proc/{pid}/ns/mnt").st_ino
            command = os.fsdecode(_read(f"/proc/{pid}/comm")).strip()
            if namespace not in seen:
                entries = parse_mountinfo(_read(f"/proc/{pid}/mountinfo"))
                points = {e.mount_point for e in entries if _has_upper(e, upper, merged)}
                seen[namespace] = points, {e.mount_id for e in entries}
                for point in sorted(points):
                    how = f"lives in a mount namespace that has it mounted at {point}"
                    users.append(MountUser(pid, command, namespace, point, how))
            points, ids = seen[namespace]
            for place, how in _used(pid, upper, {merged, *points} - {"/"}, ids):
                users.append(MountUser(pid, command, namespace, place, how))
        except OSError:
            # It ended while it was looked at, or is not ours to look at.
            continue
    return users


def _has_upper(entry: MountEntry, upper: str, merged: str) -> bool:
    """Whether an overlay has this upper, or has none and is mounted where this layer's is.

    The option may be relative to a home that mountinfo does not tell. Another home can have a layer of the same id, so
    a mount on another directory called ``merged`` is taken for that home's.
    """
    if entry.fs_type != "overlay":
        return False
    for option in entry.super_options:
        if option.startswith("upperdir="):
            # The kernel shows the option as it was given, with the escapes that mount(2) needs.
            path = _ESCAPED.sub(r"\1", option.removeprefix("upperdir="))
            if path.startswith("/"):
                return path == upper
            here = entry.mount_point == merged or os.path.basename(entry.mount_point) != "merged"
            return here and upper.endswith("/" + path)
    return entry.mount_point == merged


def _used(pid: int, upper: str, places: set[str], mount_ids: set[int]) -> Iterator[tuple[str, str]]:
    """The (mount point, how) of every use that one process makes of these places."""
    links = [("cwd", "has its current directory at"), ("root", "has its root directory at")]
    links += [(f"fd/{fd}", "has a file open at") for fd in _names(f"/proc/{pid}/fd")]
    for link, how in links:
        try:
            target = os.readlink(f"/proc/{pid}/{link}")
        except OSError:
            continue
        for place in places:
            if target == place or _is_below(target, place):
                yield place, f"{how} {target}"
        if target.startswith("/") and _is_detached(pid, link, upper + target, mount_ids):
            words = how.removesuffix(" at").replace("a file open", f"{target} open")
            yield "", f"{words} in a mount of it that was detached"


def _names(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except OSError:
        return []


def _is_detached(pid: int, link: str, path: str, mount_ids: set[int]) -> bool:
    """Whether a descriptor, or a current directory, is of a file in a detached mount."""
    if link.startswith("fd/"):
        return _is_detached_file(pid, link.removeprefix("fd/"), path, mount_ids)
    try:
        # O_PATH asks no file system anything, so that none can hang us.
        mine = os.open(f"/proc/{pid}/{link}", os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return _is_detached_file(os.getpid(), str(mine), path, mount_ids)
    finally:
        os.close(mine)


def _is_detached_file(pid: int, fd: str, path: str, mount_ids: set[int]) -> bool:
    """Whether a descriptor is of the overlay file whose upper file is ``path``, in a mount that is
    in no table.

    The path of a file in a detached mount starts at the root of that mount, and an overlay whose
    layers lie on one file system shows the inode numbers of its upper. Both come from /proc, so no
    foreign file system can hang us.
    """
    try:
        info = dict(
            line.split(b":", 1)
            for line in _read(f"/proc/{pid}/fdinfo/{fd}").splitlines()
            if b":" in line
        )
        if int(info[b"mnt_id"]) in mount_ids:
            return False
        return int(info[b"ino"]) == os.lstat(path).st_ino
    except (OSError, KeyError, ValueError):
        return False


def has_selinux() -> bool:
    """Whether SELinux is enabled in this kernel: only then it has this file system."""
    with open("/proc/filesystems", encoding="ascii") as file:
        return any(line.split()[-1:] == ["selinuxfs"] for line in file)
