"""Owns the controls: changes of the protocol that a sweep must catch, or the sweep is not believed.

Each changes the process that dies and the recovery after it, and not the verdict. Three changes
that look as if they belonged here do not, because they are equivalent under kills:

- Recovery always redoes a remove. Its caller may have been told or not, so "removed" is as good as
  "still there"; a layer that cannot go because its upper is busy is undone either way. (The rule
  undoes it because a caller that saw no answer is surprised least by no effect.)
- A create publishes before it makes `l/<LINK>`. Its intent names both, and undo takes both away.
  The order matters when a power cut takes the intent: no kill can.
- The intent of a put drops the holds. Recovery always finishes a put, so they end either way.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, cast
from unittest import mock

import attrs

from layerstore import (
    archiving,
    burial,
    comparison,
    place,
    plan,
    projection,
    recovery,
    rows,
    state,
)
from layerstore import events as e
from layerstore.db import statements as sql
from layerstore.fs import applying, aside, durable, layout, perform
from layerstore.fs import steps as s
from layerstore.fs.trace import trace
from layerstore.journal import Journal, Transaction
from layerstore.model import Settled, Verb
from layerstore.state import Rule


@attrs.frozen
class Mutant:
    what: str
    """What the mutant does wrong, in one sentence."""
    scenario: str
    """Where that shows."""
    patch: Callable[[], contextlib.AbstractContextManager[None]]
    always: bool = False
    """It shows even where nobody dies: a verdict is enough, no kill is needed."""


def _rule(verb: Verb, rule: Rule) -> Callable[[], contextlib.AbstractContextManager[None]]:
    return lambda: _patched((state, "RECOVERY", {**state.RECOVERY, verb: lambda _: rule}))


@contextlib.contextmanager
def _patched(*changes: tuple[Any, str, Any]) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for where, name, value in changes:
            stack.enter_context(mock.patch.object(where, name, value))
        yield


def _plans(
    table: str, intent: type[Any], change: Callable[[plan.Steps], plan.Steps]
) -> Callable[[], contextlib.AbstractContextManager[None]]:
    """The steps of one intent, changed."""
    plans: Mapping[type[Any], Callable[[str, Any], plan.Steps]] = getattr(plan, table)
    original = plans[intent]
    changed = {**plans, intent: lambda operation, event: change(original(operation, event))}
    return lambda: _patched((plan, table, changed))


def _swapped(first: type[Any], second: type[Any]) -> Callable[[plan.Steps], plan.Steps]:
    """The first step of each kind in the other's place."""

    def swap(steps: plan.Steps) -> plan.Steps:
        found = list(steps)
        kinds = [type(step) for step in found]
        one, two = kinds.index(first), kinds.index(second)
        found[one], found[two] = found[two], found[one]
        return tuple(found)

    return swap


def _without(kind: type[Any]) -> Callable[[plan.Steps], plan.Steps]:
    return lambda steps: tuple(step for step in steps if not isinstance(step, kind))


def _late_link(steps: plan.Steps) -> plan.Steps:
    """Publish first; the link file is written where the layer then is."""
    found = list(steps)
    kinds = [type(step) for step in found]
    link = found.pop(kinds.index(s.WriteFile))
    publish = next(step for step in found if isinstance(step, s.Publish))
    assert isinstance(link, s.WriteFile)
    found.remove(s.SyncFile(link.path))
    path = layout.link_file(publish.target)
    at = found.index(publish) + 1
    return (*found[:at], attrs.evolve(link, path=path), s.SyncFile(path), *found[at:])


def _uncommitted(steps: plan.Steps) -> plan.Steps:
    return tuple(
        step
        for step in steps
        if not (isinstance(step, s.WriteFile) and step.path.endswith(layout.COMMITTED))
    )


# --- the order of journal and effects -----------------------------------------------------------


def _intent_late() -> contextlib.AbstractContextManager[None]:
    def run(
        hands: recovery.Hands, decision: recovery.Decision, *, last: recovery.Last | None = None
    ) -> e.Intent | None:
        operation = recovery.new_name()
        with hands.journal.transaction(full=False) as transaction:
            intent = decision(transaction, operation)
        if intent is None:
            return None
        verb = state.verb_of(intent)
        performed = hands.performer.run(plan.forward(operation, intent), name=verb, first=True)
        with hands.journal.transaction(full=False) as transaction:
            trace(f"{verb}:intent:before")
            transaction.append(intent, operation=operation)
        trace(f"{verb}:intent:after")
        done = plan.done(intent, performed)
        recovery.conclude(hands, operation, intent, done, name=verb, last=last)
        return intent

    return _patched((recovery, "run", run))


