"""Owns the audit: four views of a store, compared. It must not change anything it looks at.

The views are the tree, the kernel's mounts, the index, and the journal folded anew. Where living
owners work on the store meanwhile, only what a second look confirms is reported.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import attrs

from layerstore import model as m
from layerstore.audit import archives as archived
from layerstore.audit import links, mounts, quotas, records
from layerstore.audit.tree import Tree, survey
from layerstore.fs import layout, locks
from layerstore.reader import Reader

_LOOKS = 3
"""How often a finding on a store that lives must be seen."""


@attrs.frozen
class Report:
    """What the audit looked at, and what it found. Notes alone leave a store clean."""

    findings: tuple[m.Finding, ...]
    checked: Mapping[str, int] = attrs.field(hash=False)

    @property
    def clean(self) -> bool:
        return all(finding.severity is m.Severity.NOTE for finding in self.findings)


@attrs.frozen
class View:
    """One look: the tree first, the index after it."""

    home: str
    tree: Tree
    reader: Reader
    index: Mapping[str, m.Layer]
    mounts: Mapping[str, m.Mount]
    holds: tuple[m.Hold, ...]
    operations: tuple[m.Operation, ...]
    living: frozenset[str]
    """The owners that are alive."""

    @property
    def busy(self) -> frozenset[str]:
        """Layers and operations that a living owner is at."""
        names: set[str] = set()
        for operation in self.operations:
            if operation.owner in self.living and not operation.abandoned:
                names |= {operation.layer, operation.id}
        return frozenset(names)


def audit(home: str | os.PathLike[str], *, archives: bool = False) -> Report:
    """Compare the four views of the store at `home`. Raises NoStore, StoreDamaged, SchemaTooNew.

    `archives`: read and fold each archive of the journal, too, and not only the names of them.
    """
    with Reader.open(home) as reader:
        view = look(Path(home).resolve(), reader)
        findings = list(_judge(view, archives))
        for _ in range(_LOOKS - 1):
            if not findings or not view.living:
                break
            view = look(view.reader.home, reader)
            again = set(_judge(view, archives))
            findings = [finding for finding in findings if finding in again]
        checked = {
            "layers": len(view.index),
            "links": len(view.tree.links),
            "mounts": len(view.mounts),
            "events": reader.last_seq(),
        }
    return Report(tuple(findings), checked)


def look(home: Path, reader: Reader) -> View:
    """List the tree, then read the index."""
    tree = survey(os.fspath(home))
    owners = reader.owners()
    return View(
        home=os.fspath(home),
        tree=tree,
        reader=reader,
        index={layer.id: layer for layer in reader.layers()},
        mounts={mount.layer: mount for mount in reader.mounts()},
        holds=reader.holders(),
        operations=reader.operations(),
        living=frozenset(
            owner.id for owner in owners if locks.is_alive(f"{home}/{layout.owner_lock(owner.id)}")
        ),
    )


def _judge(view: View, archives: bool) -> Iterator[m.Finding]:
    yield from records.check(view)
    yield from archived.check(view, whole=archives)
    yield from links.check(view)
    yield from mounts.check(view)
    yield from quotas.check(view)
