"""Damages to what layers hold, and the records that tell of them: ours, and Docker's."""

from __future__ import annotations

import base64
import gzip
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path

from layerstore import Store
from layerstore.fs import layout

POLYNOMIAL = 0xD800000000000000


def crc64(data: bytes) -> int:
    """CRC-64 (ISO), bit by bit: the slow way, to compare with."""
    value = (1 << 64) - 1
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = (value >> 1) ^ (POLYNOMIAL if value & 1 else 0)
    return value ^ ((1 << 64) - 1)


def split(files: Mapping[str, bytes]) -> bytes:
    """What Docker keeps of an archive of these files, its segments left out."""
    lines = [{"type": 2, "payload": "AAAA", "position": 0}]
    for name, content in files.items():
        entry: dict[str, object] = {"type": 1, "name": name, "position": len(lines)}
        if content:
            entry["size"] = len(content)
            entry["payload"] = base64.b64encode(crc64(content).to_bytes(8, "big")).decode()
        lines.append(entry)
    return gzip.compress("".join(f"{json.dumps(line)}\n" for line in lines).encode(), mtime=0)


def _flip(path: Path) -> None:
    """Other bytes of the same size, and the same time, as a bad disk would give."""
    status = path.stat()
    path.write_bytes(b"X" * status.st_size)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def _extra(path: Path) -> None:
    (path.parent / "extra").write_text("")


DAMAGES: dict[str, tuple[str, Callable[[Path], object], bool]] = {
    "file missing": ("content-missing", lambda path: path.unlink(), True),
    "file short": ("content-short", lambda path: os.truncate(path, 1), True),
    "file empty": ("content-short", lambda path: os.truncate(path, 0), True),
    "file zeroed": ("content-zeroed", lambda path: path.write_bytes(bytes(4)), True),
    "file rotten": ("content-changed", _flip, True),
    "file longer": ("content-changed", lambda path: path.write_text("base and more"), True),
    "mode changed": ("content-metadata", lambda path: path.chmod(0o600), False),
    "time changed": ("content-metadata", lambda path: os.utime(path, ns=(0, 1)), False),
    "file more": ("content-extra", _extra, False),
}
"""By name: the code, what happens to a file of four bytes, and whether Docker's record tells of it."""


def _record(home: Path) -> None:
    if (home / layout.OWN).is_dir():
        with Store.open(home) as store:
            store.record_manifest("base")


def damaged(change: Callable[[Path], object]) -> Callable[[Path], None]:
    """What the base layer holds is recorded, and then it changes."""

    def do(home: Path) -> None:
        _record(home)
        change(home / "base/diff/of-base")

    return do


def manifest_of(change: Callable[[Path], object]) -> Callable[[Path], None]:
    """The base layer has a manifest, and that changes."""

    def do(home: Path) -> None:
        _record(home)
        change(home / layout.manifest("base"))

    return do


def forgotten(home: Path) -> None:
    """There is a manifest that no row tells of."""
    (home / layout.MANIFESTS).mkdir(mode=0o700)
    (home / layout.manifest("base")).write_bytes(b"")
