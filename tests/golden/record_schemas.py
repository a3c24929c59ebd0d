"""Writes a store as the program of one schema left it. It was run once for each; it is kept to show how
they came to be.

    PYTHONPATH=CHECKOUT python tests/golden/record_schemas.py layerstore/testing/older/0003.json

CHECKOUT has the layerstore of that schema, the last one before the next came. The process dies with a
layer mounted, one half made and one being removed, so that whoever opens the store has to settle that,
too. Do not run it to make a failing test pass: the files are what old stores contain.
"""

from __future__ import annotations

import io
import json
import os
import signal
import sqlite3
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

from layerstore import Store
from layerstore.db import statements
from layerstore.fs.trace import set_trace


def live(home: Path) -> None:
    """What happens in the store, by the verbs that this version has."""
    with Store.open(home) as store:
        store.create("base", labels={"name": "Größe ✓"})
        (home / "base/diff/of-base").write_text("base\n")
        store.create("child", parent="base")
        (home / "child/diff/of-child").write_text("child\n")
        if hasattr(store, "apply_diff"):
            store.create("applied", parent="child")
            store.apply_diff("applied", io.BytesIO(archive()))
        store.create("gone", parent="child")
        store.remove("gone")
        if hasattr(store, "compact"):
            store.compact(keep=2)
        store.create_read_write("work", parent="child")
        store.get("work", holder="docker")
        (home / "work/merged/of-work").write_text("work\n")
        store.put("work", holder="docker")
    store = Store.open(home)
    store.create("leaf", parent="base")
    store.create("late", parent="base")
    dying("remove:", lambda: store.remove("late"))


def archive() -> bytes:
    """A layer of one file."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=tarfile.GNU_FORMAT) as tar:
        entry = tarfile.TarInfo("of-applied")
        entry.size, entry.mtime = 8, 1_700_000_000
        tar.addfile(entry, io.BytesIO(b"applied\n"))
    return made.getvalue()


def dying(at: str, work: Any) -> None:
    """Die at the third point of a verb: after its intent, before its first effect has ended."""
    passed = 0

    def hook(point: str) -> None:
        nonlocal passed
        if point.startswith(at):
            passed += 1
            if passed == 4:
                os.kill(os.getpid(), signal.SIGKILL)

    set_trace(hook)
    work()


def tree(home: Path) -> dict[str, Any]:
    """Everything but the databases, by path: kind, mode, content."""
    found: dict[str, Any] = {}
    for path in sorted(home.rglob("*")):
        name = path.relative_to(home).as_posix()
        if ".db" in path.name or name.startswith(".layerstore/ballast") or name in LEFT_OUT:
            continue
        mode = f"{path.lstat().st_mode & 0o7777:04o}"
        if path.is_symlink():
            found[name] = {"kind": "link", "content": os.readlink(path)}
        elif path.is_dir():
            found[name] = {"kind": "directory", "mode": mode}
        else:
            found[name] = {"kind": "file", "mode": mode, "content": path.read_text()}
    return found


LEFT_OUT = (".layerstore/place.json", ".layerstore/probes.json")
"""What is about the machine: which directory this was, and what its kernel can do."""


def databases(home: Path) -> dict[str, str]:
    """Every database as the statements that make it again."""
    found = {}
    for path in sorted((home / ".layerstore").rglob("*.db")):
        connection = sqlite3.connect(path)
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.execute("UPDATE owners SET command = 'python'")  # not where this lay
        found[path.relative_to(home).as_posix()] = "\n".join(connection.iterdump())
        connection.close()
    return found


def main() -> None:
    """Live in a process that dies, and write down what it left."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as place:
        home = Path(place) / "home"
        Store.initialize(home)
        pid = os.fork()
        if pid == 0:
            live(home)
            os._exit(1)
        assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGKILL
        written = {
            "revision": statements.REVISION,
            "tree": tree(home),
            "databases": databases(home),
        }
    text = json.dumps(written, indent=1, ensure_ascii=False) + "\n"
    Path(sys.argv[1]).write_text(text, encoding="utf-8")


main()
