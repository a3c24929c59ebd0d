"""Owns showing a layer with all below it, read-only, in a directory that is not the store's; it must not
write, journal or hold.

Nothing in the tree is touched: no upper, no `merged`. Such a mount keeps nobody from anything, and ends
by umount(8), or with the machine.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from layerstore.errors import InvalidArgument, LayerDamaged, LayerstoreError
from layerstore.fs import files, layout, mount, mountinfo, namespaces, syscalls

if TYPE_CHECKING:
    from layerstore.reader import Reader


def show(reader: Reader, layer: str, at: str, *, mount_label: str = "") -> str:
    """Mount a layer at an empty directory outside of the store; its path.

    Raises UnknownLayer, LayerDamaged, InvalidArgument, LayerstoreError where this process may not mount; OSError as
    mounting does.
    """
    found = reader.layer(layer)
    if found.damage is not None:
        raise LayerDamaged(layer, found.damage)
    tree = os.fspath(reader.tree)
    place = os.path.realpath(at)
    _check_place(place, tree, os.fspath(reader.home))
    if not namespaces.may_mount():
        raise LayerstoreError(
            "An ordinary user may not mount overlays.",
            hint="Ask as root, or behind 'layerstore unshare'.",
        )
    below = reader.ancestors(layer)
    chain = [(found.link, found.id), *((one.link, one.id) for one in below)]
    files.verify_chain(tree, layer, found.link, found.lower, chain, writable=False)
    lowers = [f"{tree}/{layout.short_link(link)}" for link, _ in chain]
    if len(lowers) == 1:  # the kernel wants two, and there is nothing to merge
        _bind(f"{tree}/{layout.diff(layer)}", place)
    else:
        options = mount.OverlayOptions(
            tuple(lowers),
            None,
            None,
            label=mount_label or found.mount_label,
            userxattr=files.uses_user_xattrs(os.fspath(reader.home)),
        )
        mount.mount_overlay(place, options, home=tree)
    return place


def _check_place(place: str, *stores: str) -> None:
    if not os.path.isdir(place) or os.listdir(place) or mountinfo.is_mount_root(place):
        raise InvalidArgument(f"{place} is no empty directory.", hint="Make one: mkdir.")
    for store in stores:
        if os.path.commonpath((place, store)) == store:
            raise InvalidArgument(
                f"{place} is inside of {store}, where layers are.",
                hint="Take a directory elsewhere.",
            )


def _bind(source: str, place: str) -> None:
    syscalls.mount(source, place, "", syscalls.MS_BIND, "")
    try:
        flags = syscalls.MS_BIND | syscalls.MS_REMOUNT | syscalls.MS_RDONLY
        syscalls.mount("", place, "", flags, "")
    except OSError:
        mount.unmount(place)
        raise
