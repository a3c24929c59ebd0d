"""Owns what an error of the database driver means; it must not open a database itself.

pysqlite3 does not tell kinds of errors apart, so it is told by the text, and by asking the file system.
"""

from __future__ import annotations

import os
import stat
from typing import Final

from layerstore.errors import Busy, DiskFull, StoreDamaged, StoreUnreachable
from layerstore.fs import durable

_NO_MEDIUM: Final = frozenset({8, 9, 11, 12, 14, 15, 18, 19, 20, 21})
"""Kinds of "disk I/O error" that are about locks and memory that is shared, not about the disk
(https://www.sqlite.org/rescode.html#extrc)."""


def is_io_error(error: Exception) -> bool:
    """Whether the medium failed: what was written, also before, may not be on it."""
    code = getattr(error, "sqlite_errorcode", None)
    if code is None:
        return "disk I/O error" in str(error)
    return code & 0xFF == 10 and code >> 8 not in _NO_MEDIUM


def is_full(path: str, error: Exception) -> bool:
    """Whether there is no room: of some files that it makes SQLite only says that it cannot.

    pysqlite3 does not tell kinds of errors apart, so the file system is asked.
    """
    code = getattr(error, "sqlite_errorcode", None)
    if code is None:
        return "is full" in str(error)
    if code & 0xFF == 13:
        return True
    kind = code >> 8
    return code & 0xFF in (10, 14) and kind in {0, *_NO_MEDIUM} and not durable.has_room(path)


def is_locked(error: Exception) -> bool:
    return "locked" in str(error) or "busy" in str(error)


_OUTSIDE: Final = frozenset({3, 7, 8, 10, 13, 14, 23})
"""Rights, memory, read-only, I/O, room, no file: kinds of errors that are not about what is in it."""
_OUTSIDE_WORDS: Final = ("disk I/O error", "unable to open", "readonly", "out of memory", "is full")


def is_outside(error: Exception) -> bool:
    """Whether something around the database failed, and the database may be whole."""
    code = getattr(error, "sqlite_errorcode", None)
    if code is None:
        return any(words in str(error) for words in _OUTSIDE_WORDS)
    return code & 0xFF in _OUTSIDE


def damaged(path: str, error: Exception) -> StoreDamaged:
    if is_outside(error) and _may_be_there(path):
        return StoreUnreachable(path, str(error))
    unread = "" if is_outside(error) else _cannot_be_read(path)
    if unread:
        return StoreUnreachable(path, unread)
    return StoreDamaged(
        f"The database {path} cannot be used: {error}.",
        hint="'layerstore db rebuild' sets it aside and makes it anew from the tree.",
    )


def _may_be_there(path: str) -> bool:
    """Whether there is a file, or the file system cannot say so."""
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True


_READ: Final = """
import sys
for name in sys.argv[1:]:
    try:
        with open(name, "rb", buffering=0) as file:
            while file.read(1 << 20):
                pass
    except FileNotFoundError:
        pass
    except OSError as error:
        sys.exit(print(error.strerror))
"""


def _cannot_be_read(path: str) -> str:
    """What the disk says to somebody who reads the database; empty if it gives all of it.

    Where a read fails SQLite speaks of a malformed database, as of one that is. This process must not
    open the file, or its locks are gone: so another one reads it.
    """
    import subprocess  # where nothing is wrong nobody needs it
    import sys

    command = [sys.executable, "-I", "-S", "-c", _READ, path, f"{path}-wal"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def explain(path: str, error: Exception) -> Exception:
    """What a driver error means to a user."""
    if is_locked(error):
        return Busy(f"The database {path} is locked by another process.")
    if is_full(path, error):
        return DiskFull(path)
    return damaged(path, error)