def _outcome_early() -> contextlib.AbstractContextManager[None]:
    def run(
        hands: recovery.Hands, decision: recovery.Decision, *, last: recovery.Last | None = None
    ) -> e.Intent | None:
        decided: list[Any] = []

        def remember(transaction: Transaction, operation: str) -> e.Intent | None:
            intent = decision(transaction, operation)
            decided[:] = [operation, intent]
            return intent

        recovery.begin(hands, remember)
        operation, intent = decided
        if intent is None:
            return None
        verb = state.verb_of(intent)
        hands.journal.finish(operation, plan.done(intent, s.Performed()), full=True, then=last)
        trace(f"{verb}:outcome:after")
        hands.performer.run(plan.forward(operation, intent), name=verb, first=True)
        return intent

    return _patched((recovery, "run", run))


def _applied_early() -> contextlib.AbstractContextManager[None]:
    """The outcome of an apply is written when its archive is unpacked, beside the layer."""

    def run(
        hands: recovery.Hands, decision: recovery.Decision, *, last: recovery.Last | None = None
    ) -> e.Intent | None:
        if "apply_diff" not in decision.__qualname__:
            return original(hands, decision, last=last)
        decided: list[Any] = []

        def remember(transaction: Transaction, operation: str) -> e.Intent | None:
            intent = decision(transaction, operation)
            decided[:] = [operation, intent]
            return intent

        recovery.begin(hands, remember)
        operation, intent = decided
        unpack, *rest = plan.forward(operation, intent)
        performed = hands.performer.run((unpack,), name="apply", first=True)
        hands.journal.finish(operation, plan.done(intent, performed), full=True)
        trace("apply:outcome:after")
        rest.append(s.RemoveTree(layout.trash(operation)))
        hands.performer.run(tuple(rest), name="apply", first=True)
        return cast("e.Intent", intent)

    original = recovery.run
    return _patched((recovery, "run", run))


def _apply_unmarked() -> contextlib.AbstractContextManager[None]:
    """Nothing beside what was unpacked says that it was all."""
    return _patched((applying, "durable", mock.Mock(write_file=lambda *_, **__: None)))


def _two_transactions() -> contextlib.AbstractContextManager[None]:
    def fold(connection: Any, row: projection.RowFacts, event: e.Event) -> None:
        connection.execute("COMMIT")
        connection.execute("BEGIN IMMEDIATE")
        original(connection, row, event)

    original = projection.fold
    return _patched((projection, "fold", fold))


def _empty_without_intent() -> contextlib.AbstractContextManager[None]:
    """Removes leave the trash to a walk that no row tells of."""

    def finish(self: Journal, operation: str, outcome: Any, *, full: bool, then: Any = None) -> int:
        return original(self, operation, outcome, full=full)

    def empty(hands: recovery.Hands, operation: str, intent: e.TrashEmptyIntended) -> None:
        hands.performer.run(plan.forward(operation, intent), name="empty", first=False)

    original = Journal.finish
    return _patched((Journal, "finish", finish), (recovery, "_empty", empty))


# --- owners and the comparison ------------------------------------------------------------------


def _bury_first() -> contextlib.AbstractContextManager[None]:
    """The dead are buried before the tree is compared, so the next open sees no reason to."""

    def compare(hands: recovery.Hands) -> Iterator[Any]:
        for row in hands.journal.database.read(sql.SELECT_OPEN_OWNERS):
            owner = rows.owner(row)
            if owner.id != hands.journal.author.owner:
                burial.bury(hands, owner)
        yield from original(hands)

    original = comparison.compare
    return _patched((comparison, "compare", compare))


def _comparison_forgotten() -> contextlib.AbstractContextManager[None]:
    """The request for a comparison is taken off before it was done."""

    def compare(hands: recovery.Hands) -> Iterator[Any]:
        with hands.journal.transaction(full=True) as transaction:
            transaction.execute(sql.DELETE_META, key=place.COMPARE)
        yield from original(hands)

    original = comparison.compare
    return _patched((comparison, "compare", compare))


def _no_owner_row() -> contextlib.AbstractContextManager[None]:
    return _patched((sql, "INSERT_OWNER", "SELECT :id"))


def _nobody_is_buried() -> contextlib.AbstractContextManager[None]:
    def bury(hands: recovery.Hands, owner: Any) -> Any:
        with hands.journal.transaction(full=False) as transaction:
            transaction.execute(sql.CLOSE_OWNER, id=owner.id, at=0)
        return Settled("released", None, "")

    return _patched((burial, "bury", bury))


# --- files --------------------------------------------------------------------------------------


