"""Owns the table of contents of a tar in a file that can be sought: names, kinds, and where the data
lie; it must not read the data.
"""

from __future__ import annotations

import os
from typing import Final, cast

import attrs

from layerstore.fs.archive.member import Limits, bad
from layerstore.fs.archive.reader import Reader
from layerstore.fs.archive.source import Source

_CHUNK: Final = 1 << 13
_FILES: Final = (b"0", b"\0", b"7")


_NAMES: Final = 16 << 20
"""Bytes of names that are kept. Those of an image are a hundred for each layer."""


@attrs.frozen
class Place:
    """One entry: `kind` is its type flag, `b"0"` for any file; its data lie at `offset`."""

    kind: bytes
    offset: int
    size: int
    link: bytes


def contents(descriptor: int, *, entries: int) -> tuple[dict[bytes, Place], set[bytes]]:
    """Every entry by its name as the archive has it, and the names that files have twice.

    Of those the last one counts. `entries`: how many headers there may be. Raises InvalidArchive,
    also where data would lie beyond the end of the file.
    """
    length = os.fstat(descriptor).st_size
    reader = _Skipping(descriptor, entries)
    found: dict[bytes, Place] = {}
    held = 0
    twice: set[bytes] = set()
    while (member := reader.next()) is not None:
        if member.sparse is not None:
            raise bad(member.name, "it is sparse, which no file of an image is")
        if reader.position + member.size > length:
            raise bad(member.name, f"it should have {member.size} bytes, and the archive ends")
        held += len(member.name) + len(member.link)
        if held > _NAMES:
            raise bad(None, f"its names have more than {_NAMES} bytes altogether")
        kind = b"0" if member.kind in _FILES else member.kind
        if member.name in found and kind != b"5":
            twice.add(member.name)
        found[member.name] = Place(kind, reader.position, member.size, member.link)
    return found, twice


class _File:
    """As much of a Source as a Reader needs."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.bytes = 0

    def chunk(self) -> bytes:
        chunk = os.pread(self._descriptor, _CHUNK, self.bytes)
        self.bytes += len(chunk)
        return chunk


class _Skipping(Reader):
    """Passes over data without reading them."""

    def __init__(self, descriptor: int, entries: int) -> None:
        self._file = _File(descriptor)
        super().__init__(cast(Source, self._file), Limits(bytes=0, entries=entries))

    @property
    def position(self) -> int:
        return self._file.bytes - (len(self._chunk) - self._at)

    def _pass_over(self) -> None:
        self._at += self._left + self._padding
        beyond = self._at - len(self._chunk)
        if beyond > 0:
            self._file.bytes += beyond
            self._chunk, self._at = b"", 0
        self._left = self._padding = 0
