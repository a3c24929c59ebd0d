"""Owns the audit: four views of a store, compared. It must not change anything it looks at.

The views are the tree, the kernel's mounts in every mount namespace, the index, and the journal
folded anew. A tree of Docker's or podman's has no journal, and is judged by itself. Where somebody
may work on it meanwhile, only what a second look confirms is reported.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

import attrs

from layerstore import adoption, description, legacy
from layerstore import model as m
from layerstore.audit import adopted as behind
from layerstore.audit import archives as archived
from layerstore.audit import content as contents
from layerstore.audit import (
    dockerd,
    engine,
    layers,
    links,
    lost,
    mounts,
    quotas,
    records,
    tarsplit,
    untouched,
    weight,
)
from layerstore.audit import home as place
from layerstore.audit.census import Progress, refuse_served
from layerstore.audit.view import View, finding, look
from layerstore.db import statements as sql
from layerstore.errors import NoStore, SchemaTooNew, StoreDamaged
from layerstore.fs import layout
from layerstore.legacy.manifest import Manifest
from layerstore.reader import Reader, check_database, check_not_newer, revision

_LOOKS: Final = 3
"""How often a finding on a store that lives must be seen."""
_PAUSE: Final = 0.05
"""Seconds between two looks at a tree of which nobody says what is in flight."""
VERSION: Final = 1
"""Of the report as data: a field may be added to it, none changes its meaning."""

_ORDER: Final = {severity: number for number, severity in enumerate(m.Severity)}


@attrs.frozen
class Report:
    """What the audit looked at, and what it found. Notes alone leave a store clean."""

    findings: tuple[m.Finding, ...]
    checked: Mapping[str, int] = attrs.field(hash=False)
    home: str = ""
    kind: str = "layerstore"
    """`layerstore`, or `overlay2` for a tree without a journal of ours."""
    lost_metadata: bool = False
    """The records look lost, and not the layers: nothing may be removed by them."""

    @property
    def clean(self) -> bool:
        return all(item.severity is m.Severity.NOTE for item in self.findings)


def audit(
    home: str | os.PathLike[str],
    *,
    archives: bool = False,
    content: bool = False,
    only: Iterable[str] = (),
    any_tree: bool = False,
    docker_root: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> Report:
    """Compare the views of the store at `home`. Raises NoStore, SchemaTooNew; OSError where it may
    not look.

    `content`: read everything that layers hold, and compare it with what was recorded of it; `only`:
    of these layers alone. `archives`: read and fold each archive of the journal, too, and not only the names of them.
    `docker_root`: of the dockerd that has its layers in this store: its records are compared, too.
    `any_tree`: take a tree without a store of ours, too, such as Docker's. `progress` is told how
    far it is: (what, done, of how many).
    """
    path = Path(home).resolve()
    refuse_served(os.fspath(path))
    known = adoption.read(path)
    if known is not None:
        seen = _audit_adopted(path, known.tree, progress=progress)
    elif os.path.isdir(path / layout.OWN):
        seen = examine(path, archives=archives, docker_root=docker_root, progress=progress)
    else:
        if not any_tree:
            description.read(path)  # raises NoStore
        seen = _audit_tree(path, progress=progress)
    return _with_content(path, *seen, only, progress) if content else seen[0]


def examine(
    home: Path,
    *,
    archives: bool = False,
    docker_root: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> tuple[Report, View]:
    """Audit a store of ours: the report, and the look that it comes from, for whoever plans repairs.

    The database is closed: what the look has of it is what was read.
    """
    try:
        root = None if docker_root is None else os.path.realpath(docker_root)
        return _audit_store(home, archives=archives, docker_root=root, progress=progress)
    except StoreDamaged as error:  # it could be opened, and then not be read
        view = look(os.fspath(home), None)
        damaged = finding("damaged-database", error.message, path=f"{home}/{layout.DATABASE}")
        return _report(view, [damaged, *_judge(view, archives=False)], "layerstore"), view


# --- a store of ours ------------------------------------------------------------------------------


def _audit_store(
    home: Path, *, archives: bool, docker_root: str | None, progress: Progress | None
) -> tuple[Report, View]:
    with contextlib.ExitStack() as stack:
        reader, source, trouble = _records_of(home, stack)
        folded = () if reader is None else records.projection(reader, source, progress)
        view = look(os.fspath(home), reader, progress=progress)
        found = [*trouble, *_judge(view, archives, docker_root), *folded]
        for _ in range(_LOOKS - 1):
            if not found or view.records is None or not view.records.living:
                break
            if folded and reader is not None:
                folded = records.projection(reader, source)
            view = look(os.fspath(home), reader)
            found = _confirmed(found, [*trouble, *_judge(view, archives, docker_root), *folded])
        return _report(view, found, "layerstore"), view


def _with_content(
    home: Path, report: Report, view: View, only: Iterable[str], progress: Progress | None
) -> Report:
    """The report, with what differs from manifests. Where there are no records there are none."""
    checked = dict(report.checked)
    with contextlib.ExitStack() as stack:
        found: list[m.Finding] = []
        if report.kind == "layerstore":
            reader, _, _ = _records_of(home, stack)
            if reader is not None:
                found += contents.check(view, reader, only, progress, checked)
        else:
            found += tarsplit.check(view, frozenset(only), progress, checked)
        more = weight.weighed(view, found, ours=report.kind == "layerstore")
        return attrs.evolve(report, findings=_sorted([*report.findings, *more]), checked=checked)


def _records_of(
    home: Path, stack: contextlib.ExitStack
) -> tuple[Reader | None, records.Source, tuple[m.Finding, ...]]:
    """The database, or what is wrong with it. One that is newer is not ours to judge."""
    nothing = records.Source("", "")
    try:
        about = description.read(home)
        database, query = stack.enter_context(untouched.opened(home))
        stored = revision(database)
        check_not_newer(database.path, stored)
        if re.fullmatch(r"000[1-9]", stored) and stored < sql.REVISION:
            said = f"the database has the older schema {stored}; only the tree was looked at"
            return None, nothing, (finding("old-schema", said, path=database.path),)
        check_database(database, about)
        reader = stack.enter_context(Reader(home, about, database))
    except SchemaTooNew:
        raise
    except (NoStore, StoreDamaged) as error:
        path = os.fspath(home / layout.DATABASE)
        there = os.path.isfile(path) and os.stat(path).st_size > 0
        lost = isinstance(error, NoStore) or "belongs to" in error.message or not there
        code = "lost-database" if lost else "damaged-database"
        return None, nothing, (finding(code, error.message, path=path),)
    return reader, records.Source(database.path, query), ()


def _judge(view: View, archives: bool, docker_root: str | None = None) -> Iterator[m.Finding]:
    if docker_root is not None:
        yield from dockerd.check(view, docker_root)
    if view.records is not None:
        yield from records.check(view)
        yield from archived.check(view, whole=archives)
        yield from contents.listed(view)
    yield from links.check(view)
    yield from layers.check(view)
    yield from mounts.check(view)
    yield from place.check(view)
    if view.records is not None:
        yield from quotas.check(view)


# --- a tree that was adopted ----------------------------------------------------------------------


def _audit_adopted(home: Path, tree: str, *, progress: Progress | None) -> tuple[Report, View]:
    """The tree as any other program's, the index by itself, and where it is behind the tree."""
    with contextlib.ExitStack() as stack:
        reader, source, trouble = _records_of(home, stack)
        folded = () if reader is None else records.projection(reader, source, progress)

        def judged(view: View) -> Iterator[m.Finding]:
            bare = attrs.evolve(view, records=None)
            yield from (*trouble, *folded, *of_view(bare, legacy.read_beside(tree)))
            if view.records is not None:
                yield from (*records.check(view), *behind.drift(view))

        first = look(tree, reader, progress=progress)
        view, found = _seen_twice(first, judged, lambda: look(tree, reader))
        bare = attrs.evolve(view, records=None)
        return _report(bare, found, "overlay2"), bare


