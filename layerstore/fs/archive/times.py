"""Owns the times of an archive's directories until all of it is unpacked; it must not open or set one.

A directory gets its time when nothing more is put into it, so each one's path is kept until the end. An
archive can have ten million of them, of 4 KB each, out of some megabytes of gzip: beyond a few megabytes
they wait in an unnamed file beside what is unpacked, and the rest of the memory is everybody's.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from typing import Final

_HEAD: Final = struct.Struct("=HqI")
"""Length of the path, seconds, nanoseconds."""
_HELD: Final = 4 << 20
_PIECE: Final = 1 << 18
_SECOND: Final = 10**9


class Times:
    """Paths and their times, in the order in which they came. `root`: the directory of the file."""

    def __init__(self, root: int) -> None:
        self._root = root
        self._held = bytearray()
        self._file = -1

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def add(self, path: bytes, mtime_ns: int) -> None:
        """`path`: shorter than 64 KiB."""
        self._held += _HEAD.pack(len(path), *divmod(mtime_ns, _SECOND)) + path
        if len(self._held) > _HELD:
            self._set_aside()

    def _set_aside(self) -> None:
        if self._file < 0:
            flags = os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC
            self._file = os.open(b".", flags, 0o600, dir_fd=self._root)
        left = memoryview(self._held)
        while left:
            left = left[os.write(self._file, left) :]
        del left
        self._held.clear()

    def __iter__(self) -> Iterator[tuple[bytes, int]]:
        """Each path with its time in nanoseconds."""
        rest = b""
        for piece in self._pieces():
            rest += piece
            at = 0
            while len(rest) - at >= _HEAD.size:
                length, seconds, more = _HEAD.unpack_from(rest, at)
                end = at + _HEAD.size + length
                if end > len(rest):
                    break
                yield rest[at + _HEAD.size : end], seconds * _SECOND + more
                at = end
            rest = rest[at:]

    def _pieces(self) -> Iterator[bytes]:
        at = 0
        while self._file >= 0 and (piece := os.pread(self._file, _PIECE, at)):
            at += len(piece)
            yield piece
        for at in range(0, len(self._held), _PIECE):
            yield bytes(self._held[at : at + _PIECE])
