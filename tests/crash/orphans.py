"""Owns kills in the removal of orphans, at every call, and how it is judged where a disk lost its power.

    python -m tests.crash.harness orphans TREE:VERB [options]

TREE is `docker` or `podman`, VERB `remove`, `restore` or `empty`. Whatever the process was at when it
died, each orphan lies whole in its tree with all that leads to it, or whole in the quarantine with its
note; nothing else has changed by a byte; and whoever comes next goes on from there.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import attrs

from layerstore.fs import layout
from layerstore.fs import steps as s
from layerstore.legacy import detecting
from layerstore.orphans import acting, asking, place
from layerstore.orphans import plan as steps
from layerstore.testing.compare import Snapshot, difference, snapshot
from layerstore.verdicts import Verdict, plan
from tests.crash import shim
from tests.crash.disk import Disk
from tests.crash.foreigncuts import Trial, run
from tests.legacy.trees import docker_tree, hexed, link_of, podman_tree, put_layer

TOP, UNDER = hexed("goes first"), hexed("goes second")
"""Other names than any test mounts: a mount of another tree's layer of that name would keep it."""
VERBS: Final = ("remove", "restore", "empty")
TREES: Final = ("docker", "podman")


@attrs.define
class Subject:
    """A tree, and the two orphans in it, of which one stands on the other."""

    root: Path
    kind: str

    def make(self) -> None:
        """The tree, new."""
        podman = self.kind == "podman"
        made = podman_tree(self.tree) if podman else docker_tree(self.tree)
        for layer in (hexed("orphan"), hexed("under the orphan")):
            if (made.home / layer).exists():
                shutil.rmtree(made.home / layer)
                (made.home / "l" / link_of(layer)).unlink()
        put_layer(made.home, UNDER, podman=podman)
        put_layer(made.home, TOP, UNDER, podman=podman)
        for name in ("storage.lock", "overlay-layers/layers.lock") if podman else ():
            (made.root / name).touch()
        second = self.home / "l" / ("Z" * 26)  # an orphan can have a link too many
        second.symlink_to(f"../{TOP}/diff")

    @property
    def tree(self) -> Path:
        return self.root / "tree"

    @property
    def home(self) -> Path:
        return self.tree / ("overlay2" if self.kind == "docker" else "overlay")

    @property
    def found(self) -> detecting.Found:
        return detecting.detect(str(self.tree))

    @property
    def quarantine(self) -> str:
        return place.default(self.found)

    @property
    def run_root(self) -> str:
        return str(self.root / "run")

    # --- verbs ------------------------------------------------------------------------------------

    def do(self, verb: str) -> list[acting.Done]:
        """One verb, on both orphans."""
        done: list[acting.Done] = []
        with acting.opened(self.found, self.quarantine) as quarantine:
            if verb == "remove":
                planned = plan(self.found, run_root=self.run_root)
                chosen = asking.choose(self.found, planned, ())
                before = frozenset(one.layer for one in planned.of(Verdict.ORPHANED))
                again = asking.Asking(self.found, before, run_root=self.run_root)
                quarantine.remove(chosen, again, done.append)
            elif verb == "restore":
                there = [entry.note.layer for entry in quarantine.entries()]
                quarantine.restore(there, done.append)
            else:
                now = datetime.now(UTC) + timedelta(hours=1)
                quarantine.empty(now, done.append, run_root=self.run_root)
        return done

    # --- what is there ----------------------------------------------------------------------------

    def seen(self) -> Snapshot:
        """The tree with everything in it, but for the times of the two directories that names leave."""
        found = snapshot(self.tree, leave_out=(f"{self.home.name}/{layout.ORPHANS}",))
        for name in (self.home.name, f"{self.home.name}/l"):
            found[name].pop("mtime")
        return found

    def entries(self) -> dict[str, acting.Entry]:
        return {e.note.layer: e for e in acting.listed(self.found, self.quarantine)}


def part(tree: Snapshot, layer: str) -> Snapshot:
    """What of a tree is one layer's: its directory, and its links."""
    target = f"../{layer}/diff"
    return {
        name: entry
        for name, entry in tree.items()
        if layer in name.split("/") or entry.get("link") == target
    }


