"""Owns the facts about what puts a tree right: corrections at an open, and repairs; `events` has all others."""

from __future__ import annotations

import attrs

from layerstore.values import value

# --- what an open corrects --------------------------------------------------------------------


@value
@attrs.frozen(repr=False, eq=False)
class TreeCorrectIntended:
    """`correction`: `restore-link`, `drop-link`, `mark-committed`, `sweep-staging` or `drop-merged`."""

    layer: str
    """The layer, or `l/<LINK>` or `staging/<name>` where no layer is concerned."""
    correction: str
    name: str
    """The link, the name in staging, or `merged`."""
    project: int = 0
    """The project id of what is swept, whose limit ends."""


@value
@attrs.frozen(repr=False, eq=False)
class TreeCorrected:
    layer: str


@value
@attrs.frozen(repr=False, eq=False)
class TreeCorrectUndone:
    layer: str
    reason: str


# --- what somebody asked to repair -------------------------------------------------------------


@value
@attrs.frozen(repr=False, eq=False)
class RepairIntended:
    """Something in the tree is about to be put right: set aside, put in place, or both."""

    layer: str
    """The layer, or the path where no layer is concerned."""
    act: str
    """Which repair of `layerstore.audit.codes`; `undo`, or `empty-quarantine`."""
    code: str
    """The finding that it mends."""
    reason: str
    """What that says."""
    at: str
    """When, in UTC, for the note in the quarantine."""
    path: str
    """What is changed, relative to the home."""
    aside: bool
    """What lies there goes to `quarantine/<operation>/`."""
    put: str
    """What comes in its place: one of `layerstore.repair_steps.PUTS`."""
    content: str
    """The text of a file, what a link reads, or where something comes from."""
    mode: int
    uid: int | None
    gid: int | None
    old_mode: int
    """What they were, where that is all that changes."""
    old_uid: int | None
    project: int
    """The project id that a directory gets."""
    probe: bool
    """The kernel is asked first whether the layer is in use."""
    undoes: str
    """The operation that this one takes back."""
    durable: bool


@value
@attrs.frozen(repr=False, eq=False)
class Repaired:
    layer: str


@value
@attrs.frozen(repr=False, eq=False)
class RepairUndone:
    layer: str
    reason: str


@value
@attrs.frozen(repr=False, eq=False)
class IndexRefolded:
    """The index was written again from the journal, which decides."""

    differences: int
    """Rows that were not as the journal has them."""
    examples: str
    """Some of them, as JSON: table, key, and who had the row so."""
