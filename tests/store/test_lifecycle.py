"""Every verb's ordinary behaviour, on disk, in the index and in the mount table."""

from __future__ import annotations

import errno
import os
import re

import pytest

from layerstore import Store
from layerstore.db import engine
from layerstore.errors import (
    Busy,
    HasChildren,
    InvalidArgument,
    InvalidHolder,
    InvalidOption,
    LayerExists,
    LayerHeld,
    LayerstoreError,
    NotHeld,
    StoreClosed,
    StoreExists,
    TooDeep,
    UnknownHolder,
    UnknownLayer,
)
from layerstore.fs import layout, mount, syscalls
from layerstore.fs.mountinfo import mounts_below
from layerstore.fs.namespaces import in_user_namespace
from layerstore.fs.perform import Performer
from tests.store.support import (
    check_settled,
    findings,
    index,
    links,
    mode,
    mounted,
    overlays,
    points_of,
    run,
    snapshot,
    traced,
)

pytestmark = pytest.mark.root


def _chain(store, *names):
    """Layers upon each other, each with a file of its name; the last one stays empty."""
    parent = None
    for name in names:
        store.create(name, parent=parent)
        parent = name
    for name in names[:-1]:
        (store.home / name / "diff" / name).write_text(name)


def _files(store, layer):
    return sorted(os.listdir(store.home / layer))


# --- initialize ---------------------------------------------------------------------------------


def test_initialize_makes_an_empty_layout(bare):
    """A new home is 0710 and holds an empty `l` of 0700 and the store's own directory, nothing else."""
    Store.initialize(bare / "home")

    assert [".layerstore", "l"] == sorted(os.listdir(bare / "home"))
    assert [] == os.listdir(bare / "home/l")
    assert (0o710, 0o700, 0o700) == tuple(mode(bare / "home" / n) for n in ("", "l", ".layerstore"))
    assert 0o600 == mode(bare / "home/.layerstore/journal.db")


def test_initialize_refuses_a_store(store):
    """A store is not made into a store again, and stays as it is."""
    store.create("a")
    before = snapshot(store.home)

    with pytest.raises(StoreExists, match=str(store.home)):
        Store.initialize(store.home)
    assert before == snapshot(store.home)
    assert store.exists("a")


@pytest.mark.parametrize("depth", [0, -1, 500])
def test_initialize_refuses_impossible_depths(bare, depth):
    """`max_depth` is 1 to 499, and a refused one makes nothing."""
    with pytest.raises(InvalidArgument, match=str(depth)):
        Store.initialize(bare / "home", max_depth=depth)
    assert [] == os.listdir(bare)


# --- create -------------------------------------------------------------------------------------


def test_create_base_layer_lays_it_out_as_docker_does(store):
    """A base layer has `diff` and `link` and nothing else, with Docker's modes."""
    layer = store.create("base")

    place = store.home / "base"
    assert ["diff", "link"] == _files(store, "base")
    assert (0o710, 0o755, 0o644) == (mode(place), mode(place / "diff"), mode(place / "link"))
    assert layer.link == (place / "link").read_text()
    assert re.fullmatch("[A-Z2-7]{26}", layer.link)
    assert {layer.link: "../base/diff"} == links(store.home)
    assert (None, "", 0) == (layer.parent, layer.lower, layer.depth)
    check_settled(store)


def test_create_child_lays_it_out_as_docker_does(store):
    """A child has `work` of 0700 and `lower`, nearest first and without a newline; its parent is committed."""
    _chain(store, "a", "b", "c")

    place = store.home / "c"
    a, b, c = (store.layer(name) for name in "abc")
    assert ["diff", "link", "lower", "work"] == _files(store, "c")
    assert (0o700, 0o644) == (mode(place / "work"), mode(place / "lower"))
    assert f"l/{b.link}:l/{a.link}" == (place / "lower").read_text() == c.lower
    assert ("b", 2, False) == (c.parent, c.depth, c.committed)
    assert ["committed", "diff", "link", "lower", "work"] == _files(store, "b")
    assert (b"", 0o644) == (
        (store.home / "b/committed").read_bytes(),
        mode(store.home / "b/committed"),
    )
    assert a.committed and b.committed
    check_settled(store)


def test_create_does_not_depend_on_the_umask(store):
    """Modes are the layout's whatever the caller's umask is."""
    before = os.umask(0o077)
    try:
        _chain(store, "a", "b")
    finally:
        os.umask(before)

    assert [0o710, 0o755, 0o644, 0o644] == [
        mode(store.home / "b" / name) for name in ("", "diff", "link", "lower")
    ]


