"""Images from strangers: each lie is an error that names it, and the store is as it was."""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from layerstore import Store
from layerstore.audit import audit
from layerstore.errors import InvalidArchive, InvalidImage
from layerstore.fs import layout
from layerstore.images import import_image
from tests.fs.archive.trees import END, entry, pax
from tests.images.build import (
    HIGH,
    LOW,
    OCI,
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
Files = dict[str, bytes]


def paths(*, layers: list[str] | None = None, config: str | None = None) -> Files:
    """A docker-archive whose manifest.json names other paths."""
    files = docker(LAYERS)
    (manifest,) = json.loads(files["manifest.json"])
    manifest["Layers"] = layers or manifest["Layers"]
    manifest["Config"] = config or manifest["Config"]
    return {**files, "manifest.json": dumped([manifest])}


def image(**options: Any) -> Files:
    """An OCI layout."""
    return oci(LAYERS, **options)


def manifest(edit: Callable[[Any], Any]) -> Files:
    """A layout with a changed manifest."""
    return oci(LAYERS, edit=lambda m: edit(m) and None)


def config(edit: Callable[[Any], Any]) -> Files:
    """A layout with a changed config."""
    return oci(LAYERS, edit_config=lambda c: edit(c) and None)


def replaced(old: bytes, new: bytes) -> Files:
    """A layout in which a blob was replaced."""
    return {x: new if data == old else data for x, data in image().items()}


def without(old: bytes) -> Files:
    """A layout that lacks a blob."""
    return {x: data for x, data in image().items() if data != old}


def index(value: Any) -> Files:
    """A layout with another index."""
    return {**image(), "index.json": dumped(value)}


def entry_of(edit: Callable[[dict[str, Any]], Any]) -> Files:
    """A layout whose index has a changed entry."""
    files = image()
    found = json.loads(files["index.json"])
    edit(found["manifests"][0])
    return {**files, "index.json": dumped(found)}


def nested(depth: int) -> Files:
    """An image in so many indexes, each in the next."""
    made = Layout()
    at = made.image(LAYERS)
    for _ in range(depth):
        at = made.blob(made.index([at]), f"{OCI}.index.v1+json")
    return made.whole(at)


def wide() -> Files:
    """A small archive whose indexes name 12 others each."""
    made = Layout()
    at = made.image(LAYERS)
    for _ in range(4):
        at = made.blob(made.index([at] * 12), f"{OCI}.index.v1+json")
    return made.whole(at)


def amplified() -> Files:
    """Many large documents."""
    made = Layout()
    texts = [f"{number}" + "y" * (3 << 20) for number in range(24)]
    entries = [made.image(LAYERS, edit_config=partial(dict.update, x=text)) for text in texts]
    return made.whole(*entries)


def docker_config(value: Any) -> Files:
    """A docker-archive with another config."""
    return docker(LAYERS, config=value)


MATRIX: dict[str, tuple[Callable[[], Files], str]] = {
    # paths
    "layer-above": (lambda: paths(layers=["../a", "b"]), r"'\.\./a', which is not a path"),
    "layer-absolute": (lambda: paths(layers=["/etc/passwd", "b"]), "'/etc/passwd', which is not"),
    "layer-nul": (lambda: paths(layers=["a\0b", "b"]), "not a path inside"),
    "layer-dots": (lambda: paths(layers=["a/../b", "b"]), "not a path inside"),
    "config-above": (lambda: paths(config="../../x.json"), "not a path inside"),
    "config-number": (lambda: paths(config=7), "'Config' of manifest.json is no text"),  # type: ignore[arg-type]
    "layer-missing": (lambda: paths(layers=["a", "b"]), "'a' is not in the archive"),
    "config-missing": (lambda: paths(config="x.json"), "'x.json' is not in the archive"),
    "layer-directory": (
        lambda: {**paths(layers=["d", "d"]), "d/x": b""},
        r"'d' (in the directory is no file|is not in the archive)",
    ),
    # blobs
    "blob-missing": (lambda: without(HIGH), f"{sha(HIGH)[7:]}' is not in the archive"),
    "blob-replaced": (
        lambda: replaced(HIGH, HIGH[:512] + b"X" + HIGH[513:]),
        "not what its digest says",
    ),
    "blob-longer": (lambda: replaced(HIGH, HIGH + bytes(512)), "bytes, and 2560 are said"),
    "blob-empty": (lambda: replaced(HIGH, b""), "has 0 bytes"),
    "manifest-size": (lambda: entry_of(lambda e: e.update(size=e["size"] - 1)), "are said"),
    "size-negative": (lambda: entry_of(lambda e: e.update(size=-1)), "has no size"),
    "size-true": (lambda: entry_of(lambda e: e.update(size=True)), "has no size"),
    "size-huge": (lambda: entry_of(lambda e: e.update(size=1 << 40)), "are not read"),
    "digest-weak": (lambda: entry_of(lambda e: e.update(digest="md5:00")), "sha256 and sha512"),
    "digest-path": (
        lambda: entry_of(lambda e: e.update(digest="sha256:../../index.json")),
        "has the digest",
    ),
    "diff-id-wrong": (
        lambda: config(lambda c: c["rootfs"]["diff_ids"].reverse()),
        "unpacks to sha256:",
    ),
    "docker-diff-id-wrong": (
        lambda: docker_config(config_of([LOW, LOW])),
        f"unpacks to {sha(HIGH)}",
    ),
    # configs
    "no-rootfs": (lambda: config(lambda c: c.pop("rootfs")), "has no rootfs"),
    "rootfs-list": (lambda: config(lambda c: c.update(rootfs=[])), "rootfs of .* is no JSON obj"),
    "no-layers": (lambda: config(lambda c: c["rootfs"].update(diff_ids=[])), "has no layers"),
    "too-few": (lambda: config(lambda c: c["rootfs"]["diff_ids"].pop()), "2 layers, .* 1 DiffID"),
    "too-many": (
        lambda: config(lambda c: c["rootfs"]["diff_ids"].append(sha(b""))),
        "2 layers, .* 3 DiffIDs",
    ),
    "diff-id-text": (
        lambda: config(lambda c: c["rootfs"].update(diff_ids=["sha256:x", "y"])),
        "has the DiffID 'sha256:x'",
    ),
    "diff-id-number": (
        lambda: config(lambda c: c["rootfs"].update(diff_ids=[1, 2])),
        "an entry that is no text",
    ),
    "config-list": (lambda: docker_config([1]), "is no JSON object"),
    "config-garbage": (lambda: docker_config(b"\xff{"), "is no JSON document"),
    "config-surrogate": (lambda: docker_config(b'{"rootfs": "\\ud800"}'), "is no JSON document"),
    "config-deep": (lambda: docker_config(b"[" * 100_000), "nested too deep"),
    "config-huge": (
        lambda: docker_config(b'{"x": "' + b"y" * (4 << 20) + b'"}'),
        "more than 4194304 are not read",
    ),
    "config-renamed": (
        lambda: {
            x: data + b" " if x.endswith(".json") and x != "manifest.json" else data
            for x, data in docker(LAYERS).items()
        },
        "not what its name says",
    ),
    # manifests and indexes
    "layer-type": (
        lambda: image(kind="application/vnd.x.tar+xz"),
        "the media type 'application/vnd.x.tar\\+xz', which is not known",
    ),
    "encrypted": (lambda: image(kind=f"{OCI}.layer.v1.tar+encrypted"), "is encrypted"),
    "artifact": (
        lambda: manifest(lambda m: m["config"].update(mediaType="application/vnd.helm")),
        "is no image: its config has the media type 'application/vnd.helm'",
    ),
    "schema-1": (lambda: manifest(lambda m: m.update(schemaVersion=1)), "schema 1"),
    "schema-1-layers": (lambda: manifest(lambda m: m.update(fsLayers=[])), "schema 1"),
    "both": (lambda: manifest(lambda m: m.update(manifests=[])), "neither an index nor"),
    "manifest-type": (
        lambda: manifest(lambda m: m.update(mediaType="text/plain")),
        "the media type 'text/plain'",
    ),
    "layers-object": (lambda: manifest(lambda m: m.update(layers={})), "has no list 'layers'"),
    "layers-many": (
        lambda: manifest(lambda m: m.update(layers=m["layers"] * 1500)),
        "3000 layers; more than",
    ),
    "layer-text": (lambda: manifest(lambda m: m.update(layers=["a", "b"])), "is no JSON object"),
    "no-config": (lambda: manifest(lambda m: m.update(config=None)), "config of .* is no JSON"),
    "nested-deep": (lambda: nested(20), "in more than 8 others"),
    "nested-wide": (wide, "more than 500 manifests"),
    "large-altogether": (amplified, "more than 67108864 bytes of documents"),
    "index-list": (lambda: index([]), "index.json is no JSON object"),
    "index-empty": (lambda: index({"schemaVersion": 2, "manifests": []}), "There is no image"),
    "index-garbage": (lambda: index(b"{"), "index.json is no JSON document"),
    "platform-text": (
        lambda: entry_of(lambda e: e.update(platform="linux")),
        "platform of .* is no JSON object",
    ),
    "annotations-text": (
        lambda: entry_of(lambda e: e.update(annotations="x")),
        "annotations of .* is no JSON object",
    ),
    "layout-version": (
        lambda: {**image(), "oci-layout": b'{"imageLayoutVersion": "2.0.0"}'},
        "the version '2.0.0'",
    ),
    "layout-missing": (
        lambda: {x: data for x, data in image().items() if x != "oci-layout"},
        "'oci-layout' is not in the archive",
    ),
    "manifest-json-object": (
        lambda: {**docker(LAYERS), "manifest.json": b"{}"},
        "manifest.json has no list 'images'",
    ),
    "tags-text": (
        lambda: {
            **docker(LAYERS),
            "manifest.json": dumped(
                [{**json.loads(docker(LAYERS)["manifest.json"])[0], "RepoTags": "x"}]
            ),
        },
        "has no list 'RepoTags'",
    ),
    # no images
    "nothing": (lambda: {"x": b""}, "neither a docker-archive nor an OCI layout"),
    "before-1.10": (lambda: {"repositories": b"{}"}, "saved by Docker before 1.10"),
}


def snapshot(home: Path) -> tuple[list[str], list[str]]:
    """The layers, and what else the store has of its own."""
    with Store.open(home) as store:
        return [layer.id for layer in store.layers()], sorted(os.listdir(home / layout.OWN))


@pytest.fixture(params=["tar", "directory"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[Files], Path]:
    """Puts files where they are imported from."""
    if request.param == "tar":
        return lambda files: tar(tmp_path / "image.tar", files)
    return lambda files: directory(tmp_path / "image", files)


@pytest.mark.parametrize("lie", MATRIX)
def test_a_lie_is_an_error(home: Path, place: Callable[[Files], Path], lie: str) -> None:
    """It names what is wrong and what to do, and nothing of the image stays."""
    make, message = MATRIX[lie]
    before = snapshot(home)
    with Store.open(home) as store, pytest.raises(InvalidImage, match=message) as error:
        import_image(store, place(make()))
    assert error.value.hint
    assert before == snapshot(home)
    assert not audit(home).findings


LARGE = LOW[:-1024] + entry("large", os.urandom(3 << 20)) + HIGH


@pytest.mark.parametrize("at", [3 << 19, LARGE.index(b"top\0")], ids=["data", "header"])
@pytest.mark.parametrize("form", ["oci", "docker"])
def test_a_large_layer_that_was_damaged(home: Path, tmp_path: Path, form: str, at: int) -> None:
    """What is unpacked before the damage is seen goes away; the error is about the blob where one can tell."""
    bad = LARGE[:at] + bytes([LARGE[at] ^ 1]) + LARGE[at + 1 :]
    files = oci([LARGE]) if form == "oci" else docker([LARGE])
    files = {name: bad if data == LARGE else data for name, data in files.items()}
    kind: type[InvalidArchive] | type[InvalidImage] = InvalidImage
    message = "is not what its digest says"
    if form == "docker":
        message = "unpacks to sha256:"
        if at > 3 << 20:
            kind, message = InvalidArchive, "its checksum is wrong"
    before = snapshot(home)
    with Store.open(home) as store, pytest.raises(kind, match=message):
        import_image(store, tar(tmp_path / "image.tar", files))
    assert before == snapshot(home)


@pytest.mark.parametrize(
    ("member", "message"),
    [
        (link("layer-0/layer.tar", "/etc/passwd"), "a link that leads out of it"),
        (link("layer-0/layer.tar", "../../x"), "a link that leads out of it"),
        (link("layer-0/layer.tar", "layer.tar"), "leads in a circle"),
        (link("layer-0/layer.tar", "nowhere"), "is not in the archive"),
        (link("layer-0/layer.tar", "x", tarfile.LNKTYPE), "'layer-0/layer.tar' is not in the"),
        (link("layer-0/layer.tar", "", tarfile.FIFOTYPE), "is no file"),
        (link("layer-0/layer.tar", "", tarfile.CHRTYPE), "is no file"),
        (link("./layer-1/layer.tar", "x"), "in the archive twice"),
    ],
)
def test_members_of_the_outer_tar(
    home: Path, tmp_path: Path, member: tarfile.TarInfo, message: str
) -> None:
    """Links lead to members and nowhere else; what is no file, or is there twice, is refused."""
    files = docker(LAYERS)
    if "layer-0" in member.name:
        del files["layer-0/layer.tar"]
    before = snapshot(home)
    with Store.open(home) as store, pytest.raises(InvalidImage, match=message):
        import_image(store, tar(tmp_path / "image.tar", files, member))
    assert before == snapshot(home)


def test_a_file_that_is_there_twice(home: Path, tmp_path: Path) -> None:
    """Readers differ in which of them counts."""
    path = tar(tmp_path / "image.tar", docker(LAYERS))
    with tarfile.open(path, "a") as archive:
        archive.addfile(tarfile.TarInfo("manifest.json"))
    with Store.open(home) as store, pytest.raises(InvalidImage, match="twice"):
        import_image(store, path)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "It is no image: .* it is empty"),
        (b"x" * 2000, "its header at byte 0 is damaged"),
        (entry("manifest.json", b"[]", size=1 << 33) + END, "the archive ends"),
        (entry("manifest.json", b"[]"), "cut off"),
        (
            b"".join(pax({"path": b"%04d" % n + b"n" * 4000}) + entry("f") for n in range(4200))
            + END,
            "more than 16777216 bytes altogether",
        ),
        (b"\x1f\x8b" + bytes(100), "It is no image: "),
        (b"BZh91AY" + bytes(100), "bzip2"),
    ],
)
def test_what_is_no_tar(home: Path, tmp_path: Path, data: bytes, message: str) -> None:
    """Or one that is cut off, or says that more comes than is there."""
    path = tmp_path / "image.tar"
    path.write_bytes(data)
    with Store.open(home) as store, pytest.raises(InvalidImage, match=message):
        import_image(store, path)


