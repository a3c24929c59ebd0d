"""Owns the room that WAL and database keep: blocks that are theirs already when the disk is full.

It must not decide when. A large row is written and deleted again: the WAL keeps the size that it
had, and the database has free pages from then on, which take what a checkpoint writes back.
"""

from __future__ import annotations

import os
from typing import Final

from layerstore.db import engine
from layerstore.db import statements as sql

LARGEST: Final = 1 << 20
"""Four events and some rows of a thousand removes; the WAL is written back whenever it is full."""
KEY: Final = "reserve"
"""The row of `meta`; one that is left by a kill is replaced and deleted by the next open."""
_SHARE: Final = 64
"""At most one part in so many of the file system."""
_PAGE: Final = 4096


def wanted(path: str) -> int:
    """Bytes to keep on the file system of `path`; 0 where there is not eight times as much room."""
    status = os.statvfs(path)
    size = min(LARGEST, status.f_blocks * status.f_frsize // _SHARE)
    return size if status.f_bavail * status.f_frsize > 8 * size else 0


def is_short(database: engine.ReadDatabase, size: int) -> bool:
    """Whether the WAL is smaller than that, or the database has less than a quarter of it free."""
    try:
        wal = os.stat(f"{database.path}-wal").st_size
    except FileNotFoundError:
        wal = 0
    free: int = database.read("PRAGMA freelist_count")[0][0] * _PAGE
    return wal < size or free < size // 4


def keep(database: engine.Database) -> bool:
    """Write the row and delete it again, where the reserve is short and there is room for it."""
    size = wanted(database.path)
    if not is_short(database, size):
        return False
    with database.write(full=False) as connection:
        connection.execute(sql.PUT_META, {"key": KEY, "value": bytes(size)})
    with database.write(full=False) as connection:
        connection.execute(sql.DELETE_META, {"key": KEY})
    database.checkpoint()
    return True
