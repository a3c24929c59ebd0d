"""Owns reading small foreign files without touching their times; it must not trust what it reads."""

from __future__ import annotations

import errno
import json
import os
from typing import Any, Final

from layerstore.fs import files

LARGEST: Final = 1 << 28
"""Bytes of one document: more is not believed."""
_SMALL: Final = 1 << 16


class Unreadable(Exception):
    """A file that is not there, or not what it should be; the text completes "it is …"."""


def listed(directory: str) -> list[str]:
    """The names in a directory, sorted; none where there is no such directory."""
    try:
        descriptor = _open(directory, os.O_DIRECTORY)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        if error.errno == errno.ELOOP:
            return []
        raise
    try:
        return sorted(os.listdir(descriptor))
    finally:
        os.close(descriptor)


def word(path: str) -> str:
    """The text of a small file without the space around it. Raises Unreadable if there is none."""
    text = content(path, _SMALL).decode("ascii", errors="replace").strip()
    if not text or "\0" in text:
        raise Unreadable("empty" if not text.strip("\0") else "garbled")
    return text


def document(path: str) -> Any:
    """The value of a JSON document. Raises Unreadable."""
    data = content(path, LARGEST)
    if not data.strip(b"\0 \n"):
        raise Unreadable("empty")
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise Unreadable(f"no JSON document ({error})") from error


def beginning(path: str, size: int) -> bytes:
    """The first bytes of a file. Raises Unreadable."""
    try:
        descriptor = _open(path, os.O_NONBLOCK)
    except OSError as error:
        raise Unreadable(f"unreadable ({error.strerror})") from error
    try:
        return os.pread(descriptor, size, 0)
    finally:
        os.close(descriptor)


def content(path: str, limit: int) -> bytes:
    """The bytes of a regular file, at most `limit`. Raises Unreadable; OSError where it may not look."""
    try:
        descriptor = _open(path, os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise Unreadable("missing") from error
    except PermissionError:
        raise  # whoever asks may not look, and nothing is wrong with the file
    except OSError as error:
        raise Unreadable(f"unreadable ({error.strerror})") from error
    try:
        parts: list[bytes] = []
        size = 0
        while data := os.read(descriptor, min(limit + 1, 1 << 20)):
            parts.append(data)
            size += len(data)
            if size > limit:
                raise Unreadable(f"larger than {limit} bytes")
        return b"".join(parts)
    except OSError as error:
        raise Unreadable(f"unreadable ({error.strerror})") from error
    finally:
        os.close(descriptor)


def _open(path: str, flags: int) -> int:
    return files.open_quietly(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | flags)


# --- fields of documents --------------------------------------------------------------------------


def mapping(value: Any) -> dict[str, Any]:
    """The value, if it is an object; else an empty one."""
    return value if isinstance(value, dict) else {}


def text(value: Any, key: str) -> str:
    """A text in an object; empty if there is none."""
    found = mapping(value).get(key)
    return found if isinstance(found, str) else ""


def texts(value: Any, key: str) -> tuple[str, ...]:
    """The texts of a list in an object."""
    found = mapping(value).get(key)
    return tuple(item for item in found if isinstance(item, str)) if isinstance(found, list) else ()


def number(value: Any, key: str) -> int | None:
    """A whole number in an object that is not below zero; None if there is none."""
    found = mapping(value).get(key)
    return found if type(found) is int and found >= 0 else None
