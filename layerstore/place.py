"""Owns `place.json`: which directory a store was last opened in, and what became of that; no database.

A store must know its own directory again, and must never take itself for a copy. So what it
remembers is what a reboot leaves as it is: not the device's number, which loop devices, LVM and
btrfs get anew, but the inode with the time of its birth and the file system's own id. And a copy
is only what can be seen twice at this moment: here, and where the store was last.

The file stands beside `store.json` and not in it: a program that does not know it leaves it alone.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import attrs

from layerstore import description
from layerstore.errors import LayerstoreError
from layerstore.fs import durable, layout
from layerstore.values import value

ARRIVED: Final = "arrived"
"""The row of `meta` that tells the next open how the database, or the home, came to be here."""
COMPARE: Final = "compare"
"""The row of `meta` that asks the next open for a comparison with the tree."""

FORMER_IDS: Final = "former_ids"
"""The row of `meta` with the ids of the stores that this is a copy of: their archives came along."""

_GET_UUID: Final = 0x8011_1500
"""FS_IOC_GETFSUUID: the length and the id of a file system (Linux 6.9, include/uapi/linux/fs.h)."""
_TELLING: Final = frozenset({0xEF53, 0x9123683E})
"""ext2 to ext4 and btrfs: their f_fsid is made of the id on the disk, and on btrfs also of the
subvolume. That of others is made of the device's number, or drawn at each mount."""


@value
@attrs.frozen(repr=False, eq=False)
class Place:
    """A directory, as it is known again. What is 0 or empty is not known, and is not compared."""

    path: str
    inode: int
    born: int
    """Nanoseconds since 1970."""
    file_system: str
    volume: str
    came_from: str = ""
    """Where the store was before it came here, if it has moved."""
    becomes_id: str = ""
    """A copy is being made a store of its own: its new id, and its new epoch."""
    becomes_epoch: str = ""

    def is_directory_of(self, other: Place) -> bool:
        """Whether both mean the same directory, wherever it lies."""
        pairs = ((getattr(self, name), getattr(other, name)) for name in _IDENTITY)
        return self.inode == other.inode and all(a == b or not a or not b for a, b in pairs)


_IDENTITY: Final = ("born", "file_system", "volume")


def here(home: Path) -> Place:
    """The place that a home is at."""
    from layerstore.fs import syscalls  # a question needs no ctypes

    path = os.fspath(home)
    status = syscalls.statx(path)
    telling = syscalls.statfs(path) in _TELLING
    return Place(
        path=path,
        inode=status.ino,
        born=status.born,
        file_system=_file_system(path),
        volume=f"{os.statvfs(path).f_fsid:x}" if telling else "",
    )


def _file_system(path: str) -> str:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        found = fcntl.ioctl(descriptor, _GET_UUID, bytes(17))
    except OSError:  # this kernel or file system does not say it
        return ""
    finally:
        os.close(descriptor)
    return found[1:].hex() if any(found[1:]) else ""


def recorded(home: Path) -> Place | None:
    """The place that the store remembers; None where it remembers none."""
    try:
        values = json.loads((home / layout.PLACE_FILE).read_bytes())
        known = {field.name for field in attrs.fields(Place)}
        found = Place(**{name: value for name, value in values.items() if name in known})
    except (OSError, ValueError, TypeError, AttributeError):
        return None
    kinds = {name: int if name in ("inode", "born") else str for name in known}
    fits = all(isinstance(getattr(found, name), kind) for name, kind in kinds.items())
    return found if fits else None


def write(home: Path, place: Place) -> None:
    """Replace `place.json`, durably."""
    text = json.dumps(attrs.asdict(place), indent=2) + "\n"
    durable.replace_file(os.fspath(home / layout.PLACE_FILE), text, mode=0o600)


def is_elsewhere(home: Path, record: Place | None) -> bool:
    """Whether the store remembers a path that does not lead to this directory.

    A bind mount or a symbolic link leads to it, by another name.
    """
    if record is None or record.path == os.fspath(home):
        return False
    try:
        return not os.path.samefile(record.path, home)
    except (OSError, ValueError):
        return True


def original(home: Path, store_id: str) -> Path | None:
    """Where the store is that this home is a copy of; None if it is the store itself.

    It is looked for where the store was last, now: a store that is not there is not this one's
    original, but a place that it has left.
    """
    record = recorded(home)
    if record is None or record.becomes_id or not is_elsewhere(home, record):
        return None
    there = Path(record.path)
    try:
        return there if description.read(there).store_id == store_id else None
    except (OSError, ValueError, LayerstoreError):
        return None


def warnings(home: Path, store_id: str) -> Iterator[str]:
    """What a reader is told about where the store is: it opens anywhere, and settles nothing."""
    there, record = original(home, store_id), recorded(home)
    if there is not None:
        yield (
            f"this home is a copy of the store at {there}, with the same id: nothing can be written "
            "until 'layerstore db adopt-copy' or 'layerstore db adopt-move' says what it is"
        )
    elif record is not None and is_elsewhere(home, record):
        yield (
            f"the store was at {record.path} when it was last written to; the next command that "
            "writes compares the whole tree"
        )
