"""Owns noticing that the database is no longer the file that was opened, or must not be written.

It must not open one: it only looks at names.
"""

from __future__ import annotations

import os
import time
from typing import Final

_COARSE: Final = 3_000_000_000
"""Nanoseconds, more than any supported file system's times are coarse: a directory that changed less
long ago can change again and have the same time."""


class Unchanged:
    """The database that was opened, and the mark beside it that an I/O error leaves.

    Neither comes, goes or is replaced without a change of the directory that both are in. So where
    that one is as it was when they were looked at, one look is enough.
    """

    def __init__(self, path: str, suspect: str) -> None:
        self._path = path
        self._suspect = suspect
        self._directory = os.path.dirname(path)
        self._one_look = self._directory == os.path.dirname(suspect)
        self._seen: tuple[int, int, int] | None = None
        status = os.stat(path)
        self._identity = (status.st_dev, status.st_ino)

    def difference(self) -> str:
        """Why nothing may be written to it any more, in words; empty where nothing is wrong."""
        if not self._one_look:
            return self._look()
        try:
            status = os.stat(self._directory)
        except FileNotFoundError:
            return self._look()
        # Not the time of the last modification, which can be set back.
        now = (status.st_ctime_ns, status.st_ino, status.st_dev)
        if now == self._seen:
            return ""
        found = self._look()
        if not found and time.time_ns() - status.st_ctime_ns > _COARSE:
            self._seen = now
        return found

    def _look(self) -> str:
        if os.path.exists(self._suspect):
            return "another process met an I/O error in it"
        try:
            status = os.stat(self._path)
        except FileNotFoundError:
            status = None
        if status is None or (status.st_dev, status.st_ino) != self._identity:
            return f"{self._path} is no longer the file that was opened"
        return ""
