"""Owns reading tar: ustar, PAX and GNU headers from a stream, one entry at a time; it must not
touch a file.

It is written for speed: a header costs a few slices and look-ups. Every field is checked all the
same, and where readers differ it does what Go's archive/tar does, since that is what images are
made for. It raises InvalidArchive, which names the entry.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from typing import Final

from layerstore.fs.archive import pax
from layerstore.fs.archive.member import (
    BLOCK,
    LARGEST_EXTENDED,
    LONGEST_NAME,
    Limits,
    Member,
    bad,
    beyond,
)
from layerstore.fs.archive.source import Source

_ZERO: Final = bytes(BLOCK)
_USTAR: Final = b"ustar\x0000"
_GNU: Final = b"ustar  \0"
_WITHOUT_DATA: Final = frozenset(b"123456")
_FILES: Final = frozenset((b"0", b"\0", b"7"))
_KNOWN: Final = frozenset((b"0", b"\0", b"1", b"2", b"3", b"4", b"5", b"6", b"7", b"S"))
_CACHED: Final = 4096
_PAIR: Final = struct.Struct("12s12s")


def number(field: bytes) -> int:
    """A number in octal, or in GNU's base 256; ValueError for anything else."""
    if field[0] & 0x80:
        value = int.from_bytes(field, "big")
        if field[0] & 0x40:
            value -= 1 << (8 * len(field))
        else:
            value &= (1 << (8 * len(field) - 1)) - 1
        if not -(1 << 63) <= value < 1 << 63:
            raise ValueError("it overflows")
        return value
    digits = field.strip(b" \0").partition(b"\0")[0].rstrip(b" ")
    if not digits:
        return 0
    if not digits.isdigit():
        raise ValueError("it is no number")
    return int(digits, 8)


def _sum(block: bytes) -> int:
    """The sum of 512 bytes. Adler-32 has it in its low half, and half a block cannot overflow that."""
    return (zlib.adler32(block[:256]) & 0xFFFF) + (zlib.adler32(block[256:]) & 0xFFFF) - 2