def test_create_leaves_nothing_behind(store):
    """Staging and trash are empty after a create and a remove."""
    _chain(store, "a", "b")
    store.remove("b")

    assert [] == os.listdir(store.home / layout.STAGING)
    assert [] == os.listdir(store.home / layout.TRASH)


def test_create_is_exclusive(store):
    """An id that is taken is refused, whatever is asked for, and the layer stays as it is."""
    _chain(store, "a", "b")
    before = snapshot(store.home), index(store.home)

    for parent in (None, "a", "nobody"):
        with pytest.raises(LayerExists, match="b exists already"):
            store.create("b", parent=parent)
    assert before == (snapshot(store.home), index(store.home))


def test_create_tells_a_repetition_from_a_conflict(store):
    """LayerExists says whether the layer was created with the same arguments and never used since."""
    arguments = {"parent": "a", "labels": {"k": "v"}, "mount_label": ""}
    store.create("a")
    store.create("b", **arguments)

    def answer(**changed):
        with pytest.raises(LayerExists) as caught:
            store.create("b", **(arguments | changed))
        return caught.value.same_and_unused

    assert answer()
    assert not answer(labels={"k": "w"})
    assert not answer(parent=None)
    assert not answer(mount_label="system_u:object_r:t:s0")
    with pytest.raises(LayerExists) as caught:
        store.create_read_write("b", **arguments)
    assert not caught.value.same_and_unused
    store.create("c", parent="b")
    assert not answer()


@pytest.mark.parametrize("layer", ["base", "child"])
def test_create_after_a_get_is_no_repetition(store, layer):
    """A layer that was got once is used, also after it was put."""
    _chain(store, "base", "child")
    store.create("lone")
    name = "lone" if layer == "base" else "child"
    store.get(name)
    store.put(name)

    with pytest.raises(LayerExists) as caught:
        store.create(name, parent=store.layer(name).parent)
    assert not caught.value.same_and_unused


def test_create_refuses_what_only_the_tree_has(store):
    """A directory that the index does not know is nobody's to overwrite."""
    (store.home / "x").mkdir()
    before = snapshot(store.home)

    with pytest.raises(LayerExists, match="tree has x"):
        store.create("x")
    assert before == snapshot(store.home)
    assert not store.exists("x")


def test_create_read_write_differs_in_the_index_alone(store):
    """A read-write layer looks like any other on disk, and the index knows what it is for."""
    store.create("a")
    store.create("image", parent="a")
    store.create_read_write("container", parent="a")

    assert _files(store, "image") == _files(store, "container")
    assert (False, True) == (store.layer("image").read_write, store.layer("container").read_write)


def test_labels_are_kept(home):
    """Labels and the mount label survive closing, and layers are found by label."""
    with Store.open(home) as store:
        store.create("a", labels={"k": "v", "ü": "1 2"})
        store.create("b", mount_label="system_u:object_r:t:s0:c1,c2")

    with Store.open(home) as store:
        assert {"k": "v", "ü": "1 2"} == dict(store.layer("a").labels)
        assert "system_u:object_r:t:s0:c1,c2" == store.layer("b").mount_label
        assert ["a"] == [layer.id for layer in store.layers(labels={"k": "v"})]
        assert [] == [layer.id for layer in store.layers(labels={"k": "w"})]


@pytest.mark.parametrize("name", ["size", " SIZE ", "overlay2.size", "inodes"])
def test_storage_options_are_refused_by_name(store, name):
    """An option that cannot be kept is refused, by name, before anything is made."""
    before = snapshot(store.home)
    for verb in (store.create, store.create_read_write):
        with pytest.raises(InvalidOption, match=name.strip().lower()):
            verb("a", storage_options={name: "1"})
    assert before == snapshot(store.home)
    assert not store.exists("a")


# --- depth --------------------------------------------------------------------------------------


def test_depth_is_128_unless_set(store):
    """A layer may have 128 lowers and no more."""
    parent = store.create("0").id
    for depth in range(1, 129):
        parent = store.create(str(depth), parent=parent).id
    before = snapshot(store.home)

    with pytest.raises(TooDeep, match="129 lower layers; the limit is 128"):
        store.create("129", parent=parent)
    assert before == snapshot(store.home)
    assert 128 == store.layer("128").depth
    with store.mounted("128") as path:
        assert [] == os.listdir(path)


