"""Owns the findings about what an engine recorded of a tree: its records against the layers; it changes nothing.

`legacy` reads them. What tells lost records from lost layers is here, too: that a document is gone as a
whole, or that layers have no record. Of Docker's the latter cannot be said, since BuildKit has layers
that only its database names.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Final

from layerstore import model as m
from layerstore.audit.census import names_in
from layerstore.audit.view import View, finding
from layerstore.legacy.manifest import HALF, Manifest, Record, Source

_PART: Final = 29
_SPLIT: Final = ".tar-split.gz"
_STORED: Final = frozenset({Source.LAYERS, Source.INCOMPLETE})
"""Records of containers/storage's; what is mounted has another kind."""
_LAYERDB: Final = frozenset({Source.LAYERDB, Source.MOUNTS, Source.REMOVING})


def check(view: View, manifest: Manifest) -> Iterator[m.Finding]:
    """Records that cannot be read, that name what is not there, or that disagree with the tree."""
    yield from _troubles(view, manifest)
    for image in manifest.images:
        name = image.names[0] if image.names else image.id[:19]
        for layer in image.missing:
            said = f"image {name} has the layer {layer}, which has no record"
            yield finding("missing-record", said, path=f"{manifest.root}")
    if manifest.kind == "docker":
        yield from _docker(view, manifest)
    else:
        yield from _containers_storage(view, manifest)


def troubles(manifest: Manifest) -> Iterator[m.Finding]:
    """Each record that cannot be read, or says what cannot be."""
    for trouble in manifest.troubles:
        yield finding("damaged-record", f"{trouble.path}: {trouble.message}", path=trouble.path)


def parent_differs(
    record: Record, seen: str | None, by: str, *, record_of: str = "its record"
) -> m.Finding:
    """What is said where a record names another parent than what it is compared with."""
    said = (
        f"by {record_of} the parent of {record.layer} is {record.parent or 'none'}, "
        f"by {by} {seen or 'none'}"
    )
    return finding("recorded-parent-differs", said, record.layer, record.path)


def _troubles(view: View, manifest: Manifest) -> Iterator[m.Finding]:
    lost = [trouble for trouble in manifest.troubles if trouble.lost]
    for item in troubles(manifest):
        if not any(trouble.path == item.path for trouble in lost):
            yield item
    for trouble in lost:
        if view.tree.layers or not trouble.missing:
            said = (
                f"{trouble.path} is gone"
                if trouble.missing
                else f"{trouble.path}: {trouble.message}"
            )
            yield finding("lost-database", said, path=trouble.path)


def _against_lower(view: View, record: Record) -> Iterator[m.Finding]:
    """Its parent by the record and by its `lower`. Where that is missing or leads nowhere, `layers` says so."""
    found = view.tree.layers.get(record.layer)
    if found is None:
        return
    own = view.who_has(found.lower[2 : _PART - 1]) if found.lower else None
    if own != record.parent and (own or record.parent is None) and (own or not found.lower):
        yield parent_differs(record, own, "its lower file")


# --- Docker ---------------------------------------------------------------------------------------


def _docker(view: View, manifest: Manifest) -> Iterator[m.Finding]:
    layerdb = f"{manifest.root}/image/{manifest.driver}/layerdb"
    known = any(record.source in _LAYERDB for record in manifest.records)
    damaged = any(trouble.path.startswith(f"{layerdb}/") for trouble in manifest.troubles)
    if view.tree.layers and not known and not damaged:
        said = f"Docker's records at {layerdb} are gone or empty"
        yield finding("lost-database", said, path=layerdb)
    seen: set[str] = set()
    for record in manifest.records:
        if record.source in HALF or record.layer in view.tree.unreadable:
            continue
        if record.layer not in view.tree.layers:
            if record.source is not Source.BUILDKIT and record.layer not in seen:
                said = f"{record.layer} has a record ({record.name}) and no directory"
                where = f"{view.home}/{record.layer}"
                yield finding("record-without-layer", said, record.layer, where)
            seen.add(record.layer)
        elif record.source in (Source.LAYERDB, Source.MOUNTS):
            yield from _against_lower(view, record)


# --- containers/storage ---------------------------------------------------------------------------


def _containers_storage(view: View, manifest: Manifest) -> Iterator[m.Finding]:
    directory = f"{manifest.root}/{manifest.driver}-layers"
    if any(
        trouble.lost and trouble.path.startswith(f"{directory}/") for trouble in manifest.troubles
    ):
        return  # every layer would have no record
    records: dict[str, Record] = {}
    for record in manifest.records:
        if record.source not in _STORED:
            continue
        if record.layer in records:
            said = f"{record.path} has {record.layer} twice"
            yield finding("doubled-record", said, record.layer, record.path)
        records[record.layer] = record
        if record.layer not in view.tree.layers and record.layer not in view.tree.unreadable:
            said = f"{record.layer} has a record and no directory"
            where = f"{view.home}/{record.layer}"
            yield finding("record-without-layer", said, record.layer, where)
    for record in records.values():
        yield from _against_lower(view, record)
        if record.parent and record.parent not in records:
            said = f"{record.layer} has the parent {record.parent}, which has no record"
            yield finding("recorded-parent-differs", said, record.layer, record.path)
        yield from _cycle(record, records)
    for layer in view.tree.layers:
        if layer not in records:
            said = f"{layer} has no record in {directory}/layers.json"
            yield finding("unrecorded-layer", said, layer, f"{view.home}/{layer}")
    yield from _beside(directory, records)


def _cycle(record: Record, records: dict[str, Record]) -> Iterator[m.Finding]:
    passed: set[str] = set()
    at = record.parent
    while at in records and at not in passed and len(passed) <= m.MAX_DEPTH:
        if at == record.layer:
            said = f"by {record.path}, {record.layer} is below itself"
            yield finding("record-cycle", said, record.layer, record.path)
            return
        passed.add(at)
        at = records[at].parent


def _beside(directory: str, known: dict[str, Record]) -> Iterator[m.Finding]:
    """What lies beside the records: what of it belongs to no layer."""
    for name in names_in(directory):
        path = f"{directory}/{name}"
        layer = name.removesuffix(_SPLIT)
        if name.startswith(".tmp"):
            said = f"{name} was left by a writer that was interrupted"
            yield finding("temporary-file", said, path=path)
        elif (name.endswith(_SPLIT) or os.path.isdir(path)) and layer not in known:
            said = f"{name} is of no layer that has a record"
            yield finding("orphan-data", said, path=path)
