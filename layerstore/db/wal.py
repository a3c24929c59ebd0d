"""Owns keeping the write-ahead log bounded while many use one store; it must not begin a transaction.

SQLite begins the log anew only if a commit finds nobody reading in it. With a hundred processes
somebody always is, and the log grows as long as that lasts. So past LIMIT whoever committed last
waits for the readers of that moment, for a few milliseconds; later readers need only the database
(https://www.sqlite.org/wal.html#avoiding_excessively_large_wal_files).
"""

from __future__ import annotations

import os
from typing import Any, Final

LIMIT: Final = 16 << 20
"""Bytes, four times what SQLite allows before it tries: the file is cut to this when it begins anew."""
PATIENCE: Final = 20
"""Milliseconds that all who want to write wait with the one that waits for the readers."""


class Bound:
    """What one writing connection does about it."""

    def __init__(self, connection: Any, path: str) -> None:
        self._log = f"{path}-wal"
        self._next = LIMIT
        connection.execute(f"PRAGMA journal_size_limit={LIMIT}")

    def keep(self, connection: Any) -> None:
        """To be called after a commit. While a reader does not end, every half more is a new try."""
        try:
            size = os.stat(self._log).st_size
        except FileNotFoundError:
            return
        if size <= self._next:
            if size <= LIMIT:
                self._next = LIMIT
            return
        (usual,) = connection.execute("PRAGMA busy_timeout").fetchone()
        connection.execute(f"PRAGMA busy_timeout={PATIENCE}")
        try:
            busy, _, _ = connection.execute("PRAGMA wal_checkpoint(RESTART)").fetchone()
        finally:
            connection.execute(f"PRAGMA busy_timeout={usual}")
        self._next = size + size // 2 if busy else size
