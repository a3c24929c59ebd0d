"""Owns the system calls that Python lacks, one wrapper per call with the kernel's name; it must not
decide anything.

Everything that glibc exports is called by its glibc symbol, never by number, so that a preloaded
library can interpose it (fault injection does). Only ``openat2``, ``statmount``, ``listmount`` and
``quotactl_fd``, which glibc 2.36 lacks, go through ``syscall()``; their numbers are the same on every architecture.
A symbol that this libc lacks is ENOSYS, like a call that this kernel lacks: callers have one case
to handle.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Iterable
from typing import NamedTuple

# umount2(2)
MNT_DETACH = 2
UMOUNT_NOFOLLOW = 8
# mount(2)
MS_RDONLY = 1
MS_REMOUNT = 32
MS_BIND = 4096
MS_REC = 16384
MS_PRIVATE = 1 << 18
# open_tree(2)
OPEN_TREE_CLONE = 1
# fsopen(2), fsconfig(2), fsmount(2), move_mount(2)
FSOPEN_CLOEXEC = 1
FSCONFIG_SET_FLAG = 0
FSCONFIG_SET_STRING = 1
FSCONFIG_SET_PATH = 3
FSCONFIG_SET_FD = 5
FSCONFIG_CMD_CREATE = 6
FSMOUNT_CLOEXEC = 1
MOUNT_ATTR_RDONLY = 1
MOVE_MOUNT_F_EMPTY_PATH = 4
# renameat2(2)
RENAME_NOREPLACE = 1
RENAME_EXCHANGE = 2
# sync_file_range(2)
SYNC_FILE_RANGE_WRITE = 2
# unshare(2)
CLONE_FS = 0x200
CLONE_NEWNS = 0x20000
CLONE_NEWUSER = 0x1000_0000
# openat2(2)
RESOLVE_NO_XDEV = 1
RESOLVE_NO_MAGICLINKS = 2
RESOLVE_NO_SYMLINKS = 4
RESOLVE_BENEATH = 8
RESOLVE_IN_ROOT = 16
# the *at family
AT_FDCWD = -100
AT_SYMLINK_NOFOLLOW = 0x100
AT_NO_AUTOMOUNT = 0x800
AT_EMPTY_PATH = 0x1000
AT_STATX_DONT_SYNC = 0x4000
# statx(2)
STATX_BASIC_STATS = 0x7FF
STATX_BTIME = 0x800
STATX_MNT_ID = 0x1000
STATX_MNT_ID_UNIQUE = 0x4000
STATX_ATTR_MOUNT_ROOT = 0x2000
# statmount(2), listmount(2)
STATMOUNT_SB_BASIC = 0x1
STATMOUNT_MNT_BASIC = 0x2
STATMOUNT_MNT_POINT = 0x10
STATMOUNT_FS_TYPE = 0x20
LSMT_ROOT = 0xFFFF_FFFF_FFFF_FFFF
# getdents64(2)
DT_UNKNOWN = 0

_OPENAT2 = 437
_STATMOUNT = 457
_LISTMOUNT = 458
_QUOTACTL_FD = 443

_libc = ctypes.CDLL(None, use_errno=True)


class Statx(NamedTuple):
    """What statx said of a file.

    ``tells_root``: this kernel fills in ``mount_root`` (Linux 5.8). ``unique``: ``mnt_id`` is the
    64-bit one, never used twice in one boot (Linux 6.8). ``born``: nanoseconds since 1970, 0 where
    the file system does not keep it.
    """

    mount_root: bool
    tells_root: bool
    mnt_id: int
    unique: bool
    mode: int
    ino: int
    dev: int
    born: int


class Statmount(NamedTuple):
    """What statmount said of one mount: the type of its file system, where it is mounted, and the
    magic number.
    """

    fs_type: str
    mount_point: str
    magic: int


def _bytes(text: str | bytes) -> bytes:
    """A C string; a NUL inside would silently cut the path short, so it is refused."""
    raw = os.fsencode(text)
    if b"\0" in raw:
        raise ValueError(f"embedded NUL in {text!r}")
    return raw


def _call(name: str, *arguments: object, path: str | None = None, path2: str | None = None) -> int:
    """Call the glibc symbol ``name``; OSError with errno, the call's name and the paths where it
    fails.
    """
    try:
        function = getattr(_libc, name)
    except AttributeError:
        raise OSError(errno.ENOSYS, f"{name}: not in this libc", path, None, path2) from None
    result = int(function(*arguments))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{name}: {os.strerror(code)}", path, None, path2)
    return result


def _syscall(name: str, number: int, *arguments: object, path: str | bytes | None = None) -> int:
    """Call what glibc has no symbol for."""
    result = int(_raw(ctypes.c_long(number), *arguments))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{name}: {os.strerror(code)}", path)
    return result


_raw = _libc.syscall
_raw.restype = ctypes.c_long


def mount(source: str, target: str, fs_type: str, flags: int, data: str) -> None:
    """mount(2); the kernel reads one page of ``data`` and drops its last byte."""
    _call(
        "mount",
        _bytes(source),
        _bytes(target),
        _bytes(fs_type),
        ctypes.c_ulong(flags),
        _bytes(data),
        path=target,
    )


def umount2(target: str, flags: int) -> None:
    """umount2(2)."""
    _call("umount2", _bytes(target), flags, path=target)


def fsopen(fs_type: str, flags: int) -> int:
    """fsopen(2): a descriptor for a file system being configured; reading it gives the kernel's
    messages.
    """
    return _call("fsopen", _bytes(fs_type), ctypes.c_uint(flags), path=fs_type)


def fsconfig(fd: int, command: int, key: str | None, value: str | None, aux: int) -> None:
    """fsconfig(2); the kernel refuses a string of 256 bytes or more with EINVAL."""
    _call(
        "fsconfig",
        fd,
        ctypes.c_uint(command),
        None if key is None else _bytes(key),
        None if value is None else _bytes(value),
        aux,
        path=key,
    )


def fsmount(fd: int, flags: int, attributes: int) -> int:
    """fsmount(2): a descriptor for a mount that is attached nowhere yet."""
    return _call("fsmount", fd, ctypes.c_uint(flags), ctypes.c_uint(attributes))


def open_tree(dir_fd: int, path: str, flags: int) -> int:
    """open_tree(2): with OPEN_TREE_CLONE a copy of one mount, without what is mounted upon it."""
    return _call("open_tree", dir_fd, _bytes(path), ctypes.c_uint(flags), path=path)


def move_mount(from_fd: int, from_path: str, to_fd: int, to_path: str, flags: int) -> None:
    """move_mount(2)."""
    _call(
        "move_mount",
        from_fd,
        _bytes(from_path),
        to_fd,
        _bytes(to_path),
        ctypes.c_uint(flags),
        path=to_path,
    )


def renameat2(old_fd: int, old: str, new_fd: int, new: str, flags: int) -> None:
    """renameat2(2)."""
    _call(
        "renameat2",
        old_fd,
        _bytes(old),
        new_fd,
        _bytes(new),
        ctypes.c_uint(flags),
        path=old,
        path2=new,
    )


def sigset(signals: Iterable[int]) -> ctypes.Array[ctypes.c_ulong]:
    """A set of signals, as the C library has it."""
    made = (ctypes.c_ulong * (128 // ctypes.sizeof(ctypes.c_ulong)))()
    for number in signals:
        word, bit = divmod(number - 1, 8 * ctypes.sizeof(ctypes.c_ulong))
        made[word] |= 1 << bit
    return made


def pthread_sigmask(
    how: int, signals: ctypes.Array[ctypes.c_ulong]
) -> ctypes.Array[ctypes.c_ulong]:
    """pthread_sigmask(3), for the calling thread; the mask that it had.

    signal.pthread_sigmask makes an enum member of each of some sixty signals, every time.
    """
    before = sigset(())
    code = _libc.pthread_sigmask(ctypes.c_int(how), signals, before)
    if code:
        raise OSError(code, f"pthread_sigmask: {os.strerror(code)}")
    return before


def syncfs(fd: int) -> None:
    """syncfs(2); errors are those since ``fd`` was opened."""
    _call("syncfs", fd)


def sync_file_range(fd: int, flags: int, *, path: str) -> None:
    """All of a file; with SYNC_FILE_RANGE_WRITE alone, begin to write it without waiting."""
    _call("sync_file_range", fd, ctypes.c_int64(0), ctypes.c_int64(0), flags, path=path)


def unshare(flags: int) -> None:
    """unshare(2), for the calling thread."""
    _call("unshare", flags)


_STATX = struct.Struct("=I4xQ12xH2xQ16xQ16xqI44xIIQ")
"""Of struct statx: mask, attributes, mode, inode, attributes known, birth, device, mount."""
_STATX_MASK = ctypes.c_uint(STATX_BASIC_STATS | STATX_BTIME | STATX_MNT_ID | STATX_MNT_ID_UNIQUE)


def statx(path: str | int, *, dir_fd: int = AT_FDCWD) -> Statx:
    """statx(2) of a path, never following a last symbolic link or an automount, or of an open
    descriptor.

    A server of a network or FUSE file system is not asked: one that is dead would be an error, and one
    that hangs would hang this process. What is mounted where the kernel knows by itself.
    """
    flags = AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | AT_STATX_DONT_SYNC
    name = f"/proc/self/fd/{path}" if isinstance(path, int) else path
    at, text = (path, b"") if isinstance(path, int) else (dir_fd, _bytes(path))
    if isinstance(path, int):
        flags |= AT_EMPTY_PATH
    buffer = ctypes.create_string_buffer(256)
    _call("statx", at, text, flags, _STATX_MASK, buffer, path=name)
    got, attributes, mode, ino, supported, seconds, nanoseconds, major, minor, mnt_id = (
        _STATX.unpack_from(buffer)
    )
    return Statx(
        mount_root=bool(attributes & STATX_ATTR_MOUNT_ROOT),
        tells_root=bool(supported & STATX_ATTR_MOUNT_ROOT),
        mnt_id=mnt_id,
        unique=bool(got & STATX_MNT_ID_UNIQUE),
        mode=mode,
        ino=ino,
        dev=os.makedev(major, minor),
        born=seconds * 1_000_000_000 + nanoseconds if got & STATX_BTIME else 0,
    )


def statfs(path: str) -> int:
    """statfs(2), of which only the magic number of the file system is kept."""
    buffer = ctypes.create_string_buffer(256)
    _call("statfs", _bytes(path), buffer, path=path)
    return int(struct.unpack_from("@L", buffer, 0)[0]) & 0xFFFF_FFFF


def getdents64(fd: int) -> list[tuple[str, int]]:
    """getdents64(2), once: up to 32 KiB of (name, DT_…); an empty list at the end."""
    buffer = ctypes.create_string_buffer(32768)
    size = _call("getdents64", fd, buffer, ctypes.c_size_t(len(buffer)))
    entries: list[tuple[str, int]] = []
    at = 0
    while at < size:
        length, kind = struct.unpack_from("=HB", buffer, at + 16)
        name = buffer.raw[at + 19 : at + length].split(b"\0", 1)[0]
        entries.append((os.fsdecode(name), kind))
        at += length
    return entries


def openat2(dir_fd: int, path: str | bytes, flags: int, *, mode: int = 0, resolve: int = 0) -> int:
    """openat2(2); the descriptor is closed on exec."""
    how = ctypes.create_string_buffer(struct.pack("=QQQ", flags | os.O_CLOEXEC, mode, resolve), 24)
    size = ctypes.c_size_t(24)
    return _syscall("openat2", _OPENAT2, dir_fd, _bytes(path), how, size, path=path)


def statmount(mnt_id: int) -> Statmount:
    """statmount(2) of a unique mount id (Linux 6.8)."""
    mask = STATMOUNT_SB_BASIC | STATMOUNT_MNT_POINT | STATMOUNT_FS_TYPE
    request = ctypes.create_string_buffer(struct.pack("=IIQQ", 24, 0, mnt_id, mask), 24)
    buffer = ctypes.create_string_buffer(16384)
    _syscall("statmount", _STATMOUNT, request, buffer, ctypes.c_size_t(len(buffer)), 0)
    (magic,) = struct.unpack_from("=Q", buffer, 24)
    (fs_type,) = struct.unpack_from("=I", buffer, 36)
    (point,) = struct.unpack_from("=I", buffer, 108)
    # Strings lie behind the 512 bytes of the structure, each ended by a NUL.
    texts = [os.fsdecode(buffer.raw[512 + at :].split(b"\0", 1)[0]) for at in (fs_type, point)]
    return Statmount(fs_type=texts[0], mount_point=texts[1], magic=magic)


def listmount(mnt_id: int = LSMT_ROOT, *, after: int = 0, limit: int = 1024) -> list[int]:
    """listmount(2): up to ``limit`` unique ids of the mounts below one, those after ``after``
    (Linux 6.8).
    """
    request = ctypes.create_string_buffer(struct.pack("=IIQQ", 24, 0, mnt_id, after), 24)
    ids = (ctypes.c_uint64 * limit)()
    count = _syscall("listmount", _LISTMOUNT, request, ids, ctypes.c_size_t(limit), 0)
    return list(ids[:count])


def quotactl(command: int, device: str, id_: int, buffer: bytearray) -> None:
    """quotactl(2) on a block device; ``buffer`` is read or filled in, as the command has it."""
    place = (ctypes.c_char * len(buffer)).from_buffer(buffer)
    _call("quotactl", ctypes.c_int(command), _bytes(device), ctypes.c_uint(id_), place, path=device)


def quotactl_fd(fd: int, command: int, id_: int, buffer: bytearray, *, path: str) -> None:
    """quotactl_fd(2) on the file system of a descriptor (Linux 5.14)."""
    place = (ctypes.c_char * len(buffer)).from_buffer(buffer)
    number, code = ctypes.c_uint(command), ctypes.c_uint(id_)
    _syscall("quotactl_fd", _QUOTACTL_FD, fd, number, code, place, path=path)
