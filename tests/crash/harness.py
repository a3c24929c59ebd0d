"""Owns the campaigns: which points of which scenario are visited, and what is said about them.

    python -m tests.crash.harness CAMPAIGN SCENARIO [options]

    enumerate   stop before and after every trace point, and at every one of each recovery
    kills       SIGKILL before and after every mutating call, and in the middle of every write
    double      SIGKILL at a call, then SIGKILL at a call of the recovery: pairs
    mutant      a changed protocol (--mutant NAME), until a sweep catches it
    alike       neighbouring steps in both orders, killed at every point: the same homes (VERB)
    failures    an I/O error from every sync and write, and no room for each call that takes some
    errnos      each call fails with one of ten errors, once or from then on, and nobody dies
    powercut    the power of its disk is cut in front of a call, and at the end (FILE_SYSTEM:SCENARIO)
    sequence    the same for sequences of up to three verbs (FILE_SYSTEM; --limit SEQUENCES)
    blocks      the disk is made anew as it may have been at a moment (FILE_SYSTEM:SCENARIO)
    reboots     the power of a whole machine is cut, and it is booted again (FILE_SYSTEM; --limit CUTS)
    dying       a disk fails from its n-th write on, and is replaced (FILE_SYSTEM:SCENARIO; --limit DEATHS)
    adoptions   SIGKILL at every call of an adopt, a release, a take-over (KIND-VERB)
    living      many processes on one home, of which some are killed (--limit SECONDS)
    traffic     so many gets and puts (--limit PAIRS), and how large the journal's files become
    together    SIGKILL at the trace points of threads whose writes share a transaction
    orphans     kills in the removal of orphans of a foreign tree (TREE:VERB)
    orphans-cut, orphans-blocks, adoptions-cut, adoptions-blocks
                power cuts and states of the disk in these two (as they have it, and :FILE_SYSTEM)
    soak        a mixed load, and whether anything grows under it (--limit SECONDS)

Each runs as a process of its own, the fork server, and prints one line of JSON about itself. A
failure names the one command that shows it again (--only FAULT [--then FAULT]).

Without --all, a state of the disk is not visited twice: what lies behind a step and in front of the
next is one state, and so is what lies behind a write and in front of the next call. Every point is
visited at least once all the same. And a home that is after its death the same as one before is
looked at and audited again, but worked with only now and then.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs

from tests.crash import shim

ENOUGH = 3
"""Failures after which a campaign gives up."""


@attrs.define
class Result:
    """What a campaign did, and what it found."""

    campaign: str
    scenario: str
    seed: int = 0
    points: int = 0
    """Points at which the scenario's process died."""
    again: int = 0
    """Points at which a recovery died."""
    unreached: int = 0
    """Points that the counting run had, and no later one came to."""
    kills: int = 0
    """Processes that died of a fault."""
    pairs: int = 0
    possible: int = 0
    """Pairs that there are, where not all were visited."""
    seconds: float = 0.0
    mutant: str = ""
    caught: str = ""
    """How a mutant was caught."""
    calls: dict[str, int] = attrs.Factory(dict)
    """How often each call was seen, where that was asked; or what else was counted."""
    figures: dict[str, dict[str, float]] = attrs.Factory(dict)
    """What was measured over a long time."""
    failures: list[str] = attrs.Factory(list)

    def fail(self, message: str, fault: Any, then: Any = None) -> None:
        command = f"python -m tests.crash.harness {self.campaign} {self.scenario}"
        only = fault if str(fault).startswith("--") else f"--only {fault}"
        command += f" --seed {self.seed} {only}" + (f" --then {then}" if then else "")
        command += f" --mutant {self.mutant}" if self.mutant else ""
        where = f"{self.campaign} {self.scenario}, at {fault}" + (f", then {then}" if then else "")
        self.failures.append(
            f"{where}, seed {self.seed}: {message}\n"
            f"  again: unshare --mount --propagation private {command}"
        )


