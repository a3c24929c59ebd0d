"""An adopted tree: an index of it that says what it is, and not a byte of it that is another one."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from layerstore import Reader, Store, adopting, adoption, releasing
from layerstore import model as m
from layerstore.audit import audit
from layerstore.cli import exits
from layerstore.errors import AdoptedTree, DiskFull, LayerstoreError, NoStore, Refused
from layerstore.fs import layout
from layerstore.legacy import detecting, living
from layerstore.testing import (
    Built,
    Container,
    Image,
    Layer,
    Snapshot,
    assert_same,
    docker_tree,
    hooked,
    podman_tree,
    points,
    snapshot,
)
from layerstore.verdicts import Verdict, plan
from tests.cli.running import Done, forked, run

LAYERS = [
    Layer("base", files={"etc/os": "debian", "etc/keep": "k"}),
    Layer("app", "base", {"srv/app": "1", "etc/os": "changed"}),
    Layer("side", "base", {"srv/side": "2"}),
]
IMAGES = [Image("app:1", "app"), Image("side:1", "side")]
CONTAINERS = [Container("web", "app:1", {"tmp/x": "1"})]


def a_docker(place: Path, version: str = "20.10", more: Sequence[Layer] = ()) -> Built:
    """A data root with two images that share a layer, and a container."""
    return docker_tree(
        place / "docker",
        layers=[*LAYERS, *more],
        images=IMAGES,
        containers=CONTAINERS,
        version=version,
    )


def a_podman(place: Path, more: Sequence[Layer] = ()) -> Built:
    """A graph root with the same."""
    (place / "containers").mkdir()
    return podman_tree(
        place / "containers/storage",
        layers=[*LAYERS, *more],
        images=IMAGES,
        containers=CONTAINERS,
    )


def ran(*words: str) -> Done:
    """The program, in a fork of this process."""
    return forked(words)


def home_of(built: Built) -> Path:
    """Where the index of it is."""
    graph = (built.root / "overlay-layers").is_dir()
    return built.root.parent / "layerstore" if graph else built.home


def looked(built: Built) -> Snapshot:
    """All of a root but the index."""
    inside = f"{built.home.relative_to(built.root)}/{layout.OWN}"
    return snapshot(built.root, top=True, leave_out={inside})


@pytest.fixture(params=[a_docker, a_podman])
def built(request: pytest.FixtureRequest, bare: Path) -> Built:
    """A tree of each program."""
    made: Built = request.param(bare)
    return made


def named(reader: Reader, name: str) -> m.Layer:
    """The layer that an image or container of this name has on top."""
    (found,) = [x for x in reader.layers() if name in x.labels.get("names", "").split(",")]
    return found


# --- what the index says --------------------------------------------------------------------------


def test_every_layer_is_there_with_its_parent(built: Built) -> None:
    """What the tree's `lower` files say of parents, and the records of names and digests, the index says."""
    before = looked(built)
    done = adopting.adopt(str(built.root))
    assert_same(before, looked(built))
    directories = {path.name for path in built.home.iterdir() if (path / "link").exists()}
    assert (done.layers, done.damaged, done.left) == (len(directories), 0, {})
    with Reader.open(home_of(built)) as reader:
        layers = {layer.id: layer for layer in reader.layers()}
        assert directories == set(layers)
        for layer in layers.values():
            lower = built.home / layer.id / "lower"
            assert (lower.read_text() if lower.exists() else "") == layer.lower
            assert (built.home / layer.id / "link").read_text() == layer.link
            below = layers[layer.parent] if layer.parent else None
            assert (below.link if below else "") == layer.lower[2:28]
        app, box = (
            next(
                x
                for x in layers.values()
                if any(w in n for n in x.labels.get("names", "").split(","))
            )
            for w in ("app:1", "web")
        )
        assert app.diff_id is not None and app.diff_id.startswith("sha256:")
        assert "image" == app.labels["role"]
        assert ("container", True) == (box.labels["role"], box.read_write)
        assert app.id in {one.id for one in reader.ancestors(box.id)}
        assert reader.lower_dirs(app.id) == tuple(
            f"{built.home}/l/{link}" for link in layout.lower_links(app.lower)
        )
        (warning,) = reader.status().warnings
        assert "nothing in it is changed" in warning
    assert audit(home_of(built)).clean


