"""Owns what a finding costs: who stands on the layer, and what it takes on the disk; it changes nothing."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Final

import attrs

from layerstore import model as m
from layerstore.audit import codes
from layerstore.audit.census import names_in
from layerstore.audit.view import View

_NAMED: Final = 20
"""How many of those that depend on it a finding names."""
_PART: Final = 29


def weighed(view: View, findings: Iterable[m.Finding], *, ours: bool) -> Iterator[m.Finding]:
    """The findings with dependents, bytes and repairs. What several share is asked once.

    Trees that are not `ours` have no repairs.
    """
    children: Mapping[str, list[str]] | None = None
    known: dict[str, tuple[int, tuple[str, ...]]] = {}
    apart = frozenset(f"{view.home}/{path}" for path in view.tree.served)
    holders: dict[str, list[str]] = {}
    for hold in view.records.holds if view.records is not None else ():
        holders.setdefault(hold.layer, []).append(f"holder {hold.holder}")
    for item in findings:
        count = 0
        names: tuple[str, ...] = ()
        if item.layer is not None:
            if item.layer not in known:
                children = _children(view) if children is None else children
                known[item.layer] = _dependents(view, item.layer, children, holders)
            count, names = known[item.layer]
        weighs = codes.CODES[item.code].weighs and item.path is not None
        yield attrs.evolve(
            item,
            dependents=count,
            depends=names,
            bytes=usage(item.path, apart=apart) if weighs and item.path is not None else None,
            repairs=codes.CODES[item.code].repairs if ours else (),
        )


def _children(view: View) -> dict[str, list[str]]:
    """Who stands on whom, by the index and by the tree."""
    found: dict[str, list[str]] = {}
    for layer, seen in view.tree.layers.items():
        row = view.row(layer)
        parent = view.who_has(seen.lower[2 : _PART - 1]) if seen.lower and row is None else None
        parent = row.parent if row is not None else parent
        if parent is not None and parent != layer:
            found.setdefault(parent, []).append(layer)
    for row in view.records.index.values() if view.records is not None else ():
        if row.parent is not None and row.id not in view.tree.layers:
            found.setdefault(row.parent, []).append(row.id)
    return found


def _dependents(
    view: View, layer: str, children: Mapping[str, list[str]], holders: Mapping[str, list[str]]
) -> tuple[int, tuple[str, ...]]:
    """Every holder of the layer or of one above, and every layer above, nearest first."""
    above = _above(layer, children)
    mounted = [
        f"mounted by {place.keeper}"
        for name in above
        for place in view.places.get(name, ())
        if view.records is None
    ]
    held = [holder for name in above for holder in holders.get(name, ())]
    every = [*dict.fromkeys(held), *dict.fromkeys(mounted), *(n for n in above if n != layer)]
    return len(every), tuple(every[:_NAMED])


def _above(layer: str, children: Mapping[str, list[str]]) -> dict[str, None]:
    """A layer and everything that stands on it, nearest first; a cycle ends it."""
    found: dict[str, None] = {layer: None}
    pending = [layer]
    while pending:
        reached = [name for at in pending for name in children.get(at, ()) if name not in found]
        pending = list(dict.fromkeys(reached))
        found.update(dict.fromkeys(pending))
    return found


def usage(path: str, *, apart: Collection[str] = ()) -> int | None:
    """What lies at a path takes on the disk, in bytes; other file systems and second links apart.

    Of what stands in `apart` nothing is asked.
    """
    if path in apart:
        return None
    try:
        top = os.lstat(path)
    except OSError:
        return None
    counted: set[int] = {top.st_ino}
    total = top.st_blocks * 512
    pending = [path] if os.path.isdir(path) and not os.path.islink(path) else []
    while pending:
        at = pending.pop()
        for name in names_in(at):
            if f"{at}/{name}" in apart:
                continue
            try:
                status = os.lstat(f"{at}/{name}")
            except OSError:
                continue
            if status.st_dev != top.st_dev or status.st_ino in counted:
                continue
            if status.st_nlink > 1:
                counted.add(status.st_ino)
            total += status.st_blocks * 512
            if (status.st_mode & 0o170000) == 0o040000:
                pending.append(f"{at}/{name}")
    return total
