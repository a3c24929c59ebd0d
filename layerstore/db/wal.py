"""Owns keeping the write-ahead log bounded while many use one store; it must not begin a transaction.

SQLite begins the log anew only if a commit finds nobody reading in it. With a hundred processes
somebody always is, and the log grows as long as that lasts. So past LIMIT whoever committed last
waits for the readers of that moment, for a few milliseconds; later readers need only the database
(https://www.sqlite.org/wal.html#avoiding_excessively_large_wal_files).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Final

LIMIT: Final = 16 << 20
"""Bytes, four times what SQLite allows before it tries: the file is cut to this when it begins anew."""
PATIENCE: Final = 20
"""Milliseconds that all who want to write wait with the one that waits for the readers."""
_SELDOM: Final = 8
"""A log that is far from its limit is looked at after so many commits."""


class Bound:
    """What one writing connection does about it."""

    def __init__(self, connection: Any, path: str) -> None:
        self._log = f"{path}-wal"
        self._next = LIMIT
        # Not all processes at once.
        self._skip = os.getpid() % _SELDOM
        connection.execute(f"PRAGMA journal_size_limit={LIMIT}")

    def keep(self, connection: Any, checkpoint: Callable[[str], int | None]) -> None:
        """To be called after a commit. While a reader does not end, every half more is a new try."""
        if self._skip:
            self._skip -= 1
            return
        try:
            size = os.stat(self._log).st_size
        except FileNotFoundError:
            return
        if size <= self._next:
            if size <= LIMIT:
                self._next = LIMIT
            if size < LIMIT // 2:
                self._skip = _SELDOM - 1
            return
        (usual,) = connection.execute("PRAGMA busy_timeout").fetchone()
        connection.execute(f"PRAGMA busy_timeout={PATIENCE}")
        try:
            checkpoint("RESTART")
        finally:
            connection.execute(f"PRAGMA busy_timeout={usual}")
        self._next = size + size // 2