def test_a_release_leaves_the_tree_as_it_was(built: Built, bare: Path) -> None:
    """To the last byte and time, with nothing more in it; the journal can be kept as a file."""
    before = snapshot(built.root, top=True)
    adopting.adopt(str(built.root))
    releasing.release(home_of(built))
    assert_same(before, snapshot(built.root, top=True))
    assert not (built.root.parent / "layerstore").exists()
    adopting.adopt(str(built.root))
    kept = bare / "kept.db"
    done = ran("release-tree", str(built.root), "--keep-journal", str(kept))
    assert (0, True) == (done.code, "alone, as before" in done.err), done.err
    assert kept.stat().st_size > 0
    assert_same(before, snapshot(built.root, top=True))
    with pytest.raises(NoStore):
        releasing.indexed_at(str(built.root))


def test_nothing_that_writes_opens_an_adopted_tree(built: Built, bare: Path) -> None:
    """Whatever would correct, remove, mount or rebuild is refused, and changes nothing."""
    adopting.adopt(str(built.root))
    home, before = home_of(built), looked(built)
    kept = bare / "kept.db"
    with Reader.open(home) as reader:
        reader.backup(kept)
    tries: list[Callable[[], object]] = [
        lambda: Store.open(home),
        lambda: Store.rebuild(home),
        lambda: Store.restore(home, kept),
        lambda: Store.adopt(home, this_is="copy"),
    ]
    for attempt in tries:
        with pytest.raises(AdoptedTree):
            attempt()
    for words in (
        ("create", "x"),
        ("rm", "x"),
        ("mount", "x"),
        ("recover",),
        ("cleanup",),
        ("repair",),
        ("repair", "--plan"),
        ("db", "rebuild"),
    ):
        done = ran("--home", str(home), *words)
        refused = (8 if words[0] == "repair" else 13, True)  # the codes of fsck(8)
        assert refused == (done.code, "release-tree" in done.err), words
    with pytest.raises(LayerstoreError):
        Store.initialize(home)
    (home / layout.STORE_FILE).unlink()
    (home / layout.DATABASE).unlink()
    with pytest.raises(AdoptedTree):
        Store.rebuild(home)
    assert_same(before, looked(built))
    assert not adopting.adopt(str(built.root)).again  # and an adopt makes it anew


def test_questions_are_answered(built: Built) -> None:
    """What a command can ask of a store it can ask of an adopted tree."""
    adopting.adopt(str(built.root))
    home = str(home_of(built))
    with Reader.open(home) as reader:
        app = next(x for x in reader.layers() if "app:1" in x.labels.get("names", ""))
    before = looked(built)
    for words in (
        ("ls",),
        ("tree",),
        ("inspect", app.id),
        ("changes", app.id),
        ("du", app.id),
        ("lowers", app.id),
        ("holders",),
        ("log",),
        ("history", app.id),
        ("status",),
        ("audit",),
        ("doctor",),
    ):
        done = ran("--home", home, *words)
        assert 0 == done.code, (words, done.err)
    said = ran("--home", home, "whose", f"{built.home}/{app.id}/diff/srv")
    assert app.id in said.out
    changes = ran("--home", home, "--json", "changes", app.id).json
    assert {"/etc/os", "/srv/app"} <= {one["path"] for one in changes["changes"]}
    assert_same(before, looked(built))


# --- what changes meanwhile -----------------------------------------------------------------------


def remove_layer(built: Built, layer: str) -> None:
    """As its program removes one."""
    (built.home / "l" / (built.home / layer / "link").read_text()).unlink()
    shutil.rmtree(built.home / layer)


def add_layer(built: Built, layer: str, parent: str, link: str = "Q" * 26) -> None:
    """As its program makes one."""
    place = built.home / layer
    for name in ("diff", "work"):
        (place / name).mkdir(parents=True)
    (place / "link").write_text(link)
    below = built.home / parent
    rest = f":{(below / 'lower').read_text()}" if (below / "lower").exists() else ""
    (place / "lower").write_text(f"l/{(below / 'link').read_text()}{rest}")
    (built.home / "l" / link).symlink_to(f"../{layer}/diff")


