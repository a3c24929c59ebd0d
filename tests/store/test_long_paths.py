"""A home whose database has a path that SQLite cannot hold."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from layerstore import Store
from layerstore.db.engine import DRIVER
from tests.store.support import Worker, check_settled, run

pytestmark = pytest.mark.root


@pytest.fixture
def place(bare: Path) -> Path:
    """Where a home can be made, 3,000 characters long."""
    home = bare.joinpath(*["x" * 200] * 15)
    home.parent.mkdir(parents=True)
    return home


LIFE = """
import os, sys
if sys.argv[2] == "sqlite3":
    sys.modules["pysqlite3"] = None
from layerstore import Store
from layerstore.audit import audit
from layerstore.db import engine
assert engine.DRIVER == sys.argv[2], engine.DRIVER
home, saved = sys.argv[1], sys.argv[3]
Store.initialize(home)
with Store.open(home) as store:
    store.create("a")
    store.create("b", parent="a")
    store.get("b", holder="x")
    store.backup(saved)
    store.compact(keep=0)
    store.put("b", holder="x")
    assert len(list(store.rows())) == store.last_seq()
Store.restore(home, saved)
os.unlink(f"{home}/.layerstore/journal.db")
Store.rebuild(home)
with Store.open(home) as store:
    assert ["a", "b"] == [layer.id for layer in store.layers()]
assert not [f for f in audit(home, archives=True).findings if f.severity != "note"]
print("done")
"""


@pytest.mark.parametrize("driver", sorted({"sqlite3", DRIVER}))
def test_every_sqlite_opens_a_long_path(place: Path, bare: Path, driver: str) -> None:
    """Also copied, restored, compacted and made anew, by the SQLite of the distribution, too."""
    assert "done\n" == run(sys.executable, "-c", LIFE, place, driver, bare / "saved.db")


def test_a_long_path_and_a_short_one_lead_to_one_database(
    place: Path, bare: Path, worker: Callable[..., Worker]
) -> None:
    """A process that came by a bind mount and one that came by the long path keep each other out."""
    Store.initialize(place)
    (bare / "view").mkdir()
    run("mount", "--bind", place, bare / "view")
    other = worker(bare / "view")
    with Store.open(place) as store:
        for number in range(20):
            store.create(f"ours{number}")
            other.do(f"store.create('theirs{number}').id")
    assert 40 == len(other.do("[layer.id for layer in store.layers()]"))
    assert 0 == other.end()
    with Store.open(place) as store:
        assert 40 == len(list(store.layers()))
        check_settled(store)
