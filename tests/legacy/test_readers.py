"""What is read of the records of Docker and containers/storage, and what is made of damaged ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from layerstore import legacy
from layerstore.errors import InvalidArgument, NoStore, Refused
from layerstore.legacy import bbolt, detecting, docker, manifest
from layerstore.legacy.manifest import Role, Source
from tests.legacy.trees import (
    BASE,
    CACHE,
    GONE,
    LONE,
    MID,
    SIDE,
    TOP,
    docker_tree,
    hexed,
    podman_tree,
    put_layer,
    snapshot,
    snapshots,
    write,
)  # fmt: skip


def read(path: Path, **wanted: str) -> manifest.Manifest:
    """The manifest of what lies at a path."""
    return legacy.read(detecting.detect(str(path), **wanted))


# --- Docker ---------------------------------------------------------------------------------------


def test_docker_layers_have_their_parents_and_digests(tmp_path: Path) -> None:
    """Each record of Docker's names a directory, the parent of that, and what was recorded of it."""
    tree = docker_tree(tmp_path)
    found = read(tmp_path)
    by_layer = found.by_layer()
    (mid,) = by_layer[MID]
    assert (Source.LAYERDB, BASE, tree.diff_id(MID), 64, tree.chains[MID]) == (
        mid.source, mid.parent, mid.diff_id, mid.size, mid.name,
    )  # fmt: skip
    assert by_layer[BASE][0].parent is None
    assert [Source.REMOVING] == [record.source for record in by_layer[GONE]]
    box = hexed("layer of box")
    assert (Role.CONTAINER, f"{box}-init") == (by_layer[box][0].role, by_layer[box][0].parent)
    assert (Role.INIT, TOP) == (by_layer[f"{box}-init"][0].role, by_layer[f"{box}-init"][0].parent)
    assert () == found.troubles
    assert {BASE, MID, TOP, SIDE, LONE, GONE, box, f"{box}-init"} == set(by_layer)


def test_docker_images_and_containers_have_their_layers(tmp_path: Path) -> None:
    """An image has the directories of its layers, the lowest first; a container has its own two."""
    docker_tree(tmp_path)
    found = read(tmp_path)
    assert {("one:1",): (BASE, MID, TOP), ("two:1",): (BASE, SIDE)} == {
        image.names: image.layers for image in found.images
    }
    (box,) = found.containers
    layer = hexed("layer of box")
    assert ("box", (layer, f"{layer}-init"), False) == (box.name, box.layers, box.running)


def test_docker_under_another_drivers_name(tmp_path: Path) -> None:
    """The driver's name is a parameter: a dockerd whose driver is a plugin records the same."""
    docker_tree(tmp_path, "layerstore")
    found = read(tmp_path)
    assert ("layerstore", str(tmp_path / "layerstore")) == (found.driver, found.home)
    assert 8 == len(found.records)


def test_interrupted_pulls_name_their_layer(tmp_path: Path) -> None:
    """What a pull that was killed left says which directory it was making, if it had come so far."""
    tree = docker_tree(tmp_path)
    write(tree.layerdb / "tmp/write-set-1/cache-id", hexed("orphan"))
    (tree.layerdb / "tmp/write-set-2").mkdir()
    (record,) = read(tmp_path).by_layer()[hexed("orphan")]
    assert (Source.WRITE_SET, "write-set-1") == (record.source, record.name)


@pytest.mark.parametrize(
    ("path", "text", "hides"),
    [
        ("cache-id", None, True),
        ("cache-id", "", True),
        ("cache-id", "\0" * 64, True),
        ("cache-id", "../../etc", True),
        ("parent", "", False),
        ("diff", None, False),
    ],
)
def test_a_damaged_record_is_a_trouble(
    tmp_path: Path, path: str, text: str | None, hides: bool
) -> None:
    """What a power cut left of a record is said, and whether it is still known whose it was."""
    tree = docker_tree(tmp_path)
    file = tree.record_of(MID) / path
    file.unlink()
    if text is not None:
        file.write_text(text)
    found = read(tmp_path)
    assert str(file) in {trouble.path for trouble in found.troubles}
    assert hides == bool(found.hidden)