def test_depth_of_499_mounts(bare):
    """A layer with 499 lowers is mounted, and so is a committed one with its own `diff` in front."""
    home = bare / "home"
    Store.initialize(home, max_depth=499)
    with Store.open(home, durability="process") as store:
        parent = store.create("0").id
        for depth in range(1, 500):
            parent = store.create(str(depth), parent=parent).id
        for number in range(500):
            (home / str(number) / "diff" / f"f{number}").touch()
        with pytest.raises(TooDeep):
            store.create("500", parent="499")

        with store.mounted("499") as path:
            assert 500 == len(os.listdir(path))
            (path / "written").touch()
        with store.mounted("498") as path:
            assert 499 == len(os.listdir(path))
            assert "ro" in overlays(home)[0].options
    # What Docker leaves when it creates a child and removes it.
    (home / "499/committed").touch()
    Store.rebuild(home)
    with Store.open(home) as store, store.mounted("499") as path:
        assert 501 == len(os.listdir(path))
        assert "ro" in overlays(home)[0].options


# --- get and put --------------------------------------------------------------------------------


def test_get_mounts_and_put_unmounts(store):
    """The first get makes `merged` of 0700 and mounts; the last put unmounts and takes it away."""
    _chain(store, "a", "b", "c")

    path = store.get("c")
    assert store.home / "c/merged" == path
    assert ["c"] == mounted(store.home)
    assert ["a", "b"] == sorted(os.listdir(path))
    assert False is store.mount("c").read_only
    (path / "new").write_text("new")
    assert "new" == (store.home / "c/diff/new").read_text()
    check_settled(store)

    assert True is store.put("c")
    assert [] == mounted(store.home)
    assert "merged" not in _files(store, "c")
    assert None is store.mount("c")
    check_settled(store)


def test_merged_has_the_mode_of_the_layer(store):
    """Below the mount `merged` is 0700, and through it shows the mode of `diff`."""
    _chain(store, "a", "b")
    seen = {}

    def hook(point):
        if "MountOverlay:before" in point:
            seen["merged"] = mode(store.home / "b/merged")

    with traced(hook):
        store.get("b")
    assert {"merged": 0o700} == seen
    assert 0o755 == mode(store.home / "b/merged")


def test_nearest_layer_wins(store):
    """Of files with one name the one of the nearest layer is seen."""
    _chain(store, "a", "b", "c")
    for name in ("a", "b"):
        (store.home / name / "diff/same").write_text(name)

    with store.mounted("c") as path:
        assert "b" == (path / "same").read_text()
        os.unlink(path / "same")
        assert not (path / "same").exists()
    assert "b" == (store.home / "b/diff/same").read_text()


def test_holds_are_counted(store):
    """Every get counts, every put counts back, and only the last one unmounts."""
    _chain(store, "a", "b")
    paths = [store.get("b"), store.get("b"), store.get("b", holder="cli")]

    assert [store.home / "b/merged"] * 3 == paths
    assert 1 == len(overlays(store.home))
    assert {2, 1} == {hold.count for hold in store.holders("b")}
    assert [False, False, True] == [store.put("b"), store.put("b", holder="cli"), store.put("b")]
    assert () == store.holders("b")
    check_settled(store)


def test_put_without_a_hold_is_refused(store):
    """Who holds nothing gives nothing back, not what another holds either."""
    _chain(store, "a", "b")
    store.get("b", holder="cli")

    for layer, holder in (("a", None), ("b", None), ("b", "docker")):
        with pytest.raises(NotHeld, match=f"Layer {layer} is not held by"):
            store.put(layer, holder=holder)
    assert ["b"] == mounted(store.home)
    assert True is store.put("b", holder="cli")
    with pytest.raises(NotHeld):
        store.put("b", holder="cli")


def test_unknown_layers_are_named(store):
    """Every verb that names a layer that is not there says so."""
    for call in (store.get, store.put, store.remove, store.holders, store.metadata, store.parent):
        with pytest.raises(UnknownLayer, match="no layer nobody"):
            call("nobody")
    with pytest.raises(UnknownLayer, match="no layer nobody"):
        store.create("a", parent="nobody")
    assert not store.exists("nobody")
    assert [] == [layer.id for layer in store.layers()]


@pytest.mark.parametrize("name", ["", "owner:1", "a b", "-a", "a\n", "x" * 256, "ä"])
def test_bad_holder_names_are_refused(store, name):
    """A holder's name that could be an owner's, or is unprintable, is refused everywhere."""
    store.create("a")
    for call in (store.get, store.put):
        with pytest.raises(InvalidHolder, match="cannot be a holder's name"):
            call("a", holder=name)
    with pytest.raises(InvalidHolder):
        store.release(name)
    assert () == store.holders()


