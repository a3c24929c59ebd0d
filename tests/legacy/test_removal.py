"""Orphans are removed on request only, one by one, when they are orphans still, and come back as they were."""

from __future__ import annotations

import errno
import fcntl
import itertools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from layerstore import Store, adopting
from layerstore.audit import audit
from layerstore.errors import InvalidArgument, LayerstoreError, Refused
from layerstore.fs import layout
from layerstore.legacy import detecting
from layerstore.orphans import acting, asking, notes, place
from layerstore.testing import hooked, points
from layerstore.testing.compare import difference
from layerstore.verdicts import Again
from tests.cli.running import forked as run
from tests.cli.running import run as run_apart
from tests.crash.orphans import TOP, UNDER, Subject, judge
from tests.legacy.trees import BASE, LONE, SIDE, DockerTree, docker_tree, hexed, put_layer, write

YES = ("--remove", "--yes")


@pytest.fixture(params=["docker", "podman"])
def subject(request: pytest.FixtureRequest, tmp_path: Path) -> Subject:
    """A tree of either program, with two orphans, one upon the other."""
    made = Subject(tmp_path, request.param)
    made.make()
    return made


@pytest.fixture
def docker(tmp_path: Path) -> Subject:
    """Docker's alone, for what does not depend on the program."""
    made = Subject(tmp_path, "docker")
    made.make()
    return made


def test_orphans_go_and_come_back(subject: Subject) -> None:
    """The upper one goes first, each with its links and a note, and both come back to the last byte."""
    before = subject.seen()
    done = subject.do("remove")
    assert [(TOP, "removed"), (UNDER, "removed")] == [(d.layer, d.outcome) for d in done]
    assert {TOP, UNDER} == set(subject.entries())
    assert not any(TOP in name or UNDER in name for name in subject.seen())
    entry = subject.entries()[TOP]
    assert "Z" * 26 in entry.note.links
    assert (UNDER, "nothing names it", True) == (entry.note.parent, entry.note.why, entry.whole)
    subject.do("restore")
    assert not difference(before, subject.seen())
    assert {"lock"} == set(os.listdir(subject.quarantine))


def test_podmans_quarantine_is_never_in_the_graph(tmp_path: Path) -> None:
    """By default it lies beside the graph root; one that is below it is refused."""
    made = Subject(tmp_path, "podman")
    made.make()
    assert str(tmp_path / "layerstore-orphans") == made.quarantine
    for inside in (made.home / "aside", made.tree / "aside"):
        with pytest.raises(InvalidArgument, match="cannot be the quarantine"):
            place.chosen(made.found, str(inside))


@pytest.mark.root
def test_a_home_that_is_mounted_upon_itself_is_no_obstacle(bare: Path) -> None:
    """podman and dockerd do so; the orphan goes all the same, also out of it."""
    made = Subject(bare, "podman")
    made.make()
    subprocess.run(["mount", "--bind", made.home, made.home], check=True)
    try:
        before = made.seen()
        with pytest.raises(OSError, match="cross-device"):
            os.rename(made.home / TOP, bare / "elsewhere")
        assert ["removed", "removed"] == [one.outcome for one in made.do("remove")]
        made.do("restore")
        assert not difference(before, made.seen())
    finally:
        subprocess.run(["umount", made.home], check=True)


@pytest.mark.root
def test_another_file_system_is_refused(bare: Path) -> None:
    """Nothing is ever copied: a quarantine that no rename leads to is refused before anything is done."""
    made = Subject(bare, "docker")
    made.make()
    other = bare / "other"
    other.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", other], check=True)
    try:
        words = ["orphans", str(made.tree), *YES, "--quarantine", str(other / "aside")]
        done = run(words)
        assert 13 == done.code
        assert "is not on the file system of" in done.err
        assert [] == os.listdir(other)
    finally:
        subprocess.run(["umount", other], check=True)


# --- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layer", "said"),
    [
        (BASE, "is no orphan: kept"),
        (LONE, "is no orphan: recorded"),
        ("notes", "is no orphan: unknown"),
        (UNDER, "stands on it, which is an orphan as well"),
        ("nowhere", "nothing there has that name"),
    ],
)
def test_only_orphans_are_removed(docker: Subject, layer: str, said: str) -> None:
    """What is no orphan, or is below one that stays, is refused with the reason, and nothing is done."""
    before = docker.seen()
    done = run(["orphans", str(docker.tree), *YES, layer])
    assert 13 == done.code
    assert said in done.err
    assert not difference(before, docker.seen())