def test_an_image_says_which_layers_it_lacks(tmp_path: Path) -> None:
    """An image of which a layer has no record names the others, and the chain id of that one."""
    tree = docker_tree(tmp_path)
    tree.record_of(MID).joinpath("cache-id").unlink()
    (image,) = (image for image in read(tmp_path).images if image.names == ("one:1",))
    assert ((BASE, TOP), (tree.chains[MID],)) == (image.layers, image.missing)


def test_a_config_that_is_not_what_its_name_says_is_a_trouble(tmp_path: Path) -> None:
    """The name of a config is its digest: what a disk made of it is not believed."""
    tree = docker_tree(tmp_path)
    file = next((tree.image_root / "imagedb/content/sha256").iterdir())
    file.write_text("{}")
    found = read(tmp_path)
    assert [str(file)] == [trouble.path for trouble in found.troubles]
    assert 1 == len(found.images)


def test_a_container_without_a_mount_hides_a_layer(tmp_path: Path) -> None:
    """Nothing else says which directory the container has."""
    tree = docker_tree(tmp_path)
    (mount,) = (tree.layerdb / "mounts").iterdir()
    for file in mount.iterdir():
        file.unlink()
    mount.rmdir()
    assert 1 == len(read(tmp_path).hidden)


# --- BuildKit -------------------------------------------------------------------------------------


def test_buildkit_of_a_real_docker(tmp_path: Path) -> None:
    """The database that a real Docker wrote gives every directory, with the parents of those that have one."""
    tree = docker_tree(tmp_path)
    path = tmp_path / "buildkit/snapshots.db"
    path.parent.mkdir()
    path.write_bytes(snapshots())
    by_layer = read(tmp_path).by_layer()
    cache = {name: records for name, records in by_layer.items() if len(name) == 25}
    assert {
        "1jvd7uug68o1w1bcuxuo0jz4v", "bd2bg0m3vnxfr9us02sp11pb8", "bymsxel322jxffza7eofsqo5k",
        "gcrkn10mfa16qcas7u5rjosr7", "gvxl2twu184tci2o902to52sb", "wedmdo3y4fvp67kun2x0xqtfy",
        "zfntqu1e6ai4yp9duxoss8mmv",
    } <= set(cache)  # fmt: skip
    parents = {record.parent for record in cache["1jvd7uug68o1w1bcuxuo0jz4v"]}
    assert "wedmdo3y4fvp67kun2x0xqtfy" in parents
    assert all(record.source is Source.BUILDKIT for records in cache.values() for record in records)
    del tree


@pytest.mark.parametrize("data", [b"", b"garbage" * 2000, bytes(32768)])
def test_a_buildkit_that_cannot_be_read_keeps_everything_of_its_shape(
    tmp_path: Path, data: bytes
) -> None:
    """Nobody knows what is build cache then, so that whatever looks like it is kept."""
    tree = docker_tree(tmp_path)
    put_layer(tree.home, CACHE)
    write(tmp_path / "buildkit/snapshots.db", "").write_bytes(data)
    found = read(tmp_path)
    assert ("buildkit",) == found.kept_shapes
    assert 1 == len(found.troubles)


def test_bbolt_is_never_read_wrongly(tmp_path: Path) -> None:
    """Cut off anywhere, or with any page destroyed, it is Damaged, or has as many keys: it is no older state."""
    whole = snapshots()
    path = tmp_path / "snapshots.db"
    path.write_bytes(whole)
    expected = {key: bucket.values() for key, bucket in bbolt.read(str(path)).buckets()}
    assert len(expected) > 10
    refused = 0
    damaged = [whole[:size] for size in range(0, len(whole), 1024)]
    for page in range(0, len(whole), 4096):
        for at in (0, 8, 10, 16, 20, 24, 32, 60):
            damaged.append(whole[: page + at] + b"\xff" * 4 + whole[page + at + 4 :])
    for data in damaged:
        path.write_bytes(data)
        try:
            found = {key: bucket.values() for key, bucket in bbolt.read(str(path)).buckets()}
        except (bbolt.Damaged, legacy.quietly.Unreadable):
            refused += 1
            continue
        assert len(found) == len(expected)
    assert refused > 10


