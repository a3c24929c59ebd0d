"""Owns the line that shows how far something long is, on a terminal; it must not write anything else,
nor anything at all where nobody looks.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import attrs

from layerstore.cli.output import Output, many

if TYPE_CHECKING:
    from layerstore.fs.archive import Readable

Advance = Callable[[int, int | None, int], None]
"""Told how many bytes are done, of how many (None where that is not known), and how many files."""


def _nothing(done: int, total: int | None, files: int) -> None:
    del done, total, files


def wanted(out: Output) -> bool:
    """Whether somebody watches who wants to be told."""
    dumb = os.environ.get("TERM") == "dumb"
    return sys.stderr.isatty() and not (out.quiet or out.json or dumb)


@contextmanager
def bar(out: Output, what: str) -> Iterator[Advance]:
    """A bar on stderr with bytes, files, rate and time left, which is gone at the end."""
    if not wanted(out):
        yield _nothing
        return
    from rich import progress
    from rich.console import Console

    columns = (
        progress.TextColumn("{task.description}", markup=False),
        progress.BarColumn(),
        progress.DownloadColumn(binary_units=True),
        progress.TextColumn("{task.fields[files]}"),
        progress.TransferSpeedColumn(),
        progress.TimeRemainingColumn(compact=True),
    )
    console = Console(stderr=True, no_color=not out.colored(sys.stderr))
    with progress.Progress(*columns, console=console, transient=True) as line:
        task = line.add_task(what, total=None, files="")

        def advance(done: int, total: int | None, files: int) -> None:
            line.update(task, completed=done, total=total, files=many(files, "file"))

        yield advance


@attrs.define
class Counted:
    """What is shown where bytes and files become known one after the other."""

    advance: Advance
    total: int | None
    done: int = 0
    count: int = 0

    def bytes(self, more: int) -> None:
        self.done += more
        self.advance(self.done, self.total, self.count)

    def files(self, count: int) -> None:
        self.count = count
        self.advance(self.done, self.total, count)


@contextmanager
def counted(out: Output, what: str, total: int | None) -> Iterator[Counted]:
    """The same, for who is told piece by piece. `total`: bytes in all, if that is known."""
    with bar(out, what) as advance:
        yield Counted(advance, total)


@attrs.frozen
class Watched:
    """A stream that tells what is read of it."""

    stream: Readable
    counted: Counted

    def read(self, size: int, /) -> bytes:
        data = self.stream.read(size)
        self.counted.bytes(len(data))
        return data


def size_of(path: str) -> int | None:
    """The bytes of a regular file; None for what has no size beforehand."""
    try:
        return os.stat(path).st_size or None
    except OSError:
        return None
