"""Owns disks that die: from its n-th write on a verb's disk fails, for good, until it is replaced.

    python -m tests.crash.harness dying FILE_SYSTEM:SCENARIO [--limit DEATHS]

The file below the loop device answers EIO (see `logdisk`), to writes and flushes alone or to reads, too.
The process that works on it says in words what failed, and closes its store in bounded time. Or it dies
of SIGBUS: SQLite has the index of the WAL mapped, and XFS and btrfs let a page that cannot be written
kill whoever touches it; nothing in the process can help that. What was written before is on the new
disk, which is mounted after a boot; everything else is as where the power is cut.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import attrs

from tests.crash import bench as benches
from tests.crash.bench import Ended, Fault
from tests.crash.blocks import RecordedDisk
from tests.crash.errnos import BOUND, LONGEST, tell
from tests.crash.logdisk import Limit
from tests.crash.model import Live
from tests.crash.powercut import ALL, CutBench, prepared
from tests.crash.scenarios import Scenario

BUS: Final = "SIGBUS"


@attrs.define
class DyingDisk(RecordedDisk):
    """A disk with a limit."""

    limit: Limit = attrs.field(kw_only=True)

    @property
    def log(self) -> Path:
        return Path(os.devnull)


@attrs.define
class DyingBench(CutBench):
    """A scenario whose disk dies."""

    disk: DyingDisk = attrs.field(kw_only=True)

    def prepare(self) -> None:
        super().prepare()
        self.disk.record()

    def act(self, fault: Fault, *, marked: bool = False) -> Ended:
        """The scenario up to the death of its disk, and the next boot with a new one.

        The fault's index is the number of writes that succeed; its mode says whether reads do.
        """
        self.renew(self.start)
        try:
            ended = self.once(fault)
        finally:
            self.power_off()
            self.disk.unmount()
            self.disk.limit.set(-1)
        self.disk.mount()
        self._boot()
        return ended

    def once(self, fault: Fault, *, marked: bool = False) -> Ended:
        def work(live: Live, say: Callable[[Any], None]) -> None:
            for verb in self.scenario.given:
                verb.act(live)
            self.disk.limit.set(fault.index, reads=fault.mode == "error")
            tell(self.scenario.when, live, fault, say)
            say({"written": self.disk.limit.written})

        return self.child(work)


@contextlib.contextmanager
def dying_bench(kind: str, scenario: Scenario) -> Iterator[DyingBench]:
    """A bench with a disk of its own, that is gone afterwards."""
    place = Path(tempfile.mkdtemp(prefix="layerstore-dying-", dir=benches.base()))
    control = place / "limit"
    disk = DyingDisk(place / "fs", kind, more=(os.fspath(control),), limit=Limit(control))
    made = DyingBench(place, scenario, known=Counter(), disk=disk)
    with prepared(made):
        yield made


def sweep(options: argparse.Namespace, result: Any, judge: Callable[..., None]) -> None:
    """A death after each number of writes, or after --limit of them; reads fail in every second.

    And more of them, until --kills processes died of SIGBUS, or there are no more.
    """
    kind, _, name = options.scenario.partition(":")
    chance = random.Random(f"{options.seed} {options.scenario}")
    with dying_bench(kind, ALL[name]) as place:
        if options.only:
            one(place, result, Fault.parse(options.only), judge)
            return
        counted = place.act(Fault("call", -1))
        message = place.verdict(counted) if counted.finished else counted.error
        if message:
            result.fail(f"without a death: {message}", "nothing")
            return
        writes = next(line["written"] for line in counted.lines if "written" in line)
        points = list(range(writes + 1))
        result.possible = len(points)
        if options.limit and options.limit < len(points):
            points = sorted(chance.sample(points, options.limit))
        for index in points:
            one(place, result, Fault("call", index, chance.choice(("eio", "error"))), judge)
        rest = chance.sample(range(writes + 1), writes + 1)
        while rest and result.calls.get(BUS, 0) < options.kills:
            one(place, result, Fault("call", rest.pop(), "eio"), judge)


def one(place: DyingBench, result: Any, fault: Fault, judge: Callable[..., None]) -> None:
    """One death: how it was said, how long that took, and what is there on the new disk."""
    ended = place.act(fault)
    result.points += 1
    bus = os.WIFSIGNALED(ended.status) and os.WTERMSIG(ended.status) == signal.SIGBUS
    how = BUS if bus else "went through" if ended.finished else "said so"
    result.calls[how] = result.calls.get(how, 0) + 1
    for kind in ("failed", "closed"):
        for said in [line[kind] for line in ended.lines if line.get(kind)]:
            result.fail(f"{kind}: {said}\n{ended.error}", fault)
    seconds = [line["seconds"] for line in ended.lines if "seconds" in line]
    if not bus and not ended.finished and not seconds:
        result.fail(f"the process did not end by itself: {ended.error}", fault)
    for took in seconds:
        result.calls[LONGEST] = max(result.calls.get(LONGEST, 0), round(took * 1000))
        if took > BOUND:
            result.fail(f"it took {took:.1f} s", fault)
    judge(place, result, ended, fault)
