"""Owns the campaign of many processes: some die at random, and nothing of the others is touched.

Each worker has a name, layers of its own, and a share in a few layers that all of them get and put.
It says what it begins and what it has done; when it is killed, its successor opens the store and
must find exactly what was said, with or without the one thing that was begun. After each verb a
worker looks at what it holds: mounted, with its content, counted right. At the end the journal has
exactly the creates and removes that were acknowledged, and those in flight that the successor found.
"""

from __future__ import annotations

import contextlib
import faulthandler
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
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs

from layerstore import Reader, Store, archives
from layerstore.db import wal
from layerstore.errors import Busy
from layerstore.fs import layout, mountinfo
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
SHARED = tuple(f"shared{number}" for number in range(4))
COMPACT_ABOVE = 500
"""Events in the database: whoever is there compacts it, and may be killed at that, too."""
TERMINATED = 143
"""How a worker exits that was told to end."""
PATIENCE = 120
"""Seconds after which a worker that is to end is taken for stuck."""


def _shared(layer: str) -> tuple[Verb, ...]:
    return (
        Create(layer, Facts("base")),
        Get(layer),
        Write(layer, "all", f"of all, in {layer}\n"),
        Put(layer),
    )


START = (
    Initialize(),
    Open(),
    Create("base"),
    Write("base", "etc", "of the base\n"),
    *(verb for layer in SHARED for verb in _shared(layer)),
    Close(),
)


FIRST = ladder(State(), START)[-1][-1]
"""What everybody begins with."""


class Told(KeyboardInterrupt):
    """To end. Of any other kind it would be lost in a moment at which a module is compiled:
    CPython's folding of constants clears what it takes for an error of its own.
    """


def _told(*_: object) -> None:
    raise Told


Say = Callable[[tuple[str, Any]], None]


# --- a worker -----------------------------------------------------------------------------------


def _choose(chance: random.Random, store: Store, state: State, me: str, count: int) -> Verb:
    """Something that must succeed."""
    mine = [layer for layer in state.layers if layer.startswith(f"{me}-")]
    leaves = [x for x in mine if not any(f.parent == x for f in state.layers.values())]
    held = [(layer, holder) for layer, holder in state.holds]
    shared = chance.choice(SHARED)
    verbs: list[Verb] = [Get(shared), Get(shared, me)]
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
    mine = f"SELECT layer, holder, count FROM holds WHERE holder IN ('{me}', '{store._me}')"
    counts = {(layer, holder): count for layer, holder, count in store.select(mine)}
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


def _list(store: Store, state: State, me: str) -> None:
    """What was acknowledged to this worker is listed, and nothing else of its own is."""
    listed = {layer.id for layer in store.layers()}
    missing_layers = state.layers.keys() - listed
    require(not missing_layers, f"acknowledged, and not listed: {missing_layers}")
    strange = {name for name in listed - state.layers.keys() if name.startswith(f"{me}-")}
    require(not strange, f"listed, and never made: {strange}")


def _settled(store: Store, me: str) -> None:
    """Wait for others who settle what the predecessor had in flight: they met it first."""
    deadline = time.monotonic() + PATIENCE
    mine = {o.id for o in store.operations() if o.layer.startswith((f"{me}-", "shared"))}
    while mine & {operation.id for operation in store.operations()}:
        require(time.monotonic() < deadline, f"never settled: {store.operations()}")
        time.sleep(0.005)


def _find(store: Store, home: Path, me: str, before: list[State]) -> State:
    """Which of the states that the predecessor can have left there is."""
    layers = {
        layer.id: Facts(layer.parent, tuple(sorted(layer.labels.items())), layer.read_write)
        for layer in store.layers()
        if layer.id.startswith(f"{me}-") or layer.id in ("base", *SHARED)
    }
    holds = {(h.layer, h.holder): h.count for h in store.holders() if h.holder == me}
    found = State(layers, holds, {layer: files_in(home / layer / "diff") for layer in layers})  # type: ignore[arg-type]
    allowed = [state.after_death() for state in before]
    require(found in allowed, f"found\n  {found}\nof\n  " + "\n  ".join(map(str, allowed)))
    return found


