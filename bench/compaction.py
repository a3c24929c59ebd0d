"""Measures compaction: how long it takes, what the check for it costs, and an open before and after.

    unshare --mount --propagation private .venv/bin/python bench/compaction.py [EVENTS] [LAYERS]

The home is in $LAYERSTORE_TEST_DIR (default: /dev/shm), which does not sync: these are costs of
computing. Run it on a disk for what a user waits.
"""

from __future__ import annotations

import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from layerstore import Reader, Store, compaction
from layerstore import events as e
from layerstore.fs import trace

LETTERS = str.maketrans("0123456789", "ABCDEFGHIJ")


def fill(store: Store, events: int, layers: int) -> None:
    """Layers that are adopted, and holds that are taken and released, as gets and puts append them."""
    journal = store._hands.journal
    with journal.transaction(full=False) as tx:
        for number in range(layers):
            link = f"{number:026}".translate(LETTERS)
            tx.append(e.LayerAdopted(f"l{number}", link, None, "", 0, False, "bench"))
    left = events - store.last_seq()
    while left > 0:
        with journal.transaction(full=False) as tx:
            for number in range(0, min(left, 1000), 2):
                layer = f"l{number % layers}"
                tx.append(e.HoldTaken(layer, "bench"))
                tx.append(e.HoldReleased(layer, "bench"))
        left -= 1000


def timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return (time.perf_counter() - began) * 1000


def opened(home: Path) -> float:
    """Milliseconds of an open and close, the median of eleven."""
    return statistics.median(
        timed(lambda: Store.open(home, compact_above=0).close()) for _ in range(11)
    )


def main() -> None:
    events = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    layers = int(sys.argv[2]) if len(sys.argv) > 2 else 1_000
    place = Path(tempfile.mkdtemp(dir=os.environ.get("LAYERSTORE_TEST_DIR", "/dev/shm")))
    home = place / "home"
    try:
        Store.initialize(home)
        with Store.open(home, compact_above=0) as store:
            fill(store, events, layers)
        say(f"database before, {events} events, {layers} layers", size(home), "bytes")
        say("open and close before", opened(home), "ms")
        with Store.open(home, compact_above=0) as store:
            compact(store)
            tend = store._compactor.tend
            number = 1_000_000
            took = timed(lambda: [tend() for _ in range(number)])
            say("the check after each verb", took / number * 1e6, "ns")
            status = store.status()
        say("open and close after", opened(home), "ms")
        say("database after", size(home), "bytes")
        say("archive", status.archive_bytes, "bytes")
        with Reader.open(home) as reader:
            say("log of everything", timed(lambda: sum(1 for _ in reader.rows())), "ms")
            say("state_at the middle", timed(lambda: reader.state_at(events // 2)), "ms")
            say("state_at the end", timed(lambda: reader.state_at(reader.last_seq())), "ms")
    finally:
        shutil.rmtree(place)


def compact(store: Store) -> None:
    """Compact, and say how long all of it took, and how long writers were kept out."""
    at: dict[str, float] = {}
    trace.set_trace(lambda point: at.setdefault(point, time.perf_counter()))
    say(f"compact(keep={compaction.KEEP})", timed(store.compact), "ms")
    trace.set_trace(None)
    held = at["compact:outcome:after"] - at["compact:outcome:before"]
    say("  of it inside the write transaction", held * 1000, "ms")


def size(home: Path) -> int:
    return sum(path.stat().st_size for path in (home / ".layerstore").glob("journal.db*"))


def say(what: str, value: float, unit: str) -> None:
    print(f"{what:<50} {value:>14,.1f} {unit}", flush=True)


if __name__ == "__main__":
    main()
