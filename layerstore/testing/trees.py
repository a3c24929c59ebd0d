"""Owns describing a tree in a few words, and writing its layers as overlay2 has them; whose records lie
beside them, others write.

    Layer("base", files={"etc/os": "debian", "bin/sh": Symlink("busybox")})
    Layer("app", parent="base", files={"etc/os": REMOVED, "srv": Directory(opaque=True)})
    Image("app:1", layer="app")
    Container("web", image="app:1", files={"tmp/x": "1"})

Everything is the same each time: ids are digests of names, and all times are `TIME`.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable, Mapping
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Any, Final, TypeVar

import attrs

from layerstore.fs import layout
from layerstore.fs.mount import OverlayOptions, mount_overlay, unmount

TIME: Final = 1_700_000_000
"""When everything was made: 2023-11-14T22:13:20Z."""
CREATED: Final = "2023-11-14T22:13:20Z"
_BASE32: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
_BASE36: Final = "0123456789abcdefghijklmnopqrstuvwxyz"

T = TypeVar("T")


# --- descriptions ---------------------------------------------------------------------------------


class State(StrEnum):
    """How far the engine's records of a layer are."""

    RECORDED = "recorded"
    ORPHAN = "orphan"
    """A directory that nothing names: the engine died before it wrote its record, or after it dropped it."""
    UNFINISHED = "unfinished"
    """Docker: a directory that only a `write-set` of an interrupted pull names."""
    CONDEMNED = "condemned"
    """Being removed: Docker's `…-removing`, containers/storage's flag `incomplete`."""
    CACHE = "cache"
    """Docker: only BuildKit's database names it."""


@attrs.frozen
class File:
    """A regular file."""

    data: bytes | str = b""
    mode: int = 0o644
    owner: tuple[int, int] = (0, 0)
    xattrs: Mapping[str, bytes] = attrs.field(factory=dict)


@attrs.frozen
class Directory:
    """A directory; `opaque`: it hides what lies below it. Those on the way to a file are made anyhow."""

    mode: int = 0o755
    owner: tuple[int, int] = (0, 0)
    xattrs: Mapping[str, bytes] = attrs.field(factory=dict)
    opaque: bool = False


@attrs.frozen
class Symlink:
    """A symbolic link."""

    target: str


@attrs.frozen
class Removed:
    """A whiteout."""


REMOVED: Final = Removed()
Files = Mapping[str, "str | bytes | File | Directory | Symlink | Removed"]
"""By path: text and bytes are a file with this content."""


@attrs.frozen
class Layer:
    """One layer of images."""

    name: str
    parent: str | None = None
    files: Files = attrs.field(factory=dict)
    state: State = attrs.field(default=State.RECORDED, converter=State)
    by_buildkit: bool = False
    """Docker: BuildKit made it; its name has 25 characters, and its database names it, too."""
    beside: Mapping[str, bytes] = attrs.field(factory=dict)
    """Further files in its directory, beside `diff`."""


@attrs.frozen
class Image:
    """An image is its topmost layer; a `name` without a tag is a tag of a test's own."""

    name: str
    layer: str


@attrs.frozen
class Container:
    """A container of an image. `running` is what its record says; `Built.mount` mounts it."""

    name: str
    image: str
    files: Files = attrs.field(factory=dict)
    running: bool = False
    recorded: bool = True
    """Docker: without this its layers are there, and the engine died before it recorded a container."""


def described(kind: type[T], items: Iterable[T | Mapping[str, Any]]) -> tuple[T, ...]:
    """Descriptions, of which each may be a mapping of its fields."""
    return tuple(item if isinstance(item, kind) else kind(**item) for item in items)  # type: ignore[arg-type]


