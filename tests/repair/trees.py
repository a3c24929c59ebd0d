"""Looks at damaged stores as a whole: every byte, and whether the rest of the store works."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Collection
from pathlib import Path

from layerstore import Store
from layerstore import model as m
from layerstore.audit import audit
from layerstore.fs import layout
from tests.audit.damages import CHAIN


def contents(home: Path) -> Counter[tuple[str, str]]:
    """The files of all layers, wherever in the home they lie: names and texts."""
    found: Counter[tuple[str, str]] = Counter()
    for top, directories, names in os.walk(home):
        directories[:] = [d for d in directories if d != "merged" or "quarantine" in top]
        for name in names:
            path = os.path.join(top, name)
            if name.startswith("of-") and stat.S_ISREG(os.lstat(path).st_mode):
                found[(name, Path(path).read_text())] += 1
    return found


def shape(home: Path) -> dict[str, tuple[object, ...]]:
    """The tree without the store's own directory: kinds, modes, owners, texts."""
    found: dict[str, tuple[object, ...]] = {}
    for top, directories, names in os.walk(home):
        if Path(top) == home:
            directories.remove(layout.OWN)
        directories[:] = [d for d in directories if not os.path.ismount(os.path.join(top, d))]
        for name in (*directories, *names):
            path = os.path.join(top, name)
            status = os.lstat(path)
            text = ""
            if stat.S_ISLNK(status.st_mode):
                text = os.readlink(path)
            elif stat.S_ISREG(status.st_mode):
                text = Path(path).read_text()
            found[os.path.relpath(path, home)] = (status.st_mode, status.st_uid, text)
    return found


def bad(home: Path) -> list[m.Finding]:
    """What an audit finds, notes apart."""
    return [f for f in audit(home).findings if f.severity is not m.Severity.NOTE]


def works(home: Path, *, apart: Collection[str] = ()) -> None:
    """The layers, but those set apart, can be mounted and built upon, and what is built removed."""
    with Store.open(home) as store:
        known = {str(layer.id) for layer in store.layers()}
        for layer in CHAIN:
            if layer not in known or layer in apart or not above(layer).isdisjoint(apart):
                continue
            with store.mounted(layer) as path:
                assert layer == (path / f"of-{layer}").read_text()
            if store.mount(layer) is None and not store.holders(layer):
                store.create(f"upon-{layer}", parent=layer)
                store.remove(f"upon-{layer}")
        store.create("another")
        store.remove("another")


def above(layer: str) -> set[str]:
    """The parents of a layer, in the table of damages."""
    found: set[str] = set()
    parent = CHAIN[layer]
    while parent is not None:
        found.add(parent)
        parent = CHAIN[parent]
    return found
