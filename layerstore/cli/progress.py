"""Owns progress bars: on a terminal, while something long runs; in a pipe there is none."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from layerstore.cli.output import Output

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
    """A bar on stderr with bytes and rate, which is gone at the end."""
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
    )
    console = Console(stderr=True, no_color=not out.colored(sys.stderr))
    with progress.Progress(*columns, console=console, transient=True) as shown:
        task = shown.add_task(what, total=None)

        def advance(done: int, total: int | None) -> None:
            shown.update(task, completed=done, total=total)

        yield advance
