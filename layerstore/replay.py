"""Owns folding a journal anew, into a database in memory; it must not touch the store's own."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator
from typing import Any

from layerstore import answers, codec, projection, rows
from layerstore.archives import Part
from layerstore.db import engine
from layerstore.db import statements as sql
from layerstore.errors import JournalDamaged
from layerstore.model import to_micros

FOLDED = {
    "layers": "SELECT * FROM layers ORDER BY id",
    "holds": "SELECT * FROM holds ORDER BY layer, holder",
    "mounts": "SELECT * FROM mounts ORDER BY layer",
    "operations": "SELECT * FROM operations ORDER BY id",
    "manifests": "SELECT * FROM manifests ORDER BY layer",
    "projects": "SELECT * FROM projects ORDER BY id",
}
"""The tables that are nothing but folded events."""


def replay(
    entries: Iterable[answers.Entry], *, last: int | None = None, base: Iterable[Part] = ()
) -> engine.Connection:
    """A scratch database with every event up to `last` folded into it, upon a snapshot."""
    connection = begin(base)
    try:
        for entry in entries:
            if last is not None and entry.seq > last:
                break
            facts = projection.RowFacts(
                entry.seq, entry.operation, entry.owner, entry.boot_id, to_micros(entry.at)
            )
            projection.fold(connection, facts, entry.event)
        connection.execute("COMMIT")
    except BaseException:
        connection.close()
        raise
    return connection


def begin(base: Iterable[Part]) -> engine.Connection:
    """A scratch database with a snapshot in it, in a transaction."""
    connection = engine.scratch()
    try:
        connection.execute("BEGIN")
        load(connection, base)
    except BaseException:
        connection.close()
        raise
    return connection


def fold_rows(connection: engine.Connection, found: engine.Rows) -> None:
    """Fold rows of EVENTS_COLUMNS; JournalDamaged for one that cannot be read."""
    for seq, _, operation, owner, boot_id, at, kind, _, data in found:
        facts = projection.RowFacts(seq, operation, owner, boot_id, at)
        projection.fold(connection, facts, codec.decode(kind, data, seq=seq))


_ROWS = 200
"""Rows of a table in one part of a snapshot."""


def parts(connection: engine.Connection) -> Iterator[Part]:
    """The folded tables, whatever tables these are, as a snapshot has them."""
    for table, query in FOLDED.items():
        cursor = connection.execute(query)
        fields = json.dumps([column[0] for column in cursor.description])
        while found := cursor.fetchmany(_ROWS):
            content = json.dumps(found, separators=(",", ":"), ensure_ascii=False)
            yield Part(table, fields, content)


def load(connection: engine.Connection, base: Iterable[Part]) -> None:
    """Put a snapshot into an empty scratch database.

    A column that is younger than the snapshot gets its default.
    """
    for part in base:
        if part.table not in FOLDED:
            raise JournalDamaged(f"A snapshot has the unknown table {part.table!r}.")
        fields = json.loads(part.fields)
        names = ", ".join('"' + name.replace('"', '""') + '"' for name in fields)
        places = ", ".join("?" * len(fields))
        try:
            connection.executemany(
                f"INSERT INTO {part.table} ({names}) VALUES ({places})", json.loads(part.content)
            )
        except (engine.DriverError, ValueError) as error:
            raise JournalDamaged(
                f"A snapshot of the table {part.table} cannot be read: {error}."
            ) from error


def differences(
    folded: engine.Connection, stored: engine.Connection
) -> Iterator[tuple[str, tuple[Any, ...], bool]]:
    """(table, row, whether the fold has it) where two walks in the order of keys are not alike."""
    for table, query in FOLDED.items():
        ours, theirs = folded.execute(query), stored.execute(query)
        for one, other in itertools.zip_longest(ours, theirs):
            if one != other:
                if one is not None:
                    yield table, one, True
                if other is not None:
                    yield table, other, False


def state_of(connection: engine.Connection, seq: int) -> answers.State:
    """A folded database as a value, as the store answered then: a layer that was being made is no
    layer yet, only an operation. Who took a hold is not told: owners are no part of the fold.
    """
    every = {"after": "", "page": -1}
    return answers.State(
        seq=seq,
        layers=rows.made(connection.execute(sql.SELECT_LAYERS, every)),
        holds=tuple(rows.hold(r) for r in connection.execute(sql.SELECT_HOLDS)),
        mounts=tuple(rows.mount(r) for r in connection.execute(sql.SELECT_MOUNTS)),
        operations=tuple(rows.operation(r) for r in connection.execute(sql.SELECT_OPERATIONS)),
    )