def _may_wait(verb: Verb) -> bool:
    return isinstance(verb, Get | Put) and verb.layer in SHARED


def work(
    home: Path, me: str, seed: str, compact_above: int, before: list[State], say: Say, stop: int
) -> None:
    """One worker's life, until it is told to stop."""
    chance = random.Random(seed)
    live = Live(home)
    Open(compact_above=compact_above).act(live)
    store = live.opened
    with contextlib.ExitStack() as closing:
        # Told to end by a signal it closes as any program does; killed it does not.
        closing.callback(store.close)
        _settled(store, me)
        state = _find(store, home, me, before)
        say(("found", (state, store._opened.hands.journal.author.owner)))
        state = _go_on(store, live, me, chance, state, say, stop)
    say(("closed", state.after_death()))


def _go_on(
    store: Store, live: Live, me: str, chance: random.Random, state: State, say: Say, stop: int
) -> State:
    """One verb after the other, each told before and after; the last state."""
    count = int(time.monotonic_ns())
    while not select.select([stop], [], [], 0)[0]:
        count += 1
        verb = _choose(chance, store, state, me, count)
        say(("begin", verb))
        try:
            verb.act(live)
        except Busy as busy:
            # Somebody else was at a shared layer for longer than this store waits.
            require(_may_wait(verb) and "locked" not in str(busy), f"{verb}: {busy!r}")
            say(("refused", str(busy)))
            continue
        state = verb.states(state)[-1]
        say(("done", state))
        _look(store, live.home, state, me)
        if count % 16 == 0:
            _list(store, state, me)
    return state


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
    found: State | None = None
    """What it began with."""
    owner: str = ""
    """What its store calls it: a process number is another's in an hour."""
    done: list[Verb] = attrs.Factory(list)
    """What it was told has happened."""
    refused: list[str] = attrs.Factory(list)

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
            elif kind == "refused":
                self.refused.append(value)
                self.begun = None
            elif kind == "found":
                self.found, self.owner = value
                self.state = self.found
            else:
                if self.begun is not None:
                    self.done.append(self.begun)
                self.state, self.begun, self.closed = value, None, kind == "closed"

    def is_at_work(self) -> bool:
        """Whether it has opened its store, and told what it found there."""
        self.read()
        return self.found is not None

    def possible(self, before: list[State]) -> list[State]:
        """The states that its death may leave."""
        if self.state is None:
            return before
        return [self.state, *(self.begun.states(self.state) if self.begun else [])]


def _start(
    home: Path,
    me: str,
    seed: str,
    compact_above: int,
    before: list[State],
    others: list[Worker],
) -> Worker:
    read, write = os.pipe()
    stop, stopper = os.pipe()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    pid = os.fork()
    if pid == 0:
        code = 1

        def say(value: tuple[str, Any]) -> None:
            data = pickle.dumps(value)
            os.write(write, struct.pack("!I", len(data)) + data)

        try:
            signal.signal(signal.SIGTERM, _told)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
            for descriptor in (read, stopper, *(f for w in others for f in (w.lines, w.stop))):
                os.close(descriptor)
            gc.enable()
            faulthandler.register(signal.SIGUSR1, all_threads=True)
            work(home, me, seed, compact_above, before, say, stop)
            code = 0
        except Told:
            code = TERMINATED
        except BaseException:  # noqa: BLE001 - it is told to the conductor
            say(("error", traceback.format_exc(limit=-8)))
        finally:
            os._exit(code)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    os.close(write)
    os.close(stop)
    os.set_blocking(read, False)
    return Worker(pid, read, stopper)


