"""Owns power cuts: a verb's disk loses its power in front of any call; after the next boot all that was
acknowledged under `full` is there, with its content, and nothing half-made is visible.

    python -m tests.crash.harness powercut FILE_SYSTEM:SCENARIO [options]

It is the bench of the kills on a disk of its own. What differs is what a cut takes, by design: the
mounts, and with them their holds; a hold of a base layer, a get or put of which is not synced; the
labels of a create whose intent was lost and whose layer was not (the tree decides); and what was
written to a layer, until a child is made of it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import attrs

from layerstore import Reader, plan
from layerstore import events as e
from layerstore.db import engine, reserve
from layerstore.fs import ballast, syscalls, trace
from layerstore.fs import steps as s
from tests.crash import bench as benches
from tests.crash import shim
from tests.crash.bench import Bench, Case, Ended, Fault, Patch, Snapshot, detach
from tests.crash.disk import Disk
from tests.crash.invariants import files_in, mounts_below
from tests.crash.model import (
    Accomplice,
    Apply,
    Create,
    Facts,
    Get,
    KeepOpen,
    Live,
    Meanwhile,
    Open,
    Put,
    Remove,
    State,
    Verb,
    Write,
    ladder,
)
from tests.crash.mutants import Mutant, _patched, _plans
from tests.crash.scenarios import SCENARIOS, TEMPLATES, Scenario
from tests.crash.sequences import sequences

_WRITE = (Create("base"), Get("base"), Write("base", "etc", "of the base\n"), Put("base"))
WRITTEN: Final = Scenario(
    "create-on-written", "empty", (Open(), *_WRITE), (Create("a", Facts("base")),)
)
"""A base layer is written to, and a child is made of it: only a cut can tell whether that is synced."""
FIRST: Final = Scenario(
    "create-first-child", "empty", (Open(), Create("base")), (Create("a", Facts("base")),)
)
"""The parent is not committed yet, and on the disk already: nothing syncs the intent."""


@attrs.frozen
class OthersSync(Verb):
    """From here on somebody else syncs a file of theirs behind every step: what that brings to the disk
    of what the store did so far is there for good, and nothing else need be."""

    def act(self, live: Live) -> dict[str, Any]:
        outer, path = trace.current(), live.home.parent / "theirs"

        def hook(point: str) -> None:
            if outer is not None:
                outer(point)
            if point.endswith(":after"):
                with contextlib.suppress(OSError), path.open("ab", buffering=0) as file:
                    file.write(b"x")
                    os.fsync(file.fileno())

        trace.set_trace(hook)
        return {}


_OTHERS: Final = (Open(), OthersSync())
_CHILD: Final = Create("a", Facts("base"))
_FILES: Final = (("etc", "of an archive\n"),)
WHILE_OTHERS_SYNC: Final = tuple(
    Scenario(f"{name}-while-others-sync", "chain", _OTHERS, verbs)
    for name, verbs in (
        ("create", (_CHILD,)),
        ("remove", (Remove("mid"), _CHILD, Remove("a"))),
        ("apply", (_CHILD, Apply("a", _FILES))),
    )
)
WRITTEN_WHILE_OTHERS_SYNC: Final = Scenario(
    f"{WRITTEN.name}-while-others-sync", "empty", (Open(), *_WRITE, OthersSync()), WRITTEN.when
)
ALL: Final = {
    **SCENARIOS,
    **{one.name: one for one in (WRITTEN, FIRST, *WHILE_OTHERS_SYNC, WRITTEN_WHILE_OTHERS_SYNC)},
}
BOOT_ID: Final = "/proc/sys/kernel/random/boot_id"
_MARKS: Final = (Create, Apply)
"""Verbs whose last event is synced when they answer."""


@attrs.define
class CutBench(Bench):
    """A scenario on a disk whose power is cut."""

    disk: Disk = attrs.field(kw_only=True)
    booted: bool = False
    """Whether the machine has another boot id than when the scenario ran."""

    @property
    def home(self) -> Path:
        return self.disk.point / "home"

    def prepare(self) -> None:
        self.disk.make()
        super().prepare()
        mounted = () if self.start is None else self.start.mounted
        self.start = Snapshot((), mounted)
        self.power_off()
        # The template is on the disk, whole: what is cut is the scenario.
        os.sync()
        self.disk.keep()

    def renew(self, snapshot: Snapshot | None) -> None:
        self.power_off()
        if os.path.ismount(self.disk.point):
            self.disk.unmount()
        self.disk.renew()
        for layer in snapshot.mounted if snapshot is not None else ():
            benches._mount(os.fspath(self.home), layer)

    def clean(self) -> None:
        self.power_off()
        if self.home.exists():
            shutil.rmtree(self.home)

    def power_off(self) -> None:
        """Nothing of this boot is left in the kernel but the disk's own mount."""
        self.drop_descriptors()
        for point in reversed(mounts_below(self.disk.point)):
            detach(point)
        if self.booted:
            detach(BOOT_ID)
            self.booted = False

    def act(self, fault: Fault, *, marked: bool = False) -> Ended:
        """The scenario, its cut, and the next boot. Where the fault is behind the last call, the
        power is cut when all has been acknowledged.
        """
        self.renew(self.start)
        descriptor = self.disk.open()
        shim.on_disk(descriptor)
        try:
            ended = self.once(fault)
        finally:
            os.close(descriptor)
        if not ended.died and fault.index >= 0:
            self.disk.cut()
        self.power_off()
        self.disk.unmount()
        self.disk.mount()
        self._boot()
        return ended

    def _boot(self) -> None:
        boot_id = self.place / "boot_id"
        boot_id.write_text(f"{uuid.uuid4()}\n")
        syscalls.mount(os.fspath(boot_id), BOOT_ID, "", syscalls.MS_BIND, "")
        self.booted = True

    def sure(self, ended: Ended) -> int:
        """Of the events that were acknowledged, the last that no cut may take."""
        return last_synced(self.scenario.when, ended.acknowledged)

    def lasting(self, case: Case, allowed: list[State]) -> list[State]:
        """The same states, with what a cut may take. In the judge's process, on a mended home."""
        done, scenario = case.done, self.scenario
        return lasting(self.home, self.first, scenario.given, scenario.when, done, allowed)


