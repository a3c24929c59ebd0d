"""Owns the questions about a directory and its file system; nothing about the store in it."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from layerstore import adoption
from layerstore.doctor.checks import Check, Gravity
from layerstore.fs import files, layout, mountinfo, probe

LITTLE: Final = 0.05
"""Of the bytes or inodes of a file system."""
FEW_BYTES: Final = 256 << 20
"""More than this is enough, however small a part of the whole it is."""
FEW_INODES: Final = 20_000

_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})

_Tell = tuple[str, Callable[[probe.Capabilities], bool], str, tuple[Gravity, str, str]]
_MEANS: Final[tuple[_Tell, ...]] = (
    (
        "types of entries",
        lambda found: found.d_type,
        "work",
        (
            Gravity.PROBLEM,
            "directories do not tell the types of their entries",
            "Overlays need it. An XFS has to be made with ftype=1.",
        ),
    ),
    (
        "opaque directories",
        lambda found: found.opaque,
        "work",
        (
            Gravity.PROBLEM,
            "a directory cannot be marked as hiding what lies below it",
            "Layers that replace a directory would show the old one. In a user namespace a tmpfs "
            "needs Linux 6.6, other file systems 5.11.",
        ),
    ),
    (
        "busy uppers",
        lambda found: found.upper_probe,
        "work",
        (
            Gravity.PROBLEM,
            "the kernel does not tell whether a layer is mounted already",
            "Two mounts of one layer would destroy it, so no store can be made here. Take ext4, "
            "XFS, btrfs or tmpfs.",
        ),
    ),
    (
        "renames",
        lambda found: found.rename_noreplace,
        "work",
        (
            Gravity.PROBLEM,
            "it cannot rename without replacing",
            "A layer is published by such a rename. Take ext4, XFS, btrfs or tmpfs.",
        ),
    ),
    (
        "native diff",
        lambda found: found.native_diff,
        "an upper holds its layer's whole difference",
        (
            Gravity.NOTE,
            "an upper does not hold its layer's whole difference",
            "Differences are found by comparing, which is slower.",
        ),
    ),
    (
        "lowerdir+",
        lambda found: found.lowerdir_plus,
        "the kernel takes lowers one by one",
        (
            Gravity.NOTE,
            "the kernel takes all lowers in one page only",
            "About 128 layers can be stacked; Linux 6.7 takes 500.",
        ),
    ),
    (
        "statmount",
        lambda found: found.statmount,
        "the kernel tells of one mount",
        (Gravity.NOTE, "the kernel lacks it", "Linux 6.8 has it."),
    ),
)
"""A name, whether it is so, what is said if it is, and the gravity, words and advice if not."""


def examine(home: Path, *, is_store: bool) -> Iterator[Check]:
    """Try everything out below `home`, or below its parent where it is missing."""
    there = home if home.is_dir() else home.parent
    if not there.is_dir():
        yield Check(
            "directory",
            Gravity.PROBLEM,
            f"{there} is missing",
            "Make it first; 'layerstore init' makes only the last directory of a path.",
        )
        return
    yield _directory(home, there, is_store=is_store)
    known = adoption.read(there)
    if known is not None:
        said = f"nothing is tried out: {known.tree} is {known.owner}'s"
        yield Check("trial", Gravity.FINE, said)
        return
    scratch = there / layout.STAGING if is_store else there
    if not os.access(scratch, os.W_OK | os.X_OK):
        yield Check(
            "trial",
            Gravity.PROBLEM,
            f"{scratch} cannot be written, so nothing was tried out",
            "Ask as the user that the store belongs to: root, or behind 'layerstore unshare'.",
        )
    else:
        marks = files.uses_user_xattrs(str(there)) if is_store else None
        try:
            yield from _tried(probe.probe_home(str(there), str(scratch), userxattr=marks))
            yield _locks(scratch)
        except OSError as error:
            if error.errno not in _FULL:
                raise
            advice = "See to the space first, and ask again."
            yield Check("trial", Gravity.PROBLEM, f"{scratch}: {error.strerror}", advice)
    yield from _space(there)
    yield from _propagation(there)


def _directory(home: Path, there: Path, *, is_store: bool) -> Check:
    if is_store:
        return Check("directory", Gravity.FINE, f"{home} is a store")
    if home != there:
        return Check("directory", Gravity.FINE, f"{home} is missing; {there} was looked at")
    if any(name.name != "lost+found" for name in home.iterdir()):
        return Check(
            "directory",
            Gravity.NOTE,
            f"{home} is no store and not empty",
            "A store needs an empty directory, or one that it can make.",
        )
    return Check("directory", Gravity.FINE, f"{home} is no store yet, and empty")


def _tried(found: probe.Capabilities) -> Iterator[Check]:
    marks = "user.overlay.*" if found.userxattr else "trusted.overlay.*"
    yield Check("file system", Gravity.FINE, found.file_system)
    if not found.overlay:
        yield Check(
            "overlay",
            Gravity.PROBLEM,
            found.problem or "overlays cannot be mounted here",
            "Take a directory on ext4, XFS, btrfs or tmpfs.",
        )
        return
    yield Check("overlay", Gravity.FINE, f"two lowers and an upper were mounted, marks are {marks}")
    for name, holds, fine, bad in _MEANS:
        yield Check(name, Gravity.FINE, fine) if holds(found) else Check(name, *bad)


def _locks(scratch: Path) -> Check:
    """Whether a lock that somebody has cannot be taken: on some network file systems it can."""
    path = scratch / f"{layout.TRIAL}{os.urandom(8).hex()}.lock"
    one = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        other = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.flock(one, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return Check("locks", Gravity.FINE, "flock keeps others out")
        except OSError as error:
            said = f"flock: {error.strerror}"
        else:
            said = "flock keeps nobody out"
        finally:
            os.close(other)
    finally:
        os.close(one)
        os.unlink(path)
    return Check(
        "locks",
        Gravity.PROBLEM,
        said,
        "Two processes would take each other for dead. Take a local file system.",
    )


def _space(there: Path) -> Iterator[Check]:
    found = os.statvfs(there)
    for name, free, whole, enough in (
        ("free bytes", found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize, FEW_BYTES),
        ("free inodes", found.f_favail, found.f_files, FEW_INODES),
    ):
        if whole == 0:  # btrfs makes inodes as they are needed
            continue
        shown = _size if name == "free bytes" else str
        value = f"{shown(free)} of {shown(whole)} ({free / whole:.0%})"
        if free < LITTLE * whole and free < enough:
            advice = "'layerstore rm' frees layers; a full disk makes writes fail, whole."
            yield Check(name, Gravity.WARNING, value, advice)
        else:
            yield Check(name, Gravity.FINE, value)
    if found.f_flag & os.ST_RDONLY:
        advice = "Questions work; nothing else does until it is mounted read-write."
        yield Check("writable", Gravity.PROBLEM, "it is mounted read-only", advice)


def _size(count: int) -> str:
    return f"{count / (1 << 30):.1f} GiB"


def _propagation(there: Path) -> Iterator[Check]:
    mount = mountinfo.mount_of(str(there))
    if mount is None:
        return
    if any(tag.startswith("shared:") for tag in mount.tags):
        yield Check(
            "propagation",
            Gravity.FINE,
            f"{mount.mount_point} is shared: containers that see it see layers mounted later too",
        )
    else:
        yield Check(
            "propagation",
            Gravity.FINE,
            f"{mount.mount_point} is private: a mounted layer is seen in this namespace only",
        )
