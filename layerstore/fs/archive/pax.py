"""Owns the records of PAX headers and the maps of sparse files; it must not read a stream.

Every value is checked as it is read: decimal numbers are decimal, lengths are those of the records,
a map is in order and ends within its file. https://pubs.opengroup.org/onlinepubs/9799919799/
utilities/pax.html, https://www.gnu.org/software/tar/manual/html_node/Sparse-Formats.html
"""

from __future__ import annotations

import re
from typing import Final

from layerstore.fs.archive.member import Member, bad

XATTR: Final = b"SCHILY.xattr."
_TIME: Final = re.compile(rb"(-?)([0-9]{1,18})(?:\.([0-9]*))?")
_TEXTS: Final = frozenset({b"path", b"linkpath", b"uname", b"gname", b"GNU.sparse.name"})
_SPARSE: Final = b"GNU.sparse."
LATEST: Final = 1 << 55
"""Seconds, either way: what no file system reaches."""
LARGEST: Final = (1 << 63) - 1

Records = dict[bytes, bytes]


def records(data: bytes) -> Records:
    """The records of one header. Those of a sparse map in format 0.0, which repeat, become a map
    as format 0.1 has it.
    """
    found: Records = {}
    numbers: list[bytes] = []
    at = 0
    while at < len(data):
        space = data.find(b" ", at, at + 20)
        digits = data[at:space]
        end = at + int(digits) if space > at and digits.isdigit() else 0
        if end <= space + 1 or end > len(data) or data[end - 1] != 10:
            raise bad(None, f"an extended header is damaged at its byte {at}")
        key, equals, value = data[space + 1 : end - 1].partition(b"=")
        if not equals or not key or b"\0" in (value if key in _TEXTS else key):
            raise bad(None, f"an extended header has a bad record at its byte {at}")
        if key in (b"GNU.sparse.offset", b"GNU.sparse.numbytes"):
            if (key == b"GNU.sparse.offset") != (len(numbers) % 2 == 0):
                raise bad(None, "the map of a sparse file is out of order")
            numbers.append(value)
        found[key] = value
        at = end
    if numbers:
        found[b"GNU.sparse.map"] = b",".join(numbers)
    return found


def decimal(name: bytes, what: str, value: bytes, *, most: int = LARGEST) -> int:
    """A number that is not negative."""
    if not value.isdigit() or len(value) > 20 or int(value) > most:
        raise bad(name, f"its {what} is no number that can be: {value[:40]!r}")
    return int(value)


def time(name: bytes, value: bytes) -> int:
    """Nanoseconds; more digits than nine are cut off."""
    match = _TIME.fullmatch(value)
    if match is None or int(match[2]) >= LATEST:
        raise bad(name, f"its time is none that can be: {value[:40]!r}")
    nanoseconds = int(match[2]) * 10**9 + int((match[3] or b"")[:9].ljust(9, b"0"))
    return -nanoseconds if match[1] else nanoseconds


def override(member: Member, found: Records) -> None:
    """Put the records of its extended header in place of what the header says.

    An empty value leaves the header's, as in Go's archive/tar. Unknown keys are no matter of ours.
    """
    name = found.get(b"path") or member.name
    member.name = name
    for key, value in found.items():
        if key.startswith(XATTR):
            if len(key) == len(XATTR):
                raise bad(name, "it has an xattr without a name")
            member.xattrs = member.xattrs or {}
            member.xattrs[key[len(XATTR) :]] = value
        elif not value:
            continue
        elif key == b"linkpath":
            member.link = value
        elif key == b"size":
            member.size = decimal(name, "size", value)
        elif key == b"uid":
            member.uid = decimal(name, "owner", value)
        elif key == b"gid":
            member.gid = decimal(name, "group", value)
        elif key == b"mtime":
            member.mtime_ns = time(name, value)
    member.real_size = member.size


def is_sparse(found: Records) -> bool:
    return any(key.startswith(_SPARSE) for key in found)


def override_sparse(member: Member, found: Records) -> bool:
    """What a sparse file is called and how large it is. True: its map stands before its data."""
    member.name = found.get(b"GNU.sparse.name") or member.name
    version = (found.get(b"GNU.sparse.major"), found.get(b"GNU.sparse.minor"))
    size = found.get(b"GNU.sparse.realsize") or found.get(b"GNU.sparse.size") or b""
    member.real_size = decimal(member.name, "size", size)
    if version == (b"1", b"0"):
        return True
    if version not in ((None, None), (b"0", b"0"), (b"0", b"1")):
        raise bad(member.name, "it is sparse in a format that is not known")
    text = found.get(b"GNU.sparse.map", b"")
    values = [decimal(member.name, "map", part) for part in text.split(b",")] if text else []
    count = found.get(b"GNU.sparse.numblocks", b"%d" % (len(values) // 2))
    if len(values) % 2 or count != b"%d" % (len(values) // 2):
        raise bad(member.name, "the map of its holes is cut off")
    member.sparse = list(zip(values[::2], values[1::2], strict=True))
    return False


def check_map(member: Member) -> None:
    """Refuse a map that is not in order, reaches beyond the file, or has other data than are there."""
    end = total = 0
    for offset, length in member.sparse or ():
        if offset < end or offset + length > member.real_size:
            raise bad(member.name, "the map of its holes contradicts itself")
        end = offset + length
        total += length
    if total != member.size:
        raise bad(member.name, "the map of its holes does not fit its data")