def test_nothing_is_removed_while_a_daemon_has_the_tree(docker: Subject) -> None:
    """What it makes at that moment is on no record."""
    database = write(docker.tree / "volumes/metadata.db", "x")
    with database.open() as file, subprocess.Popen(["sleep", "60"], stdin=file) as process:
        try:
            done = run(["orphans", str(docker.tree), *YES])
        finally:
            process.kill()
    assert 13 == done.code
    assert "has the tree open" in done.err or "metadata.db open" in done.err
    assert {} == docker.entries()


def test_nothing_is_removed_where_the_records_look_lost(docker: Subject) -> None:
    """With most records gone nothing is an orphan, and the refusal says why."""
    for name in ("image/overlay2/layerdb/sha256", "image/overlay2/layerdb/mounts", "containers"):
        shutil.rmtree(docker.tree / name)
    done = run(["orphans", str(docker.tree), *YES])
    assert 13 == done.code
    assert "look lost" in done.err
    assert {} == docker.entries()


def test_what_is_recorded_after_the_plan_stays(docker: Subject) -> None:
    """Each is asked again when its note is written already: one that an image has by then stays."""
    tree = DockerTree(docker.tree)
    tree.chains = {}

    def hook(point: str) -> None:
        if point == "orphan-prepare:0:MakeDirectory:before":
            tree.layer(TOP, directory=False)

    with hooked(hook):
        done = docker.do("remove")
    assert [(TOP, "left"), (UNDER, "left")] == [(d.layer, d.outcome) for d in done]
    assert "recorded" in done[0].why
    assert {"lock"} == set(os.listdir(docker.quarantine))