def judge(subject: Subject, verb: str, before: Snapshot, *, acknowledged: bool) -> None:
    """Raise AssertionError unless what a death left is one of what it may be, and can be gone on from."""
    _check_places(subject, verb, before, acknowledged=acknowledged)
    with acting.opened(subject.found, subject.quarantine):
        pass  # settles
    _check_places(subject, verb, before, acknowledged=acknowledged, settled=True)
    inside = set(os.listdir(subject.quarantine)) - {"lock"}
    assert all(name.isalnum() for name in inside), f"left in the quarantine: {inside}"
    subject.do(verb)
    _check_places(subject, verb, before, acknowledged=True, settled=True)
    if verb != "empty":
        subject.do("restore")
        told = difference(before, subject.seen())
        assert not told, f"put back, the tree is another one: {told}"
        assert {"lock"} == set(os.listdir(subject.quarantine))


def _check_places(
    subject: Subject, verb: str, before: Snapshot, *, acknowledged: bool, settled: bool = False
) -> None:
    now, entries = subject.seen(), subject.entries()
    for layer in (TOP, UNDER):
        own, there = part(before, layer), part(now, layer)
        names = [name for name in there if layer in name.split("/")]
        assert not (names and layer in entries), f"{layer} is in both places"
        if names:
            told = difference(own, there)
            assert not told, f"{layer} in its tree is not whole: {told}"
        elif layer in entries:
            _check_entry(subject, entries[layer], own, settled=settled)
        else:
            assert verb == "empty", f"{layer} is nowhere"
        if acknowledged:
            here = "tree" if names else "quarantine" if layer in entries else "nowhere"
            wanted = {"remove": "quarantine", "restore": "tree", "empty": "nowhere"}[verb]
            assert wanted == here, f"{layer} should be in: {wanted}; it is in: {here}"
    rest = [
        {k: v for k, v in tree.items() if not _of_orphans(before, now, k)} for tree in (before, now)
    ]
    told = difference(*rest)
    assert not told, f"what is no orphan has changed: {told}"


def _of_orphans(before: Snapshot, now: Snapshot, name: str) -> bool:
    return any(name in part(tree, layer) for layer in (TOP, UNDER) for tree in (before, now))


def _check_entry(subject: Subject, entry: acting.Entry, own: Snapshot, *, settled: bool) -> None:
    layer, prefix = entry.note.layer, f"{subject.home.name}/{entry.note.layer}"
    inside = {f"{prefix}/{name}": found for name, found in snapshot(Path(entry.path)).items()}
    wanted = {name: found for name, found in own.items() if name.startswith(f"{prefix}/")}
    told = difference(_renamed(wanted, prefix), _renamed(inside, prefix))
    assert not told, f"{layer} in the quarantine is not whole: {told}"
    links = {name.rpartition("/")[2] for name, found in own.items() if found.get("link")}
    links = {name for name in links if len(name) == 26}
    assert links == set(entry.note.links), "the note does not know its links"
    kept = set(os.listdir(Path(entry.path).parent / "links"))
    in_tree = {name for name in links if os.path.lexists(subject.home / "l" / name)}
    assert links == kept | in_tree, "a link is gone"
    assert not (settled and in_tree), "a link to what was set aside is still there"


def _renamed(tree: Snapshot, prefix: str) -> Snapshot:
    """Without the place that it is at: first names of files are of another root."""
    return {
        name.removeprefix(f"{prefix}/"): {
            key: value for key, value in found.items() if key != "same as"
        }
        for name, found in tree.items()
    }


# --- mutants --------------------------------------------------------------------------------------


@attrs.frozen
class Mutant:
    """A changed order of steps; `what` completes "nothing caught that …"."""

    what: str
    campaign: str
    scenario: str
    patched: Callable[[], None]


def _links_first() -> None:
    """The links leave before the layer does."""

    def away(ways: steps.Ways) -> steps.Steps:
        first = steps.links_away(ways, ways.links)
        return (*first, *ways_of(ways)[: -len(first)])

    ways_of = steps.away
    steps.away = away


