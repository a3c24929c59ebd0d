"""Owns writing the index again from the journal; it must not decide when.

One transaction folds every event anew, replaces the rows that differ, and says so in the journal: it
is there whole, or not at all.
"""

from __future__ import annotations

import itertools
import json
from typing import TYPE_CHECKING, Any, Final

from layerstore import archives, replay
from layerstore import events as e

if TYPE_CHECKING:
    from layerstore.db import engine
    from layerstore.journal import Transaction
    from layerstore.recovery import Hands

_EXAMPLES: Final = 50
_LAST: Final = 2**62


def refold(hands: Hands) -> tuple[int, int]:
    """How many rows were not as the journal has them, and the number of the event that says so.

    JournalDamaged where it cannot be folded.
    """
    event = 0
    with hands.journal.transaction(full=hands.full) as tx:
        scratch = _folded(hands.home, tx)
        try:
            found = _differences(scratch, tx)
            if found:
                _replace(scratch, tx, found)
                examples = json.dumps(found[:_EXAMPLES], ensure_ascii=False, default=str)
                event = tx.append(e.IndexRefolded(len(found), examples))
        finally:
            scratch.close()
    return len(found), event


def _folded(home: str, tx: Transaction) -> engine.Connection:
    """Every event up to this transaction, folded. Nobody compacts meanwhile: that takes a transaction."""
    after, parts = archives.base(home, tx.all, None)
    scratch = replay.begin(parts)
    try:
        for page in archives.pages_of(tx.all, None, after, _LAST):
            replay.fold_rows(scratch, page)
    except BaseException:
        scratch.close()
        raise
    return scratch


def _differences(scratch: engine.Connection, tx: Transaction) -> list[tuple[str, list[Any], str]]:
    """(table, key, which of the two has the row so) of every row that only one of them has."""
    found = []
    for table, query in replay.FOLDED.items():
        folded = scratch.execute(query)
        names = [column[0] for column in folded.description]
        stored = tx.all(query)
        key = [names.index(name) for name in _key(scratch, table)]
        for one, other in itertools.zip_longest(folded, stored):
            if one != other:
                sides = ((one, "journal"), (other, "index"))
                found += [(table, [row[i] for i in key], who) for row, who in sides if row]
    return found


def _key(scratch: engine.Connection, table: str) -> list[str]:
    """The columns of a table's primary key, in their order."""
    columns = scratch.execute(f"PRAGMA table_info({table})").fetchall()
    places = {place: name for _, name, _, _, _, place in columns if place}
    return [places[place] for place in sorted(places)]


def _replace(
    scratch: engine.Connection, tx: Transaction, found: list[tuple[str, list[Any], str]]
) -> None:
    """Put the folded rows in place of the others, table by table, whatever refers to what meanwhile."""
    tx.all("PRAGMA defer_foreign_keys=ON")
    for table in {name: None for name, _, _ in found}:
        cursor = scratch.execute(replay.FOLDED[table])
        names = ", ".join(f'"{column[0]}"' for column in cursor.description)
        places = ", ".join(f":p{number}" for number in range(len(cursor.description)))
        tx.execute(f"DELETE FROM {table}")
        for row in cursor:
            values = {f"p{number}": value for number, value in enumerate(row)}
            tx.execute(f"INSERT INTO {table} ({names}) VALUES ({places})", **values)
