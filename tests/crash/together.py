"""Owns the campaign of threads whose writes share transactions, in a process that is killed there.

Each thread works on layers of its own, and says what it has done. So that they meet, whoever begins
a transaction gives the others a moment to get in line. The process is killed at the n-th point that
any of them passes, for every n; then each thread's work must be there as far as it was acknowledged,
with or without the one verb that it was at, and nothing half of it.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import os
import re
import shutil
import signal
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from layerstore.db import engine
from layerstore.fs.trace import set_trace
from tests.crash import bench
from tests.crash.invariants import check, mend, mounts_below, require
from tests.crash.model import (
    Close,
    Create,
    Facts,
    Get,
    Initialize,
    Live,
    Open,
    Put,
    Remove,
    State,
    Verb,
    ladder,
)

THREADS = 3
MOMENT = 0.02
"""Seconds that a transaction waits for others at the most, after its BEGIN."""
PATIENCE = 60
START = (Initialize(), Open(), Create("base"), Close())
SHARED = re.compile(r"(group|together):|.*:(intent|outcome):")
"""Points in and around a transaction."""


def script(number: int) -> tuple[Verb, ...]:
    """What one thread does."""
    layer, holder = f"t{number}", f"h{number}"
    return (
        Create(layer, Facts("base")),
        Get(layer, holder),
        Put(layer, holder),
        Remove(layer),
        Create(f"{layer}-last"),
    )


def sweep(*, every: bool) -> dict[str, Any]:
    """Kill at each point, until a process lives to its end; Violation for what is lost."""
    died_at: Counter[str] = Counter()
    gc.disable()
    gc.freeze()
    for index in itertools.count():
        place = Path(tempfile.mkdtemp(prefix="layerstore-together-", dir=bench.base()))
        try:
            point = _round(place / "home", index, every=every)
        finally:
            for mount in reversed(mounts_below(place)):
                bench.detach(mount)
            shutil.rmtree(place)
        if not point:
            return {"kills": index, "died_at": dict(died_at)}
        died_at[point] += 1
    raise AssertionError


def _round(home: Path, index: int, *, every: bool) -> str:
    """One process, killed at its point number `index`; the point's name, or nothing if it lived."""
    bench.in_child(lambda: [verb.act(live) for live in [Live(home)] for verb in START])
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            signal.alarm(PATIENCE)
            gc.enable()
            _work(home, index, write, every=every)
        finally:
            os._exit(1)
    os.close(write)
    with open(read, encoding="utf-8") as lines:
        said = lines.read().splitlines()
    status = os.waitpid(pid, 0)[1]
    done = Counter(int(line.split()[1]) for line in said if line.startswith("done "))
    points = [line.removeprefix("died ") for line in said if line.startswith("died ")]
    errors = [line for line in said if line.startswith("error ")]
    require(not errors, "\n".join(errors))
    died = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    require(died or status == 0, f"the process ended with {status}")
    require(died or sum(done.values()) == THREADS * len(script(0)), f"not all was done: {done}")
    bench.in_child(lambda: _judge(home, done, f"killed at {points}"))
    return points[0] if died else ""


def _judge(home: Path, done: Counter[int], how: str) -> None:
    settled = [item for item in mend(home, "open") if item.what in ("failed", "isolated")]
    require(not settled, f"{how}: recovery could not settle: {settled}")
    first = ladder(State(), START)[-1][-1]
    possible = [ladder(first, script(number))[done[number]] for number in range(THREADS)]
    allowed = [_together(states) for states in itertools.product(*possible)]
    check(home, allowed, {})


def _together(states: tuple[State, ...]) -> State:
    whole = State()
    for state in states:
        whole = State(
            {**whole.layers, **state.layers},
            {**whole.holds, **state.holds},
            {**whole.files, **state.files},
        )
    return whole


# --- in the process that dies -------------------------------------------------------------------


def _work(home: Path, index: int, write: int, *, every: bool) -> None:
    """Run the scripts at once. Each line is one write, which a kill cannot part."""
    live = Live(home)
    Open().act(live)
    line = live.opened._hands.journal._group._line
    _make_them_meet(line)
    lock, passed = threading.Lock(), itertools.count()

    def say(text: str) -> None:
        os.write(write, f"{text}\n".encode())

    def hook(point: str) -> None:
        if every or SHARED.match(point):
            with lock:
                if next(passed) == index:
                    say(f"died {point}")
                    os.kill(os.getpid(), signal.SIGKILL)

    def body(number: int) -> None:
        try:
            for verb in script(number):
                verb.act(live)
                say(f"done {number}")
        except BaseException as error:  # noqa: BLE001 - it is told to the campaign
            say(f"error {number}: {type(error).__name__}: {error}")

    set_trace(hook)
    threads = [threading.Thread(target=body, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    set_trace(None)
    Close().act(live)
    os._exit(0)


def _make_them_meet(line: Any) -> None:
    """Whoever has begun a transaction waits a moment for somebody to share it with."""
    write = engine.Database.write

    @contextlib.contextmanager
    def patient(self: engine.Database, *, full: bool) -> Iterator[engine.Connection]:
        with write(self, full=full) as connection:
            deadline = time.monotonic() + MOMENT
            while len(line) < THREADS - 1 and time.monotonic() < deadline:
                time.sleep(0.0005)
            yield connection

    engine.Database.write = patient  # type: ignore[method-assign]
