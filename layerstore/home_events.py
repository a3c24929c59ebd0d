"""Owns the facts about the store as a whole, its owners and their operations; `events` has all others."""

from __future__ import annotations

import attrs

from layerstore.model import Verb
from layerstore.values import value


@value
@attrs.frozen(repr=False, eq=False)
class StoreInitialized:
    store_id: str
    max_depth: int


@value
@attrs.frozen(repr=False, eq=False)
class StoreRebuilt:
    """The journal was begun anew from the tree, because `reason`."""

    store_id: str
    reason: str


@value
@attrs.frozen(repr=False, eq=False)
class JournalCompacted:
    """The events `first` to `last`, so many as `events` says, were moved to the archive `archive`.

    What they fold to is in the snapshot, from which the journal goes on.
    """

    first: int
    last: int
    events: int
    archive: str


@value
@attrs.frozen(repr=False, eq=False)
class StoreMoved:
    """The store was found in another directory than the one that it was last opened in."""

    store_id: str
    came_from: str
    moved_to: str
    same_directory: bool
    """It was renamed, or mounted elsewhere, with everything in it."""


@value
@attrs.frozen(repr=False, eq=False)
class StoreCopied:
    """A copy became a store of its own; the events before this one are of the store it was."""

    store_id: str
    copy_of: str
    """The id of the other store, which goes on where it is."""
    came_from: str


@value
@attrs.frozen(repr=False, eq=False)
class StoreRestored:
    """An older database was put in place: what happened after it was made is not in the journal."""

    store_id: str
    source: str
    """The file it came from; empty where nobody said so, and the numbers of events showed it."""


@value
@attrs.frozen(repr=False, eq=False)
class OwnerDied:
    """An owner was found dead: its holds are over."""

    owner: str
    pid: int
    command: str


@value
@attrs.frozen(repr=False, eq=False)
class OperationClaimed:
    """An operation was moved from a dead owner (or an abandoned one) to the one that settles it."""

    layer: str
    verb: Verb
    previous: str


@value
@attrs.frozen(repr=False, eq=False)
class OperationAbandoned:
    """Its owner could neither finish nor undo it; anyone may settle it."""

    layer: str
    reason: str
