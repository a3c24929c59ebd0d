"""Stores of the first format are read by today's code, and today's code still writes that format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import attrs
import pytest

from layerstore import Reader, Store, answers, codec, description, projection, replay
from layerstore import model as m
from layerstore.audit import audit
from layerstore.codec import TAGS, UPCASTS
from layerstore.db import engine
from layerstore.db import statements as sql
from layerstore.fs import layout
from tests.golden import format1

GONE_SINCE = {tag for tag in UPCASTS if tag.endswith(".v1")} - {"layer.applied.v1"}
"""Tags of the first format that are read by an upcast today, and written no more.

`layer.applied.v1` is as old as the third format.
"""

NEW_SINCE = {
    "journal.compacted.v1",
    "layer.apply.intended.v1",
    "layer.apply.undone.v1",
    "layer.forgotten.v1",
    "layer.found.v1",
    "layer.vanished.v1",
    "manifest.dropped.v1",
    "manifest.record.intended.v1",
    "manifest.record.undone.v1",
    "manifest.recorded.v1",
    "index.refolded.v1",
    "repair.done.v1",
    "repair.intended.v1",
    "repair.undone.v1",
    "store.copied.v1",
    "store.moved.v1",
    "store.restored.v1",
    "tree.adopted.v1",
    "tree.released.v1",
    "tree.taken.v1",
}
"""Tags that later formats added."""

_AS_WRITTEN: Any = {"separators": (",", ":"), "ensure_ascii": False}


def entries() -> list[answers.Entry]:
    """The golden journal, decoded by today's code."""
    return [
        answers.Entry(
            **{name: row[name] for name in ("seq", "epoch", "operation", "owner", "boot_id")},
            **{name: row[name] for name in ("kind", "layer")},
            at=m.from_micros(row["at"]),
            event=codec.decode(row["kind"], row["data"], seq=row["seq"]),
        )
        for row in format1.journal()
    ]


def folded(connection: Any) -> dict[str, list[dict[str, Any]]]:
    """The folded tables, each row as a mapping of its columns."""
    found = {}
    for name, query in replay.FOLDED.items():
        cursor = connection.execute(query)
        columns = [column[0] for column in cursor.description]
        found[name] = [dict(zip(columns, row, strict=True)) for row in cursor.fetchall()]
    return found


def test_every_row_can_be_read() -> None:
    """Each row decodes to an event about the layer that the row says."""
    for entry in entries():
        assert getattr(entry.event, "layer", None) == entry.layer


def test_every_row_would_be_written_alike() -> None:
    """What is read encodes to the very text of the row: no field was lost, added or renamed."""
    for row, entry in zip(format1.journal(), entries(), strict=True):
        kind, data = codec.encode(entry.event)
        if row["kind"] in GONE_SINCE:
            tag, added = UPCASTS[row["kind"]]
            values = {k: v for k, v in json.loads(data).items() if k not in added}
            assert (tag, row["data"]) == (kind, json.dumps(values, **_AS_WRITTEN))
            assert added == {k: v for k, v in json.loads(data).items() if k in added}
        else:
            assert (row["kind"], row["data"]) == (kind, data)


def test_the_journal_has_every_kind_of_the_first_format() -> None:
    """Each tag that ends in v1 is in the golden journal, so that none can change unnoticed."""
    kinds = {row["kind"] for row in format1.journal()}
    assert {tag for tag in TAGS if tag.endswith(".v1")} - NEW_SINCE == kinds - GONE_SINCE
    assert kinds >= GONE_SINCE


def test_the_fold_gives_the_golden_index() -> None:
    """Folded by today's code, the golden journal gives the golden tables, column by column."""
    connection = replay.replay(entries())
    try:
        found = folded(connection)
    finally:
        connection.close()
    for name, rows in format1.index().items():
        columns = rows[0].keys()
        assert rows == [{key: row[key] for key in columns} for row in found[name]]