# --- containers/storage ---------------------------------------------------------------------------


def test_containers_storage_layers(tmp_path: Path) -> None:
    """Stable and volatile layers are read, with names and digests; one that is half made says so."""
    podman_tree(tmp_path)
    found = read(tmp_path)
    by_layer = found.by_layer()
    mid = by_layer[MID][0]
    assert (BASE, f"sha256:{hexed('mid')}", 64, ("middle",)) == (
        mid.parent, mid.diff_id, mid.size, mid.names,
    )  # fmt: skip
    assert Source.INCOMPLETE is by_layer[GONE][0].source
    assert Role.CONTAINER is by_layer[hexed("box")][0].role
    (image,) = found.images
    assert ((BASE, MID, TOP), ("localhost/one:1",)) == (image.layers, image.names)
    (container,) = found.containers
    assert ("box", (hexed("box"),)) == (container.name, container.layers)
    assert () == found.troubles


def test_what_is_mounted_is_read_of_the_run_root(tmp_path: Path) -> None:
    """The run root says what is mounted, if it is told where that is."""
    podman_tree(tmp_path / "graph")
    path = tmp_path / "run/overlay-layers/mountpoints.json"
    write(path, json.dumps([{"id": LONE, "count": 1}, {"id": MID, "count": 0}]))
    found = detecting.detect(str(tmp_path / "graph"))
    sources = legacy.read(found, run_root=str(tmp_path / "run")).by_layer()
    assert [Source.LAYERS, Source.RUNNING] == [record.source for record in sources[LONE]]
    assert [Source.LAYERS] == [record.source for record in sources[MID]]


@pytest.mark.parametrize("text", [None, "", "[", "{}", "\0\0\0\0"])
def test_lost_records_hide_layers(tmp_path: Path, text: str | None) -> None:
    """An empty `layers.json` is no empty list: it is one that was lost."""
    tree = podman_tree(tmp_path)
    path = tree.root / "overlay-layers/layers.json"
    path.unlink()
    if text is not None:
        path.write_text(text)
    assert [str(path)] == [trouble.path for trouble in read(tmp_path).hidden]


def test_a_cycle_in_the_records_ends(tmp_path: Path) -> None:
    """Records by which a layer is below itself are read all the same."""
    tree = podman_tree(tmp_path)
    path = tree.root / "overlay-layers/layers.json"
    entries = json.loads(path.read_text())
    entries[0]["parent"] = TOP
    path.write_text(json.dumps(entries))
    (image,) = read(tmp_path).images
    assert {BASE, MID, TOP} == set(image.layers)


def _composefs(root: Path) -> None:
    (root / "overlay" / MID / "composefs-data").mkdir()


def _additional(root: Path) -> None:
    write(root / "overlay" / MID / "additionallayer", "/somewhere")


def _program(root: Path) -> None:
    write(root / "overlay/.has-mount-program", "true")


@pytest.mark.parametrize(
    ("change", "word"),
    [(_composefs, "composefs"), (_additional, "additional"), (_program, "fuse-overlayfs")],
)
def test_unusual_forms_are_refused_with_a_word(
    tmp_path: Path, change: Callable[[Path], None], word: str
) -> None:
    """What has no place in a tree of plain overlays is detected, and said."""
    podman_tree(tmp_path)
    change(tmp_path)
    with pytest.raises(Refused, match=word):
        read(tmp_path)


# --- what lies at a path --------------------------------------------------------------------------


