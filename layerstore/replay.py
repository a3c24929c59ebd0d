"""Owns folding a journal anew, into a database in memory; it must not touch the store's own."""

from __future__ import annotations

from collections.abc import Iterable

from layerstore import answers, projection, rows
from layerstore.db import engine
from layerstore.db import statements as sql
from layerstore.model import to_micros


def replay(entries: Iterable[answers.Entry], *, last: int | None = None) -> engine.Connection:
    """A scratch database with every event up to `last` folded into it."""
    connection = engine.scratch()
    connection.execute("BEGIN")
    for entry in entries:
        if last is not None and entry.seq > last:
            break
        facts = projection.RowFacts(
            entry.seq, entry.operation, entry.owner, entry.boot_id, to_micros(entry.at)
        )
        projection.fold(connection, facts, entry.event)
    connection.execute("COMMIT")
    return connection


def state_at(entries: Iterable[answers.Entry], seq: int) -> answers.State:
    """The store after event `seq`, as it answered then: a layer that was being made is no layer yet,
    only an operation. Who took a hold is not told: owners are no part of the fold.
    """
    connection = replay(entries, last=seq)
    try:
        every = {"after": "", "page": -1}
        return answers.State(
            seq=seq,
            layers=rows.made(connection.execute(sql.SELECT_LAYERS, every)),
            holds=tuple(rows.hold(r) for r in connection.execute(sql.SELECT_HOLDS)),
            mounts=tuple(rows.mount(r) for r in connection.execute(sql.SELECT_MOUNTS)),
            operations=tuple(rows.operation(r) for r in connection.execute(sql.SELECT_OPERATIONS)),
        )
    finally:
        connection.close()


FOLDED = {
    "layers": "SELECT * FROM layers ORDER BY id",
    "holds": "SELECT * FROM holds ORDER BY layer, holder",
    "mounts": "SELECT * FROM mounts ORDER BY layer",
    "operations": "SELECT * FROM operations ORDER BY id",
}
"""The tables that are nothing but folded events."""
