"""Owns how overlayfs says "deleted" and "hides what is below"; it must not walk trees or know tar.

A whiteout is a character device 0/0. An opaque directory has the xattr `overlay.opaque` = `y`,
under `trusted.`, or under `user.` for mounts made in a user namespace with `userxattr`. Since
Linux 6.7 the value `x` says that an empty file below with the xattr `overlay.whiteout` is a
whiteout too. https://docs.kernel.org/filesystems/overlayfs.html
"""

from __future__ import annotations

import errno
import os
import stat
from typing import Final

from layerstore.fs.namespaces import in_user_namespace

PREFIX: Final = b".wh."
"""How the name of an entry begins that stands for a whiteout in an archive."""
META: Final = b".wh..wh."
OPAQUE: Final = b".wh..wh..opq"

TRUSTED: Final = "trusted.overlay."
USER: Final = "user.overlay."
ELSEWHERE: Final = {
    "redirect": "overlayfs renamed it and says so in an xattr (redirect_dir)",
    "metacopy": "overlayfs left its content in the layer below (metacopy)",
}
"""Of overlayfs's xattrs, those without which a file is not what it seems, and why."""
_KEPT: Final = ("user.", "security.capability", "security.ima")
_NO_XATTR: Final = frozenset({errno.ENODATA, errno.EOPNOTSUPP})


def namespace(user: bool | None = None) -> str:
    """How the names of overlayfs's xattrs begin: `user.` or not, by default as this process mounts."""
    return USER if (in_user_namespace() if user is None else user) else TRUSTED


def is_whiteout(status: os.stat_result) -> bool:
    """Whether a file is a whiteout of the first kind: a character device 0/0."""
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def make_whiteout(dir_fd: int, name: bytes, *, uid: int, gid: int) -> None:
    """Make a whiteout of `name` in a directory, where nothing of that name is."""
    os.mknod(name, stat.S_IFCHR, 0, dir_fd=dir_fd)
    os.chown(name, uid, gid, dir_fd=dir_fd, follow_symlinks=False)


def set_opaque(descriptor: int, prefix: str) -> None:
    """Have a directory hide what is below it."""
    os.setxattr(descriptor, f"{prefix}opaque", b"y")


def is_kept(name: str) -> bool:
    """Whether an xattr belongs to a layer's content: it is archived and compared."""
    return name.startswith(_KEPT) and not name.startswith(USER)


def get(descriptor: int | str | bytes, name: str) -> bytes | None:
    """An xattr, of a path's last symbolic link itself; None if it is not there."""
    try:
        if isinstance(descriptor, int):
            return os.getxattr(descriptor, name)
        return os.getxattr(descriptor, name, follow_symlinks=False)
    except OSError as error:
        if error.errno in _NO_XATTR:
            return None
        raise


def names(descriptor: int | str | bytes) -> list[str]:
    """The names of a file's xattrs, of a path's last symbolic link itself."""
    try:
        if isinstance(descriptor, int):
            return os.listxattr(descriptor)
        return os.listxattr(descriptor, follow_symlinks=False)
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP:
            return []
        raise


def at(dir_fd: int, name: bytes) -> bytes:
    """A path to `name` in a directory for the xattr calls, which take no directory descriptor."""
    return b"/proc/self/fd/%d/%s" % (dir_fd, name)