SLACK = 8
"""So many of the last points of a counting run may be missing from a quicker one."""


class Enough(Exception):
    """So many failures that the rest would not be read."""


def main(arguments: list[str] | None = None) -> int:
    """Run one campaign; 1 where it found something."""
    parser = argparse.ArgumentParser(prog="python -m tests.crash.harness")
    parser.add_argument("campaign", choices=sorted(CAMPAIGNS))
    parser.add_argument("scenario")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=int, default=0, help="pairs to visit; 0: all")
    parser.add_argument("--all", action="store_true", help="visit the same state twice, too")
    parser.add_argument("--workers", type=int, default=4, help="processes of `living`")
    parser.add_argument(
        "--kills", type=int, default=0, help="of `living`, `dying`: at least so many"
    )
    parser.add_argument("--mutant", default="")
    parser.add_argument("--only", default="", help="one fault: call:17:before or point:3:before")
    parser.add_argument("--then", default="", help="a second one, in the recovery")
    options = parser.parse_args(arguments)
    _enter()
    result = Result(options.campaign, options.scenario, options.seed, mutant=options.mutant)
    began = time.monotonic()
    try:
        CAMPAIGNS[options.campaign](options, result)
    except Enough:
        pass
    result.seconds = round(time.monotonic() - began, 3)
    print(json.dumps(attrs.asdict(result)))
    return 1 if result.failures else 0


def _enter() -> None:
    """Get under the library, where that has not happened yet."""
    given = os.environ.get("LAYERSTORE_FAULTSHIM")
    if not shim.LOADED:
        place = Path(tempfile.mkdtemp(prefix="faultshim-")) if not given else Path()
        shim.preload(Path(given) if given else shim.build(place))
    library = Path(os.environ.pop("LD_PRELOAD"))
    if not given:
        shutil.rmtree(library.parent)  # it is mapped


# --- sweeps -------------------------------------------------------------------------------------


def _sweep(
    bench: Any, result: Result, kind: Any, mode: Any, *, skip: Callable[[list[str], int], bool]
) -> Iterator[tuple[Any, Any, list[str]]]:
    """Die at every point in turn; (fault, end, names of all points) of each death.

    The last one is the point after which nothing is left to die at. A run can be shorter than the
    counting one where the kernel was quicker: only a run that comes to its end ends the sweep, and
    it must not be much shorter than the count.
    """
    from tests.crash.bench import Fault

    counted = bench.act(Fault(kind, -1))
    if not counted.finished:
        raise RuntimeError(f"{bench.scenario.name} does not work: {counted.error}")
    names = counted.names
    message = bench.verdict(counted)
    if message:
        result.fail(f"without any fault: {message}", "nothing")
        raise Enough
    index = missed = 0
    while True:
        if index < len(names) and skip(names, index):
            index += 1
            continue
        fault = Fault(kind, index, mode)
        ended = bench.act(fault)
        if ended.died:
            result.points += 1
            result.kills += 1
            missed = 0
            yield fault, ended, names
            index += 1
        elif ended.finished and index >= len(names):
            return
        elif ended.finished and missed < 5:
            missed += 1
        elif ended.finished and index >= len(names) - SLACK:
            # An overlay that dies late is asked for again; this time it had died at once.
            result.unreached += 1
            index, missed = index + 1, 0
        elif ended.finished:
            result.fail(f"the fault did not fire ({names[index]})", fault)
            raise Enough
        else:
            result.fail(f"the process did not die of the fault: {ended.error}", fault)
            raise Enough


def _judge(bench: Any, result: Result, ended: Any, fault: Any, then: Any = None) -> None:
    message = bench.verdict(ended)
    if message:
        result.fail(message, fault, then)
        if len(result.failures) >= ENOUGH:
            raise Enough