def last_synced(verbs: Sequence[Verb], acknowledged: Sequence[Mapping[str, Any]]) -> int:
    """The number of the last event that is synced, of verbs that said what they were told."""
    pairs = zip(verbs, acknowledged, strict=False)
    return max((said.get("seq", 0) for verb, said in pairs if isinstance(verb, _MARKS)), default=0)


# --- what may be left -------------------------------------------------------------------------


def lasting(
    home: Path,
    first: State,
    given: tuple[Verb, ...],
    when: tuple[Verb, ...],
    done: int,
    allowed: list[State],
) -> list[State]:
    """The states that a death may leave, with what a cut may take besides; of a mended home."""
    verbs = (*given, *when[: done + 1])
    passed = [state for step in ladder(first, verbs) for state in step]
    with Reader.open(home) as reader:
        holds = {(str(hold.layer), hold.holder): hold.count for hold in reader.holders()}
        layers: dict[str, Facts] = {
            layer.id: Facts(layer.parent, tuple(sorted(layer.labels.items())), layer.read_write)
            for layer in reader.layers()
        }
    files = {layer: files_in(home / layer / "diff") for layer in layers}
    unsynced = _unsynced(verbs, len(given) + done)
    adopted = {
        verb.layer: Facts(verb.facts.parent)
        for verb in when[done : done + 1]
        if isinstance(verb, Create)
    }
    # What another process had made when it was killed, and nobody had settled yet.
    others = {
        verb.layer: Facts(verb.facts.parent)
        for other in verbs
        if isinstance(other, Accomplice)
        for verb in other.verbs
        if isinstance(verb, Create)
    }
    for name, fact in others.items():
        if layers.get(name) == fact:
            allowed = [*allowed, *(state.with_layer(name, fact) for state in allowed)]
    found = []
    for state in allowed:
        kept = {key: holds[key] for key in holds if _was(passed, key, holds[key], state)}
        facts = {
            name: adopted[name] if layers.get(name) == adopted.get(name, "") else known
            for name, known in state.layers.items()
        }
        content = {
            name: files[name]
            if name in unsynced and name in files and _fits(files[name], name, passed)
            else known
            for name, known in state.files.items()
        }
        found.append(State(facts, kept, content))
    return found


def _was(passed: list[State], key: tuple[str, str], count: int, state: State) -> bool:
    """Whether a base layer may be held so often: it was at some time, and nothing syncs that."""
    layer = key[0]
    if layer not in state.layers or state.layers[layer].parent is not None:
        return False
    return any(count == earlier.holds.get(key, 0) for earlier in passed)


def _unsynced(verbs: tuple[Verb, ...], acknowledged: int) -> set[str]:
    """Layers that were written to, and that no child was made of since then; or that nobody held
    while it was done, so that the store does not know of it.
    """
    parents = {verb.layer: verb.facts.parent for verb in verbs if isinstance(verb, Create)}
    found: set[str] = set()
    held: set[str] = set()
    for number, verb in enumerate(verbs):
        if isinstance(verb, Get):
            held.add(verb.layer)
        elif isinstance(verb, Write):
            found.add(verb.layer)
        elif isinstance(verb, Create) and number < acknowledged:
            above = verb.facts.parent
            while above is not None:
                found -= {above} & held
                above = parents.get(above)
    return found


