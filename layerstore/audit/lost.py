"""Owns telling lost metadata from lost layers; it changes nothing.

One missing record is a missing record. Where as many are missing as are there, it is the records that
are lost, or are another tree's, and whoever removed what they do not name would remove everything.
"""

from __future__ import annotations

from typing import Final

from layerstore import model as m
from layerstore.audit.view import View, finding

_FEW: Final = 2
"""So many that disagree are still no pattern."""

_RECORDLESS: Final = frozenset({"lost-database", "damaged-database"})


def check(view: View, found: list[m.Finding]) -> m.Finding | None:
    """The finding that comes first, or None where the records can be believed."""
    layers = len(view.tree.layers)
    if not layers and view.records is None:
        return None
    codes = {item.code for item in found}
    bad = sorted(codes & _RECORDLESS)
    if bad and view.records is None and layers:
        return _said(
            view, f"{layers} layers are in the tree, and the records cannot be used ({bad[0]})"
        )
    if view.records is not None:
        return _by_index(view, found)
    unrecorded = len({item.layer for item in found if item.code == "unrecorded-layer"})
    if unrecorded >= _FEW and unrecorded * 2 >= layers:
        return _said(
            view, f"{unrecorded} of {layers} layers have no record in their engine's metadata"
        )
    return None


def _by_index(view: View, found: list[m.Finding]) -> m.Finding | None:
    assert view.records is not None
    index, tree = view.records.index, view.tree.layers
    unknown = sum(item.code == "unknown-layer" for item in found)
    missing = sum(1 for name in index if name not in tree and not view.in_flight(name))
    if unknown >= _FEW and unknown * 2 >= len(tree):
        return _said(
            view, f"the index does not know {unknown} of the {len(tree)} layers of the tree"
        )
    if missing >= _FEW and missing * 2 >= len(index):
        return _said(view, f"{missing} of the {len(index)} layers of the index are not in the tree")
    return None


def _said(view: View, what: str) -> m.Finding:
    return finding(
        "lost-metadata",
        f"{what}: this looks like a lost or foreign database, and not like lost layers. "
        "Remove nothing until it is clear which of the two is right",
        path=view.home,
    )
