"""Owns building what podman, buildah or CRI-O leave on a disk, from a short description; it must not
start one of them.

A real podman takes the graph root for its own: digests and tar-splits are those of the layers.
"""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import attrs

from layerstore.testing import bbolt, digests, trees
from layerstore.testing.trees import (
    CREATED,
    Built,
    Container,
    Image,
    Layer,
    Shape,
    State,
    hex_id,
    make_directory,
    write_file,
)

SHAPE: Final = Shape(
    home_mode=0o700,
    layer_mode=0o700,
    diff_mode=0o555,
    links_mode=0o755,
    marks_committed=False,
    always_work=True,
    always_merged=True,
    empty_below_base=True,
)
VERSIONS: Final = ("1.43", "1.59")
"""What has layouts that differ: the later one has `volatile-layers.json` and `tempdirs`."""


def containers_storage_tree(
    path: Path,
    *,
    layers: Iterable[Layer | Mapping[str, Any]] = (),
    images: Iterable[Image | Mapping[str, Any]] = (),
    containers: Iterable[Container | Mapping[str, Any]] = (),
    version: str = "1.43",
    volatile: Iterable[str] = (),
) -> Built:
    """Write a graph root at `path/root` and a run root at `path/run`. Needs root for whiteouts and owners.

    `version` is one of `VERSIONS`; `volatile` are containers whose layers are recorded in
    `volatile-layers.json`. A container that is `running` is mounted by `mountpoints.json`; only
    `Built.mount` mounts it. Raises ValueError for a description that names what it has not.
    """
    if version not in VERSIONS:
        raise ValueError(f"no layout of containers/storage {version}: {', '.join(VERSIONS)}")
    every = (
        trees.described(Layer, layers),
        trees.described(Image, images),
        trees.described(Container, containers),
    )
    trees.check(*every)
    root = path / "root"
    built = Built(root, root / "overlay", run_root=path / "run")
    return _Building(built, version, frozenset(volatile)).run(*every)


def podman_tree(path: Path, **description: Any) -> Built:
    """The same as podman has it: with its own database of containers, here an empty one, and the files
    that choose its network.
    """
    built = containers_storage_tree(path, **description)
    make_directory(built.root / "libpod", 0o700)
    for name in ("mounts", "tmp"):
        make_directory(built.root / name, 0o700)
    write_file(built.root / "defaultNetworkBackend", "cni")
    bbolt.write(built.root / "libpod/bolt_state.db", {})
    return built