def _wait(worker: Worker) -> int:
    """Its wait status, when it has ended and all that it said was read."""
    deadline = time.monotonic() + PATIENCE
    while True:
        pid, status = os.waitpid(worker.pid, os.WNOHANG)
        worker.read()
        if pid:
            os.close(worker.lines)
            os.close(worker.stop)
            return status
        if time.monotonic() > deadline:
            os.kill(worker.pid, signal.SIGUSR1)  # it says on stderr where it is
            time.sleep(1)
            raise Violation(f"process {worker.pid} does not end; it was at {worker.begun}")
        select.select([worker.lines], [], [], 0.05)


@attrs.define
class Crowd:
    """Workers on one home, and what each of them may have left."""

    home: Path
    seed: int
    states: dict[str, list[State]]
    compact_above: int
    workers: dict[str, Worker] = attrs.Factory(dict)
    happened: Counter[tuple[str, str]] = attrs.Factory(Counter)
    """By kind of verb and name: how often it was acknowledged, or found done by a successor."""
    open_ends: dict[str, Create | Remove] = attrs.Factory(dict)
    """Last verbs of which nobody knows yet whether they happened."""
    kills: int = 0
    in_flight: int = 0
    ended: dict[str, Verb | None] = attrs.Factory(dict)
    """Owners that were told to end when they had their store open, and the verb that each was at."""
    wal: int = 0
    """The largest that the WAL was seen."""
    verbs: int = 0
    refused: list[str] = attrs.Factory(list)

    def start(self, me: str) -> None:
        seed = f"{self.seed} {me} {self.kills}"
        others = list(self.workers.values())
        above = self.compact_above
        self.workers[me] = _start(self.home, me, seed, above, self.states[me], others)

    def listen(self, seconds: float) -> None:
        """Take in what is said for so long; Violation where somebody failed."""
        end = time.monotonic() + seconds
        while True:
            lines = {worker.lines: worker for worker in self.workers.values()}
            left = max(0.0, end - time.monotonic())
            with contextlib.suppress(FileNotFoundError):
                log = self.home / layout.OWN / "journal.db-wal"
                self.wal = max(self.wal, log.stat().st_size)
            for ready in select.select(lines, [], [], left)[0]:
                lines[ready].read()
                if lines[ready].error:
                    raise Violation(lines[ready].error)
            if not left:
                return

    def kill(self, names: list[str], how: int = signal.SIGKILL) -> None:
        """Kill them all at once, or tell them to end."""
        at_work = {me for me in names if self.workers[me].is_at_work()}
        for me in names:
            os.kill(self.workers[me].pid, how)
        for me in names:
            worker = self.workers.pop(me)
            status = _wait(worker)
            if worker.error:
                raise Violation(f"{me}: {worker.error}")
            if how == signal.SIGTERM:
                ended = os.WIFEXITED(status) and os.WEXITSTATUS(status) == TERMINATED
                if me in at_work:
                    self.ended[worker.owner] = worker.begun
            else:
                ended = os.WIFSIGNALED(status)
                self.kills += 1
                self.in_flight += int(worker.begun is not None)
            require(ended, f"{me} had ended by itself: {status}")
            self.states[me] = worker.possible(self.states[me])
            self._take(me, worker)

    def finish(self) -> list[State]:
        """Let everyone stop; what each has."""
        for worker in self.workers.values():
            os.write(worker.stop, b"x")
        for me, worker in list(self.workers.items()):
            status = _wait(worker)
            if worker.error or status:
                raise Violation(f"{me} ended with {status}: {worker.error}")
            assert worker.closed
            assert worker.state is not None
            self.states[me] = [worker.state]
            self._take(me, worker)
        return [states[0] for states in self.states.values()]

    def judge(self) -> int:
        """Let everyone stop, and look whether the home is what they said; how many layers it has."""
        whole = FIRST
        for state in self.finish():
            whole = State(
                {**whole.layers, **state.layers},
                {**whole.holds, **state.holds},
                {**whole.files, **state.files},
            )
        bench.in_child(lambda: _judge(self.home, whole, self.happened))
        return len(whole.layers)

    def _take(self, me: str, worker: Worker) -> None:
        """Count what one life has told."""
        if worker.found is not None and me in self.open_ends:
            left = self.open_ends.pop(me)
            there = left.layer in worker.found.layers
            self.happened[type(left).__name__, me] += int(there == isinstance(left, Create))
        for verb in worker.done:
            self.happened[type(verb).__name__, me] += 1
        self.verbs += len(worker.done)
        self.refused += worker.refused
        if isinstance(worker.begun, Create | Remove):
            self.open_ends[me] = worker.begun


