"""Owns finding out what this kernel and file system can do, by doing it; it must not decide what
the store does then.

Nothing is concluded from version numbers. Every probe uses the mount options that the store uses,
so that the answer is about the store's mounts, whatever the module's parameters say.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable
from typing import Final

import attrs

from layerstore.fs import layout, namespaces, syscalls
from layerstore.fs.mount import (
    OverlayOptions,
    Unmounted,
    has_lowerdir_plus,
    mount_overlay,
    overlay_parameters,
    unmount,
)
from layerstore.fs.mountinfo import mount_id
from layerstore.fs.tree import remove
from layerstore.fs.upper import upper_is_free

FILE_SYSTEMS = {
    0x01021997: "9p",
    0x61756673: "aufs",
    0xCA451A4E: "bcachefs",
    0x9123683E: "btrfs",
    0x00C36400: "ceph",
    0xFF534D42: "cifs",
    0x28CD3D45: "cramfs",
    0x0000F15F: "ecryptfs",
    0xE0F5E1E2: "erofs",
    0x2011BAB0: "exfat",
    0x0000EF53: "extfs",
    0xF2F52010: "f2fs",
    0x65735546: "fuse",
    0x47504653: "gpfs",
    0x000072B6: "jffs2",
    0x3153464A: "jfs",
    0x00004D44: "msdos",
    0x00006969: "nfs",
    0x5346544E: "ntfs",
    0x794C7630: "overlayfs",
    0x858458F6: "ramfs",
    0x52654973: "reiserfs",
    0x0000517B: "smb",
    0xFE534D42: "smb2",
    0x73717368: "squashfs",
    0x01021994: "tmpfs",
    0xA501FCF5: "vxfs",
    0x58465342: "xfs",
    0x2FC12FC1: "zfs",
}

_REMOTE = "the kernel takes no upper directory on a file system whose files change elsewhere"
_STACKED = "it is itself made of other file systems, and does not stack"
_READ_ONLY = "it is read-only"
_NO_MARKS = "it has no extended attributes, device nodes or owners, which layers are made of"
UNFIT = {
    "9p": _REMOTE,
    "aufs": _STACKED,
    "ceph": _REMOTE,
    "cifs": _REMOTE,
    "cramfs": _READ_ONLY,
    "ecryptfs": _STACKED,
    "erofs": _READ_ONLY,
    "exfat": _NO_MARKS,
    "fuse": "most of what FUSE serves cannot rename with whiteouts",
    "gpfs": _REMOTE,
    "msdos": _NO_MARKS,
    "nfs": _REMOTE,
    "ntfs": _NO_MARKS,
    "overlayfs": _STACKED,
    "ramfs": "its files have no handles or attributes",
    "smb": _REMOTE,
    "smb2": _REMOTE,
    "squashfs": _READ_ONLY,
    "zfs": "OpenZFS can since 2.2",
}
"""Why a file system is known not to carry overlays; said where a trial failed, which decides."""


@attrs.frozen
class Capabilities:
    """What a store in one place can rely on.

    ``overlay``: two lowers and an upper mount. ``d_type``: directories tell the type of their
    entries. ``upper_probe``: an upper that is mounted is reported as busy, and as free afterwards.
    ``user_namespace``: found out in one, so for whoever is in one. ``userxattr``: the marks tried
    were ``user.overlay.*``. ``opaque``: a directory that is marked hides what lies below it.
    ``native_diff``: an upper holds its layer's whole difference. ``problem``: the one sentence why
    this file system cannot carry a store.
    """

    file_system: str
    magic: int
    overlay: bool
    d_type: bool
    lowerdir_plus: bool
    statmount: bool
    upper_probe: bool
    rename_noreplace: bool
    native_diff: bool
    user_namespace: bool
    userxattr: bool
    opaque: bool
    kernel: str
    parameters: dict[str, str]
    problem: str | None


@attrs.define
class _Overlay:
    """What the trial mounts showed; ``reason`` is the kernel's, where the first of them failed."""

    works: bool = False
    opaque: bool = False
    busy_seen: bool = False
    native_diff: bool = False
    reason: str = ""


def probe_home(home: str, scratch: str, *, userxattr: bool | None = None) -> Capabilities:
    """Try everything out in a directory of its own below ``scratch``, on the file system of
    ``home``.

    ``userxattr``: which marks to try; by default those of this user namespace. A missing capability
    is a False; OSError only if ``scratch`` cannot be written.
    """
    inside = namespaces.in_user_namespace()
    userxattr = inside if userxattr is None else userxattr
    name = f"{layout.TRIAL}{os.urandom(8).hex()}"
    place = f"{scratch}/{name}"
    os.mkdir(place, 0o700)
    try:
        magic = syscalls.statfs(home)
        file_system = FILE_SYSTEMS.get(magic, f"unknown (0x{magic:x})")
        d_type = _d_type(place)
        noreplace = _answers(lambda: _rename_noreplace(place))
        # Last, because they leave the most behind; and first of all they load the module.
        overlay = _try_overlay(place, userxattr=userxattr)
        return Capabilities(
            file_system=file_system,
            magic=magic,
            overlay=overlay.works,
            d_type=d_type,
            lowerdir_plus=_answers(has_lowerdir_plus),
            statmount=_answers(lambda: bool(syscalls.statmount(mount_id(place)).mount_point)),
            upper_probe=overlay.busy_seen,
            rename_noreplace=noreplace,
            native_diff=overlay.native_diff,
            user_namespace=inside,
            userxattr=userxattr,
            opaque=overlay.opaque,
            kernel=os.uname().release,
            parameters=overlay_parameters(),
            problem=_problem(file_system, overlay, d_type=d_type, noreplace=noreplace),
        )
    finally:
        clear(scratch, name)


