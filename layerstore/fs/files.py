"""Owns reading the small files of the layout; it must not write, nor trust what it reads."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import stat
from collections.abc import Iterable
from typing import Any

from layerstore.errors import LayerDamaged, LayerstoreError
from layerstore.fs import layout


def open_quietly(path: str, flags: int, *, dir_fd: int | None = None) -> int:
    """open(2), without touching the time of access where that is allowed: to root, and to the owner."""
    try:
        return os.open(path, flags | os.O_NOATIME, dir_fd=dir_fd)
    except PermissionError:
        return os.open(path, flags, dir_fd=dir_fd)


def unreadable(path: str | os.PathLike[str], error: OSError) -> LayerstoreError:
    """What to raise where a file of the store is neither there nor missing, for this process."""
    return LayerstoreError(
        f"{os.fspath(path)} cannot be read: {error.strerror}.",
        hint="The path, or what this user may do there, is in the way; the store may be whole.",
    )


def is_there(path: str) -> bool:
    """Whether there is anything of this name. A disk that fails is an error, and not an absence."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def is_directory(path: str) -> bool:
    """Whether there is a directory of this name; with the same care."""
    try:
        return stat.S_ISDIR(os.stat(path).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False


def read_symlink(path: str) -> str:
    """What a symbolic link reads; empty if it is none, or cannot be read."""
    try:
        return os.readlink(path)
    except OSError:
        return ""


def uses_user_xattrs(home: str) -> bool:
    """Whether the layers of this store are marked by `user.overlay.*` and not `trusted.overlay.*`."""
    return os.path.lexists(f"{home}/{layout.USER_XATTRS}")


NOT_A_FILE = "<not a regular file>"
NOT_A_LINK = "<not a symbolic link>"


def _read_small(path: str) -> str | None:
    """The text of a small file of the layout; None if it is absent."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):
            return NOT_A_FILE
        raise
    try:
        return os.read(descriptor, 1 << 16).decode(errors="replace")
    except IsADirectoryError:
        return NOT_A_FILE
    finally:
        os.close(descriptor)


def read_link(home: str, layer: str) -> str | None:
    """The text of `<layer>/link`, unchecked; None if it is absent."""
    return _read_small(f"{home}/{layout.link_file(layer)}")


def read_lower(home: str, layer: str) -> str | None:
    """The text of `<layer>/lower`, unchecked; None if it is absent."""
    return _read_small(f"{home}/{layout.lower_file(layer)}")


def verify(home: str, layer: str, link: str, lower: str) -> None:
    """Raise LayerDamaged, saying which file and how, unless `link` and `lower` read as expected."""
    found = read_link(home, layer)
    if found != link:
        raise LayerDamaged(layer, difference("link", found, link))
    text = read_lower(home, layer)
    if (text or "") != lower or (text is not None) != bool(lower):
        raise LayerDamaged(layer, difference("lower", text, lower))


def verify_chain(
    home: str,
    layer: str,
    link: str,
    lower: str,
    chain: Iterable[tuple[str, str]],
    *,
    writable: bool = True,
) -> None:
    """The same, also unless its directories are there, and each link leads to its layer: `chain` pairs them.

    `writable`: unless it has children, it is to be an upper, and needs its `work`.
    """
    verify(home, layer, link, lower)
    if not _is_own_directory(f"{home}/{layout.diff(layer)}"):
        raise LayerDamaged(layer, "its diff directory is missing")
    # A layer that has children is mounted without it.
    writable = writable and bool(lower) and not is_there(f"{home}/{layout.committed(layer)}")
    if writable and not _is_own_directory(f"{home}/{layout.work(layer)}"):
        raise LayerDamaged(layer, "its work directory is missing")
    for part, below in chain:
        name = layout.short_link(part)
        try:
            target = os.readlink(f"{home}/{name}")
        except OSError as error:
            raise LayerDamaged(
                layer, f"{name}, the link to {below}, cannot be read ({error.strerror})"
            ) from error
        if target != layout.link_target(below):
            raise LayerDamaged(
                layer, f"{name} leads to {target!r} instead of {layout.link_target(below)!r}"
            )
        if below != layer and not _is_own_directory(f"{home}/{layout.diff(below)}"):
            raise LayerDamaged(layer, f"{layout.diff(below)} is no directory")


def _is_own_directory(path: str) -> bool:
    """A directory in its place, and no link to another one."""
    try:
        return stat.S_ISDIR(os.lstat(path).st_mode)
    except OSError:
        return False


def difference(name: str, found: str | None, wanted: str) -> str:
    if found is None:
        return f"its {name} file is missing"
    if not found:
        return f"its {name} file is empty"
    if not wanted:
        return f"it has a {name} file, and the index knows no parent"
    return f"its {name} file reads {found[:60]!r} instead of {wanted[:60]!r}"


def read_applied(home: str, operation: str) -> dict[str, Any] | None:
    """What an apply wrote down about its archive: `size`, `inodes`, `diff_id`, `empty`; None: gone."""
    for place in (layout.staging(operation), layout.trash(operation)):
        text = _read_small(f"{home}/{layout.applied(place)}")
        if text is not None:
            with contextlib.suppress(ValueError):  # what a power cut left of it
                found = json.loads(text)
                if isinstance(found, dict):
                    return found
    return None


def is_empty(directory: str) -> bool:
    """Whether nothing is in a directory, or it is not there."""
    try:
        with os.scandir(directory) as entries:
            return next(entries, None) is None
    except FileNotFoundError:
        return True


def is_applied(home: str, operation: str, layer: str) -> bool:
    """Whether a layer, which was empty, has what the apply staged for it."""
    if is_there(f"{home}/{layout.diff(layout.staging(operation))}"):
        return False
    if not is_empty(f"{home}/{layout.diff(layer)}"):
        return True
    found = read_applied(home, operation)
    return found is not None and bool(found.get("empty"))
