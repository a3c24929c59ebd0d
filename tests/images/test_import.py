"""Images become layers: the formats, sharing, choosing, going on after an interruption."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import tarfile
import threading
from pathlib import Path
from typing import Any

import pytest

from layerstore import Store
from layerstore.audit import audit
from layerstore.errors import DiskFull, InvalidImage, InvalidOption, LayerDiffers
from layerstore.fs import layout, syscalls
from layerstore.fs.trace import set_trace
from layerstore.images import Imported, export_image, import_image, model, records
from tests.fs.archive.trees import END, entry
from tests.images.build import (
    EMPTY,
    HERE,
    HIGH,
    LOW,
    OCI,
    PACKED,
    THERE,
    Layout,
    config_of,
    directory,
    docker,
    dumped,
    link,
    oci,
    sha,
    tar,
)

pytestmark = pytest.mark.root

LAYERS = [LOW, HIGH]
IDS = model.chain_ids([sha(LOW), sha(HIGH)])


def check(store: Store, done: Imported) -> None:
    """The two layers are there, with the content and the record that they should have."""
    assert IDS == [layer.id for layer in done.chain]
    assert [sha(LOW), sha(HIGH)] == [store.layer(layer.id).diff_id for layer in done.chain]
    assert IDS[0] == store.layer(IDS[1]).parent
    with store.mounted(done.layer) as path:
        assert {"etc", "top"} == set(os.listdir(path))
    assert b"low\n" == (store.home / IDS[0] / "diff/etc/os").read_bytes()
    (record,) = records.of_layer(store, done.layer)
    assert (done.config_digest, done.names) == (record.digest, record.names)


def test_chain_ids_are_those_of_the_specification() -> None:
    """The first is the DiffID, the next the digest of both."""
    one, two = sha(b"1"), sha(b"2")
    assert [one[7:], sha(f"{one} {two}".encode())[7:]] == model.chain_ids([one, two])


@pytest.mark.parametrize("packed", PACKED)
def test_an_oci_layout(home: Path, tmp_path: Path, packed: str) -> None:
    """As a tar and as a directory, with layers of each media type."""
    pack, kind = PACKED[packed]
    files = oci(LAYERS, pack=pack, kind=kind)
    with Store.open(home) as store:
        done = import_image(store, tar(tmp_path / "a.tar", files))
        assert all(layer.new for layer in done.chain)
        check(store, done)
        again = import_image(store, directory(tmp_path / "d", files))
        assert not any(layer.new for layer in again.chain)
        check(store, again)
    assert not audit(home).findings


def test_a_docker_archive(home: Path, tmp_path: Path) -> None:
    """In its old layout: as a tar, compressed as a whole, from a pipe, and as a directory."""
    files = docker(LAYERS, tags=["shop/web:1", "web:latest"])
    path = tar(tmp_path / "a.tar", files)
    compressed = tmp_path / "a.tar.gz"
    compressed.write_bytes(gzip.compress(path.read_bytes()))
    read, write = os.pipe()
    with Store.open(home) as store, open(read, "rb") as pipe:
        done = import_image(store, path)
        assert ("shop/web:1", "web:latest") == done.names
        check(store, done)
        assert done.layer == import_image(store, compressed).layer

        def send() -> None:
            with open(write, "wb") as end:
                end.write(path.read_bytes())

        sender = threading.Thread(target=send)
        sender.start()
        assert done.layer == import_image(store, pipe).layer
        sender.join()
        check(store, import_image(store, directory(tmp_path / "d", files)))


def test_a_layout_that_is_a_docker_archive_too(home: Path, tmp_path: Path) -> None:
    """What newer Dockers save: the names are in both places."""
    made = Layout()
    named: dict[str, Any] = {"annotations": {"io.containerd.image.name": "docker.io/library/web:1"}}
    files = made.whole(made.image(LAYERS, **named))
    config = next(x for x, data in files.items() if b"diff_ids" in data)
    files["manifest.json"] = dumped(
        [{"Config": config, "RepoTags": ["web:1"], "Layers": ["blobs/x", "blobs/y"]}]
    )
    with Store.open(home) as store:
        done = import_image(store, tar(tmp_path / "a.tar", files))
        check(store, done)
        assert ("web:1", "docker.io/library/web:1") == done.names


def test_links_in_the_outer_tar(home: Path, tmp_path: Path) -> None:
    """Docker and skopeo save a layer that is there twice as a link to the first."""
    files = docker([LOW, HIGH, LOW])
    del files["layer-2/layer.tar"], files["layer-1/layer.tar"]
    files["x/y"] = HIGH
    links = (link("layer-2/layer.tar", "../layer-0/layer.tar"), link("layer-1/layer.tar", "x/y"))
    links[1].type = tarfile.LNKTYPE
    with Store.open(home) as store:
        done = import_image(store, tar(tmp_path / "a.tar", files, *links))
        assert [sha(LOW), sha(HIGH), sha(LOW)] == [layer.diff_id for layer in done.chain]


def test_layers_are_shared(home: Path, tmp_path: Path) -> None:
    """What two images have in common is made once, and stays when an import of the other fails."""
    with Store.open(home) as store:
        import_image(store, tar(tmp_path / "a.tar", docker([LOW])))
        link_before = store.layer(IDS[0]).link
        done = import_image(store, tar(tmp_path / "b.tar", docker([LOW, HIGH, EMPTY])))
        assert [False, True, True] == [layer.new for layer in done.chain]
        assert link_before == store.layer(IDS[0]).link
        bad = docker([LOW, HIGH, EMPTY, HIGH])
        bad["layer-3/layer.tar"] = LOW
        with pytest.raises(InvalidImage, match="damaged or replaced"):
            import_image(store, tar(tmp_path / "c.tar", bad))
        assert 3 == len(list(store.layers()))


def test_two_configs_of_the_same_layers(home: Path, tmp_path: Path) -> None:
    """Both are remembered; the names of an image add up; what is gone is forgotten."""
    other = config_of(LAYERS, created="2020-01-01T00:00:00Z")
    with Store.open(home) as store:
        for tag in ("a:1", "b:1"):
            import_image(store, tar(tmp_path / "a.tar", docker(LAYERS, tags=[tag])))
        done = import_image(store, tar(tmp_path / "b.tar", docker(LAYERS, config=other)))
        found = records.of_layer(store, done.layer)
        assert {("a:1", "b:1"), ()} == {record.names for record in found}
        store.remove(IDS[1])
        assert [] == records.of_layer(store, done.layer)
        import_image(store, tar(tmp_path / "c.tar", docker([LOW])))
        assert 1 == len(list((home / layout.IMAGES).glob("*.json")))


# --- choosing -----------------------------------------------------------------------------------


def several() -> dict[str, bytes]:
    """An image for two platforms in a nested index, and attestations beside them."""
    made = Layout()
    here = made.image([LOW], platform=HERE)
    there = made.image([HIGH], platform=THERE, edit_config=lambda c: c.update(THERE))
    about = made.blob(
        {"schemaVersion": 2, "config": {}, "layers": []},
        f"{OCI}.manifest.v1+json",
        platform={"os": "unknown", "architecture": "unknown"},
        annotations={"vnd.docker.reference.digest": here["digest"]},
    )
    nested = made.blob(made.index([there, about, here]), f"{OCI}.index.v1+json")
    return made.whole(nested)


def test_a_platform_is_chosen(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine's by itself, another one by name; what is not there is said."""
    path = tar(tmp_path / "a.tar", several())
    real = os.uname()
    with Store.open(home) as store:
        monkeypatch.setattr(os, "uname", lambda: os.uname_result((*real[:4], "x86_64")))
        assert sha(LOW)[7:] == import_image(store, path).layer
        assert sha(HIGH)[7:] == import_image(store, path, platform="linux/s390x").layer
        with pytest.raises(InvalidImage, match=r"no image for linux/arm/v7") as error:
            import_image(store, path, platform="linux/arm/v7")
        assert "linux/s390x" in error.value.hint
        with pytest.raises(InvalidOption, match="no platform"):
            import_image(store, path, platform="s390x")
        monkeypatch.setattr(os, "uname", lambda: os.uname_result((*real[:4], "aarch64")))
        with pytest.raises(InvalidImage, match="no image for linux/arm64"):
            import_image(store, path)


