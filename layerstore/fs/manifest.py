"""Owns what a layer's directory holds, file by file, as a text that can be kept, and the comparison with
it later; it must not decide when it is taken or where it is kept, nor change the layer.

A manifest is JSON lines, compressed with zstd: one for each file, in the order of their names, a
directory before what is in it. Of regular files it has the sha256 of the content. The same files give
the same bytes.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import stat
from collections.abc import Iterable, Iterator
from enum import StrEnum
from typing import Any, Final

import attrs

from layerstore.fs import durable, files, whiteout
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
    METADATA = "metadata"
    UNREADABLE = "unreadable"


@attrs.frozen
class Finding:
    """One file that is not as it was; `what` names the fields that differ."""

    path: str
    kind: Difference
    what: tuple[str, ...] = ()


@attrs.define(slots=True)
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
    error: str = attrs.field(default="", eq=False)
    """Why it could not be read; not kept."""


@attrs.frozen
class Written:
    """A manifest that was put in place; `digest` is `sha256:<hex>` of its bytes."""

    digest: str
    files: int
    bytes: int


# --- taken --------------------------------------------------------------------------------------


def take(directory: str, *, tolerate: bool = False) -> Iterator[Held]:
    """What is below a directory, read now, without a trace where the kernel allows that.

    OSError where it cannot be read; `tolerate`: for a file that cannot, only `error` says so.
    """
    top = files.open_quietly(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    known: dict[tuple[int, int], tuple[str, bool]] = {}
    try:
        with Descent(top, quiet=True) as way:
            way.down(".")
            stack = [("", _names(way.fd))]
            while stack:
                path, names = stack[-1]
                if not names:
                    way.up()
                    stack.pop()
                    continue
                name = names.pop()
                held = _look(way.fd, name, path + name, known, tolerate)
                yield held
                if held.kind == stat.S_IFDIR:
                    way.down(name)
                    stack.append((f"{path}{name}/", _names(way.fd)))
    finally:
        os.close(top)


def _names(descriptor: int) -> list[str]:
    return sorted(os.listdir(descriptor), key=os.fsencode, reverse=True)


def _look(
    dir_fd: int,
    name: str,
    path: str,
    known: dict[tuple[int, int], tuple[str, bool]],
    tolerate: bool,
) -> Held:
    status = os.lstat(name, dir_fd=dir_fd)
    kind, digest, zeros, error = stat.S_IFMT(status.st_mode), "", False, ""
    link = ""
    xattrs: tuple[tuple[str, str], ...] = ()
    try:
        if kind == stat.S_IFREG:
            key = (status.st_dev, status.st_ino)
            if status.st_nlink < 2 or key not in known:
                digest, zeros = _content(dir_fd, name)
                if status.st_nlink > 1:  # each name of it says the same
                    known[key] = (digest, zeros)
            else:
                digest, zeros = known[key]
        elif kind == stat.S_IFLNK:
            link = os.readlink(name, dir_fd=dir_fd)
        xattrs = _xattrs(whiteout.at(dir_fd, os.fsencode(name)))
    except OSError as failed:
        if not tolerate:
            raise
        error = failed.strerror or str(failed)
    return Held(
        path=path,
        kind=kind,
        mode=stat.S_IMODE(status.st_mode),
        uid=status.st_uid,
        gid=status.st_gid,
        size=0 if kind == stat.S_IFDIR else status.st_size,  # which depends on the file system
        mtime_ns=status.st_mtime_ns,
        sha256=digest,
        link=link,
        device=status.st_rdev,
        xattrs=xattrs,
        zeros=zeros,
        error=error,
    )


def _xattrs(place: bytes) -> tuple[tuple[str, str], ...]:
    """The content's own, and overlayfs's marks of it; not what security modules keep there."""
    ours = (f"{whiteout.TRUSTED}opaque", f"{whiteout.USER}opaque")
    names = sorted(x for x in whiteout.names(place) if whiteout.is_kept(x) or x in ours)
    return tuple((x, (whiteout.get(place, x) or b"").hex()) for x in names)


def _content(dir_fd: int, name: str) -> tuple[str, bool]:
    descriptor = files.open_quietly(name, _READ, dir_fd=dir_fd)
    try:
        digest, zeros, empty = hashlib.sha256(), True, True
        while chunk := os.read(descriptor, _CHUNK):
            digest.update(chunk)
            zeros = zeros and chunk.count(0) == len(chunk)
            empty = False
    finally:
        os.close(descriptor)
    return digest.hexdigest(), zeros and not empty


# --- as a text ----------------------------------------------------------------------------------

_FIELDS: Final = tuple(
    field.name for field in attrs.fields(Held) if field.name not in ("zeros", "error")
)


def pieces(held: Iterable[Held]) -> Iterator[bytes]:
    """The manifest of these files, in their order, piece by piece."""
    compressor = zstd().ZstdCompressor()
    yield compressor.compress(b'{"layerstore manifest": %d}\n' % VERSION)
    encode = json.JSONEncoder(separators=(",", ":")).encode
    for entry in held:
        values = [getattr(entry, field) for field in _FIELDS]
        yield compressor.compress(encode(values).encode() + b"\n")
    yield compressor.flush()


def dump(held: Iterable[Held]) -> bytes:
    """The same, whole."""
    return b"".join(pieces(held))


def write(directory: str, path: str) -> Written:
    """Take the manifest of a directory and put it at a path, whole and synced. OSError, SyncFailed."""
    digest, count, size = hashlib.sha256(), 0, 0

    def counted() -> Iterator[Held]:
        nonlocal count
        for entry in take(directory):
            count += 1
            yield entry

    # Killed in the middle it lies where an open sweeps such names.
    beside = os.path.dirname(os.path.dirname(path))
    with (
        durable.replacing(path, mode=0o600, beside=beside) as descriptor,
        open(descriptor, "wb", closefd=False) as file,
    ):
        for piece in pieces(counted()):
            digest.update(piece)
            size += file.write(piece)
    return Written(f"sha256:{digest.hexdigest()}", count, size)


def read(path: str, digest: str) -> Iterator[Held]:
    """The files of a manifest that was written; ValueError unless it has this digest. OSError."""
    with open(files.open_quietly(path, _READ), "rb") as file:
        content = file.read()
    if f"sha256:{hashlib.sha256(content).hexdigest()}" != digest:
        raise ValueError("the manifest is not the one that was recorded")
    return load(content)


def load(manifest: bytes) -> Iterator[Held]:
    """The files of a manifest, one after the other. ValueError where it is none, or damaged."""
    library = zstd()
    before: tuple[bytes, ...] = ()
    try:
        with library.open(io.BytesIO(manifest), "rb") as lines:
            head: Any = json.loads(next(lines, b""))
            if head != {"layerstore manifest": VERSION}:
                raise ValueError("the manifest is none of a version that is known")
            for line in lines:
                held = _held(json.loads(line))
                order = _order(held)
                if order <= before:
                    raise ValueError("the manifest is damaged: its entries are not in order")
                before = order
                yield held
    except (library.ZstdError, EOFError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"the manifest is damaged: {error}") from error


def _held(values: list[Any]) -> Held:
    fields = dict(zip(_FIELDS, values, strict=True))
    fields["xattrs"] = tuple((name, value) for name, value in fields["xattrs"])
    return Held(**fields)


# --- compared -----------------------------------------------------------------------------------


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
            if there.error:
                yield Finding(was.path, Difference.UNREADABLE, (there.error,))
            elif was != there:
                yield _judged(was, there)
            was, there = next(left, None), next(right, None)


_CONTENT: Final = frozenset({"kind", "size", "sha256", "link", "device"})


def _judged(was: Held, now: Held) -> Finding:
    what = tuple(field for field in _FIELDS if getattr(was, field) != getattr(now, field))
    kind = Difference.METADATA if _CONTENT.isdisjoint(what) else Difference.CHANGED
    if was.kind == now.kind == stat.S_IFREG and "sha256" in what:
        if now.size < was.size:
            kind = Difference.SHORT
        elif now.zeros:
            kind = Difference.ZEROED
    return Finding(was.path, kind, what)
