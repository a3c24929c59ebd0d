"""Owns what the standard streams are when the program starts; it must not print.

A program that a service manager or a script starts with a stream closed gets the null device in its
place: else the first file that it opens, such as the database, would be its standard output.
"""

from __future__ import annotations

import os
import sys
from typing import Final

_MODES: Final = {"stdin": "r", "stdout": "w", "stderr": "w"}


def prepare() -> None:
    """No stream is missing, and any text can be printed."""
    _open_missing()
    for stream in (sys.stdout, sys.stderr):
        # A path that is not text comes out as the bytes it is; other text never fails to print.
        utf8 = stream.encoding.lower() == "utf-8"
        stream.reconfigure(errors="surrogateescape" if utf8 else "backslashreplace")  # type: ignore[union-attr]


def _open_missing() -> None:
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    for number, (name, mode) in enumerate(_MODES.items()):
        if getattr(sys, name) is None:  # what Python makes of a stream that was closed
            setattr(sys, name, open(number, mode, closefd=False))  # noqa: SIM115 - it stays open