def crowd(seconds: float, seed: int, *, workers: int = WORKERS, kills: int = 0) -> dict[str, int]:
    """Run it for so long, and until so many were killed; counts.

    Violation where something that lives was touched, or a count is wrong.
    """
    place = Path(tempfile.mkdtemp(prefix="layerstore-living-", dir=bench.base()))
    try:
        return _run(place, seconds, seed, workers, kills)
    finally:
        for point in reversed(mounts_below(place)):
            bench.detach(point)
        shutil.rmtree(place)


@contextlib.contextmanager
def crowded(
    place: Path, seed: int, workers: int, *, compact_above: int = COMPACT_ABOVE
) -> Iterator[Crowd]:
    """A home with so many workers in it; none of them is left at the end."""
    home = place / "home"
    bench.in_child(lambda: [verb.act(live) for live in [Live(home)] for verb in START])
    states = {f"w{number}": [FIRST] for number in range(workers)}
    group = Crowd(home, seed, states, compact_above)
    bench.warm_up()
    gc.disable()
    gc.freeze()
    try:
        for me in group.states:
            group.start(me)
        yield group
    finally:
        for worker in group.workers.values():
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker.pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(worker.pid, 0)


def _run(place: Path, seconds: float, seed: int, workers: int, kills: int) -> dict[str, int]:
    chance = random.Random(seed)
    with crowded(place, seed, workers) as group:
        names = list(group.states)
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline or group.kills < kills:
            group.listen(chance.uniform(0.02, 0.2))
            dying = chance.sample(names, chance.choice((1, 1, 2, max(1, workers // 8))))
            group.kill(dying)
            for me in dying:
                group.start(me)
        layers = group.judge()
    require(group.wal <= 2 * wal.LIMIT, f"the WAL grew to {group.wal} bytes")
    return {
        "kills": group.kills,
        "in_flight": group.in_flight,
        "verbs": group.verbs,
        "refused": len(group.refused),
        "wal": group.wal,
        "layers": layers,
    }


def _judge(home: Path, whole: State, happened: Counter[tuple[str, str]]) -> None:
    settled = [item for item in mend(home, "open") if item.what in ("failed", "isolated")]
    require(not settled, f"recovery could not settle: {settled}")
    check(home, [whole], {})
    _check_counts(home, happened)
    with Store.open(home) as store:
        for name in {holder for _, holder in whole.holds}:
            store.release(name)
    check(home, [whole.without_holds(lambda *_: True)], {})
    require(not mounts_below(home), f"still mounted: {mounts_below(home)}")


def _check_counts(home: Path, happened: Counter[tuple[str, str]]) -> None:
    """The journal has every create and remove that was acknowledged, and no other."""
    kinds = {"layer.created.v1": "Create", "layer.removed.v1": "Remove"}
    written: Counter[tuple[str, str]] = Counter()
    with Reader.open(home) as reader:
        for row in reader.rows():
            me, dash, _ = str(row["layer"]).partition("-")
            if row["kind"] in kinds and dash:
                written[kinds[row["kind"]], me] += 1
        require(bool(archives.listed(str(home))), "the journal was never compacted")
    told = Counter({key: n for key, n in happened.items() if key[0] in kinds.values() and n})
    require(
        told == written,
        f"the journal differs from what was told: {told - written} were told "
        f"and are not in it, {written - told} are in it and were not told",
    )