def test_base_layer_is_held_and_not_mounted(store):
    """A get of a base layer gives its `diff`, mounts nothing, and counts the hold."""
    store.create("a")

    assert [store.home / "a/diff"] * 2 == [store.get("a"), store.get("a", holder="cli")]
    assert [] == mounted(store.home)
    assert ["diff", "link"] == _files(store, "a")
    assert 2 == sum(hold.count for hold in store.holders("a"))
    with pytest.raises(LayerHeld, match="cli"):
        store.remove("a")
    assert [False, False] == [store.put("a"), store.put("a", holder="cli")]
    store.remove("a")
    check_settled(store)


def test_committed_layer_is_mounted_read_only(store):
    """A layer with children shows its own content and refuses writes."""
    _chain(store, "a", "b", "c")

    path = store.get("b")
    assert ["a", "b"] == sorted(os.listdir(path))
    with pytest.raises(OSError) as caught:
        (path / "new").touch()
    assert errno.EROFS == caught.value.errno
    assert True is store.mount("b").read_only
    (entry,) = overlays(store.home)
    assert not any(option.startswith("upperdir") for option in entry.super_options)
    assert True is store.put("b")
    check_settled(store)


def test_committed_layer_stays_read_only_without_children(store):
    """What once had a child was seen by others: it is not written to again."""
    _chain(store, "a", "b", "c")
    store.remove("c")

    with store.mounted("b") as path, pytest.raises(OSError, match="Read-only"):
        (path / "new").touch()


def test_child_of_a_read_only_mount(store):
    """A layer that is mounted read-only can get children; one that is mounted read-write cannot."""
    _chain(store, "a", "b", "c")
    store.get("b")
    store.get("c")

    store.create("d", parent="b")
    with pytest.raises(LayerHeld, match="Layer c is held by"):
        store.create("e", parent="c")
    store.put("c")
    store.create("e", parent="c")


def test_mounted_holds_for_a_block(store):
    """`mounted` gives the path, and gives the hold back also when the block raises."""
    _chain(store, "a", "b")

    with pytest.raises(RuntimeError, match="mine"), store.mounted("b", holder="cli") as path:
        assert ["cli"] == [hold.holder for hold in store.holders("b")]
        assert path.is_mount()
        raise RuntimeError("mine")
    assert [] == mounted(store.home)
    assert () == store.holders()


def test_mount_options_are_explicit(store):
    """What could be on by default, and would make layers that Docker cannot read, is off."""
    _chain(store, "a", "b")
    store.get("b")

    (entry,) = overlays(store.home)
    known = [n for n in ("index", "metacopy", "redirect_dir") if n in mount.overlay_parameters()]
    said = dict(option.partition("=")[::2] for option in entry.super_options)
    # The kernel shows what differs from its parameters; what it does not show is as they say.
    off = {"N", "off", "0"}
    assert [] == [
        name
        for name in known
        if said.get(name, mount.overlay_parameters()[name]) not in off | {"nofollow"}
    ]
    assert "overlay" == entry.source


@pytest.mark.parametrize("style", mount.STYLES)
def test_mount_options_are_said_to_the_kernel(store, monkeypatch, style):
    """Every mount says `index=off`, `metacopy=off` and `redirect_dir=off` where the module knows them."""
    said = []
    fsconfig, classic = syscalls.fsconfig, syscalls.mount

    def spy_fsconfig(context, command, key, value, aux):
        said.append(f"{key}={value}")
        return fsconfig(context, command, key, value, aux)

    def spy_mount(source, target, fs_type, flags, data):
        said.extend(data.split(","))
        return classic(source, target, fs_type, flags, data)

    _chain(store, "a", "b")
    _use_style(store, style)

    def hook(point):
        if "MountOverlay:before" in point:
            monkeypatch.setattr(syscalls, "fsconfig", spy_fsconfig)
            monkeypatch.setattr(syscalls, "mount", spy_mount)

    with traced(hook):
        store.get("b")
    known = [n for n in ("index", "metacopy", "redirect_dir") if n in mount.overlay_parameters()]
    options = {f"{name}=off" for name in known}
    if in_user_namespace():  # where `off` may mean `follow`, which is refused
        options = options - {"redirect_dir=off"} | {"redirect_dir=nofollow"}
    assert options <= set(said)
    assert {"index", "metacopy", "redirect_dir"} == set(known)


# --- how it is mounted --------------------------------------------------------------------------


def _use_style(store, style):
    store._hands.performer = Performer(str(store.home), (style,))