# --- any other tree -------------------------------------------------------------------------------


def _audit_tree(home: Path, *, progress: Progress | None) -> tuple[Report, View]:
    if not home.is_dir():
        raise NoStore(f"There is no directory {home}.", hint="Is the path right?")
    view = look(os.fspath(home), None, progress=progress)
    if not _is_tree(view):
        raise NoStore(
            f"{home} is no overlay2 tree.",
            hint="Docker's is data-root/overlay2, podman's is graph-root/overlay.",
        )
    view, found = _seen_twice(
        view,
        lambda view: of_view(view, legacy.read_beside(view.home)),
        lambda: look(os.fspath(home), None),
    )
    return _report(view, found, "overlay2"), view


def _seen_twice(
    view: View, judged: Callable[[View], Iterable[m.Finding]], again: Callable[[], View]
) -> tuple[View, list[m.Finding]]:
    """What is found, and found once more a moment later, where nobody says what is in flight; the last look."""
    found = list(judged(view))
    if found:
        time.sleep(_PAUSE)
        view = again()
        found = _confirmed(found, list(judged(view)))
    return view, found


def _is_tree(view: View) -> bool:
    """Whether it has a directory of links, or something that only a layer has."""
    return view.tree.links_facts is not None or any(
        layout.LINK in found.names or layout.LOWER in found.names
        for found in view.tree.layers.values()
    )


def of_view(view: View, manifest: Manifest | None) -> Iterator[m.Finding]:
    """What is wrong with a tree of another program, by one look at it and at what that recorded."""
    if manifest is not None:
        yield from engine.check(view, manifest)
    yield from _judge(view, archives=False)


# --- what comes of it -----------------------------------------------------------------------------


def _confirmed(before: list[m.Finding], now: list[m.Finding]) -> list[m.Finding]:
    """What was found before, and is found again: by code and place, whatever its words are now."""
    seen = {(item.code, item.layer, item.path) for item in before}
    return [item for item in now if (item.code, item.layer, item.path) in seen]


def _sorted(found: Iterable[m.Finding]) -> tuple[m.Finding, ...]:
    """The worst first; that the records look lost before everything."""
    return tuple(
        sorted(
            found,
            key=lambda item: (
                item.code != "lost-metadata",
                _ORDER[item.severity],
                item.code,
                item.layer or "",
                item.path or "",
            ),
        )
    )


def _report(view: View, found: list[m.Finding], kind: str) -> Report:
    first = lost.check(view, found)
    every = list(_sorted(dict.fromkeys(found)))
    if first is not None:
        every.insert(0, first)
    checked = {"layers": len(view.tree.layers), "links": len(view.tree.links)}
    if view.records is not None:
        checked |= {
            "layers": len(view.records.index),
            "mounts": len(view.records.mounts),
            "events": int(view.reader.select(sql.COUNT_EVENTS)[0][0]),
        }
    else:
        checked |= {"mounts": len(view.places)}
    return Report(
        findings=tuple(weight.weighed(view, every, ours=kind == "layerstore")),
        checked=checked,
        home=view.home,
        kind=kind,
        lost_metadata=first is not None,
    )
