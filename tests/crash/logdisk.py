"""Owns the disk that remembers: a file below a loop device, whose every write and flush is put on record.

    python -m tests.crash.logdisk DIRECTORY IMAGE LOG [LIMIT]

Mounts a FUSE file system with one file, `disk`, which is the image. What a device-mapper target
(dm-log-writes) does elsewhere works here on any kernel. A record is appended to the log in one
write when the image has it; so whoever else appends a mark there knows what lies before it.

LIMIT is a file that says when the disk dies: see `Limit`.
"""

from __future__ import annotations

import errno
import mmap
import os
import stat
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import attrs

NAME: Final = "disk"
HEAD: Final = struct.Struct("=cQI")
WRITE, FLUSH, MARK = b"w", b"f", b"m"


@attrs.frozen
class Entry:
    """A write with its bytes, a flush, or a mark with its text."""

    kind: bytes
    offset: int
    data: bytes


class Limit:
    """How many writes a disk takes before it fails for good: a page that several processes share."""

    _LAYOUT: Final = struct.Struct("=qqq")

    def __init__(self, path: str | os.PathLike[str]) -> None:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if os.fstat(descriptor).st_size < mmap.PAGESIZE:
                os.truncate(descriptor, mmap.PAGESIZE)
                os.pwrite(descriptor, self._LAYOUT.pack(-1, 0, 0), 0)
            self._page = mmap.mmap(descriptor, mmap.PAGESIZE)
        finally:
            os.close(descriptor)

    def set(self, writes: int, *, reads: bool = False) -> None:
        """From now on so many writes succeed; -1: all. `reads`: afterwards reads fail, too."""
        self._LAYOUT.pack_into(self._page, 0, writes, 0, int(reads))

    @property
    def written(self) -> int:
        """Writes that succeeded since it was set."""
        return int(self._LAYOUT.unpack_from(self._page)[1])

    def write(self) -> bool:
        """Whether one more may succeed; it is counted then."""
        writes, written, reads = self._LAYOUT.unpack_from(self._page)
        if 0 <= writes <= written:
            return False
        self._LAYOUT.pack_into(self._page, 0, writes, written + 1, reads)
        return True

    def dead(self, *, reading: bool = False) -> bool:
        """Whether a flush, or a read, fails."""
        writes, written, reads = self._LAYOUT.unpack_from(self._page)
        return 0 <= writes <= written and (bool(reads) or not reading)


def append(descriptor: int, kind: bytes, offset: int = 0, data: bytes = b"") -> None:
    """Put something on record, whole or not at all."""
    head = HEAD.pack(kind, offset, len(data))
    assert os.writev(descriptor, (head, data)) == len(head) + len(data)


def entries(log: Path) -> Iterator[Entry]:
    """What is on record, in order."""
    with log.open("rb") as file:
        while head := file.read(HEAD.size):
            kind, offset, length = HEAD.unpack(head)
            yield Entry(kind, offset, file.read(length))


def _serve(directory: str, image: str, log: str, control: str = "") -> None:
    import mfusepy as fuse  # type: ignore[import-untyped]  # only this process needs it

    disk = os.open(image, os.O_RDWR | os.O_CLOEXEC)
    record = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
    size = os.fstat(disk).st_size
    limit = Limit(control) if control else None

    class Disk(fuse.Operations):  # type: ignore[misc]  # it has no types
        """The one file, in one thread."""

        use_ns = True

        def getattr(self, path: str, fh: int | None = None) -> dict[str, Any]:
            if path == "/":
                return {"st_mode": stat.S_IFDIR | 0o755, "st_nlink": 2}
            if path == f"/{NAME}":
                return {"st_mode": stat.S_IFREG | 0o600, "st_nlink": 1, "st_size": size}
            raise fuse.FuseOSError(errno.ENOENT)

        def open(self, path: str, flags: int) -> int:
            return 0

        def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
            if limit is not None and limit.dead(reading=True):
                raise fuse.FuseOSError(errno.EIO)
            return os.pread(disk, size, offset)

        def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
            if limit is not None and not limit.write():
                raise fuse.FuseOSError(errno.EIO)
            data = bytes(data)
            os.pwrite(disk, data, offset)
            append(record, WRITE, offset, data)
            return len(data)

        def fsync(self, path: str, datasync: int, fh: int) -> int:
            if limit is not None and limit.dead():
                raise fuse.FuseOSError(errno.EIO)
            append(record, FLUSH)
            return 0

        def flush(self, path: str, fh: int) -> int:
            return 0

    # A flush of the device is an fsync of the file; nothing is held back on the way.
    fuse.FUSE(Disk(), directory, foreground=True, nothreads=True)


if __name__ == "__main__":
    _serve(*sys.argv[1:])
