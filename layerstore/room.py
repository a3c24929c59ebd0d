"""Owns what is tried when the disk is full: a checkpoint, then the ballast, piece by piece.

It must not decide which verb may have it, and never repeats what had an effect: what it is given
either fails whole, like a transaction, or tolerates repetition, like a step.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TypeVar

from layerstore.errors import DiskFull
from layerstore.fs import ballast, durable

if TYPE_CHECKING:
    from layerstore.db import engine

T = TypeVar("T")


def is_full(error: BaseException) -> bool:
    """Whether an error says that the disk is full."""
    return isinstance(error, DiskFull) or durable.is_full(error)


@contextlib.contextmanager
def explained(home: str | os.PathLike[str]) -> Iterator[None]:
    """What the operating system says about a full disk, as DiskFull."""
    try:
        yield
    except OSError as error:
        if not is_full(error):
            raise
        raise DiskFull(os.fspath(home)) from error


def making(
    home: str,
    action: Callable[[], T],
    *,
    database: engine.Database | None = None,
    may_release: Callable[[], bool] = lambda: True,
) -> T:
    """Do `action`, again after each thing that made room; its error when nothing is left to try.

    `database`: its log is written back first, and begun anew with the next transaction, so that it
    grows no more. `may_release()` is asked before each piece of the ballast.
    """
    checkpointed = False
    while True:
        try:
            return action()
        except (OSError, DiskFull) as error:
            if not is_full(error):
                raise
            if database is not None and not checkpointed:
                checkpointed = True
                database.checkpoint()
            elif not may_release() or not ballast.release(home):
                raise
            else:
                checkpointed = False
