"""Owns the findings about what Docker recorded of a tree: records against the layers; it changes nothing.

What containers/storage recorded, `foreign` reads itself, since records of that kind tell lost records
from lost layers.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from layerstore import model as m
from layerstore.audit.view import View, finding
from layerstore.legacy.manifest import Manifest, Source

_PART: Final = 29
_HALF: Final = frozenset({Source.REMOVING, Source.WRITE_SET, Source.INCOMPLETE})


def check(view: View, manifest: Manifest) -> Iterator[m.Finding]:
    """Records that cannot be read, that name what is not there, or that disagree with the tree."""
    for trouble in manifest.troubles:
        yield finding("damaged-record", f"{trouble.path}: {trouble.message}", path=trouble.path)
    for image in manifest.images:
        name = image.names[0] if image.names else image.id[:19]
        for layer in image.missing:
            said = f"image {name} has the layer {layer}, which has no record"
            yield finding("missing-record", said, path=f"{manifest.root}")
    if manifest.kind == "docker":
        yield from _directories(view, manifest)


def _directories(view: View, manifest: Manifest) -> Iterator[m.Finding]:
    seen: set[str] = set()
    for record in manifest.records:
        found = view.tree.layers.get(record.layer)
        if record.source in _HALF or record.layer in view.tree.unreadable:
            continue
        where = f"{view.home}/{record.layer}"
        if found is None:
            if record.source is not Source.BUILDKIT and record.layer not in seen:
                said = f"{record.layer} has a record ({record.name}) and no directory"
                yield finding("record-without-layer", said, record.layer, where)
            seen.add(record.layer)
            continue
        own = view.who_has(found.lower[2 : _PART - 1]) if found.lower else None
        known = record.source in (Source.LAYERDB, Source.MOUNTS)
        if known and own != record.parent and (own or record.parent is None):
            said = (
                f"by its record the parent of {record.layer} is {record.parent or 'none'}, "
                f"by its lower file {own or 'none'}"
            )
            yield finding("recorded-parent-differs", said, record.layer, record.path)
