"""Owns one compaction, from the events to the archive and the snapshot; it must not say when or wait.

The order is: the archive under a temporary name, synced; the fold of the whole journal compared with
the index; the rename, and the directory synced; then one transaction that puts the snapshot in the
place of the events. Killed before it, nothing has happened but a file that does not count. There is
no operation to settle: whoever comes next removes the file.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any, Final

from layerstore import answers, archives, replay
from layerstore import events as e
from layerstore.archives import Part
from layerstore.db import engine
from layerstore.db import statements as sql
from layerstore.db.archive import Writer
from layerstore.errors import JournalDamaged
from layerstore.fs import durable, layout
from layerstore.fs.trace import trace
from layerstore.journal import Journal

_LAST: Final = 2**62


class Compaction:
    """One compaction, by whoever has the lock."""

    def __init__(
        self, home: str, journal: Journal, read: archives.Read, *, keep: int, least: int
    ) -> None:
        """All but the newest `keep` events, if these are at least `least`."""
        self._home = home
        self._journal = journal
        self._read = read
        self._start = archives.cut_of(read)
        """Up to this event the journal is archived."""
        self._cut = self._where_to_stop(keep)
        """Up to this one it will be."""
        self._least = max(1, least)
        self._path = f"{home}/{layout.archive(self._start + 1, self._cut)}"
        self._events = 0
        self._parts: list[Part] = []
        """The snapshot at the cut."""

    def _where_to_stop(self, keep: int) -> int:
        ((last,),) = self._read(sql.LAST_SEQ)
        operations = self._read(sql.SELECT_OPERATIONS)
        oldest = min((row[4] for row in operations), default=last + 1)
        return min(int(last) - keep, int(oldest) - 1)

    def run(self) -> answers.Compaction:
        """Do it, or nothing; JournalDamaged where journal and index do not agree."""
        some = self._read(sql.SELECT_EVENTS, after=self._start, last=self._cut, page=1)
        if not some or self._cut - self._start < self._least:
            return answers.Compaction(self._start + 1, self._start, 0, None)
        self._make_directory()
        name = os.path.basename(self._path)
        temporary = f"{self._home}/{layout.ARCHIVES}/.{name}.tmp"
        try:
            self._write(temporary)
            self._publish(temporary)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
            raise
        self._commit()
        self._journal.database.checkpoint()
        return answers.Compaction(self._start + 1, self._cut, self._events, self._path)

    def _make_directory(self) -> None:
        place = Path(self._home) / layout.ARCHIVES
        place.mkdir(mode=layout.PRIVATE_MODE, exist_ok=True)
        durable.sync_directory(os.fspath(place.parent))

    def _write(self, temporary: str) -> None:
        """The archive, whole and synced; it was compared with the index."""
        trace("compact:archive:before")
        with (
            contextlib.closing(Writer(temporary)) as writer,
            contextlib.closing(replay.begin(self._write_snapshot(writer))) as scratch,
        ):
            self._write_events(writer, scratch)
            trace("compact:archive:after")
            self._compare(scratch)

    def _publish(self, temporary: str) -> None:
        """Give it its name: before the events that it has are taken out of the journal."""
        trace("compact:rename:before")
        os.rename(temporary, self._path)
        durable.sync_directory(os.path.dirname(self._path))
        trace("compact:rename:after")

    def _write_snapshot(self, writer: Writer) -> list[Part]:
        """The last snapshot, which the archive begins with."""
        parts = archives.parts_of(self._read) if self._start else []
        assert parts is not None  # the cut is what it was: this process has the lock
        writer.add("snapshots", list(map(tuple, map(dict.values, _rows(parts, self._start)))))
        return parts

    def _write_events(self, writer: Writer, scratch: engine.Connection) -> None:
        """The events up to the cut into the archive, and what they fold to into the snapshot."""
        for page in archives.pages_of(self._read, None, self._start, self._cut):
            writer.add("events", page)
            replay.fold_rows(scratch, page)
            self._events += len(page)
        self._parts = list(replay.parts(scratch))
        owners = self._read(sql.SELECT_WRITERS, after=self._start, last=self._cut)
        writer.add("owners", owners)
        about: dict[str, str] = dict(self._read(sql.SELECT_META))
        writer.finish(
            {
                "store_id": about["store_id"],
                "schema": sql.REVISION,
                "first": str(self._start + 1),
                "last": str(self._cut),
                "events": str(self._events),
            }
        )

    def _compare(self, scratch: engine.Connection) -> None:
        """The whole journal must fold to the index, at one moment: else nothing is thrown away."""
        after = self._cut
        for page in archives.pages_of(self._read, None, after, _LAST):
            replay.fold_rows(scratch, page)
            after = page[-1][0]
        with engine.consistent(self._journal.database.path) as stored:

            def read(statement: str, **parameters: Any) -> engine.Rows:
                found: engine.Rows = stored.execute(statement, parameters).fetchall()
                return found

            for page in archives.pages_of(read, None, after, _LAST):
                replay.fold_rows(scratch, page)
            different = next(replay.differences(scratch, stored), None)
        if different is not None:
            table, row, folded = different
            only = "the journal" if folded else "the index"
            raise JournalDamaged(
                f"Journal and index differ (table {table}, row of {row[0]}: only {only} has it "
                "so); nothing was compacted.",
                hint="'layerstore audit' lists every difference.",
            )

    def _commit(self) -> None:
        """One transaction: the snapshot in the place of the events."""
        with self._journal.transaction(full=True) as tx:
            row = tx.one(sql.SELECT_META_OF, key=archives.COMPACTED)
            oldest = min((row[4] for row in tx.all(sql.SELECT_OPERATIONS)), default=_LAST)
            if (int(row[0]) if row else 0) != self._start or oldest <= self._cut:
                raise JournalDamaged("The journal changed while it was compacted.")
            trace("compact:outcome:before")
            name = os.path.basename(self._path)
            event = e.JournalCompacted(self._start + 1, self._cut, self._events, name)
            tx.append(event)
            tx.execute(sql.DELETE_SNAPSHOTS)
            for values in _rows(self._parts, self._cut):
                tx.execute(sql.INSERT_SNAPSHOT, **values)
            tx.execute(sql.PUT_META, key=archives.COMPACTED, value=str(self._cut))
            tx.execute(sql.PUT_META, key=archives.COMPACTED_AT, value=str(tx.now()))
            if tx.execute(sql.DELETE_EVENTS, last=self._cut) != self._events:
                raise JournalDamaged("The journal lost or got events while it was compacted.")
            tx.execute(sql.DELETE_OWNERS, after=self._cut)
        trace("compact:outcome:after")


def _rows(parts: list[Part], seq: int) -> list[dict[str, Any]]:
    """The rows of a snapshot, by the columns of its table in their order."""
    return [
        {
            "part": number,
            "seq": seq,
            "of_table": part.table,
            "fields": part.fields,
            "content": part.content,
        }
        for number, part in enumerate(parts, 1)
    ]
