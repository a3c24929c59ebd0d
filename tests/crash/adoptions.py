"""Owns the kills of an adopt, an adopt again, a release and a take-over, each at every mutating call, or
at --limit of them in each way; and how they are judged where a disk lost its power.

Whatever instruction a kill meets: not a byte of the tree is another one, nothing opens the index to
write, who asks it is told the old state or the new one, the same command does the rest, and a release
leaves the tree as it was. Only the time of the home's last change may be another one after a kill
between the call that changes it and the one that puts it back.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import shutil
import signal
import subprocess
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import attrs

from layerstore import Reader, Store, adopting, releasing
from layerstore.audit import audit
from layerstore.errors import AdoptedTree, LayerstoreError, NoStore, NotAStoresPlace
from layerstore.fs import layout
from layerstore.legacy import detecting
from layerstore.testing import (
    Built,
    Container,
    Image,
    Layer,
    Snapshot,
    difference,
    docker_tree,
    podman_tree,
    snapshot,
)
from tests.crash import shim
from tests.crash.disk import Disk
from tests.crash.foreigncuts import Trial, run
from tests.crash.harness import ENOUGH, Result
from tests.crash.invariants import Violation, require

MODES: Final = ("before", "after", "torn")
VERBS: Final = ("first", "again", "release", "take-over")
PAIR: Final = 5
"""Of so many deaths one is followed by a death of the next try."""
_DESCRIPTION: Final[dict[str, Any]] = {
    "layers": [
        Layer("base", files={"etc/os": "debian"}),
        Layer("app", "base", {"srv/app": "1"}),
        Layer("side", "base", {"srv/side": "2"}),
    ],
    "images": [Image("app:1", "app"), Image("side:1", "side")],
    "containers": [Container("web", "app:1", {"tmp/x": "1"})],
}
Rows = list[tuple[Any, ...]]
_ROWS: Final = "SELECT id, link, parent, lower, depth, labels, damage FROM layers ORDER BY id"


@attrs.define
class _Case:
    """One command on one kind of tree, whose state before it is copied for each round."""

    built: Built
    home: Path
    verb: str
    renew: Callable[[], None]
    """Bring the state before the command back."""
    origin: Snapshot
    """The root before anything was adopted, as the program left it."""
    before: Rows
    after: Rows
    findings: frozenset[tuple[str, str | None]] = frozenset()
    """What an audit says after the command: of records that the change of the tree did not touch."""

    def is_taken(self) -> bool:
        """Whether it is a store of its own."""
        own = not (self.home / layout.ADOPTED).exists() and (self.home / layout.STORE_FILE).exists()
        require(self.verb == "take-over" or not own, "an index became a store of its own")
        return own

    def act(self) -> None:
        """The command; nothing where it was done, and only its caller died."""
        if self.verb == "release":
            with contextlib.suppress(NoStore):
                releasing.release(releasing.indexed_at(str(self.built.root)))
        elif not self.is_taken():
            adopting.adopt(str(self.built.root), take_over=self.verb == "take-over")


def sweep(options: argparse.Namespace, result: Result) -> None:
    """Die at every mutating call of a command; `scenario` is KIND-VERB, as `docker-again`."""
    chance = random.Random(options.seed)
    with _in_memory(options.scenario) as case:
        case.renew()
        _, counted = _in_child(case.act, -1, "before")
        for mode in MODES:
            index = 0
            wanted = [i for i in range(len(counted)) if not _skipped(counted, i, mode)]
            if options.limit and not options.all:
                wanted = chance.sample(wanted, min(options.limit, len(wanted)))
            while True:
                if not options.all and index < len(counted) and index not in wanted:
                    index += 1
                    continue
                case.renew()
                died, names = _in_child(case.act, index, mode)
                if not died:
                    break
                result.points += 1
                result.kills += 1
                if chance.randrange(PAIR) == 0:
                    again, _ = _in_child(case.act, chance.randrange(60), chance.choice(MODES))
                    result.pairs += int(again)
                    result.kills += int(again)
                try:
                    _check(case, acknowledged=False)
                except (Violation, LayerstoreError, OSError, AssertionError):
                    result.fail(traceback.format_exc(limit=4), f"call:{index}:{mode}")
                    if len(result.failures) >= ENOUGH:
                        return
                index += 1
            require(index > 0 or mode == "torn", f"{mode}: no call was counted ({names})")


def _skipped(names: list[str], index: int, mode: str) -> bool:
    """What lies behind a write is what lies in front of the next call; of torn writes every third."""
    if index >= len(names):
        return False
    write = names[index] in shim.TORN
    return (mode == "after" and write) or (mode == "torn" and (not write or index % 3 != 0))


def _in_child(work: Callable[[], None], index: int, mode: str) -> tuple[bool, list[str]]:
    """Whether it died of the fault; else the calls that it made."""
    status, names = run(work, index, mode)
    died = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    require(died or status == 0, f"the command failed by itself: {names}")
    return died, names


# --- what has to hold -----------------------------------------------------------------------------


def _check(case: _Case, *, acknowledged: bool) -> None:
    _check_tree(case)
    if acknowledged:
        _check_acknowledged(case)
    taken = case.is_taken()
    if not taken:
        _check_refused(case)
        _check_tree(case)
        _check_answers(case)
    if case.verb == "take-over":
        if not taken:
            case.act()
        _check_store(case)
        return
    if case.verb == "release":
        case.act()
    else:
        case.act()
        require(_rows(case.home) == case.after, "the index is not what it was to be")
        require(_findings(case.home) <= case.findings, f"audit: {audit(case.home).findings}")
        releasing.release(case.home)
    _same(case, snapshot(case.built.root, top=True))
    require(not (case.home / layout.OWN).exists(), "something of the index is left")


def _check_acknowledged(case: _Case) -> None:
    """What the command said that it had done stands."""
    if case.verb == "release":
        require(not (case.home / layout.OWN).exists(), "what was released is there again")
        return
    require(case.verb != "take-over" or case.is_taken(), "it is no store of its own any more")
    require(_rows(case.home) == case.after, "the index is not what it was said to be")


def _check_tree(case: _Case) -> None:
    inside = f"{case.built.home.relative_to(case.built.root)}/{layout.OWN}"
    _same(case, snapshot(case.built.root, top=True, leave_out={inside}))


def _same(case: _Case, found: Snapshot) -> None:
    marks = {name for name in found if name.endswith(f"/{layout.COMMITTED}")}
    home = str(case.built.home.relative_to(case.built.root))
    expected = {name: dict(entry) for name, entry in case.origin.items()}
    now = {name: dict(entry) for name, entry in found.items()}
    for one in (expected, now):
        one[home].pop("mtime", None)
        for name in marks if case.verb == "take-over" else ():
            one.pop(name, None)
            one[os.path.dirname(name)].pop("mtime", None)
    require(expected == now, f"the tree is another one: {difference(expected, now)}")


def _check_refused(case: _Case) -> None:
    """Whoever would correct the tree is refused, in whatever state the index is."""
    for attempt in (lambda: Store.open(case.home), lambda: Store.rebuild(case.home)):
        try:
            attempt()
        except (AdoptedTree, NoStore, NotAStoresPlace):
            continue
        raise Violation("the index was opened to write")


def _check_answers(case: _Case) -> None:
    if not (case.home / layout.STORE_FILE).exists():
        require(
            case.verb == "release" or not case.before,
            "what was acknowledged cannot be asked any more",
        )
        return
    require(_rows(case.home) in (case.before, case.after), "the index is neither old nor new")


def _check_store(case: _Case) -> None:
    with Store.open(case.home) as store:
        require(_rows(case.home) == case.after, "the index is not what it was to be")
        for layer in store.layers():
            mark = (case.home / layer.id / layout.COMMITTED).exists()
            require(mark >= layer.committed, f"{layer.id} has a child and no mark")
            store.get(layer.id)
            store.put(layer.id)
    require(audit(case.home).clean, f"audit: {audit(case.home).findings}")


def _findings(home: Path) -> frozenset[tuple[str, str | None]]:
    return frozenset((item.code, item.layer) for item in audit(home).findings)


def _rows(home: Path) -> Rows:
    with Reader.open(home) as reader:
        return reader.select(_ROWS)


# --- the states before ----------------------------------------------------------------------------


@contextlib.contextmanager
def _in_memory(scenario: str) -> Iterator[_Case]:
    top = Path(tempfile.mkdtemp(prefix="layerstore-", dir="/dev/shm"))
    place, template = top / "place", top / "template"

    def keep() -> None:
        subprocess.run(["cp", "-a", place, template], check=True)

    def renew() -> None:
        shutil.rmtree(place)
        subprocess.run(["cp", "-a", template, place], check=True)

    try:
        yield _prepared(scenario, place, keep, renew)
    finally:
        shutil.rmtree(top)


def on_disk(disk: Disk, scenario: str) -> Trial:
    """A command on a disk that is new, and is not mounted afterwards."""

    def renew() -> None:
        if os.path.ismount(disk.point):
            disk.unmount()
        disk.renew()

    def judge(acknowledged: bool) -> None:
        _check(case, acknowledged=acknowledged)

    case = _prepared(scenario, disk.point / "place", disk.keep_all, renew)
    if os.path.ismount(disk.point):
        disk.unmount()
    return Trial(case.act, judge)


def _prepared(
    scenario: str, place: Path, keep: Callable[[], None], renew: Callable[[], None]
) -> _Case:
    """The state before a command, which is kept, and what the command makes of it."""
    kind, _, verb = scenario.partition("-")
    place.mkdir()
    built = _build(kind, place)
    home = adopting.home_of(detecting.detect(str(built.root)))
    before: Rows = []
    if verb != "first":
        adopting.adopt(str(built.root))
        before = _rows(home)
    if verb == "again":
        _change(built)
    inside = f"{built.home.relative_to(built.root)}/{layout.OWN}"
    origin = snapshot(built.root, top=True, leave_out={inside})
    keep()
    case = _Case(built, home, verb, renew, origin, before, before)
    if verb != "release":
        case.renew()
        case.act()
        case.after, case.findings = _rows(home), _findings(home)
    return case


def _build(kind: str, place: Path) -> Built:
    if kind == "podman":
        (place / "containers").mkdir()
        return podman_tree(place / "containers/storage", **_DESCRIPTION)
    return docker_tree(place / "docker", version="18.03", **_DESCRIPTION)


def _change(built: Built) -> None:
    """The program removes a layer, and makes another one."""
    (app,) = [path for path in built.home.iterdir() if (path / "diff/srv/app").exists()]
    (box,) = [path for path in built.home.iterdir() if (path / "diff/tmp/x").exists()]
    (built.home / "l" / (box / "link").read_text()).unlink()
    shutil.rmtree(box)
    place = built.home / ("n" * 64)
    for name in ("diff", "work"):
        (place / name).mkdir(parents=True)
    (place / "link").write_text("Q" * 26)
    (place / "lower").write_text(f"l/{(app / 'link').read_text()}:{(app / 'lower').read_text()}")
    (built.home / "l" / ("Q" * 26)).symlink_to(f"../{place.name}/diff")
