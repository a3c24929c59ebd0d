"""Owns the findings about limits: the table against directories and kernel; it changes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from layerstore import model as m
from layerstore.fs import layout

if TYPE_CHECKING:
    from layerstore.audit import View

_ROUNDING: Final = 1 << 16
"""File systems round a limit up to whole blocks, and no block is larger."""


def check(view: View) -> Iterator[m.Finding]:
    """Every layer that has a limit: whether it is counted, and held to it."""
    found = view.reader.select("SELECT id, layer, size FROM projects ORDER BY id")
    limited = [row for row in found if row[1] in view.index and row[1] not in view.busy]
    for project, layer, size in limited:
        from layerstore.fs import quota  # few stores have a limit

        content = quota.project_of(f"{view.home}/{layout.diff(layer)}")
        if content is None or content.id != project:
            yield m.Finding(
                "quota-not-counted",
                m.Severity.DRIFT,
                f"the files of {layer} do not belong to its project {project}: a copy, perhaps, "
                "which does not take project ids along; its limit is not held",
                layer=layer,
            )
            continue
        try:
            limit = quota.usage(view.home, project).limit
        except OSError as error:
            yield m.Finding(
                "quota-unknown",
                m.Severity.NOTE,
                f"the limits of {len(limited)} layers cannot be looked at: {error.strerror}",
            )
            return
        if not size <= limit < size + _ROUNDING:
            yield m.Finding(
                "quota-differs",
                m.Severity.DRIFT,
                f"{layer} is limited to {limit} bytes (0: not at all) instead of {size}; "
                "the next first mount sets it right",
                layer=layer,
            )
