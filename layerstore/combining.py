"""Owns doing the creates of several threads together; it must not decide, nor settle what fails.

While one thread is in a create, those who come get in line, and the next one does the work of all:
their intents in one transaction, each in a savepoint; their steps in one thread, first what all of
them write, then what all of them sync; their outcomes in one commit. That spares each thread some
eighty changes of thread, the shared syncs, and its own commits.

What does not go smoothly is left where it is, and its own thread goes on from there by itself: with an
intent that was refused it begins anew, a step that failed it settles, an outcome that was not written
it writes. So nobody's error, and nobody's interruption, is another's.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Container
from typing import Final

from layerstore import events as e
from layerstore import grouping, plan, recovery, room, state
from layerstore.db import engine
from layerstore.fs import steps as s
from layerstore.fs import whole
from layerstore.fs.durable import SyncFailed
from layerstore.fs.trace import trace
from layerstore.journal import Transaction
from layerstore.turns import Place

MOST: Final = 32
"""Creates that are done together: each may have two files open."""
_SYNCS: Final = (s.SyncFile, s.SyncDirectory)
_SLOW: Final = (s.ProbeUpper, s.SyncFileSystem)
"""What nobody else should wait for."""


class Job(Place):
    """One thread's create, and how far another thread has come with it."""

    def __init__(self, decision: recovery.Decision, last: recovery.Last | None) -> None:
        super().__init__()
        self.decision = decision
        self.last = last
        self.thread = threading.get_ident()
        self.operation = ""
        self.intent: e.Intent | None = None
        """It is committed."""
        self.performed: s.Performed | None = None
        """Every step of it is done."""
        self.error: BaseException | None = None
        """What its steps met."""
        self.done = False

    def perform(self, hands: recovery.Hands) -> s.Performed:
        """What its own thread does about the steps: raise what they met, or do them."""
        assert self.intent is not None
        if self.error is not None:
            raise self.error
        if self.performed is not None:
            return self.performed
        steps = plan.forward(self.operation, self.intent)
        return hands.performer.run(steps, name=state.verb_of(self.intent), first=True)


def run(
    hands: recovery.Hands, decision: recovery.Decision, *, last: recovery.Last | None = None
) -> e.Intent | None:
    """What `recovery.run` does, together with others who want the same."""
    if threading.current_thread() is threading.main_thread():
        # Interruptions come to it alone, anywhere: it must not have others' work in its hands.
        return recovery.run(hands, decision, last=last)
    job = Job(decision, last)
    hands.start()
    if not hands.turns.wait(job):
        return recovery.run(hands, decision, last=last)
    if job.leads:
        others = hands.turns.gather(MOST - 1)
        try:
            if not others:
                return recovery.run(hands, decision, last=last)
            _together(hands, [job, *others])
        finally:
            hands.turns.leave(others)
    if job.done:
        return job.intent
    return recovery.run(hands, decision, last=last, begun=None if job.intent is None else job)


def _together(hands: recovery.Hands, jobs: list[Job]) -> None:
    _intend(hands, jobs)
    begun = [job for job in jobs if job.intent is not None]
    _act(hands, begun)
    _conclude(hands, [job for job in begun if job.performed is not None])
    with hands.changed:
        for job in jobs:
            if job.done:
                hands.active.pop(job.operation, None)
        hands.changed.notify_all()
    room.after_verb(hands.home, hands.journal.database)


# --- the intents --------------------------------------------------------------------------------


def _intend(hands: recovery.Hands, jobs: list[Job]) -> None:
    """One transaction. A job that is refused, or all if it fails as a whole, has no intent then."""
    intents: dict[Job, e.Intent] = {}

    def all_of_them(tx: Transaction) -> None:
        for job in jobs:
            try:
                with tx.part():
                    intents[job] = _intend_one(hands, tx, job)
            except engine.DriverError:
                raise
            except BaseException:  # noqa: BLE001 - its own thread meets it again
                _forget(hands, job)

    try:
        hands.journal.write(all_of_them, full=False)
    except BaseException:  # noqa: BLE001 - each thread meets it again
        for job in jobs:
            _forget(hands, job)
        return
    for job, intent in intents.items():
        job.intent = intent
        try:
            trace(f"{state.verb_of(intent)}:intent:after")
        except BaseException as error:  # noqa: BLE001 - it is raised in its own thread
            job.error = error