def test_a_single_image_needs_no_platform(home: Path, tmp_path: Path) -> None:
    """It is imported for whichever machine it is, unless another one is asked for."""
    path = tar(tmp_path / "a.tar", docker([LOW], config=config_of([LOW]) | THERE))
    with Store.open(home) as store:
        assert "linux/s390x" == import_image(store, path).platform
        with pytest.raises(InvalidImage, match="no image for linux/amd64"):
            import_image(store, path, platform="linux/amd64")


def test_an_image_is_chosen_by_name(home: Path, tmp_path: Path) -> None:
    """By name, with or without its tag, or by the digest of its config."""
    files = docker([LOW], tags=["low:latest"])
    high = docker([LOW, HIGH], tags=["high:2"])
    entries = json.loads(files["manifest.json"]) + json.loads(high["manifest.json"])
    path = tar(tmp_path / "a.tar", {**files, **high, "manifest.json": dumped(entries)})
    with Store.open(home) as store:
        with pytest.raises(InvalidImage, match="2 images") as error:
            import_image(store, path)
        assert "low:latest (linux/amd64); high:2" in error.value.hint
        assert IDS[0] == import_image(store, path, name="low").layer
        assert IDS[1] == import_image(store, path, name="high:2").layer
        digest = entries[1]["Config"][:12]
        assert IDS[1] == import_image(store, path, name=digest).layer
        with pytest.raises(InvalidImage, match="no image called high in"):
            import_image(store, path, name="high")