def test_adopting_again_finds_what_changed(built: Built) -> None:
    """New layers, layers that are gone, and a layer that was made anew under its old name."""
    adopting.adopt(str(built.root))
    home = home_of(built)
    with Reader.open(home) as reader:
        app = next(x for x in reader.layers() if "app:1" in x.labels.get("names", ""))
        box = next(x for x in reader.layers() if "web" in x.labels.get("names", ""))
        side = next(x for x in reader.layers() if "side:1" in x.labels.get("names", ""))
        assert side.parent is not None
    remove_layer(built, box.id)
    remove_layer(built, side.id)
    add_layer(built, side.id, app.id, "R" * 26)
    add_layer(built, "n" * 64, side.id)
    with Reader.open(home) as reader:
        assert any("up to date" in said for said in reader.status().warnings)
    found = {(item.code, item.layer) for item in audit(home).findings if item.severity == "drift"}
    assert {
        ("missing-layer", box.id),
        ("unknown-layer", side.id),
        ("unknown-layer", "n" * 64),
    } <= found
    done = adopting.adopt(str(built.root))
    assert (True, 2, 1) == (done.again, done.found, done.vanished)
    with Reader.open(home) as reader:
        assert not reader.exists(box.id)
        assert app.id == reader.layer(side.id).parent
        assert (side.id, "Q" * 26) == (reader.layer("n" * 64).parent, reader.layer("n" * 64).link)
        assert 1 == len(reader.status().warnings)
        kinds = [entry.kind for entry in reader.history(side.id)]
        assert ["layer.found.v1", "layer.vanished.v1", "layer.found.v1"] == kinds
    behind = {"missing-layer", "unknown-layer"}
    assert not [item for item in audit(home).findings if item.code in behind]
    assert 0 == adopting.adopt(str(built.root)).found


def test_a_damaged_layer_is_in_the_index_with_what_is_wrong(built: Built) -> None:
    """An emptied `link` or `lower` is found again from `l/` and the records; who stands on it is whole."""
    adopting.adopt(str(built.root))
    home = home_of(built)
    with Reader.open(home) as reader:
        before = {x.id: (x.link, x.parent, x.lower) for x in reader.layers()}
        app = next(x for x in reader.layers() if "app:1" in x.labels.get("names", ""))
    (built.home / app.id / "link").write_text("")
    (built.home / app.id / "lower").write_text("")
    done = adopting.adopt(str(built.root))
    assert (1, {}) == (done.damaged, done.left)
    with Reader.open(home) as reader:
        assert before == {x.id: (x.link, x.parent, x.lower) for x in reader.layers()}
        assert [app.id] == [x.id for x in reader.layers() if x.damage is not None]
    (built.home / "l" / app.link).unlink()
    left = adopting.adopt(str(built.root)).left
    assert "nothing says any more" in left[app.id]
    assert all("its parent" in why for layer, why in left.items() if layer != app.id)


# --- what forbids it ------------------------------------------------------------------------------


def test_a_tree_in_use_is_not_adopted(bare: Path) -> None:
    """Neither where the daemon runs before, nor where it starts while the tree is read."""
    built = a_docker(bare)
    database = built.root / "buildkit/snapshots.db"
    database.parent.mkdir(exist_ok=True)
    database.touch()
    before = looked(built)
    code = f"import sys; f = open({str(database)!r}); print(flush=True); sys.stdin.read()"
    holder = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert holder.stdout is not None
        holder.stdout.readline()
        done = ran("adopt", str(built.root))
        assert 13 == done.code and "snapshots.db open" in done.err
        assert not (built.home / layout.OWN).exists()
    finally:
        holder.communicate()
    assert_same(before, looked(built))


