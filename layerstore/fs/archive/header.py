"""Owns writing tar headers: ustar, with PAX records where a field does not hold; it must not read files.

The bytes are those that Go's archive/tar writes for the same entry in its PAX format, so that an
archive that was made by it the same way comes out the same; where writers differ, a dialect says how.
"""

from __future__ import annotations

import posixpath
import zlib
from collections.abc import Mapping
from typing import Final

from layerstore.fs.archive.dialect import OWN, Dialect
from layerstore.fs.archive.member import BLOCK
from layerstore.fs.archive.pax import XATTR

_SEVEN: Final = 0o7777777
_ELEVEN: Final = 0o77777777777
_NO_LINK: Final = bytes(100)
_NO_DEVICE: Final = b"0000000\x000000000\0"
_PLAIN: Final = b"0" + _NO_LINK + b"ustar\x0000" + bytes(64) + _NO_DEVICE + bytes(167)
_CACHED: Final = 4096
_owners: dict[tuple[int, int, int], bytes] = {}

PADDING: Final = bytes(BLOCK)
END: Final = bytes(2 * BLOCK)


def plain(name: bytes, mode: int, uid: int, gid: int, size: int, mtime: int) -> bytes:
    """The header of a regular file, without the records that it may need."""
    key = (mode, uid, gid)
    owner = _owners.get(key)
    if owner is None:
        owner = _owner(*key)
        if len(_owners) < _CACHED:
            _owners[key] = owner
    if size > _ELEVEN or not 0 <= mtime <= _ELEVEN:
        size, mtime = size if size <= _ELEVEN else 0, mtime if 0 <= mtime <= _ELEVEN else 0
    head = b"%b%b%011o\0%011o\0" % (name.ljust(100, b"\0"), owner, size, mtime)
    return b"%b%06o\0 %b" % (head, _sum(head, _PLAIN), _PLAIN)


def needs_records(name: bytes, uid: int, gid: int, size: int, mtime: int) -> bool:
    """Whether some field does not hold its value."""
    return (
        len(name) > 100
        or not name.isascii()
        or uid > _SEVEN
        or gid > _SEVEN
        or size > _ELEVEN
        or not 0 <= mtime <= _ELEVEN
    )


def full(
    name: bytes,
    kind: bytes,
    mode: int,
    uid: int,
    gid: int,
    size: int,
    mtime: int,
    *,
    link: bytes = b"",
    device: tuple[int, int] = (0, 0),
    xattrs: Mapping[bytes, bytes] | None = None,
    names: tuple[bytes, bytes] = (b"", b""),
    dialect: Dialect = OWN,
) -> bytes:
    """The header of any entry, with its extended header in front of it where one is needed.

    `names`: of the user and the group that own it.
    """
    records = {XATTR + key: value for key, value in (xattrs or {}).items()}
    if needs_records(name, uid, gid, size, mtime):
        numbers = {b"uid": (uid, _SEVEN), b"gid": (gid, _SEVEN), b"size": (size, _ELEVEN)}
        records |= {key: b"%d" % n for key, (n, most) in numbers.items() if n > most}
        if not 0 <= mtime <= _ELEVEN:
            records[b"mtime"] = b"%d" % mtime
        if len(name) > 100 or not name.isascii():
            records[b"path"] = name
    if len(link) > 100 or not link.isascii():
        records[b"linkpath"] = link
    for key, text in zip((b"uname", b"gname"), names, strict=True):
        if len(text) > 32 or not text.isascii():
            records[key] = text
    if dialect.marks_charset and not (_is_text(name) and _is_text(link)):
        records[b"hdrcharset"] = b"BINARY"  # libarchive refuses such a name without it
    prefix, short = b"", _short(name)
    if dialect.splits_names and records.keys() == {b"path"} and name.isascii():
        prefix, short = _split(name) or (b"", short)
        if prefix:
            records = {}
    header = _block(
        short,
        _owner(mode, uid, gid),
        size,
        mtime,
        kind,
        _short(link),
        b"%07o\0%07o\0" % device,
        names,
        prefix,
    )
    return _extended(name, records) + header if records else header


def _extended(name: bytes, records: Mapping[bytes, bytes]) -> bytes:
    data = b"".join(_record(key, records[key]) for key in sorted(records))
    directory, base = posixpath.split(name)
    path = posixpath.normpath(posixpath.join(directory, b"PaxHeaders.0", base))
    path = _ascii(path)[:100].rstrip(b"/")
    return _block(path, _owner(0, 0, 0), len(data), 0, b"x", b"", bytes(16)) + padded(data)


def padded(data: bytes) -> bytes:
    """Data with the zeros that fill its last block."""
    return data + PADDING[: -len(data) % BLOCK]


def _record(key: bytes, value: bytes) -> bytes:
    """Its length counts its own digits."""
    rest = len(key) + len(value) + 3
    length = rest + len(str(rest))
    length = rest + len(str(length))
    return b"%d %b=%b\n" % (length, key, value)


def _is_text(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def _ascii(text: bytes) -> bytes:
    return bytes(byte for byte in text if byte < 0x80)


def _short(text: bytes) -> bytes:
    """What a field of 100 bytes holds of a text; the whole one stands in a record."""
    kept = _ascii(text)
    # Readers without PAX would take a file for a directory that seemed to end in a slash.
    return kept if len(kept) <= 100 else kept[:100].rstrip(b"/")


def _owner(mode: int, uid: int, gid: int) -> bytes:
    uid, gid = uid if uid <= _SEVEN else 0, gid if gid <= _SEVEN else 0
    return b"%07o\0%07o\0%07o\0" % (mode, uid, gid)


def _split(name: bytes) -> tuple[bytes, bytes] | None:
    """A long name as ustar's two fields have it; None where it does not fit."""
    end = 156 if len(name) > 156 else len(name) - name.endswith(b"/")
    slash = name.rfind(b"/", 0, end)
    if slash <= 0 or not 0 < len(name) - slash - 1 <= 100:
        return None
    return name[:slash], name[slash + 1 :]


def _block(
    name: bytes,
    owner: bytes,
    size: int,
    mtime: int,
    kind: bytes,
    link: bytes,
    device: bytes,
    names: tuple[bytes, bytes] = (b"", b""),
    prefix: bytes = b"",
) -> bytes:
    size = size if size <= _ELEVEN else 0
    mtime = mtime if 0 <= mtime <= _ELEVEN else 0
    head = b"%b%b%011o\0%011o\0" % (name.ljust(100, b"\0"), owner, size, mtime)
    tail = b"%b%bustar\x0000%b%b%b%b" % (
        kind,
        link.ljust(100, b"\0"),
        _ascii(names[0])[:32].ljust(32, b"\0"),
        _ascii(names[1])[:32].ljust(32, b"\0"),
        device,
        prefix.ljust(167, b"\0"),
    )
    return b"%b%06o\0 %b" % (head, _sum(head, tail), tail)


def _sum(head: bytes, tail: bytes) -> int:
    """The checksum; Adler-32 sums bytes, up to 65,520 of them added up, in its low half."""
    low, high = zlib.adler32(head) & 0xFFFF, zlib.adler32(tail) & 0xFFFF
    return low + high - 2 + 8 * 32