# --- what is there already ------------------------------------------------------------------------


def test_what_an_interrupted_import_left_is_used(home: Path, tmp_path: Path) -> None:
    """A whole layer, an empty one, and one whose archive broke off."""
    path = tar(tmp_path / "a.tar", docker(LAYERS))
    with Store.open(home) as store:
        store.create(IDS[0])
        done = import_image(store, path)
        check(store, done)
        store.remove(IDS[1])
        store.create(IDS[1], parent=IDS[0])
        check(store, import_image(store, path))
        store.remove(IDS[1])
        store.create(IDS[1], parent=IDS[0])
        with pytest.raises(Exception, match="empty"):
            store.apply_diff(IDS[1], io.BytesIO(b""))
        check(store, import_image(store, path))


def test_another_layer_of_that_name_is_not_used(home: Path, tmp_path: Path) -> None:
    """One with another content or parent is refused, and left alone."""
    path = tar(tmp_path / "a.tar", docker(LAYERS))
    with Store.open(home) as store:
        store.create(IDS[0])
        store.apply_diff(IDS[0], io.BytesIO(HIGH))
        with pytest.raises(LayerDiffers, match=f"its content is {sha(HIGH)}"):
            import_image(store, path)
        store.remove(IDS[0])
        store.create(IDS[1])
        with pytest.raises(LayerDiffers, match="its parent is None"):
            import_image(store, path)
        assert [IDS[1]] == [layer.id for layer in store.layers()]


def test_what_was_written_to_is_compared(home: Path, tmp_path: Path) -> None:
    """A layer that was mounted for writing is used if it is as it was, and refused if not."""
    path = tar(tmp_path / "a.tar", docker(LAYERS))
    with Store.open(home) as store:
        import_image(store, path)
        with store.mounted(IDS[1]):
            pass
        assert not any(layer.new for layer in import_image(store, path).chain)
        with store.mounted(IDS[1]) as mounted:
            (mounted / "top").write_text("changed\n")
        with pytest.raises(LayerDiffers, match="was changed"):
            import_image(store, path)
        store.remove(IDS[1])
        check(store, import_image(store, path))


def test_after_the_database_was_lost(home: Path, tmp_path: Path) -> None:
    """The tree decides: adopted layers are compared and used, and the record is still there."""
    path = tar(tmp_path / "a.tar", docker(LAYERS, tags=["web:1"]))
    with Store.open(home) as store:
        import_image(store, path)
    for name in os.listdir(home / layout.OWN):
        if name.startswith("journal.db"):
            os.unlink(home / layout.OWN / name)
    Store.rebuild(home)
    with Store.open(home) as store:
        assert store.layer(IDS[1]).diff_id is None
        assert ["web:1"] == [x for record in records.listed(store) for x in record.names]
        assert not any(layer.new for layer in import_image(store, path).chain)