def test_a_daemon_that_starts_meanwhile_is_noticed(
    bare: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the index is acknowledged, and nothing of it is kept then."""
    built = a_docker(bare)
    asked: list[int] = []

    def daemon(_: object) -> str:
        asked.append(1)
        return "process 1 (dockerd) has it open" if len(asked) == 2 else ""

    monkeypatch.setattr(living, "daemon", daemon)
    with pytest.raises(Refused, match="recorded nowhere"):
        adopting.adopt(str(built.root))
    assert not (built.home / layout.OWN).exists()
    assert 5 == adopting.adopt(str(built.root)).layers


def test_an_adopt_that_fails_anywhere_leaves_nothing_half_made(built: Built) -> None:
    """At whichever point: the tree is as it was, and there is an index that can be asked, or none at all."""
    with points() as passed:
        adopting.adopt(str(built.root))
    home = home_of(built)
    releasing.release(home)
    before = snapshot(built.root, top=True)
    assert len(passed) > 8
    for index in range(len(passed)):
        left = index

        def fail(point: str) -> None:
            nonlocal left
            left -= 1
            if left == -1:
                raise OSError(28, f"no room at {point}")

        with hooked(fail), pytest.raises(DiskFull):
            adopting.adopt(str(built.root))
        if (home / layout.STORE_FILE).exists():
            with Reader.open(home) as reader:
                assert 5 - (home != built.home) == len(list(reader.layers()))
        try:
            releasing.release(releasing.indexed_at(str(built.root)))
        except NoStore:
            assert not (home / layout.OWN).exists()
        if home != built.home and home.exists():
            home.rmdir()  # the first of all points: it was made, and nothing is in it
        assert_same(before, snapshot(built.root, top=True))


def test_a_store_of_its_own_is_not_adopted(bare: Path) -> None:
    """Neither the store of a plugin, nor another tree into the index of the first; nor does an index go into a
    graph root, or to another file system.
    """
    built = a_docker(bare)
    adopting.adopt(str(built.root), take_over=True)
    done = ran("adopt", str(built.root))
    assert (13, True) == (done.code, "of its own" in done.err)
    (bare / "two").mkdir()
    (bare / "elsewhere").mkdir()
    other = a_podman(bare / "two")
    inside = ran("adopt", str(other.root), "--journal", str(other.root / "x"))
    assert (13, True) == (inside.code, "inside of the graph root" in inside.err)
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", bare / "elsewhere"], check=True)
    try:
        away = ran("adopt", str(other.root), "--journal", str(bare / "elsewhere" / "index"))
    finally:
        subprocess.run(["umount", bare / "elsewhere"], check=True)
    assert (13, True) == (away.code, "is not on the file system of" in away.err)
    adopting.adopt(str(other.root), journal=str(bare / "index"))
    (bare / "three").mkdir()
    third = a_podman(bare / "three")
    done = ran("adopt", str(third.root), "--journal", str(bare / "index"))
    assert (13, True) == (done.code, "is the index of" in done.err)


def test_a_graph_root_is_not_taken_over(bare: Path) -> None:
    """Before or after it was adopted: nothing is made or changed, and the way out is said."""
    built = a_podman(bare)
    for adopted in (False, True):
        if adopted:
            adopting.adopt(str(built.root))
        before = snapshot(bare, top=True)
        done = ran("adopt", str(built.root), "--take-over")
        assert 13 == done.code
        assert "adopted, and not taken over" in done.err
        assert "podman save" in done.err
        assert_same(before, snapshot(bare, top=True))


def test_two_that_adopt_at_once_leave_one_index(bare: Path) -> None:
    """One after the other, they make it once."""
    built = a_docker(bare)
    errors: list[str] = []

    def work() -> None:
        done = run(["adopt", str(built.root)])
        if done.code:
            errors.append(done.err)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [] == errors
    with Reader.open(built.home) as reader:
        assert [False, True, True] == [
            entry.event.again for entry in reader.events(kind="tree.adopted")
        ]


# --- taking over ----------------------------------------------------------------------------------


@pytest.mark.root
@pytest.mark.parametrize("version", ["18.03", "20.10"])
def test_a_tree_that_is_taken_over_is_a_store(bare: Path, version: str) -> None:
    """Its layers are worked with like any other's; what an older Docker did not mark is marked."""
    built = a_docker(bare, version)
    done = adopting.adopt(str(built.root), take_over=True)
    assert (version == "18.03") == bool(done.settled), done.settled
    with Store.open(built.home) as store:
        assert () == tuple(store.status().warnings)
        app = next(x for x in store.layers() if "app:1" in x.labels.get("names", ""))
        store.create("mine", parent=app.id)
        with store.mounted("mine") as path:
            assert "changed" == (path / "etc/os").read_text()
        store.remove("mine")
        box = next(x for x in store.layers() if "web" in x.labels.get("names", ""))
        with store.mounted(box.id) as path:
            (path / "new").write_text("x")
        assert "x" == (built.home / box.id / "diff/new").read_text()
        store.remove(box.id)
    assert audit(built.home).clean
    for layer in built.home.iterdir():
        if (layer / "link").exists():
            children = [
                x
                for x in built.home.glob("*/lower")
                if x.read_text().startswith(f"l/{(layer / 'link').read_text()}")
            ]
            assert bool(children) <= (layer / "committed").exists()
    with pytest.raises(NoStore):
        releasing.indexed_at(str(built.root))


# --- showing --------------------------------------------------------------------------------------


def tree_at(path: Path) -> Snapshot:
    """What is to be seen at a path."""
    return snapshot(path)


@pytest.fixture
def shown(bare: Path) -> Iterator[Path]:
    """A place for a mount, which is ended."""
    place = bare / "shown"
    place.mkdir()
    yield place
    subprocess.run(["umount", str(place)], check=False, stderr=subprocess.DEVNULL)


@pytest.mark.root
def test_a_layer_is_shown_as_its_program_mounts_it(built: Built, bare: Path, shown: Path) -> None:
    """The same files, read-only, and nothing in the tree is another one."""
    adopting.adopt(str(built.root))
    home, before = home_of(built), looked(built)
    with Reader.open(home) as reader:
        layers = list(reader.layers())
    for layer in layers:
        theirs = bare / "theirs"
        theirs.mkdir()
        lowers = [f"{built.home}/{layer.id}/diff"]
        lowers += [f"{built.home}/l/{link}" for link in layout.lower_links(layer.lower)]
        lowers += [str(bare / "nothing")] if len(lowers) == 1 else []
        (bare / "nothing").mkdir(exist_ok=True)
        options = f"ro,lowerdir={':'.join(lowers)}"
        subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, theirs], check=True)
        try:
            done = ran("--home", str(home), "mount", layer.id, "--at", str(shown))
            assert (0, str(shown)) == (done.code, done.out.strip()), done.err
            assert_same(tree_at(theirs), tree_at(shown))
            with pytest.raises(OSError, match="Read-only"):
                (shown / "x").touch()
        finally:
            subprocess.run(["umount", theirs], check=True)
            theirs.rmdir()
        subprocess.run(["umount", shown], check=True)
    assert_same(before, looked(built))
    for place in (built.home / layers[0].id / "merged2", home / "x"):
        place.mkdir()
        done = ran("--home", str(home), "mount", layers[0].id, "--at", str(place))
        assert (16, True) == (done.code, "inside of" in done.err)
        place.rmdir()


