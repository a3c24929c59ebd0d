"""Owns the ballast: files that keep bytes and inodes for the verbs that free some.

It must not decide who may have it. Each piece is a file of its own, with its blocks: unlinking one
gives an inode and some hundred KiB back. They lie in `.layerstore/ballast/`, complete from the
moment when they have their names.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Final

from layerstore.fs import durable, layout
from layerstore.fs.trace import trace

PIECES: Final = 16
"""As many inodes as two removes, which probe in a directory of four, and their owners need."""
LARGEST: Final = 256 << 10
SMALLEST: Final = 4096
_SHARE: Final = 16
"""At most one part in so many of the file system."""
_FEW_INODES: Final = 64
"""With fewer a warning is in order."""


def room(path: str) -> tuple[int, int | None]:
    """Bytes and inodes that are left for whoever asks; None where inodes are not counted."""
    status = os.statvfs(path)
    return status.f_bavail * status.f_frsize, status.f_ffree if status.f_files else None


def pieces(home: str) -> int:
    """How many pieces there are."""
    try:
        return sum(not name.endswith(".tmp") for name in os.listdir(f"{home}/{layout.BALLAST}"))
    except FileNotFoundError:
        return 0


def release(home: str) -> bool:
    """Give one piece back to the file system; False if there is none left."""
    directory = f"{home}/{layout.BALLAST}"
    with contextlib.suppress(OSError):
        for name in sorted(os.listdir(directory)):
            try:
                os.unlink(f"{directory}/{name}")
            except FileNotFoundError:
                continue  # another process was faster
            _SHORT.add(home)
            trace("ballast:release:after")
            _commit(directory)
            return True
    return False


def make_way(home: str) -> None:
    """Release what SQLite needs before it opens the journal.

    Its shared memory is cut and grown again by whoever opens it first, and where a page of that has
    no blocks the process dies of SIGBUS.
    """
    if durable.is_nearly_full(home):
        while not durable.has_room(f"{home}/{layout.DATABASE}"):
            if not release(home):
                break


def _commit(directory: str) -> None:
    """On btrfs what was unlinked is free when its transaction is committed, and not before."""
    from layerstore.fs import syscalls

    if syscalls.statfs(directory) != _BTRFS:
        return
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        syscalls.syncfs(descriptor)
    finally:
        os.close(descriptor)


_BTRFS: Final = 0x9123683E


def restore(home: str) -> int:
    """Make the pieces that are missing, as far as there is room; how many were made."""
    directory = f"{home}/{layout.BALLAST}"
    made = 0
    _SHORT.discard(home)
    try:
        there = set(os.listdir(directory))
        if len(there) == PIECES and not any(name.endswith(".tmp") for name in there):
            return 0
    except FileNotFoundError:
        there = set()
    try:
        if not there:
            with contextlib.suppress(FileExistsError):
                os.mkdir(directory, layout.PRIVATE_MODE)
        for name in there:
            if name.endswith(".tmp"):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(f"{directory}/{name}")
        size = _piece(home)
        for number in range(PIECES):
            name = f"{number:02}"
            if name not in there:
                _make(f"{directory}/{name}", size)
                made += 1
    except OSError as error:
        # Another process that sweeps takes a piece that is not named yet; the next open makes it.
        if not durable.is_full(error) and not isinstance(error, FileNotFoundError):
            raise
    return made


def is_short(home: str) -> bool:
    """Whether this process has released pieces since it last tried to make them again."""
    return home in _SHORT


def restore_what_was_released(home: str) -> None:
    """After a verb: the pieces that this process gave back for it, as far as there is room."""
    if is_short(home):
        restore(home)


_SHORT: set[str] = set()
"""Homes of which this process has released pieces since it last tried to make them again."""


def _piece(home: str) -> int:
    status = os.statvfs(home)
    share = status.f_blocks * status.f_frsize // _SHARE // PIECES
    return max(SMALLEST, min(LARGEST, share) // 4096 * 4096)


def _make(path: str, size: int) -> None:
    temporary = f"{path}.tmp"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(descriptor, 0, size)
        os.rename(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    finally:
        os.close(descriptor)


def warnings(home: str) -> Iterator[str]:
    """What `status` says about room and failures, in words."""
    if os.path.lexists(f"{home}/{layout.SUSPECT}"):
        yield (
            "there was an I/O error: nothing is written until every process has closed the store and "
            "one opens it again"
        )
    free, inodes = room(home)
    if free < LARGEST * PIECES or (inodes is not None and inodes < _FEW_INODES):
        left = "" if inodes is None else f" and {inodes} inodes"
        yield f"the file system is nearly full: {free >> 10} KiB{left} are left"
    there = pieces(home)
    if there < PIECES:
        yield (
            f"{PIECES - there} of {PIECES} pieces of the ballast are gone, which removes need on a "
            "full disk: they are made again when there is room"
        )


_GET_FLAGS: Final = 0x80086601
_SET_FLAGS: Final = 0x40086602
_NO_COPY: Final = 0x00800000


def write_in_place(directory: str) -> None:
    """Have btrfs write files that will be made in this directory in place (`chattr +C`).

    A copy of each block would need room for it, and SQLite's shared memory would die of SIGBUS
    without. Directories that are there already do not get it: layers keep their checksums.
    """
    import fcntl
    import struct

    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        flags = struct.unpack("l", fcntl.ioctl(descriptor, _GET_FLAGS, struct.pack("l", 0)))[0]
        fcntl.ioctl(descriptor, _SET_FLAGS, struct.pack("l", flags | _NO_COPY))
    except OSError:
        pass  # no other file system has it
    finally:
        os.close(descriptor)