def test_the_fold_is_the_same_in_two_parts() -> None:
    """The golden index comes out as well where the journal is folded in two sittings."""
    whole = entries()
    connection = replay.replay(whole[: len(whole) // 2])
    try:
        for entry in whole[len(whole) // 2 :]:
            at = m.to_micros(entry.at)
            facts = projection.RowFacts(entry.seq, entry.operation, entry.owner, entry.boot_id, at)
            projection.fold(connection, facts, entry.event)
        golden = format1.index()["layers"]
        found = folded(connection)["layers"]
        assert golden == [{key: row[key] for key in golden[0]} for row in found]
    finally:
        connection.close()


def golden_home(home: Path) -> Path:
    """A store of the first format as its last process left it: golden tree, golden journal."""
    format1.build(home)
    for name in (layout.OWN, layout.STAGING, layout.TRASH, layout.QUARANTINE, layout.OWNERS):
        (home / name).mkdir(mode=0o700)
    (home / layout.STORE_LOCK).touch(0o600)
    rows = format1.journal()
    store_id = json.loads(rows[0]["data"])["store_id"]
    path = str(home / layout.DATABASE)
    connection = engine.driver.connect(path, isolation_level=None)
    try:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("BEGIN")
        for statement in sql.CREATE:
            connection.execute(statement)
        connection.execute("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)")
        connection.execute("INSERT INTO alembic_version VALUES (?)", (sql.REVISION,))
        connection.execute(sql.PUT_META, {"key": "store_id", "value": store_id})
        for row, entry in zip(rows, entries(), strict=True):
            connection.execute(sql.INSERT_EVENT_AT, row)
            facts = projection.RowFacts(
                row["seq"], row["operation"], row["owner"], row["boot_id"], row["at"]
            )
            projection.fold(connection, facts, entry.event)
        connection.execute("COMMIT")
    finally:
        connection.close()
    about = description.Description(store_id, rows[0]["epoch"], 1, 128, 10_000)
    description.write(home, about)
    return home


@pytest.mark.root
def test_a_store_of_the_first_format_opens(bare: Path) -> None:
    """Recovery settles what its dead process left; what it acknowledged is there, and can be used."""
    home = golden_home(bare / "home")
    with Store.open(home) as store:
        assert {"base", "child", "leaf", "work", "adopted"} == {x.id for x in store.layers()}
        assert ((), ()) == (store.operations(), store.mounts())
        assert "Größe ✓" == store.layer("base").labels["name"]
        assert "layer.removed.v1" in {entry.kind for entry in store.history("gone")}
        for name, files in (("leaf", {"of-leaf", "of-child", "of-base"}), ("base", {"of-base"})):
            with store.mounted(name) as path:
                assert files == {file.name for file in path.iterdir()}
        store.create("new", parent="leaf")
        assert format1.journal()[-1]["seq"] < store.layer("new").created_seq
    assert {"adopted"} == {f.layer for f in audit(home).findings if f.severity != "note"}


@pytest.mark.root
def test_todays_tree_is_the_golden_tree(home: Path) -> None:
    """The same layers, made by today's code, have the golden names, kinds, modes and contents."""
    golden = format1.tree()
    with Store.open(home) as store:
        store.create("base")
        store.create("child", parent="base")
        store.create("leaf", parent="child")
        store.create_read_write("work", parent="child")
        links = {layer.link: golden[f"{layer.id}/link"]["content"] for layer in store.layers()}
    for name in ("base", "child", "leaf", "work"):
        (home / name / "diff" / f"of-{name}").write_text(name)
        (home / name / "diff" / f"of-{name}").chmod(0o644)
    text = json.dumps(format1.listing(home))
    for today, then in links.items():
        text = text.replace(today, then)
    assert golden == json.loads(text)
    assert 0o710 == home.stat().st_mode & 0o7777


def test_the_builder_builds_what_it_lists(tmp_path: Path) -> None:
    """The golden tree, built and listed, is itself."""
    format1.build(tmp_path / "home")
    assert format1.tree() == format1.listing(tmp_path / "home")


@pytest.mark.root
def test_a_journal_is_rebuilt_from_the_golden_tree(bare: Path) -> None:
    """With its database lost, the store is folded again from the tree: chains as the journal had them."""
    home = golden_home(bare / "home")
    for suffix in ("", "-wal", "-shm"):
        Path(f"{home / layout.DATABASE}{suffix}").unlink(missing_ok=True)
    Store.rebuild(home)
    names = ("link", "parent", "lower", "depth", "committed")
    golden = {
        row["id"]: tuple(row[name] for name in names)
        for row in format1.index()["layers"]
        if row["id"] in format1.tree()
    }
    with Reader.open(home) as reader:
        found = {
            layer.id: tuple(attrs.asdict(layer, recurse=False)[name] for name in names)
            for layer in reader.layers()
        }
    assert golden == found
