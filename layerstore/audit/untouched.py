"""Owns opening a database so that nothing of it, and nothing beside it, is changed or made.

With its shared memory there, SQLite reads with it and cannot write it. Without, and without a log
that has content, the file alone is the database. Otherwise database and log are copied by another
process (this one must not open and close the files of a database that it may have open), and the
copy is read.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from layerstore.db import engine
from layerstore.errors import LayerstoreError, StoreDamaged
from layerstore.fs import layout

SHARED: Final = "mode=ro&readonly_shm=1"
ALONE: Final = "mode=ro&immutable=1"
_TRIES: Final = 5


@contextlib.contextmanager
def opened(home: Path) -> Iterator[tuple[engine.ReadDatabase, str]]:
    """The database, and how else the same one is opened; StoreDamaged where it is none."""
    copied = os.path.exists(home / layout.REWRITTEN)
    path = os.fspath(home / (layout.REWRITTEN if copied else layout.DATABASE))
    with contextlib.ExitStack() as stack:
        database, query = _opened(path, stack)
        stack.callback(database.close)
        yield database, query


def _opened(path: str, stack: contextlib.ExitStack) -> tuple[engine.ReadDatabase, str]:
    for number in range(_TRIES):
        try:
            if os.path.exists(f"{path}-shm"):
                return engine.ReadDatabase(path, timeout=30, query=SHARED), SHARED
            if not _has_content(f"{path}-wal"):
                return engine.ReadDatabase(path, timeout=30, query=ALONE), ALONE
        except LayerstoreError:
            # Somebody opened it for the first time, or closed it for the last, a moment ago.
            if number == _TRIES - 1:
                raise
            continue
        place = stack.enter_context(_copy(path))
        if place is not None:
            return engine.ReadDatabase(place, timeout=30, query="mode=ro"), "mode=ro"
    raise StoreDamaged(f"The database {path} is opened and closed all the time.", hint="Try again.")


def _has_content(path: str) -> bool:
    try:
        return os.stat(path).st_size > 0
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def _copy(path: str) -> Iterator[str | None]:
    """A copy of database and log; None where somebody came while it was made."""
    directory = tempfile.mkdtemp(prefix="layerstore-audit-")
    try:
        done = subprocess.run(
            ["cp", "--", path, f"{path}-wal", directory],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
        )
        steady = done.returncode == 0 and not os.path.exists(f"{path}-shm")
        yield f"{directory}/{os.path.basename(path)}" if steady else None
    finally:
        shutil.rmtree(directory, ignore_errors=True)
