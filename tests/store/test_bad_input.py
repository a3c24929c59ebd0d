"""Bad ids, damaged files, homes that are none: a clear error that names the thing, and nothing changed."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import attrs
import pytest

from layerstore import Store
from layerstore.audit import audit
from layerstore.db import engine
from layerstore.errors import (
    CannotCarryOverlay,
    InvalidArgument,
    InvalidLayerId,
    LayerDamaged,
    LayerExists,
    LayerstoreError,
    NoStore,
    SchemaTooNew,
    StoreDamaged,
    TooDeep,
    UnknownLayer,
)
from layerstore.fs import layout
from tests.store.support import (
    check_settled,
    findings,
    index,
    links,
    mode,
    mounted,
    run,
    snapshot,
)

pytestmark = pytest.mark.root


def _facts(home):
    """The index, without what an attempt alone changes: whether a layer was used and is on disk."""
    layers, *rest = index(home)
    plain = [attrs.evolve(x, used=False, durable=False, draining=False) for x in layers]
    return plain, rest


# --- ids ----------------------------------------------------------------------------------------

BAD_IDS = [
    "",
    ".",
    "..",
    "l",
    "../x",
    "a/b",
    "/",
    "/etc",
    "a\0b",
    "a\nb",
    "a\n",
    "\na",
    "a:b",
    "a,b",
    "a b",
    "a\\b",
    "a*",
    "x" * 129,
    "\u0430bc",  # the first letter is Cyrillic
    "ａ",  # a full-width a
    "a\u200b",
    "１",
    "é",
    "a\udcff",
    "-a",
    "_a",
    ".a",
    ".layerstore",
    "backingFsBlockDev",
    "staging",
    "tempdirs",
    "userxattr-check",
    "opaque-bug-check123",
    "metacopy-check123",
    "multiple-lowerdir-check1",
    "check-overlayfs-support1",
    "fsutils-dummy1",
    "compat123",
]


@pytest.fixture(scope="module")
def crowd(tmp_path_factory):
    """A store with two layers that no test of this file changes, for errors that change nothing."""
    from tests.conftest import unmount_below

    home = Path(os.path.realpath(tmp_path_factory.mktemp("crowd"))) / "home"
    run("mkdir", home)
    run("mount", "-t", "tmpfs", "tmpfs", home)
    Store.initialize(home)
    store = Store.open(home)
    store.create("p")
    store.create("c", parent="p")
    yield store
    store.close()
    unmount_below(home)


@pytest.mark.parametrize("name", BAD_IDS, ids=ascii)
def test_bad_ids_are_refused(crowd, name):
    """An id that is no id is refused by every verb, in words that show it, and nothing is touched."""
    before = snapshot(crowd.home), index(crowd.home)
    calls: list[Callable[[], object]] = [
        lambda: crowd.create(name),
        lambda: crowd.create(name, parent="p"),
        lambda: crowd.create_read_write(name),
        lambda: crowd.create("x", parent=name),
        lambda: crowd.get(name),
        lambda: crowd.get(name, holder="cli"),
        lambda: crowd.put(name),
        lambda: crowd.remove(name),
        lambda: crowd.metadata(name),
        lambda: crowd.lower_dirs(name),
        lambda: crowd.removal_effect(name),
    ]
    for number, call in enumerate(calls):
        with pytest.raises((InvalidLayerId, UnknownLayer, InvalidArgument)) as caught:
            call()
        if number < 4:
            assert isinstance(caught.value, InvalidLayerId)
            assert repr(name) in caught.value.message
            assert caught.value.hint
        assert (name in caught.value.message) or (repr(name) in caught.value.message)
    try:
        assert not crowd.exists(name)
    except InvalidArgument as error:
        assert repr(name) in error.message
    assert before == (snapshot(crowd.home), index(crowd.home))
    assert () == crowd.operations()


@pytest.mark.parametrize(
    "name", ["a", "0", "x" * 128, "a.b-c_d", "A1", "lost", "l2", "64" * 32 + "-init"]
)
def test_good_ids_are_taken(store, name):
    """Everything that Docker and BuildKit name layers is an id."""
    store.create("p")
    store.create(name, parent="p")
    with store.mounted(name) as path:
        assert path.is_mount()
    store.remove(name)
    check_settled(store)


def test_texts_that_are_none(crowd):
    """Text that cannot be encoded is refused wherever it is given, and nothing is made."""
    before = snapshot(crowd.home), index(crowd.home)
    with pytest.raises(InvalidArgument, match="not a text in UTF-8"):
        crowd.create("x", labels={"k": "a\udcff"})
    with pytest.raises(InvalidArgument, match="cannot be a mount label"):
        crowd.create("x", mount_label="a\udcff")
    for labels in ({"": "v"}, {"a=b": "v"}, {"k": 1}, {1: "v"}):
        with pytest.raises(InvalidArgument, match="cannot be a label"):
            crowd.create("x", labels=labels)
    assert before == (snapshot(crowd.home), index(crowd.home))


def test_unknown_parent(crowd):
    """A parent that is not there is named, and nothing is made."""
    before = snapshot(crowd.home), index(crowd.home)
    with pytest.raises(UnknownLayer, match="no layer nobody"):
        crowd.create("x", parent="nobody")
    with pytest.raises(UnknownLayer, match="no layer x"):
        crowd.create("x", parent="x")
    assert before == (snapshot(crowd.home), index(crowd.home))


def test_depth_too_great(bare):
    """A layer that would be too deep is refused with its depth and the limit, and nothing is made."""
    home = bare / "home"
    Store.initialize(home, max_depth=2)
    with Store.open(home) as store:
        store.create("0")
        store.create("1", parent="0")
        store.create("2", parent="1")
        before = snapshot(home), index(home)
        with pytest.raises(TooDeep, match="Layer 3 would have 3 lower layers; the limit is 2"):
            store.create("3", parent="2")
        assert before == (snapshot(home), index(home))


# --- damaged layers -----------------------------------------------------------------------------


@pytest.fixture
def chain(store):
    """base <- mid <- leaf and base <- side; each has a file of its name. The store is open."""
    for name, parent in (("base", None), ("mid", "base"), ("leaf", "mid"), ("side", "base")):
        store.create(name, parent=parent)
        (store.home / name / "diff" / name).write_text(name)
    return store


def _write(name: str, text: Callable[[Store, str], str]):
    def damage(store: Store, layer: str) -> None:
        (store.home / layer / name).write_text(text(store, layer))

    return damage


def _instead(name: str, make: Callable[[Path], object]):
    def damage(store: Store, layer: str) -> None:
        path = store.home / layer / name
        path.unlink()
        make(path)

    return damage


def _cut(name: str):
    def damage(store: Store, layer: str) -> None:
        path = store.home / layer / name
        path.write_text(path.read_text()[:-1])

    return damage


def _nothing(path: Path) -> None:
    del path


LINK_FILES = {
    "empty": _write("link", lambda s, x: ""),
    "truncated": _cut("link"),
    "newline": _write("link", lambda s, x: s.layer(x).link + "\n"),
    "garbled": _write("link", lambda s, x: "\x00\xff" * 13),
    "lower-case": _write("link", lambda s, x: s.layer(x).link.lower()),
    "another-layer": _write("link", lambda s, x: s.layer("side").link),
    "outside": _write("link", lambda s, x: "../../../../../../../etc/pass"),
    "missing": _instead("link", _nothing),
    "directory": _instead("link", lambda p: p.mkdir()),
    "symlink": _instead("link", lambda p: p.symlink_to("../side/link")),
    "fifo": _instead("link", os.mkfifo),
}
LOWER_FILES = {
    "empty": _write("lower", lambda s, x: ""),
    "truncated": _cut("lower"),
    "cut-to-l": _write("lower", lambda s, x: "l"),
    "newline": _write("lower", lambda s, x: s.layer(x).lower + "\n"),
    "garbled": _write("lower", lambda s, x: "\x00\xff" * 13),
    "empty-component": _write("lower", lambda s, x: s.layer(x).lower + ":"),
    "another-layer": _write("lower", lambda s, x: f"l/{s.layer('side').link}"),
    "itself": _write("lower", lambda s, x: f"l/{s.layer(x).link}"),
    "outside": _write("lower", lambda s, x: "l/../../../../../../../etc"),
    "absolute": _write("lower", lambda s, x: "/etc"),
    "missing": _instead("lower", _nothing),
    "directory": _instead("lower", lambda p: p.mkdir()),
    "symlink": _instead("lower", lambda p: p.symlink_to("../side/lower")),
}


def _short(make: Callable[[Store, Path], object]):
    def damage(store: Store, layer: str) -> None:
        path = store.home / "l" / store.layer(layer).link
        path.unlink()
        make(store, path)

    return damage


SHORT_LINKS = {
    "dangling": _short(lambda s, p: p.symlink_to("../gone/diff")),
    "another-layer": _short(lambda s, p: p.symlink_to("../side/diff")),
    "outside": _short(lambda s, p: p.symlink_to("../../../../../../etc")),
    "absolute": _short(lambda s, p: p.symlink_to("/etc")),
    "home": _short(lambda s, p: p.symlink_to("..")),
    "regular-file": _short(lambda s, p: p.write_text("../mid/diff")),
    "directory": _short(lambda s, p: p.mkdir()),
}
MISSING = {"missing": _short(lambda s, p: None)}

FILES = [
    *[pytest.param("link", damage, id=f"link-{name}") for name, damage in LINK_FILES.items()],
    *[pytest.param("lower", damage, id=f"lower-{name}") for name, damage in LOWER_FILES.items()],
]
LINKS = [
    pytest.param("l/", damage, id=f"l-{name}") for name, damage in (SHORT_LINKS | MISSING).items()
]


def _check_others(store: Store) -> None:
    """The other branch is as usable as ever."""
    store.create("other", parent="side")
    with store.mounted("other") as path:
        assert {"base", "side"} <= set(os.listdir(path))
    store.remove("other")


@pytest.mark.parametrize(("what", "damage"), FILES + LINKS)
def test_child_of_a_damaged_parent(chain, what, damage):
    """A parent whose files are not what the index says gets no child: the file is named."""
    damage(chain, "mid")
    before = snapshot(chain.home), _facts(chain.home)

    with pytest.raises(LayerDamaged, match=r"^Layer mid cannot be used: ") as caught:
        chain.create("x", parent="mid")
    assert what in caught.value.damage
    assert before == (snapshot(chain.home), _facts(chain.home))
    assert () == chain.operations()
    _check_others(chain)


@pytest.mark.parametrize(("what", "damage"), FILES + LINKS)
@pytest.mark.parametrize("layer", ["leaf", "mid"], ids=["read-write", "committed"])
def test_get_of_a_damaged_layer(chain, what, damage, layer):
    """A layer whose own files are not what the index says is not mounted: the file is named."""
    damage(chain, layer)
    before = snapshot(chain.home), _facts(chain.home)

    with pytest.raises(LayerDamaged, match=f"^Layer {layer} cannot be used: ") as caught:
        chain.get(layer)
    assert what in caught.value.damage
    assert before == (snapshot(chain.home), _facts(chain.home))
    assert [] == mounted(chain.home)
    assert () == chain.operations()
    _check_others(chain)


@pytest.mark.parametrize("damage", (SHORT_LINKS | MISSING).values(), ids=SHORT_LINKS | MISSING)
@pytest.mark.parametrize("below", ["mid", "base"])
def test_get_over_a_damaged_link(chain, damage, below):
    """A link anywhere in the chain that does not lead where it should is named, and nothing is mounted."""
    damage(chain, below)
    before = snapshot(chain.home), _facts(chain.home)

    with pytest.raises(LayerDamaged, match=f"l/{chain.layer(below).link}"):
        chain.get("leaf")
    assert before == (snapshot(chain.home), _facts(chain.home))
    assert [] == mounted(chain.home)
    assert () == chain.operations()


@pytest.mark.parametrize("damage", LINK_FILES.values(), ids=LINK_FILES)
def test_remove_of_a_layer_with_a_damaged_link_file(chain, damage):
    """A layer whose `link` is not its own is not removed, for nobody knows whose it is."""
    damage(chain, "leaf")
    before = snapshot(chain.home), _facts(chain.home)

    for _ in range(2):
        with pytest.raises(LayerDamaged, match=r"^Layer leaf cannot be used: its link file"):
            chain.remove("leaf")
        assert () == chain.operations()
    assert before == (snapshot(chain.home), _facts(chain.home))
    _check_others(chain)


@pytest.mark.parametrize("damage", LOWER_FILES.values(), ids=LOWER_FILES)
def test_remove_of_a_layer_with_a_damaged_lower_file(chain, damage):
    """A layer whose `lower` is damaged can be removed: its `link` says whose it is."""
    damage(chain, "leaf")
    before = snapshot(chain.home)
    gone = f"l/{chain.layer('leaf').link}"

    chain.remove("leaf")
    after = snapshot(chain.home)
    kept = [path for path in before if path not in (".", "l", gone) and "leaf" not in path]
    assert [] == [path for path in kept if before[path] != after.get(path)]
    assert not (chain.home / "leaf").exists()
    assert 3 == len(links(chain.home))
    check_settled(chain)


@pytest.mark.parametrize("damage", (SHORT_LINKS | MISSING).values(), ids=SHORT_LINKS | MISSING)
def test_remove_of_a_layer_with_a_damaged_link(chain, damage):
    """A layer whose link leads elsewhere is removed, and what the link leads to stays."""
    link = chain.layer("leaf").link
    damage(chain, "leaf")
    foreign = links(chain.home).get(link)

    chain.remove("leaf")
    assert not (chain.home / "leaf").exists()
    assert "side" == (chain.home / "side/diff/side").read_text()
    assert {chain.layer(x).link for x in ("base", "mid", "side")} <= set(links(chain.home))
    if foreign and (chain.home / "l" / link).exists():
        assert foreign == os.readlink(chain.home / "l" / link)
    _check_others(chain)


def _after_a_power_cut(home: Path) -> None:
    """Make the index tell of an owner of another boot that did not close: the next open compares."""
    connection = engine.connect(str(home / layout.DATABASE), read_only=False, timeout=5)
    try:
        connection.execute(
            "INSERT INTO owners (id, pid, started, boot_id, mount_id, command, durability, opened_at)"
            " VALUES ('dead', 1, 1, 'another boot', 1, 'gone', 'full', 1)"
        )
    finally:
        connection.close()


@pytest.mark.parametrize(("what", "damage"), FILES + LINKS[:-1])
def test_open_isolates_a_damaged_layer(chain, what, damage):
    """After a power cut a damaged layer is set apart by name, and every other one is usable."""
    home = chain.home
    damage(chain, "mid")
    chain.close()
    _after_a_power_cut(home)
    before = snapshot(home)

    with Store.open(home) as store:
        assert [] == [item for item in store.settled if item.what == "failed"]
        (item,) = [item for item in store.settled if item.what == "isolated"]
        assert "mid" == item.layer
        assert what in (store.layer("mid").damage or "")
        assert before == snapshot(home)
        for call in (lambda: store.get("mid"), lambda: store.create("x", parent="mid")):
            with pytest.raises(LayerDamaged, match="mid"):
                call()
        assert ["base", "leaf", "mid", "side"] == [layer.id for layer in store.layers()]
        _check_others(store)


def test_open_makes_a_lost_link_anew(chain):
    """After a power cut a link that is gone is made again, and its layer is usable."""
    home, link = chain.home, chain.layer("mid").link
    MISSING["missing"](chain, "mid")
    chain.close()
    _after_a_power_cut(home)

    with Store.open(home) as store:
        assert [("corrected", "mid")] == [
            (i.what, i.layer) for i in store.settled if i.what != "released"
        ]
        assert "../mid/diff" == links(home)[link]
        with store.mounted("leaf") as path:
            assert {"base", "mid", "leaf"} == set(os.listdir(path))
        check_settled(store)


@pytest.mark.parametrize(("what", "damage"), FILES + LINKS)
def test_audit_names_the_damage(chain, what, damage):
    """The audit says which file of which layer is damaged, and changes nothing."""
    damage(chain, "mid")
    before = snapshot(chain.home), index(chain.home)

    report = audit(chain.home)
    found = [f for f in report.findings if f.severity == "damage" and f.layer == "mid"]
    assert not report.clean
    assert [] != found
    assert any(what in f"{f.path} {f.message}" for f in found)
    assert before == (snapshot(chain.home), index(chain.home))


@pytest.mark.parametrize("name", ["diff", "work"])
def test_layer_without_a_directory(chain, name):
    """A layer whose `diff` or `work` is gone is refused by name, and can be removed."""
    shutil.rmtree(chain.home / "leaf" / name)
    before = snapshot(chain.home)

    with pytest.raises(LayerDamaged, match=f"leaf cannot be used: .*{name}"):
        chain.get("leaf")
    assert () == chain.operations()
    assert before == snapshot(chain.home)
    assert [f"missing-{name} leaf"] == findings(chain.home)
    chain.remove("leaf")
    check_settled(chain)


@pytest.mark.parametrize(("layer", "name"), [("leaf", "diff"), ("leaf", "work"), ("mid", "diff")])
def test_directory_that_is_a_link(chain, bare, layer, name):
    """A layer whose `diff` or `work` leads elsewhere is neither mounted nor written to."""
    (bare / "outside").mkdir()
    (bare / "outside/secret").touch()
    shutil.rmtree(chain.home / layer / name)
    (chain.home / layer / name).symlink_to(bare / "outside")

    with pytest.raises(LayerDamaged, match=name):
        chain.get("leaf")
    assert [] == mounted(chain.home)
    assert () == chain.operations()
    chain.remove("leaf")
    assert ["secret"] == os.listdir(bare / "outside")


def test_layer_whose_directory_is_gone(chain):
    """A layer that somebody deleted is refused by name, and can be taken out of the index."""
    shutil.rmtree(chain.home / "leaf")

    with pytest.raises(LayerDamaged, match="leaf cannot be used"):
        chain.get("leaf")
    assert () == chain.operations()
    assert not (chain.home / "leaf").exists()
    chain.remove("leaf")
    assert 3 == len(links(chain.home))
    check_settled(chain)


# --- homes that are none ------------------------------------------------------------------------


@pytest.mark.parametrize("read_only", [False, True])
def test_home_that_does_not_exist(bare, read_only):
    """A path where nothing is, is named, and nothing is made there."""
    with pytest.raises(NoStore, match=f"no directory {bare}/nothing"):
        Store.open(bare / "nothing", read_only=read_only)
    assert [] == os.listdir(bare)


def test_home_without_a_parent_directory(bare):
    """Only the last directory of a new home is made."""
    with pytest.raises(InvalidArgument, match=f"no directory {bare}/a"):
        Store.initialize(bare / "a/b")
    assert [] == os.listdir(bare)


@pytest.mark.parametrize("read_only", [False, True])
def test_home_that_is_no_store(bare, read_only):
    """A directory that is no store is named, with the way to make it one, and stays as it is."""
    (bare / "file").touch()
    before = snapshot(bare)
    with pytest.raises(NoStore, match=f"{bare} is not a layerstore") as caught:
        Store.open(bare, read_only=read_only)
    assert "init" in caught.value.hint
    with pytest.raises(NoStore):
        Store.rebuild(bare)
    assert before == snapshot(bare)


def test_home_that_is_a_file(bare):
    """A home that is a file is refused by every way in."""
    path = bare / "file"
    path.write_text("content")

    for call in (Store.open, Store.initialize, Store.rebuild):
        with pytest.raises(LayerstoreError, match=str(path)):
            call(path)
    assert "content" == path.read_text()
    assert ["file"] == os.listdir(bare)


@pytest.mark.parametrize("name", ["", "a\0b", "x" * 300])
def test_home_that_is_no_path(bare, monkeypatch, name):
    """A home that cannot be a path is refused with an error, and nothing is made."""
    (bare / "empty").mkdir()
    monkeypatch.chdir(bare / "empty")
    with pytest.raises((LayerstoreError, ValueError, OSError)):
        Store.open(name if not name else bare / name)
    assert [] == os.listdir(bare / "empty")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("timeout", -1),
        ("timeout", float("nan")),
        ("durability", "half"),
        ("this_is", "a twin"),
        ("compact_above", 1.5),
        ("keep_archives", -1),
        ("keep_archives", True),
    ],
)
@pytest.mark.parametrize("read_only", [False, True])
def test_an_open_that_cannot_be_meant(store, bare, name, value, read_only):
    """It is refused before anything is touched: a copy that was to become a store of its own is one still."""
    copy = bare / "copy"
    shutil.copytree(store.home, copy, symlinks=True)
    before = snapshot(copy)
    given = {"this_is": "copy", name: value}
    with pytest.raises(InvalidArgument):
        Store.open(copy, read_only=read_only, **given)
    assert before == snapshot(copy)


@pytest.mark.parametrize("read_only", [False, True])
def test_home_that_cannot_be_looked_into(bare, read_only):
    """A home that this user may not enter, or whose name is too long, is no missing store."""
    Store.initialize(bare / "store")
    os.seteuid(65534)
    try:
        with pytest.raises(LayerstoreError, match="Permission denied") as refused:
            Store.open(bare / "store", read_only=read_only)
    finally:
        os.seteuid(0)
    assert type(refused.value) is LayerstoreError
    with pytest.raises(LayerstoreError, match="File name too long"):
        Store.open(bare / ("x" * 300), read_only=read_only)


def test_home_that_is_not_empty(bare):
    """A directory with something in it is not made into a store, and stays as it is."""
    (bare / "home").mkdir()
    (bare / "home/precious").write_text("x")
    before = snapshot(bare)

    with pytest.raises(LayerstoreError, match="precious"):
        Store.initialize(bare / "home")
    assert before == snapshot(bare)


def test_read_only_home(chain, bare):
    """A store on a read-only mount is not opened to write, can be read, and is as it was."""
    home, view = chain.home, bare / "view"
    chain.close()
    view.mkdir()
    run("mount", "--bind", home, view)
    run("mount", "-o", "remount,bind,ro", view)
    before = snapshot(home)

    with pytest.raises(LayerstoreError, match=f"{view} cannot be written") as caught:
        Store.open(view)
    assert "read_only" in caught.value.hint
    with pytest.raises(LayerstoreError, match=str(view)):
        Store.rebuild(view)
    with Store.open(view, read_only=True) as reader:
        assert ["base", "leaf", "mid", "side"] == [layer.id for layer in reader.layers()]
        assert [] == findings(view)
    assert before == snapshot(home)
    with Store.open(home) as store:
        check_settled(store)


def test_initialize_on_a_read_only_mount(bare):
    """A new home on a read-only mount is refused by name."""
    (bare / "here").mkdir()
    (bare / "here/empty").mkdir()
    (bare / "view").mkdir()
    run("mount", "--bind", bare / "here", bare / "view")
    run("mount", "-o", "remount,bind,ro", bare / "view")

    for name in ("empty", "new"):
        with pytest.raises(LayerstoreError, match=f"{bare}/view/{name} cannot be"):
            Store.initialize(bare / "view" / name)
    assert ["empty"] == os.listdir(bare / "here")
    assert [] == os.listdir(bare / "here/empty")


@pytest.mark.parametrize("kind", ["overlay", "ramfs"])
def test_file_system_that_cannot_carry_overlay(bare, kind):
    """A home where overlays cannot be mounted, or not be asked about, is refused with the kernel's reason."""
    home = bare / "mnt/home"
    for name in ("mnt", "l1", "l2", "up", "work"):
        (bare / name).mkdir()
    options = f"lowerdir={bare}/l1:{bare}/l2,upperdir={bare}/up,workdir={bare}/work"
    command = ("-o", options) if kind == "overlay" else ()
    run("mount", "-t", kind, *command, kind, bare / "mnt")

    with pytest.raises(CannotCarryOverlay, match=f"{home} cannot carry a layerstore: ") as caught:
        Store.initialize(home)
    assert kind in caught.value.message or "ramfs" in caught.value.message
    assert caught.value.hint
    assert [] == os.listdir(bare / "mnt")
    home.mkdir(mode=0o751)
    with pytest.raises(CannotCarryOverlay):
        Store.initialize(home)
    assert [] == os.listdir(home)
    assert 0o751 == mode(home)


