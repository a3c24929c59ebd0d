"""Owns which project id a layer gets for its quota; it must not set anything on the disk.

The table is what this store has taken. Whether an id is really free only the kernel knows: one that
has a limit, or to which a file belongs, is somebody else's, or not yet let go of, and is passed by.
"""

from __future__ import annotations

import zlib
from typing import Final

from layerstore.db import statements as sql
from layerstore.errors import InvalidOption, LayerstoreError
from layerstore.fs import layout, quota
from layerstore.journal import Transaction

_RANGE: Final = 20
"""Each store begins at a multiple of 2**20 of its own, far above what people number by hand."""
_TRIES: Final = 10_000


def first_of(store_id: str) -> int:
    """Where the ids of a store begin: two stores on one file system seldom meet."""
    return (16 + zlib.crc32(store_id.encode()) % 2000) << _RANGE


def require_quotas(home: str, asked_by: str) -> None:
    """InvalidOption that says what is missing, and how to get it, unless a limit can be set."""
    missing = quota.problem(home)
    if missing is not None:
        what, way_out = missing
        raise InvalidOption(f"{asked_by} needs project quotas, and {what}.", hint=way_out)


def allocate(tx: Transaction, home: str, store_id: str) -> int:
    """The lowest id that neither the table nor the kernel has anything for."""
    candidate = first_of(store_id)
    for _ in range(_TRIES):
        if tx.one(sql.SELECT_PROJECT_BY_ID, id=candidate) is not None:
            row = tx.one(sql.SELECT_GAP, first=candidate)
            assert row is not None
            candidate = row[0]
        if quota.usage(home, candidate).free:
            return candidate
        candidate += 1
    raise LayerstoreError(
        f"There is no free project id among {_TRIES} below {candidate}.",
        hint="Others on this file system use them; 'repquota -P' lists who.",
    )


def found_at(tx: Transaction, home: str, layer: str) -> tuple[int, int]:
    """The id and the limit of a directory that no row tells of; (0, 0) where it has none of its own."""
    above = quota.project_of(home)
    for name in (layout.diff(layer), layout.work(layer)):
        found = quota.project_of(f"{home}/{name}")
        if found is None or above is None or not found.inherits or found.id in (0, above.id):
            continue
        if tx.one(sql.SELECT_PROJECT_BY_ID, id=found.id) is not None:
            continue
        try:
            return found.id, quota.usage(home, found.id).limit
        except OSError:  # quotas are off now
            return found.id, 0
    return 0, 0
