"""Owns how SQLite opens a file whose path is longer than it can hold; it must not open one itself.

SQLite keeps paths in buffers of 512 bytes, and the kernel takes 4,096. So it is given a short one, which
goes through a descriptor of the directory: `/proc/self/fd/N/journal.db`. Given from outside, SQLite
would resolve that link to the long path again. Therefore its VFS (https://www.sqlite.org/vfs.html) is
registered once more, the same in everything but one function: that which makes a path absolute.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from typing import Any, Final

from layerstore.db.paths import LONG_PATH
from layerstore.errors import InvalidArgument

LONGEST: Final = 3_800
"""Bytes in the path of a database: below the home there are longer paths, and they have to fit, too."""
_OK: Final = 0
_CANNOT_OPEN: Final = 14


class _Vfs(ctypes.Structure):
    """sqlite3_vfs, as far as every version has it, and what follows up to version 3."""

    _fields_ = (
        ("iVersion", ctypes.c_int),
        ("szOsFile", ctypes.c_int),
        ("mxPathname", ctypes.c_int),
        ("pNext", ctypes.c_void_p),
        ("zName", ctypes.c_char_p),
        ("pAppData", ctypes.c_void_p),
        ("xOpen", ctypes.c_void_p),
        ("xDelete", ctypes.c_void_p),
        ("xAccess", ctypes.c_void_p),
        ("xFullPathname", ctypes.c_void_p),
        ("others", ctypes.c_void_p * 12),
    )


_FULL_PATHNAME: Final = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int, ctypes.c_void_p
)
_lock = threading.Lock()
_engaged: list[Any] = []
"""What SQLite has pointers to."""
_directories: dict[tuple[int, int], int] = {}
"""Descriptors, by device and inode. They stay open: SQLite keeps the paths that lead through them."""


def engage(path: str, driver: str) -> None:
    """Have the SQLite behind this driver open long paths from now on, of which this is one.

    InvalidArgument where the path is too long for everybody, or this SQLite cannot be made to.
    """
    length = len(os.fsencode(path))
    why = f"more than {LONGEST:,}" if length > LONGEST else ""
    extension = sys.modules["pysqlite3._sqlite3" if driver == "pysqlite3" else "_sqlite3"]
    with _lock:
        if not why and not _engaged:
            try:
                _engaged.extend(_register(ctypes.CDLL(getattr(extension, "__file__", None))))
            except (OSError, AttributeError) as error:
                why = f"too many for this SQLite: {error}"
    if why:
        raise InvalidArgument(
            f"The path of the database would have {length:,} bytes, {why} ({path[:40]}…{path[-40:]}).",
            hint="Bind-mount the directory at a shorter path, and use that as the home.",
        )


def _register(sqlite: ctypes.CDLL) -> list[Any]:
    sqlite.sqlite3_vfs_find.restype = ctypes.POINTER(_Vfs)
    found = sqlite.sqlite3_vfs_find(b"unix")
    if not found or found.contents.iVersion < 3:
        raise OSError("this SQLite has no VFS of the expected kind")
    made = _Vfs.from_buffer_copy(found.contents)
    original = _FULL_PATHNAME(made.xFullPathname)

    def full_pathname(vfs: int, name: bytes, room: int, out: int) -> int:
        if len(name) < LONG_PATH:  # what SQLite appends has to fit as well
            return int(original(vfs, name, room, out))
        try:
            short = _shortened(name)
        except (OSError, ValueError):
            return _CANNOT_OPEN
        if len(short) >= room:
            return _CANNOT_OPEN
        ctypes.memmove(out, short + b"\0", len(short) + 1)
        return _OK

    called = _FULL_PATHNAME(full_pathname)
    made.zName = b"layerstore"
    made.pNext = None
    made.xFullPathname = ctypes.cast(called, ctypes.c_void_p)
    if sqlite.sqlite3_vfs_register(ctypes.byref(made), 1) != _OK:
        raise OSError("this SQLite takes no other VFS")
    return [sqlite, made, called, original]


def _shortened(path: bytes) -> bytes:
    """The same file, through a descriptor of its directory."""
    directory, name = os.path.split(path)
    status = os.stat(directory)  # a name can come to mean another one
    key = status.st_dev, status.st_ino
    if key not in _directories:
        descriptor = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        if _directories.setdefault(key, descriptor) != descriptor:
            os.close(descriptor)  # another thread was faster
    return b"/proc/self/fd/%d/%s" % (_directories[key], name)