@pytest.mark.parametrize("style", mount.STYLES)
def test_every_style_mounts_the_same(store, style):
    """By the new interface, and by mount(2) with absolute and relative paths, the same is seen."""
    _chain(store, "a", "b", "c", "d")
    for name in ("a", "b", "c"):
        (store.home / name / "diff/same").write_text(name)
    _use_style(store, style)

    with store.mounted("d") as path:
        assert ["a", "b", "c", "same"] == sorted(os.listdir(path))
        assert "c" == (path / "same").read_text()
        (path / "same").write_text("d")
    with store.mounted("c") as path:
        assert "c" == (path / "same").read_text()
        assert "ro" in overlays(store.home)[0].options
    assert "d" == (store.home / "d/diff/same").read_text()
    used = [entry.event.style for entry in store.events(kind="layer.mounted")]
    assert [style, style] == used
    check_settled(store)


def test_classic_mount_falls_back_to_relative_paths(store):
    """Where absolute paths do not fit into a page, relative ones do, for 128 layers."""
    names = [str(number) for number in range(129)]
    _chain(store, *names)
    store._hands.performer = Performer(str(store.home), ("absolute", "relative"))

    with store.mounted("128") as path:
        assert 128 == len(os.listdir(path))
    assert ["relative"] == [entry.event.style for entry in store.events(kind="layer.mounted")]


def test_a_mount_that_no_style_can_say_is_undone(store):
    """What does not fit anywhere is refused in words, and nothing of it stays."""
    _chain(store, *[str(number) for number in range(129)])
    _use_style(store, "absolute")

    with pytest.raises(OSError, match="more than"):
        store.get("128")
    assert "merged" not in _files(store, "128")
    check_settled(store)
    _use_style(store, "new")
    assert store.get("128").is_mount()


LONG = "long/" + "/".join(["x" * 100] * 4)
AWKWARD = [
    "with space",
    "colon:and,comma",
    "back\\slash",
    "ünï→код",
    "quote\"and'",
    "new\nline",
    LONG,
]


@pytest.mark.parametrize("name", AWKWARD, ids=lambda name: name[:12].replace("\n", " "))
def test_home_may_have_an_awkward_path(bare, name):
    """Spaces, separators, quotes, backslashes, odd letters and great length are fine in a home's path."""
    home = bare / name
    home.parent.mkdir(parents=True, exist_ok=True)
    Store.initialize(home)
    with Store.open(home) as store:
        _chain(store, "a", "b", "c")
        with store.mounted("c") as path, store.mounted("b") as below:
            (path / "new").touch()
            assert ["a", "b", "new"] == sorted(os.listdir(path))
            assert ["a", "b"] == sorted(os.listdir(below))
            assert ["b", "c"] == mounted(home)
        assert ["new"] == os.listdir(home / "c/diff")
        check_settled(store)
        store.get("c", holder="cli")
    with Store.open(home) as store:
        assert True is store.put("c", holder="cli")
        store.remove("c")
        check_settled(store)


def test_home_through_a_symbolic_link(bare):
    """A home that is reached through a link is the real one, in paths and in the mount table."""
    (bare / "real").mkdir()
    (bare / "link").symlink_to("real")
    Store.initialize(bare / "link/home")

    with Store.open(bare / "link/home") as store:
        _chain(store, "a", "b")
        assert bare / "real/home/b/merged" == store.get("b")
        assert (f"{bare}/real/home/l/{store.layer('a').link}",) == store.lower_dirs("b")
        with Store.open(bare / "real/home") as other:
            assert other.get("b") == store.get("b")
        check_settled(store)


# --- remove -------------------------------------------------------------------------------------


def test_remove_takes_everything(store):
    """A removed layer leaves no directory, no link and no row; its parent stays committed."""
    _chain(store, "a", "b")
    store.get("b")
    (store.home / "b/merged/file").write_text("x")

    store.remove("b")
    assert [".layerstore", "a", "l"] == sorted(os.listdir(store.home))
    assert [store.layer("a").link] == list(links(store.home))
    assert not store.exists("b")
    assert (store.home / "a/committed").exists()
    assert [] == mounted(store.home)
    check_settled(store)


def test_remove_refuses_a_parent(store):
    """A layer with children is not removed, and the refusal names them."""
    _chain(store, "a", "b")
    before = snapshot(store.home), index(store.home)

    with pytest.raises(HasChildren, match="has children: b"):
        store.remove("a")
    assert before == (snapshot(store.home), index(store.home))


