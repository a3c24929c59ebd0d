"""Owns where orphans are set aside, and how to reach tree and quarantine by one mount; it must not move anything.

In Docker's tree it is `.layerstore-orphans` in the directory of the layers, which dockerd never lists.
Of containers/storage everything below the graph root is out of the question: its `gc` and `check`
delete what they do not know.

Both programs mount the directory of their layers upon itself, and no rename leads out of a mount. A clone
of the mount above it, which nothing is mounted upon, knows both places (open_tree(2)).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Final

import attrs

from layerstore.errors import InvalidArgument, Refused
from layerstore.fs import layout, syscalls
from layerstore.legacy.detecting import CONTAINERS_STORAGE, Found

BESIDE: Final = "layerstore-orphans"


@attrs.frozen
class Place:
    """Where a tree's orphans are set aside: everything is below `base`, by one mount."""

    base: str
    """As it is to be reached; `shown` is what it is called."""
    shown: str
    home: str
    """Relative to it, as the next."""
    quarantine: str

    @property
    def path(self) -> str:
        """The quarantine, by the name that people know it by."""
        return f"{self.shown}/{self.quarantine}"


def default(found: Found) -> str:
    """Where a tree's orphans are set aside unless somebody says otherwise."""
    if found.kind == CONTAINERS_STORAGE:
        return os.path.join(os.path.dirname(found.root), BESIDE)
    return os.path.join(found.home, layout.ORPHANS)


def chosen(found: Found, wanted: str | None) -> str:
    """The quarantine, checked: InvalidArgument where the program itself would delete it."""
    if wanted is None:
        return default(found)
    # What it leads to, also where its last name is not there yet.
    path = os.path.realpath(wanted)
    inside = found.root if found.kind == CONTAINERS_STORAGE else found.home
    if _is_below(path, inside) and path != default(found):
        raise InvalidArgument(
            f"{path} is below {inside}, and cannot be the quarantine of that tree.",
            hint="What lies there can be taken for a layer. Choose a directory beside it.",
        )
    return path


def _is_below(path: str, above: str) -> bool:
    return os.path.commonpath([path, above]) == above


@contextlib.contextmanager
def reached(found: Found, quarantine: str) -> Iterator[Place]:
    """Both places by one mount, as long as the block lasts. Raises Refused where there is none."""
    above = found.home if _is_below(quarantine, found.home) else _common(found.home, quarantine)
    inner = "" if above == found.home else os.path.relpath(found.home, above)
    descriptor = _cloned(above) if inner else -1
    try:
        base = above if descriptor < 0 else f"/proc/self/fd/{descriptor}"
        place = Place(base, above, inner, os.path.relpath(quarantine, above))
        _check(place, found.home)
        yield place
    finally:
        if descriptor >= 0:
            os.close(descriptor)


def _common(home: str, quarantine: str) -> str:
    return os.path.commonpath([home, os.path.dirname(quarantine)])


def _cloned(above: str) -> int:
    """A clone of the mount that a directory is on; -1 where this process may not have one."""
    try:
        flags = syscalls.OPEN_TREE_CLONE | os.O_CLOEXEC
        return syscalls.open_tree(syscalls.AT_FDCWD, above, flags)
    except OSError:
        return -1  # without it a rename says itself that it leads to another mount


def _check(place: Place, home: str) -> None:
    """By this way both must be what they are by their names, and on one file system.

    A clone shows what lies below a mount: what was moved there, nobody would find.
    """
    there = f"{place.base}/{place.home}" if place.home else place.base
    beside = os.path.dirname(f"{place.base}/{place.quarantine}")
    try:
        seen, real = _identity(there), _identity(home)
        same = seen == real and _identity(beside) == _identity(os.path.dirname(place.path))
    except FileNotFoundError as error:
        raise Refused(
            f"There is no directory {os.path.dirname(place.path)}.", hint="Is --quarantine right?"
        ) from error
    if not same or _identity(beside)[0] != real[0]:
        raise Refused(
            f"{place.path} is not on the file system of {home}, and nothing can be renamed to it.",
            hint="--quarantine DIR names a directory on the same one, outside of that tree.",
        )


def _identity(path: str) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino
