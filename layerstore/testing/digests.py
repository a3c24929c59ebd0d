"""Owns what Docker and podman compute of a layer: its archive, digests, and tar-split; all by our own
archive of it. It must not write.

tar-split keeps everything of an archive but the content of its files, of which it has a checksum, so
that the same archive can be made again. https://github.com/vbatts/tar-split
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import os
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import attrs

from layerstore.audit.tarsplit import crc64
from layerstore.fs.archive import MapIds, pack


@attrs.frozen
class Archived:
    """What is known of the archive of a layer."""

    archive: bytes
    diff_id: str
    size: int
    """Bytes of its files, as Docker counts them."""

    @property
    def tar_split(self) -> bytes:
        return tar_split(self.archive)


def archived(diff: Path, *, map_ids: MapIds | None = None) -> Archived:
    """Pack the `diff` of a layer. Raises CannotPack, OSError."""
    descriptor = os.open(diff, os.O_RDONLY | os.O_DIRECTORY)
    try:
        archive = b"".join(pack(descriptor, map_ids=map_ids))
    finally:
        os.close(descriptor)
    with tarfile.open(fileobj=io.BytesIO(archive)) as members:
        size = sum(member.size for member in members if member.isreg())
    return Archived(archive, digest_of(archive), size)


def digest_of(data: bytes) -> str:
    """`sha256:` and 64 digits."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def chain_ids(diff_ids: Iterable[str]) -> list[str]:
    """The chain id of each layer of an image, the lowest first."""
    found: list[str] = []
    for diff_id in diff_ids:
        found.append(digest_of(f"{found[-1]} {diff_id}".encode()) if found else diff_id)
    return found


def tar_split(archive: bytes) -> bytes:
    """The lines of a tar-split, gzipped: what is no file's content as it is, of that a CRC-64/ISO."""
    entries: list[dict[str, Any]] = []

    def raw(data: bytes) -> None:
        if data:
            payload = base64.b64encode(data).decode()
            entries.append({"type": 2, "payload": payload, "position": len(entries)})

    at = 0
    with tarfile.open(fileobj=io.BytesIO(archive)) as members:
        for member in members:
            raw(archive[at : member.offset_data])
            size = member.size if member.isreg() else 0
            at = member.offset_data + size
            entry: dict[str, Any] = {"type": 1, "name": member.name, "payload": None}
            if member.isdir():
                entry["name"] += "/"
            if size:
                checksum = crc64(archive[member.offset_data : at]).to_bytes(8, "big")
                entry |= {"size": size, "payload": base64.b64encode(checksum).decode()}
            entries.append(entry | {"position": len(entries)})
    raw(archive[at:])
    lines = "".join(json.dumps(entry, separators=(",", ":")) + "\n" for entry in entries)
    return gzip.compress(lines.encode(), mtime=0)
