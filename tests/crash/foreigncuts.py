"""Owns power cuts in what is done to foreign trees: in front of each call, and by states of the disk below.

    python -m tests.crash.harness orphans-cut TREE:VERB:FILE_SYSTEM [options]
    python -m tests.crash.harness orphans-blocks TREE:VERB:FILE_SYSTEM [options]
    python -m tests.crash.harness adoptions-cut KIND-VERB:FILE_SYSTEM [options]
    python -m tests.crash.harness adoptions-blocks KIND-VERB:FILE_SYSTEM [options]

It makes the states; what has to hold in each is told by `orphans` and `adoptions`.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import shutil
import signal
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, TypeVar

import attrs

from layerstore.errors import LayerstoreError
from tests.crash import logdisk, shim
from tests.crash.bench import detach
from tests.crash.blocks import Cut, Epoch, RecordedDisk, epochs_of, sample
from tests.crash.disk import Disk
from tests.crash.invariants import Violation, mounts_below

PATIENCE: Final = 60
LATE: Final = 8
"""Calls in front of the end that a second run may make less than the first."""


@attrs.frozen
class Trial:
    """One command on a disk, and how to judge what a cut left of it (True: it was acknowledged)."""

    do: Callable[[], object]
    judge: Callable[[bool], None]


D = TypeVar("D", bound=Disk)
Make = Callable[[Disk, str], Trial]


def run(
    work: Callable[[], object], number: int, mode: str, disk: int | None = None
) -> tuple[int, list[str]]:
    """Do work in a child that dies at a call; its wait status, and the calls that it counted."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.close(reading)
            signal.alarm(PATIENCE)
            shim.ignore(writing)
            if disk is not None:
                shim.on_disk(disk)
            shim.arm(number, mode)
            work()
            names = shim.disarm()
            os.write(writing, "\n".join(names).encode())
            status = 0
        except BaseException as error:  # noqa: BLE001 - the parent is told, and this process ends
            shim.disarm()
            os.write(writing, f"failed: {error!r}".encode())
        finally:
            os._exit(status)
    os.close(writing)
    with os.fdopen(reading, "rb") as said:
        text = said.read().decode()
    return os.waitpid(pid, 0)[1], text.splitlines()


def cuts(make: Make, options: argparse.Namespace, result: Any) -> None:
    """The power goes in front of every call, or of --limit of them, and behind the last one."""
    scenario, _, kind = options.scenario.rpartition(":")
    with _disk(Disk, kind) as disk:
        trial = make(disk, scenario)
        disk.renew()
        status, names = run(trial.do, -1, "count")
        assert 0 == status, names
        disk.unmount()
        points = list(range(len(names) + 1))
        result.possible = len(points)
        if options.limit and options.limit < len(points):
            chance = random.Random(f"{options.seed} {options.scenario}")
            points = sorted([*chance.sample(range(len(names)), options.limit - 1), len(names)])
        # Behind the last call everything was acknowledged: that catches a mutant first.
        for index in points if not result.mutant else reversed(points):
            if options.only not in ("", f"call:{index}:cut"):
                continue
            if not _cut(disk, trial, index, len(names), result):
                break


def _cut(disk: Disk, trial: Trial, index: int, count: int, result: Any) -> bool:
    fault = f"call:{index}:cut"
    disk.renew()
    descriptor = disk.open()
    try:
        status, said = run(trial.do, index, "cut", descriptor)
    finally:
        os.close(descriptor)
    acknowledged = status == 0
    if acknowledged:
        disk.cut()
    _power_off(disk)
    if acknowledged and index < count - LATE:
        result.fail(f"the power was not cut: {said}", fault)
        return False
    return _judged(disk, trial, result, fault, acknowledged=acknowledged)


def _power_off(disk: Disk) -> None:
    """Nothing of it is mounted any more, nor what a dead process had mounted on it."""
    for point in reversed(mounts_below(disk.point.parent)):
        if point == os.fspath(disk.point):  # asking a dead XFS itself fails
            disk.unmount()
        else:
            detach(point)


def _judged(disk: Disk, trial: Trial, result: Any, fault: str, *, acknowledged: bool) -> bool:
    """Boot with the disk as it is, and judge: whether the campaign goes on."""
    result.points += 1
    result.kills += 1
    try:
        disk.mount()
        trial.judge(acknowledged)
    except (Violation, LayerstoreError, OSError, AssertionError) as error:
        if result.mutant and isinstance(error, Violation | AssertionError):
            result.caught = f"{fault}: {error}"
            return False
        result.fail(traceback.format_exc(limit=4), fault)
    finally:
        _power_off(disk)
    return len(result.failures) < 3


def blocks(make: Make, options: argparse.Namespace, result: Any) -> None:
    """One run is recorded, and its disk made anew as it may have been at --limit moments."""
    scenario, _, kind = options.scenario.rpartition(":")
    chance = random.Random(f"{options.seed} {options.scenario}")
    with _disk(RecordedDisk, kind) as disk:
        trial = make(disk, scenario)
        epochs = _recorded(disk, trial)
        chosen = sample(epochs, chance, options.limit)
        result.possible = len(chosen)
        for cut in reversed(chosen) if result.mutant else chosen:
            if not _at(disk, trial, cut, epochs, result):
                break


def _at(disk: RecordedDisk, trial: Trial, cut: Cut, epochs: list[Epoch], result: Any) -> bool:
    disk.flush_up_to(cut.epoch, epochs)
    disk.renew_as(cut.kept)
    return _judged(disk, trial, result, cut.name, acknowledged=cut.done > 0)


def _recorded(disk: RecordedDisk, trial: Trial) -> list[Epoch]:
    """What the disk was told while the command ran; one acknowledgement is marked: its end."""
    disk.restore()
    disk.record()
    disk.mount()
    descriptor = os.open(disk.log, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
    try:
        begin = os.fstat(descriptor).st_size
        status, said = run(trial.do, -1, "count")
        assert 0 == status, said
        logdisk.append(descriptor, logdisk.MARK)
        end = os.fstat(descriptor).st_size
    finally:
        os.close(descriptor)
    disk.unmount()
    disk.stop()
    return list(epochs_of(disk.log, begin, end))


@contextlib.contextmanager
def _disk(kind_of: type[D], file_system: str) -> Iterator[D]:
    """A new one, mounted; gone afterwards."""
    place = Path(tempfile.mkdtemp(prefix="layerstore-cuts-", dir="/dev/shm"))
    disk = kind_of(place / "disk", file_system)
    try:
        disk.make()
        yield disk
    finally:
        _power_off(disk)
        disk.abandon()
        shutil.rmtree(place)
