"""Owns write, sync, rename, sync of the directory, in one place; it must not know what is written."""

from __future__ import annotations

import os


class SyncFailed(OSError):
    """A sync failed: nothing is known about what was written since the last one.

    The kernel reports such an error once and then forgets it, so that a second sync proves nothing
    (https://lwn.net/Articles/752063/).
    """


def sync(descriptor: int, path: str) -> None:
    """fsync, with its failure told apart from every other one."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        raise SyncFailed(error.errno, f"cannot be synced: {error.strerror}", path) from error


def write_file(path: str, content: str, *, mode: int, synced: bool) -> None:
    """Write a file in place, for a place that nobody reads yet; `synced` before it is closed."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
    try:
        # No truncation: repeated after a crash it writes the same text over itself, and ext4 would
        # write a truncated file out at its close.
        data = content.encode()
        while data:
            data = data[os.write(descriptor, data) :]
        os.fchmod(descriptor, mode)
        if synced:
            sync(descriptor, path)
    finally:
        os.close(descriptor)


def sync_directory(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        sync(descriptor, path)
    finally:
        os.close(descriptor)


def replace_file(path: str, content: str, *, mode: int) -> None:
    """Put a file where readers see the old one or the new one, also after a power cut."""
    directory, name = os.path.split(path)
    temporary = f"{directory}/.{name}.{os.urandom(8).hex()}.tmp"
    try:
        write_file(temporary, content, mode=mode, synced=True)
        os.rename(temporary, path)
    except BaseException:
        if os.path.lexists(temporary):
            os.unlink(temporary)
        raise
    sync_directory(directory)
