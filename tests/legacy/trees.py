"""Small trees as Docker and containers/storage leave them, written by hand, record by record."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from layerstore.legacy.docker import chain_of

GOLDEN = Path(__file__).parents[1] / "golden/legacy"


def snapshots() -> bytes:
    """What Docker 20.10 wrote of two builds by BuildKit, one of which failed."""
    return gzip.decompress((GOLDEN / "docker-20.10-snapshots.db.gz").read_bytes())


def hexed(word: str) -> str:
    """A name of 64 characters that is told from others by a word."""
    return hashlib.sha256(word.encode()).hexdigest()


def link_of(layer: str) -> str:
    """The link of a layer: 26 characters that depend on its name."""
    digest = hashlib.sha256(layer.encode()).digest()
    return "".join("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"[byte % 32] for byte in digest[:26])


def write(path: Path, text: str) -> Path:
    """A file, and the directories above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def put_layer(home: Path, layer: str, parent: str | None = None, *, podman: bool = False) -> Path:
    """The directory of a layer, with one file in it, and its link."""
    (home / "l").mkdir(parents=True, exist_ok=True, mode=0o700)
    place = home / layer
    place.mkdir(mode=0o710)
    (place / "diff").mkdir(mode=0o755)
    (place / "diff" / f"of-{layer[:8]}").write_text(layer)
    write(place / "link", link_of(layer))
    (home / "l" / link_of(layer)).symlink_to(f"../{layer}/diff")
    if parent is not None:
        below = home / parent / "lower"
        lower = f":{below.read_text()}" if below.exists() else ""
        write(place / "lower", f"l/{link_of(parent)}{lower}")
        write(home / parent / "committed", "")
    if parent is not None or podman:
        (place / "work" / "work").mkdir(parents=True, mode=0o700)
    if podman:
        (place / "merged").mkdir(mode=0o700)
        if parent is None:
            (place / "empty").mkdir(mode=0o700)
    return place


@attrs.define
class DockerTree:
    """A data root of Docker's."""

    root: Path
    driver: str = "overlay2"
    chains: dict[str, str] = attrs.Factory(dict)
    """The chain id of each layer that has one."""

    @property
    def home(self) -> Path:
        return self.root / self.driver

    @property
    def image_root(self) -> Path:
        return self.root / "image" / self.driver

    @property
    def layerdb(self) -> Path:
        return self.image_root / "layerdb"

    def diff_id(self, layer: str) -> str:
        return f"sha256:{hexed('content of ' + layer)}"

    def layer(self, layer: str, parent: str | None = None, *, directory: bool = True) -> str:
        """A layer of an image, recorded."""
        if directory:
            put_layer(self.home, layer, parent)
        above = (self.chains[parent],) if parent is not None else ()
        self.chains[layer] = chain_of((*above, self.diff_id(layer)))[-1]
        record = self.record_of(layer)
        write(record / "cache-id", layer)
        write(record / "diff", self.diff_id(layer))
        write(record / "size", "64")
        if parent is not None:
            write(record / "parent", self.chains[parent])
        return layer

    def record_of(self, layer: str) -> Path:
        return self.layerdb / "sha256" / self.chains[layer].removeprefix("sha256:")

    def image(self, *layers: str, name: str = "") -> str:
        """An image of layers, the lowest first; its id."""
        config = {"rootfs": {"type": "layers", "diff_ids": [self.diff_id(x) for x in layers]}}
        text = json.dumps(config | {"comment": name})
        image = hashlib.sha256(text.encode()).hexdigest()
        write(self.image_root / "imagedb/content/sha256" / image, text)
        path = self.image_root / "repositories.json"
        known: Any = {"Repositories": {}}
        if path.exists():
            known = json.loads(path.read_text())
        if name:
            repository = name.partition(":")[0]
            known["Repositories"].setdefault(repository, {})[name] = f"sha256:{image}"
        write(path, json.dumps(known))
        return f"sha256:{image}"

    def container(self, name: str, image: str, top: str, *, running: bool = False) -> str:
        """A container with a layer to write to, and the one below that; the name of the first."""
        layer, container = hexed(f"layer of {name}"), hexed(f"container {name}")
        put_layer(self.home, f"{layer}-init", top)
        put_layer(self.home, layer, f"{layer}-init")
        record = self.layerdb / "mounts" / container
        write(record / "mount-id", layer)
        write(record / "init-id", f"{layer}-init")
        write(record / "parent", self.chains[top])
        config = {
            "ID": container,
            "Name": f"/{name}",
            "Driver": self.driver,
            "Image": image,
            "State": {"Running": running},
        }
        write(self.root / "containers" / container / "config.v2.json", json.dumps(config))
        return layer