def test_remove_refuses_holders_other_than_the_caller(store):
    """Another's hold stands in the way; the caller's own holds do not."""
    _chain(store, "a", "b")
    store.get("b")
    store.get("b", holder="docker")

    with pytest.raises(LayerHeld, match="held by docker"):
        store.remove("b")
    assert 2 == sum(hold.count for hold in store.holders("b"))
    assert ["b"] == mounted(store.home)
    store.put("b", holder="docker")
    store.remove("b")
    assert () == store.holders()
    check_settled(store)


def test_remove_resets_the_count(store):
    """A layer that is made anew under an id begins without holds and without a mount."""
    _chain(store, "a", "b")
    for _ in range(3):
        store.get("b")
    store.remove("b")

    store.create("b", parent="a")
    assert () == store.holders("b")
    assert [] == mounted(store.home)
    assert store.get("b").is_mount()
    assert True is store.put("b")


def test_recreated_layer_is_a_new_one(store):
    """The same id gets another link, and nothing of the old content."""
    first = store.create("a")
    (store.home / "a/diff/old").touch()
    store.remove("a")

    assert first.link != store.create("a").link
    assert [] == os.listdir(store.home / "a/diff")


def test_remove_takes_what_is_hard_to_take(store):
    """Whiteouts, immutable modes, odd names and deep trees go with the layer."""
    _chain(store, "a", "b")
    with store.mounted("b") as path:
        os.unlink(path / "a")
        deep = path
        for _ in range(60):
            deep = deep / ("d" * 80)
            os.mkdir(deep)
            if len(str(deep)) > 3500:
                break
        (path / "odd\nname").touch()
        (path / "locked").mkdir(mode=0)
    store.remove("b")
    assert [] == os.listdir(store.home / layout.TRASH)


# --- cleanup and release ------------------------------------------------------------------------


def test_cleanup_unmounts_what_the_journal_mounted(store):
    """Everything that this store mounted is unmounted, whoever holds it."""
    _chain(store, "a", "b", "c")
    store.create("d", parent="a")
    store.get("c")
    store.get("b", holder="docker")
    store.get("d")
    store.put("d")

    assert ("b", "c") == store.cleanup()
    assert [] == mounted(store.home)
    assert () == store.holders()
    check_settled(store)
    assert () == store.cleanup()


def test_cleanup_leaves_the_home_and_others_alone(bare):
    """A home that is a mount point stays, and so does what somebody else mounted below it."""
    home = bare / "home"
    home.mkdir()
    run("mount", "-t", "tmpfs", "tmpfs", home)
    Store.initialize(home)
    with Store.open(home) as store:
        _chain(store, "a", "b")
        store.create("c", parent="a")
        for name in ("l1", "l2", "theirs"):
            (bare / name).mkdir()
        (home / "c/diff/place").mkdir()
        for place in (bare / "theirs", home / "c/diff/place"):
            lower = f"lowerdir={bare}/l1:{bare}/l2"
            run("mount", "-t", "overlay", "overlay", "-o", lower, place)
        store.get("b")

        assert ("b",) == store.cleanup()
        assert home.is_mount()
        assert [f"{home}/c/diff/place"] == [entry.mount_point for entry in mounts_below(str(home))]
        assert (bare / "theirs").is_mount()


def test_cleanup_goes_on_past_a_layer_that_is_busy(home, worker):
    """A layer that another process is at does not keep the others mounted; the error comes at the end."""
    other = worker(home)
    for name, parent in (("a", None), ("b", "a"), ("c", "a")):
        other.do(f"store.create({name!r}, parent={parent!r}).id")
    other.do("str(store.get('b'))")
    other.do("str(store.get('c'))")
    other.do("stop_at('unmount:intent:after')")
    other.send("store.put('b')")
    other.stopped()

    with Store.open(home, timeout=0.05) as store:
        with pytest.raises(Busy, match="Layer b has a unmount in flight"):
            store.cleanup()
        assert ["b"] == [mount.layer for mount in store.mounts()]
    other.go_on()
    assert True is other.value()
    assert [] == mounted(home)


@pytest.mark.parametrize("label", ['a"b', "a\nb", "a\0b"])
def test_bad_mount_labels_are_refused(store, label):
    """A label that could break out of its quotes is refused, by create and by get."""
    store.create("a")
    store.create("b", parent="a")
    with pytest.raises(InvalidArgument, match="cannot be a mount label"):
        store.create("c", mount_label=label)
    with pytest.raises(InvalidArgument, match="cannot be a mount label"):
        store.get("b", mount_label=label)
    check_settled(store)


