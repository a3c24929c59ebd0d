"""Owns the campaign of several processes: some die at random, and nothing of the others is touched.

Each worker has a name, layers of its own, and a share in one layer that all of them get and put. It
says what it begins and what it has done; when it is killed, its successor opens the store and must
find exactly what was said, with or without the one thing that was begun. After each verb a worker
looks at what it holds: mounted, with its content, counted right.
"""

from __future__ import annotations

import contextlib
import gc
import os
import pickle
import random
import select
import shutil
import signal
import struct
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

import attrs

from layerstore import Store
from layerstore.fs import mountinfo
from tests.crash import bench
from tests.crash.invariants import Violation, check, files_in, mend, mounts_below, require
from tests.crash.model import (
    ME,
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
    Write,
    ladder,
)

WORKERS = 4
LAYERS = 5
"""So many layers a worker keeps."""

START = (
    Initialize(),
    Open(),
    Create("base"),
    Write("base", "etc", "of the base\n"),
    Create("shared", Facts("base")),
    Get("shared"),
    Write("shared", "all", "of all\n"),
    Put("shared"),
    Close(),
)


# --- a worker -----------------------------------------------------------------------------------


def _choose(chance: random.Random, store: Store, state: State, me: str, count: int) -> Verb:
    """Something that must succeed."""
    mine = [layer for layer in state.layers if layer.startswith(f"{me}-")]
    leaves = [x for x in mine if not any(f.parent == x for f in state.layers.values())]
    held = [(layer, holder) for layer, holder in state.holds]
    verbs: list[Verb] = [Get("shared"), Get("shared", me)]
    verbs += [Put(layer, None if holder == ME else holder) for layer, holder in held]
    if len(mine) < LAYERS:
        free = [layer for layer in mine if layer not in {layer for layer, _ in held}]
        parents = [None, "base", "base", *free]
        facts = Facts(chance.choice(parents), (("by", me),), chance.random() < 0.5)
        verbs += [Create(f"{me}-{count}", facts)] * 3
    for layer in leaves:
        holders = {holder for name, holder in held if name == layer}
        verbs.append(Get(layer))
        if not holders - {ME}:
            verbs.append(Remove(layer))
        if ME in holders and not store.layer(layer).committed:
            verbs.append(Write(layer, f"f{count}", f"{me} {count}\n"))
    return chance.choice(verbs)


def _look(store: Store, home: Path, state: State, me: str) -> None:
    """What this worker holds is there."""
    counts = {(str(h.layer), h.holder): h.count for h in store.holders()}
    for (layer, holder), count in state.holds.items():
        name = store._me if holder == ME else holder
        found = counts.get((layer, name), 0)
        require(found == count, f"{layer} is held by {holder} {found} times instead of {count}")
        if state.layers[layer].parent is not None:
            merged = home / layer / "merged"
            require(mountinfo.is_mount_root(str(merged)), f"{layer} is held and not mounted")
            shown = files_in(merged)
            missing = state.files[layer].items() - shown.items()
            require(not missing, f"{layer}: its mount lacks {missing}")
    gone = {key for key in counts if key[1] in (me, store._me)} - {
        (layer, store._me if holder == ME else holder) for layer, holder in state.holds
    }
    require(not gone, f"holds that nobody took: {gone}")


def _find(store: Store, home: Path, me: str, before: list[State]) -> State:
    """Which of the states that the predecessor can have left there is."""
    layers = {
        layer.id: Facts(layer.parent, tuple(sorted(layer.labels.items())), layer.read_write)
        for layer in store.layers()
        if layer.id.startswith(f"{me}-") or layer.id in ("base", "shared")
    }
    holds = {(h.layer, h.holder): h.count for h in store.holders() if h.holder == me}
    found = State(layers, holds, {layer: files_in(home / layer / "diff") for layer in layers})  # type: ignore[arg-type]
    allowed = [state.after_death() for state in before]
    require(found in allowed, f"found\n  {found}\nof\n  " + "\n  ".join(map(str, allowed)))
    return found


def work(home: Path, me: str, seed: str, before: list[State], say: Any, stop: int) -> None:
    """One worker's life, until it is told to stop."""
    chance = random.Random(seed)
    live = Live(home)
    Open().act(live)
    store = live.opened
    state = _find(store, home, me, before)
    say(("found", state))
    count = int(time.monotonic_ns())
    while not select.select([stop], [], [], 0)[0]:
        count += 1
        verb = _choose(chance, store, state, me, count)
        say(("begin", verb))
        verb.act(live)
        state = verb.states(state)[-1]
        say(("done", state))
        _look(store, home, state, me)
    Close().act(live)
    say(("closed", state.after_death()))


# --- the conductor ------------------------------------------------------------------------------