def _in_place() -> contextlib.AbstractContextManager[None]:
    """`store.json` and the rest are written where they are read."""
    return _patched((durable, "replace_file", _write_in_place))


def _write_in_place(path: str, content: str, *, mode: int) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.write(content)


def _whoever_it_is() -> contextlib.AbstractContextManager[None]:
    """Undo takes `<home>/<id>` away by its name, whoever made it."""

    def move(self: perform.Performer, step: s.MoveToTrash, _: s.Performed, __: bool) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.rename(self.path(step.layer), self.path(step.target))

    return _patched((perform, "_PERFORM", {**perform._PERFORM, s.MoveToTrash: move}))


def _no_fence() -> contextlib.AbstractContextManager[None]:
    """An owner that was taken for dead goes on, and is not told."""

    def finish(self: Journal, operation: str, outcome: Any, *, full: bool, then: Any = None) -> int:
        with self.transaction(full=full) as transaction:
            seq = transaction.append(outcome, operation=operation)
            if then is not None:
                then(transaction)
        return seq

    return _patched((Journal, "finish", finish))


def _replacing() -> contextlib.AbstractContextManager[None]:
    """Publishing takes what is there away first."""

    def publish(self: perform.Performer, step: s.Publish, _: s.Performed, __: bool) -> None:
        target = self.path(step.target)
        if os.path.lexists(target):
            os.rename(target, self.path(f"{layout.TRASH}/replaced"))
        os.rename(self.path(step.source), target)

    return _patched((perform, "_PERFORM", {**perform._PERFORM, s.Publish: publish}))


def _archive_late() -> contextlib.AbstractContextManager[None]:
    """The archive gets its name after its events were taken out of the journal."""
    publish, commit = archiving.Compaction._publish, archiving.Compaction._commit
    later: list[str] = []

    def remember(self: archiving.Compaction, temporary: str) -> None:
        later[:] = [temporary]

    def commit_first(self: archiving.Compaction) -> None:
        commit(self)
        publish(self, later[0])

    return _patched(
        (archiving.Compaction, "_publish", remember),
        (archiving.Compaction, "_commit", commit_first),
    )


def _snapshot_apart() -> contextlib.AbstractContextManager[None]:
    """The events are deleted in one transaction, and the snapshot is put in in the next."""
    begin = Journal.transaction

    @contextlib.contextmanager
    def transaction(self: Journal, *, full: bool) -> Iterator[Transaction]:
        late: list[dict[str, Any]] = []
        with begin(self, full=full) as tx:
            execute = tx.execute

            def put_off(statement: str, **values: Any) -> int:
                if statement == sql.INSERT_SNAPSHOT:
                    late.append(values)
                    return 1
                return execute(statement, **values)

            tx.execute = put_off  # type: ignore[method-assign]
            yield tx
        if late:
            with begin(self, full=full) as tx:
                for values in late:
                    tx.execute(sql.INSERT_SNAPSHOT, **values)

    return _patched((Journal, "transaction", transaction))


@contextlib.contextmanager
def _sets_aside_again() -> Iterator[None]:
    def rename(home: str, source: str, target: str) -> None:
        os.rename(f"{home}/{source}", f"{home}/{target}")

    with _patched((aside, "_rename", rename)):
        yield


