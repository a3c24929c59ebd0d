"""Owns what a store says of its own condition: sizes, counts, probes, warnings; it must not change any.

It reads the index, and files of the store's own. What is in the tree is the audit's to judge.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from layerstore import adoption, answers, archives, place, rows
from layerstore import model as m
from layerstore.db import engine
from layerstore.db import statements as sql
from layerstore.description import Description
from layerstore.fs import ballast, layout, mountinfo, namespaces

_SYNCHRONOUS: Final = {
    m.Durability.FULL.value: "outcomes FULL; intents, gets and puts NORMAL",
    m.Durability.PROCESS.value: "NORMAL",
}
"""What commits are synced with."""


def status(
    home: Path,
    about: Description,
    read: archives.Read,
    *,
    durability: str,
    more_warnings: tuple[str, ...],
) -> answers.Status:
    """What the store is and runs on; `read` asks its database."""
    free, inodes = ballast.room(os.fspath(home))
    layers, damaged = read(sql.COUNT_LAYERS)[0]
    probes = _probes(home)
    database = os.fspath(home / layout.DATABASE)
    return answers.Status(
        home=os.fspath(home),
        store_id=about.store_id,
        format=about.format,
        schema=sql.REVISION,
        seq=read(sql.LAST_SEQ)[0][0],
        durability=durability,
        max_depth=about.max_depth,
        layers=layers,
        mounts=read(sql.COUNT_MOUNTS)[0][0],
        holds=read(sql.COUNT_HOLDS)[0][0],
        operations=len(read(sql.SELECT_OPERATIONS)),
        damaged=damaged,
        owners=tuple(rows.owner(row) for row in read(sql.SELECT_OPEN_OWNERS)),
        sqlite=engine.SQLITE_VERSION,
        sqlite_driver=engine.DRIVER,
        journal_mode=str(read("PRAGMA journal_mode")[0][0]),
        synchronous=_SYNCHRONOUS[durability],
        database_bytes=_size(database),
        wal_bytes=_size(f"{database}-wal"),
        ballast=ballast.pieces(os.fspath(home)),
        free_bytes=free,
        free_inodes=inodes,
        file_system=str(probes.get("file_system", "not probed")),
        probes=probes,
        warnings=(
            *_warnings(home, about, probes),
            *(() if adoption.read(home) else ballast.warnings(os.fspath(home))),
            *more_warnings,
        ),
        events=read(sql.COUNT_EVENTS)[0][0],
        **_archived(os.fspath(home), read),
    )


def _archived(home: str, read: archives.Read) -> dict[str, Any]:
    kept = archives.counted(home, archives.cut_of(read))
    at = read(sql.SELECT_META_OF, key=archives.COMPACTED_AT)
    return {
        "archives": len(kept),
        "archive_bytes": sum(_size(archive.path) for archive in kept),
        "compacted_at": m.from_micros(int(at[0][0])) if at else None,
    }


def _probes(home: Path) -> dict[str, Any]:
    """What the last open that wrote found out about kernel and file system."""
    try:
        found: dict[str, Any] = json.loads((home / layout.PROBES).read_text())
    except (OSError, ValueError):
        return {}
    return found


def _warnings(home: Path, about: Description, probes: Mapping[str, Any]) -> Iterator[str]:
    if engine.ONE_WRITER_NEEDED:
        yield (
            f"SQLite {engine.SQLITE_VERSION} has the WAL-reset race (fixed in 3.51.3): "
            "writers take turns by a lock file"
        )
    yield from adoption.warnings(home)
    yield from place.warnings(home, about.store_id)
    if probes.get("upper_probe") is False:
        yield "this kernel does not say whether an upper directory is in use"
    if probes.get("problem"):
        yield str(probes["problem"])
    for name in mountinfo.parted(os.fspath(home)):
        yield f"{name} is another mount than the home: layers cannot be renamed out of it"
    if probes and probes.get("user_namespace") != namespaces.in_user_namespace():
        yield "the probes are of another kind of process: root's, or one's in a user namespace"


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return 0
