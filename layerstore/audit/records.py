"""Owns the findings about rows: journal, index and owners among themselves; it changes nothing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

import attrs

from layerstore import archives, replay
from layerstore import model as m
from layerstore.audit.view import View, finding
from layerstore.db import engine
from layerstore.errors import JournalDamaged

if TYPE_CHECKING:
    from layerstore.audit.census import Progress
    from layerstore.reader import Reader

_LAST: Final = 2**62


@attrs.frozen
class Source:
    """How a database is opened once more without touching it."""

    path: str
    query: str


def check(view: View) -> Iterator[m.Finding]:
    """Everything about rows but the fold, which `projection` does."""
    yield from _place(view)
    yield from _integrity(view)
    yield from _operations(view)


def _place(view: View) -> Iterator[m.Finding]:
    original = view.reader.original()
    if original is not None:
        said = f"this home is a copy of the store at {original}, with the same id"
        yield finding("copied-store", said)


def _integrity(view: View) -> Iterator[m.Finding]:
    for (message,) in view.reader.select("PRAGMA integrity_check(10)"):
        if message != "ok":
            yield finding("damaged-database", f"SQLite says: {message}")
    for table, row, other, _ in view.reader.select("PRAGMA foreign_key_check"):
        said = f"row {row} of table {table} refers to a row of {other} that is not there"
        yield finding("broken-reference", said)


def projection(
    reader: Reader, source: Source, progress: Progress | None = None
) -> tuple[m.Finding, ...]:
    """The index must be what the journal folds to, at one moment."""
    try:
        return tuple(_projection(reader, source, progress))
    except JournalDamaged as error:
        return (finding("damaged-journal", error.message),)


def _projection(reader: Reader, source: Source, progress: Progress | None) -> Iterator[m.Finding]:
    home = os.fspath(reader.home)
    last = reader.last_seq()
    after, parts = archives.base(home, reader.select, None)
    scratch = replay.begin(parts)
    try:
        for page in archives.pages(home, reader.select, layer=None, after=after, last=last):
            replay.fold_rows(scratch, page)
            after = page[-1][0]
            if progress is not None:
                progress("events", after, last)
        with engine.consistent(source.path, query=source.query) as stored:

            def read(statement: str, **parameters: Any) -> engine.Rows:
                found: engine.Rows = stored.execute(statement, parameters).fetchall()
                return found

            for page in archives.pages_of(read, None, after, _LAST):
                replay.fold_rows(scratch, page)
            for table, row, folded in replay.differences(scratch, stored):
                side = "the journal has it" if folded else "the index has it"
                said = f"table {table}, row of {row[0]}: only {side} so"
                yield finding("projection-differs", said, str(row[0]))
    finally:
        scratch.close()


def _operations(view: View) -> Iterator[m.Finding]:
    records = view.records
    assert records is not None
    for operation in records.operations:
        if operation.owner not in records.living or operation.abandoned:
            yield finding(
                "unsettled-operation",
                f"a {operation.verb} of {operation.layer} was left in flight; "
                "the next open, or 'layerstore recover', settles it",
                operation.layer,
            )
    for owner in records.owners:
        if owner.id not in records.living:
            said = f"process {owner.pid} ({owner.command}) ended without closing the store"
            yield finding("dead-owner", said, path=f"owner {owner.id}")
