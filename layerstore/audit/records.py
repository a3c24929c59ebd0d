"""Owns the findings about rows: journal, index and owners among themselves; it changes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from layerstore import model as m
from layerstore import replay
from layerstore.errors import JournalDamaged
from layerstore.fs import layout

if TYPE_CHECKING:
    from layerstore.audit import View


def check(view: View) -> Iterator[m.Finding]:
    """Everything about rows."""
    yield from _place(view)
    yield from _integrity(view)
    yield from _projection(view)
    yield from _operations(view)
    yield from _leftovers(view)


def _place(view: View) -> Iterator[m.Finding]:
    original = view.reader.original()
    if original is not None:
        yield m.Finding(
            "copied-store",
            m.Severity.NOTE,
            f"this home is a copy of the store at {original}, with the same id",
        )


def _integrity(view: View) -> Iterator[m.Finding]:
    for (message,) in view.reader.select("PRAGMA quick_check(10)"):
        if message != "ok":
            yield m.Finding("damaged-database", m.Severity.DAMAGE, f"SQLite says: {message}")


def _projection(view: View) -> Iterator[m.Finding]:
    """The index must be what the journal folds to."""
    before = {name: view.reader.select(query) for name, query in replay.FOLDED.items()}
    try:
        scratch = view.reader.fold()
    except JournalDamaged as error:
        yield m.Finding("damaged-journal", m.Severity.DAMAGE, error.message)
        return
    try:
        for name, query in replay.FOLDED.items():
            folded = set(scratch.execute(query).fetchall())
            stored = set(before[name])
            for row in sorted(folded ^ stored, key=str):
                side = "the journal has it" if row in folded else "the index has it"
                yield m.Finding(
                    "projection-differs",
                    m.Severity.DAMAGE,
                    f"table {name}, row of {row[0]}: only {side} so",
                    layer=str(row[0]),
                )
    finally:
        scratch.close()


def _operations(view: View) -> Iterator[m.Finding]:
    for operation in view.operations:
        if operation.owner not in view.living or operation.abandoned:
            yield m.Finding(
                "unsettled-operation",
                m.Severity.LEFTOVER,
                f"a {operation.verb} of {operation.layer} was left in flight; "
                "the next open, or 'layerstore recover', settles it",
                layer=operation.layer,
            )
    for owner in view.reader.owners():
        if owner.id not in view.living:
            yield m.Finding(
                "dead-owner",
                m.Severity.LEFTOVER,
                f"process {owner.pid} ({owner.command}) ended without closing the store",
            )


def _leftovers(view: View) -> Iterator[m.Finding]:
    for place, names in (
        (layout.STAGING, view.tree.staging),
        (layout.TRASH, frozenset(view.tree.trash)),
    ):
        in_flight = {operation.id for operation in view.operations} | {
            operation.layer for operation in view.operations
        }
        for name in sorted(names):
            if name.partition("-")[0] in in_flight or f"{place}/{name}" in in_flight:
                continue
            yield m.Finding(
                f"{place.rpartition('/')[2]}-leftover",
                m.Severity.LEFTOVER,
                f"{place}/{name} belongs to no operation",
                path=f"{view.home}/{place}/{name}",
            )