@pytest.mark.parametrize("home", ["/proc", "/proc/self", "/proc/new", "/sys/new"])
def test_file_system_of_the_kernel(home):
    """A home in /proc or /sys is refused by name."""
    with pytest.raises(LayerstoreError, match=home.split("/")[1]):
        Store.initialize(home)


def test_own_directory_on_another_file_system(bare):
    """A home whose `.layerstore` is another mount is refused: nothing could be renamed out of it."""
    home = bare / "home"
    (home / ".layerstore").mkdir(parents=True)
    run("mount", "-t", "tmpfs", "tmpfs", home / ".layerstore")

    with pytest.raises(LayerstoreError, match=f"{home}"):
        Store.initialize(home)
    with pytest.raises(NoStore):
        Store.open(home)


# --- databases that are none --------------------------------------------------------------------


def _database(home: Path) -> Path:
    return home / layout.DATABASE


def _edit(home: Path, statement: str, *values) -> None:
    connection = engine.connect(str(_database(home)), read_only=False, timeout=5)
    try:
        connection.execute(statement, values)
    finally:
        connection.close()


def _of_another(home: Path) -> None:
    other = home.parent / "another"
    Store.initialize(other)
    with Store.open(other) as store:
        store.create("foreign")
    shutil.copy(_database(other), _database(home))


