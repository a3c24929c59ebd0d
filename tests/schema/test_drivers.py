"""One SQLite library for the process, and the same store with either of them."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from layerstore import Reader
from layerstore.audit import audit
from layerstore.fs import layout
from tests.schema.databases import look

ROOT = Path(__file__).resolve().parent.parent.parent
PACKAGE = ROOT / "layerstore"

PRELUDE = """
import sys
if {block}:
    sys.modules["pysqlite3"] = sys.modules["pysqlite3.dbapi2"] = None
import fcntl, json
from layerstore import Store
from layerstore.audit import audit
from layerstore.db import engine
home = sys.argv[1]
"""

LIFECYCLE = """
Store.initialize(home)
with Store.open(home) as store:
    store.create("base", labels={"a": "b"})
    store.create("child", parent="base")
    (store.get("base") / "file").write_text("of the base")
    store.put("base")
    with store.mounted("child") as path:
        assert "of the base" == (path / "file").read_text()
        (path / "new").write_text("of the child")
    store.get("child", holder="someone")
with Store.open(home) as store:
    assert ("child", "someone") == (store.holders()[0].layer, store.holders()[0].holder)
    assert ("someone",) == tuple(h.holder for h in store.holders("child"))
    assert ("child",) == store.release("someone")
    store.remove("child")
    assert ["base"] == [layer.id for layer in store.layers()]
    status = store.status()
    fence = store._database._fence
report = audit(home)
print(json.dumps({
    "driver": engine.DRIVER, "needed": engine.ONE_WRITER_NEEDED, "fence": fence >= 0,
    "version": list(engine.driver.sqlite_version_info), "clean": report.clean,
    "status": [status.sqlite_driver, status.sqlite, status.warnings],
    "loaded": sorted({"sqlite3", "pysqlite3"} & {name for name, m in sys.modules.items() if m}),
}))
"""

COMMITS = """
engine.ONE_WRITER_NEEDED = engine.ONE_WRITER_NEEDED or {fence}
taken = []
real = fcntl.flock
def flock(descriptor, how):
    taken.append(how)
    return real(descriptor, how)
engine.fcntl.flock = flock
holder = sys.argv[2]
acknowledged = []
for _ in range(10):
    with Store.open(home) as store:
        mark = len(taken)
        for _ in range(20):
            store.get("base", holder=holder)
            last = acknowledged[-1] if acknowledged else 0
            rows = store.rows(layer="base", kind="hold.taken", after_seq=last)
            acknowledged += [row["seq"] for row in rows if row["data"]["holder"] == holder]
        fenced = store._database._fence >= 0
        locked = sum(how == fcntl.LOCK_EX for how in taken[mark:])
        assert (locked >= 20) == fenced, (locked, fenced)
print(json.dumps([engine.ONE_WRITER_NEEDED, acknowledged]))
"""


def program(text: str, *arguments: object, block: bool, **values: object) -> subprocess.Popen[str]:
    """A Python that runs `text`, with pysqlite3 out of its reach if `block`."""
    whole = PRELUDE.format(block=block) + (text.format(**values) if values else text)
    return subprocess.Popen(
        [sys.executable, "-c", whole, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def answer(process: subprocess.Popen[str]) -> Any:
    """What it printed, when it has ended well."""
    out, err = process.communicate(timeout=60)
    assert 0 == process.returncode, err
    return json.loads(out)


@pytest.mark.root
@pytest.mark.parametrize("block", [False, True], ids=["chosen-driver", "standard-library"])
def test_the_lifecycle_works_with_either_driver(bare: Path, block: bool) -> None:
    """Create, mount, hold, release, remove and audit do the same with either SQLite library."""
    found = answer(program(LIFECYCLE, bare / "home", block=block))
    old = tuple(found["version"]) < (3, 51, 3)
    assert found["clean"]
    assert (old, old) == (found["needed"], found["fence"])
    assert [found["driver"]] == found["loaded"]
    driver, _, warnings = found["status"]
    assert (found["driver"], old) == (driver, any("WAL-reset race" in text for text in warnings))
    if block:
        assert "sqlite3" == driver


@pytest.mark.root
@pytest.mark.parametrize(
    ("block", "fence"),
    [(False, False), (True, True)],
    ids=["chosen-driver", "standard-library-fenced"],
)
def test_processes_that_write_at_once_lose_no_row(home: Path, block: bool, fence: bool) -> None:
    """Four processes with two hundred commits each, opening and closing: every one is there."""
    prepare = 'Store.open(home).create("base")\nprint(0)'
    answer(program(prepare, home, block=block))
    names = [f"holder-{number}" for number in range(4)]
    started = [program(COMMITS, home, name, block=block, fence=fence) for name in names]
    answers = dict(zip(names, [answer(process) for process in started], strict=True))
    assert {fence} <= {needed for needed, _ in answers.values()}
    with Reader.open(home) as reader:
        assert dict.fromkeys(names, 200) == {h.holder: h.count for h in reader.holders("base")}
        rows: dict[str, list[int]] = {name: [] for name in names}
        for entry in reader.events(layer="base", kind="hold.taken"):
            rows[entry.event.holder].append(entry.seq)
    assert {name: acknowledged for name, (_, acknowledged) in answers.items()} == rows
    look(home / layout.DATABASE)  # which asks SQLite for its integrity check
    assert () == audit(home).findings


def test_one_module_imports_a_sqlite_driver() -> None:
    """Of the package only db/engine.py imports a SQLite driver, in whichever way it is written."""
    found = set()
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Import(names=names):
                    modules = [alias.name for alias in names]
                case ast.ImportFrom(module=str(module)):
                    modules = [module]
                case ast.Constant(value=str(text)) if text in {"sqlite3", "pysqlite3.dbapi2"}:
                    modules = [text]  # a name for importlib
                case _:
                    continue
            if any(
                name.partition(".")[0] in {"sqlite3", "_sqlite3", "pysqlite3"} for name in modules
            ):
                found.add(path.relative_to(PACKAGE).as_posix())
    assert {"db/engine.py"} == found


@pytest.mark.root
def test_a_whole_run_loads_one_sqlite_library(bare: Path) -> None:
    """After a lifecycle and an upgrade check the process has one SQLite shared object mapped."""
    text = LIFECYCLE + "\nimport layerstore.db.migrate\n"
    text += "maps = {line.split()[-1] for line in open('/proc/self/maps') if 'sqlite' in line}\n"
    text += "print(json.dumps(sorted(maps)), file=sys.stderr)\n"
    process = program(text, bare / "home", block=False)
    _, err = process.communicate(timeout=60)
    assert 0 == process.returncode, err
    extensions = [name for name in json.loads(err.splitlines()[-1]) if "_sqlite3" in name]
    assert 1 == len(extensions), extensions