@pytest.mark.root
@pytest.mark.parametrize("kind", ["docker", "podman"])
def test_what_is_shown_is_remembered_by_the_kernel_alone(
    kind: str, bare: Path, shown: Path
) -> None:
    """It outlives who made it; it is no finding, keeps no command from its work, and is kept itself."""
    more = [
        Layer("orphan", files={"x": "1"}, state="orphan"),
        Layer("up", "orphan", {"y": "2"}, state="orphan"),
    ]
    other = a_podman(bare, more) if kind == "podman" else a_docker(bare, more=more)
    before, run_root = snapshot(other.root, top=True), str(bare / "run")
    adopting.adopt(str(other.root), run_root=run_root)
    home, up = home_of(other), other.layers["up"]
    found = detecting.detect(str(other.root))
    orphans = {other.layers["orphan"], up}
    assert orphans == {one.layer for one in plan(found, run_root=run_root).of(Verdict.ORPHANED)}
    said = audit(home).findings  # podman's audit names what has no record
    done = run(["--home", str(home), "mount", up, "--at", str(shown)])  # a process that ends
    assert 0 == done.code, done.err
    assert {"x", "y"} == {one.name for one in shown.iterdir()}
    assert said == audit(home).findings
    kept = {one.layer: one for one in plan(found, run_root=run_root).of(Verdict.KEPT)}
    assert orphans <= set(kept)
    assert "mounted" in kept[up].why
    assert adopting.adopt(str(other.root), run_root=run_root).again
    releasing.release(home)
    assert {"x", "y"} == {one.name for one in shown.iterdir()}
    subprocess.run(["umount", shown], check=True)
    assert_same(before, snapshot(other.root, top=True))
    assert orphans == {one.layer for one in plan(found, run_root=run_root).of(Verdict.ORPHANED)}


def test_the_mode_cannot_be_overlooked(bare: Path) -> None:
    """A garbled mark stops everything but an adopt; an older program is told that the format is new."""
    built = a_docker(bare)
    adopting.adopt(str(built.root))
    assert 2 == json.loads((built.home / layout.STORE_FILE).read_text())["format"]
    known = adoption.read(built.home)
    assert known is not None and built.home == Path(known.tree)
    (built.home / layout.ADOPTED).write_text("{")
    for words in (("ls",), ("create", "x"), ("db", "rebuild"), ("release-tree",)):
        done = ran("--home", str(built.home), *words)
        assert (1, True) == (done.code, "adopted.json" in done.err), words
    assert exits.NOT_AUDITED == ran("--home", str(built.home), "audit").code
    assert os.path.exists(built.home / layout.DATABASE)
    assert adopting.adopt(str(built.root)).again
    assert known.tree == getattr(adoption.read(built.home), "tree", None)