def check(
    layers: Iterable[Layer], images: Iterable[Image], containers: Iterable[Container]
) -> None:
    """ValueError for a description that names what it has not: parents come before their children."""
    known: set[str] = set()
    for layer in layers:
        if layer.parent is not None and layer.parent not in known:
            raise ValueError(f"layer {layer.name}: no layer before it is called {layer.parent}")
        if layer.name in known:
            raise ValueError(f"two layers are called {layer.name}")
        known.add(layer.name)
    for image in images:
        if image.layer not in known:
            raise ValueError(f"image {image.name}: no layer is called {image.layer}")
    names = {image.name for image in images}
    for container in containers:
        if container.image not in names:
            raise ValueError(f"container {container.name}: no image is called {container.image}")


# --- what was built -------------------------------------------------------------------------------


@attrs.define
class Built:
    """A tree that was built. Of layers everything is by the names of the description; a container's are
    its own name, and with Docker `NAME-init`.
    """

    root: Path
    """Docker's data root (with userns-remap the one below it), podman's graph root, or the store."""
    home: Path
    """The directory with the layers."""
    layers: dict[str, str] = attrs.Factory(dict)
    """The directory of each."""
    parents: dict[str, str | None] = attrs.Factory(dict)
    """The parent's directory, by directory."""
    diff_ids: dict[str, str] = attrs.Factory(dict)
    images: dict[str, str] = attrs.Factory(dict)
    """The id of each."""
    containers: dict[str, str] = attrs.Factory(dict)
    run_root: Path | None = None
    """Where containers/storage keeps what a reboot forgets."""
    _mounted: list[Path] = attrs.Factory(list)

    def diff(self, name: str) -> Path:
        return self.home / self.layers[name] / layout.DIFF

    def chain(self, name: str) -> list[Path]:
        """The `diff` directories below a layer, the nearest first."""
        found = []
        at = self.parents[self.layers[name]]
        while at is not None:
            found.append(self.home / at / layout.DIFF)
            at = self.parents[at]
        return found

    def mount(self, name: str) -> Path:
        """Mount a layer as the engine does, to write to if it is a container's; where it is. Needs root."""
        layer = self.home / self.layers[name]
        below = tuple(str(path) for path in self.chain(name))
        if not below:
            return layer / layout.DIFF
        merged = layer / layout.MERGED
        make_directory(merged, layout.PRIVATE_MODE)
        upper = f"{layer}/{layout.DIFF}"
        if name in self.containers:
            options = OverlayOptions(below, upper, f"{layer}/{layout.WORK}")
        else:
            options = OverlayOptions((upper, *below), None, None)
        mount_overlay(str(merged), options, home=str(self.home))
        self._mounted.append(merged)
        return merged

    def close(self) -> None:
        """Unmount what was mounted, the last first."""
        while self._mounted:
            unmount(str(self._mounted.pop()))

    def __enter__(self) -> Built:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


# --- names ----------------------------------------------------------------------------------------


def hex_id(*words: str) -> str:
    """64 digits that nothing else has."""
    return hashlib.sha256("\0".join(words).encode()).hexdigest()


def link_id(directory: str) -> str:
    """The 26 characters of a layer's link."""
    return _digits(f"link\0{directory}", _BASE32, 26)


def buildkit_id(name: str) -> str:
    """25 characters, as BuildKit calls a snapshot."""
    return _digits(f"buildkit\0{name}", _BASE36, 25)


def _digits(text: str, alphabet: str, length: int) -> str:
    number = int.from_bytes(hashlib.sha256(text.encode()).digest(), "big")
    found = ""
    for _ in range(length):
        number, digit = divmod(number, len(alphabet))
        found += alphabet[digit]
    return found


# --- writing --------------------------------------------------------------------------------------


@attrs.frozen
class Shape:
    """What differs between programs and versions in how a layer lies there."""

    home_mode: int = layout.HOME_MODE
    layer_mode: int = layout.LAYER_MODE
    diff_mode: int = layout.DIFF_MODE
    links_mode: int = layout.PRIVATE_MODE
    marks_committed: bool = True
    """A parent has an empty file `committed`."""
    always_work: bool = False
    always_merged: bool = False
    empty_below_base: bool = False
    """A layer without a parent has a directory `empty`, to be mounted upon."""
    owner: tuple[int, int] = (0, 0)
    """Who is root to the engine's containers; ids in a description count from here."""


