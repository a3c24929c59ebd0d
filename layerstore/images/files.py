"""Owns where the files of an image archive are, in a tar or in a directory; it must not know what
they are.

Nothing is ever extracted. Names are looked up in the tar's table of contents, links in it by their
text; in a directory the kernel keeps every path inside (openat2, RESOLVE_BENEATH). What the archive
was read from may change meanwhile: whoever reads a file checks its digest.
"""

from __future__ import annotations

import contextlib
import errno
import os
import posixpath
import stat
import tempfile
from collections.abc import Iterator
from typing import IO, Final, Protocol

from layerstore.errors import InvalidArchive, InvalidImage
from layerstore.fs import syscalls
from layerstore.fs.archive import Limits, Readable
from layerstore.fs.archive.contents import Place, contents
from layerstore.fs.archive.source import Source

_ENTRIES: Final = 100_000
"""Headers of the outer tar. An image has some for each layer."""
_LINKS: Final = 40
_OPEN: Final = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_COMPRESSED: Final = (b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"BZh", b"\xfd7zXZ")


class File:
    """A file of an archive: `size` bytes at `offset` of a descriptor, which it may own."""

    def __init__(self, descriptor: int, offset: int, size: int, *, own: bool) -> None:
        self._descriptor = descriptor
        self._offset = offset
        self._own = own
        self.size = size
        self.at = 0
        """How much of it was read."""

    def read(self, size: int, /) -> bytes:
        """The next bytes; empty at the end."""
        wanted = min(size, self.size - self.at)
        data = os.pread(self._descriptor, wanted, self._offset + self.at) if wanted else b""
        self.at += len(data)
        return data

    def close(self) -> None:
        if self._own:
            os.close(self._descriptor)
            self._own = False


class Files(Protocol):
    """The files of an archive, by relative paths."""

    def has(self, path: str) -> bool:
        """Whether there is such a name."""

    def open(self, path: str) -> File:
        """InvalidImage where there is no such file, or it is not to be trusted."""


def checked(path: str) -> str:
    """A path from a document, if it stays inside of the archive."""
    parts = path.split("/")
    if not path or "\0" in path or not {"", ".", ".."}.isdisjoint(parts):
        raise InvalidImage(f"The archive names a file {path!r}, which is not a path inside of it.")
    return path


class Tar:
    """The files of a tar."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        try:
            found, twice = contents(descriptor, entries=_ENTRIES)
        except InvalidArchive as error:
            raise InvalidImage(f"It is no image: {error.message}") from error
        self._places: dict[bytes, Place] = {}
        self._twice = {_plain(name) for name in twice}
        for name, place in found.items():
            plain = _plain(name)
            if plain in self._places and place.kind != b"5":
                self._twice.add(plain)
            self._places[plain] = place

    def has(self, path: str) -> bool:
        return os.fsencode(path) in self._places

    def open(self, path: str) -> File:
        place = self._follow(path)
        return File(self._descriptor, place.offset, place.size, own=False)

    def _follow(self, path: str) -> Place:
        """The file that a name means. Links lead to other names of the archive, and nowhere else."""
        name = os.fsencode(checked(path))
        for _ in range(_LINKS):
            place = self._places.get(name)
            if place is None:
                raise missing(path)
            if name in self._twice:
                raise InvalidImage(f"{path!r} is in the archive twice: which one is meant?")
            if place.kind == b"0":
                return place
            if place.kind == b"1":
                name = _plain(place.link)
            elif place.kind == b"2":
                name = posixpath.normpath(posixpath.join(posixpath.dirname(name), place.link))
            else:
                raise InvalidImage(f"{path!r} in the archive is no file.")
            if name.startswith((b"/", b"../")):
                raise InvalidImage(f"{path!r} in the archive is a link that leads out of it.")
        raise InvalidImage(f"{path!r} in the archive is a link that leads in a circle.")


def _plain(name: bytes) -> bytes:
    """A name without the `./` that some programs write."""
    while name.startswith(b"./"):
        name = name[2:]
    return name.rstrip(b"/") if name != b"/" else name


class Directory:
    """The files of a directory."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def has(self, path: str) -> bool:
        try:
            os.stat(path, dir_fd=self._descriptor, follow_symlinks=False)
        except OSError:
            return False
        return True

    def open(self, path: str) -> File:
        resolve = syscalls.RESOLVE_BENEATH | syscalls.RESOLVE_NO_MAGICLINKS
        try:
            opened = syscalls.openat2(self._descriptor, checked(path), _OPEN, resolve=resolve)
        except FileNotFoundError as error:
            raise missing(path) from error
        except OSError as error:
            if error.errno in (errno.EXDEV, errno.ELOOP):
                raise InvalidImage(
                    f"{path!r} is a link that leads out of the directory."
                ) from error
            raise
        status = os.fstat(opened)
        if not stat.S_ISREG(status.st_mode):
            os.close(opened)
            raise InvalidImage(f"{path!r} in the directory is no file.")
        return File(opened, 0, status.st_size, own=True)


def missing(path: str) -> InvalidImage:
    return InvalidImage(
        f"{path!r} is not in the archive.", hint="It is incomplete. Make or fetch it again."
    )


@contextlib.contextmanager
def opened(source: str | os.PathLike[str] | IO[bytes]) -> Iterator[Files]:
    """The files of an archive: a directory, a tar in a file, or one that comes from a pipe.

    What cannot be sought, or is compressed as a whole, is copied to an unnamed temporary file first.
    """
    with contextlib.ExitStack() as stack:
        if isinstance(source, str | os.PathLike):
            flags = os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC
            descriptor = os.open(source, flags)
            stack.callback(os.close, descriptor)
            if stat.S_ISDIR(os.fstat(descriptor).st_mode):
                yield Directory(descriptor)
                return
            source = stack.enter_context(open(descriptor, "rb", buffering=0, closefd=False))
        else:
            descriptor = source.fileno()
        if not stat.S_ISREG(os.fstat(descriptor).st_mode) or _is_compressed(descriptor):
            descriptor = stack.enter_context(_copied(source)).fileno()
        yield Tar(descriptor)


def _is_compressed(descriptor: int) -> bool:
    return os.pread(descriptor, 6, 0).startswith(_COMPRESSED)


def _copied(source: Readable) -> IO[bytes]:
    file = tempfile.TemporaryFile(prefix="layerstore-")  # noqa: SIM115 - it is the caller's
    try:
        with Source(source, Limits()) as chunks:
            while chunk := chunks.chunk():
                file.write(chunk)
        file.flush()
    except InvalidArchive as error:
        file.close()
        raise InvalidImage(f"It is no image: {error.message}") from error
    except BaseException:
        file.close()
        raise
    return file