def _fits(files: Mapping[str, str], layer: str, passed: list[State]) -> bool:
    """Whether what is there of a layer is the beginning of what was written to it.

    Nothing of it is promised, but that it is nothing else: a name that nobody wrote, or other bytes,
    would be somebody else's. Zeros are nobody's: ext4 may give a file its length and its blocks in one
    transaction of its journal, and what is in them only after it.
    """
    written: dict[str, str] = {}
    for state in passed:
        for name, text in state.files.get(layer, {}).items():
            written[name] = max(text, written.get(name, ""), key=len)
    return all(
        name in written
        and len(text) <= len(written[name])
        and all(here in (there, "\0") for here, there in zip(text, written[name], strict=False))
        for name, text in files.items()
    )


@contextlib.contextmanager
def cut_bench(name: str, patch: Patch = contextlib.nullcontext) -> Iterator[CutBench]:
    """A bench for `file system:scenario`, on a disk of its own that is gone afterwards."""
    kind, _, scenario = name.partition(":")
    place = Path(tempfile.mkdtemp(prefix="layerstore-cut-", dir=benches.base()))
    disk = Disk(place / "fs", kind)
    chosen = ALL[scenario] if scenario in ALL else sequences()[scenario]
    made = CutBench(place, chosen, patch, known=Counter(), disk=disk)
    with prepared(made):
        yield made


@contextlib.contextmanager
def prepared(made: CutBench) -> Iterator[None]:
    """A bench that is ready; its disk and its place are gone afterwards."""
    # As in the other campaigns: what is kept for full disks is not what is looked at.
    ballast.PIECES, ballast.LARGEST, reserve.LARGEST = 2, ballast.SMALLEST, 16 << 12  # type: ignore[misc]
    try:
        made.prepare()
        yield
    finally:
        made.dismiss()
        made.power_off()
        if os.path.ismount(made.disk.point):
            made.disk.unmount()
        made.disk.abandon()
        shutil.rmtree(made.place)


def fits(scenario: Scenario) -> bool:
    """Whether a scenario promises something to a cut: nobody else writes, nothing stays open."""
    template = TEMPLATES[scenario.template]
    verbs = (*template.verbs, *scenario.given, *scenario.when)
    alone = not any(isinstance(verb, KeepOpen | Meanwhile) for verb in verbs)
    full = not any(isinstance(v, Open) and v.durability != "full" for v in verbs)
    return alone and full and scenario.mends != "adopt"


# --- controls -----------------------------------------------------------------------------------


def _unsynced_content(steps: plan.Steps) -> plan.Steps:
    return tuple(
        attrs.evolve(step, sync=False) if isinstance(step, s.Unpack) else step for step in steps
    )


def _unsynced_files(steps: plan.Steps) -> plan.Steps:
    syncs = s.SyncFile | s.SyncMark | s.SyncDirectory
    return tuple(
        attrs.evolve(step, sync=False) if isinstance(step, s.WriteFile) else step
        for step in steps
        if not isinstance(step, syncs)
    )


def _as_if_the_parent_were_durable() -> contextlib.AbstractContextManager[None]:
    """Each file of the create is synced, and nothing else."""
    create = plan._FORWARD[e.LayerCreateIntended]

    def forward(operation: str, intent: e.LayerCreateIntended) -> plan.Steps:
        return create(operation, attrs.evolve(intent, sync_parent=False))

    return _patched((plan, "_FORWARD", {**plan._FORWARD, e.LayerCreateIntended: forward}))


def _never_full() -> contextlib.AbstractContextManager[None]:
    """As many recipes for SQLite have it."""
    begin = engine.Database._begin

    def without(self: engine.Database, *, full: bool) -> engine.Connection:
        del full
        return begin(self, full=False)

    return _patched((engine.Database, "_begin", without))


MUTANTS: Final = {
    "content-unsynced": Mutant(
        "the content of an apply is not synced before its outcome",
        "apply-child",
        _plans("_FORWARD", e.LayerApplyIntended, _unsynced_content),
    ),
    "files-unsynced": Mutant(
        "the files of a create are not synced before its rename",
        "create-child",
        _plans("_FORWARD", e.LayerCreateIntended, _unsynced_files),
    ),
    "parent-unsynced": Mutant(
        "a create does not sync what was written to its parent",
        WRITTEN.name,
        _as_if_the_parent_were_durable,
    ),
    "never-full": Mutant("no outcome is committed with FULL", "create-child", _never_full),
}
"""Harmless as long as the power stays. Leaving out a sync of a directory is not among them: the log of
ext4 and of XFS is one for all files, so that the next sync of any of them brings it to the disk."""
