"""What the builders write is what they say, to the readers of such trees and to the audit."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from layerstore import legacy
from layerstore.audit import audit
from layerstore.audit.tarsplit import crc64
from layerstore.legacy import bbolt as reading
from layerstore.legacy import detecting
from layerstore.legacy.manifest import Manifest, Source
from layerstore.testing import (
    Built,
    Container,
    Layer,
    State,
    assert_same,
    containers_storage_tree,
    docker_tree,
    inflict,
    old_overlay_tree,
    podman_tree,
    snapshot,
)
from layerstore.testing import bbolt as writing
from layerstore.testing.damages import COMBINED
from layerstore.testing.docker import VERSIONS
from tests.testing import description as d

pytestmark = pytest.mark.root


PARENTLESS = (Source.REMOVING, Source.WRITE_SET, Source.RUNNING)
"""Records that do not say of which parent."""


def read(tree: Built) -> Manifest:
    """What the readers make of it."""
    run_root = str(tree.run_root) if tree.run_root else None
    return legacy.read(detecting.detect(str(tree.root)), run_root=run_root)


def require_read_as_built(tree: Built, manifest: Manifest) -> None:
    """Every record has the parent, every image the layers, every container the layer that was built."""
    by_layer = manifest.by_layer()
    assert () == manifest.troubles
    for layer, records in by_layer.items():
        for record in records:
            silent = record.source is Source.BUILDKIT and len(records) > 1  # layerdb says it
            if record.source not in PARENTLESS and not silent:
                assert tree.parents[layer] == record.parent, record
    names = {directory: name for name, directory in tree.layers.items()}
    described = {layer.name: layer for layer in d.LEFT_BY_DOCKER}
    for image in d.IMAGES:
        found = next(i for i in manifest.images if i.id == tree.images[image.name])
        chain = [described[image.layer]]
        while chain[0].parent:
            chain.insert(0, described[chain[0].parent])
        assert [layer.name for layer in chain] == [names[layer] for layer in found.layers]
        assert () == found.missing
    built = {c.name: c for c in manifest.containers}
    assert {c.name for c in d.CONTAINERS} == set(built)
    for name, container in built.items():
        assert tree.layers[name] == container.layers[0]
        assert tree.containers[name] == container.id


@pytest.mark.parametrize("remapped", [False, True])
@pytest.mark.parametrize("version", [*VERSIONS, "20.10", "27.1.2"])
def test_a_docker_tree(bare: Path, version: str, remapped: bool) -> None:
    """Of each version: read as it was described, and an audit has nothing to say."""
    whole = {**d.WHOLE, "layers": d.LEFT_BY_DOCKER}
    tree = docker_tree(bare / "docker", **whole, version=version, remapped=remapped)
    assert () == audit(tree.home, any_tree=True).findings
    manifest = read(tree)
    require_read_as_built(tree, manifest)
    sources = {
        name: {r.source for r in manifest.by_layer().get(tree.layers[name], ())}
        for name in tree.layers
    }
    assert set() == sources["orphan"]
    assert {Source.REMOVING} == sources["condemned"]
    assert {Source.WRITE_SET} == sources["unfinished"]
    assert {Source.BUILDKIT} == sources["cache"]
    assert {Source.BUILDKIT, Source.LAYERDB} == sources["kit"]
    assert {Source.MOUNTS} == sources["web"] == sources["web-init"]
    assert (tree.home / tree.layers["base"] / "committed").exists() == (version != "18.03")
    owner = (tree.diff("base") / "etc/os").stat()
    assert (100_000 if remapped else 0) == owner.st_uid == owner.st_gid


def test_the_modes_of_homes(bare: Path) -> None:
    """Docker tightened them twice: 0700, then 0701, then 0710."""
    modes = []
    for version in VERSIONS:
        home = docker_tree(bare / version, layers=[Layer("a")], version=version).home
        modes.append(home.stat().st_mode & 0o777)
    assert [0o700, 0o700, 0o701, 0o710] == modes


@pytest.mark.parametrize("build", [podman_tree, containers_storage_tree])
@pytest.mark.parametrize("version", ["1.43", "1.59"])
def test_a_podman_tree(bare: Path, build: Callable[..., Built], version: str) -> None:
    """Read as it was described; the orphan is the only finding."""
    whole = {**d.WHOLE, "layers": d.LEFT_BY_PODMAN}
    tree = build(bare / "podman", **whole, version=version, volatile=["web"])
    found = [(f.code, f.layer) for f in audit(tree.home, any_tree=True).findings]
    codes = {code for code, layer in found if layer == tree.layers["orphan"]}
    assert {"unrecorded-layer"} == codes
    manifest = read(tree)
    require_read_as_built(tree, manifest)
    assert (tree.root / "overlay-layers/volatile-layers.json").exists()
    sources = {r.layer: r.source for r in manifest.records if r.source is not Source.RUNNING}
    assert Source.INCOMPLETE == sources[tree.layers["condemned"]]
    running = [r.layer for r in manifest.records if r.source is Source.RUNNING]
    assert [tree.layers["idle"]] == running


def test_digests_are_those_of_the_archives(bare: Path) -> None:
    """An image's config is its name, and the diff ids in it those of the layers; twice the same."""
    one, other = (docker_tree(bare / name, **d.WHOLE) for name in ("one", "other"))
    assert_same(one.root, other.root, times=False)
    for image, digest in one.images.items():
        path = one.root / "image/overlay2/imagedb/content/sha256" / digest.removeprefix("sha256:")
        data = path.read_bytes()
        assert f"sha256:{hashlib.sha256(data).hexdigest()}" == digest
        top = next(i.layer for i in d.IMAGES if i.name == image)
        assert one.diff_ids[top] == json.loads(data)["rootfs"]["diff_ids"][-1]
    assert 0xB90956C775A41001 == crc64(b"123456789")  # the catalogue's check value