BASE, MID, TOP, SIDE, LONE, GONE = (
    hexed(word) for word in ("base", "mid", "top", "side", "lone", "gone")
)
CACHE = "k3v9x0q2m5c7w1z8b6n4f2d0s"
"""The name of a layer of BuildKit's."""


def docker_tree(root: Path, driver: str = "overlay2") -> DockerTree:
    """Two images that share a layer, a container, and one layer of each other verdict.

    `base`, `mid`, `top` are of the image one:1, `side` of two:1, `lone` is recorded only, `gone` is
    being removed; nothing names the layer `orphan`, nor the one below it.
    """
    tree = DockerTree(root, driver)
    tree.layer(BASE)
    tree.layer(MID, BASE)
    tree.layer(TOP, MID)
    tree.layer(SIDE, BASE)
    tree.layer(LONE, BASE)
    tree.layer(GONE, BASE)
    record = tree.record_of(GONE)
    record.rename(record.with_name(f"{record.name}-{hexed('x')}-removing"))
    one = tree.image(BASE, MID, TOP, name="one:1")
    tree.image(BASE, SIDE, name="two:1")
    tree.container("box", one, TOP)
    put_layer(tree.home, hexed("under the orphan"), SIDE)
    put_layer(tree.home, hexed("orphan"), hexed("under the orphan"))
    (tree.home / "notes").mkdir()
    return tree


@attrs.define
class PodmanTree:
    """A graph root of containers/storage's."""

    root: Path

    @property
    def home(self) -> Path:
        return self.root / "overlay"

    def records(self, what: str, entries: Sequence[Mapping[str, Any]], name: str = "") -> Path:
        """Write `overlay-<what>/<name or what>.json`."""
        path = self.root / f"overlay-{what}" / f"{name or what}.json"
        return write(path, json.dumps(list(entries)))


def podman_tree(root: Path) -> PodmanTree:
    """An image of three layers, a container on it, a layer that nothing uses, one half made, one orphan."""
    tree = PodmanTree(root)
    box = hexed("box")
    parents = {BASE: None, MID: BASE, TOP: MID, LONE: BASE, GONE: BASE, box: TOP}
    for layer, parent in {**parents, hexed("orphan"): BASE}.items():
        put_layer(tree.home, layer, parent, podman=True)
    entries: list[dict[str, Any]] = [
        {"id": layer, "created": "2024-05-01T00:00:00Z"} | ({"parent": parent} if parent else {})
        for layer, parent in parents.items()
    ]
    entries[1] |= {"diff-digest": f"sha256:{hexed('mid')}", "diff-size": 64, "names": ["middle"]}
    entries[4] |= {"flags": {"incomplete": True}}
    tree.records("layers", entries[:5])
    tree.records("layers", entries[5:], "volatile-layers")
    image = {"id": hexed("image"), "names": ["localhost/one:1"], "layer": TOP}
    tree.records("images", [image | {"digest": f"sha256:{hexed('image')}"}])
    container = {"id": hexed("container"), "names": ["box"], "image": image["id"], "layer": box}
    tree.records("containers", [container])
    return tree


def snapshot(root: Path) -> dict[str, tuple[Any, ...]]:
    """Everything of a tree that can change, but for times of access."""
    found: dict[str, tuple[Any, ...]] = {}
    for path, directories, files in os.walk(root):
        for name in (".", *directories, *files):
            at = os.path.normpath(os.path.join(path, name))
            status = os.lstat(at)
            data: Any = b""
            if os.path.islink(at):
                data = os.readlink(at)
            elif os.path.isfile(at):
                data = Path(at).read_bytes()
            xattrs = {
                x: os.getxattr(at, x, follow_symlinks=False)
                for x in os.listxattr(at, follow_symlinks=False)
            }
            found[at] = (
                status.st_mode, status.st_uid, status.st_gid, status.st_ino, status.st_nlink,
                status.st_mtime_ns, status.st_ctime_ns, data, tuple(sorted(xattrs.items())),
            )  # fmt: skip
    return found
