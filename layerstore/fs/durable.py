"""Owns write, sync, rename, sync of the directory, in one place; it must not know what is written."""

from __future__ import annotations

import os
import secrets


def write_file(path: str, content: str, *, mode: int, sync: bool) -> None:
    """Write a file in place, for a place that nobody reads yet; `sync` before it is closed."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
    try:
        if content:
            data = content.encode()
            os.ftruncate(descriptor, 0)
            while data:
                data = data[os.write(descriptor, data) :]
        os.fchmod(descriptor, mode)
        if sync:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_directory(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_file(path: str, content: str, *, mode: int) -> None:
    """Put a file where readers see the old one or the new one, also after a power cut."""
    directory, name = os.path.split(path)
    temporary = f"{directory}/.{name}.{secrets.token_hex(8)}.tmp"
    try:
        write_file(temporary, content, mode=mode, sync=True)
        os.rename(temporary, path)
    except BaseException:
        if os.path.lexists(temporary):
            os.unlink(temporary)
        raise
    sync_directory(directory)
