"""Owns when the journal is compacted, by whom, and what lies about afterwards; it must not do it itself.

`archiving` does, and is imported only then. One process or thread does it at a time, by a lock file;
the others go on. It happens between two verbs, and never makes one fail.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

import attrs

from layerstore import archives, log
from layerstore.archives import Archive
from layerstore.db import engine
from layerstore.db import statements as sql
from layerstore.errors import Busy, InvalidArgument, LayerstoreError
from layerstore.fs import durable, layout, locks
from layerstore.fs.trace import trace
from layerstore.reader import Reader
from layerstore.recovery import Hands, new_name

if TYPE_CHECKING:
    from layerstore import answers


KEEP: Final = 1_000
"""Events that stay in the journal, unless the caller says how many."""
_NEVER: Final = 2**63


class Compactor:
    """Compacts the journal of one open store: when it is asked to, and when that is due."""

    def __init__(self, hands: Hands, *, above: int, keep_archives: int | None) -> None:
        """`above`: so many events may be in the journal, 0: any number."""
        check_limits(above, keep_archives)
        self._hands = hands
        self._above = above
        self._keep_archives = keep_archives
        self._due = 0 if above else _NEVER
        """The event after which to look whether there are too many."""
        try:
            sweep(hands)
        except (LayerstoreError, OSError) as error:
            log.warning("what a compaction left was not removed: %s", error)
        if above:
            self._look(hands.journal.database)

    def tend(self) -> None:
        """Compact if it is due. It is called between verbs, costs one comparison, never raises."""
        if self._hands.journal.last_seq > self._due:
            self._look(self._hands.journal.database)

    def _look(self, database: engine.ReadDatabase) -> None:
        """Count anew, since another process may have compacted; where it is due, do it."""
        try:
            if self._count(database) <= self._above:
                return
            keep = min(KEEP, self._above // 10)
            self.compact(keep=keep, timeout=0, least=self._above // 4)
            if self._count(database) > self._above:  # an old operation is in flight
                self._due = self._last + self._above // 10
        except Exception as error:  # noqa: BLE001 - whatever it is, the verb before it was done
            say = log.debug if isinstance(error, Busy) else log.warning
            say("the journal was not compacted: %s", error)
            self._due = max(self._hands.journal.last_seq, self._due) + self._above // 10

    def _count(self, database: engine.ReadDatabase) -> int:
        ((first,),) = database.read(sql.FIRST_SEQ)
        ((self._last,),) = database.read(sql.LAST_SEQ)
        self._due = first - 1 + self._above
        return int(self._last - first + 1)

    def compact(
        self, *, keep: int, keep_archives: int | None = None, timeout: float, least: int = 1
    ) -> answers.Compaction:
        """Move all but the newest `keep` events to an archive, if these are at least `least`.

        Nothing is moved that an operation in flight needs. Busy where another process compacts.
        """
        from layerstore import archiving

        check_limits(keep, keep_archives)
        wanted = self._keep_archives if keep_archives is None else keep_archives
        hands = self._hands
        with locks.alone(f"{hands.home}/{layout.COMPACT_LOCK}", timeout=timeout) as had:
            if not had:
                raise Busy(
                    "The journal is being compacted by another process or thread.",
                    hint="Try again when it is done.",
                )
            read = archives.asking(hands.journal.database)
            _sweep(hands, archives.cut_of(read))
            try:
                done = archiving.Compaction(
                    hands.home, hands.journal, read, keep=keep, least=least
                ).run()
                gone = _prune(hands.home, archives.cut_of(read), wanted)
            except durable.SyncFailed as error:
                hands.journal.database.refuse(str(error))
                raise
        return attrs.evolve(done, deleted=gone)


def check_limits(number: int, keep_archives: int | None) -> None:
    """Raise InvalidArgument for numbers that mean nothing."""
    for value in (number, keep_archives):
        if value is not None and (type(value) is not int or value < 0):
            raise InvalidArgument(f"It must be a number, 0 or more, not {value!r}.")


class Compacting(Reader):
    """The part of an open store that keeps its journal short."""

    _compactor: Compactor
    _timeout: float

    def keep_compact(self, hands: Hands, *, above: int, keep_archives: int | None) -> None:
        """Begin with it: what is due now is done now."""
        self._compactor = Compactor(hands, above=above, keep_archives=keep_archives)

    def compact(self, *, keep: int = KEEP, keep_archives: int | None = None) -> answers.Compaction:
        """Move events to an archive: all but the newest `keep`, and none that is in flight.

        `keep_archives`: then delete the oldest archives but for so many; None: as the store was
        opened. The past is told from what is kept. Raises Busy, and JournalDamaged where journal
        and index differ; nothing has changed then.
        """
        self._read(sql.LAST_SEQ)  # raises where this is not the process, or the store is closed
        return self._compactor.compact(
            keep=keep, keep_archives=keep_archives, timeout=self._timeout
        )


# --- what lies in the directory of archives -----------------------------------------------------


def _prune(home: str, cut: int, keep: int | None) -> tuple[str, ...]:
    """Delete the oldest archives but for `keep`, one after the other: the past ends at one event."""
    if keep is None:
        return ()
    kept = archives.counted(home, cut)
    gone = [archive.path for archive in kept[: max(0, len(kept) - keep)]]
    for path in gone:
        trace("compact:prune:before")
        os.unlink(path)
        durable.sync_directory(os.path.dirname(path))
    return tuple(gone)


def sweep(hands: Hands) -> None:
    """At an open: remove what compactions that were killed left, unless one is under way."""
    cut = archives.cut_of(archives.asking(hands.journal.database))
    if not any(archives.leftovers(hands.home, cut)):
        return
    with locks.alone(f"{hands.home}/{layout.COMPACT_LOCK}", timeout=0) as had:
        if had:
            _sweep(hands, archives.cut_of(archives.asking(hands.journal.database)))


def _sweep(hands: Hands, cut: int) -> None:
    unfinished, beyond = archives.leftovers(hands.home, cut)
    for path in unfinished:
        os.unlink(path)
    for archive in beyond:
        if _is_in_journal(archives.asking(hands.journal.database), archive):
            os.unlink(archive.path)
        else:
            _set_aside(hands.home, archive)


def _is_in_journal(read: archives.Read, archive: Archive) -> bool:
    """Whether the journal still has every event of the archive, so that nothing is lost with it."""
    after = archive.first - 1
    try:
        database = archive.open()
    except FileNotFoundError:
        return True
    except LayerstoreError:
        return False
    try:
        ours = archives.pages_of(read, None, after, archive.last)
        for page in archives.pages_of(archives.asking(database), None, after, archive.last):
            if page != next(ours, None):
                return False
    except LayerstoreError:
        return False
    finally:
        database.close()
    return True


def _set_aside(home: str, archive: Archive) -> None:
    """It has events that the journal has not: of a database that another was put in the place of."""
    place = Path(home) / layout.QUARANTINE / new_name()
    place.mkdir(mode=layout.PRIVATE_MODE)
    os.rename(archive.path, place / os.path.basename(archive.path))
    (place / "NOTE").write_text(
        "An archive with events that the journal does not have: its database was replaced by an "
        "older one.\nDelete it when it is not needed.\n"
    )
