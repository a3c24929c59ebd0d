"""The generated SQL: equal to what Core compiles, and without a scan where it is hot."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from layerstore.db import engine
from layerstore.db import statements as sql
from layerstore.db.schema import metadata

ROOT = Path(__file__).resolve().parent.parent.parent

LISTINGS = {
    "SELECT_META": "meta",
    "SELECT_OWNERS": "owners",
    "SELECT_OPEN_OWNERS": "owners USING INDEX ix_owners_open",  # of those that are open
    "DELETE_OWNERS": "operations",  # the last of those that it goes through, seldom
    "COUNT_EVENTS": "events",
    "SELECT_OPERATIONS": "operations",
    "SELECT_OPERATION_OF": "operations",  # has rows only of what is in flight; asked at close
    "SELECT_INDEX": "layers",
    "SELECT_HOLDS": "holds",
    "SELECT_MOUNTS": "mounts",
    "SELECT_UNHELD_MOUNTS": "mounts",
    "COUNT_LAYERS": "layers",
    "FORGET_INODES": "layers",  # of a copy, a move to another disk, an older database
    "COUNT_HOLDS": "holds",
    "COUNT_MOUNTS": "mounts",
}
"""Statements whose answer is about every row of a table, and that table. No other may scan."""

DATA = {
    name: value
    for name, value in vars(sql).items()
    if isinstance(value, str)
    and value.split()[0] in {"SELECT", "INSERT", "UPDATE", "DELETE", "WITH"}
}

PLANS = """
import json, re, sys
if {block}:
    sys.modules["pysqlite3"] = sys.modules["pysqlite3.dbapi2"] = None
from layerstore.db import engine
connection = engine.scratch()
found = {{}}
for name, text in json.loads(sys.stdin.read()).items():
    values = {{word: 1 for word in re.findall(r":(\\w+)", text)}}
    rows = connection.execute("EXPLAIN QUERY PLAN " + text, values).fetchall()
    found[name] = [row[3] for row in rows]
print(json.dumps([engine.DRIVER, found]))
"""


def generator() -> ModuleType:
    """tools/generate_statements.py, as a module."""
    path = ROOT / "tools" / "generate_statements.py"
    spec = importlib.util.spec_from_file_location("generate_statements", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_file_is_what_the_generator_renders() -> None:
    """The committed statements are, byte for byte, what Core compiles today."""
    assert generator().render() == (ROOT / "layerstore" / "db" / "statements.py").read_text()


def test_the_generator_checks_without_writing() -> None:
    """`--check` says by its exit code that the file is up to date, and leaves it alone."""
    target = ROOT / "layerstore" / "db" / "statements.py"
    before = target.stat().st_mtime_ns
    command = [sys.executable, "tools/generate_statements.py", "--check"]
    done = subprocess.run(command, cwd=ROOT, env={"PYTHONPATH": str(ROOT)}, check=False)
    assert (0, before) == (done.returncode, target.stat().st_mtime_ns)


def test_column_names_are_those_of_the_tables() -> None:
    """Each table's column tuple has its columns in their order."""
    for table in metadata.sorted_tables:
        names = getattr(sql, f"{table.name.upper()}_COLUMNS")
        assert tuple(column.name for column in table.columns) == names


def test_every_statement_compiles() -> None:
    """SQLite can prepare every statement against the packaged schema."""
    connection = engine.scratch()
    try:
        for text in DATA.values():
            values = dict.fromkeys(re.findall(r":(\w+)", text), 1)
            connection.execute(f"EXPLAIN {text}", values).fetchall()
    finally:
        connection.close()


@pytest.mark.parametrize("block", [False, True], ids=["chosen-driver", "standard-library"])
def test_no_hot_statement_scans_a_table(block: bool) -> None:
    """With either SQLite a statement searches by an index, unless its answer is the whole table."""
    import json

    done = subprocess.run(
        [sys.executable, "-c", PLANS.format(block=block)],
        input=json.dumps(DATA),
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    driver, plans = json.loads(done.stdout)
    assert ("sqlite3" if block else engine.DRIVER) == driver
    tables = {table.name for table in metadata.sorted_tables}
    scans = {
        name: f"{found[1]} {found[2] or ''}".strip()
        for name, plan in plans.items()
        for line in plan
        if (found := re.match(r"SCAN (\w+)(?: (USING INDEX ix_\w+))?", line)) and found[1] in tables
    }
    assert LISTINGS == scans
