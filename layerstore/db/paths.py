"""Owns the path of a database in the form that SQLite takes; it must not look whether one is there."""

from __future__ import annotations

import os
from typing import Final

from layerstore.errors import InvalidArgument

LONGEST_PATH: Final = 504
"""Bytes in the path of a database, symbolic links resolved: SQLite opens none that is longer."""


def check_length(path: str) -> None:
    """Raise InvalidArgument where SQLite cannot open a database because of the length of its path."""
    length = len(os.fsencode(path))
    if length > LONGEST_PATH:
        raise InvalidArgument(
            f"The path of the database would have {length} bytes, and SQLite opens none of more than "
            f"{LONGEST_PATH}: {path[:40]}…{path[-40:]}.",
            hint="Bind-mount the directory at a shorter path, and use that as the home.",
        )


def quoted(path: str) -> str:
    """A path in a URI, as urllib.parse.quote has it, which takes 2 ms to import."""
    return "".join(chr(b) if b in _PLAIN else f"%{b:02X}" for b in os.fsencode(path))


_PLAIN: Final = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-~/")
