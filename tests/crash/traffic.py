"""Owns the traffic: very many gets and puts, how large the journal's files become, what it remembers.

The journal is compacted meanwhile, by whichever process and thread happens to be there. Database and
log have to stay as small as they were; every get and every put is told by the archives.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import random
import shutil
import signal
import tempfile
import threading
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

import attrs

from layerstore import Reader, Store, archives
from layerstore.fs import layout
from tests.crash import bench
from tests.crash.invariants import Violation, check, mounts_below, require
from tests.crash.model import Close, Create, Facts, Initialize, Live, Open, State, Verb, ladder
from tests.crash.soak import WAL_LIMIT

PROCESSES = 2
THREADS = 4
KEPT = tuple(f"kept{number}" for number in range(6))
"""Layers that stay mounted all the time: a get or put of them is one transaction."""
ALONE = tuple(f"alone{number}" for number in range(2))
"""Layers that nobody else holds: their gets and puts mount and unmount."""
SELDOM = 50
"""One in so many pairs is of the second kind."""
COMPACT_ABOVE = 5_000
"""Events in the database; each pair is at least two."""
GROWN = 2
"""So many times its first largest size may the database reach later: what waits while it is compacted."""

BUILT: tuple[Verb, ...] = (
    Initialize(),
    Open(),
    Create("base"),
    *(Create(layer, Facts("base")) for layer in KEPT + ALONE),
    Close(),
)


@attrs.define
class Child:
    """A process at work, and where its answer will be."""

    pid: int
    said: int

    def answer(self) -> Any:
        """What it did, when it has ended."""
        with open(self.said, encoding="utf-8") as pipe:
            value = json.load(pipe)
        _, status = os.waitpid(self.pid, 0)
        if status:
            raise Violation(f"process {self.pid} ended with {status}: {value}")
        return value


def _start(home: Path, number: int, pairs: int, seed: int) -> Child:
    said, say = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.close(said)
            value: Any = _pairs(home, number, pairs, seed)
            code = 0
        except BaseException:  # noqa: BLE001 - it is told to the parent
            value = traceback.format_exc(limit=-8)
        finally:
            os.write(say, json.dumps(value).encode()[:60_000])
            os._exit(code)
    os.close(say)
    return Child(pid, said)


def _pairs(home: Path, number: int, pairs: int, seed: int) -> dict[str, int]:
    """One process: its threads share the pairs; each kind's number."""
    done: Counter[str] = Counter()
    errors: list[str] = []
    _tell_warnings(errors)

    def work(store: Store, thread: int, share: int) -> None:
        chance = random.Random(f"{seed} {number} {thread}")
        counts: Counter[str] = Counter()
        try:
            for turn in range(share):
                holder = f"h{number}.{thread}" if chance.random() < 0.5 else None
                layer = chance.choice(ALONE if turn % SELDOM == 0 else KEPT)
                store.get(layer, holder=holder)
                store.put(layer, holder=holder)
                counts["pairs"] += 1
        except BaseException:  # noqa: BLE001 - it is raised at the end
            errors.append(traceback.format_exc(limit=-8))
        done.update(counts)

    with Store.open(home, durability="process", compact_above=COMPACT_ABOVE) as store:
        threads = [
            threading.Thread(target=work, args=(store, thread, -(-pairs // THREADS)))
            for thread in range(THREADS)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    require(not errors, "\n".join(errors))
    return dict(done)


def _tell_warnings(errors: list[str]) -> None:
    """A compaction that fails is only logged, for the verb before it was done."""

    class Told(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            errors.append(self.format(record))

    logging.getLogger("layerstore").addHandler(Told(logging.WARNING))


def traffic(pairs: int, seed: int) -> tuple[dict[str, int], dict[str, dict[str, float]]]:
    """So many pairs of a get and a put; counts, and the sizes of the journal's files."""
    place = Path(tempfile.mkdtemp(prefix="layerstore-traffic-", dir=bench.base()))
    try:
        return _run(place / "home", pairs, seed)
    finally:
        for point in reversed(mounts_below(place)):
            bench.detach(point)
        shutil.rmtree(place)


def _run(home: Path, pairs: int, seed: int) -> tuple[dict[str, int], dict[str, dict[str, float]]]:
    bench.in_child(lambda: [verb.act(live) for live in [Live(home)] for verb in BUILT])
    bench.in_child(lambda: _hold(home, +1))
    children = [_start(home, n, -(-pairs // PROCESSES), seed) for n in range(PROCESSES)]
    sizes: list[tuple[int, int]] = []
    try:
        over = threading.Event()
        watcher = threading.Thread(target=_watch, args=(home, over, sizes))
        watcher.start()
        try:
            answers = [child.answer() for child in children]
        finally:
            over.set()
            watcher.join()
    finally:
        for child in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child.pid, signal.SIGKILL)
    done = sum(answer["pairs"] for answer in answers)
    figures = _figures(sizes)
    bench.in_child(lambda: _check_past(home, done))
    bench.in_child(lambda: _hold(home, -1))
    bench.in_child(lambda: check(home, [ladder(State(), BUILT)[-1][-1]], {}))
    wal, database = figures["wal_bytes"], figures["database_bytes"]
    require(wal["highest"] <= WAL_LIMIT, f"the WAL grew to {wal['highest']} bytes in {done} pairs")
    require(
        database["highest"] <= GROWN * database["first"],
        f"the database grew from {database['first']} to {database['highest']} bytes",
    )
    kept = archives.listed(str(home))
    require(bool(kept), "it was never compacted")
    counts = {"pairs": done, "samples": len(sizes), "archives": len(kept)}
    return counts | {"archive_bytes": sum(os.path.getsize(one.path) for one in kept)}, figures


def _figures(sizes: list[tuple[int, int]]) -> dict[str, dict[str, float]]:
    """The largest of the first and the last quarter, and of all."""
    wal, database = ([size[n] for size in sizes] for n in (0, 1))
    quarter = max(1, len(sizes) // 4)
    return {
        name: {
            "first": max(values[:quarter]),
            "last": max(values[-quarter:]),
            "highest": max(values),
        }
        for name, values in (("wal_bytes", wal), ("database_bytes", database))
    }


def _hold(home: Path, change: int) -> None:
    with Store.open(home) as store:
        for layer in KEPT:
            if change > 0:
                store.get(layer, holder="keeper")
            else:
                store.put(layer, holder="keeper")


def _watch(home: Path, over: threading.Event, sizes: list[tuple[int, int]]) -> None:
    """Sizes of the WAL and the database, while somebody has a page of a long log before him.

    The files are never opened here: only SQLite may do that.
    """
    own = home / layout.OWN
    with Reader.open(home) as reader:
        page = reader.rows()
        next(page)
        while not over.wait(0.02):
            sizes.append(
                ((own / "journal.db-wal").stat().st_size, (own / "journal.db").stat().st_size)
            )
        next(page)


def _check_past(home: Path, pairs: int) -> None:
    """Log, history and state reach back to the first event, and have every get and every put."""
    everything = {"base", *KEPT, *ALONE}
    with Reader.open(home) as reader:
        holds = {(hold.layer, hold.holder, hold.count) for hold in reader.holders()}
        require(holds == {(layer, "keeper", 1) for layer in KEPT}, f"held: {holds}")
        kinds: Counter[str] = Counter()
        of_one: Counter[str] = Counter()
        for seq, row in enumerate(reader.rows(), 1):
            require(row["seq"] == seq, f"event {row['seq']} is told in the place of {seq}")
            kinds[row["kind"]] += 1
            of_one[row["kind"]] += row["layer"] == ALONE[0]
        require(seq == reader.last_seq(), f"the log ends at {seq} of {reader.last_seq()}")
        history = Counter(entry.kind for entry in reader.history(ALONE[0]))
        require(history == +of_one, f"history of {ALONE[0]}: {history}, in the log: {of_one}")
        require(history["layer.created.v1"] == 1, "the history lacks the layer's beginning")
        made = next(row["seq"] for row in reader.rows(layer=ALONE[-1], kind="layer.created."))
        kept = archives.counted(str(home), archives.cut_of(reader.select))
        require(kept[0].first == 1, f"the oldest archive is {kept[0].path}")
        for at in (1, made, kept[0].last, kept[len(kept) // 2].first, kept[-1].last):
            state = reader.state_at(at)
            require(state.seq == at, f"state {state.seq} instead of {at}")
            found = {layer.id for layer in state.layers}
            require(
                (found == everything) == (at >= made) and found <= everything,
                f"at event {at} there are {found}",
            )
    taken = kinds["hold.taken.v1"] + kinds["layer.mounted.v1"] - len(KEPT)
    given = kinds["hold.released.v1"] + kinds["layer.unmounted.v1"]
    require((taken, given) == (pairs, pairs), f"of {pairs} pairs there are {taken} and {given}")
