"""Owns what is tried when the disk is full: a checkpoint, then the ballast, piece by piece.

It must not decide which verb may have it, and never repeats what had an effect: what it is given
either fails whole, like a transaction, or tolerates repetition, like a step.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final, TypeVar

from layerstore.errors import Busy, DiskFull
from layerstore.fs import ballast, durable

if TYPE_CHECKING:
    from layerstore.db import engine

T = TypeVar("T")


def is_full(error: BaseException) -> bool:
    """Whether an error says that the disk is full."""
    return isinstance(error, DiskFull) or durable.is_full(error)


@contextlib.contextmanager
def explained(home: str | os.PathLike[str]) -> Iterator[None]:
    """What the operating system says about a full disk, as DiskFull; what names nothing, with the home."""
    try:
        with durable.naming(home):
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
    grows no more; what is released goes to that before all. `may_release()` is asked before each
    piece of the ballast.
    """

    def release() -> bool:
        return may_release() and ballast.release(home)

    first = True
    while True:
        try:
            return action()
        except (OSError, DiskFull) as error:
            if not is_full(error):
                raise
            without = first and database is not None and database.checkpoint()
            if not without and not release():
                raise
        first = False
        while database is not None and not database.checkpoint() and release():
            pass


def after_verb(home: str, database: engine.Database) -> None:
    """What was released is made again, and what the journal keeps is looked after now and then."""
    database.verbs += 1
    due = database.verbs % _NOW_AND_THEN == 0
    if not due and not ballast.is_short(home):
        return
    with contextlib.suppress(OSError, DiskFull, Busy):
        ballast.restore_what_was_released(home)
        if due:
            from layerstore.db import reserve

            reserve.keep(database)


_NOW_AND_THEN: Final = 256
"""Verbs: they write half of what is kept."""
