"""Owns what a finding is judged by when its repair is planned; it must not change anything."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from typing import Final

import attrs

from layerstore import model as m
from layerstore.audit.view import View
from layerstore.fs import layout
from layerstore.repair.forms import Act, Change, Remedy


@attrs.frozen
class Owners:
    """Who gets what is made anew: as the store's options say."""

    uid: int | None = None
    gid: int | None = None


NOBODY: Final = Owners()


@attrs.frozen
class Overview:
    """What is asked of a whole store for each of many findings, and is gathered once."""

    named: frozenset[str]
    """Every link that some `lower` in the tree names."""
    indexed: frozenset[str]
    """The links of the index."""
    missing: frozenset[str]
    """Those of layers that have no directory."""
    claims: Mapping[str, int]
    """How many directories have a link in their `link` file."""
    leading: Mapping[str, tuple[str, ...]]
    """The links in `l/` by what they read."""

    @classmethod
    def of(cls, view: View) -> Overview:
        layers = view.tree.layers
        rows = view.records.index.values() if view.records is not None else ()
        lowers = {found.lower for found in layers.values() if found.lower}
        leading: dict[str, tuple[str, ...]] = {}
        for link, reads in view.tree.links.items():
            leading[reads] = (*leading.get(reads, ()), link)
        return cls(
            named=frozenset(link for text in lowers for link in layout.lower_links(text)),
            indexed=frozenset(row.link for row in rows),
            missing=frozenset(row.link for row in rows if row.id not in layers),
            claims=Counter(found.link for found in layers.values() if found.link),
            leading=leading,
        )


@attrs.frozen
class Case:
    """A finding, and what there is to judge it by."""

    view: View
    finding: m.Finding
    owners: Owners
    all: Overview

    @property
    def layer(self) -> str:
        assert self.finding.layer is not None
        return self.finding.layer

    @property
    def path(self) -> str:
        """Relative to the home; empty for the home itself."""
        return (self.finding.path or "").removeprefix(self.view.home).removeprefix("/")

    def act(
        self, repair: str, does: str, change: Change | None = None, *, path: str | None = None
    ) -> Act:
        where = self.path if path is None else path
        seen = ""
        if change is not None:
            seen = seen_at(self.view.home, where)
            indexed = self.finding.layer is not None and self.view.row(self.layer) is not None
            change = attrs.evolve(change, seen=seen, indexed=indexed)
        return Act(
            repair=repair,
            does=does,
            layer=self.finding.layer,
            path=where if change is not None else None,
            moves=bool(seen) and change is not None and change.put not in ("mode", "unmount"),
            code=self.finding.code,
            reason=self.finding.message,
            change=change,
        )

    def does(self, *acts: Act) -> Remedy:
        return Remedy(self.finding, acts)

    def leaves(self, why: str) -> Remedy:
        return Remedy(self.finding, (), why)

    def depended_on(self) -> str:
        """Who depends on the layer, in words; empty: nobody."""
        if not self.finding.dependents:
            return ""
        names = ", ".join(self.finding.depends[:3])
        return f"{names} depend on it" if names else f"{self.finding.dependents} depend on it"


def seen_at(home: str, path: str) -> str:
    """What lies at a path, so that it is known again; empty: nothing."""
    try:
        status = os.lstat(f"{home}/{path}" if path else home)
    except OSError:
        return ""
    return f"{status.st_dev}:{status.st_ino}:{status.st_ctime_ns}"
