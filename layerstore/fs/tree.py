"""Owns walks over whole trees that survive depth, size and mounts; it must not know what a tree
means.

Everything goes by directory descriptors, never by long paths, and no more than ``_WINDOW`` of them
are open: higher up they are closed on the way down and opened again through ``..`` on the way back,
which must lead to the directory that was left (device and inode are compared). openat2 with
RESOLVE_NO_XDEV stops at every mount, also at a bind mount of the same file system, where device
numbers are equal.
"""

from __future__ import annotations

import errno
import os
import stat
from types import TracebackType
from typing import Self

import attrs

from layerstore.fs import syscalls

_WINDOW = 16
# So many names of directories are kept per level before the first of them is entered.
_BATCH = 256
# Mounts stacked on one place are detached one by one; somebody who mounts as fast as that wins.
_STACKED = 64
_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_DOWN = syscalls.RESOLVE_NO_XDEV | syscalls.RESOLVE_NO_SYMLINKS | syscalls.RESOLVE_BENEATH
_UP = syscalls.RESOLVE_NO_XDEV | syscalls.RESOLVE_NO_SYMLINKS
# With these an entry stays and the rest goes on; others (EIO, ENOSYS) say something about all of
# it.
_STAYS = frozenset(
    {errno.EBUSY, errno.EPERM, errno.EACCES, errno.EROFS, errno.EXDEV, errno.ENOTEMPTY}
)


@attrs.frozen
class Removed:
    """What a removal did: names removed, bytes of files that lost their last name, paths that had
    to stay, inodes that are gone.
    """

    entries: int
    bytes: int
    left: tuple[str, ...]
    inodes: int = 0


@attrs.frozen
class Size:
    """Apparent bytes of everything but directories, hard links counted once; inodes with
    directories.
    """

    bytes: int
    inodes: int


@attrs.define
class Frame:
    """One directory on the way down; ``fd`` is -1 while it is closed, ``stay`` the names that
    remain in it.
    """

    name: str
    fd: int
    key: tuple[int, int]
    pending: list[str] = attrs.Factory(list)
    stay: set[str] = attrs.Factory(set)
    ghosts: set[str] = attrs.Factory(set)


class Descent:
    """The way from a start to the current directory, with a window of open descriptors at its end."""

    def __init__(self, start_fd: int, *, quiet: bool = False) -> None:
        """`quiet`: directories keep their times of access, where the kernel lets us (O_NOATIME)."""
        self._start = start_fd
        self._flags = _OPEN | (os.O_NOATIME if quiet else 0)
        self._closed = 0
        self.frames: list[Frame] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for frame in self.frames[self._closed :]:
            os.close(frame.fd)

    @property
    def fd(self) -> int:
        """The current directory."""
        return self.frames[-1].fd if self.frames else self._start

    def path(self, name: str) -> str:
        """Where ``name`` in the current directory lies, seen from the start."""
        return "/".join([frame.name for frame in self.frames] + [name])

    def down(self, name: str) -> None:
        """Enter a directory; EXDEV if it is a mount root."""
        fd = self._open(name, _DOWN)
        status = os.fstat(fd)
        self.frames.append(Frame(name, fd, (status.st_dev, status.st_ino)))
        if len(self.frames) - self._closed > _WINDOW:
            oldest = self.frames[self._closed]
            os.close(oldest.fd)
            oldest.fd = -1
            self._closed += 1

    def up(self) -> Frame:
        """Leave the current directory; ESTALE if its parent is no longer the one that it was
        entered from.
        """
        above = self.frames[-2] if len(self.frames) > 1 else None
        if above is not None and above.fd < 0:
            fd = self._open("..", _UP)
            status = os.fstat(fd)
            if (status.st_dev, status.st_ino) != above.key:
                os.close(fd)
                raise OSError(errno.ESTALE, "a directory was moved during the walk", above.name)
            above.fd = fd
            self._closed -= 1
        frame = self.frames.pop()
        os.close(frame.fd)
        return frame

    def _open(self, name: str, resolve: int) -> int:
        try:
            return syscalls.openat2(self.fd, name, self._flags, resolve=resolve)
        except PermissionError:
            if self._flags == _OPEN:
                raise
        # Only the owner of a directory, or root, may ask for that.
        return syscalls.openat2(self.fd, name, _OPEN, resolve=resolve)


@attrs.define
class _Removal:
    """One removal in progress."""

    way: Descent
    entries: int = 0
    bytes: int = 0
    inodes: int = 0
    left: list[str] = attrs.Factory(list)

    def gone(self, size: int = 0, *, inodes: int = 1) -> None:
        self.entries += 1
        self.bytes += size
        self.inodes += inodes

    def keep(self, name: str) -> None:
        """``name`` in the current directory stays; directories above it stay without being listed."""
        self.left.append(self.way.path(name))
        if self.way.frames:
            self.way.frames[-1].stay.add(name)

    def missing(self, name: str) -> None:
        """``name`` in the current directory was listed, but is not there."""
        if self.way.frames:
            self.way.frames[-1].ghosts.add(name)


def remove(path: str) -> Removed:
    """`remove_tree` of what is at a path. FileNotFoundError where its directory is not there."""
    directory, name = os.path.split(path)
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return remove_tree(descriptor, name)
    finally:
        os.close(descriptor)