def _note_last() -> None:
    """The layer leaves before its entry has its name."""

    def prepare(ways: steps.Ways, note: str) -> steps.Steps:
        return prepared(ways, note)[:-2]

    def away(ways: steps.Ways) -> steps.Steps:
        _, *others = gone(ways)
        there = s.SetAside(ways.outside, f"{ways.going}/{steps.LAYER}")
        return (there, s.SetAside(ways.going, ways.entry), *others)

    prepared, gone = steps.prepare, steps.away
    steps.prepare, steps.away = prepare, away


def _unsynced() -> None:
    """No directory that something was moved out of or into is synced."""

    def away(ways: steps.Ways) -> steps.Steps:
        return tuple(step for step in gone(ways) if not isinstance(step, s.SyncDirectory))

    gone = steps.away
    steps.away = away


MUTANTS: Final = {
    "links-first": Mutant("links leave before the layer", "orphans", "docker:remove", _links_first),
    "note-last": Mutant("a layer leaves before its note", "orphans", "docker:remove", _note_last),
    "unsynced": Mutant("what moved is not synced", "orphans-cut", "docker:remove:ext4", _unsynced),
}


# --- rounds ---------------------------------------------------------------------------------------


@contextmanager
def _directory() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="layerstore-orphans-", dir="/dev/shm"))
    try:
        yield made
    finally:
        shutil.rmtree(made)


def _prepared(subject: Subject, verb: str) -> Snapshot:
    """The tree as it was built, which is then in the state that the verb begins in."""
    subject.make()
    before = subject.seen()
    if verb != "remove":
        subject.do("remove")
    return before


def kills(options: argparse.Namespace, result: Any) -> None:
    """SIGKILL before and after every mutating call, and in the middle of every write."""
    kind, verb = options.scenario.split(":")
    if options.mutant:
        MUTANTS[options.mutant].patched()
    with _directory() as directory:
        subject, kept = Subject(directory / "at", kind), directory / "kept"
        before = _prepared(subject, verb)
        shutil.copytree(subject.root, kept, symlinks=True)

        def renewed() -> None:
            shutil.rmtree(subject.root)
            shutil.copytree(kept, subject.root, symlinks=True)

        renewed()
        status, names = run(lambda: subject.do(verb), -1, "count")
        assert 0 == status, names
        _said(subject, verb, before, result, "nothing", acknowledged=True)
        faults = [(i, mode) for i in range(len(names)) for mode in _modes(names, i, options.all)]
        for index, mode in faults:
            fault = f"call:{index}:{mode}"
            if options.only not in ("", fault):
                continue
            renewed()
            status, said = run(lambda: subject.do(verb), index, mode)
            if not os.WIFSIGNALED(status) or os.WTERMSIG(status) != signal.SIGKILL:
                result.fail(f"the process did not die of the fault: {status}, {said}", fault)
                return
            result.points += 1
            result.kills += 1
            if not _said(subject, verb, before, result, fault, acknowledged=False):
                return


def _modes(names: list[str], index: int, every: bool) -> tuple[str, ...]:
    """What lies behind a call is what lies before the next one."""
    last = index == len(names) - 1
    return (
        "before",
        *(("after",) if every or last else ()),
        *(("torn",) if names[index] in shim.TORN else ()),
    )


def _said(
    subject: Subject, verb: str, before: Snapshot, result: Any, fault: str, *, acknowledged: bool
) -> bool:
    """Whether the campaign goes on."""
    try:
        judge(subject, verb, before, acknowledged=acknowledged)
    except AssertionError as error:
        if result.mutant:
            result.caught = f"{fault}: {error}"
            return False
        result.fail(str(error), fault)
    return len(result.failures) < 3


def on_disk(disk: Disk, scenario: str) -> Trial:
    """TREE:VERB on a disk that is new, and is not mounted afterwards."""
    kind, verb = scenario.split(":")
    subject = Subject(disk.point / "at", kind)
    subject.root.mkdir()
    before = _prepared(subject, verb)
    disk.keep_all()
    return Trial(
        lambda: subject.do(verb),
        lambda acknowledged: judge(subject, verb, before, acknowledged=acknowledged),
    )