def clear(scratch: str, name: str) -> None:
    """Remove a directory that was tried in, also one that a killed process left mounted."""
    with contextlib.suppress(OSError):
        while unmount(f"{scratch}/{name}/merged", wait=0) is not Unmounted.NOT_MOUNTED:
            pass
    remove(f"{scratch}/{name}")


def _problem(file_system: str, overlay: _Overlay, *, d_type: bool, noreplace: bool) -> str | None:
    if not d_type:
        return f"{file_system} does not tell the types of directory entries, which overlays need"
    if not overlay.works:
        known = f" ({UNFIT[file_system]})" if file_system in UNFIT else ""
        return f"overlays cannot be mounted on {file_system}: {overlay.reason}{known}"
    if not overlay.opaque:
        return f"directories on {file_system} cannot be marked as hiding what lies below them"
    if not noreplace:
        return f"{file_system} cannot rename without replacing, which publishing a layer needs"
    if not overlay.busy_seen:
        return f"on {file_system} the kernel does not tell whether a layer is already mounted"
    return None


TROUBLE: Final = frozenset(
    getattr(errno, name)
    for name in (
        *("EIO", "ENOSPC", "EDQUOT", "EMFILE", "ENFILE"),
        *("ENOMEM", "EINTR", "EBUSY", "ESTALE", "EROFS"),
    )
)
"""Errors that tell of this moment, and not of what kernel and file system can do."""


def _answers(question: Callable[[], bool]) -> bool:
    """The answer, where an error means no; one that only tells of this moment is raised."""
    try:
        return question()
    except OSError as error:
        if error.errno in TROUBLE:
            raise
        return False


def _d_type(place: str) -> bool:
    """Whether getdents64 gives real types; os.scandir hides it, because it asks stat where they are
    unknown.
    """
    os.makedirs(f"{place}/types/directory")
    with open(f"{place}/types/file", "xb"):
        pass
    fd = os.open(f"{place}/types", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        seen = syscalls.getdents64(fd)
    finally:
        os.close(fd)
    return all(kind != syscalls.DT_UNKNOWN for _, kind in seen)


def _rename_noreplace(place: str) -> bool:
    """Whether it renames to a free name, and refuses a taken one."""
    for name in ("one", "two"):
        os.mkdir(f"{place}/{name}")
    at, flags = syscalls.AT_FDCWD, syscalls.RENAME_NOREPLACE
    syscalls.renameat2(at, f"{place}/one", at, f"{place}/three", flags)
    try:
        syscalls.renameat2(at, f"{place}/two", at, f"{place}/three", flags)
    except OSError as error:
        if error.errno in TROUBLE:
            raise
        return error.errno == errno.EEXIST
    return False


def _try_overlay(place: str, *, userxattr: bool) -> _Overlay:
    """Mount two lowers and an upper; ask whether the upper is busy; look what a copy-up and a
    rename leave in it.
    """
    result = _Overlay()
    upper, merged, asking = (f"{place}/{name}" for name in ("upper", "merged", "asking"))
    for name in ("l1/d", "l1/d1", "l2/d", "upper", "work", "merged", "asking"):
        os.makedirs(f"{place}/{name}")
    prefix = "user.overlay." if userxattr else "trusted.overlay."
    marked = _answers(lambda: _mark_opaque(place, prefix))
    lowers = (f"{place}/l2", f"{place}/l1")
    options = OverlayOptions(lowers, upper, f"{place}/work", userxattr=userxattr)
    try:
        mount_overlay(merged, options, home=place)
    except OSError as error:
        if error.errno in TROUBLE:
            raise
        result.reason = error.strerror or str(error)
        return result
    try:
        result.works = _answers(lambda: _merges(merged))
        result.opaque = marked and _answers(lambda: os.listdir(f"{merged}/d") == ["above"])
        busy = _answers(lambda: not upper_is_free(upper, asking, wait=0))
        result.native_diff = marked and _answers(lambda: _diff_is_native(upper, merged, prefix))
    finally:
        unmount(merged)
        # A mount namespace that was made meanwhile has a copy of the mount, which this takes away.
        with contextlib.suppress(OSError):
            os.rmdir(merged)
    result.busy_seen = busy and _answers(lambda: upper_is_free(upper, asking))
    if not result.works:
        result.reason = "what is mounted does not show the layers"
    return result


def _mark_opaque(place: str, prefix: str) -> bool:
    for name in ("l1/d/below", "l2/d/above"):
        with open(f"{place}/{name}", "xb"):
            pass
    os.setxattr(f"{place}/l2/d", f"{prefix}opaque", b"y")
    return True


def _merges(merged: str) -> bool:
    return sorted(os.listdir(merged)) == ["d", "d1"]


def _diff_is_native(upper: str, merged: str, prefix: str) -> bool:
    """Whether an upper can be archived as it is.

    Not if the copy of a directory inherits the opaque mark of the layer below (Linux before 4.8),
    and not if a renamed directory is only a reference to its old name.
    """
    with open(f"{merged}/d/file", "xb"):
        pass
    if _attribute(f"{upper}/d", f"{prefix}opaque") == b"y":
        return False
    try:
        os.rename(f"{merged}/d1", f"{merged}/d2")
    except OSError as error:
        return error.errno == errno.EXDEV
    return not _attribute(f"{upper}/d2", f"{prefix}redirect")


def _attribute(path: str, name: str) -> bytes:
    try:
        return os.getxattr(path, name)
    except OSError as error:
        if error.errno == errno.ENODATA:
            return b""
        raise