def _again(bench: Any, result: Result, ended: Any, fault: Any, *, everything: bool) -> None:
    """Die at every point of the recovery from a death, each time in a copy of what it left."""
    from tests.crash.bench import Fault, Snapshot

    left = Snapshot.take(bench.home) if bench.home.exists() else None
    bench.renew(left)
    names = bench.recover(Fault(fault.kind, -1)).names
    for index in range(len(names)):
        if not everything and _same_state(names, index):
            continue
        bench.renew(left)
        then = Fault(fault.kind, index)
        second = bench.recover(then)
        if not second.died:
            result.fail(f"the recovery did not die of the fault: {second.error}", fault, then)
            raise Enough
        result.again += 1
        result.kills += 1
        result.pairs += 1
        _judge(bench, result, ended, fault, then)


def _same_state(names: list[str], index: int) -> bool:
    """Whether nothing can happen between this trace point and the next one."""
    if index + 1 == len(names):
        return False
    here, there = names[index].rpartition(":"), names[index + 1].rpartition(":")
    of_one = here[0].rpartition(":")[0].rpartition(":")[0]
    return (
        here[2] == "after" and there[2] == "before" and of_one in there[0] and "bury" not in here[0]
    )


def enumerate_points(options: argparse.Namespace, result: Result) -> None:
    """Trace points: each name says before or after, so that one pass visits both."""
    from tests.crash.bench import bench

    with bench(options.scenario, every=options.all) as place:
        if options.only:
            return _one(place, options, result)
        for fault, ended, names in _sweep(place, result, "point", "before", skip=_nothing):
            if options.all or not _same_state(names, fault.index):
                _again(place, result, ended, fault, everything=options.all)
            else:
                _judge(place, result, ended, fault)
                continue
            # Once more: the recovery's points were visited in copies of what the first death left.
            once_more = place.act(fault)
            result.kills += int(once_more.died)
            _judge(place, result, once_more, fault)
    return None


def kills(options: argparse.Namespace, result: Result) -> None:
    """Calls: in front of each, behind each, and in the middle of each write."""
    from tests.crash.bench import bench

    with bench(options.scenario, every=options.all) as place:
        if options.only:
            return _one(place, options, result)
        for mode, skip in (
            ("before", _nothing),
            ("after", _nothing if options.all else _writes),
            ("torn", _not_writes),
        ):
            for fault, ended, _ in _sweep(place, result, "call", mode, skip=skip):
                _judge(place, result, ended, fault)
    return None


def _nothing(names: list[str], index: int) -> bool:
    return False


def _writes(names: list[str], index: int) -> bool:
    """What lies behind a write is what lies in front of the next call; but for the last one."""
    return names[index] in shim.TORN and index + 1 < len(names)


def _not_writes(names: list[str], index: int) -> bool:
    return names[index] not in shim.TORN


