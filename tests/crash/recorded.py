"""Owns what crash tests know of manifests: recording as a verb, and what must hold of them after a death."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import attrs

from layerstore import Reader
from layerstore.audit import audit
from layerstore.db import statements as sql
from layerstore.fs import layout
from layerstore.model import Severity
from tests.crash.model import Live, State, Verb


@attrs.frozen
class Record(Verb):
    """Record what a layer holds: what the store is does not change by it."""

    layer: str

    def states(self, before: State) -> list[State]:
        return [before]

    def act(self, live: Live) -> dict[str, Any]:
        found = live.opened.record_manifest(self.layer)
        assert found == live.opened.manifest(self.layer), found
        return {}


def differences(home: Path) -> list[str]:
    """What is wrong with content and manifests by the audit, notes apart, and by looking here.

    Under `full` every layer that has a manifest holds what that says, whatever was cut off when.
    """
    if not (home / layout.MANIFESTS).exists():
        return []
    bad = [
        f"{item.code}: {item.message}"
        for item in audit(home, content=True).findings
        if item.code.startswith("content-") or item.code == "lost-manifest"
        if item.severity is not Severity.NOTE
    ]
    with Reader.open(home) as reader:
        rows = {row[0] for row in reader.select(sql.SELECT_MANIFESTS, after="", page=-1)}
    gone = rows - set(os.listdir(home / layout.MANIFESTS))
    return bad + [f"the manifest of {layer} is gone" for layer in sorted(gone)]
