"""What a store is asked about its past, and about what comes next."""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import attrs
import pytest

from layerstore import Entry, Reader, State, Store, journal, replay, rows
from layerstore.codec import encode
from layerstore.db import engine
from layerstore.db import statements as sql
from layerstore.fs.trace import set_trace
from tests.index import children, forest

pytestmark = pytest.mark.root


def folded(entries: list[Entry], seq: int) -> State:
    """The store after event `seq`, folded from the events alone."""
    with contextlib.closing(replay.replay(iter(entries), last=seq)) as connection:
        return replay.state_of(connection, seq)


@pytest.fixture(scope="module")
def reader(forest: Path) -> Iterator[Reader]:
    """The forest, opened to be asked."""
    with Reader.open(forest) as reader:
        yield reader


def test_events_come_in_order_over_many_pages(reader: Reader) -> None:
    """Every event comes once, by seq, though a page holds fewer; rows are the same events."""
    entries = list(reader.events())
    assert list(range(1, reader.last_seq() + 1)) == [entry.seq for entry in entries]
    assert len(entries) > 2 * engine.PAGE
    for entry, row in zip(entries, reader.rows(), strict=True):
        assert (entry.seq, entry.kind, entry.layer) == (row["seq"], row["kind"], row["layer"])
        assert entry.at.isoformat() == row["at"]
        assert encode(entry.event)[0] == entry.kind


def every(reader: Reader, keep: Any) -> list[int]:
    """The numbers of the events that are to be kept."""
    return [entry.seq for entry in reader.events() if keep(entry)]


def seqs(reader: Reader, **filters: Any) -> list[int]:
    """The numbers of the events that the filters let through."""
    return [entry.seq for entry in reader.events(**filters)]


