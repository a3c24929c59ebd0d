"""Owns where an entry of an archive goes: its parent, opened below one directory; it must not make
files.

The kernel resolves every parent with the directory as its root (openat2, RESOLVE_IN_ROOT), so that
neither `..` nor a symbolic link leads out of it. Entries come in the order of their directories, so
the parent stays open until an entry with another one comes.
"""

from __future__ import annotations

import os
import stat
from typing import Final

from layerstore.fs import syscalls, tree, whiteout
from layerstore.fs.archive.member import Member, bad

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
HERE: Final = _DIRECTORY | os.O_NOFOLLOW
_IN_ROOT: Final = (
    syscalls.RESOLVE_IN_ROOT | syscalls.RESOLVE_NO_XDEV | syscalls.RESOLVE_NO_MAGICLINKS
)
PLNK: Final = b".wh..wh.plnk"
"""Where AUFS kept the files that several names link to."""
_NOWHERE: Final = b"\0"
"""No parent of any entry."""
_TRIES: Final = 1000
_DOTS: Final = frozenset((b"", b".", b".."))


class Place:
    """The parent of the entry at hand: `fd`, open below `root`.

    `owner`: of the parents that the archive does not have. `freed`: bytes of files that gave way to
    later entries. `inodes`: of such parents, less those that gave way.
    """

    def __init__(self, root: int, owner: tuple[int, int], prefix: str) -> None:
        self.root = root
        self.fd = os.dup(root)
        self._owner = owner
        self._prefix = prefix
        self._parent = b""
        """As the archive has it."""
        self.freed = self.inodes = 0

    def close(self) -> None:
        os.close(self.fd)

    def stay_in(self, descriptor: int, path: bytes) -> None:
        """Take a directory as the next parent, with its descriptor."""
        os.close(self.fd)
        self.fd, self._parent = descriptor, path

    def open(self, parts: list[bytes], flags: int = 0) -> int:
        """A directory below the root; `flags` are added to those of opening it."""
        path = b"/".join(parts) or b"."
        for _ in range(_TRIES):
            try:
                return syscalls.openat2(self.root, path, _DIRECTORY | flags, resolve=_IN_ROOT)
            except BlockingIOError:
                # A rename somewhere on the machine, and the kernel cannot be sure of a "..".
                continue
        return syscalls.openat2(self.root, path, _DIRECTORY | flags, resolve=_IN_ROOT)

    def enter(self, member: Member) -> bytes | None:
        """Open the parent of an entry, and give its last component; None: it is passed over."""
        name = member.name
        parent, _, base = name.rstrip(b"/").rpartition(b"/")
        plain = base not in _DOTS and (parent or not base.startswith(whiteout.META))
        if parent == self._parent and plain:
            return base
        parts = components(name, name)
        if not parts:
            if member.kind != b"5":
                raise bad(name, "it would take the place of the root directory")
            return None
        if parts[0].startswith(whiteout.META) and parts[0] not in (PLNK, whiteout.OPAQUE):
            return None  # AUFS's own
        last = parts.pop()
        self.stay_in(self._open_or_make(name, parts), _NOWHERE if base in _DOTS else parent)
        return last

    def is_plnk(self, base: bytes) -> bool:
        """AUFS's directory at the root. It is made like any other, and goes at the end."""
        return base == PLNK and os.path.sameopenfile(self.fd, self.root)

    def _open_or_make(self, name: bytes, parts: list[bytes]) -> int:
        """The same; what is missing is made, as Docker does."""
        try:
            return self.open(parts)
        except (FileNotFoundError, NotADirectoryError):
            pass  # the second where it is a whiteout
        for count, part in enumerate(parts):
            if part.startswith(whiteout.PREFIX) and parts[0] != PLNK:
                raise bad(name, "a whiteout has nothing in it")
            descriptor = self.open(parts[:count])
            try:
                self._make_parent(descriptor, part)
            finally:
                os.close(descriptor)
        return self.open(parts)

    def _make_parent(self, dir_fd: int, name: bytes) -> None:
        try:
            os.mkdir(name, 0o700, dir_fd=dir_fd)
        except FileExistsError:
            status = os.lstat(name, dir_fd=dir_fd)
            if not whiteout.is_whiteout(status):
                return  # a directory, or a link that leads to one or nowhere: opening it tells
            os.unlink(name, dir_fd=dir_fd)
            os.mkdir(name, 0o700, dir_fd=dir_fd)
            opaque = True
        else:
            opaque = False
            self.inodes += 1
        descriptor = os.open(name, HERE, dir_fd=dir_fd)
        try:
            os.fchown(descriptor, *self._owner)
            os.fchmod(descriptor, 0o755)
            if opaque:
                whiteout.set_opaque(descriptor, self._prefix)
        finally:
            os.close(descriptor)

    def vacate(self, base: bytes) -> bool:
        """Remove what an earlier entry put there; True if that was a whiteout."""
        status = os.lstat(base, dir_fd=self.fd)
        if stat.S_ISDIR(status.st_mode):
            removed = tree.remove_tree(self.fd, os.fsdecode(base))
            self.freed += removed.bytes
            self.inodes -= removed.inodes
        else:
            os.unlink(base, dir_fd=self.fd)
            if status.st_nlink == 1:
                self.freed += status.st_size
                self.inodes -= 1
        # The open parent may have been reached through what is gone now.
        self._parent = _NOWHERE
        return whiteout.is_whiteout(status)


def components(path: bytes, name: bytes) -> list[bytes]:
    """The components of a path in the archive, which has the layer as its root."""
    parts = [part for part in path.split(b"/") if part not in (b"", b".")]
    if b".." in parts:
        raise bad(name, "its path, or that of its link, goes up by '..'")
    return parts
