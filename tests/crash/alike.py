"""Owns the proof that two neighbouring steps may change places: nothing that a death leaves tells the orders apart.

    python -m tests.crash.harness alike VERB

For a kill it is tried: the verb dies in front of every call, in both orders, a store opens what is left,
and both orders leave the same set of homes: every byte of the tree, every row, every event. For a power
cut it is computed, for the disk that is hardest to a file system: it may have any part of what nobody
synced. So at each moment there is what is on the disk for sure, and what may be; a moment of the other
order is covered if one of the written order has no more for sure, and no less that may be: then each
disk that it can leave is one that the written order can leave, too. With the last moment, behind
which something is acknowledged, only the last may be compared.

Left out is what no recovery looks at: what an operation builds, until a step publishes it, and under
which of its two names, in staging or in the trash, an operation keeps its own (`files.is_applied` is
asked for either, in a test).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import Any, Final

import attrs

from layerstore import plan
from layerstore.fs import layout
from layerstore.fs import steps as s
from tests.crash.bench import Bench, Case, Ended, Patch, bench_of
from tests.crash.invariants import _likeness, mend

Facts = frozenset[str]
_PARENT_CONTENT: Final = "content of the parent"
_PUBLISHES: Final = (s.Publish, s.ReplaceDirectory)
LIKE: Final = "="


def writes(step: s.Step) -> Facts:
    """What a step changes on the disk: `data` of a file, or the `name` of something in its directory."""
    match step:
        case s.MakeDirectory(path=path) | s.MakeSymlink(path=path):
            return frozenset({f"name {path}"})
        case s.WriteFile(path=path):
            return frozenset({f"name {path}", f"data {path}"})
        case s.RemoveSymlink(path=path) | s.RemoveFile(path=path) | s.RemoveDirectory(path=path):
            return frozenset({f"name {path}"})
        case s.Publish(target=path) | s.MoveToTrash(layer=path):
            return frozenset({f"name {path}"})
        case s.ReplaceDirectory(layer=layer):
            return frozenset({f"name {layout.diff(layer)}"})
        case s.MoveAside() | s.Unpack() | s.Unmount() | s.ProbeUpper() | s.VerifyLayer():
            return frozenset()  # under names of the operation's own; or nothing on the disk
        case s.SyncFile() | s.SyncDirectory() | s.SyncFileSystem():
            return frozenset()
    raise AssertionError(f"what does {step} change?")


def synced(step: s.Step, written: Facts) -> Facts:
    """Of what was written, what is on the disk for sure when a step has been done."""
    match step:
        case s.SyncFileSystem():
            return written
        case s.SyncFile(path=path):
            return written & {f"data {path}"}
        case s.SyncDirectory(path=path):
            return frozenset(
                fact
                for fact in written
                if fact.startswith("name ") and fact[5:].rpartition("/")[0] == path
            )
    return frozenset()


@attrs.frozen
class Moment:
    """What the disk has for sure, and what it may have."""

    sure: Facts
    maybe: Facts

    def covers(self, other: Moment) -> bool:
        """Whether each disk that the other can leave is one that this can leave."""
        return self.sure <= other.sure and other.maybe <= self.maybe


def moments(operation: str, steps: Iterable[s.Step]) -> list[Moment]:
    """One before the first step, and one behind each."""
    stage = layout.staging(operation)
    sure: Facts = frozenset()
    maybe: Facts = frozenset({_PARENT_CONTENT})
    published = False
    found = []

    def seen(facts: Facts) -> Facts:
        if published:
            return facts
        return frozenset(fact for fact in facts if stage not in fact)

    found.append(Moment(seen(sure), seen(maybe)))
    for step in steps:
        maybe |= writes(step)
        sure |= synced(step, maybe)
        published = published or isinstance(step, _PUBLISHES)
        found.append(Moment(seen(sure), seen(maybe)))
    return found


def uncovered(operation: str, written: plan.Steps, swapped: plan.Steps) -> list[Moment]:
    """The moments of the other order that can leave a disk which the written one cannot."""
    ours, theirs = moments(operation, written), moments(operation, swapped)
    found = [there for there in theirs[:-1] if not any(here.covers(there) for here in ours)]
    return found if ours[-1].covers(theirs[-1]) else [*found, theirs[-1]]


# --- kills ----------------------------------------------------------------------------------------


@attrs.define
class LikeBench(Bench):
    """It also keeps what each home is that was opened again."""

    left: set[str] = attrs.field(factory=set, kw_only=True)

    def _decide(self, case: Case, kept: list[int]) -> str:
        with self.patched():
            mend(self.home, self.scenario.mends)
        like = _likeness(self.home, ())
        return super()._decide(case, kept) or f"{LIKE}{like}"

    def verdict(self, ended: Ended) -> str:
        answer = super().verdict(ended)
        if not answer.startswith(LIKE):
            return answer
        self.left.add(answer)
        return ""


def left(scenario: str, patch: Patch, result: Any, kind: str) -> set[str]:
    """What the home is, when it was opened again after a death at each point, and after none."""
    from tests.crash.harness import _nothing, _sweep

    with bench_of(LikeBench, scenario, patch) as place:
        for fault, ended, _ in _sweep(place, result, kind, "before", skip=_nothing):
            message = place.verdict(ended)
            if message:
                result.fail(message, fault)
        return place.left


def alike(options: Any, result: Any) -> None:
    """All pairs of a verb that may change places: both orders leave the same homes."""
    from tests.crash.neighbours import ALIKE, SWAPS

    kind = "call" if options.all else "point"
    written: dict[str, set[str]] = {}
    for name in sorted(ALIKE):
        if not name.startswith(f"{options.scenario}:"):
            continue
        swap = SWAPS[name]
        if swap.scenario not in written:
            written[swap.scenario] = left(swap.scenario, contextlib.nullcontext, result, kind)
        found = left(swap.scenario, swap.patch, result, kind)
        ours = written[swap.scenario]
        if found != ours:
            result.fail(
                f"{name}: {len(found - ours)} homes are new, {len(ours - found)} missing", name
            )
        result.pairs += 1
        result.possible = max(result.possible, len(ours))
