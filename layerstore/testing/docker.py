"""Owns building what a dockerd leaves on a disk, from a short description; it must not start one.

    tree = docker_tree(
        path,
        layers=[Layer("base", files={"etc/os": "debian"}), Layer("app", "base", {"srv/app": "1"})],
        images=[Image("app:1", "app")],
        containers=[Container("web", "app:1", {"tmp/x": "1"})],
    )

A real dockerd of the version takes it for its own: digests, chain ids and tar-splits are those of the
layers. What was left by one that died is described by the `State` of a layer.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import attrs

from layerstore.fs import layout
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

VERSIONS: Final[Mapping[str, Shape]] = {
    "18.03": Shape(home_mode=0o700, layer_mode=0o700, marks_committed=False),
    "19.03": Shape(home_mode=0o700, layer_mode=0o700),
    "19.03.15": Shape(home_mode=0o701, layer_mode=0o701),
    "20.10.9": Shape(home_mode=0o710, layer_mode=0o710),
}
"""The first version of each layout: later ones only made `committed`, and tightened the modes."""
REMAPPED: Final = 100_000

_EMPTY_CONFIG: Final = {
    "Hostname": "",
    "Domainname": "",
    "User": "",
    "AttachStdin": False,
    "AttachStdout": False,
    "AttachStderr": False,
    "Tty": False,
    "OpenStdin": False,
    "StdinOnce": False,
    "Env": None,
    "Cmd": ["/bin/sh"],
    "Image": "",
    "Volumes": None,
    "WorkingDir": "",
    "Entrypoint": None,
    "OnBuild": None,
    "Labels": None,
}


def shape_of(version: str) -> Shape:
    """The layout of a version, such as `20.10.24` or `27`; ValueError for one before all of them."""

    def numbers(text: str) -> list[int]:
        return [int(part) for part in text.split(".")]

    wanted = numbers(version)
    if len(wanted) == 2 and wanted == [20, 10]:
        wanted = [20, 10, 99]  # the series, not its first release
    fitting = [shape for first, shape in VERSIONS.items() if numbers(first) <= wanted]
    if not fitting:
        raise ValueError(f"no layout of Docker {version} is known; the first is {min(VERSIONS)}")
    return fitting[-1]


def docker_tree(
    path: Path,
    *,
    layers: Iterable[Layer | Mapping[str, Any]] = (),
    images: Iterable[Image | Mapping[str, Any]] = (),
    containers: Iterable[Container | Mapping[str, Any]] = (),
    version: str = "20.10",
    remapped: bool = False,
    driver: str = "overlay2",
) -> Built:
    """Write a data root at `path`, which may be absent or empty. Needs root for whiteouts and owners.

    `version` chooses the layout; `remapped`: as with userns-remap, below `<uid>.<gid>/` and owned by
    them; `driver`: the name of the directory and of its records, as that of a plugin. Raises ValueError
    for a description that names what it has not.
    """
    described = trees.described(Layer, layers), trees.described(Image, images)
    wanted = trees.described(Container, containers)
    trees.check(*described, wanted)
    shape = shape_of(version)
    root = path
    make_directory(path, 0o711)
    if remapped:
        shape = attrs.evolve(shape, owner=(REMAPPED, REMAPPED))
        root = path / f"{REMAPPED}.{REMAPPED}"
        make_directory(root, 0o711, shape.owner)
    building = _Building(Built(root, root / driver), shape, driver, version)
    return building.run(*described, wanted)


@attrs.define
class _Building:
    built: Built
    shape: Shape
    driver: str
    version: str
    described: dict[str, Layer] = attrs.Factory(dict)
    chains: dict[str, str] = attrs.Factory(dict)
    """The chain id of each layer."""
    snapshots: dict[bytes, bbolt.Items] = attrs.Factory(dict)

    @property
    def records(self) -> Path:
        return self.built.root / "image" / self.driver

    @property
    def layerdb(self) -> Path:
        return self.records / "layerdb"

    def run(
        self, layers: Iterable[Layer], images: Iterable[Image], containers: Iterable[Container]
    ) -> Built:
        root = self.built.root
        for above in (root / "image", self.records, self.layerdb, self.records / "distribution"):
            make_directory(above, 0o700)
        for name in ("sha256", "mounts", "tmp"):
            make_directory(self.layerdb / name, 0o755)
        for name in ("content/sha256", "metadata/sha256"):
            make_directory(self.records / "imagedb" / name, 0o700)
        make_directory(root / "containers", 0o710 if self.shape.home_mode == 0o710 else 0o700)
        trees.write_home(self.built, self.shape)
        for layer in layers:
            self._layer(layer)
        named = {image.name: self._image(image) for image in images}
        repositories: dict[str, dict[str, str]] = {}
        for name, image in named.items():
            repositories.setdefault(name.rpartition(":")[0] or name, {})[_tagged(name)] = image
        _document(self.records / "repositories.json", {"Repositories": repositories})
        tops = {image.name: image.layer for image in images}
        for container in containers:
            self._container(container, tops[container.image])
        if self.snapshots:
            make_directory(root / "buildkit", 0o711)
            bbolt.write(root / "buildkit/snapshots.db", self.snapshots)
        return self.built

    # --- layers -----------------------------------------------------------------------------------

    def _layer(self, layer: Layer) -> None:
        self.described[layer.name] = layer
        by_buildkit = layer.by_buildkit or layer.state is State.CACHE
        directory = trees.buildkit_id(layer.name) if by_buildkit else hex_id("layer", layer.name)
        built = self.built
        above = built.layers[layer.parent] if layer.parent else None
        trees.write_layer(built, self.shape, layer.name, directory, above, layer.files)
        for name, data in layer.beside.items():
            write_file(built.home / directory / name, data)
        first = self.shape.owner
        archived = digests.archived(
            built.diff(layer.name), map_ids=lambda uid, gid: (uid - first[0], gid - first[1])
        )
        built.diff_ids[layer.name] = archived.diff_id
        self.chains[layer.name] = digests.chain_ids(self._diff_ids(layer.name))[-1]
        match layer.state:
            case State.RECORDED:
                place = self.layerdb / "sha256" / _digits(self.chains[layer.name])
                self._record(place, layer, archived, 0o700)
            case State.CONDEMNED:
                name = (
                    f"{_digits(self.chains[layer.name])}-{hex_id('removing', layer.name)}-removing"
                )
                self._record(self.layerdb / "sha256" / name, layer, archived, 0o700)
            case State.UNFINISHED:
                place = self.layerdb / "tmp" / f"write-set-{hex_id(layer.name)[:9]}"
                make_directory(place, 0o700)
                write_file(place / "cache-id", directory)
                write_file(place / "diff", archived.diff_id)
        if by_buildkit:
            self._snapshot(layer, directory)

    def _record(self, place: Path, layer: Layer, archived: digests.Archived, mode: int) -> None:
        make_directory(place, mode)
        write_file(place / "cache-id", self.built.layers[layer.name])
        write_file(place / "diff", archived.diff_id)
        write_file(place / "size", str(archived.size))
        write_file(place / "tar-split.json.gz", archived.tar_split)
        if layer.parent:
            write_file(place / "parent", self.chains[layer.parent])

    def _diff_ids(self, name: str) -> list[str]:
        """Of a layer and all below it, the lowest first."""
        found: list[str] = []
        at: str | None = name
        while at is not None:
            found.append(self.built.diff_ids[at])
            at = self.described[at].parent
        return found[::-1]

    def _snapshot(self, layer: Layer, directory: str) -> None:
        """BuildKit's own records: one by the directory, and one by a name that says which chain it is."""
        fields = {b"parent": b"", b"iscommitted": b""}
        if layer.parent:
            above = self.described[layer.parent]
            if above.by_buildkit or above.state is State.CACHE:
                fields[b"parent"] = self.built.layers[layer.parent].encode()
            else:
                fields[b"parent"] = self.chains[layer.parent].encode()
                self.snapshots.setdefault(fields[b"parent"], {})
        self.snapshots[directory.encode()] = fields
        if layer.state is State.RECORDED:
            chain = self.chains[layer.name].encode()
            key = trees.buildkit_id(f"chain of {layer.name}").encode()
            self.snapshots[key] = {b"chainid": chain, b"committed": directory.encode()}

    # --- images and containers --------------------------------------------------------------------

    def _image(self, image: Image) -> str:
        config = {
            "architecture": "amd64",
            "config": _EMPTY_CONFIG,
            "created": CREATED,
            "docker_version": self.version,
            "history": [{"created": CREATED, "created_by": image.name}]
            * len(self._diff_ids(image.layer)),
            "os": "linux",
            "rootfs": {"type": "layers", "diff_ids": self._diff_ids(image.layer)},
        }
        data = json.dumps(config, separators=(",", ":")).encode()
        digest = digests.digest_of(data)
        write_file(self.records / "imagedb/content/sha256" / _digits(digest), data, 0o600)
        about = self.records / "imagedb/metadata/sha256" / _digits(digest)
        make_directory(about, 0o700)
        write_file(about / "lastUpdated", CREATED, 0o600)
        self.built.images[image.name] = digest
        return digest

    def _container(self, container: Container, top: str) -> None:
        """Its init layer, its own, the record of both, and the container's."""
        identity = hex_id("container", container.name)
        directory = hex_id("mount", container.name)
        built = self.built
        init = f"{container.name}-init"
        above = built.layers[top]
        trees.write_layer(built, self.shape, init, f"{directory}-init", above, _INIT)
        own = (built, self.shape, container.name, directory, f"{directory}-init")
        trees.write_layer(*own, container.files)
        mount = self.layerdb / "mounts" / identity
        make_directory(mount, 0o755)
        write_file(mount / "mount-id", directory)
        write_file(mount / "init-id", f"{directory}-init")
        write_file(mount / "parent", self.chains[top])
        if container.recorded:
            place = built.root / "containers" / identity
            make_directory(place, 0o710 if self.shape.home_mode == 0o710 else 0o700)
            make_directory(place / "checkpoints", 0o700)
            _document(place / "config.v2.json", dict(self._config(container, identity)))
            _document(place / "hostconfig.json", _HOST, 0o644)
        built.containers[container.name] = identity

    def _config(self, container: Container, identity: str) -> Iterator[tuple[str, Any]]:
        state = dict.fromkeys(
            ("Paused", "Restarting", "OOMKilled", "RemovalInProgress", "Dead"), False
        )
        yield "StreamConfig", {}
        yield (
            "State",
            {"Running": container.running}
            | state
            | {"Pid": 0, "ExitCode": 0, "Error": "", "StartedAt": CREATED, "FinishedAt": CREATED},
        )
        yield "ID", identity
        yield "Created", CREATED
        yield "Managed", False
        yield "Path", "/bin/sh"
        yield "Args", []
        yield "Config", _EMPTY_CONFIG | {"Hostname": identity[:12], "Image": container.image}
        yield "Image", self.built.images[container.image]
        yield "NetworkSettings", {"Bridge": "", "Networks": {"none": {}}}
        yield "LogPath", ""
        yield "Name", f"/{container.name}"
        yield "Driver", self.driver
        yield "OS", "linux"
        yield "MountLabel", ""
        yield "ProcessLabel", ""
        yield "RestartCount", 0
        yield "HasBeenStartedBefore", True
        yield "HasBeenManuallyStopped", False
        yield "MountPoints", {}