@attrs.define
class _Building:
    built: Built
    version: str
    volatile: frozenset[str]
    records: list[dict[str, Any]] = attrs.Factory(list)
    volatile_records: list[dict[str, Any]] = attrs.Factory(list)

    @property
    def recent(self) -> bool:
        return self.version != VERSIONS[0]

    def run(
        self,
        layers: tuple[Layer, ...],
        images: tuple[Image, ...],
        containers: tuple[Container, ...],
    ) -> Built:
        root, run = self.built.root, self.built.run_root
        assert run is not None
        for above in (root, run):
            make_directory(above, 0o700)
        for name in ("layers", "images", "containers"):
            make_directory(root / f"overlay-{name}", 0o700)
            write_file(root / f"overlay-{name}" / f"{name}.lock", bytes(64))
        for name in ("overlay", "overlay-layers", "overlay-containers", "overlay-locks"):
            make_directory(run / name, 0o700)
        trees.write_home(self.built, SHAPE)
        write_file(self.built.home / ".has-mount-program", "false", 0o600)
        if self.recent:
            make_directory(self.built.home / "tempdirs", 0o700)
        for layer in layers:
            self._layer(layer)
        described = {layer.name: layer for layer in layers}
        _document(
            root / "overlay-images/images.json",
            [self._image(image, described) for image in images],
        )
        tops = {image.name: image.layer for image in images}
        made = [self._container(one, tops[one.image]) for one in containers]
        _document(root / "overlay-containers/containers.json", made)
        _document(root / "overlay-layers/layers.json", self.records)
        if self.volatile_records or self.recent:
            _document(root / "overlay-layers/volatile-layers.json", self.volatile_records)
        running = [one.name for one in containers if one.running]
        _document(run / "overlay-layers/mountpoints.json", [self._mounted(x) for x in running])
        for name in ("storage.lock", "userns.lock"):
            write_file(root / name, b"" if name == "userns.lock" else bytes(64))
        return self.built

    # --- layers -----------------------------------------------------------------------------------

    def _layer(self, layer: Layer) -> None:
        if layer.state in (State.UNFINISHED, State.CACHE):
            raise ValueError(f"layer {layer.name}: only Docker has the state {layer.state}")
        built = self.built
        above = built.layers[layer.parent] if layer.parent else None
        archived = self._archived(layer)
        directory = _layer_id(archived.diff_id, above)
        if directory in built.parents:
            raise ValueError(
                f"layer {layer.name}: another has the same files and parent, and its id"
            )
        trees.write_layer(built, SHAPE, layer.name, directory, above, layer.files)
        for name, data in layer.beside.items():
            path = built.home / directory / name
            make_directory(path.parent, 0o700)
            write_file(path, data)
        built.diff_ids[layer.name] = archived.diff_id
        if layer.state is State.ORPHAN:
            return
        record: dict[str, Any] = {"id": directory} | ({"parent": above} if above else {})
        record |= {
            "created": CREATED,
            "compressed-diff-digest": archived.diff_id,
            "compressed-size": len(archived.archive),
            "diff-digest": archived.diff_id,
            "diff-size": len(archived.archive),
            "uidset": [0],
            "gidset": [0],
        }
        if layer.state is State.CONDEMNED:
            record["flags"] = {"incomplete": True}
        self.records.append(record)
        beside = built.root / "overlay-layers" / f"{directory}.tar-split.gz"
        write_file(beside, archived.tar_split, 0o600)

    def _archived(self, layer: Layer) -> digests.Archived:
        """The archive of a layer, which has to be known before its directory has a name."""
        making = self.built.root / "making"
        making.mkdir()
        trees.write_files(making, layer.files)
        archived = digests.archived(making)
        shutil.rmtree(making)
        return archived

    # --- images and containers --------------------------------------------------------------------

    def _image(self, image: Image, layers: Mapping[str, Layer]) -> dict[str, Any]:
        chain: list[str] = []
        at: str | None = image.layer
        while at is not None:
            chain.insert(0, at)
            at = layers[at].parent
        diff_ids = [self.built.diff_ids[name] for name in chain]
        config = _encoded(
            {
                "created": CREATED,
                "architecture": "amd64",
                "os": "linux",
                "config": {"Cmd": ["/bin/sh"]},
                "rootfs": {"type": "layers", "diff_ids": diff_ids},
                "history": [{"created": CREATED, "created_by": image.name}] * len(chain),
            }
        )
        identity = digests.digest_of(config).removeprefix("sha256:")
        manifest = _encoded(self._manifest(config, diff_ids))
        digest = digests.digest_of(manifest)
        data = {
            f"sha256:{identity}": config,
            f"manifest-{digest}": manifest,
            "manifest": manifest,
            f"signature-{digest.removeprefix('sha256:')}": b"",
        }
        place = self.built.root / "overlay-images" / identity
        make_directory(place, 0o700)
        for name, content in data.items():
            write_file(place / _file_name(name), content, 0o600)
        self.built.images[image.name] = identity
        return {
            "id": identity,
            "digest": digest,
            "names": [_qualified(image.name)],
            "layer": self.built.layers[image.layer],
            "metadata": json.dumps({"signatures-sizes": {digest: []}}),
            "big-data-names": list(data),
            "big-data-sizes": {name: len(content) for name, content in data.items()},
            "big-data-digests": {n: digests.digest_of(content) for n, content in data.items()},
            "created": CREATED,
        }

    def _manifest(self, config: bytes, diff_ids: list[str]) -> dict[str, Any]:
        kind = "application/vnd.oci.image"
        sizes = {record["diff-digest"]: record["diff-size"] for record in self.records}
        return {
            "schemaVersion": 2,
            "config": {
                "mediaType": f"{kind}.config.v1+json",
                "digest": digests.digest_of(config),
                "size": len(config),
            },
            "layers": [
                {"mediaType": f"{kind}.layer.v1.tar", "digest": one, "size": sizes.get(one, 0)}
                for one in diff_ids
            ],
        }

    def _container(self, container: Container, top: str) -> dict[str, Any]:
        built = self.built
        identity = hex_id("container", container.name)
        directory = hex_id("storage", "container", container.name)
        above = built.layers[top]
        shape = attrs.evolve(SHAPE, always_merged=False)
        trees.write_layer(built, shape, container.name, directory, above, container.files)
        record = {
            "id": directory,
            "names": [f"{container.name}-layer"],
            "parent": above,
            "created": CREATED,
        }
        (self.volatile_records if container.name in self.volatile else self.records).append(record)
        make_directory(built.root / "overlay-containers" / identity / "userdata", 0o700)
        built.containers[container.name] = identity
        image = built.images[container.image]
        about = {
            "image-name": _qualified(container.image),
            "image-id": image,
            "name": container.name,
            "created-at": trees.TIME,
        }
        return {
            "id": identity,
            "names": [container.name],
            "image": image,
            "layer": directory,
            "metadata": json.dumps(about),
            "created": CREATED,
            "flags": {"MountLabel": "", "ProcessLabel": ""},
        }

    def _mounted(self, name: str) -> dict[str, Any]:
        layer = self.built.layers[name]
        return {"id": layer, "path": f"{self.built.home}/{layer}/merged", "count": 1}


def _layer_id(diff_id: str, parent: str | None) -> str:
    """As podman calls a layer that it made: by its content and all below it."""
    digits = diff_id.removeprefix("sha256:")
    if parent is None:
        return digits
    return digests.digest_of(f"{parent}+{digits}".encode()).removeprefix("sha256:")


def _qualified(name: str) -> str:
    """As podman calls an image of its own."""
    return f"localhost/{name if ':' in name else f'{name}:latest'}"


def _file_name(key: str) -> str:
    """Of an item of data: as it is where it has only letters and digits, else in base64."""
    return key if key.isalnum() else f"={base64.b64encode(key.encode()).decode()}"


def _encoded(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _document(path: Path, value: Any) -> None:
    write_file(path, _encoded(value), 0o600)