def _directory(home: Path) -> None:
    _database(home).unlink()
    _database(home).mkdir()


def _described(home: Path, **changes) -> None:
    path = home / layout.STORE_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


DATABASES = {
    "missing": (StoreDamaged, lambda h: _database(h).unlink()),
    "zero-bytes": (StoreDamaged, lambda h: _database(h).write_bytes(b"")),
    "garbled": (StoreDamaged, lambda h: _database(h).write_bytes(os.urandom(65536))),
    "text": (StoreDamaged, lambda h: _database(h).write_text("no database")),
    "truncated": (StoreDamaged, lambda h: os.truncate(_database(h), 4096)),
    "directory": (StoreDamaged, _directory),
    "of-another-store": (StoreDamaged, _of_another),
    "newer": (SchemaTooNew, lambda h: _edit(h, "UPDATE alembic_version SET version_num = '9999'")),
    "no-revision": (StoreDamaged, lambda h: _edit(h, "DROP TABLE alembic_version")),
    "unknown-revision": (
        StoreDamaged,
        lambda h: _edit(h, "UPDATE alembic_version SET version_num = '0000'"),
    ),
    "empty-revision": (StoreDamaged, lambda h: _edit(h, "DELETE FROM alembic_version")),
    "no-store-id": (StoreDamaged, lambda h: _edit(h, "DELETE FROM meta")),
    "json-garbled": (StoreDamaged, lambda h: (h / layout.STORE_FILE).write_text("{garbled")),
    "json-empty": (StoreDamaged, lambda h: (h / layout.STORE_FILE).write_text("")),
    "json-list": (StoreDamaged, lambda h: (h / layout.STORE_FILE).write_text("[1]")),
    "json-bytes": (StoreDamaged, lambda h: (h / layout.STORE_FILE).write_bytes(b"\xff\xfe")),
    "json-short": (StoreDamaged, lambda h: (h / layout.STORE_FILE).write_text('{"format": 1}')),
    "json-text-format": (StoreDamaged, lambda h: _described(h, format="1")),
    "json-null-id": (StoreDamaged, lambda h: _described(h, store_id=None)),
    "json-newer": (SchemaTooNew, lambda h: _described(h, format=99)),
    "json-missing": (NoStore, lambda h: (h / layout.STORE_FILE).unlink()),
}