def _intend_one(hands: recovery.Hands, tx: Transaction, job: Job) -> e.Intent:
    job.operation = recovery.new_name()
    intent = job.decision(tx, job.operation)
    assert intent is not None
    hands.active[job.operation] = job.thread
    trace(f"{state.verb_of(intent)}:intent:before")
    tx.append(intent, operation=job.operation)
    return intent


def _forget(hands: recovery.Hands, job: Job) -> None:
    hands.active.pop(job.operation, None)


# --- the steps ----------------------------------------------------------------------------------


class _Lane:
    """One job's steps."""

    def __init__(self, hands: recovery.Hands, job: Job, intent: e.Intent) -> None:
        self.job = job
        self._performed = s.Performed()
        self.steps = plan.forward(job.operation, intent)
        self._run = hands.performer.stepwise(
            self.steps, self._performed, name=state.verb_of(intent), first=True
        )
        self.next: s.Step | None = None

    def begin(self) -> None:
        """Up to the first step."""
        self.next = next(self._run)

    def go_on(self, *, syncing: bool, synced: Container[s.Step]) -> bool:
        """As long as they are syncs, or none; what is `synced` is skipped. Whether any are left."""
        while self.next is not None and isinstance(self.next, _SYNCS) == syncing:
            try:
                self.next = self._run.send(self.next in synced)
            except StopIteration:
                self.next = None
                self.job.performed = self._performed
            except SyncFailed:
                raise
            except BaseException as error:  # noqa: BLE001 - it is raised in its own thread
                self.next = None
                self.job.error = error
        return self.next is not None

    def close(self) -> None:
        self._run.close()


class _Everything:
    """What a sync of the whole file system covers."""

    def __contains__(self, _: object) -> bool:
        return True


def _act(hands: recovery.Hands, jobs: list[Job]) -> None:
    """What all of them write, then what all of them sync, and so on.

    Where much waits to be written, each thread syncs what is its own, as it does alone.
    """
    if len(jobs) < 2 or (hands.full and not whole.is_little_to_write()):
        return
    lanes = [_Lane(hands, job, job.intent) for job in jobs if job.intent and job.error is None]
    lanes = [lane for lane in lanes if not any(isinstance(x, _SLOW) for x in lane.steps)]
    try:
        with whole.watched(hands.home) as sync_all:
            for lane in lanes:
                lane.begin()
            _in_rounds(lanes, sync_all)
    except BaseException as error:  # noqa: BLE001 - it is raised in each of them
        # After a sync that failed nothing is known about what any of them wrote.
        for lane in lanes:
            if lane.next is not None or (lane.job.performed is None and lane.job.error is None):
                lane.job.error = grouping.again(error)
    finally:
        for lane in lanes:
            lane.close()


def _in_rounds(lanes: list[_Lane], sync_all: Callable[[], None]) -> None:
    """A round of syncs is one sync: of what all of them want synced, or of the whole file system."""
    left = [lane for lane in lanes if lane.go_on(syncing=False, synced=())]
    while left:
        wanted = {lane.next for lane in left if lane.next is not None}
        if len(wanted) > 1:
            trace("together:sync:before")
            sync_all()
            trace("together:sync:after")
            left = [lane for lane in left if lane.go_on(syncing=True, synced=_Everything())]
        else:
            first, *others = left
            left = [first] if first.go_on(syncing=True, synced=()) else []
            synced = wanted if first.job.error is None else ()
            left += [lane for lane in others if lane.go_on(syncing=True, synced=synced)]
        left = [lane for lane in left if lane.go_on(syncing=False, synced=())]


# --- the outcomes -------------------------------------------------------------------------------


def _conclude(hands: recovery.Hands, jobs: list[Job]) -> None:
    """One commit. Who is not done then writes its outcome itself."""
    written: list[Job] = []

    def all_of_them(tx: Transaction) -> None:
        for job in jobs:
            try:
                with tx.part():
                    _conclude_one(tx, job)
            except engine.DriverError:
                raise
            except BaseException:  # noqa: BLE001 - its own thread meets it again
                continue
            written.append(job)

    try:
        hands.journal.write(all_of_them, full=hands.full)
    except BaseException:  # noqa: BLE001 - each thread meets it again
        return
    for job in written:
        job.done = True


def _conclude_one(tx: Transaction, job: Job) -> None:
    assert job.intent is not None
    assert job.performed is not None
    trace(f"{state.verb_of(job.intent)}:outcome:before")
    tx.finish(job.operation, plan.done(job.intent, job.performed), then=job.last)
