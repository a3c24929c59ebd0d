"""Owns reading the pages of a bbolt database; it must not write, lock, or know what is in one.

The format: pages of one size, the first two of which are meta pages with a checksum; the newer
one names the root. A page is a branch or a leaf of a B+ tree; a leaf's value may be a bucket,
that is another tree, or a small one within the value itself. Nothing in use is ever overwritten by the
transaction that frees it, but the next one may: a file that changed while it was read is read again.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

import attrs

from layerstore.legacy.quietly import beginning, content

_MAGIC: Final = 0xED0CDAED
_VERSION: Final = 2
_PAGE: Final = struct.Struct("=QHHI")
"""Its number, kind, count of elements, and how many pages follow it as one."""
_META: Final = struct.Struct("=IIIIQQQQQQ")
_BRANCH: Final = struct.Struct("=IIQ")
_LEAF: Final = struct.Struct("=IIII")
_BUCKET: Final = struct.Struct("=QQ")
_IS_BRANCH, _IS_LEAF = 0x01, 0x02
_IS_BUCKET: Final = 0x01
_LARGEST: Final = 1 << 30
_DEEPEST: Final = 64
_TRIES: Final = 5


class Damaged(Exception):
    """The pages are not of the form, or changed at every look; the text says where."""


@attrs.frozen
class Bucket:
    """A tree of keys: values are bytes, or buckets."""

    _file: _Pages
    _page: int
    _inline: bytes = b""

    def __iter__(self) -> Iterator[tuple[bytes, bytes | Bucket]]:
        """Every key with its value, in order of keys. Raises Damaged."""
        yield from self._walk(self._page, set(), 0)

    def values(self) -> dict[bytes, bytes]:
        """The keys whose values are no buckets."""
        return {key: value for key, value in self if isinstance(value, bytes)}

    def buckets(self) -> Iterator[tuple[bytes, Bucket]]:
        """The keys whose values are buckets."""
        for key, value in self:
            if isinstance(value, Bucket):
                yield key, value

    def _walk(
        self, number: int, seen: set[int], depth: int
    ) -> Iterator[tuple[bytes, bytes | Bucket]]:
        if number in seen or depth > _DEEPEST:
            raise Damaged(f"page {number} is below itself")
        seen.add(number)
        page = self._inline if number == 0 else self._file.page(number)
        kind, count = _PAGE.unpack_from(_whole(page, 0, _PAGE.size))[1:3]
        for index in range(count):
            at = _PAGE.size + index * _LEAF.size
            if kind == _IS_BRANCH:
                _, _, child = _BRANCH.unpack(_whole(page, at, _BRANCH.size))
                if child < 2:
                    raise Damaged(f"page {number} leads to page {child}")
                yield from self._walk(child, seen, depth + 1)
            elif kind == _IS_LEAF:
                flags, where, key_size, value_size = _LEAF.unpack(_whole(page, at, _LEAF.size))
                key = _whole(page, at + where, key_size)
                value = _whole(page, at + where + key_size, value_size)
                yield key, self._bucket(value) if flags & _IS_BUCKET else value
            else:
                raise Damaged(f"page {number} is of the kind {kind:#x}")

    def _bucket(self, value: bytes) -> Bucket:
        root, _ = _BUCKET.unpack(_whole(value, 0, _BUCKET.size))
        return Bucket(self._file, root, value[_BUCKET.size :] if root == 0 else b"")


@attrs.frozen
class _Pages:
    """One image of a file, in memory."""

    data: bytes
    size: int

    def page(self, number: int) -> bytes:
        """A page with those that follow it as one."""
        start = number * self.size
        head = _PAGE.unpack(_whole(self.data, start, _PAGE.size))
        if head[0] != number:
            raise Damaged(f"page {number} says that it is page {head[0]}")
        return _whole(self.data, start, (head[3] + 1) * self.size)


def _whole(data: bytes, start: int, size: int) -> bytes:
    if start + size > len(data):
        raise Damaged(f"{size} bytes at {start} are beyond the end")
    return data[start : start + size]


def read(path: str) -> Bucket:
    """The root of a database, as its newest transaction left it. Raises Damaged; Unreadable."""
    for _ in range(_TRIES):
        data = content(path, _LARGEST)
        try:
            _, root, size = _newest(data)
            bucket = Bucket(_Pages(data, size), root)
            _check(bucket, 0)
        except Damaged:
            if data.startswith(_state(path)):
                raise
            continue
        if data.startswith(_state(path)[: 2 * size]):
            return bucket
    raise Damaged("it changed at every look")


def _check(bucket: Bucket, depth: int) -> None:
    """Walk everything once, so that nothing breaks off later."""
    if depth > _DEEPEST:
        raise Damaged("its buckets are nested too deep")
    for _, inner in bucket.buckets():
        _check(inner, depth + 1)


def _state(path: str) -> bytes:
    """Its beginning, with both meta pages, as it is now."""
    return beginning(path, 1 << 17)


def _newest(data: bytes) -> tuple[int, int, int]:
    """The number of the newest transaction, its root page, and the size of pages.

    Both meta pages have to be whole: the older one alone would be a state that the last transaction
    may have changed, and what is kept or not is asked of it.
    """
    first = _meta(data, 0)
    second = None if first is None else _meta(data, first[2])
    if first is None or second is None or first[2] != second[2]:
        raise Damaged("one of its two first pages is not whole")
    return max(first, second)


def _meta(data: bytes, at: int) -> tuple[int, int, int] | None:
    start = at + _PAGE.size
    if start + _META.size > len(data):
        return None
    fields = _META.unpack_from(data, start)
    magic, version, page_size, _, root, _, _, _, transaction, checksum = fields
    whole = checksum == _fnv(data[start : start + _META.size - 8])
    sound = 512 <= page_size <= 1 << 20 and not page_size & (page_size - 1) and root >= 2
    if (magic, version) != (_MAGIC, _VERSION) or not whole or not sound:
        return None
    return transaction, root, page_size


def _fnv(data: bytes) -> int:
    """FNV-1a with 64 bits."""
    total = 0xCBF29CE484222325
    for byte in data:
        total = ((total ^ byte) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    return total
