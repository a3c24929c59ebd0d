"""Owns the stores that are measured: twins, built alike, of any size; it must not time anything.

`ours` is worked on by the library and `floor` by bare calls. Both have the same layers, links,
directories, events and rows, so that neither side has the smaller directory or database. Layers go
in as an adoption would leave them, without a transaction each: 100,000 take about a minute.
"""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import stat
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

import attrs

from layerstore import Store
from layerstore import events as e
from layerstore.db import engine
from layerstore.db import statements as sql
from layerstore.fs import layout, mountinfo
from layerstore.journal import Author, Transaction

PARENT = "l0000009"
"""The layer that new ones are made upon: there in every store, with nine lowers."""
_CHAIN = 10


@attrs.frozen
class Spec:
    """One layer of a store."""

    id: str
    link: str
    parent: str | None
    parent_link: str
    lower: str
    depth: int


def link_of(layer: str) -> str:
    """A link that both twins give to a layer."""
    return base64.b32encode(hashlib.sha256(layer.encode()).digest())[:26].decode()


def child(layer: str, parent: Spec | None) -> Spec:
    if parent is None:
        return Spec(layer, link_of(layer), None, "", "", 0)
    lower = layout.child_lower(parent.link, parent.lower)
    return Spec(layer, link_of(layer), parent.id, parent.link, lower, parent.depth + 1)


def wide(count: int) -> Iterator[Spec]:
    """Chains of ten layers."""
    above: Spec | None = None
    for number in range(count):
        above = child(f"l{number:07}", None if number % _CHAIN == 0 else above)
        yield above


def deep() -> Iterator[Spec]:
    """One chain of 500 layers, and beside it writable layers with 1, 10 and 125 lowers."""
    above: Spec | None = None
    for number in range(500):
        above = child(f"d{number:03}", above)
        yield above
        if number + 1 in (1, 10, 125):
            yield child(f"leaf{number + 1}", above)


@attrs.frozen
class Twins:
    """Two stores with the same content."""

    ours: str
    floor: str
    layers: dict[str, Spec]


def build(place: str, name: str, layers: Iterable[Spec]) -> Twins:
    specs = {layer.id: layer for layer in layers}
    twins = Twins(f"{place}/{name}-ours", f"{place}/{name}-floor", specs)
    for home in (twins.ours, twins.floor):
        _fill(home, specs)
    os.sync()  # what building left dirty is not the first row's to write
    return twins


def kept(place: str, name: str, layers: Iterable[Spec]) -> Twins:
    """The same, unless they are there from an earlier run that ended well.

    What says so is taken away while they are in use: `keep` puts it back.
    """
    stamp = Path(place, f"{name}-{_BUILT}")
    if not stamp.exists():
        for side in ("ours", "floor"):
            shutil.rmtree(f"{place}/{name}-{side}", ignore_errors=True)
        return build(place, name, layers)
    stamp.unlink()
    specs = {layer.id: layer for layer in layers}
    twins = Twins(f"{place}/{name}-ours", f"{place}/{name}-floor", specs)
    for home in (twins.ours, twins.floor):
        _warm(home)
    return twins


def _warm(home: str) -> None:
    """Have the kernel read what a store in use would have in memory: a new link is anywhere in the index.

    By other processes: this one must not open a database's files but through SQLite.
    """
    for argv in (["cat", f"{home}/{layout.DATABASE}"], ["ls", "-f", home, f"{home}/l"]):
        subprocess.run(argv, stdout=subprocess.DEVNULL, check=True)


def keep(place: str, name: str) -> None:
    """Say that the twins are as they were built, for the next run."""
    os.sync()
    Path(place, f"{name}-{_BUILT}").touch()
    os.sync()


_BUILT = f"built-{sql.REVISION}"


def _fill(home: str, specs: dict[str, Spec]) -> None:
    Store.initialize(home, max_depth=499)
    Store.open(home).close()  # the first open compares index and tree, while both are empty
    parents = {spec.parent for spec in specs.values()}
    connection = engine.connect(f"{home}/{layout.DATABASE}", read_only=False, timeout=30)
    try:
        connection.execute("BEGIN IMMEDIATE")
        transaction = Transaction(connection, Author("builder", "boot", "epoch"), lambda: 1)
        for spec in specs.values():
            committed = spec.id in parents
            _make(home, spec, committed=committed)
            transaction.append(
                e.LayerAdopted(
                    layer=spec.id,
                    link=spec.link,
                    parent=spec.parent,
                    lower=spec.lower,
                    depth=spec.depth,
                    committed=committed,
                    reason="a benchmark",
                )
            )
        connection.execute("COMMIT")
    finally:
        connection.close()


def _make(home: str, spec: Spec, *, committed: bool) -> None:
    path = f"{home}/{spec.id}"
    os.mkdir(path, layout.LAYER_MODE)
    os.mkdir(f"{path}/{layout.DIFF}")
    Path(f"{path}/{layout.LINK}").write_text(spec.link)
    if spec.parent is not None:
        os.mkdir(f"{path}/{layout.WORK}", layout.PRIVATE_MODE)
        Path(f"{path}/{layout.LOWER}").write_text(spec.lower)
    if committed:
        Path(f"{path}/{layout.COMMITTED}").touch()
    os.symlink(layout.link_target(spec.id), f"{home}/{layout.short_link(spec.link)}")


def shape(home: str, layers: Iterable[str]) -> list[str]:
    """What some layers look like on disk: names, modes, sizes, mounts; links by where they lead."""
    seen = [
        f"{name}: {entry}"
        for name in (layout.STAGING, layout.TRASH, layout.LINKS)
        for entry in (len(os.listdir(f"{home}/{name}")),)
    ]
    mounts = {entry.mount_point: entry for entry in mountinfo.mounts_below(home)}
    for layer in sorted(layers):
        top = f"{home}/{layer}"
        seen.append(f"{layer}: {os.path.lexists(top)}")
        if not os.path.lexists(top):
            continue
        link = Path(f"{top}/{layout.LINK}").read_text()
        seen.append(f"{layer} is {os.readlink(f'{home}/{layout.short_link(link)}')}")
        for path, directories, files in os.walk(top):
            directories.sort()
            seen += [_entry(home, p) for p in (path, *(f"{path}/{f}" for f in sorted(files)))]
            if path in mounts:
                directories.clear()
                options = sorted(mounts[path].super_options)
                seen.append(" ".join(option.replace(home, "HOME") for option in options))
    return seen


def _entry(home: str, path: str) -> str:
    status = os.lstat(path)
    size = status.st_size if stat.S_ISREG(status.st_mode) else ""
    return f"{path.removeprefix(home)} {stat.filemode(status.st_mode)} {size}".rstrip()