def remove_tree(parent_fd: int, name: str) -> Removed:
    """Remove ``name`` in ``parent_fd`` with everything below it, never reaching through a mount.

    A mount below the entry is detached, its contents untouched; where that fails it stays and its
    path, relative to ``parent_fd``, is in ``left``, and so does an entry that is itself a mount
    root. What is missing already is no error. OSError for what concerns more than one entry, such
    as EIO; calling again goes on.
    """
    with Descent(parent_fd) as way:
        removal = _Removal(way)
        if _is_directory(parent_fd, name):
            _remove_directory(removal, name)
        else:
            _unlink(removal, name, detach=False)
        return Removed(removal.entries, removal.bytes, tuple(removal.left), removal.inodes)


def _is_directory(dir_fd: int, name: str) -> bool:
    try:
        return stat.S_ISDIR(os.lstat(name, dir_fd=dir_fd).st_mode)
    except FileNotFoundError:
        return False


def _remove_directory(removal: _Removal, name: str) -> None:
    way = removal.way
    if not _enter(removal, name, detach=False):
        return
    while way.frames:
        frame = way.frames[-1]
        if not frame.pending and _sweep(removal, frame):
            continue
        if frame.pending:
            _enter(removal, frame.pending.pop(), detach=True)
            continue
        way.up()
        if frame.stay:
            if way.frames:
                way.frames[-1].stay.add(frame.name)
        else:
            _rmdir(removal, frame.name)


def _enter(removal: _Removal, name: str, *, detach: bool) -> bool:
    for _ in range(_STACKED):
        try:
            removal.way.down(name)
            return True
        except FileNotFoundError:
            removal.missing(name)
            return False
        except OSError as error:
            # A writer that still holds a detached mount made something else of it: the next sweep
            # sees.
            if error.errno in (errno.ENOTDIR, errno.ELOOP):
                return False
            if error.errno == errno.EXDEV and detach and _detach(removal.way.fd, name):
                continue
            if error.errno not in _STAYS:
                raise
            break
    removal.keep(name)
    return False


def _sweep(removal: _Removal, frame: Frame) -> bool:
    """Unlink the files of a directory and note some of its directories; False if there was nothing
    to do.

    A scan may miss names while others are unlinked, so a directory is swept until a scan finds
    nothing new.
    """
    found = False
    os.lseek(frame.fd, 0, os.SEEK_SET)
    with os.scandir(frame.fd) as entries:
        for entry in entries:
            if entry.name in frame.stay or entry.name in frame.ghosts:
                continue
            found = True
            if not entry.is_dir(follow_symlinks=False):
                _unlink(removal, entry.name, detach=True)
                continue
            frame.pending.append(entry.name)
            if len(frame.pending) >= _BATCH:
                break
    return found


def _unlink(removal: _Removal, name: str, *, detach: bool) -> None:
    fd = removal.way.fd
    for _ in range(_STACKED):
        try:
            status = os.lstat(name, dir_fd=fd)
            os.unlink(name, dir_fd=fd)
        except FileNotFoundError:
            removal.missing(name)
            return
        except IsADirectoryError:
            return
        except OSError as error:
            # The kernel refuses to unlink what something is mounted on in this namespace.
            if error.errno == errno.EBUSY and detach and _detach(fd, name):
                continue
            if error.errno not in _STAYS:
                raise
            break
        else:
            last = status.st_nlink == 1
            removal.gone(status.st_size if last else 0, inodes=int(last))
            return
    removal.keep(name)


def _rmdir(removal: _Removal, name: str) -> None:
    try:
        os.rmdir(name, dir_fd=removal.way.fd)
    except FileNotFoundError:
        return
    except OSError as error:
        if error.errno not in _STAYS:
            raise
        removal.keep(name)
    else:
        removal.gone()


def _detach(dir_fd: int, name: str) -> bool:
    """Detach the topmost mount on ``name``; umount2 takes no descriptor, so the path goes through
    /proc.
    """
    try:
        flags = syscalls.MNT_DETACH | syscalls.UMOUNT_NOFOLLOW
        syscalls.umount2(f"/proc/self/fd/{dir_fd}/{name}", flags)
    except OSError:
        return False
    return True


def tree_size(path: str) -> Size:
    """The size of the directory ``path``; links are not followed, mount roots below it are not
    counted.
    """
    measured = _Measured()
    top = os.open(path, _OPEN | os.O_CLOEXEC)
    try:
        with Descent(top) as way:
            way.down(".")
            _measure(way.frames[-1], measured)
            while way.frames:
                pending = way.frames[-1].pending
                if not pending:
                    way.up()
                elif _reach(way, pending.pop()):
                    _measure(way.frames[-1], measured)
    finally:
        os.close(top)
    return Size(measured.bytes, measured.inodes)


@attrs.define
class _Measured:
    """One measurement in progress; only files with several names are remembered."""

    bytes: int = 0
    inodes: int = 0
    linked: set[tuple[int, int]] = attrs.Factory(set)


def _reach(way: Descent, name: str) -> bool:
    try:
        way.down(name)
    except OSError as error:
        # Gone meanwhile, replaced by something else, or a mount root.
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EXDEV):
            return False
        raise
    return True


def _measure(frame: Frame, measured: _Measured) -> None:
    """Count the current directory and its files; note its directories."""
    measured.inodes += 1
    with os.scandir(frame.fd) as entries:
        for entry in entries:
            try:
                if entry.is_dir(follow_symlinks=False):
                    frame.pending.append(entry.name)
                    continue
                status = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue
            # The directory names the inode below, stat the one above: they differ where a file is
            # mounted over.
            if status.st_ino != entry.inode() or status.st_dev != frame.key[0]:
                continue
            if status.st_nlink > 1:
                key = (status.st_dev, status.st_ino)
                if key in measured.linked:
                    continue
                measured.linked.add(key)
            measured.inodes += 1
            measured.bytes += status.st_size