_INIT: Final[trees.Files] = {
    ".dockerenv": trees.File(mode=0o755),
    "dev/console": trees.File(mode=0o755),
    "dev/pts": trees.Directory(),
    "dev/shm": trees.Directory(),
    "etc/hostname": trees.File(mode=0o755),
    "etc/hosts": trees.File(mode=0o755),
    "etc/mtab": trees.Symlink("/proc/mounts"),
    "etc/resolv.conf": trees.File(mode=0o755),
    "proc": trees.Directory(),
    "sys": trees.Directory(),
}
_HOST: Final = {
    "LogConfig": {"Type": "json-file", "Config": {}},
    "NetworkMode": "none",
    "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0},
    "Runtime": "runc",
    "IpcMode": "private",
    "ShmSize": 67108864,
}


def old_overlay_tree(
    path: Path,
    *,
    layers: Iterable[Layer | Mapping[str, Any]],
    containers: Mapping[str, str] | None = None,
) -> Built:
    """A data root of Docker's old driver `overlay`: `root` has a layer's files and all of those below it
    (there as hard links, here as copies); a container, given with the layer of its image, has `upper`
    and `lower-id`.
    """
    described = trees.described(Layer, layers)
    trees.check(described, (), ())
    built = Built(path, path / "overlay")
    make_directory(path / "image/overlay/layerdb/sha256", 0o755)
    make_directory(built.home, 0o700)
    every: dict[str, trees.Files] = {}
    for layer in described:
        merged = {**every.get(layer.parent or "", {}), **layer.files}
        gone = [name for name, content in merged.items() if isinstance(content, trees.Removed)]
        every[layer.name] = {
            name: content
            for name, content in merged.items()
            if not any(name == path or name.startswith(f"{path}/") for path in gone)
        }
        directory = hex_id("layer", layer.name)
        make_directory(built.home / directory / "root", 0o755)
        trees.write_files(built.home / directory / "root", every[layer.name])
        built.layers[layer.name] = directory
        built.parents[directory] = built.layers[layer.parent] if layer.parent else None
    for name, top in (containers or {}).items():
        directory = hex_id("mount", name)
        for part in ("upper", layout.WORK, layout.MERGED):
            make_directory(built.home / directory / part, 0o700)
        write_file(built.home / directory / "lower-id", built.layers[top])
        built.layers[name] = directory
        built.parents[directory] = built.layers[top]
    return built


def _digits(digest: str) -> str:
    return digest.removeprefix("sha256:")


def _tagged(name: str) -> str:
    return name if ":" in name else f"{name}:latest"


def _document(path: Path, value: Any, mode: int = 0o600) -> None:
    write_file(path, json.dumps(value, separators=(",", ":")), mode)
