"""Owns how an operation runs to its end, and how one that was left open is settled.

It must not decide what a caller may do, nor compare the tree with the index (`comparison` does).
Settling is total: an anomaly is isolated and reported, and never stops the store from opening.
"""

from __future__ import annotations

import base64
import contextlib
import logging
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol, TypeVar

import attrs

from layerstore import events as e
from layerstore import evidence, plan, room, rows, state
from layerstore import model as m
from layerstore.db import statements as sql
from layerstore.errors import LayerstoreError, OwnerLost, UpperBusy, WritesRefused
from layerstore.fs import layout, locks, perform, whole
from layerstore.fs.durable import SyncFailed
from layerstore.fs.steps import Performed
from layerstore.fs.trace import trace
from layerstore.journal import Journal, MustBeDurable, Transaction
from layerstore.turns import Turns

log = logging.getLogger("layerstore")

_NORMAL = frozenset({m.Verb.MOUNT, m.Verb.UNMOUNT, m.Verb.EMPTY})
"""Verbs whose outcome need not survive a power cut: no mount does, and emptying can be repeated."""

_SURVIVED = 1_000
"""So many dead owners are remembered: asking again about one of them costs a sync, and no more."""


T = TypeVar("T")


@attrs.define
class Hands:
    """What it takes to run operations as one owner."""

    home: str
    journal: Journal
    performer: perform.Performer
    full: bool
    """Durability `full`: outcomes survive a power cut."""
    active: dict[str, int] = attrs.Factory(dict)
    """Operations that some thread of this process is at, and which one."""
    changed: threading.Condition = attrs.Factory(threading.Condition)
    """Notified when an operation leaves `active`."""
    turns: Turns[Any] = attrs.Factory(Turns)
    """Of the threads that create."""
    thread: threading.local = attrs.Factory(threading.local)
    """`inside`: this thread is inside an operation."""
    uncompared: bool = False
    """A correction of the comparison met an error of the machine: the next open compares again."""
    survived: set[str] = attrs.Factory(set)
    """Dead owners after whose errors the file system was asked."""

    @contextlib.contextmanager
    def working_on(self, operation: str) -> Iterator[bool]:
        """True for the one thread that may work on this operation now."""
        with self.changed:
            self._forget_interrupted()
            mine = operation not in self.active
            if mine:
                self.active[operation] = threading.get_ident()
        try:
            yield mine
        finally:
            if mine:
                with self.changed:
                    self.active.pop(operation, None)
                    self.changed.notify_all()

    def start(self) -> None:
        """Say that this thread begins an operation, and is at no other one."""
        with self.changed:
            self._forget_interrupted()

    def _forget_interrupted(self) -> None:
        """What this thread was still said to be at when an interruption threw it out of there."""
        me = threading.get_ident()
        for operation in [name for name, thread in list(self.active.items()) if thread == me]:
            del self.active[operation]

    def with_room(self, action: Callable[[], T], **more: Any) -> T:
        """Do what fails whole, again after each thing that made room on a full disk."""
        return room.making(self.home, action, database=self.journal.database, **more)

    def is_alive(self, owner: str) -> bool:
        if owner == self.journal.author.owner:
            return True
        return locks.is_alive(f"{self.home}/{layout.owner_lock(owner)}")

    def ask_for_errors(self, owners: Iterable[str]) -> None:
        """Refuse to write where an owner that is dead met an I/O error that it left no mark about.

        It may have been killed while it waited for the sync that failed. The sync of a file tells an
        error to those who have the file open; that of the whole file system tells it once more, to the
        first who opens something and asks (errseq_t in the kernel's documentation).
        """
        dead = {owner for owner in owners if not self.is_alive(owner)} - self.survived
        if not self.full or not dead:
            return
        try:
            whole.sync_file_system(self.home)
        except SyncFailed as error:
            why = f"a process that is dead now met an I/O error ({error})"
            self.journal.database.refuse(why)
            raise WritesRefused(why) from error
        if len(self.survived) >= _SURVIVED:
            self.survived.clear()
        self.survived |= dead


def new_link() -> m.LinkId:
    """26 random characters of A-Z2-7: 130 bits."""
    return m.LinkId(base64.b32encode(os.urandom(17))[:26].decode())


def new_name() -> str:
    """A name for an operation or an owner: one that was lost in a power cut never comes back."""
    return os.urandom(16).hex()


# --- running ----------------------------------------------------------------------------------


Decision = Callable[[Transaction, str], e.Intent | None]
"""Checks the preconditions and gives the intent; None: there is nothing (more) to do."""


Last = Callable[[Transaction], None]


