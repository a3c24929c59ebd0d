"""Owns asking, immediately before each act, whether a layer is an orphan still; it must not move one.

containers/storage gives the layers of an image the same names again, so that one that is loaded now may
have the name of an orphan: as long as the block of `held` lasts, its programs change nothing. Docker
draws every name anew: what was an orphan when nothing had the tree open stays one.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from typing import Final

import attrs

from layerstore import verdicts
from layerstore.errors import Busy, Refused
from layerstore.fs import files
from layerstore.legacy.detecting import CONTAINERS_STORAGE, Found
from layerstore.verdicts import Judged, Plan, Verdict

TOGETHER: Final = 256
"""Orphans that one look is good for: a look takes as long as the tree is large, and they go in a second."""


@attrs.frozen
class Chosen:
    """What is to go, whoever stands on another first; and the plan that says so."""

    plan: Plan
    layers: tuple[Judged, ...]


def choose(found: Found, plan: Plan, wanted: tuple[str, ...]) -> Chosen:
    """Orphans by their names or beginnings of them; all if none is named.

    Raises Refused where something has the tree open, where the records look lost, for what is no
    orphan, and for what an orphan stands on that is not among them.
    """
    if plan.daemon:
        raise Refused(
            f"Nothing is removed: {plan.daemon}, and what it makes at this moment is recorded nowhere.",
            hint="Stop it, and ask again.",
        )
    if plan.lost_metadata:
        raise Refused(
            "Nothing is removed: the records look lost, and not the layers.",
            hint="'layerstore adopt PATH --plan' says more. Where nothing else can have been there, "
            "--records-are-right says so.",
        )
    orphans = {one.layer: one for one in plan.of(Verdict.ORPHANED)}
    named = [_named(plan, word) for word in wanted]
    for one in named:
        if one.verdict is not Verdict.ORPHANED:
            raise Refused(f"{one.layer} is no orphan: {one.verdict}, because {one.why}.")
    chosen = {one.layer: one for one in named} if wanted else orphans
    below = {layer: lowers(found.home, layer) for layer in orphans}
    for layer, stands_on in below.items():
        missing = [x for x in stands_on if x in chosen]
        if layer not in chosen and missing:
            raise Refused(
                f"{missing[0]} stays: {layer} stands on it, which is an orphan as well.",
                hint=f"Name {layer}, too.",
            )
    order = sorted(chosen, key=lambda layer: (-len(below[layer]), layer))
    return Chosen(plan, tuple(chosen[layer] for layer in order))


def _named(plan: Plan, word: str) -> Judged:
    exact = [one for one in plan.layers if one.layer == word]
    found = exact or [one for one in plan.layers if word and one.layer.startswith(word)]
    if len(found) != 1:
        said = f"{len(found)} entries begin with it" if found else "nothing there has that name"
        raise Refused(f"{word!r}: {said}.", hint="'layerstore orphans PATH' lists the orphans.")
    return found[0]


def lowers(home: str, layer: str) -> tuple[str, ...]:
    """The layers that a `lower` file names, nearest first; a link that leads nowhere is left out."""
    found = []
    for part in (files.read_lower(home, layer) or "").split(":"):
        target = files.read_symlink(f"{home}/{part}") if part.startswith("l/") else ""
        if target.startswith("../") and target.endswith("/diff"):
            found.append(target[3 : -len("/diff")])
    return tuple(found)


@attrs.frozen
class Asking:
    """How to ask again; `before` are the orphans of the plan."""

    found: Found
    before: frozenset[str]
    run_root: str | None = None
    trust_records: bool = False

    def look(self) -> verdicts.Again:
        """One more look, at all of them."""
        return verdicts.Again(
            self.found,
            before=self.before,
            run_root=self.run_root,
            trust_records=self.trust_records,
        )


def batches(layers: tuple[Judged, ...]) -> Iterator[tuple[Judged, ...]]:
    """So many at a time as one look is good for."""
    for start in range(0, len(layers), TOGETHER):
        yield layers[start : start + TOGETHER]


@contextlib.contextmanager
def held(found: Found) -> Iterator[None]:
    """Keep the programs of containers/storage from changing their tree. Raises Busy if one is at it.

    Nothing is waited for: they wait for each other without an end.
    """
    with contextlib.ExitStack() as stack:
        if found.kind == CONTAINERS_STORAGE:
            for name in ("storage.lock", f"{found.driver}-layers/layers.lock"):
                stack.enter_context(_locked(f"{found.root}/{name}"))
        yield


@contextlib.contextmanager
def _locked(path: str) -> Iterator[None]:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        yield  # then no program of this kind has come to it
        return
    try:
        try:
            # As they do: of POSIX, so that closing any other descriptor of this file would end it.
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            raise Busy(
                f"Somebody has {path} locked: a program of containers/storage is at work.",
                hint="Try again when it has ended.",
            ) from error
        yield
    finally:
        os.close(descriptor)
