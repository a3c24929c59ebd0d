"""Owns the line that shows how far an archive is, on a terminal; it must not write anything else, nor
anything at all where nobody looks.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import attrs

from layerstore.cli.app import App

if TYPE_CHECKING:
    from layerstore.fs.archive import Readable


@contextmanager
def shown(app: App, what: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """Show a line while the block runs; it gives a function that is told of each bytes that went by.

    `total`: bytes in all, if that is known. Silent unless stderr is a terminal, and with -q or JSON.
    """
    if app.out.quiet or app.out.json or not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich import progress
    from rich.console import Console

    columns = (
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.DownloadColumn(binary_units=True),
        progress.TransferSpeedColumn(),
        progress.TimeRemainingColumn(compact=True),
    )
    with progress.Progress(*columns, console=Console(stderr=True), transient=True) as line:
        task = line.add_task(what, total=total)
        yield lambda count: line.advance(task, count)


@attrs.frozen
class Watched:
    """A stream that tells what is read of it."""

    stream: Readable
    told: Callable[[int], None]

    def read(self, size: int, /) -> bytes:
        data = self.stream.read(size)
        self.told(len(data))
        return data


def size_of(path: str) -> int | None:
    """The bytes of a regular file; None for what has no size beforehand."""
    try:
        return os.stat(path).st_size or None
    except OSError:
        return None