class Begun(Protocol):
    """An operation whose intent another thread committed, for this one."""

    operation: str
    intent: Any

    def perform(self, hands: Hands) -> Performed: ...


def begin(hands: Hands, decision: Decision) -> str | None:
    """One intent transaction. Raises InFlight where the decision meets another operation."""
    operation = new_name()

    def intend(transaction: Transaction) -> e.Intent | None:
        intent = decision(transaction, operation)
        if intent is not None:
            trace(f"{state.verb_of(intent)}:intent:before")
            transaction.append(intent, operation=operation)
        return intent

    try:
        intent = hands.journal.write(intend, full=False)
    except MustBeDurable:
        intent = hands.journal.write(intend, full=True)
    if intent is None:
        return None
    trace(f"{state.verb_of(intent)}:intent:after")
    return operation


def run(
    hands: Hands, decision: Decision, *, last: Last | None = None, begun: Begun | None = None
) -> e.Intent | None:
    """Intent, effects, outcome. A call that fails settles its own operation before it raises.

    `last`: what to ask in the transaction of the outcome, when that is written. `begun`: go on there.
    """
    decided: list[tuple[str, e.Intent]] = [] if begun is None else [(begun.operation, begun.intent)]

    def remember(transaction: Transaction, operation: str) -> e.Intent | None:
        intent = decision(transaction, operation)
        if intent is not None:
            decided[:] = [(operation, intent)]
            hands.active[operation] = threading.get_ident()
        return intent

    def attempt() -> str | None:
        for name, _ in decided:  # of an attempt that met a full disk
            hands.active.pop(name, None)
        decided.clear()
        return begin(hands, remember)

    acting = False
    try:
        if begun is None:
            hands.start()
            hands.with_room(
                attempt,
                may_release=lambda: (
                    not decided or state.verb_of(decided[0][1]) not in m.TAKING_ROOM
                ),
            )
        if not decided:
            return None
        operation, intent = decided[0]
        verb = state.verb_of(intent)
        acting = True
        if begun is not None:
            performed = begun.perform(hands)
        else:
            performed = hands.performer.run(plan.forward(operation, intent), name=verb, first=True)
        acting = False
        conclude(hands, operation, intent, plan.done(intent, performed), name=verb, last=last)
    except BaseException as error:
        ours = not decided or _end_failed(hands, *decided[0], error)
        if not ours and acting and isinstance(error, Exception):
            # A step failed because whoever took this owner for dead had been there.
            raise OwnerLost(decided[0][0]) from error
        raise
    finally:
        if decided:
            with hands.changed:
                hands.active.pop(decided[0][0], None)
                hands.changed.notify_all()
        room.after_verb(hands.home, hands.journal.database)
    return intent


def conclude(
    hands: Hands,
    operation: str,
    intent: e.Intent,
    outcome: e.Done | e.Undone,
    *,
    name: str,
    last: Last | None = None,
) -> None:
    """Append the outcome; what a remove or an apply put into the trash is emptied after it."""
    verb = state.verb_of(intent)
    emptying = new_name()
    trash = e.TrashEmptyIntended(layout.trash(operation), operation)

    def and_empty(transaction: Transaction) -> None:
        nonlocal trash
        trash = attrs.evolve(trash, project=transaction.project(trash.layer)[0])
        transaction.append(trash, operation=emptying)

    removed = isinstance(outcome, e.LayerRemoved | e.LayerApplied)
    trace(f"{name}:outcome:before")
    if removed:
        hands.active[emptying] = threading.get_ident()
    try:
        hands.with_room(
            lambda: hands.journal.finish(
                operation,
                outcome,
                full=hands.full and verb not in _NORMAL,
                then=and_empty if removed else last,
            )
        )
        trace(f"{name}:outcome:after")
        if removed:
            _empty(hands, emptying, trash)
    except BaseException as error:
        if removed:
            _end_failed(hands, emptying, trash, error)
        raise
    finally:
        with hands.changed:
            hands.active.pop(emptying, None)
            hands.changed.notify_all()


def _empty(hands: Hands, operation: str, intent: e.TrashEmptyIntended) -> None:
    """Empty one entry of the trash. The remove is done whatever happens here."""
    try:
        performed = hands.performer.run(
            plan.forward(operation, intent), name=m.Verb.EMPTY, first=False
        )
        conclude(hands, operation, intent, plan.done(intent, performed), name=m.Verb.EMPTY)
    except Exception as error:  # noqa: BLE001 - the remove is done; the next recovery tries again
        log.warning("%s was not emptied at once: %s", intent.layer, error)
        _end_failed(hands, operation, intent, error)


