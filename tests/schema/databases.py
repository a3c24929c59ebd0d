"""Describes a database, so that two of them can be compared."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from layerstore.db import engine


def text_of(sql: str | None) -> str | None:
    """A statement without the differences that mean nothing: blanks and quotes."""
    if sql is None:
        return None
    return re.sub(r"\s*([(),])\s*", r"\1", " ".join(sql.replace('"', "").split()))


def schema_of(connection: Any) -> dict[str, Any]:
    """Every table and index: its text, columns, indexes and foreign keys."""
    found: dict[str, Any] = {}
    rows = connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_master").fetchall()
    for kind, name, table, sql in rows:
        found[f"{kind} {name} of {table}"] = text_of(sql)
        if kind != "table":
            continue
        for pragma in ("table_info", "index_list", "foreign_key_list"):
            found[f"{pragma} {name}"] = connection.execute(f"PRAGMA {pragma}({name})").fetchall()
        for _, index, *_ in found[f"index_list {name}"]:
            found[f"index {index}"] = connection.execute(f"PRAGMA index_xinfo({index})").fetchall()
    return found


def look(path: Path) -> tuple[dict[str, Any], dict[str, list[tuple[Any, ...]]]]:
    """The schema of a database file, and the rows of each of its tables."""
    connection = engine.driver.connect(path, isolation_level=None)
    try:
        names = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        rows = {
            name: connection.execute(f"SELECT * FROM {name}").fetchall()
            for (name,) in names
            if not name.startswith("sqlite_")
        }
        assert [("ok",)] == connection.execute("PRAGMA integrity_check").fetchall()
        return schema_of(connection), rows
    finally:
        connection.close()