def test_mount_label_that_the_kernel_refuses(store):
    """A get with a label says that this kernel has no SELinux, and leaves nothing."""
    store.create("a")
    store.create("b", parent="a", mount_label="no such context")

    before = store.last_seq()
    with pytest.raises(LayerstoreError, match="this kernel has no SELinux"):
        store.get("b")
    with pytest.raises(LayerstoreError, match="'given'"):
        store.get("b", mount_label="given")
    assert before == store.last_seq()
    assert "merged" not in _files(store, "b")
    check_settled(store)


@pytest.mark.parametrize("verb", ["put", "remove", "cleanup"])
def test_unmounting_is_aware_of_paths(store, verb):
    """A layer whose id begins with that of another keeps its mount when the other one goes."""
    store.create("base")
    for name in ("ab", "abc", "ab.c"):
        store.create(name, parent="base")
        store.get(name)

    if verb == "cleanup":
        store.get("abc", holder="cli")
        store.put("abc")
    getattr(store, verb)(*(["ab"] if verb != "cleanup" else []))
    left = [] if verb == "cleanup" else ["ab.c", "abc"]
    assert left == mounted(store.home)


def test_release_ends_a_name(store):
    """All holds of a name that never returns end, and what nobody holds then is unmounted."""
    _chain(store, "a", "b")
    store.create("c", parent="a")
    for layer in ("b", "b", "c", "a"):
        store.get(layer, holder="gone")
    store.get("c")

    assert ("a", "b", "c") == store.release("gone")
    assert ["c"] == mounted(store.home)
    assert ["c"] == [hold.layer for hold in store.holders()]
    with pytest.raises(UnknownHolder, match="gone"):
        store.release("gone")
    check_settled(store)


# --- closing and reopening ----------------------------------------------------------------------


def test_close_gives_holds_back(home):
    """Closing ends this owner's holds and unmounts; a named hold and its mount stay."""
    with Store.open(home) as store:
        _chain(store, "a", "b")
        store.create("c", parent="a")
        store.get("b")
        store.get("b")
        store.get("a")
        store.get("c", holder="cli")
        assert ["b", "c"] == mounted(home)

    assert ["c"] == mounted(home)
    with Store.open(home) as store:
        assert () == store.settled
        assert [("c", "cli")] == [(hold.layer, hold.holder) for hold in store.holders()]
        assert True is store.put("c", holder="cli")
        check_settled(store)
    assert [] == findings(home)


def test_closed_store_refuses_everything(home):
    """A closed store says that it is closed, to verbs and questions; closing again is fine."""
    store = Store.open(home)
    store.create("a")
    store.close()
    store.close()

    for call in (store.get, store.put, store.remove, store.create, store.layer, store.holders):
        with pytest.raises(StoreClosed):
            call("a")
    with pytest.raises(StoreClosed):
        store.cleanup()


def test_close_that_cannot_unmount_is_no_clean_end(home):
    """Holds that could not be given back at the close are given back by the next open."""
    store = Store.open(home)
    _chain(store, "a", "b")
    store.get("b")

    def hook(point):
        if point == "unmount:intent:before":
            raise OSError(errno.EIO, "no")

    with traced(hook), pytest.raises(OSError, match="no"):
        store.close()
    assert ["b"] == mounted(home)
    with Store.open(home) as again:
        assert () == again.holders()
        assert [] == mounted(home)
        check_settled(again)


def test_reopening_finds_everything(home):
    """What was created is there after reopening, with the same links, parents and times."""
    with Store.open(home) as store:
        _chain(store, "a", "b", "c")
        before = list(store.layers())

    with Store.open(home) as store:
        assert before == list(store.layers())
        assert ["c", "b", "a"] == [store.layer("c").id, *(x.id for x in store.ancestors("c"))]


def test_two_stores_in_one_process(home):
    """One home may be open twice in a process: one mount, one count, two owners."""
    with Store.open(home) as one, Store.open(home) as two:
        _chain(one, "a", "b")
        one.get("b")
        two.get("b")
        assert 1 == len(overlays(home))
        assert 2 == len(one.holders("b"))
        with pytest.raises(LayerHeld, match="owner:"):
            two.remove("b")
        assert [False, True] == [one.put("b"), two.put("b")]
        assert 2 == len(one.owners())


def test_verb_inside_a_verb_is_refused(store):
    """A verb that is called while its thread is inside another is refused instead of waiting for itself."""
    _chain(store, "a", "b")
    said = []

    def hook(point):
        if point.startswith("remove:intent:after"):
            with pytest.raises(Exception, match="inside another one") as caught:
                store.get("b")
            said.append(caught.value)

    with traced(hook):
        store.remove("b")
    assert 1 == len(said)


