"""Owns what a layer's directory holds, file by file, as a text that can be kept, and the comparison with
it later; it must not decide when it is taken or where it is kept, nor write to the layer.

A manifest is JSON lines, compressed with zstd: one for each file, in the order of their names, a
directory before what is in it. Of regular files it has the sha256 of the content.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterable, Iterator
from enum import StrEnum
from itertools import pairwise
from typing import Any, Final

import attrs

from layerstore.fs import whiteout
from layerstore.fs.archive.source import zstd
from layerstore.fs.tree import Descent

_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_CHUNK: Final = 1 << 18
VERSION: Final = 1


class Difference(StrEnum):
    MISSING = "missing"
    EXTRA = "extra"
    SHORT = "short"
    ZEROED = "zeroed"
    CHANGED = "changed"


@attrs.frozen
class Finding:
    """One file that is not as it was; `what` names the fields that differ."""

    path: str
    kind: Difference
    what: tuple[str, ...] = ()


@attrs.frozen
class Held:
    """One file. `kind`: the file type bits of its mode; `link`: where a symbolic link leads."""

    path: str
    kind: int
    mode: int
    uid: int
    gid: int
    size: int
    mtime_ns: int
    sha256: str = ""
    link: str = ""
    device: int = 0
    xattrs: tuple[tuple[str, str], ...] = ()
    zeros: bool = attrs.field(default=False, eq=False)
    """Whether it has content, and that is nothing but zeros; not kept."""


def take(directory: str) -> Iterator[Held]:
    """What is below a directory, read now. OSError where it cannot be read."""
    top = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        with Descent(top) as way:
            way.down(".")
            stack = [("", _names(way.fd))]
            while stack:
                path, names = stack[-1]
                if not names:
                    way.up()
                    stack.pop()
                    continue
                name = names.pop()
                held = _look(way.fd, name, path + name)
                yield held
                if held.kind == stat.S_IFDIR:
                    way.down(name)
                    stack.append((f"{path}{name}/", _names(way.fd)))
    finally:
        os.close(top)


def _names(descriptor: int) -> list[str]:
    return sorted(os.listdir(descriptor), key=os.fsencode, reverse=True)


def _look(dir_fd: int, name: str, path: str) -> Held:
    place = whiteout.at(dir_fd, os.fsencode(name))
    status = os.lstat(name, dir_fd=dir_fd)
    kind, digest, zeros = stat.S_IFMT(status.st_mode), "", False
    if kind == stat.S_IFREG:
        digest, zeros = _content(dir_fd, name)
    return Held(
        path=path,
        kind=kind,
        mode=stat.S_IMODE(status.st_mode),
        uid=status.st_uid,
        gid=status.st_gid,
        size=0 if kind == stat.S_IFDIR else status.st_size,  # which depends on the file system
        mtime_ns=status.st_mtime_ns,
        sha256=digest,
        link=os.readlink(name, dir_fd=dir_fd) if kind == stat.S_IFLNK else "",
        device=status.st_rdev,
        xattrs=tuple((x, (whiteout.get(place, x) or b"").hex()) for x in sorted(_xattrs(place))),
        zeros=zeros,
    )


def _xattrs(place: bytes) -> Iterable[str]:
    """The content's own, and overlayfs's marks of it; not what security modules keep there."""
    ours = (whiteout.TRUSTED, whiteout.USER)
    return (x for x in whiteout.names(place) if whiteout.is_kept(x) or x.startswith(ours))


def _content(dir_fd: int, name: str) -> tuple[str, bool]:
    descriptor = os.open(name, _READ, dir_fd=dir_fd)
    try:
        digest, zeros, empty = hashlib.sha256(), True, True
        while chunk := os.read(descriptor, _CHUNK):
            digest.update(chunk)
            zeros = zeros and chunk.count(0) == len(chunk)
            empty = False
    finally:
        os.close(descriptor)
    return digest.hexdigest(), zeros and not empty


# --- as a text --------------------------------------------------------------------------------

_FIELDS: Final = tuple(field.name for field in attrs.fields(Held) if field.name != "zeros")


def dump(held: Iterable[Held]) -> bytes:
    """The manifest of these files, in their order."""
    compressor = zstd().ZstdCompressor()
    parts = [compressor.compress(b'{"layerstore manifest": %d}\n' % VERSION)]
    for entry in held:
        values = [getattr(entry, field) for field in _FIELDS]
        parts.append(compressor.compress(json.dumps(values).encode() + b"\n"))
    parts.append(compressor.flush())
    return b"".join(parts)


def load(manifest: bytes) -> Iterator[Held]:
    """The files of a manifest. ValueError if it is none, or damaged."""
    library = zstd()
    try:
        lines = library.decompress(manifest).splitlines()
        head: Any = json.loads(lines[0])
        if head != {"layerstore manifest": VERSION}:
            raise ValueError("it is no manifest of a version that is known")
        found = [_held(json.loads(line)) for line in lines[1:]]
    except (library.ZstdError, IndexError, TypeError) as error:
        raise ValueError(f"the manifest is damaged: {error}") from error
    if any(_order(one) >= _order(two) for one, two in pairwise(found)):
        raise ValueError("the manifest is damaged: its entries are not in order")
    return iter(found)


def _held(values: list[Any]) -> Held:
    fields = dict(zip(_FIELDS, values, strict=True))
    fields["xattrs"] = tuple((name, value) for name, value in fields["xattrs"])
    return Held(**fields)


# --- compared ---------------------------------------------------------------------------------


def _order(held: Held) -> tuple[bytes, ...]:
    return tuple(os.fsencode(held.path).split(b"/"))


def compare(kept: Iterable[Held], now: Iterable[Held]) -> Iterator[Finding]:
    """Where what is there now is not what was kept, in the order of the paths."""
    left, right = iter(kept), iter(now)
    was, there = next(left, None), next(right, None)
    while was is not None or there is not None:
        if there is None or (was is not None and _order(was) < _order(there)):
            assert was is not None
            yield Finding(was.path, Difference.MISSING)
            was = next(left, None)
        elif was is None or _order(there) < _order(was):
            yield Finding(there.path, Difference.EXTRA)
            there = next(right, None)
        else:
            if was != there:
                yield _judged(was, there)
            was, there = next(left, None), next(right, None)


def _judged(was: Held, now: Held) -> Finding:
    what = tuple(field for field in _FIELDS if getattr(was, field) != getattr(now, field))
    kind = Difference.CHANGED
    if was.kind == now.kind == stat.S_IFREG and "sha256" in what:
        if now.size < was.size:
            kind = Difference.SHORT
        elif now.zeros:
            kind = Difference.ZEROED
    return Finding(was.path, kind, what)
