"""Owns writing a bbolt database as BuildKit and containerd have them; it must not read one.

Two meta pages, a freelist, and a B+ tree of leaves and branches; a bucket that is small lies within
its leaf. https://pkg.go.dev/go.etcd.io/bbolt#section-readme
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import attrs

PAGE: Final = 4096

Items = Mapping[bytes, "bytes | Items"]
"""The content of a bucket: a value is bytes, or a bucket."""

_MAGIC: Final = 0xED0CDAED
_VERSION: Final = 2
_BRANCH, _LEAF, _META, _FREELIST = 0x01, 0x02, 0x04, 0x10
_BUCKET: Final = 1
_HEADER: Final = struct.Struct("<QHHI")
_META_FIELDS: Final = struct.Struct("<IIIIQQQQQ")
_LEAF_ELEMENT: Final = struct.Struct("<IIII")
_BRANCH_ELEMENT: Final = struct.Struct("<IIQ")
_IN_BUCKET: Final = struct.Struct("<QQ")
_FIRST: Final = 3
"""The first page of data: before it are two metas and the freelist."""


def write(path: Path, items: Items) -> None:
    """Make a database of these buckets; every key at the top has to be one. Replaces what is there."""
    if any(isinstance(value, bytes) for value in items.values()):
        raise ValueError("at the top of a bbolt database there are only buckets")
    pages = _Pages()
    root = pages.tree(items)
    metas = [_meta(number, root, _FIRST + len(pages.made)) for number in (0, 1)]
    freelist = _page(2, _FREELIST, 0, b"")
    path.write_bytes(b"".join([*metas, freelist, *pages.made]))
    path.chmod(0o600)


@attrs.define
class _Pages:
    """What was laid out so far, in pages."""

    made: list[bytes] = attrs.Factory(list)

    def tree(self, items: Items) -> int:
        """Lay out a bucket; the page of its root."""
        leaves: list[tuple[bytes, int]] = []
        held: list[tuple[int, bytes, bytes]] = []
        size = _HEADER.size
        for key, value in sorted(items.items()):
            flags, data = (0, value) if isinstance(value, bytes) else (_BUCKET, self._bucket(value))
            needed = _LEAF_ELEMENT.size + len(key) + len(data)
            if held and size + needed > PAGE:
                leaves.append(self._leaf(held))
                held, size = [], _HEADER.size
            held.append((flags, key, data))
            size += needed
        leaves.append(self._leaf(held))
        while len(leaves) > 1:
            leaves = [self._branch(leaves[at : at + 50]) for at in range(0, len(leaves), 50)]
        return leaves[0][1]

    def _bucket(self, items: Items) -> bytes:
        """The value that stands for a bucket: within itself where it is small and has none inside."""
        plain = [(0, k, v) for k, v in sorted(items.items()) if isinstance(v, bytes)]
        inside = _HEADER.pack(0, _LEAF, len(plain), 0) + _elements(plain)
        if len(plain) == len(items) and len(inside) <= PAGE // 4:
            return _IN_BUCKET.pack(0, 0) + inside
        return _IN_BUCKET.pack(self.tree(items), 0)

    def _leaf(self, held: Sequence[tuple[int, bytes, bytes]]) -> tuple[bytes, int]:
        return (held[0][1] if held else b""), self._add(_LEAF, len(held), _elements(held))

    def _branch(self, below: Sequence[tuple[bytes, int]]) -> tuple[bytes, int]:
        keys = b""
        heads = []
        for at, (key, page) in enumerate(below):
            place = (len(below) - at) * _BRANCH_ELEMENT.size + len(keys)
            heads.append(_BRANCH_ELEMENT.pack(place, len(key), page))
            keys += key
        return below[0][0], self._add(_BRANCH, len(below), b"".join(heads) + keys)

    def _add(self, kind: int, count: int, content: bytes) -> int:
        number = _FIRST + len(self.made)
        page = _page(number, kind, count, content)
        self.made += [page[at : at + PAGE] for at in range(0, len(page), PAGE)]
        return number


def _elements(held: Sequence[tuple[int, bytes, bytes]]) -> bytes:
    """The elements of a leaf: each says how far behind itself its key begins."""
    heads = []
    content = b""
    for at, (flags, key, value) in enumerate(held):
        place = (len(held) - at) * _LEAF_ELEMENT.size + len(content)
        heads.append(_LEAF_ELEMENT.pack(flags, place, len(key), len(value)))
        content += key + value
    return b"".join(heads) + content


def _page(number: int, kind: int, count: int, content: bytes) -> bytes:
    whole = _HEADER.size + len(content)
    overflow = (whole - 1) // PAGE
    head = _HEADER.pack(number, kind, count, overflow)
    return (head + content).ljust((overflow + 1) * PAGE, b"\0")


def _meta(number: int, root: int, end: int) -> bytes:
    fields = _META_FIELDS.pack(_MAGIC, _VERSION, PAGE, 0, root, 0, 2, end, number)
    return _page(number, _META, 0, fields + struct.pack("<Q", _fnv(fields)))


def _fnv(data: bytes) -> int:
    """FNV-1a with 64 bits."""
    found = 0xCBF29CE484222325
    for byte in data:
        found = (found ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return found