MUTANTS: Final = {
    "create-redo": Mutant(
        "recovery finishes a create", "create-child", _rule(Verb.CREATE, Rule.REDO)
    ),
    "mount-redo": Mutant(
        "recovery finishes a mount", "get-first-name", _rule(Verb.MOUNT, Rule.REDO)
    ),
    "unmount-undo": Mutant(
        "recovery takes an unmount back", "put-last-name", _rule(Verb.UNMOUNT, Rule.UNDO)
    ),
    "remove-undo": Mutant(
        "recovery takes a remove back at any point", "remove-child", _rule(Verb.REMOVE, Rule.UNDO)
    ),
    "empty-undo": Mutant(
        "recovery gives up emptying the trash", "remove-base", _rule(Verb.EMPTY, Rule.UNDO)
    ),
    "apply-redo": Mutant(
        "recovery finishes an apply whatever it finds", "apply-child", _rule(Verb.APPLY, Rule.REDO)
    ),
    "apply-undo": Mutant(
        "recovery takes an apply back at any point", "apply-child", _rule(Verb.APPLY, Rule.UNDO)
    ),
    "apply-early": Mutant(
        "the outcome of an apply is written before its rename", "apply-child", _applied_early
    ),
    "apply-unmarked": Mutant(
        "an apply renames its content without a mark that it is whole",
        "apply-child",
        _apply_unmarked,
    ),
    "apply-replaced-stays": Mutant(
        "an apply leaves what it staged where it was",
        "apply-child",
        _plans("_FORWARD", e.LayerApplyIntended, _without(s.MoveAside)),
        always=True,
    ),
    "apply-empty-undo": Mutant(
        "recovery forgets what an apply put into the trash",
        "apply-child",
        _rule(Verb.EMPTY, Rule.UNDO),
    ),
    "apply-half-stays": Mutant(
        "the undo of an apply leaves what was unpacked",
        "apply-child",
        _plans("_BACKWARD", e.LayerApplyIntended, _without(s.RemoveTree)),
    ),
    "record-early": Mutant(
        "a manifest counts before its file is there",
        "record-applied",
        _outcome_early,
        always=True,
    ),
    "record-half-stays": Mutant(
        "the undo of a recording leaves what the probe made",
        "record-applied",
        _plans("_BACKWARD", e.ManifestRecordIntended, _without(s.RemoveTree)),
    ),
    "repair-undo": Mutant(
        "recovery takes a repair back at any point", "repair-file", _rule(Verb.REPAIR, Rule.UNDO)
    ),
    "repair-replaces": Mutant(
        "a repair that is repeated sets aside once more", "repair-file", _sets_aside_again
    ),
    "intent-late": Mutant("the intent is written after the effects", "create-child", _intent_late),
    "outcome-early": Mutant(
        "the outcome is written before the effects", "create-child", _outcome_early
    ),
    "two-transactions": Mutant(
        "an event and its projection are two transactions", "get-more-name", _two_transactions
    ),
    "publish-first": Mutant(
        "a layer is published before its link file is written",
        "create-base",
        _plans("_FORWARD", e.LayerCreateIntended, _late_link),
    ),
    "unlink-first": Mutant(
        "a remove unlinks l/<LINK> before it renames the layer away",
        "remove-child",
        _plans("_FORWARD", e.LayerRemoveIntended, _swapped(s.MoveToTrash, s.RemoveSymlink)),
    ),
    "link-stays": Mutant(
        "the undo of a create leaves l/<LINK>",
        "create-base",
        _plans("_BACKWARD", e.LayerCreateIntended, _without(s.RemoveSymlink)),
    ),
    "staging-stays": Mutant(
        "the undo of a create leaves what was staged",
        "create-base",
        _plans("_BACKWARD", e.LayerCreateIntended, _without(s.RemoveTree)),
    ),
    "merged-stays": Mutant(
        "the undo of a mount leaves merged",
        "get-first-own",
        _plans("_BACKWARD", e.LayerMountIntended, _without(s.RemoveDirectory)),
    ),
    "mount-stays": Mutant(
        "the undo of a mount does not unmount",
        "get-first-own",
        _plans("_BACKWARD", e.LayerMountIntended, _without(s.Unmount)),
    ),
    "uncommitted": Mutant(
        "a create does not mark its parent committed",
        "create-sync-parent",
        _plans("_FORWARD", e.LayerCreateIntended, _uncommitted),
        always=True,
    ),
    "empty-unsaid": Mutant(
        "the trash is emptied without an intent", "remove-base", _empty_without_intent
    ),
    "bury-first": Mutant(
        "the dead are buried before the tree is compared", "open-lost-intents", _bury_first
    ),
    "merged-of-the-lost": Mutant(
        "an open leaves the mountpoint of a get whose intent was lost",
        "open-lost-intents",
        lambda: _patched((comparison, "_drop_merged", lambda *_: iter(()))),
        always=True,
    ),
    "compare-forgotten": Mutant(
        "the comparison is ticked off before it is done", "rebuild", _comparison_forgotten
    ),
    "archive-late": Mutant(
        "an archive gets its name after its events are gone", "compact-again", _archive_late
    ),
    "snapshot-apart": Mutant(
        "a snapshot comes a transaction after its events are gone",
        "compact-again",
        _snapshot_apart,
    ),
    "no-owner-row": Mutant("an owner has a lock and no row", "close-holding", _no_owner_row),
    "unburied": Mutant("the holds of the dead stay", "close-holding", _nobody_is_buried),
    "in-place": Mutant("store.json is written in place", "create-base", _in_place),
    "whoever": Mutant(
        "undo takes a layer away by its name alone", "create-collides", _whoever_it_is, always=True
    ),
    "replacing": Mutant(
        "publishing replaces what is there", "create-collides", _replacing, always=True
    ),
    "no-fence": Mutant(
        "an owner that was taken for dead goes on", "create-usurped", _no_fence, always=True
    ),
}
