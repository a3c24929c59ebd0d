"""A store of every schema that there was is opened by today's code: upgraded, settled, sound."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import layerstore.migrations
from layerstore import Store
from layerstore.audit import audit
from layerstore.db import statements as sql
from layerstore.testing.stores import revisions, store_tree

pytestmark = pytest.mark.root


def test_there_is_a_store_of_every_schema() -> None:
    """Each migration has the store that the program before the next one left: add it with a new one."""
    scripts = Path(layerstore.migrations.__file__).parent / "versions"
    known = {path.name[:4] for path in scripts.glob("[0-9]*.py")}
    assert known == set(revisions())
    assert max(known) == sql.REVISION


@pytest.mark.parametrize("revision", revisions())
def test_a_store_of_a_schema_opens(bare: Path, revision: str) -> None:
    """It is upgraded, what its process left is settled, its layers have their content, and it works."""
    tree = store_tree(bare / "home", revision=revision)
    before = audit(tree.home)
    assert (revision != sql.REVISION) == ("old-schema" in {f.code for f in before.findings})
    expected = {"base", "child", "work", "leaf"} | ({"applied"} & set(tree.layers))
    with Store.open(tree.home) as store:
        assert {("late", "undone")} <= {(item.layer, item.what) for item in store.settled}
        assert expected | {"late"} == {layer.id for layer in store.layers()}
        assert "Größe ✓" == store.layer("base").labels["name"]
        for name in expected:
            assert tree.parents[name] == store.layer(name).parent
            with store.mounted(name) as path:
                files = {file.name for file in path.iterdir()}
            chain = [name, *(parent.parent.name for parent in tree.chain(name))]
            assert files == {f"of-{layer}" for layer in chain if layer != "leaf"}
        if "applied" in expected:
            assert store.layer("applied").applied
        assert {"layer.removed.v1"} <= {entry.kind for entry in store.history("gone")}
        store.create("new", parent="leaf")
        assert 1 == store.layer("new").depth - store.layer("leaf").depth
    report = audit(tree.home)
    assert [] == [f for f in report.findings if f.severity != "note"]
    assert (sql.REVISION, sql.REVISION) == Store.upgrade(tree.home)


@pytest.mark.parametrize("revision", revisions())
def test_a_recorded_store_has_nothing_of_the_machine(bare: Path, revision: str) -> None:
    """What is recorded is the store's own, and the same wherever it is built."""
    text = (Path(layerstore.__file__).parent / f"testing/older/{revision}.json").read_text()
    assert not re.search(r"/dev/shm|/tmp/", text)
    first, second = (store_tree(bare / name, revision=revision) for name in ("one", "two"))
    assert first.layers == second.layers