def _end_failed(hands: Hands, operation: str, intent: e.Intent, error: BaseException) -> bool:
    """Settle the operation of a call that failed, by the rule that recovery would use.

    False: it is no longer this owner's.
    """
    if isinstance(error, SyncFailed):
        hands.journal.database.refuse(str(error))
        return True
    if isinstance(error, OwnerLost | WritesRefused):
        return True  # whoever took it over settles it; where nothing can be journaled, nobody can
    try:
        still = hands.journal.database.read(sql.SELECT_OPERATION, {"operation": operation})
        if not still or rows.operation(still[0]).owner != hands.journal.author.owner:
            return False
        _settle_own(hands, operation, intent, reason=in_short(error))
    except BaseException as second:
        log.warning("operation %s could not be settled: %s", operation, second)
        _abandon(hands, operation, intent.layer, second)
        if not isinstance(second, Exception):
            raise  # an interruption; else the first error is the one to raise
    return True


def _abandon(hands: Hands, operation: str, layer: str, error: BaseException) -> None:
    """Let anyone settle it. Where even that fails, it is settled at the next touch."""
    if isinstance(error, SyncFailed):
        hands.journal.database.refuse(str(error))
    with contextlib.suppress(LayerstoreError, OSError):
        hands.with_room(lambda: hands.journal.abandon(operation, layer, in_short(error)))


def in_short(error: BaseException) -> str:
    ours = isinstance(error, LayerstoreError)
    return (str(error) if ours else f"{type(error).__name__}: {error}")[:500]


# --- settling ---------------------------------------------------------------------------------


def settle(hands: Hands, operation: m.Operation) -> m.Settled | None:
    """Claim an operation that nobody is at, and end it. None: somebody else is at it."""
    with hands.working_on(operation.id) as mine:
        if not mine:
            return None
        hands.ask_for_errors([operation.owner])
        if not hands.with_room(lambda: hands.journal.claim(operation)):
            return None
        try:
            trace("settle:claim:after")
            intent = hands.journal.intent_of(operation)
            rule = _settle_own(hands, operation.id, intent, reason="its owner died")
        except BaseException as error:
            log.warning("operation %s on %s: %s", operation.id, operation.layer, error)
            _abandon(hands, operation.id, operation.layer, error)
            if not isinstance(error, Exception):
                raise  # an interruption; else one bad layer never blocks the store
            return m.Settled("failed", operation.layer, in_short(error), operation.id)
    done = "finished" if rule is state.Rule.REDO else "undone"
    return m.Settled(
        done, operation.layer, f"{operation.verb} of {operation.layer} was {done}", operation.id
    )


def _settle_own(hands: Hands, operation: str, intent: e.Intent, *, reason: str) -> state.Rule:
    """End an operation that is this owner's, by the rule of its verb."""
    verb = state.verb_of(intent)
    rule = state.rule_for(verb, evidence.gather(hands.home, operation, intent))
    name = f"settle:{verb}"
    try:
        if rule is state.Rule.REDO:
            steps = plan.again(operation, intent)
            performed = hands.performer.run(steps, name=name, first=False)
            outcome: e.Done | e.Undone = plan.done(intent, performed)
        else:
            steps = plan.backward(operation, intent)
            performed = hands.performer.run(steps, name=name, first=False)
            outcome = plan.undone(intent, reason, in_use=performed.detached)
    except UpperBusy as busy:
        outcome = _still_in_use(intent, busy)
    conclude(hands, operation, intent, outcome, name=name)
    return rule


def _still_in_use(intent: e.Intent, busy: UpperBusy) -> e.Done | e.Undone:
    """The kernel has not let go. A mount that was given up is drained, the rest is undone."""
    if isinstance(intent, e.LayerUnmountIntended) and intent.reason != "lost":
        return plan.done(intent, Performed(detached=True))
    return plan.undone(intent, busy.message, in_use=True)


def settle_operations(hands: Hands, *, insist: bool) -> Iterator[m.Settled]:
    """Settle whatever dead owners, owners that gave up, and interrupted calls left in flight.

    What could not be ended again and again is left alone for a while, unless somebody insists.
    """
    for row in hands.journal.database.read(sql.SELECT_OPERATIONS):
        operation = rows.operation(row)
        ours = operation.owner == hands.journal.author.owner
        left = ours and operation.id not in hands.active
        if operation.abandoned and not insist and hands.journal.rests(operation):
            continue
        if left or operation.abandoned or not hands.is_alive(operation.owner):
            settled = settle(hands, operation)
            if settled is not None:
                yield settled
