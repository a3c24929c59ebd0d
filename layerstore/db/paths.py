"""Owns the path of a database in the form that SQLite takes; it must not look whether one is there."""

from __future__ import annotations

import os
from typing import Final

LONG_PATH: Final = 400
"""Bytes. SQLite by itself opens nothing beyond 504, and copies and archives have longer names."""


def make_reachable(path: str, driver: str) -> None:
    """Let SQLite open a database of this path, its copies and its archives; InvalidArgument if not."""
    if len(os.fsencode(path)) >= LONG_PATH:
        from layerstore.db import longpaths

        longpaths.engage(path, driver)


def quoted(path: str) -> str:
    """A path in a URI, as urllib.parse.quote has it, which takes 2 ms to import."""
    return "".join(chr(b) if b in _PLAIN else f"%{b:02X}" for b in os.fsencode(path))


_PLAIN: Final = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-~/")