def test_kinds_are_told_by_what_is_there(tmp_path: Path) -> None:
    """Docker's root, podman's, and the layers in them are told, and a link to them is followed."""
    tree = docker_tree(tmp_path / "docker")
    podman = podman_tree(tmp_path / "podman")
    (tmp_path / "link").symlink_to(tree.home)
    for path in (tree.root, tree.home, tmp_path / "link"):
        assert ("docker", str(tree.home)) == _kind(path)
    for path in (podman.root, podman.home):
        assert ("containers-storage", str(podman.home)) == _kind(path)


def _kind(path: Path) -> tuple[str, str]:
    found = detecting.detect(str(path))
    return found.kind, found.home


def test_the_old_driver_is_named_and_not_read(tmp_path: Path) -> None:
    """Docker's old driver is recognised, with and without its records."""
    for word in ("a", "b"):
        (tmp_path / "overlay" / hexed(word)).mkdir(parents=True)
    (tmp_path / "overlay" / hexed("a") / "root").mkdir()
    write(tmp_path / "overlay" / hexed("b") / "lower-id", hexed("a"))
    for records in (False, True):
        if records:
            (tmp_path / "image/overlay/layerdb").mkdir(parents=True)
        assert "overlay" == detecting.detect(str(tmp_path)).kind
        with pytest.raises(Refused, match="old driver"):
            read(tmp_path)


def test_several_trees_in_one_root_have_to_be_chosen(tmp_path: Path) -> None:
    """Where there are several, --driver says which; what is not there is said with what is."""
    docker_tree(tmp_path)
    docker_tree(tmp_path, "layerstore")
    with pytest.raises(Refused, match="several"):
        read(tmp_path)
    assert "layerstore" == read(tmp_path, driver="layerstore").driver
    with pytest.raises(NoStore) as caught:
        read(tmp_path, kind="overlay")
    assert "overlay2" in caught.value.hint
    with pytest.raises(InvalidArgument):
        read(tmp_path, kind="zfs")


def test_a_remapped_root_is_said(tmp_path: Path) -> None:
    """With userns-remap the trees are one level below, and that is said."""
    docker_tree(tmp_path / "100000.100000")
    with pytest.raises(NoStore) as caught:
        read(tmp_path)
    assert "100000.100000" in caught.value.hint
    assert 8 == len(read(tmp_path / "100000.100000").records)


def test_nothing_known_is_said(tmp_path: Path) -> None:
    """A directory that is nobody's tree, and one that is not there, are two errors with words."""
    with pytest.raises(NoStore, match="no data root"):
        read(tmp_path)
    with pytest.raises(NoStore, match="no directory"):
        read(tmp_path / "nowhere")


# --- manifests ------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [docker_tree, podman_tree])
def test_reading_changes_nothing(tmp_path: Path, make: Callable[[Path], object]) -> None:
    """Not a byte, a time or an attribute of a tree is another one after it was read."""
    make(tmp_path)
    before = snapshot(tmp_path)
    read(tmp_path)
    assert before == snapshot(tmp_path)


@pytest.mark.parametrize("make", [docker_tree, podman_tree])
def test_a_manifest_goes_through_json(tmp_path: Path, make: Callable[[Path], object]) -> None:
    """What is written as JSON is read as the same manifest; anything else is refused."""
    make(tmp_path)
    found = read(tmp_path)
    document = json.loads(json.dumps(manifest.to_json(found)))
    assert found == manifest.from_json(document)
    wrongs: list[object] = [{}, document | {"version": 2}, document | {"more": 1}, []]
    for wrong in wrongs:
        with pytest.raises(ValueError):
            manifest.from_json(wrong)


def test_chain_ids_are_dockers() -> None:
    """The chain id of one layer is its digest; that of two is known from an image of Docker's."""
    one = "sha256:" + "a" * 64
    assert (one,) == docker.chain_of((one,))
    assert 3 == len(set(docker.chain_of((one, one, one))))
