"""Owns what a plan and its outcome are made of; it must not look at a store.

act      one change of a store, told in plain words; what it moves away goes to the quarantine
remedy   a finding with the acts that mend it, in order, or with why nothing is done about it
plan     the remedies of everything that an audit found
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import attrs

from layerstore import model as m
from layerstore.audit.codes import REPAIRS

VERSION: Final = 1
"""Of plan and outcome as data: a field may be added, none changes its meaning."""


@attrs.frozen
class Change:
    """What an act does to the tree, in the terms of `layerstore.repair_steps`."""

    put: str = ""
    content: str = ""
    mode: int = 0
    uid: int | None = None
    gid: int | None = None
    old_mode: int = 0
    old_uid: int | None = None
    probe: bool = False
    seen: str = ""
    """What was there when it was planned: an act on something else is not carried out."""
    indexed: bool = True
    """The index has the layer."""


@attrs.frozen
class Act:
    """One change."""

    repair: str
    """Which of `layerstore.audit.codes.REPAIRS`."""
    does: str
    """The same in plain words, about this very thing."""
    layer: str | None = None
    path: str | None = None
    """Relative to the home."""
    moves: bool = False
    """Something goes to the quarantine."""
    code: str = ""
    reason: str = ""
    change: Change | None = attrs.field(default=None, repr=False)
    """None: it changes records alone."""

    def as_data(self) -> dict[str, object]:
        names = ("repair", "does", "layer", "path", "moves")
        return {name: getattr(self, name) for name in names}


@attrs.frozen
class Remedy:
    """What is done about one finding."""

    finding: m.Finding
    acts: tuple[Act, ...] = ()
    left: str = ""
    """Why nothing is done about it, and what could be; empty where there are acts."""

    def as_data(self) -> dict[str, object]:
        found = self.finding
        return {
            "code": found.code,
            "severity": found.severity.value,
            "message": found.message,
            "layer": found.layer,
            "path": found.path,
            "acts": [act.as_data() for act in self.acts],
            "left": self.left,
        }


@attrs.frozen
class Plan:
    """What a repair would do about what an audit found."""

    home: str
    remedies: tuple[Remedy, ...]
    lost_metadata: bool = False
    """The records look lost, and not the layers: nothing is moved away."""

    def acts(self) -> Iterator[Act]:
        """Every act once, in the order in which they are done."""
        every = {act: None for remedy in self.remedies for act in remedy.acts}
        yield from sorted(every, key=lambda act: RANKS.index(act.repair))

    @property
    def left(self) -> tuple[Remedy, ...]:
        """The findings about which nothing is done; notes do not count."""
        return tuple(
            remedy
            for remedy in self.remedies
            if not remedy.acts and remedy.finding.severity is not m.Severity.NOTE
        )


RANKS: Final = tuple(REPAIRS)
"""The order of acts: what rebuilds comes before what moves away."""


@attrs.frozen
class Done:
    """What became of an act."""

    act: Act
    outcome: str
    """`done`, `skipped` (it was not needed any more, or something had changed) or `failed`."""
    message: str = ""
    operation: str | None = None
    """Its operation in the journal, by which it can be taken back."""
    event: int | None = None
    """Where it has none, since it changed records alone: the number of its event."""

    def as_data(self) -> dict[str, object]:
        names = ("outcome", "message", "operation", "event")
        return {**self.act.as_data(), **{name: getattr(self, name) for name in names}}


@attrs.frozen
class Outcome:
    """What a repair did, and what is left."""

    plan: Plan
    """The first plan; what came to light by it is among `done`."""
    done: tuple[Done, ...]
    left: tuple[Remedy, ...]
    """What an audit found afterwards, notes apart."""

    @property
    def repaired(self) -> bool:
        return any(item.outcome == "done" for item in self.done)


@attrs.frozen
class Emptied:
    """One entry of the quarantine that was removed for good."""

    name: str
    bytes: int
    message: str = ""
    """Why it could not be; empty where it was."""
