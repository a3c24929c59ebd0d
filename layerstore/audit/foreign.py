"""Owns reading what Docker and podman recorded about a tree of theirs; it must not write, nor lock.

Only what tells lost records from lost layers: which layers are recorded, and with which parent.
Docker's own orphans cannot be told so, since BuildKit has layers that only its database names.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any, Final

import attrs

from layerstore import model as m
from layerstore.audit.census import names_in
from layerstore.audit.view import View, finding
from layerstore.fs import files

_BIG: Final = 1 << 28
_PART: Final = 29
_SPLIT: Final = ".tar-split.gz"


def check(view: View) -> Iterator[m.Finding]:
    """The records beside a tree, where there are any."""
    above, name = os.path.split(view.home)
    podman = f"{above}/{name}-layers"
    docker = f"{above}/image/{name}/layerdb"
    if os.path.isdir(podman):
        yield from _podman(view, f"{podman}/layers.json")
    elif os.path.isdir(f"{above}/image"):
        yield from _docker(view, docker)


@attrs.frozen
class _Record:
    id: str
    parent: str


def _podman(view: View, path: str) -> Iterator[m.Finding]:
    try:
        records = _records(path)
    except FileNotFoundError:
        if view.tree.layers:
            yield finding("lost-database", f"{path} is gone", path=path)
        return
    except ValueError as error:
        yield finding("lost-database", f"{path} cannot be read: {error}", path=path)
        return
    parents: dict[str, str] = {}
    for record in records:
        where = f"{view.home}/{record.id}"
        if record.id in parents:
            yield finding("doubled-record", f"{path} has {record.id} twice", record.id, path)
        parents[record.id] = record.parent
        if record.id not in view.tree.layers:
            said = f"{record.id} has a record and no directory"
            yield finding("record-without-layer", said, record.id, where)
    for layer in parents:
        yield from _parent(view, layer, parents, path)
    for layer in view.tree.layers:
        if layer not in parents:
            said = f"{layer} has no record in {path}"
            yield finding("unrecorded-layer", said, layer, f"{view.home}/{layer}")
    yield from _beside(os.path.dirname(path), parents)


def _beside(directory: str, known: dict[str, str]) -> Iterator[m.Finding]:
    """What podman keeps beside its records: what of it belongs to no layer."""
    for name in names_in(directory):
        path = f"{directory}/{name}"
        layer = name.removesuffix(_SPLIT)
        if name.startswith(".tmp"):
            said = f"{name} was left by a writer that was interrupted"
            yield finding("temporary-file", said, path=path)
        elif (name.endswith(_SPLIT) or os.path.isdir(path)) and layer not in known:
            said = f"{name} is of no layer that has a record"
            yield finding("orphan-data", said, path=path)


def _parent(view: View, layer: str, parents: dict[str, str], path: str) -> Iterator[m.Finding]:
    found = view.tree.layers.get(layer)
    if found is not None:
        own = view.who_has(found.lower[2 : _PART - 1]) if found.lower else ""
        if own is not None and own != parents[layer] and (found.lower or not parents[layer]):
            said = f"by its record the parent of {layer} is {parents[layer] or 'none'}, by its lower file {own}"
            yield finding("recorded-parent-differs", said, layer, path)
    above = parents[layer]
    if above and above not in parents:
        said = f"{layer} has the parent {above}, which has no record"
        yield finding("recorded-parent-differs", said, layer, path)
    passed: set[str] = set()
    at = layer
    while (at := parents.get(at, "")) and at not in passed:
        if at == layer:
            yield finding("record-cycle", f"by {path}, {layer} is below itself", layer, path)
            return
        if len(passed) > m.MAX_DEPTH:
            return
        passed.add(at)


def _records(path: str) -> list[_Record]:
    """The records of a `layers.json`; ValueError where it has none that can be read."""
    with open(path, "rb", opener=files.open_quietly) as file:
        content = file.read(_BIG)
    if not content:
        raise ValueError("it is empty")
    found: Any = json.loads(content)
    if not isinstance(found, list):
        raise ValueError("it is no list")
    try:
        return [_Record(str(item["id"]), str(item.get("parent") or "")) for item in found]
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"a record has no {error}") from error


def _docker(view: View, layerdb: str) -> Iterator[m.Finding]:
    """Docker keeps a directory for each image layer, and one for each container."""
    recorded = sum(len(names_in(f"{layerdb}/{kind}")) for kind in ("sha256", "mounts"))
    if not recorded and view.tree.layers:
        said = f"Docker's records at {layerdb} are gone or empty"
        yield finding("lost-database", said, path=layerdb)
