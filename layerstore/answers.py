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
    file_system: str
    probes: Mapping[str, Any] = attrs.field(hash=False)
    warnings: tuple[str, ...]


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
