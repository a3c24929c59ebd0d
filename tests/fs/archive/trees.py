"""What tests of archives need: a tree as data, and archives made header by header."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from layerstore.fs.archive import Unpacked, unpack

END = bytes(1024)


def entry(
    name: str | bytes,
    data: bytes = b"",
    *,
    kind: bytes = b"0",
    link: str | bytes = b"",
    mode: int = 0o644,
    size: int | None = None,
    magic: bytes = b"ustar\x0000",
    **fields: bytes,
) -> bytes:
    """One header with its data, whatever it says. `fields`: raw bytes of a field, by name."""
    block = bytearray(512)
    places = {"uid": 108, "gid": 116, "mtime": 136, "major": 329, "minor": 337, "at386": 386}
    name = name.encode() if isinstance(name, str) else name
    link = link.encode() if isinstance(link, str) else link
    block[0 : len(name)] = name
    block[100:108] = b"%07o\0" % mode
    block[108:124] = b"0000000\x000000000\0"
    block[124:136] = b"%011o\0" % (len(data) if size is None else size)
    block[136:148] = b"%011o\0" % 1_600_000_000
    block[156:157] = kind
    block[157 : 157 + len(link)] = link
    block[257:265] = magic
    block[329:345] = b"0000000\x000000000\0"
    for key, value in fields.items():
        if key in places:
            block[places[key] : places[key] + len(value)] = value
    if "size_field" in fields:
        block[124:136] = fields["size_field"]
    if "raw_mode" in fields:
        block[100:108] = fields["raw_mode"]
    block[148:156] = b" " * 8
    block[148:156] = fields.get("checksum", b"%06o\0 " % sum(block))
    return bytes(block) + data + bytes(-len(data) % 512)


def pax(records: dict[str, bytes] | bytes, *, kind: bytes = b"x") -> bytes:
    """An extended header."""
    if isinstance(records, bytes):
        return entry("PaxHeaders/x", records, kind=kind)
    data = b""
    for key, value in records.items():
        rest = len(key.encode()) + len(value) + 3
        length = rest + len(str(rest))
        length = rest + len(str(length))
        data += b"%d %s=%s\n" % (length, key.encode(), value)
    return entry("PaxHeaders/x", data, kind=kind)


def into(path: Path | str, data: bytes | Iterable[bytes], **options: Any) -> Unpacked:
    """Unpack an archive into a directory, which is made."""
    os.makedirs(path, exist_ok=True)
    stream = io.BytesIO(data if isinstance(data, bytes) else b"".join(data))
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return unpack(stream, descriptor, **options)
    finally:
        os.close(descriptor)


def python_tar(members: list[tuple[tarfile.TarInfo, bytes]], format: int) -> bytes:  # noqa: A002
    """An archive as Python writes it."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format) as tar:
        for info, data in members:
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()
