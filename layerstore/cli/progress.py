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

from layerstore.cli.output import Output

if TYPE_CHECKING:
    from layerstore.fs.archive import Readable

Advance = Callable[[int, int | None], None]
"""Told how many bytes are done, and of how many; None where that is not known."""


def _nothing(done: int, total: int | None) -> None:
    del done, total


def wanted(out: Output) -> bool:
    """Whether somebody watches who wants to be told."""
    dumb = os.environ.get("TERM") == "dumb"
    return sys.stderr.isatty() and not (out.quiet or out.json or dumb)


@contextmanager
def bar(out: Output, what: str) -> Iterator[Advance]:
    """A bar on stderr with bytes, rate and time left, which is gone at the end."""
    if not wanted(out):
        yield _nothing
        return
    from rich import progress
    from rich.console import Console

    columns = (
        progress.TextColumn("{task.description}", markup=False),
        progress.BarColumn(),
        progress.DownloadColumn(binary_units=True),
        progress.TransferSpeedColumn(),
        progress.TimeRemainingColumn(compact=True),
    )
    console = Console(stderr=True, no_color=not out.colored(sys.stderr))
    with progress.Progress(*columns, console=console, transient=True) as line:
        task = line.add_task(what, total=None)

        def advance(done: int, total: int | None) -> None:
            line.update(task, completed=done, total=total)

        yield advance


@contextmanager
def counted(out: Output, what: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """The same, for who is told piece by piece. `total`: bytes in all, if that is known."""
    done = 0
    with bar(out, what) as advance:

        def told(count: int) -> None:
            nonlocal done
            done += count
            advance(done, total)

        yield told


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
