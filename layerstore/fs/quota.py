"""Owns project quotas: the project of a directory, the limit and the use of a project; no decisions.

A directory with a project id and the flag PROJINHERIT hands the id on to whatever is made in it
(ioctl_xfs_fsgetxattr(2)). The limit of a project is set with quotactl(2): the commands of XFS, which
the kernel translates for ext4 as well, so that one structure serves both. Where Linux has no
quotactl_fd (before 5.14), a device node for the home's file system is made for the moment of a call.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
from typing import Final

import attrs

from layerstore.fs import layout, syscalls

_GETXATTR: Final = 0x801C581F
_SETXATTR: Final = 0x401C5820
_FSXATTR: Final = struct.Struct("=IIIII8s")
_INHERIT: Final = 0x200
"""FS_XFLAG_PROJINHERIT"""

_PRJQUOTA: Final = 2
_XGETQUOTA: Final = 0x5803
_XSETQLIM: Final = 0x5804
_XGETQSTAT: Final = 0x5805
_DQBLK: Final = struct.Struct("=bbHIQQQQQQiiHHbbbbQQQiHh8s")
"""struct fs_disk_quota, linux/dqblk_xfs.h"""
_VERSION: Final = 1
_PROJECT: Final = 2
_BSOFT, _BHARD = 4, 8
_UNIT: Final = 512
_ACCOUNTED, _ENFORCED = 1 << 4, 1 << 5

_MAGIC: Final = {0x58465342: "XFS", 0xEF53: "ext4"}
_ABSENT: Final = frozenset(
    {errno.ENOSYS, errno.ESRCH, errno.ENOTTY, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOTBLK}
)
"""What the kernel says where there are no quotas (any more)."""


@attrs.frozen
class Project:
    """The project of a directory, and whether what is made in it belongs to it, too."""

    id: int
    inherits: bool


@attrs.frozen
class Usage:
    """What a project may have and has, in bytes; `limit` 0: no limit."""

    limit: int
    used: int
    inodes: int

    @property
    def free(self) -> bool:
        """Nobody has set anything for this project, and nothing belongs to it."""
        return not self.limit and not self.inodes


def project_of(path: str) -> Project | None:
    """The project of a directory; None where the file system has none, or there is no directory."""
    try:
        return Project(*_project(path)[1:])
    except OSError as error:
        if error.errno in _ABSENT | {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}:
            return None
        raise


def set_project(path: str, project: int) -> None:
    """Make a directory, and what will be made in it, belong to a project."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        flags, extent, count, _, cow, pad = _FSXATTR.unpack(_ioctl(descriptor))
        wanted = _FSXATTR.pack(flags | _INHERIT, extent, count, project, cow, pad)
        fcntl.ioctl(descriptor, _SETXATTR, wanted)
    except OSError as error:
        raise OSError(error.errno, f"no project can be set: {error.strerror}", path) from error
    finally:
        os.close(descriptor)


def _project(path: str) -> tuple[int, int, bool]:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        flags, _, _, project, _, _ = _FSXATTR.unpack(_ioctl(descriptor))
    finally:
        os.close(descriptor)
    return flags, project, bool(flags & _INHERIT)


def _ioctl(descriptor: int) -> bytes:
    answer: bytes = fcntl.ioctl(descriptor, _GETXATTR, bytes(_FSXATTR.size))
    return answer


def usage(home: str, project: int) -> Usage:
    """The limit and the use of a project on the file system of `home`."""
    buffer = bytearray(_DQBLK.size)
    try:
        _quotactl(home, _XGETQUOTA, project, buffer)
    except OSError as error:
        if error.errno == errno.ENOENT:  # nobody ever had it
            return Usage(0, 0, 0)
        raise
    fields = _DQBLK.unpack(buffer)
    hard, blocks, inodes = fields[4], fields[8], fields[9]
    return Usage(hard * _UNIT, blocks * _UNIT, inodes)


def set_limit(home: str, project: int, size: int, *, needed: bool = True) -> None:
    """Let a project have at most `size` bytes, rounded up to whole blocks; 0 ends its limit.

    Not `needed`: where there are no quotas (any more), or not for us, nothing is done.
    """
    limit = -(-size // _UNIT)
    zeros = (0,) * 18
    fields = (_VERSION, _PROJECT, _BSOFT | _BHARD, project, limit, limit, *zeros, b"")
    try:
        _quotactl(home, _XSETQLIM, project, bytearray(_DQBLK.pack(*fields)))
    except OSError as error:
        if needed or error.errno not in _ABSENT | {errno.EPERM}:
            raise


def problem(home: str) -> tuple[str, str] | None:
    """What is missing for project quotas in this home, and how to get it; None: nothing is."""
    name = _MAGIC.get(syscalls.statfs(home))
    if name is None:
        return (
            f"the file system of {home} has no project quotas",
            "XFS (mounted with pquota) and ext4 (with prjquota) have them.",
        )
    how = (
        "Mount it with the option pquota (for the root file system: rootflags=pquota)."
        if name == "XFS"
        else "Run 'tune2fs -O project,quota' while it is not mounted, and mount it with prjquota."
    )
    off = f"the {name} file system of {home} is mounted without project quotas"
    buffer = bytearray(256)
    try:
        _quotactl(home, _XGETQSTAT, 0, buffer)
        project = project_of(home)
    except OSError as error:
        if error.errno in (errno.EPERM, errno.EACCES):
            return (
                f"quotas of {home} cannot be set from here: {error.strerror}",
                "Quotas need CAP_SYS_ADMIN in the first user namespace.",
            )
        return (off, how)
    (flags,) = struct.unpack_from("=H", buffer, 2)
    if not flags & _ACCOUNTED or not flags & _ENFORCED:
        return (off, how)
    if project is None:
        return (f"the {name} file system of {home} has no project ids", how)
    if project.inherits:
        return (
            f"{home} belongs to project {project.id} itself, and hands it on to its layers",
            f"A layer cannot have its own then: 'chattr -P {home}' ends that.",
        )
    return None


def _quotactl(home: str, command: int, project: int, buffer: bytearray) -> None:
    """quotactl_fd(2), or quotactl(2) on a device node where the kernel lacks it."""
    code = command << 8 | _PRJQUOTA
    descriptor = os.open(home, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        syscalls.quotactl_fd(descriptor, code, project, buffer, path=home)
    except OSError as error:
        if error.errno != errno.ENOSYS or not _lacks_quotactl_fd():
            raise
        on_device(home, code, project, buffer)
    finally:
        os.close(descriptor)


def _lacks_quotactl_fd() -> bool:
    """Whether ENOSYS came from the kernel and not from a file system without quotas."""
    try:
        syscalls.quotactl_fd(-1, _XGETQSTAT << 8 | _PRJQUOTA, 0, bytearray(256), path="")
    except OSError as error:
        return error.errno == errno.ENOSYS
    return False


def on_device(home: str, code: int, project: int, buffer: bytearray) -> None:
    """The same call on the block device; its node is the store's own, and gone at the next open."""
    node = f"{home}/{layout.OWN}/.quota.{os.urandom(8).hex()}.tmp"
    os.mknod(node, stat.S_IFBLK | 0o600, os.stat(home).st_dev)
    try:
        syscalls.quotactl(code, node, project, buffer)
    finally:
        os.unlink(node)