def test_imports_at_the_same_time(home: Path, tmp_path: Path) -> None:
    """Of the same image, by several threads: all of them have it in the end."""
    path = tar(tmp_path / "a.tar", docker([*LAYERS, EMPTY, HIGH]))
    done: list[str] = []
    with Store.open(home) as store:
        threads = [
            threading.Thread(target=lambda: done.append(import_image(store, path).layer))
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert 4 == len(done)
        assert 1 == len(set(done))
        assert 4 == len(list(store.layers()))
    assert not audit(home).findings


def test_a_layer_that_is_taken_away_meanwhile(home: Path, tmp_path: Path) -> None:
    """Another import that fails takes its layers away: this one makes them anew."""
    path = tar(tmp_path / "a.tar", docker(LAYERS))
    with Store.open(home) as store:
        import_image(store, tar(tmp_path / "b.tar", docker([LOW])))
        taken: list[str] = []

        def take(point: str) -> None:
            if point == "image:layers:before" and not taken:
                taken.append(point)
                store.remove(IDS[0])

        set_trace(take)
        try:
            done = import_image(store, path)
        finally:
            set_trace(None)
        assert taken
        check(store, done)
        assert all(layer.new for layer in done.chain)


def test_digests_of_another_kind(home: Path, tmp_path: Path) -> None:
    """A blob may be named by its sha512; a DiffID is always a sha256."""
    digest = hashlib.sha512(HIGH).hexdigest()
    path = tmp_path / "a.tar"
    for wrong in (False, True):
        files = oci(LAYERS, edit=lambda m: m["layers"][1].update(digest=f"sha512:{digest}"))
        files[f"blobs/sha512/{digest}"] = LOW[: len(HIGH)] if wrong else HIGH
        with Store.open(home) as store:
            if wrong:
                store.remove(IDS[1])
                with pytest.raises(InvalidImage, match=r"sha512/.* is not what its digest says"):
                    import_image(store, tar(path, files))
            else:
                check(store, import_image(store, tar(path, files)))


def test_progress_is_told(home: Path, tmp_path: Path) -> None:
    """Bytes read of the bytes of the layers that are missing, and files; it ends where it should."""
    told: list[tuple[int, int, int]] = []
    with Store.open(home) as store:
        import_image(
            store,
            tar(tmp_path / "a.tar", docker(LAYERS)),
            progress=lambda *so_far: told.append(so_far),
        )
    total = len(LOW) + len(HIGH)
    assert (total, total, 5) == told[-1]
    assert told == sorted(told)


def test_what_is_unpacked_is_hashed_once(home: Path, tmp_path: Path) -> None:
    """By the thread of the layer that is unpacked, and of no other, whatever it is packed with."""
    seen: set[int] = set()

    def told(*_: int) -> None:
        names = [thread.name for thread in threading.enumerate()]
        seen.add(names.count("layerstore-sha256"))

    with Store.open(home) as store:
        for pack, kind in PACKED.values():
            done = import_image(
                store,
                tar(tmp_path / "a.tar", oci(LAYERS, pack=pack, kind=kind)),
                progress=told,
            )
            for layer in reversed(done.chain):
                store.remove(layer.id)
    assert {1} == seen


def test_ids_are_mapped(bare: Path, tmp_path: Path) -> None:
    """On disk a layer belongs to what root stands for; what is exported is the image again."""
    Store.initialize(bare / "mapped")
    maps = ["0:100000:65536"]
    path = tar(tmp_path / "a.tar", docker(LAYERS))
    with Store.open(bare / "mapped", uid_maps=maps, gid_maps=maps) as store:
        done = import_image(store, path)
        status = (store.home / IDS[0] / "diff/etc/os").stat()
        assert (100000, 100000) == (status.st_uid, status.st_gid)
        file = io.BytesIO()
        assert export_image(store, done.layer, file).same_config


def test_a_full_disk(bare: Path, tmp_path: Path) -> None:
    """An image that is too large is taken away again; when there is room, it is imported."""
    place = bare / "small"
    place.mkdir()
    syscalls.mount("small", str(place), "tmpfs", 0, "size=40m,mode=0755")
    Store.initialize(place / "home")
    large = entry("large", os.urandom(24 << 20)) + END
    path = tar(tmp_path / "a.tar", docker([LOW, large]))
    with Store.open(place / "home") as store:
        (place / "other").write_bytes(bytes(18 << 20))
        with pytest.raises(DiskFull):
            import_image(store, path)
        assert [] == list(store.layers())
        (place / "other").unlink()
        assert 2 == len(import_image(store, path).chain)
    assert not audit(place / "home").findings
