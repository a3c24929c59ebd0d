"""Owns the findings about mounts: index, kernel and holders; it mounts and unmounts nothing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from layerstore import model as m
from layerstore.fs import layout, mountinfo

if TYPE_CHECKING:
    from layerstore.audit import View


def check(view: View) -> Iterator[m.Finding]:
    """Rows without a mount, mounts without a row, mounts without a living holder."""
    held = {hold.layer for hold in view.holds}
    for layer, mount in view.mounts.items():
        if layer in view.busy:
            continue
        found = view.tree.layers.get(layer)
        if found is not None and not found.mounted:
            yield m.Finding(
                "lost-mount",
                m.Severity.DRIFT,
                f"{layer} is mounted in the journal since {mount.since:%Y-%m-%d %H:%M:%S} and not "
                "in this mount namespace",
                layer,
                f"{view.home}/{layout.merged(layer)}",
            )
        if layer not in held:
            yield m.Finding(
                "unheld-mount",
                m.Severity.LEFTOVER,
                f"{layer} is mounted and nobody holds it",
                layer,
            )
    yield from _unknown(view)
    yield from _dead_holders(view)


def _unknown(view: View) -> Iterator[m.Finding]:
    for name, found in view.tree.layers.items():
        if name in view.mounts or name in view.busy or layout.MERGED not in found.names:
            continue
        path = f"{view.home}/{layout.merged(name)}"
        if any(operation.layer == name for operation in view.operations):
            continue
        if mountinfo.is_mount_root(path):
            message = f"{name} is mounted and the journal does not know it"
            yield m.Finding("unknown-mount", m.Severity.DRIFT, message, name, path)
        else:
            message = f"{name} has a merged directory and is not mounted"
            yield m.Finding("merged-leftover", m.Severity.LEFTOVER, message, name, path)


def _dead_holders(view: View) -> Iterator[m.Finding]:
    for hold in view.holds:
        owner = hold.holder.removeprefix(m.OWNER_PREFIX)
        if owner != hold.holder and owner not in view.living:
            yield m.Finding(
                "dead-holder",
                m.Severity.LEFTOVER,
                f"{hold.layer} is held by a process that is dead",
                hold.layer,
            )
