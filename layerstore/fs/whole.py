"""Owns syncing a whole file system in the place of many files; it must not know whose they are.

One syncfs is cheaper than some syncs of files, each of which has the disk empty its cache, unless much
else waits to be written: that would be waited for, too.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterator
from typing import Final

from layerstore.fs import syscalls
from layerstore.fs.durable import SyncFailed

LITTLE: Final = 64 << 20
"""Bytes: what slow disks write in a fraction of a second."""


@contextlib.contextmanager
def watched(home: str) -> Iterator[Callable[[], None]]:
    """A call that writes everything on the home's file system.

    It raises SyncFailed for what could not be written since this was entered: an error of before
    is not reported.
    """
    descriptor = os.open(home, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield functools.partial(sync, descriptor, home)
    finally:
        os.close(descriptor)


def sync(descriptor: int, home: str) -> None:
    """Write everything on the home's file system, on which the descriptor is open.

    Raises SyncFailed for what could not be written since it was opened.
    """
    try:
        syscalls.syncfs(descriptor)
    except OSError as error:
        raise SyncFailed(error.errno, f"cannot be synced: {error.strerror}", home) from error


def sync_file_system(home: str) -> None:
    """Write everything on the home's file system; raise SyncFailed for what could not be written."""
    with watched(home) as sync_all:
        sync_all()


def is_little_to_write() -> bool:
    """Whether all file systems together have little that waits to be written; False: not known."""
    try:
        descriptor = os.open("/proc/meminfo", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        lines = os.read(descriptor, 1 << 14).split(b"\n")
    finally:
        os.close(descriptor)
    waiting = [int(x.split()[1]) for x in lines if x.startswith((b"Dirty:", b"Writeback:"))]
    return len(waiting) == 2 and sum(waiting) * 1024 <= LITTLE