def test_events_filter(reader: Reader) -> None:
    """Layer, kind, its beginning, time and number each leave out exactly what does not fit."""
    everything = list(reader.events())
    at = everything[len(everything) // 2].at
    cases: list[tuple[dict[str, Any], Any]] = [
        ({"layer": "work"}, lambda e: e.layer == "work"),
        ({"layer": "trash"}, lambda e: False),
        ({"kind": "layer.created.v1"}, lambda e: e.kind == "layer.created.v1"),
        ({"kind": "layer.m"}, lambda e: e.kind.startswith("layer.m")),
        ({"kind": "hold.", "layer": "work"}, lambda e: e.kind[:5] == "hold." and e.layer == "work"),
        ({"after_seq": 900}, lambda e: e.seq > 900),
        ({"since": at}, lambda e: e.at >= at),
        ({"until": at}, lambda e: e.at <= at),
        ({"since": at, "until": at}, lambda e: e.at == at),
        ({"since": at + timedelta(days=1)}, lambda e: False),
        ({"layer": "hub", "after_seq": 3, "until": at}, lambda e: e.layer == "hub" and e.seq > 3 and e.at <= at),
    ]  # fmt: skip
    for filters, keep in cases:
        assert (filters, every(reader, keep)) == (filters, seqs(reader, **filters))
        assert (filters, every(reader, keep)[:3]) == (filters, seqs(reader, **filters, limit=3))
    assert [] == seqs(reader, limit=0)
    many = engine.PAGE + 7
    assert [entry.seq for entry in everything[:many]] == seqs(reader, limit=many)


def test_a_removed_layer_keeps_its_history(reader: Reader) -> None:
    """Everything that happened to a layer can be asked after it is gone."""
    assert not reader.exists("gone")
    assert [
        "layer.create.intended.v2",
        "layer.created.v1",
        "layer.mount.intended.v2",
        "layer.mounted.v1",
        "layer.unmount.intended.v1",
        "layer.unmounted.v1",
        "layer.remove.intended.v1",
        "layer.removed.v1",
    ] == [entry.kind for entry in reader.history("gone")]
    (created,) = reader.events(layer="gone", kind="layer.created")
    then = {layer.id for layer in reader.state_at(created.seq).layers}
    assert ("gone" in then, "gone" in {x.id for x in reader.state_at(created.seq - 2).layers}) == (
        True,
        False,
    )


def test_a_read_event_survives_being_a_value(reader: Reader) -> None:
    """An entry is a value: read twice, it is equal."""
    assert list(reader.events(limit=50)) == list(reader.events(limit=50))


def test_state_at_knows_no_half_made_layer(reader: Reader) -> None:
    """While a layer was being made it was an operation in flight, and no layer."""
    intended = next(reader.events(layer="gone", kind="layer.create.intended"))
    state = reader.state_at(intended.seq)
    assert "gone" not in {layer.id for layer in state.layers}
    assert ["gone"] == [operation.layer for operation in state.operations]


def told(state: State) -> State:
    """A state without who took the holds: that is no part of the fold."""
    return attrs.evolve(state, holds=tuple(attrs.evolve(h, taken_by=None) for h in state.holds))


def state_of(transaction: journal.Transaction, seq: int) -> State:
    """What the index says inside the transaction that just appended event `seq`."""
    return told(
        State(
            seq=seq,
            layers=rows.made(transaction.all(sql.SELECT_LAYERS, after="", page=-1)),
            holds=tuple(map(rows.hold, transaction.all(sql.SELECT_HOLDS))),
            mounts=tuple(map(rows.mount, transaction.all(sql.SELECT_MOUNTS))),
            operations=tuple(map(rows.operation, transaction.all(sql.SELECT_OPERATIONS))),
        )
    )


def test_state_at_is_the_index_of_that_moment(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For every event of a run, the state folded afterwards is what the index was right after it."""
    moments: dict[int, State] = {}
    append = journal.Transaction.append

    def remembering(transaction: journal.Transaction, event: Any, **options: Any) -> int:
        seq = append(transaction, event, **options)
        moments[seq] = state_of(transaction, seq)
        return seq

    with monkeypatch.context() as patch:
        patch.setattr(journal.Transaction, "append", remembering)
        forest.run(home, seed=5, count=240)
    with Reader.open(home) as reader:
        entries = list(reader.events())
        written = [entry.seq for entry in entries if entry.seq in moments]
        assert sorted(moments) == written and len(written) > 150
        for seq, moment in moments.items():
            assert moment == folded(entries, seq)
        for seq in (1, len(entries) // 2, len(entries)):
            assert folded(entries, seq) == reader.state_at(seq)


def test_state_at_is_what_the_store_answered(home: Path) -> None:
    """What `layers`, `holders`, `mounts` and `operations` said at each step, `state_at` says again."""
    answers: dict[int, tuple[Any, ...]] = {}
    with Store.open(home) as store:

        def ask(_: str) -> None:
            holds = tuple(attrs.evolve(hold, taken_by=None) for hold in store.holders())
            answers[store.last_seq()] = (
                tuple(store.layers()),
                holds,
                store.mounts(),
                store.operations(),
            )

        set_trace(ask)
        try:
            forest.steps(store, 11, 90)
        finally:
            set_trace(None)
        assert len(answers) > 40
        for seq, (layers, holds, mounts, operations) in answers.items():
            state = store.state_at(seq)
            assert (layers, holds, mounts, operations) == (
                state.layers,
                state.holds,
                state.mounts,
                state.operations,
            )


def work(home: Path, names: list[str]) -> int:
    """Create layers, one after the other; the last event's number."""
    with Store.open(home, durability="process") as store:
        for name in names:
            store.create(name)
        return store.last_seq()


@pytest.mark.parametrize("way", ["watch", "watch_rows"])
def test_watch_sees_what_another_process_writes(home: Path, way: str) -> None:
    """Each event comes once and in order, from before the watch and during it."""
    names = [f"n{number}" for number in range(30)]
    first = work(home, names[:10])
    with Reader.open(home) as reader, children.running(lambda: work(home, names[10:])) as child:
        stream = getattr(reader, way)(0, poll=0.005)
        seen = list(itertools.islice(stream, first))
        last = child.wait().result
        seen += itertools.islice(stream, last - first)
        plain = [attrs.asdict(x, recurse=False) if isinstance(x, Entry) else x for x in seen]
        assert list(range(1, last + 1)) == [row["seq"] for row in plain]
        made = [row["layer"] for row in plain if row["kind"] == "layer.created.v1"]
        assert names == made


def test_watch_can_follow_one_layer(home: Path) -> None:
    """`watch_rows` with a layer gives only what happens to it, while other layers change."""
    work(home, ["other"])
    with Reader.open(home) as reader:
        stream = reader.watch_rows(0, layer="mine", poll=0.005)
        with children.running(lambda: work(home, ["more", "mine", "last"])) as child:
            kinds = [next(stream)["kind"] for _ in range(2)]
            assert 0 == child.wait().code
        assert ["layer.create.intended.v2", "layer.created.v1"] == kinds


def test_a_thread_may_watch_while_another_works(home: Path) -> None:
    """A store that writes can be watched through the same object by another thread."""
    with Store.open(home, durability="process") as store:
        seen: list[str] = []

        def follow() -> None:
            for entry in store.watch(0, poll=0.005):
                seen.append(entry.kind)
                if entry.kind == "layer.removed.v1":
                    return

        follower = threading.Thread(target=follow)
        follower.start()
        for number in range(20):
            store.create(f"n{number}")
        store.remove("n7")
        follower.join(30)
        assert not follower.is_alive()
        assert 20 == seen.count("layer.created.v1")


def checkpoint(home: Path) -> tuple[int, int, int]:
    """In another process: write, then have the WAL emptied. What SQLite says of it: (0, 0, 0) is done."""

    def write_and_empty() -> tuple[int, int, int]:
        with Store.open(home, durability="process") as store:
            store.get("lone", holder="another")
            store.put("lone", holder="another")
            writer = store._database._writer  # type: ignore[attr-defined]
            writer.execute("PRAGMA busy_timeout=0")
            busy, log, moved = writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            return busy, log, moved

    found: tuple[int, int, int] = children.run(write_and_empty).result
    return found


@pytest.mark.parametrize("what", ["events", "rows", "layers", "watch"])
def test_no_read_transaction_outlives_a_page(forest: Path, what: str) -> None:
    """An iterator that stopped in the middle of a page, or between two, lets the WAL be emptied."""
    with Reader.open(forest) as reader:
        stream = reader.watch(0) if what == "watch" else getattr(reader, what)()
        for taken in (1, engine.PAGE - 1, 1, 5):
            assert taken == len(list(itertools.islice(stream, taken)))
            assert (0, 0, 0) == checkpoint(forest)


def test_the_checkpoint_would_notice(forest: Path) -> None:
    """A read transaction that is left open does keep the WAL from being emptied: the test above can fail."""
    with Reader.open(forest) as reader:
        raw = reader._database._reader
        raw.execute("BEGIN")
        raw.execute("SELECT * FROM events LIMIT 1").fetchone()
        try:
            assert 1 == checkpoint(forest)[0]
        finally:
            raw.execute("COMMIT")