def test_durability_decides_what_is_synced(home):
    """Under `full` files, directories and outcomes are synced; under `process` none is."""
    with Store.open(home) as store:
        full = points_of(lambda: _chain(store, "a", "b"))
        assert "full" == store.status().durability
    with Store.open(home, durability="process") as store:
        process = points_of(lambda: _chain(store, "c", "d"))
        assert "process" == store.status().durability

    def syncs(points):
        return [point for point in points if "Sync" in point and "before" in point]

    assert 9 == len(syncs(full))
    assert [] == syncs(process)


def test_the_mark_of_a_parent_is_not_waited_for(home, monkeypatch):
    """No create syncs it; one that finds it gone writes it anew."""
    synced = []

    def fsync(descriptor):
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        really(descriptor)

    really = os.fsync
    monkeypatch.setattr(os, "fsync", fsync)
    mark = home / "base" / layout.COMMITTED
    with Store.open(home) as store:
        store.create("base")
        synced.clear()
        store.create("a", parent="base")
        assert mark.exists()
        mark.unlink()
        store.create("b", parent="base")
        assert mark.exists()
    assert str(home) in synced
    assert {str(mark), str(mark.parent)}.isdisjoint(synced)


def test_durability_must_be_known(home):
    """A durability that does not exist is refused."""
    with pytest.raises(InvalidArgument, match="perhaps"):
        Store.open(home, durability="perhaps")


def test_layer_knows_whether_it_is_durable(home):
    """A layer is durable after a create under `full`, and no more once it was mounted read-write."""
    with Store.open(home) as store:
        _chain(store, "a", "b", "c")
        assert [True] * 3 == [layer.durable for layer in store.layers()]
        store.get("b")
        assert store.layer("b").durable
        store.get("c")
        assert not store.layer("c").durable
    with Store.open(home, durability="process") as store:
        assert not store.create("d", parent="b").durable


def test_status_reports_the_kernel(store):
    """`status` says what the home's file system can do, and which SQLite is at work."""
    status = store.status()

    assert str(store.home) == status.home
    assert True is status.probes["overlay"]
    assert True is status.probes["d_type"]
    assert engine.SQLITE_VERSION == status.sqlite
    assert ("wal", 128) == (status.journal_mode, status.max_depth)


def test_metadata_uses_dockers_names(store):
    """`metadata` names upper, work, merged, and the resolved lowers where there are any."""
    _chain(store, "a", "b", "c")
    home = store.home

    assert {
        "LowerDir": f"{home}/b/diff:{home}/a/diff",
        "UpperDir": f"{home}/c/diff",
        "WorkDir": f"{home}/c/work",
        "MergedDir": f"{home}/c/merged",
    } == store.metadata("c")
    assert "LowerDir" not in store.metadata("a")


def test_hold_says_who_took_it(store):
    """A hold names the process that took it, and since when."""
    store.create("a")
    store.get("a", holder="cli")

    (hold,) = store.holders("a")
    assert os.getpid() == hold.taken_by.pid
    assert hold.since == store.history("a")[-1].at


def test_removal_effect_foretells(store):
    """What stands in the way of a removal, and what it would free, is said before."""
    _chain(store, "a", "b")
    store.get("b", holder="cli")

    above, below = store.removal_effect("b"), store.removal_effect("a")
    assert (("cli holds it (1)",), True, "a") == (
        above.blocked_by,
        above.mounted,
        above.frees_parent,
    )
    assert ("b",) == below.children
    store.put("b", holder="cli")
    assert () == store.removal_effect("b").blocked_by


def test_state_at_tells_the_past(store):
    """The store as it was at any event is folded from the journal."""
    _chain(store, "a", "b")
    middle = store.last_seq()
    store.get("b", holder="cli")
    store.put("b", holder="cli")
    store.remove("b")

    past = store.state_at(middle)
    assert ["a", "b"] == [layer.id for layer in past.layers]
    assert () == past.holds
    assert ["a"] == [layer.id for layer in store.state_at(store.last_seq()).layers]


def test_draining_layer_is_refused_until_it_is_free(store):
    """After a put of a layer that is still used, the next get is refused in words until the user ends."""
    _chain(store, "a", "b")
    path = store.get("b")
    (path / "file").touch()
    descriptor = os.open(path / "file", os.O_RDWR)

    assert True is store.put("b")
    assert store.layer("b").draining
    for verb in (store.get, store.remove):
        with pytest.raises(Busy, match=rf"b is still in use by the kernel: process {os.getpid()}"):
            verb("b")
    assert [] == findings(store.home)
    os.close(descriptor)
    assert store.get("b").is_mount()
    assert not store.layer("b").draining
