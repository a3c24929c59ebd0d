"""Owns the findings about what Docker's layers hold: its own check sums against files; it changes nothing.

Beside each layer of an image Docker keeps what its archive looked like, to write it again byte for byte:
`layerdb/sha256/<chain id>/tar-split.json.gz`, JSON lines with the name of each file, its size, and the
CRC-64 (ISO) of its content (https://github.com/vbatts/tar-split). `cache-id` names the directory.
"""

from __future__ import annotations

import base64
import errno
import gzip
import json
import os
import stat
from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING, Any, Final

import attrs

from layerstore import model as m
from layerstore.audit import content
from layerstore.audit.census import names_in
from layerstore.audit.view import View, finding
from layerstore.errors import InvalidLayerId
from layerstore.fs import files, layout, syscalls
from layerstore.fs.manifest import Difference, Finding
from layerstore.legacy import quietly

if TYPE_CHECKING:
    from layerstore.audit.census import Progress

_FILE: Final = 1
_SPLIT: Final = "tar-split.json.gz"
_ALL: Final = (1 << 64) - 1
_CHUNK: Final = 1 << 18
_IN_ROOT: Final = syscalls.RESOLVE_IN_ROOT | syscalls.RESOLVE_NO_MAGICLINKS
_WHITEOUT: Final = ".wh."


@attrs.frozen
class _Entry:
    """One file of an archive; `crc` None: it has no content, or is no regular file."""

    size: int
    crc: int | None


def check(
    view: View, only: frozenset[str], progress: Progress | None, checked: dict[str, int]
) -> Iterator[m.Finding]:
    """Compare every layer of an image with what Docker recorded; nothing where it recorded nothing."""
    home = view.home
    above, name = os.path.split(home)
    layerdb = f"{above}/image/{name}/layerdb/sha256"
    chains = names_in(layerdb)
    checked |= {"manifests": 0, "files": 0}
    for number, chain in enumerate(chains):
        if progress is not None:
            progress("content", number, len(chains))
        layer = _cache_id(f"{layerdb}/{chain}")
        if layer is None or (only and layer not in only) or layer in view.tree.unreadable:
            continue
        hanging = content.unasked(view, layer)
        if hanging is not None:
            yield hanging
            continue
        path = f"{layerdb}/{chain}/{_SPLIT}"
        diff = f"{home}/{layout.diff(layer)}"
        if not os.path.exists(path) or not os.path.isdir(diff):
            continue  # pulled without it; that the directory is gone says another finding
        try:
            entries = _entries(path)
        except (OSError, ValueError, EOFError) as error:
            if os.path.exists(path):
                said = f"what {layer} held is recorded in {path}, which cannot be read: {error}"
                yield finding("lost-manifest", said, layer, path)
            continue
        different = list(_compared(diff, entries))
        if not os.path.exists(path) or not os.path.isdir(diff):
            continue  # Docker removed the image meanwhile
        checked["manifests"] += 1
        checked["files"] += len(entries)
        yield from content.told(layer, diff, different)
    if progress is not None:
        progress("content", len(chains), len(chains))


def _cache_id(record: str) -> str | None:
    try:
        return m.check_layer_id(quietly.word(f"{record}/cache-id"))
    except (OSError, quietly.Unreadable, InvalidLayerId):
        return None


def _entries(path: str) -> dict[str, _Entry]:
    """By the path in the layer, the last of several; ValueError where it is not of this form."""
    found: dict[str, _Entry] = {}
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with open(files.open_quietly(path, flags), "rb") as raw, gzip.open(raw) as lines:
        for line in lines:
            entry: Any = json.loads(line)
            if not isinstance(entry, dict) or entry.get("type") not in (1, 2):
                raise ValueError("a line is no entry")
            if entry["type"] != _FILE:
                continue
            name = _name(entry)
            if name:
                size = int(entry.get("size") or 0)
                sum_ = base64.b64decode(entry.get("payload") or "")
                crc = int.from_bytes(sum_, "big") if size and len(sum_) == 8 else None
                found[name] = _Entry(size, crc)
    return found