@attrs.define
class Worker:
    pid: int
    lines: int
    stop: int
    buffer: bytes = b""
    state: State | None = None
    begun: Verb | None = None
    closed: bool = False
    error: str = ""

    def read(self) -> None:
        """Take in what it has said so far."""
        with contextlib.suppress(BlockingIOError):
            while chunk := os.read(self.lines, 1 << 16):
                self.buffer += chunk
        while len(self.buffer) >= 4:
            (size,) = struct.unpack_from("!I", self.buffer)
            if len(self.buffer) < 4 + size:
                return
            kind, value = pickle.loads(self.buffer[4 : 4 + size])
            self.buffer = self.buffer[4 + size :]
            if kind == "begin":
                self.begun = value
            elif kind == "error":
                self.error = value
            else:
                self.state, self.begun, self.closed = value, None, kind == "closed"

    def possible(self, before: list[State]) -> list[State]:
        """The states that its death may leave."""
        if self.state is None:
            return before
        return [self.state, *(self.begun.states(self.state) if self.begun else [])]


def _start(home: Path, me: str, seed: str, before: list[State]) -> Worker:
    read, write = os.pipe()
    stop, stopper = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1

        def say(value: Any) -> None:
            data = pickle.dumps(value)
            os.write(write, struct.pack("!I", len(data)) + data)

        try:
            os.close(stopper)
            gc.enable()
            work(home, me, seed, before, say, stop)
            code = 0
        except BaseException:  # noqa: BLE001 - it is told to the conductor
            say(("error", traceback.format_exc(limit=-8)))
        finally:
            os._exit(code)
    os.close(write)
    os.close(stop)
    os.set_blocking(read, False)
    return Worker(pid, read, stopper)


def _end(worker: Worker, how: int | None) -> int:
    """Kill it, or tell it to stop; its wait status."""
    if how is None:
        os.write(worker.stop, b"x")
    else:
        os.kill(worker.pid, how)
    while True:
        pid, status = os.waitpid(worker.pid, os.WNOHANG)
        worker.read()
        if pid:
            os.close(worker.lines)
            os.close(worker.stop)
            return status
        select.select([worker.lines], [], [], 0.05)


@attrs.define
class Crowd:
    """Workers on one home, and what each of them may have left."""

    home: Path
    seed: int
    chance: random.Random
    states: dict[str, list[State]]
    workers: dict[str, Worker] = attrs.Factory(dict)
    kills: int = 0
    in_flight: int = 0
    verbs: int = 0

    def start(self, me: str) -> None:
        seed = f"{self.seed} {me} {self.kills}"
        self.workers[me] = _start(self.home, me, seed, self.states[me])

    def kill(self, me: str) -> None:
        worker = self.workers.pop(me)
        status = _end(worker, signal.SIGKILL)
        if worker.error:
            raise Violation(f"{me}: {worker.error}")
        require(os.WIFSIGNALED(status), f"{me} had ended by itself: {status}")
        self.kills += 1
        self.in_flight += int(worker.begun is not None)
        self.states[me] = worker.possible(self.states[me])

    def finish(self) -> list[State]:
        """Let everyone stop; what each has."""
        for me, worker in list(self.workers.items()):
            status = _end(worker, None)
            if worker.error or status:
                raise Violation(f"{me} ended with {status}: {worker.error}")
            assert worker.closed
            assert worker.state is not None
            self.states[me] = [worker.state]
        return [states[0] for states in self.states.values()]


def crowd(seconds: float, seed: int) -> dict[str, int]:
    """Run it; counts. Violation where something that lives was touched."""
    place = Path(tempfile.mkdtemp(prefix="layerstore-living-", dir=bench.base()))
    try:
        return _run(place, seconds, seed)
    finally:
        for point in reversed(mounts_below(place)):
            bench.detach(point)
        shutil.rmtree(place)


def _run(place: Path, seconds: float, seed: int) -> dict[str, int]:
    home = place / "home"
    bench.in_child(lambda: [verb.act(live) for live in [Live(home)] for verb in START])
    names = [f"w{number}" for number in range(WORKERS)]
    first = ladder(State(), START)[-1][-1]
    chance = random.Random(seed)
    group = Crowd(home, seed, chance, {me: [first] for me in names})
    gc.disable()
    gc.freeze()
    try:
        for me in names:
            group.start(me)
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            pause = time.monotonic() + chance.uniform(0.02, 0.2)
            while (left := pause - time.monotonic()) > 0:
                ready = select.select([w.lines for w in group.workers.values()], [], [], left)[0]
                for worker in group.workers.values():
                    if worker.lines in ready:
                        worker.read()
                        if worker.error:
                            raise Violation(worker.error)
            me = chance.choice(names)
            group.kill(me)
            group.start(me)
        finals = group.finish()
    finally:
        for worker in group.workers.values():
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker.pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(worker.pid, 0)
    whole = first
    for state in finals:
        whole = State(
            {**whole.layers, **state.layers},
            {**whole.holds, **state.holds},
            {**whole.files, **state.files},
        )
    bench.in_child(lambda: _judge(home, whole))
    return {"kills": group.kills, "in_flight": group.in_flight, "layers": len(whole.layers)}


def _judge(home: Path, whole: State) -> None:
    settled = [item for item in mend(home, "open") if item.what in ("failed", "isolated")]
    require(not settled, f"recovery could not settle: {settled}")
    check(home, [whole], {})
