"""Owns reading what containers/storage (podman, buildah, CRI-O) recorded; it must not write, nor lock.

Of a graph root: `<driver>-layers/layers.json` and `volatile-layers.json` have a record for each layer,
`<driver>-images/images.json` and `<driver>-containers/containers.json` (and its volatile one) what uses
them. `mountpoints.json` lies in the run root, which a reboot empties, and says what is mounted.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Any, Final

import attrs

from layerstore.legacy import quietly
from layerstore.legacy.manifest import Container, Image, Manifest, Record, Role, Source, Trouble
from layerstore.legacy.quietly import Unreadable, mapping, text, texts

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]{0,127}")
RUN_ROOT: Final = "/run/containers/storage"
"""Where root's run root is, unless storage.conf says something else."""


def read(root: str, *, driver: str = "overlay", run_root: str | None = None) -> Manifest:
    """The manifest of the graph root `root`."""
    return _Reader(root, driver, run_root).manifest()


@attrs.define
class _Reader:
    """One graph root being read."""

    root: str
    driver: str
    run_root: str | None
    troubles: list[Trouble] = attrs.Factory(list)

    def manifest(self) -> Manifest:
        containers, roles = self._containers()
        records = list(self._layers(roles))
        known = {record.layer: record for record in records}
        images = tuple(self._images(known))
        return Manifest(
            kind="containers-storage",
            driver=self.driver,
            root=self.root,
            home=f"{self.root}/{self.driver}",
            records=(*records, *self._mounted()),
            images=images,
            containers=containers,
            troubles=tuple(self.troubles),
            remarks=tuple(self._remarks()),
        )

    def _trouble(self, path: str, message: str, *, hides: bool = False, lost: bool = False) -> None:
        missing = lost and not os.path.lexists(path)
        self.troubles.append(Trouble(path, message, hides, lost, missing))

    def _listed(self, path: str, *, wanted: bool, hides: bool = False) -> list[dict[str, Any]]:
        """The objects of a list in a file. An empty file is no empty list: it is a list that is lost."""
        if not wanted and not os.path.lexists(path):
            return []
        try:
            found = quietly.document(path)
            if not isinstance(found, list):
                raise Unreadable("no list")
        except Unreadable as error:
            self._trouble(path, f"it is {error}", hides=hides, lost=hides)
            return []
        whole = [item for item in found if isinstance(item, dict) and text(item, "id")]
        if len(whole) != len(found):
            self._trouble(path, f"{len(found) - len(whole)} entries have no id", hides=hides)
        return whole

    # --- layers -----------------------------------------------------------------------------------

    def _layers(self, roles: dict[str, Role]) -> Iterator[Record]:
        base = f"{self.root}/{self.driver}-layers"
        stable = (f"{base}/layers.json", True)
        # With a transient store the volatile ones lie in the run root.
        volatile = [f"{base}/volatile-layers.json"]
        volatile += (
            [f"{self.run_root}/{self.driver}-layers/volatile-layers.json"] if self.run_root else []
        )
        for path, wanted in (stable, *((name, False) for name in volatile)):
            for item in self._listed(path, wanted=wanted, hides=True):
                layer = text(item, "id")
                if not _NAME.fullmatch(layer):
                    self._trouble(path, f"{layer[:80]!r} is no directory of a layer")
                    continue
                incomplete = mapping(item.get("flags")).get("incomplete") is True
                yield Record(
                    layer=layer,
                    source=Source.INCOMPLETE if incomplete else Source.LAYERS,
                    name=layer,
                    path=path,
                    role=roles.get(layer, Role.IMAGE),
                    parent=text(item, "parent") or None,
                    diff_id=text(item, "diff-digest"),
                    size=quietly.number(item, "diff-size"),
                    names=texts(item, "names"),
                    created=text(item, "created"),
                )

    def _mounted(self) -> Iterator[Record]:
        if self.run_root is None:
            return
        path = f"{self.run_root}/{self.driver}-layers/mountpoints.json"
        for item in self._listed(path, wanted=False):
            layer = text(item, "id")
            if (quietly.number(item, "count") or 0) > 0 and _NAME.fullmatch(layer):
                yield Record(layer, Source.RUNNING, layer, path)

    # --- what uses them ---------------------------------------------------------------------------

    def _images(self, known: dict[str, Record]) -> Iterator[Image]:
        path = f"{self.root}/{self.driver}-images/images.json"
        for item in self._listed(path, wanted=False):
            tops = [text(item, "layer"), *texts(item, "mapped-layers")]
            layers: dict[str, None] = {}
            missing: dict[str, None] = {}
            for top in tops:
                for layer in _chain(top, known):
                    (layers if layer in known else missing)[layer] = None
            yield Image(
                id=text(item, "id"),
                names=texts(item, "names"),
                layers=tuple(layers),
                missing=tuple(missing),
                digests=(text(item, "digest"),) if text(item, "digest") else (),
            )

    def _containers(self) -> tuple[tuple[Container, ...], dict[str, Role]]:
        base = f"{self.root}/{self.driver}-containers"
        found: list[Container] = []
        paths = [f"{base}/containers.json", f"{base}/volatile-containers.json"]
        if self.run_root:
            paths.append(f"{self.run_root}/{self.driver}-containers/volatile-containers.json")
        for path in paths:
            for item in self._listed(path, wanted=False):
                layer = text(item, "layer")
                found.append(
                    Container(
                        id=text(item, "id"),
                        name=", ".join(texts(item, "names")),
                        image=text(item, "image"),
                        layers=(layer,) if layer else (),
                    )
                )
        return tuple(found), {layer: Role.CONTAINER for one in found for layer in one.layers}

    def _remarks(self) -> Iterator[str]:
        for name in quietly.listed(self.root):
            other = name.removesuffix("-layers")
            if other not in (name, self.driver):
                yield f"{name}: layers of another driver"


def _chain(top: str, known: dict[str, Record]) -> list[str]:
    """A layer and all below it by the records, the lowest first; the first that has none ends it."""
    found: dict[str, None] = {}
    at: str | None = top
    while at and at not in found:
        found[at] = None
        record = known.get(at)
        at = None if record is None else record.parent
    return list(found)[::-1]
