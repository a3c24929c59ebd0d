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

import attrs

from layerstore.fs import layout, syscalls
from layerstore.fs.mount import (
    OverlayOptions,
    Unmounted,
    has_lowerdir_plus,
    mount_overlay,
    overlay_parameters,
    unmount,
)
from layerstore.fs.mountinfo import mount_id
from layerstore.fs.tree import remove_tree
from layerstore.fs.upper import upper_is_free

FILE_SYSTEMS = {
    0x61756673: "aufs",
    0x9123683E: "btrfs",
    0x28CD3D45: "cramfs",
    0x0000F15F: "ecryptfs",
    0x0000EF53: "extfs",
    0xF2F52010: "f2fs",
    0x65735546: "fuse",
    0x47504653: "gpfs",
    0x000072B6: "jffs2",
    0x3153464A: "jfs",
    0x00006969: "nfs",
    0x794C7630: "overlayfs",
    0x858458F6: "ramfs",
    0x52654973: "reiserfs",
    0x0000517B: "smb",
    0x73717368: "squashfs",
    0x01021994: "tmpfs",
    0xA501FCF5: "vxfs",
    0x58465342: "xfs",
    0x2FC12FC1: "zfs",
}

_OPAQUE = "trusted.overlay.opaque"
_REDIRECT = "trusted.overlay.redirect"


@attrs.frozen
class Capabilities:
    """What a store in one place can rely on.

    ``overlay``: two lowers and an upper mount. ``d_type``: directories tell the type of their
    entries. ``upper_probe``: an upper that is mounted is reported as busy, and as free afterwards.
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
    kernel: str
    parameters: dict[str, str]
    problem: str | None


@attrs.define
class _Overlay:
    """What the trial mounts showed; ``reason`` is the kernel's, where the first of them failed."""

    works: bool = False
    busy_seen: bool = False
    native_diff: bool = False
    reason: str = ""


def probe_home(home: str, scratch: str) -> Capabilities:
    """Try everything out in a directory of its own below ``scratch``, on the file system of
    ``home``.

    A missing capability is a False; OSError only if ``scratch`` cannot be written.
    """
    name = f"{layout.TRIAL}{os.urandom(8).hex()}"
    place = f"{scratch}/{name}"
    os.mkdir(place, 0o700)
    try:
        magic = syscalls.statfs(home)
        file_system = FILE_SYSTEMS.get(magic, f"unknown (0x{magic:x})")
        d_type = _d_type(place)
        noreplace = _answers(lambda: _rename_noreplace(place))
        # Last, because they leave the most behind; and first of all they load the module.
        overlay = _try_overlay(place)
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
            kernel=os.uname().release,
            parameters=overlay_parameters(),
            problem=_problem(file_system, overlay, d_type=d_type, noreplace=noreplace),
        )
    finally:
        clear(scratch, name)


def clear(scratch: str, name: str) -> None:
    """Remove a directory that was tried in, also one that a killed process left mounted."""
    while _answers(
        lambda: unmount(f"{scratch}/{name}/merged", wait=0) is not Unmounted.NOT_MOUNTED
    ):
        pass
    fd = os.open(scratch, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        remove_tree(fd, name)
    finally:
        os.close(fd)


def _problem(file_system: str, overlay: _Overlay, *, d_type: bool, noreplace: bool) -> str | None:
    if not d_type:
        return f"{file_system} does not tell the types of directory entries, which overlays need"
    if not overlay.works:
        return f"overlays cannot be mounted on {file_system}: {overlay.reason}"
    if not noreplace:
        return f"{file_system} cannot rename without replacing, which publishing a layer needs"
    if not overlay.busy_seen:
        return f"on {file_system} the kernel does not tell whether a layer is already mounted"
    return None


def _answers(question: Callable[[], bool]) -> bool:
    """The answer, where an error means no."""
    try:
        return question()
    except OSError:
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
        return error.errno == errno.EEXIST
    return False


def _try_overlay(place: str) -> _Overlay:
    """Mount two lowers and an upper; ask whether the upper is busy; look what a copy-up and a
    rename leave in it.
    """
    result = _Overlay()
    upper, merged, asking = (f"{place}/{name}" for name in ("upper", "merged", "asking"))
    for name in ("l1/d", "l1/d1", "l2/d", "upper", "work", "merged", "asking"):
        os.makedirs(f"{place}/{name}")
    marked = _answers(lambda: _mark_opaque(f"{place}/l2/d"))
    options = OverlayOptions((f"{place}/l2", f"{place}/l1"), upper, f"{place}/work")
    try:
        mount_overlay(merged, options, home=place)
    except OSError as error:
        result.reason = error.strerror or str(error)
        return result
    try:
        result.works = _answers(lambda: _merges(merged))
        busy = _answers(lambda: not upper_is_free(upper, asking, wait=0))
        result.native_diff = marked and _answers(lambda: _diff_is_native(upper, merged))
    finally:
        unmount(merged)
        # A mount namespace that was made meanwhile has a copy of the mount, which this takes away.
        with contextlib.suppress(OSError):
            os.rmdir(merged)
    result.busy_seen = busy and _answers(lambda: upper_is_free(upper, asking))
    if not result.works:
        result.reason = "what is mounted does not show the layers"
    return result


def _mark_opaque(path: str) -> bool:
    os.setxattr(path, _OPAQUE, b"y")
    return True


def _merges(merged: str) -> bool:
    return sorted(os.listdir(merged)) == ["d", "d1"]


def _diff_is_native(upper: str, merged: str) -> bool:
    """Whether an upper can be archived as it is.

    Not if the copy of a directory inherits the opaque mark of the layer below (Linux before 4.8),
    and not if a renamed directory is only a reference to its old name.
    """
    with open(f"{merged}/d/file", "xb"):
        pass
    if _attribute(f"{upper}/d", _OPAQUE) == b"y":
        return False
    try:
        os.rename(f"{merged}/d1", f"{merged}/d2")
    except OSError as error:
        return error.errno == errno.EXDEV
    return not _attribute(f"{upper}/d2", _REDIRECT)


def _attribute(path: str, name: str) -> bytes:
    try:
        return os.getxattr(path, name)
    except OSError as error:
        if error.errno == errno.ENODATA:
            return b""
        raise