@pytest.mark.parametrize(("error", "damage"), DATABASES.values(), ids=DATABASES)
def test_database_that_is_none(chain, error, damage):
    """Without its database a store is not opened; the tree stays, and a rebuild finds every layer."""
    home = chain.home
    parents = {layer.id: (layer.parent, layer.link, layer.lower) for layer in chain.layers()}
    chain.close()
    damage(home)
    before = snapshot(home)

    calls: list[Callable[[Path], object]] = [Store.open, lambda h: Store.open(h, read_only=True)]
    for call in [*calls, audit] if error is SchemaTooNew else calls:
        with pytest.raises(error, match=str(home)) as caught:
            call(home)
        assert caught.value.hint
    if error is not SchemaTooNew:  # the audit says that the records are lost, and not the layers
        report = audit(home)
        first, *others = report.findings
        assert report.lost_metadata
        assert "lost-metadata" == first.code
        assert {f.code for f in others} & {"lost-database", "damaged-database"}
    assert before == snapshot(home)
    if error is SchemaTooNew:
        return

    settled = Store.rebuild(home)
    assert before == snapshot(home)
    assert {("adopted", name) for name in parents} == {(i.what, i.layer) for i in settled}
    with Store.open(home) as store:
        assert parents == {x.id: (x.parent, x.link, x.lower) for x in store.layers()}
        assert [True, False, True, False] == [layer.committed for layer in store.layers()]
        check_settled(store)
        with store.mounted("leaf") as path:
            assert {"base", "mid", "leaf"} == set(os.listdir(path))
        store.remove("leaf")


