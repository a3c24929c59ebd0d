"""Owns a file that a command writes and that has its name only when it is whole; not what is in it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import IO

from layerstore.errors import InvalidArgument


@contextlib.contextmanager
def appearing(path: str, *, synced: bool) -> Iterator[IO[bytes]]:
    """A new file to write to, which is renamed at the end, or deleted after an error.

    `synced`: it is on disk before it has its name, and the name before this ends. What is there
    and is no file stays: a device or a pipe is not replaced. Raises InvalidArgument.
    """
    from layerstore.fs import durable

    if os.path.lexists(path) and not os.path.isfile(path):
        raise InvalidArgument(f"{path} is there and is no file.", hint="'-o -' writes to a pipe.")
    temporary = f"{path}.{os.getpid()}.tmp"
    try:
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            if synced:
                durable.sync(file.fileno(), temporary)
        os.rename(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    if synced:
        durable.sync_directory(os.path.dirname(os.path.abspath(path)))
