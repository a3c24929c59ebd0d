"""Owns the soak: a mixed load for a long time, and whether anything of the store grows meanwhile.

A crowd of processes works as in `living`; some are killed and some are told to end, all the time.
One more process, the resident, lives from the beginning to the end with several threads in one open
store. Both are looked at from outside: what the resident has open and how large it is, and what
lies in the store's own directories. What is there in the last quarter is compared with the first.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import random
import shutil
import signal
import statistics
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs

from layerstore import Reader, Store, archives
from layerstore.db import wal
from layerstore.errors import Busy
from layerstore.fs import layout
from tests.crash import bench
from tests.crash.invariants import Violation, mounts_below, require
from tests.crash.living import SHARED, Crowd, crowded
from tests.crash.model import Verb
from tests.crash.summary import tabulated

WORKERS = 6
THREADS = 4
COMPACT_ABOVE = 2_000
"""Events in the database: a second or two of it, so that every quarter has compactions."""
WAL_LIMIT = wal.LIMIT * 3 // 2
"""Past its limit the log is begun anew; what is committed meanwhile comes on top."""


@attrs.frozen
class Bound:
    """How much more the last quarter may have than the first: in parts, and as such."""

    parts: float
    more: float

    def holds(self, first: float, last: float) -> bool:
        return last <= first * (1 + self.parts) + self.more


BOUNDS = {
    "descriptors": Bound(0, 4),
    "rss_kib": Bound(0.05, 2048),
    "threads": Bound(0, 1),
    "wal_bytes": Bound(0, wal.LIMIT),
    "database_bytes": Bound(0.25, 1 << 20),
    "mounts": Bound(0.5, WORKERS),
    "owners": Bound(0.25, WORKERS),
    "staging": Bound(0.5, WORKERS),
    "trash": Bound(0.5, WORKERS),
    "conductor_descriptors": Bound(0, 2),
}
"""What must be flat. What the journal remembers goes to archives, which are for ever."""


# --- the resident -------------------------------------------------------------------------------


@attrs.define
class Resident:
    """A process that lives as long as the soak."""

    pid: int
    stop: int
    said: int

    def wait(self) -> None:
        """Until each of its threads has settled in; it says so by an empty line."""
        require(os.read(self.said, 1) == b"\n", "the resident did not begin")

    def end(self) -> dict[str, int]:
        """Let it end; how often it did what."""
        os.write(self.stop, b"x")
        os.close(self.stop)
        with open(self.said, encoding="utf-8") as pipe:
            answer = json.load(pipe)
        _, status = os.waitpid(self.pid, 0)
        if status or "error" in answer:
            raise Violation(f"the resident ended with {status}: {answer.get('error')}")
        return answer


def start_resident(home: Path, seed: int) -> Resident:
    """Fork it; it begins at once."""
    stop, stopper = os.pipe()
    said, say = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.close(stopper)
            os.close(said)
            gc.enable()
            answer: dict[str, Any] = _reside(home, seed, stop, say)
            code = 0
        except BaseException:  # noqa: BLE001 - it is told to the conductor
            answer = {"error": traceback.format_exc(limit=-8)}
        finally:
            os.write(say, json.dumps(answer).encode())
            os._exit(code)
    os.close(stop)
    os.close(say)
    return Resident(pid, stopper, said)


def _reside(home: Path, seed: int, stop: int, say: int) -> dict[str, int]:
    over = threading.Event()
    counts = {"rounds": 0, "reads": 0, "busy": 0}
    errors: list[str] = []

    order = threading.Lock()
    settled: list[int] = []

    def kept(work: Callable[[], None], store: Store) -> Callable[[], None]:
        def run() -> None:
            try:
                with order:
                    _settle_in(store)
                    settled.append(threading.get_ident())
                    if len(settled) == THREADS + 1:
                        os.write(say, b"\n")
                while not over.is_set():
                    work()
            except BaseException:  # noqa: BLE001 - it is raised at the end
                errors.append(traceback.format_exc(limit=-8))

        return run

    with (
        Store.open(home, timeout=20, compact_above=COMPACT_ABOVE) as store,
        Reader.open(home) as reader,
    ):
        works = [_rounds(store, number, seed, counts) for number in range(THREADS)]
        works.append(lambda: _read(reader, counts))
        threads = [threading.Thread(target=kept(work, store)) for work in works]
        for thread in threads:
            thread.start()
        os.read(stop, 1)
        over.set()
        for thread in threads:
            thread.join()
    require(not errors, "\n".join(errors))
    return counts


def _settle_in(store: Store) -> None:
    """Compact once, with as much to fold as ever: each thread has an arena of memory of its own."""
    for _ in range(COMPACT_ABOVE // 2):
        store.get("base")
        store.put("base")
    with contextlib.suppress(Busy):
        store.compact(keep=0)


def _rounds(store: Store, number: int, seed: int, counts: dict[str, int]) -> Callable[[], None]:
    """One thread's work: a layer's whole life, and a share in one that all have."""
    chance = random.Random(f"{seed} resident {number}")
    made = 0

    def work() -> None:
        nonlocal made
        made += 1
        layer = f"r{number}_{made}"
        store.create(layer, parent="base")
        (store.get(layer) / "file").write_text("x" * 1000)
        shared = chance.choice(SHARED)
        try:
            with store.mounted(
                shared, holder=f"r{number}" if chance.random() < 0.5 else None
            ) as at:
                require((at / "all").read_text() == f"of all, in {shared}\n", f"{shared}: content")
        except Busy as busy:
            require("locked" not in str(busy), str(busy))
            counts["busy"] += 1
        require(store.put(layer), f"{layer} was not unmounted")
        store.remove(layer)
        counts["rounds"] += 1

    return work


def _read(reader: Reader, counts: dict[str, int]) -> None:
    """What somebody who only asks does: lists, and a page of the journal's end."""
    list(reader.layers())
    reader.holders()
    last = reader.last_seq()
    list(reader.events(after_seq=max(0, last - 100)))
    counts["reads"] += 1
    time.sleep(0.05)


