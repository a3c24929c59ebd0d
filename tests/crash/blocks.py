"""Owns block states: a verb's writes are recorded below its file system, and made anew up to any moment.

    python -m tests.crash.harness blocks FILE_SYSTEM:SCENARIO [options]

A disk owes what it had before the last flush that it answered. Of what came after that it may have
everything, nothing, or any part in any order: whole writes, and blocks of them. So of one run of a
scenario there are: the state at each flush, what lies in front of it up to some write, and random
choices of the writes since the flush before, each with what had been acknowledged at that moment.
Everything else is as where the power is cut: see `powercut`.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import attrs

from layerstore.fs import syscalls
from tests.crash import bench as benches
from tests.crash import logdisk
from tests.crash.bench import Ended, Fault, Patch
from tests.crash.disk import CHUNK, Disk
from tests.crash.model import Live
from tests.crash.powercut import ALL, CutBench, prepared
from tests.crash.scenarios import Scenario

BLOCK: Final = 4096
"""What a disk writes whole, in the harshest case that file systems are made for."""

Write = tuple[int, bytes]


@attrs.frozen
class Epoch:
    """What lies between two flushes: writes, and how many acknowledgements there had been after each."""

    before: int
    """Acknowledgements in front of the first of them."""
    writes: tuple[Write, ...]
    done: tuple[int, ...]
    """After each write: what had been acknowledged when the next one began, or the flush was answered."""

    def acknowledged(self, writes: int) -> int:
        return self.done[writes - 1] if writes else self.before


@attrs.frozen
class Cut:
    """One state: everything up to an epoch, and of that some."""

    epoch: int
    done: int
    kept: tuple[Write, ...]
    how: str

    @property
    def name(self) -> str:
        return f"epoch {self.epoch}, {self.how}"


@attrs.define
class RecordedDisk(Disk):
    """A disk that is below a FUSE file while it records."""

    server: subprocess.Popen[bytes] | None = None
    more: tuple[str, ...] = ()
    """What else the server is given."""
    _platter: dict[int, bytearray] = attrs.field(factory=dict)
    _flushed: int | None = None
    """The epoch that the platter is at the beginning of."""

    @property
    def log(self) -> Path:
        return self.point.with_name("log")

    @property
    def _directory(self) -> Path:
        return self.point.with_name("below")

    @property
    def below(self) -> Path:
        return self._directory / logdisk.NAME if self.server is not None else self.image

    def record(self) -> None:
        """Begin a record with what the image has now. It is not mounted."""
        self._flushed = None
        self._directory.mkdir(exist_ok=True)
        self.log.write_bytes(b"")
        command = [sys.executable, "-m", "tests.crash.logdisk"]
        self.server = subprocess.Popen(
            [*command, self._directory, self.image, self.log, *self.more], stdin=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 20
        while not self.below.exists():
            if time.monotonic() > deadline or self.server.poll() is not None:
                raise RuntimeError("the recording disk did not start")
            time.sleep(0.005)

    def stop(self) -> None:
        """End the record."""
        assert self.server is not None
        syscalls.umount2(os.fspath(self._directory), 0)
        if self.server.wait(20):
            raise RuntimeError("the recording disk failed")
        self.server = None

    def abandon(self) -> None:
        """Nothing of a record is left that broke off."""
        if self.server is not None:
            self.server.kill()
            self.server.wait()
            self.server = None
        with contextlib.suppress(OSError):
            syscalls.umount2(os.fspath(self._directory), benches.MNT_DETACH)

    def flush_up_to(self, epoch: int, epochs: list[Epoch]) -> None:
        """What was kept, and all writes of the epochs before this one, are on the platter for good."""
        if self._flushed is None or epoch < self._flushed:
            self._platter = {at // CHUNK: bytearray(chunk) for at, chunk in self._kept}
            self._flushed = 0
        for passed in epochs[self._flushed : epoch]:
            for offset, data in passed.writes:
                _put(self._platter, offset, data)
        self._flushed = epoch

    def renew_as(self, kept: tuple[Write, ...]) -> None:
        """What was flushed, and these writes; not mounted."""
        self._empty()
        with self.image.open("r+b", buffering=0) as file:
            for number, chunk in self._platter.items():
                os.pwrite(file.fileno(), chunk, number * CHUNK)
            for offset, data in kept:
                os.pwrite(file.fileno(), data, offset)


def _put(platter: dict[int, bytearray], offset: int, data: bytes) -> None:
    at = 0
    while at < len(data):
        number, within = divmod(offset + at, CHUNK)
        piece = data[at : at + CHUNK - within]
        platter.setdefault(number, bytearray(CHUNK))[within : within + len(piece)] = piece
        at += len(piece)


@attrs.define
class BlockBench(CutBench):
    """A scenario whose writes are recorded."""

    disk: RecordedDisk = attrs.field(kw_only=True)
    acknowledged: list[dict[str, Any]] = attrs.Factory(list)
    epochs: list[Epoch] = attrs.Factory(list)
    descriptor: int = -1
    """Of the log, while the scenario runs."""

    def child(self, work: Callable[[Live, Callable[[Any], None]], None]) -> Ended:
        """As ever; while a record is made, what is acknowledged stands in it."""

        def marked(live: Live, say: Callable[[Any], None]) -> None:
            def say_both(value: Any) -> None:
                say(value)
                if "value" in value:
                    logdisk.append(self.descriptor, logdisk.MARK)

            work(live, say_both)

        return super().child(work if self.descriptor < 0 else marked)

    def record(self) -> Ended:
        """Run the scenario once, and keep what its disk was told."""
        self.power_off()
        if os.path.ismount(self.disk.point):
            self.disk.unmount()
        self.disk.restore()
        self.disk.record()
        self.disk.mount()
        for layer in self.start.mounted if self.start is not None else ():
            benches._mount(os.fspath(self.home), layer)
        self.descriptor = os.open(self.disk.log, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        begin = os.fstat(self.descriptor).st_size
        try:
            ended = self.once(Fault("point", -1))
            end = os.fstat(self.descriptor).st_size
        finally:
            os.close(self.descriptor)
            self.descriptor = -1
        self.power_off()
        self.disk.unmount()
        self.disk.stop()
        self.acknowledged = ended.acknowledged
        self.epochs = list(epochs_of(self.disk.log, begin, end))
        return ended

    def at(self, cut: Cut) -> str:
        """Make the state, boot, and judge; empty where all invariants hold."""
        self.disk.renew_as(cut.kept)
        lines = [{"value": value} for value in self.acknowledged[: cut.done]]
        return self.judged(Ended(signal.SIGKILL, lines))

    def judged(self, ended: Ended) -> str:
        """Boot with the image as it is, and judge."""
        try:
            self.disk.mount()
        except OSError as error:
            return f"the file system cannot be mounted: {error}"
        self._boot()
        try:
            return self.verdict(ended)
        finally:
            self.power_off()
            self.disk.unmount()


def epochs_of(log: Path, begin: int, end: int) -> Iterator[Epoch]:
    """The record up to `end`; what was acknowledged is counted from `begin` on."""
    position = done = before = 0
    writes: list[Write] = []
    counts: list[int] = []
    for entry in logdisk.entries(log):
        if position >= end:
            break
        position += logdisk.HEAD.size + len(entry.data)
        if entry.kind == logdisk.WRITE:
            writes.append((entry.offset, entry.data))
            counts.append(done)
        elif entry.kind == logdisk.MARK:
            done += 1
            if counts:
                counts[-1] = done
            else:
                before = done
        else:
            yield Epoch(before, tuple(writes), tuple(counts))
            before, writes, counts = done, [], []
    yield Epoch(before, tuple(writes), tuple(counts))


def cuts(epochs: list[Epoch], chance: random.Random, each: int) -> Iterator[list[Cut]]:
    """For each epoch its states, none twice: nothing of it, all of it, and so many of the rest."""
    for number, epoch in enumerate(epochs):
        found: dict[tuple[int, frozenset[Write]], Cut] = {}
        count = len(epoch.writes)

        def add(
            upto: int,
            kept: tuple[Write, ...],
            how: str,
            number: int = number,
            epoch: Epoch = epoch,
            found: dict[tuple[int, frozenset[Write]], Cut] = found,
        ) -> None:
            done = epoch.acknowledged(upto)
            found.setdefault((done, frozenset(kept)), Cut(number, done, kept, how))

        add(0, (), "nothing of it")
        if count:
            # What was acknowledged while the flush had not been answered yet, or before anything.
            add(count, epoch.writes, "all of it")
        for attempt in range(each if count else 0):
            upto = chance.randint(1, count)
            passed = epoch.writes[:upto]
            match attempt % 3:
                case 0:
                    add(upto, passed, f"the first {upto} of {count} writes")
                case 1:
                    some = tuple(write for write in passed if chance.random() < 0.5)
                    add(upto, some, f"{len(some)} of the first {upto} of {count} writes")
                case _:
                    pieces = [piece for write in passed for piece in _pieces(write)]
                    some = tuple(piece for piece in pieces if chance.random() < 0.5)
                    add(upto, some, f"{len(some)} of the blocks of {upto} of {count} writes")
        yield list(found.values())


def _pieces(write: Write) -> Iterator[Write]:
    offset, data = write
    for at in range(0, len(data), BLOCK):
        yield offset + at, data[at : at + BLOCK]


@contextlib.contextmanager
def block_bench(
    kind: str, scenario: Scenario, patch: Patch = contextlib.nullcontext
) -> Iterator[BlockBench]:
    """A bench with a recording disk of its own, that is gone afterwards."""
    place = Path(tempfile.mkdtemp(prefix="layerstore-blocks-", dir=benches.base()))
    disk = RecordedDisk(place / "fs", kind)
    # The record begins when the template is there: so all that is done to it is cut.
    scenario = attrs.evolve(scenario, given=(), when=(*scenario.given, *scenario.when))
    made = BlockBench(place, scenario, patch, known=Counter(), disk=disk)
    with prepared(made):
        yield made


def sweep(options: Any, result: Any) -> None:
    """Every epoch of a run of a scenario, until --limit states; of a mutant until it is caught."""
    from tests.crash.cutmutants import MUTANTS
    from tests.crash.harness import ENOUGH
    from tests.crash.neighbours import SWAPS
    from tests.crash.sequences import chosen

    kind, _, name = options.scenario.partition(":")
    patch = [{**MUTANTS, **SWAPS}[options.mutant].patch] if options.mutant else []
    chance = random.Random(f"{options.seed} {options.scenario} {options.mutant}")
    scenario = ALL[name] if name in ALL else chosen(name)
    with block_bench(kind, scenario, *patch) as place:
        while result.points == 0 or result.points < options.limit:
            ended = place.record()
            if not ended.finished:
                result.fail(f"without a cut: {ended.error}", "nothing")
                return
            message = place.judged(ended)
            if message:
                result.fail(f"without a cut: {message}", "nothing")
                return
            found = sample(place.epochs, chance, options.limit and options.limit - result.points)
            # What a mutant has lost shows at the end first.
            for cut in reversed(found) if result.mutant else found:
                place.disk.flush_up_to(cut.epoch, place.epochs)
                result.points += 1
                message = place.at(cut)
                if message and result.mutant:
                    result.caught = f"{cut.name}: {message}"
                    return
                if message:
                    result.fail(f"{cut.name}: {message}", f"--limit {options.limit}")
                    if len(result.failures) >= ENOUGH:
                        return
            result.again += 1


EACH: Final = 9
"""States that are made up in front of a flush, where as many as can be are wanted."""


def sample(epochs: list[Epoch], chance: random.Random, limit: int) -> list[Cut]:
    """Each flush, and a sample of the rest; in order. 0: all."""
    found = list(cuts(epochs, chance, EACH))
    every = [cut for states in found for cut in states]
    if not limit or len(every) <= limit:
        return every
    first = [cut for states in found for cut in states[:1]]
    rest = [cut for states in found for cut in states[1:]]
    if len(first) >= limit:
        picked = chance.sample(first, limit)
    else:
        picked = [*first, *chance.sample(rest, limit - len(first))]
    return sorted(picked, key=lambda cut: cut.epoch)
