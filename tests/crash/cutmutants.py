"""Owns the controls of the power cuts: every sync that a protocol has, left out in turn, and its like.

Harmless as long as the power stays. `powercut.MUTANTS` are those that the cut of a file system's
power catches too; these need the states of a disk, and most of them btrfs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, Final

import attrs

from layerstore import events as e
from layerstore import plan
from layerstore.db import engine
from layerstore.fs import layout
from layerstore.fs import steps as s
from tests.crash import powercut
from tests.crash.mutants import Mutant, _patched, _plans, _swapped

Chosen = Callable[[Any], bool]


def _directory(chosen: Chosen) -> Callable[[plan.Steps], plan.Steps]:
    return lambda steps: tuple(
        step for step in steps if not (isinstance(step, s.SyncDirectory) and chosen(step.path))
    )


def _file(name: str) -> Callable[[plan.Steps], plan.Steps]:
    """It is written, and the kernel is not told when."""

    def named(step: s.Step, kind: Any) -> bool:
        return isinstance(step, kind) and step.path.endswith(f"/{name}")

    return lambda steps: tuple(
        attrs.evolve(step, sync=False)
        if isinstance(step, s.WriteFile) and named(step, s.WriteFile)
        else step
        for step in steps
        if not named(step, s.SyncFile)
    )


def _staged(path: str) -> bool:
    return path.startswith(layout.STAGING)


def _links(path: str) -> bool:
    return path == layout.LINKS


def _home(path: str) -> bool:
    return path == ""


def _layer(path: str) -> bool:
    return bool(path) and not path.startswith(layout.OWN) and path != layout.LINKS


def _any(path: str) -> bool:
    return True


def _published_last(steps: plan.Steps) -> plan.Steps:
    """The directories are synced, and then the layer is published."""
    found = [step for step in steps if not isinstance(step, s.Publish)]
    return (*found, *(step for step in steps if isinstance(step, s.Publish)))


def _synced_first(steps: plan.Steps) -> plan.Steps:
    """What is synced as a whole is so before the create writes its own, of which the kernel is told nothing."""
    rest = [step for step in steps if not isinstance(step, s.SyncFileSystem)]
    if len(rest) == len(steps):
        return steps
    untold = (attrs.evolve(x, sync=False) if isinstance(x, s.WriteFile) else x for x in rest)
    return (s.SyncFileSystem(), *untold)


def _delete_journal() -> contextlib.AbstractContextManager[None]:
    """A rollback journal in place of the WAL: at FULL its removal, which commits, is not synced."""
    connect = engine._connect

    def without(path: str, query: str, *, timeout: float) -> engine.Connection:
        connection = connect(path, query, timeout=timeout)
        if "ro" not in query:
            connection.execute("PRAGMA journal_mode=DELETE")
        return connection

    return _patched((engine, "_connect", without))


_C, _A, _R = e.LayerCreateIntended, e.LayerApplyIntended, e.LayerRemoveIntended
_FORWARD: Final = "_FORWARD"

MUTANTS: Final = {
    **powercut.MUTANTS,
    "journal-delete": Mutant("the journal is kept in DELETE mode", "create-child", _delete_journal),
    "create-link-file": Mutant(
        "the link file is not synced", "create-child", _plans(_FORWARD, _C, _file(layout.LINK))
    ),
    "create-lower-file": Mutant(
        "the lower file is not synced", "create-child", _plans(_FORWARD, _C, _file(layout.LOWER))
    ),
    "create-staging": Mutant(
        "what was staged is not synced as a directory",
        "create-child",
        _plans(_FORWARD, _C, _directory(_staged)),
    ),
    "create-links": Mutant(
        "l/ is not synced", "create-child", _plans(_FORWARD, _C, _directory(_links))
    ),
    "create-home": Mutant(
        "the directory that a layer is published in is not synced",
        "create-child",
        _plans(_FORWARD, _C, _directory(_home)),
    ),
    "create-directories": Mutant(
        "no directory is synced by a create",
        "create-child",
        _plans(_FORWARD, _C, _directory(_any)),
    ),
    "create-published-last": Mutant(
        "a layer is published behind the last sync",
        "create-child",
        _plans(_FORWARD, _C, _published_last),
    ),
    "create-synced-first": Mutant(
        "a create upon written content syncs the file system before it writes its own files",
        powercut.WRITTEN.name,
        _plans(_FORWARD, _C, _synced_first),
    ),
    "apply-layer": Mutant(
        "the directory that content is renamed into is not synced",
        "apply-child",
        _plans(_FORWARD, _A, _directory(_layer)),
    ),
    "apply-synced-first": Mutant(
        "that directory is synced before the rename",
        "apply-child",
        _plans(_FORWARD, _A, _swapped(s.ReplaceDirectory, s.SyncDirectory)),
    ),
    # The sync of a parent's mark is not among them: an open after a cut writes a mark that is missing
    # (`mark-committed`), so that no state shows it afterwards.
    "remove-home": Mutant(
        "the directory that a layer is removed from is not synced",
        "remove-child",
        _plans(_FORWARD, _R, _directory(_home)),
    ),
}