# --- samples ------------------------------------------------------------------------------------


def sample(home: Path, pid: int) -> dict[str, float]:
    """What there is now."""
    status = dict(
        line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines()
    )
    own = home / layout.OWN
    log = own / "journal.db-wal"
    return {
        "descriptors": len(os.listdir(f"/proc/{pid}/fd")),
        "rss_kib": int(status["VmRSS"].split()[0]),
        "threads": int(status["Threads"]),
        "wal_bytes": log.stat().st_size if log.exists() else 0,
        "database_bytes": (own / "journal.db").stat().st_size,
        "mounts": len(mounts_below(home)),
        "archives": len(archives.listed(os.fspath(home))),
        "owners": len(os.listdir(own / "owners")),
        "staging": len(os.listdir(own / "staging")),
        "trash": len(os.listdir(own / "trash")),
        "conductor_descriptors": len(os.listdir("/proc/self/fd")),
    }


def compare(samples: list[dict[str, float]]) -> dict[str, dict[str, float]]:
    """Medians of the first and the last quarter, and the highest, of what is no warming up."""
    settled = samples[len(samples) // 10 :]
    quarter = max(1, len(settled) // 4)
    return {
        name: {
            "first": statistics.median(one[name] for one in settled[:quarter]),
            "last": statistics.median(one[name] for one in settled[-quarter:]),
            "highest": max(one[name] for one in settled),
        }
        for name in settled[0]
    }


def grown(figures: dict[str, dict[str, float]]) -> list[str]:
    """What is not flat."""
    found = [
        f"{name} went from {row['first']:.0f} to {row['last']:.0f}"
        for name, row in figures.items()
        if name in BOUNDS and not BOUNDS[name].holds(row["first"], row["last"])
    ]
    if figures["wal_bytes"]["highest"] > WAL_LIMIT:
        found.append(f"the WAL had {figures['wal_bytes']['highest']:.0f} bytes")
    return found


# --- the soak -----------------------------------------------------------------------------------


def soak(seconds: float, seed: int) -> tuple[dict[str, int], dict[str, dict[str, float]]]:
    """Run it; counts and figures. Violation where something was lost, or grows."""
    place = Path(tempfile.mkdtemp(prefix="layerstore-soak-", dir=bench.base()))
    try:
        with (
            crowded(place, seed, WORKERS, compact_above=COMPACT_ABOVE) as group,
            _resident(group.home, seed) as resident,
        ):
            resident.wait()
            samples = _run(group, resident, seconds, random.Random(seed))
            counts = resident.end()
            unclean = _found_dead(group)
            group.judge()
    finally:
        for point in reversed(mounts_below(place)):
            bench.detach(point)
        shutil.rmtree(place)
    figures = compare(samples)
    found = grown(figures)
    require(not found, "; ".join(found) + "\n" + "\n".join(tabulated(figures)))
    between = unclean.count(None)
    require(
        not between, f"{between} that were at no verb when they were told to end left a store open"
    )
    counts |= {"kills": group.kills, "in_flight": group.in_flight, "ended": len(group.ended)}
    return counts | {
        "verbs": group.verbs,
        "samples": len(samples),
        "unclean": len(unclean),
    }, figures


@contextlib.contextmanager
def _resident(home: Path, seed: int) -> Iterator[Resident]:
    resident = start_resident(home, seed)
    try:
        yield resident
    finally:
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(resident.pid, signal.SIGKILL)
            os.waitpid(resident.pid, 0)


def _run(
    group: Crowd, resident: Resident, seconds: float, chance: random.Random
) -> list[dict[str, float]]:
    names = list(group.states)
    samples = []
    every = max(0.1, seconds / 600)
    now = time.monotonic()
    deadline, due = now + seconds, now
    while (now := time.monotonic()) < deadline:
        if now >= due:
            samples.append(sample(group.home, resident.pid))
            due = now + every
        group.listen(chance.uniform(0.02, 0.1))
        if chance.random() < 0.5:
            dying = chance.sample(names, chance.choice((1, 1, 2)))
            group.kill(dying, chance.choice((signal.SIGKILL, signal.SIGTERM)))
            for me in dying:
                group.start(me)
    return samples


def _found_dead(group: Crowd) -> list[Verb | None]:
    """What those were at who were told to end, and had to be buried by others."""
    with Reader.open(group.home) as reader:
        buried = [row["data"]["owner"] for row in reader.rows(kind="owner.died.v1")]
    return [group.ended[owner] for owner in buried if owner in group.ended]
