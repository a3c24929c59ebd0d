"""Owns reading what Docker recorded about its layers; it must not write, nor judge.

Of a data root: `image/<driver>/layerdb` has a directory for each layer by its chain id, one for each
mount (of a container, or of a build), and what interrupted pulls and removals left; `imagedb` has
the configs of images, `repositories.json` their names, `containers` one directory for each, and
`buildkit/snapshots.db` layers that nothing else names. Docker passes over whatever of that it cannot
read, without a word; here it is a trouble.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from typing import Any, Final

import attrs

from layerstore.legacy import buildkit, quietly, shapes
from layerstore.legacy.manifest import Container, Image, Manifest, Record, Role, Source, Trouble
from layerstore.legacy.quietly import Unreadable, mapping

_HEX: Final = re.compile(r"[0-9a-f]{64}")
_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")
_REMOVING: Final = "-removing"
_WRITE_SET: Final = "write-set-"


def read(root: str, driver: str, *, home: str | None = None) -> Manifest:
    """The manifest of the data root `root`. `home`: where the layers are, if not `<root>/<driver>`."""
    return _Reader(root, driver, home or f"{root}/{driver}").manifest()


def chain_of(diff_ids: tuple[str, ...]) -> tuple[str, ...]:
    """The chain id of each layer of an image: a digest of all below it and its own."""
    found: list[str] = []
    for diff_id in diff_ids:
        if not found:
            found.append(diff_id)
            continue
        text = f"{found[-1]} {diff_id}"
        found.append(f"sha256:{hashlib.sha256(text.encode()).hexdigest()}")
    return tuple(found)


@attrs.define
class _Reader:
    """One data root being read."""

    root: str
    driver: str
    home: str
    troubles: list[Trouble] = attrs.Factory(list)
    chains: dict[str, str] = attrs.Factory(dict)
    """The directory of each chain id."""
    named: set[str] = attrs.Factory(set)

    @property
    def layerdb(self) -> str:
        return f"{self.root}/image/{self.driver}/layerdb"

    def manifest(self) -> Manifest:
        layers = self._layers()
        mounts = list(self._mounts())
        cache = self._cache()
        images = tuple(self._images())
        containers = tuple(self._containers({record.name: record for record in mounts}))
        return Manifest(
            kind="docker",
            driver=self.driver,
            root=self.root,
            home=self.home,
            records=(*layers, *mounts, *self._inits(mounts), *(cache or ())),
            images=images,
            containers=containers,
            troubles=tuple(self.troubles),
            kept_shapes=() if cache is not None else (shapes.BUILDKIT,),
            remarks=tuple(self._remarks()),
        )

    def _trouble(self, path: str, message: str, *, hides: bool = False) -> None:
        self.troubles.append(Trouble(path, message, hides))

    # --- layers -----------------------------------------------------------------------------------

    def _layers(self) -> list[Record]:
        """Those that are whole first: parents are looked up among them."""
        found: list[Record] = []
        above: list[tuple[Record, str]] = []
        base = f"{self.layerdb}/sha256"
        for name in quietly.listed(base):
            path = f"{base}/{name}"
            if name.endswith(_REMOVING):
                found += self._half(path, Source.REMOVING)
            elif not _HEX.fullmatch(name):
                self._trouble(path, "the name is no chain id")
            else:
                read = self._layer(path, f"sha256:{name}")
                above += [read] if read is not None else []
        temporary = f"{self.layerdb}/tmp"
        for name in quietly.listed(temporary):
            if name.startswith(_WRITE_SET):
                found += self._half(f"{temporary}/{name}", Source.WRITE_SET)
        for record, parent in above:
            layer = self.chains.get(parent)
            if parent and layer is None:
                self._trouble(record.path, f"the parent {parent} has no record")
            found.append(attrs.evolve(record, parent=layer))
        return found

    def _layer(self, path: str, chain: str) -> tuple[Record, str] | None:
        """A record, and the chain id of its parent."""
        names = quietly.listed(path)
        cache_id = self._directory_of(path, "cache-id")
        if cache_id is None:
            return None
        if cache_id in self.named:
            self._trouble(path, f"another record names the directory {cache_id}, too")
        self.named.add(cache_id)
        self.chains[chain] = cache_id
        parent = self._optional(path, "parent", names)
        if parent and not _DIGEST.fullmatch(parent):
            self._trouble(f"{path}/parent", "it is no chain id")
            parent = ""
        size = self._optional(path, "size", names)
        record = Record(
            layer=cache_id,
            source=Source.LAYERDB,
            name=chain,
            path=path,
            diff_id=self._optional(path, "diff", names, wanted=True),
            size=int(size) if size.isascii() and size.isdigit() else None,
        )
        return record, parent

    def _half(self, path: str, source: Source) -> Iterator[Record]:
        """What an interrupted pull or removal left: it may not have come to a `cache-id`."""
        try:
            layer = quietly.word(f"{path}/cache-id")
        except Unreadable:
            return
        if _is_name(layer):
            yield Record(layer=layer, source=source, name=os.path.basename(path), path=path)

    def _directory_of(self, path: str, name: str) -> str | None:
        """The directory that a file names; without it nothing says any more which it was."""
        try:
            found = quietly.word(f"{path}/{name}")
        except Unreadable as error:
            self._trouble(f"{path}/{name}", f"it is {error}", hides=True)
            return None
        if not _is_name(found):
            self._trouble(
                f"{path}/{name}", f"{found[:80]!r} is no directory of a layer", hides=True
            )
            return None
        return found

    def _optional(self, path: str, name: str, names: list[str], *, wanted: bool = False) -> str:
        if name not in names and not wanted:
            return ""
        try:
            return quietly.word(f"{path}/{name}")
        except Unreadable as error:
            self._trouble(f"{path}/{name}", f"it is {error}")
            return ""

    # --- mounts -----------------------------------------------------------------------------------

    def _mounts(self) -> Iterator[Record]:
        base = f"{self.layerdb}/mounts"
        for name in quietly.listed(base):
            path = f"{base}/{name}"
            layer = self._directory_of(path, "mount-id")
            if layer is None:
                continue
            names = quietly.listed(path)
            parent = self._optional(path, "parent", names)
            below = self._optional(path, "init-id", names) or self.chains.get(parent)
            yield Record(
                layer=layer,
                source=Source.MOUNTS,
                name=name,
                path=path,
                role=Role.CONTAINER,
                parent=below if below is None or _is_name(below) else None,
            )

    def _inits(self, mounts: list[Record]) -> Iterator[Record]:
        for record in mounts:
            try:
                layer = quietly.word(f"{record.path}/init-id")
                parent = quietly.word(f"{record.path}/parent")
            except Unreadable:
                parent = ""
                layer = record.parent if record.parent == f"{record.layer}-init" else ""
            if layer and _is_name(layer):
                yield attrs.evolve(
                    record, layer=layer, role=Role.INIT, parent=self.chains.get(parent)
                )

    # --- images and containers --------------------------------------------------------------------

    def _images(self) -> Iterator[Image]:
        base = f"{self.root}/image/{self.driver}/imagedb/content/sha256"
        names, digests = self._names()
        for name in quietly.listed(base):
            if not _HEX.fullmatch(name):
                continue
            path = f"{base}/{name}"
            try:
                data = quietly.content(path, quietly.LARGEST)
                if hashlib.sha256(data).hexdigest() != name:
                    raise Unreadable("not what its name says: the digests differ")
                config = mapping(quietly.document(path))
            except Unreadable as error:
                self._trouble(path, f"it is {error}")
                continue
            chain = chain_of(quietly.texts(config.get("rootfs"), "diff_ids"))
            image = f"sha256:{name}"
            yield Image(
                id=image,
                names=tuple(sorted(names.get(image, ()))),
                layers=tuple(self.chains[c] for c in chain if c in self.chains),
                missing=tuple(c for c in chain if c not in self.chains),
                digests=tuple(sorted(digests.get(image, ()))),
            )

    def _names(self) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
        """The tags of each image, and the digests by which it was pulled."""
        path = f"{self.root}/image/{self.driver}/repositories.json"
        names: dict[str, list[str]] = {}
        digests: dict[str, list[str]] = {}
        try:
            document = quietly.document(path)
        except Unreadable as error:
            self._trouble(path, f"it is {error}")
            return names, digests
        for repository in mapping(mapping(document).get("Repositories")).values():
            for name, image in mapping(repository).items():
                if isinstance(image, str):
                    (digests if "@" in name else names).setdefault(image, []).append(name)
        return names, digests

    def _containers(self, mounts: dict[str, Record]) -> Iterator[Container]:
        base = f"{self.root}/containers"
        for name in quietly.listed(base):
            path = f"{base}/{name}/config.v2.json"
            record = mounts.get(name)
            layers = _with_init(record)
            try:
                config: Any = mapping(quietly.document(path))
            except Unreadable as error:
                self._trouble(path, f"it is {error}", hides=record is None)
                yield Container(name, "", "", layers)
                continue
            if quietly.text(config, "Driver") not in ("", self.driver):
                continue
            if record is None:
                said = f"the container {name} has no mount in {self.layerdb}"
                self._trouble(path, said, hides=True)
            running = mapping(config.get("State")).get("Running")
            yield Container(
                id=name,
                name=quietly.text(config, "Name").removeprefix("/"),
                image=quietly.text(config, "Image"),
                layers=layers,
                running=running if isinstance(running, bool) else None,
            )

    # --- the rest ---------------------------------------------------------------------------------

    def _cache(self) -> list[Record] | None:
        """BuildKit's layers; None where nothing is known of them: its database is not there, or damaged."""
        path = f"{self.root}/buildkit/snapshots.db"
        if not os.path.lexists(path):
            return None  # an old Docker has none, and no such layers; of any other it is lost
        try:
            return list(buildkit.read(path, self.chains))
        except buildkit.Damaged as error:
            said = f"it cannot be read: {error}; everything that looks like BuildKit's is kept"
            self._trouble(path, said)
            return None

    def _remarks(self) -> Iterator[str]:
        for name in quietly.listed(f"{self.root}/image"):
            if name != self.driver:
                yield f"image/{name}: images of another driver"
        for name in quietly.listed(self.root):
            if re.fullmatch(r"[0-9]+\.[0-9]+", name):
                yield f"{name}: the data root of a daemon with userns-remap; ask about it by itself"


def _with_init(record: Record | None) -> tuple[str, ...]:
    if record is None:
        return ()
    init = record.parent if record.parent == f"{record.layer}-init" else None
    return (record.layer,) if init is None else (record.layer, init)


def _is_name(text: str) -> bool:
    """Whether this can be the name of a layer's directory, and leads nowhere else."""
    return bool(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.\-]{0,127}", text)) and text != "l"
