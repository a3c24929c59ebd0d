"""Owns what a database says of itself: its rows of `meta`, and which numbers it gave out; no event."""

from __future__ import annotations

from layerstore.db import statements as sql
from layerstore.db.engine import Connection, ReadDatabase


def restart_numbers(connection: Connection, mark: int) -> None:
    """Let the next event get a number above `mark`, and above every number that it ever gave out."""
    connection.execute(
        "UPDATE sqlite_sequence SET seq = max(seq, ?) WHERE name = 'events'", (mark,)
    )
    if not connection.execute("SELECT 1 FROM sqlite_sequence WHERE name = 'events'").fetchall():
        connection.execute("INSERT INTO sqlite_sequence (name, seq) VALUES ('events', ?)", (mark,))


def meta(database: ReadDatabase) -> dict[str, str]:
    """What the database says about itself."""
    return {row[0]: row[1] for row in database.read(sql.SELECT_META)}


def last_number(database: ReadDatabase) -> int:
    """The highest number that an event was ever given, also one that is gone from the table."""
    return int(
        database.read("SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'events'")[0][
            0
        ]
    )
