"""Owns write, sync, rename, sync of the directory, in one place; it must not know what is written."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from typing import Final


class SyncFailed(OSError):
    """A sync failed: nothing is known about what was written since the last one.

    The kernel reports such an error once and then forgets it, so that a second sync proves nothing
    (https://lwn.net/Articles/752063/).
    """


@contextlib.contextmanager
def naming(path: str | os.PathLike[str]) -> Iterator[None]:
    """An error about a descriptor says what the descriptor is of: the system call does not know."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = os.fspath(path)
        raise


NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT})


def is_full(error: BaseException) -> bool:
    """Whether an error of the operating system says that there is no room.

    Not for a sync that failed: of what it should have written nothing is known.
    """
    return (
        isinstance(error, OSError) and error.errno in NO_ROOM and not isinstance(error, SyncFailed)
    )


_TRIED: Final = 64 << 10


def is_nearly_full(path: str) -> bool:
    """Whether so little is left, for other users than root, that it has to be tried."""
    status = os.statvfs(path)
    few = bool(status.f_files) and status.f_ffree < 8
    return few or status.f_bavail * status.f_frsize < 16 * _TRIED


def has_room(beside: str, *, files: int = 1) -> bool:
    """Whether so many files with something in them can be made beside this one, by trying it."""
    directory = os.path.dirname(beside)
    made: list[int] = []
    try:
        for _ in range(files):
            path = f"{directory}/.room.{os.urandom(8).hex()}.tmp"
            made.append(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
            os.unlink(path)
            if os.pwrite(made[-1], bytes(_TRIED), 0) < _TRIED:
                return False
    except OSError as error:
        return not is_full(error)
    finally:
        for descriptor in made:
            os.close(descriptor)
    return True


def note_failure(path: str, why: str, *, spare: str) -> bool:
    """Leave a mark about an I/O error at `path`, for whoever opens the store next; False if that fails.

    It is not synced: what it warns of are pages that the kernel takes for written, and it forgets
    those together with the mark. Without an inode for it, a second name of the file `spare` serves.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError:
        try:
            os.link(spare, path)
        except OSError:
            return os.path.lexists(path)
        return True
    try:
        os.write(descriptor, f"{why}\n".encode())
    except OSError:
        pass  # that it is there says enough
    finally:
        os.close(descriptor)
    return True


def sync(descriptor: int, path: str) -> None:
    """fsync, with its failure told apart from every other one."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        raise SyncFailed(error.errno, f"cannot be synced: {error.strerror}", path) from error


def sync_file(path: str, *, kind: int = os.O_NOFOLLOW) -> None:
    """The same for what is not open; `kind`: O_DIRECTORY for a directory."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | kind)
    try:
        sync(descriptor, path)
    finally:
        os.close(descriptor)


def sync_directory(path: str) -> None:
    sync_file(path, kind=os.O_DIRECTORY)


def write_file(path: str, content: str, *, mode: int, synced: bool) -> None:
    """Write a file in place, for a place that nobody reads yet; `synced` before it is closed."""
    descriptor = _write(path, content, mode)
    try:
        if synced:
            sync(descriptor, path)
    finally:
        os.close(descriptor)


def begin_file(path: str, content: str, *, mode: int) -> int:
    """Write a file that is to be synced later; its descriptor.

    The kernel is told to begin, and not waited for. A sync is cheaper then: ext4 gives the content
    its blocks now, and not in one more transaction of its journal.
    """
    from layerstore.fs import syscalls  # commands that only read have no use for it

    descriptor = _write(path, content, mode)
    with contextlib.suppress(OSError):  # the sync tells it
        syscalls.sync_file_range(descriptor, syscalls.SYNC_FILE_RANGE_WRITE, path=path)
    return descriptor


def _write(path: str, content: str, mode: int) -> int:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
    try:
        # No truncation: repeated after a crash it writes the same text over itself, and ext4 would
        # write a truncated file out at its close.
        data = content.encode()
        with naming(path):
            while data:
                data = data[os.write(descriptor, data) :]
            # A umask cuts the mode, and so may the default ACL of the directory.
            if stat.S_IMODE(os.fstat(descriptor).st_mode) != mode:
                os.fchmod(descriptor, mode)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def replace_file(path: str, content: str, *, mode: int, beside: str = "") -> None:
    """Put a file where readers see the old one or the new one, also after a power cut.

    `beside`: the directory of the temporary file, where that is another one.
    """
    with replacing(path, content, mode=mode, beside=beside):
        pass


@contextlib.contextmanager
def replacing(path: str, content: str = "", *, mode: int, beside: str = "") -> Iterator[int]:
    """The same for what is written piece by piece, after `content`, to the descriptor that this gives."""
    directory, name = os.path.split(path)
    temporary = f"{beside or directory}/.{name}.{os.urandom(8).hex()}.tmp"
    try:
        descriptor = _write(temporary, content, mode)
        try:
            yield descriptor
            sync(descriptor, temporary)
        finally:
            os.close(descriptor)
        os.rename(temporary, path)
    except BaseException:
        if os.path.lexists(temporary):
            os.unlink(temporary)
        raise
    sync_directory(directory)