@pytest.mark.parametrize("together", [1, 2, 256])
def test_many_orphans_go_by_few_looks(
    docker: Subject, monkeypatch: pytest.MonkeyPatch, together: int
) -> None:
    """One look is good for so many, whoever stands on whom; and the next one is a new one."""
    monkeypatch.setattr(asking, "TOGETHER", together)
    names = [TOP, UNDER, *(hexed(f"one of many {n}") for n in range(5))]
    for below, layer in itertools.pairwise([None, *names[2:]]):
        assert layer is not None
        put_layer(docker.home, layer, below)
    looks = 0
    look = asking.Asking.look

    def counted(self: asking.Asking) -> Again:
        nonlocal looks
        looks += 1
        return look(self)

    monkeypatch.setattr(asking.Asking, "look", counted)
    done = docker.do("remove")
    assert {(name, "removed") for name in names} == {(x.layer, x.outcome) for x in done}
    assert looks == -(-len(names) // together)
    assert set(names) == set(docker.entries())
    done = docker.do("restore")
    assert set(names) == {x.layer for x in done if x.outcome == "restored"}


def test_what_is_recorded_between_two_looks_stays(
    docker: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second batch is asked about when the first is gone: the record that came then counts."""
    monkeypatch.setattr(asking, "TOGETHER", 1)
    tree = DockerTree(docker.tree)

    def hook(point: str) -> None:
        if point == "orphan-away:0:SetAside:after" and UNDER not in tree.chains:
            tree.layer(UNDER, directory=False)

    with hooked(hook):
        done = docker.do("remove")
    assert {TOP: "removed", UNDER: "left"} == {x.layer: x.outcome for x in done}
    assert "recorded" in done[1].why


def test_podman_at_work_is_not_disturbed(tmp_path: Path) -> None:
    """While a program of its kind has the layers locked, nothing is set aside, and nobody waits."""
    made = Subject(tmp_path, "podman")
    made.make()
    lock = made.tree / "overlay-layers/layers.lock"
    code = "import fcntl, sys; f = open(sys.argv[1], 'r+'); fcntl.lockf(f, 2); print('up', flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code, lock], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert b"up\n" == process.stdout.readline()
        # The plan sees the process already; what is asked here is the lock alone.
        with MadeBusy(made) as done:
            pass
        process.communicate(b"\n")
    assert ["left", "left"] == [one.outcome for one in done]
    assert "is at work" in done[0].why
    assert {} == made.entries()
    assert ["removed", "removed"] == [one.outcome for one in made.do("remove")]


class MadeBusy:
    """The orphans are removed as if the plan had been made before somebody took the lock."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject

    def __enter__(self) -> list[acting.Done]:
        from layerstore.legacy import living

        before, living.daemon = living.daemon, lambda found: ""
        try:
            return self.subject.do("remove")
        finally:
            living.daemon = before

    def __exit__(self, *_: object) -> None: ...


# --- coming back, and going for good --------------------------------------------------------------


def test_a_parent_comes_back_first(docker: Subject) -> None:
    """The upper one alone is refused with what to say; in one go the order does not matter."""
    docker.do("remove")
    path = str(docker.tree)
    done = run(["orphans", path, "--restore", TOP])
    assert 13 == done.code
    assert f"--restore {UNDER} as well" in done.err
    assert 0 == run(["orphans", path, "--restore", TOP, UNDER[:10]]).code
    assert {} == docker.entries()


def test_nothing_is_put_where_something_is(docker: Subject) -> None:
    """A layer whose name is taken by now stays in the quarantine, and what has its name is not touched."""
    docker.do("remove")
    (docker.home / UNDER).mkdir()
    with pytest.raises(Refused, match="is not put back"):
        docker.do("restore")
    assert {TOP, UNDER} == set(docker.entries())


def test_nothing_goes_for_good_before_its_time(docker: Subject) -> None:
    """Seven days, or what a setting says; a shorter time has to be meant."""
    docker.do("remove")
    path = str(docker.tree)
    assert "long enough" in run(["orphans", path, "--empty", "--yes"]).err
    done = run(["orphans", path, "--empty", "--older-than", "1h", "--yes"])
    assert 13 == done.code
    assert "--early" in done.err
    assert {TOP, UNDER} == set(docker.entries())
    done = run(["orphans", path, "--empty", "--yes"], LAYERSTORE_ORPHAN_GRACE="0")
    assert (0, 2) == (done.code, done.out.count("removed for good"))
    assert {"lock"} == set(os.listdir(docker.quarantine))


def test_what_is_asked_for_by_now_does_not_go(docker: Subject) -> None:
    """Records that were brought back meanwhile name one: it stays, and so does what it stands on."""
    docker.do("remove")
    DockerTree(docker.tree).layer(TOP, directory=False)
    done = docker.do("empty")
    assert {TOP: "left", UNDER: "left"} == {one.layer: one.outcome for one in done}
    assert "a record or a layer names it" in done[0].why
    assert {TOP, UNDER} == set(docker.entries())


def test_a_note_is_not_believed(docker: Subject) -> None:
    """A note whose names lead elsewhere is none: what it is beside stays where it is."""
    docker.do("remove")
    entry = docker.entries()[TOP]
    path = Path(entry.path).parent / "note.json"
    fields = json.loads(path.read_text())
    for name, value in (("layer", "../../etc"), ("links", ["../../x"]), ("operation", "..")):
        path.write_text(json.dumps(fields | {name: value}))
        with pytest.raises(ValueError, match=r"no name of ours|cannot be a layer id"):
            notes.load(path.read_text())
        assert [UNDER] == [e.note.layer for e in acting.listed(docker.found, docker.quarantine)]
    path.write_text(json.dumps(fields))
    assert entry == docker.entries()[TOP]


# --- errors in the middle -------------------------------------------------------------------------


@pytest.mark.crash
@pytest.mark.campaign
@pytest.mark.parametrize("verb", ["remove", "restore", "empty"])
def test_an_error_at_any_step_leaves_each_whole(
    docker: Subject, verb: str, fresh: Callable[[], None]
) -> None:
    """An error, or Ctrl-C, before or after any step: nothing is lost, and the next goes on."""
    before = docker.seen()
    if verb != "remove":
        docker.do("remove")
    fresh()
    with points() as passed:
        docker.do(verb)
    named = [x for x in passed if x.startswith("orphan-")]
    assert len(named) > 10
    for index in range(0, len(named), 7):
        fresh()
        left = index

        def hook(point: str) -> None:
            nonlocal left
            if point.startswith("orphan-"):
                left -= 1
                if left == -1:
                    raise KeyboardInterrupt

        try:
            with hooked(hook):
                docker.do(verb)
        except (KeyboardInterrupt, LayerstoreError):
            pass
        judge(docker, verb, before, acknowledged=False)


@pytest.fixture
def fresh(docker: Subject) -> Iterator[Callable[[], None]]:
    """Takes a copy of the tree when it is called first, and brings that back from then on."""
    kept = docker.root.with_name("kept")

    def again() -> None:
        if kept.exists():
            shutil.rmtree(docker.root)
            shutil.copytree(kept, docker.root, symlinks=True)
        else:
            shutil.copytree(docker.root, kept, symlinks=True)

    yield again
    shutil.rmtree(kept)


# --- the rest of the program ----------------------------------------------------------------------


def test_the_command_says_what_it_would_do(docker: Subject) -> None:
    """--plan does nothing; without --yes and without a terminal nothing is done, either."""
    path = str(docker.tree)
    done = run(["orphans", path, "--remove", "--plan"])
    assert (4, [TOP, UNDER]) == (done.code, [line.split()[0] for line in done.out.splitlines()])
    assert 16 == run(["orphans", path, "--remove"]).code
    assert {} == docker.entries()
    document = json.loads(run(["--json", "orphans", path, *YES, TOP]).out)
    assert [(TOP, "removed")] == [(x["layer"], x["outcome"]) for x in document["done"]]
    document = json.loads(run(["--json", "orphans", path]).out)
    assert [TOP] == [entry["layer"] for entry in document["quarantine"]["layers"]]
    assert 16 == run(["orphans", path, "--remove", "--empty"]).code
    assert 16 == run(["orphans", path, "--restore"]).code


def test_an_audit_does_not_mind_a_quarantine(docker: Subject) -> None:
    """It is no stranger in the tree, and no layer; without the orphans the tree is cleaner than before."""
    before = {(x.code, x.layer) for x in audit(docker.home, any_tree=True).findings}
    docker.do("remove")
    after = {(x.code, x.layer) for x in audit(docker.home, any_tree=True).findings}
    assert after <= before
    assert ("doubled-link", TOP) in before - after


def test_orphans_of_an_adopted_tree_are_set_aside(docker: Subject) -> None:
    """Its layers are still the original program's, whatever index is beside them: there is a way back."""
    adopting.adopt(str(docker.tree))
    done = run(["orphans", str(docker.tree), *YES])
    assert 0 == done.code
    assert {TOP, UNDER} == set(docker.entries())
    assert {TOP, UNDER} == {
        x.layer for x in audit(docker.home).findings if x.code == "missing-layer"
    }
    docker.do("restore")
    assert adopting.adopt(str(docker.tree)).found == 0


def test_orphans_of_a_store_are_removed_by_the_store(bare: Path) -> None:
    """Where dockerd's driver is a store, its journal knows of the removal, and what it holds is left."""
    root = bare / "docker"
    tree = DockerTree(root, "layerstore")
    root.mkdir()
    Store.initialize(tree.home)
    with Store.open(tree.home) as store:
        for layer, parent in ((BASE, None), (SIDE, BASE), (hexed("held"), BASE), (TOP, SIDE)):
            store.create(layer, parent=parent)
        store.get(hexed("held"))
        for layer, parent in ((BASE, None), (SIDE, BASE)):
            tree.layer(layer, parent, directory=False)
        tree.image(BASE, SIDE, name="one:1")
        store.put(hexed("held"))
        store.get(hexed("held"), holder="docker")
        done = run_apart(["orphans", str(root), *YES])
        assert (0, [TOP]) == (done.code, [line.split()[0] for line in done.out.splitlines()])
        assert not (tree.home / layout.ORPHANS).exists()
        store.put(hexed("held"), holder="docker")
    with Store.open(tree.home) as store:
        assert {BASE, SIDE, hexed("held")} == {str(layer.id) for layer in store.layers()}
        assert "layer.removed.v1" in {entry.kind for entry in store.events(layer=TOP)}
    assert 13 == run(["orphans", str(root), "--restore", TOP]).code


def test_the_first_of_many_does_not_keep_the_others(docker: Subject) -> None:
    """A layer that cannot be moved is left with the reason; the others go."""
    alone = hexed("alone")
    put_layer(docker.home, alone)
    errors = [OSError(errno.EIO, "Input/output error")]

    def hook(point: str) -> None:
        if point == "orphan-away:0:SetAside:before" and errors:
            raise errors.pop()

    with hooked(hook):
        done = docker.do("remove")
    assert {TOP: "left", UNDER: "left", alone: "removed"} == {d.layer: d.outcome for d in done}
    assert "Input/output error" in done[0].why
    assert f"{TOP} stands on it" in next(d.why for d in done if d.layer == UNDER)
    assert {alone} == set(docker.entries())


def test_a_lock_keeps_two_apart(docker: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    """While another process acts on the quarantine the next is refused after a while."""
    docker.do("remove")
    monkeypatch.setattr(acting, "_WAIT", 0.05)
    with open(f"{docker.quarantine}/lock", "r+b") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(LayerstoreError, match="Another process is at"):
            docker.do("restore")


def test_ages_are_told_by_notes(docker: Subject) -> None:
    """Only what is older goes: the note says when it was set aside."""
    docker.do("remove")
    done: list[acting.Done] = []
    with acting.opened(docker.found, docker.quarantine) as quarantine:
        quarantine.empty(datetime.now(UTC) - timedelta(days=7), done.append)
        assert [] == done


def test_a_tree_without_a_quarantine_has_none(tmp_path: Path) -> None:
    """Asking changes nothing, and there is nothing to put back."""
    docker_tree(tmp_path)
    assert 13 == run(["orphans", str(tmp_path), "--restore", TOP]).code
    assert 13 == run(["orphans", str(tmp_path), "--empty", "--yes"]).code
    found = detecting.detect(str(tmp_path))
    assert () == acting.listed(found, place.default(found))
    assert not os.path.lexists(place.default(found))