def test_mounts_show_the_chain(bare: Path) -> None:
    """A container is writable and shows its image; an image is shown with what its layers hide."""
    with docker_tree(bare / "docker", **d.WHOLE) as tree:
        web, top = tree.mount("web"), tree.mount("top")
        assert ("new", "1") == ((web / "etc/os").read_text(), (web / "tmp/x").read_text())
        assert not (web / "srv/gone").exists()
        (web / "new").write_text("")
        assert ["only"] == [path.name for path in (top / "bin").iterdir()]
        with pytest.raises(OSError, match="Read-only"):
            (top / "new").write_text("")
    assert (tree.diff("web") / "new").exists()


def test_the_old_driver_is_recognised(bare: Path) -> None:
    """The old `overlay` has all files in each layer, and is refused by its name."""
    tree = old_overlay_tree(bare / "old", layers=d.LAYERS, containers={"web": "app"})
    assert "new" == (tree.home / tree.layers["app"] / "root/etc/os").read_text()
    assert not (tree.home / tree.layers["app"] / "root/srv/gone").exists()
    found = detecting.detect(str(tree.root))
    assert ("overlay", True) == (found.kind, "old driver" in found.refusal)


def test_other_forms_are_refused(bare: Path) -> None:
    """What lies beside a layer's files can be anything: composefs and additional stores are seen."""
    for name in ("composefs-data/composefs.blob", "additionallayer"):
        layer = Layer("base", beside={name: b"x"})
        tree = podman_tree(bare / name.partition("/")[0], layers=[layer])
        assert detecting.detect(str(tree.root)).refusal


@pytest.mark.parametrize("damage", COMBINED, ids=lambda damage: damage.name)
def test_any_damage_can_be_done_to_it(bare: Path, damage: object) -> None:
    """What is in the table is done to layers that fit, and found by its code."""
    name = damage.name  # type: ignore[attr-defined]
    tree = docker_tree(
        bare / "docker",
        layers=[*d.LAYERS, Layer("side", "base"), Layer("lone"), Layer("alone")],
        images=d.IMAGES,
    )
    done = inflict(name, tree.home)
    assert done.code in {f.code for f in audit(tree.home, any_tree=True).findings}


def test_a_damage_needs_a_layer_that_fits(bare: Path) -> None:
    """Where there is none, that is said, and nothing is done."""
    tree = docker_tree(bare / "docker", layers=[Layer("base")])
    before = snapshot(tree.root)
    with pytest.raises(ValueError, match="no layer that could be 'mid'"):
        inflict("link file gone", tree.home)
    with pytest.raises(ValueError, match="no damage is called"):
        inflict("nonsense", tree.home)
    assert_same(before, tree.root)


@pytest.mark.parametrize(
    ("description", "words"),
    [
        ({"layers": [Layer("a", parent="b")]}, "no layer before it"),
        ({"layers": [Layer("a"), Layer("a")]}, "two layers"),
        ({"images": [{"name": "i", "layer": "a"}]}, "no layer is called a"),
        ({"containers": [Container("c", "i")]}, "no image is called i"),
        ({"version": "17.06"}, "no layout of Docker"),
        ({"layers": [{"name": "a", "state": "odd"}]}, "odd"),
    ],
)
def test_descriptions_are_checked(bare: Path, description: dict, words: str) -> None:
    """A description that names what it has not is refused before anything is written."""
    with pytest.raises(ValueError, match=words):
        docker_tree(bare / "docker", **description)
    assert not (bare / "docker").exists()


def test_only_docker_has_a_build_cache(bare: Path) -> None:
    """A state that only Docker has is refused for containers/storage."""
    with pytest.raises(ValueError, match="only Docker"):
        podman_tree(bare, layers=[Layer("a", state=State.CACHE)])


@pytest.mark.parametrize("count", [0, 1, 3, 40, 700])
def test_a_bbolt_database_is_read_again(bare: Path, count: int) -> None:
    """Buckets within a leaf, in pages of their own, and under branches: everything is found."""
    items = {
        f"bucket{number:04}".encode(): {
            b"small": b"x" * (number % 50),
            b"large": b"y" * (number % 3 * 1500),
        }
        | ({b"inner": {b"deep": b"z"}} if number % 7 == 0 else {})
        for number in range(count)
    }
    writing.write(bare / "x.db", items)

    def plain(bucket: reading.Bucket) -> dict:
        return {k: v if isinstance(v, bytes) else plain(v) for k, v in bucket}

    assert items == plain(reading.read(str(bare / "x.db")))
