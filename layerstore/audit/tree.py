"""Owns listing a home: what is there, as it is; it must not judge, and it changes nothing."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final

import attrs

from layerstore.errors import InvalidLayerId
from layerstore.fs import files, layout, mountinfo, mounttables
from layerstore.model import LINK_PATTERN, check_layer_id


@attrs.frozen
class Indexed:
    """What the index says about one layer, as far as the tree can agree."""

    id: str
    link: str
    parent: str | None
    lower: str
    damage: str | None
    committed: bool = attrs.field(converter=bool)
    draining: bool = attrs.field(converter=bool)


@attrs.frozen
class LayerFiles:
    """What a layer's directory holds. None: the file is absent."""

    link: str | None
    lower: str | None
    names: frozenset[str]
    mounted: bool

    @property
    def committed(self) -> bool:
        return layout.COMMITTED in self.names


@attrs.frozen
class Tree:
    """One listing of a home."""

    layers: Mapping[str, LayerFiles]
    links: Mapping[str, str]
    """What each `l/<LINK>` reads; empty where it reads nothing, NOT_A_LINK where it is none."""
    staging: frozenset[str]
    trash: Mapping[str, str]
    """The link of what lies in `trash/<operation>`; empty where it has none."""
    strangers: tuple[str, ...]
    """Names in the home, or in `l/`, that are not of the layout."""
    unreadable: Mapping[str, str] = attrs.field(factory=dict, kw_only=True)
    """Layers that could not be looked at, and why: one bad layer does not hide the others."""

    def owner_of(self, link: str) -> str | None:
        """The layer that `l/<link>` leads to, if it reads as the layout wants it."""
        layer = layout.linked_layer(self.links.get(link, ""))
        return layer if layer in self.layers else None

    def broken(self, layer: str) -> str | None:
        """Why this directory is not a whole layer by itself, or None."""
        found = self.layers[layer]
        if not found.link or not LINK_PATTERN.fullmatch(found.link):
            return "its link file is " + _state_of(found.link)
        if self.links.get(found.link) != layout.link_target(layer):
            return f"l/{found.link} does not lead to it"
        if layout.DIFF not in found.names:
            return "it has no diff directory"
        if found.lower is None and layout.WORK in found.names:
            return "it has a work directory and no lower file"
        if found.lower is not None:
            return self._broken_lower(found.lower)
        return None

    def _broken_lower(self, lower: str) -> str | None:
        parts = lower.split(":")
        if not all(p.startswith("l/") and LINK_PATTERN.fullmatch(p[2:]) for p in parts):
            return "its lower file is " + ("empty" if not lower else "garbled")
        unknown = [part for part in parts if self.owner_of(part[2:]) is None]
        if unknown:
            return f"its lower file names {unknown[0]}, which leads to no layer"
        parent = self.owner_of(parts[0][2:])
        assert parent is not None
        if (self.layers[parent].lower or "") != ":".join(parts[1:]):
            return f"its lower file disagrees with the one of its parent {parent}"
        return None


_OWN_NAMES: Final = frozenset({layout.LINKS, layout.OWN, "backingFsBlockDev", "lost+found"})


def survey(home: str) -> Tree:
    """List the home. What vanishes meanwhile is left out."""
    layers: dict[str, LayerFiles] = {}
    strangers: list[str] = []
    unreadable = mounttables.unasked(mounttables.served(home))
    for name in _listed(home):
        if name in _OWN_NAMES or name in unreadable:
            continue
        try:
            check_layer_id(name)
        except InvalidLayerId:
            strangers.append(name)
            continue
        if os.path.isdir(f"{home}/{name}") and not os.path.islink(f"{home}/{name}"):
            layers[name] = _layer_files(home, name)
        else:
            strangers.append(name)
    links = {}
    for name in _listed(f"{home}/{layout.LINKS}"):
        if LINK_PATTERN.fullmatch(name):
            path = f"{home}/{layout.short_link(name)}"
            links[name] = files.read_symlink(path) if os.path.islink(path) else files.NOT_A_LINK
        else:
            strangers.append(layout.short_link(name))
    trash = {
        name: files.read_link(f"{home}/{layout.TRASH}", name) or ""
        for name in _listed(f"{home}/{layout.TRASH}")
    }
    staging = frozenset(_listed(f"{home}/{layout.STAGING}"))
    return Tree(layers, links, staging, trash, tuple(strangers), unreadable=unreadable)


def _layer_files(home: str, layer: str) -> LayerFiles:
    return LayerFiles(
        link=files.read_link(home, layer),
        lower=files.read_lower(home, layer),
        names=frozenset(_listed(f"{home}/{layer}")),
        mounted=mountinfo.is_mount_root(f"{home}/{layout.merged(layer)}"),
    )


def _listed(path: str) -> list[str]:
    try:
        return sorted(os.listdir(path))
    except (FileNotFoundError, NotADirectoryError):
        return []


def _state_of(text: str | None) -> str:
    if text is None:
        return "missing"
    return "garbled" if text else "empty"