def write_home(built: Built, shape: Shape) -> None:
    """The directory of the layers, without one."""
    make_directory(built.home, shape.home_mode, (0, shape.owner[1]))
    make_directory(built.home / layout.LINKS, shape.links_mode)


def write_layer(
    built: Built, shape: Shape, name: str, directory: str, parent: str | None, files: Files
) -> None:
    """A layer; `parent` is a directory that was written before."""
    path = built.home / directory
    make_directory(path, shape.layer_mode, (0, shape.owner[1]))
    make_directory(path / layout.DIFF, shape.diff_mode, shape.owner)
    write_files(path / layout.DIFF, files, shape.owner)
    link = link_id(directory)
    (built.home / layout.LINKS / link).symlink_to(f"../{directory}/{layout.DIFF}")
    write_file(path / layout.LINK, link)
    if parent is not None or shape.always_work:
        make_directory(path / layout.WORK, layout.PRIVATE_MODE, shape.owner)
    if parent is not None:
        above = built.home / parent
        lower = above / layout.LOWER
        text = lower.read_text() if lower.exists() else ""
        below = layout.child_lower((above / layout.LINK).read_text(), text)
        write_file(path / layout.LOWER, below)
        if shape.marks_committed:
            write_file(above / layout.COMMITTED, "", 0o600)
    if shape.always_merged:
        make_directory(path / layout.MERGED, layout.PRIVATE_MODE, shape.owner)
    if shape.empty_below_base and parent is None:
        make_directory(path / "empty", layout.PRIVATE_MODE, shape.owner)
    built.layers[name] = directory
    built.parents[directory] = parent


def write_files(root: Path, files: Files, base: tuple[int, int] = (0, 0)) -> None:
    """The files of a layer below its `diff`; directories on the way are made."""
    for name, content in files.items():
        path = root / name
        for above in reversed(path.relative_to(root).parents[:-1]):
            if not (root / above).is_dir():
                make_directory(root / above, 0o755, base)
        _write_one(path, content, base)
    for top, _, names in os.walk(root, topdown=False):
        for entry in (*(f"{top}/{name}" for name in names), top):
            os.utime(entry, (TIME, TIME), follow_symlinks=False)


def _write_one(path: Path, content: Any, base: tuple[int, int]) -> None:
    match content:
        case Removed():
            os.mknod(path, stat.S_IFCHR, 0)
        case Symlink(target=target):
            path.symlink_to(target)
            os.lchown(path, *base)
        case Directory():
            if not path.is_dir():
                path.mkdir()
            _dress(path, content, base)
            if content.opaque:
                os.setxattr(path, "trusted.overlay.opaque", b"y")
        case File():
            data = content.data.encode() if isinstance(content.data, str) else content.data
            path.write_bytes(data)
            _dress(path, content, base)
        case _:
            _write_one(path, File(content), base)


def _dress(path: Path, content: File | Directory, base: tuple[int, int]) -> None:
    os.chown(path, content.owner[0] + base[0], content.owner[1] + base[1])
    path.chmod(content.mode)
    for name, value in content.xattrs.items():
        os.setxattr(path, name, value)


def write_file(path: Path, data: str | bytes, mode: int = layout.FILE_MODE) -> None:
    """A small file, whatever the umask."""
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    path.chmod(mode)


def make_directory(path: Path, mode: int, owner: tuple[int, int] | None = None) -> None:
    """A directory and those above it, whatever the umask."""
    path.mkdir(parents=True, exist_ok=True)
    path.chmod(mode)
    if owner is not None and owner != (0, 0):
        os.chown(path, *owner)
