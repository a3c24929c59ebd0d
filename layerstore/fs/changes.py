"""Owns what changed between two trees; it must not mount, write, or know what a store is.

There is one comparison, of a directory with a stack of directories as overlayfs merges it. A layer's
own files against its lowers say at once what the layer changed (only they are walked); a mounted
layer against its mounted parent says the same, slowly, and needs no knowledge of overlayfs.

The rules are Docker's: something is modified if its mode, owner, device, xattrs or, but for
directories, size or time differ; times within a second are the same if one has no fraction. A
directory in which something changed is modified too; of what was deleted or replaced by another
type only the top is told.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Final

import attrs

from layerstore.answers import Change, ChangeKind
from layerstore.errors import CannotCompare
from layerstore.fs import syscalls, whiteout
from layerstore.fs.archive.member import shown

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_DOWN: Final = syscalls.RESOLVE_BENEATH | syscalls.RESOLVE_NO_SYMLINKS
_SECOND: Final = 10**9


def of_layer(diff: str, lowers: Sequence[str], *, prefix: str | None = None) -> list[Change]:
    """What a layer changed: its own files, against the `diff` directories below it, nearest first.

    `prefix`: of overlayfs's xattrs, by default as this process mounts. Sorted by path; paths begin
    with `/`. Raises CannotCompare where overlayfs keeps a content elsewhere (redirect, metacopy).
    """
    return _Comparison(diff, lowers, prefix or whiteout.namespace(), whole=False).run()


def of_trees(new: str, old: str) -> list[Change]:
    """What differs between two mounted trees."""
    return _Comparison(new, [old], whiteout.namespace(), whole=True).run()


def size_of(changes: Sequence[Change], new: str) -> int:
    """Bytes of the files among what was added or modified in a tree, hard links once."""
    sizes: dict[tuple[int, int], int] = {}
    for change in changes:
        if change.kind is not ChangeKind.DELETE:
            status = os.lstat(f"{new}/{change.path}")
            if not stat.S_ISDIR(status.st_mode):
                sizes[status.st_dev, status.st_ino] = status.st_size
    return sum(sizes.values())


@attrs.frozen
class _Old:
    """What the stack has under a name: the uppermost file, and which of its trees merge there."""

    status: os.stat_result
    place: bytes
    """For the xattr calls."""
    trees: tuple[int, ...] = ()


@attrs.frozen
class _Frame:
    """A directory to compare. `whole`: nothing below shines through."""

    path: bytes
    trees: tuple[int, ...]
    whole: bool


@attrs.frozen
class _Level:
    """One directory of the stack, open."""

    tree: int
    fd: int
    xattr_whiteouts: bool


class _Comparison:
    def __init__(self, new: str, trees: Sequence[str], prefix: str, *, whole: bool) -> None:
        self._new = new
        self._trees = trees
        self._prefix = prefix
        self._whole = whole
        self._found: dict[bytes, ChangeKind] = {}

    def run(self) -> list[Change]:
        trees = tuple(range(len(self._trees)))
        pending = [_Frame(b"", trees, self._whole)]
        while pending:
            pending.extend(self._compare(pending.pop()))
        return [Change(os.fsdecode(path), kind) for path, kind in sorted(self._found.items())]

    def _add(self, path: bytes, kind: ChangeKind) -> None:
        """A change; the directories that it is in are modified by it."""
        self._found[path] = kind
        above = path.rpartition(b"/")[0]
        while above and above not in self._found:
            self._found[above] = ChangeKind.MODIFY
            above = above.rpartition(b"/")[0]

    def _compare(self, frame: _Frame) -> Iterator[_Frame]:
        with ExitStack() as stack:
            new = _open(stack, self._new, frame.path)
            marked = self._opacity(new) == b"x"
            levels = []
            for tree in frame.trees:
                fd = _open(stack, self._trees[tree], frame.path)
                levels.append(_Level(tree, fd, self._opacity(fd) == b"x"))
            there = set()
            for text in os.listdir(new):
                name = os.fsencode(text)
                path = frame.path + b"/" + name
                status = os.lstat(name, dir_fd=new)
                old = self._find(name, levels, path)
                if self._is_whiteout(new, name, status, marked):
                    if old is not None and not frame.whole:
                        self._add(path, ChangeKind.DELETE)
                    continue
                there.add(name)
                below = self._entry(new, name, path, status, old, whole=frame.whole)
                if below is not None:
                    yield below
            if frame.whole:
                self._deleted(frame.path, levels, there)

    def _entry(
        self,
        dir_fd: int,
        name: bytes,
        path: bytes,
        status: os.stat_result,
        old: _Old | None,
        *,
        whole: bool,
    ) -> _Frame | None:
        """Compare one name; the directory to go on with, if it is one."""
        place = whiteout.at(dir_fd, name)
        names = self._names(place, path)
        if old is None:
            self._add(path, ChangeKind.ADD)
        elif self._differ(place, names, status, old, path):
            self._add(path, ChangeKind.MODIFY)
        if not stat.S_ISDIR(status.st_mode):
            return None
        opaque = f"{self._prefix}opaque" in names and (
            whiteout.get(place, f"{self._prefix}opaque") == b"y"
        )
        trees = () if old is None else old.trees
        return _Frame(path, trees, whole or opaque or not trees)

    def _deleted(self, path: bytes, levels: list[_Level], there: set[bytes]) -> None:
        """What the stack has in a directory that hides it."""
        names = {os.fsencode(name) for level in levels for name in os.listdir(level.fd)}
        for name in names - there:
            full = path + b"/" + name
            if self._find(name, levels, full) is not None:
                self._add(full, ChangeKind.DELETE)

    # --- the stack, as the kernel looks a name up in it ---------------------------------------

    def _find(self, name: bytes, levels: list[_Level], path: bytes) -> _Old | None:
        first: _Old | None = None
        trees = []
        for level in levels:
            try:
                status = os.lstat(name, dir_fd=level.fd)
            except FileNotFoundError:
                continue
            if self._is_whiteout(level.fd, name, status, level.xattr_whiteouts):
                break
            place = whiteout.at(level.fd, name)
            if not stat.S_ISDIR(status.st_mode):
                first = first or _Old(status, place)
                break
            first = first or _Old(status, place)
            trees.append(level.tree)
            names = self._names(place, path)
            if f"{self._prefix}opaque" in names and (
                whiteout.get(place, f"{self._prefix}opaque") == b"y"
            ):
                break
        return None if first is None else attrs.evolve(first, trees=tuple(trees))

    def _is_whiteout(self, dir_fd: int, name: bytes, status: os.stat_result, marked: bool) -> bool:
        if whiteout.is_whiteout(status):
            return True
        if not marked or status.st_size or not stat.S_ISREG(status.st_mode):
            return False
        return whiteout.get(whiteout.at(dir_fd, name), f"{self._prefix}whiteout") is not None

    def _opacity(self, descriptor: int) -> bytes | None:
        return whiteout.get(descriptor, f"{self._prefix}opaque")

    def _names(self, place: bytes, path: bytes) -> list[str]:
        """The names of a file's xattrs, none of which may say that it is elsewhere."""
        names = whiteout.names(place)
        for name in names:
            if name.startswith(self._prefix):
                why = whiteout.ELSEWHERE.get(name.removeprefix(self._prefix))
                if why is not None:
                    raise CannotCompare(shown(path), why)
        return names

    def _differ(
        self,
        place: bytes,
        names: list[str],
        status: os.stat_result,
        old: _Old,
        path: bytes,
    ) -> bool:
        was = old.status
        if (status.st_mode, status.st_uid, status.st_gid) != (was.st_mode, was.st_uid, was.st_gid):
            return True
        if not stat.S_ISDIR(status.st_mode) and (
            (status.st_size, status.st_rdev) != (was.st_size, was.st_rdev)
            or not _same_time(status.st_mtime_ns, was.st_mtime_ns)
        ):
            return True
        mine = {name for name in names if whiteout.is_kept(name)}
        others = {name for name in self._names(old.place, path) if whiteout.is_kept(name)}
        return mine != others or any(
            whiteout.get(place, name) != whiteout.get(old.place, name) for name in mine
        )


def _open(stack: ExitStack, top: str, path: bytes) -> int:
    """A directory below `top`; closed with the stack."""
    root = os.open(top, _DIRECTORY)
    try:
        fd = syscalls.openat2(root, path.lstrip(b"/") or b".", _DIRECTORY, resolve=_DOWN)
    finally:
        os.close(root)
    stack.callback(os.close, fd)
    return fd


def _same_time(new: int, old: int) -> bool:
    if new == old:
        return True
    return new // _SECOND == old // _SECOND and 0 in (new % _SECOND, old % _SECOND)
