"""Owns the findings about dockerd's own records of the layers in a store; it must not write, nor lock.

A dockerd that dies between the answer of its storage driver and its own record leaves a layer that no
`docker` command shows. It is known where a record names it, or one above it, or where somebody holds or
mounts it. Nothing here is offered for repair: a pull or a build that is under way is on no record yet.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Final

from layerstore import model as m
from layerstore.audit import engine
from layerstore.audit.view import View, finding
from layerstore.legacy import docker, shapes
from layerstore.legacy.manifest import Source

if TYPE_CHECKING:
    from layerstore.legacy.manifest import Manifest, Record


_ENDING: Final = {
    Source.REMOVING: "dockerd was removing it",
    Source.WRITE_SET: "dockerd was pulling it, and did not end",
}
"""Records of what was not finished: the layer is known by them, and needed by nobody."""
_TOLD: Final = 4
"""How many of a layer's events are told."""
_UNITS: Final = ((86_400, "days"), (3_600, "hours"), (60, "minutes"), (1, "seconds"))


def data_root(home: str) -> str | None:
    """The data root of the dockerd whose layers these are, by the records beside them; None: of none."""
    above, name = os.path.split(home)
    return above if os.path.isdir(f"{above}/image/{name}/layerdb") else None


def check(view: View, root: str) -> Iterator[m.Finding]:
    """Compare the layers of a store with the records below the data root `root`."""
    driver = os.path.basename(view.home)
    layerdb = f"{root}/image/{driver}/layerdb"
    if not os.path.isdir(layerdb):
        yield finding("lost-records", f"dockerd's records at {layerdb} are gone", path=layerdb)
        return
    manifest = docker.read(root, driver, home=view.home)
    yield from engine.troubles(manifest)
    for record in manifest.records:
        yield from _missing(view, record)
    if manifest.hidden:
        return  # any layer may be the one that an unreadable record names
    unfinished = {r.layer: r for r in manifest.records if r.source in _ENDING}
    known = _known(view, manifest)
    for layer in sorted(_every(view) - known):
        if shapes.shape_of(layer) in manifest.kept_shapes or view.in_flight(layer):
            continue
        said = _ENDING[unfinished[layer].source] if layer in unfinished else "dockerd has no record"
        yield finding(
            "unknown-to-docker",
            f"{layer}: {said}; {_story(view, layer)}",
            layer,
            f"{view.home}/{layer}",
        )


def _every(view: View) -> set[str]:
    return set(view.records.index if view.records is not None else view.tree.layers)


def _missing(view: View, record: Record) -> Iterator[m.Finding]:
    if record.source in _ENDING:
        return
    if record.layer not in view.tree.layers and not view.in_flight(record.layer):
        said = f"{record.layer} is on dockerd's record ({record.source}) and not in the store"
        yield finding("record-without-layer", said, record.layer, record.path)
        return
    row = view.row(record.layer)
    silent = record.parent is None and record.source is Source.BUILDKIT
    if row is not None and row.parent != record.parent and not silent:
        yield engine.parent_differs(record, row.parent, "the index", record_of="dockerd's record")


def _known(view: View, manifest: Manifest) -> set[str]:
    """What a record names, somebody holds, or is mounted, and everything below that."""
    named = [record.layer for record in manifest.records if record.source not in _ENDING]
    held = [hold.layer for hold in view.records.holds] if view.records is not None else []
    return set(_with_all_below(view, [*named, *held, *view.places]))


def _with_all_below(view: View, layers: Iterable[str]) -> set[str]:
    found: set[str] = set()
    for layer in layers:
        at: str | None = layer
        while at is not None and at not in found:
            found.add(at)
            row = view.row(at)
            at = row.parent if row is not None else None
    return found


def _story(view: View, layer: str) -> str:
    """How old it is, and what the journal says of it: its last events, those in archives apart."""
    if view.records is None:
        return "the journal cannot be read"
    created = view.reader.select("SELECT created_at FROM layers WHERE id = :id", id=layer)
    age = f"made {_ago(created[0][0])} ago" if created else "not in the index"
    events = view.reader.select(
        "SELECT kind, at FROM events WHERE layer = :id ORDER BY seq DESC LIMIT :limit",
        id=layer,
        limit=2 * _TOLD,
    )
    told = [
        f"{kind.split('.')[1]} {m.from_micros(at):%Y-%m-%d %H:%M:%S}"
        for kind, at in reversed(events)
        if ".intended." not in kind
    ][-_TOLD:]
    return f"{age}; in the journal: {', '.join(told) or 'nothing that is not archived'}"


def _ago(micros: int) -> str:
    """A time that has passed, in the largest unit of which there are two."""
    seconds = max(0, int(time.time() - micros / 1_000_000))
    size, unit = next((one for one in _UNITS if seconds >= 2 * one[0]), _UNITS[-1])
    return f"{seconds // size} {unit}"
