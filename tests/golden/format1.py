"""The first format, written down: the tree of a small store, and what its journal folds to.

These files are for ever. A change that cannot read them, or gives another index, breaks the stores
of everyone who has one: it needs a new tag with an upcast, or a migration, and these files stay.
`journal.jsonl` has one row of the journal per line, `index.json` the folded tables.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent / "format1"
JOURNAL = HERE / "journal.jsonl"
INDEX = HERE / "index.json"
TREE = HERE / "tree.json"

Tree = dict[str, dict[str, Any]]


def journal() -> list[dict[str, Any]]:
    """The rows of the golden journal; `data` is the text that the row holds."""
    return [json.loads(line) for line in JOURNAL.read_text().splitlines()]


def index() -> dict[str, list[dict[str, Any]]]:
    """The folded tables: a row is a mapping of its columns."""
    found: dict[str, list[dict[str, Any]]] = json.loads(INDEX.read_text())
    return found


def tree() -> Tree:
    """The golden tree: by path below the home, the kind, the mode, and the content."""
    found: Tree = json.loads(TREE.read_text())
    return found


def build(home: Path, entries: Tree | None = None) -> None:
    """Make the golden tree at `home`, which must be empty or absent."""
    home.mkdir(exist_ok=True)
    os.chmod(home, 0o710)
    for name, entry in sorted((tree() if entries is None else entries).items()):
        path = home / name
        match entry["kind"]:
            case "directory":
                path.mkdir()
                path.chmod(int(entry["mode"], 8))
            case "file":
                path.write_text(entry["content"])
                path.chmod(int(entry["mode"], 8))
            case "link":
                path.symlink_to(entry["content"])


def listing(home: Path) -> Tree:
    """A tree as it is, in the form of the golden one. What is the store's own is left out."""
    found: Tree = {}
    for path in sorted(home.rglob("*")):
        name = path.relative_to(home).as_posix()
        if name.partition("/")[0] == ".layerstore":
            continue
        if path.is_symlink():
            found[name] = {"kind": "link", "content": os.readlink(path)}
        elif path.is_dir():
            found[name] = {"kind": "directory", "mode": f"{path.stat().st_mode & 0o7777:04o}"}
        else:
            mode = f"{path.stat().st_mode & 0o7777:04o}"
            found[name] = {"kind": "file", "mode": mode, "content": path.read_text()}
    return found
