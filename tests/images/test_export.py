"""Layers become images: what came from one goes out as it came, the same bytes each time."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from pathlib import Path

import pytest

from layerstore import Store
from layerstore.errors import CannotPack, InvalidArgument
from layerstore.images import export_image, import_image
from layerstore.images.writing import ImageWriter, _header
from layerstore.reader import Reader
from tests.fs.archive.trees import END, entry
from tests.images.build import EMPTY, HIGH, LOW, config_of, docker, dumped, sha, tar

pytestmark = pytest.mark.root

LAYERS = [LOW, HIGH]


def exported(store: Reader, layer: str, **options: object) -> bytes:
    """The archive of an image."""
    file = io.BytesIO()
    export_image(store, layer, file, **options)  # type: ignore[arg-type]
    return file.getvalue()


def members(data: bytes) -> dict[str, bytes]:
    """The files of an archive."""
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        files = [member for member in archive if member.isfile()]
        return {x.name: archive.extractfile(x).read() for x in files}  # type: ignore[union-attr]


def test_an_image_comes_out_as_it_came_in(home: Path, tmp_path: Path) -> None:
    """Config, DiffIDs and names are those of the import, and every digest is right."""
    with Store.open(home) as store:
        path = tar(tmp_path / "a.tar", docker(LAYERS, tags=["shop/web:1", "web:2"]))
        done = import_image(store, path)
        data = exported(store, done.layer)
        assert data == exported(store, done.layer)
        with Reader.open(home) as reader:
            assert data == exported(reader, done.layer)
    files = members(data)
    for name, content in files.items():
        if name.startswith("blobs/"):
            assert sha(content) == f"sha256:{name[13:]}"
    (manifest,) = json.loads(files["manifest.json"])
    assert dumped(config_of(LAYERS)) == files[manifest["Config"]]
    assert LAYERS == [files[name] for name in manifest["Layers"]]
    assert ["shop/web:1", "web:2"] == manifest["RepoTags"]
    (index,) = json.loads(files["index.json"])["manifests"]
    assert {"architecture": "amd64", "os": "linux"} == index["platform"]
    assert "1" == index["annotations"]["org.opencontainers.image.ref.name"]
    listed = json.loads(files[f"blobs/sha256/{index['digest'][7:]}"])
    assert [sha(x) for x in LAYERS] == [layer["digest"] for layer in listed["layers"]]


@pytest.mark.parametrize("compress", [False, True])
def test_what_was_exported_is_imported(home: Path, tmp_path: Path, compress: bool) -> None:
    """Into another store: the same ids, config and names. A layer that is there twice is so once."""
    layers = [LOW, HIGH, EMPTY, HIGH]
    with Store.open(home) as store:
        done = import_image(store, tar(tmp_path / "a.tar", docker(layers, tags=["web:1"])))
        data = exported(store, done.layer, compress=compress)
    assert 5 == sum(name.startswith("blobs/") for name in members(data))
    (tmp_path / "b.tar").write_bytes(data)
    Store.initialize(tmp_path / "other")
    with Store.open(tmp_path / "other") as store:
        again = import_image(store, tmp_path / "b.tar")
        assert (done.layer, done.config_digest) == (again.layer, again.config_digest)
        assert ("web:1",) == tuple(name for name in again.names if ":" in name)


def test_a_layer_upon_an_image(home: Path, tmp_path: Path) -> None:
    """It has the settings of the image, its own DiffID, and a line of history for each layer."""
    history = [{"created_by": "a"}, {"created_by": "ENV", "empty_layer": True}, {"created_by": "b"}]
    config = config_of(LAYERS, history=history)
    with Store.open(home) as store:
        path = tar(tmp_path / "a.tar", docker(LAYERS, tags=["web:1"], config=config))
        done = import_image(store, path)
        store.create("app", parent=done.layer)
        with store.mounted("app") as mounted:
            (mounted / "new").write_text("new\n")
        files = members(exported(store, "app", names=["shop/app:2"]))
        (manifest,) = json.loads(files["manifest.json"])
        found = json.loads(files[manifest["Config"]])
        top = sha(b"".join(store.diff("app")))
    assert config["config"] == found["config"]
    assert [*config["rootfs"]["diff_ids"], top] == found["rootfs"]["diff_ids"]
    assert 3 == sum(not line.get("empty_layer") for line in found["history"])
    assert ["shop/app:2"] == manifest["RepoTags"]


def test_layers_that_came_from_no_image(home: Path, bare: Path) -> None:
    """They have a config that says no more than the layers; two stores make the same of the same."""
    found = []
    for name in ("home", "other"):
        if name == "other":
            Store.initialize(bare / name)
        with Store.open(bare / name) as store:
            store.create("base")
            store.apply_diff("base", io.BytesIO(LOW))
            store.create("top", parent="base")
            found.append(exported(store, "top"))
    assert found[0] == found[1]
    files = members(found[0])
    (manifest,) = json.loads(files["manifest.json"])
    assert manifest["RepoTags"] is None
    assert [sha(LOW), sha(EMPTY)] == json.loads(files[manifest["Config"]])["rootfs"]["diff_ids"]


def test_two_images_of_one_layer(home: Path, tmp_path: Path) -> None:
    """Whose config is meant has to be said, by name or digest."""
    other = config_of([LOW], created="2020-01-01T00:00:00Z")
    with Store.open(home) as store:
        one = import_image(store, tar(tmp_path / "a.tar", docker([LOW], tags=["a:latest"])))
        two = import_image(
            store, tar(tmp_path / "b.tar", docker([LOW], tags=["b:1"], config=other))
        )
        with pytest.raises(InvalidArgument, match="2 images") as error:
            exported(store, one.layer)
        assert "--image" in error.value.hint
        with pytest.raises(InvalidArgument, match="No image that is called c"):
            exported(store, one.layer, image="c")
        by_name = members(exported(store, one.layer, image="a"))
        assert f"blobs/sha256/{one.config_digest[7:]}" in by_name
        by_digest = members(exported(store, one.layer, image=two.config_digest[:20]))
        assert dumped(other) == by_digest[f"blobs/sha256/{two.config_digest[7:]}"]


def test_what_cannot_be_exported(home: Path) -> None:
    """A name that Docker does not take, and a layer that no archive can hold."""
    with Store.open(home) as store:
        store.create("base")
        for name in ("Web:1", "web", "web:", "a b:1", ":1", "web:x:y"):
            with pytest.raises(InvalidArgument, match="no name of an image"):
                exported(store, "base", names=[name])
        with store.mounted("base") as path:
            (path / ".wh.x").touch()
        with pytest.raises(CannotPack):
            exported(store, "base")


def test_a_record_that_was_damaged_is_passed_over(home: Path, tmp_path: Path) -> None:
    """The layers are exported without it, and an import of the same image repairs it."""
    with Store.open(home) as store:
        path = tar(tmp_path / "a.tar", docker([LOW], tags=["a:1"]))
        done = import_image(store, path)
        (record,) = (home / ".layerstore/images").glob("*.json")
        for bad in (b"", b"{}", b"[1]", record.read_bytes().replace(b"linux", b"linus")):
            record.write_bytes(bad)
            assert b'"RepoTags":null' in exported(store, done.layer)
        import_image(store, path)
        assert b'"RepoTags":["a:1"]' in exported(store, done.layer)


def test_a_layer_beyond_what_octal_digits_hold() -> None:
    """The header says it in base 256, which Go, GNU tar and Python read."""
    size = (1 << 33) + 5
    block = _header("blobs/sha256/x", size)
    assert size == tarfile.TarInfo.frombuf(block, "utf-8", "strict").size
    assert 7 == tarfile.TarInfo.frombuf(_header("x", 7), "utf-8", "strict").size


def test_compressed_layers_say_nothing_of_when(tmp_path: Path) -> None:
    """Their gzip header has no time and no name, so that the bytes are the same."""
    file = io.BytesIO()
    layer = ImageWriter(file, compress=True).add_layer([entry("a", b"x" * 9999), END])
    data = members(file.getvalue() + END)[layer.path]
    assert b"\x1f\x8b\x08\x00" + bytes(4) == data[:8]
    assert layer.diff_id == sha(gzip.decompress(data))
