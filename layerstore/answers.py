"""Owns the answers that are more than one noun of `model`; it must not do I/O or read a clock.

They stand apart because most questions need none of them: making a class takes its time at start.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any

import attrs

from layerstore.model import Hold, Layer, LayerId, Mount, Operation, Owner


@attrs.frozen
class Removal:
    """What `remove` would meet: `blocked_by` in words, what would go, what would stay."""

    layer: LayerId
    blocked_by: tuple[str, ...]
    children: tuple[LayerId, ...]
    holders: tuple[Hold, ...]
    mounted: bool
    unmounts: bool
    """Whether removing it would end a mount that only the caller holds, or nobody."""
    frees_parent: LayerId | None
    """The parent, where this is its last child: it could be removed next."""


@attrs.frozen
class Quota:
    """What a layer may have, and has, in bytes, as the kernel counts it now."""

    project: int
    size: int
    """What it was created with."""
    limit: int
    """What the kernel holds it to; 0: nothing, which is not what it was created with."""
    used: int
    inodes: int


@attrs.frozen
class Entry:
    """One row of the journal with its event."""

    seq: int
    epoch: str
    operation: str | None
    owner: str
    boot_id: str
    at: datetime
    kind: str
    layer: str | None
    event: Any


@attrs.frozen
class State:
    """The store as it was after event `seq`."""

    seq: int
    layers: tuple[Layer, ...]
    holds: tuple[Hold, ...]
    mounts: tuple[Mount, ...]
    operations: tuple[Operation, ...]


@attrs.frozen
class Compaction:
    """What a compaction moved: the events `first` to `last`, `events` of them, to `archive`.

    Where there was nothing to move, `archive` is None and `events` 0.
    """

    first: int
    last: int
    events: int
    archive: str | None
    """The path of the new archive; it may have been deleted again by `keep_archives=0`."""
    deleted: tuple[str, ...] = ()
    """The paths of older archives that were deleted."""


@attrs.frozen
class Status:
    """What the store is and runs on; `probes` holds what the kernel and file system can do."""

    home: str
    store_id: str
    format: int
    schema: str
    seq: int
    durability: str
    max_depth: int
    layers: int
    mounts: int
    holds: int
    operations: int
    damaged: int
    owners: tuple[Owner, ...]
    sqlite: str
    sqlite_driver: str
    journal_mode: str
    synchronous: str
    database_bytes: int
    wal_bytes: int
    ballast: int
    """Pieces of the ballast that are there, of 16."""
    free_bytes: int
    free_inodes: int | None
    """None where the file system does not count them."""
    file_system: str
    probes: Mapping[str, Any] = attrs.field(hash=False)
    warnings: tuple[str, ...]
    events: int = 0
    """Events in the journal itself."""
    archives: int = 0
    archive_bytes: int = 0
    compacted_at: datetime | None = None


class ChangeKind(StrEnum):
    MODIFY = "modify"
    ADD = "add"
    DELETE = "delete"


@attrs.frozen
class Change:
    """One path that a layer changed; it begins with `/`, and has bytes that are not UTF-8 as
    surrogates.
    """

    path: str
    kind: ChangeKind
