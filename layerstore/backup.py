"""Owns writing a copy of the database where a user wants it, while it is in use; it changes no store."""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path

from layerstore.db import engine
from layerstore.errors import InvalidArgument, LayerstoreError
from layerstore.fs import durable, layout, syscalls


def backup(home: Path, target: Path) -> None:
    """A copy of the database of `home` at `target`, of one moment, synced; it appears whole.

    It never replaces a file, and is never put into a store. Raises InvalidArgument.
    """
    _check_target(target)
    temporary = target.with_name(f".layerstore-{os.urandom(8).hex()}.tmp")
    try:
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
        engine.vacuum_into(os.fspath(home / layout.DATABASE), os.fspath(temporary), timeout=30)
        descriptor = os.open(temporary, os.O_RDONLY | os.O_CLOEXEC)
        try:
            durable.sync(descriptor, os.fspath(temporary))
        finally:
            os.close(descriptor)
        _publish(temporary, target)
    except FileExistsError as error:
        raise _exists(target) from error
    except OSError as error:
        raise LayerstoreError(f"{target} cannot be written: {error.strerror}.") from error
    finally:
        for name in (temporary, Path(f"{temporary}-journal")):
            with contextlib.suppress(FileNotFoundError):
                name.unlink()
    durable.sync_directory(os.fspath(target.parent))


def _check_target(target: Path) -> None:
    if os.path.lexists(target):
        raise _exists(target)
    if not target.parent.is_dir():
        raise InvalidArgument(f"There is no directory {target.parent}.", hint="Make it first.")
    place = target.parent.resolve()
    for above in (place, *place.parents):
        if (above / layout.STORE_FILE).exists():
            raise InvalidArgument(
                f"{target} is inside the store at {above}.",
                hint="Keep a backup apart from what it is the backup of.",
            )


def _exists(target: Path) -> InvalidArgument:
    return InvalidArgument(
        f"{target} exists already.", hint="A backup never replaces a file: take another name."
    )


def _publish(temporary: Path, target: Path) -> None:
    """Rename without replacing, or link where the file system has no such rename."""
    at, flags = syscalls.AT_FDCWD, syscalls.RENAME_NOREPLACE
    try:
        syscalls.renameat2(at, os.fspath(temporary), at, os.fspath(target), flags)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOSYS):
            raise
        os.link(temporary, target)
