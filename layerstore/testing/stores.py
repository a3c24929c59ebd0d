"""Owns building the stores that older versions of layerstore left; it must not migrate them.

`older/` has one of each schema, written by the last program that had it: layers with and without a
parent, one that was mounted and unmounted by Docker, and a remove that a kill interrupted. They
never change.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from layerstore.db import engine
from layerstore.testing.trees import Built, make_directory, write_file

OLDER: Final = Path(__file__).resolve().parent / "older"


def revisions() -> tuple[str, ...]:
    """The schemas that there are stores of, the oldest first."""
    return tuple(sorted(path.stem for path in OLDER.glob("*.json")))


def store_tree(path: Path, *, revision: str) -> Built:
    """Write the store of a schema at `path`, which may be absent or empty. It is as its process left it:
    the first open upgrades its database and settles what was in flight.
    """
    if revision not in revisions():
        raise ValueError(f"no store of schema {revision}; there are {', '.join(revisions())}")
    recorded: dict[str, Any] = json.loads((OLDER / f"{revision}.json").read_text("utf-8"))
    built = Built(path, path)
    make_directory(path, 0o710)
    for name, entry in sorted(recorded["tree"].items()):
        _write(path / name, entry)
    for name, statements in recorded["databases"].items():
        _database(path / name, statements)
    links = {p.name: p.readlink().parts[1] for p in (path / "l").iterdir()}
    for layer in links.values():
        lower = path / layer / "lower"
        first = lower.read_text().split(":")[0].removeprefix("l/") if lower.exists() else ""
        built.layers[layer] = layer
        built.parents[layer] = links[first] if first else None
    return built


def _write(path: Path, entry: dict[str, str]) -> None:
    if entry["kind"] == "link":
        path.symlink_to(entry["content"])
    elif entry["kind"] == "directory":
        make_directory(path, int(entry["mode"], 8))
    else:
        write_file(path, entry["content"], int(entry["mode"], 8))


def _database(path: Path, statements: str) -> None:
    """Make a database again; the journal is kept in WAL mode, archives are not."""
    connection = engine.driver.connect(str(path), isolation_level=None)
    try:
        if path.name == "journal.db":
            connection.execute("PRAGMA journal_mode=WAL")
        connection.executescript(statements)
    finally:
        connection.close()
    path.chmod(0o600)