class Reader:
    """Reads the entries of one archive. Data that nobody asked for are passed over."""

    def __init__(
        self, source: Source, limits: Limits, progress: Callable[[int], None] | None = None
    ) -> None:
        self._source = source
        self._limits = limits
        self._progress = progress
        self._chunk = b""
        self._at = 0
        self._left = 0
        """Bytes of data, and of padding, before the next header."""
        self._padding = 0
        self._owners: dict[bytes, tuple[int, int, int]] = {}
        self.entries = 0
        """Headers so far, those for other ones too."""
        self._extended = 0
        self.bytes = 0
        """Apparent sizes of the files so far."""
        self.trailing = 0
        """Bytes behind the two zero blocks that are not zero: ignored, as Docker does."""

    # --- the stream -------------------------------------------------------------------------

    def _next_chunk(self) -> bytes:
        if self._progress is not None:
            self._progress(self.entries - self._extended)
        return self._source.chunk()

    def _take(self, size: int) -> bytes:
        """The next bytes, so many; fewer only where the stream ends."""
        at = self._at
        if len(self._chunk) - at >= size:
            self._at = at + size
            return self._chunk[at : at + size]
        parts = [self._chunk[at:]]
        missing = size - len(parts[0])
        while missing > 0:
            self._chunk = self._next_chunk()
            if not self._chunk:
                self._at = 0
                return b"".join(parts)
            self._at = min(missing, len(self._chunk))
            parts.append(self._chunk[: self._at])
            missing -= self._at
        return b"".join(parts)

    def _some(self, most: int) -> memoryview:
        """Some of the next bytes, without a copy; InvalidArchive where the stream ends."""
        if self._at >= len(self._chunk):
            self._chunk, self._at = self._next_chunk(), 0
            if not self._chunk:
                raise bad(None, f"it is cut off at byte {self._source.bytes}")
        piece = memoryview(self._chunk)[self._at : self._at + most]
        self._at += len(piece)
        return piece

    def _pass_over(self) -> None:
        left = self._left + self._padding
        at = self._at + left
        if at <= len(self._chunk):
            self._at = at
        else:
            while left:
                left -= len(self._some(left))
        self._left = self._padding = 0

    def _data(self, member: Member, what: str) -> bytes:
        """The data of an extended header."""
        if member.size > LARGEST_EXTENDED:
            raise bad(member.name, f"{what} of {member.size} bytes is longer than any real one")
        data = self._take(member.size)
        if len(data) < member.size:
            raise bad(None, f"it is cut off at byte {self._source.bytes}")
        self._left, self._padding = 0, -member.size % BLOCK
        self._pass_over()
        return data

    def body(self, write: Callable[[memoryview], int], size: int) -> None:
        """Hand the next `size` bytes of the current entry's data to `write`, which may take less."""
        self._left -= size
        while size:
            piece = self._some(size)
            size -= len(piece)
            while piece:
                piece = piece[write(piece) :]

    # --- entries ----------------------------------------------------------------------------

    def next(self) -> Member | None:
        """The next entry that is not a header for another one; None behind the last one."""
        records: pax.Records = {}
        name = link = b""
        while True:
            if self._left or self._padding:
                self._pass_over()
            block = self._take(BLOCK)
            if block == _ZERO:
                self._close(pending=bool(records or name or link))
                return None
            member = self._header(block)
            kind = member.kind
            if kind == b"x":
                records = pax.records(self._data(member, "an extended header"))
            elif kind == b"g":
                pax.records(self._data(member, "a global header"))  # ignored, as Docker does
            elif kind == b"L":
                name = self._data(member, "a name").partition(b"\0")[0]
            elif kind == b"K":
                link = self._data(member, "a link").partition(b"\0")[0]
            else:
                break
            self._extended += 1
        if records:
            pax.override(member, records)
        member.name = name or member.name
        member.link = link or member.link
        if kind not in _KNOWN:
            raise bad(member.name, f"it is of the type {kind!r}, which no layer has")
        if len(member.name) > LONGEST_NAME or len(member.link) > LONGEST_NAME:
            raise bad(member.name, f"its path is longer than {LONGEST_NAME} bytes")
        if member.kind[0] in _WITHOUT_DATA:
            member.size = member.real_size = 0
        self._left = member.size
        self._padding = -member.size % BLOCK
        if kind == b"S" or (records and kind in _FILES and pax.is_sparse(records)):
            self._sparse(member, block, records)
        self.bytes += member.real_size
        if self._limits.bytes and self.bytes > self._limits.bytes:
            why = f"with it the files are larger than {self._limits.bytes} bytes"
            raise beyond("bytes", member.name, why)
        return member

    def _header(self, block: bytes) -> Member:
        if len(block) < BLOCK:
            where = f"it is cut off at byte {self._source.bytes}" if self._source.bytes else ""
            raise bad(None, where or "it is empty: not even its two closing blocks are there")
        self.entries += 1
        if self._limits.entries and self.entries > self._limits.entries:
            raise beyond("entries", None, f"it has more than {self._limits.entries} entries")
        name = block[:100].partition(b"\0")[0]
        try:
            self._check_sum(block)
            owner = self._owners.get(block[100:124])
            if owner is None:
                owner = self._owner(block[100:124])
            raw_size, raw_time = _PAIR.unpack_from(block, 124)
            size = number(raw_size)
            mtime = number(raw_time)
        except ValueError as error:
            place = self._source.bytes - (len(self._chunk) - self._at) - BLOCK
            raise bad(name, f"its header at byte {place} is damaged: {error}") from None
        if size < 0 or not -pax.LATEST < mtime < pax.LATEST:
            raise bad(name, "its header is damaged: its size or time cannot be")
        kind = block[156:157]
        if block[345] and block[257:265] == _USTAR:
            # star has times behind a shorter prefix, and says so in its last bytes.
            end = 476 if block[508:512] == b"tar\0" else 500
            name = block[345:end].partition(b"\0")[0] + b"/" + name
        member = Member(name, kind, *owner, size, mtime * 1_000_000_000)
        member.real_size = size
        if kind != b"0":
            self._special(member, block)
        return member

    def _special(self, member: Member, block: bytes) -> None:
        """What only some kinds have."""
        kind = member.kind
        if kind in (b"1", b"2"):
            member.link = block[157:257].partition(b"\0")[0]
        elif kind in (b"3", b"4"):
            try:
                member.major, member.minor = number(block[329:337]), number(block[337:345])
            except ValueError as error:
                raise bad(member.name, f"its device number is damaged: {error}") from None
        elif kind == b"\0" and member.name.endswith(b"/"):
            member.kind = b"5"  # how tar wrote directories before it had a type for them

    def _check_sum(self, block: bytes) -> None:
        field = block[148:156]
        rest = _sum(block) - (zlib.adler32(field) & 0xFFFF) + 1 + 8 * 32
        stored = number(field)
        if stored != rest:
            # Some old programs summed signed characters.
            high = sum(256 for byte in block[:148] + block[156:] if byte > 127)
            if stored != rest - high:
                raise ValueError("its checksum is wrong")

    def _owner(self, field: bytes) -> tuple[int, int, int]:
        """Mode, owner and group, of which an archive has few different ones."""
        mode, uid, gid = number(field[:8]), number(field[8:16]), number(field[16:24])
        if mode < 0 or uid < 0 or gid < 0:
            raise ValueError("its mode or owner is negative")
        if len(self._owners) >= _CACHED:
            self._owners.clear()
        owner = self._owners[field] = (mode & 0o7777, uid, gid)
        return owner

    def _close(self, *, pending: bool) -> None:
        """The second zero block, and whatever follows, which belongs to the digest."""
        if pending:
            raise bad(None, "it ends behind an extended header that no entry follows")
        second = self._take(BLOCK)
        if len(second) < BLOCK:
            raise bad(None, "it is cut off: its second closing block is missing")
        if second != _ZERO:
            raise bad(None, "a single zero block stands between its entries")
        chunk = self._chunk[self._at :]
        while chunk or (chunk := self._next_chunk()):
            self.trailing += len(chunk) - chunk.count(0)
            chunk = b""

    # --- sparse files -----------------------------------------------------------------------

    def _sparse(self, member: Member, block: bytes, records: pax.Records) -> None:
        if member.kind == b"S":
            self._old_map(member, block)
        elif pax.override_sparse(member, records):
            self._map_before_data(member)
        member.kind = b"0"
        pax.check_map(member)

    def _old_map(self, member: Member, block: bytes) -> None:
        """GNU's own format: the map stands in the header and in blocks behind it."""
        if block[257:265] != _GNU:
            raise bad(member.name, "it is sparse, and its header is not GNU's")
        at, count, more, read = 386, 4, block[482], 0
        member.sparse = []
        try:
            member.real_size = number(block[483:495])
            while True:
                for place in range(at, at + 24 * count, 24):
                    if not block[place]:
                        break
                    pair = _PAIR.unpack_from(block, place)
                    member.sparse.append((number(pair[0]), number(pair[1])))
                if not more:
                    break
                read += BLOCK
                block = self._take(BLOCK)
                if len(block) < BLOCK or read > LARGEST_EXTENDED:
                    raise ValueError("it has no end")
                at, count, more = 0, 21, block[504]
        except ValueError as error:
            raise bad(member.name, f"the map of its holes is damaged: {error}") from None
        if member.real_size < 0 or any(min(pair) < 0 for pair in member.sparse):
            raise bad(member.name, "the map of its holes has a negative number")

    def _map_before_data(self, member: Member) -> None:
        """PAX format 1.0: decimal lines in whole blocks before the data."""
        text, lines, wanted = bytearray(), 0, 0
        while not wanted or lines < wanted:
            if self._left < BLOCK or len(text) >= LARGEST_EXTENDED:
                raise bad(member.name, "the map of its holes has no end")
            self._left -= BLOCK
            block = self._take(BLOCK)
            text += block
            lines += block.count(b"\n")
            if not wanted and lines:
                first = bytes(text[: text.index(b"\n")])
                wanted = 2 * pax.decimal(member.name, "map", first) + 1
        values = [
            pax.decimal(member.name, "map", line) for line in bytes(text).split(b"\n")[1:wanted]
        ]
        member.size = self._left
        member.sparse = list(zip(values[::2], values[1::2], strict=True))
