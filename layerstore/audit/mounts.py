"""Owns the findings about mounts: index, kernel and holders; it mounts and unmounts nothing.

A mount that is not in this mount namespace is not lost as long as it lives in another.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Final

from layerstore import model as m
from layerstore.audit.view import View, finding
from layerstore.fs import layout, mounttables
from layerstore.fs.mountinfo import MountEntry
from layerstore.fs.mounttables import Place

_SPARE: Final = "merged.1"
"""What containers/storage renames over `merged`, and leaves where it is killed."""


def check(view: View) -> Iterator[m.Finding]:
    """Rows without a mount, mounts without a row, mounts without a living holder, wrong mounts."""
    yield from _recorded(view)
    yield from _found(view)
    yield from _holders(view)
    yield from _removed(view)


def _is_here(view: View, layer: str) -> bool:
    found = view.tree.layers.get(layer)
    return found is not None and found.mounted


def _recorded(view: View) -> Iterator[m.Finding]:
    """The mounts of the journal: are they there, and does anybody hold them?"""
    if view.records is None:
        return
    held = {hold.layer for hold in view.records.holds}
    for layer, mount in view.records.mounts.items():
        if layer in view.busy:
            continue
        path = f"{view.home}/{layout.merged(layer)}"
        if layer in view.tree.layers and not _is_here(view, layer):
            elsewhere = [place for place in view.places.get(layer, ()) if not place.mine]
            since = f"{layer} is mounted in the journal since {mount.since:%Y-%m-%d %H:%M:%S}"
            if elsewhere:
                said = f"{layer} is mounted in another mount namespace, of {elsewhere[0].keeper}"
                yield finding("mounted-elsewhere", said, layer, path)
            else:
                said = f"{since} and in no mount namespace that can be seen"
                yield finding("lost-mount", said, layer, path)
        if layer not in held:
            yield finding("unheld-mount", f"{layer} is mounted and nobody holds it", layer)


def _found(view: View) -> Iterator[m.Finding]:
    """What the kernel has mounted, and what is left of mounts."""
    others = mounttables.others(view.home) if _any_here(view) else {}
    for layer, found in view.tree.layers.items():
        if layer in others and layer not in view.busy and not _is_podmans(view, others[layer]):
            yield _no_overlay(layer, others[layer])
        if _SPARE in found.names:
            path = f"{view.home}/{layer}/{_SPARE}"
            yield finding("merged-leftover", f"{layer} has a {_SPARE}", layer, path)
        places = view.places.get(layer, ())
        if (not places and layout.MERGED not in found.names) or layer in view.busy:
            continue
        if places:
            yield from _differs(view, layer, places)
        recorded = view.records is not None and layer in view.records.mounts
        if not recorded and not view.in_flight(layer) and layer not in others:
            yield from _unrecorded(view, layer, places)


def _any_here(view: View) -> bool:
    return any(found.mounted for found in view.tree.layers.values())


def _is_podmans(view: View, entry: MountEntry) -> bool:
    """Whether it is an overlay of a program, which podman can be told to use; a store cannot."""
    return view.records is None and entry.fs_type == "fuse.fuse-overlayfs"


def _no_overlay(layer: str, entry: MountEntry) -> m.Finding:
    """It is not asked anything: a server that is dead or hangs has no answer."""
    said = f"{layer}: what is mounted is no overlay, but {entry.fs_type} ({entry.source}): "
    said += f"'umount -l {entry.mount_point}' takes it away"
    return finding("mount-differs", said, layer, entry.mount_point)


def _unrecorded(view: View, layer: str, places: tuple[Place, ...]) -> Iterator[m.Finding]:
    path = f"{view.home}/{layout.merged(layer)}"
    row = view.row(layer)
    elsewhere = [place for place in places if not place.mine]
    if _is_here(view, layer):
        if view.records is not None:
            message = f"{layer} is mounted and the journal does not know it"
            yield finding("unknown-mount", message, layer, path)
        return
    if row is not None and row.draining:
        by = f", in {elsewhere[0].keeper}" if elsewhere else ""
        message = f"{layer} was unmounted and is still in use{by}: its merged directory waits"
        yield finding("draining-layer", message, layer, path)
    elif elsewhere:
        message = f"{layer} is mounted in another mount namespace, of {elsewhere[0].keeper}"
        code = "kept-mount" if view.records is not None else "mounted-elsewhere"
        yield finding(code, message, layer, path)
    elif layout.MERGED in view.tree.layers[layer].names and not is_podman(view):
        message = f"{layer} has a merged directory and is not mounted"
        yield finding("merged-leftover", message, layer, path)


def is_podman(view: View) -> bool:
    """Whether a tree is containers/storage's, which keeps `merged` all the time."""
    if view.records is not None:
        return False
    above = os.path.dirname(view.home)
    return os.path.isdir(f"{above}/overlay-layers") or os.path.lexists(
        f"{view.home}/.has-mount-program"
    )