def test_a_tar_that_is_cut_off_anywhere(home: Path, tmp_path: Path) -> None:
    """At every 512 bytes: an error, and nothing is left."""
    data = tar(tmp_path / "whole.tar", image()).read_bytes()
    data = data[: data.rindex(b"oci-layout") + 1024]
    path = tmp_path / "image.tar"
    before = snapshot(home)
    with Store.open(home) as store:
        for end in range(0, len(data), 512):
            path.write_bytes(data[:end])
            with pytest.raises(InvalidImage):
                import_image(store, path)
    assert before == snapshot(home)


@pytest.mark.parametrize("target", ["/etc/passwd", "../outside", "/proc/self/exe"])
def test_a_directory_is_not_left(home: Path, tmp_path: Path, target: str) -> None:
    """A symbolic link out of it is not followed, not to the right content either."""
    (tmp_path / "outside").write_bytes(LOW)
    path = directory(tmp_path / "image", docker(LAYERS))
    (path / "layer-0/layer.tar").unlink()
    (path / "layer-0/layer.tar").symlink_to(target)
    if target.startswith(".."):
        (path / "layer-0/layer.tar").unlink()
        (path / "layer-0/layer.tar").symlink_to("../../outside")
    with Store.open(home) as store, pytest.raises(InvalidImage, match="out of the directory"):
        import_image(store, path)


def test_a_pipe_in_a_directory_keeps_nobody_waiting(home: Path, tmp_path: Path) -> None:
    """What is no file is refused without being read."""
    path = directory(tmp_path / "image", docker(LAYERS))
    (path / "layer-0/layer.tar").unlink()
    os.mkfifo(path / "layer-0/layer.tar")
    with Store.open(home) as store, pytest.raises(InvalidImage, match="is no file"):
        import_image(store, path)


def test_a_hostile_layer(home: Path, tmp_path: Path) -> None:
    """What apply refuses takes the layers below away, too."""
    before = snapshot(home)
    hostile = entry("../x", b"y") + END
    with Store.open(home) as store, pytest.raises(InvalidArchive, match=r"'\.\./x' in the archive"):
        import_image(store, tar(tmp_path / "image.tar", docker([LOW, HIGH, hostile])))
    assert before == snapshot(home)
    assert not (tmp_path / "x").exists()
