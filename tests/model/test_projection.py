"""Folding events: the same journal gives the same tables, whole or in parts."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from layerstore import Entry, Reader, Store, projection, replay
from layerstore import model as m
from layerstore.db import engine
from tests.index import forest

pytestmark = pytest.mark.root

Tables = dict[str, list[tuple[Any, ...]]]
RUNS = 4
_recorded: dict[int, tuple[tuple[Entry, ...], Tables]] = {}


def tables(read: Any) -> Tables:
    """The folded tables."""
    return {name: list(read(query)) for name, query in replay.FOLDED.items()}


@pytest.fixture
def recorded(bare: Path) -> list[tuple[tuple[Entry, ...], Tables]]:
    """The journals of some random runs with the index that each ended with; made once."""
    for seed in range(RUNS):
        if seed not in _recorded:
            home = bare / f"home{seed}"
            Store.initialize(home)
            forest.run(home, seed=seed, count=120)
            with Reader.open(home) as reader:
                _recorded[seed] = (tuple(reader.events()), tables(reader.select))
    return list(_recorded.values())


def fold(connection: Any, entries: Sequence[Entry]) -> None:
    """Fold some events into a database."""
    for entry in entries:
        at = m.to_micros(entry.at)
        facts = projection.RowFacts(entry.seq, entry.operation, entry.owner, entry.boot_id, at)
        projection.fold(connection, facts, entry.event)


def folded(*parts: Sequence[Entry]) -> Tables:
    """The tables after folding the parts one after the other, each in a transaction of its own."""
    connection = engine.scratch()
    try:
        for part in parts:
            connection.execute("BEGIN")
            fold(connection, part)
            connection.execute("COMMIT")
        return tables(connection.execute)
    finally:
        connection.close()


quiet = settings(
    max_examples=40,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def test_the_runs_are_worth_it(recorded: Any) -> None:
    """The recorded journals have layers, mounts, holds, removals and undone operations in them."""
    kinds = {entry.kind for entries, _ in recorded for entry in entries}
    assert kinds >= {
        "layer.created.v1", "layer.mounted.v1", "layer.unmounted.v1", "layer.removed.v1",
        "hold.taken.v1", "hold.released.v1", "holds.ended.v1",
    }  # fmt: skip
    assert all(index["layers"] for _, index in recorded)


def test_the_fold_is_the_index(recorded: Any) -> None:
    """Folded anew, each journal gives the index that the store ended with."""
    for entries, index in recorded:
        assert index == folded(entries)


def test_folding_twice_gives_the_same(recorded: Any) -> None:
    """Two folds of one journal are equal, row by row."""
    for entries, _ in recorded:
        assert folded(entries) == folded(entries)


@quiet
@given(data=st.data())
def test_a_prefix_and_the_rest_are_the_whole(recorded: Any, data: st.DataObject) -> None:
    """Wherever a journal is cut, folding both parts is folding the whole."""
    entries, index = data.draw(st.sampled_from(recorded))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(entries)), max_size=5)))
    bounds = [0, *cuts, len(entries)]
    parts = [entries[low:high] for low, high in itertools.pairwise(bounds)]
    assert index == folded(*parts)


@quiet
@given(data=st.data())
def test_every_prefix_keeps_the_rules(recorded: Any, data: st.DataObject) -> None:
    """At any moment holds are positive and on layers, mounts are on layers, and parents are there."""
    entries, _ = data.draw(st.sampled_from(recorded))
    at = folded(entries[: data.draw(st.integers(0, len(entries)))])
    ids = {row[0] for row in at["layers"]}
    assert {row[0] for row in at["holds"]} <= ids
    assert {row[0] for row in at["mounts"]} <= ids
    assert {row[2] for row in at["layers"]} - {None} <= ids
    assert all(row[2] > 0 for row in at["holds"])
    busy = [row[2] for row in at["operations"]]
    assert len(busy) == len(set(busy))


def test_the_fold_looks_only_at_event_and_row(recorded: Any) -> None:
    """A base layer's row follows from its own events and its children's, whatever else happened."""
    compared = 0
    for entries, index in recorded:
        for row in index["layers"]:
            if row[2] is not None:
                continue
            layer = row[0]
            kin = {e.layer for e in entries if getattr(e.event, "parent", None) == layer} | {layer}
            own = [entry for entry in entries if entry.layer in kin]
            connection = engine.scratch()
            try:
                fold(connection, own)
                query = "SELECT * FROM layers WHERE id = ?"
                assert [row] == connection.execute(query, (layer,)).fetchall()
            finally:
                connection.close()
            compared += 1
    assert compared > RUNS
