"""Owns the findings about a home as a place: who may write, what lies about; it changes nothing."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from typing import Final

from layerstore import model as m
from layerstore.audit.census import Facts, Seen, names_in
from layerstore.audit.view import View, finding
from layerstore.fs import layout

_WRITABLE: Final = stat.S_IWGRP | stat.S_IWOTH
_LAYOUT: Final = frozenset({".", layout.LINK, layout.LOWER, layout.COMMITTED, layout.WORK})
"""What is the store's and not a layer's content; of `diff` owner and mode are content."""
_PROBES: Final = (
    "opaque-bug-check",
    "metacopy-check",
    "multiple-lowerdir-check",
    "check-overlayfs-support",
    "fsutils-dummy",
    "compat",
    "userxattr-check",
)
_TEMPORARY: Final = ".tmp"
_PODMAN: Final = ("staging", "tempdirs")
_OWN: Final = (layout.DATABASE, layout.STORE_FILE, layout.STAGING, layout.TRASH, layout.OWNERS)


def check(view: View) -> Iterator[m.Finding]:
    """Modes and owners, strange names, and the store's own directories."""
    yield from _modes(view)
    yield from _strangers(view)
    if view.records is not None:
        yield from _leftovers(view)
    yield from _quarantine(view)


# --- modes and owners -----------------------------------------------------------------------------


def _modes(view: View) -> Iterator[m.Finding]:
    mode, owner = view.tree.home_facts
    trusted = frozenset({owner, 0})
    yield from _open_place(view.home, mode, sticky=True)
    if view.tree.links_facts is not None:
        path = f"{view.home}/{layout.LINKS}"
        links_mode, links_owner = view.tree.links_facts
        yield from _open_place(path, links_mode)
        if links_owner not in trusted:
            said = f"{path} belongs to user {links_owner}"
            yield finding("wrong-owner", said, path=path)
    judged: dict[Facts, tuple[tuple[str, str, str], ...]] = {}
    for layer, found in view.tree.layers.items():
        assert isinstance(found, Seen)
        wrong = judged.get(found.facts)
        if wrong is None:
            wrong = judged[found.facts] = tuple(_wrong(found.facts, trusted))
        for code, name, said in wrong:
            path = f"{view.home}/{layer}" + ("" if name == "." else f"/{name}")
            yield finding(code, f"{layer}{'' if name == '.' else '/' + name} {said}", layer, path)
    for name in _OWN if view.records is not None else ():
        path = f"{view.home}/{name}"
        yield from _open_place(path, os.lstat(path).st_mode) if os.path.lexists(path) else ()


def _open_place(path: str, mode: int, *, sticky: bool = False) -> Iterator[m.Finding]:
    if mode & _WRITABLE and not (sticky and mode & stat.S_ISVTX):
        said = f"{path} has the mode {stat.S_IMODE(mode):04o}: others may write there"
        yield finding("wrong-mode", said, path=path)


def _wrong(facts: Facts, trusted: frozenset[int]) -> Iterator[tuple[str, str, str]]:
    for name, mode, owner in facts:
        if name not in _LAYOUT or stat.S_ISLNK(mode):
            continue
        if mode & _WRITABLE:
            said = f"has the mode {stat.S_IMODE(mode):04o}: others may write there"
            yield "wrong-mode", name, said
        if owner not in trusted and name != layout.WORK:  # that one is the container's root's
            yield "wrong-owner", name, f"belongs to user {owner}"


# --- names ----------------------------------------------------------------------------------------


def _strangers(view: View) -> Iterator[m.Finding]:
    for name in view.tree.strangers:
        path = f"{view.home}/{name}"
        if name.startswith(_TEMPORARY):
            said = f"{name} was left by a writer that was interrupted"
            yield finding("temporary-file", said, path=path)
        elif name.startswith(_PROBES):
            said = f"{name} was left by a trial of the file system that was interrupted"
            yield finding("probe-directory", said, path=path)
        elif name in _PODMAN:
            said = f"{name} is where containers/storage builds and removes; it is left alone"
            yield finding("foreign-layer", said, path=path)
        else:
            said = f"{name} is not of the layout, and is left alone"
            yield finding("stranger", said, path=path)
    for layer, found in view.tree.layers.items():
        for name in found.names:
            if name.startswith(_TEMPORARY) and layer not in view.busy:
                said = f"{layer}/{name} was left by a writer that was interrupted"
                yield finding("temporary-file", said, layer, f"{view.home}/{layer}/{name}")


def _leftovers(view: View) -> Iterator[m.Finding]:
    for place, names in (
        (layout.STAGING, view.tree.staging),
        (layout.TRASH, frozenset(view.tree.trash)),
    ):
        for name in sorted(names):
            if view.in_flight(name.partition("-")[0]) or view.in_flight(f"{place}/{name}"):
                continue
            yield finding(
                f"{place.rpartition('/')[2]}-leftover",
                f"{place}/{name} belongs to no operation",
                path=f"{view.home}/{place}/{name}",
            )


def _quarantine(view: View) -> Iterator[m.Finding]:
    for name in names_in(f"{view.home}/{layout.QUARANTINE}"):
        said = f"{layout.QUARANTINE}/{name} was set aside"
        yield finding("quarantine-content", said, path=f"{view.home}/{layout.QUARANTINE}/{name}")
