"""Owns the findings about limits: the table against directories and kernel; it changes nothing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Final

from layerstore import model as m
from layerstore.audit.view import View, finding
from layerstore.fs import layout

_ROUNDING: Final = 1 << 16
"""File systems round a limit up to whole blocks, and no block is larger."""


def check(view: View) -> Iterator[m.Finding]:
    """Every layer that has a limit: whether it is counted, and held to it."""
    found = view.reader.select("SELECT id, layer, size FROM projects ORDER BY id")
    assert view.records is not None
    for project, layer, _ in found:
        gone = layer not in view.records.index and not view.in_flight(layer)
        if gone and not os.path.lexists(f"{view.home}/{layer}"):
            said = f"the quota id {project} belongs to {layer}, which is gone"
            yield finding("leaked-project", said, layer)
    limited = [row for row in found if row[1] in view.records.index and row[1] not in view.busy]
    if limited:
        yield from _doubled(view, {layer: project for project, layer, _ in found})
        yield from _held(view, limited)


def _doubled(view: View, projects: dict[str, int]) -> Iterator[m.Finding]:
    """A layer whose files count against the limit of another."""
    from layerstore.fs import quota  # few stores have a limit

    owners = {project: layer for layer, project in projects.items()}
    for layer in view.tree.layers:
        if layer in projects or layer in view.busy:
            continue
        content = quota.project_of(f"{view.home}/{layout.diff(layer)}")
        owner = owners.get(content.id) if content is not None and content.id else None
        if content is not None and owner is not None:
            said = f"the files of {layer} belong to project {content.id}, which is that of {owner}"
            yield finding("doubled-project", said, layer, also=(owner,))


def _held(view: View, limited: list[tuple[int, str, int]]) -> Iterator[m.Finding]:
    from layerstore.fs import quota

    for project, layer, size in limited:
        content = quota.project_of(f"{view.home}/{layout.diff(layer)}")
        if content is None or content.id != project:
            yield finding(
                "quota-not-counted",
                f"the files of {layer} do not belong to its project {project}: a copy, perhaps, "
                "which does not take project ids along; its limit is not held",
                layer,
            )
            continue
        try:
            limit = quota.usage(view.home, project).limit
        except OSError as error:
            said = f"the limits of {len(limited)} layers cannot be looked at: {error.strerror}"
            yield finding("quota-unknown", said)
            return
        if not size <= limit < size + _ROUNDING:
            yield finding(
                "quota-differs",
                f"{layer} is limited to {limit} bytes (0: not at all) instead of {size}; "
                "the next first mount sets it right",
                layer,
            )