def double(options: argparse.Namespace, result: Result) -> None:
    """All pairs, or a sample: some first points, and of each some points of its recovery."""
    from tests.crash.bench import Fault, Snapshot, bench

    chance = random.Random(f"{options.seed} {options.scenario}")
    with bench(options.scenario, every=options.all) as place:
        if options.only:
            return _one(place, options, result)
        total = len(place.act(Fault("call", -1)).names)
        firsts = list(range(total))
        if options.limit:
            firsts = sorted(chance.sample(firsts, min(total, max(4, options.limit // 16))))
        quota = -(-options.limit // len(firsts)) if options.limit else 0
        for first in firsts:
            fault = Fault("call", first)
            ended = place.act(fault)
            if not ended.died:
                continue  # shorter than when it was counted; the kills are held to every point
            result.points += 1
            result.kills += 1
            left = Snapshot.take(place.home) if place.home.exists() else None
            points = len(place.recover(Fault("call", -1)).names)
            result.possible += points
            seconds = list(range(points))
            if quota and quota < points:
                seconds = sorted(chance.sample(seconds, quota))
            for second in seconds:
                then = Fault("call", second, chance.choice(("before", "after")))
                place.renew(left)
                again = place.recover(then)
                if again.finished:
                    continue
                if not again.died:
                    result.fail(f"the recovery did not die: {again.error}", fault, then)
                    raise Enough
                result.again += 1
                result.kills += 1
                result.pairs += 1
                _judge(place, result, ended, fault, then)
    return None


def _one(bench: Any, options: argparse.Namespace, result: Result) -> None:
    """One round, chosen by hand."""
    from tests.crash.bench import Fault

    fault = Fault.parse(options.only)
    ended = bench.act(fault)
    result.points, result.kills = 1, int(ended.died)
    print(f"# died: {ended.died}, acknowledged: {ended.acknowledged}", file=sys.stderr)
    then = None
    if options.then:
        then = Fault.parse(options.then)
        second = bench.recover(then)
        print(f"# the recovery died: {second.died}", file=sys.stderr)
        result.kills += int(second.died)
    _judge(bench, result, ended, fault, then)
    for failure in result.failures:
        print(failure, file=sys.stderr)


def mutant(options: argparse.Namespace, result: Result) -> None:
    """A changed protocol must fail a sweep by trace points or by calls."""
    from tests.crash.bench import Fault, bench
    from tests.crash.mutants import MUTANTS
    from tests.crash.neighbours import SWAPS

    changed = {**MUTANTS, **SWAPS}[options.mutant]
    with bench(options.scenario, changed.patch, every=options.all) as place:
        if options.only:
            return _one(place, options, result)
        alive = place.act(Fault("point", -1))
        message = place.verdict(alive) if alive.finished else alive.error
        if message and (changed.always or options.mutant in SWAPS):
            result.caught = f"without a kill: {message}"
            return None
        if message or changed.always:
            result.fail(f"where nobody dies: {message or 'nothing is wrong'}", "nothing")
            return None
        for kind, mode, skip in (
            ("point", "before", _nothing),
            ("call", "before", _nothing),
            ("call", "torn", _not_writes),
        ):
            for fault, ended, _ in _sweep(place, result, kind, mode, skip=skip):
                message = place.verdict(ended)
                if message:
                    result.caught = f"{fault}: {message}"
                    return None
    return None


def alike(options: argparse.Namespace, result: Result) -> None:
    """Two orders of neighbouring steps leave the same homes."""
    from tests.crash import alike as orders

    orders.alike(options, result)


def failures(options: argparse.Namespace, result: Result) -> None:
    """Nobody dies: one call fails. What was acknowledged stays, the rest fails whole."""
    from tests.crash.bench import Fault, bench
    from tests.crash.model import Create, Get, Initialize, Write

    with bench(options.scenario) as place:
        if options.only:
            return _one(place, options, result)
        takes = any(isinstance(v, Create | Get | Initialize | Write) for v in place.scenario.when)
        wanted = {
            "eio": ("WritesRefused", "SyncFailed", "[Errno 5]", "I/O error"),
            # Once, at one call: a full disk would not let the next one through.
            "enospc": ("cannot be written anew", *(("DiskFull", "[Errno 28]") if takes else ())),
        }
        calls = {"eio": (*shim.SYNCS, *shim.TORN), "enospc": shim.TAKING}
        faults = [
            (Fault("call", index, mode), name)
            for index, name in enumerate(place.act(Fault("call", -1)).names)
            for mode in ("eio", "enospc")
            if name in calls[mode]
        ]
        result.possible = len(faults)
        if options.limit and options.limit < len(faults) and not options.all:
            chance = random.Random(f"{options.seed} {options.scenario}")
            faults = chance.sample(faults, options.limit)
        for fault, name in faults:
            ended = place.act(fault)
            result.points += 1
            error = ended.error.strip().splitlines()[-1]
            if not ended.finished and not any(word in error for word in wanted[fault.mode]):
                result.fail(f"{name} failed: {ended.error}", fault)
            _judge(place, result, ended, fault)
    return None


def errnos(options: argparse.Namespace, result: Result) -> None:
    """Every call fails, with one of ten errors; with --all with each, once and from then on."""
    from tests.crash.errnos import sweep

    sweep(options, result, _judge)


def powercut(options: argparse.Namespace, result: Result) -> None:
    """In front of all calls, or of a sample, and once behind the last one."""
    from tests.crash.bench import Fault
    from tests.crash.powercut import MUTANTS, cut_bench

    patch = [MUTANTS[options.mutant].patch] if options.mutant else []
    with cut_bench(options.scenario, *patch) as place:
        if options.only:
            return _one(place, options, result)
        counted = place.act(Fault("call", -1))
        message = counted.error if not counted.finished else place.verdict(counted)
        if message:
            result.fail(f"without a cut: {message}", "nothing")
            return None
        points: Sequence[int] = range(len(counted.names) + 1)
        result.possible = len(points)
        if options.limit and options.limit < len(points):
            chance = random.Random(f"{options.seed} {options.scenario}")
            chosen = chance.sample(points[:-1], options.limit - 1)
            points = [*sorted(chosen), len(counted.names)]
        # Behind the last call everything was acknowledged: that catches a mutant first.
        for index in points if not result.mutant else reversed(points):
            fault = Fault("call", index, "cut")
            ended = place.act(fault)
            if not ended.died and index < len(counted.names) - SLACK:
                result.fail(f"the power was not cut: {ended.error}", fault)
                return None
            result.points += 1
            result.kills += 1
            if result.mutant:
                message = place.verdict(ended)
                if message:
                    result.caught = f"{fault}: {message}"
                    return None
            else:
                _judge(place, result, ended, fault)
    return None


def sequence(options: argparse.Namespace, result: Result) -> None:
    """Power cuts in --limit sequences of verbs, chosen by the seed, or in all; the scenario is the
    file system.
    """
    from tests.crash.sequences import sequences

    names = list(sequences())
    chance = random.Random(options.seed)
    if options.limit:
        names = sorted(chance.sample(names, options.limit))
    possible = 0
    for name in names:
        one = argparse.Namespace(**vars(options))
        one.scenario, one.limit = f"{options.scenario}:{name}", CUTS_OF_A_SEQUENCE
        part = Result("powercut", one.scenario, options.seed)
        powercut(one, part)
        result.points += part.points
        result.kills += part.kills
        result.failures += part.failures
        possible += part.possible
        if len(result.failures) >= ENOUGH:
            raise Enough
    result.possible = possible


CUTS_OF_A_SEQUENCE = 20
"""One behind its last call, and the others in front of calls that the seed chooses."""


def blocks(options: argparse.Namespace, result: Result) -> None:
    """States of the disk below a scenario, --limit of them."""
    from tests.crash.blocks import sweep

    sweep(options, result)


def reboots(options: argparse.Namespace, result: Result) -> None:
    """A second kernel, --limit times."""
    from tests.crash.reboots import reboots

    reboots(options, result)


def dying(options: argparse.Namespace, result: Result) -> None:
    """A disk that dies while a scenario runs, --limit times, or at each of its writes."""
    from tests.crash.dying import sweep

    sweep(options, result, _judge)


def living(options: argparse.Namespace, result: Result) -> None:
    """Several processes on one home, for --limit seconds."""
    from tests.crash.invariants import Violation
    from tests.crash.living import crowd

    try:
        counts = crowd(
            options.limit or 15, options.seed, workers=options.workers, kills=options.kills
        )
    except Violation as violation:
        again = f"--limit {options.limit} --workers {options.workers} --kills {options.kills}"
        result.fail(str(violation), again)
    else:
        result.kills, result.points = counts["kills"], counts["in_flight"]
        result.calls = counts


def soak(options: argparse.Namespace, result: Result) -> None:
    """Kills and ends for --limit seconds; nothing may grow."""
    from tests.crash.invariants import Violation
    from tests.crash.soak import soak

    try:
        counts, result.figures = soak(options.limit or 60, options.seed)
    except Violation as violation:
        result.fail(str(violation), f"--limit {options.limit}")
    else:
        result.kills, result.points = counts["kills"], counts["in_flight"]
        result.calls = counts


def traffic(options: argparse.Namespace, result: Result) -> None:
    """So many pairs of a get and a put, --limit; the journal's files stay bounded."""
    from tests.crash.invariants import Violation
    from tests.crash.traffic import traffic

    try:
        result.calls, result.figures = traffic(options.limit or 50_000, options.seed)
    except Violation as violation:
        result.fail(str(violation), f"--limit {options.limit}")


def together(options: argparse.Namespace, result: Result) -> None:
    """Threads of one process; without --all, the points that belong to their common transactions."""
    from tests.crash.invariants import Violation
    from tests.crash.together import sweep

    try:
        counts = sweep(every=options.all)
    except Violation as violation:
        result.fail(str(violation), "a group")
    else:
        result.kills = result.points = counts["kills"]
        result.calls = counts["died_at"]


def orphans(options: argparse.Namespace, result: Result) -> None:
    """At every call of the removal of two orphans, of the way back, and of the end of them."""
    from tests.crash.orphans import kills

    kills(options, result)


def orphans_cut(options: argparse.Namespace, result: Result) -> None:
    """The same on a disk whose power is cut."""
    from tests.crash import foreigncuts, orphans

    _patched_orphans(options)
    foreigncuts.cuts(orphans.on_disk, options, result)


def orphans_blocks(options: argparse.Namespace, result: Result) -> None:
    """The same on a disk that is made anew as it may have been."""
    from tests.crash import foreigncuts, orphans

    _patched_orphans(options)
    foreigncuts.blocks(orphans.on_disk, options, result)


def _patched_orphans(options: argparse.Namespace) -> None:
    from tests.crash.orphans import MUTANTS

    if options.mutant:
        MUTANTS[options.mutant].patched()


def count(options: argparse.Namespace, result: Result) -> None:
    """No fault: how often the library saw which call, between two calls that strace can find."""
    from tests.crash.bench import Fault, bench

    with bench(options.scenario, every=options.all) as place:
        ended = place.act(Fault("call", -1), marked=True)
        result.points = len(ended.names)
        for name in ended.names:
            result.calls[name] = result.calls.get(name, 0) + 1


def adoptions(options: argparse.Namespace, result: Result) -> None:
    """Calls of an adopt, a release or a take-over of a tree; the scenario is KIND-VERB."""
    from tests.crash.adoptions import sweep

    sweep(options, result)


def adoptions_cut(options: argparse.Namespace, result: Result) -> None:
    """The same on a disk whose power is cut; the scenario is KIND-VERB:FILE_SYSTEM."""
    from tests.crash import adoptions, foreigncuts

    foreigncuts.cuts(adoptions.on_disk, options, result)


def adoptions_blocks(options: argparse.Namespace, result: Result) -> None:
    """The same on a disk that is made anew as it may have been."""
    from tests.crash import adoptions, foreigncuts

    foreigncuts.blocks(adoptions.on_disk, options, result)


CAMPAIGNS = {
    "adoptions": adoptions,
    "adoptions-cut": adoptions_cut,
    "adoptions-blocks": adoptions_blocks,
    "enumerate": enumerate_points,
    "kills": kills,
    "double": double,
    "mutant": mutant,
    "alike": alike,
    "failures": failures,
    "errnos": errnos,
    "living": living,
    "powercut": powercut,
    "sequence": sequence,
    "blocks": blocks,
    "reboots": reboots,
    "dying": dying,
    "together": together,
    "soak": soak,
    "traffic": traffic,
    "orphans": orphans,
    "orphans-cut": orphans_cut,
    "orphans-blocks": orphans_blocks,
    "count": count,
}

if __name__ == "__main__":
    sys.exit(main())