def _differs(view: View, layer: str, places: tuple[Place, ...]) -> Iterator[m.Finding]:
    """The lowers of a mount against the chain; a mount seen twice is looked at once."""
    seen: set[tuple[str, ...]] = set()
    for place in places:
        given = mounttables.lowers(place.entry)
        if not given or given in seen or place.entry.fs_type != "overlay":
            continue
        seen.add(given)
        is_upper = any(option.startswith("upperdir=") for option in place.entry.super_options)
        said = _difference(view, layer, given, own_first=not is_upper)
        if said:
            code, message = said
            path = place.entry.mount_point
            yield finding(code, f"{layer}: {message}; by {place.keeper}", layer, path)


def _difference(
    view: View, layer: str, given: tuple[str, ...], *, own_first: bool
) -> tuple[str, str] | None:
    row = view.row(layer)
    lower = row.lower if row is not None else view.tree.layers[layer].lower or ""
    wanted = [view.who_has(part[2:]) for part in lower.split(":") if part]
    if own_first:
        wanted.insert(0, layer)
    mounted: list[str | None] = []
    gone = False
    for path in given:
        kind, name = mounttables.lower_name(path)
        mounted.append(view.who_has(name) if kind == "link" else name)
        gone |= kind != "path" and mounted[-1] not in view.tree.layers
    podman = [f"{layer}/empty"] if not lower else []
    if None in wanted or mounted == wanted or (podman and given[-1].endswith(podman[0])):
        return None  # where the chain itself is damaged, that is what there is to say
    if gone:
        return "lower-gone", "it is mounted upon a layer that is gone"
    has = f"{len(mounted)} layers below, and its chain has {len(wanted)}"
    return "mount-differs", f"what is mounted is not its chain: it has {has}"


def _removed(view: View) -> Iterator[m.Finding]:
    """Mounts of what is no layer any more."""
    for name, places in view.places.items():
        if name in view.tree.layers or name in view.busy or view.in_flight(name):
            continue
        if view.in_flight(name.rpartition("/")[2]):
            continue
        place = places[0]
        layer = None if name.startswith(layout.OWN) else name
        said = (
            f"{name} is gone, and is still mounted at {place.entry.mount_point}, by {place.keeper}"
        )
        yield finding("mount-of-removed-layer", said, layer, place.entry.mount_point)


def _holders(view: View) -> Iterator[m.Finding]:
    if view.records is None:
        return
    for hold in view.records.holds:
        owner = hold.holder.removeprefix(m.OWNER_PREFIX)
        row = view.row(hold.layer)
        if owner != hold.holder:
            if owner not in view.records.living:
                said = f"{hold.layer} is held by a process that is dead"
                yield finding("dead-holder", said, hold.layer)
        elif (
            row is not None
            and row.parent is not None
            and hold.layer not in view.records.mounts
            and not view.in_flight(hold.layer)
        ):
            said = f"{hold.layer} is held by {hold.holder}, and is not mounted"
            yield finding("hold-without-mount", said, hold.layer)