def _name(entry: dict[str, Any]) -> str:
    """Where it lies in the layer: empty for the root, and for what only AUFS knows."""
    if entry.get("name_raw"):
        text = os.fsdecode(base64.b64decode(entry["name_raw"]))
    else:
        text = str(entry.get("name") or "")
    parts = [part for part in text.split("/") if part not in ("", ".")]
    if not parts or parts[-1].startswith(".wh..wh.") or ".." in parts:
        return ""
    return "/".join(parts)


def _compared(diff: str, entries: dict[str, _Entry]) -> Iterator[Finding]:
    top = os.open(diff, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        for path, entry in sorted(entries.items()):
            try:
                kind = _difference(top, path, entry)
            except OSError as error:
                yield Finding(path, Difference.UNREADABLE, (error.strerror or str(error),))
                continue
            if kind is not None:
                yield Finding(path, kind)
    finally:
        os.close(top)


def _difference(top: int, path: str, entry: _Entry) -> Difference | None:
    above, _, name = path.rpartition("/")
    whiteout = name.startswith(_WHITEOUT)
    if whiteout:
        path = f"{above}/{name.removeprefix(_WHITEOUT)}".lstrip("/")
    flags = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        descriptor = syscalls.openat2(top, path, flags, resolve=_IN_ROOT)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTDIR):
            raise
        return Difference.MISSING
    try:
        status = os.fstat(descriptor)
        if whiteout or not entry.size:
            return None
        if not stat.S_ISREG(status.st_mode):
            return Difference.CHANGED
        if status.st_size != entry.size:
            return Difference.SHORT if status.st_size < entry.size else Difference.CHANGED
        return None if entry.crc is None else _content(descriptor, entry.crc)
    finally:
        os.close(descriptor)


def _content(descriptor: int, wanted: int) -> Difference | None:
    place = f"/proc/self/fd/{descriptor}"
    opened = files.open_quietly(place, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        crc, zeros = _ALL, True
        while chunk := os.read(opened, _CHUNK):
            crc = _crc(crc, chunk)
            zeros = zeros and chunk.count(0) == len(chunk)
    finally:
        os.close(opened)
    if crc ^ _ALL == wanted:
        return None
    return Difference.ZEROED if zeros else Difference.CHANGED


def crc64(data: bytes) -> int:
    """CRC-64 (ISO 3309) of some bytes, as Go's hash/crc64 has it."""
    return _crc(_ALL, data) ^ _ALL


def _crc(crc: int, data: bytes) -> int:
    """The register after some more bytes.

    There is no such check sum in the standard library, and a loop over bytes makes 10 MB/s. The bytes
    are one long polynomial, the bit of the highest degree lowest. Modulo x^64 + x^4 + x^3 + x + 1, and
    with it to the power of any e = 2^n, x^64e is x^4e + x^3e + x^e + 1: so many bits are reduced by a
    few shifts of large integers.
    """
    value = int.from_bytes(data, "little") ^ crc
    bits = len(data) * 8 + 64
    power = max(0, bits.bit_length() - 8)
    while power >= 0:
        e = 1 << power
        while bits >= 128 * e:
            low = value & _mask(64 * e)
            value = (value >> 60 * e) ^ (low >> 60 * e) ^ low ^ (low << e)
            value ^= (low << 3 * e) ^ (low << 4 * e)
            bits -= 60 * e
        power -= 1
    for _ in range(bits - 64):
        value = (value ^ _ONE if value & 1 else value) >> 1
    return value


_ONE: Final = 1 | 1 << 60 | 1 << 61 | 1 << 63 | 1 << 64
"""The polynomial, in the same order of bits."""


@cache
def _mask(bits: int) -> int:
    return (1 << bits) - 1
