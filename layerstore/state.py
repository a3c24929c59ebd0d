"""Owns the rules: which event may follow which, and what recovery does; it must not do anything itself.

- An operation is in flight from its intent until exactly one of its two outcomes.
- What recovery does with an operation in flight depends on its verb and on evidence from the disk
  and the kernel, never on how far the journal believes it came.
- Every intent has an undone outcome, so every operation can be ended.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any, Final

import attrs

from layerstore import events as e
from layerstore.model import Verb
from layerstore.values import value


@value
@attrs.frozen(repr=False, eq=False)
class Triple:
    """The three events of a verb."""

    intended: type[Any]
    done: type[Any]
    undone: type[Any]


TRIPLES: Final[Mapping[Verb, Triple]] = {
    Verb.CREATE: Triple(e.LayerCreateIntended, e.LayerCreated, e.LayerCreateUndone),
    Verb.MOUNT: Triple(e.LayerMountIntended, e.LayerMounted, e.LayerMountUndone),
    Verb.UNMOUNT: Triple(e.LayerUnmountIntended, e.LayerUnmounted, e.LayerUnmountUndone),
    Verb.REMOVE: Triple(e.LayerRemoveIntended, e.LayerRemoved, e.LayerRemoveUndone),
    Verb.EMPTY: Triple(e.TrashEmptyIntended, e.TrashEmptied, e.TrashEmptyUndone),
    Verb.CORRECT: Triple(e.TreeCorrectIntended, e.TreeCorrected, e.TreeCorrectUndone),
    Verb.APPLY: Triple(e.LayerApplyIntended, e.LayerApplied, e.LayerApplyUndone),
    Verb.RECORD: Triple(e.ManifestRecordIntended, e.ManifestRecorded, e.ManifestRecordUndone),
    Verb.REPAIR: Triple(e.RepairIntended, e.Repaired, e.RepairUndone),
}
VERB_OF_INTENT: Final = {triple.intended: verb for verb, triple in TRIPLES.items()}
OUTCOMES: Final = {
    outcome: verb for verb, triple in TRIPLES.items() for outcome in (triple.done, triple.undone)
}


class Rule(Enum):
    """What recovery does with an operation in flight."""

    UNDO = "undo"
    REDO = "redo"


@value
@attrs.frozen(repr=False, eq=False)
class Evidence:
    """What the disk says about an operation, gathered before the rule is asked."""

    present: bool
    """`<home>/<layer>` is there, whatever it holds."""
    trashed: bool
    """`trash/<operation>` is there."""
    applied: bool = False
    """The layer has the content that `staging/<operation>` held."""
    moved: bool = False
    """A repair has moved what it was to move, or put what it was to put."""


RECOVERY: Final[Mapping[Verb, Callable[[Evidence], Rule]]] = {
    # Nobody was told that the layer exists.
    Verb.CREATE: lambda _: Rule.UNDO,
    # Nobody was told that it is mounted.
    Verb.MOUNT: lambda _: Rule.UNDO,
    # The caller gave the hold up.
    Verb.UNMOUNT: lambda _: Rule.REDO,
    # Before its rename the layer is whole; after it the layer cannot come back under its name.
    Verb.REMOVE: lambda seen: Rule.UNDO if seen.present and not seen.trashed else Rule.REDO,
    Verb.EMPTY: lambda _: Rule.REDO,
    # Each correction makes the tree say what the index says, and can be repeated.
    Verb.CORRECT: lambda _: Rule.REDO,
    # The stream is gone with its process: what was not whole by then never will be.
    Verb.APPLY: lambda seen: Rule.REDO if seen.applied else Rule.UNDO,
    # Nobody was told that it is written down.
    Verb.RECORD: lambda _: Rule.UNDO,
    # Once the old is away the new has to come; before that nothing has happened.
    Verb.REPAIR: lambda seen: Rule.REDO if seen.moved or seen.trashed else Rule.UNDO,
}


def rule_for(verb: Verb, seen: Evidence) -> Rule:
    """What recovery does with an operation of this verb, given the evidence."""
    return RECOVERY[verb](seen)


def verb_of(intent: e.Intent) -> Verb:
    return VERB_OF_INTENT[type(intent)]


def ends(verb: Verb, outcome: e.Event) -> bool:
    """Whether this event may end an operation of this verb."""
    return OUTCOMES.get(type(outcome)) is verb
