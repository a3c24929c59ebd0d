"""Owns the findings about an adopted tree whose index is behind; it changes nothing.

The tree belongs to a program that goes on working, so that nothing of this is damage.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from layerstore import model as m
from layerstore.audit.tree import Indexed, LayerFiles
from layerstore.audit.view import View, finding

_AGAIN: Final = "'layerstore adopt' brings the index up to date"


def drift(view: View) -> Iterator[m.Finding]:
    """What the program has made, changed and removed since the tree was adopted."""
    assert view.records is not None
    index = view.records.index
    for layer, found in view.tree.layers.items():
        row = index.get(layer)
        where = f"{view.home}/{layer}"
        if row is None and view.tree.broken(layer) is None:
            said = f"{layer} is in the tree and not in the index; {_AGAIN}"
            yield finding("unknown-layer", said, layer, where, severity=m.Severity.DRIFT)
        elif row is not None and row.damage is None and _is_another(found, row):
            said = f"{layer} is another one than the index has; {_AGAIN}"
            yield finding("unknown-layer", said, layer, where, severity=m.Severity.DRIFT)
    for layer in index:
        if layer not in view.tree.layers and layer not in view.tree.unreadable:
            said = f"{layer}: the index has it, and it is gone from the tree; {_AGAIN}"
            yield finding(
                "missing-layer", said, layer, f"{view.home}/{layer}", severity=m.Severity.DRIFT
            )


def _is_another(found: LayerFiles, row: Indexed) -> bool:
    return (found.link, found.lower or "") != (row.link, row.lower)
