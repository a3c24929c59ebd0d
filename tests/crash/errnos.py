"""Owns calls that fail: any mutating call, with any of ten errors, once or from then on.

    python -m tests.crash.harness errnos SCENARIO [--limit POINTS] [--all]

Nobody dies. The verb says in words what failed, in bounded time, also while it closes the store with
everything still failing; and after the next open all that was acknowledged is there, and nothing
half-made.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import os
import random
import time
from collections.abc import Callable, Iterable
from typing import Any, Final

import attrs

from layerstore.errors import (
    CannotCarryOverlay,
    JournalDamaged,
    LayerDamaged,
    LayerstoreError,
    StoreDamaged,
    StoreUnreachable,
)
from tests.crash import shim
from tests.crash.bench import Bench, Ended, Fault, armed, bench_of
from tests.crash.invariants import mend
from tests.crash.model import Live, Verb

ERRNOS: Final = (
    *("EIO", "ENOSPC", "EDQUOT", "EROFS", "EMFILE"),
    *("ENOMEM", "EACCES", "EINTR", "EBUSY", "ESTALE"),
)
ON: Final = "+"
"""Behind an errno: from then on, not once."""
OPENS: Final = ("open", "open64", "openat", "openat64", "creat", "creat64", "fsopen", "fsmount")
"""Calls that give a descriptor: no other one can lack one."""
BOUND: Final = 40.0
"""Seconds in which a verb has failed and the store is closed; a wait for another is up to 30."""
LONGEST: Final = "longest ms"
_BLAMES: Final = (StoreDamaged, JournalDamaged, LayerDamaged, CannotCarryOverlay)
"""Errors that tell a user to repair, or to leave, what has nothing."""


@attrs.define
class ErrnoBench(Bench):
    """A scenario in which a call fails."""

    def once(self, fault: Fault, *, marked: bool = False) -> Ended:
        """The scenario; where it fails, its process says how, closes the store and ends."""

        def work(live: Live, say: Callable[[Any], None]) -> None:
            with self.patched():
                for verb in self.scenario.given:
                    verb.act(live)
                with failing(fault, say):
                    tell(self.scenario.when, live, fault, say)

        return self.child(work)

    def recover(self, fault: Fault) -> Ended:
        """What the user does next, in which a call fails, too."""

        def work(live: Live, say: Callable[[Any], None]) -> None:
            began = time.monotonic()
            with self.patched(), failing(fault, say):
                try:
                    mend(live.home, self.scenario.mends)
                except BaseException as error:
                    say({"failed": unclear(error, fault)})
                    say({"seconds": time.monotonic() - began})
                    raise

        return self.child(work)


def tell(verbs: Iterable[Verb], live: Live, fault: Fault, say: Callable[[Any], None]) -> None:
    """Do verbs, and say what comes of each; where one fails, how, how the store closes, and how long it took."""
    began = time.monotonic()
    try:
        for verb in verbs:
            value = verb.act(live)
            if live.store is not None and not live.store._closed:
                value["seq"] = live.store.last_seq()
            say({"value": value})
    except BaseException as error:
        say({"failed": unclear(error, fault)})
        say({"closed": close_failing(live, fault)})
        say({"seconds": time.monotonic() - began})
        raise


@contextlib.contextmanager
def failing(fault: Fault, say: Callable[[Any], None]) -> Any:
    """Let the fault's call fail: its mode is the name of the errno."""
    if fault.index < 0:
        with armed(fault, say):
            yield
        return
    name = fault.mode.removesuffix(ON)
    shim.fail_with(
        getattr(errno, name), on=fault.mode.endswith(ON), of_opens=name in ("EMFILE", "ENFILE")
    )
    with armed(attrs.evolve(fault, mode="error"), say):
        yield


def close_failing(live: Live, fault: Fault) -> str:
    """Close the store while everything still fails; what is unclear about how that failed."""
    if live.store is None or live.store._closed:
        return ""
    try:
        live.store.close()
    except BaseException as error:  # noqa: BLE001 - it is judged
        return unclear(error, fault)
    return ""


def unclear(error: BaseException, fault: Fault) -> str:
    """Why a user could not know what failed; empty where the error says it."""
    said = f"{type(error).__name__}: {error}"
    if isinstance(error, CannotCarryOverlay) and fault.mode.startswith("EACCES"):
        return ""  # that is what a machine that forbids it says
    if isinstance(error, _BLAMES) and not isinstance(error, StoreUnreachable):
        return f"it blames what is whole: {said}"
    if isinstance(error, LayerstoreError):
        return "" if error.message.endswith(".") else f"no sentence: {said}"
    if isinstance(error, OSError) and error.errno and error.strerror:
        return "" if isinstance(error.filename, str | bytes | os.PathLike) else f"no name: {said}"
    return f"not an error of the store: {said}"


def fits(name: str, mode: str) -> bool:
    """Whether a call can fail so. Who repeats what was interrupted would do so for ever."""
    number = mode.removesuffix(ON)
    if name == "flock" and number == "EACCES":
        return False  # fcntl's word for somebody else's lock, not flock's
    return mode != f"EINTR{ON}" and (number not in ("EMFILE", "ENFILE") or name in OPENS)


def modes(options: argparse.Namespace, names: list[str]) -> list[Fault]:
    """All of them with --all; else each point once, with what the seed says."""
    every = [name + on for on in ("", ON) for name in ERRNOS]
    chance = random.Random(f"{options.seed} {options.scenario}")
    faults: list[Fault] = []
    for index, name in enumerate(names):
        possible = [mode for mode in every if fits(name, mode)]
        chosen = possible if options.all else [chance.choice(possible)]
        faults += [Fault("call", index, mode) for mode in chosen]  # type: ignore[arg-type]
    if options.limit and options.limit < len(faults):
        faults = sorted(chance.sample(faults, options.limit), key=lambda fault: fault.index)
    return faults


def sweep(options: argparse.Namespace, result: Any, judge: Callable[..., None]) -> None:
    """Each point of a scenario, and of the recovery where the scenario is an open."""
    with bench_of(ErrnoBench, options.scenario, every=options.all) as place:
        if options.only:
            fault = Fault.parse(options.only)
            one(place, result, fault, "", judge)
            return
        counted = place.act(Fault("call", -1))
        message = place.verdict(counted) if counted.finished else counted.error
        if message:
            result.fail(f"without any fault: {message}", "nothing")
            return
        faults = modes(options, counted.names)
        result.possible = len(faults)
        for fault in faults:
            one(place, result, fault, counted.names[fault.index], judge)


def one(
    place: ErrnoBench, result: Any, fault: Fault, name: str, judge: Callable[..., None]
) -> None:
    """One call that fails: how that was said, how long it took, and what is left."""
    ended = place.act(fault)
    result.points += 1
    result.calls[fault.mode] = result.calls.get(fault.mode, 0) + 1
    for kind in ("failed", "closed"):
        for said in [line[kind] for line in ended.lines if line.get(kind)]:
            result.fail(f"{name} {kind}: {said}\n{ended.error}", fault)
    if not ended.finished and not any("seconds" in line for line in ended.lines):
        result.fail(f"{name}: the process did not end by itself: {ended.error}", fault)
    for seconds in [line["seconds"] for line in ended.lines if "seconds" in line]:
        result.calls[LONGEST] = max(result.calls.get(LONGEST, 0), round(seconds * 1000))
        if seconds > BOUND:
            result.fail(f"{name}: it took {seconds:.1f} s", fault)
    judge(place, result, ended, fault)