def test_rebuild_does_not_lose_the_old_database(chain):
    """The database that a rebuild replaces lies in quarantine, whole."""
    home = chain.home
    chain.close()
    old = _database(home).read_bytes()
    Store.rebuild(home)

    kept = [
        path
        for place in (home / layout.QUARANTINE).iterdir()
        for path in place.iterdir()
        if path.name == "journal.db"
    ]
    assert [old] == [path.read_bytes() for path in kept]


def test_rebuild_leaves_what_is_no_whole_layer(chain):
    """What a rebuild does not understand it neither takes in nor touches."""
    home = chain.home
    (home / "half").mkdir()
    (home / "half/diff").mkdir()
    shutil.copytree(home / "side", home / "twin", symlinks=True)
    (home / "mid/lower").write_text("")
    (home / "stranger").write_text("x")
    chain.close()
    before = snapshot(home)

    settled = Store.rebuild(home)
    assert before == snapshot(home)
    assert {("adopted", "base")} == {(i.what, i.layer) for i in settled if i.what == "adopted"}
    with Store.open(home) as store:
        assert ["base"] == [layer.id for layer in store.layers()]
        with pytest.raises(LayerExists, match="tree has half"):
            store.create("half")


def test_rebuild_of_a_mounted_store(chain):
    """What is mounted while the database is rebuilt stays mounted, held by a holder `unknown`."""
    home = chain.home
    chain.get("leaf", holder="docker")
    chain.close()

    Store.rebuild(home)
    assert ["leaf"] == mounted(home)
    with Store.open(home) as store:
        assert [("leaf", "unknown")] == [(hold.layer, hold.holder) for hold in store.holders()]
        assert ("leaf",) == store.release("unknown")
        assert [] == mounted(home)
        check_settled(store)


def test_rebuilt_numbers_do_not_come_back(chain):
    """After a rebuild events have another epoch, and numbers above all that were given out before."""
    home = chain.home
    before = chain.last_seq()
    (old,) = {entry.epoch for entry in chain.events()}
    chain.close()
    Store.rebuild(home)

    with Store.open(home) as store:
        assert min(entry.seq for entry in store.events()) > before
        assert old not in {entry.epoch for entry in store.events()}


def test_unknown_event_is_named(chain):
    """A row of the journal that cannot be read is named by number, and layers stay usable."""
    home = chain.home
    chain.close()
    _edit(home, "UPDATE events SET kind = 'layer.sung.v1' WHERE seq = 4")

    with Store.open(home) as store:
        with pytest.raises(LayerstoreError, match=r"Row 4 of the journal has the unknown kind"):
            list(store.events())
        _check_others(store)
    assert ["damaged-journal None"] == findings(home)
